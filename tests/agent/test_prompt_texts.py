"""What the agents' prompts say, kept as text: a change of a prompt shows as a change of what a model reads.

After a change that is meant: `python -m tests.agent.test_prompt_texts` writes the texts anew; the diff is for reviewers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff.agent.calls import TOOLS
from runoff.agent.environment import Built, Environment
from runoff.agent.observations import AgentRecipe, Loop, Output
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message
from runoff.agent.submission import Work
from runoff.agent.verdict import SPOKEN, Verdict, contract
from runoff.sandbox.protocol import State

SNAPSHOTS = Path(__file__).with_name("snapshots")
_PLACE = State(layers=("x",))
_PLAIN = Environment(state=_PLACE, pristine=_PLACE, test="python -m pytest")
_BUILT = _PLAIN.model_copy(update={"build": "pip install .", "built": Built(binaries=True)})
_PATCH = b"diff --git a/calc.py b/calc.py\n--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
_FAILS = Verdict(outcome="not fixed", why="exit code 2", output="got 1, expected 2\n")
_WORK = Work(
    patch=_PATCH, script="…", before=_FAILS, after=_FAILS.model_copy(update={"outcome": "fixed", "output": ""})
)
_WORKS = {
    "tested": _WORK,
    "untested": Work(patch=_PATCH, left_out=("build/",)),
    "proves nothing": _WORK.model_copy(update={"before": _FAILS.model_copy(update={"outcome": "fixed"})}),
    "does not pass": _WORK.model_copy(update={"after": _FAILS}),
    "nothing changed": Work(),
    "no diff": Work(problem="there is no repository"),
}
_OUTPUTS = {
    "short": Output("exit code 0", "a\nb", None, False),
    "capped": Output("exit code 1", "a\n[… 90 characters left out …]\nz", 12_345, True),
    "silent": Output("timed out after 1 s; everything it had started was ended", "", None, True),
}
_LOOPS = {"warned": Loop("failure", 3, 6), "repeated": Loop("action", 4, 6), "ended": Loop("action", 6, 6)}


def _first(environment: Environment) -> dict[str, Any]:
    return {"recipe": AgentRecipe(), "script": SPOKEN["python"], "contract": contract(60), "environment": environment}


def shell() -> Iterator[tuple[str, str]]:
    say = prompts("shell")
    yield "first", say.first(**_first(_PLAIN))
    yield "first, where something was built", say.first(**_first(_BUILT))
    for name, shown in _OUTPUTS.items():
        yield f"ran, {name}", say.ran(shown=shown, loop=None, left=3)
    for name, loop in _LOOPS.items():
        yield f"ran, {name}", say.ran(shown=_OUTPUTS["short"], loop=loop, left=1)
    for commands, problem, cut in ((0, "", True), (2, "", False), (1, "the block is empty", False)):
        yield (
            f"unusable, {problem or commands}",
            say.unusable(commands=commands, problem=problem, cut=cut, loop=None, left=2),
        )
    for name, work in _WORKS.items():
        yield f"review, {name}", say.review(work=work, script=SPOKEN["python"].left_at, loop=None, left=2)


def calls() -> Iterator[tuple[str, str]]:
    say = prompts("calls")
    yield "tools", "".join(f"{tool.name}: {tool.description}\n{tool.parameters}\n" for tool in TOOLS)
    yield "first", say.first(**_first(_PLAIN))
    yield "ran", say.ran(shown=_OUTPUTS["short"])
    yield "nothing", say.nothing(pattern="def x", path=".")
    for name, (first, of, shown) in {"part": (3, 9, 2), "empty": (1, 0, 0), "behind the end": (7, 1, 0)}.items():
        yield f"viewed, {name}", say.viewed(path="calc.py", text="     3|x", first=first, of=of, shown=shown)
    yield "listed", say.listed(path="/testbed/pkg", text="a.py\nb/")
    yield "not read", say.not_read(path="/testbed/x", why="cat: no such file")
    yield "edited", say.edited(path="calc.py", lines=1, diff="-x = 1\n+x = 2", syntax=["line 1: syntax error near `x`"])
    yield "made", say.edited(path="new.py", lines=1, diff="", syntax=[])
    yield "not edited", say.not_edited(problems=["edit calc.py: the search text does not stand in the file."])
    yield "unusable", say.unusable(problem="there is no tool 'rm'", cut=True)
    yield "no call", say.no_call(cut=True, loop=_LOOPS["warned"], left=1)
    yield "after", say.after(loop=None, left=2)
    yield "review", say.review(work=_WORK, script=SPOKEN["python"].left_at)


PROMPTS = {"shell": shell, "calls": calls}


def text(name: str) -> str:
    """As a model reads them: without the marks of what executions printed."""
    return "\n".join(f"======== {part}\n{Message('user', said).text}" for part, said in PROMPTS[name]())


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_say_what_reviewers_have_seen(name: str) -> None:
    kept = (SNAPSHOTS / f"{name}.txt").read_text()
    assert text(name) == kept, "if this is meant: python -m tests.agent.test_prompt_texts"


if __name__ == "__main__":
    SNAPSHOTS.mkdir(exist_ok=True)
    for one in PROMPTS:
        (SNAPSHOTS / f"{one}.txt").write_text(text(one))
