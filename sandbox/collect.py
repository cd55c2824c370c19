"""Takes away states that nobody refers to, or that were not used for longest, and what killed processes left.

A program of its own, standard library only, started by file path in the store's directory, as root or as root of the
user's own namespace: it must look into directories that a sandbox closed, and remove them. It follows no links there.

    asked      one JSON object, the fields of Wanted, as its argument
    answered   one JSON object, the fields of Report

States are removed leaf first, and a name before its state, so that a kill leaves nothing half: what was taken away is
moved aside under the store's lock, in an instant, and removed afterwards. A state that is gone is made again by whoever
needs it.
"""

# ruff: noqa: PTH104, PTH108, PTH112, PTH116, PTH208
from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runoff.sandbox import shared, sizes
    from runoff.sandbox.layerstore import remove
    from runoff.sandbox.referrers import Referrers, listed
    from runoff.sandbox.sizes import Layer
else:
    sys.path.append(str(Path(__file__).parent))
    import shared
    import sizes
    from layerstore import remove
    from referrers import Referrers, listed
    from sizes import Layer

LIMIT = 50 << 30
"""Bytes of states when nobody says how many, or half of what they could have, if that is less."""
RESERVE = 1 << 30
"""Bytes always left to others on the file system, or a twentieth of it, if that is less."""
ENOUGH = 0.9
"""Over the limit, states go until they take this part of it: not again after every new one."""

IDLE = 1800.0
"""Seconds after which a state that no execution uses, and that no referrer being written names, is idle."""

_ROUND = 1000  # layers taken away under one lock: each is an open file
_PDEATHSIG = 1


@dataclass(frozen=True)
class Wanted:
    limit: int | None = None
    """Bytes of states that may stay. None: the default; what is free on the file system bounds it too."""
    room: int = 0
    """Bytes that must be free for what comes next."""
    tidy: bool = False
    """Also states that nobody refers to, however little they take, and damaged ones."""
    unused: float | None = None
    """Also states that were not used for so many seconds, whoever refers to them."""
    idle: float = IDLE
    dry_run: bool = False
    wait: bool = True
    """For another collection that is under way; otherwise leave it to that one."""
    parent: int | None = None
    """Die with this process."""


@dataclass
class Report:
    removed: dict[str, list[int]] = field(default_factory=dict)
    """Kind → how many, and bytes. Kinds: orphans, damaged, unreferred, runs, environments."""
    kept: dict[str, list[int]] = field(default_factory=dict)
    in_use: list[int] = field(default_factory=lambda: [0, 0])
    """How many layers and bytes stay only because somebody has the store open."""
    sessions: int = 0
    bytes: int = 0
    """What all states take now."""
    limit: int = 0
    free: int = 0
    notes: list[str] = field(default_factory=list)


def collect(wanted: Wanted) -> Report:
    """In the store that is the working directory. Raises OSError."""
    report = Report()
    handle = os.open("collecting", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wanted.wait else fcntl.LOCK_NB))
        _orphans(wanted, report)
        while _round(wanted, report):
            pass
    except BlockingIOError:
        report.notes.append("another process is collecting")
    finally:
        os.close(handle)
    return report


def losers(
    layers: Mapping[str, Layer],
    referred: Collection[str],
    busy: Collection[str],
    *,
    limit: int,
    tidy: bool = False,
    unused_since: int = 0,
) -> list[str]:
    """Which layers go, in order: no layer before all that lie on it, nothing busy; first what nobody refers to, then
    the least recently used."""
    above = Counter(name for layer in layers.values() for name in layer.below)
    total, links = sizes.total(layers.values()), Counter(inode for layer in layers.values() for inode in layer.files)
    gone = []
    leaves = [(name in referred, layer.used, name) for name, layer in layers.items() if not above[name]]
    heapq.heapify(leaves)
    while leaves:
        kept_by_someone, used, name = heapq.heappop(leaves)
        wanted = total > limit or (tidy and not kept_by_someone) or used < unused_since
        if name in busy or not wanted:
            continue
        gone.append(name)
        total -= layers[name].bytes
        for inode, taken in layers[name].files.items():
            links[inode] -= 1
            total -= 0 if links[inode] else taken
        for lower in layers[name].below:
            above[lower] -= 1
            if lower in layers and not above[lower]:
                heapq.heappush(leaves, (lower in referred, layers[lower].used, lower))
    return gone


