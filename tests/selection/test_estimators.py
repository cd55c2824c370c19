"""Exact formulas against enumeration, to 1e-12; what is drawn against what is exact; sums that add up."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import chain, combinations, groupby, permutations, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runoff.agent.editing import Candidate
from runoff.selection.estimators.costs import Priced, cost_to_reach, front, marginal
from runoff.selection.estimators.coverage import (
    BetaBinomial,
    PowerLaw,
    fit_beta,
    fit_beta_counts,
    fit_power_law,
    held_out,
)
from runoff.selection.estimators.outcomes import Graded, Waterfall, best_single, contest, flips, gap, waterfall
from runoff.selection.estimators.probabilities import (
    at_least,
    aurc,
    brier,
    clopper_pearson,
    ece,
    lower_bound,
    mcnemar,
    reliability,
    risks,
    selective_accuracy,
)
from runoff.selection.estimators.resampling import bootstrap, resampled
from runoff.selection.estimators.scores import (
    auroc,
    best_at_k,
    best_over_issues,
    coverage,
    pass_at_k,
    within_issue_auroc,
)
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Entry, OutcomeTable

often = settings(max_examples=100, deadline=None)
scored = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=7)
judged = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.booleans()), min_size=1, max_size=6)


def exactly(value: float | Fraction) -> object:
    return pytest.approx(float(value), abs=1e-12, rel=1e-12)


def mean(values: Sequence[float | bool | Fraction]) -> Fraction:
    return sum(map(Fraction, values), Fraction(0)) / len(values)


@often
@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(labels: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(labels)))
    assert pass_at_k(len(labels), sum(labels), k) == exactly(mean([any(drawn) for drawn in combinations(labels, k)]))


@often
@given(scored, st.data())
def test_best_at_k_is_what_subsets_give_with_ties_averaged(pool: list[tuple[float, bool]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(pool)))

    def picked(drawn: Sequence[tuple[float, bool]]) -> Fraction:
        most = max(score for score, _ in drawn)
        return mean([right for score, right in drawn if score == most])

    assert best_at_k(pool, k) == exactly(mean([picked(drawn) for drawn in combinations(pool, k)]))


@given(scored, st.data())
def test_best_at_one_is_the_mean_and_by_the_truth_it_is_coverage(
    pool: list[tuple[float, bool]], data: st.DataObject
) -> None:
    labels = [right for _, right in pool]
    k = data.draw(st.integers(1, len(pool)))
    assert best_at_k(pool, 1) == exactly(mean(labels))
    assert best_at_k([(float(right), right) for right in labels], k) == exactly(pass_at_k(len(labels), sum(labels), k))


def test_large_pools_stay_exact() -> None:
    assert pass_at_k(10_000, 1, 100) == exactly(Fraction(1, 100))
    assert pass_at_k(10_000, 9_990, 11) == 1


@often
@given(st.lists(scored, min_size=1, max_size=4))
def test_auroc_counts_pairs_of_one_issue(pools: list[list[tuple[float, bool]]]) -> None:
    def pairs(pool: list[tuple[float, bool]]) -> list[Fraction]:
        right, wrong = ([score for score, label in pool if label == kind] for kind in (True, False))
        return [Fraction(1) if a > b else Fraction(int(a == b), 2) for a in right for b in wrong]

    each = [mean(found) for pool in pools if (found := pairs(pool))]
    assert [value for pool in pools if (value := auroc(pool)) is not None] == [exactly(value) for value in each]
    assert within_issue_auroc(pools) == (exactly(mean(each)) if each else None)


def test_knowing_which_issue_is_easy_does_not_select() -> None:
    easy, hard = [(0.9, True), (0.9, True), (0.95, False)], [(0.2, False), (0.2, False), (0.1, True)]
    pooled = auroc(easy + hard)
    assert pooled is not None
    assert pooled > 0.4
    assert within_issue_auroc([easy, hard]) == 0


@pytest.mark.parametrize("call", [lambda: best_at_k([(math.nan, True)], 1), lambda: auroc([(math.nan, True)])])
def test_a_score_that_is_no_number_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="not a number"):
        call()


@pytest.mark.parametrize(
    "call", [lambda: pass_at_k(3, 1, 4), lambda: pass_at_k(3, 4, 1), lambda: best_at_k([(1.0, True)], 2)]
)
def test_more_than_was_run_is_not_known(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="cannot be known"):
        call()


# Laws of coverage


@often
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12))
def test_a_beta_law_is_a_mean_over_its_issues(alpha: int, beta: int, k: int) -> None:
    """E(1 − p)^k under Beta(α, β) is the product of (β + j) / (α + β + j), in whole numbers."""
    failing = math.prod((Fraction(beta + j, alpha + beta + j) for j in range(k)), start=Fraction(1))
    assert BetaBinomial(alpha=alpha, beta=beta).at(k) == exactly(1 - failing)


@often
@given(st.floats(0.05, 3), st.floats(0.1, 5))
def test_a_beta_law_is_found_again(alpha: float, beta: float) -> None:
    law = BetaBinomial(alpha=alpha, beta=beta)
    found = fit_beta({k: law.at(k) for k in (1, 2, 4, 8, 16)})
    assert [found.at(k) for k in (3, 32, 64)] == [pytest.approx(law.at(k), abs=1e-4) for k in (3, 32, 64)]


@often
@given(st.floats(-4, -0.2), st.floats(-1.2, -0.05))
def test_a_power_law_is_found_again(a: float, b: float) -> None:
    law = PowerLaw(a=a, b=b)
    found = fit_power_law({k: law.at(k) for k in (1, 2, 4, 8, 16)})
    assert [found.at(k) for k in (3, 32, 64)] == [pytest.approx(law.at(k), abs=1e-4) for k in (3, 32, 64)]


def test_counts_give_the_likeliest_law() -> None:
    """Issues that a law made: nothing near what was found explains them better, and the law itself is near."""
    chance = random.Random(1)
    issues = [
        [chance.random() < p for _ in range(chance.randint(4, 12))]
        for p in (chance.betavariate(0.4, 0.8) for _ in range(2000))
    ]
    found = fit_beta_counts(issues)

    def likelihood(law: BetaBinomial) -> float:
        def beta(a: float, b: float) -> float:
            return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

        a, b = law.alpha, law.beta
        return sum(beta(a + sum(one), b + len(one) - sum(one)) - beta(a, b) for one in issues)

    near = [BetaBinomial(alpha=found.alpha * x, beta=found.beta * y) for x, y in product((0.99, 1, 1.01), repeat=2)]
    assert max(near, key=likelihood) == found
    assert (found.alpha, found.beta) == (pytest.approx(0.4, rel=0.1), pytest.approx(0.8, rel=0.1))


def test_an_extrapolation_is_held_against_labels_it_did_not_see() -> None:
    chance = random.Random(2)
    issues = [[chance.random() < p for _ in range(16)] for p in (chance.betavariate(0.3, 0.9) for _ in range(1000))]
    found = held_out(issues, 6, fit_beta)
    later = [[*labels[:6], *(not right for right in labels[6:])] for labels in issues]
    assert held_out(later, 6, fit_beta).predicted == found.predicted
    assert found.seen[16] == exactly(mean([any(labels) for labels in issues]))
    assert list(found.predicted) == list(range(7, 17))
    assert found.worst < 0.02


def test_coverage_that_does_not_rise_fits_no_law() -> None:
    for points in ({1: 0.4}, {1: 0.4, 2: 0.4}, {1: 0.0, 2: 0.5}, {1: 0.5, 2: 1.0}):
        for fit in (fit_beta, fit_power_law):
            with pytest.raises(ValueError, match="two points"):
                fit(points)
    with pytest.raises(ValueError, match="nothing can be fitted"):
        fit_beta_counts([[False, False]])


# What is drawn


@often
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=3, max_size=7), st.data())
def test_a_rule_on_subsets_is_exact_where_all_can_be_taken(pool: list[tuple[int, bool]], data: st.DataObject) -> None:
    """The rule: most frequent value in the subset, ties averaged; it depends on who else is drawn."""
    k = data.draw(st.integers(1, len(pool)))
    named = {f"t{n}": one for n, one in enumerate(pool)}

    def majority(drawn: Sequence[tuple[int, bool]]) -> Fraction:
        counts = [sum(value == other for other, _ in drawn) for value, _ in drawn]
        return mean([right for (_, right), count in zip(drawn, counts, strict=True) if count == max(counts)])

    found = resampled({"i": list(named)}, k, lambda _, drawn: float(majority([named[name] for name in drawn])))
    assert found.value == exactly(mean([majority(drawn) for drawn in combinations(pool, k)]))
    assert (found.drawing, found.error) == (0, None)


def test_drawn_subsets_come_near_the_exact_value_by_the_error_they_state() -> None:
    chance = random.Random(3)
    pools = {f"i{n}": [(chance.random(), chance.random() < 0.3) for _ in range(20)] for n in range(30)}
    names = {issue: [str(n) for n in range(20)] for issue in pools}

    def best(issue: str, drawn: tuple[str, ...]) -> float:
        return float(max(pools[issue][int(name)] for name in drawn)[1])

    exact = mean([Fraction(best_at_k(pool, 5)) for pool in pools.values()])
    found = [resampled(names, 5, best, draws=100, seed=seed) for seed in range(20)]
    away = [(one.value - float(exact)) / one.drawing for one in found]
    assert max(map(abs, away)) < 4
    assert 0.5 < math.sqrt(sum(z * z for z in away) / len(away)) < 1.6, "errors are as large as is said"
    assert resampled(names, 5, best, draws=100, seed=7) == found[7]
    backwards = dict(reversed(names.items()))
    assert resampled(backwards, 5, best, draws=100, seed=7).issues == found[7].issues


def test_the_error_over_issues_does_not_vanish_when_everything_is_taken() -> None:
    found = resampled({f"i{n}": ["a", "b"] for n in range(50)}, 2, lambda issue, _: float(int(issue[1:]) % 2))
    assert (found.value, found.drawing) == (0.5, 0)
    assert found.error == pytest.approx(0.5 / 7)


def table() -> OutcomeTable:
    return OutcomeTable(
        generated=("1", "2"),
        base={"1": "fail", "2": "fail", "9": "pass"},
        rows={"1": {"1": "pass", "2": "fail"}, "3": {"1": "pass", "2": "pass"}},
        control={"1": "fail", "3": "fail"},
        repository=("r", "s"),
        broken={"1": ("r",), "3": None},
        same={"1": ("1", "4"), "2": ("2",)},
    )


def entries() -> list[Entry]:
    proposers = {"1": ("1", "2"), "3": ("3",)}
    return [
        Entry(id=name, candidate=Candidate(id=name, patch=b""), proposers=who, changed_lines=1)
        for name, who in proposers.items()
    ]


def test_within_a_subset_the_others_tests_and_votes_do_not_exist() -> None:
    evidence = Evidence(entries=tuple(entries()), table=table())
    found = evidence.among(["1", "3"])
    assert found.table
    assert found.table.generated == ("1",)
    assert found.table.rows == {"1": {"1": "pass"}, "3": {"1": "pass"}}
    assert [(one.id, one.proposers) for one in found.entries] == [("1", ("1",)), ("3", ("3",))]
    assert found.table.same == {"1": ("1",)}, "and a script that another wrote too stays with who is left"
    assert found.table.base == {"1": "fail"}

    found = evidence.among(["2"])
    assert found.table
    assert (found.table.generated, [(one.id, one.proposers) for one in found.entries]) == (("2",), [("1", ("2",))])


def test_a_part_of_a_table_keeps_what_could_not_be_told() -> None:
    found = table().part(repository=["s"])
    assert (found.repository, found.broken) == (("s",), {"1": (), "3": None})
    assert table().part() == table()


def test_a_bootstrap_holds_the_truth_about_as_often_as_it_says() -> None:
    chance = random.Random(4)
    held = 0
    for trial in range(200):
        issues = [float(chance.random() < 0.4) for _ in range(60)]
        found = bootstrap(issues, lambda drawn: sum(drawn) / len(drawn), draws=200, seed=trial)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.4 <= found.high
    assert 0.89 <= held / 200 <= 0.99


def test_a_bootstrap_leaves_half_of_its_error_on_either_side() -> None:
    """Of 100 issues, half of them resolved, the binomial's 2.5 % and 97.5 % quantiles are 40 and 60."""
    found = bootstrap([0, 1] * 50, sum, draws=4000)
    assert (found.low, found.high) == (pytest.approx(40, abs=1), pytest.approx(60, abs=1))


