"""`runoff replay --figures`: what a run came to by labels, drawn: one SVG and one PNG a figure, and a page with all of them.

The run's own report.html holds none of it: that is made where no label is known. matplotlib is the extra `figures`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff import __version__
from runoff.ablation import Share
from runoff.measure import Labels, Measured, graded
from runoff.run import BadRun, write_whole
from runoff.selection.elect import SelectionRecipe, rank
from runoff.selection.estimators import outcomes, probabilities, resampling, scores
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWS = 40  # subsets of an issue at each k, where there are more
_AS_RUN = "as run"


@dataclass(frozen=True)
class Shown:
    """What is drawn: all of it was computed before, and is decided without labels."""

    rows: Sequence[Measured]
    shares: Sequence[Share]
    judged: Sequence[probabilities.Judged]
    """Stated probabilities of choices, and whether they are right; empty: uncalibrated."""
    evidence: Mapping[str, Evidence]
    selections: Mapping[str, Selection]
    labels: Labels

    @property
    def issues(self) -> list[outcomes.Graded]:
        found = (graded(name, one, self.selections[name], self.labels) for name, one in self.evidence.items())
        return [one for one in found if one]


def check() -> None:
    """Raises BadRun, in one line, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise BadRun("--figures draws with matplotlib, which is not installed: pip install 'runoff[figures]'")


