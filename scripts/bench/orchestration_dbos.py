"""The load of orchestration.py on DBOS with its SQLite system database; runs in DBOS's own virtual environment."""

import asyncio
import json
import sys
import time
from pathlib import Path

from dbos import DBOS

REPLY, TURNS = "y" * 2_000, 10


@DBOS.step()
async def ask(trajectory: int, turn: int) -> str:
    return REPLY


@DBOS.workflow()
async def strategy(trajectory: int) -> float:
    for turn in range(TURNS):
        await ask(trajectory, turn)
    return time.perf_counter()


async def main(trajectories: int) -> tuple[float, float]:
    clock, used = time.perf_counter(), time.process_time()
    begun = [await DBOS.start_workflow_async(strategy, n) for n in range(trajectories)]
    ends = [await one.get_result() for one in begun]
    # Results are polled for: the time is up to the last workflow's own end.
    return max(ends) - clock, time.process_time() - used


if __name__ == "__main__":
    place = Path(sys.argv[-2])
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{place}/dbos.sqlite", "log_level": "ERROR"})
    DBOS.launch()
    wall, cpu = asyncio.run(main(int(sys.argv[-1])))
    turns, size = int(sys.argv[-1]) * TURNS, sum(file.stat().st_size for file in place.iterdir())
    print(json.dumps({"wall": turns / wall, "cpu": turns / cpu, "bytes": size / turns}), flush=True)
    DBOS.destroy()
