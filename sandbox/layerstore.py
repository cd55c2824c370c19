"""The store of frozen layers as an open session works in it. Standard library only. shared.py says what lies where.

Any number of processes may use one store at once: what is being made lies in a `tmp-` directory that its maker holds
locked, and appears under its name by one rename. All paths are relative to the store, the working directory.
"""

# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH116, PTH208
# Paths are short strings relative to the store, see cell.py.
from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runoff.sandbox import mounts, shared
    from runoff.sandbox.layers import Changed, Overlay
else:
    sys.path.append(str(Path(__file__).parent))
    import mounts
    import shared
    from layers import Changed, Overlay

MAX_LAYERS = 3
"""Above the base; one more, and they are merged."""

LEAST_BYTES, LEAST_INODES = 1 << 20, 16
"""A file system with less left than this is full."""

_MOST_RUBBISH = 256
"""Small directories that wait to be removed."""


class LayerStore:
    def __init__(self, prefix: str) -> None:
        self._overlay, self._count = Overlay(prefix), itertools.count()
        self._options = "volatile,index=off,metacopy=off," + (
            "userxattr" if prefix.startswith("user") else "redirect_dir=on"
        )
        self.session, self._lock = _locked_directory()  # the lock lasts as long as this process
        self._rubbish = Queue[str](_MOST_RUBBISH)
        threading.Thread(target=self._sweep, daemon=True).start()

    def holds(self, layers: Sequence[str]) -> bool:
        """Whether layers are there; if so, they stay as long as this session is open and busy with them."""
        with shared.locked("."):
            return shared.touch(".", layers, self.session)

    @contextmanager
    def used(self, layers: Sequence[str]) -> Iterator[bool]:
        """Whether layers are there; if so, nobody removes them meanwhile, however long it takes."""
        handles: list[int] = []
        try:
            with shared.locked("."):
                there = shared.touch(".", layers, self.session)
                for name in layers if there else ():
                    handles.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                    fcntl.flock(handles[-1], fcntl.LOCK_SH)
            yield there
        finally:
            for handle in handles:
                os.close(handle)

    @contextmanager
    def slot(self) -> Iterator[str]:
        """A place to make a layer in; gone soon afterwards, unless it was published. What is large is removed before."""
        slot = f"{self.session}/{next(self._count)}"
        try:
            for place in (slot, f"{slot}/u", f"{slot}.work"):
                os.mkdir(place)
            yield slot
        except BaseException:
            remove(slot)
            raise
        finally:
            for place in (slot, f"{slot}.work"):
                self._rubbish.put(place)

    def open(self, slot: str, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Start from a state: a small topmost layer is copied into the slot. Returns the layers that are under it."""
        if len(layers) == 1 or layers[0].startswith("x"):
            return layers
        self._overlay.merge([f"{layers[0]}/u"], f"{slot}/u")
        return layers[1:]

    @contextmanager
    def mounted(self, slot: str, below: Sequence[str]) -> Iterator[str]:
        """What the slot and the layers below it show, as a directory, which everyone can reach."""
        at, lower = f"{mounts.PLACE}/{slot.replace('/', '-')}", ":".join(f"{name}/u" for name in _with_below(below))
        options = f"lowerdir={lower},upperdir={slot}/u,workdir={slot}.work,{self._options}"
        os.mkdir(at)
        try:
            mounts.mount("overlay", at, "overlay", mounts.NOSUID | mounts.NODEV, options)
            try:
                yield at
            finally:
                mounts.detach(at)
        finally:
            os.rmdir(at)

    def freeze(self, slot: str, below: tuple[str, ...]) -> tuple[str, ...]:
        """The state that the slot's upper directory makes on top of the layers below."""
        upper = f"{slot}/u"
        if not os.listdir(upper) and stat.S_IMODE(os.lstat(upper).st_mode) == 0o755:
            return below
        if len(below) > MAX_LAYERS:
            with self.slot() as merged:
                stack = [upper, *(f"{name}/u" for name in below[:-1])]
                under = [f"{name}/u" for name in _with_below(below[-1:])]
                for place in (merged, *below[:-1]):  # before any link is made: whoever sizes them must know
                    _mark(f"{place}/{shared.LINKED}")
                self._overlay.merge(stack, f"{merged}/u", under, link=True)
                return self._name(merged, below[-1:])
        return self._name(slot, below)

    def changed(self, layers: Sequence[str], since: Sequence[str], at: str) -> Changed | None:
        """What may differ between two states in a directory; None if anything may."""
        now, before = ([f"{name}/u" for name in _with_below(state)] for state in (layers, since))
        return self._overlay.changed(now, before, at)

    def merge(self, layers: Sequence[str], slot: str) -> None:
        """What layers show that have nothing under them, as one, without using the space twice."""
        for place in (slot, *layers):
            _mark(f"{place}/{shared.LINKED}")
        self._overlay.merge([f"{name}/u" for name in layers], f"{slot}/u", (), link=True)

    def publish(self, slot: str, name: str, below: Sequence[str]) -> None:
        with open(f"{slot}/below", "w") as file:
            file.write("\n".join(below))
        now = max(time.time_ns(), shared.began(self.session))
        os.utime(f"{slot}/below", ns=(now, now))
        with shared.locked("."):
            if _moved(slot, name) or (
                shared.below(".", name) == tuple(below) and shared.touch(".", [name], self.session)
            ):
                return  # or the same content was written before
        with shared.locked(".", alone=True):  # what is there is damaged
            if not (shared.below(".", name) == tuple(below) and shared.touch(".", [name], self.session)):
                os.rename(name, f"{slot}.damaged")
                _moved(slot, name)
        remove(f"{slot}.damaged")

    def adopt(self, slot: str, name: str, below: tuple[str, ...]) -> None:
        """Publish what another store has under this name. Raises ValueError if the name says another content."""
        if not name.startswith("x") and self._overlay.content(f"{slot}/u", below) != name:
            raise ValueError(f"layer {name} is not what its name says")
        self.publish(slot, name, below)

    def close(self) -> None:
        """Leave nothing, if nothing is being made; otherwise the collector tidies up."""
        self._rubbish.join()
        with suppress(OSError):
            os.rmdir(self.session)
        with suppress(OSError):
            os.unlink(f"referrers/{self.session}")

    def has_room(self) -> bool:
        """False: what commands said there is nobody's verdict, they may have met a full file system and hidden it."""
        at = os.statvfs(".")
        inodes = at.f_favail >= LEAST_INODES or not at.f_files  # some file systems have no such limit
        return at.f_bavail * at.f_frsize >= LEAST_BYTES and inodes

    def _sweep(self) -> None:
        """Nobody need wait for it: some file systems tell the disk of every block that they free, and that takes its time."""
        while True:
            remove(self._rubbish.get())
            self._rubbish.task_done()

    def _name(self, slot: str, below: tuple[str, ...]) -> tuple[str, ...]:
        name = self._overlay.content(f"{slot}/u", below) or f"x{os.urandom(16).hex()}"
        self.publish(slot, name, below)
        return (name, *below)


def _with_below(layers: Sequence[str]) -> list[str]:
    """The last of a state's layers is its base, which may itself lie on others, those of an image."""
    return [*layers, *(shared.below(".", layers[-1]) or ())]


def _locked_directory() -> tuple[str, int]:
    """A directory of our own that is locked as long as this process lives."""
    while True:
        name = shared.session_name()
        os.mkdir(name, 0o700)
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # taken for an orphan in the moment before it was locked
            if os.stat(name).st_ino == os.fstat(handle).st_ino:
                return name, handle
        os.close(handle)


def _moved(slot: str, name: str) -> bool:
    try:
        os.rename(slot, name)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _mark(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def remove(path: str) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):  # deeper than Python can go, but not than rm
        subprocess.run(["rm", "-rf", "--", path], check=False, stderr=subprocess.DEVNULL)
