"""A whole run, killed at random moments: started again until it ends, it ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runoff.agent.log import Log, read
from runoff.agent.protocol import Reply, Usage

SOURCE = {
    "clock.py": '''\
"""Clock times."""


def minutes(text):
    """How many minutes "H:MM" is."""
    hours, rest = text.split(":")
    return int(hours) * 60 + int(rest)
''',
    "report.py": "from clock import minutes\n\n\ndef total(texts):\n    return sum(map(minutes, texts))\n",
    "test_clock.py": """\
import unittest

from clock import minutes


class Test(unittest.TestCase):
    def test_minutes(self):
        self.assertEqual(minutes("1:30"), 90)
""",
}


def script(*cases: tuple[str, int]) -> str:
    return f"""<test>
import sys
from clock import minutes
wrong = [(text, minutes(text)) for text, right in {list(cases)} if minutes(text) != right]
print(wrong)
sys.exit(2 if wrong else 0)
</test>
"""


def edit(*lines: str) -> str:
    new = "\n".join(f"    {line}" for line in lines)
    old = "    return int(hours) * 60 + int(rest)"
    return f'<edit path="clock.py">\n<search>\n{old}\n</search>\n<replace>\n{new}\n</replace>\n</edit>\n'


RIGHT = ('sign = -1 if text.startswith("-") else 1', "return sign * (abs(int(hours)) * 60 + int(rest))")
DONE = "<done/>"
ANSWERS = {
    "context": {
        "relevance1/ask": '{"clock.py": "parses", "report.py": "adds"}',
        "ranking": '["clock.py", "report.py"]',
    },
    "testing-1": [script(("-1:30", -90)), DONE],
    "testing-2": ["<test>\nno end", script(("-1:30", -90), ("-0:30", -30)), DONE],
    "testing-3": [script(("1:30", 90)), script(("-2:01", -121)), DONE],
    "testing-4": [script(("-1:30", -90)), DONE],
    "editing-1": [edit(*RIGHT), DONE],
    "editing-2": [edit("return int(hours) * 60 + (int(rest) if int(hours) >= 0 else -int(rest))"), DONE],
    "editing-3": [edit("return -abs(int(hours)) * 60 - int(rest)"), DONE],
    "editing-4": ["no block at all", edit("# towards zero", *RIGHT), DONE],
    "verdict-editing-1": ["VERDICT: YES"],
    "verdict-editing-2": ["VERDICT: YES"],
    "verdict-editing-3": ["VERDICT: NO"],
    "run-off-editing-1+editing-2+editing-3": [script(("-0:30", -30)), 'It is right.\n<choose id="{right}"/>'],
}
"""What the model says: to a trajectory in this order, or by path."""

CALLS = sum(map(len, ANSWERS.values()))


def answer(trajectory: str, path: str, said: list[str]) -> str:
    known = ANSWERS[trajectory]
    text = known[path] if isinstance(known, dict) else known[int(re.findall(r"\d+", path)[0]) - 1]
    if "{right}" in text:
        changes = re.findall(r'<change id="(.)">(.*?)</change>', "".join(said), re.DOTALL)
        text = text.replace("{right}", next(letter for letter, patch in changes if RIGHT[0] in patch))
    return text


Key = tuple[str, str]


class Provider:
    """The model, in a thread of its own. Knows who asked what in which life, and what was on record before it."""

    def __init__(self, socket: Path) -> None:
        self.asked: dict[int, list[Key]] = {}
        self.on_record: dict[int, set[Key]] = {}
        self.paid_twice: list[Key] = []
        self.socket = socket
        self._dice = random.Random(0)
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(ready)))
        self._thread.start()
        ready.wait()

    async def _serve(self, ready: threading.Event) -> None:
        self._end = asyncio.Event()
        async with await asyncio.start_unix_server(self._answer, self.socket, limit=1 << 24):
            ready.set()
            await self._end.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not (line := await reader.readline()).endswith(b"\n"):
                return
            asked = json.loads(line)
            key, life = (asked["trajectory"], asked["path"]), asked["life"]
            self.asked[life].append(key)
            if key in self.on_record[life]:
                self.paid_twice.append(key)
            await asyncio.sleep(self._dice.random() * 0.04)
            reply = Reply(text=answer(*key, asked["said"]), usage=Usage(input=100, output=10), cost=0.01)
            writer.write(reply.model_dump_json().encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    provider = Provider(tmp_path / "socket")
    yield provider
    provider.close()


class Place(NamedTuple):
    """Where one run is made."""

    folder: Path
    states: Path
    source: Path
    provider: Provider

    @property
    def log(self) -> Path:
        return self.folder / "log" / "source.jsonl"

    def start(self, life: int) -> subprocess.Popen[bytes]:
        self.provider.asked[life], self.provider.on_record[life] = [], set(self.replies())
        given = {"source": self.source, "out": self.folder, "states": self.states, "life": life}
        given["socket"] = self.provider.socket
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, str(Path(__file__).with_name("killed.py")), json.dumps(given, default=str)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    def replies(self) -> Counter[Key]:
        """The calls whose replies are on record."""
        records = read(self.log) if self.log.exists() else iter(())
        return Counter((record["t"], record["path"]) for record in records if record["kind"] == "ask")

    def possibly_billed(self) -> Counter[Key]:
        """As the next life will count it."""
        if not self.log.exists():
            return Counter()
        copy = self.folder.with_suffix(".copy")
        shutil.copy(self.log, copy)
        log = Log(copy)
        asyncio.run(log.close())
        return log.possibly_billed

    def result(self) -> tuple[bytes, dict[str, Any]]:
        """The patch; the ranking, the outcome table and everything else that it was decided on."""
        return (self.folder / "patch.diff").read_bytes(), json.loads((self.folder / "selection.json").read_text())


class Figures:
    kills = rounds = calls = repeated = in_flight = idle = torn = 0
    slowest = 0.0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.idle} before anything was on record) in {self.rounds} runs of {self.calls} calls: "
            f"{self.in_flight} calls in flight at kills, all shown as possibly billed; {self.repeated} repeated; "
            f"{self.torn} torn tails; all processes and mounts gone within {self.slowest * 1000:.0f} ms"
        )


def wait_a_while(run: subprocess.Popen[bytes], asked: list[Key], dice: random.Random) -> None:
    """Until a random moment: of its time, or after so many calls."""
    seconds, calls = (dice.uniform(0, 3), 0) if dice.random() < 0.3 else (dice.uniform(0, 0.3), dice.randrange(1, 8))
    while run.poll() is None and len(asked) < calls:
        time.sleep(0.002)
    with suppress(subprocess.TimeoutExpired):
        run.wait(seconds)


def run_with_kills(place: Place, lives: Iterator[int], most: int, dice: random.Random, figures: Figures) -> None:
    """One run, started again until it ends."""
    lost: Counter[Key] = Counter()
    ours = list[int]()
    killed = 0
    while True:
        ours.append(life := next(lives))
        run, family = place.start(life), set[tuple[int, str]]()
        if killed < most:
            wait_a_while(run, place.provider.asked[life], dice)
            family = offspring(run.pid)
            run.kill()
        code = run.wait(120)
        if code != -signal.SIGKILL:
            assert code == 0, run.communicate()[1].decode()
            break
        figures.slowest = max(figures.slowest, gone(place.states, family))
        killed += 1
        time.sleep(0.05)  # the model hears what was still in the socket
        replies = place.replies()
        lost.update(call for call in place.provider.asked[life] if call not in replies)
        assert lost <= place.possibly_billed(), "a call that may have been billed is not in the ledger"
        figures.idle += not replies
        figures.torn += place.log.exists() and not place.log.read_bytes().endswith(b"\n")
    asked = [call for life in ours for call in place.provider.asked[life]]
    assert place.replies() == dict.fromkeys(asked, 1)
    assert len(set(asked)) == CALLS
    assert len(asked) - CALLS <= lost.total()
    figures.kills += killed
    figures.rounds += 1
    figures.calls += len(asked)
    figures.repeated += len(asked) - CALLS
    figures.in_flight += lost.total()


def gone(states: Path, family: set[tuple[int, str]]) -> float:
    """Waits until nothing runs or is mounted any more, and says how long that took."""
    start = time.monotonic()
    while left := remains(states, family):
        assert time.monotonic() < start + 3, left
        time.sleep(0.005)
    return time.monotonic() - start


def remains(states: Path, family: set[tuple[int, str]]) -> list[str]:
    """Mounts in the store; processes in it, named after it or having it mounted; and what is left of the family."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(states) in line]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            said = (process / "cmdline").read_text("utf-8", "replace") + (process / "mountinfo").read_text()
            inside = str((process / "cwd").readlink()).startswith(str(states))
            if inside or str(states) in said or (int(process.name), began(process)) in family:
                found.append(f"{process.name} {said[:200]}")
    return found


