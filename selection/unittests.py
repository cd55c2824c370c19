"""Runs a unittest command inside the sandbox and prints each test's outcome. Not imported: its text is given to `python -c`.

Arguments: the command (`python -m unittest`, `python tests/runtests.py`, `./manage.py test` and the like), then labels. The
command's program runs in this process, and what it tells its TestResult is what counts; what tests print is never looked at.
The last line printed is JSON: {"exit": code, "tests": {id: outcome}}. Any Python ≥ 3.6.
"""

import os
import sys

PLACES = sys.path[:]
HERE = os.path.join(os.getcwd(), "")
sys.path[:] = [place for place in PLACES if place and not os.path.join(place, "").startswith(HERE)]
import json  # noqa: E402 - not the repository's json.py
import runpy  # noqa: E402
import shlex  # noqa: E402
import unittest  # noqa: E402

sys.path[:] = PLACES
ENDS = {
    "addSuccess": "passed",
    "addExpectedFailure": "passed",
    "addSkip": "skipped",
    "addFailure": "failed",
    "addError": "failed",
    "addUnexpectedSuccess": "failed",
}
TESTS = {}


def told(name, outcome):
    """A method of TestResult that also keeps the outcome: of a test's parts, the worst."""
    whole = getattr(unittest.TestResult, name)

    def method(self, test, *rest, **more):
        if TESTS.get(test.id()) != "failed":
            TESTS[test.id()] = outcome
        return whole(self, test, *rest, **more)

    return method


def sub_test(self, test, subtest, error, whole=unittest.TestResult.addSubTest):
    if error is not None:
        TESTS[test.id()] = "failed"
    return whole(self, test, subtest, error)


def main():
    out = os.dup(1)
    output = os.open("/tmp/output", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name, outcome in ENDS.items():
        setattr(unittest.TestResult, name, told(name, outcome))
    unittest.TestResult.addSubTest = sub_test
    words = shlex.split(sys.argv[1]) + sys.argv[2:]
    if os.path.basename(words[0]).startswith("python"):
        del words[0]
    code = 0
    try:
        if words[0] == "-m":
            sys.path[0], sys.argv = os.getcwd(), words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = os.path.dirname(os.path.abspath(words[0])), words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:
        code = 1
        os.write(2, repr(error).encode("utf-8", "replace"))
    sys.stdout.flush()
    sys.stderr.flush()
    if not TESTS:
        os.lseek(output, max(0, os.fstat(output).st_size - 3000), 0)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        os.write(out, os.read(output, 3000) + b"\n")
    os.write(out, ("\n" + json.dumps({"exit": code, "tests": TESTS or None}, separators=(",", ":")) + "\n").encode())


main()
