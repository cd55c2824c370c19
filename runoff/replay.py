"""`runoff replay` and `runoff verify`: a stored run decided again, by its own rule or any other. Nothing is asked or executed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from runoff import ablation, calibration, measure
from runoff import figures as figures_of
from runoff.agent import log
from runoff.agent.step import Ended
from runoff.commands import confidence
from runoff.pipeline import election
from runoff.recipe import Recipe, read_calibration
from runoff.run import BadRun, asked_for, totalled, write_whole
from runoff.sandbox.protocol import Value
from runoff.selection.elect import EVIDENCE, SelectionRecipe, concluded, decided, rank, runoff_of
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Confidence, Selection
from runoff.selection.rankings import RANKINGS
from runoff.selection.runoff import Decision

_ENDED: TypeAdapter[Ended[Decision]] = TypeAdapter(Ended[Decision])

AS_RUN = "as run"


class Stored:
    """What a run directory says of its selections: the recipe's, and for each instance the evidence and the run-offs."""

    def __init__(
        self,
        path: Path,
        told: Callable[[str, log.Record], None] = lambda name, record: None,
        only: Collection[str] | None = None,
    ) -> None:
        """`told` hears of every record of every instance's log, in order: all are read once; or only these instances'.

        Raises BadRun, in one line.
        """
        said = asked_for(path)
        self.recipe = Recipe.model_validate(said["recipe"]).selection
        if "candidates" in said:  # an election
            self.recipe = election(self.recipe, with_models=bool(said["model"]))
        self.read = [path / "run.toml"]
        self.damaged = Counter[str]()
        """Instance → damaged pieces of its log."""
        self.calls: list[dict[str, Any]] = []
        """What the ledger says of each paid call."""
        self.evidence: dict[str, Evidence] = {}
        self._runoffs: dict[str, dict[str, Ended[Decision]]] = {}
        for name in sorted(said["source"] if only is None else only):
            of = path / "log" / f"{name}.jsonl"
            if of.is_file():
                self.read.append(of)
                self.take(name, _heard(name, log.read(of, partial(_count, self.damaged, name)), told))

    def take(self, name: str, records: Iterable[log.Record]) -> None:
        """An instance from its log's records in order: whoever comes later stands in the place of what was before."""
        evidence, ends = None, dict[str, Any]()
        for record in records:
            of = record.get("t", "")
            if record["kind"] in ("ask", "refused") and "result" in record:
                self.calls.append(log.ledger_line(record))
            if of == "selection" and record.get("path", "").startswith(EVIDENCE):
                evidence = record["result"]
            elif of.startswith("run-off-"):
                if record["kind"] == "end":
                    ends[of] = record["result"]
                elif record["kind"] == "stopped":
                    ends[of] = {"reason": record["reason"], "note": record["why"]}
                elif record["kind"] == "set aside":
                    ends.pop(of, None)
        if evidence is not None:
            self.evidence[name] = Evidence.model_validate(evidence)
            self._runoffs[name] = {of: _ENDED.validate_python(end) for of, end in ends.items()}

    def decide(self, name: str, evidence: Evidence, recipe: SelectionRecipe, *, sure: bool = True) -> Selection:
        """As the run would with this recipe: a run-off among the same finalists is on record, another cannot be held.

        `sure`: say how sure it is, which takes the ranking once more for each single thing it may hang on. Without, that is
        done only where something may be abstained from for it.
        """
        ranked, rounds = rank(evidence, recipe), list[Ended[Decision]]()
        if len(ranked.finalists) > 1:
            names = [runoff_of(ranked.finalists, n + 1) for n in range(recipe.runoff.repeats or 1)]
            rounds = list(takewhile(bool, map(self._runoffs[name].get, names)))  # type: ignore[arg-type]
        selection = decided(ranked, rounds)
        return concluded(selection, evidence, recipe, rounds) if sure or recipe.calibration else selection


def _count(damaged: Counter[str], name: str, part: bytes) -> None:
    damaged[name] += 1


def _heard(name: str, records: Iterable[log.Record], told: Callable[[str, log.Record], None]) -> Iterator[log.Record]:
    for record in records:
        told(name, record)
        yield record


