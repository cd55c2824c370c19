"""What is known of tests beforehand: which change makes it doubtful, whose results are whose, and that selection uses it."""

from __future__ import annotations

import pytest

from runoff.agent.environment import Environment
from runoff.agent.index import python_imports
from runoff.agent.step import World
from runoff.sandbox.protocol import State
from runoff.selection.known_tests import KnownTests, by_file, dependencies
from runoff.selection.protocol import Candidate, Entry, OutcomeTable
from runoff.selection.repository_tests import SUITE, Outcomes, RegressionRecipe
from runoff.selection.table import fill
from tests.workshop import Workshop

TREE = {
    "src/shop/__init__.py": "",
    "src/shop/cart.py": "from . import money\n",
    "src/shop/money.py": "import json\nfrom shop import cart\n",
    "src/shop/till.py": "",
    "src/shop/native.c": "int x;",
    "tests/conftest.py": "import shop.till\n",
    "tests/unit/test_cart.py": "from shop.cart import Cart\n",
    "tests/unit/test_none.py": "import os\n",
    "more/conftest.py": "",
    "tests/unit/tools.py": "",
    "tests/data/prices.json": "{}",
    "README.md": "shop",
    "docs/index.rst": "shop",
    "LICENSE": "shop",
    "Makefile": "all:",
}
PYTEST = "python -m pytest"
PLACE = State(layers=("sha256:0",))


def digests(change: dict[str, str] = {}, test: str = "python -m pytest", **environment: object) -> dict[str, str]:
    tree = TREE | change
    imports = {path: python_imports(text) for path, text in tree.items() if path.endswith(".py")}
    about = {"state": PLACE, "pristine": PLACE, "test": test} | environment
    return dependencies(tree, imports, Environment.model_validate(about))


@pytest.mark.parametrize(
    ("path", "differ"),
    [
        ("src/shop/money.py", {"tests/unit/test_cart.py"}),
        ("src/shop/__init__.py", {"tests/unit/test_cart.py", "tests/unit/test_none.py"}),
        ("src/shop/till.py", {"tests/unit/test_cart.py", "tests/unit/test_none.py"}),
        ("tests/unit/test_none.py", {"tests/unit/test_none.py"}),
        ("tests/data/prices.json", {"tests/unit/test_cart.py", "tests/unit/test_none.py"}),
        ("src/shop/native.c", {"tests/unit/test_cart.py", "tests/unit/test_none.py"}),
        ("more/conftest.py", set()),
        ("README.md", set()),
        ("docs/index.rst", set()),
        ("LICENSE", set()),
        ("Makefile", {"tests/unit/test_cart.py", "tests/unit/test_none.py"}),
    ],
)
def test_a_change_makes_those_doubtful_that_reach_it(path: str, differ: set[str]) -> None:
    before, after = digests(), digests({path: TREE[path] + "\n# more\n"})
    assert before.keys() == {"tests/unit/test_cart.py", "tests/unit/test_none.py"}
    assert {name for name in before if before[name] != after[name]} == differ


def test_another_environment_or_command_makes_all_doubtful() -> None:
    for other in (digests(installed=("pytest 9",)), digests(test="python -m pytest -x"), digests(env={"A": "b"})):
        assert not other.items() & digests().items()


def test_a_command_that_is_no_pytest_depends_on_everything_but_prose() -> None:
    assert digests(test="make test").keys() == {SUITE}
    assert digests({"src/shop/till.py": "x = 1"}, test="make test") != digests(test="make test")
    assert digests({"README.md": "x = 1"}, test="make test") == digests(test="make test")


def test_results_are_told_apart_by_file() -> None:
    first = Outcomes(
        tests={"a.test_x::t": "passed", "a.test_x.Old::t": "failed", "a.test_xy::t": "passed", "b::t": "passed"}
    )
    second = Outcomes(tests={"a.test_x::t": "passed", "a.test_x.Old::t": "skipped", "a.test_xy::t": "failed"})
    assert by_file(PYTEST, first, second, ["a/test_x.py", "a/test_xy.py", "a/test_z.py"]) == {
        "a/test_x.py": KnownTests(passed=("a.test_x::t",), failed=("a.test_x.Old::t",)),
        "a/test_xy.py": KnownTests(flaky=("a.test_xy::t",)),
    }
    assert by_file(PYTEST, first, Outcomes(tests=None), ["a/test_x.py"]) == {}


def test_django_s_runner_names_modules_below_its_folder() -> None:
    said = Outcomes(tests={"auth.test_forms.FormTest.test_x": "passed"})
    known = by_file("./tests/runtests.py", said, said, ["tests/auth/test_forms.py", "tests/auth/test_views.py"])
    assert known == {"tests/auth/test_forms.py": KnownTests(passed=("auth.test_forms.FormTest.test_x",))}


FILES = {
    "calc.py": "def add(a, b):\n    return a + b\n",
    "test_calc.py": "from calc import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
}
PATCH = b"--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a + b\n+    return b + a\n"


@pytest.mark.parametrize(
    ("known", "runs", "repository"),
    [
        ({}, 3, ("test_calc::test_add",)),
        ({"test_calc.py": ("test_calc::test_add",)}, 1, ("test_calc::test_add",)),
        ({"test_calc.py": ("elsewhere.test_calc::test_add",)}, 3, ("test_calc::test_add",)),
    ],
)
def test_what_is_known_of_the_base_is_not_run_there_again(
    workshop: Workshop, known: dict[str, tuple[str, ...]], runs: int, repository: tuple[str, ...]
) -> None:
    environment = workshop.environment(FILES, test="python -m pytest", stable=known)
    entry = Entry(id="one", candidate=Candidate(id="one", patch=PATCH), proposers=("one",), changed_lines=2)
    tree = {path: text.encode() for path, text in FILES.items()}
    tests_run = list[str]()

    async def scene(world: World) -> OutcomeTable:
        table = await fill(world, environment, tree, [entry], [], RegressionRecipe(), 30)
        tests_run.extend(key for key, done in world.log.executions.items() if "test_calc" in str(done))
        return table

    table = workshop.play(scene)
    assert (table.repository, table.broken) == (repository, {"one": ()})
    assert len(tests_run) == runs
