"""What a rule's choices come to by labels: for measuring only. Nothing that decides imports this or is given what it reads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from runoff.run import BadRun
from runoff.sandbox.protocol import Value
from runoff.selection.estimators import outcomes, resampling
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Selection

Labels = Mapping[tuple[str, str], bool]
"""Instance and candidate (or agent) → whether it is right."""


class Measured(Value):
    """A rule on the issues that have labels; shares, see `outcomes.Gap`."""

    rule: str
    issues: int
    mean: float
    best: float
    """Of the best single member."""
    oracle: float
    selected: float
    gap: float | None
    low: float | None
    """95 % interval of `gap`, by bootstrap over issues."""
    high: float | None
    gap_to_best: float | None
    contested: float
    accuracy: float | None
    """Share of the contested issues that were picked right."""


def read_labels(file: Path) -> dict[tuple[str, str], bool]:
    """Of a JSON-lines file, gzipped or not; null says nothing. Raises BadRun naming the line."""
    found: dict[tuple[str, str], bool] = {}
    number = 0
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            for line in lines:
                number += 1
                if line.strip():
                    row = json.loads(line)
                    name = str(row["candidate"] if "candidate" in row else row["agent"])
                    if row["resolved"] is not None:
                        found[str(row["instance_id"]), name] = bool(row["resolved"])
    except OSError as error:
        raise BadRun(f"--labels {file}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, KeyError, TypeError, EOFError):
        wanted = '{"instance_id", "candidate" or "agent", "resolved": true, false or null}'
        raise BadRun(f"{file}, line {number}: not a label {wanted}") from None
    return found


def graded(name: str, evidence: Evidence, selection: Selection, labels: Labels) -> outcomes.Graded | None:
    """An issue as the estimators take it: its labelled candidates and, of what is submitted, those that are labelled.

    None where nothing is labelled. Proposers of one patch whose labels differ share it.
    """
    right: dict[str, bool] = {}
    for candidate in sorted([*(one for entry in evidence.entries for one in entry.proposers), *evidence.rejected]):
        label = labels.get((name, candidate), labels.get((name, evidence.origin(candidate))))
        if label is not None:
            right[candidate] = label
    if not right:
        return None
    submitted = selection.entry(selection.chosen).proposers if selection.chosen else ()
    return outcomes.Graded(issue=name, right=right, submitted=tuple(one for one in submitted if one in right))


def measured(
    rule: str, evidence: Mapping[str, Evidence], selections: Mapping[str, Selection], labels: Labels
) -> Measured:
    """Raises BadRun if no label is for any of these candidates."""
    found = [graded(name, one, selections[name], labels) for name, one in evidence.items()]
    issues = [one for one in found if one]
    if not issues:
        raise BadRun("no label is for a candidate of this run; labels name instance_id, and candidate or agent")
    whole, contested = outcomes.gap(issues), outcomes.contest(issues)
    bounds = resampling.bootstrap(issues, lambda drawn: outcomes.gap(drawn, whole.best_member).against_mean)
    return Measured(
        rule=rule,
        issues=whole.issues,
        mean=whole.mean,
        best=whole.best,
        oracle=whole.oracle,
        selected=whole.selected,
        gap=whole.against_mean,
        low=bounds.low,
        high=bounds.high,
        gap_to_best=whole.against_best,
        contested=contested.right + contested.wrong,
        accuracy=contested.accuracy,
    )


def table(rows: Sequence[Measured]) -> str:
    """For a terminal. The rows are of the same issues."""
    one = rows[0]
    lines = [
        f"{one.issues} issues with labels, {one.contested:g} contested; mean {one.mean:.1%}, best single member "
        f"{one.best:.1%}, oracle {one.oracle:.1%}",
        f"{'rule':12}  selected  gap to the mean [95 %]  gap to the best  contested right",
    ]
    for row in rows:
        gap = f"{_number(row.gap)} [{_number(row.low)}, {_number(row.high)}]"
        lines.append(
            f"{row.rule:12}  {row.selected:8.1%}  {gap:22}  {_number(row.gap_to_best):15}  {_number(row.accuracy)}"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