def test_a_bootstrap_is_its_seed_and_counts_what_has_no_value() -> None:
    def second(drawn: Sequence[int]) -> float | None:
        return sum(drawn) / len(drawn) if sum(drawn) else None

    found = bootstrap([0, 1], second, draws=400, seed=5)
    assert found == bootstrap([0, 1], second, draws=400, seed=5)
    assert found != bootstrap([0, 1], second, draws=400, seed=6)
    assert 60 < found.undefined < 140
    nothing = bootstrap([0, 0], second, draws=10)
    assert (nothing.value, nothing.low, nothing.high, nothing.undefined) == (None, None, None, 10)


# What was submitted


@st.composite
def issues(draw: st.DrawFn) -> list[Graded]:
    found = []
    for n in range(draw(st.integers(1, 6))):
        right = {f"m{m}": draw(st.booleans()) for m in range(draw(st.integers(1, 4)))}
        made = {"fused": True} if draw(st.booleans()) else {}
        submitted = draw(st.lists(st.sampled_from([*right, *made]), unique=True, max_size=3))
        found.append(Graded(issue=f"i{n}", right=right, submitted=tuple(submitted), made=made))
    return found


@often
@given(issues(), st.sets(st.sampled_from([f"i{n}" for n in range(6)])))
def test_stages_and_contests_add_up(found: list[Graded], missed: set[str]) -> None:
    stages, whole = waterfall(found, missed), gap(found)
    total = stages.files_missed + stages.no_right_candidate + stages.not_selected + stages.resolved
    assert total == exactly(len(found))
    assert stages.resolved / len(found) == exactly(whole.selected)
    assert stages.not_selected >= 0
    four = contest(found)
    assert four.unsolved + four.solved + four.right + four.wrong == exactly(len(found))
    assert four.solved + four.chance == exactly(whole.mean * len(found))
    assert (len(found) - four.unsolved) / len(found) == exactly(whole.oracle)


