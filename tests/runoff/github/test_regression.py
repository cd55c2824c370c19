"""A reproduction as a test of the project's own: it is one that fails before and passes after, or it is none."""

from __future__ import annotations

import sys
import types
import unittest
from collections.abc import Mapping
from typing import Any

import pytest

from runoff.github.regression import Added, added, place, written
from tests.runoff.github.decided import SCRIPT
from tests.runoff.project import SOURCE, TESTS
from tests.workshop import Workshop

LONG = '''"""What it is."""
from __future__ import annotations
import sys
import numbers_  # the module

TEXT = """a
  b
c"""
SHOWN = f"""{TEXT}
d"""

def shown():
    # a comment
    return TEXT

assert shown() == "a\\n  b\\nc", "layout is kept"
assert SHOWN.endswith("c\\nd")
sys.exit(0 if numbers_.mean([]) == 0 else 2)
'''
FIXED = SOURCE.replace("len(values)\n", "len(values) if values else 0\n")


def run(text: str, fixed: bool) -> bool:
    """Whether the test in a module passes."""
    module = types.ModuleType("numbers_")
    exec("def mean(values): return 0" if fixed else "def mean(values): return 1", module.__dict__)
    sys.modules["numbers_"] = module
    try:
        made: dict[str, Any] = {"__name__": "made"}
        exec(compile(text, "made.py", "exec"), made)
        cases = [case for case in made.values() if isinstance(case, type) and issubclass(case, unittest.TestCase)]
        for case in cases:
            return unittest.defaultTestLoader.loadTestsFromTestCase(case).run(unittest.TestResult()).wasSuccessful()
        made["test_issue_12"]()
    except AssertionError:
        return False
    finally:
        del sys.modules["numbers_"]
    return True


@pytest.mark.parametrize("unittests", [False, True])
def test_it_says_as_a_test_what_the_script_said(unittests: bool) -> None:
    text = written(LONG, "issue_12", "mean([]) crashes", unittests=unittests)
    assert text
    assert run(text, fixed=True)
    assert not run(text, fixed=False)
    assert "    # a comment\n" in text


def test_a_script_that_says_nothing_is_no_test_that_passes() -> None:
    text = written("import sys\nprint('nothing')\n", "issue_12", "", unittests=False)
    assert text
    assert not run(text, fixed=True)
    assert written("if", "issue_12", "", unittests=False) is None


def test_a_title_is_a_comment_whatever_it_holds() -> None:
    text = written(SCRIPT, "issue_12", 'x\nimport os\n"""\r\u2028import os', unittests=False)
    assert text
    first, *rest = text.split("\n")
    assert first.startswith("# x import os")
    assert "import os" not in "\n".join(rest)


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (["tests/test_a.py"], "tests/test_runoff_issue_12.py"),
        (["pkg/a.py", "pkg/a_test.py", "pkg/b_test.py"], "pkg/runoff_issue_12_test.py"),
        (["numbers_.py"], "tests/test_runoff_issue_12.py"),
        (["tests/test_a.py", "tests/test_runoff_issue_12.py"], "tests/test_runoff_issue_12_2.py"),
        (["tests/unit/test_numbers_.py", "tests/slow/test_x.py", "numbers_.py"], "tests/unit/test_runoff_issue_12.py"),
    ],
)
def test_it_lies_where_the_project_s_tests_lie(files: list[str], path: str) -> None:
    assert place(dict.fromkeys(files, b""), ["numbers_.py"], "issue_12") == path


@pytest.mark.parametrize(
    ("script", "test", "says"),
    [
        (SCRIPT, "python -m pytest", None),
        pytest.param(SCRIPT, "python -m unittest", None, marks=pytest.mark.full),
        (SCRIPT, "make check", "not run by pytest or unittest"),
        pytest.param("import sys\nsys.exit(0)\n", "python -m pytest", "should fail", marks=pytest.mark.full),
        pytest.param("import sys\nsys.exit(2)\n", "python -m pytest", "failed with the change", marks=pytest.mark.full),
        pytest.param(
            "import sys\nif __name__ == '__main__':\n    sys.exit(0)\n",
            "python -m pytest",
            "failed with the change",
            marks=pytest.mark.full,
        ),
    ],
)
def test_it_is_added_only_if_it_tells_there(workshop: Workshop, script: str, test: str, says: str | None) -> None:
    files: Mapping[str, str] = {"numbers_.py": SOURCE, "tests/test_mean.py": TESTS, "tests/__init__.py": ""}
    environment = workshop.environment(files, test=test)
    patch = workshop.patch(environment, {"numbers_.py": FIXED})
    made = workshop.play(lambda world: added(world, environment, patch, script, "issue_12", "mean([]) crashes", 60))
    if says is None:
        assert isinstance(made, Added), made
        assert made.path == "tests/test_runoff_issue_12.py"
    else:
        assert isinstance(made, str)
        assert says in made
