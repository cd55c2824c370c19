"""One node's part of a run: the instances leased to it, solved as on a laptop, their lines written by the head.

It knows nothing of how it is reached. One event loop has all of it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import cast

from runoff import __version__
from runoff.agent.budget import Budget
from runoff.agent.log import Log, LogBroken
from runoff.agent.protocol import Call, ModelMisconfigured, Reply
from runoff.agent.starts import Starts
from runoff.agent.step import World
from runoff.executors.protocol import Answerer, Broke, Did, Finished, Hello, Job, Lease, Said, Told, Wrote
from runoff.executors.sharing import Sharing
from runoff.instance import Instance, unpacked
from runoff.run import attempt, world_of
from runoff.sandbox.protocol import Sandbox, SandboxUnavailable, Ships, StoreFull

BEAT = 2.0
"""Seconds after which a worker that has nothing to say says so."""


class Worker:
    """See `protocol.Away` for who talks to it."""

    def __init__(self, job: Job, sources: Path) -> None:
        """`sources`: where repositories are unpacked, once a node."""
        self._job, self._sources = job, sources
        self._budget = Budget(**job.caps)
        self._budget.learn(job.spent)
        self._starts = Starts(job.among)
        self._numbers = itertools.count()
        self._outbox: list[Said] = []
        self._unwritten: dict[int, asyncio.Future[None]] = {}
        self._leases: dict[tuple[str, int], tuple[asyncio.Task[None], Leased]] = {}
        self._worlds: dict[tuple[str, int], World] = {}
        self._unpacking: dict[str, asyncio.Lock] = {}
        self._votes: dict[tuple[str, int], tuple[int, int]] = {}
        self._stages: dict[tuple[str, int], str] = {}
        self._model: Answerer
        self._sandbox: Sandbox

    async def open(self) -> Hello:
        """Before anything else. Whoever cannot work says why."""
        self._stirred, self._stop, self._open = asyncio.Event(), asyncio.Event(), AsyncExitStack()
        try:
            means = self._job.means.open(self._budget, self._stop)
            self._model, sandbox = await self._open.enter_async_context(means)
            self._model.share(self._job.among)
            self._sharing = Sharing(sandbox, sandbox, self.say) if isinstance(sandbox, Ships) else None
            self._sandbox = cast(Sandbox, self._sharing) if self._sharing else sandbox
        except (ModelMisconfigured, SandboxUnavailable, StoreFull) as error:
            return Hello(__version__, _broke(error))
        return Hello(__version__, None)

    async def hear(self) -> list[Said]:
        """What there is to say, in order; empty after BEAT seconds without."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stirred.wait(), BEAT)
        await asyncio.sleep(0)  # what comes together goes together
        self._stirred.clear()
        said, self._outbox = self._outbox, []
        for key, world in self._worlds.items():
            if self._votes.get(key) != world.votes:
                self._votes[key] = world.votes
                said.append(Did(*key, self._stages.get(key, ""), world.votes))
        return said

    async def tell(self, told: Told) -> None:
        try:
            self._hark(told)
        except Exception as error:  # nobody waits for what this comes to
            self.say(Broke("mistake", f"{type(error).__name__}: {error}"))

    def _hark(self, told: Told) -> None:
        self._budget.learn(told.spent)
        if told.among != self._starts.among:
            self._starts.among = told.among
            self._model.share(told.among)
        for number in told.written:
            if (written := self._unwritten.pop(number, None)) and not written.done():
                written.set_result(None)
        for key in told.over:
            if key in self._leases:
                task, kept = self._leases.pop(key)
                kept.end()
                task.cancel()
        if self._sharing:  # nobody else asks
            for found in told.found:
                self._sharing.hear(found)
            for part in told.parts:
                self._sharing.hear(part)
        if told.stop:
            self._stop.set()
            for world in self._worlds.values():
                world.stopping = True
        for lease in told.leases:
            kept = Leased(lease, self._send)
            key = (lease.instance.id, lease.epoch)
            self._leases[key] = asyncio.create_task(self._work(lease, kept)), kept

    async def ship(self, layer: str) -> AsyncIterator[bytes]:
        """See `Ships`."""
        assert self._sharing
        async for part in self._sharing.ship(layer):
            yield part

    async def end(self) -> None:
        """Stop at once, and put away what is open."""
        tasks = [task for task, _ in self._leases.values()]
        for _, kept in self._leases.values():
            kept.end()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._open.aclose()

    def say(self, said: Said) -> None:
        self._outbox.append(said)
        self._stirred.set()

    def _send(self, lease: Lease, lines: bytes, sync: bool) -> asyncio.Future[None]:
        number = next(self._numbers)
        written = self._unwritten[number] = asyncio.get_running_loop().create_future()
        self.say(Wrote(lease.instance.id, lease.epoch, number, lines, sync))
        return written

    async def _work(self, lease: Lease, kept: Leased) -> None:
        name, key, job = lease.instance.id, (lease.instance.id, lease.epoch), self._job

        def tell(stage: str) -> None:
            self._stages[key] = stage
            self.say(Did(*key, stage, world.votes))

        try:
            instance = await self._here(lease)
            log, model = Log(kept), _Checked(self._model)
            price_of = self._model.price_of
            spent = self._budget.spent()
            world = world_of(log, instance, job.recipe, model, self._sandbox, self._budget, self._starts, price_of)
            self._budget.learn(spent)  # the head has counted what that log says
            model.check = world.check
            world.restart_drifted, world.stopping = job.restart_drifted, self._stop.is_set()
            self._worlds[key] = world
            try:
                result = await attempt(world, instance, job.recipe, job.models, None, tell, job.prepared)
            finally:
                await world.close()
            self.say(Finished(*key, result))
        except LogBroken:
            pass  # it is somebody else's by now
        except (ModelMisconfigured, StoreFull) as error:
            self.say(_broke(error))
        except Exception as error:
            self.say(Broke("mistake", f"{name}: {type(error).__name__}: {error}"))
        finally:
            for known in (self._leases, self._worlds, self._votes, self._stages):
                known.pop(key, None)

    async def _here(self, lease: Lease) -> Instance:
        """The instance, its repository on this node."""
        if lease.contents is None:
            return lease.instance
        folder = self._sources / lease.instance.digest
        async with self._unpacking.setdefault(lease.instance.digest, asyncio.Lock()):
            if not folder.is_dir():
                await asyncio.to_thread(unpacked, await lease.contents, folder)
        return lease.instance.model_copy(update={"source": str(folder)})


