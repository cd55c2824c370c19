"""What journalled trajectories cost beside their model calls, with a model that answers at once and no sandbox.

A trajectory shares 100 KB with the others of its issue, gets replies of 2 KB and answers each with 500 bytes that an
execution printed. Each turn is as durable as in a run: the intent is in the file before the request is sent, the reply on
the disk before anybody sees it. Beside it, taken in turns in processes of their own:

    sqlite       the same trajectories and records, in a table of stock SQLite (WAL, synchronous=FULL), a commit a reply
    sqlite group the same, but all records that wait are one commit
    dbos         workflows of DBOS on its SQLite system database, a step a turn, whose output is the reply (no intents, no prompts)

Started by scripts/bench/orchestration.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, cast

from runoff.agent.log import File, Log
from runoff.agent.protocol import Call, Message, Model, Reply, Request, Sampling, Usage
from runoff.agent.step import Ended, Step, World, settled, trajectory
from runoff.sandbox.protocol import Sandbox

SHARED, REPLY, OBSERVED = "x" * 100_000, "y" * 2_000, "z" * 500
TURNS = 10
DBOS = Path(".venv/dbos/bin/python")


class Instant:
    """Answers at once, with 2 KB."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, call: Call) -> Reply:
        self.asked += 1
        return Reply(text=REPLY, usage=Usage(input=len(SHARED) // 4, output=len(REPLY) // 4), cost=0.01)


class Holding(Instant):
    """Lets everybody wait in their third turn, until it is told to go on."""

    def __init__(self, trajectories: int) -> None:
        super().__init__()
        self.missing, self.all_wait, self.go_on = trajectories, asyncio.Event(), asyncio.Event()

    async def ask(self, call: Call) -> Reply:
        if call.path == "turn2/ask":
            self.missing -= 1
            if not self.missing:
                self.all_wait.set()
            await self.go_on.wait()
        return await super().ask(call)


class Rows(File):
    """A log's lines as rows of a SQLite table; with `each`, every reply is a commit of its own."""

    def __init__(self, path: Path, each: bool) -> None:
        super().__init__(path)
        self._each = each
        self._table = sqlite3.connect(path.with_suffix(".sqlite"), check_same_thread=False, isolation_level=None)
        self._table.execute("pragma journal_mode=wal")
        self._table.execute("create table if not exists journal (line blob not null)")

    def _commit(self, lines: list[bytes], sync: bool) -> None:
        # An intent has to outlive the process, not the machine, with SQLite as well.
        self._table.execute(f"pragma synchronous={'full' if sync else 'normal'}")
        groups = [[line] for line in lines] if self._each and sync else [lines]
        for group in groups:
            self._table.execute("begin immediate")
            self._table.executemany("insert into journal values (?)", [(line,) for line in group])
            self._table.execute("commit")

    def close(self) -> None:
        super().close()
        self._table.close()


LOGS: dict[str, Callable[[Path], Log]] = {
    "runoff": Log,
    "sqlite": lambda path: Log(Rows(path, each=True)),
    "sqlite group": lambda path: Log(Rows(path, each=False)),
}


async def run(log: Log, model: Model, trajectories: int, turns: int = TURNS) -> list[Ended[str]]:
    """All trajectories of one issue, at once; what is on record is not asked again."""
    world = World(log, "instance", model, cast(Sandbox, None))
    shared = Message("system", SHARED)

    async def strategy(step: Step) -> Ended[str]:
        talk = shared.then("user", f"You are {step.trajectory}.")
        for turn in range(turns):
            answer = await step.ask(f"turn{turn}/ask", Request("model", Sampling(temperature=0.5), talk))
            talk = answer.conversation.then("user", OBSERVED)
        return Ended(reason="done", value=talk.digest)

    try:
        return await settled(*(trajectory(world, f"edit{n}", str, strategy) for n in range(trajectories)))
    finally:
        await world.close()


def measured(way: str, place: Path, trajectories: int, least: int = 10_000, turns: int = TURNS) -> dict[str, float]:
    """Turns a second by the clock and by processor time, and bytes a turn; runs are repeated until there are `least` turns."""
    wall = cpu = size = 0.0
    runs = max(1, least // (trajectories * turns))
    for number in range(runs):
        path = place / f"{way} {trajectories} {turns} {number}" / "log"
        log = LOGS[way](path)
        clock, used = time.perf_counter(), time.process_time()
        asyncio.run(run(log, Instant(), trajectories, turns))
        wall, cpu = wall + time.perf_counter() - clock, cpu + time.process_time() - used
        size += sum(file.stat().st_size for file in path.parent.iterdir())
    total = runs * trajectories * turns
    return {"wall": total / wall, "cpu": total / cpu, "bytes": size / total}


def reloaded(path: Path, trajectories: int) -> tuple[float, float]:
    """Seconds from opening a finished run's log to the ends of all its trajectories: by the clock, of processor time."""
    clock, used, model = time.perf_counter(), time.process_time(), Instant()
    ends = asyncio.run(run(Log(path), model, trajectories))
    seconds = time.perf_counter() - clock, time.process_time() - used
    assert all(end.reason == "done" for end in ends)
    assert not model.asked
    return seconds


async def waiting(path: Path, trajectories: int) -> float:
    """Resident megabytes while so many trajectories wait on a model, each in its third turn."""
    model = Holding(trajectories)
    running = asyncio.create_task(run(Log(path), model, trajectories))
    await model.all_wait.wait()
    megabytes = resident()
    model.go_on.set()
    await running
    return megabytes


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def one(asked: list[str]) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    what, place, number, *rest = asked
    trajectories = int(number)
    if what == "waiting":
        return {"MB": asyncio.run(waiting(Path(place) / "waiting", trajectories))}
    if what == "reload":
        asyncio.run(run(Log(Path(place) / "finished"), Instant(), trajectories))
        clock, used = min(reloaded(Path(place) / "finished", trajectories) for _ in range(3))
        return {"seconds": clock, "cpu": used, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
    return measured(what, Path(place), trajectories, *map(int, rest))


def apart(*asked: object, python: str = sys.executable, script: str = __file__) -> dict[str, float]:
    """The same in a new process, with a new folder."""
    Path("runs").mkdir(exist_ok=True)  # on a disk, where /tmp may be memory
    with tempfile.TemporaryDirectory(dir="runs") as place:
        what, *rest = map(str, asked)
        done = subprocess.run(
            [python, script, "--one", what, place, *rest], stdout=subprocess.PIPE, text=True, check=True
        )
    return cast(dict[str, float], json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-dbos", action="store_true")
    parser.add_argument("--one", nargs="+")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one)))
        return
    sizes, ways = (10, 100, 500, 5_000), [*LOGS]
    if DBOS.exists() and not asked.without_dbos:
        ways.append("dbos")
    taken: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(asked.rounds):
        for size in sizes:
            for way in ways:
                if size > {"runoff": 5_000, "dbos": 100}.get(way, 500):  # what is slower would take minutes
                    continue
                if way == "dbos":
                    script = str(Path(__file__).with_name("orchestration_dbos.py"))
                    taken.setdefault((way, size), []).append(apart("dbos", size, python=str(DBOS), script=script))
                else:
                    taken.setdefault((way, size), []).append(apart(way, size, 10_000 if way != "sqlite" else 2_000))
    print(
        f"{TURNS} turns a trajectory, median of {asked.rounds} rounds taken in turns (least and most by processor time)"
    )
    print(f"{'':13} trajectories  turns/s  turns a second of processor time  bytes/turn")
    for (way, size), results in taken.items():
        cpu = [result["cpu"] for result in results]
        wall, each = (median(result[what] for result in results) for what in ("wall", "bytes"))
        print(
            f"{way:13} {size:12,} {wall:8,.0f}  {median(cpu):10,.0f} ({min(cpu):,.0f} to {max(cpu):,.0f}) {each:17,.0f}"
        )
    for turns in (10, 20, 40):
        result = apart("runoff", 250, 1, turns)
        print(f"disk: 250 trajectories of {turns} turns: {result['bytes']:,.0f} bytes a turn")
    print(f"5,000 trajectories wait on a model: {apart('waiting', 5_000)['MB']:.0f} MB resident")
    result = apart("reload", 5_000)
    print(
        f"a finished run of 5,000 trajectories reloads in {result['seconds']:.1f} s, {result['cpu']:.1f} s of processor time "
        f"(best of 3; {result['MB']:.0f} MB at most)"
    )


if __name__ == "__main__":
    main()
