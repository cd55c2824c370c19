"""Where everything stands in a log: made as the log grows, of places and figures, never of texts, which are read again when asked for."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runoff.agent.log import Record, Replaced, Tail, record_at
from runoff.agent.step import execution_key
from runoff.reporting.accounts import Account
from runoff.selection.elect import EVIDENCE


class Place(NamedTuple):
    """The bytes of the log that hold a record."""

    at: int
    size: int


class Effect(NamedTuple):
    """Something that a trajectory did."""

    kind: str
    path: str
    place: Place
    talk: str = ""
    """Of an answer: the digest of the conversation with it."""
    key: str = ""
    """Of an execution: what its result is kept under."""
    state: str = ""
    """The state that it ran in."""


class Said(NamedTuple):
    """A message: what comes before it, and where it stands."""

    before: str
    place: Place
    number: int
    """Among the new messages of its record; -1: it is the record's reply."""


class Done(NamedTuple):
    """An execution's result."""

    place: Place
    outcome: str
    exit_code: int | None
    seconds: float


class Index:
    """One log. `refresh` reads on; what is asked for is read from the file again, and checked against its checksum."""

    def __init__(self, path: Path, instance: str, sandbox: str) -> None:
        self.path, self.instance, self.sandbox = path, instance, sandbox
        self.lives = 0
        """How many times the file was found to be another."""
        self._begin()

    def _begin(self) -> None:
        self._tail = Tail(self.path)
        self.account = Account(self.instance, self.sandbox)
        self.effects: defaultdict[str, dict[str, Effect]] = defaultdict(dict)
        """Trajectory → path → what it did there; what was set aside is not among them."""
        self.pending: dict[tuple[str, str], Effect] = {}
        """Requests without a reply, so far."""
        self.ends: dict[str, Place] = {}
        self.stops: dict[str, Place] = {}
        self.aside: dict[str, int] = {}
        """Trajectory → effects of it that were set aside."""
        self.said: dict[str, Said] = {}
        self.done: dict[str, Done] = {}
        self.states: dict[str, Place] = {}
        """The digest of a state → where it is said what it consists of."""
        self.derived: dict[str, str] = {}
        """Operation → the digest of the state that it gave."""
        self.ways: dict[tuple[tuple[str, str], ...], None] = {}
        """All that executions of tests have in common, beside their state and their script."""
        self.evidence: Place | None = None
        self.secret = ""
        self.records = 0
        self.last = ""
        """The trajectory that the latest record is of."""

    @property
    def read(self) -> int:
        """Bytes."""
        return self._tail.at

    @property
    def size(self) -> int:
        """Bytes of the log, by now."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def damaged(self) -> int:
        return self._tail.damaged

    @property
    def more(self) -> bool:
        return self._tail.more

    def forget(self) -> None:
        """Let go of all; it is read again when it is asked for."""
        self._begin()

    def refresh(self, most: int = 4 << 20) -> bool:
        """Read on, some `most` bytes. Whether anything was new."""
        try:
            found = self._tail.read(most)
        except Replaced:
            self.lives += 1
            self._begin()
            return True
        for placed in found:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):  # none of ours
                self._take(placed.record, Place(placed.at, placed.size))
        return bool(found)

    def record(self, place: Place) -> Record | None:
        return record_at(self.path, *place)

    def message(self, digest: str) -> tuple[str, str, Mapping[str, Any]] | None:
        """Role, text and what it has to do with tools. None: it is not on record (any more)."""
        said = self.said.get(digest)
        record = self.record(said.place) if said else None
        if said is None or record is None:
            return None
        if said.number < 0:
            calls = record["result"].get("calls")
            return "assistant", record["result"].get("text", ""), {"calls": calls} if calls else {}
        _, _, role, text, *tools = record["new"][said.number]
        return role, text, tools[0] if tools else {}

    def _take(self, record: Record, place: Place) -> None:
        self.records += 1
        kind = record["kind"]
        self.account.take(record)
        if kind == "execution":
            done = record["result"]
            self.done[record["key"]] = Done(place, done["outcome"], done["exit_code"], done["seconds"])
            if done.get("after"):
                self.states[done["after"]["layers"][0]] = place
        elif kind == "derived":
            state = record["state"]["layers"][0]
            self.derived[record["key"]] = state
            self.states[state] = place
        elif kind == "opened":
            self.secret = record["secret"]
        else:
            self._of_trajectory(kind, record, place)

    def _of_trajectory(self, kind: str, record: Record, place: Place) -> None:
        t, path = record["t"], record.get("path", "")
        self.last = t
        for number, (name, before, *rest) in enumerate(record.get("new", ())):
            if rest or kind == "ask":
                self.said[name] = Said(before, place, number if rest else -1)
        if kind == "intent":
            self.pending[t, path] = Effect("intent", path, place, record["request"]["messages"])
            self.stops.pop(t, None)
            return
        self.pending.pop((t, path), None)
        if kind == "end":
            self.ends[t] = place
            self.stops.pop(t, None)
        elif kind == "stopped":
            self.stops[t] = place
        elif kind == "set aside":
            kept, had = set(record["kept"]), self.effects[t]
            self.effects[t] = {at: effect for at, effect in had.items() if at in kept}
            self.aside[t] = self.aside.get(t, 0) + len(had) - len(self.effects[t])
            self.ends.pop(t, None)
        elif kind == "execute":
            request = record["request"]
            if len(self.ways) < 16:
                way = ("argv", "env", "cwd", "limits", "freeze")
                self.ways[tuple((name, request[name]) for name in way)] = None
            key = execution_key(self.sandbox, request)
            self._did(t, Effect(kind, path, place, key=key, state=request["state"]))
        elif kind == "once":
            self._did(t, Effect(kind, path, place))
            if t == "selection" and path.startswith(EVIDENCE):
                self.evidence = place
        elif kind in ("ask", "refused"):
            talk = record["new"][0][0] if record.get("new") else record["request"]["messages"]
            self._did(t, Effect(kind, path, place, talk))

    def _did(self, t: str, effect: Effect) -> None:
        of = self.effects[t]
        of.pop(effect.path, None)  # done again: it stands where it was done last
        of[effect.path] = effect
