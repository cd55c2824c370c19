"""The repository's own tests near a change: which to run, which pass on the base, which of those a patch breaks."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Literal

from runoff.agent.context import Tree, find_code, is_test
from runoff.agent.environment import Environment
from runoff.agent.step import Run, World, settled
from runoff.sandbox.protocol import Limits, State, Value

_SUBJECT = re.compile(r"^tests?_|_tests?$")

_MOST_SECONDS = 120

SUITE = "the whole suite"
"""The one test id of a command whose results are known by its exit code only."""


class RegressionRecipe(Value):
    files: int = 12
    """Test files near the change that are run."""
    seconds: float = 300
    """Wall time after which one run of them is ended."""
    each: float | None = None
    """Wall time that a candidate's run of them may take, as it is seen on the base: where it takes more, the files furthest from
    the change are left out. None: 120."""
    exempt: int | None = None
    """How many of the tests that some candidates break a model is asked about, whether they hold what the issue wants changed
    (exempting.py). None: none."""


class Outcomes(Value):
    """What one run of the repository's tests gave, by test id; None: it did not come to an end that tells."""

    tests: dict[str, Literal["passed", "failed", "skipped"]] | None
    why: str = ""
    seconds: float = 0.0
    """Wall time of the run."""


def collected(path: str) -> bool:
    """Whether a path is a file of Python tests that test runners look into by themselves: others help these."""
    name = PurePosixPath(path).name
    return is_test(path) and bool(re.search(r"^test.*\.py$|_tests?\.py$", name))


def suited(tree: Tree, issue: str, kept: Path | None = None) -> list[str]:
    """Test files in the order in which the issue is about them, by the search that finds code (`find_code`)."""
    return find_code(tree, issue, kept, [path for path in sorted(tree) if collected(path)]).found.files


def near(tree: Tree, changed: Sequence[str], limit: int, suited: Sequence[str] = ()) -> list[str]:
    """Test files that have to do with the changed files, or with the issue (`suited`), likeliest first.

    With a change they have to do by name, by import, by folder. The two orders are merged by reciprocal ranks (Cormack,
    Clarke and Büttcher, SIGIR 2009; their constant of 60 is for lists of hundreds). Deterministic.
    """
    known = [path for path in changed if path in tree] or changed  # what a patch adds has no tests yet
    scores = {path: max(_related(path, tree[path], known), default=0.0) for path in tree if collected(path)}
    related = sorted((path for path, score in scores.items() if score > 0), key=lambda path: (-scores[path], path))
    merged = defaultdict[str, float](float)
    for order in (related, [path for path in suited if path in scores]):
        for rank, path in enumerate(order):
            merged[path] += 1 / (10 + rank)
    return sorted(merged, key=lambda path: (-merged[path], path))[:limit]


def _related(path: str, contents: bytes, changed: Sequence[str]) -> Iterator[float]:
    """How much a test file has to do with each changed file."""
    name = PurePosixPath(path)
    topic, text = _SUBJECT.sub("", name.stem), contents.decode("utf-8", "replace")
    if topic in ("test", "tests"):  # Django's tests/lookup/tests.py
        topic = _SUBJECT.sub("", name.parent.name)
    for source in changed:
        module = PurePosixPath(source).with_suffix("")
        subject = module.parent.name if module.name == "__init__" else module.name
        dotted = ".".join(part for part in module.parts if part not in ("src", "lib", "__init__"))
        score = 4.0 * (topic == subject) + 2.0 * (subject in topic.split("_") or topic in subject.split("_"))
        score += 3.0 * bool(dotted and re.search(rf"\b{re.escape(dotted)}\b", text))
        score += 1.0 * bool(re.search(rf"(?:import|from)\b.*\b{re.escape(subject)}\b", text))
        package = next((part for part in module.parts if part not in ("src", "lib")), "")
        yield score + 0.5 * bool(re.search(rf"(?:import|from)\s+{re.escape(package)}\b", text))


async def run_tests(
    world: World,
    environment: Environment,
    state: State,
    chosen: Sequence[str],
    recipe: RegressionRecipe,
    repetition: int = 0,
    only: Sequence[str] = (),
) -> Outcomes:
    """One run of the chosen test files in a state: by test id under pytest and unittest, else the whole command's exit code.

    `only`: ids of tests in them; the others are not run, as far as the command can be told so.
    """
    if not environment.test:
        return Outcomes(tests=None, why="there is no command that runs the repository's tests")
    structured = runner(environment.test)
    if structured and not chosen:
        return Outcomes(tests={}, why="no test file has to do with the change")
    if structured:
        argv = ("python", "-c", _script(structured), environment.test, *labels(environment.test, chosen, only))
    else:
        argv = ("sh", "-c", environment.test)
    limits = Limits(seconds=recipe.seconds, output=16 << 20 if structured else 64 << 10)
    run = Run(state=state, argv=argv, env=environment.env, limits=limits, repetition=repetition)
    done = await world.execute(run)
    if done.outcome == "timed out":
        return Outcomes(tests=None, why=f"the tests did not end within {recipe.seconds:g} seconds")
    if done.outcome == "killed":
        return Outcomes(tests=None, why=f"the tests were killed for the limit on {done.limit}")
    if not structured:
        return Outcomes(tests={SUITE: "passed" if done.exit_code == 0 else "failed"})
    try:
        said = json.loads(done.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2])
        tests = said["tests"]
    except (ValueError, TypeError, LookupError):
        return Outcomes(tests=None, why=f"the tests gave no result (exit code {done.exit_code})")
    if tests is None:
        return Outcomes(
            tests=None,
            why=f"`{shlex.join([environment.test, *chosen])}` gave no result of any test: {done.text[-300:].strip()}",
        )
    return Outcomes(tests=tests, seconds=done.seconds)


