"""The event log: one append-only file of checksummed JSON lines an instance, the one thing in a run that matters.

Log order is causal: a durable record vouches for all before it. Everything else in a run is a view made from this.

    kind        beside the kind        means
    opened      secret damaged         the first line, and one wherever damage was found: what comes after knows of it;
                                       nonces are made from the secret
    intent      t path request new     a paid request is about to be sent; `new` are the messages not written before
    ask         t path request result  its reply, durable before anyone sees it; `seconds` it took, with all waiting and retries
    refused     t path why             no reply will come for that intent (overflow, refused, unreachable); `result` where
                                       it took something all the same
    execute     t path request         which execution an effect of this trajectory was
    once        t path request result  a decision that a replay must repeat
    end         t result               the trajectory's result, never invalidated
    stopped     t reason why           it stopped before its end (budget, error, infra); resumed, it goes on
    set aside   t kept why             effects recorded before, but for the paths kept, are superseded; their cost stays
    execution   key result             what executing something gave, kept for whoever asks again
    derived     key state              which state a pure operation on states gave
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import secrets
import stat
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runoff.agent.protocol import Message
from runoff.agent.secrets import Secrets
from runoff.agent.threads import Threads

Record = dict[str, Any]
Key = tuple[str, str]

_MARK = b'{"crc":"'  # every line begins so, and nothing inside a line can read so: see _sealed
_written = json.JSONEncoder(separators=(",", ": ")).encode  # the space keeps a nested "crc" from being the mark
_WRITERS = Threads(2, "log")  # a write is short, and many logs share the disk anyway


class LogBroken(Exception):
    """Nothing can be recorded any more (disk full, file gone): the run must stop, what is on record stands."""


class LogBusy(Exception):
    """Another process writes this log: two resumers would pay twice."""


class Lines(Protocol):
    """Where the lines of a log are kept. One log at a time has them; `str` of it names the place for people."""

    def read(self) -> bytes:
        """All that is there."""
        ...

    def begin(self, lines: bytes) -> None:
        """Add what opening the log adds: before all else, and durable before anything else is."""
        ...

    async def write(self, lines: list[bytes], sync: bool) -> None:
        """Add lines; with `sync` they are durable afterwards. Raises OSError: then it is not asked again."""
        ...

    def close(self) -> None: ...


class File:
    """Lines in a file of this machine, locked. Raises LogBusy where another process has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)  # what could not be written must not be tried again on closing
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise LogBusy(f"{path} is being written by another runoff; wait for it, or give another --out") from None

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> bytes:
        return self._path.read_bytes()

    def begin(self, lines: bytes) -> None:
        self._commit([lines], True)

    async def write(self, lines: list[bytes], sync: bool) -> None:
        await _WRITERS.run(self._commit, lines, sync)

    def close(self) -> None:
        self._file.close()

    def _commit(self, lines: list[bytes], sync: bool) -> None:
        rest = memoryview(b"".join(lines))
        while rest:
            rest = rest[self._file.write(rest) :]
        if sync:
            os.fdatasync(self._file)


