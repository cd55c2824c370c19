"""A batch on a Ray cluster of two nodes: workers, nodes and the head are killed, and nothing shows of it.

Ray and its processes are real, the nodes are two sets of them on this machine; models and sandboxes are played (see
clustered.py). The driver is a process of its own, as `runoff bench --executor ray` is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff.agent.faulty import Faulty
from runoff.agent.log import read
from tests.runoff.batched import NAMES
from tests.runoff.project import ISSUE, answer, make, runoff
from tests.runoff.test_batch_kills import asked, intents, outcome, replies
from tests.runoff.test_batch_kills import folder as folder
from tests.runoff.test_kill import CALLS

pytest.importorskip("ray")
pytestmark = pytest.mark.needs_root

ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


class Driver:
    """A process that runs the batch."""

    def __init__(self, folder: Path, out: Path, address: str, life: int = 1, **wanted: Any) -> None:
        said = json.dumps({"address": address, "out": str(out), "life": life} | wanted)
        command = [sys.executable, "-m", "tests.runoff.clustered", str(folder), said]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def begun(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == "begun\n", self.process.communicate()[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[dict[str, Any], str]:
        """What it says at its end, and what it said to the user."""
        said, told = self.process.communicate(timeout=400)
        assert self.process.returncode == 0, told[-3000:]
        return json.loads(said.splitlines()[-1]), told


class Nodes:
    """A cluster of this test's own."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=SMALL)
        self.others = [self.cluster.add_node(**SMALL) for _ in range(count - 1)]
        self.address = self.cluster.address

    def kill_one(self) -> None:
        """As if the machine had gone: all of its processes, without a word."""
        self.cluster.remove_node(self.others.pop(), allow_graceful=False)

    def close(self) -> None:
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(ALONE, PYTHONPATH=os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)]))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def nodes(environment: None) -> Iterator[Nodes]:
    made = Nodes(2)
    yield made
    made.close()


def pids(folder: Path) -> list[int]:
    file = folder / "pids"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def until(what: Any, seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)
    return found


def written(out: Path) -> int:
    return sum(file.stat().st_size for file in (out / "log").glob("*.jsonl"))


def check(folder: Path, out: Path) -> None:
    """It ended as the undisturbed local run did; every call has one reply on record, and none was made unrecorded."""
    assert outcome(out) == outcome(folder / "calm")
    made = Counter(call for _, call in asked(folder, out))
    assert replies(out) == dict.fromkeys(made, 1), "a recorded call was made again"
    assert len(made) == CALLS * len(NAMES)
    assert made <= intents(out), "a call was made that the log does not know of: it may have been billed"


def test_a_batch_on_two_nodes_is_as_on_one_machine(folder: Path, nodes: Nodes) -> None:
    before = len(pids(folder))
    driver = Driver(folder, out := folder / "spread", nodes.address, at_once=2)
    said, _ = driver.end()
    check(folder, out)
    assert len(pids(folder)) - before == 2, "a worker a node"
    money, _, calls, *_ = said["spent"]
    assert calls == CALLS * len(NAMES)
    assert money == pytest.approx(0.01 * calls), "the head has counted what the workers spent"
    assert all((place / "clock.py").exists() for place in (folder / "leased").iterdir())


def test_killed_workers_are_made_up_for(folder: Path, nodes: Nodes) -> None:
    out, before = folder / "worker", len(pids(folder))
    driver = Driver(folder, out, nodes.address, pause=0.05)
    dice, size = random.Random(), 0
    for workers in (2, 3):
        until(lambda at=before + workers, size=size: len(pids(folder)) >= at and written(out) > size + 2000)
        time.sleep(dice.uniform(0, 0.3))
        os.kill(pids(folder)[-1], signal.SIGKILL)
        size = written(out)
    _, told = driver.end()
    assert told.count("is lost (ActorDiedError)") == 2
    check(folder, out)


@pytest.mark.full
def test_a_killed_head_goes_on_by_the_same_command(folder: Path, nodes: Nodes) -> None:
    out, dice, known = folder / "head", random.Random(), dict[int, Counter[Any]]()
    for life in (1, 2, 3):
        known[life] = replies(out)
        size = written(out) if out.exists() else 0
        driver = Driver(folder, out, nodes.address, life, pause=0.03)
        if life < 3:
            until(lambda size=size: out.exists() and written(out) > size + 2000)
            time.sleep(dice.uniform(0, 0.3))
            driver.kill()
    driver.end()
    assert known[2], "it was killed while it worked"
    check(folder, out)
    assert [call for life, call in asked(folder, out) if call in known[life]] == []


@pytest.mark.full
def test_a_budget_holds_for_all_workers_together(folder: Path, nodes: Nodes) -> None:
    driver = Driver(folder, out := folder / "budget", nodes.address, budget="20calls", pause=0.01)
    said, _ = driver.end()
    recorded = [r for file in (out / "log").glob("*.jsonl") for r in read(file)]
    made = len(asked(folder, out))
    assert said["spent"][2] == made == sum(r["kind"] == "ask" for r in recorded)
    assert 20 <= made <= 20 + 2 * 8, "no more than what was on its way when it was spent"
    assert any(r["kind"] == "stopped" and r["reason"] == "budget" for r in recorded)


@pytest.mark.full
def test_the_commands_solve_on_a_cluster(tmp_path: Path, states: Path, nodes: Nodes) -> None:
    """All of it: the repository sent along, a real sandbox on the node, the model asked from there."""
    problems, out = tmp_path / "problems.jsonl", tmp_path / "out"
    problems.write_text(json.dumps({"id": "one", "target": str(make(tmp_path / "p")), "issue": ISSUE}) + "\n")
    where = ("--executor", "ray", "--address", nodes.address, "--states", states, "--out", out)
    how = ("--model", "openai/any", "-n", "1", "--price", "1,1", "--budget", "5", "--setup", "true")
    with Faulty(answer=answer) as server:
        done = runoff("solve", problems, *how, *where, "--api-base", server.api_base, env=ALONE)
        asked = len(server.requests)
    assert done.returncode == 0, done.stderr
    assert "if values else 0" in (out / "patch.diff").read_text()
    billed = [r for r in read(out / "log" / "one.jsonl") if r["kind"] == "ask"]
    assert len(billed) == asked
    assert all(r["result"]["cost"] for r in billed)
    assert "one" in json.loads((out / "nodes.json").read_text())


@pytest.mark.full
@pytest.mark.parametrize(
    ("address", "says"),
    [("127.0.0.1:1", "no Ray cluster is at 127.0.0.1:1"), ("ray://there", "give the HOST:PORT")],
)
def test_no_cluster_there_is_one_line(tmp_path: Path, address: str, says: str) -> None:
    about = ("--issue", ISSUE, "--model", "openai/any", "--executor", "ray", "--out", tmp_path / "out")
    done = runoff("solve", make(tmp_path / "p"), *about, "--address", address, env={"OPENAI_API_KEY": "x"})
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_a_killed_node_is_made_up_for(folder: Path, environment: None, capsys: pytest.CaptureFixture[str]) -> None:
    own, out = Nodes(3), folder / "node"
    try:
        before = len(pids(folder))
        driver = Driver(folder, out, own.address, pause=0.3, at_once=1)
        until(lambda: len(pids(folder)) >= before + 3 and out.exists() and written(out) > 3000)
        own.kill_one()
        began = time.monotonic()
        _, told = driver.end()
        with capsys.disabled():
            print(f"\na node killed: the run ended {time.monotonic() - began:.0f} s later; {told.strip()}")
        assert "is lost" in told
        check(folder, out)
    finally:
        own.close()
