"""Whether stated probabilities hold, and what a count bears: calibration, risk–coverage, exact binomial bounds, McNemar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from math import ceil, comb, exp, fsum, lgamma, log

from runoff.sandbox.protocol import Value

Judged = tuple[float, bool]
"""A stated probability that a submission is right, and whether it is."""


def brier(judged: Sequence[Judged]) -> float:
    """Mean of (p − right)² (Brier 1950): 0 is best, 0.25 is what saying ½ always gets."""
    _some(judged)
    return fsum((p - right) ** 2 for p, right in judged) / len(judged)


class Bin(Value):
    size: int
    stated: float
    """Mean of the stated probabilities."""
    right: float
    """Share that is right."""


def reliability(judged: Sequence[Judged], bins: int = 10) -> tuple[Bin, ...]:
    """Bins of about equal size, by stated probability, ascending. Equal probabilities are never parted, so there may be fewer."""
    _some(judged)
    found, held, left = list[list[Judged]](), list[Judged](), len(judged)
    for _, equal in groupby(sorted(judged), key=lambda one: one[0]):
        held += equal
        if len(held) * (bins - len(found)) >= left:  # its share of what is left
            found.append(held)
            left, held = left - len(held), []
    return tuple(
        Bin(size=len(one), stated=fsum(p for p, _ in one) / len(one), right=sum(r for _, r in one) / len(one))
        for one in found
    )


def ece(bins: Sequence[Bin]) -> float:
    """Expected calibration error, Σ_b (n_b / N) · |right_b − stated_b| (Naeini et al. 2015), on bins that are shown with it."""
    total = sum(one.size for one in bins)
    return fsum(one.size / total * abs(one.right - one.stated) for one in bins)


def risks(judged: Sequence[Judged]) -> list[float]:
    """Share wrong among the i most confident, for i = 1…N; within equal confidence in the mean over all orders.

    Divided by N, i is coverage: the risk–coverage curve (El-Yaniv and Wiener 2010, section 2).
    """
    _some(judged)
    found, wrong = list[float](), 0.0
    for _, equal in groupby(sorted(judged, key=lambda one: -one[0]), key=lambda one: one[0]):
        labels = [right for _, right in equal]
        share = labels.count(False) / len(labels)
        found += [(wrong + share * n) / (len(found) + n) for n in range(1, len(labels) + 1)]
        wrong += labels.count(False)
    return found


def aurc(judged: Sequence[Judged]) -> float:
    """Area under the risk–coverage curve: the mean of its risks (Geifman, Uziel and El-Yaniv 2019, section 2). Lower is better."""
    return fsum(found := risks(judged)) / len(found)


def selective_accuracy(judged: Sequence[Judged], coverage: float) -> float:
    """Share right among the most confident `coverage` of all, rounded up to whole submissions."""
    if not 0 < coverage <= 1:
        raise ValueError(f"a coverage of {coverage} is not above 0 and at most 1")
    return 1 - risks(judged)[ceil(coverage * len(judged) - 1e-9) - 1]


def clopper_pearson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a share (Clopper and Pearson 1934): it holds at least as often as it says, for any share."""
    return lower_bound(right, n, (1 - level) / 2), 1 - lower_bound(n - right, n, (1 - level) / 2)


def lower_bound(right: int, n: int, error: float) -> float:
    """The share at which `right` of n or more would happen with probability `error`: below it the true share is not, but for that."""
    if not (0 <= right <= n and n and 0 < error < 1):
        raise ValueError(f"there is no bound on {right} of {n} at an error of {error}")
    return _root(lambda share: at_least(right, n, share) - error) if right else 0.0


def at_least(right: int, n: int, share: float) -> float:
    """P(Binomial(n, share) ≥ right)."""
    if share in (0, 1):
        return float(right <= n * share)
    few = right <= n * share  # the shorter sum is the one of the tail that is far from the mean
    tail = range(right) if few else range(right, n + 1)
    ways = lgamma(n + 1)
    odds = (log(share), log(1 - share))
    total = fsum(exp(ways - lgamma(i + 1) - lgamma(n - i + 1) + i * odds[0] + (n - i) * odds[1]) for i in tail)
    return max(0.0, 1 - total) if few else min(1.0, total)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact P of a split as uneven as this among `gained + lost` changes if each were a fair coin's (McNemar 1947)."""
    n = gained + lost
    tail = sum(comb(n, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << n))


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return low


def _some(judged: Sequence[Judged]) -> None:
    if not judged:
        raise ValueError("nothing was judged: there is nothing to estimate")
    if strange := [p for p, _ in judged if not 0 <= p <= 1]:
        raise ValueError(f"{strange[0]} is no probability")
