"""The repository's own tests near a change: which to run, which pass on the base, which of those a patch breaks."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Literal

from runoff.agent.context import Tree, is_test
from runoff.agent.environment import Environment
from runoff.agent.step import Run, World
from runoff.sandbox.protocol import Limits, State, Value

SUITE = "the whole suite"
"""The one test id of a command whose results are known by its exit code only."""


class RegressionRecipe(Value):
    files: int = 12
    """Test files near the change that are run."""
    seconds: float = 300
    """Wall time of one run of them."""


class Outcomes(Value):
    """What one run of the repository's tests gave, by test id; None: it did not come to an end that tells."""

    tests: dict[str, Literal["passed", "failed", "skipped"]] | None
    why: str = ""


def holds_tests(path: str) -> bool:
    """Whether a path is a file of Python tests, of those that `run_tests` can be given."""
    return is_test(path) and path.endswith(".py") and PurePosixPath(path).name not in ("conftest.py", "__init__.py")


def near(tree: Tree, changed: Sequence[str], limit: int) -> list[str]:
    """Test files that have to do with the changed files, likeliest first: by name, by import, by folder.

    Deterministic; a file that has nothing to do with the change by any of these is not among them.
    """
    scores: dict[str, float] = {}
    for path in tree:
        if not holds_tests(path):
            continue
        stem = re.sub(r"^tests?_|_tests?$", "", PurePosixPath(path).stem)
        text = tree[path].decode("utf-8", "replace")
        for source in changed:
            module = PurePosixPath(source).with_suffix("")
            name = module.parent.name if module.name == "__init__" else module.name
            dotted = ".".join(part for part in module.parts if part not in ("src", "lib", "__init__"))
            score = 4.0 * (stem == name) + 2.0 * (name in stem.split("_") or stem in name.split("_"))
            score += 3.0 * bool(dotted and re.search(rf"\b{re.escape(dotted)}\b", text))
            score += 1.0 * bool(re.search(rf"(?:import|from)\b.*\b{re.escape(name)}\b", text))
            package = next((part for part in module.parts if part not in ("src", "lib")), "")
            score += 0.5 * bool(re.search(rf"(?:import|from)\s+{re.escape(package)}\b", text))
            scores[path] = max(scores.get(path, 0.0), score)
    return sorted((path for path, score in scores.items() if score > 0), key=lambda path: (-scores[path], path))[:limit]


async def run_tests(
    world: World,
    environment: Environment,
    state: State,
    chosen: Sequence[str],
    recipe: RegressionRecipe,
    repetition: int = 0,
) -> Outcomes:
    """One run of the chosen test files in a state: by test id under pytest and unittest, else the whole command's exit code."""
    if not environment.test:
        return Outcomes(tests=None, why="there is no command that runs the repository's tests")
    structured = runner(environment.test)
    if structured and not chosen:
        return Outcomes(tests={}, why="no test file has to do with the change")
    if structured:
        argv = ("python", "-c", _script(structured), environment.test, *labels(environment.test, chosen))
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
    return Outcomes(tests=tests)


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


def labels(command: str, chosen: Sequence[str]) -> list[str]:
    """Test files as a command takes them: Django's own runner by modules of tests below its folder, the others by paths."""
    folder = re.search(r"(\S*/)?runtests\.py\b", command)
    if not folder:
        return list(chosen)
    top = (folder[1] or "").removeprefix("./")
    tests = [path for path in chosen if path.startswith(top) and PurePosixPath(path).name.startswith("test")]
    return [path.removeprefix(top).removesuffix(".py").replace("/", ".") for path in tests]


@cache
def _script(name: str) -> str:
    return files("runoff.selection").joinpath(f"{name}.py").read_text()
