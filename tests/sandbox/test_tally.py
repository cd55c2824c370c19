"""What a run of a project's tests came to, by what real runners print; and what rules make of a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.sandbox.environments import repairs
from runoff.sandbox.environments.tally import Tally, tally
from runoff.sandbox.protocol import Execution


def ran(text: str, exit_code: int | None = 0, **more: object) -> Tally:
    given = {
        "outcome": "finished",
        "exit_code": exit_code,
        "stdout": text.encode("utf-8", "replace"),
        "stderr": b"",
        "seconds": 1,
        "after": None,
    }
    return tally(Execution.model_validate(given | more))


@pytest.mark.parametrize(
    ("text", "runner", "passed", "failed", "skipped"),
    [
        ("....\n===== 3 failed, 100 passed, 2 skipped, 1 error in 2.31s =====\n", "pytest", 100, 4, 2),
        ("12 passed, 1 xfailed, 3 warnings in 0.10s\n", "pytest", 12, 0, 1),
        ("===== no tests ran in 0.01s =====\n", "pytest", 0, 0, 0),
        ("Ran 12 tests in 0.03s\n\nFAILED (failures=1, errors=2, skipped=3)\n", "unittest", 6, 3, 3),
        ("Ran 1 test in 0.000s\n\nOK\n", "unittest", 1, 0, 0),
        ("  12 passing (40ms)\n  2 pending\n  1 failing\n", "mocha", 12, 1, 2),
        ("Tests:       1 failed, 2 skipped, 30 passed, 33 total\n", "jest", 30, 1, 2),
        (" Test Files  1 passed (1)\n      Tests  4 passed | 1 skipped (5)\n", "vitest", 4, 0, 1),
        ("TAP version 13\nok 1 a\nnot ok 2 b\nok 3 c # SKIP\n1..3\n# tests 3\n# pass  1\n# fail  1\n", "tap", 1, 1, 0),
        ("ok 1 - a\nok 2 - b\n1..2\n", "tap", 2, 0, 0),
        ("ℹ tests 5\nℹ pass 4\nℹ fail 1\nℹ skipped 0\n", "node", 4, 1, 0),
        ("  3 tests passed\n  1 test failed\n", "ava", 3, 1, 0),
        ("5 specs, 1 failure, 1 pending spec\n", "jasmine", 3, 1, 1),
        ("ok  \texample.com/m\t0.002s\nFAIL\texample.com/n [build failed]\n?   \tx\t[no test files]\n", "go", 1, 1, 0),
        ("=== RUN   TestA\n--- PASS: TestA (0.00s)\n--- FAIL: TestB (0.00s)\nFAIL\tm\t0.1s\n", "go", 1, 1, 0),
        ("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\ntest result: FAILED. 1 passed; 2 failed; 0 ignored;\n", "cargo", 4, 2, 1),
        ("\n50% tests passed, 1 tests failed out of 2\n", "ctest", 1, 1, 0),
        ("# TOTAL: 5\n# PASS:  3\n# SKIP:  1\n# XFAIL: 0\n# FAIL:  1\n# XPASS: 0\n# ERROR: 0\n", "automake", 3, 1, 1),
        ("Ok:                 7   \nExpected Fail:      0   \nFail:               1   \nSkipped:            2   \nTimeout:            1\n", "meson", 7, 2, 2),
    ],
)  # fmt: skip
def test_every_known_runner_s_counts_are_read(text: str, runner: str, passed: int, failed: int, skipped: int) -> None:
    counted = ran(f"\x1b[32mnoise\x1b[0m\n{text}", 1 if failed else 0)
    assert (counted.runner, counted.passed, counted.failed, counted.skipped) == (runner, passed, failed, skipped)
    assert counted.works == (passed > 0)


def test_an_unknown_runner_is_one_test_by_its_exit_code_and_silence_is_none() -> None:
    assert (ran("all fine\n").passed, ran("all fine\n", 1).failed) == (1, 1)
    assert not ran("").works
    assert not ran("no tests specified\n").works
    late = ran("", None, outcome="timed out")
    assert not late.works
    assert "timed out" in str(late)


def test_tests_that_could_not_reach_a_server_could_not_tell_and_are_named() -> None:
    text = (
        "FAILED tests/test_db.py::test_a - psycopg2.OperationalError: connection to server at localhost failed: Connection refused\n"
        "FAILED tests/test_web.py::test_b - socket.gaierror: [Errno -3] Temporary failure in name resolution\n"
        "FAILED tests/test_c.py::test_c - AssertionError: 1 != 2\n"
        "===== 3 failed, 7 passed in 1.00s =====\n"
    )
    counted = ran(text, 1)
    assert (counted.passed, counted.failed, counted.untold_count) == (7, 1, 2)
    assert counted.untold == ("tests/test_db.py::test_a", "tests/test_web.py::test_b")
    assert "2 could not tell" in str(counted)


def test_what_is_missing_is_found_by_its_widely_known_names_and_nothing_else_is_guessed() -> None:
    said = "ModuleNotFoundError: No module named 'hypothesis'\nModuleNotFoundError: No module named 'someinternalthing'\nE  fixture 'mocker' not found\n"
    assert repairs.missing_packages(said) == ("hypothesis", "pytest-mock")
    assert repairs.missing_packages("pytest: error: unrecognized arguments: --cov=x --cov-report=xml") == (
        "pytest-cov",
    )
    assert repairs.missing_packages("No module named 'pkg_resources'") == ("setuptools<81",)
    debian = repairs.missing_of_debian(
        "a.c:1:10: fatal error: libpq-fe.h: No such file or directory\nsh: 1: bison: not found\n"
    )
    assert repairs.remedy(debian) == "apt-get install libpq-dev bison"


@given(st.text(max_size=400), st.sampled_from([0, 1, None]))
def test_whatever_is_printed_counts_are_counts(text: str, exit_code: int | None) -> None:
    counted = ran(text, exit_code)
    assert min(counted.passed, counted.failed, counted.skipped, counted.untold_count) >= 0
    assert Tally.model_validate(counted.model_dump(mode="json")) == counted
    repairs.missing_packages(text)
    repairs.missing_of_debian(text)
