"""What cannot be computed exactly: rules that depend on who else was drawn, and what other issues would have shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb, fsum, sqrt
from random import Random
from typing import TypeVar

from runoff.sandbox.protocol import Value

T = TypeVar("T")

Rule = Callable[[str, tuple[str, ...]], float]
"""Issue and the trajectories that were drawn, in their order → P(resolved) by what the rule submits of these alone; ties are averaged."""


class Resampled(Value):
    """A rule at k trajectories an issue, over issues."""

    k: int
    value: float
    drawing: float
    """Standard error from having drawn some subsets and not all. 0 at k = n, where it says nothing of how sure the figure is."""
    error: float | None
    """Standard error over issues: as if these were drawn from many like them, which is what a figure is read as. None: one issue."""
    issues: dict[str, float]
    """Each issue's own, to be bootstrapped or paired."""


def resampled(pools: Mapping[str, Sequence[str]], k: int, rule: Rule, *, draws: int = 1000, seed: int = 0) -> Resampled:
    """best@k of a rule whose choice depends on the set, by subsets of k trajectories without replacement.

    As CodeMonkeys draws its curves (arXiv 2501.14723): everything is decided within the subset, and the tests of trajectories
    outside do not exist; `Evidence.among` makes it so. Where there are no more than `draws` subsets, all are taken and the
    value is exact. Each issue draws by its own name, so neither order nor company changes it.
    A choice by a model cannot be made anew: only what was run can be given here.
    Raises ValueError for an issue with fewer than k trajectories.
    """
    if not pools:
        raise ValueError("no issues: there is nothing to estimate")
    means, variances = dict[str, float](), list[float]()
    for issue, trajectories in pools.items():
        if not 1 <= k <= len(trajectories):
            raise ValueError(f"{issue}: {k} trajectories cannot be drawn from {len(trajectories)}")
        exact = comb(len(trajectories), k) <= draws
        chance = Random(f"{seed}/{k}/{issue}")
        subsets = combinations(trajectories, k) if exact else (_draw(trajectories, k, chance) for _ in range(draws))
        found = [rule(issue, subset) for subset in subsets]
        means[issue] = fsum(found) / len(found)
        variances.append(0.0 if exact else _variance(found) / draws)
    n = len(means)
    return Resampled(
        k=k,
        value=fsum(means.values()) / n,
        drawing=sqrt(fsum(variances)) / n,
        error=sqrt(_variance(list(means.values())) / n) if n > 1 else None,
        issues=means,
    )


class Interval(Value):
    value: float | None
    """On the issues themselves."""
    low: float | None
    high: float | None
    undefined: int
    """Resamples on which the statistic has no value, such as a gap where no issue is contested; the interval is of the others."""


def bootstrap(
    issues: Sequence[T],
    statistic: Callable[[Sequence[T]], float | None],
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval over issues drawn with replacement (Efron and Tibshirani 1993, chapter 13).

    An issue comes with all its candidates and with what every rule made of it, so differences and ratios of rules are paired.
    """
    if not issues:
        raise ValueError("no issues: there is nothing to estimate")
    chance = Random(seed)
    found = [statistic(chance.choices(issues, k=len(issues))) for _ in range(draws)]
    values = sorted(value for value in found if value is not None)
    return Interval(
        value=statistic(issues),
        low=_quantile(values, (1 - level) / 2),
        high=_quantile(values, (1 + level) / 2),
        undefined=draws - len(values),
    )


def _draw(trajectories: Sequence[str], k: int, chance: Random) -> tuple[str, ...]:
    places = sorted(chance.sample(range(len(trajectories)), k))
    return tuple(trajectories[place] for place in places)


def _variance(values: Sequence[float]) -> float:
    mean = fsum(values) / len(values)
    return fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)


def _quantile(values: Sequence[float], share: float) -> float | None:
    """Linear between the two nearest."""
    if not values:
        return None
    place = share * (len(values) - 1)
    low = int(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])
