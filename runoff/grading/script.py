"""The scripts that grading runs: how a patch is applied, and how its tests are run, both as the harness does it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runoff.agent.patches import patched_paths
from runoff.datasets.protocol import Answer, Problem

PATCH, SCRIPT = "/tmp/patch.diff", "/tmp/eval.sh"


def apply(commands: Sequence[str]) -> str:
    """Shell that applies the patch on its standard input by the first of the harness's `commands` that can.

    Exit code 1 where none can. A failed one may leave half of it behind, so each begins on a clean tree, and at last it is
    looked whether all of it is there after all: as `swebench.harness.run_evaluation` does.
    """
    lines = [f"cat >{PATCH}"]
    for place, command in enumerate(commands):
        clean = "{ git checkout -- . ; git clean -fd; } >/dev/null 2>&1\n" if place else ""
        lines.append(f"{clean}{command} {PATCH} && exit 0")
    lines.append(f"git apply --check --reverse {PATCH} && exit 0\nexit 1")
    return "\n".join(lines)


def evaluation(problem: Problem, answer: Answer) -> str:
    """The row's own script, or one of the same shape made of its test patch and its test command."""
    if answer.eval_script:
        return answer.eval_script
    paths = map(shlex.quote, patched_paths(answer.test_patch.encode("utf-8", "surrogateescape")))
    reset = [f"git checkout HEAD -- {path} || rm -f -- {path}" for path in paths]
    mark = "EOF_of_the_test_patch"
    while mark in answer.test_patch:
        mark += "_"
    patch = answer.test_patch if answer.test_patch.endswith("\n") else f"{answer.test_patch}\n"
    return "\n".join(
        [
            "#!/bin/bash",
            "set -uxo pipefail",
            f"cd {shlex.quote(problem.workdir)}",
            *([*reset, f"git apply -v - <<'{mark}'\n{patch}{mark}"] if reset else []),
            ": '>>>>> Start Test Output'",
            answer.test_command,
            ": '>>>>> End Test Output'",
            *reset,
        ]
    )
