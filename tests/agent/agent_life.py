"""The process that the kill test of the agents kills: one trajectory in a real sandbox, whose answers are written below.

Its arguments: the folder for its log and states, and the kind of agent. What it asks and executes, it notes in the folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from runoff.agent.calls import work_with_tools
from runoff.agent.editing import Candidate
from runoff.agent.environment import Environment, read_tree
from runoff.agent.log import Log
from runoff.agent.observations import AgentRecipe
from runoff.agent.protocol import Call, Message, Reply, ToolCall
from runoff.agent.shell import work_in_shell
from runoff.agent.step import Ended, Step, World, trajectory
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Execution
from tests.workshop import Workshop

COMMANDS = [f"echo {n} >> journal.txt; cat journal.txt" for n in range(1, 7)]
SCRIPT = "import pathlib, sys\nsys.exit(0 if pathlib.Path('journal.txt').exists() else 2)\n"


def answer(kind: str, turn: int) -> Reply:
    """Adds a line to a file of the repository with each command: one that ran twice would show in the patch."""
    commands = [f"cat > /tmp/reproduce.py <<'EOF'\n{SCRIPT}EOF", *COMMANDS]
    command = commands[turn - 1] if turn <= len(commands) else None
    if kind == "shell":
        return Reply(text=f"Next.\n```bash\n{command or 'submit'}\n```")
    if command is None:
        return Reply(text="", calls=(ToolCall(id="1", name="submit", arguments="{}"),))
    run = ToolCall(id="1", name="run", arguments=json.dumps({"command": command}))
    edit = {"path": f"new{turn}.py", "old": "", "new": f"x = {turn}\n"}
    return Reply(text="", calls=(run, ToolCall(id="2", name="edit", arguments=json.dumps(edit))))


class Noting(Bubblewrap):
    """Notes what it has begun to execute."""

    notes: Path | None = None

    async def execute(self, state: Any, argv: Any, *rest: Any, **more: Any) -> Execution:
        if self.notes:
            note(self.notes, {"state": state.digest, "argv": list(argv)})
        return await super().execute(state, argv, *rest, **more)


class Answering:
    def __init__(self, kind: str, notes: Path) -> None:
        self._kind, self._notes = kind, notes

    async def ask(self, call: Call) -> Reply:
        note(self._notes, {"asked": call.path})
        await asyncio.sleep(0.02)
        return answer(self._kind, int(call.path.removeprefix("turn").partition("/")[0]))


def note(file: Path, what: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(what) + "\n")


async def live(folder: Path, kind: str) -> Ended[Candidate]:
    notes = folder / "notes"
    async with Noting(folder / "states") as sandbox:
        source = sandbox.named("the source")
        if source is None:
            source = await Workshop.source(sandbox, {"calc.py": b"x = 1\n"})
            sandbox.keep("the source", source)
        sandbox.notes = notes
        environment = Environment(state=source, pristine=source)
        world = World(Log(folder / "log.jsonl"), "instance", Answering(kind, notes), sandbox)
        sandbox.refer(folder / "log.jsonl")
        recipe = AgentRecipe(turns=20, seconds=20)
        shared = Message("system", "the issue")
        tree = await read_tree(world, environment)

        async def strategy(step: Step) -> Ended[Candidate]:
            if kind == "shell":
                return await work_in_shell(step, "m", shared, environment, recipe)
            return await work_with_tools(step, "m", shared, tree, environment, recipe)

        try:
            return await trajectory(world, "one", Candidate, strategy)
        finally:
            await world.close()


if __name__ == "__main__":
    ended = asyncio.run(live(Path(sys.argv[1]), sys.argv[2]))
    print(json.dumps(ended.model_dump(mode="json")))
