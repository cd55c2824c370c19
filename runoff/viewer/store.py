"""The runs that are looked at: their logs read on in the background, a row an instance, and who wants to hear of changes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runoff.agent.log import Record
from runoff.grading.protocol import GRADES
from runoff.replay import Stored
from runoff.reporting.cases import Read
from runoff.reporting.labels import Right, read_grades
from runoff.reporting.listing import Listed, listed, runs_below
from runoff.reporting.runs import read_instance
from runoff.run import BadRun, asked_for
from runoff.runs import holder
from runoff.viewer.index import Index

Row = dict[str, Any]
_RECORDS = 400_000
"""Records that are kept an index of, over all logs; beyond it those looked at longest ago are let go, and read again when asked."""
_READS = 8
"""Instances of which it is kept what came of reading them."""
_LOOK = 0.4  # seconds between two looks at logs that may grow


class Looked:
    """A run. Methods may be called from any thread; an instance's index only within `index`."""

    def __init__(self, name: str, path: Path) -> None:
        """Raises BadRun, in one line."""
        self.name, self.path = name, path
        self.rows: dict[str, Row] = {}
        self.state = ""
        self._said_at = self._right_at = -2
        self._locks: dict[str, threading.RLock] = {}
        self._indexes: dict[str, Index] = {}
        self._used: dict[str, float] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._reads: dict[str, tuple[tuple[int, ...], Read, Stored]] = {}
        self._again: dict[str, float] = {}
        self._state_at = 0.0
        self.refresh_said()

    def refresh_said(self) -> None:
        """Read again what may have changed beside the logs."""
        at = _changed(self.path / "run.toml")
        if at != self._said_at:
            self.said = asked_for(self.path)
            self.sandbox = str(self.said.get("about", {}).get("sandbox", ""))
            # A run that a stranger made may name its instances `../…`: nothing outside of it is opened.
            plain = (str(name) for name in self.said["source"] if not {"/", "\0"} & {*str(name)})
            self._said_at, self.names = at, tuple(sorted(plain))
            self._known = frozenset(self.names)
        at = _changed(self.path / GRADES)
        if at != self._right_at:
            grades = read_grades(self.path)[0] if at >= 0 else {}
            self.right, self._right_at = Right(None, grades), at

    @contextmanager
    def index(self, name: str, within: float = math.inf) -> Iterator[Index]:
        """An instance's index, read to the end of its log, or as far as one comes `within` so many seconds.

        Raises KeyError for a name that is none of the run's.
        """
        if name not in self._known:
            raise KeyError(name)
        until = time.monotonic() + within
        with self._lock(name):
            found = self._index(name)
            while found.refresh(1 << 20) and found.more and time.monotonic() < until:
                pass
            self._used[name] = time.monotonic()
            yield found

    def read(self, name: str, within: float = math.inf) -> tuple[Read, Stored]:
        """An instance as `runoff show` reads it, by the same functions; read again when something has changed."""
        with self.index(name, within) as index:
            state = (index.lives, index.read, self._right_at, *self._signature(name)[3:])
            if name in self._reads and self._reads[name][0] == state:
                return self._reads[name][1:]
            stored = Stored(self.path, only=())
            stored.take(name, _deciding(index))
            stored.damaged[name] = index.damaged
            read = read_instance(self.path, name, index.account, stored, self.right, self.said)
            self._reads[name] = (state, read, stored)
            while len(self._reads) > _READS:
                del self._reads[next(iter(self._reads))]
            return read, stored

    def look(self, name: str, wait: Callable[[], None] = lambda: None) -> bool:
        """Read on in one log if it has grown, a piece at a time, with a `wait` for others between. Whether its row changed."""
        now = time.monotonic()
        seen = self._signature(name)
        if self._seen.get(name) == seen or now < self._again.get(name, 0.0):
            return False
        began = time.monotonic()
        more = True
        while more:
            with self._lock(name):
                index = self._index(name)
                more = index.refresh(1 << 20) and index.more
            wait()
        try:
            row = _row(self.read(name)[0])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            row = {"why": f"its log cannot be read: {type(error).__name__}", "fate": "unfinished", "status": ""}
        row["trajectory"] = index.last
        changed = row != self.rows.get(name)
        self.rows[name], self._seen[name] = row, seen
        self._again[name] = time.monotonic() + min(
            30.0, 5 * (time.monotonic() - began)
        )  # a large log: not all the time
        return changed

    def progress(self) -> tuple[int, int]:
        """Instances whose rows are known, and all."""
        return len(self.rows), len(self.names)

    def refresh_state(self) -> bool:
        """Whether what the run is doing has changed, looked at every two seconds at most."""
        known = len(self.rows) == len(self.names)
        if time.monotonic() < self._state_at and not (known and self.state == "reading"):
            return False
        self._state_at = time.monotonic() + 2
        ended = sum(row.get("status") not in (None, "", "stopped", "failed") for row in self.rows.values())
        state = "ended" if ended == len(self.names) else "stopped" if known else "reading"
        state = "running" if holder(self.path) else state
        changed, self.state = state != self.state, state
        return changed

    def weight(self) -> int:
        return sum(index.records for index in self._indexes.values())

    def let_go(self) -> bool:
        """Forget the index of what was looked at longest ago. Whether there was one."""
        names = sorted(self._indexes, key=lambda name: self._used.get(name, 0.0))
        for name in names:
            with self._lock(name):
                if self._indexes[name].records:
                    del self._indexes[name]
                    self._reads.pop(name, None)
                    return True
        return False

    def _lock(self, name: str) -> threading.RLock:
        return self._locks.setdefault(name, threading.RLock())

    def _index(self, name: str) -> Index:
        if name not in self._indexes:
            self._indexes[name] = Index(self._log(name), name, self.sandbox)
        return self._indexes[name]

    def _log(self, name: str) -> Path:
        return self.path / "log" / f"{name}.jsonl"

    def _signature(self, name: str) -> tuple[int, ...]:
        try:
            log = self._log(name).stat()
            there = (log.st_ino, log.st_size, log.st_mtime_ns)
        except (OSError, ValueError):
            there = (0, 0, 0)
        return (*there, _changed(self.path / "views" / name / "selection.json"), self._right_at)


