"""Control groups, one for each slot of the helper: memory, processes and processor time in total. Standard library only.

Below a directory that is ours lies one group for each slot, used again and again. The directory is locked as long as this
process lives. A normal end removes it; after SIGKILL it stays, empty, until the next helper starts in the same place.

    version 2   from our own group upwards, the first below which a group with memory and process limits can be made
    version 1   below our own group of each of the hierarchies memory, pids and cpuacct: whichever of them can be used
    none        neither: the limits are watched

To move a process costs the kernel a grace period, some 10 ms unless another was moved just before. So in version 1 what
starts a slot's processes is a thread that is in the group already. Version 2 has no memory limit for threads.
"""

# ruff: noqa: PTH102, PTH106, PTH110, PTH120, PTH208
# Paths are short strings, see cell.py.
from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

_CONTROLLERS = ("memory", "pids", "cpuacct")
_NAMED = "runoff-"
_NO_LIMIT = "max"
_MOST_PROCESSES = 4 << 20  # the kernel refuses a larger number
_TRIED_MEMORY = 1 << 30
_SWAP = 1 << 20


class Used(NamedTuple):
    cpu_seconds: float
    met: int
    """How often an allocation met our own limit."""
    killed: int
    """How many processes were killed for want of memory, ours or the machine's."""


