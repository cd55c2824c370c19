"""Where an instance's code runs: the installed repository as a state, and the states that patches make of it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal
from weakref import WeakSet

from runoff.agent.context import Tree
from runoff.agent.patches import patched_paths
from runoff.agent.step import Run, World
from runoff.sandbox.environments import builder
from runoff.sandbox.protocol import Limits, Refused, State, Value

_COMPILED = frozenset(
    ".c .h .cc .cpp .cxx .hpp .hxx .pyx .pxd .pxi .rs .go .f .f90 .s .swg .i .ts .tsx .proto .y .l .in".split()
)
_BUILD_FILES = frozenset(
    "setup.py setup.cfg pyproject.toml meson.build CMakeLists.txt Makefile configure package.json Cargo.toml".split()
)

Language = Literal["python", "javascript"]
"""What generated tests are written in."""


class Built(Value):
    """What installing the repository made of its files: a patch that touches the sources of it needs another build."""

    copies: frozenset[str] = frozenset()
    """Tracked files of which a copy was installed elsewhere: running the tests runs the copy."""
    binaries: bool = False
    """Something was compiled."""


class Environment(Value):
    state: State
    """The repository at its base commit, installed."""
    pristine: State
    """The same before anything was installed: what a patch must apply to."""
    test: str | None = None
    """The command that runs the repository's tests; None if there is none."""
    build: str | None = None
    """The command that builds the installed repository again after a change, without network."""
    built: Built = Built()
    env: dict[str, str] = {}
    """Environment variables that its programs need."""
    installed: tuple[str, ...] = ()
    """The interpreter and the packages that can be imported, each with its version."""
    language: Language = "python"
    stable: dict[str, tuple[str, ...]] = {}
    """Test file → its tests that pass on the base each time, where that is known beforehand (`runoff prepare`)."""

    def needs_build(self, patch: bytes) -> bool:
        """Whether a patch touches what the build made something of."""
        touched = patched_paths(patch)
        return bool(self.build) and any(
            path in self.built.copies
            or (
                self.built.binaries
                and (PurePosixPath(path).suffix in _COMPILED or PurePosixPath(path).name in _BUILD_FILES)
            )
            for path in touched
        )


class BuildFailed(Refused):
    """The repository does not build any more with a patch."""


async def applied(world: World, state: State, patch: bytes) -> State:
    """A state with a patch applied. Made once. Raises Refused if it does not apply."""
    name = hashlib.blake2b(patch, digest_size=16).hexdigest()
    return await world.derive(f"{state.digest} apply {name}", lambda: _apply(world, state, patch))


async def _apply(world: World, state: State, patch: bytes) -> State:
    return (await world.sandbox.apply(state, patch)).state


async def patched(world: World, environment: Environment, patch: bytes) -> State:
    """The environment with a patch applied, and built again if the patch touches what was built. Made once.

    Raises Refused if the patch does not apply, BuildFailed with the last lines if it no longer builds.
    """
    state = await applied(world, environment.state, patch)
    if not environment.needs_build(patch):
        return state
    argv = ("sh", "-ec", environment.build or "")
    env = builder.AGAIN | environment.env
    done = await world.execute(Run(state=state, argv=argv, env=env, limits=Limits(seconds=900), freeze=True))
    if done.exit_code != 0 or done.after is None:
        raise BuildFailed(f"`{environment.build}` fails with this patch: {last_lines(done.text)}")
    return done.after


class _Files(dict[str, bytes]):
    """A tree that is known as long as somebody holds it."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_HELD = WeakSet[_Files]()


def once(files: Iterator[tuple[str, bytes]]) -> Tree:
    """A tree; what is in the same place of another that is held is held once: instances of one repository are alike."""
    others, made = list(_HELD), _Files()
    for path, data in files:
        made[path] = next((same for other in others if (same := other.get(path)) == data), data)
    _HELD.add(made)
    return made


async def read_tree(world: World, environment: Environment) -> Tree:
    """Every tracked regular file at the base commit. Read inside; the host only parses the archive in memory."""
    command = "git ls-files -z | tar --create --no-recursion --ignore-failed-read --null --file=- --files-from=-"
    limits = Limits(seconds=300, output=2 << 30)
    done = await world.sandbox.execute(environment.state, ("sh", "-c", command), limits, freeze=False)
    if done.exit_code != 0:
        raise Refused(f"cannot read the repository's files: {last_lines(done.text)}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        members = (member for member in archive if member.isreg())
        return once((member.name, archive.extractfile(member).read()) for member in members)  # type: ignore[union-attr]


def last_lines(text: str, limit: int = 300) -> str:
    """The end of a program's output on one line, for messages."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-5:] if line.strip())[-limit:]
