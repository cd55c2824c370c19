"""What n candidates with a fixed score are worth: pass@k, best@k and AUROC within issues, exact, without drawing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import groupby
from math import comb, isnan

Scored = tuple[float, bool]
"""A candidate's score, higher is better, and whether it is right. A candidate without a score has no place here."""


def pass_at_k(n: int, right: int, k: int) -> float:
    """P(at least one of k drawn from n without replacement is right) = 1 − C(n−c, k) / C(n, k).

    Unbiased for a fresh draw of k (Chen et al. 2021, arXiv 2107.03374, equation 1). In whole numbers, rounded once.
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} cannot be known from {n} candidates, {right} of them right")
    return (comb(n, k) - comb(n - right, k)) / comb(n, k)


def coverage(issues: Sequence[Sequence[bool]], k: int) -> float:
    """pass@k over issues, each with its candidates' labels."""
    return _mean(pass_at_k(len(labels), sum(labels), k) for labels in issues)


def best_at_k(scored: Sequence[Scored], k: int) -> float:
    """P(the best by score of k drawn from these without replacement is right), ties drawn at random.

    Groups of equal score, descending: Σ_g (c_g / m_g) · [C(n−s_g, k) − C(n−s_g−m_g, k)] / C(n, k), with m_g in the group, c_g of
    them right, s_g before them. For k = 1 the mean, for a score that is the label pass@k. For a score that a candidate has
    whoever else is drawn; rules that depend on the others are resampled.
    """
    n = len(scored)
    if not 1 <= k <= n:
        raise ValueError(f"best@{k} cannot be known from {n} candidates")
    _ordered(scored)
    total, before = Fraction(0), 0
    for _, group in groupby(sorted(scored, key=lambda one: -one[0]), key=lambda one: one[0]):
        labels = [right for _, right in group]
        leads = comb(n - before, k) - comb(n - before - len(labels), k)
        total += Fraction(sum(labels), len(labels)) * leads
        before += len(labels)
    return float(total / comb(n, k))


def best_over_issues(issues: Sequence[Sequence[Scored]], k: int) -> float:
    return _mean(best_at_k(scored, k) for scored in issues)


def auroc(scored: Sequence[Scored]) -> float | None:
    """P(a right one scores above a wrong one) + ½ P(equal), the Mann–Whitney statistic; None if all are right or none is."""
    _ordered(scored)
    right = [score for score, label in scored if label]
    wrong = sorted(score for score, label in scored if not label)
    if not right or not wrong:
        return None
    above = sum(bisect_left(wrong, score) + bisect_right(wrong, score) for score in right)
    return above / 2 / len(right) / len(wrong)


def within_issue_auroc(issues: Sequence[Sequence[Scored]]) -> float | None:
    """The mean over contested issues of the AUROC within each; None: none is contested.

    It is what predicts best@k. One AUROC over all issues' candidates together also rewards knowing which issue is easy,
    which selects nothing.
    """
    found = [value for scored in issues if (value := auroc(scored)) is not None]
    return _mean(found) if found else None


def _ordered(scored: Iterable[Scored]) -> None:
    if any(isnan(score) for score, _ in scored):
        raise ValueError("a score that is not a number has no place in an order")


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    if not found:
        raise ValueError("no issues: there is nothing to estimate")
    return sum(found) / len(found)
