"""Which sandbox a name means: our own backends, and those of others by entry point (group `runoff.sandboxes`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.prerequisites import Mode
from runoff.sandbox.protocol import Sandbox, SandboxUnavailable

if TYPE_CHECKING:
    from runoff.sandbox.docker.backend import Docker

GROUP = "runoff.sandboxes"
"""An entry point is called with the directory of states, and gives an asynchronous context manager of a Sandbox."""

OWN = ("auto", "bubblewrap", "bubblewrap-root", "bubblewrap-rootless", "docker")


class How(TypedDict, total=False):
    """See Bubblewrap. Docker keeps no limit of states."""

    slots: int | None
    limit: int | None
    index_hosts: Sequence[str]


def names() -> list[str]:
    return [*OWN, *sorted(point.name for point in entry_points(group=GROUP))]


@asynccontextmanager
async def open_backend(name: str, root: Path, **how: Unpack[How]) -> AsyncIterator[Sandbox]:
    """The sandbox of a name, open, with its states named at `root`. `auto` is bubblewrap if that runs here, else Docker.

    Raises SandboxUnavailable: no such name, or not on this machine. `how` does not reach other people's backends.
    """
    async with AsyncExitStack() as stack:
        if name == "auto":
            yield await _first(stack, root, how)
        elif name in OWN:
            yield await stack.enter_async_context(_own(name, root, how))
        else:
            points = entry_points(group=GROUP, name=name)
            if not points:
                raise SandboxUnavailable(f"there is no sandbox called {name}", f"choose one of {', '.join(names())}")
            (point,) = points
            yield await stack.enter_async_context(point.load()(root))


async def _first(stack: AsyncExitStack, root: Path, how: How) -> Sandbox:
    try:
        return await stack.enter_async_context(_own("bubblewrap", root, how))
    except SandboxUnavailable as first:
        try:
            return await stack.enter_async_context(_own("docker", root, how))
        except SandboxUnavailable as second:
            raise SandboxUnavailable(f"{first.what} (nor Docker: {second.what})", first.remedy) from first


def _own(name: str, root: Path, how: How) -> Bubblewrap | Docker:
    if name == "docker":
        from runoff.sandbox.docker.backend import Docker

        return Docker(root, slots=how.get("slots"), index_hosts=how.get("index_hosts", ()))
    modes: dict[str, Mode | None] = {"bubblewrap-root": "root", "bubblewrap-rootless": "rootless"}
    return Bubblewrap(root, modes.get(name), **how)
