"""One run as the report compares it: the fate of every instance, what its candidates were worth, what it took, how it failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import computed_field

from runoff.measure import Labels
from runoff.recipe import Recipe
from runoff.replay import Stored
from runoff.report import player
from runoff.reporting.accounts import AGENTS, STAGES, Account, Stage, Took, Unit
from runoff.reporting.cases import FATES, OPEN, Case, Fate, Known, Read
from runoff.reporting.failures import Cluster, Failures, brief
from runoff.reporting.labels import Disagreement, Right, read_grades
from runoff.reporting.pools import Curve, Pool, curve, pool
from runoff.run import asked_for
from runoff.sandbox.protocol import Value
from runoff.selection.estimators import probabilities
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Selection

_MOST_UNITS = 10


class Report(Value):
    """All that is said of one run."""

    letter: str
    """Stands for it in the figures."""
    name: str
    path: str
    recipe: str
    models: tuple[str, ...]
    trajectories: int
    election: bool
    """Whether it chose among candidates of others."""
    cases: tuple[Case, ...]
    labels: Literal["labels", "grades", "nothing"]
    """What is known to be right by."""
    low: float | None
    """Exact 95 % interval of `share` (Clopper and Pearson)."""
    high: float | None
    pool: Pool | None
    curve: Curve | None
    took: Took
    stages: dict[Stage, Took]
    slowest: tuple[Unit, ...]
    dearest: tuple[Unit, ...]
    units: int
    clusters: tuple[Cluster, ...]
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...]
    """What a reader should know before believing the figures."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fates(self) -> dict[Fate, int]:
        """All of them, also those that nothing met."""
        found = Counter(case.fate for case in self.cases)
        return {fate: found[fate] for fate in FATES}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def resolved(self) -> int:
        return sum(case.resolved is True for case in self.cases)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def known(self) -> int:
        """Instances of which it is known whether they are resolved."""
        return sum(case.resolved is not None for case in self.cases)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def share(self) -> float | None:
        """Resolved, of those of which it is known."""
        return self.resolved / self.known if self.known else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost(self) -> float | None:
        """Dollars an instance, of calls whose price is known; None: nothing was paid for, or all at unknown prices."""
        calls = self.took.calls
        return calls.cost / len(self.cases) if calls.calls > calls.unknown and self.cases else None


class Instances:
    """A run's instances, or some of them, each log read once."""

    def __init__(self, path: Path, labels: Labels | None = None, only: Collection[str] | None = None) -> None:
        """Raises BadRun, in one line."""
        self.said = asked_for(path)
        """What run.toml says."""
        sandbox = str(self.said.get("about", {}).get("sandbox", ""))
        accounts = {name: Account(name, sandbox) for name in sorted(self.said["source"] if only is None else only)}
        self.stored = Stored(path, lambda name, record: accounts[name].take(record), accounts)
        grades, self.torn = ({}, 0) if labels is not None else read_grades(path)
        self.right = Right(labels, grades)
        self.read = {
            name: read_instance(path, name, account, self.stored, self.right, self.said)
            for name, account in accounts.items()
        }


def read_run(path: Path, letter: str, labels: Labels | None) -> Report:
    """Read a run's directory and say all of it; time and memory grow with its logs. Raises BadRun, in one line.

    `labels` None: by the run's own grades, where there are any.
    """
    instances = Instances(path, labels)
    read, right, stored, said = instances.read, instances.right, instances.stored, instances.said
    recipe, election = Recipe.model_validate(said["recipe"]), "candidates" in said
    cases, units = [one.case for one in read.values()], [unit for one in read.values() for unit in one.units]
    failures, stages = Failures(), dict[Stage, Took]()
    for one in read.values():
        failures.take(one.case, one.selection, one.units)
        for stage, took in one.stages.items():
            stages[stage] = stages.get(stage, Took()) + took
    failures.grades(right)
    whole = sum(stages.values(), Took())
    told = {name: one for name, one in read.items() if one.case.right is not None and one.case.fate not in OPEN}
    resolved, judged = sum(case.resolved is True for case in cases), sum(case.resolved is not None for case in cases)
    low, high = probabilities.clopper_pearson(resolved, judged) if judged else (None, None)
    return Report(
        letter=letter,
        name=path.resolve().name,
        path=str(path),
        recipe=recipe.name,
        models=tuple(sorted({player(one) for model in said["model"].values() for one in str(model).splitlines()})),
        trajectories=recipe.trajectories,
        election=election,
        cases=tuple(cases),
        labels="nothing" if not right else "grades" if labels is None else "labels",
        low=low,
        high=high,
        pool=pool(told),
        curve=curve(
            {name: one.known for name, one in told.items() if name in stored.evidence or not one.selection.entries},
            stored.evidence,
            stored.recipe,
        ),
        took=whole,
        stages={stage: stages[stage] for stage in STAGES if stage in stages},
        slowest=_most(units, lambda unit: unit.took.seconds),
        dearest=_most(units, lambda unit: unit.took.calls.cost),
        units=len(units),
        clusters=failures.clusters(),
        disagreements=tuple(right.disagreements),
        notes=tuple(_notes(cases, whole, right, instances.torn)),
    )