def _round(wanted: Wanted, report: Report) -> bool:
    """Take away some layers, and say how things stand then; True if there are more to take."""
    began = time.time_ns()
    open_before = _sessions()
    layers, damaged = _layers()
    total = sizes.total(layers.values())
    report.bytes, report.free, report.limit = total, _free(), _limit(wanted, total)
    over = total > report.limit
    if not (over or wanted.tidy or wanted.unused is not None):
        return False
    referrers = Referrers()
    taken: list[tuple[int, str]] = []
    with shared.locked(".", alone=True):
        names = {path: _named(path) for path in listed("names")}
        sessions = {*open_before, *_sessions()}
        protected = min([began, *map(shared.began, sessions)])
        fresh = _refreshed(layers)
        named_there = referrers.writing(sessions)
        writing = None if named_there is None else _closed(named_there, layers)
        environments = _closed((name for said in names.values() if said for name in said[1]), layers)
        referred = environments | (set(layers) if referrers.unreadable else _closed(referrers.named, layers))
        busy = fresh | _busy(layers, protected, began - int(wanted.idle * 1e9), writing)
        goal = int(report.limit * ENOUGH) if over else total
        since = 0 if wanted.unused is None else began - int(wanted.unused * 1e9)

        def going(busy: Collection[str]) -> list[str]:
            return losers(layers, referred, busy, limit=goal, tidy=wanted.tidy, unused_since=since)

        gone = going(busy)
        while executing := {name for name in gone[:_ROUND] if _held(name)}:
            busy |= executing
            gone = going(busy)
        broken = [name for name in damaged if wanted.tidy and _used(name) < protected and not _held(name)]
        more = len(gone) > _ROUND and not wanted.dry_run
        gone = gone[:_ROUND] if more else gone
        held_back = set(going(())) - set(gone) if not more else set[str]()
        if wanted.tidy:
            report.notes = [*referrers.notes, *_bad_names(names, layers, protected, wanted.dry_run)]
        if not wanted.dry_run:
            for path, said in names.items():
                if said and not {*gone, *broken}.isdisjoint(said[1]):
                    os.unlink(path)
            referrers.drop(sessions, protected)
            taken = [_aside(name) for name in [*broken, *gone]]
    for place in broken if wanted.dry_run else [aside for _, aside in taken[: len(broken)]]:
        _add(report.removed, "damaged", 1, sizes.on_disk(place))
    kinds = {
        name: "environments" if name in environments else "runs" if name in referred else "unreferred"
        for name in layers
    }
    left = dict(layers)
    for name in gone:
        del left[name]
    report.kept = {}
    for kind in ("environments", "runs", "unreferred"):
        rest = [layer for name, layer in left.items() if kinds[name] == kind]
        went = [name for name in gone if kinds[name] == kind]
        before = sizes.total(layers[name] for name in [*left, *went]) - sizes.total(left.values())
        if went:
            _add(report.removed, kind, len(went), before)
        if rest:
            _add(report.kept, kind, len(rest), sizes.total(rest))
    report.in_use = [len(held_back), sizes.total(left[name] for name in held_back if name in left)]
    report.sessions, report.bytes = len(_sessions()), sizes.total(left.values())
    for handle, aside in taken:
        remove(aside)
        os.close(handle)
    report.free = _free()
    return more


def _busy(layers: Mapping[str, Layer], protected: int, idle: int, writing: set[str] | None) -> set[str]:
    """What an open session may still use: all that was used since the first of them began. But if every one of them says
    where the states are named that it still works with, only those, and what is too new to be named yet."""
    busy = {name for name, layer in layers.items() if layer.used >= protected}
    return busy if writing is None else {name for name in busy if name in writing or layers[name].used >= idle}


def _refreshed(layers: dict[str, Layer]) -> set[str]:
    """Bring what was read before the lock up to date; returns the layers that have come since."""
    for name, layer in list(layers.items()):
        layers[name] = layer._replace(used=_used(name))
    fresh = {name for name in _names_of_layers() if name not in layers and shared.below(".", name) is not None}
    layers.update((name, Layer(shared.below(".", name) or (), time.time_ns())) for name in fresh)
    return fresh


