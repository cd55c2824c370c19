"""A batch of several instances, killed, its files damaged, its disk full: started again until it ends, nothing shows of it.

Executions are those of one real run, played without latency (see batched.py), so that a thousand fit into minutes; the kill
test of one instance (test_kill.py) has the real sandbox.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from runoff.agent.log import read
from tests.runoff.batched import NAMES
from tests.runoff.test_kill import CALLS

pytestmark = pytest.mark.needs_root

Asked = tuple[str, str, str]


class Nursery:
    """Forks a life of the batch, and kills it or waits for it."""

    def __init__(self, folder: Path, *before: str) -> None:
        self.folder, self.life = folder, 0
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)])}
        command = [*before, sys.executable, "-m", "tests.runoff.batched", str(folder), "play"]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout

    def live(self, out: Path, seconds: float | None = None) -> int:
        """One life in `out`, killed after so long. Its exit code, negative for a signal."""
        self.life += 1
        self._to.write(json.dumps({"life": self.life, "out": str(out)}) + "\n")
        self._to.flush()
        child = int(self._from.readline())
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        return int(self._from.readline())

    def close(self) -> str:
        return self._process.communicate()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one undisturbed batch ran in the real sandbox."""
    folder = tmp_path_factory.mktemp("batch")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "tests.runoff.batched", str(folder), "record"]
    subprocess.run(command, env=environment, check=True, timeout=300)
    shutil.rmtree(folder / "states")
    return folder


@contextmanager
def nursery(folder: Path, *before: str) -> Iterator[Nursery]:
    made = Nursery(folder, *before)
    try:
        yield made
    except BaseException:
        print(made.close())
        raise
    said = made.close()
    assert "Traceback" not in said, said


def timed(lives: Nursery, out: Path) -> float:
    """Seconds of an undisturbed life."""
    began = time.monotonic()
    assert lives.live(out) == 0
    return time.monotonic() - began


def outcome(out: Path) -> tuple[str, dict[str, object]]:
    """The predictions; and of each instance the choice and everything that it was decided on."""
    views = {name: json.loads((out / "views" / name / "selection.json").read_text()) for name in NAMES}
    return (out / "preds.json").read_text(), views


def replies(out: Path) -> Counter[Asked]:
    """The calls whose replies are on record, whole."""
    logs = (out / "log").glob("*.jsonl")
    return Counter((log.stem, r["t"], r["path"]) for log in logs for r in read(log) if r["kind"] == "ask")


def asked(folder: Path, out: Path) -> list[tuple[int, Asked]]:
    notes = folder / f"{out.name}.asked"
    lines = map(json.loads, notes.read_text().splitlines()) if notes.exists() else []
    return [(line["life"], (line["instance"], line["t"], line["path"])) for line in lines]


def intents(out: Path) -> Counter[Asked]:
    """Requests that the log says were sent."""
    logs = (out / "log").glob("*.jsonl")
    return Counter((log.stem, r["t"], r["path"]) for log in logs for r in read(log) if r["kind"] == "intent")


