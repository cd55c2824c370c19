"""One run as the report compares it: the fate of every instance, what its candidates were worth, what it took, how it failed."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import computed_field

from runoff.measure import Labels
from runoff.recipe import Recipe
from runoff.replay import Stored, asked_for
from runoff.report import player
from runoff.reporting.accounts import AGENTS, STAGES, Account, Stage, Took, Unit
from runoff.reporting.labels import Disagreement, Right, read_grades
from runoff.sandbox.protocol import Value
from runoff.selection.elect import SelectionRecipe, rank
from runoff.selection.estimators import outcomes, probabilities, resampling, scores
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Cell, Selection

Fate = Literal[
    "infrastructure",
    "unfinished",
    "not graded",
    "files missed",
    "no candidate",
    "no right candidate",
    "not known",
    "not selected",
    "resolved",
]
"""Where an instance ended, or was lost, first to last; every instance has one, so their numbers add up.

`infrastructure`: it could not be worked on, which is no verdict. `unfinished`: it has come to no selection yet. `not graded`:
nobody has said whether what was submitted is right. `files missed`: no candidate is right, and the context lacked a file
that the fix changes. `no candidate`: none that could be used. `no right candidate`: there were some. `not known`: what was
submitted is wrong, and other candidates have no label, so a right one may have been there. `not selected`: one was.
"""
FATES: tuple[Fate, ...] = get_args(Fate)
OPEN: tuple[Fate, ...] = ("infrastructure", "unfinished", "not graded")
"""Those of which it is not known whether they are resolved."""

_DECIDED = 3_000
"""Subsets that are decided anew, at most, for the curve of one run."""
_DRAWS = 40
_KS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_MOST_UNITS = 10
_MOST_CLUSTERS = 12
_BRIEF = 160  # characters


class Case(Value):
    """An instance of a run."""

    instance: str
    fate: Fate
    status: str
    """As the run says: patch, none, abstained, budget, stopped or failed; empty: it has not ended."""
    why: str
    resolved: bool | None
    chosen: str | None
    """What is submitted."""
    members: int
    """Trajectories, or agents."""
    proposals: int
    candidates: int
    """Distinct ones that could be used."""
    votes: int | None
    """Generated tests that what is chosen passes; None: nothing is, or there is no table."""
    tests: int
    """Generated tests that vote."""
    right: int | None
    """Members whose candidate is right; None: not all have a label."""
    missed: tuple[str, ...] = ()
    """Files that the fix changes and the context lacked."""
    took: Took = Took()
    damaged: int = 0
    possibly_billed: int = 0


class Point(Value):
    """At k members an instance."""

    k: int
    coverage: float
    """pass@k: any of them is right."""
    best: float
    """best@k: what the run's own ranking submits of them, without its run-off, is right."""
    drawing: float
    """Standard error of `best` from having drawn some subsets and not all; if anything, too large."""


class Curve(Value):
    instances: int
    """Those that have as many members as four fifths of all have, each with all its candidates labelled."""
    points: tuple[Point, ...]


class Pool(Value):
    """What the pools of candidates are worth, of instances whose candidates all have labels. Shares of these."""

    instances: int
    mean: float
    """Resolved by a candidate drawn at random."""
    oracle: float
    """By a right one, wherever there is one."""
    selected: float
    gap: float | None
    """(selected − mean) / (oracle − mean)."""
    low: float | None
    high: float | None
    contested: int
    """Instances with right and wrong candidates."""
    picked: float
    """Of these, those that were picked right."""
    chance: float
    """Of these, those that a candidate drawn at random would resolve."""


class Cluster(Value):
    """Failures that read alike."""

    kind: str
    what: str
    """The text, with what differs from one to the next (numbers, names of files) left out."""
    count: int
    instances: int
    example: str
    """Where to look: an instance, and a trajectory or a test of it."""


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


