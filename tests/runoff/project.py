"""A tiny project with a bug, and a model on loopback that plays every role for it: what the commands are tried on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.runoff.warm import command

ISSUE = (
    "mean([]) crashes\n\n`mean([])` raises ZeroDivisionError. It should be 0. Means of other lists stay as they are."
)
SOURCE = "def mean(values):\n    return sum(values) / len(values)\n"
TESTS = "from numbers_ import mean\n\n\ndef test_mean():\n    assert mean([1, 2, 3]) == 2\n"
TEST = """<test>
import sys
from numbers_ import mean

try:
    got = [mean([]), mean([1, 3])]
except ZeroDivisionError as error:
    print("mean([]):", error)
    sys.exit(2)
print(got, "expected [0, 2]")
sys.exit(0 if got == [0, 2] else 2)
</test>"""
EDIT = """<edit path="numbers_.py">
<search>
    return sum(values) / len(values)
</search>
<replace>
    return sum(values) / len(values) if values else 0
</replace>
</edit>"""
WORSE = EDIT.replace("if values else 0", "if len(values) else 1 - 1")

SUBMIT = "```bash\nsubmit\n```"
SHELL = [
    "```bash\nsed -i 's,len(values)$,len(values) if values else 0,' numbers_.py && cat numbers_.py\n```",
    "```bash\ncat > /tmp/reproduce.py <<'EOF'\n" + TEST.removeprefix("<test>\n").removesuffix("</test>") + "EOF\n```",
    SUBMIT,
]
"""What it does with a shell, answer by answer; the last again and again."""


def _call(name: str, **arguments: str) -> str:
    return f"```tool\n{json.dumps({'name': name, 'arguments': arguments})}\n```"


TOOLS = [
    _call("edit", path="numbers_.py", old="len(values)\n", new="len(values) if values else 0\n"),
    _call("submit"),
]
"""The same with tools, in the text that a model which has no tool calling is told of."""


def make(folder: Path, files: Mapping[str, str] = {}) -> Path:
    """The project as an unpacked source tree."""
    for path, text in ({"numbers_.py": SOURCE, "tests/test_mean.py": TESTS} | dict(files)).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def answer(messages: list[dict[str, str]]) -> str:
    """What a good engineer would say, by what is asked."""
    first = next(message["content"] for message in messages if message["role"] == "user")
    last = messages[-1]["content"]
    if "JSON object" in first:
        return '```json\n{"numbers_.py": "mean divides by the length"}\n```'
    if "JSON list" in first:
        return '```json\n["numbers_.py"]\n```'
    if first.startswith("Your part: write one test"):
        return TEST if last == first else "<done/>"
    if "with a shell to work in" in first:
        said = sum(message["role"] == "assistant" for message in messages)
        return SHELL[min(said, len(SHELL) - 1)]
    if "with tools to work with" in first:
        said = sum(message["role"] == "assistant" for message in messages)
        return TOOLS[min(said, len(TOOLS) - 1)]
    if first.startswith("Your part: change"):
        return EDIT if last == first else "<done/>"
    if first.startswith("Your part: judge"):
        return "It returns 0 for an empty list.\nVERDICT: YES"
    return "Both are right; A is simpler.\n" + '<choose id="A"/>'


def runoff(
    *arguments: str | Path, env: Mapping[str, str] = {}, before: tuple[str, ...] = (), **how: object
) -> subprocess.CompletedProcess[str]:
    """The command line, as a user types it. `before` is put before the command (`unshare …`)."""
    known = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    if not before and not any(name.startswith("PYTHON") for name in env):  # those are for an interpreter that begins
        return command([*map(str, arguments)], known | dict(env), **({"timeout": 300} | how))  # type: ignore[arg-type]
    typed = [*before, sys.executable, "-c", "from runoff.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        typed, env=known | dict(env), capture_output=True, text=True, check=False, **({"timeout": 300} | how)
    )  # type: ignore[call-overload,no-any-return]
