"""Looks at what an execution uses, and says for which limit it must be killed. Part of the helper, standard library only.

What a control group enforces or counts is only read. The rest is looked at: the processes below process 1, and the files
in the upper directory, which is walked while hostile code writes there. So the walk goes by handles of directories,
follows no link, and opens nothing but directories.
"""

# ruff: noqa: PTH116, PTH208
# Paths are short strings, see cell.py.
from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox.cgroups import Group

LOOK, LOOK_AT_MEMORY = 0.25, 0.1
"""Seconds between two looks; the second where memory is not enforced."""
DEEPEST = 1000
"""Directories in each other; a deeper tree has too many `files`, as nobody can tell what lies in it."""

_WALK_AT_LEAST_EVERY = 1.0
_ENTRIES_AT_ONCE = 2000
_UNCOUNTABLE = 1 << 63
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Watch:
    """One execution. `look` when it is `due`, and once more when all processes in it are dead: `end`."""

    def __init__(
        self,
        first: int | None,
        limits: Mapping[str, Any],
        group: Group,
        upper: str,
        has_room: Callable[[], bool],
        entered: int | None = None,
    ) -> None:
        """`entered`: a process that came into the sandbox from outside, beside process 1."""
        self._first, self._limits, self._group, self._has_room = first, limits, group, has_room
        self._every = LOOK if "memory" in group.holds else LOOK_AT_MEMORY
        self._look_at_processes = not {"memory", "cpuacct"} <= group.holds
        self._written = Written(
            upper,
            limits["disk"],
            limits["files"],
            lambda: unlinked(first, [process.number for process in tree(first, entered)]),
        )
        self.due = time.monotonic() + self._every

    @property
    def written(self) -> tuple[int, int]:
        """Bytes and files, when they were last counted."""
        return self._written.seen

    def look(self) -> str:
        """A limit that was passed, `full`, `lost`, or nothing."""
        began = time.monotonic()
        reason = self._look() or self._written.look() or ("" if self._has_room() else "full")
        now = time.monotonic()
        self.due = now if self._written.walking else max(began + self._every, now + 10 * (now - began))
        return reason

    def out_of_memory(self) -> str:
        """`memory` if the group's event was for its own limit, not for one of the machine."""
        return "memory" if self._group.used().met else ""

    def end(self, cpu_seconds: float) -> str:
        """A limit that was passed by the end. `cpu_seconds`: of all that was waited for, where nothing better counts it."""
        return self._counted(cpu_seconds) or self._written.end()

    def _look(self) -> str:
        if not self._look_at_processes:
            return self._counted(0.0)
        processes = tree(self._first)
        if reason := self._counted(sum(process.cpu_seconds for process in processes)):
            return reason
        most = self._limits["memory"]
        if "memory" in self._group.holds or sum(process.resident for process in processes) + self._shared() <= most:
            return ""
        own, shared = shares(processes)  # pages of several processes count once: exact, and slow
        return "memory" if own + max(shared, self._shared()) > most else ""

    def _counted(self, cpu_seconds: float) -> str:
        used = self._group.used()
        if used.killed:
            return "memory" if used.met else "lost"
        return "cpu" if max(used.cpu_seconds, cpu_seconds) >= self._limits["cpu_seconds"] else ""

    def _shared(self) -> int:
        """Bytes in /dev/shm, a mount of ours at a place that nothing inside can change."""
        with suppress(OSError):
            at = os.statvfs(f"/proc/{self._first}/root/dev/shm")
            return (at.f_blocks - at.f_bfree) * at.f_frsize
        return 0


class Process(NamedTuple):
    number: int
    parent: int
    cpu_seconds: float
    """Its own, and of its children that have ended."""
    resident: int


def tree(*first: int | None) -> list[Process]:
    """Process 1 of a sandbox, and all below it; and of another that entered it."""
    children = dict[int, list[Process]]()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _process(int(name))):
            children.setdefault(process.parent, []).append(process)
            found += [process] if process.number in first else []
    for process in found:  # grows
        found += children.get(process.number, [])
    return found


def _process(number: int) -> Process | None:
    try:
        with open(f"/proc/{number}/stat", "rb") as file:
            said = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(number, int(said[1]), sum(map(int, said[11:15])) / _TICKS, int(said[21]) * _PAGE)


