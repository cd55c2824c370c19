"""What a sandbox promises: states are values, and executing a command in one gives the next.

    state ──execute(argv, limits)──► Execution(outcome, stdout, stderr, after: state)

There is no live sandbox to open, fork, reset or close. Using a state twice *is* the fork. Everything a command
started is dead when `execute` returns. Whoever wants to know what is *not* promised reads the docstrings below.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

REPO = "/testbed"
"""Where the repository lies in every environment (the place SWE-bench images use)."""

PROXY = "http://127.0.0.1:3128"
"""Inside an execution with `network`: the way to the package indexes, and the only one."""


class SandboxError(Exception):
    """
    SandboxError
    ├── SandboxUnavailable   this machine cannot run the backend; `remedy` is the command that mends it
    ├── SandboxLost          the backend died under an execution, or a state's layers are gone: nobody's verdict
    ├── StoreFull            no space (or no inodes) left where the states live
    │   └── NoRoom           too little for what is about to be done; said before it is begun
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


class NoRoom(StoreFull):
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
    """What one execution may use, all its processes together unless it says otherwise.

    `Sandbox.holds` says for each of these whether a backend enforces or watches it here, and what it cannot hold.
    """

    seconds: float = 60.0
    """Wall time; on reaching it everything in the execution is killed: `timed out`."""
    output: int = 64 * 1024
    """Bytes kept of each of stdout and stderr: the first half and the last half; the middle is counted and dropped."""
    memory: int = 4 << 30
    """Bytes. Beyond it an allocation fails, or everything is killed: `killed`, by `memory`."""
    cpu_seconds: float = 4 * 3600.0
    """Processor time; on reaching it everything is killed: `killed`, by `cpu`."""
    disk: int = 16 << 30
    """Bytes written into the next state; beyond it everything is killed: `killed`, by `disk`, and there is no next state."""
    files: int = 2_000_000
    """Files and directories in what is written; beyond it everything is killed: `killed`, by `files`, no next state."""
    file_size: int = 1 << 30
    """Bytes of the largest file that can be written: a write beyond it fails."""
    processes: int = 1024
    """Processes and threads at once: one more cannot be started."""
    open_files: int = 4096
    """Of one process: one more cannot be opened."""


LimitName = Literal["memory", "cpu", "disk", "files"]


class Execution(Value):
    outcome: Literal["finished", "timed out", "killed", "lost"]
    """`killed`: for a limit, see there. `lost`: the backend failed (out of space, killed from outside): nobody's fault in
    there, and no verdict."""
    exit_code: int | None
    """The command's exit code, 128 + n for signal n; None unless finished."""
    limit: LimitName | None = None
    """The limit it was killed for; None unless killed."""
    stdout: Raw
    stderr: Raw
    dropped: int = 0
    """Bytes of output that went over `Limits.output` and are not kept."""
    seconds: float
    after: State | None
    """The frozen next state; None if it was not asked for, lost, or killed for what it wrote."""

    @property
    def text(self) -> str:
        """Both streams as text, for people and models: stdout first, undecodable bytes replaced."""
        return (self.stdout + self.stderr).decode("utf-8", "replace")


class Diff(Value):
    patch: Raw
    """What `git diff --binary` prints; it was applied to the base commit's tree and gave this tree."""
    left_out: tuple[str, ...] = ()
    """New files that the exclude policy keeps out of patches (caches, build output, binaries), as paths in the repository:
    a directory of which that is so by its name ends in `/`. No more than 200; ignored files are not among them."""


class Applied(Value):
    state: State
    how: str
    """`exact`, or the name of the more forgiving step that it took: `cleaned` (line ends, prose and prefixes made git's),
    `recount` (wrong numbers of lines), `whitespace`, `context` (one line of it is enough), `fuzz` (the program `patch`)."""


class Held(Value):
    """One row of a backend's table: how it holds a limit here."""

    limit: str
    """A field of Limits, or what else is held: `network`, `system calls`…, or a capability that some lack, as the
    conformance cases name it (`directory renames`, `extended attributes`, `hard links`)."""
    how: Literal["enforced", "watched", "refused", "not held"]
    """`watched`: noticed after the fact, `detail` says how far it can be passed. `refused`: cannot be asked for."""
    detail: str


class Base(Value):
    """The bottom of states on the host's own programs: a skeleton root, and what is bound into it read-only."""

    binds: tuple[str, ...] = ("/usr",)
    """Host directories shown read-only at the same path (interpreters outside /usr, a tool's directory)."""


class Image(Value):
    """The bottom of states on an OCI image, made for Docker or anyone."""

    reference: str
    """As skopeo names it: `docker://HOST/NAME:TAG`, `docker-archive:FILE`, `oci:DIRECTORY:TAG`, `docker-daemon:NAME:TAG`."""