@given(issues())
def test_the_gap_goes_from_nothing_by_chance_to_all_by_the_truth(found: list[Graded]) -> None:
    blind = [one.model_copy(update={"submitted": tuple(one.right)}) for one in found]
    best = [one.model_copy(update={"submitted": (max(one.right, key=one.right.__getitem__),)}) for one in found]
    if gap(found).mean < gap(found).oracle:
        assert gap(blind).against_mean == exactly(0)
        assert gap(best).against_mean == exactly(1)
        assert contest(best).accuracy == 1
    else:
        assert gap(found).against_mean is None
        assert contest(found).accuracy is None


def test_the_best_single_member_has_resolved_nothing_where_it_answered_nothing() -> None:
    found = [
        Graded(issue="1", right={"b": True, "a": False}, submitted=("b",)),
        Graded(issue="2", right={"a": True, "b": True}, submitted=("a",)),
        Graded(issue="3", right={"a": True}, submitted=("a",)),
        Graded(issue="4", right={"a": False}),
    ]
    assert best_single(found) == "a", "of equals the first by name"
    whole = gap(found)
    assert (whole.best_member, whole.best, whole.first, whole.selected, whole.oracle) == ("a", 0.5, 0.75, 0.75, 0.75)
    assert gap(found, "b").best == 0.5
    assert (whole.against_best, whole.against_first) == (1, None)


