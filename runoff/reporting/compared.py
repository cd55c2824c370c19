"""Several runs side by side: the same for each, what is worth its cost, and which instances flip from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from pydantic import computed_field

from runoff import __version__
from runoff.measure import Labels
from runoff.reporting.runs import Report, read_run
from runoff.run import BadRun
from runoff.sandbox.protocol import Value
from runoff.selection.estimators import costs, outcomes

_PAIRED = 4  # runs of which every pair is compared; of more, each with the first


class Flip(Value):
    """Two runs on the instances of which both are known to be resolved or not."""

    before: str
    """The run's letter."""
    after: str
    instances: int
    left_out: int
    """Instances that only one of them has, or of which one is not known."""
    flips: outcomes.Flips

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided."""
        return self.flips.p


class Compared(Value):
    version: str = __version__
    runs: tuple[Report, ...]
    flips: tuple[Flip, ...]
    front: tuple[str, ...]
    """Letters of the runs that none beats in both cost and resolved share, cheapest first; of those that have both."""

    def run(self, letter: str) -> Report:
        return next(one for one in self.runs if one.letter == letter)


def compare(paths: Sequence[Path], labels: Labels | None) -> Compared:
    """Raises BadRun, in one line."""
    if twice := {path for path in paths if sum(path.resolve() == other.resolve() for other in paths) > 1}:
        raise BadRun(f"{min(twice)} is given twice: a run is not compared with itself")
    runs = tuple(read_run(path, letter(n), labels) for n, path in enumerate(paths))
    pairs = combinations(runs, 2) if len(runs) <= _PAIRED else ((runs[0], one) for one in runs[1:])
    flips = [flip for before, after in pairs if (flip := _flip(before, after)) is not None]
    points = [
        costs.Priced(name=one.letter, cost=one.cost, value=one.share)
        for one in runs
        if one.cost is not None and one.share is not None
    ]
    front = tuple(point.name for point in costs.front(points))
    return Compared(runs=runs, flips=tuple(flips), front=front)


def letter(n: int) -> str:
    """A, B, … Z, AA, AB, …"""
    return letter(n // 26 - 1) + letter(n % 26) if n >= 26 else chr(ord("A") + n)


def _flip(before: Report, after: Report) -> Flip | None:
    """None: they have no instance in common of which both are known."""
    known = [
        {case.instance: case.resolved for case in one.cases if case.resolved is not None} for one in (before, after)
    ]
    both = known[0].keys() & known[1].keys()
    if not both:
        return None
    every = {case.instance for one in (before, after) for case in one.cases}
    first, second = ({name: side[name] for name in both} for side in known)
    return Flip(
        before=before.letter,
        after=after.letter,
        instances=len(both),
        left_out=len(every) - len(both),
        flips=outcomes.flips(first, second),
    )