def test_a_killed_batch_ends_as_if_nothing_had_happened(
    folder: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    full = request.config.getoption("--full")
    wanted, seed = 1000 if full else 3, random.randrange(1 << 30)
    dice, kills, rounds, calls, again, began = random.Random(seed), 0, 0, 0, 0, time.monotonic()
    expected = outcome(folder / "calm")
    assert len(replies(folder / "calm")) == CALLS * len(NAMES)
    with nursery(folder) as lives:
        took = min(timed(lives, folder / f"timed{n}") for n in range(3))
        while kills < wanted:
            out, known = folder / f"run{rounds}", dict[int, Counter[Asked]]()
            while True:
                known[lives.life + 1] = replies(out)
                code = lives.live(out, dice.uniform(0, took) if kills < wanted else None)
                kills += code == -signal.SIGKILL
                if code == 0:
                    break
                assert code == -signal.SIGKILL, code
            assert outcome(out) == expected, f"seed {seed}"
            made = asked(folder, out)
            assert [call for life, call in made if call in known[life]] == [], "a recorded call was made again"
            done = Counter(call for _, call in made)
            assert replies(out) == dict.fromkeys(done, 1)
            assert done <= intents(out), "a call was made that the log does not know of: it may have been billed"
            rounds, calls, again = rounds + 1, calls + len(made), again + len(made) - CALLS * len(NAMES)
            shutil.rmtree(out)
    with capsys.disabled() if full else nullcontext():
        print(
            f"\n{kills} kills of a batch of {len(NAMES)} in {rounds} runs, {calls} calls, {again} of them made again for a "
            f"kill came before their reply; same predictions and views each time; {time.monotonic() - began:.0f} s (seed {seed})"
        )


def test_damaged_files_are_named_set_aside_and_made_again(
    folder: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    full = request.config.getoption("--full")
    wanted, seed = 1000 if full else 3, random.randrange(1 << 30)
    dice, flips, rounds, torn, began = random.Random(seed), 0, 0, 0, time.monotonic()
    hits = Counter[str]()
    expected = outcome(folder / "calm")
    with nursery(folder) as lives:
        while flips < wanted:
            out, hit, known = folder / f"flip{rounds}", set[str](), dict[int, Counter[Asked]]()
            while True:
                last = len(hit) > 2 or flips >= wanted
                known[lives.life + 1] = replies(out)
                code = lives.live(out, None if last else dice.uniform(0, 0.6))
                if code == 0 and last:
                    break
                assert code in (0, -signal.SIGKILL), f"seed {seed}"
                files = [file for file in out.rglob("*") if file.is_file() and file.stat().st_size]
                for file in dice.sample(files, min(len(files), dice.randrange(1, 4))):
                    data = bytearray(file.read_bytes())
                    if dice.random() < 0.2:
                        del data[dice.randrange(len(data)) :]
                        torn += 1
                    else:
                        data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
                    file.write_bytes(data)
                    flips += 1
                    hits[file.suffix] += 1
                    hit.add(str(file.relative_to(out)))
            assert outcome(out) == expected, f"seed {seed}, {sorted(hit)}"
            made = asked(folder, out)
            assert [call for life, call in made if call in known[life]] == [], "a recorded call was made again"
            shutil.rmtree(out)
            rounds += 1
    with capsys.disabled() if full else nullcontext():
        print(
            f"\n{flips} files damaged ({torn} cut, the others a byte changed; {dict(hits)}) in {rounds} runs: same predictions "
            f"and views each time, no call whose reply was whole made again; {time.monotonic() - began:.0f} s (seed {seed})"
        )


def test_what_was_damaged_is_said(folder: Path) -> None:
    out = folder / "said"
    with nursery(folder) as lives:
        assert lives.live(out) == 0
        for path in ("run.toml", "log/b.jsonl"):
            data = bytearray((out / path).read_bytes())
            data[len(data) // 2] ^= 1
            (out / path).write_bytes(data)
        assert lives.live(out) == 0
    said = json.loads((folder / "said.said").read_text())
    assert said["damaged"] == {name: int(name == "b") for name in NAMES}
    assert [remark.rpartition("run.toml.")[2] for remark in said["remarks"]] == ["damaged1, and written again"]
    assert (out / "run.toml.damaged1").exists()
    assert outcome(out)[0] == outcome(folder / "calm")[0]


def test_a_full_disk_is_one_line_and_costs_nothing_that_is_on_record(folder: Path) -> None:
    """Twice full, on a small file system of the test's own, and each time a little larger."""
    out = folder / "disk" / "out"
    out.parent.mkdir()
    mount = f'mount -t tmpfs -o size=60k none {out.parent} && exec "$@"'
    with nursery(folder, "unshare", "--mount", "sh", "-c", mount, "sh") as lives:
        inside = ("nsenter", f"--mount=/proc/{lives._process.pid}/ns/mnt")
        codes, known, ends = [], Counter[Asked](), time.monotonic() + 30
        while subprocess.run(
            [*inside, "mountpoint", "-q", out.parent], stderr=subprocess.DEVNULL, check=False
        ).returncode:
            assert time.monotonic() < ends, "it is not mounted"
            time.sleep(0.05)
        for size in ("60k", "150k", "64m"):
            subprocess.run([*inside, "mount", "-o", f"remount,size={size}", str(out.parent)], check=True)
            codes.append(lives.live(out))
            subprocess.run([*inside, "cp", "-r", str(out), str(folder / f"copy-{size}")], check=True)
            before, known = known, replies(folder / f"copy-{size}")
            assert before <= known, "what was on record still is"
        made = asked(folder, out)
    assert codes == [5, 5, 0]
    assert outcome(folder / "copy-64m") == outcome(folder / "calm")
    assert replies(folder / "copy-64m") == dict.fromkeys({call for _, call in made}, 1)