def test_a_fused_patch_can_resolve_what_no_member_did() -> None:
    found = [
        Graded(issue="1", right={"a": False, "b": False}, made={"fused": True}, submitted=("fused",)),
        Graded(issue="2", right={"a": True, "b": False}, submitted=("a",)),
    ]
    assert gap(found).oracle == 0.5, "the pool is judged by what was in it"
    assert gap(found).against_mean == 3
    stages = waterfall(found, {"1"})
    assert (stages.files_missed, stages.no_right_candidate, stages.not_selected, stages.resolved) == (0, 0, 0, 2)


def test_the_same_issue_under_another_rule_is_judged_by_that_rule() -> None:
    before = Graded(issue="1", right={"a": True, "b": False}, submitted=("b",))
    assert gap([before]).selected == 0
    after = before.model_copy(update={"submitted": ("a",)})
    assert gap([after]).selected == 1
    assert after.model_copy(update={"submitted": ("b",)}) == before
    with pytest.raises(ValueError, match="no candidate"):
        before.model_copy(update={"submitted": ("c",)})


def test_what_is_no_candidate_cannot_be_submitted() -> None:
    with pytest.raises(ValueError, match="ghost submitted, which is no candidate"):
        Graded(issue="1", right={"a": True}, submitted=("ghost",))
    with pytest.raises(ValueError, match="no candidate"):
        Graded(issue="1", right={})


