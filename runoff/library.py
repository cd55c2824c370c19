"""runoff from Python: what the commands `solve`, `elect` and `bench` do, with typed results.

Nothing here prints, ends the process or handles a signal. A cancelled call leaves no process, mount or lock behind (what git is
fetching of an issue's repository still comes), and the same call goes on with what is on record in its run directory, as the command does.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast, overload

import click

from runoff.batch.command import bench_request
from runoff.commands import run_attended, solve_request
from runoff.election import elect_request
from runoff.failure import foreseen
from runoff.github.address import is_address
from runoff.request import Request, Told
from runoff.results import Batch, Candidate, Confidence, Cost, Error, Progress, Result, batch
from runoff.run import Result as Ended
from runoff.run import Run

T = TypeVar("T")
Place = str | PathLike[str]
Model = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""As litellm names it (`openai/gpt-5`), or role → model: `{"editor": "openai/gpt-5", "": "openai/gpt-5-mini"}`, where `""` is for
all roles that are not named; `tester` and `editor` may have several, which take turns. Or as `--model` has it, several times."""


class Options(TypedDict, total=False):
    """How a run is made; each as the option of that name on the command line, and with the same default."""

    trajectories: int
    """`-n`: trajectories an issue."""
    budget: float | str
    """Dollars, or as `--budget` has it: `"300ktok"`, `"5,2h"`."""
    recipe: Place
    """A recipe's name, or a TOML file."""
    settings: Mapping[str, object]
    """`--set`: single settings of the recipe, `{"editing.turns": 4}`."""
    out: Place
    """The run's directory, `runs/…` if not given. What is on record there is gone on with."""
    api_base: str
    """An OpenAI-compatible server of your own."""
    prices: Sequence[str]
    """`--price`: `["0.25,2"]`, dollars a million tokens, where litellm knows no price."""
    rates: Sequence[str]
    """`--rate`: `["500rpm"]`."""
    stall: float
    tools: Literal["auto", "native", "text"]
    samples: Literal["auto", "several", "one"]
    states: Place
    """Where sandbox states are kept."""
    states_limit: int
    """Bytes."""
    index: Place
    sandbox: str
    record: Place
    """Keep every answer in this folder, to be played again as the model `recorded:FOLDER`."""
    restart_drifted: bool
    calibration: Place
    abstain_below: float
    precision: float
    progress: Callable[[Progress], None]
    """Told how far it is, from the event loop: it should be quick. What it raises ends the run, and the call raises it."""


class Commands(TypedDict, total=False):
    """How a repository is installed and its tests are run, where the guess is wrong; shell commands."""

    setup: str
    """May use the network, as far as the package indexes."""
    build: str
    """Builds it again after a change, without network."""
    test: str
    python: str
    """The Python it needs: `"3.9"`, or a path."""


class Nodes(TypedDict, total=False):
    """Where instances are solved."""

    executor: Literal["local", "ray"]
    address: str
    """The Ray cluster, `HOST:PORT`."""
    shared: bool


class SolveOptions(Options, Commands, Nodes, total=False):
    """`Options`, `Commands`, `Nodes`, and of `solve` alone:"""

    index_hosts: Sequence[str]
    """Package indexes that the setup may reach beside the configured ones."""
    comments: Literal["auto", "all", "none"]
    """Those of an issue on GitHub that are read."""
    unless_claimed: bool
    """An issue on GitHub that a pull request says it closes is left: `Error`."""


class ElectOptions(Options, Commands, total=False):
    """`Options`, `Commands`, and of `elect` alone:"""

    branches: Sequence[str]
    """Candidates are also the branches of `repo` that match."""
    tests: Sequence[Place]
    """Test scripts of your own that say fixed (exit 0) or not (exit 2)."""