async def on_base(
    world: World, environment: Environment, chosen: Sequence[str], recipe: RegressionRecipe
) -> tuple[list[str], tuple[str, ...], str]:
    """The files of those chosen that can be run, the tests in them that pass on the base each time, and why there are none.

    One file may take the others with it: it hangs, or ends the runner (Django's, for want of a database). So where all
    together give nothing, each is run by itself for its share of the time, and those that give nothing are left out. Where
    they take longer than a candidate's run may, fewer are run, in proportion: those nearest to the change.
    """

    async def run(files: Sequence[str], repetition: int = 0, share: int = 1) -> Outcomes:
        part = recipe.model_copy(update={"seconds": recipe.seconds / share})
        return await run_tests(world, environment, environment.state, files, part, repetition)

    files, first = list(chosen), await run(chosen)
    if first.tests is None and runner(environment.test or "") and len(chosen) > 1:
        alone = await settled(*(run([path], share=len(chosen)) for path in chosen))
        files = [path for path, outcome in zip(chosen, alone, strict=True) if outcome.tests]
        first = await run(files) if files else first
    most = _MOST_SECONDS if recipe.each is None else recipe.each
    while first.seconds > most and len(files) > 1:
        files = files[: max(1, int(len(files) * most / first.seconds))]
        first = await run(files)
    return files, passing(first, await run(files, 1)) if first.tests else (), first.why


def passing(first: Outcomes, second: Outcomes) -> tuple[str, ...]:
    """Tests that passed in both runs on the base: the others are flaky, or fail anyway."""
    return tuple(
        name
        for name, end in (first.tests or {}).items()
        if end == "passed" and (second.tests or {}).get(name) == "passed"
    )


def known_of(environment: Environment, chosen: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Of the chosen test files, the tests that are known to pass on the base each time, and the files that must be run to know.

    A command whose results are known by its exit code only is one file, `SUITE`.
    """
    files = chosen if runner(environment.test or "") else [SUITE]
    known = [test for path in files for test in environment.stable.get(path, ())]
    return tuple(known), [path for path in files if path not in environment.stable]


def broken(stable: Sequence[str], after: Outcomes) -> tuple[str, ...] | None:
    """Of the tests that pass on the base, those that no longer do: they fail, are skipped, or are gone with their file."""
    if after.tests is None:
        return None
    return tuple(name for name in stable if after.tests.get(name) != "passed")


def runner(command: str) -> Literal["junit", "unittests"] | None:
    """What reads a command's results test by test; None: nothing does."""
    if "pytest" in command:
        return "junit"
    return "unittests" if re.search(r"-m unittest\b|(?:^|[\s/])(?:runtests|manage)\.py\b", command) else None


def labels(command: str, chosen: Sequence[str], only: Sequence[str] = ()) -> list[str]:
    """Test files as a command takes them: Django's own runner by modules of tests below its folder, the others by paths.

    With ids of tests, those alone: a test with parameters as a whole. All, where an id does not say where it stands
    (unittest's `setUpClass (…)`).
    """
    if only and all(places := list(map(placing(command, chosen), only))):
        pytests = runner(command) == "junit"
        each = (_node(*at) if pytests else test for test, at in zip(only, places, strict=True) if at)
        return list(dict.fromkeys(each))
    if (folder := _runtests(command)) is None:
        return list(chosen)
    tests = [path for path in chosen if path.startswith(folder) and PurePosixPath(path).name.startswith("test")]
    return [_dotted(path.removeprefix(folder)) for path in tests]


def placing(command: str, files: Sequence[str]) -> Callable[[str], tuple[str, str] | None]:
    """What tells where a test stands by its id: in which of the files, and its name there (`Class::test[1]`, `Class.test`)."""
    folder = _runtests(command) or ""
    files_of = {_dotted(name): path for path in files for name in (path, path.removeprefix(folder))}

    def place(test: str) -> tuple[str, str] | None:
        parts = test.partition("::")[0].split(".")
        names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        name = next((name for name in names if name in files_of), None)
        return (files_of[name], test[len(name) :].lstrip(".:")) if name else None

    return place


def _node(path: str, name: str) -> str:
    """A test as pytest takes it, with all its parameters: how these are written may depend on the code under test."""
    classes, _, function = name.partition("[")[0].rpartition("::")
    return "::".join(filter(None, (path, *classes.split("."), function)))


def _runtests(command: str) -> str | None:
    """The folder of Django's own runner, if that is what the command runs."""
    folder = re.search(r"(\S*/)?runtests\.py\b", command)
    return (folder[1] or "").removeprefix("./") if folder else None


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


@cache
def _script(name: str) -> str:
    return files("runoff.selection").joinpath(f"{name}.py").read_text()
