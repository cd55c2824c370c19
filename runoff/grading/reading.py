"""What the swebench package says of the output of a row's tests: its own specs, parsers and reports decide, nothing of ours.

Imported by the grading process alone: the package takes seconds to import, and a row is an answer.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runoff.agent.patches import file_parts
from runoff.datasets.protocol import Answer, Problem
from runoff.grading.script import evaluation
from runoff.sandbox.protocol import SandboxUnavailable, Value

MISSING = "MISSING"


class Verdict(Value):
    resolved: bool
    why: str = ""
    tests: dict[str, str] = {}
    """See `Grade.tests`."""


def check() -> None:
    """Raises SandboxUnavailable where the package is not installed."""
    if not find_spec("swebench"):
        what = "the swebench package, which says what tests say, is not installed"
        raise SandboxUnavailable(what, "pip install 'runoff[bench]'")


def row(problem: Problem, answer: Answer) -> dict[str, Any]:
    """The two as a row of a dataset, in the package's own names."""
    return {
        "instance_id": problem.id,
        "image": problem.image,
        "repo": problem.repo,
        "version": problem.version,
        "base_commit": problem.base_commit,
        "log_parser": answer.log_parser,
        "eval_type": answer.eval_type,
        "eval_script": evaluation(problem, answer),
        "FAIL_TO_PASS": list(answer.fail_to_pass),
        "PASS_TO_PASS": list(answer.pass_to_pass),
    }


def script(problem: Problem, answer: Answer) -> str:
    """The evaluation script with the line that tells the tests' exit code, which the package adds."""
    from swebench.harness.utils import make_test_spec

    return str(make_test_spec(row(problem, answer)).eval_script)


def verdict(problem: Problem, answer: Answer, output: str) -> Verdict:
    """Of all that the script wrote, both streams. Raises ValueError for a parser that the package does not have."""
    from swebench.harness.grading import get_eval_report, get_logs_eval
    from swebench.harness.log_parsers import PARSER_REGISTRY
    from swebench.harness.utils import make_test_spec

    if answer.log_parser not in PARSER_REGISTRY:
        raise ValueError(f"{problem.id}: the swebench package has no parser {answer.log_parser!r}")
    spec = make_test_spec(row(problem, answer))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "test_output.txt")
        file.write_text(output, errors="replace")  # read back as the harness reads it: by its locale's line ends
        said = get_eval_report(spec, {"instance_id": problem.id, "model_patch": "-"}, str(file), True)[problem.id]
        found, _ = get_logs_eval(spec, str(file))
    return _concluded(answer, said, found)


def _concluded(answer: Answer, said: Mapping[str, Any], found: Mapping[str, str]) -> Verdict:
    tests = statuses(answer, found)
    if said["resolved"]:
        return Verdict(resolved=True, tests=tests)
    if not said["patch_successfully_applied"]:
        reason = said.get("infra_failure_reason")
        why = "the tests did not run to their end, or say otherwise than their exit code"
        return Verdict(resolved=False, why=f"{why}{f' ({reason})' if reason else ''}", tests=tests)
    fails = {what: len(of["failure"]) for what, of in said["tests_status"].items() if of["failure"]}
    lost = [
        f"{count} of {len(expected)} {what} fail" for what, expected in _expected(answer) if (count := fails.get(what))
    ]
    return Verdict(resolved=False, why="; ".join(lost) or "no test that must pass is said to pass", tests=tests)


def statuses(answer: Answer, found: Mapping[str, str]) -> dict[str, str]:
    """Of every test that the answer names, by the package's own matching of truncated ids."""
    from swebench.harness.grading import _resolve_case

    names = (name for _, expected in _expected(answer) for name in expected)
    keys = {name: _resolve_case(name, found) for name in names}
    return {name: found[key] if key is not None else MISSING for name, key in keys.items()}


def changed_files(answer: Answer) -> tuple[str, ...]:
    """See `Grade.gold_files`."""
    parts = file_parts(answer.patch.encode("utf-8", "surrogateescape"))
    there = (part for part in parts if not re.search(rb"^(new file mode |--- /dev/null)", part.text, re.MULTILINE))
    return tuple(dict.fromkeys(part.paths[0] for part in there if part.paths))


def nothing(answer: Answer) -> dict[str, str]:
    """The statuses where no test was run."""
    return {name: MISSING for _, expected in _expected(answer) for name in expected}


def _expected(answer: Answer) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("FAIL_TO_PASS", answer.fail_to_pass), ("PASS_TO_PASS", answer.pass_to_pass)
