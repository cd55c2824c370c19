"""Runs that have decided, written by the project's own log, steps, rankings and views: nothing is executed and no model asked.

The repository and its commits are real, so what is published of such a run is, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.log import Log
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Step, World, trajectory
from runoff.agent.verdict import nonce, script_run
from runoff.github.address import IssueAddress
from runoff.instance import Instance
from runoff.pipeline import Outcome
from runoff.recipe import Recipe
from runoff.run import Result, RunDirectory, write_views
from runoff.sandbox.protocol import Execution, State
from runoff.selection.elect import EVIDENCE, SelectionRecipe, concluded, rank
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Cell, Entry, OutcomeTable, Score
from tests.runoff.project import EDIT, ISSUE, TEST, make

SCRIPT = TEST.removeprefix("<test>\n").removesuffix("\n</test>") + "\n"
WORDS = "Dividing by the length fails for an empty list, so I return 0 there."
OUTPUTS = {"base": "mean([]): division by zero\n", "patch": "[0, 2.0] expected [0, 2]\n"}
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
DATE = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}


def repository(folder: Path, files: Mapping[str, str] = {}) -> tuple[Path, str]:
    """The tiny project with a bug, and its only commit."""
    place = make(folder, files)
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "base"]):
        subprocess.run([*GIT, "-C", place, *command], check=True, env=_environment())
    return place, git(place, "rev-parse", "HEAD")


def git(place: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", place, *words], check=True, capture_output=True, text=True).stdout.strip()


def patch_of(place: Path, old: str = "len(values)\n", new: str = "len(values) if values else 0\n") -> bytes:
    """The change of the project's file, as git prints it; the work tree is left as it was."""
    file = place / "numbers_.py"
    before = file.read_text()
    file.write_text(before.replace(old, new))
    try:
        return subprocess.run(["git", "-C", place, "diff"], check=True, capture_output=True).stdout
    finally:
        file.write_text(before)


def decided(
    out: Path,
    place: Path,
    commit: str | None,
    *,
    statement: str = ISSUE,
    title: str = "mean([]) crashes",
    address: IssueAddress | None = None,
    patch: bytes | None = None,
    script: str = SCRIPT,
    outputs: Mapping[str, str] = OUTPUTS,
    words: str = WORDS,
    status: str = "patch",
    kept: bool = True,
    cells: Mapping[str, Cell] | None = None,
    model: str = "openai/any",
) -> Path:
    """A run of one instance with two candidates, of which the first is right. `kept`: the runs of the test are on record."""
    name = address.id if address else place.name
    instance = Instance(
        id=name,
        source=str(place),
        statement=statement,
        commit=commit,
        digest=commit or "0" * 40,
        test="python -m pytest",
    )
    recipe = Recipe(trajectories=2, selection=SelectionRecipe())
    models = dict.fromkeys(("relevance", "ranker", "tester", "editor", "verifier", "selector"), model)
    directory = RunDirectory(out)
    directory.open([instance], recipe, models, "fake", command=("solve", str(place)))
    if address:
        _keep_issue(out, address, title, statement, commit or "")
    right = patch_of(place) if patch is None else patch
    wrong = patch_of(place, new="len(values) if len(values) > 1 else 0\n")
    outcome = asyncio.run(
        _decide(directory.log(name), instance, right, wrong, script, outputs, words, kept, cells, recipe)
    )
    selection = outcome.selection
    if status == "abstained":
        sure = selection.confidence
        assert sure
        why = "abstained: P(right) 0.31 is below 0.60; it would have been editing-1"
        update: dict[str, Any] = {"chosen": None, "reason": why}
        update["confidence"] = sure.model_copy(
            update={"p": 0.31, "how": "calibrated on 40 issues", "withheld": selection.reason}
        )
        selection = selection.model_copy(update=update)
    elif status == "none":
        selection = selection.model_copy(
            update={"chosen": None, "reason": "none: every candidate passes a test that none may pass"}
        )
    outcome = outcome.model_copy(update={"selection": selection})
    write_views(directory, [Result(instance=name, status=status, why=selection.reason, outcome=outcome)], "a page")  # type: ignore[arg-type]
    return out


