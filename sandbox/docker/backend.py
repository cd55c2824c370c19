"""The sandbox for machines and images where bubblewrap cannot run: a state is an image of a Docker engine.

    async with Docker(Path("states")) as sandbox:
        state = await sandbox.base(Image(reference="docker://python:3.12"))
        done = await sandbox.execute(state, ["sh", "-c", "echo hello > greeting"])

What that costs (docs/how-to/docker.md has the figures): a container for each execution and a commit for each next state,
some hundred milliseconds in all. In a chain, the container that made a state is kept warm for the next execution in it,
which halves that. A state takes on disk what was written since the image that its container was made from.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

from runoff.sandbox.byexecution import ByExecution
from runoff.sandbox.docker import bottom
from runoff.sandbox.docker.bottom import Inside
from runoff.sandbox.docker.containers import Asked, Containers, not_there
from runoff.sandbox.docker.engine import DEADLINE, Engine, Missing
from runoff.sandbox.docker.facts import table
from runoff.sandbox.docker.orphans import OWNER, Owner, remove_containers
from runoff.sandbox.housekeeping import amount
from runoff.sandbox.lock import locked
from runoff.sandbox.protocol import (
    REPO,
    Base,
    Execution,
    Held,
    Image,
    Limits,
    NoRoom,
    Refused,
    State,
)
from runoff.sandbox.proxy import Proxy
from runoff.sandbox.streams import Ending

T = TypeVar("T")

_NAMES = "runoff-state"  # repository of tags


class Docker(ByExecution):
    """See `Sandbox` in protocol.py. `root` is a directory for what names these states: any number of processes may share it.

    `url` None: $DOCKER_HOST, or the usual socket. No more than `slots` executions run at once; the others wait. An engine
    that does not answer an ordinary call within `deadline` seconds is lost. `index_hosts` are package indexes beside those
    that this machine's tools are configured with; `network=True` is for root on the engine's machine, Refused elsewhere.
    At most `warm` idle containers are kept for what goes on from the states that were made in them; None: one a slot.

    Not promised: extended attributes, and parts of seconds of modification times (commits drop them); /etc/hosts,
    /etc/hostname and /etc/resolv.conf (the engine's own). `find`, `keep` and `named` ask the engine while the caller waits.
    """

    name = "docker"

    def __init__(
        self,
        root: Path,
        *,
        slots: int | None = None,
        url: str | None = None,
        deadline: float = DEADLINE,
        warm: int | None = None,
        index_hosts: Sequence[str] = (),
    ) -> None:
        self._root, self._url, self._deadline = Path(root), url, deadline
        self._proxy = Proxy(index_hosts)
        self._count = slots or os.cpu_count() or 1
        self._most_warm = self._count if warm is None else warm
        self._slots = asyncio.Semaphore(self._count)
        self._bases = dict[Base | Image, State]()

    async def __aenter__(self) -> Docker:
        self._pool = ThreadPoolExecutor(5 * self._count + 4, "docker")
        try:
            await self._in_thread(lambda _: self._begin())
        except BaseException:
            self._pool.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._proxy.stop()
            await self._in_thread(lambda _: self._end())
        finally:
            self._pool.shutdown(wait=False)

    def holds(self) -> list[Held]:
        return table(self._info)

    async def base(self, base: Base | Image) -> State:
        if base not in self._bases:
            labels = self._labels
            if isinstance(base, Base):
                state = State(layers=(await self._in_thread(lambda _: bottom.of_host(self._engine, base, labels)),))
                await self._see_the_same_host(state)
            else:
                state = State(layers=(await self._in_thread(lambda _: bottom.of_image(self._engine, base, labels)),))
            self._bases[base] = state
        return self._bases[base]

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
        template: bool = False,  # there is none here
        compared: Mapping[str, Any] | None = None,
    ) -> Execution:
        proxy = await self._way_out() if network else None
        async with self._slots:
            since = ""
            if compared:
                digest, at = compared["since"][0], compared["at"]
                since = await self._in_thread(lambda _: self._containers.repository(digest, at))
            asked = Asked(state.digest, argv, limits, stdin, env, cwd, proxy, since, freeze)
            return await self._in_thread(lambda ending: self._containers.execute(asked, ending))

    def named(self, name: str) -> State | None:
        return self._state(f"{_NAMES}:{bottom.key(self._store, name)}")

    def find(self, digest: str) -> State | None:
        """The state of a digest, if the engine has its image."""
        return self._state(f"sha256:{digest}")

    def keep(self, name: str, state: State) -> None:
        if not self.find(state.digest):
            raise not_there(state.digest)
        self._engine.tag(f"sha256:{state.digest}", _NAMES, bottom.key(self._store, name))

    def refer(self, path: Path) -> None:
        """Images are removed by nobody but `runoff clean`: there is nothing to say."""

    def release(self, path: Path) -> None:
        pass

    async def make_room(self, size: int) -> None:
        free = await asyncio.to_thread(self._containers.free)
        if free is not None and free < size:
            raise NoRoom(f"needs about {amount(size)} for images, {amount(free)} free where Docker keeps them")

    def alone(self, name: str) -> AbstractAsyncContextManager[None]:
        return locked(self._root / "locks", name)

    # Opening and closing

    async def _way_out(self) -> tuple[str, int]:
        if os.geteuid() != 0 or not self._engine.is_here:
            raise Refused(
                "on Docker only root, with an engine of this machine, can let a setup reach the package indexes"
            )
        return await self._proxy.address()

    async def _in_thread(self, work: Callable[[Ending], T]) -> T:
        """Cancelled, it asks the work to end, and waits until it has: each step of it has a deadline."""

        def done() -> T:
            try:
                return work(ending)
            finally:
                ending.close()

        ending = Ending()
        future = asyncio.get_running_loop().run_in_executor(self._pool, done)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            ending.ask("cancelled")
            await asyncio.wait([future])
            future.exception()
            raise

    def _begin(self) -> None:
        self._engine = Engine(self._url, self._deadline)
        try:
            self._info = self._engine.about()
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner, self._store = Owner.of(os.getpid()), _identity(self._root)
            remove_containers(self._engine, owner)  # images stay: a log may name them
            self._labels = {
                OWNER: f"{owner}/{os.urandom(4).hex()}",
                "runoff.store": self._store,
                "runoff.path": str(self._root.resolve()),
            }
            self._containers = Containers(
                self._engine,
                self._info,
                self._labels,
                self._pool,
                slots=self._count,
                most_warm=self._most_warm,
            )
        except BaseException:
            self._engine.close()
            raise

    def _end(self) -> None:
        try:
            self._containers.close()
        finally:
            self._engine.close()

    # States

    async def _see_the_same_host(self, state: State) -> None:
        """An engine elsewhere would show its own machine's programs, or none."""
        why = "; Docker can show the host's programs only where its engine is on the host: use an image as the base"
        known = await self._in_thread(lambda _: self._containers.about(state.digest))
        shown = known.inside.shown
        try:
            said = (await self.execute(state, ["stat", "-c", "%d:%i", *shown], cwd="/", freeze=False)).stdout.decode()
        except Refused as error:
            raise Refused(f"{error}{why}") from error
        here = "".join(f"{at.st_dev}:{at.st_ino}\n" for at in map(os.stat, shown))
        if said != here:
            raise Refused(f"the engine at {self._engine.url} does not see this machine's {', '.join(shown)}{why}")

    def _state(self, name: str) -> State | None:
        try:
            said = self._engine.image(name)
        except Missing:
            return None
        return State(layers=(said["Id"].removeprefix("sha256:"),)) if Inside.of(said) else None


def _identity(root: Path) -> str:
    """What the names of the states of this directory have in common; it moves with the directory."""
    file = root / "docker-store"
    mine = root / f".docker-store-{os.urandom(8).hex()}"
    try:
        mine.write_text(os.urandom(16).hex())
        with suppress(FileExistsError):
            file.hardlink_to(mine)
        return file.read_text()
    finally:
        mine.unlink(missing_ok=True)
