"""What a rule's choices come to by labels: for measuring only. Nothing that decides imports this or is given what it reads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import computed_field

from runoff.run import BadRun
from runoff.sandbox.protocol import Value
from runoff.selection.estimators import outcomes, resampling, scores
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Selection

Labels = Mapping[tuple[str, str], bool]
"""Instance and candidate (or agent) → whether it is right."""


_FEWEST = 6
"""Contested issues below which no verifier can be shown to be better than chance at 97.5 %: 0.5⁵ is 3 %."""


class Worth(Value):
    """Whether the verifier, or one of its criteria, tells right from wrong within an issue."""

    what: str
    issues: int
    """Contested ones: of the candidates with a score some are right and some wrong."""
    auroc: float | None
    """P(a right candidate scores above a wrong one of its issue) + ½ P(equal), the mean over these; see `scores`."""
    low: float | None
    """95 % interval, by bootstrap over these."""
    high: float | None
    missing: int
    """Labelled candidates without a score, on all issues: they are in no comparison."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def helps(self) -> bool:
        """Whether it is shown to be better than chance, which is what it takes to be used."""
        return self.issues >= _FEWEST and self.low is not None and self.low > 0.5


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
    verifier: tuple[Worth, ...] = ()
    """Of the run's own verifier, the same whatever the rule: the whole first, then by criterion."""
    best_low: float | None = None
    """95 % interval of `gap_to_best`, that member being named once."""
    best_high: float | None = None
    submitted: int = 0
    """Issues for which anything was submitted; the others were abstained from, or there was nothing."""
    precision: float | None = None
    """Share right of those submissions whose candidates have labels."""


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
        label = label_of(labels, name, evidence, candidate)
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
    to_best = resampling.bootstrap(issues, lambda drawn: outcomes.gap(drawn, whole.best_member).against_best)
    given = [one for one in issues if one.submitted]
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
        best_low=to_best.low,
        best_high=to_best.high,
        submitted=sum(selections[one.issue].chosen is not None for one in issues),
        precision=sum(one.selected for one in given) / len(given) if given else None,
    )


def worth(evidence: Mapping[str, Evidence], labels: Labels) -> tuple[Worth, ...]:
    """The verifier's worth on the issues that have labels: as a whole, then by criterion; empty where there are no scores.

    Criteria that a model wrote differ from issue to issue: what is one of them is its place in the list.
    """
    scored: dict[str, dict[str, dict[str, float | None]]] = {}
    texts: dict[str, set[str]] = {}
    for issue, one in evidence.items():
        for entry, score in one.scores.items():
            scored.setdefault("the verifier", {}).setdefault(issue, {})[entry] = score.p
            for place, (text, verdicts) in enumerate(score.parts.items(), 1):
                known = [p for p in verdicts if p is not None]
                part = f"criterion {place}"
                texts.setdefault(part, set()).add(text)
                scored.setdefault(part, {}).setdefault(issue, {})[entry] = sum(known) / len(known) if known else None
    found = []
    for what, issues in scored.items():
        known_as = texts.get(what, set())
        name = f"{what} ({min(known_as)})" if len(known_as) == 1 else what
        found.append(_worth(name, evidence, issues, labels))
    return tuple(found)


def _worth(
    what: str, evidence: Mapping[str, Evidence], scored: Mapping[str, Mapping[str, float | None]], labels: Labels
) -> Worth:
    contested, missing = list[list[scores.Scored]](), 0
    for issue, by_entry in scored.items():
        one = evidence[issue]
        of_issue = list[scores.Scored]()
        for entry in one.entries:
            p = by_entry.get(entry.id)
            for candidate in entry.proposers:
                right = label_of(labels, issue, one, candidate)
                if right is not None and p is None:
                    missing += 1
                elif right is not None and p is not None:
                    of_issue.append((p, right))
        if scores.auroc(of_issue) is not None:
            contested.append(of_issue)
    bounds = resampling.bootstrap(contested, scores.within_issue_auroc) if contested else None
    return Worth(
        what=what,
        issues=len(contested),
        auroc=bounds.value if bounds else None,
        low=bounds.low if bounds else None,
        high=bounds.high if bounds else None,
        missing=missing,
    )


def worth_lines(found: Sequence[Worth]) -> str:
    """For a terminal; the last line says in so many words whether the verifier should be used."""
    lines = ["does the verifier tell right from wrong within an issue? (AUROC; chance is 0.50)"]
    for one in found:
        interval = f"{_number(one.auroc)} [{_number(one.low)}, {_number(one.high)}]"
        lines.append(f"  {one.what}: {interval} on {one.issues} contested issues, {one.missing} without a verdict")
    if found and not found[0].helps:
        few = found[0].issues < _FEWEST
        why = f"fewer than {_FEWEST} contested issues cannot show it" if few else "the interval reaches 0.50 or below"
        lines.append(
            f"not shown to be better than chance ({why}): it should not be used (--set selection.verifier.verdicts=0)"
        )
    return "\n".join(lines)


def label_of(labels: Labels, issue: str, evidence: Evidence, candidate: str) -> bool | None:
    """By the candidate's own name, else by whose it is."""
    return labels.get((issue, candidate), labels.get((issue, evidence.origin(candidate))))


def judged(
    evidence: Mapping[str, Evidence], selections: Mapping[str, Selection], labels: Labels
) -> list[tuple[float, bool]]:
    """What was stated of each choice, and whether it is right; also of those that were withheld. Empty if uncalibrated."""
    found = list[tuple[float, bool]]()
    for name, one in evidence.items():
        sure = selections[name].confidence
        if sure and sure.p is not None:
            told = graded(name, one, selections[name].model_copy(update={"chosen": sure.of}), labels)
            if told and told.submitted:
                found.append((sure.p, told.selected > 0.5))
    return found


def table(rows: Sequence[Measured]) -> str:
    """For a terminal. The rows are of the same issues."""
    one = rows[0]
    lines = [
        f"{one.issues} issues with labels, {one.contested:g} contested; mean {one.mean:.1%}, best single member "
        f"{one.best:.1%}, oracle {one.oracle:.1%}",
        f"{'rule':12}  selected  {'gap to the mean [95 %]':24}  {'gap to the best [95 %]':24}  contested right",
    ]
    abstained = any(row.submitted < row.issues for row in rows)
    lines[-1] += "  submitted  right of these" if abstained else ""
    for row in rows:
        gap = f"{_number(row.gap)} [{_number(row.low)}, {_number(row.high)}]"
        best = f"{_number(row.gap_to_best)} [{_number(row.best_low)}, {_number(row.best_high)}]"
        line = f"{row.rule:12}  {row.selected:8.1%}  {gap:24}  {best:24}  {_number(row.accuracy):15}"
        lines.append(line + (f"  {row.submitted:9}  {_number(row.precision)}" if abstained else ""))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
