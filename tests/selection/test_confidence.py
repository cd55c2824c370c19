"""Confidence: what is claimed holds, what cannot be claimed is not, and what a choice hangs on is named."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.agent.editing import Candidate
from runoff.selection.confidence import Calibration, abstention, features, fit, probability, stability
from runoff.selection.estimators.probabilities import brier, ece, reliability
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Cell, Entry, Features, OutcomeTable, Ranking, Score, Stability, Standing
from runoff.selection.ranking import hybrid

P: Cell = "pass"
F: Cell = "fail"


def entry(name: str, proposers: int = 1) -> Entry:
    names = tuple(f"{name}.{n}" for n in range(proposers))
    return Entry(id=name, candidate=Candidate(id=name, patch=b""), proposers=names, changed_lines=1)


def table(rows: Mapping[str, Sequence[Cell]], broken: Mapping[str, Sequence[str] | None] = {}) -> OutcomeTable:
    tests = tuple(f"t{n}" for n in range(max(map(len, rows.values()))))
    return OutcomeTable(
        generated=tests,
        base=dict.fromkeys(tests, F),
        rows={name: dict(zip(tests, row, strict=True)) for name, row in rows.items()},
        control=dict.fromkeys(rows, F),
        same={test: (test,) for test in tests},
        repository=("r", "s") if broken else (),
        broken={name: None if (lost := broken.get(name, ())) is None else tuple(lost) for name in rows},
    )


def test_features_are_read_from_what_was_run() -> None:
    seen = features(
        table({"a": [P, P], "b": [P, P], "c": [P, F]}, {"c": ["r"]}),
        [entry("a", 2), entry("b"), entry("c", 3)],
        {"a": Score(p=0.9), "b": Score(p=0.95), "c": Score(p=0.7)},
        "a",
        ["b", None, "c", "a"],
        Stability(first="a", tried=4, generated={"t1": "c"}),
    )
    assert seen.model_dump() == pytest.approx(
        {
            "votes": 1,
            "vote_margin": 0.5,
            "cluster": 0.5,
            "score": 0.9,
            "score_margin": 0.2,
            "regression": 1,
            "agreement": 0.5,
            "stable": 0.75,
        }
    )


def test_what_is_not_known_is_none_and_not_nought() -> None:
    assert features(None, [entry("a"), entry("b")], {"a": Score(p=None)}, "a") == Features(cluster=0.5)
    alike = features(table({"a": [P], "b": [P]}, {"a": None, "b": None}), [entry("a"), entry("b")], {}, "a")
    assert alike == Features(votes=1, cluster=1)


def test_who_passes_what_none_may_pass_is_no_rival() -> None:
    cheat = table({"a": [P, F], "b": [P, P]}).model_copy(update={"control": {"a": F, "b": P}})
    assert features(cheat, [entry("a"), entry("b", 9)], {}, "a") == Features(votes=0.5, cluster=1)


def drawn(chance: random.Random, n: int) -> tuple[list[Features], list[bool]]:
    """Issues whose true probability is known: logistic in two features, one of them missing now and then."""
    seen, right = list[Features](), list[bool]()
    for _ in range(n):
        score, votes = chance.random(), chance.random()
        seen.append(Features(score=score, votes=None if chance.random() < 0.1 else votes, cluster=chance.random()))
        right.append(chance.random() < 1 / (1 + math.exp(-(4 * score + 3 * votes - 3.5))))
    return seen, right


def test_a_calibrated_probability_holds_on_issues_that_were_not_fitted() -> None:
    seen, right = drawn(random.Random(1), 600)
    found = fit(seen, right)
    fresh, labels = drawn(random.Random(2), 2000)
    told = [(found.probability(one), label) for one, label in zip(fresh, labels, strict=True)]
    assert ece(reliability(told)) < 0.05
    raw = [(one.score or 0.0, label) for one, label in zip(fresh, labels, strict=True)]
    assert brier(told) < brier(raw) - 0.02, "better than taking the verifier at its word"
    assert brier(found.judged) == pytest.approx(brier(told), abs=0.02), "and it knew beforehand how good it is"
    assert found.weights["score"] > found.weights["votes"] > abs(found.weights["cluster"])


def test_a_calibration_is_data() -> None:
    found = fit(*drawn(random.Random(3), 60))
    again = Calibration.model_validate_json(found.model_dump_json())
    assert again == found
    assert again.probability(Features(score=0.4)) == found.probability(Features(score=0.4))


def test_the_fit_is_where_the_penalised_likelihood_is_highest() -> None:
    seen, right = drawn(random.Random(4), 80)
    found = fit(seen, right)

    def loss(fitted: Calibration) -> float:
        pairs = [(fitted.probability(one), label) for one, label in zip(seen, right, strict=True)]
        return -sum(math.log(p if label else 1 - p) for p, label in pairs) + sum(
            w * w / 2 for w in fitted.weights.values()
        )

    for step in (-1e-3, 1e-3):
        assert loss(found) < loss(found.model_copy(update={"intercept": found.intercept + step}))
        for name, weight in found.weights.items():
            assert loss(found) < loss(found.model_copy(update={"weights": {**found.weights, name: weight + step}}))


def test_a_fit_is_judged_only_on_groups_that_it_did_not_see() -> None:
    """Each repository has a score of its own that gives its labels away: useless for any other."""
    seen, right, groups = list[Features](), list[bool](), list[str]()
    chance = random.Random(5)
    for repository in range(10):
        for _ in range(12):
            seen.append(Features(score=repository / 10))
            right.append(repository % 2 == 0)
            groups.append(str(repository))
    chance.shuffle(seen)
    found = fit(seen, right, groups)
    for repository in range(10):
        p = {judged[0] for judged, group in zip(found.judged, groups, strict=True) if group == str(repository)}
        assert len(p) > 1
    with pytest.raises(ValueError, match="all issues are of one group"):
        fit(seen, right, ["r"] * len(seen))


def test_labels_of_a_held_out_group_do_not_reach_its_probabilities() -> None:
    seen, right = drawn(random.Random(6), 100)
    groups = [str(n % 5) for n in range(100)]
    other = [label if group != "3" else not label for label, group in zip(right, groups, strict=True)]
    first, second = fit(seen, right, groups).judged, fit(seen, other, groups).judged
    same = [a[0] == b[0] for a, b, group in zip(first, second, groups, strict=True) if group == "3"]
    changed = [a[0] != b[0] for a, b, group in zip(first, second, groups, strict=True) if group != "3"]
    assert all(same)
    assert all(changed)


@pytest.mark.parametrize(("n", "good"), [(19, 9), (40, 4), (40, 36), (0, 0)])
def test_too_few_issues_calibrate_nothing(n: int, good: int) -> None:
    with pytest.raises(ValueError, match=f"{n} issues, {good} of them right: a calibration takes 20"):
        fit([Features(score=i / 40) for i in range(n)], [i < good for i in range(n)])


def test_without_a_calibration_no_probability_is_claimed_and_no_precision_promised() -> None:
    sure = Features(score=1, votes=1, cluster=1)
    assert probability(sure, None) is None
    assert abstention(sure, None) is None, "nothing was asked for"
    for asked in ({"below": 0.5}, {"precision": 0.8}):
        assert "nothing was calibrated" in (abstention(sure, None, **asked) or "")


def test_abstaining_says_why() -> None:
    seen, right = drawn(random.Random(7), 400)
    found = fit(seen, right)
    assert abstention(Features(score=0.9, votes=0.9), found, below=0.6) is None
    assert "below 0.60" in (abstention(Features(score=0.1, votes=0.1), found, below=0.6) or "")
    assert abstention(Features(score=1, votes=1), found, precision=0.7) is None
    assert "below" in (abstention(Features(score=0.1, votes=0.1), found, precision=0.7) or "")
    assert "bears out a precision of 99% on 400 issues" in (abstention(seen[0], found, precision=0.99) or "")


def told(judged: Sequence[tuple[float, bool]]) -> Calibration:
    return Calibration(intercept=0, weights={}, centres={}, scales={}, judged=tuple(judged))


def test_a_wanted_precision_is_kept_as_often_as_was_said() -> None:
    """P(right) is known at each stated p, so the true precision above a threshold is: it falls short in fewer than 1 of 20 draws."""
    chance, short, answered = random.Random(8), 0, 0
    for _ in range(120):
        judged = [(p, chance.random() < p**2) for p in (chance.random() for _ in range(300))]
        found = told(judged).threshold(0.6)
        if found is None:
            continue
        answered += 1
        true = (1 - found.at**3) / 3 / (1 - found.at)  # the mean of p² above it
        short += true < 0.6
    assert answered > 60, "and it is of use"
    assert short / 120 < 0.05


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.6, 0.9]), st.booleans()), max_size=60), st.floats(0.1, 0.95))
def test_a_threshold_counts_what_it_lets_through(judged: list[tuple[float, bool]], precision: float) -> None:
    found = told(judged).threshold(precision)
    if found is not None:
        through = [right for p, right in judged if p >= found.at]
        assert (found.submitted, found.right) == (len(through), sum(through))
        assert precision <= found.at_least <= found.right / found.submitted


def evidence(rows: OutcomeTable, *entries: Entry, origins: Mapping[str, str] = {}) -> Evidence:
    return Evidence(entries=entries, table=rows, origins=dict(origins))


def by(rule: Ranking) -> Callable[[Evidence], str | None]:
    """The first of a ranking."""

    def first(seen: Evidence) -> str | None:
        assert seen.table
        return next((one.entry for one in rule(seen.table, seen.entries, seen.scores) if not one.disqualified), None)

    return first


def no_margin(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    return hybrid(table, entries, scores, margin=0)


def test_a_choice_that_hangs_on_one_test_says_so() -> None:
    rows: dict[str, Sequence[Cell]] = {"a": [P, P], "b": [P, F], "c": [F, F]}
    found = stability(evidence(table(rows), *map(entry, "bac")), by(no_margin))
    assert found.first == "a"
    assert found.stable, "without t1 they are level, and a comes first by name"
    found = stability(evidence(table(rows), entry("a"), entry("b", 2), entry("c")), by(no_margin))
    assert (found.generated, found.repository, found.members) == ({"t1": "b"}, {}, {})
    assert (found.tried, found.changed) == (2 + 3, 1)


def test_a_choice_that_hangs_on_one_existing_test_says_so() -> None:
    rows: dict[str, Sequence[Cell]] = {"a": [P, F], "b": [P, P]}
    found = stability(evidence(table(rows, {"b": ["s"]}), entry("a"), entry("b")), by(hybrid))
    assert (found.first, found.repository) == ("a", {"s": "b"})


def test_a_choice_that_hangs_on_who_else_is_there_says_so() -> None:
    """By agreement: whoever is most like the others wins, so that a third candidate can decide between two."""

    def likeness(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
        def alike(one: Entry) -> tuple[int, str]:
            return -sum(table.row(one.id) == table.row(other.id) for other in entries), one.id

        ranked = {one.entry: one for one in hybrid(table, entries, scores)}
        return [ranked[one.id] for one in sorted(entries, key=alike)]

    rows: dict[str, Sequence[Cell]] = {"a": [F], "b": [P], "c": [P]}
    found = stability(evidence(table(rows), *map(entry, "abc")), by(likeness))
    assert (found.first, found.members) == ("b", {"c.0": "a"})


def test_who_goes_takes_the_tests_along_and_a_test_that_nobody_proposed_stays() -> None:
    rows: dict[str, Sequence[Cell]] = {"a": [P, F], "b": [F, P], "c": [F, P]}
    named = table(rows).model_copy(update={"same": {"t0": ("c.test",), "t1": ("given",)}})
    pool = evidence(named, entry("a"), entry("b"), entry("c"), origins={"c.0": "agent", "c.test": "agent"})
    found = stability(pool, by(no_margin))
    assert found.first == "a", "level, and first by name"
    assert (found.generated, found.members) == ({"t0": "b"}, {"agent": "b"})


def test_where_nobody_can_win_nothing_is_stable_or_not() -> None:
    cheats = table({"a": [P]}).model_copy(update={"control": {"a": P}})
    assert stability(evidence(cheats, entry("a")), by(hybrid)).first is None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from([P, F]), min_size=4, max_size=4), min_size=1, max_size=4), st.data())
def test_leaving_out_by_kind_finds_what_leaving_out_one_by_one_does(
    rows: list[list[Cell]], data: st.DataObject
) -> None:
    names = [f"e{n}" for n in range(len(rows))]
    lost = {name: data.draw(st.sets(st.sampled_from("rs"))) for name in names}
    whole = table(dict(zip(names, rows, strict=True)), {name: sorted(tests) for name, tests in lost.items()})
    pool = evidence(whole, *(entry(name, data.draw(st.integers(1, 2))) for name in names))
    first = by(no_margin)
    found = stability(pool, first)
    for test in whole.generated:
        then = first(pool.model_copy(update={"table": whole.part(generated=set(whole.generated) - {test})}))
        assert found.generated.get(test, found.first) == then
    for test in whole.repository:
        then = first(pool.model_copy(update={"table": whole.part(repository=set(whole.repository) - {test})}))
        assert found.repository.get(test, found.first) == then
    assert 0 <= found.changed <= found.tried
