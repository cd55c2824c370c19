"""Which generated tests vote: what a copy gains, who is suspected, and that who agrees with the others never is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runoff.agent.editing import Candidate
from runoff.selection.counting import alike, counted, suspected
from runoff.selection.elect import SelectionRecipe, rank
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Cell, Entry, OutcomeTable, Score

often = settings(max_examples=150, deadline=None)
CELLS: Mapping[str, Cell] = {"p": "pass", "f": "fail", "?": "could not tell"}


def entry(name: str, proposers: int = 1) -> Entry:
    names = tuple(f"{name}.{n}" for n in range(proposers))
    return Entry(id=name, candidate=Candidate(id=name, patch=b""), proposers=names, changed_lines=3)


def table(columns: Mapping[str, str], lying: Sequence[str] = (), names: str = "abcdefgh") -> OutcomeTable:
    """A column a test, a letter an entry: `p` pass, `f` fail, `?` could not tell."""
    count = max(map(len, columns.values()), default=0)
    rows = {name: {test: CELLS[column[n]] for test, column in columns.items()} for n, name in enumerate(names[:count])}
    return OutcomeTable(
        generated=tuple(columns),
        base=dict.fromkeys(columns, "fail"),
        rows=rows,
        control={name: "pass" if name in lying else "fail" for name in rows},
        same={test: (test,) for test in columns},
    )


def entries(found: OutcomeTable) -> list[Entry]:
    return [entry(name) for name in found.rows]


def scores(**p: float | None) -> dict[str, Score]:
    return {name: Score(p=value) for name, value in p.items()}


TOXIC = {"t1": "ppff", "t2": "pfff", "t3": "pppf", "bad": "ffpp"}
"""`a` is right; `bad` passes the two that all others think least of."""
DOUBT = scores(a=0.9, b=0.8, c=0.2, d=0.1)


# Suspected tests


def test_a_test_against_the_others_and_the_verifier_is_suspected_and_says_why() -> None:
    found = table(TOXIC)
    assert suspected(found, entries(found), DOUBT) == {
        "bad": "is suspected to be wrong: who passes it passes fewer of the other tests (17%, not 83%), "
        "and the verifier thinks less of them (0.15, not 0.85)"
    }


def test_either_witness_alone_is_not_enough() -> None:
    found = table(TOXIC)
    assert not suspected(found, entries(found), {}), "nobody asked the verifier"
    assert not suspected(found, entries(found), scores(a=0.1, b=0.2, c=0.8, d=0.9)), "it agrees with the test"
    assert not suspected(found, entries(found), scores(a=0.5, b=0.5, c=0.5, d=0.5)), "it has no opinion"
    assert not suspected(found, entries(found), scores(a=0.5, b=0.5001, c=0.5, d=0.5)), "or next to none"
    praised = table({"t1": "ppff", "t2": "pfff", "t3": "pppf", "odd": "pfpf"})
    assert not suspected(praised, entries(praised), scores(a=0.1, b=0.9, c=0.2, d=0.9)), "the others agree with it"


def test_two_tests_that_contradict_each_other_are_no_consensus_however_many_copies_there_are() -> None:
    """Or a verifier that is wrong would silence all the right ones at once."""
    found = table({f"good{n}": "pf" for n in range(9)} | {"bad": "fp"})
    assert not suspected(found, entries(found), scores(a=0.1, b=0.9))


def test_what_tells_nobody_apart_is_neither_suspected_nor_a_witness() -> None:
    found = table({"t1": "pf", "bad": "fp", "all": "pp", "none": "ff", "unknown": "??"})
    assert not suspected(found, entries(found), scores(a=0.9, b=0.1))


def test_who_passes_the_control_is_heard_on_neither_side() -> None:
    found = table({test: f"{column}p" for test, column in TOXIC.items()}, lying=["e"])
    assert suspected(found, entries(found), DOUBT | scores(e=1.0)).keys() == {"bad"}
    found = table({"t1": "pppf", "t2": "ppff", "bad": "ffpp"}, lying=["c", "d"])
    assert not suspected(found, entries(found), DOUBT), "what is left tells nobody apart"


# Votes


def test_tests_of_one_column_have_one_vote_and_the_reason_is_given() -> None:
    found = table({"t1": "pf", "t2": "fp", "t3": "pf"})
    votes, silent = counted(found, entries(found), {}, once=True, silence=False)
    assert votes.generated == ("t1", "t2")
    assert [votes.votes(name) for name in "ab"] == [1, 1]
    assert silent == {"t3": "says the same of every candidate as t1, which votes for both"}
    assert votes.same["t1"] == ("t1", "t3")


def test_of_equal_columns_one_that_nobody_brought_votes() -> None:
    brought = table({"brought": "pf", "written": "pf"}).model_copy(update={"authors": {"brought": ("a",)}})
    votes, silent = counted(brought, entries(brought), {}, once=True, silence=False)
    assert votes.votes("a") == 1, "its author is not punished for having brought the same as another wrote"
    assert silent.keys() == {"brought"}


def test_could_not_tell_is_not_the_same_as_fail() -> None:
    assert len(alike(table({"t1": "pf", "t2": "p?"}), "ab")) == 2


def test_without_either_setting_the_table_is_what_it_was() -> None:
    found = table(TOXIC)
    assert counted(found, entries(found), DOUBT, once=False, silence=False) == (found, {})


def test_in_a_selection_both_are_settings_and_what_was_not_counted_is_said() -> None:
    columns = {"t1": "ppff", "t2": "pfff", "bad1": "ffpf", "bad2": "ffpf", "bad3": "ffpf"}
    found = table(columns)
    evidence = Evidence(entries=tuple(entries(found)), table=found, scores=DOUBT)

    def chosen(**how: str) -> tuple[str | None, set[str]]:
        selection = rank(evidence, SelectionRecipe.model_validate({"ranking": "votes", **how}))
        assert selection.table == found, "the table is whole"
        assert len(selection.remarks) == len(selection.silent)
        return selection.chosen, set(selection.silent)

    assert chosen() == ("c", set())
    assert chosen(alike="once") == ("a", {"bad2", "bad3"})
    third = table(columns | {"t3": "pppf"})
    evidence = Evidence(entries=tuple(entries(third)), table=third, scores=DOUBT)
    found = third
    assert chosen(suspected="silent") == ("a", {"bad1", "bad2", "bad3"})


# Any table


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[OutcomeTable, list[Entry], dict[str, Score]]:
    count, tests = draw(st.integers(1, 6)), draw(st.integers(0, 6))
    column = st.text("ppff?", min_size=count, max_size=count)
    found = table({f"t{n}": draw(column) for n in range(tests)}, lying=draw(st.sampled_from([(), (), ("a",)])))
    if not tests:
        found = found.model_copy(update={"rows": {"a": {}}, "control": {"a": "fail"}})
    p = {name: Score(p=draw(st.none() | st.sampled_from([0.0, 0.2, 0.5, 0.9]))) for name in found.rows}
    return found, [entry(name, draw(st.integers(1, 3))) for name in found.rows], p


def mixed(found: OutcomeTable, chance: random.Random) -> OutcomeTable:
    tests, rows = list(found.generated), list(found.rows)
    chance.shuffle(tests)
    chance.shuffle(rows)
    shuffled = {row: {test: found.rows[row][test] for test in tests} for row in rows}
    return found.model_copy(update={"generated": tuple(tests), "rows": shuffled})


@often
@given(outcomes(), st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_the_order_of_what_comes_in_changes_nothing(
    given: tuple[OutcomeTable, list[Entry], dict[str, Score]], chance: random.Random, once: bool, silence: bool
) -> None:
    found, all_of, p = given
    before = found.model_copy(deep=True)
    votes, silent = counted(found, all_of, p, once=once, silence=silence)
    assert found == before, "it is pure"
    others = list(all_of)
    chance.shuffle(others)
    votes_then, silent_then = counted(mixed(found, chance), others, p, once=once, silence=silence)
    assert silent_then == silent
    assert set(votes_then.generated) == set(votes.generated)
    assert set(votes.generated) | set(silent) == set(found.generated)


@often
@given(outcomes(), st.integers(0, 5), st.integers(1, 4))
def test_copies_gain_nothing(
    given: tuple[OutcomeTable, list[Entry], dict[str, Score]], which: int, copies: int
) -> None:
    """Other scripts with a test's very column: suspicion of no test changes, and no vote once they count once or are silent."""
    found, all_of, p = given
    assume(found.generated)
    test = found.generated[which % len(found.generated)]
    names = [f"copy{n}" for n in range(copies)]
    more = found.model_copy(
        update={
            "generated": (*found.generated, *names),
            "base": found.base | dict.fromkeys(names, "fail"),
            "rows": {row: cells | dict.fromkeys(names, cells[test]) for row, cells in found.rows.items()},
        }
    )
    doubted, doubted_then = suspected(found, all_of, p), suspected(more, all_of, p)
    assert {name: why for name, why in doubted_then.items() if name not in names} == doubted
    assert all((name in doubted_then) == (test in doubted) for name in names)
    for once, silence in ((True, False), (True, True), (False, True)):
        if not once and test not in doubted:
            continue
        votes, _ = counted(found, all_of, p, once=once, silence=silence)
        votes_then, _ = counted(more, all_of, p, once=once, silence=silence)
        assert all(votes.votes(row) == votes_then.votes(row) for row in found.rows)


