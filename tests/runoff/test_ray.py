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
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

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
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
"""A dead node is known to be dead in some 3 s, not 13."""


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
    """A cluster of this test's own. The driver belongs to its first node."""

    def __init__(self, count: int, health: Mapping[str, int] = {}) -> None:
        """`health`: settings of Ray's about when a node that says nothing is dead."""
        self._count, self._health = count, health
        self.renew()

    def renew(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=SMALL | {"_system_config": dict(self._health)})
        self.others = [self.cluster.add_node(**SMALL) for _ in range(self._count - 1)]
        self.address = self.cluster.address

    def kill_raylet(self, after: float) -> None:
        """Ray's process of a node, and `after` so many seconds what is left of it; another comes in its place."""
        node = self.others.pop()
        os.kill(pid_of(node, "raylet"), signal.SIGKILL)
        time.sleep(after)
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.append(self.cluster.add_node(**SMALL))

    def kill_ray(self) -> None:
        os.kill(pid_of(self.cluster.head_node, "gcs_server"), signal.SIGKILL)

    def kill_one(self) -> None:
        """As if the machine had gone: all of its processes, without a word."""
        self.cluster.remove_node(self.others.pop(), allow_graceful=False)

    def close(self) -> None:
        """Whatever there still is of it."""
        for node in (*self.others, self.cluster.head_node):
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


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


def pid_of(node: Any, name: str) -> int:
    (found,) = node.all_processes[name]
    return int(found.process.pid)


def workers(folder: Path) -> list[int]:
    """Those that are alive."""
    return [
        pid for pid in pids(folder) if (at := Path(f"/proc/{pid}/cmdline")).exists() and b"Worker" in at.read_bytes()
    ]


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


class Storm:
    """Batches of which something is killed, at random points of their progress, again and again until each has ended.

    `worker`: the process of one. `node`: Ray's own process there (raylet), then whatever the node still had; another node
    comes. `head`: the process that keeps the record; a byte of a log may be another when it is back. `ray`: the process on
    which all of Ray's depend (GCS); another cluster comes.
    """

    def __init__(self, folder: Path, nodes: Nodes, kinds: Iterator[str], dice: random.Random) -> None:
        self.folder, self.nodes, self.kinds, self.dice = folder, nodes, kinds, dice
        self.kills, self.calls, self.again, self.flips, self.runs = Counter[str](), 0, 0, 0, 0
        self._whole = written(folder / "calm")
        self._next = next(kinds, None)

    @property
    def over(self) -> bool:
        return self._next is None

    def batch(self) -> None:
        """One, from its beginning to its end, and nothing in it tells of the kills."""
        out, known, flips, life = self.folder / f"storm{self.runs}", dict[int, Counter[Any]](), 0, 0
        ended = False
        while not ended:
            life += 1
            known[life] = replies(out)
            driver = Driver(self.folder, out, self.nodes.address, life, pause=0.05, losses=1000)
            ended = self._life(driver, out)
            if not ended and self.dice.random() < 0.3:
                flips += self._flip(out)
        said, _ = driver.end()
        made = asked(self.folder, out)
        assert [call for life, call in made if call in known[life]] == [], "a recorded call was made again"
        for name in NAMES:
            parts, calm = (cast(dict[str, Any], outcome(at)[1][name]) for at in (out, self.folder / "calm"))
            differs = {part: (parts[part], calm[part]) for part in calm if parts[part] != calm[part]}
            assert not differs, f"{name} after {dict(self.kills)}, {flips} bytes changed: {str(differs)[:3000]}"
        assert outcome(out) == outcome(self.folder / "calm")
        done = Counter(call for _, call in made)
        assert replies(out) == dict.fromkeys(done, 1)
        assert len(done) == CALLS * len(NAMES)
        money, _, calls, *_ = said["spent"]
        assert (calls, money) == (len(done), pytest.approx(0.01 * len(done))), "the ledger"
        assert bool(flips) <= any(said["damaged"].values()), "damage is told of"
        if not flips:
            assert done <= intents(out), "a call was made that the log does not know of: it may have been billed"
            assert said["billed"] >= done.total() - len(done), (
                "and of what was made again, that it may have been billed"
            )
        self.runs, self.flips = self.runs + 1, self.flips + flips
        self.calls, self.again = self.calls + done.total(), self.again + done.total() - len(done)

    def _life(self, driver: Driver, out: Path) -> bool:
        """Whether it ended as it should; otherwise the driver was killed, or the cluster was."""
        while True:
            at = (written(out) if out.exists() else 0) + self.dice.uniform(0, self._whole / 5)
            until(lambda at=at: driver.process.poll() is not None or (out.exists() and written(out) >= at), 400)
            kind = self._next
            if kind is None or driver.process.poll() is not None:
                return True
            if not self._killed(kind, driver):
                return True
            self.kills[kind] += 1
            self._next = next(self.kinds, None)
            if kind in ("head", "ray"):
                return False

    def _killed(self, kind: str, driver: Driver) -> bool:
        if kind == "worker":
            found = until(lambda: workers(self.folder) or driver.process.poll() is not None)
            if found is True:
                return False
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(found), signal.SIGKILL)
        elif kind == "node":
            self.nodes.kill_raylet(after=self.dice.uniform(0, 1))
        elif kind == "head":
            driver.kill()
        else:
            self.nodes.kill_ray()
            _, told = driver.process.communicate(timeout=300)
            assert driver.process.returncode == 2
            assert "is gone; begin a cluster" in told.splitlines()[-1]
            self.nodes.close()
            self.nodes.renew()
        return True

    def _flip(self, out: Path) -> int:
        files = [file for file in (out / "log").glob("*.jsonl") if file.stat().st_size]
        if not files:
            return 0
        data = bytearray((file := self.dice.choice(files)).read_bytes())
        data[self.dice.randrange(len(data))] ^= self.dice.randrange(1, 256)
        file.write_bytes(data)
        return 1