def read_instance(
    path: Path, name: str, account: Account, stored: Stored, right: Right, said: Mapping[str, Mapping[str, Any]]
) -> Read:
    """An instance, by what `account` and `stored` took of its log."""
    view, units, stages = read_view(path, name), account.units(), account.stages()
    if evidence := stored.evidence.get(name):
        selection = stored.decide(name, evidence, stored.recipe, sure=False)
        # With somebody to hold a run-off, what the ranking says of several finalists is no end.
        decided = not ("selector" in said["model"] and selection.reason.startswith("ranked: "))
    else:  # nobody proposed anything, or it is not that far, or the run is of before evidence was kept
        selection, decided = view.selection, False
    others = evidence.members() if evidence else []
    members = (
        others if "candidates" in said else _trajectories(units)
    )  # who writes tests in an election proposes nothing
    known = _labelled(name, selection, evidence, account.patches, right, members)
    case = _case(name, view, selection, known, right, decided, account.context)
    update = {
        "took": sum(stages.values(), Took()),
        "damaged": stored.damaged[name],
        "possibly_billed": account.possibly_billed,
    }
    return Read(case.model_copy(update=update), known, selection, units, stages)


_NOTHING = Selection(chosen=None, reason="")


class View(NamedTuple):
    """What a run wrote of an instance's end: for what its log does not say."""

    status: str = ""
    why: str = ""
    selection: Selection = _NOTHING


def read_view(path: Path, name: str) -> View:
    """Of an instance of the run at `path`. Empty where there is none that can be read: it can be made again, and all that
    counts is in the log."""
    try:
        said = json.loads((path / "views" / name / "selection.json").read_bytes())
        selection = Selection.model_validate(said["selection"]) if said.get("selection") else _NOTHING
        return View(str(said["status"]), str(said["why"]), selection)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return View()


def _trajectories(units: Sequence[Unit]) -> list[str]:
    """The numbers of the trajectories that have begun."""
    kinds = (*AGENTS, "testing")
    return sorted({unit.name.rpartition("-")[2] for unit in units if unit.stage in kinds}, key=lambda n: (len(n), n))


def _labelled(
    name: str,
    selection: Selection,
    evidence: Evidence | None,
    patches: Mapping[str, str],
    right: Right,
    members: Sequence[str],
) -> Known:
    """A candidate that could not take part, and of which nobody says that it is right, is not."""

    def origin(candidate: str) -> str:
        return evidence.origin(candidate) if evidence else candidate.rpartition("-")[2]

    labels: dict[str, bool | None] = {}
    for entry in selection.entries:
        cleaned = entry.candidate.patch.decode("utf-8", "surrogateescape")
        said = {one: right.of(name, (one, origin(one)), (patches.get(one, ""), cleaned)) for one in entry.proposers}
        alike = set(said.values()) - {None}
        labels |= {
            one: alike.copy().pop() if len(alike) == 1 else label for one, label in said.items()
        }  # it is one patch
    for one in selection.rejected:
        labels[one] = bool(right.of(name, (one, origin(one)), (patches.get(one, ""),)))
    found = dict.fromkeys(members, False)
    for one, label in labels.items():
        found[origin(one)] = found.get(origin(one), False) or bool(label)
    return Known(labels, found)


