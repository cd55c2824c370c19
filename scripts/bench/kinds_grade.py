"""Grades patches of a SWE-bench instance: the only process of `kinds` that opens its answer.

Standard input: {"instance", "answers", "states", "sandbox", "patches": {id: patch}} as JSON; standard output: {id: whether all
of FAIL_TO_PASS and PASS_TO_PASS pass}. Results are read by the parser of the swebench package that the row names.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from runoff import environments
from runoff.agent.environment import BuildFailed, applied, patched
from runoff.agent.log import Log
from runoff.agent.step import World
from runoff.instance import Instance
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import Limits, Refused


async def grade(request: dict[str, Any]) -> dict[str, bool]:
    instance = Instance.model_validate(request["instance"])
    answer = _answer(Path(request["answers"]), instance.id)
    results: dict[str, bool] = {}
    async with open_backend(request["sandbox"], Path(request["states"])) as sandbox:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Log(Path(folder) / "grade.jsonl"), instance.id, _Nobody(), sandbox)
            environment = await environments.build(world, instance)
            for name, patch in request["patches"].items():
                try:
                    state = environment.state
                    if patch:
                        state = await patched(world, environment, patch.encode("utf-8", "surrogateescape"))
                    state = await applied(world, state, answer["test_patch"].encode())
                except (Refused, BuildFailed) as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    results[name] = False
                    continue
                done = await sandbox.execute(
                    state,
                    ("sh", "-c", f"exec 2>&1; {answer['test_command']}"),
                    Limits(seconds=1800, output=64 << 20),
                    env=environment.env,
                    freeze=False,
                )
                results[name] = _passed(answer, done.stdout.decode("utf-8", "replace"))
            await world.close()
    return results


def _passed(answer: dict[str, Any], log: str) -> bool:
    parsers = importlib.import_module("swebench.harness.log_parsers")
    found = getattr(parsers, answer["log_parser"])(log, None)
    wanted = [*answer["FAIL_TO_PASS"], *answer["PASS_TO_PASS"]]
    passed = {name for name, status in found.items() if status in ("PASSED", "XFAIL")}
    print(f"{len(passed & set(wanted))} of {len(wanted)} pass", file=sys.stderr)
    return bool(answer["FAIL_TO_PASS"]) and passed >= set(wanted)


def _answer(file: Path, name: str) -> dict[str, Any]:
    with gzip.open(file, "rt") as lines:
        return next(row for row in map(json.loads, lines) if row["instance_id"] == name)


class _Nobody:
    async def ask(self, call: object) -> Any:
        raise AssertionError("grading asks no model")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(grade(json.load(sys.stdin)))))
