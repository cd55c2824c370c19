"""The repository's own tests: which are near a change, which are stable, what a patch breaks, read from a real pytest."""

from __future__ import annotations

import random

import pytest

from runoff.agent.step import World
from runoff.sandbox.protocol import REPO
from runoff.selection.repository_tests import (
    SUITE,
    Outcomes,
    RegressionRecipe,
    broken,
    near,
    on_base,
    passing,
    run_tests,
    suited,
)
from tests.workshop import Workshop

TREE = {
    "src/shop/__init__.py": b"",
    "src/shop/cart.py": b"def total(): ...\n",
    "src/shop/till.py": b"",
    "tests/conftest.py": b"import shop.cart\n",
    "tests/__init__.py": b"",
    "tests/test_cart.py": b"from shop.cart import total\n",
    "tests/cart_test.py": b"import shop\n",
    "tests/test_sums.py": b"from shop.cart import total\n",
    "tests/test_package.py": b"import shop\n",
    "tests/test_other.py": b"import os\n",
    "tests/data/cart.json": b"{}",
    "docs/test_cart.md": b"shop.cart",
}


def test_tests_are_near_by_name_then_by_import_then_by_package_and_no_others() -> None:
    assert near(TREE, ["src/shop/cart.py"], 9) == [
        "tests/test_cart.py",
        "tests/cart_test.py",
        "tests/test_sums.py",
        "tests/test_package.py",
    ]


def test_what_is_near_does_not_depend_on_any_order() -> None:
    changed = ["src/shop/cart.py", "src/shop/till.py", "README.md"]
    expected = near(TREE, changed, 9)
    for seed in range(5):
        paths = list(TREE)
        random.Random(seed).shuffle(paths)
        assert near({path: TREE[path] for path in paths}, changed[::-1], 9) == expected


def test_near_is_limited_and_takes_the_likeliest() -> None:
    assert near(TREE, ["src/shop/cart.py"], 1) == ["tests/test_cart.py"]
    assert near(TREE, ["src/shop/cart.py"], 0) == []
    assert near(TREE, [], 9) == []
    assert near({}, ["src/shop/cart.py"], 9) == []


def test_a_package_s_init_is_found_by_the_package_s_name() -> None:
    tree = {"pkg/net/__init__.py": b"", "tests/test_net.py": b"", "tests/test_init.py": b""}
    assert near(tree, ["pkg/net/__init__.py"], 9) == ["tests/test_net.py"]


def test_what_helps_tests_is_no_test_and_a_folder_names_what_its_tests_are_about() -> None:
    tree = {
        "app/models.py": b"",
        "tests/models.py": b"import app",
        "tests/models/tests.py": b"",
        "tests/urls.py": b"app.models",
    }
    assert near(tree, ["app/models.py"], 9) == ["tests/models/tests.py"]


def test_files_that_a_patch_adds_say_nothing_of_what_is_near_unless_there_is_nothing_else() -> None:
    tree = {"app/cart.py": b"", "tests/test_cart.py": b"", "tests/test_reproduce.py": b""}
    assert near(tree, ["app/cart.py", "reproduce.py"], 9) == ["tests/test_cart.py"]
    assert near(tree, ["reproduce.py"], 9) == ["tests/test_reproduce.py"]


def test_tests_that_the_issue_is_about_are_near() -> None:
    tree = {
        "app/query.py": b"class Query: ...\n",
        "tests/test_query.py": b"from app.query import Query\n",
        "tests/test_pickling.py": b"import pickle\ndef test_pickled_rows(): pickle.dumps([])\n",
        "tests/test_dates.py": b"def test_dates(): ...\n",
    }
    order = suited(tree, "Pickled rows come back as something else\n\nAfter `pickle.dumps` ...")
    assert order[0] == "tests/test_pickling.py"
    assert set(order) == {path for path in tree if path.startswith("tests")}
    assert near(tree, ["app/query.py"], 2, order) == ["tests/test_query.py", "tests/test_pickling.py"]


@pytest.mark.parametrize(
    "path", ["é(.py", "[.py", "no_suffix", "a/b/.hidden", "x.tar.gz", "*.py", "\\.py", "caf\udce9.py"]
)
def test_odd_paths_are_no_patterns(path: str) -> None:
    near(TREE, [path], 9)


def outcomes(**tests: str) -> Outcomes:
    return Outcomes.model_validate({"tests": tests})


