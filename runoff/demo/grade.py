"""The grading process of the demo: the only one that opens a hidden check. Run as `python -m runoff.demo.grade`.

Standard input: {"pair", "states", "sandbox", "source", "patches": {id: patch}} as JSON; standard output: {id: whether it is fixed}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from runoff import environments
from runoff.agent.environment import BuildFailed, patched
from runoff.agent.log import Log
from runoff.agent.step import World
from runoff.instance import local_instance
from runoff.releases.pairs import answer, pair
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import REPO, Limits, Refused

_CHECKS = {"check.py": ("python", "/tmp/check.py", REPO), "check.js": ("node", "/tmp/check.js", REPO)}
"""A check's file and the command that runs it: exit code 0 only where all is fixed."""


async def grade(request: dict[str, Any]) -> dict[str, bool]:
    """Whether the hidden check passes on each patch, each on a fresh copy of the environment."""
    wanted = pair(request["pair"])
    (check,) = answer(wanted.id).glob("check.*")
    command = _CHECKS[check.name]
    instance, _ = local_instance(Path(request["source"]), wanted.statement, setup=wanted.setup, test=wanted.test)
    results: dict[str, bool] = {}
    async with open_backend(request["sandbox"], Path(request["states"])) as sandbox:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Log(Path(folder) / "grade.jsonl"), wanted.id, _nobody, sandbox)
            environment = await environments.build(world, instance)
            for name, patch in request["patches"].items():
                try:
                    state = await patched(world, environment, patch.encode("utf-8", "surrogateescape"))
                except (Refused, BuildFailed):
                    results[name] = False
                    continue
                state = await sandbox.write(state, {command[1]: check.read_bytes()})
                done = await sandbox.execute(
                    state, command, Limits(seconds=120), env=environment.env, cwd="/tmp", freeze=False
                )
                results[name] = done.outcome == "finished" and done.exit_code == 0
            await world.close()
    return results


class _Nobody:
    async def ask(self, call: object) -> Any:
        raise AssertionError("grading asks no model")


_nobody = _Nobody()

if __name__ == "__main__":
    print(json.dumps(asyncio.run(grade(json.load(sys.stdin)))))