class Redecided(Value):
    """What each rule makes of an issue."""

    instance: str
    members: int
    candidates: int
    """Distinct ones."""
    chosen: dict[str, str | None]
    """Rule → the entry; None: nothing is submitted."""
    confidence: Confidence | None
    """By the run's own rule."""


class Stores:
    """Several runs as one pool of issues, each decided by its own run's recipe or by another ranking."""

    def __init__(self, runs: Sequence[Path], update: Mapping[str, Any], first: int | None, draw: int | None) -> None:
        """`update`: settings of the selection to decide by in place of the runs' own. Raises BadRun, BadRecipe."""
        self._of = dict[str, Stored]()
        for run in runs:
            stored = Stored(run)
            if not stored.evidence:
                raise BadRun(f"{run} has come to no selection yet: there is nothing to decide again")
            if twice := self._of.keys() & stored.evidence.keys():
                raise BadRun(f"{min(twice)} is in more than one of these runs: which of them is meant?")
            stored.recipe = asked(stored.recipe, update)
            self._of |= dict.fromkeys(stored.evidence, stored)
        self.cost = totalled(line for of in {id(of): of for of in self._of.values()}.values() for line in of.calls)
        self.evidence = {name: _subset(of.evidence[name], first, draw) for name, of in self._of.items()}

    @property
    def ranking(self) -> str:
        """The runs' own."""
        return ", ".join(sorted({of.recipe.ranking or "margin" for of in self._of.values()}))

    def decide(self, name: str, rule: str) -> Selection:
        """By a rule's name, `as run` for the run's own: only that has run-offs on record."""
        of, evidence = self._of[name], self.evidence[name]
        if rule == AS_RUN:
            return of.decide(name, evidence, of.recipe)
        recipe = self.recipe(name, rule)
        ranked = rank(evidence, recipe)
        return concluded(ranked, evidence, recipe) if recipe.calibration else ranked

    def recipe(self, name: str, rule: str) -> SelectionRecipe:
        own = self._of[name].recipe
        return own if rule == AS_RUN else own.model_copy(update={"ranking": rule})


def replay_command(
    runs: Sequence[Path],
    rules: Sequence[str],
    first: int | None,
    draw: int | None,
    labels: Path | None,
    calibrate: Path | None,
    figures: Path | None,
    as_json: bool,
    **sure: Any,
) -> int:
    """A line an instance and rule; with labels a line a rule: what it resolves. Raises BadRun, UnknownRanking."""
    if (calibrate or figures) and not labels:
        raise BadRun(
            f"--{'calibrate' if calibrate else 'figures'} takes --labels FILE: what is right is known by labels alone"
        )
    if figures:
        figures_of.check()
    if calibrate and any(sure.values()):
        raise BadRun("--calibrate fits a calibration: it takes no other, and abstains from nothing")
    update = {"calibration": None, "abstain_below": None, "precision": None} if calibrate else settings_of(sure)
    stores = Stores(runs, update, first, draw)
    names = [AS_RUN, *(rules or RANKINGS)]
    chosen = {rule: {name: stores.decide(name, rule) for name in stores.evidence} for rule in names}
    ablated = ablation.ablated(stores.evidence, names[1:], stores.recipe) if labels else {}
    if labels:  # opened when everything is decided
        return _measured(stores, chosen, ablated, measure.read_labels(labels), calibrate, figures, as_json)
    found = [
        Redecided(
            instance=name,
            members=len(one.members()),
            candidates=len(one.entries),
            chosen={rule: selections[name].chosen for rule, selections in chosen.items()},
            confidence=chosen[AS_RUN][name].confidence,
        )
        for name, one in stores.evidence.items()
    ]
    if as_json:
        click.echo(json.dumps([row.model_dump(mode="json") for row in found], indent=1))
        return 0
    for row in found:
        click.echo(f"{row.instance}: {row.candidates} distinct candidates of {row.members}")
        for rule, choice in row.chosen.items():
            selection = chosen[rule][row.instance]
            click.echo(f"  {rule:12} {choice or selection.reason}")
        if row.confidence:
            click.echo(f"  {confidence(row.confidence)}")
    return 0