class Log:
    """What is on record of one instance, and the only writer of its lines: of a file, or of wherever else they are kept.

    Raises LogBusy on opening a log that another process holds, LogBroken from any append after a failed write.
    """

    def __init__(self, kept: Path | Lines) -> None:
        self.ended: dict[str, Any] = {}
        self.effects: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        """Effects on record of trajectories that have not ended, by trajectory and path.

        `doubtful` in one says that it may have come of something that was lost to damage since.
        """
        self.executions: dict[str, Any] = {}
        self.derived: dict[str, Any] = {}
        self.before: dict[str, str] = {}
        """Every message written here, once: its digest → the digest of the one before it."""
        self.ledger: list[Record] = []
        """Every paid call ever recorded, also of what was set aside: {t, path, model, usage, cost, recorded, cut, seconds}.

        `usage` is as the provider counted it, `cost` what it came to by the prices known then. `cut` is a usage and a
        cost estimated for answers that broke off on the way: possibly billed. `seconds` is None in logs of before it was kept.
        """
        self.possibly_billed: Counter[Key] = Counter()
        """Requests sent with no reply on record: a kill came between. They may have been billed."""
        self.secrets = Secrets()
        """What no line may hold: taken out as it is appended."""
        self.secret = ""
        """Known to nobody who runs in a sandbox."""
        self.damaged: list[bytes] = []
        """What is left of torn or flipped lines; they stay in the file, their effects are made again."""
        self._kept = File(kept) if isinstance(kept, Path) else kept
        self._lines: list[bytes] = []
        self._sync = False
        self._writer: asyncio.Task[None] | None = None
        self._broken: OSError | None = None
        self._closed = False
        self._load()

    def append(self, record: Record, *, sync: bool = False) -> asyncio.Future[None]:
        """Queue a record. The future ends when it is written and, with `sync`, durable."""
        return self._queue(_sealed(self.secrets.redacted(record)), sync)

    def receive(self, lines: bytes, *, sync: bool = False) -> asyncio.Future[None]:
        """Queue lines that a log elsewhere wrote, as they are, and take what they say. Raises ValueError if any is damaged."""
        found = list(_lines(lines))
        if not all(whole for whole, _ in found):
            raise ValueError(f"lines for {self._kept} were damaged on their way")
        written = self._queue(lines, sync)
        for _, part in found:
            self._take(json.loads(part.decode()))
        return written

    async def lines(self) -> bytes:
        """All that is kept, with what was queued before: from them a log elsewhere goes on."""
        while self._writer:
            await asyncio.wait([self._writer])
        return await asyncio.to_thread(self._kept.read)

    def _queue(self, line: bytes, sync: bool) -> asyncio.Future[None]:
        if self._broken or self._closed:
            raise LogBroken(self._why())
        if not self._lines:
            self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._done.add_done_callback(lambda done: done.exception())  # who did not wait learns at the next append
        self._lines.append(line)
        self._sync |= sync
        self._writer = self._writer or asyncio.create_task(self._write())
        written = asyncio.shield(self._done)  # one waiter's cancellation must not become everyone's
        written.add_done_callback(lambda done: done.cancelled() or done.exception())
        return written

    def unwritten(self, conversation: Message) -> list[list[Any]]:
        """The messages of a conversation that are not in the file yet, oldest first, now taken as written.

        Each is [digest, digest of the one before, role, text], and what it has to do with tools, if anything (`Message.tools`).
        """
        new = list(takewhile(lambda m: m.digest not in self.before, conversation.back()))[::-1]
        self.before |= {m.digest: m.before.digest if m.before else "" for m in new}
        return [[m.digest, self.before[m.digest], m.role, m.text, *filter(None, [m.tools()])] for m in new]

    def reconsider(self, trajectory: str, used: set[str], path: str) -> None:
        """An effect is performed now that damage may have taken: decisions that may have come of it are made again.

        All else shows by its request whether it still fits, so nothing that was paid for is given up on suspicion.
        """
        recorded = self.effects[trajectory]
        suspect = {at for at, record in recorded.items() if record["doubtful"] and record["kind"] == "once"} - used
        if suspect:
            self.set_aside(
                trajectory, (recorded.keys() | used) - suspect, f"the record of {path} may have been damaged"
            )

    def set_aside(self, trajectory: str, kept: set[str], why: str) -> None:
        """Forget a trajectory's effects but for the paths kept; what they cost stays in the ledger."""
        record = {"t": trajectory, "kind": "set aside", "kept": sorted(kept), "why": why}
        self._take(record)
        self.append(record)

    async def close(self) -> None:
        """Write what is queued and let go of the file. Raises LogBroken if that fails."""
        while self._writer:
            await asyncio.wait([self._writer])
        self._closed = True
        self._kept.close()
        if self._broken:
            raise LogBroken(self._why())

    def _why(self) -> str:
        why = self._broken or "it is closed"
        return f"cannot write {self._kept}: {why}; free some space and type the same command again"

    async def _write(self) -> None:
        while self._lines:
            lines, sync, done = self._lines, self._sync, self._done
            self._lines, self._sync = [], False
            try:
                if self._broken:
                    raise self._broken
                await self._kept.write(lines, sync)
                done.set_result(None)
            except OSError as error:  # what a failed sync left on the disk is unknown: write nothing after it
                self._broken = error
                done.set_exception(LogBroken(self._why()))
        self._writer = None

    def _load(self) -> None:
        data, doubts = self._kept.read(), set[int]()
        for whole, part in _lines(data):
            if whole:
                record = json.loads(part.decode())  # from bytes, it would guess the encoding of each
                doubts -= set(record.get("damaged", ()))
                self._take(record, doubtful=bool(doubts))
            else:
                self.damaged.append(part)
                doubts.add(zlib.crc32(part))
        self.possibly_billed = +self.possibly_billed
        ours = [b"\n"] if data and not data.endswith(b"\n") else []  # a torn tail must not swallow the next record
        if doubts or not self.secret:
            self.secret = self.secret or secrets.token_hex(16)
            ours.append(_sealed({"kind": "opened", "secret": self.secret, "damaged": sorted(doubts)}))
        self._kept.begin(b"".join(ours))

    def _take(self, record: Record, doubtful: bool = False) -> None:
        kind = record["kind"]
        if kind == "execution":
            self.executions[record["key"]] = record["result"]
            return
        if kind == "derived":
            self.derived[record["key"]] = record["state"]
            return
        if kind == "opened":
            self.secret = record["secret"]
            return
        t, key = record["t"], (record["t"], record.get("path", ""))
        self.before |= {digest: before for digest, before, *_ in record.get("new", ())}
        if kind == "end":
            self.ended[t] = record["result"]
            self.effects.pop(t, None)
        elif kind == "set aside":
            kept = set(record["kept"])
            self.effects[t] = {path: effect for path, effect in self.effects[t].items() if path in kept}
            self.ended.pop(t, None)
        elif kind == "intent":
            self.possibly_billed[key] += 1
        elif kind != "stopped" and record.get("final", True):
            effects = self.effects[t]
            if key[1] in effects:  # done again since what came before it was lost: the others may be outdated as well
                for effect in effects.values():
                    effect["doubtful"] = True
            effects[key[1]] = record | {"doubtful": doubtful}
        if kind in ("ask", "refused") and self.possibly_billed[key]:
            self.possibly_billed[key] -= 1
        if kind == "ask" or ("result" in record and kind == "refused"):
            self.ledger.append(ledger_line(record))