def shares(processes: list[Process]) -> tuple[int, int]:
    """Bytes of memory of their own (a page of n processes counts as 1/n of it), and of shared memory."""
    own = shared = 0
    for process in processes:
        with suppress(OSError), open(f"/proc/{process.number}/smaps_rollup", "rb") as file:
            said = dict(line.split()[:2] for line in file.read().splitlines()[1:])
            shared += int(said.get(b"Pss_Shmem:", 0)) << 10
            own += (int(said[b"Pss:"]) - int(said.get(b"Pss_Shmem:", 0))) << 10
    return own, shared


class Written:
    """How much lies in a directory: a cheap look at the file system first, and a walk if it could be too much."""

    def __init__(
        self, top: str, most_bytes: int, most_files: int, unseen: Callable[[], tuple[int, int]] = lambda: (0, 0)
    ) -> None:
        self._top, self._most, self._unseen = top, (most_bytes, most_files), unseen
        self._nameless = (0, 0)
        self._left, self._free = self._most, _free()
        self._walk: Iterator[tuple[int, int]] | None = None
        self.seen, self._walked, self._pause = (0, 0), time.monotonic(), _WALK_AT_LEAST_EVERY

    @property
    def walking(self) -> bool:
        return self._walk is not None

    def look(self) -> str:
        """Some milliseconds of a walk at most: whoever waits has other things to see to."""
        if self._walk is None:
            if not self._could_be_over():
                return ""
            self._walked, self._free, self._walk = time.monotonic(), _free(), walk(self._top)
            self._nameless = self._unseen()
        seen = next(self._walk, None)
        if seen:
            self.seen = (seen[0] + self._nameless[0], seen[1] + self._nameless[1])
            return self._over()
        self._walk = None
        self._left = (self._most[0] - self.seen[0], self._most[1] - self.seen[1])
        self._pause = max(_WALK_AT_LEAST_EVERY, 40 * (time.monotonic() - self._walked))
        return ""

    def end(self) -> str:
        """Nothing writes any more."""
        for seen in walk(self._top):
            self.seen = seen
            if reason := self._over():
                return reason
        return ""

    def _could_be_over(self) -> bool:
        """By what the file system has lost since the last walk; and now and then, for others may have given some back."""
        since = time.monotonic() - self._walked
        grown = any(before - now > left for before, now, left in zip(self._free, _free(), self._left, strict=True))
        return since > self._pause or (grown and since > self._pause / 40)

    def _over(self) -> str:
        return "disk" if self.seen[0] > self._most[0] else "files" if self.seen[1] > self._most[1] else ""


def unlinked(first: int | None, processes: Iterable[int]) -> tuple[int, int]:
    """Bytes on the disk and count of the files without a name that a sandbox's processes hold open, in its own root."""
    found = dict[int, int]()
    with suppress(OSError):
        here = os.stat(f"/proc/{first}/root").st_dev
        for process in processes:
            with suppress(OSError):
                for name in os.listdir(f"/proc/{process}/fd"):
                    with suppress(OSError):
                        status = os.stat(f"/proc/{process}/fd/{name}")
                        if status.st_nlink == 0 and status.st_dev == here and stat.S_ISREG(status.st_mode):
                            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values()), len(found)


def walk(top: str) -> Iterator[tuple[int, int]]:
    """Bytes on the disk and entries below a directory, so far, every few milliseconds; the last is the sum.

    What appears or goes meanwhile may be counted or not. A tree that is too deep has more files than any limit.
    """
    size, count, linked = 0, 0, set[int]()
    inside: list[tuple[int, list[str]]] = []

    def enter(handle: int) -> Iterator[tuple[int, int]]:
        nonlocal size, count
        inside.append((handle, []))
        with os.scandir(handle) as entries:
            for entry in entries:
                count += 1
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        inside[-1][1].append(entry.name)
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink == 1 or status.st_ino not in linked:
                        size += status.st_blocks * 512
                    if status.st_nlink > 1:
                        linked.add(status.st_ino)
                if count % _ENTRIES_AT_ONCE == 0:
                    yield size, count

    try:
        yield from enter(os.open(top, _DIRECTORY))
        while inside:
            handle, names = inside[-1]
            if not names:
                os.close(inside.pop()[0])
                continue
            try:
                below = os.open(names.pop(), _DIRECTORY, dir_fd=handle)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    count = _UNCOUNTABLE
                continue
            if len(inside) == DEEPEST:
                os.close(below)
                count = _UNCOUNTABLE
            else:
                yield from enter(below)
        yield size, count
    finally:
        for handle, _ in inside:
            os.close(handle)


def _free() -> tuple[int, int]:
    """Bytes and inodes, where the states live."""
    at = os.statvfs(".")
    return at.f_bfree * at.f_frsize, at.f_ffree
