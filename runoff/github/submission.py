"""What a run submits of one instance, read back from its directory: all that is published is said of this, and of nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from runoff.agent import log
from runoff.agent.edits.grammar import TAGS
from runoff.agent.environment import Language
from runoff.agent.told import turns
from runoff.github.address import IssueAddress
from runoff.github.proof import Proof, Recorded, decided_for, proven
from runoff.github.task import kept
from runoff.instance import Instance
from runoff.pipeline import Outcome
from runoff.recipe import Recipe
from runoff.report import Case, player
from runoff.run import BadRun, Ledger, Result, Status, asked_for, totalled
from runoff.sandbox.protocol import Value
from runoff.selection.protocol import Entry, Selection


class Submission(Value):
    run: str
    """The run's directory."""
    instance: Instance
    address: IssueAddress | None
    """Of the issue; None: it was given as a text."""
    title: str
    """The issue's, or its first line."""
    status: Status
    why: str
    selection: Selection
    models: dict[str, str]
    """Role → model; empty where none was asked."""
    recipe: Recipe
    election: bool
    """Whether the candidates are other agents'."""
    ledger: Ledger
    origins: dict[str, str]
    """Candidate or test → whose it is."""
    words: str = ""
    """What the model said of its change, beside the change."""
    proof: Proof | None = None

    @cached_property
    def entry(self) -> Entry | None:
        """What is submitted; or would have been, where the selection abstained."""
        return decided_for(self.selection)

    @property
    def submitted(self) -> bool:
        return self.status == "patch" and self.selection.chosen is not None

    @property
    def case(self) -> Case:
        """As the report's words for it take it."""
        outcome = Outcome(instance=self.instance, context=None, selection=self.selection)
        return Case(
            1, Result(instance=self.instance.id, status=self.status, why=self.why, outcome=outcome), self.instance
        )

    @property
    def players(self) -> list[str]:
        """Models, each once, without the addresses of servers."""
        return list(dict.fromkeys(name for several in self.models.values() for name in self.names(several)))

    @staticmethod
    def names(several: str) -> list[str]:
        """A role's models as they may be published."""
        return [re.sub(r"@https?://[^?\s]*", "", player(name)) for name in several.splitlines()]


def issue_of(run: Path, instance: str) -> tuple[IssueAddress, str] | None:
    """Where the issue is that a run is about, and its title; None: it was given as a text. Raises BadRun."""
    task = kept(run)
    return (task.address, task.title) if task and task.asked.id == instance else None


def title(statement: str) -> str:
    lines = (line.strip().lstrip("#").strip() for line in statement.splitlines())
    return next(filter(None, lines), "")


def read(run: Path, instance: str | None = None) -> Submission:
    """Raises BadRun, in one line: it is no run, has several instances, or has come to no end."""
    said = asked_for(run)
    names = sorted(said["source"])
    if instance is None and len(names) != 1:
        raise BadRun(
            f"{run} holds {len(names)} instances; name one with --instance: {', '.join(names[:5])}{' …' * (len(names) > 5)}"
        )
    name = instance or names[0]
    if name not in names:
        raise BadRun(f"{run} has no instance {name}; there are: {', '.join(names[:8])}")
    view = _view(run, name, "selection.json")
    made = _view(run, name, "instance.json")
    try:
        selection = Selection.model_validate(view["selection"])
        about = Instance.model_validate(made)
        status: Status = view["status"]
        why = str(view["why"])
        recipe = Recipe.model_validate(said["recipe"])
    except KeyError:
        raise BadRun(
            f"{name} has come to no selection in {run} ({view.get('status', '?')}): there is nothing to publish"
        ) from None
    except ValueError:
        raise BadRun(
            f"{run}: what it says of {name} is none of this version of runoff; the same command as before makes it again"
        ) from None
    _unchanged(run, name, selection)
    recorded, calls, theirs = Recorded(), list[log.Record](), list[log.Record]()
    origins: dict[str, str] = {}
    author = decided_for(selection)
    for record in log.read(run / "log" / f"{name}.jsonl"):
        recorded.take(record)
        if record["kind"] in ("ask", "refused") and "result" in record:
            calls.append(log.ledger_line(record))
        if record.get("t") == "selection" and record["kind"] == "once" and isinstance(record["result"], dict):
            origins = record["result"].get("origins") or origins
        if author and record.get("t") == author.id:
            theirs.append(record)
    language, issue = _language(selection), issue_of(run, name)
    return Submission(
        run=str(run),
        instance=about,
        address=issue[0] if issue else None,
        title=issue[1] if issue else title(about.statement),
        status=status,
        why=why,
        selection=selection,
        models=dict(said["model"]),
        recipe=recipe,
        election="candidates" in said,
        ledger=totalled(calls),
        origins=origins,
        words=_words(theirs, author.id) if author else "",
        proof=proven(recorded, selection, origins, language),
    )


def _view(run: Path, name: str, file: str) -> Mapping[str, Any]:
    path = run / "views" / name / file
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
    except OSError:
        if (run / "views" / name / "selection.json").is_file() or (run / "log" / f"{name}.jsonl").is_file():
            raise BadRun(f"{path} is not there; runoff retry {run} makes it, and pays nothing twice") from None
        raise BadRun(f"{name} has not been begun in {run}: there is nothing to publish") from None
    except ValueError:
        pass
    raise BadRun(f"{path} is damaged; runoff retry {run} makes it again, and pays nothing twice")


def _unchanged(run: Path, name: str, selection: Selection) -> None:
    """What is published is what was tested. Raises BadRun where somebody has changed the patch since."""
    if not selection.chosen:
        return
    try:
        found = (run / "views" / name / "patch.diff").read_bytes()
    except OSError:
        return
    if found != selection.entry(selection.chosen).candidate.patch:
        raise BadRun(
            f"{run / 'views' / name / 'patch.diff'} is not what the run decided for, so nothing that was tested speaks for it; "
            f"publish the branch with --branch and commit your own change on it, or runoff retry {run}"
        )


def _language(selection: Selection) -> Language:
    """Of the generated tests: all of a run are in one."""
    table = selection.table
    for script in [table.scripts.get(test, "") for test in table.base if test not in table.authors] if table else ():
        try:
            ast.parse(script)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "javascript"
    return "python"


_BLOCK = re.compile(
    rf"^<({'|'.join(map(re.escape, TAGS))})\b[^>\n]*>.*?(?:^</\1>|\Z)|^(`{{3,}}).*?(?:^\2`*\s*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_TAG = re.compile(r"^</?\w+[^>\n]*/?>$", re.MULTILINE)


def _words(records: list[log.Record], trajectory: str) -> str:
    """The last thing that the model said beside changes, tests and commands."""
    found = turns(records).get(trajectory, [])
    said = (
        re.sub(r"\n{3,}", "\n\n", _TAG.sub("", _BLOCK.sub("", turn.reply.text))).strip() for turn in reversed(found)
    )
    return next((text for text in said if len(text.split()) > 3), "")


__all__ = ["Submission", "read", "title"]
