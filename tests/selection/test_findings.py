"""What is told of a candidate is what the table holds of it, and no more than can be read."""

from __future__ import annotations

from runoff.selection.findings import findings, telling_scripts
from runoff.selection.protocol import Cell, OutcomeTable

P: Cell = "pass"
F: Cell = "fail"


def table(tests: int, broken: tuple[str, ...] | None = (), **more: object) -> OutcomeTable:
    names = [f"t{n}" for n in range(tests)]
    whole = {
        "generated": names,
        "base": dict.fromkeys(names, F),
        "rows": {"a": dict.fromkeys(names, P), "b": dict.fromkeys(names, P) | dict.fromkeys(names[:2], F)},
        "control": {"a": F, "b": F},
        "repository": ["r"] * 50,
        "broken": {"a": (), "b": broken},
        "scripts": {name: f"print('{name}')" for name in names},
    }
    return OutcomeTable.model_validate(whole | more)


def test_every_test_counts_and_only_so_many_are_named() -> None:
    found = findings(table(50), "b")
    assert (found.passed, found.tests, len(found.cells), found.left_out) == (48, 50, 20, 30)
    assert found.cells["t0"] == (F, "")


def test_tests_that_a_candidate_brought_itself_say_nothing_for_it() -> None:
    found = findings(table(3, authors={"t2": ("a",)}), "a")
    assert (found.passed, found.tests, list(found.cells)) == (2, 2, ["t0", "t1"])


def test_broken_tests_are_named_counted_or_could_not_be_told() -> None:
    assert findings(table(1), "b").broken == ()
    assert findings(table(1, None, reasons={"b/repository": "timed\n out"}), "b").why == "timed out"
    assert findings(table(1, None), "b").broken is None
    many = findings(table(1, tuple(f"r{n}" for n in range(30))), "b").broken
    assert many
    assert (len(many), many[-1]) == (21, "and 10 more")


def test_reasons_are_cut_and_stand_on_one_line() -> None:
    why = findings(table(1, reasons={"b/t0": "x\n" * 1000}), "b").cells["t0"][1]
    assert len(why) < 300
    assert "left out" in why


def test_only_scripts_on_which_candidates_differ_are_shown_and_few() -> None:
    assert list(telling_scripts(table(5))) == ["t0", "t1"]
    rows = {"a": {f"t{n}": P for n in range(9)}, "b": {f"t{n}": F for n in range(9)}}
    shown = telling_scripts(table(9, rows=rows, scripts={f"t{n}": "x" * 9000 for n in range(9)}))
    assert list(shown) == ["t0", "t1", "t2"]
    assert all(len(text) < 4100 for text in shown.values())
