"""What the report is written as: one HTML page with its figures in it, JSON of all it says, and CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runoff.report import duration, pages
from runoff.reporting import charts
from runoff.reporting.accounts import STAGES, Took
from runoff.reporting.cases import FATES, Fate
from runoff.reporting.compared import Compared
from runoff.reporting.failures import Cluster
from runoff.run import write_whole
from runoff.visible import shown

MEANS: Mapping[Fate, str] = {
    "infrastructure": "It could not be worked on: a fault of the machine or of a provider, and no verdict. The same command tries again.",
    "unfinished": "It has come to no selection yet.",
    "not graded": "Nobody has said whether what was submitted is right.",
    "files missed": "No candidate is right, and the context lacked a file that the fix changes.",
    "no candidate": "No trajectory made a candidate that could be used.",
    "no right candidate": "There were candidates, and all are wrong.",
    "not known": "What was submitted is wrong; not all other candidates have a label, so a right one may have been there.",
    "not selected": "A right candidate was there, and another one, or nothing, was submitted.",
    "resolved": "What was submitted is right.",
}
SIGNS: Mapping[Fate, str] = {
    "resolved": "✓",
    "not selected": "◐",
    "infrastructure": "!",
    "unfinished": "…",
    "not graded": "?",
}
"""Of a fate in a table; the others are ✗."""
_KINDS = {
    "infrastructure": "Infrastructure: nobody’s verdict",
    "could not be graded": "Could not be graded",
    "unusable candidate": "Candidates that could not be used",
    "a test could not tell": "Tests that could not tell",
    "no result": "Trajectories without a result",
    "graded wrong": "Graded as wrong",
}
_FEW = 40  # instances that are shown without being asked for


def page(compared: Compared) -> str:
    """The page. Everything on it that a repository, a model or a directory's name says is made visible and escaped."""
    made = pages()
    made.filters |= {
        "percent": percent,
        "dollars": dollars,
        "took": took,
        "tokens": tokens,
        "decimals": decimals,
        "chance": chance,
    }
    rows = sorted({case.instance for run in compared.runs for case in run.cases})
    cases = [{case.instance: case for case in run.cases} for run in compared.runs]
    return made.get_template("reporting/report.html.j2").render(
        compared=compared,
        runs=compared.runs,
        falls=charts.waterfalls(compared),
        curves=charts.curves(compared),
        front=charts.front(compared),
        fates=[fate for fate in FATES if any(run.fates[fate] for run in compared.runs)],
        means=MEANS,
        signs=SIGNS,
        kinds=_KINDS,
        failures=_failures(compared),
        stages=[stage for stage in STAGES if any(stage in run.stages for run in compared.runs)],
        most={
            "dollars": max((spent.calls.cost for run in compared.runs for spent in run.stages.values()), default=0.0),
            "seconds": max((spent.seconds for run in compared.runs for spent in run.stages.values()), default=0.0),
        },
        grid=[(name, [by.get(name) for by in cases]) for name in rows],
        few=_FEW,
        shape=charts.shape_of,
    )


def write(folder: Path, compared: Compared) -> list[Path]:
    """report.html, report.json, and a CSV of the runs, their instances, their stages. Returns what was written."""
    files = {
        "report.html": page(compared),
        "report.json": compared.model_dump_json(indent=1) + "\n",
        "runs.csv": _csv(_runs(compared)),
        "instances.csv": _csv(_instances(compared)),
        "stages.csv": _csv(_stages(compared)),
    }
    for name, text in files.items():
        write_whole(folder / name, text.encode("utf-8", "replace"))
    return [folder / name for name in files]


def _runs(compared: Compared) -> Iterable[dict[str, Any]]:
    for run in compared.runs:
        about = {
            "run": run.letter,
            "name": run.name,
            "path": run.path,
            "recipe": run.recipe,
            "models": " ".join(run.models),
        }
        figures = {"instances": len(run.cases), "known": run.known, "low": run.low, "high": run.high}
        pool = {
            name: getattr(run.pool, name) if run.pool else None
            for name in ("mean", "oracle", "gap", "contested", "picked")
        }
        yield about | figures | run.fates | pool | _row(run.took)


