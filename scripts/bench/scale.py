"""A large batch over many nodes in simulated time: the real head, which leases and keeps the record; nodes of which the time is played.

    scale [--instances 2294] [--trajectories 50] [--nodes 1,4,16,64,256] [--at-once 16] [--cores 16] [--calls-at-once N]

What is real: `runoff.executors.head.Spread`, its leases, its logs (in a memory file system), every line of every call.
What is played: a node's units (trajectories turn by turn, cells of the outcome table, the run-off) take model time and
a sandbox slot each, as `Costs` says; the head handles one message after another, each for as long as it was measured to take.
Time jumps to the next thing that happens, so that days take minutes. Nothing is lost here: kills are tested elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import random
import selectors
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from runoff import __version__
from runoff.agent.budget import Budget, Prices
from runoff.agent.log import Log
from runoff.agent.protocol import Call, Reply, Usage
from runoff.executors.head import Spread
from runoff.executors.protocol import Away, Finished, Hello, Job, Lease, Said, Told, Wrote
from runoff.instance import Instance
from runoff.models import roles
from runoff.recipe import load_recipe
from runoff.run import Result, RunDirectory
from runoff.sandbox.environments.builder import Contents


class Costs(NamedTuple):
    """Seconds, unless it says otherwise. Where a figure is not ours to measure it is an assumption and says so."""

    answer: float = 15.0
    """Median of one model answer, lognormal with sigma 0.6. Assumed: it is the provider's."""
    turns: int = 6
    """Answers of a trajectory, its test and its edit together: 6.5 in the batch of docs/measured/2026-11-26-ray.md."""
    execution: tuple[float, ...] = (0.05, 0.59, 2.65, 5.75, 13.73, 22.49, 60.05)
    """Quantiles 5, 25, 50, 75, 90, 95, 99 % of 2,439 executions of 47 elections on SWE-bench rows, 2 cores, other load beside."""
    distinct: float = 0.4
    """Share of trajectories whose patch is another than those before. Assumed."""
    tests: int = 10
    """Generated tests that vote, and files of existing tests that are run. Assumed."""
    selection: int = 5
    """Answers of the run-off."""
    environment: float = 60.0
    """To build one on a node that does not have it. Assumed; the fourteen projects of docs/measured took from seconds to minutes."""
    environments: int = 120
    """Different ones among the instances: a repository's versions. Assumed for SWE-bench's 2,294."""
    head: float = 0.002
    """Processor time of the head for a call's lines; on 500 instances it was 0.9 ms, docs/measured/2026-11-26-ray.md."""
    node: float = 0.0055
    """Processor time of a node for all that is not an execution, a call; it takes a core for as long. 2.9 ms, later."""