def offspring(pid: int) -> set[tuple[int, str]]:
    """All processes that a process has started, and they in turn, each with when it began."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(process.name), began(process)] = int(stat(process)[1])
    found = set[tuple[int, str]]()
    while more := {one for one, parent in parents.items() if parent in {pid, *(other for other, _ in found)}} - found:
        found |= more
    return found


def began(process: Path) -> str:
    return stat(process)[19]


def stat(process: Path) -> list[str]:
    return (process / "stat").read_text().rpartition(")")[2].split()


@pytest.mark.needs_root
def test_a_killed_run_ends_as_if_nothing_had_happened(
    tmp_path: Path, provider: Provider, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    full = request.config.getoption("--full")
    wanted, seed, figures = 200 if full else 5, random.randrange(1 << 30), Figures()
    dice, lives = random.Random(seed), itertools.count(1)
    source = tmp_path / "source"
    source.mkdir()
    for name, text in SOURCE.items():
        (source / name).write_text(text)

    calm = Place(tmp_path / "calm", tmp_path / "calm-states", source, provider)
    undisturbed = calm.start(0)  # beside the others: on two processors it costs no time
    disturbed = []
    while figures.kills < wanted:
        number = len(disturbed)
        place = Place(tmp_path / f"run{number}", tmp_path / f"states{number}", source, provider)
        most = wanted - figures.kills
        run_with_kills(place, lives, most, dice, figures)
        shutil.rmtree(place.states)
        disturbed.append(place)
    assert undisturbed.wait(60) == 0, undisturbed.communicate()[1].decode()
    shutil.rmtree(calm.states)
    expected = calm.result()
    assert [place.folder.name for place in disturbed if place.result() != expected] == []
    assert expected[1]["selection"]["chosen"] == "editing-1"
    assert provider.asked[0].count(("context", "ranking")) == 1
    assert len(provider.asked[0]) == CALLS
    assert provider.paid_twice == [], "a journalled call was made again"
    with capsys.disabled() if full else nullcontext():
        print(f"\n{figures} (seed {seed})")
