"""A run: one directory with everything that happened; the same command goes on with it after anything.

<out>/run.toml                  what was asked for, resolved, with versions
<out>/log/<instance>.jsonl      the event log: the one thing that matters
<out>/views/<instance>/         selection.json, instance.json, patch.diff; made from the log
<out>/preds.jsonl  report.html  (and patch.diff, selection.json where the run has one instance)
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import platform
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import tomli_w

from runoff import __version__
from runoff.agent.budget import Budget, Prices, parse_budget
from runoff.agent.log import Log, LogBroken, LogBusy
from runoff.agent.protocol import Model, ModelMisconfigured, Stopping, digest
from runoff.agent.secrets import Secrets
from runoff.agent.starts import Starts
from runoff.agent.step import Drift, World, priced, settled
from runoff.environments import EnvironmentFailed
from runoff.instance import BadTarget, Instance
from runoff.pipeline import Entrants, Models, Outcome, elect_among, solve
from runoff.recipe import BudgetRecipe, Recipe
from runoff.sandbox.protocol import Sandbox, SandboxError, StoreFull, Value

Status = Literal["patch", "none", "abstained", "budget", "stopped", "failed"]
EXIT = {"patch": 0, "none": 1, "budget": 4, "failed": 5, "abstained": 6, "stopped": 130}
"""Exit code of a run that ends so. Beside these: 2 usage, 3 something is missing."""


class BadRun(Exception):
    """The run directory cannot be used for this command."""


_SEAL = b"# sha256 of all above: "


def sealed(asked: Mapping[str, Any]) -> bytes:
    """What is asked for as run.toml has it, with a checksum."""
    text = tomli_w.dumps(asked).encode()
    return text + _SEAL + hashlib.sha256(text).hexdigest().encode() + b"\n"


def read_asked(run: Path) -> dict[str, Any]:
    """What run.toml says. Raises BadRun, in one line, if there is none or a byte of it has changed."""
    file = run / "run.toml"
    try:
        text, _, checksum = file.read_bytes().rpartition(_SEAL)
    except OSError:
        raise BadRun(f"{run} holds no run: there is no run.toml") from None
    if checksum.strip() != hashlib.sha256(text).hexdigest().encode():
        raise BadRun(f"{file} is damaged: what was asked for is not known")
    return tomllib.loads(text.decode())


def asked_for(run: Path) -> dict[str, Any]:
    """What run.toml says, as far as it is what this version writes. Raises BadRun, in one line."""
    said = read_asked(run)
    try:
        Recipe.model_validate(said["recipe"])
        return {"source": dict(said["source"]), "model": dict(said["model"])} | said
    except (KeyError, TypeError, ValueError):
        raise BadRun(f"{run / 'run.toml'} is none of this version of runoff: what was asked for is not known") from None


class Result(Value):
    """How an instance ended. `failed` and `stopped` are nobody's verdict: the same command tries again."""

    instance: str
    status: Status
    why: str = ""
    outcome: Outcome | None = None
    possibly_billed: int = 0
    damaged: int = 0
    setup: dict[str, Any] | None = None
    """How its repository was installed and what its own tests came to, where that was detected: `setups.Settled` as JSON."""


class Ledger(Value):
    """What a run's calls took, recorded answers apart; `unknown` calls have a price that nobody knows.

    A price that was not known when a call was made and is known now is applied now. `cut` is what answers that broke off
    came to, by an estimate: possibly billed, and not part of `cost`.
    """

    calls: int = 0
    recorded: int = 0
    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    reasoning: int = 0
    cost: float = 0.0
    cut_tokens: int = 0
    cut_cost: float = 0.0
    unknown: int = 0
    possibly_billed: int = 0

    def line(self) -> str:
        """For a terminal."""
        if not self.calls:
            return (
                f"cost: nothing was paid; {self.recorded} recorded answers"
                if self.recorded
                else "cost: nothing was asked"
            )
        unknown = f", and {self.unknown} calls at a price that nobody knows" if self.unknown else ""
        return f"cost: ${self.cost:.4f} for {self.calls} calls, {self.input + self.output:,} tokens{unknown}"


