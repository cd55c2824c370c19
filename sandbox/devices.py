"""The /dev that a sandbox sees, made once for each slot and shown again and again. Part of the helper, standard library only.

bubblewrap makes as good a one, from a dozen mounts for each execution. In this one nothing can be made or changed but
terminals, which end with the processes that use them.
"""

# ruff: noqa: PTH102, PTH116, PTH208, PTH211
# Paths are short strings, see cell.py.
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runoff.sandbox import mounts
else:
    sys.path.append(str(Path(__file__).parent))
    import mounts

_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_DIRECTORIES = ("pts", "shm", "since")
"""Where something else is mounted: terminals; memory, for each execution; now and then an earlier repository (git.py)."""


class Devices:
    """Made at `at`. `changeable` is for tests: files can be made in it."""

    def __init__(self, at: str, *, changeable: bool) -> None:
        self.at = at
        os.mkdir(at)
        mounts.mount("tmpfs", at, "tmpfs", mounts.NOSUID | mounts.NODEV, "mode=755,size=64k")
        for name in _NODES:
            os.close(os.open(f"{at}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            mounts.mount(f"/dev/{name}", f"{at}/{name}", None, mounts.BIND)
        for name, target in _LINKS.items():
            os.symlink(target, f"{at}/{name}")
        for name in _DIRECTORIES:
            os.mkdir(f"{at}/{name}")
        if not changeable:
            mounts.mount(None, at, None, mounts.BIND | mounts.REMOUNT | mounts.RDONLY | mounts.NOSUID | mounts.NODEV)
        self._renew_terminals()

    def ready(self) -> str:
        """Where it is, as if nobody had used it before."""
        if self._terminals() != self._unused:
            mounts.detach(f"{self.at}/pts")
            self._renew_terminals()
        return self.at

    def _renew_terminals(self) -> None:
        options = "newinstance,ptmxmode=0666,mode=620"
        flags = mounts.NOSUID | mounts.NOEXEC | mounts.NOATIME  # to look at it is not to use it
        mounts.mount("devpts", f"{self.at}/pts", "devpts", flags, options)
        self._unused = self._terminals()

    def _terminals(self) -> tuple[object, ...]:
        """Which there are, and whose the place is and when it was used: rootless it belongs to the user inside."""
        stats = (os.stat(f"{self.at}/{path}") for path in ("pts", "pts/ptmx"))
        times = [(s.st_mode, s.st_uid, s.st_gid, s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns) for s in stats]
        return *os.listdir(f"{self.at}/pts"), *times