def _measured(
    stores: Stores,
    chosen: Mapping[str, Mapping[str, Selection]],
    ablated: ablation.Choices,
    labels: measure.Labels,
    calibrate: Path | None,
    figures: Path | None,
    as_json: bool,
) -> int:
    evidence, own = stores.evidence, chosen[AS_RUN]
    rows = [measure.measured(rule, evidence, selections, labels) for rule, selections in chosen.items()]
    worth = measure.worth(evidence, labels)
    rows[0] = rows[0].model_copy(update={"verifier": worth})  # `as run`
    shares = ablation.shares(evidence, chosen, ablated, labels)
    if as_json:
        told = [
            row.model_dump() | {"ablation": [one.model_dump() for one in shares if one.rule == row.rule]}
            for row in rows
        ]
        click.echo(json.dumps(told, indent=1))
    else:
        told_of = measure.worth_lines(worth) if worth else ""
        parts = [measure.table(rows), told_of, ablation.table(shares), stores.cost.line()]
        click.echo("\n".join(filter(None, parts)))
    judged = measure.judged(evidence, own, labels)
    if calibrate:
        fitted = calibration.fitted(evidence, own, labels, stores.ranking)
        write_whole(calibrate, fitted.model_dump_json(indent=1).encode() + b"\n")
        judged = list(fitted.judged)
        click.echo(f"{calibrate}: {calibration.quality(fitted)}", err=as_json)
    elif judged and not as_json:
        click.echo(f"as run, {calibration.quality_of(judged)}")
    if figures:
        pages = figures_of.draw(figures, figures_of.Shown(rows, shares, judged, evidence, own, labels), stores.recipe)
        click.echo(f"figures: {pages}", err=as_json)
    return 0


def verify_command(run: Path) -> int:
    """Decide again from the log and compare with what the run submitted, the patch byte for byte; say every file that was read.

    What a view of an earlier version does not hold counts as what it was then: not asked for.
    """
    stored = Stored(run)
    if not stored.evidence:
        raise BadRun(f"{run} has come to no selection yet: there is nothing to verify")
    wrong = 0
    for name, evidence in stored.evidence.items():
        selection = stored.decide(name, evidence, stored.recipe)
        view = run / "views" / name / "selection.json"
        try:
            said = Selection.model_validate(json.loads(view.read_text())["selection"])
        except (OSError, ValueError, KeyError):
            raise BadRun(f"{view} cannot be read; the same command as before makes it again") from None
        if said.confidence is None and selection.chosen == said.chosen:  # written before there was one
            selection = selection.model_copy(update={"confidence": None})
        same = said == selection
        patch = run / "views" / name / "patch.diff"
        submitted = patch.read_bytes() if patch.is_file() else b""
        same &= submitted == (selection.entry(selection.chosen).candidate.patch if selection.chosen else b"")
        wrong += not same
        click.echo(f"{name}: {'the same' if same else 'NOT the same'}: {selection.chosen or 'none'}")
    click.echo("read for it: " + ", ".join(map(str, stored.read)))
    return 1 if wrong else 0


def _subset(evidence: Evidence, first: int | None, draw: int | None) -> Evidence:
    """With the first so many members alone, or as many drawn by a seed."""
    if first is None:
        return evidence
    members = evidence.members()
    if draw is not None:
        random.Random(draw).shuffle(members)
    return evidence.among(set(members[:first]) | evidence.outside())


def settings_of(sure: Mapping[str, Any]) -> dict[str, Any]:
    """What of --calibration, --abstain-below and --precision was given, as settings of the selection. Raises BadRecipe."""
    given = {name: value for name, value in sure.items() if value is not None}
    return given | ({"calibration": read_calibration(file)} if (file := given.get("calibration")) else {})


def asked(recipe: SelectionRecipe, update: Mapping[str, Any]) -> SelectionRecipe:
    """Raises BadRun where the settings cannot go together."""
    try:
        return SelectionRecipe.model_validate(recipe.model_dump() | dict(update))
    except ValidationError as error:
        raise BadRun(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None
