"""Adaptive parallel scaling: when a look at the first trajectories ends sampling, and when it must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.editing import Candidate
from runoff.selection.protocol import Cell, Entry, OutcomeTable, Score
from runoff.selection.scaling import Look, ScalingRecipe, look

P: Cell = "pass"
F: Cell = "fail"
RECIPE = ScalingRecipe()


def entry(name: str, proposers: int = 1) -> Entry:
    names = tuple(f"{name}.{n}" for n in range(proposers))
    return Entry(id=name, candidate=Candidate(id=name, patch=b""), proposers=names, changed_lines=1)


def table(rows: Mapping[str, Sequence[Cell]], control: Mapping[str, Cell] = {}) -> OutcomeTable:
    tests = tuple(f"t{n}" for n in range(max(map(len, rows.values()), default=0)))
    return OutcomeTable(
        generated=tests,
        base=dict.fromkeys(tests, F),
        rows={name: dict(zip(tests, row, strict=True)) for name, row in rows.items()},
        control={name: control.get(name, F) for name in rows},
    )


def seen(
    rows: Mapping[str, Sequence[Cell]],
    proposers: Mapping[str, int] = {},
    control: Mapping[str, Cell] = {},
    **p: float,
) -> Look:
    scores = {name: Score(p=value) for name, value in p.items()}
    entries = [entry(name, proposers.get(name, 1)) for name in rows]
    return look(len(entries), entries, table(rows, control), scores, RECIPE)


def test_different_patches_that_behave_alike_agree() -> None:
    found = seen({"a": [P, P], "b": [P, P], "c": [P, P], "d": [P, F]})
    assert (found.stop, found.patches, found.behaviours, found.agreement, found.unseen) == (True, 4, 2, 0.75, 0.25)


def test_all_different_goes_on() -> None:
    found = seen({"a": [P, P, F], "b": [F, P, P], "c": [P, F, P], "d": [P, P, P]})
    assert not found.stop
    assert "100%" in found.why


def test_agreeing_in_failure_is_not_agreement() -> None:
    assert not seen({"a": [F, F], "b": [F, F], "c": [F, F], "d": [F, F]}).stop
    found = seen({"a": [F, P], "b": [F, F], "c": [F, F], "d": [F, F]})
    assert (found.stop, found.agreement) == (False, 0.25), "three that pass nothing are not led by"


def test_who_passes_what_none_may_pass_does_not_count() -> None:
    found = seen({"a": [P], "b": [P], "c": [P]}, control={"a": P, "b": P})
    assert (found.candidates, found.stop) == (1, False)


def test_the_verifier_can_lead_where_two_behaviours_are_level() -> None:
    rows = {"a": [P, F], "b": [P, F], "c": [F, P], "d": [F, P]}
    assert not seen(rows).stop
    assert not seen(rows, a=0.6, c=0.5).stop
    found = seen(rows, a=0.9, c=0.2)
    assert found.stop
    assert "verifier" in found.why


def test_without_tests_only_equal_patches_agree() -> None:
    assert not look(4, [entry(name) for name in "abcd"], None, {}, RECIPE).stop
    assert look(4, [entry("a", 4)], None, {}, RECIPE).stop
    assert not look(4, [], None, {}, RECIPE).stop


@given(
    st.lists(st.tuples(st.lists(st.sampled_from([P, F, "could not tell"]), min_size=2, max_size=2), st.integers(1, 4)))
)
def test_whatever_the_order_the_look_is_the_same(rows: list[tuple[list[Cell], int]]) -> None:
    named = {f"c{n}": row for n, (row, _) in enumerate(rows)}
    proposers = {f"c{n}": count for n, (_, count) in enumerate(rows)}
    found = seen(named, proposers)
    assert found == seen(dict(reversed(named.items())), proposers)
    assert 0 <= found.agreement <= 1
    assert 0 <= found.unseen <= 1
    assert found.candidates == sum(proposers.values())
    if found.stop:
        assert found.unseen <= RECIPE.unseen
