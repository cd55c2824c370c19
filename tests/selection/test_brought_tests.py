"""Tests that candidates bring in their patches: they must fail on the base, vote once, and never for their author."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.environment import Environment
from runoff.selection.elect import SelectionRecipe, elect
from runoff.selection.protocol import OutcomeTable, Selection
from runoff.selection.repository_tests import labels
from tests.workshop import Workshop, written

FILES = {
    "calc.py": "def half(n):\n    return n / 2\n",
    "test_calc.py": "from calc import half\n\n\ndef test_even():\n    assert half(4) == 2\n",
}
OWN = FILES["test_calc.py"]
FLOOR, TRUNC, ROUND = "return n // 2", "return int(n / 2)", "return round(n / 2)"


def made(name: str, body: str, tests: str | None = None) -> Candidate:
    changed = {"calc.py": f"def half(n):\n    {body}\n"} | ({"test_calc.py": OWN + tests} if tests else {})
    return Candidate(id=name, patch=written(FILES, changed))


ODD = "\n\ndef test_odd():\n    assert half(3) == 1\n    assert isinstance(half(4), int)\n"
BELOW = "\n\ndef test_below():\n    assert half(-3) == -2\n\n\ndef test_below_too():\n    assert half(-5) == -3\n"


@pytest.fixture(scope="module")
def environment(workshop: Workshop) -> Environment:
    return workshop.environment(FILES, test="python -m pytest")


def chosen(
    workshop: Workshop, environment: Environment, candidates: Sequence[Candidate], **recipe: object
) -> tuple[Selection, OutcomeTable]:
    tree = workshop.tree(environment)
    how = SelectionRecipe.model_validate({"brought": True, "seconds": 20, **recipe})
    selection = workshop.play(
        lambda world: elect(world, {}, None, tree, environment, candidates, [], how), Scripted([])
    )
    assert selection.table
    return selection, selection.table


def test_a_test_that_one_brings_tells_the_others_apart(workshop: Workshop, environment: Environment) -> None:
    """Nobody else tests numbers below 0. Who brought the test has no vote of it, so it stands where it stood."""
    pool = [made("a", TRUNC), made("b", FLOOR), made("c", FLOOR + "  # too", BELOW)]
    selection, table = chosen(workshop, environment, pool)
    assert table.generated == ("c:test_calc::test_below",), "both say the same of everyone: one vote"
    assert table.same["c:test_calc::test_below"] == ("c:test_calc::test_below", "c:test_calc::test_below_too")
    assert {name: row["c:test_calc::test_below"] for name, row in table.rows.items()} == {"a": "fail", "b": "pass"}
    assert table.authors == {"c:test_calc::test_below": ("b",)}, "c's change is b's"
    assert table.votes("a") == table.votes("b") == 0


def test_nobody_votes_for_themselves(workshop: Workshop, environment: Environment) -> None:
    wrong = "\n\ndef test_odd():\n    assert half(3) == 2\n"
    selection, table = chosen(
        workshop,
        environment,
        [made("a", ROUND, wrong), made("b", FLOOR), made("c", TRUNC), made("d", "return n >> 1", ODD)],
    )
    votes = {name: table.votes(name) for name in table.rows}
    assert votes == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert selection.chosen in ("b", "c")


def test_what_passes_on_the_base_or_on_nobody_or_on_all_is_no_vote(
    workshop: Workshop, environment: Environment
) -> None:
    useless = "\n\ndef test_six():\n    assert half(6) == 3\n\n\ndef test_no():\n    assert half(3) == 7\n"
    everyone = "\n\ndef test_kind():\n    assert isinstance(half(4), int)\n"
    _, table = chosen(workshop, environment, [made("a", FLOOR, useless + everyone), made("b", TRUNC)])
    assert table.generated == ()


def test_tests_of_candidates_are_left_out_where_nobody_asked(workshop: Workshop, environment: Environment) -> None:
    _, table = chosen(workshop, environment, [made("a", TRUNC), made("b", FLOOR, BELOW)], brought=None)
    assert table.generated == ()


def test_a_test_that_forges_or_breaks_the_run_is_no_vote(workshop: Workshop, environment: Environment) -> None:
    forged = "\n\nprint('PASSED')\nimport os\nos._exit(0)\n"
    _, table = chosen(workshop, environment, [made("a", TRUNC, forged), made("b", FLOOR)])
    assert table.generated == ()


@pytest.mark.parametrize("command", ["python -m pytest", "python -m unittest"])
def test_of_a_file_only_the_brought_tests_are_run_on_the_candidates(workshop: Workshop, command: str) -> None:
    """What else is in the file may take a minute a candidate, or, as here, end the run on every one of them."""
    head = "import os\nimport unittest\n\nfrom calc import half\n\n\nclass CalcTest(unittest.TestCase):\n"
    ends = "    def test_end(self):\n        if half(3) != 1.5:\n            os._exit(1)\n"
    odd = "\n    def test_odd(self):\n        self.assertEqual(half(3), 1)\n"
    files = FILES | {"test_calc.py": head + ends}
    changed = {"calc.py": f"def half(n):\n    {FLOOR}\n", "test_calc.py": head + ends + odd}
    environment = workshop.environment(files, test=command)
    pool = [Candidate(id="a", patch=written(files, changed)), made("b", TRUNC), made("c", "return n")]
    _, table = chosen(workshop, environment, pool)
    (test,) = table.generated
    assert {name: row[test] for name, row in table.rows.items()} == {"a": "pass", "b": "pass", "c": "fail"}


def test_where_tests_stand_by_their_ids() -> None:
    given = [
        ("python -m pytest", "t/test_a.py", "t.test_a.C::test_x[1-a.b]", "t/test_a.py::C::test_x"),
        ("python -m pytest", "t/test_a.py", "::t.test_a", "t/test_a.py"),  # what cannot be collected
        ("python tests/runtests.py", "tests/admin/tests.py", "admin.tests.C.test_x", "admin.tests.C.test_x"),
        ("python runtests.py", "admin/tests.py", "setUpClass (admin.tests.C)", "admin.tests"),
        ("python -m unittest", "t/test_a.py", "t.test_a.C.test_x", "t.test_a.C.test_x"),
    ]
    assert [labels(command, [path], [test]) for command, path, test, _ in given] == [[then] for *_, then in given]