class BenchOptions(Options, Nodes, total=False):
    """`Options`, `Nodes`, and of `bench` alone:"""

    instances: str | Sequence[str]
    """Ids, globs, slices, `@FILE`; all if not given."""
    repositories: Place
    remote: str
    images: Literal["auto", "never", "always"]
    registry: str
    history: Literal["auto", "all", "none"]
    at_once: int


@overload
async def solve_async(
    target: Place, issue: str, *, model: Model, ref: str | None = None, **options: Unpack[SolveOptions]
) -> Result: ...
@overload
async def solve_async(target: Place, *, model: Model, **options: Unpack[SolveOptions]) -> Batch: ...
async def solve_async(
    target: Place,
    issue: str | None = None,
    *,
    model: Model,
    ref: str | None = None,
    **options: Unpack[SolveOptions],
) -> Result | Batch:
    """Resolve an issue of a local git repository, or of an unpacked source tree; or one on GitHub, by its address.

    Args:
        target: The repository. Where no `issue` is given, an issue's address (`owner/repo#1`, its URL), or a `.jsonl` file with
            a problem a line.
        issue: The issue's text.
        model: Who is asked.
        ref: The base commit. If not given, `HEAD`; of an issue on GitHub, the last one before it was opened.

    Returns:
        With an `issue`, how it ended. Without, how all problems of the file did, or the one that the address names.

    Raises:
        Error: It cannot be done: one line, as the command line says it.
    """
    given, progress, commands = _given(options, model, SolveOptions), options.get("progress"), _commands(options)
    where = fspath(target)
    if issue is None and not where.endswith(".jsonl") and not is_address(where):
        raise Error("no issue is given; give its text, or as the target its address on GitHub or a .jsonl file", 2)
    with _Plain():
        say = _noting(progress)
        request = await asyncio.to_thread(solve_request, where, _literal(issue), ref, commands, given, say)
    found = await _run(request, (), progress)
    return found if issue is None else found.results[0]


@overload
async def elect_async(
    predictions: Place | Sequence[Place] = ...,
    *,
    repo: Place,
    issue: str,
    model: Model | None = None,
    ref: str | None = None,
    **options: Unpack[ElectOptions],
) -> Result: ...
@overload
async def elect_async(
    predictions: Place | Sequence[Place],
    *,
    problems: Place,
    model: Model | None = None,
    **options: Unpack[ElectOptions],
) -> Batch: ...
async def elect_async(
    predictions: Place | Sequence[Place] = (),
    *,
    repo: Place | None = None,
    issue: str | None = None,
    problems: Place | None = None,
    model: Model | None = None,
    ref: str | None = None,
    **options: Unpack[ElectOptions],
) -> Result | Batch:
    """Choose among patches that any agents made.

    Args:
        predictions: Files or folders: preds.json, JSON lines, trajectories, `.diff` files.
        repo: The repository that all of them are for, with its `issue`.
        problems: Instead of these, a `.jsonl` file of problems, for predictions that name their id.
        model: Who writes tests, verifies and holds the run-off; nobody is asked if not given.

    Returns:
        With `repo`, how its issue ended. With `problems`, how all did that predictions are for.

    Raises:
        Error: It cannot be done: one line, as the command line says it.
    """
    given, progress, commands = _given(options, model, ElectOptions), options.get("progress"), _commands(options)
    if repo is not None and issue is None:
        raise Error("no issue is given; give its text", 2)
    files = [Path(path) for path in ([predictions] if isinstance(predictions, str | PathLike) else predictions)]
    branches, tests = options.get("branches", ()), [Path(path) for path in options.get("tests", ())]
    if branches and (repo is None or files):
        raise Error("branches are those of one local repository: give it as repo, and no predictions", 2)
    with _Plain():
        request, notes = await asyncio.to_thread(
            elect_request,
            files,
            None if repo is None else Path(repo),
            branches,
            None if problems is None else Path(problems),
            tests,
            _literal(issue),
            ref,
            commands,
            given,
        )
    found = await _run(request, notes, progress)
    return found if repo is None else found.results[0]