class Leased:
    """A log's lines, kept by the head: see `log.Lines`. Broken when the lease is over."""

    def __init__(self, lease: Lease, send: Callable[[Lease, bytes, bool], asyncio.Future[None]]) -> None:
        self._lease, self._send = lease, send
        self._over = False
        self._waiting: asyncio.Future[None] | None = None

    def __str__(self) -> str:
        return f"the log of {self._lease.instance.id}"

    def read(self) -> bytes:
        return self._lease.log

    def begin(self, lines: bytes) -> None:
        if lines:
            self._send(self._lease, lines, True)  # what comes after is written after

    async def write(self, lines: list[bytes], sync: bool) -> None:
        if self._over:
            raise ConnectionError("the lease is over")
        self._waiting = self._send(self._lease, b"".join(lines), sync)
        await self._waiting

    def close(self) -> None:
        pass

    def end(self) -> None:
        self._over = True
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the lease is over"))


class _Checked:
    """Asks only what may be asked by what all had spent when the call's intent was written: so all workers together pass
    a budget by no more than the calls then in flight, as one does."""

    def __init__(self, model: Answerer) -> None:
        self._model = model
        self.check: Callable[[str], None] = lambda trajectory: None

    async def ask(self, call: Call) -> Reply:
        self.check(call.trajectory)
        return await self._model.ask(call)


def _broke(error: ModelMisconfigured | SandboxUnavailable | StoreFull) -> Broke:
    what, _, remedy = str(error).partition("; ")
    if isinstance(error, ModelMisconfigured):
        return Broke("model", what, remedy, error.exit_code)
    return Broke("sandbox" if isinstance(error, SandboxUnavailable) else "store", what, remedy)