def test_stages_typed_by_hand_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 9, not to its 10 issues"):
        Waterfall(issues=10, files_missed=1, no_right_candidate=2, not_selected=2, resolved=4)


@given(st.dictionaries(st.text("ab", max_size=3), st.tuples(st.booleans(), st.booleans())))
def test_flips_are_every_issue_once(both: Mapping[str, tuple[bool, bool]]) -> None:
    before, after = ({name: pair[n] for name, pair in both.items()} for n in (0, 1))
    found = flips(before, after)
    assert len(found.gained) + len(found.lost) + found.right + found.wrong == len(both)
    assert len(found.gained) - len(found.lost) == sum(after.values()) - sum(before.values())
    back = flips(after, before)
    assert (back.gained, back.lost, back.p) == (found.lost, found.gained, found.p)


def test_runs_on_other_issues_are_not_compared() -> None:
    with pytest.raises(ValueError, match="1 issues are in one of the two only, such as b"):
        flips({"a": True}, {"a": True, "b": False})


# Probabilities and counts


@often
@given(st.integers(0, 5), st.integers(0, 5))
def test_mcnemar_counts_the_coins_that_fall_as_unevenly(gained: int, lost: int) -> None:
    n = gained + lost
    uneven = [abs(2 * sum(coins) - n) >= abs(gained - lost) for coins in product((0, 1), repeat=n)]
    assert mcnemar(gained, lost) == exactly(mean(uneven))


@often
@given(st.integers(1, 9), st.fractions(0, 1, max_denominator=20), st.data())
@example(9, Fraction(0), None)
@example(9, Fraction(1), None)
def test_a_tail_is_the_sum_over_all_outcomes(n: int, share: Fraction, data: st.DataObject | None) -> None:
    right = data.draw(st.integers(0, n)) if data else 0
    total = sum(
        share ** sum(outcome) * (1 - share) ** (n - sum(outcome))
        for outcome in product((0, 1), repeat=n)
        if sum(outcome) >= right
    )
    assert at_least(right, n, float(share)) == exactly(total)


@often
@given(st.integers(1, 15), st.floats(0.01, 0.99))
def test_an_exact_interval_holds_the_truth_as_often_as_it_says(n: int, share: float) -> None:
    intervals = [clopper_pearson(right, n) for right in range(n + 1)]
    inside = [right for right, (low, high) in enumerate(intervals) if low <= share <= high]
    assert sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in inside) >= 0.95 - 1e-9


def test_bounds_known_in_closed_form() -> None:
    assert clopper_pearson(0, 10) == (0.0, exactly(1 - 0.025**0.1))
    assert lower_bound(10, 10, 0.05) == exactly(0.05**0.1)
    assert lower_bound(2000, 4000, 0.025) == pytest.approx(0.4844, abs=1e-4), "the normal bound, at this size"
    with pytest.raises(ValueError, match="no bound"):
        lower_bound(3, 2, 0.05)


