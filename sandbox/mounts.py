"""Mounts of the sandbox's helper, which has a mount namespace of its own. Standard library only."""

# ruff: noqa: PTH102, PTH116
# Paths are short strings, see cell.py.
from __future__ import annotations

import ctypes
import os
import threading

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, NOATIME, BIND, RECURSIVE = 1, 2, 4, 8, 32, 1024, 4096, 16384
PLACE = "/sys/module"
"""What the helper mounts lies here, in a directory that everyone may pass: bubblewrap runs as the user, to whom the way to
the store may be closed. Nobody keeps states or tools at this place."""

_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def open_place() -> None:
    mount("none", PLACE, "tmpfs", NOSUID | NODEV, "mode=711,size=64k")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = (None if text is None else os.fsencode(text) for text in (source, target, kind))
    if _libc.mount(*words, ctypes.c_ulong(flags), None if options is None else os.fsencode(options)):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {kind or source} on {target}: {os.strerror(number)}")


class WithinReach:
    """Directories of the host, bound where everyone may pass, for the way to them may be closed, too."""

    def __init__(self) -> None:
        self._bound, self._lock = dict[tuple[str, int, int], str](), threading.Lock()

    def of(self, path: str) -> str:
        """Where it is within reach. Bound once, and again if there is another directory at this path by now."""
        status = os.stat(path)
        which = (path, status.st_dev, status.st_ino)
        with self._lock:
            if which not in self._bound:
                at = f"{PLACE}/shown-{len(self._bound)}"
                os.mkdir(at)
                mount(path, at, None, BIND | RECURSIVE)
                self._bound[which] = at
            return self._bound[which]


def detach(target: str) -> None:
    """It goes when nobody uses it any more."""
    _libc.umount2(os.fsencode(target), _DETACH)
