"""Mounts of the sandbox's helper, which has a mount namespace of its own. Standard library only."""

from __future__ import annotations

import ctypes
import os

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, NOATIME, BIND = 1, 2, 4, 8, 32, 1024, 4096
PLACE = "/sys/module"
"""What the helper mounts lies here, in a directory that everyone may pass: whoever bubblewrap has become must find it, and
the way to the store is closed to it. Nobody keeps states or tools at this place."""

_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def open_place() -> None:
    mount("none", PLACE, "tmpfs", NOSUID | NODEV, "mode=711,size=64k")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = (None if text is None else os.fsencode(text) for text in (source, target, kind))
    if _libc.mount(*words, ctypes.c_ulong(flags), None if options is None else os.fsencode(options)):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {kind or source} on {target}: {os.strerror(number)}")


def detach(target: str) -> None:
    """It goes when nobody uses it any more."""
    _libc.umount2(os.fsencode(target), _DETACH)