def _sealed(record: Record) -> bytes:
    rest = _written(record).encode()[1:]
    return b'%b%08x",%b\n' % (_MARK, zlib.crc32(rest), rest)


def ledger_line(ask: Record) -> Record:
    """What one paid call cost, without its text."""
    reply = ask["result"]
    line = {"t": ask["t"], "path": ask["path"], "model": ask["request"]["model"], "seconds": ask.get("seconds")}
    return line | {part: reply.get(part) for part in ("usage", "cost", "recorded", "cut")}


def read(path: Path, damaged: Callable[[bytes], None] = lambda part: None) -> Iterator[Record]:
    """Every whole record of a log, in order, whoever else writes it: for views. Damaged lines are passed over, and told of."""
    yield from records(path.read_bytes(), damaged)


def records(data: bytes, damaged: Callable[[bytes], None] = lambda part: None) -> Iterator[Record]:
    """The same of a log's bytes (`Log.lines`)."""
    for whole, part in _lines(data):
        if whole:
            yield json.loads(part.decode())
        else:
            damaged(part)


def damage(path: Path) -> int:
    """Torn or flipped pieces of a log that have not been set aside yet; whoever goes on with it does that. Reads all of it."""
    doubts = set[int]()
    for whole, part in _lines(path.read_bytes()):
        if not whole:
            doubts.add(zlib.crc32(part))
        elif part.startswith(b'{"kind": "opened"'):
            doubts -= set(json.loads(part.decode())["damaged"])
    return len(doubts)


