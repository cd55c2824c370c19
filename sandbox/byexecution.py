"""Writing, reading, applying and diffing as executions: what a backend has of itself once it can execute.

See inside.py and git.py for what is executed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from runoff.sandbox import git, inside
from runoff.sandbox.protocol import (
    REPO,
    Applied,
    Diff,
    Execution,
    Limits,
    Refused,
    SandboxLost,
    State,
    StoreFull,
)

TOOL = Limits(seconds=300, output=1 << 16, file_size=1 << 40)
"""What the sandbox's own tools may use."""

_LARGEST_DIFF = 64 << 20


class ByExecution(ABC):
    """These methods keep the promises of `Sandbox` in protocol.py, given an `_execute` that does."""

    async def execute(
        self,
        state: State,
        argv: Sequence[str],
        limits: Limits = Limits(),
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] = {},
        cwd: str = REPO,
        network: bool = False,
        freeze: bool = True,
        template: bool = False,
    ) -> Execution:
        return await self._execute(
            state, argv, limits, stdin=stdin, env=env, cwd=cwd, network=network, freeze=freeze, template=template
        )

    @abstractmethod
    async def _execute(
        self,
        state: State,
        argv: Sequence[str],
        limits: Limits,
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] = {},
        cwd: str = REPO,
        network: bool = False,
        freeze: bool = True,
        template: bool = False,
        compared: Mapping[str, Any] | None = None,
    ) -> Execution:
        """As `execute`. `compared`: with the repository in directory `at` of the state with the layers `since`, see git.py."""

    async def write(self, state: State, files: Mapping[str, bytes | None]) -> State:
        command, packed = inside.write(files)
        return _after(await self._tool(state, command, stdin=packed, cwd="/"))

    async def unpack(self, state: State, archive: bytes, at: str) -> State:
        return _after(await self._tool(state, inside.unpack(at), stdin=archive, cwd="/"))

    async def read(self, state: State, path: str, limit: int = 16 << 20) -> bytes:
        limits = TOOL.model_copy(update={"output": limit + TOOL.output})
        done = await self._tool(state, inside.read(path, limit), limits, cwd="/", freeze=False)
        if done.dropped or len(done.stdout) > limit:
            raise Refused(f"{path}: more than {limit} bytes")
        return done.stdout

    async def apply(self, state: State, patch: bytes, at: str = REPO, *, fuzzy: bool = False) -> Applied:
        if not patch.strip():
            return Applied(state=state, how="exact")  # git calls it an error to have nothing to do
        if not fuzzy:
            done = await self._tool(state, git.apply(), stdin=patch, env=git.ENVIRONMENT, cwd=at)
            return Applied(state=_after(done), how="exact")
        refused = None
        for how, command, text in git.fuzzy(patch):
            try:
                done = await self._tool(state, command, stdin=text, env=git.ENVIRONMENT, cwd=at)
                return Applied(state=_after(done), how=how)
            except Refused as error:
                refused = refused or error
        assert refused  # there is a first step
        raise refused

    async def diff(self, state: State, since: State | None = None, at: str = REPO) -> Diff:
        limits, command = TOOL.model_copy(update={"output": _LARGEST_DIFF}), git.diff(git.SINCE if since else None)
        compared = None if since is None else {"since": list(since.layers), "at": at}
        done = await self._tool(state, command, limits, env=git.ENVIRONMENT, cwd=at, freeze=False, compared=compared)
        if done.dropped:
            raise Refused(f"the diff is larger than {_LARGEST_DIFF} bytes")
        return git.read_diff(done.stdout)

    async def _tool(self, state: State, argv: Sequence[str], limits: Limits = TOOL, **how: Any) -> Execution:
        """One of the sandbox's own tools, which works or refuses."""
        done = await self._execute(state, argv, limits, **how)
        if done.outcome == "finished" and done.exit_code == 0:
            return done
        words = "; ".join(done.stderr.decode("utf-8", "replace").split("\n")[:20]).strip("; ")
        if "No space left on device" in words:
            raise StoreFull(words)
        if done.outcome == "lost":
            raise SandboxLost(words)
        ended = f"killed for the limit on {done.limit}" if done.limit else f"{done.outcome}, exit code {done.exit_code}"
        raise Refused(words or f"{argv[0]} {ended}")


def _after(done: Execution) -> State:
    assert done.after is not None  # it was asked for, and the tool finished
    return done.after
