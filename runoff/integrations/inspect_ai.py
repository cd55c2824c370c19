"""Inspect's samples in runoff's sandboxes: `sandbox="runoff"`, or `sandbox=("runoff", IMAGE)`

Each command of a sample runs in the state that the last one left. Files stay; processes do not: everything that a command
started in the background is dead when it ends, and there is no network but loopback. So tools that keep a process in the
sandbox (`bash_session`, `exec_remote`, web browsers) do not work; `bash`, `python` and files do.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar, overload

import anyio
import anyio.to_thread
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from inspect_ai.util._sandbox.environment import SandboxUnavailableError
from pydantic import BaseModel, ConfigDict

from runoff.integrations.background import Background, background
from runoff.sandbox.protocol import REPO, Execution, Limits, Refused, SandboxError, State

Result = TypeVar("Result")

_A_DAY = 86400.0
_FILES = Limits(seconds=300, output=1 << 16)

# Exit codes of the two scripts below, which run inside: what no text of a tool need be read for.
_DIRECTORY, _ABSENT, _FORBIDDEN, _LARGE = 91, 92, 93, 94

_READ = f"""
[ -d "$1" ] && exit {_DIRECTORY}
[ -e "$1" ] || exit {_ABSENT}
[ -r "$1" ] || exit {_FORBIDDEN}
size=$(stat -Lc %s -- "$1") || exit 1
[ "$size" -le "$2" ] || exit {_LARGE}
exec cat -- "$1"
"""

_WRITE = f"""
[ -d "$1" ] && exit {_DIRECTORY}
mkdir -p -- "$(dirname -- "$1")" || exit {_FORBIDDEN}
if [ -e "$1" ]; then [ -w "$1" ]; else [ -w "$(dirname -- "$1")" ]; fi || exit {_FORBIDDEN}
exec cat > "$1"
"""


class RunoffSandboxConfig(BaseModel):
    """What a task may say of its sandbox: `SandboxEnvironmentSpec("runoff", RunoffSandboxConfig(image=…))`"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = ""
    """What the first state is, as skopeo names it (`docker://…`, `docker-archive:FILE`); empty: the host's own /usr."""
    working_dir: str = REPO
    """Where commands run and relative paths begin; made if it is not there."""
    env: dict[str, str] = {}
    """All the environment there is, beside PATH, HOME, LANG and what a command is given."""
    memory: int = Limits().memory
    """Bytes for a command and all its processes."""
    processes: int = Limits().processes
    backend: str = "bubblewrap"
    """`bubblewrap`, `bubblewrap-root` or `bubblewrap-rootless`."""
    states: str = ""
    """Directory where states (and images) are kept; empty: one that is removed when the process ends."""

    def __hash__(self) -> int:  # Inspect keys by it, and `env` alone has none
        return hash(self.model_dump_json())


