"""The figures' geometry: numbers in, places on a drawing out. The page draws them as SVG; nothing here knows of a page."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log2, log10
from typing import NamedTuple

from runoff.reporting.cases import Fate
from runoff.reporting.compared import Compared
from runoff.reporting.runs import Report

_SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross")
_LINE = 15.0  # between two labels


class Tick(NamedTuple):
    at: float
    text: str


class Mark(NamedTuple):
    """A point of a run, told from others by its shape, its colour (`place`, from 0 on) and the letter beside it."""

    x: float
    y: float
    place: int
    letter: str
    path: str
    """The shape, as SVG writes a path."""
    said: str
    """What it is, in words."""


class Line(NamedTuple):
    points: str
    """As SVG writes a polyline's."""
    place: int
    kind: str
    marks: tuple[Mark, ...]
    end: float
    """Height at the right end."""
    label: float
    """Height of the label there, beside which no other stands."""
    said: str


class Plot(NamedTuple):
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    whiskers: tuple[tuple[float, float, float, int], ...] = ()
    """x, low, high, place."""
    front: str = ""


class Bar(NamedTuple):
    """A stage of a waterfall: what is lost there, or what is left."""

    fate: Fate | None
    """None: all instances."""
    x: float
    width: float
    y: float
    instances: int
    share: float
    kind: str
    """`all`, `open`, `lost` or `resolved`."""


class Fall(NamedTuple):
    report: Report
    width: float
    height: float
    left: float
    bars: tuple[Bar, ...]


def waterfalls(compared: Compared) -> list[Fall]:
    """Of each run. A stage that no run loses anything at is left out of all, so that they stand side by side."""
    kept: list[Fate] = [
        fate
        for fate in compared.runs[0].fates
        if fate in ("no candidate", "no right candidate", "not selected", "resolved")
        or any(run.fates[fate] for run in compared.runs)
    ]
    return [_waterfall(run, kept) for run in compared.runs if run.cases]


def _waterfall(run: Report, kept: Sequence[Fate]) -> Fall:
    left, full, row = 138.0, 250.0, 26.0
    scale, place = full / len(run.cases), len(run.cases)
    bars = [Bar(None, left, full, 4, len(run.cases), 1.0, "all")]
    for n, fate in enumerate(kept, 1):
        count = run.fates[fate]
        place -= count
        kind = (
            "resolved"
            if fate == "resolved"
            else "open"
            if fate in ("infrastructure", "unfinished", "not graded")
            else "lost"
        )
        at = left + place * scale
        bars.append(Bar(fate, at, count * scale, 4 + n * row, count, count / len(run.cases), kind))
    return Fall(run, left + full + 86, 4 + len(bars) * row, left, tuple(bars))


def curves(compared: Compared) -> Plot | None:
    """Coverage and best@k over k, on a scale on which doubling is a step; None: no run has one."""
    shown = [(place, run, run.curve) for place, run in enumerate(compared.runs) if run.curve]
    if not shown:
        return None
    most = max(point.k for _, _, curve in shown for point in curve.points)
    top_share = max(point.coverage for _, _, curve in shown for point in curve.points)
    left, right, top, bottom = 52.0, 560.0, 14.0, 300.0
    ceiling = max(0.2, ceil(top_share * 5 - 1e-9) / 5)

    def x(k: int) -> float:
        return left + (right - left) * (log2(k) / log2(most) if most > 1 else 0)

    def y(share: float) -> float:
        return bottom - (bottom - top) * share / ceiling

    lines = []
    for place, run, curve in shown:
        for kind, of in (("coverage", "coverage"), ("best", f"best@{curve.points[-1].k}")):
            values = [(point.k, point.coverage if kind == "coverage" else point.best) for point in curve.points]
            marks = tuple(
                _mark(x(k), y(v), place, run.letter, f"{run.letter}, {of.split('@')[0]}, k = {k}: {100 * v:.1f} %")
                for k, v in values
            )
            said = f"{run.letter} {of} {100 * values[-1][1]:.0f} %"
            points = " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in marks)
            lines.append(Line(points, place, kind, marks, marks[-1].y, marks[-1].y, said))
    ks = sorted({point.k for _, _, curve in shown for point in curve.points})
    apart = [k for n, k in enumerate(ks) if k == most or (x(most) - x(k) > 22 and (n == 0 or x(k) - x(ks[n - 1]) > 16))]
    return Plot(
        width=720,
        height=bottom + 44,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        xs=tuple(Tick(x(k), str(k)) for k in apart),
        ys=tuple(Tick(y(n / 5), f"{n * 20} %") for n in range(round(ceiling * 5) + 1)),
        lines=_parted(lines, top, bottom),
    )