class _Known(NamedTuple):
    """What labels say of an instance's candidates."""

    labels: dict[str, bool | None]
    """Of all that were proposed."""
    members: dict[str, bool]
    """Trajectory or agent → whether it has a right candidate; who has none at all has not."""

    @property
    def complete(self) -> bool:
        return None not in self.labels.values()


class Read(NamedTuple):
    """An instance, and what its figures are made of."""

    case: Case
    known: _Known
    selection: Selection
    units: list[Unit]
    stages: dict[Stage, Took]


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
    failures, stages = _Failures(), dict[Stage, Took]()
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
        pool=_pool(told),
        curve=_curve(
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
) -> _Known:
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
    return _Known(labels, found)


def _case(
    name: str,
    view: View,
    selection: Selection,
    known: _Known,
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
        why=_brief(view.why or selection.reason),
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


def _pool(told: Mapping[str, Read]) -> Pool | None:
    """None: there is no instance all of whose candidates have labels."""
    issues = list[outcomes.Graded]()
    for name, one in told.items():
        if one.known.labels:
            right = {candidate: bool(label) for candidate, label in one.known.labels.items()}
            given = one.selection.entry(one.case.chosen).proposers if one.case.chosen else ()
            issues.append(outcomes.Graded(issue=name, right=right, submitted=given))
    if not issues:
        return None
    contest, n = outcomes.contest(issues), len(issues)

    def recovered(drawn: Sequence[tuple[float, float, bool]]) -> float | None:
        selected, mean, oracle = map(sum, zip(*drawn, strict=True))
        return (selected - mean) / (oracle - mean) if oracle > mean else None

    gap = resampling.bootstrap([(one.selected, one.mean, one.oracle) for one in issues], recovered)
    return Pool(
        instances=n,
        mean=sum(one.mean for one in issues) / n,
        oracle=sum(one.oracle for one in issues) / n,
        selected=sum(one.selected for one in issues) / n,
        gap=gap.value,
        low=gap.low,
        high=gap.high,
        contested=sum(one.contested for one in issues),
        picked=contest.right,
        chance=contest.chance,
    )


def _curve(told: Mapping[str, _Known], evidence: Mapping[str, Evidence], recipe: SelectionRecipe) -> Curve | None:
    """By subsets, everything decided within each. None: there is one member, or nothing has labels."""
    sizes = sorted(len(one.members) for one in told.values())
    most = sizes[len(sizes) // 5] if sizes else 0
    pools = {name: one for name, one in told.items() if len(one.members) >= most}
    if most < 2:
        return None
    ks = sorted({k for k in _KS if k <= most} | {most})
    draws = max(2, min(_DRAWS, _DECIDED // (len(pools) * len(ks))))

    def covered(instance: str, drawn: tuple[str, ...]) -> float:
        return any(told[instance].members[member] for member in drawn)

    def resolved(instance: str, drawn: tuple[str, ...]) -> float:
        known = told[instance]
        if not covered(instance, drawn):
            return 0.0  # whatever is decided, nothing right can come of it
        part = evidence[instance].among({*drawn, *evidence[instance].outside()})
        chosen = rank(part, recipe)
        if chosen.chosen is None:
            return 0.0
        proposers = chosen.entry(chosen.chosen).proposers
        return sum(bool(known.labels[one]) for one in proposers) / len(proposers)

    points, members = [], {name: tuple(one.members) for name, one in pools.items()}
    for k in ks:
        coverage = scores.coverage([list(one.members.values()) for one in pools.values()], k)
        best, any_right = (resampling.resampled(members, k, rule, draws=draws) for rule in (resolved, covered))
        # The same subsets tell how lucky they were: what the ranking makes of coverage is estimated, coverage itself is exact.
        luck = coverage / any_right.value if any_right.value else 0.0
        points.append(Point(k=k, coverage=coverage, best=best.value * luck, drawing=best.drawing * luck))
    return Curve(instances=len(pools), points=tuple(points))


class _Failures:
    """Gathers what failed, by what it says."""

    def __init__(self) -> None:
        self._found = defaultdict[tuple[str, str], list[tuple[str, str]]](list)

    def take(self, case: Case, selection: Selection, units: Iterable[Unit]) -> None:
        if case.fate == "infrastructure":
            self._add("infrastructure", case.why, case.instance, "")
        for unit in units:
            if unit.reason == "error":
                self._add("infrastructure", f"{unit.stage}: {unit.note}", case.instance, unit.name)
            elif not unit.made and unit.reason != "under way":
                self._add(
                    "no result", f"{unit.stage}: {_ENDS.get(unit.reason, '')}{unit.note}", case.instance, unit.name
                )
        for candidate, why in selection.rejected.items():
            self._add("unusable candidate", why, case.instance, candidate)
        if table := selection.table:
            untold = [f"{row}/{test}" for row, cells in table.rows.items() for test in cells if cells[test] == _UNTOLD]
            untold += [f"base/{test}" for test, cell in table.base.items() if cell == _UNTOLD]
            untold += [f"{row}/control" for row, cell in table.control.items() if cell == _UNTOLD]
            untold += [f"{row}/repository" for row, lost in table.broken.items() if lost is None]
            for place in untold:
                self._add(
                    "a test could not tell", table.reasons.get(place, "no reason is on record"), case.instance, place
                )

    def grades(self, right: Right) -> None:
        for kind, why, instance, candidate in right.whys:
            self._add(kind, why, instance, candidate or "what was submitted")

    def clusters(self) -> tuple[Cluster, ...]:
        """The largest of each kind; the kinds in the order of what can be mended soonest."""
        found = [
            Cluster(
                kind=kind,
                what=what,
                count=len(places),
                instances=len({instance for instance, _ in places}),
                example=" ".join(filter(None, places[0])),
            )
            for (kind, what), places in self._found.items()
        ]
        found.sort(key=lambda one: (_KINDS.index(one.kind), -one.count, one.what))
        return tuple(one for kind in _KINDS for one in [one for one in found if one.kind == kind][:_MOST_CLUSTERS])

    def _add(self, kind: str, text: str, instance: str, where: str) -> None:
        self._found[kind, alike(text)].append((instance, where))


_UNTOLD: Cell = "could not tell"
_KINDS = (
    "infrastructure",
    "could not be graded",
    "unusable candidate",
    "a test could not tell",
    "no result",
    "graded wrong",
)
_ENDS = {"turns": "turns used up: ", "context": "context full: ", "budget": "budget spent: "}


def alike(text: str) -> str:
    """A failure's first line without what differs from one to the next: numbers, digests, paths, what stands in quotes."""
    line = next((line for line in text.split("\n") if line.strip()), "").strip()[:1000]
    line = re.sub(r"\b0x[0-9a-fA-F]+\b|\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\b", "…", line)
    line = re.sub(r"(?<![\w.])/?(?:[\w.@+-]+/)+[\w.@+-]*", "…/", line)
    line = re.sub(r"'[^']{1,200}'|\"[^\"]{1,200}\"|`[^`]{1,200}`", "‘…’", line)
    line = re.sub(r"\b(testing|editing|shell|tools|agent)-\d+\b", r"\1-n", line)
    return _brief(re.sub(r"\d+(?:[.,]\d+)*", "N", line)) or "no reason is on record"


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _BRIEF else line[: _BRIEF - 1] + "…"


def _most(units: Iterable[Unit], by: Callable[[Unit], float]) -> tuple[Unit, ...]:
    """Those that took most, as far as they took anything."""
    found = nlargest(_MOST_UNITS, (unit for unit in units if by(unit) > 0), key=by)
    return tuple(unit.model_copy(update={"note": _brief(unit.note)}) for unit in found)


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


__all__ = ["FATES", "Case", "Instances", "Report", "alike", "read_run"]
