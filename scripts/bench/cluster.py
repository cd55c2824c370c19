"""A batch on a Ray cluster of this machine, answers scripted, executions played without latency. Two questions.

    ray [--instances 500] [--trajectories 10] [--units 8] [--pause 1.5] [--nodes 2] [--only slots|rate]

slots: instances of four trajectories whose answers take `pause` seconds each, on one node with 1, 2 and 4 of them at a time,
and the same by this machine's one process, in turns with it; the efficiency of n is the time with one, divided by n times the
time with n. rate: many instances without any pause, by one process and by workers on the nodes, the record kept by the head
in both.
Time counts from when the first instance begins: how long workers take to begin does not depend on the batch. Processor time
is what tells on a machine that does other things, too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

SMALL = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}


def batch(folder: Path, **wanted: Any) -> dict[str, Any]:
    """What a run of its own said at its end."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [
        sys.executable,
        "-m",
        "tests.runoff.clustered",
        str(folder),
        json.dumps(wanted | {"out": str(out), "life": 1}),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    used = (folder / f"{out.name}.used").read_text().split()
    said["used"] = sum(map(float, used))
    return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--trajectories", type=int, default=10)
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--pause", type=float, default=1.5)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--only", choices=["slots", "rate"])
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.release()}{loaded()}", flush=True)
    if options.only != "rate":
        with recorded(4) as folder:
            slots(folder, options.units, options.pause)
    if options.only != "slots":
        with recorded(options.trajectories) as folder:
            rate(folder, options.instances, options.trajectories, options.nodes)


@contextmanager
def recorded(trajectories: int) -> Iterator[Path]:
    """A folder with what the real sandbox gave once."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "tests.runoff.batched", place, "record", str(trajectories)]
        subprocess.run(command, check=True)
        yield Path(place)


def slots(folder: Path, units: int, pause: float) -> None:
    names, took = [f"i{n}" for n in range(units)], dict[tuple[str, int], float]()
    cluster = Cluster(initialize_head=True, head_node_args=SMALL)
    try:
        for many in (1, 2, 4):
            for who, where in (("one process", {}), ("a worker", {"address": cluster.address})):
                said = batch(folder, names=names, at_once=many, pause=pause, **where)
                took[who, many] = said["seconds"]
                efficiency = took[who, 1] / (many * took[who, many])
                print(
                    f"{who}: {units} instances, {many} at a time: {took[who, many]:.1f} s, efficiency {efficiency:.2f}; "
                    f"processor time {said['used']:.1f} s of who solves{loaded()}",
                    flush=True,
                )
    finally:
        cluster.shutdown()


def rate(folder: Path, count: int, trajectories: int, nodes: int) -> None:
    names = [f"i{n}" for n in range(count)]
    how: dict[str, Any] = {"names": names, "at_once": 16, "trajectories": trajectories}
    cluster = Cluster(initialize_head=True, head_node_args=SMALL)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**SMALL)
        spread = batch(folder, address=cluster.address, **how)
    finally:
        cluster.shutdown()
    told(f"{nodes} workers, {count} instances of {trajectories} trajectories", spread)
    alone = batch(folder, **how)
    told(f"one process, {count} instances of {trajectories} trajectories", alone)
    by_clock, by_processor = (
        one / other for one, other in ((alone["seconds"], spread["seconds"]), costs(alone, spread))
    )
    print(
        f"the rate with workers is {by_clock:.2f} of that of one process by the clock, {by_processor:.2f} by processor time"
    )


def costs(alone: dict[str, Any], spread: dict[str, Any]) -> tuple[float, float]:
    """Processor time of all that a batch took but for Ray's own processes."""
    return alone["used"], spread["used"] + spread["processor"]


def told(who: str, said: dict[str, Any]) -> None:
    calls, seconds = said["spent"][2], said["seconds"]
    print(
        f"{who}: {calls} calls in {seconds:.1f} s, {calls / seconds:.0f} a second; processor time of the process that keeps "
        f"the record {said['processor']:.1f} s ({1000 * said['processor'] / calls:.1f} ms a call), of who solves "
        f"{said['used']:.1f} s ({1000 * said['used'] / calls:.1f} ms){loaded()}",
        flush=True,
    )


def loaded() -> str:
    return f"; load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