class RunDirectory:
    """Opened for one command; refuses a directory that holds another run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.remarks: list[str] = []
        """What a user should be told of it."""

    def open(
        self,
        instances: Sequence[Instance],
        recipe: Recipe,
        models: Models,
        sandbox: str,
        entrants: Mapping[str, Entrants] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """Write run.toml, or check that the one here says the same. Raises BadRun, in one line.

        `command`: the words after `runoff` that began it, for whoever wants to type them again.
        """
        asked = Secrets().redacted(_identity(instances, recipe, models))
        if entrants is not None:
            asked["candidates"] = {
                name: digest(pool.model_dump_json(exclude={"reliability"}), size=8) for name, pool in entrants.items()
            }
        file = self.path / "run.toml"
        if self.path.exists() and not self.path.is_dir():
            raise BadRun(f"{self.path} is a file; give another --out")
        if file.exists() and (known := self._known(file)) is not None:
            if differs := [part for part in asked if known.get(part) != asked[part]]:
                raise BadRun(
                    f"{self.path} holds a run with another {_named(differs[0], known, asked)}; give another --out"
                )
            return
        if (
            self.path.is_dir()
            and any(not path.name.startswith(".") and path.name != "issue.json" for path in self.path.iterdir())
            and not (self.path / "log").is_dir()
        ):
            raise BadRun(f"{self.path} is not empty and holds no run; give another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"runoff": __version__, "python": platform.python_version(), "sandbox": sandbox}
        if command:
            about |= {"command": Secrets().redacted(list(command)), "folder": str(Path.cwd())}
        write_whole(file, sealed(asked | {"about": about}))

    def _known(self, file: Path) -> dict[str, Any] | None:
        """What was asked for; None if that had been damaged since: it is moved away then, and to be written again."""
        try:
            return read_asked(self.path)
        except BadRun:
            names = (file.with_name(f"{file.name}.damaged{n}") for n in itertools.count(1))
            aside = next(name for name in names if not name.exists())
        file.rename(aside)
        self.remarks.append(f"{file} had been damaged: set aside as {aside.name}, and written again")
        return None

    def log(self, instance: str) -> Path:
        return self.path / "log" / f"{instance}.jsonl"

    def view(self, instance: str, name: str) -> Path:
        return self.path / "views" / instance / name


class Run:
    """Instances being solved together in one directory, under one budget."""

    def __init__(
        self,
        directory: RunDirectory,
        instances: Sequence[Instance],
        recipe: Recipe,
        models: Models,
        model: Model,
        sandbox: Sandbox,
        budget: Budget,
        *,
        restart_drifted: bool = False,
        interrupted: asyncio.Event | None = None,
        price_of: Callable[[str], Prices | None] = lambda model: None,
        entrants: Mapping[str, Entrants] | None = None,
        index: Path | None = None,
        at_once: int | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """`entrants`, by instance: candidates of others, among which to elect rather than to solve. `index` is the file of
        what is known of repositories (`runoff prepare`); None: nothing."""
        self.entrants = entrants
        self.directory, self.instances, self.recipe, self.models = directory, instances, recipe, models
        self.sandbox, self.budget = sandbox, budget
        self._interrupted = interrupted or asyncio.Event()
        self.worlds: dict[str, World] = {}
        self.stages: dict[str, str] = {}
        self.results: dict[str, Result] = {}
        self.changed: Callable[[], None] = lambda: None
        """Told whenever something happened: progress for people."""
        self.say: Callable[[str], None] = lambda text: None
        """Told what a user should know while it works."""
        self._price_of, self._index = price_of, index
        self._places = asyncio.Semaphore(at_once or len(instances))
        directory.open(instances, recipe, models, sandbox.name, entrants, command)
        starts = Starts()
        for instance in instances:
            log = Log(directory.log(instance.id))
            world = world_of(log, instance, recipe, model, sandbox, budget, starts, price_of)
            world.restart_drifted = restart_drifted
            world.changed = lambda *_: self.changed()
            self.worlds[instance.id] = world
            sandbox.refer(directory.log(instance.id))

    @property
    def stopping(self) -> bool:
        return self._interrupted.is_set()

    def stop(self) -> None:
        """Begin nothing new; what is paid for is still recorded."""
        self._interrupted.set()
        for world in self.worlds.values():
            world.stopping = True

    async def solve(self) -> list[Result]:
        """Solve all instances together, `at_once` of them: each holds its repository's files in memory. What befalls one
        does not stop another."""
        await settled(*map(self._placed, self.instances))
        return [self.results[instance.id] for instance in self.instances]

    async def close(self) -> None:
        """Write what is still to be written. Raises LogBroken if a log could not be."""
        async with AsyncExitStack() as stack:
            for world in self.worlds.values():
                stack.push_async_callback(world.close)

    def ledger(self, instance: str | None = None) -> Ledger:
        """Of the whole run, or of one instance."""
        worlds = self.worlds.values() if instance is None else [self.worlds[instance]]
        billed = sum(sum(world.log.possibly_billed.values()) for world in worlds)
        lines = (line for world in worlds for line in world.log.ledger)
        return totalled(lines, self._price_of).model_copy(update={"possibly_billed": billed})

    async def _placed(self, instance: Instance) -> None:
        async with self._places:
            await self._one(instance)

    async def _one(self, instance: Instance) -> None:
        pool = None if self.entrants is None else self.entrants[instance.id]

        def tell(stage: str) -> None:
            self._tell(instance.id, stage)

        world = self.worlds[instance.id]
        result = await attempt(world, instance, self.recipe, self.models, pool, tell, self._index)
        self.results[instance.id] = result
        self.sandbox.release(self.directory.log(instance.id))
        self._tell(instance.id, result.status)

    def _tell(self, instance: str, stage: str) -> None:
        self.stages[instance] = stage
        self.changed()


def world_of(
    log: Log,
    instance: Instance,
    recipe: Recipe,
    model: Model,
    sandbox: Sandbox,
    budget: Budget,
    starts: Starts,
    price_of: Callable[[str], Prices | None],
) -> World:
    """What an instance's effects act on, with what its log says was paid before counted."""
    caps = recipe.budgets or BudgetRecipe()
    world = World(log, instance.id, model, sandbox, _capped(caps.issue, "issue", within=budget))
    world.cap = lambda: _capped(caps.trajectory, "trajectory")
    world.reserve, world.starts = caps.reserve, starts
    world.count_back(price_of)
    return world