class Placed(NamedTuple):
    """A record, and the bytes of the log's file that hold it."""

    at: int
    size: int
    record: Record


class Replaced(Exception):
    """The file is another one than was read so far: truncated, rotated or gone. Whoever follows it begins again."""


class Tail:
    """A log read piece by piece as it grows, whoever writes it: for views of logs that are large, or still written.

    A last line without its end waits until it has one. Nothing is kept of what was read.
    """

    LONGEST = 256 << 20
    """Bytes of a line that is still read; no record of ours comes near it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        """Bytes read so far."""
        self.more = False
        """Whether there was more than was asked for."""
        self.damaged = 0
        """Torn and flipped pieces that were passed over."""
        self._first = b""

    def read(self, most: int = 4 << 20, wanted: Callable[[bytes], bool] = lambda line: True) -> list[Placed]:
        """The next whole records, of some `most` bytes; of these, those whose line is `wanted`.

        Raises Replaced; then a new one is needed.
        """
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            if self.at:
                raise Replaced(f"{self.path} is gone") from None
            return []
        try:
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode) and not self.at:
                return []
            if (
                not stat.S_ISREG(about.st_mode)
                or about.st_size < self.at
                or os.pread(file, len(self._first), 0) != self._first
            ):
                raise Replaced(f"{self.path} is not the file that it was")
            data, end = b"", 0
            while not end:
                data = os.pread(file, most, self.at)
                end = data.rfind(b"\n") + 1
                self.more = len(data) == most
                if not self.more or most >= self.LONGEST:
                    break
                most *= 4
            if not end and self.more:  # nobody's line: passed over, a piece at a time
                end = len(data)
            if not self._first and end:
                self._first = data[: min(end, 64)]
        finally:
            os.close(file)
        begin = self.at
        self.at += end
        return list(self._placed(data[:end], begin, wanted))

    def _placed(self, data: bytes, begin: int, wanted: Callable[[bytes], bool]) -> Iterator[Placed]:
        at = begin
        for line in data.split(b"\n"):
            if not line or not wanted(line):
                pass
            elif _whole(line):
                yield Placed(at, len(line), _opened(line))
            else:
                begins = [found.start() for found in re.finditer(re.escape(_MARK), line)]
                for start, stop in pairwise([0, *begins, len(line)]):
                    if _whole(part := line[start:stop]):
                        yield Placed(at + start, stop - start, _opened(part))
                    elif part:
                        self.damaged += 1
            at += len(line) + 1


def record_at(path: Path, at: int, size: int) -> Record | None:
    """The record that stood there. None: it does not any more."""
    try:
        file = os.open(
            path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        )  # it may have become a pipe, that nobody writes
    except OSError:
        return None
    try:
        line = os.pread(file, size, at)
    except OSError:
        return None
    finally:
        os.close(file)
    return _opened(line) if _whole(line) else None


def _whole(line: bytes) -> bool:
    return line[:18] == b'%b%08x",' % (_MARK, zlib.crc32(line[18:]))


def _opened(line: bytes) -> Record:
    return dict(json.loads((b"{" + line[18:]).decode()))


def _lines(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """A log's records as JSON, and what is left of damaged ones, each marked whole or not."""
    begins = [found.start() for found in re.finditer(re.escape(_MARK), data)]
    for begin, end in pairwise([0, *begins, len(data)]):
        line, *junk = data[begin:end].split(b"\n")
        if whole := _whole(line):
            yield True, b"{" + line[18:]
        yield from ((False, part) for part in (junk if whole else [line, *junk]) if part)
