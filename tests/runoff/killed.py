"""The process that the kill test kills: one run of one instance, whose model sits behind a socket of the test's.

Its one argument is JSON: `source`, `out`, `states`, `socket`, `life`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from runoff.agent.budget import Budget
from runoff.agent.protocol import Call, ModelUnreachable, Reply
from runoff.instance import local_instance
from runoff.models import roles
from runoff.recipe import load_recipe
from runoff.report import report
from runoff.run import Run, RunDirectory, write_views
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.environments import builder
from runoff.sandbox.environments.dependencies import Plan

ISSUE = "minutes('-1:30') gives -30, it should be -90."


class Elsewhere:
    """Asks the test, which outlives this process and so knows every call that was ever made."""

    def __init__(self, socket: str, life: int) -> None:
        self._socket, self._life = socket, life

    async def ask(self, call: Call) -> Reply:
        said = [message.text for message in call.request.conversation.messages()]
        asked = {"life": self._life, "trajectory": call.trajectory, "path": call.path, "said": said}
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=1 << 24)
        try:
            writer.write(json.dumps(asked).encode() + b"\n")
            answer = await reader.readline()
        finally:
            writer.close()
        if not answer:
            raise ModelUnreachable("the test has gone")
        return Reply.model_validate_json(answer)


async def main(given: dict[str, Any]) -> None:
    builder.plan = lambda files, node=None: Plan()  # nothing is installed: no network
    instance, _ = local_instance(Path(given["source"]), ISSUE, test="python -m unittest -q")
    recipe = load_recipe("hybrid", ["trajectories=4"])
    model = Elsewhere(given["socket"], given["life"])
    async with Bubblewrap(Path(given["states"]), "root") as sandbox:
        run = Run(RunDirectory(Path(given["out"])), [instance], recipe, roles(["m"]), model, sandbox, Budget())
        try:
            results = await run.solve()
        finally:
            await run.close()
        write_views(run.directory, results, report(run, results, seconds=0))


asyncio.run(main(json.loads(sys.argv[1])))
