"""A release pair's answer in SWE-bench's terms: the hidden check as a test patch, and the script that runs it. Opens answers."""

from __future__ import annotations

import re

from runoff.datasets.protocol import Answer
from runoff.releases import pairs as releases
from runoff.releases.pairs import Pair
from runoff.sandbox.protocol import REPO

PARSER = "parse_log_pytest"
SECONDS = 300
"""Of one run of a check; the longest takes some ten."""

_RUN = {"check.py": "python /tmp/hidden_check.py", "check.js": "node /tmp/hidden_check.js"}


def answer(one: Pair) -> Answer:
    name, text = check(one)
    file = f"hidden_check{name.removeprefix('check')}"
    test = f"{file}::fixed"
    patch = _added(file, text)
    return Answer(
        id=one.id,
        patch=_as_of_git((releases.answer(one.id) / "good.diff").read_bytes().decode()),
        test_patch=patch,
        eval_script=_script(file, patch, run(name, f"{REPO}/{file}"), test),
        log_parser=PARSER,
        fail_to_pass=(test,),
        seconds=2 * SECONDS,
    )


def check(one: Pair) -> tuple[str, str]:
    """The check's file and its text."""
    (file,) = releases.answer(one.id).glob("check.*")
    return file.name, file.read_text()


def run(name: str, at: str) -> str:
    """Shell that runs a check which lies at `at` on the tree at REPO, from elsewhere, so that its imports are the installed ones.

    Exit code 0 only where all is fixed.
    """
    copy = _RUN[name].split()[1]
    return f"cp {at} {copy} && cd /tmp && timeout {SECONDS} {_RUN[name]} {REPO}"


def _script(file: str, patch: str, command: str, test: str) -> str:
    mark = "EOF_114329324912"
    return f"""#!/bin/bash
set -uxo pipefail
source /opt/miniconda3/bin/activate
conda activate testbed
cd {REPO}
git config --global --add safe.directory {REPO}
rm -rf {file}
git apply --verbose - <<'{mark}'
{patch}{mark}
: '>>>>> Start Test Output'
if ({command}); then echo 'PASSED {test}'; else echo 'FAILED {test}'; (exit 1); fi
: '>>>>> End Test Output'
rm -rf {file}
"""


def _as_of_git(diff: str) -> str:
    """With git's header over each file, where the diff has none."""
    if "diff --git" in diff:
        return diff
    return re.sub(r"^(--- a/(\S+).*\n\+\+\+ b/(\S+).*\n)(?=@@ )", r"diff --git a/\2 b/\3\n\1", diff, flags=re.MULTILINE)


def _added(file: str, text: str) -> str:
    """The diff that adds a file."""
    lines = text.split("\n")
    whole = lines[-1] == ""
    if whole:
        lines.pop()
    body = "".join(f"+{line}\n" for line in lines) + ("" if whole else "\\ No newline at end of file\n")
    return f"diff --git a/{file} b/{file}\nnew file mode 100644\n--- /dev/null\n+++ b/{file}\n@@ -0,0 +1,{len(lines)} @@\n{body}"