def draw(folder: Path, shown: Shown, recipe: Callable[[str, str], SelectionRecipe]) -> Path:
    """Write the figures, as far as there is something to draw, and index.html; returns that. `recipe`: instance and rule → settings."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "runoff", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    figures: dict[str, tuple[str, Callable[[Axes], None]]] = {
        "gap": ("Gap recovered against the mean, by rule, with 95 % intervals", lambda axes: _gap(axes, shown)),
        "waterfall": ("Where issues are lost", lambda axes: _waterfall(axes, outcomes.waterfall(shown.issues))),
    }
    if shown.shares:
        figures["ingredients"] = (
            "What each ingredient adds to the rules that use it, with 95 % intervals",
            lambda axes: _ingredients(axes, shown.shares),
        )
    if curves := _curves(shown, recipe):
        figures["curves"] = (
            "Coverage (any of k is right) and best@k of the run's own ranking, without its run-off",
            lambda axes: _plot_curves(axes, curves),
        )
    if shown.judged:
        figures["reliability"] = ("Do stated probabilities hold?", lambda axes: _reliability(axes, shown.judged))
        figures["risk-coverage"] = (
            "Share wrong among the surest, by how many are submitted",
            lambda axes: _risks(axes, shown.judged),
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, plot) in figures.items():
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        axes.set_title(title, loc="left", fontsize=10)
        plot(axes)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=160)
        plt.close(figure)
    write_whole(
        folder / "index.html", _page(folder, {name: title for name, (title, _) in figures.items()}, shown).encode()
    )
    return folder / "index.html"


def _page(folder: Path, titles: Mapping[str, str], shown: Shown) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(loader=PackageLoader("runoff", ""), autoescape=True, undefined=StrictUndefined)
    drawn = [
        (name, title, base64.b64encode((folder / f"{name}.svg").read_bytes()).decode())
        for name, title in titles.items()
    ]
    whole: dict[str, Any] = {"figures": drawn, "rows": shown.rows, "version": __version__, "judged": len(shown.judged)}
    return pages.get_template("figures.html.j2").render(whole)


def _gap(axes: Axes, shown: Shown) -> None:
    rows = [row for row in shown.rows if row.gap is not None][::-1]
    for place, row in enumerate(rows):
        gap = row.gap or 0.0
        low, high = row.low if row.low is not None else gap, row.high if row.high is not None else gap
        axes.barh(place, gap, color="#1f77b4" if row.rule == _AS_RUN else "#9ec3e0")
        axes.plot([low, high], [place, place], color="#333", linewidth=1)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.rule for row in rows])
    axes.set_xlabel("(selected − mean) / (oracle − mean)")


def _waterfall(axes: Axes, losses: outcomes.Waterfall) -> None:
    steps = [
        ("issues", 0.0, losses.issues, "#888"),
        ("no right\ncandidate", losses.issues - losses.no_right_candidate, losses.no_right_candidate, "#d98880"),
        ("not selected", losses.resolved, losses.not_selected, "#d98880"),
        ("resolved", 0.0, losses.resolved, "#1f77b4"),
    ]
    for place, (_, bottom, height, colour) in enumerate(steps):
        axes.bar(place, height, bottom=bottom, color=colour)
        axes.text(place, bottom + height, f"{height:g}", ha="center", va="bottom")
    axes.set_xticks(range(len(steps)), [name for name, *_ in steps])
    axes.set_ylabel("issues")


def _ingredients(axes: Axes, shares: Sequence[Share]) -> None:
    for place, one in enumerate(reversed(shares)):
        low, high = one.low if one.low is not None else one.share, one.high if one.high is not None else one.share
        axes.plot([100 * low, 100 * high], [place, place], color="#333", linewidth=1)
        axes.plot(100 * one.share, place, "o", color="#1f77b4", markersize=4)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set_yticks(range(len(shares)), [f"{one.rule}: {one.without}" for one in reversed(shares)], fontsize=6)
    axes.set_xlabel("points of `selected` that the ranking loses without it")


Curves = tuple[int, dict[int, float], dict[int, float]]
"""Issues, k → coverage, k → best@k."""


def _curves(shown: Shown, recipe: Callable[[str, str], SelectionRecipe]) -> Curves | None:
    """On the issues that have as many members with labels as four fifths of all have; None where that is one."""
    pools = dict[str, dict[str, bool]]()
    for name, one in shown.evidence.items():
        told = graded(name, one, shown.selections[name], shown.labels)
        right = dict[str, bool]()
        for candidate, label in (told.right if told else {}).items():
            right[one.origin(candidate)] = right.get(one.origin(candidate), False) or label
        pools[name] = right
    sizes = sorted(len(right) for right in pools.values())
    most = sizes[len(sizes) // 5]
    pools = {name: right for name, right in pools.items() if len(right) >= most}
    if most < 2:
        return None

    def resolved(issue: str, members: tuple[str, ...]) -> float:
        part = shown.evidence[issue].among({*members, *shown.evidence[issue].outside()})
        told = graded(issue, part, rank(part, recipe(issue, _AS_RUN)), shown.labels)
        return told.selected if told else 0.0

    ks = sorted({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, most} & set(range(1, most + 1)))
    whole = {name: tuple(right) for name, right in pools.items()}
    return (
        len(pools),
        {k: scores.coverage([list(right.values()) for right in pools.values()], k) for k in ks},
        {k: resampling.resampled(whole, k, resolved, draws=_DRAWS).value for k in ks},
    )


def _plot_curves(axes: Axes, curves: Curves) -> None:
    issues, coverage, best = curves
    axes.plot(list(coverage), [100 * value for value in coverage.values()], "o-", label="coverage", color="#888")
    axes.plot(list(best), [100 * value for value in best.values()], "o-", label="best@k", color="#1f77b4")
    axes.set_xlabel(f"k, trajectories or agents drawn ({issues} issues)")
    axes.set_ylabel("% of issues")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _reliability(axes: Axes, judged: Sequence[probabilities.Judged]) -> None:
    bins = probabilities.reliability(judged)
    axes.plot([0, 1], [0, 1], color="#aaa", linewidth=0.8)
    for one in bins:
        low, high = probabilities.clopper_pearson(round(one.right * one.size), one.size)
        axes.plot([one.stated, one.stated], [low, high], color="#333", linewidth=1)
    axes.scatter(
        [one.stated for one in bins], [one.right for one in bins], s=[20 + one.size for one in bins], color="#1f77b4"
    )
    axes.set_xlabel(f"stated probability ({len(judged)} issues; calibration error {probabilities.ece(bins):.3f})")
    axes.set_ylabel("share right")


def _risks(axes: Axes, judged: Sequence[probabilities.Judged]) -> None:
    found = probabilities.risks(judged)
    axes.plot([(n + 1) / len(found) for n in range(len(found))], found, color="#1f77b4")
    axes.set_xlabel(f"share submitted, the surest first (area {probabilities.aurc(judged):.3f})")
    axes.set_ylabel("share wrong of these")
    axes.set_ylim(bottom=0)