async def attempt(
    world: World,
    instance: Instance,
    recipe: Recipe,
    models: Models,
    entrants: Entrants | None,
    tell: Callable[[str], None],
    index: Path | None,
) -> Result:
    """How an instance ends, if now it does. Raises ModelMisconfigured, StoreFull, LogBroken: the same for every instance."""
    try:
        if entrants is None:
            outcome = await solve(world, instance, recipe, models, tell, index)
        else:
            outcome = await elect_among(world, instance, recipe, models, entrants, tell, index)
    except (ModelMisconfigured, StoreFull, LogBroken):
        raise
    except Stopping as error:
        result = Result(instance=instance.id, status="stopped", why=str(error))
    except (EnvironmentFailed, SandboxError, Drift, BadTarget, ValueError, OSError) as error:
        result = Result(instance=instance.id, status="failed", why=f"{_kind(error)}{error}")
    else:
        result = Result(instance=instance.id, status=_status(outcome), why=outcome.selection.reason, outcome=outcome)
    log = world.log
    about = {"possibly_billed": log.possibly_billed.total(), "damaged": len(log.damaged), "setup": world.setup}
    return result.model_copy(update=about)


def totalled(
    lines: Iterable[Mapping[str, Any]], price_of: Callable[[str], Prices | None] = lambda model: None
) -> Ledger:
    """What paid calls took together."""
    total: dict[str, Any] = dict.fromkeys(Ledger.model_fields, 0)
    for line in lines:
        if line["recorded"]:
            total["recorded"] += 1
            continue
        call = priced(dict(line), price_of)
        total["calls"] += 1
        for part, counted in call.usage:
            total[part] += counted
        total["cost"] += call.cost or 0.0
        total["unknown"] += call.cost is None
        if call.cut:
            total["cut_tokens"] += call.cut.usage.input + call.cut.usage.output
            total["cut_cost"] += call.cut.cost or 0.0
    return Ledger.model_validate(total)


def exit_code(results: Sequence[Result]) -> int:
    """0 if every instance has its patch; otherwise the gravest: failed, stopped, budget, none, abstained."""
    found = {result.status for result in results}
    return next((EXIT[status] for status in ("failed", "stopped", "budget", "none", "abstained") if status in found), 0)