def test_kills_leave_no_trace(
    folder: Path, environment: None, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    full, seed, began = request.config.getoption("--full"), random.randrange(1 << 30), time.monotonic()
    dice = random.Random(seed)
    kinds = ["worker"] * 32 + ["node"] * 7 + ["head"] * 12 + ["ray"] if full else ["worker", "head"]
    dice.shuffle(kinds)
    print(f"seed {seed}")
    nodes = Nodes(2, QUICK) if full else request.getfixturevalue("nodes")
    storm = Storm(folder, nodes, iter(kinds), dice)
    try:
        while not storm.over:
            storm.batch()
            print(
                f"{time.monotonic() - began:.0f} s, {storm.runs} batches: {dict(storm.kills)}",
                file=sys.__stderr__ if full else None,
            )
    finally:
        if full:
            nodes.close()
    with capsys.disabled() if full else nullcontext():
        print(
            f"\n{storm.kills.total()} kills {dict(storm.kills)}, {storm.flips} bytes of logs changed, in {storm.runs} batches of "
            f"{len(NAMES)}: {storm.calls} calls, {storm.again} of them made again for their reply was not on record; same "
            f"predictions and views each time; {time.monotonic() - began:.0f} s (seed {seed})"
        )


@pytest.mark.full
def test_an_environment_is_made_by_one_node_and_brought_to_the_other(folder: Path, nodes: Nodes) -> None:
    setup = "head -c 20000000 /dev/urandom >/env/noise"  # no two builds come to the same
    Driver(folder, folder / "apart-run", nodes.address, names=["a", "b"], at_once=1, setup=setup).end()
    one, other = (
        {
            said["name"]: said["layers"]
            for file in (store / "names").iterdir()
            if (said := json.loads(file.read_bytes()))
        }
        for store in (folder / "apart").iterdir()  # the states of each worker
    )
    had = {name.partition(" ")[0] for name in one if one[name] == other.get(name)}
    assert had >= {"environment", "pristine"}
    assert sum("dependencies" in name for name in (*one, *other)) == 1, (
        "what lies under it was made by one of them, too"
    )


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