def _instances(compared: Compared) -> Iterable[dict[str, Any]]:
    for run in compared.runs:
        for case in run.cases:
            said = case.model_dump(
                include={"instance", "fate", "status", "resolved", "chosen", "members", "candidates", "right"}
            )
            yield {"run": run.letter} | said | _row(case.took)


def _stages(compared: Compared) -> Iterable[dict[str, Any]]:
    for run in compared.runs:
        for stage, spent in run.stages.items():
            yield {"run": run.letter, "stage": stage} | _row(spent)


def _row(spent: Took) -> dict[str, Any]:
    calls = spent.calls
    return {
        "dollars": round(calls.cost, 6),
        "calls": calls.calls,
        "recorded": calls.recorded,
        "unpriced": calls.unknown,
        "input": calls.input,
        "cached": calls.cached,
        "output": calls.output,
        "asking": None if spent.asking is None else round(spent.asking, 3),
        "executions": spent.executions,
        "executing": round(spent.executing, 3),
        "stopped": spent.stopped,
    }


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """A table; empty where nothing is known. What a spreadsheet would take for a formula it is told is text."""
    found = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]) if found else [], lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({name: _plain(value) if isinstance(value, str) else value for name, value in row.items()})
    return text.getvalue()


def _plain(text: str) -> str:
    line = shown(" ".join(text.split()))
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _failures(compared: Compared) -> dict[str, list[tuple[str, dict[str, Cluster]]]]:
    """Kind → what failed → by run; what failed most in any run comes first."""
    found = dict[tuple[str, str], dict[str, Cluster]]()
    for run in compared.runs:
        for one in run.clusters:
            found.setdefault((one.kind, one.what), {})[run.letter] = one
    rows: dict[str, list[tuple[str, dict[str, Cluster]]]] = {kind: [] for kind in _KINDS}
    for (kind, what), by in sorted(found.items(), key=lambda one: -max(each.count for each in one[1].values())):
        rows[kind].append((what, by))
    return {kind: of for kind, of in rows.items() if of}


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def dollars(sum_: float | None) -> str:
    if sum_ is None:
        return "–"
    return f"${sum_:,.0f}" if sum_ >= 100 else f"${sum_:.2f}" if sum_ >= 0.1 or sum_ == 0 else f"${sum_:.4f}"


def took(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def tokens(n: int) -> str:
    """Rounded to three digits."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n / size < 999.5 else f"{n / size:.0f} {unit}"
    return str(n)


def decimals(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def chance(p: float) -> str:
    return f"{p:.2f}" if p >= 0.01 else f"{p:.1g}"


def lines(compared: Compared) -> Sequence[str]:
    """For a terminal: a line a run, then a line a pair."""
    found = []
    for run in compared.runs:
        lost = ", ".join(f"{fate} {n}" for fate, n in run.fates.items() if n and fate != "resolved")
        if run.share is None:
            said = f"{len(run.cases)} instances, nothing is graded"
        else:
            said = f"{run.resolved} of {run.known} resolved, {percent(run.share)} [{percent(run.low)}, {percent(run.high)}]"
        cost = f"; {run.took.calls.line()}" if run.took.calls.calls or run.took.calls.recorded else ""
        found.append(f"{run.letter}  {run.name}: {said}" + (f"; {lost}" if lost else "") + cost)
    for flip in compared.flips:
        gained, lost_ = len(flip.flips.gained), len(flip.flips.lost)
        found.append(
            f"{flip.before} → {flip.after}: {gained} gained, {lost_} lost of {flip.instances} in common; McNemar p = {chance(flip.p)}"
        )
    return [shown(line) for line in found]


__all__ = ["lines", "page", "write"]