@sandboxenv(name="runoff")
class RunoffSandboxEnvironment(SandboxEnvironment):
    """One sample's chain of states. Calls of one sample run one after the other, those of several at once."""

    def __init__(self, opened: Background, config: RunoffSandboxConfig, state: State) -> None:
        super().__init__()
        self.state = state
        self._background, self._config = opened, config
        self._turn = anyio.Lock()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """As Inspect says, and: killed for a limit is exit code 137 and a line on stderr. Nothing is retried."""
        if user is not None:
            raise SandboxUserUnsupportedError(f"runoff's sandboxes have one user, without any rights: not {user!r}")
        limits = Limits(
            seconds=timeout or _A_DAY,
            output=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE,
            memory=self._config.memory,
            processes=self._config.processes,
        )
        try:
            done = await self._execute(
                cmd, limits, _bytes(input), env or {}, self._path(cwd or self._config.working_dir)
            )
        except Refused as refused:
            return ExecResult(success=False, returncode=127, stdout="", stderr=f"{refused}\n")
        stdout, stderr = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        if done.outcome == "timed out":
            raise TimeoutError(f"the command did not end within {timeout} seconds")
        if done.dropped:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, stdout + stderr)
        if done.exit_code == 126 and "permission denied" in stderr.lower():
            raise PermissionError(errno.EACCES, stderr.strip(), cmd[0])
        if done.outcome == "killed":
            stderr += f"killed: it used more {done.limit} than it may\n"
        code = 137 if done.exit_code is None else done.exit_code
        return ExecResult(success=code == 0, returncode=code, stdout=stdout, stderr=stderr)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        path = self._path(file)
        self._look_at(await self._execute(["/bin/sh", "-c", _WRITE, "sh", path], _FILES, _bytes(contents)), path)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        path, most = self._path(file), SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        limits = _FILES.model_copy(update={"output": most})
        done = await self._execute(["/bin/sh", "-c", _READ, "sh", path, str(most)], limits, freeze=False)
        self._look_at(done, path)
        return done.stdout.decode("utf-8") if text else done.stdout

    @classmethod
    async def sample_init(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        wanted = _config(config)
        try:
            opened = await anyio.to_thread.run_sync(background, wanted.backend, wanted.states)
            state = await _wait(opened, opened.base(wanted.image))
            made = ["mkdir", "-p", "--", wanted.working_dir]
            done = await _wait(opened, opened.sandbox.execute(state, made, _FILES, cwd="/"))
        except SandboxError as error:
            raise SandboxUnavailableError(str(error)) from error
        if done.exit_code != 0 or done.after is None:
            raise SandboxUnavailableError(f"no directory {wanted.working_dir}: {done.text.strip()}")
        return {"default": cls(opened, wanted, done.after)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Nothing is left to clean up: there is no live sandbox."""

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        return RunoffSandboxConfig(**config)

    def _path(self, path: str) -> str:
        return posixpath.join(self._config.working_dir, path)

    async def _execute(
        self,
        argv: list[str],
        limits: Limits,
        stdin: bytes = b"",
        env: dict[str, str] = {},
        cwd: str = "/",
        freeze: bool = True,
    ) -> Execution:
        """One execution in the state that the last one left. Raises Refused, and SandboxUnavailableError for what no
        command is to blame for."""
        async with self._turn:
            try:
                done = await _wait(
                    self._background,
                    self._background.sandbox.execute(
                        self.state, argv, limits, stdin=stdin, env=self._config.env | env, cwd=cwd, freeze=freeze
                    ),
                )
            except Refused:
                raise
            except SandboxError as error:
                raise SandboxUnavailableError(str(error)) from error
            if done.outcome == "lost":
                raise SandboxUnavailableError(f"the sandbox was lost under a command: {done.text[-1000:]}")
            self.state = done.after or self.state
            return done

    def _look_at(self, done: Execution, path: str) -> None:
        """How reading or writing a file failed, in Inspect's errors."""
        if done.outcome == "timed out":
            raise TimeoutError(f"{path}: not done after {_FILES.seconds:.0f} seconds")
        if done.exit_code == _LARGE:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        code = {_DIRECTORY: errno.EISDIR, _ABSENT: errno.ENOENT, _FORBIDDEN: errno.EACCES}.get(done.exit_code or 0)
        if code is not None:
            raise OSError(code, os.strerror(code), path)  # Python makes it an IsADirectoryError and so on
        if done.exit_code != 0:
            raise OSError(errno.EIO, done.stderr.decode("utf-8", "replace").strip() or done.outcome, path)


async def _wait(opened: Background, call: Coroutine[Any, Any, Result]) -> Result:
    """Wait for a call on whatever event loop Inspect runs (asyncio or trio); cancelled with it."""
    future = opened.start(call)
    try:
        return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    finally:
        future.cancel()


def _config(config: SandboxEnvironmentConfigType | None) -> RunoffSandboxConfig:
    if isinstance(config, RunoffSandboxConfig):
        return config
    if isinstance(config, str):
        return RunoffSandboxConfig(image=config)
    if config is None:
        return RunoffSandboxConfig()
    raise TypeError(f"a RunoffSandboxConfig or the name of an image, not {type(config).__name__}")


def _bytes(text: str | bytes | None) -> bytes:
    return text.encode() if isinstance(text, str) else text or b""
