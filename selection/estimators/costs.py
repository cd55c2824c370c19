"""What is worth its cost: the Pareto front of recipes, and the least that a result takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from runoff.sandbox.protocol import Value


class Priced(Value):
    """A recipe at some k: what it costs (dollars, seconds, tokens: one unit for all) and what it reaches."""

    name: str
    cost: float
    value: float


def front(points: Sequence[Priced]) -> list[Priced]:
    """Those that nothing beats in both, cheapest first. Of equal points the first by name stands for all."""
    found = list[Priced]()
    for one in sorted(points, key=lambda one: (one.cost, -one.value, one.name)):
        if not found or one.value > found[-1].value:
            found.append(one)
    return found


def cost_to_reach(points: Sequence[Priced], value: float) -> Priced | None:
    """The cheapest that reaches `value`; None: none does."""
    return next((one for one in front(points) if one.value >= value), None)


def marginal(points: Sequence[Priced]) -> list[tuple[Priced, float]]:
    """Along the front, each step's next point and what one more unit of value costs there."""
    steps = front(points)
    return [(after, (after.cost - before.cost) / (after.value - before.value)) for before, after in pairwise(steps)]