def front(compared: Compared) -> Plot | None:
    """Resolved share over dollars an instance; None: fewer than two runs have both."""
    shown = [(n, run, run.cost, run.share) for n, run in enumerate(compared.runs)]
    known = [(n, run, cost, share) for n, run, cost, share in shown if cost is not None and share is not None]
    if len(known) < 2:
        return None
    left, right, top, bottom = 52.0, 660.0, 14.0, 300.0
    steps = nice(max(cost for *_, cost, _ in known) * 1.08)
    highest = max(run.high or 0.0 for _, run, _, _ in known)
    ceiling = max(0.2, ceil(highest * 5 - 1e-9) / 5)

    def x(cost: float) -> float:
        return left + (right - left) * cost / steps[-1]

    def y(share: float) -> float:
        return bottom - (bottom - top) * share / ceiling

    marks = [
        _mark(
            x(cost), y(share), n, run.letter, f"{run.letter} {run.name}: ${cost:.4g} an instance, {share:.1%} resolved"
        )
        for n, run, cost, share in known
    ]
    best = [mark for letter in compared.front for mark in marks if mark.letter == letter]
    path = "".join(f"M{a.x:.1f},{a.y:.1f}" if n == 0 else f"H{a.x:.1f}V{a.y:.1f}" for n, a in enumerate(best))
    return Plot(
        width=720,
        height=bottom + 44,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        xs=tuple(Tick(x(step), f"${step:g}") for step in steps),
        ys=tuple(Tick(y(n / 5), f"{n * 20} %") for n in range(round(ceiling * 5) + 1)),
        marks=tuple(marks),
        whiskers=tuple((x(cost), y(run.low or 0.0), y(run.high or 0.0), n) for n, run, cost, _ in known),
        front=f"{path}H{right:.1f}" if path else "",
    )


def nice(most: float) -> list[float]:
    """Round steps from 0 to at least `most`, four to eight of them."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** floor(log10(most))
    step = next(unit * power for unit in (0.1, 0.2, 0.5, 1.0, 2.0) if most / (unit * power) <= 7)
    return [round(n * step, 12) for n in range(ceil(most / step - 1e-9) + 1)]


def _mark(x: float, y: float, place: int, letter: str, said: str) -> Mark:
    return Mark(x, y, place, letter, shape(_SHAPES[place % len(_SHAPES)], x, y), said)


def shape_of(place: int) -> str:
    """The mark of a run, alone, around (6, 6)."""
    return shape(_SHAPES[place % len(_SHAPES)], 6, 6, 4.5)


def shape(name: str, x: float, y: float, size: float = 5.0) -> str:
    """A mark around a point, as SVG writes a path."""
    s = size
    if name == "circle":
        return f"M{x - s:.1f},{y:.1f}a{s},{s} 0 1 0 {2 * s},0a{s},{s} 0 1 0 {-2 * s},0z"
    if name == "cross":
        t = s * 0.4
        return f"M{x - t:.1f},{y - s:.1f}h{2 * t}v{s - t}h{s - t}v{2 * t}h{t - s}v{s - t}h{-2 * t}v{t - s}h{t - s}v{-2 * t}h{s - t}z"
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.1), (1.1, 0.9), (-1.1, 0.9)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "down": ((0, 1.1), (1.1, -0.9), (-1.1, -0.9)),
    }[name]
    return "M" + "L".join(f"{x + s * dx:.1f},{y + s * dy:.1f}" for dx, dy in corners) + "z"


def _parted(lines: Sequence[Line], top: float, bottom: float) -> tuple[Line, ...]:
    """With labels that do not lie on each other: from the top down, each as near to its line's end as those above leave it;
    then, where that ran over the bottom, up again."""
    order = sorted(range(len(lines)), key=lambda n: (lines[n].end, n))
    heights, before = dict[int, float](), top - _LINE
    for n in order:
        before = heights[n] = max(lines[n].end, before + _LINE)
    after = max(bottom, top + _LINE * (len(lines) - 1)) + _LINE
    for n in reversed(order):
        after = heights[n] = min(heights[n], after - _LINE)
    return tuple(line._replace(label=heights[n]) for n, line in enumerate(lines))
