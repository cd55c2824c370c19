"""Trajectories cost next to nothing beside their model calls. Ratios within one run; scripts/bench/orchestration has figures."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from runoff.agent.log import Log
from scripts.bench.orchestration import measured


def test_a_turn_of_five_hundred_trajectories_takes_no_more_than_twice_a_turn_of_ten(tmp_path: Path) -> None:
    few, many = (
        max(measured("runoff", tmp_path / f"{size} {n}", size, 500, 1)["cpu"] for n in range(2)) for size in (10, 500)
    )
    assert many > few / 2


def test_a_turn_is_faster_than_with_a_commit_of_sqlite(tmp_path: Path) -> None:
    ours, theirs = (
        max(measured(way, tmp_path / f"{way} {n}", 25, 1, 4)["wall"] for n in range(3)) for way in ("runoff", "sqlite")
    )
    assert ours > theirs


def test_ten_times_the_trajectories_take_about_ten_times_as_long_to_load(tmp_path: Path) -> None:
    seconds = {}
    for size in (100, 1_000):
        asyncio.run(_finished(tmp_path / str(size), size))
        seconds[size] = min(_loaded(tmp_path / str(size)) for _ in range(3))
    assert seconds[1_000] < 25 * seconds[100]  # the square would be a hundred times


async def _finished(path: Path, trajectories: int) -> None:
    log, names = Log(path), [f"t{n}" for n in range(trajectories)]
    for turn in range(10):  # side by side, as in a run
        for name in names:
            log.append({"t": name, "path": f"turn{turn}", "kind": "once", "request": {}, "result": None})
    for name in names:
        log.append({"t": name, "kind": "end", "result": None})
    await log.close()


def _loaded(path: Path) -> float:
    used = time.process_time()
    log = Log(path)
    assert not log.effects
    return time.process_time() - used