class Sandbox(Protocol):
    """A backend. Any number of calls may run at once; each call may be cancelled and then leaves nothing behind.

    Every method raises SandboxLost if the backend dies, StoreFull if states have no room left.
    """

    name: str
    """Backend and mode, `bubblewrap-root`; part of what an execution's result is kept under."""

    def holds(self) -> list[Held]:
        """How each limit is held here, by this backend in this mode on this machine."""
        ...

    async def base(self, base: Base | Image) -> State:
        """The state to begin with. Made once for what it holds. Raises Refused for an image that cannot be used, or a base
        that this backend cannot show."""
        ...

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
        """Run `argv` (no shell) in `state`. `env` is all the environment there is, beside PATH, HOME and LANG.

        Raises Refused if it cannot be begun at all: no such `cwd`, arguments too long.
        Not promised: the order of stdout against stderr; a program that is not there is an ordinary exit (127).
        `network` is for building environments only, never for code that a model wrote: the package indexes can be reached
        through the HTTP proxy at PROXY, and nothing else, by no other way; names are not looked up inside.
        `template`: a command `python -c TEXT` may be started as a fork of an interpreter that has imported modules of the
        standard library. A backend that has none starts it as any other; what it says is the same.
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

    async def apply(self, state: State, patch: bytes, at: str = REPO, *, fuzzy: bool = False) -> Applied:
        """Apply a git diff in the repository at `at`; with `fuzzy`, by ever more forgiving steps, each on the pristine tree.

        With `fuzzy` what was applied could also be taken back by the same step. Not promised: that a forgiving step found
        the place that the patch means. Refused, with git's words for the first step, if none applies every hunk.
        """
        ...

    async def diff(self, state: State, since: State | None = None, at: str = REPO) -> Diff:
        """What changed in the work tree, new files included, against the commit that `since` has checked out there.

        `since` is an earlier state in which nothing was changed; its repository is used, and nothing that `state` did to its
        own matters. A backend that knows what differs looks at nothing else; what `since` itself has that its commit has
        not is then in the patch only where `state` changed it. None: against the state's own HEAD, by its own repository and
        the times in its index, and every file is looked at.
        Files are stored as the commit's own `.gitattributes` say, and ignored as the state's `.gitignore` say. The files
        of a repository inside are part of the change, without its `.git`; those of a submodule are not looked at. Pipes,
        sockets and empty directories cannot be said and are not.
        Refused if there is no repository whose `.git` is a plain directory, or a patch cannot say what changed.
        """
        ...

    def named(self, name: str) -> State | None:
        """The state kept under a name, if its layers are still there. In use from then on, see `refer`."""
        ...

    def find(self, digest: str) -> State | None:
        """The state of a digest, if its layers are still there. In use from then on, see `refer`."""
        ...

    def keep(self, name: str, state: State) -> None:
        """Give a state a name, so that later processes find it. When it returns it outlives a power cut; a state without a
        name outlives the kill of any process, not that."""
        ...

    def refer(self, path: Path) -> None:
        """Say that this file, or files below this directory, will name states (JSON strings that begin with a digest).

        Housekeeping removes what no name and no referrer keeps, and when states take too much the least recently used,
        whatever keeps them. It never removes what an open sandbox may still be using: all that was used since it was opened.
        A run of days must not fill a disk with that, so whoever calls `refer` promises more, for all it does with this
        sandbox: what it will use again after half an hour stands in a referrer that it has not released, or can be lost.
        A referrer whose path is gone refers to nothing.
        """
        ...

    def release(self, path: Path) -> None:
        """What this referrer names is not going to be used again by this process; it stays referred to."""
        ...

    async def make_room(self, size: int) -> None:
        """See to it that so many bytes can be written, by removing what housekeeping may. Raises NoRoom, in a line for users.

        Not promised: that they are still there later.
        """
        ...

    def alone(self, name: str) -> AbstractAsyncContextManager[None]:
        """Held by one at a time, of all tasks and processes that use these states; let go of when its holder dies."""
        ...


@runtime_checkable
class Ships(Protocol):
    """What a sandbox can do whose layers can be had by another of the same kind, on another machine."""

    def lacks(self, state: State) -> tuple[str, ...]:
        """Which of a state's layers are not here; the others are in use from then on."""
        ...

    def ship(self, layer: str) -> AsyncIterator[bytes]:
        """A layer as a stream, with a digest of it at the end. Raises SandboxLost if it is not here."""
        ...

    async def take(self, layer: str, below: Sequence[str], parts: AsyncIterator[bytes]) -> None:
        """Take a layer, which lies on those below, here already. It is here when this returns, and not if this raises:
        SandboxLost or Refused if it is not what was sent, StoreFull, and what `parts` raises."""
        ...