def write_views(directory: RunDirectory, results: Sequence[Result], report: str) -> None:
    """Everything a run leaves beside its log; can be made again at any time."""
    predictions, secrets = [], Secrets()
    for result in results:
        outcome = result.outcome
        patch = (outcome.patch if outcome else None) or b""
        selection: dict[str, Any] = {"instance_id": result.instance, "status": result.status, "why": result.why}
        if outcome:
            selection |= {
                "selection": outcome.selection.model_dump(mode="json"),
                "context": outcome.context.model_dump(mode="json") if outcome.context else None,
            }
            selection["looks"] = [look.model_dump(mode="json") for look in outcome.looks]
            selection["samples"] = [_sample(sample.model_dump(mode="json")) for sample in outcome.samples]
        if result.setup:
            selection["setup"] = result.setup
        text = json.dumps(secrets.redacted(selection), indent=1, sort_keys=True).encode() + b"\n"
        places = [directory.view(result.instance, "")] + ([directory.path] if len(results) == 1 else [])
        if outcome:
            about = json.dumps(secrets.redacted(outcome.instance.model_dump(mode="json")), indent=1)
            write_whole(directory.view(result.instance, "instance.json"), about.encode() + b"\n")
        for place in places:
            write_whole(place / "selection.json", text)
            if patch:
                write_whole(place / "patch.diff", patch)
            else:
                (place / "patch.diff").unlink(missing_ok=True)
        # An infrastructure failure is never an empty patch; who abstains submits nothing, not a patch that is empty.
        if result.status in ("patch", "none"):
            predictions.append(
                {
                    "instance_id": result.instance,
                    "model_name_or_path": f"runoff-{__version__}",
                    "model_patch": patch.decode("utf-8", "surrogateescape"),
                }
            )
    lines = "".join(json.dumps(prediction) + "\n" for prediction in predictions)
    write_whole(directory.path / "preds.jsonl", lines.encode())
    by_id = {prediction["instance_id"]: prediction for prediction in predictions}
    write_whole(directory.path / "preds.json", json.dumps(by_id, indent=1).encode() + b"\n")
    write_whole(directory.path / "report.html", secrets.redact(report).encode("utf-8", "replace"))


def write_whole(path: Path, data: bytes) -> None:
    """All of it or nothing, whoever reads meanwhile and whatever is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _capped(caps: str | None, whose: str, within: Budget | None = None) -> Budget:
    how = {"whose": f"the {whose}'s budget", "remedy": f"raise budgets.{whose} to go on", "within": within}
    return parse_budget(caps, **how) if caps else Budget(within=within)


def _identity(instances: Sequence[Instance], recipe: Recipe, models: Models) -> dict[str, Any]:
    return {
        "issue": {
            instance.id: hashlib.blake2b(instance.statement.encode(), digest_size=8).hexdigest()
            for instance in instances
        },
        "source": {instance.id: instance.digest for instance in instances},
        "commands": {
            instance.id: {name: value for name in ("setup", "build", "test") if (value := getattr(instance, name))}
            for instance in instances
        },
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "model": dict(models),
    }


def _named(part: str, known: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Which part differs, down to the setting."""
    was, now = known.get(part), asked[part]
    while isinstance(was, dict) and isinstance(now, dict):
        key = next((key for key in [*now, *was] if was.get(key) != now.get(key)), None)
        if key is None or part == "issue":
            break
        part, was, now = f"{part}.{key}", was.get(key), now.get(key)
    return part if part == "issue" or isinstance(now, dict) else f"{part} ({was!r}, now {now!r})"


def _status(outcome: Outcome) -> Status:
    if outcome.selection.chosen:
        return "patch"
    if outcome.selection.confidence:
        return "abstained"
    ends = [ended.reason for sample in outcome.samples for ended in sample.ends]
    ends += [outcome.context.reason] if outcome.context else []
    if "budget" in ends:
        return "budget"
    if "error" in ends and not any(sample.edit.value for sample in outcome.samples):
        return "failed"
    return "none"


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample without the texts that stand elsewhere in the view: the patch and the test of a candidate."""
    for part in ("test", "edit"):
        if value := (sample[part] or {}).get("value"):
            sample[part]["value"] = {name: value[name] for name in ("id", "own_verdict") if name in value}
    return sample


def _kind(error: BaseException) -> str:
    return (
        "" if isinstance(error, EnvironmentFailed | SandboxError | Drift | BadTarget) else f"{type(error).__name__}: "
    )


__all__ = [
    "BadRun",
    "LogBusy",
    "Result",
    "Run",
    "RunDirectory",
    "asked_for",
    "exit_code",
    "read_asked",
    "sealed",
    "write_views",
]