@often
@given(outcomes())
def test_who_agrees_with_the_others_or_the_verifier_is_never_suspected(
    given: tuple[OutcomeTable, list[Entry], dict[str, Score]],
) -> None:
    """Counted by pairs that a test tells apart: whom the others, and the verifier, think better of."""
    found, all_of, p = given
    able = [one.id for one in all_of if found.control[one.id] != "pass"]
    columns = {test: tuple(found.rows[name][test] for name in able) for test in found.generated}
    for test in suspected(found, all_of, p):
        others = {column for column in columns.values() if column != columns[test] and {"pass", "fail"} <= set(column)}
        assert len(others) >= 2
        known = {n: [c[n] == "pass" for c in others if c[n] != "could not tell"] for n in range(len(able))}
        pairs = [
            (n, m)
            for n, cell in enumerate(columns[test])
            for m, other in enumerate(columns[test])
            if (cell, other) == ("pass", "fail")
        ]
        agree = sum(
            sum(known[n]) / len(known[n]) - sum(known[m]) / len(known[m]) for n, m in pairs if known[n] and known[m]
        )
        of_verifier = sum(
            first - second
            for n, m in pairs
            if (first := p[able[n]].p) is not None and (second := p[able[m]].p) is not None
        )
        assert agree < 1e-9
        assert of_verifier < 0


@often
@given(outcomes(), st.integers(0, 5))
def test_what_agrees_with_every_other_test_is_never_suspected(
    given: tuple[OutcomeTable, list[Entry], dict[str, Score]], size: int
) -> None:
    """Whatever the verifier says: a test that passes exactly those who pass most of the others."""
    found, all_of, p = given
    passed = {row: list(cells.values()).count("pass") for row, cells in found.rows.items()}
    known = all("could not tell" not in cells.values() for cells in found.rows.values())
    assume(known)
    rows: dict[str, dict[str, Cell]] = {
        row: cells | {"with": "pass" if passed[row] >= size else "fail"} for row, cells in found.rows.items()
    }
    distinct = {tuple(found.rows[row][test] for row in sorted(rows)) for test in found.generated}
    assume(len(distinct) == len(found.generated))
    more = found.model_copy(update={"generated": (*found.generated, "with"), "rows": rows})
    if any(one.id for one in all_of if found.control[one.id] == "pass"):
        return
    assert "with" not in suspected(more, all_of, p)