class Store:
    """One run, or all below a folder. `start` reads on in the background until `stop`."""

    def __init__(self, place: Path) -> None:
        """Raises BadRun, in one line."""
        self.place = place
        self.alone = (place / "run.toml").is_file()
        self._runs: dict[str, Looked] = {}
        if self.alone:
            name = place.resolve().name
            self._runs[name] = Looked(name, place)
            self._paths = {name: place}
        else:
            if not place.is_dir():
                raise BadRun(f"{place}: no such run; name a run's directory, or a folder of runs")
            self._paths = self._below()
            if not self._paths:
                raise BadRun(f"{place} holds no run: no run.toml is there or below")
        self._guard = threading.Lock()
        self._listeners: dict[Callable[[str, frozenset[str]], None], str] = {}
        self._asking, self._asked_at = 0, 0.0
        self._wake, self._stopped = threading.Event(), False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="logs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        if self._thread:
            self._thread.join(10)

    def listed(self) -> list[Listed]:
        """The runs, the latest first."""
        self._paths = self._paths if self.alone else self._below()
        found = [listed(path, thorough=False).model_copy(update={"path": name}) for name, path in self._paths.items()]
        return sorted(found, key=lambda one: (-(one.changed or 0.0), one.path))

    def run(self, name: str) -> Looked:
        """Raises KeyError for what is no run here, BadRun for one that cannot be read."""
        with self._guard:
            if name not in self._runs:
                self._runs[name] = Looked(name, self._paths[name])
            self._wake.set()
            return self._runs[name]

    def listen(self, run: str, told: Callable[[str, frozenset[str]], None]) -> None:
        """`told` hears, in the reader's thread, of a run's instances whose rows changed, until it is taken away."""
        with self._guard:
            self._listeners[told] = run
        self._wake.set()

    def unlisten(self, told: Callable[[str, frozenset[str]], None]) -> None:
        with self._guard:
            self._listeners.pop(told, None)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """While a reader waits for an answer, nothing is read in the background."""
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            self._asked_at = time.monotonic()

    def _wait(self) -> None:
        until = time.monotonic() + 1
        while (self._asking or time.monotonic() < self._asked_at + 0.05) and time.monotonic() < until:
            time.sleep(0.01)

    def _below(self) -> dict[str, Path]:
        return {str(path.relative_to(self.place)): path for path in sorted(runs_below(self.place))}

    def _work(self) -> None:
        """Every run that is listened to, or not known yet, and was asked for. Nothing is looked at while nobody looks."""
        while not self._stopped:
            with self._guard:
                heard = set(self._listeners.values())
                runs = [run for run in self._runs.values() if run.name in heard or len(run.rows) < len(run.names)]
            for run in runs:
                with suppress(BadRun, OSError):  # damaged meanwhile: what was read stays
                    self._look(run)
            self._fit()
            if heard:
                time.sleep(_LOOK)
            elif not any(len(run.rows) < len(run.names) for run in runs):
                self._wake.wait(2)
                self._wake.clear()

    def _look(self, run: Looked) -> None:
        run.refresh_said()
        changed, told = set[str](), time.monotonic()
        for name in run.names:
            if self._stopped:
                return
            self._wait()
            if run.look(name, self._wait):
                changed.add(name)
            if changed and time.monotonic() - told > 0.3:
                self._tell(run, changed)
                self._fit()
                changed, told = set(), time.monotonic()
        if run.refresh_state() or changed:
            self._tell(run, changed)

    def _tell(self, run: Looked, changed: set[str]) -> None:
        with self._guard:
            listeners = [told for told, of in self._listeners.items() if of == run.name]
        for told in listeners:
            told(run.name, frozenset(changed))

    def _fit(self) -> None:
        with self._guard:
            runs = list(self._runs.values())
        while sum(run.weight() for run in runs) > _RECORDS and any(run.let_go() for run in runs):
            pass


def _deciding(index: Index) -> Iterator[Record]:
    """What a selection is decided on: the evidence, and how the run-offs ended."""
    places = [index.evidence] if index.evidence else []
    places += [at for of in (index.ends, index.stops) for t, at in of.items() if t.startswith("run-off-")]
    for place in places:
        if record := index.record(place):
            yield record


def _row(read: Read) -> Row:
    case = read.case
    said = (
        "fate",
        "status",
        "why",
        "resolved",
        "chosen",
        "members",
        "proposals",
        "candidates",
        "votes",
        "tests",
        "right",
    )
    calls = case.took.calls
    return {name: getattr(case, name) for name in said} | {
        "cost": calls.cost,
        "calls": calls.calls,
        "recorded": calls.recorded,
        "unpriced": calls.unknown,
        "input": calls.input,
        "cached": calls.cached,
        "output": calls.output,
        "executions": case.took.executions,
        "seconds": round(case.took.seconds, 1),
        "units": len(read.units),
        "open": sum(unit.reason == "under way" for unit in read.units),
        "damaged": case.damaged,
        "billed": case.possibly_billed,
    }


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return -1
