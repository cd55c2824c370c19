"""The hybrid ranking: what it does to tables, whatever the order they come in."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.agent.editing import Candidate
from runoff.selection.protocol import Cell, Entry, OutcomeTable, Score
from runoff.selection.ranking import hybrid

P: Cell = "pass"
F: Cell = "fail"
N: Cell = "could not tell"
often = settings(max_examples=100, deadline=None)


def entry(name: str, proposers: int = 1, lines: int = 3) -> Entry:
    names = tuple(f"{name}.{n}" for n in range(proposers))
    return Entry(id=name, candidate=Candidate(id=name, patch=b""), proposers=names, changed_lines=lines)


def table(
    rows: Mapping[str, Sequence[Cell]],
    *,
    broken: Mapping[str, int | None] = {},
    lying: Sequence[str] = (),
    control: Mapping[str, Cell] = {},
) -> OutcomeTable:
    tests = tuple(f"t{n}" for n in range(max((len(row) for row in rows.values()), default=0)))
    lost = {name: None if count is None else tuple(f"r{n}" for n in range(count)) for name, count in broken.items()}
    return OutcomeTable(
        generated=tests,
        base=dict.fromkeys(tests, F),
        rows={name: dict(zip(tests, row, strict=True)) for name, row in rows.items()},
        control={name: control.get(name, P if name in lying else F) for name in rows},
        repository=tuple(f"r{n}" for n in range(9)),
        broken=dict.fromkeys(rows, ()) | lost,
    )


def scores(**p: float | None) -> dict[str, Score]:
    return {name: Score(p=value) for name, value in p.items()}


def order(table: OutcomeTable, given: Mapping[str, Score] = {}, entries: Sequence[Entry] = (), **how: float) -> str:
    chosen = entries or [entry(name) for name in table.rows]
    return "".join(standing.entry for standing in hybrid(table, chosen, given, **how))  # type: ignore[arg-type]


def test_most_votes_win() -> None:
    assert order(table({"a": [F, F, F], "b": [P, P, P], "c": [P, F, F]})) == "bca"


def test_could_not_tell_is_no_vote() -> None:
    assert order(table({"a": [N, N, N], "b": [N, N, P]}), margin=0) == "ba"


def test_one_candidate_is_ranked_first_of_one() -> None:
    for lying in ((), ("a",)):
        (standing,) = hybrid(table({"a": []}, lying=lying), [entry("a")], {})
        assert (standing.entry, standing.votes, standing.disqualified) == ("a", 0, bool(lying))


def test_no_candidate_is_ranked_nowhere() -> None:
    assert hybrid(table({}), [], {}) == []


def test_a_regression_outweighs_every_vote() -> None:
    assert order(table({"a": [P, P, P], "b": [F, F, F]}, broken={"a": 1})) == "ba"


def test_regressions_that_could_not_be_told_stand_between_one_and_two() -> None:
    rows = dict.fromkeys("abcd", [P])
    assert order(table(rows, broken={"a": 2, "b": None, "c": 1, "d": 0}), gate=1) == "dcba"


def test_who_passes_the_must_fail_control_is_last_whatever_else_speaks_for_it() -> None:
    outcomes = table({"a": [P, P, P], "b": [F, F, F], "c": [N, N, N]}, broken={"b": 9, "c": None}, lying=["a"])
    standings = hybrid(outcomes, [entry("a", proposers=50), entry("b"), entry("c")], scores(a=1.0, b=0.0, c=0.0))
    assert standings[-1].entry == "a"
    assert [standing.disqualified for standing in standings] == [False, False, True]
    assert not standings[-1].gated, "it takes nobody's place among the best by the verifier"


@pytest.mark.parametrize("word", [F, N])
def test_a_control_that_fails_or_could_not_tell_disqualifies_nobody(word: Cell) -> None:
    assert not hybrid(table({"a": [P]}, control={"a": word}), [entry("a")], {})[0].disqualified


def test_the_gate_keeps_the_best_half_by_the_verifier_and_at_least_three() -> None:
    def gated(k: int, gate: float) -> int:
        names = [f"{n:02}" for n in range(k)]
        outcomes = table({name: [P] for name in names})
        p = {name: Score(p=n / k) for n, name in enumerate(names)}
        standings = hybrid(outcomes, [entry(name) for name in names], p, gate=gate)
        inside = [standing for standing in standings if standing.gated]
        assert standings[: len(inside)] == inside
        assert {standing.entry for standing in inside} == set(names[-len(inside) :])
        return len(inside)

    assert [gated(k, 0.5) for k in (1, 2, 3, 4, 5, 6, 7, 8, 10)] == [1, 2, 3, 3, 3, 3, 4, 4, 5]
    assert gated(10, 0.01) == 3
    assert gated(10, 1.0) == 10


def test_who_ties_with_the_last_in_the_gate_is_let_in_too() -> None:
    outcomes = table({name: [P] for name in "abcdef"})
    standings = hybrid(outcomes, [entry(name) for name in "abcdef"], scores(a=0.9, b=0.4, c=0.4, d=0.4, e=0.4, f=0.1))
    assert {standing.entry for standing in standings if standing.gated} == set("abcde")


def test_nobody_outside_the_gate_comes_before_one_inside() -> None:
    rows = {"a": [F], "b": [F], "c": [F], "d": [P], "e": [P]}
    assert order(table(rows), scores(a=0.9, b=0.8, c=0.7, d=0.1, e=0.2), margin=0)[:3] == "abc"


def test_a_missing_score_is_neutral_and_never_a_no() -> None:
    rows = dict.fromkeys("abc", [P])
    assert order(table(rows), scores(a=0.4, b=None, c=0.6)) == "cba"
    assert order(table(rows), scores(a=0.4, c=0.6)) == "cba", "not asked at all is the same"
    assert order(table({"a": [F, F], "b": [P, P]}), scores(a=None, b=None)) == "ba", "and votes still count"
    seven = dict.fromkeys("abcdefg", [P])
    standings = hybrid(table(seven), [entry(n) for n in seven], scores(**dict.fromkeys("abcdef", 0.1), g=None))
    assert standings[0].entry == "g"
    assert standings[0].score is None, "what is shown is that there is none"


def test_within_the_margin_the_verifier_decides_and_beyond_it_the_votes() -> None:
    rows = {"a": [P, P, P], "b": [P, P, F], "c": [P, F, F]}
    p = scores(a=0.1, b=0.5, c=0.9)
    assert order(table(rows), p, margin=0) == "abc"
    assert order(table(rows), p, margin=1) == "bac"
    assert order(table({name: [P, P, *cells] for name, cells in rows.items()}), p, margin=2) == "cba"


def test_with_few_tests_there_is_no_margin() -> None:
    """One test that passes on the right change and fails on the wrong one must not be levelled by a verifier."""
    p = scores(right=0.2, wrong=0.9)
    assert order(table({"right": [P], "wrong": [F]}), p, margin=1) == "rightwrong"
    assert order(table({"right": [P, P], "wrong": [P, F]}), p, margin=1) == "rightwrong"
    assert order(table({"right": [P, P, P], "wrong": [P, P, F]}), p, margin=1) == "wrongright"


def test_the_margin_is_counted_from_the_best_that_breaks_fewest() -> None:
    rows = {"a": [P, P, P, P], "b": [P, P, F, F], "c": [P, F, F, F]}
    assert order(table(rows, broken={"a": 3}), scores(a=0.9, b=0.1, c=0.2), margin=1) == "cba"


def test_ties_go_to_more_proposers_then_fewer_lines_then_the_id() -> None:
    rows = dict.fromkeys("abcd", [P])
    entries = [entry("a", 1, 3), entry("b", 1, 2), entry("c", 2, 90), entry("d", 1, 2)]
    assert order(table(rows), entries=entries) == "cbda"


def test_a_hundred_proposers_do_not_outweigh_one_vote_or_a_better_verdict() -> None:
    crowd, lone = entry("a", proposers=100), entry("b")
    assert order(table({"a": [P, F], "b": [P, P]}), entries=[crowd, lone]) == "ba"
    assert order(table({"a": [P, P], "b": [P, P]}), scores(a=0.5, b=0.51), entries=[crowd, lone]) == "ba"


def test_differences_of_the_verifier_below_a_thousandth_are_noise() -> None:
    rows = dict.fromkeys("ab", [P])
    assert order(table(rows), scores(a=0.50001, b=0.50002), entries=[entry("a", 2), entry("b")]) == "ab"


def test_a_test_that_passes_on_the_base_has_no_weight() -> None:
    """It is in the base row and not among `generated`: whatever a row holds for it, it is not looked at."""
    outcomes = table({"a": [P, F], "b": [F, P], "c": [P, P]})
    more = outcomes.model_copy(
        update={
            "base": outcomes.base | {"always": P},
            "rows": {name: row | {"always": P if name == "b" else F} for name, row in outcomes.rows.items()},
        }
    )
    entries = [entry(name) for name in "abc"]
    assert hybrid(more, entries, {}) == hybrid(outcomes, entries, {})


# Any table


@st.composite
def outcomes(draw: st.DrawFn, most: int = 7) -> tuple[OutcomeTable, list[Entry], dict[str, Score]]:
    names = [chr(ord("a") + n) for n in range(draw(st.integers(0, most)))]
    tests = draw(st.integers(0, 5))
    cell = st.sampled_from([P, F, N])
    found = table(
        {name: draw(st.lists(cell, min_size=tests, max_size=tests)) for name in names},
        broken={name: draw(st.sampled_from([0, 0, 1, 2, None])) for name in names},
        control={name: draw(st.sampled_from([F, F, F, N, P])) for name in names},
    )
    entries = [entry(name, draw(st.integers(1, 3)), draw(st.integers(0, 3))) for name in names]
    p = st.none() | st.floats(0, 1)
    return found, entries, {name: Score(p=draw(p)) for name in names if draw(st.booleans())}


def shuffled(found: OutcomeTable, chance: random.Random) -> OutcomeTable:
    """The same table with everything in it in another order."""

    def mix(given: Mapping[str, object]) -> dict[str, object]:
        items = list(given.items())
        chance.shuffle(items)
        return dict(items)

    tests = list(found.generated)
    chance.shuffle(tests)
    return OutcomeTable.model_validate(
        found.model_dump()
        | {"generated": tests, "base": mix(found.base), "rows": mix({n: mix(r) for n, r in found.rows.items()})}
        | {"control": mix(found.control), "broken": mix(found.broken)}
    )


@often
@given(outcomes(), st.randoms(use_true_random=False), st.floats(0.01, 1), st.integers(0, 3))
def test_the_order_of_what_comes_in_changes_nothing(
    given: tuple[OutcomeTable, list[Entry], dict[str, Score]], chance: random.Random, gate: float, margin: int
) -> None:
    found, entries, p = given
    before = (found.model_copy(deep=True), list(entries), dict(p))
    standings = hybrid(found, entries, p, gate=gate, margin=margin)
    assert (found, entries, p) == before, "it is pure"
    others, others_p = list(entries), list(p.items())
    chance.shuffle(others)
    chance.shuffle(others_p)
    assert hybrid(shuffled(found, chance), others, dict(others_p), gate=gate, margin=margin) == standings


@often
@given(outcomes(), st.floats(0.01, 1), st.integers(0, 3))
def test_every_entry_stands_once_and_the_disqualified_behind_all(
    given: tuple[OutcomeTable, list[Entry], dict[str, Score]], gate: float, margin: int
) -> None:
    found, entries, p = given
    standings = hybrid(found, entries, p, gate=gate, margin=margin)
    assert sorted(standing.entry for standing in standings) == sorted(entry.id for entry in entries)
    places = [(standing.disqualified, not standing.gated) for standing in standings]
    assert places == sorted(places)
    able = [standing for standing in standings if not standing.disqualified]
    assert not able or able[0].gated
    if able:
        assert sum(standing.gated for standing in able) >= min(len(able), 3)


@often
@given(outcomes(), st.integers(0, 5))
def test_one_more_vote_never_does_harm(given: tuple[OutcomeTable, list[Entry], dict[str, Score]], which: int) -> None:
    found, entries, p = given
    if not entries or not found.generated:
        return
    name, test = entries[which % len(entries)].id, found.generated[which % len(found.generated)]
    rows = {n: dict(row) for n, row in found.rows.items()}
    rows[name][test] = P
    better = found.model_copy(update={"rows": rows})

    def place(table: OutcomeTable) -> int:
        return [standing.entry for standing in hybrid(table, entries, p, margin=0)].index(name)

    assert place(better) <= place(found)


@often
@given(outcomes(), st.sampled_from([0.2, 0.5, 1.0]))
def test_with_margin_0_and_no_ties_it_is_the_rule_of_r2e(
    given: tuple[OutcomeTable, list[Entry], dict[str, Score]], gate: float
) -> None:
    """The rule written out by hand: gate, then those that break fewest, of them most votes, of them the best verdict."""
    found, entries, _ = given
    p = {entry.id: (n * 37 % 101) / 101 for n, entry in enumerate(entries)}  # all distinct

    def lost(name: str) -> float:
        tests = found.broken[name]
        return 1.5 if tests is None else len(tests)

    left = [entry.id for entry in entries if found.control[entry.id] != P]
    left = sorted(left, key=lambda name: -p[name])[: max(3, math.ceil(gate * len(left)))]
    expected = []
    while left:
        fewest = [name for name in left if lost(name) == min(map(lost, left))]
        most = [name for name in fewest if found.votes(name) == max(map(found.votes, fewest))]
        expected.append(max(most, key=lambda name: p[name]))
        left.remove(expected[-1])
    standings = hybrid(found, entries, {name: Score(p=value) for name, value in p.items()}, gate=gate, margin=0)
    ranked = [standing.entry for standing in standings if standing.gated]
    assert ranked[:1] == expected[:1]
    if expected and len({lost(name) for name in expected}) == 1:
        assert ranked == expected
