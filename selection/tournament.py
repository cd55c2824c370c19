"""Who is compared with whom, who gets more, and what it comes to: pure, of the results so far, without a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

Pair = tuple[str, str]
Results = Mapping[Pair, float | None]
"""Pair → what its first comes to against the second: 1, ½ or 0; None: could not be read, which is no half."""


def circle(order: Sequence[str], k: int, known: Collection[Pair] = ()) -> list[Pair]:
    """Pairs such that each takes part in k new ones, or in one with every other: at most ⌈k/2⌉·N of them, not N²/2.

    Neighbours in the order meet first, the last and the first of it too; then those two places apart, and so on. So an
    order by standing compares those that are close (as a Swiss tournament does), and a shuffled one compares all kinds
    and leaves, for k ≥ 2, nobody unconnected to the rest. Pairs in `known`, either way round, are not given again.
    """
    n, met = len(order), {frozenset(pair) for pair in known}
    new = dict.fromkeys(order, 0)
    pairs = list[Pair]()
    for apart in range(1, n // 2 + 1):
        for place, first in enumerate(order):
            second = order[(place + apart) % n]
            if min(new[first], new[second]) < k and frozenset((first, second)) not in met:
                met.add(frozenset((first, second)))
                pairs.append((first, second))
                new[first] += 1
                new[second] += 1
    return pairs


def settled_by(forward: Sequence[float | None], backward: Sequence[float | None]) -> float | None:
    """What the first of a pair comes to: a win or a loss only where both orders of showing agree, else a half.

    `forward`: P(the first is better) by verdicts that saw it first, `backward`: by those that saw it second. Models favour
    a place (Zheng et al. 2023, arXiv 2306.05685, section 3.3, whose remedy this is). None if either order has no verdict.
    """
    means = [mean([one for one in side if one is not None]) for side in (forward, backward)]
    if any(one is None for one in means):
        return None
    return next(
        (won for won in (1.0, 0.0) if all(one is not None and (one - 0.5) * (won - 0.5) > 0 for one in means)), 0.5
    )


def strengths(names: Sequence[str], results: Results) -> dict[str, float | None]:
    """P(a name beats the average one), by Bradley and Terry's model of all results together; None: no result.

    A win over a strong one counts for more, so that those who met only each other, late, lose nothing by it. Everyone also
    drew once with the average one (strength 1): that keeps the undefeated finite and those who never met comparable. The
    iteration is Hunter's (2004, Annals of Statistics 32, equation 3), half a win for a draw.
    """
    known = [(pair, result) for pair, result in sorted(results.items()) if result is not None]
    wins, rivals = dict.fromkeys(names, 0.5), {name: list[str]() for name in names}
    for (first, second), result in known:
        wins[first] += result
        wins[second] += 1 - result
        rivals[first].append(second)
        rivals[second].append(first)
    strength = dict.fromkeys(names, 1.0)
    for _ in range(1000):
        before = strength
        strength = {
            name: wins[name]
            / (1 / (before[name] + 1) + sum(1 / (before[name] + before[rival]) for rival in rivals[name]))
            for name in names
        }
        if all(abs(strength[name] - before[name]) <= 1e-12 * strength[name] for name in names):
            break
    return {name: strength[name] / (strength[name] + 1) if rivals[name] else None for name in names}


def better_half(order: Sequence[str], p: Mapping[str, float | None], unknown: float = 0.5) -> list[str]:
    """The better half, at least two, best first: who gets more (successive halving, Karnin et al. 2013).

    Level ones stand as they do in `order`. Without a score a name stands in the middle: missing is not bad.
    """

    def score(name: str) -> float:
        found = p.get(name)
        return unknown if found is None else found

    return sorted(order, key=lambda name: -round(score(name), 9))[: max(2, -(-len(order) // 2))]


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
