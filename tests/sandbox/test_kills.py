"""SIGKILL at any point, while states are made, named, logged and collected: nothing is left running, nothing is half, nothing lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.prerequisites import Mode
from runoff.sandbox.protocol import State
from tests.sandbox.stores import cleaned, layers, left_of, litter, on_disk, under

# Forks a process for each line it reads, which works until it is killed: a new interpreter each time would take a second.
WORKING = """
import asyncio, json, os, random, sys
from pathlib import Path
from runoff.sandbox import Base, Bubblewrap
from tests.sandbox.stores import cleaned

async def chain(sandbox, log, who):
    state = await sandbox.base(Base())
    for n in range(1000):
        text = f"{who} {n}"
        script = f": {MARK}; echo -n {text} > f; head -c {random.choice((10, 10, 1500000))} /dev/urandom > {who}-{n % 3}"
        state = (await sandbox.execute(state, ["sh", "-c", script])).after
        log.write(json.dumps({"after": {"layers": state.layers}, "holds": text}) + "\\n")  # unbuffered, as a run's log is
        if n % 2:
            sandbox.keep(f"{who[-1]}-{n % 8}", state)

async def collecting(store):
    while True:
        await cleaned(store)

async def main(store, mode, log, life):
    async with Bubblewrap(store, mode, slots=4) as sandbox:
        sandbox.refer(log)
        with log.open("a", buffering=1) as file:
            await asyncio.gather(collecting(store), *(chain(sandbox, file, f"{life}{who}") for who in "abc"))

store, mode, log, MARK = sys.argv[1:]
for life in sys.stdin:
    if (child := os.fork()) == 0:
        os.setpgid(0, 0)
        asyncio.run(main(Path(store), mode, Path(log), life.strip()))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


@contextmanager
def nursery(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)]),
    }
    with subprocess.Popen(
        [sys.executable, "-c", WORKING, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def logged(log: Path) -> dict[State, str]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return {State(layers=line["after"]["layers"]): line["holds"] for line in lines}


async def check(store: Path, mode: Mode, log: Path) -> int:
    """Every state that has a name or stands in the log is whole, and holds what it should. Returns how many the log has."""
    async with Bubblewrap(store, mode) as sandbox:
        states = logged(log)
        for state in states:
            assert sandbox.find(state.digest), f"{state.digest} is in the log and not in the store"
        for file in (store / "names").glob("*"):
            said = json.loads(file.read_text())
            state = sandbox.named(said["name"])
            assert state, f"{said['name']} is half"
            who, _, n = said["name"].partition("-")
            life, count = (await sandbox.read(state, "/testbed/f")).decode().split()
            assert life.endswith(who)
            assert int(count) % 8 == int(n)
        texts = await asyncio.gather(*(sandbox.read(state, "/testbed/f") for state in states))
        assert texts == [text.encode() for text in states.values()]
    return len(states)


def forget(log: Path, keep: int) -> None:
    """Leaves a log its newest lines, so that there are old states to collect and the next check is no longer than this one."""
    log.write_text("".join(log.read_text().splitlines(keepends=True)[-keep:]))


def kills(mode: Mode, tmp_path: Path, count: int) -> str:
    store, log, mark = tmp_path / "states", tmp_path / "log.jsonl", f"mark-{os.urandom(8).hex()}"
    log.touch()
    slowest = 0.0
    seen_alive = found = 0
    with nursery(str(store), mode, str(log), mark) as process:
        assert process.stdin
        assert process.stdout
        for life in range(count):
            process.stdin.write(f"{life}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            time.sleep(random.uniform(0, 0.6 if life % 4 else 2.5))  # a name takes a sync of the disk
            sessions = [path.name for path in litter(store)] if store.exists() else []
            seen_alive += len(left_of(mark, str(store), *sessions)) > 2  # beside the nursery
            os.kill(child, signal.SIGKILL)
            began = time.monotonic()
            assert process.stdout.readline() == "dead\n"
            nursery_itself = f"{process.pid} "
            while left := [
                it for it in left_of(f": {mark}", str(store), *sessions) if not it.startswith(nursery_itself)
            ]:
                assert time.monotonic() < began + 3, left
                time.sleep(0.005)
            slowest = max(slowest, time.monotonic() - began)
            if life % 5 == 4 or life == count - 1:
                found += asyncio.run(check(store, mode, log))
                forget(log, keep=10)
    assert seen_alive > count / 4
    assert found > count
    left, unclean = len(litter(store)), len(layers(store))
    report = asyncio.run(cleaned(store))
    names = [json.loads(file.read_text())["layers"][0] for file in (store / "names").glob("*")]
    wanted = under(store, [*names, *(state.digest for state in logged(log))])
    assert layers(store) == wanted
    assert litter(store) == []
    assert abs(report.bytes - on_disk(store)) < 1 << 16, "but for a directory that has grown a block"
    assert {path.name for path in store.iterdir()} - wanted <= {"names", "referrers", "lock", "collecting", "version"}
    log.unlink()
    asyncio.run(cleaned(store, unused=0))
    assert layers(store) == set()
    return (
        f"{mode}: {count} kills: {found} states read in the log, {len(names)} names, all whole; gone after {slowest * 1000:.0f} ms"
        f" at most; {unclean - len(wanted)} layers and {left} directories to clean; {report.bytes >> 20} MiB stay"
    )


def test_twenty_kills(mode: Mode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = kills(mode, tmp_path, 20)
    with capsys.disabled():
        print(f"\n{said}")


@pytest.mark.full
def test_three_hundred_kills(mode: Mode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = kills(mode, tmp_path, 300)
    with capsys.disabled():
        print(f"\n{said}")