class Group:
    """One slot's group in each hierarchy. Not to be used by two executions at once."""

    def __init__(self, version: int, paths: dict[str, str]) -> None:
        self._version, self._paths, self._set = version, paths, (0, 0)
        self.holds = frozenset(paths)
        for path in self._places():
            os.mkdir(path)
        self._files = dict[str, int]()
        self._thread, self._began = 0, self._count()
        self.event = self._event() if version == 1 and "memory" in paths else None
        """Readable after an allocation met a limit and nothing could be reclaimed; None if that must be looked for."""

    def enter(self) -> None:
        """What this thread starts from now on is in the group, where that is possible."""
        if self._version == 1:
            self._thread = threading.get_native_id()
            for path in self._places():
                _write(f"{path}/tasks", str(self._thread))

    def begin(self, memory: int, processes: int) -> None:
        """Limit what is about to start, the helper's own processes in the group not counted."""
        if (memory, processes) != self._set:
            self._limit(memory, processes + (3 if self._version == 1 else 1))  # our thread, bubblewrap, its process 1
            self._set = memory, processes
        if self.event is not None:
            with suppress(BlockingIOError):
                os.eventfd_read(self.event)
        self._began = self._count()

    def take(self, process: int) -> None:
        """Before it starts anything. Raises ProcessLookupError if it is gone."""
        if self._version == 2:
            for path in self._places():
                _write(f"{path}/cgroup.procs", str(process))

    def used(self) -> Used:
        """Since `begin`. Zero for what is not counted here."""
        now, began = self._count(), self._began
        return Used(now.cpu_seconds - began.cpu_seconds, now.met - began.met, now.killed - began.killed)

    def kill(self) -> None:
        if self._version == 2:
            with suppress(OSError):
                _write(f"{self._paths['memory']}/cgroup.kill", "1")

    def remove(self) -> None:
        for path in self._places():
            with suppress(OSError):
                if self._thread:
                    _write(f"{os.path.dirname(os.path.dirname(path))}/tasks", str(self._thread))
                os.rmdir(path)

    def _places(self) -> set[str]:
        return set(self._paths.values())

    def _limit(self, memory: int, processes: int) -> None:
        memory_at, pids_at = self._paths.get("memory"), self._paths.get("pids")
        if pids_at:
            _write(f"{pids_at}/pids.max", str(processes) if processes < _MOST_PROCESSES else _NO_LIMIT)
        if memory_at and self._version == 2:
            _write(f"{memory_at}/memory.max", str(memory))
            _write_if_there(f"{memory_at}/memory.swap.max", "0")
            _write_if_there(f"{memory_at}/memory.oom.group", "1")
        elif memory_at:
            # With swap is never below without; and a little above, for only the limit without counts how often it is met.
            limits = [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory + _SWAP)]
            if self._set[0] > memory:
                _write_if_there(f"{memory_at}/memory.force_empty", "0")  # what earlier executions read from the disk
            for name, most in limits if memory < self._set[0] or not self._set[0] else reversed(limits):
                _write_if_there(f"{memory_at}/{name}", str(most))
            _write_if_there(f"{memory_at}/memory.swappiness", "0")

    def _count(self) -> Used:
        if self._version == 2:
            events = self._said("memory", "memory.events")
            cpu = int(self._said("cpuacct", "cpu.stat")["usage_usec"]) / 1e6
            return Used(cpu, int(events["max"]), int(events["oom_kill"]))
        cpu = int(self._said("cpuacct", "cpuacct.usage").get("", 0)) / 1e9
        killed = int(self._said("memory", "memory.oom_control").get("oom_kill", 0))
        return Used(cpu, int(self._said("memory", "memory.failcnt").get("", 0)), killed)

    def _said(self, controller: str, name: str) -> dict[str, str]:
        """The lines of a file, `word number`; a number alone under the empty word. Empty if it is not to be had."""
        if controller not in self._paths:
            return {}
        if name not in self._files:
            self._files[name] = os.open(f"{self._paths[controller]}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        lines = os.pread(self._files[name], 1 << 16, 0).decode().splitlines()
        return {word: number for word, _, number in (line.rpartition(" ") for line in lines)}

    def _event(self) -> int | None:
        at = self._paths["memory"]
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{at}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _write(f"{at}/cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(event)
            return None
        return event


class Cgroups:
    """`count` groups. `use` False: none, whatever the machine has."""

    def __init__(self, count: int, use: bool = True) -> None:
        self._locks = dict[str, int]()
        self.version, self.why = 0, "they are left out"
        places: dict[str, str] = {}
        if use:
            self.version, places = self._choose()
        self.holds = frozenset(places)
        """The controllers that can be used."""
        self.groups = [
            Group(self.version, {which: f"{place}/{n}" for which, place in places.items()}) for n in range(count)
        ]

    def remove(self) -> None:
        """What is empty of them. Nothing may be begun afterwards."""
        for group in self.groups:
            group.remove()
        for place in self._locks:
            with suppress(OSError):
                os.rmdir(place)

    def _choose(self) -> tuple[int, dict[str, str]]:
        """By really trying. `why` says what stood in the way of more."""
        mounts, own = _mounts(), _own_groups()
        if place := self._second(mounts, own):
            return 2, dict.fromkeys(_CONTROLLERS, place)
        places = {}
        for which in _CONTROLLERS:
            if which in mounts and which in own:
                with self._reason():
                    places[which] = self._first(_inside(mounts[which], own[which]), which)
        return (1 if places else 0), places

    def _first(self, at: str, which: str) -> str:
        if which == "memory" and _read_if_there(f"{at}/memory.use_hierarchy").strip() == "0":
            raise OSError(errno.EPERM, "limits are not inherited there", at)
        place = self._place(at)
        _try(place, {"memory": ("memory.limit_in_bytes",), "pids": ("pids.max",)}.get(which, ()))
        return place

    def _second(self, mounts: dict[str, tuple[str, str]], own: dict[str, str]) -> str | None:
        if "" not in mounts or "" not in own:
            self.why = "no control groups are mounted"
            return None
        at, processes = _inside(mounts[""], own[""]), _NO_LIMIT
        if not {"memory", "pids"} <= set(_read_if_there(f"{at}/cgroup.controllers").split()):
            self.why = f"the control group {own['']} has no limits on memory and processes to give"
            return None
        while True:
            with self._reason():
                _hand_down(at)
                place = self._place(at)
                if processes != _NO_LIMIT:
                    _write(f"{place}/pids.max", processes)
                _hand_down(place)
                _try(place, ("memory.max", "pids.max"))
                return place
            if at == mounts[""][1]:
                return None
            for name in ("memory.max", "memory.high", "memory.swap.max", "cpu.max"):
                if _read_if_there(f"{at}/{name}").split()[:1] not in ([], [_NO_LIMIT]):
                    self.why = f"groups beside {at} would not have its {name}"
                    return None
            processes = min(processes, _read_if_there(f"{at}/pids.max").strip() or _NO_LIMIT, key=_number)
            at = os.path.dirname(at)

    @contextmanager
    def _reason(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.why = f"{error.filename}: {error.strerror}"

    def _place(self, parent: str) -> str:
        """A directory of our own, locked as long as this process lives."""
        _remove_orphans(parent)
        place = f"{parent}/{_NAMED}{os.urandom(8).hex()}"
        os.mkdir(place)
        self._locks[place] = handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_EX)
        return place


def _try(place: str, limits: Sequence[str]) -> None:
    """Limit a group below, and move a process of ours into it."""
    group = f"{place}/try"
    os.mkdir(group)
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    try:
        for name in limits:
            _write(f"{group}/{name}", str(_TRIED_MEMORY if name.startswith("memory") else 1000))
        _write(f"{group}/cgroup.procs", str(child))
    finally:
        os.close(wait)
        os.close(go)
        os.waitpid(child, 0)
        os.rmdir(group)


def _hand_down(at: str) -> None:
    """Let groups below have limits. The kernel refuses it where processes are (but not at the very top)."""
    wanted = [name for name in ("memory", "pids") if name not in _read(f"{at}/cgroup.subtree_control").split()]
    if wanted:
        _write(f"{at}/cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))


def _remove_orphans(parent: str) -> None:
    for name in os.listdir(parent):
        if not name.startswith(_NAMED):
            continue
        with suppress(OSError):
            handle = os.open(f"{parent}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with os.scandir(f"{parent}/{name}") as entries:
                    groups = [entry.path for entry in entries if entry.is_dir()]
                for path in [*groups, f"{parent}/{name}"]:
                    os.rmdir(path)  # refused while a process is in it
            finally:
                os.close(handle)


def _mounts() -> dict[str, tuple[str, str]]:
    """Controller → (what of the hierarchy is mounted, where); the second version under the empty name."""
    found: dict[str, tuple[str, str]] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, at = (_unescaped(part) for part in before.split()[3:5])
        for name in {"cgroup": options.split(",") if kind == "cgroup" else [], "cgroup2": [""]}.get(kind, []):
            found.setdefault(name.split(" ")[-1], (root, at))
    return found


def _own_groups() -> dict[str, str]:
    found = dict[str, str]()
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _inside(mount: tuple[str, str], path: str) -> str:
    """Where a group lies in what is mounted: a container often has only its own part of the hierarchy."""
    root, at = mount
    if root != "/" and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return (at + path).rstrip("/")


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _number(limit: str) -> float:
    return float("inf") if limit == _NO_LIMIT else int(limit)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _read_if_there(path: str) -> str:
    return _read(path) if os.path.exists(path) else ""


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    except OSError as error:
        error.filename = path  # the kernel's no is to writing: only opening names the file by itself
        raise
    finally:
        os.close(handle)


def _write_if_there(path: str, text: str) -> None:
    if os.path.exists(path):
        _write(path, text)
