"""A lock by name among all processes that share a directory of states; the kernel lets go of it when its holder dies."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def locked(folder: Path, name: str) -> AsyncIterator[None]:
    """Held by one at a time, also within one process. Who waits looks again up to twice a second."""
    path, pause = folder / hashlib.blake2b(name.encode(), digest_size=16).hexdigest(), 0.02
    while (handle := _taken(path)) is None:
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.5)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for this file sees that it is gone
        os.close(handle)


def _taken(path: Path) -> int | None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None
