"""The reproduction as a test of the project's own: where its tests lie, as its runner takes them, and only if it tells there.

A generated test is a script that ends in `sys.exit(0)` or `sys.exit(2)`. Its imports stay at the top; the rest becomes the body
of a function, line by line, so that comments and layout stay.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from runoff.agent.context import Tree
from runoff.agent.environment import Environment, patched, read_tree
from runoff.agent.patches import patched_paths
from runoff.agent.step import World
from runoff.github.markdown import plain
from runoff.sandbox.protocol import REPO
from runoff.selection.repository_tests import Outcomes, RegressionRecipe, collected, near, run_tests, runner


class Added(NamedTuple):
    path: str
    contents: bytes


async def added(
    world: World, environment: Environment, patch: bytes, script: str, name: str, title: str, seconds: float
) -> Added | str:
    """The file, if it fails on the base and passes on the patch by the project's own command; the text says why there is none.

    `name`: what the test is called, an identifier. Raises Refused where the patch no longer applies or builds.
    """
    style = runner(environment.test or "")
    if style is None or environment.language != "python":
        return "the project's tests are not run by pytest or unittest"
    tree = await read_tree(world, environment)
    made = written(script, name, title, unittests=style == "unittests")
    if made is None:
        return "the reproduction is no Python that can be read"
    path = place(tree, patched_paths(patch), name)
    file = {f"{REPO}/{path}": made.encode("utf-8", "surrogateescape")}
    said = dict[str, str]()
    states = {"base": environment.state, "patch": await patched(world, environment, patch)}
    for where, state in states.items():
        with_file = await world.sandbox.write(state, file)
        outcome = await run_tests(world, environment, with_file, [path], RegressionRecipe(seconds=seconds))
        said[where] = _said(outcome, name)
    if said["patch"] != "passed":
        return f"written as {path} it {said['patch']} with the change"
    if said["base"] != "failed":
        return f"written as {path} it {said['base']} on the base commit, where it should fail"
    return Added(path, file[f"{REPO}/{path}"])


def _said(outcome: Outcomes, name: str) -> str:
    if outcome.tests is None:
        return "did not come to an end that tells"
    return next((str(said) for test, said in outcome.tests.items() if f"test_{name}" in test), "was not run")


def place(tree: Tree, changed: list[str], name: str) -> str:
    """Beside the tests of what is changed; else where most tests are; else in `tests`. A name that nothing has."""
    files = [path for path in sorted(tree) if collected(path)]
    close = near(tree, changed, 1) or [path for path, _ in Counter(files).most_common(1)]
    folders = Counter(str(PurePosixPath(path).parent) for path in files)
    folder = PurePosixPath(close[0]).parent if close else PurePosixPath("tests")
    if not close and folders:
        folder = PurePosixPath(folders.most_common(1)[0][0])
    behind = sum(PurePosixPath(path).stem.endswith("_test") for path in files) > len(files) / 2
    for number in range(1, 100):
        stem = f"runoff_{name}" + (f"_{number}" if number > 1 else "")
        path = str(folder / (f"{stem}_test.py" if behind else f"test_{stem}.py"))
        if path not in tree:
            return path
    return path


def written(script: str, name: str, title: str, *, unittests: bool) -> str | None:
    """The script as a module of tests, with one test `test_<name>`; None: it cannot be one. Pure."""
    try:
        tree = ast.parse(script)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    head, body = _parted(script, tree)
    call = ["try:", "    reproduce()", "except SystemExit as end:"]
    told = '"what the issue describes is there again; see the output"'
    if unittests:
        call += [f"    self.assertIn(end.code, (0, None), {told})", "else:", '    self.fail("it came to no verdict")']
        test = ["", "", f"class {_camel(name)}(unittest.TestCase):", f"    def test_{name}(self):"]
        test += [f"        {line}" for line in call]
    else:
        call += [
            f"    assert end.code in (0, None), {told}",
            "else:",
            '    raise AssertionError("it came to no verdict")',
        ]
        test = ["", "", f"def test_{name}():", *(f"    {line}" for line in call)]
    imported = ["import unittest"] if unittests else []
    about = f"# {plain(title, 100)}: fails before the change that came with it. Written by a model, by way of runoff."
    return "\n".join([about, *_with(head, imported), "", "", "def reproduce():", *body, *test]) + "\n"


def _parted(script: str, tree: ast.Module) -> tuple[list[str], list[str]]:
    """The lines with which it begins, up to its last import before anything else, and all others, indented."""
    lines = script.split("\n")
    first = 0
    for node in tree.body:
        doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not isinstance(node, ast.Import | ast.ImportFrom) and not doc:
            break
        first = node.end_lineno or first
    inside = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
        for number in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1)
    }
    rest = [
        line if number in inside or not line.strip() else f"    {line}"
        for number, line in enumerate(lines[first:], first + 1)
    ]
    while rest and not rest[0].strip():
        rest.pop(0)
    while rest and not rest[-1].strip():
        rest.pop()
    return lines[:first], rest or ["    pass"]


def _with(head: list[str], imported: list[str]) -> list[str]:
    """Behind what imports from the future, which must come first."""
    at = max((n + 1 for n, line in enumerate(head) if line.startswith("from __future__")), default=0)
    return [*head[:at], *imported, *head[at:]] if at else [*imported, *head]


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) + "Test"


def files_of(made: Added | str | None) -> Mapping[str, bytes]:
    """As a commit takes it."""
    return {made.path: made.contents} if isinstance(made, Added) else {}