def test_only_tests_that_passed_both_times_count() -> None:
    first = outcomes(a="passed", b="passed", c="failed", d="skipped", e="passed")
    second = outcomes(a="passed", b="failed", c="passed", d="passed")
    assert passing(first, second) == ("a",)
    assert passing(first, Outcomes(tests=None)) == ()
    assert passing(Outcomes(tests=None), first) == ()


def test_a_test_that_fails_is_skipped_or_gone_is_broken() -> None:
    after = outcomes(a="passed", b="failed", c="skipped", new="failed")
    assert broken(("a", "b", "c", "gone"), after) == ("b", "c", "gone")
    assert broken((), after) == ()


def test_a_run_that_did_not_end_could_not_tell() -> None:
    assert broken(("a",), Outcomes(tests=None, why="the tests did not end within 1 seconds")) is None


# In the sandbox

TESTS = """\
import sys, unittest, pytest
from calc import add

def test_add(): assert add(1, 2) == 3
@pytest.mark.parametrize("n", [0, 1])
def test_zero(n): assert add(n, 0) == n
def test_wrong(): assert add(1, 1) == 3
@pytest.mark.skip
def test_skipped(): pass
@pytest.fixture
def leaves():
    yield
    raise RuntimeError
def test_teardown(leaves): pass
class Old(unittest.TestCase):
    def test_old(self): print("PASSED test_calc.py::test_wrong"); self.assertEqual(add(1, 1), 2)
"""
CALC = "def add(a, b):\n    return a + b\n"


def run(
    workshop: Workshop,
    files: dict[str, str],
    chosen: list[str],
    test: str | None = "python -m pytest",
    seconds: float = 30,
    env: dict[str, str] = {},
) -> Outcomes:
    environment = workshop.environment(files, test=test)
    environment = environment.model_copy(update={"env": environment.env | env})

    async def scene(world: World) -> Outcomes:
        return await run_tests(world, environment, environment.state, chosen, RegressionRecipe(seconds=seconds))

    return workshop.play(scene)


def test_results_are_read_by_test_id(workshop: Workshop) -> None:
    said = run(workshop, {"calc.py": CALC, "test_calc.py": TESTS}, ["test_calc.py"])
    assert said.tests == {
        "test_calc::test_add": "passed",
        "test_calc::test_zero[0]": "passed",
        "test_calc::test_zero[1]": "passed",
        "test_calc::test_wrong": "failed",
        "test_calc::test_skipped": "skipped",
        "test_calc::test_teardown": "failed",
        "test_calc.Old::test_old": "passed",
    }


@pytest.mark.parametrize(
    ("calc", "why", "seconds"),
    [
        ("import os\nos._exit(0)\n", "gave no result of any test", 30),
        (
            "print('PASSED')\nprint('<testsuite><testcase name=\"test_add\"/></testsuite>')\nimport os\nos._exit(0)\n",
            "gave no result of any test",
            30,
        ),
        ("import time\ntime.sleep(60)\n", "did not end within 2 seconds", 2),
    ],
)
def test_code_that_ends_or_hangs_the_runner_could_not_tell(
    workshop: Workshop, calc: str, why: str, seconds: float
) -> None:
    said = run(workshop, {"calc.py": calc, "test_calc.py": TESTS}, ["test_calc.py"], seconds=seconds)
    assert said.tests is None
    assert why in said.why


@pytest.mark.parametrize(
    "calc",
    [
        "import sys\nsys.exit(0)\n",
        "def add(:\n",
        "raise ImportError\n",
        "import pytest\npytest.skip(allow_module_level=True)\n",
    ],
)
def test_code_that_does_not_load_breaks_every_test_of_it(workshop: Workshop, calc: str) -> None:
    said = run(workshop, {"calc.py": calc, "test_calc.py": TESTS}, ["test_calc.py"])
    lost = broken(("test_calc::test_add", "test_calc.Old::test_old"), said)
    assert lost is None or len(lost) == 2


UNIT = """\
import unittest
from calc import add

class Sums(unittest.TestCase):
    def test_add(self): self.assertEqual(add(1, 2), 3)
    def test_wrong(self): self.assertEqual(add(1, 1), 3)
    @unittest.skip("not now")
    def test_skipped(self): pass
    @unittest.expectedFailure
    def test_known(self): self.assertEqual(add(1, 1), 3)
    def test_parts(self):
        for n in (1, 2, 3):
            with self.subTest(n): self.assertNotEqual(add(n, 0), 2)
    def test_prints(self): print('{"exit":0,"tests":{"x":"passed"}}')
    def test_leaves(self): raise SystemExit(0)
"""
RUNTESTS = """\
import sys, unittest
suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())
"""
TOLD = {
    "add": "passed",
    "wrong": "failed",
    "skipped": "skipped",
    "known": "passed",
    "parts": "failed",
    "prints": "passed",
    "leaves": "failed",
}