async def _decide(
    log: Path,
    instance: Instance,
    right: bytes,
    wrong: bytes,
    script: str,
    outputs: Mapping[str, str],
    words: str,
    kept: bool,
    cells: Mapping[str, Cell] | None,
    recipe: Recipe,
) -> Outcome:
    world = World(Log(log), instance.id, Scripted([f"{words}\n{EDIT}"] * 9), _Says(outputs))  # type: ignore[arg-type]
    try:
        base, after = State(layers=("base",)), State(layers=("after", "base"))
        world.note("environment base", base)
        name = hashlib.blake2b(right, digest_size=16).hexdigest()
        world.note(f"base apply {name}", after)
        for state in (base, after) if kept else ():
            await world.execute(script_run(world, state, script, seconds=60, env={}, language="python"))

        async def edits(step: Step) -> Ended[Candidate]:
            await step.ask("turn1/ask", Request("m", Sampling(), Message("user", "change it")))
            return Ended(reason="done", value=Candidate(id=step.trajectory, patch=right))

        await trajectory(world, "editing-1", Candidate, edits)
        entries = tuple(
            Entry(id=name, candidate=Candidate(id=name, patch=patch), proposers=(name,), changed_lines=2)
            for name, patch in (("editing-1", right), ("editing-2", wrong))
        )
        said = cells or {"editing-1": "pass", "editing-2": "fail"}
        table = OutcomeTable(
            generated=("testing-2",),
            base={"testing-2": "fail"},
            rows={name: {"testing-2": cell} for name, cell in said.items()},
            control=dict.fromkeys(said, "fail"),
            repository=("tests/test_mean.py::test_mean",),
            broken=dict.fromkeys(said, ()),
            scripts={"testing-2": script},
            same={"testing-2": ("testing-2",)},
        )
        scores = {"editing-1": Score(p=0.9), "editing-2": Score(p=0.4)}
        origins = {name: name.rpartition("-")[2] for name in ("editing-1", "editing-2", "testing-2")}
        evidence = Evidence(entries=entries, table=table, scores=scores, origins=origins)
        whole = evidence.model_dump(mode="json", exclude_defaults=True)
        await Step(world, "selection").once(EVIDENCE + "x", lambda: asyncio.sleep(0, whole))
        selection = concluded(rank(evidence, recipe.selection), evidence, recipe.selection)
        return Outcome(instance=instance, context=None, selection=selection)
    finally:
        await world.close()


class _Says:
    """A sandbox that says of the test what is wanted."""

    name = "fake"

    def __init__(self, outputs: Mapping[str, str]) -> None:
        self._outputs = outputs

    def find(self, digest: str) -> None:
        return None

    async def execute(self, state: State, *what: object, stdin: bytes = b"", **how: object) -> Execution:
        where = "patch" if state.digest == "after" else "base"
        verdict = {
            "verdict": "fixed" if where == "patch" else "not fixed",
            "why": f"exit code {0 if where == 'patch' else 2}",
        }
        record = f"\n{json.loads(stdin)['nonce']} {json.dumps(verdict)}\n"
        stdout = self._outputs[where].encode("utf-8", "surrogateescape") + record.encode()
        return Execution(outcome="finished", exit_code=0, stdout=stdout, stderr=b"", seconds=0.1, after=None)


def _keep_issue(out: Path, address: IssueAddress, title: str, statement: str, commit: str) -> None:
    from runoff.github.client import Repository
    from runoff.github.task import KEPT, Task

    where = Repository(id=1, full_name=address.slug, default_branch="main", html_url=f"{address.base}/{address.slug}")
    task = Task(
        asked=address,
        address=address,
        repository=where,
        title=title,
        state="open",
        which="auto",
        commit=commit,
        why="",
        statement=statement,
        read_at="2026-11-26T12:00:00Z",  # type: ignore[arg-type]
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / KEPT).write_text(json.dumps(task.model_dump(mode="json")))


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, **DATE}


__all__ = ["GIT", "decided", "git", "nonce", "patch_of", "repository"]