async def bench_async(dataset: Place, *, model: Model, **options: Unpack[BenchOptions]) -> Batch:
    """Solve the problems of a dataset in batch.

    Args:
        dataset: Its name (`verified`, `releases` …), a file of rows, or a folder of tasks.
        model: Who is asked.

    Returns:
        How all of them ended. What is right is not known here: `runoff eval` grades, in a process of its own.

    Raises:
        Error: It cannot be done: one line, as the command line says it.
    """
    given, progress = _given(options, model, BenchOptions), options.get("progress")
    chosen = options.get("instances", ())
    where: dict[str, Any] = {
        "repositories": options.get("repositories"),
        "remote": options.get("remote"),
        "images": options.get("images", "auto"),
        "registry": options.get("registry"),
        "history": options.get("history", "auto"),
    }

    with _Plain():
        several = [chosen] if isinstance(chosen, str) else list(chosen)
        request, _ = await bench_request(fspath(dataset), several, where, given, _noting(progress))
    return await _run(request, (), progress)


@overload
def solve(
    target: Place, issue: str, *, model: Model, ref: str | None = None, **options: Unpack[SolveOptions]
) -> Result: ...
@overload
def solve(target: Place, *, model: Model, **options: Unpack[SolveOptions]) -> Batch: ...
def solve(
    target: Place,
    issue: str | None = None,
    *,
    model: Model,
    ref: str | None = None,
    **options: Unpack[SolveOptions],
) -> Result | Batch:
    """`solve_async` for code without an event loop."""
    return _wait(solve_async, target, *(() if issue is None else (issue,)), model=model, ref=ref, **options)  # type: ignore[no-any-return]


@overload
def elect(
    predictions: Place | Sequence[Place] = ...,
    *,
    repo: Place,
    issue: str,
    model: Model | None = None,
    ref: str | None = None,
    **options: Unpack[ElectOptions],
) -> Result: ...
@overload
def elect(
    predictions: Place | Sequence[Place],
    *,
    problems: Place,
    model: Model | None = None,
    **options: Unpack[ElectOptions],
) -> Batch: ...
def elect(
    predictions: Place | Sequence[Place] = (),
    *,
    repo: Place | None = None,
    issue: str | None = None,
    problems: Place | None = None,
    model: Model | None = None,
    ref: str | None = None,
    **options: Unpack[ElectOptions],
) -> Result | Batch:
    """`elect_async` for code without an event loop."""
    how = {"repo": repo, "issue": issue, "problems": problems, "model": model, "ref": ref}
    return _wait(elect_async, predictions, **how, **options)  # type: ignore[no-any-return]


def bench(dataset: Place, *, model: Model, **options: Unpack[BenchOptions]) -> Batch:
    """`bench_async` for code without an event loop."""
    return _wait(bench_async, dataset, model=model, **options)  # type: ignore[no-any-return]


def _wait(function: Callable[..., Coroutine[Any, Any, Any]], *positional: Any, **named: Any) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(function(*positional, **named))
    name = function.__name__
    raise RuntimeError(f"an event loop runs here (a notebook, an async function): await runoff.{name}(…)")


def _noting(progress: Callable[[Progress], None] | None) -> Callable[[str], None]:
    """Tells what is to be known before a run begins."""

    def say(note: str) -> None:
        if progress:
            progress(Progress(instance="", stage="", note=note, ended=0, total=0, calls=0, dollars=0.0))

    return say