def _case(
    name: str,
    view: View,
    selection: Selection,
    known: Known,
    right: Right,
    decided: bool,
    context: Sequence[str] | None,
) -> Case:
    chosen = selection.chosen if view.status in ("", "patch") else None
    missed = tuple(file for file in right.gold_files(name) if context is not None and file not in context)
    resolved: bool | None = None
    fate: Fate
    if view.status == "failed":
        fate = "infrastructure"
    elif view.status == "stopped" or not (view.status or decided):
        fate = "unfinished"
    elif not right.says(name):
        fate = "not graded"
    else:
        said = [known.labels[one] for one in selection.entry(chosen).proposers] if chosen else [False]
        told = [label for label in said if label is not None]
        resolved = 2 * sum(told) > len(told) if told else None
        if resolved is None:
            fate = "not graded"
        elif resolved:
            fate = "resolved"
        elif any(known.labels.values()):
            fate = "not selected"
        elif not known.complete:
            fate = "not known"
        elif missed:
            fate = "files missed"
        else:
            fate = "no right candidate" if selection.entries else "no candidate"
    return Case(
        instance=name,
        fate=fate,
        status=view.status,
        why=brief(view.why or selection.reason),
        resolved=resolved,
        chosen=chosen,
        members=len(known.members),
        proposals=len(known.labels),
        candidates=len(selection.entries),
        votes=next((standing.votes for standing in selection.standings if standing.entry == chosen), None),
        tests=len(selection.table.generated) - len(selection.silent) if selection.table else 0,
        right=sum(known.members.values()) if right and known.complete else None,
        missed=missed,
    )


def _most(units: Iterable[Unit], by: Callable[[Unit], float]) -> tuple[Unit, ...]:
    """Those that took most, as far as they took anything."""
    found = nlargest(_MOST_UNITS, (unit for unit in units if by(unit) > 0), key=by)
    return tuple(unit.model_copy(update={"note": brief(unit.note)}) for unit in found)


def _notes(cases: Sequence[Case], took: Took, right: Right, torn: int) -> Iterator[str]:
    calls = took.calls
    if calls.recorded and not calls.calls:
        yield "The answers of all models are recorded: a demonstration of the machine, no resolve rate."
    elif calls.recorded:
        yield f"{calls.recorded:,} of {calls.recorded + calls.calls:,} answers are recorded; nothing was paid for these."
    if fates := [case for case in cases if case.fate == "infrastructure"]:
        yield f"{len(fates)} of {len(cases)} could not be worked on: no verdict on them; the same command tries them again."
    if fates := [case for case in cases if case.fate == "unfinished"]:
        yield f"{len(fates)} of {len(cases)} have come to no end yet."
    if right and (fates := [case for case in cases if case.fate == "not graded"]):
        yield f"{len(fates)} of {len(cases)} are not graded, or what is graded is not what is submitted."
    if right and (fates := [case for case in cases if case.right is None and case.fate not in OPEN]):
        yield f"Of {len(fates)} instances not all candidates have labels: they are in no curve, and in no figure on candidates."
    if right.disagreements:
        yield f"The two graders disagree on {len(right.disagreements)} patches; the harness is believed."
    if right.untold:
        yield f"{right.untold} gradings failed for the infrastructure: they are no verdict, and are tried again."
    if torn:
        yield f"{torn} damaged lines of grades.jsonl were passed over; runoff eval makes them again."
    if damaged := sum(case.damaged for case in cases):
        yield f"{damaged} damaged pieces of logs were passed over: what they held is missing here, unless it was made again."
    if calls.unknown:
        yield f"{calls.unknown:,} calls have a price that nobody knows: all dollars are without them."
    if billed := sum(case.possibly_billed for case in cases):
        yield f"{billed} requests have no reply on record: possibly billed, and not in any sum."
    if calls.cut_tokens:
        yield f"Answers that broke off took about {calls.cut_tokens:,} tokens (${calls.cut_cost:.2f}): possibly billed, and not in any sum."
    if took.asking is None:
        yield "This run was made before it was recorded how long models take: of time, only executions are known."


__all__ = ["Instances", "Report", "read_instance", "read_run", "read_view"]
