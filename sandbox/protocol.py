"""What a sandbox promises: states are values, and executing a command in one gives the next.

    state ──execute(argv, limits)──► Execution(outcome, stdout, stderr, after: state)

There is no live sandbox to open, fork, reset or close. Using a state twice *is* the fork. Everything a command
started is dead when `execute` returns. Whoever wants to know what is *not* promised reads the docstrings below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

REPO = "/testbed"
"""Where the repository lies in every environment (the place SWE-bench images use)."""


class SandboxError(Exception):
    """
    SandboxError
    ├── SandboxUnavailable   this machine cannot run the backend; `remedy` is the command that mends it
    ├── SandboxLost          the backend died under an execution, or a state's layers are gone: nobody's verdict
    ├── StoreFull            no space (or no inodes) left where the states live
    ├── Refused              the sandbox's own tools said no: a file is not there, a patch does not apply
    """


class SandboxUnavailable(SandboxError):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


class SandboxLost(SandboxError):
    pass


class StoreFull(SandboxError):
    pass


class Refused(SandboxError):
    pass


def _as_bytes(value: object) -> object:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


Raw = Annotated[
    bytes,
    BeforeValidator(_as_bytes),
    PlainSerializer(lambda raw: raw.decode("utf-8", "surrogateescape"), return_type=str, when_used="json"),
]
"""Bytes that are mostly text: a JSON string where undecodable bytes are lone surrogates, so that nothing is lost.

Store with `json.dumps(value.model_dump(mode="json"))`, which escapes them; pydantic's own `model_dump_json` refuses them.
"""


class Value(BaseModel):
    """Immutable, comparable, printable, storable: what flows between stages."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class State(Value):
    """Names of read-only layers, topmost first, the base last. The first name alone finds the state again.

    Equal digests mean equal contents (not equal mtimes); unequal digests prove nothing.
    """

    layers: tuple[str, ...]

    @property
    def digest(self) -> str:
        return self.layers[0]


class Limits(Value):
    """What one execution may use. `doctor` says which of these a backend enforces, watches or refuses."""

    seconds: float = 60.0
    """Wall time; on reaching it everything in the execution is killed."""
    output: int = 64 * 1024
    """Bytes kept of each of stdout and stderr: the first half and the last half; the middle is counted and dropped."""
    memory: int = 4 << 30
    """Bytes of address space a process."""
    file_size: int = 1 << 30
    """Bytes of the largest file that can be written."""
    processes: int = 1024


class Execution(Value):
    outcome: Literal["finished", "timed out", "lost"]
    """`lost`: the backend failed (out of space, killed from outside): nobody's fault in there, and no verdict."""
    exit_code: int | None
    """The command's exit code, 128 + n for signal n; None unless finished."""
    stdout: Raw
    stderr: Raw
    dropped: int = 0
    """Bytes of output that went over `Limits.output` and are not kept."""
    seconds: float
    after: State | None
    """The frozen next state; None if it was not asked for, or if the execution was lost."""

    @property
    def text(self) -> str:
        """Both streams as text, for people and models: stdout first, undecodable bytes replaced."""
        return (self.stdout + self.stderr).decode("utf-8", "replace")


class Base(Value):
    """The bottom of all states on the host's own programs: a skeleton root, and what is bound into it read-only."""

    binds: tuple[str, ...] = ("/usr",)
    """Host directories shown read-only at the same path (interpreters outside /usr, a tool's directory)."""


class Sandbox(Protocol):
    """A backend. Any number of calls may run at once; each call may be cancelled and then leaves nothing behind.

    Every method raises SandboxLost if the backend dies, StoreFull if states have no room left.
    """

    name: str
    """Backend and mode, `bubblewrap-root`; part of what an execution's result is kept under."""

    async def base(self, base: Base) -> State: ...

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
    ) -> Execution:
        """Run `argv` (no shell) in `state`. `env` is all the environment there is, beside PATH, HOME and LANG.

        Raises Refused if it cannot be begun at all: no such `cwd`, arguments too long.
        Not promised: the order of stdout against stderr; a program that is not there is an ordinary exit (127).
        `network` is for building environments only, never for code that a model wrote.
        """
        ...

    async def write(self, state: State, files: Mapping[str, bytes | None]) -> State:
        """Absolute path → contents (None: delete, no error if absent). Parents are made; an existing file keeps its mode."""
        ...

    async def unpack(self, state: State, archive: bytes, at: str) -> State:
        """Unpack a tar archive (by the sandbox's own tar, inside) into the directory `at`."""
        ...

    async def read(self, state: State, path: str, limit: int = 16 << 20) -> bytes:
        """A file's contents. Refused if it is absent, not a file, or larger than `limit` bytes."""
        ...

    async def apply(self, state: State, patch: bytes, at: str = REPO) -> State:
        """Apply a git diff in the repository at `at`. Refused, with git's words, if any hunk does not apply."""
        ...

    async def diff(self, state: State, at: str = REPO) -> bytes:
        """What changed in the work tree since HEAD, new files included, as `git diff --binary` prints it. Taken inside."""
        ...

    def named(self, name: str) -> State | None:
        """The state kept under a name, if its layers are still there."""
        ...

    def find(self, digest: str) -> State | None:
        """The state of a digest, if its layers are still there."""
        ...

    def keep(self, name: str, state: State) -> None:
        """Give a state a name, durably, so that later processes find it and housekeeping leaves it."""
        ...