@often
@given(judged)
def test_risks_are_means_over_the_orders_of_equal_confidence(pairs: list[tuple[float, bool]]) -> None:
    ranked = sorted(pairs, key=lambda one: -one[0])
    groups = [[right for _, right in group] for _, group in groupby(ranked, key=lambda one: one[0])]
    orders = [list(chain(*parts)) for parts in product(*map(permutations, groups))]
    for i, risk in enumerate(risks(pairs), 1):
        assert risk == exactly(mean([Fraction(order[:i].count(False), i) for order in orders]))
    assert aurc(pairs) == exactly(mean([Fraction(risk) for risk in risks(pairs)]))
    assert selective_accuracy(pairs, 1) == exactly(mean([right for _, right in pairs]))


@often
@given(judged, st.integers(1, 6))
def test_bins_hold_everything_once_and_part_no_equals(pairs: list[tuple[float, bool]], wanted: int) -> None:
    found = reliability(pairs, wanted)
    assert len(found) <= wanted
    assert sum(one.size for one in found) == len(pairs)
    assert sum(one.size * one.stated for one in found) == exactly(sum(p for p, _ in pairs))
    assert sum(one.size * one.right for one in found) == exactly(sum(right for _, right in pairs))
    assert [one.stated for one in found] == sorted({one.stated for one in found})
    assert reliability(list(reversed(pairs)), wanted) == found


def test_calibration_error_of_what_is_known() -> None:
    told = [(0.8, True)] * 4 + [(0.8, False)] + [(0.2, False)] * 4 + [(0.2, True)]
    assert ece(reliability(told, 2)) == exactly(0)
    assert brier(told) == exactly(0.16)
    boast = [(1.0, n < 6) for n in range(10)]
    assert (ece(reliability(boast)), brier(boast)) == (exactly(0.4), exactly(0.4))
    distinct = [(n / 10, n % 2 == 0) for n in range(10)]
    assert ece(reliability(distinct, 10)) == exactly(sum(abs(p - right) for p, right in distinct) / 10)


def test_confidence_that_orders_is_worth_its_coverage() -> None:
    sharp = [(n / 10, n >= 5) for n in range(10)]
    assert [selective_accuracy(sharp, share) for share in (0.5, 0.8, 1)] == [1, exactly(5 / 8), 0.5]
    with pytest.raises(ValueError, match="coverage"):
        selective_accuracy(sharp, 0)
    with pytest.raises(ValueError, match="no probability"):
        brier([(1.5, True)])


# Costs


@often
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_the_front_is_what_nothing_beats(places: list[tuple[int, int]]) -> None:
    points = [Priced(name=str(n), cost=cost, value=value) for n, (cost, value) in enumerate(places)]

    def beaten(one: Priced) -> bool:
        return any(
            other.cost <= one.cost and other.value >= one.value and (other.cost, other.value) != (one.cost, one.value)
            for other in points
        )

    found = front(points)
    assert {(one.cost, one.value) for one in found} == {(one.cost, one.value) for one in points if not beaten(one)}
    assert [one.cost for one in found] == sorted({one.cost for one in found})
    for value in range(7):
        enough = [one.cost for one in points if one.value >= value]
        cheapest = cost_to_reach(points, value)
        assert (cheapest.cost if cheapest else None) == min(enough, default=None)


def test_each_step_of_the_front_has_a_price() -> None:
    points = [
        Priced(name=name, cost=cost, value=value) for name, cost, value in (("a", 1, 10), ("b", 4, 16), ("c", 5, 9))
    ]
    assert [(point.name, price) for point, price in marginal(points)] == [("b", 0.5)]


def test_each_issue_counts_once_however_many_candidates_it_has() -> None:
    assert coverage([[True, False], [False, False, False]], 2) == 0.5
    assert best_over_issues([[(1.0, True), (0.0, False)], [(1.0, False), (0.0, True), (0.0, False)]], 2) == 0.5 + 1 / 12
    for nothing in (coverage, best_over_issues):
        with pytest.raises(ValueError, match="no issues"):
            nothing([], 1)
