"""A run whose instances are solved by workers elsewhere: this process has its directory, and leases instances to them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

from runoff import __version__
from runoff.agent.budget import Budget
from runoff.agent.protocol import ModelMisconfigured
from runoff.agent.step import priced
from runoff.executors.protocol import (
    Answerer,
    Away,
    Broke,
    Did,
    Finished,
    Fleet,
    Found,
    Has,
    Job,
    Lease,
    Left,
    Lost,
    Means,
    More,
    Part,
    Said,
    Seeks,
    Told,
    Wrote,
)
from runoff.executors.shelf import Shelf
from runoff.instance import Instance, packed
from runoff.pipeline import Models
from runoff.recipe import Recipe
from runoff.run import BadRun, Result, Run, RunDirectory, write_whole
from runoff.sandbox.environments.builder import Contents
from runoff.sandbox.protocol import Sandbox, SandboxUnavailable, StoreFull

SILENT = 60.0
"""Seconds without a sign of life after which a worker is taken for lost. A lost node is usually known of sooner."""
LOOK = 2.0
"""Seconds between two looks at which nodes there are."""
LOSSES = 5
"""Workers that may be lost with an instance before it is taken for the reason."""


class _Place:
    """A worker, and what is leased to it."""

    def __init__(self, node: str, address: str, worker: Away) -> None:
        self.node, self.address, self.worker = node, address, worker
        self.leased: dict[str, int] = {}
        """Instance → epoch."""
        self.written: list[int] = []
        """Numbers of lines that it has not been told of yet."""
        self.worked = False
        """Whether anything has come of it."""


class Spread(Run):
    """A `Run` of which nothing but the record is here.

    A lost worker's instances are leased again, and go on from their logs; if this process is lost its workers end with it,
    and the same command goes on. Lines of a lease that is over are refused, so no log has two writers.
    """

    def __init__(
        self,
        directory: RunDirectory,
        instances: Sequence[Instance],
        recipe: Recipe,
        models: Models,
        means: Means,
        fleet: Fleet,
        budget: Budget,
        prices: Answerer,
        *,
        at_once: int,
        shared: bool = False,
        workers: int | None = None,
        restart_drifted: bool = False,
        interrupted: asyncio.Event | None = None,
        index: Path | None = None,
        command: Sequence[str] = (),
        silent: float = SILENT,
        losses: int = LOSSES,
    ) -> None:
        """`at_once`: instances a worker has at a time. `shared`: whether sources are at the same path on every node.
        `workers`: how many there may be at most."""
        super().__init__(
            directory,
            instances,
            recipe,
            models,
            prices,
            cast(Sandbox, _Elsewhere()),
            budget,
            restart_drifted=restart_drifted,
            interrupted=interrupted,
            price_of=prices.price_of,
            command=command,
        )
        self._means, self._fleet, self._shared, self._most = means, fleet, shared, workers
        self._at_once, self._silent, self._most_losses = at_once, silent, losses
        self._restart_drifted, self._prepared = restart_drifted, index
        self._waiting = deque(instances)
        self._known = {instance.id: instance for instance in instances}
        self._epochs, self._losses = Counter[str](), Counter[str]()
        self._at: dict[str, _Place] = {}
        self._attending: dict[str, asyncio.Task[None]] = {}
        self._unfit: dict[str, Exception] = {}
        self._addresses: dict[str, str] = {}
        self._homes = directory.path / "nodes.json"
        self._home: dict[str, str] = _read(self._homes)
        """Instance → the address of the node that has its states: it is leased there again as long as that is alive."""
        self._sources: dict[str, Awaitable[Contents]] = {}
        self._sending = set[asyncio.Task[None]]()
        self._shelf = Shelf(self._shelved)
        self._among = 1

    def stop(self) -> None:
        super().stop()
        while self._waiting:
            self._end(Result(instance=self._waiting.popleft().id, status="stopped", why="stopped by the user"))
        for place in self._at.values():
            self._order(place, stop=True)

    async def solve(self) -> list[Result]:
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watching = asyncio.create_task(self._watch())
        watching.add_done_callback(self._failed)
        try:
            await self._over
        finally:
            watching.cancel()
            tasks = [watching, *self._attending.values(), *self._sending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*map(self._dismiss, self._at.values()))
        return [self.results[instance.id] for instance in self.instances]

    async def _watch(self) -> None:
        """A worker on every node, also on those that come later."""
        while True:
            nodes = await self._fleet.nodes()
            wanted = sorted(nodes.keys() - self._attending.keys() - self._unfit.keys())
            room = None if self._most is None else max(0, self._most - len(self._attending))
            fit = len(nodes.keys() - self._unfit.keys())
            among, self._among = self._among, max(1, min(fit, self._most or len(nodes)))
            if self._among != among:
                for place in self._at.values():  # before another begins, so that all keep to the rates together
                    self._order(place)
            if self._among < among:
                self._lease()
            for node in wanted[:room]:
                self._addresses[node] = nodes[node]
                task = self._attending[node] = asyncio.create_task(self._attend(node, f"{nodes[node]} ({node[:6]})"))
                task.add_done_callback(self._failed)
            if nodes and nodes.keys() <= self._unfit.keys():
                raise next(iter(self._unfit.values()))
            await asyncio.sleep(LOOK)

    async def _attend(self, node: str, name: str) -> None:
        """Workers on a node, one after another, as long as there is one to be had."""
        failures = 0
        try:
            while failures < self._most_losses + LOSSES and node in await self._fleet.nodes():
                place = None
                try:
                    place = await self._begin(node, name)
                    if place is None:
                        return
                    await self._hear(place)
                except Lost as lost:
                    self.say(f"the worker on {name} is lost ({lost}); what it had goes on elsewhere")
                finally:
                    if place and not self._over.done():
                        self._lose(place)
                failures = 0 if place and place.worked else failures + 1
                await asyncio.sleep(min(0.5 * failures, 5))
            if node in await self._fleet.nodes():
                self._unfit[node] = SandboxUnavailable(f"{name} lost {failures} workers in a row", "look at its logs")
        finally:
            self._attending.pop(node, None)
            self._addresses.pop(node, None)
            self._lease()

    async def _begin(self, node: str, name: str) -> _Place | None:
        """A worker there, told what is known; None if it cannot work."""
        caps, spent = self.budget.caps(), self.budget.spent()
        how = (self._among, self._restart_drifted, self._prepared)
        job = Job(self._means, self.recipe, self.models, caps, spent, *how)
        worker, hello = await self._fleet.start(node, job)
        wrong = _raised(hello.broke) if hello.broke else None
        if hello.version != __version__:
            wrong = BadRun(f"{name} has runoff {hello.version}, this is {__version__}; install the same on every node")
        if wrong:
            worker.kill()
            self._unfit[node] = wrong
            self.say(f"{name} does no work: {wrong}")
            return None
        place = self._at[node] = _Place(node, self._addresses[node], worker)
        if self.stopping:
            self._order(place, stop=True)
        self._lease()
        return place

    async def _hear(self, place: _Place) -> None:
        while True:
            try:
                heard = await asyncio.wait_for(place.worker.hear(), self._silent)
            except TimeoutError:
                raise Lost(f"it was silent for {self._silent:g} s") from None
            for said in heard:
                self._take(place, said)

    def _take(self, place: _Place, said: Said) -> None:
        if isinstance(said, Broke):
            raise _raised(said)
        if isinstance(said, Has):
            self._shelf.has(place, said.name, said.state)
        elif isinstance(said, Seeks):
            self._shelf.seek(place, said)
        elif isinstance(said, Left):
            self._shelf.left(place, said)
        elif isinstance(said, More):
            self._beside(self._shelf.more(place, said))
        else:
            self._take_leased(place, said)

    def _take_leased(self, place: _Place, said: Wrote | Did | Finished) -> None:
        if place.leased.get(said.instance) != said.epoch or self._epochs[said.instance] != said.epoch:
            self._order(place, over=((said.instance, said.epoch),))
            return
        if isinstance(said, Wrote):
            self._write(place, said)
        elif isinstance(said, Did):
            self.worlds[said.instance].votes = said.votes
            self._stage(said.instance, said.stage)
        elif isinstance(said, Finished):
            del place.leased[said.instance]
            self._end(said.result)
            self._lease()

    def _write(self, place: _Place, said: Wrote) -> None:
        """Lines into their log, and what they cost into the budget; the worker is told when they are there."""
        world, place.worked = self.worlds[said.instance], True
        before = len(world.log.ledger)
        try:
            written = world.log.receive(said.lines, sync=said.sync)
        except ValueError as error:
            raise Lost(str(error)) from None
        for line in world.log.ledger[before:]:
            world.add(line["t"], priced(line, self._price_of), line["model"])

        def there(done: asyncio.Future[None]) -> None:
            if done.cancelled():
                return
            if error := done.exception():
                self._fail(error)
                return
            if not place.written:
                asyncio.get_running_loop().call_soon(self._acknowledge, place)
            place.written.append(said.number)

        written.add_done_callback(there)

    def _acknowledge(self, place: _Place) -> None:
        written, place.written = tuple(place.written), []
        self._order(place, written=written)

    def _order(self, place: _Place, **told: Any) -> None:
        place.worker.tell(Told(self.budget.spent(), self._among, **told))

    def _stage(self, instance: str, stage: str) -> None:
        if stage:
            self.stages[instance] = stage
        self.changed()

    def _lease(self) -> None:
        """Give out what waits: to whoever has least, but what was begun on a node that is alive only there."""
        if self.stopping or self._over.done():
            return
        begun, known = set(self._addresses.values()), dict(self._home)
        for instance in list(self._waiting):
            free = [place for place in self._at.values() if len(place.leased) < self._share()]
            if not free:
                break
            if self._suspected(instance.id):
                free = [place for place in free if not any(map(self._suspected, place.leased))]
                if not free:
                    continue
            home = self._home.get(instance.id)
            there = [place for place in free if place.address == home]
            if not there and home in begun:
                continue
            place = min(there or free, key=lambda place: len(place.leased))
            self._waiting.remove(instance)
            self._home[instance.id] = place.address
            self._epochs[instance.id] += 1
            place.leased[instance.id] = self._epochs[instance.id]
            self._beside(self._send(place, instance, self._epochs[instance.id]))
        if self._home != known:
            write_whole(self._homes, json.dumps(self._home, indent=0, sort_keys=True).encode())

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        task.add_done_callback(self._failed)

    def _shelved(self, place: Any, said: Found | Part) -> None:
        self._order(place, **({"found": (said,)} if isinstance(said, Found) else {"parts": (said,)}))

    def _share(self) -> int:
        """How many instances a worker may have: where there are few, the first to begin must not take what the others then lack."""
        open_ones = len(self.instances) - len(self.results)
        return min(self._at_once, -(-open_ones // self._among))

    def _suspected(self, instance: str) -> bool:
        """Whether workers were lost with it, and it may be the reason: no worker has two of those, so that the one which is
        takes none of the others along to the end."""
        return self._losses[instance] >= 2

    async def _send(self, place: _Place, instance: Instance, epoch: int) -> None:
        contents = None
        if instance.source and not self._shared:
            key = f"{instance.digest} {instance.source}"
            if key not in self._sources:
                self._sources[key] = self._fleet.put(await asyncio.to_thread(packed, instance))
            contents = self._sources[key]
        log = await self.worlds[instance.id].log.lines()
        if place.leased.get(instance.id) == epoch:
            self._order(place, leases=(Lease(instance, epoch, log, contents),))

    def _lose(self, place: _Place) -> None:
        """What a worker had waits again, first in line."""
        self._at.pop(place.node, None)
        self._shelf.lose(place)
        place.worker.kill()
        leased, place.leased = place.leased, {}
        for name in reversed(leased):
            self._losses[name] += 1
            if self.stopping:
                self._end(Result(instance=name, status="stopped", why="its worker was lost while it was to stop"))
            elif self._losses[name] >= self._most_losses:
                why = f"its worker was lost {self._losses[name]} times, on whatever node; the same command tries again"
                self._end(Result(instance=name, status="failed", why=why))
            else:
                self._waiting.appendleft(self._known[name])
        self._lease()

    def _end(self, result: Result) -> None:
        log = self.worlds[result.instance].log
        more: dict[str, Any] = {"possibly_billed": log.possibly_billed.total(), "damaged": len(log.damaged)}
        if result.outcome:  # as it is known here, not where its source was unpacked
            more["outcome"] = result.outcome.model_copy(update={"instance": self._known[result.instance]})
        self.results[result.instance] = result.model_copy(update=more)
        self._stage(result.instance, result.status)
        if len(self.results) == len(self.instances) and not self._over.done():
            self._over.set_result(None)

    def _failed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    async def _dismiss(self, place: _Place) -> None:
        try:
            await asyncio.wait_for(place.worker.end(), 20)
        except (Lost, TimeoutError):
            pass
        finally:
            place.worker.kill()


class _Elsewhere:
    """In place of a sandbox where nothing is executed."""

    name = "on the workers' nodes"

    def refer(self, path: Path) -> None:
        pass


def _read(file: Path) -> dict[str, str]:
    """What is there; nothing where it is missing or damaged: it is a preference."""
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(at) for name, at in known.items()} if isinstance(known, dict) else {}


def _raised(broke: Broke) -> Exception:
    if broke.kind == "model":
        return ModelMisconfigured(broke.what, broke.remedy, broke.exit_code)
    if broke.kind == "sandbox":
        return SandboxUnavailable(broke.what, broke.remedy)
    if broke.kind == "store":
        return StoreFull("; ".join(filter(None, [broke.what, broke.remedy])))
    return RuntimeError(broke.what)
