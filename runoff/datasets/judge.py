"""Whether the tests of a Harbor task passed, as SWE-bench's harness would say. Its text runs in the task's container.

judge.py OUTPUT TESTS: the output of eval.sh, and the JSON of FAIL_TO_PASS and PASS_TO_PASS. Exit code 0: all passed. Reads what
pytest prints with -rA, as swebench's parse_log_pytest and its grading do. Any Python >= 3.6.
"""

import json
import re
import sys

START, END, CODE = ">>>>> Start Test Output", ">>>>> End Test Output", ">>>>> Test Exit Code"
STATUSES = ("FAILED", "PASSED", "SKIPPED", "ERROR", "XFAIL")


def statuses(output: str) -> "dict[str, str]":
    """Test id -> status."""
    found = {}  # type: dict[str, str]
    for line in output.split("\n"):
        if not line.startswith(STATUSES):
            continue
        words = (line.replace(" - ", " ") if line.startswith("FAILED") else line).split()
        if len(words) > 1 and not (words[0] == "SKIPPED" and re.match(r"^\[\d+\]$", words[1])):
            found[words[1]] = words[0]
    return found


def resolved(output: str, tests: "dict[str, list[str]]") -> bool:
    if START not in output or END not in output:
        return False
    found = statuses(output.split(START)[1].split(END)[0]) or statuses(output)
    code = re.search(re.escape(CODE) + r":\s*(-?\d+)", output)
    failed = any(status in ("FAILED", "ERROR") for status in found.values())
    if not found or (code and int(code.group(1)) and not failed):
        return False  # what was printed does not describe what ran
    return all(_is(test, found, ("PASSED", "XFAIL")) for test in tests["FAIL_TO_PASS"]) and all(
        _is(test, found, ("PASSED", "XFAIL", "SKIPPED")) for test in tests["PASS_TO_PASS"]
    )


def _is(test: str, found: "dict[str, str]", good: "tuple[str, ...]") -> bool:
    if test in found:
        return found[test] in good
    if test.count("[") > test.count("]"):  # an id that the dataset has cut off
        like = [found[name] for name in found if name.startswith(test)]
        return bool(like) and len({status in ("PASSED", "XFAIL") for status in like}) == 1 and like[0] in good
    return False


if __name__ == "__main__":
    with open(sys.argv[1], errors="replace") as output, open(sys.argv[2]) as tests:
        sys.exit(0 if resolved(output.read(), json.load(tests)) else 1)
