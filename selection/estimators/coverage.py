"""How coverage grows with more trajectories: two laws, fitted, extrapolated, and held against what was not fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, inf, lgamma, log

from runoff.sandbox.protocol import Value
from runoff.selection.estimators.scores import coverage

Pair = tuple[float, float]


class PowerLaw(Value):
    """c(k) = exp(a · k^b), a and b below 0: Large Language Monkeys (Brown et al. 2024, arXiv 2407.21787, section 3.1)."""

    a: float
    b: float

    def at(self, k: float) -> float:
        return exp(self.a * k**self.b)


class BetaBinomial(Value):
    """c(k) = 1 − B(α, β + k) / B(α, β): issues differ in P(resolved by one trajectory), which is Beta(α, β) over them.

    The mean of 1 − (1 − p)^k under that law; 1 in the limit, so it is bold far out where some issues cannot be resolved at all.
    """

    alpha: float
    beta: float

    def at(self, k: float) -> float:
        return 1 - exp(_log_beta(self.alpha, self.beta + k) - _log_beta(self.alpha, self.beta))


def fit_power_law(points: Mapping[int, float]) -> PowerLaw:
    """Least squares in the coverage itself, as its authors fit; `points`: k → coverage, two at least, not all 0 or 1."""
    first, last = _ends(points)
    b = log(log(points[first]) / log(points[last])) / log(first / last)

    def law(place: Pair) -> PowerLaw:
        return PowerLaw(a=-exp(place[0]), b=-exp(place[1]))

    start = log(-log(points[first])) - b * log(first), log(max(1e-3, -b))
    return law(_minimum(lambda place: _squares(law(place), points), start))


def fit_beta(points: Mapping[int, float]) -> BetaBinomial:
    """Least squares in the coverage; where only a curve is known. Through two points it goes exactly, if such a law exists."""
    first, _ = _ends(points)
    mean = 1 - (1 - points[first]) ** (1 / first)
    start = log(mean), log(1 - mean)
    return _beta(_minimum(lambda place: _squares(_beta(place), points), start))


def fit_beta_counts(issues: Sequence[Sequence[bool]]) -> BetaBinomial:
    """Maximum likelihood on the labels of each issue's trajectories, whose numbers may differ. Raises ValueError if all are alike."""
    counts = [(len(labels), sum(labels)) for labels in issues]
    n, right = sum(n for n, _ in counts), sum(c for _, c in counts)
    if not 0 < right < n:
        raise ValueError(f"{right} of {n} trajectories are right: nothing can be fitted to that")

    def loss(place: Pair) -> float:
        a, b = exp(place[0]), exp(place[1])
        return -sum(_log_beta(a + c, b + n - c) - _log_beta(a, b) for n, c in counts)

    return _beta(_minimum(loss, (log(right / n), log(1 - right / n))))


class HeldOut(Value):
    """A law fitted on the first trajectories of each issue against the coverage that all of them show."""

    law: PowerLaw | BetaBinomial
    trajectories: int
    """Of each issue that it was fitted on."""
    predicted: dict[int, float]
    """k → coverage, for every k beyond those."""
    seen: dict[int, float]

    @property
    def worst(self) -> float:
        return max(abs(self.predicted[k] - self.seen[k]) for k in self.seen)


def held_out(
    issues: Sequence[Sequence[bool]], trajectories: int, fit: Callable[[Mapping[int, float]], PowerLaw | BetaBinomial]
) -> HeldOut:
    """What an extrapolation made after the first `trajectories` would have been worth.

    The fit sees no later label. What it is held against is pass@k of all, those included, so the two are not independent.
    """
    most = min(map(len, issues), default=0)
    if not 2 <= trajectories < most:
        raise ValueError(f"{trajectories} of {most} trajectories: it takes two to fit, and one left to hold against")
    early = [labels[:trajectories] for labels in issues]
    law = fit({k: coverage(early, k) for k in range(1, trajectories + 1)})
    beyond = range(trajectories + 1, most + 1)
    return HeldOut(
        law=law,
        trajectories=trajectories,
        predicted={k: law.at(k) for k in beyond},
        seen={k: coverage(issues, k) for k in beyond},
    )


def _ends(points: Mapping[int, float]) -> tuple[int, int]:
    inside = sorted(k for k, value in points.items() if 0 < value < 1)
    if len(inside) < 2 or points[inside[0]] >= points[inside[-1]]:
        raise ValueError("a law of coverage takes two points between 0 and 1, of which the later is higher")
    return inside[0], inside[-1]


def _beta(place: Pair) -> BetaBinomial:
    return BetaBinomial(alpha=exp(place[0]), beta=exp(place[1]))


def _squares(law: PowerLaw | BetaBinomial, points: Mapping[int, float]) -> float:
    return sum((law.at(k) - value) ** 2 for k, value in points.items())


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _minimum(loss: Callable[[Pair], float], start: Pair) -> Pair:
    """Nelder and Mead (1965) in two dimensions: logarithms of a law's two parameters, kept where floats can follow."""

    def value(place: Pair) -> float:
        return loss(place) if max(map(abs, place)) < 25 else inf

    def towards(point: Pair, share: float) -> Pair:
        return tuple(m + share * (p - m) for m, p in zip(middle, point, strict=True))  # type: ignore[return-value]

    corners = sorted(
        ((value(p), p) for p in (start, (start[0] + 0.5, start[1]), (start[0], start[1] + 0.5))), key=lambda c: c[0]
    )
    for _ in range(1000):
        (least, best), (second, other), (most, worst) = corners
        if max(abs(x - y) for p in (other, worst) for x, y in zip(p, best, strict=True)) < 1e-12:
            break
        middle = ((best[0] + other[0]) / 2, (best[1] + other[1]) / 2)
        found = value(mirrored := towards(worst, -1)), mirrored
        if found[0] < least:
            further = value(place := towards(worst, -2)), place
            corners[2] = min(found, further, key=lambda c: c[0])
        elif found[0] < second:
            corners[2] = found
        else:
            nearer = value(place := towards(worst, -0.5 if found[0] < most else 0.5)), place
            if nearer[0] < min(found[0], most):
                corners[2] = nearer
            else:
                middle = best
                corners = [corners[0], *((value(place := towards(p, 0.5)), place) for p in (other, worst))]
        corners.sort(key=lambda c: c[0])
    return corners[0][1]
