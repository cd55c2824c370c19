"""The event log: one append-only file of checksummed JSON lines an instance, the one thing in a run that matters.

Log order is causal: a durable record vouches for all before it. Everything else in a run is a view made from this.

    kind        beside the kind        means
    opened      secret                 the first line; nonces are made from the secret
    intent      t path request new     a paid request is about to be sent; `new` are the messages not written before
    ask         t path request result  its reply, durable before anyone sees it
    refused     t path why             no reply will come for that intent (overflow, refused, unreachable)
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
import secrets
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

from runoff.agent.protocol import Message

Record = dict[str, Any]
Key = tuple[str, str]

_MARK = b'{"crc":"'  # every line begins so, and no string inside a line can hold it unescaped
_WRITERS = ThreadPoolExecutor(2, thread_name_prefix="log")  # a write is short, and many logs share the disk anyway


class LogBroken(Exception):
    """Nothing can be recorded any more (disk full, file gone): the run must stop, what is on record stands."""


class LogBusy(Exception):
    """Another process writes this log: two resumers would pay twice."""


class Log:
    """What is on record of one instance, and the only writer of its file.

    Raises LogBusy on opening a log that another process holds, LogBroken from any append after a failed write.
    """

    def __init__(self, path: Path) -> None:
        self.ended: dict[str, Any] = {}
        self.effects: dict[Key, Record] = {}
        """Effects on record of trajectories that have not ended, by trajectory and path."""
        self.executions: dict[str, Any] = {}
        self.derived: dict[str, Any] = {}
        self.before: dict[str, str] = {}
        """Every message written here, once: its digest → the digest of the one before it."""
        self.ledger: list[Record] = []
        """Every paid reply ever recorded, also of what was set aside: {t, path, model, usage, cost, recorded}."""
        self.possibly_billed: Counter[Key] = Counter()
        """Requests sent with no reply on record: a kill came between. They may have been billed."""
        self.secret = ""
        """Known to nobody who runs in a sandbox."""
        self.damaged: list[bytes] = []
        """What is left of torn or flipped lines; they stay in the file, their effects are made again."""
        self._path = path
        self._lines: list[bytes] = []
        self._sync = False
        self._writer: asyncio.Task[None] | None = None
        self._broken: OSError | None = None
        self._load(path)

    def append(self, record: Record, *, sync: bool = False) -> asyncio.Future[None]:
        """Queue a record. The future ends when it is written and, with `sync`, durable."""
        if self._broken:
            raise LogBroken(self._why())
        if not self._lines:
            self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._done.add_done_callback(lambda done: done.exception())  # who did not wait learns at the next append
        self._lines.append(_sealed(record))
        self._sync |= sync
        self._writer = self._writer or asyncio.create_task(self._write())
        return asyncio.shield(self._done)  # one waiter's cancellation must not become everyone's

    def unwritten(self, conversation: Message) -> list[list[str]]:
        """The messages of a conversation that are not in the file yet, oldest first, now taken as written."""
        new = list(takewhile(lambda m: m.digest not in self.before, conversation.back()))[::-1]
        self.before |= {m.digest: m.before.digest if m.before else "" for m in new}
        return [[m.digest, self.before[m.digest], m.role, m.text] for m in new]

    def has_later(self, trajectory: str, used: set[str]) -> bool:
        """Whether paid effects of this trajectory are on record that the code has not come to yet."""
        return any(t == trajectory and path not in used and r["kind"] == "ask" for (t, path), r in self.effects.items())

    def set_aside(self, trajectory: str, kept: set[str], why: str) -> None:
        """Forget a trajectory's effects but for the paths kept; what they cost stays in the ledger."""
        record = {"t": trajectory, "kind": "set aside", "kept": sorted(kept), "why": why}
        self._take(record)
        self.append(record)

    async def close(self) -> None:
        """Write what is queued and let go of the file. Raises LogBroken if that fails."""
        while self._writer:
            await asyncio.wait([self._writer])
        self._file.close()
        if self._broken:
            raise LogBroken(self._why())

    def _why(self) -> str:
        return f"cannot write {self._path}: {self._broken}; free some space and type the same command again"

    async def _write(self) -> None:
        while self._lines:
            lines, sync, done = self._lines, self._sync, self._done
            self._lines, self._sync = [], False
            try:
                await asyncio.get_running_loop().run_in_executor(_WRITERS, self._commit, lines, sync)
                done.set_result(None)
            except OSError as error:  # what a failed sync left on the disk is unknown: write nothing after it
                self._broken = error
                done.set_exception(LogBroken(self._why()))
        self._writer = None

    def _commit(self, lines: list[bytes], sync: bool) -> None:
        if self._broken:
            raise self._broken
        self._file.write(b"".join(lines))
        self._file.flush()
        if sync:
            os.fdatasync(self._file)

    def _load(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise LogBusy(f"{path} is being written by another runoff; wait for it, or give another --out") from None
        data = path.read_bytes()
        for whole, part in _lines(data):
            if whole:
                self._take(json.loads(part))
            else:
                self.damaged.append(part)
        if data and not data.endswith(b"\n"):
            self._file.write(b"\n")  # a torn tail must not swallow the next record
        self.possibly_billed = +self.possibly_billed
        if not self.secret:
            self.secret = secrets.token_hex(16)
            self._commit([_sealed({"kind": "opened", "secret": self.secret})], True)

    def _take(self, record: Record) -> None:
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
            self.effects = {k: r for k, r in self.effects.items() if k[0] != t}
        elif kind == "set aside":
            kept = set(record["kept"])
            self.effects = {k: r for k, r in self.effects.items() if k[0] != t or k[1] in kept}
            self.ended.pop(t, None)
        elif kind == "intent":
            self.possibly_billed[key] += 1
        elif kind == "refused":
            self.possibly_billed[key] -= 1
            if record["final"]:
                self.effects[key] = record
        elif kind != "stopped":
            self.effects[key] = record
        if kind == "ask":
            self.possibly_billed[key] -= 1
            self.ledger.append(ledger_line(record))


def _sealed(record: Record) -> bytes:
    rest = json.dumps(record, separators=(",", ":")).encode()[1:]
    return b'%b%08x",%b\n' % (_MARK, zlib.crc32(rest), rest)


def ledger_line(ask: Record) -> Record:
    """What one paid reply cost, without its text."""
    reply = ask["result"]
    line = {"t": ask["t"], "path": ask["path"], "model": ask["request"]["model"]}
    return line | {part: reply.get(part) for part in ("usage", "cost", "recorded")}


def read(path: Path) -> Iterator[Record]:
    """Every whole record of a log, in order, whoever else writes it: for views. Damaged lines are passed over."""
    return (json.loads(part) for whole, part in _lines(path.read_bytes()) if whole)


def _lines(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """A log's records as JSON, and what is left of damaged ones, each marked whole or not."""
    for piece in data.split(_MARK):
        line, *junk = piece.split(b"\n")
        if whole := line[:10] == b'%08x",' % zlib.crc32(line[10:]):
            yield True, b"{" + line[10:]
        yield from ((False, part) for part in (junk if whole else [line, *junk]) if part)
