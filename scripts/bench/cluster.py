"""A batch on a Ray cluster of this machine, answers scripted, executions played without latency. Two questions.

    ray [--instances 500] [--units 8] [--pause 1.5] [--nodes 2] [--only slots|rate]

slots: instances whose answers take `pause` seconds each, on one node with 1, 2 and 4 of them at a time; the efficiency of n
is the time with one, divided by n times the time with n. rate: many instances of four trajectories (a test and an
edit each) without any pause, by one process and by workers on the nodes, the record kept by the head in both.
Time counts from when the first instance begins: how long workers take to begin does not depend on the batch.
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
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

SMALL = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}


def batch(folder: Path, **wanted: Any) -> dict[str, Any]:
    """What a run of its own said at its end."""
    out = tempfile.mkdtemp(dir=folder)
    command = [
        sys.executable,
        "-m",
        "tests.runoff.clustered",
        str(folder),
        json.dumps(wanted | {"out": out, "life": 1}),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--pause", type=float, default=1.5)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--only", choices=["slots", "rate"])
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{datetime.date.today()}, {cores} cores, {platform.release()}, load {load:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run([sys.executable, "-m", "tests.runoff.batched", place, "record"], check=True)
        if options.only != "rate":
            slots(folder, options.units, options.pause)
        if options.only != "slots":
            rate(folder, options.instances, options.nodes)


def slots(folder: Path, units: int, pause: float) -> None:
    names, took = [f"i{n}" for n in range(units)], dict[int, float]()
    cluster = Cluster(initialize_head=True, head_node_args=SMALL)
    try:
        for many in (1, 2, 4):
            took[many] = batch(folder, address=cluster.address, names=names, at_once=many, pause=pause)["seconds"]
            efficiency = took[1] / (many * took[many])
            print(f"{units} instances, {many} at a time: {took[many]:.1f} s, efficiency {efficiency:.2f}", flush=True)
    finally:
        cluster.shutdown()


def rate(folder: Path, count: int, nodes: int) -> None:
    names = [f"i{n}" for n in range(count)]
    alone = batch(folder, names=names, at_once=16)
    told(f"one process, {count} instances", alone)
    cluster = Cluster(initialize_head=True, head_node_args=SMALL)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**SMALL)
        spread = batch(folder, address=cluster.address, names=names, at_once=16)
    finally:
        cluster.shutdown()
    told(f"{nodes} workers, {count} instances", spread)
    print(f"the rate with workers is {alone['seconds'] / spread['seconds']:.2f} of that of one process", flush=True)


def told(who: str, said: dict[str, Any]) -> None:
    calls, seconds = said["spent"][2], said["seconds"]
    print(
        f"{who}: {calls} calls in {seconds:.1f} s, {calls / seconds:.0f} a second; processor time of the process that "
        f"keeps the record: {said['processor']:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