class _Plain:
    """Errors that are for the user become `Error`, with the line that the command line prints."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, click.ClickException):
            raise Error(error.format_message(), error.exit_code) from error
        if isinstance(error, Exception) and not isinstance(error, Error) and (said := foreseen(error)):
            raise Error(*said) from error


async def _run(request: Request, notes: Sequence[str], progress: Callable[[Progress], None] | None) -> Batch:
    async def attend(run: Run) -> list[Ended]:
        return await _Watching(run, progress).solve(notes)

    with _Plain():
        run, ended = await run_attended(*request, attend=attend)
    return batch(ended, run)


class _Watching:
    """Tells a program how far a run is: when an instance comes to another stage, and else once a second at most."""

    def __init__(self, run: Run, tell: Callable[[Progress], None] | None) -> None:
        self._run, self._tell = run, tell
        self._stages: dict[str, str] = {}
        self._last = 0.0
        self._failed: BaseException | None = None

    async def solve(self, notes: Sequence[str]) -> list[Ended]:
        solving = asyncio.ensure_future(self._run.solve())

        def changed() -> None:
            try:
                self._look()
            except BaseException as error:  # not into the middle of a trajectory, which would take it for its own
                self._failed, self._run.changed = error, lambda: None
                solving.cancel()

        try:
            for note in [*notes, *self._run.directory.remarks]:
                self._say(note=note)
            if self._tell:
                self._run.changed, self._run.say = changed, lambda text: self._say(note=text)
            return await solving
        except asyncio.CancelledError:
            if self._failed:
                raise self._failed from None
            raise
        finally:
            self._run.changed = lambda: None
            if not solving.done():
                solving.cancel()
                await asyncio.wait([solving])

    def _look(self) -> None:
        now, moved = time.monotonic(), False
        for instance, stage in self._run.stages.items():
            if self._stages.get(instance) != stage:
                self._stages[instance], moved = stage, True
                self._say(instance, stage)
        if not moved and now - self._last >= 1:
            self._say()

    def _say(self, instance: str = "", stage: str = "", note: str = "") -> None:
        if self._tell is None:
            return
        self._last = time.monotonic()
        budget = self._run.budget
        self._tell(
            Progress(
                instance=instance,
                stage=stage,
                note=note,
                ended=len(self._run.results),
                total=len(self._run.instances),
                calls=budget.spent_calls,
                dollars=budget.spent_money,
            )
        )


_PLACES = ("out", "states", "index", "record", "calibration")


def _given(options: Mapping[str, Any], model: Model | None, known: type) -> Told:
    """Options of the library as those of the command line. Raises TypeError for one that is not known."""
    names = set(known.__annotations__)
    if unknown := [name for name in options if name not in names]:
        raise TypeError(f"there is no option {unknown[0]!r}; there are {', '.join(sorted(names))}")
    plain = {name: value for name, value in options.items() if value is not None and name in Told.__annotations__}
    plain |= {name: Path(plain[name]) for name in _PLACES if name in plain}
    if "recipe" in plain:
        plain["recipe"] = fspath(plain["recipe"])
    if "budget" in plain:
        plain["budget"] = str(plain["budget"])
    plain["settings"] = [f"{name}={_toml(value)}" for name, value in plain.get("settings", {}).items()]
    plain["models"] = [] if model is None else list(_models(model))
    return cast("Told", plain)


def _models(model: Model) -> list[str]:
    if isinstance(model, str):
        return [model]
    if not isinstance(model, Mapping):
        return list(model)
    return [
        f"{role}={name}" if role else name
        for role, names in model.items()
        for name in ([names] if isinstance(names, str) else names)
    ]


def _toml(value: object) -> str:
    """A value as `--set` reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_toml(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"{value!r} is no value of a setting")


def _commands(options: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: options.get(name) for name in ("setup", "build", "test", "python")}


def _literal(issue: str | None) -> str | None:
    """An issue's text, which here never names a file."""
    if issue is not None and issue.startswith("@"):
        return "\n" + issue
    return issue


__all__ = [
    "Batch",
    "BenchOptions",
    "Candidate",
    "Commands",
    "Confidence",
    "Cost",
    "ElectOptions",
    "Error",
    "Model",
    "Nodes",
    "Options",
    "Place",
    "Progress",
    "Result",
    "SolveOptions",
    "bench",
    "bench_async",
    "elect",
    "elect_async",
    "solve",
    "solve_async",
]
