"""The fast grader: an environment is made once, and each patch is graded in a state forked from it, in all slots at once.

What is run is what the harness runs, the commands that apply a patch and the row's own script, and the package reads it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runoff import environments
from runoff.agent.environment import Environment, last_lines
from runoff.agent.log import Log
from runoff.agent.step import World
from runoff.batch.sources import Where, instance
from runoff.datasets.protocol import Answer, Problem
from runoff.grading import reading, script
from runoff.grading.reading import Verdict
from runoff.sandbox.environments import builder
from runoff.sandbox.protocol import Execution, Image, Limits, Raw, Refused, Sandbox, SandboxLost, State, Value

_APPLYING = Limits(seconds=300, file_size=1 << 40)
_OUTPUT = 64 << 20
_REWARDS = "/logs/verifier"
"""Where the tests of a Harbor task write what they found."""


class Graded(Value):
    verdict: Verdict
    seconds: float


class Prepared(Value):
    """What all patches of an instance are graded in."""

    state: State
    env: dict[str, str] = {}
    environment: Environment | None = None
    """None: it is an image's."""
    commands: str
    """See `script.apply`."""


async def prepare(
    sandbox: Sandbox, problem: Problem, answer: Answer, where: Where, tell: Callable[[str], None]
) -> Prepared:
    """Raises SandboxError or BadTarget where there is no environment: nobody's verdict."""
    from swebench.harness.run_evaluation import GIT_APPLY_CMDS

    made, environment = await instance(problem, where, sandbox, tell), None
    if made.image:  # as it is: what prepares it for those who solve is not there for the harness either
        state, env = await sandbox.base(Image(reference=made.image)), {"HOME": "/root"}
    else:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Log(Path(folder) / "environment.jsonl"), problem.id, _nobody, sandbox)
            try:
                environment = await environments.build(world, made, tell)
            finally:
                await world.close()
        state, env = environment.state, environment.env
    if not answer.tests:
        said = await asyncio.to_thread(reading.script, problem, answer)
        state = await sandbox.write(state, {script.SCRIPT: said.encode("utf-8", "surrogateescape")})
    return Prepared(state=state, env=env, environment=environment, commands=script.apply(GIT_APPLY_CMDS))


async def grade(
    sandbox: Sandbox, problem: Problem, answer: Answer, prepared: Prepared, patch: Raw, seconds: float
) -> Graded:
    """One patch, on a state that nothing else has touched. Raises SandboxError where that is nobody's verdict."""
    env, cwd = prepared.env, problem.workdir
    argv = ("/bin/bash", "-c", prepared.commands)
    done = _ended(await sandbox.execute(prepared.state, argv, _APPLYING, stdin=patch, env=env, cwd=cwd))
    took = done.seconds

    def wrong(why: str) -> Graded:
        return Graded(verdict=Verdict(resolved=False, why=why, tests=reading.nothing(answer)), seconds=took)

    if done.exit_code != 0 or done.after is None:
        return wrong(f"does not apply: {last_lines(done.text)}")
    state = done.after
    of = prepared.environment
    if of and of.needs_build(patch):
        build = ("sh", "-ec", of.build or "true")
        done = _ended(await sandbox.execute(state, build, Limits(seconds=900), env=builder.AGAIN | env, cwd=cwd))
        took += done.seconds
        if done.exit_code != 0 or done.after is None:
            return wrong(f"does not build: {last_lines(done.text)}")
        state = done.after
    limits = Limits(seconds=seconds, output=_OUTPUT, memory=16 << 30, processes=4096, file_size=8 << 30)
    if answer.tests:
        return await _rewarded(sandbox, problem, answer, state, limits, took)
    # Docker sets no LANG where the image does not, and a program's two streams are one there.
    plain = "" if of else '[ "${LANG:-}" = C.UTF-8 ] && unset LANG; '
    argv = ("/bin/bash", "-c", f"{plain}exec /bin/bash {script.SCRIPT} 2>&1")
    done = _ended(await sandbox.execute(state, argv, limits, env=env, cwd=cwd, freeze=False))
    took += done.seconds
    if why := _stopped(done, seconds):
        return wrong(why)
    output = done.stdout.decode("utf-8", "replace")
    return Graded(verdict=await asyncio.to_thread(reading.verdict, problem, answer, output), seconds=took)


async def _rewarded(
    sandbox: Sandbox, problem: Problem, answer: Answer, state: State, limits: Limits, took: float
) -> Graded:
    """A Harbor task: its tests come in now, and leave a reward."""
    files = await asyncio.to_thread(_files, Path(answer.tests))
    state = await sandbox.write(state, {**files, f"{_REWARDS}/.made": b""})
    argv = ("/bin/bash", "/tests/test.sh")
    done = _ended(await sandbox.execute(state, argv, limits, cwd=problem.workdir))
    took += done.seconds
    why = _stopped(done, limits.seconds)
    if not why and done.after:
        try:
            reward = float(await sandbox.read(done.after, f"{_REWARDS}/reward.txt", limit=64))
        except (Refused, ValueError):
            why = f"its tests wrote no reward: {last_lines(done.text)}"
        else:
            why = "" if reward >= 1 else f"its tests give a reward of {reward:g}: {last_lines(done.text)}"
    return Graded(verdict=Verdict(resolved=not why, why=why), seconds=took)


def _files(folder: Path) -> dict[str, bytes]:
    return {f"/tests/{file.relative_to(folder)}": file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _stopped(done: Execution, seconds: float) -> str:
    """Why an execution that was begun says nothing; empty if it does."""
    if done.outcome == "timed out":
        return f"the tests timed out after {seconds:g} s"
    if done.outcome == "killed":
        return f"the tests were killed for the limit on {done.limit}"
    if done.dropped:
        return f"the tests wrote more than {_OUTPUT >> 20} MiB"
    return ""


def _ended(done: Execution) -> Execution:
    if done.outcome == "lost":
        raise SandboxLost(f"the sandbox failed: {last_lines(done.text)}")
    return done


class _Nobody:
    async def ask(self, call: object) -> object:
        raise AssertionError("grading asks no model")


_nobody: Any = _Nobody()
