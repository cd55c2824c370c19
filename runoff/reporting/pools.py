"""What a run's pools of candidates are worth, and what more or fewer members would have come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runoff.reporting.cases import Known, Read
from runoff.sandbox.protocol import Value
from runoff.selection.elect import SelectionRecipe, rank
from runoff.selection.estimators import outcomes, resampling, scores
from runoff.selection.evidence import Evidence

_DECIDED = 3_000
"""Subsets that are decided anew, at most, for the curve of one run."""
_DRAWS = 40
_KS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class Point(Value):
    """At k members an instance."""

    k: int
    coverage: float
    """pass@k: any of them is right."""
    best: float
    """best@k: what the run's own ranking submits of them, without its run-off, is right."""
    drawing: float
    """Standard error of `best` from having drawn some subsets and not all; if anything, too large."""


class Curve(Value):
    instances: int
    """Those that have as many members as four fifths of all have, each with all its candidates labelled."""
    points: tuple[Point, ...]


class Pool(Value):
    """What the pools of candidates are worth, of instances whose candidates all have labels. Shares of these."""

    instances: int
    mean: float
    """Resolved by a candidate drawn at random."""
    oracle: float
    """By a right one, wherever there is one."""
    selected: float
    gap: float | None
    """(selected − mean) / (oracle − mean)."""
    low: float | None
    high: float | None
    contested: int
    """Instances with right and wrong candidates."""
    picked: float
    """Of these, those that were picked right."""
    chance: float
    """Of these, those that a candidate drawn at random would resolve."""


def pool(told: Mapping[str, Read]) -> Pool | None:
    """None: there is no instance all of whose candidates have labels."""
    issues = list[outcomes.Graded]()
    for name, one in told.items():
        if one.known.labels:
            right = {candidate: bool(label) for candidate, label in one.known.labels.items()}
            given = one.selection.entry(one.case.chosen).proposers if one.case.chosen else ()
            issues.append(outcomes.Graded(issue=name, right=right, submitted=given))
    if not issues:
        return None
    contest, n = outcomes.contest(issues), len(issues)

    def recovered(drawn: Sequence[tuple[float, float, bool]]) -> float | None:
        selected, mean, oracle = map(sum, zip(*drawn, strict=True))
        return (selected - mean) / (oracle - mean) if oracle > mean else None

    gap = resampling.bootstrap([(one.selected, one.mean, one.oracle) for one in issues], recovered)
    return Pool(
        instances=n,
        mean=sum(one.mean for one in issues) / n,
        oracle=sum(one.oracle for one in issues) / n,
        selected=sum(one.selected for one in issues) / n,
        gap=gap.value,
        low=gap.low,
        high=gap.high,
        contested=sum(one.contested for one in issues),
        picked=contest.right,
        chance=contest.chance,
    )


def curve(told: Mapping[str, Known], evidence: Mapping[str, Evidence], recipe: SelectionRecipe) -> Curve | None:
    """By subsets, everything decided within each. None: there is one member, or nothing has labels."""
    sizes = sorted(len(one.members) for one in told.values())
    most = sizes[len(sizes) // 5] if sizes else 0
    pools = {name: one for name, one in told.items() if len(one.members) >= most}
    if most < 2:
        return None
    ks = sorted({k for k in _KS if k <= most} | {most})
    draws = max(2, min(_DRAWS, _DECIDED // (len(pools) * len(ks))))

    def covered(instance: str, drawn: tuple[str, ...]) -> float:
        return any(told[instance].members[member] for member in drawn)

    def resolved(instance: str, drawn: tuple[str, ...]) -> float:
        known = told[instance]
        if not covered(instance, drawn):
            return 0.0  # whatever is decided, nothing right can come of it
        part = evidence[instance].among({*drawn, *evidence[instance].outside()})
        chosen = rank(part, recipe)
        if chosen.chosen is None:
            return 0.0
        proposers = chosen.entry(chosen.chosen).proposers
        return sum(bool(known.labels[one]) for one in proposers) / len(proposers)

    points, members = [], {name: tuple(one.members) for name, one in pools.items()}
    for k in ks:
        coverage = scores.coverage([list(one.members.values()) for one in pools.values()], k)
        best, any_right = (resampling.resampled(members, k, rule, draws=draws) for rule in (resolved, covered))
        # The same subsets tell how lucky they were: what the ranking makes of coverage is estimated, coverage itself is exact.
        luck = coverage / any_right.value if any_right.value else 0.0
        points.append(Point(k=k, coverage=coverage, best=best.value * luck, drawing=best.drawing * luck))
    return Curve(instances=len(pools), points=tuple(points))


__all__ = ["Curve", "Point", "Pool", "curve", "pool"]