def _layers() -> tuple[dict[str, Layer], list[str]]:
    """All whole layers, and the names of damaged ones: no `u`, no list of what is under it, or that is not there."""
    found = {name: shared.below(".", name) for name in _names_of_layers()}
    whole = {name: lower for name, lower in found.items() if lower is not None and os.path.isdir(f"{name}/u")}
    damaged = [name for name in found if name not in whole or not whole.keys() >= set(whole[name])]
    layers: dict[str, Layer] = {}
    for name in whole.keys() - set(damaged):
        with suppress(FileNotFoundError):
            layers[name] = sizes.sized(name)._replace(below=whole[name], used=_used(name))
    return layers, damaged


def _limit(wanted: Wanted, total: int) -> int:
    at = os.statvfs(".")
    free, reserve = at.f_bavail * at.f_frsize, min(RESERVE, at.f_blocks * at.f_frsize // 20)
    asked = min(LIMIT, (total + free) // 2) if wanted.limit is None else wanted.limit
    return max(0, min(asked, total + free - max(reserve, wanted.room)))


def _free() -> int:
    at = os.statvfs(".")
    return at.f_bavail * at.f_frsize


def _orphans(wanted: Wanted, report: Report) -> None:
    """What processes left that were killed: their directories are locked no longer."""
    for name in os.listdir("."):
        if not name.startswith("tmp-"):
            continue
        with suppress(OSError):
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if wanted.tidy:
                    _add(report.removed, "orphans", 1, sizes.on_disk(name))
                if not wanted.dry_run:
                    remove(name)
            finally:
                os.close(handle)


def _bad_names(names: Mapping[str, object], layers: Mapping[str, Layer], protected: int, dry_run: bool) -> list[str]:
    """Files of names that name nothing: noted, and removed."""
    notes = []
    for path, said in names.items():
        missing = isinstance(said, tuple) and not all(name in layers for name in said[1])
        if said is not None and not missing:
            continue
        with suppress(FileNotFoundError):
            if os.stat(path).st_mtime_ns < protected:
                about = f"the layers of {said[0]!r} are not all there" if isinstance(said, tuple) else "damaged"
                notes.append(f"{path}: {about}; it names nothing")
                if not dry_run:
                    os.unlink(path)
    return notes


def _named(path: str) -> tuple[str, tuple[str, ...]] | None:
    try:
        return shared.read_name(path)
    except FileNotFoundError:
        return None


def _aside(name: str) -> tuple[int, str]:
    """Out of the store, by one rename, and locked until it is removed."""
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_EX)
    aside = f"tmp-gone-{os.urandom(8).hex()}"
    os.rename(name, aside)
    return handle, aside


def _held(name: str) -> bool:
    """Whether anybody has a directory locked."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _sessions() -> set[str]:
    """Of whoever has the store open."""
    return {
        name for name in os.listdir(".") if name.startswith("tmp-") and not name.startswith("tmp-gone-") and _held(name)
    }


def _names_of_layers() -> list[str]:
    return [name for name in os.listdir(".") if shared.LAYER.fullmatch(name)]


def _closed(names: Iterable[str], layers: Mapping[str, Layer]) -> set[str]:
    """Layers and all that lie under them."""
    there = {name for name in names if name in layers}
    return there.union(*(layers[name].below for name in there))


def _used(name: str) -> int:
    for path in (f"{name}/below", name):
        with suppress(OSError):
            return os.lstat(path).st_mtime_ns
    return 0


def _add(table: dict[str, list[int]], kind: str, count: int, taken: int) -> None:
    known = table.setdefault(kind, [0, 0])
    known[0], known[1] = known[0] + count, known[1] + taken


def _main() -> None:
    wanted = Wanted(**json.loads(sys.argv[1]))
    if wanted.parent is not None:
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != wanted.parent:
            return
        os.nice(10)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard != resource.RLIM_INFINITY else 8192, hard))
    try:
        print(json.dumps(asdict(collect(wanted))))
    except OSError as error:
        print(json.dumps({"error": error.strerror, "errno": error.errno, "path": os.fsdecode(error.filename or ".")}))


if __name__ == "__main__":
    _main()
