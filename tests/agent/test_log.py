"""The log on a bad day: flipped bytes, torn tails, a full disk, a second process. What is on record stands."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.log import Log, LogBroken, LogBusy, read
from runoff.agent.protocol import Call, Message, Request, Sampling
from runoff.agent.step import Drift, Ended, Run, Step, World, settled, trajectory
from runoff.sandbox.protocol import Execution, State

BASE = State(layers=("base",))


class Killed(Exception):
    """As if the process ended here: a request was sent, nothing more is written."""


class Echo:
    """A sandbox in which every command prints its own name."""

    name = "echo"

    async def execute(self, state: State, argv: tuple[str, ...], *_: Any, **how: Any) -> Execution:
        await asyncio.sleep(0)
        return Execution(outcome="finished", exit_code=0, stdout=argv[0], stderr=b"", seconds=0, after=None)


class Author:
    """Never says the same twice, as models do; remembers what it said to whom, over all lives. Killed at call `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.asked = last, list[tuple[str, str]]()
        self.said: defaultdict[str, set[str]] = defaultdict(set)
        self._dice = random.Random(7)

    def __call__(self, call: Call) -> str | Exception:
        self.asked.append((call.trajectory, call.path))
        if len(self.asked) == self.last:
            return Killed()
        text = f"{self._dice.random()} " + "y" * self._dice.randrange(100)
        self.said[call.request.conversation.digest].add(text)
        return text


async def story(step: Step) -> Ended[list[list[str]]]:
    """Three rounds of two branches; each reply is executed, and a decision is made that names it by nothing but its path."""

    async def branch(here: Step, talk: Message) -> Message:
        answer = await here.ask("ask", Request("m", Sampling(), talk.then("user", here.trajectory)))
        done = await here.execute("run", Run(state=BASE, argv=(answer.reply.text,)))
        return answer.conversation.then("user", done.text)

    talks = {name: Message("user", name) for name in "ab"}
    for n in range(3):
        step.random(f"luck{n}")
        both = await step.scope(f"round{n}").all({name: partial(branch, talk=talk) for name, talk in talks.items()})
        best = await step.once(f"best{n}", partial(asyncio.sleep, 0, max(talk.text for talk in both.values())))
        talks = {name: both[name].then("user", f"the best was {best}") for name in talks}
    return Ended(reason="done", value=[[said.text for said in talk.messages()] for talk in talks.values()])


def plausible(ended: Ended[Any], author: Author) -> bool:
    """Whether an end is one that a run without damage could have come to: what is in it was said, to just that, and
    every decision is the one that its own replies lead to."""
    talks = [list(texts) for texts in ended.value]
    for n in range(3):
        replies = [texts[1 + n * 4 + 1] for texts in talks]
        for texts, reply in zip(talks, replies, strict=True):
            asked = Message("user", texts[0])
            for role, text in zip(["user", "assistant", "user", "user"] * 3, texts[1 : n * 4 + 2], strict=False):
                asked = asked.then(role, text)  # type: ignore[arg-type]
            if reply not in author.said[asked.digest] or texts[n * 4 + 4] != f"the best was {max(replies)}":
                return False
    return True


async def live(path: Path, author: Author, names: str = "tu") -> tuple[list[Ended[Any]], Log]:
    """One life of a run with two trajectories."""
    world = World(Log(path), "instance", Scripted(author), Echo())  # type: ignore[arg-type]
    try:
        return await settled(*(trajectory(world, name, list[list[str]], story) for name in names)), world.log
    finally:
        await world.close()


def asks(data: bytes) -> dict[tuple[str, str], tuple[int, int]]:
    """Where the reply to each call stands, read without the loader."""
    found, at = {}, 0
    for line in data.split(b"\n"):
        if b'"kind": "ask"' in line:
            record = json.loads(line)
            found[record["t"], record["path"]] = (at, at + len(line))
        at += len(line) + 1
    return found


@pytest.fixture(scope="module", params=["finished", "unfinished"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Author, bool]:
    """A log, who wrote in it, and whether its trajectories have ended."""
    path = tmp_path_factory.mktemp("log") / "log"
    finished = request.param == "finished"
    author = Author() if finished else Author(last=11)
    if finished:
        asyncio.run(live(path, author))
    else:
        with pytest.raises(Killed):
            asyncio.run(live(path, author))
    return path.read_bytes(), author, finished


def resumed(path: Path, data: bytes, author: Author) -> tuple[list[tuple[str, str]], Log]:
    """The calls that a life on this damaged log makes; its end is checked, and that the next life needs none."""
    path.write_bytes(data)
    author.asked.clear()
    author.last = None
    ends, log = asyncio.run(live(path, author))
    assert all(end.reason == "done" and plausible(end, author) for end in ends)
    calls = author.asked[:]
    assert asyncio.run(live(path, author))[0] == ends
    assert author.asked == calls, "the mended log is whole"
    return calls, log


def test_any_flipped_byte_is_reported_and_costs_no_reply_before_it(tmp_path: Path, told: Any) -> None:
    data, author, finished = told
    replies = asks(data)
    needed = len(resumed(tmp_path / "log", data, author)[0])
    dice = random.Random(1)
    for _ in range(80):
        where = dice.randrange(len(data))
        flipped = bytearray(data)
        flipped[where] ^= dice.randrange(1, 256)
        calls, log = resumed(tmp_path / "log", bytes(flipped), author)
        assert log.damaged, where
        before = {call for call, (_, end) in replies.items() if end <= where}
        assert not before & set(calls), "a reply that is whole, and stood before the damage, was paid for again"
        hit = any(begin <= where <= end for begin, end in replies.values())
        if not hit:
            assert len(calls) == needed, "no reply was lost, none is paid for again"
        if finished and not hit and not data[: where + 1].count(b'"kind": "end"'):
            assert calls == []


def test_a_log_cut_at_any_byte_goes_on_from_there(tmp_path: Path, told: Any) -> None:
    data, author, _ = told
    for where in random.Random(2).sample(range(len(data)), 60):
        calls, log = resumed(tmp_path / "log", data[:where], author)
        assert bool(log.damaged) == (
            data[where - 1 : where] != b"\n" and data[where : where + 1] != b"\n" and where > 0
        )
        assert not set(calls) & {call for call, (_, end) in asks(data).items() if end <= where}


def test_damage_upon_damage(tmp_path: Path) -> None:
    """Each life is killed, and a byte flipped, or the end torn off, before the next."""
    for seed in range(25):
        dice, path = random.Random(seed), tmp_path / str(seed)
        author, ends = Author(), list[Ended[Any]]()
        for _ in range(100):
            author.last = len(author.asked) + dice.randrange(1, 6)
            try:
                ends, _ = asyncio.run(live(path, author))
                break
            except Killed:
                data = bytearray(path.read_bytes())
                where = dice.randrange(len(data) // 2, len(data))
                if dice.random() < 0.5:
                    del data[where:]
                else:
                    data[where] ^= dice.randrange(1, 256)
                path.write_bytes(data)
        assert ends, "it gets nowhere"
        assert all(plausible(end, author) for end in ends)


def test_no_damage_in_every_single_byte_of_a_line_makes_loading_fail(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    asyncio.run(_append(log, {"kind": "execution", "key": "k", "result": "r"}))
    data = (tmp_path / "log").read_bytes()
    for where in range(len(data)):
        for bit in range(8):
            (tmp_path / "log").write_bytes(data[:where] + bytes([data[where] ^ 1 << bit]) + data[where + 1 :])
            log = Log(tmp_path / "log")
            asyncio.run(log.close())
            assert log.damaged
            assert log.executions in ({}, {"k": "r"})


def test_replies_after_a_torn_tail_are_not_given_up(tmp_path: Path) -> None:
    """A kill tears the tail of most logs; what is recorded after it, beside a call still on its way, must be kept."""

    async def two(step: Step) -> Ended[list[str]]:
        async def branch(here: Step) -> str:
            step.random(f"luck {here._at}")
            for n in range(3):
                answer = await here.ask(str(n), Request("m", Sampling(), Message("user", "go")))
            return answer.reply.text

        return Ended(reason="done", value=list((await step.all({"a": branch, "b": branch})).values()))

    async def life(killed: str) -> list[str]:
        model = Scripted(lambda call: Killed() if call.path == killed else call.path)
        world = World(Log(tmp_path / "log"), "instance", model, Echo())  # type: ignore[arg-type]
        try:
            await trajectory(world, "t", list[str], two)
        except Killed:
            with (tmp_path / "log").open("ab") as file:
                file.write(b'{"crc":"12')
        finally:
            await world.close()
        return sorted(call.path for call in model.calls)

    assert asyncio.run(life("a/0")) == ["a/0", "b/0", "b/1", "b/2"]
    assert asyncio.run(life("a/1")) == ["a/0", "a/1"]
    assert asyncio.run(life("")) == ["a/1", "a/2"]


def test_damage_that_is_long_known_does_not_hide_drift(tmp_path: Path) -> None:
    async def asking(step: Step, model: str) -> Ended[str]:
        await step.ask("ask", Request(model, Sampling(), Message("user", "go")))
        return Ended(reason="error")

    async def life(model: str) -> None:
        world = World(Log(tmp_path / "log"), "instance", Scripted(Author()), Echo())  # type: ignore[arg-type]
        try:
            await trajectory(world, "t", str, partial(asking, model=model))
        finally:
            await world.close()

    (tmp_path / "log").write_bytes(b'{"crc":"1234')
    asyncio.run(life("m"))
    with pytest.raises(Drift, match="model: 'm' is now 'n'"):
        asyncio.run(life("n"))


def test_damage_to_a_setting_aside_does_not_bring_back_what_was_set_aside(tmp_path: Path) -> None:
    """Replies of before are on record again then; that they are not what is asked for now is not the user's doing."""
    path = tmp_path / "log"

    async def asking(step: Step, model: str) -> Ended[str]:
        talk = Message("user", "go")
        for n in range(3):
            talk = (await step.ask(f"turn{n}", Request(model, Sampling(), talk))).conversation
        return Ended(reason="done", value=talk.text)

    async def life(model: str, last: int | None) -> list[str]:
        author = Author(last)
        world = World(Log(path), "instance", Scripted(author), Echo())  # type: ignore[arg-type]
        world.restart_drifted = last is not None
        try:
            await trajectory(world, "t", str, partial(asking, model=model))
        finally:
            await world.close()
        return [path for _, path in author.asked]

    for model, last in (("m", 3), ("n", 2)):
        with pytest.raises(Killed):
            asyncio.run(life(model, last))
    data = path.read_bytes()
    assert data.count(b"set aside") == 1
    path.write_bytes(data.replace(b"set aside", b"set Aside"))
    assert asyncio.run(life("n", None)) == ["turn1", "turn2"]


def test_what_is_read_for_views_is_what_was_written_whoever_writes_meanwhile(tmp_path: Path) -> None:
    records = [
        {"kind": "execution", "key": "é\n\u2028\ud800", "result": '{"crc":"00000000",'},
        {"kind": "execution", "key": "nested", "result": {"crc": "1", "in": [{"crc": "2"}]}},
    ]

    async def scenario() -> None:
        log = Log(tmp_path / "log")
        await log.append(records[0])
        await log.append(records[1])
        assert list(read(tmp_path / "log"))[1:] == records
        await log.close()

    asyncio.run(scenario())
    log = Log(tmp_path / "log")
    assert log.damaged == []
    assert log.executions == {record["key"]: record["result"] for record in records}
    asyncio.run(log.close())


def test_every_line_is_json_with_a_checksum_that_others_can_check(tmp_path: Path) -> None:
    asyncio.run(live(tmp_path / "log", Author(), names="t"))
    for line in (tmp_path / "log").read_bytes().splitlines():
        assert json.loads(line)["crc"] == f"{zlib.crc32(line[18:]):08x}"


def test_each_message_is_written_once(tmp_path: Path) -> None:
    asyncio.run(live(tmp_path / "log", Author()))
    written = [new for record in read(tmp_path / "log") for new in record.get("new", ()) if len(new) == 4]
    assert len({digest for digest, *_ in written}) == len(written)
    assert len(written) == 2 + 3 * 2 * 2 * 3 - 2 * 2 * 2, (
        "two beginnings, then three each turn, of which the last two go nowhere"
    )


def test_a_second_process_is_told_that_the_log_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = (
        "import sys; from pathlib import Path; from runoff.agent.log import Log; log = Log(Path(sys.argv[1])); input()"
    )
    holder = f"{script.replace('input()', 'print(1, flush=True); input()')}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", holder, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(LogBusy, match=r"written by another runoff; wait for it, or give another --out"):
            Log(path)
        other.kill()
    log = Log(path)
    with pytest.raises(LogBusy):
        Log(path)
    asyncio.run(log.close())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.needs_root
def test_a_full_disk_stops_the_run_and_what_is_on_record_stands(small_disk: Path) -> None:
    path, ballast, noise = small_disk / "log", small_disk / "ballast", list[Any]()
    told = "cannot write .*No space left on device; free some space and type the same command again"

    async def talks(step: Step) -> Ended[str]:
        talk = Message("user", "go on")
        for n in range(60):
            talk = (await step.ask(f"turn{n}", Request("m", Sampling(), talk))).conversation.then("user", "x" * 500)
            await step.once(f"decision{n}", partial(asyncio.sleep, 0, n))  # nobody waits until this is written
        return Ended(reason="done", value=talk.digest)

    async def life(model: Scripted) -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context["message"]))
        world = World(Log(path), "instance", model, Echo())  # type: ignore[arg-type]
        running = (trajectory(world, name, str, talks) for name in "tuv")
        ends = await asyncio.gather(*running, return_exceptions=True)
        if any(isinstance(end, LogBroken) for end in ends):
            with pytest.raises(LogBroken, match=told):
                world.log.append({"kind": "derived", "key": "k", "state": {}})
            with pytest.raises(LogBroken, match=told):
                await world.close()
        else:
            await world.close()
        gc.collect()
        return ends

    ballast.write_bytes(bytes(160 << 10))
    ends = asyncio.run(life(first := Scripted(lambda call: call.request.conversation.digest)))
    assert [type(end) for end in ends] == [LogBroken] * 3
    assert noise == [], "the error is told once, not printed by every future that nobody asked"
    kept = {(record["t"], record["path"]) for record in read(path) if record["kind"] == "ask"}
    assert 10 < len(kept) <= len(first.calls), "it may be a reply or an intent that found no room"

    ballast.unlink()
    ends = asyncio.run(life(second := Scripted(lambda call: call.request.conversation.digest)))
    assert [end.reason for end in ends] == ["done"] * 3
    again = {(call.trajectory, call.path) for call in second.calls}
    assert not again & kept
    assert len(again | kept) == 180


def test_nothing_can_be_recorded_in_a_closed_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")

    async def scenario() -> None:
        await log.close()
        await log.close()
        with pytest.raises(LogBroken, match="closed"):
            await asyncio.wait_for(log.append({"kind": "derived", "key": "k", "state": {}}), 1)

    asyncio.run(scenario())


def test_a_process_that_was_forked_after_a_log_was_written_writes_its_own(tmp_path: Path) -> None:
    """As multiprocessing forks a program that has called the library: threads are not forked."""

    async def write(name: str) -> None:
        logs = [Log(tmp_path / f"{name}{n}") for n in range(8)]
        await settled(*(_append(log, {"kind": "derived", "key": "k", "state": {}}) for log in logs))

    asyncio.run(write("before"))
    if (child := os.fork()) == 0:
        signal.alarm(10)
        asyncio.run(write("after"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert all((tmp_path / f"after{n}").read_bytes() for n in range(8))


async def _append(log: Log, *records: dict[str, Any]) -> None:
    for record in records:
        log.append(record)
    await log.close()
