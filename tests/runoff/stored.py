"""Run directories of known truth, written by the project's own log, steps and views: a model that answers at once, on a clock of its own.

Nothing is executed. What candidates, tests and verdicts say is drawn by a seed; who is right is known.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from runoff.agent.context import Context
from runoff.agent.editing import Candidate
from runoff.agent.log import Log
from runoff.agent.protocol import Call, Message, ModelUnreachable, Reply, Request, Sampling, Usage, digest
from runoff.agent.step import Ended, Run, Step, World, trajectory
from runoff.agent.testing import GeneratedTest
from runoff.grading.protocol import GRADES, Grade
from runoff.instance import Instance
from runoff.models import roles
from runoff.pipeline import Outcome, Sample
from runoff.recipe import Recipe
from runoff.run import Result, RunDirectory, read_asked, sealed, write_views
from runoff.sandbox.protocol import Execution, State
from runoff.selection.elect import EVIDENCE, concluded, decided, rank, runoff_of
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Cell, Entry, OutcomeTable, Score, Selection
from runoff.selection.runoff import Decision

PATCH = "diff --git a/src/core.py b/src/core.py\n--- a/src/core.py\n+++ b/src/core.py\n@@ -1 +1 @@\n-x = 0\n+x = {}\n"
GOLD = ("src/core.py",)


class Made(NamedTuple):
    """An instance, and what it is to come to."""

    rights: Sequence[bool | None]
    """Trajectory by trajectory: whether its candidate is right; None: it has none."""
    sees: bool = True
    """Whether the context holds the file that the fix changes."""
    failed: str = ""
    """Why it could not be worked on."""
    alone: bool = False
    """Whether all candidates look the same to the tests and the verifier, so that the first one is chosen."""


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class _Model:
    """Answers after a time that is drawn, for a price that follows from the tokens."""

    def __init__(self, clock: _Clock, chance: random.Random, price: float) -> None:
        self._clock, self._chance, self._price = clock, chance, price

    async def ask(self, call: Call) -> Reply:
        whole = self._chance.randint(6_000, 14_000)
        self._clock.now += self._chance.uniform(1, 20)
        used = Usage(
            input=whole, cached=int(whole * self._chance.uniform(0.4, 0.9)), output=self._chance.randint(200, 2000)
        )
        cost = self._price * (used.input - 0.9 * used.cached + 5 * used.output) / 1e6
        return Reply(text=f"answer to {call.trajectory} {call.path}", usage=used, cost=cost)


class _Sandbox:
    """Executes nothing and says that it took a while; the answer differs from run to run as real ones do."""

    name = "none"

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def find(self, digest: str) -> State | None:
        return None

    async def execute(self, *what: Any, **how: Any) -> Execution:
        late = self._chance.random() < 0.02
        return Execution(
            outcome="timed out" if late else "finished",
            exit_code=None if late else self._chance.choice([0, 2]),
            stdout=b"line\n" * self._chance.randint(1, 60),
            stderr=b"",
            seconds=60.0 if late else self._chance.uniform(0.2, 8),
            after=None,
        )


def store(
    path: Path,
    instances: Mapping[str, Made],
    *,
    seed: int = 1,
    price: float = 3.0,
    grades: bool = True,
    submitted_only: bool = False,
    gold: Sequence[str] = GOLD,
    recipe: Mapping[str, Any] = {},
    model: str = "openai/gpt-5",
) -> Path:
    """A run directory as `runoff solve` leaves it, and its grades as `runoff eval` does. Returns it."""
    chance = random.Random(seed)
    most = max(len(one.rights) for one in instances.values())
    whole = Recipe.model_validate({"trajectories": most, **recipe})
    names = roles([model])
    made = {name: Instance(id=name, source="/nowhere", statement="an issue\n", digest=f"d{name}") for name in instances}
    directory = RunDirectory(path)
    directory.open(list(made.values()), whole, names, "none")
    results, lines = list[Result](), list[Grade]()
    clock = _Clock()
    quick = mock.patch.multiple("os", fdatasync=lambda file: None, fsync=lambda file: None)  # nobody pulls the plug
    with mock.patch("runoff.agent.step.time", clock), quick:
        for name, wanted in instances.items():
            if wanted.failed:
                results.append(Result(instance=name, status="failed", why=wanted.failed))
                continue
            played = _play(directory.log(name), name, wanted, whole, _Model(clock, chance, price), chance)
            outcome = asyncio.run(played).model_copy(update={"instance": made[name]})
            selection = outcome.selection
            status = "patch" if selection.chosen else "none"
            results.append(Result(instance=name, status=status, why=selection.reason, outcome=outcome))
            lines += _graded(name, wanted, selection, outcome.samples, submitted_only, gold)
        write_views(directory, results, "")
    if grades:
        (path / GRADES).write_text("".join(line.model_dump_json() + "\n" for line in lines))
    return path


def copied(path: Path, first: str, names: Sequence[str]) -> None:
    """Make more instances of one that is there: logs do not say whose they are."""
    asked = read_asked(path)
    for name in names:
        shutil.copyfile(path / "log" / f"{first}.jsonl", path / "log" / f"{name}.jsonl")
        shutil.copytree(path / "views" / first, path / "views" / name)
    asked["source"] |= dict.fromkeys(names, "x")
    (path / "run.toml").write_bytes(sealed(asked))
    grades = [line for line in (path / GRADES).read_text().splitlines(True) if json.loads(line)["instance_id"] == first]
    with (path / GRADES).open("a") as file:
        for name in names:
            file.writelines(line.replace(f'"{first}"', f'"{name}"') for line in grades)


async def _play(log: Path, name: str, wanted: Made, recipe: Recipe, model: _Model, chance: random.Random) -> Outcome:
    world = World(Log(log), name, model, _Sandbox(chance))  # type: ignore[arg-type]
    state = State(layers=("base",))
    ask = Request("openai/gpt-5", Sampling(), Message("user", "an issue " * 40))

    async def context(step: Step) -> Ended[Context]:
        await step.ask("relevance1/ask", ask)
        await step.ask("ranking1/ranking", ask)
        return Ended(reason="done", value=Context(whole=("src/core.py",) if wanted.sees else ("src/other.py",)))

    async def turns(step: Step, least: int, most: int) -> None:
        for turn in range(1, chance.randint(least, most) + 1):
            here = step.scope(f"turn{turn}")
            await here.ask("ask", ask)
            await here.execute("run", Run(state=state, argv=("python", f"{step.trajectory} {turn}")))

    async def testing(step: Step) -> Ended[GeneratedTest]:
        await turns(step, 2, 4)
        if chance.random() < 0.15:
            return Ended(reason="turns", note=f"no script that fails on the base in {chance.randint(4, 6)} turns")
        return Ended(reason="done", value=GeneratedTest(id=step.trajectory, script=f"# {step.trajectory}\n", output=""))

    async def editing(step: Step, n: int, right: bool | None) -> Ended[Candidate]:
        await turns(step, 2, 6)
        if right is None:
            return Ended(reason="turns", note="no edit that could be made")
        patch = PATCH.format(f"{'right' if right else 'wrong'}_{n % 3}").encode()
        return Ended(reason="done", value=Candidate(id=step.trajectory, patch=patch))

    async def judging(step: Step, right: bool) -> Ended[Score]:
        await step.ask("verdict1/ask", ask)
        p = 0.5 if wanted.alone else chance.uniform(0.55, 1) if right else chance.uniform(0, 0.6)
        return Ended(reason="done", value=Score(p=p, how="log-probs"))

    try:
        shown = await trajectory(world, "context", Context, context)
        samples = list[Sample]()
        for n, right in enumerate(wanted.rights, 1):
            test = await trajectory(world, f"testing-{n}", GeneratedTest, testing)
            edit = await trajectory(
                world, f"editing-{n}", Candidate, lambda step, n=n, right=right: editing(step, n, right)
            )  # type: ignore[misc]
            samples.append(Sample(test=test, edit=edit))
        groups: dict[bytes, list[Candidate]] = {}
        for sample in samples:
            if sample.edit.value:
                groups.setdefault(sample.edit.value.patch, []).append(sample.edit.value)
        entries = tuple(
            Entry(id=same[0].id, candidate=same[0], proposers=tuple(one.id for one in same), changed_lines=2)
            for same in groups.values()
        )
        instance = Instance(id=name, source="", statement="", digest="")
        if not entries:
            nothing = Selection(chosen=None, reason="none: no candidate could be used")
            return Outcome(instance=instance, context=shown, samples=tuple(samples), selection=nothing)
        tests = tuple(sample.test.value.id for sample in samples if sample.test and sample.test.value)

        def cell(entry: Entry) -> Cell:
            if chance.random() < 0.02:
                return "could not tell"
            return "pass" if wanted.alone or (b"right" in entry.candidate.patch) == (chance.random() < 0.85) else "fail"

        rows = {entry.id: {test: cell(entry) for test in tests} for entry in entries}
        for entry in entries:
            for test in tests:
                await world.execute(Run(state=state, argv=("vote", entry.id, test)))
        table = OutcomeTable(
            generated=tests,
            base=dict.fromkeys(tests, "fail"),
            rows=rows,
            control={entry.id: "fail" for entry in entries},
            reasons={
                f"{entry}/{test}": f"no verdict within {chance.randint(30, 60)} seconds"
                for entry, cells in rows.items()
                for test, said in cells.items()
                if said == "could not tell"
            },
            same={test: (test,) for test in tests},
            scripts={test: f"# {test}\n" for test in tests},
        )
        scores = {}
        for entry in entries:
            right = b"right" in entry.candidate.patch
            told = await trajectory(world, f"verdict-{entry.id}", Score, lambda step, right=right: judging(step, right))  # type: ignore[misc]
            scores[entry.id] = told.value or Score(p=None)
        origins = {one: one.rpartition("-")[2] for one in (*tests, *(p for entry in entries for p in entry.proposers))}
        evidence = Evidence(entries=entries, table=table, scores=scores, origins=origins)
        said = evidence.model_dump(mode="json", exclude_defaults=True)
        await Step(world, "selection").once(EVIDENCE + "x", lambda: asyncio.sleep(0, said))
        ranked, rounds = rank(evidence, recipe.selection), list[Ended[Decision]]()
        if len(ranked.finalists) > 1:

            async def deciding(step: Step) -> Ended[Decision]:
                await step.ask("turn1/ask", ask)
                first = ranked.finalists[0]
                return Ended(reason="done", value=Decision(chosen=first, why="It is right.", letters={}, tests=0))

            rounds.append(await trajectory(world, runoff_of(ranked.finalists), Decision, deciding))
        selection = concluded(decided(ranked, rounds), evidence, recipe.selection, rounds)
        return Outcome(instance=instance, context=shown, samples=tuple(samples), selection=selection)
    finally:
        await world.close()


async def broken(log: Path, name: str, why: str) -> None:
    """A trajectory more, that its model's provider failed."""
    world = World(Log(log), name, _Unreachable(why), _Sandbox(random.Random(0)))  # type: ignore[arg-type]

    async def asks(step: Step) -> Ended[Candidate]:
        await step.ask("turn1/ask", Request("m", Sampling(), Message("user", "go")))
        raise AssertionError

    await trajectory(world, "editing-99", Candidate, asks)
    await world.close()


class _Unreachable:
    def __init__(self, why: str) -> None:
        self._why = why

    async def ask(self, call: Call) -> Reply:
        raise ModelUnreachable(self._why)


def _graded(
    name: str, wanted: Made, selection: Selection, samples: Sequence[Sample], submitted_only: bool, gold: Sequence[str]
) -> list[Grade]:
    found = [sample.edit.value for sample in samples if sample.edit.value]
    patches = {} if submitted_only else {one.id: one.patch.decode() for one in found}
    submitted = selection.entry(selection.chosen).candidate.patch.decode() if selection.chosen else ""
    return [
        Grade(
            instance_id=name,
            candidate=candidate,
            patch=digest(patch) if patch else "",
            grader="fast",
            resolved="right" in patch,
            why="" if "right" in patch else "2 of 14 tests fail" if patch else "empty",
            gold_files=tuple(gold),
        )
        for candidate, patch in {**patches, "": submitted}.items()
    ]
