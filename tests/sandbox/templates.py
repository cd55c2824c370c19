"""A sandbox whose template is there, and states that it can be used for: what its tests begin with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.environments import interpreters
from runoff.sandbox.protocol import Base, Execution, State

PROGRAM = (Path(__file__).parents[2] / "sandbox" / "template.py").read_text()
FORKED = "import os; print(os.getppid())"
"""Prints 0 where a template's fork runs, whose parent cannot be seen."""


def opened(root: Path, change: Callable[[str], str] = lambda text: text, *, looked_at: bool = True) -> Bubblewrap:
    """As root, with one slot. `change`: what is different about the template's program."""
    without = frozenset() if looked_at else frozenset({"template-look"})
    sandbox = Bubblewrap(root, "root", slots=1, without=without)
    program = root.with_name(f"{root.name}-program.py")
    program.write_text(change(PROGRAM))
    sandbox._template = str(program)
    return sandbox


async def begun(sandbox: Bubblewrap, *, until: bool = True) -> State:
    """A virtual environment, and a template that has imported what it does. `until`: whether it has to be used."""
    python = interpreters.find_python()
    made = await sandbox.execute(
        await sandbox.base(Base(binds=python.binds)), [python.path, "-m", "venv", "--without-pip", "/env"]
    )
    assert made.after, made
    ends = time.monotonic() + 30
    while until:
        await run(sandbox, made.after, "pass")
        if await is_used(sandbox, made.after):
            break
        assert time.monotonic() < ends, "no template"
        await asyncio.sleep(0.1)
    return made.after


async def run(sandbox: Bubblewrap, state: State, text: str, **how: Any) -> Execution:
    return await sandbox.execute(state, ["python", "-c", text], **({"template": True, "freeze": False} | how))


async def is_used(sandbox: Bubblewrap, state: State) -> bool:
    return (await run(sandbox, state, FORKED)).text.strip() not in ("1", "2")