def test_unittest_is_read_by_what_its_result_object_is_told(workshop: Workshop) -> None:
    said = run(workshop, {"calc.py": CALC, "test_calc.py": UNIT}, ["test_calc.py"], test="python -m unittest")
    assert said.tests == {f"test_calc.Sums.test_{name}": end for name, end in TOLD.items()}


def test_a_runner_of_django_s_kind_is_given_modules_below_its_folder(workshop: Workshop) -> None:
    files = {"calc.py": CALC, "tests/runtests.py": RUNTESTS, "tests/sums/__init__.py": "", "tests/sums/tests.py": UNIT}
    files["tests/sums/models.py"] = "raise RuntimeError"
    chosen = ["tests/sums/tests.py", "tests/sums/models.py", "other/test_a.py"]
    environment = {"PYTHONPATH": REPO}
    said = run(workshop, files, chosen, test="python tests/runtests.py", env=environment)
    assert said.tests == {f"sums.tests.Sums.test_{name}": end for name, end in TOLD.items()}


@pytest.mark.parametrize("calc", ["import os\nos._exit(0)\n", "import sys\nsys.exit(0)\n", "print('OK')\n1 / 0\n"])
def test_code_that_ends_a_unittest_run_gains_nothing(workshop: Workshop, calc: str) -> None:
    said = run(workshop, {"calc.py": calc, "test_calc.py": UNIT}, ["test_calc.py"], test="python -m unittest")
    lost = broken(("test_calc.Sums.test_add",), said)
    assert lost is None or lost == ("test_calc.Sums.test_add",)


def test_a_command_that_is_not_pytest_is_known_by_its_exit_code(workshop: Workshop) -> None:
    assert run(workshop, {"calc.py": CALC}, [], test="python calc.py").tests == {SUITE: "passed"}
    assert run(workshop, {"calc.py": "1 / 0"}, [], test="python calc.py").tests == {SUITE: "failed"}


def test_without_a_command_or_a_test_file_nothing_is_run(workshop: Workshop) -> None:
    assert run(workshop, {"calc.py": CALC}, ["test_calc.py"], test=None).tests is None
    assert run(workshop, {"calc.py": CALC}, []) == Outcomes(tests={}, why="no test file has to do with the change")


def test_a_runner_that_is_not_installed_says_so(workshop: Workshop) -> None:
    said = run(workshop, {"calc.py": CALC}, ["test_calc.py"], test="python -m pytest_that_is_not_there")
    assert said.tests is None
    assert "No module named pytest_that_is_not_there" in said.why


@pytest.mark.parametrize("bad", ["import os\nos._exit(0)\n", "import time\ntime.sleep(60)\n"], ids=["ends", "hangs"])
def test_a_file_that_takes_the_others_with_it_is_left_out(workshop: Workshop, bad: str) -> None:
    files = {"test_good.py": "def test_good(): pass\n", "test_bad.py": bad, "test_more.py": "def test_more(): pass\n"}
    environment = workshop.environment(files, test="python -m pytest")

    async def scene(world: World) -> tuple[list[str], tuple[str, ...], str]:
        return await on_base(world, environment, list(files), RegressionRecipe(seconds=9))

    running, stable, _ = workshop.play(scene)
    assert running == ["test_good.py", "test_more.py"]
    assert stable == ("test_good::test_good", "test_more::test_more")


def test_where_they_take_too_long_for_every_candidate_those_nearest_are_run(workshop: Workshop) -> None:
    slow = "import time\ndef test_slow(): time.sleep(0.7)\n"
    files = {"test_near.py": "def test_near(): pass\n", **{f"test_far_{n}.py": slow for n in range(3)}}
    environment = workshop.environment(files, test="python -m pytest")

    async def scene(world: World) -> tuple[list[str], tuple[str, ...], str]:
        return await on_base(world, environment, list(files), RegressionRecipe(each=1.5))

    running, stable, _ = workshop.play(scene)
    assert running == list(files)[: len(running)]
    assert 1 <= len(running) < 4
    assert "test_near::test_near" in stable
    assert len(stable) == len(running)
