"""Trajectories cost next to nothing beside their model calls. Ratios within one run; scripts/bench/orchestration has figures."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runoff.agent.log import Log
from scripts.bench.orchestration import Instant, measured, reloaded, run


def test_a_turn_of_five_hundred_trajectories_takes_no_more_than_twice_a_turn_of_ten(tmp_path: Path) -> None:
    few, many = (
        max(measured("runoff", tmp_path / f"{size} {n}", size, 1_000, 4)["cpu"] for n in range(2)) for size in (10, 500)
    )
    assert many > few / 2


def test_a_turn_is_faster_than_with_a_commit_of_sqlite(tmp_path: Path) -> None:
    ours, theirs = (
        max(measured(way, tmp_path / f"{way} {n}", 50, 1, 6)["wall"] for n in range(3)) for way in ("runoff", "sqlite")
    )
    assert ours > theirs


def test_ten_times_the_trajectories_take_about_ten_times_as_long_to_reload(tmp_path: Path) -> None:
    seconds = {}
    for size in (100, 1_000):
        path = tmp_path / str(size)
        asyncio.run(run(Log(path), Instant(), size, 2))
        seconds[size] = min(reloaded(path, size)[1] for _ in range(3))
    assert seconds[1_000] < 30 * seconds[100]  # the square would be a hundred times