class Simulated(asyncio.SelectorEventLoop):
    """Time passes only while nothing else happens; what is for a thread is done at once."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: Simulated) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again")
        self._loop.now += max(timeout, 0)
        return super().select(0)


class Slots:
    """So many at a time, first come, first served; and how long they were taken, in slot-seconds."""

    def __init__(self, count: int) -> None:
        self._free, self.taken = [0.0] * count, 0.0

    def until(self, now: float, seconds: float) -> float:
        """When something that takes so long and waits from now on is through."""
        begins = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, begins + seconds)
        self.taken += seconds
        return begins + seconds


class Node:
    """A worker, as the head has it."""

    def __init__(self, costs: Costs, options: argparse.Namespace, head: Slots, calls: asyncio.Semaphore | None) -> None:
        self._costs, self._options, self._head, self._calls = costs, options, head, calls
        self.cores = Slots(options.cores)
        self._outbox: asyncio.Queue[tuple[float, Said]] = asyncio.Queue()
        self._environments: dict[int, asyncio.Future[None]] = {}
        self._unwritten: dict[int, asyncio.Future[None]] = {}
        self._numbers = 0
        self._tasks = set[asyncio.Task[None]]()

    async def hear(self) -> list[Said]:
        try:
            when, said = await asyncio.wait_for(self._outbox.get(), 20)
        except TimeoutError:
            return []
        await _at(when)
        return [said]

    def tell(self, told: Told) -> None:
        for number in told.written:
            self._unwritten.pop(number).set_result(None)
        for lease in told.leases:
            task = asyncio.create_task(self._instance(lease))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        pass

    def kill(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _instance(self, lease: Lease) -> None:
        costs, chance = self._costs, random.Random(lease.instance.id)
        await self._environment(chance.randrange(costs.environments))
        each = range(self._options.trajectories)
        await asyncio.gather(*(self._trajectory(lease, n, random.Random(f"{lease.instance.id} {n}")) for n in each))
        distinct = max(1, round(costs.distinct * self._options.trajectories))
        await asyncio.gather(*(self._executed(chance) for _ in range(distinct * costs.tests)))
        for turn in range(costs.selection):
            await self._asked(lease, "selection", turn, chance)
            await self._executed(chance)
        ended = Finished(lease.instance.id, lease.epoch, Result(instance=lease.instance.id, status="none"))
        self._say(ended)

    async def _environment(self, which: int) -> None:
        loop = asyncio.get_running_loop()
        if which not in self._environments:
            self._environments[which] = loop.create_future()
            await _at(self.cores.until(loop.time(), self._costs.environment))
            self._environments[which].set_result(None)
        await self._environments[which]

    async def _trajectory(self, lease: Lease, number: int, chance: random.Random) -> None:
        for turn in range(self._costs.turns):
            await self._asked(lease, f"editing-{number}", turn, chance)
            await self._executed(chance)

    async def _asked(self, lease: Lease, trajectory: str, turn: int, chance: random.Random) -> None:
        loop = asyncio.get_running_loop()
        await _at(self.cores.until(loop.time(), self._costs.node))
        async with self._calls or contextlib.nullcontext():
            await asyncio.sleep(self._costs.answer * chance.lognormvariate(0, 0.6))
        self._numbers += 1
        number, written = self._numbers, loop.create_future()
        self._unwritten[number] = written
        line = _TEMPLATE.replace(b"%T", trajectory.encode()).replace(b"%P", f"turn{turn}".encode())
        self._say(Wrote(lease.instance.id, lease.epoch, number, _sealed(line), True))
        await written

    async def _executed(self, chance: random.Random) -> None:
        seconds = _drawn(self._costs.execution, chance)
        await _at(self.cores.until(asyncio.get_running_loop().time(), seconds))

    def _say(self, said: Said) -> None:
        """Heard by the head when it has handled all that came before."""
        self._outbox.put_nowait((self._head.until(asyncio.get_running_loop().time(), self._costs.head), said))


class Nodes:
    """A fleet that is whole from the beginning."""

    def __init__(self, count: int, make: Callable[[], Node]) -> None:
        self.there = {f"node{n}": make() for n in range(count)}

    async def nodes(self) -> dict[str, str]:
        return {name: name for name in self.there}

    async def start(self, node: str, job: Job) -> tuple[Away, Hello]:
        return self.there[node], Hello(__version__, None)

    def put(self, contents: Contents) -> Awaitable[Contents]:
        raise NotImplementedError  # instances have no source here


class Nobody:
    async def ask(self, call: Call) -> Reply:
        raise NotImplementedError

    def price_of(self, name: str) -> Prices | None:
        return None


async def _at(when: float) -> None:
    await asyncio.sleep(max(0.0, when - asyncio.get_running_loop().time()))


def _drawn(quantiles: tuple[float, ...], chance: random.Random) -> float:
    at, marks = chance.random(), (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    if at <= marks[0] or at >= marks[-1]:
        return quantiles[0] if at <= marks[0] else quantiles[-1]
    n = next(n for n, mark in enumerate(marks) if at < mark)
    share = (at - marks[n - 1]) / (marks[n] - marks[n - 1])
    return quantiles[n - 1] + share * (quantiles[n] - quantiles[n - 1])


def _sealed(line: bytes) -> bytes:
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(line), line)


def _line() -> bytes:
    """What a log writes for an answer, its place left open."""

    async def inside(folder: Path) -> bytes:
        log = Log(folder / "log")
        before = len(await log.lines())
        result = Reply(text="x" * 200, usage=Usage(input=20_000, cached=18_000, output=500), cost=0.02)
        ask = {"t": "%T", "path": "%P", "kind": "ask", "request": {"model": "m"}, "seconds": 1.0, "new": []}
        await log.append(ask | {"result": result.model_dump(mode="json")})
        data = (await log.lines())[before:]
        await log.close()
        return data.rstrip(b"\n")[18:]

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(inside(Path(folder)))


_TEMPLATE = _line()


def simulated(nodes: int, costs: Costs, options: argparse.Namespace) -> dict[str, float]:
    """What a batch on so many nodes takes: {hours, busy: share of all cores, head: share of its time, calls}."""
    head = Slots(1)
    loop = Simulated()

    async def inside(folder: Path) -> dict[str, float]:
        calls = asyncio.Semaphore(options.calls_at_once) if options.calls_at_once else None
        fleet = Nodes(nodes, lambda: Node(costs, options, head, calls))
        made = [Instance(id=f"i{n}", statement="it is wrong\n", digest=f"d{n}") for n in range(options.instances)]
        recipe = load_recipe("hybrid", [f"trajectories={options.trajectories}"])
        run = Spread(
            RunDirectory(folder / "out"), made, recipe, roles(["m"]), None, fleet, Budget(), Nobody(), at_once=options.at_once
        )  # fmt: skip
        try:
            results = await run.solve()
        finally:
            await run.close()
        assert all(result.status == "none" for result in results)
        took = loop.time()
        busy = sum(node.cores.taken for node in fleet.there.values()) / (took * nodes * options.cores)
        return {"hours": took / 3600, "busy": busy, "head": head.taken / took, "calls": run.budget.spent().calls}

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(inside(Path(folder)))
        finally:
            loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=2294)
    parser.add_argument("--trajectories", type=int, default=50)
    parser.add_argument("--nodes", default="1,4,16,64,256")
    parser.add_argument("--at-once", type=int, default=16, help="instances a node works on at a time")
    parser.add_argument("--cores", type=int, default=16, help="sandbox slots of a node")
    parser.add_argument("--calls-at-once", type=int, help="what the provider lets all of them ask at a time")
    options = parser.parse_args()
    costs, first = Costs(), None
    print(costs)
    print("| nodes | hours | speed-up | a node's share of that | cores busy | the head busy | calls a second |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for nodes in map(int, options.nodes.split(",")):
        began = time.process_time()
        found = simulated(nodes, costs, options)
        first = first or (nodes, found["hours"])
        faster = first[1] / found["hours"] * first[0]
        rate = found["calls"] / found["hours"] / 3600
        shares = f"{faster / nodes:.2f} | {found['busy']:.0%} | {found['head']:.0%} | {rate:.0f}"
        took = time.process_time() - began
        print(
            f"| {nodes} | {found['hours']:.1f} | {faster:.1f} | {shares} |   ({took:.0f} s of a processor)", flush=True
        )


if __name__ == "__main__":
    main()
