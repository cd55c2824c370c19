"""What running a generated test says: fixed, not fixed, or broken and why. Exit codes alone lie, so a wrapper reports.

`harness.py` runs the script and prints a record behind a nonce that only this run knows. A candidate that ends the
process, prints forged lines or fails to import can therefore not look fixed. What a candidate that adapts to all this
inside the same process could still do is in the security model (docs).
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from importlib.resources import files
from typing import Literal

from runoff.agent.protocol import digest
from runoff.agent.step import Run, Step, World
from runoff.sandbox.protocol import Execution, Limits, State, Value

SHOWN = 5000
"""Characters of a script's output that a model sees."""

_CONTRACT = """\
- It is a complete Python script, run from the root of the repository with the project importable; no test runner.
- It ends with sys.exit(0) when the behaviour is what the issue asks for, and with sys.exit(2) when it is not.
  (A failing `assert` of its own counts as exit 2. Any other exception, exit code, or running off the end says nothing.)
- It must reach its verdict by observing behaviour: it calls the code and compares results. It does not read source code,
  and it decides nothing from versions or file names.
- It prints what it expected and what it got, in detail only for what is wrong, and at the end one line for each case that failed: of its
  output you see some {shown} characters, the middle of a longer one is left out.
- No network; it ends within {seconds} seconds."""


def contract(seconds: float) -> str:
    """What a prompt says a test script must be."""
    return _CONTRACT.format(seconds=f"{seconds:g}", shown=SHOWN)


class Verdict(Value):
    outcome: Literal["fixed", "not fixed", "broken"]
    why: str
    output: str = ""
    """What the script printed, capped, without the record; for people and models."""


def script_run(
    world: World, state: State, script: str, *, seconds: float, env: dict[str, str], repetition: int = 0
) -> Run:
    """The execution of a generated test in a state."""
    request = json.dumps({"nonce": _nonce(world, state, script, repetition), "script": script})
    limits = Limits(seconds=seconds)
    argv = ("python", "-c", _harness())
    return Run(state=state, argv=argv, stdin=request, env=env, limits=limits, repetition=repetition)


def read_verdict(run: Run, done: Execution, shown: int = SHOWN) -> Verdict:
    """The verdict of a finished test run; what it printed is cut to `shown` characters, head and tail."""
    nonce = json.loads(run.stdin)["nonce"]
    body, mark, record = done.stdout.decode("utf-8", "replace").rpartition(f"\n{nonce} ")
    printed = capped(
        (body if mark else done.stdout.decode("utf-8", "replace")) + done.stderr.decode("utf-8", "replace"), shown
    )
    if done.outcome == "timed out":
        return Verdict(outcome="broken", why=f"no verdict within {run.limits.seconds:g} seconds", output=printed)
    if done.outcome == "killed":
        return Verdict(outcome="broken", why=f"killed for the limit on {done.limit}", output=printed)
    if not mark:
        return Verdict(
            outcome="broken",
            why=f"the process ended (exit code {done.exit_code}) before the script did",
            output=printed,
        )
    try:
        said = json.loads(record.partition("\n")[0])  # a process that the script left may print after it
        why = said["why"].encode("utf-8", "replace").decode()
        return Verdict(outcome=said["verdict"], why=why, output=printed)
    except (ValueError, TypeError, LookupError, AttributeError):  # only who knows the nonce can write such a record
        return Verdict(outcome="broken", why="the record of the run is forged or damaged", output=printed)


async def verdict_on_base(
    step: Step, name: str, state: State, script: str, *, seconds: float, env: dict[str, str]
) -> Verdict:
    """What a script says of the unchanged code. It counts as `not fixed` only if it says so twice: a flaky one is broken."""
    first, second = (script_run(step.world, state, script, seconds=seconds, env=env, repetition=n) for n in (0, 1))
    verdict = read_verdict(first, await step.execute(name, first))
    if verdict.outcome != "not fixed":
        return verdict
    again = read_verdict(second, await step.execute(f"{name}-again", second))
    if again.outcome == "not fixed":
        return verdict
    why = f"flaky: run twice on the same code, it said not fixed and then {again.outcome} ({again.why})"
    return Verdict(outcome="broken", why=why, output=again.output)


def must_fail_control(scripts: list[str]) -> str:
    """A script that imports what the tests import and then says `not fixed`: who passes it lies about all others."""
    wanted: dict[str, None] = {}
    for script in scripts:
        try:
            tree = ast.parse(script)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
                everything = re.fullmatch(r"from (\w[\w.]*) import \*", line := ast.unparse(node))
                wanted[f"import {everything[1]}" if everything else line] = None
    lines = [f"try:\n    {line}\nexcept Exception:\n    pass" for line in wanted]
    return "\n".join([*lines, "import sys", "sys.exit(2)"]) + "\n"


def capped(text: str, limit: int) -> str:
    """Head and tail of a long text, with what was left out said."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit * 2 // 3], text[-(limit // 3) :]
    return f"{head}\n[… {len(text) - len(head) - len(tail)} characters left out …]\n{tail}"


@cache
def _harness() -> str:
    return files("runoff.agent").joinpath("harness.py").read_text()


def _nonce(world: World, *what: object) -> str:
    return digest(world.log.secret, *map(str, what))
