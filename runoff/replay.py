"""`runoff replay` and `runoff verify`: a stored run decided again, by its own rule or any other. Nothing is asked or executed."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter

from runoff import measure
from runoff.agent import log
from runoff.agent.step import Ended
from runoff.pipeline import election
from runoff.recipe import Recipe
from runoff.run import BadRun
from runoff.selection.elect import EVIDENCE, SelectionRecipe, decided, rank, runoff_of
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Selection
from runoff.selection.rankings import RANKINGS
from runoff.selection.runoff import Decision

_ENDED: TypeAdapter[Ended[Decision]] = TypeAdapter(Ended[Decision])


class Stored:
    """What a run directory says of its selections: the recipe's, and for each instance the evidence and the run-offs."""

    def __init__(self, path: Path) -> None:
        """Raises BadRun, in one line."""
        file = path / "run.toml"
        try:
            said = tomllib.loads(file.read_text())
        except OSError:
            raise BadRun(f"{path} holds no run: there is no run.toml") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise BadRun(f"{file} is damaged: what was asked for is not known") from None
        self.recipe = Recipe.model_validate(said["recipe"]).selection
        if "candidates" in said:  # an election
            self.recipe = election(self.recipe, with_models=bool(said["model"]))
        self.read = [file]
        self.evidence: dict[str, Evidence] = {}
        self._runoffs: dict[str, dict[str, Ended[Decision]]] = {}
        for name in sorted(said["source"]):
            of = path / "log" / f"{name}.jsonl"
            if of.is_file():
                self.read.append(of)
                self._take(name, of)

    def _take(self, name: str, file: Path) -> None:
        """From the log's records in order: whoever comes later stands in the place of what was before."""
        evidence, ends = None, dict[str, Any]()
        for record in log.read(file):
            of = record.get("t", "")
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

    def decide(self, name: str, evidence: Evidence, recipe: SelectionRecipe) -> Selection:
        """As the run would with this recipe: a run-off among the same finalists is on record, another cannot be held."""
        ranked = rank(evidence, recipe)
        if len(ranked.finalists) < 2:
            return ranked
        names = [runoff_of(ranked.finalists, n + 1) for n in range(recipe.runoff.repeats or 1)]
        return decided(ranked, list(takewhile(bool, map(self._runoffs[name].get, names))))  # type: ignore[arg-type]


def replay_command(
    run: Path, rules: Sequence[str], first: int | None, draw: int | None, labels: Path | None, as_json: bool
) -> int:
    """A line an instance and rule; with labels a line a rule: what it resolves. Raises BadRun, UnknownRanking."""
    stored = Stored(run)
    if not stored.evidence:
        raise BadRun(f"{run} has come to no selection yet: there is nothing to decide again")
    recipes = {"as run": stored.recipe} | {
        rule: stored.recipe.model_copy(update={"ranking": rule}) for rule in (rules or RANKINGS)
    }
    evidence = {name: _subset(whole, first, draw) for name, whole in stored.evidence.items()}
    chosen = {
        rule: {
            name: stored.decide(name, one, recipe) if rule == "as run" else rank(one, recipe)
            for name, one in evidence.items()
        }
        for rule, recipe in recipes.items()
    }
    if labels:  # opened when everything is decided
        known = measure.read_labels(labels)
        rows = [measure.measured(rule, evidence, selections, known) for rule, selections in chosen.items()]
        worth = measure.worth(evidence, known)
        rows[0] = rows[0].model_copy(update={"verifier": worth})  # `as run`
        click.echo(json.dumps([row.model_dump() for row in rows], indent=1) if as_json else measure.table(rows))
        if worth and not as_json:
            click.echo(measure.worth_lines(worth))
        return 0
    found = [
        {
            "instance": name,
            "members": len(one.members()),
            "candidates": len(one.entries),
            "chosen": {rule: selections[name].chosen for rule, selections in chosen.items()},
        }
        for name, one in evidence.items()
    ]
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return 0
    for row in found:
        click.echo(f"{row['instance']}: {row['candidates']} distinct candidates of {row['members']}")
        for rule, choice in row["chosen"].items():  # type: ignore[attr-defined]
            click.echo(f"  {rule:12} {choice or 'none'}")
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
    return evidence.among(set(members[:first]))
