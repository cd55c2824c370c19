"""Keeps a store of states within bounds: starts the collector (collect.py), now and then while a session is open.

report = await collect(Path("states"), Wanted(tidy=True, dry_run=True))
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from runoff.sandbox import prerequisites, shared
from runoff.sandbox.collect import Report, Wanted
from runoff.sandbox.protocol import NoRoom, SandboxUnavailable, StoreFull

LOOK = 20.0
STEP = 64 << 20
"""Seconds between two looks at what was written, and bytes for which the collector is worth its start. What is written in that
time goes over the limit."""

_log = logging.getLogger("runoff.sandbox")


async def collect(root: Path, wanted: Wanted) -> Report:
    """Remove what is wanted. Raises OSError, StoreFull, SandboxUnavailable if this is no store, or not for this program."""
    settle(root, None)
    tools = prerequisites.PLACES
    alone: list[str] = []
    if os.geteuid() != 0:  # to remove what a sandbox closed to its own user
        alone = [shutil.which("unshare", path=tools) or "unshare", "--user", "--map-root-user"]
    process = await asyncio.create_subprocess_exec(
        *(*alone, sys.executable, "-I", "-S", str(Path(__file__).with_name("collect.py"))),
        json.dumps(asdict(replace(wanted, parent=os.getpid()))),
        cwd=root,
        env={"PATH": os.defpath},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        with suppress(
            ProcessLookupError
        ):  # an OSError: it would take the cancellation's place, and be taken for a failure
            process.kill()
        await process.wait()
        raise
    if process.returncode or not out:
        words = err.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise SandboxUnavailable(f"cannot collect the states at {root}: {words or 'the collector died'}", "try again")
    said = json.loads(out)
    if "error" in said:
        where = os.path.join(root, said["path"])
        raise (
            StoreFull(f"{where}: {said['error']}")
            if said["errno"] in (errno.ENOSPC, errno.EDQUOT)
            else OSError(said["errno"], said["error"], where)
        )
    return Report(**said)


async def watch(root: Path, limit: int | None) -> None:
    """For as long as a session is open: keep the states under the limit, whoever makes them."""
    while True:
        try:
            await collect(root, Wanted(limit=limit, wait=False))
        except (OSError, StoreFull, SandboxUnavailable) as error:
            _log.warning("housekeeping of states: %s", error)
        free = _free(root)
        while free - (now := _free(root)) < STEP:
            await asyncio.sleep(LOOK)
            free = max(free, now)


async def make_room(root: Path, size: int, limit: int | None) -> None:
    """So many bytes free, by removing what may go. Raises NoRoom."""
    if _free(root) < size:
        await collect(root, Wanted(limit=limit, room=size))
    if (free := _free(root)) < size:
        raise NoRoom(
            f"needs about {amount(size)} for states, {amount(free)} free at {root}; "
            f"`runoff clean --states {root}` may free some, or put them elsewhere with --states"
        )


def settle(root: Path, mode: str | None) -> None:
    """Check that this is a store of this format and mode; with a mode, make it one. Raises SandboxUnavailable, StoreFull."""
    try:
        there = shared.settle(str(root), mode)
        if mode and not os.access(root, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(root).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number))
    except shared.Unusable as error:
        raise SandboxUnavailable(error.what, error.remedy) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no space left for states at {root}") from None
        why = (error.strerror or str(error)).lower()
        raise SandboxUnavailable(f"the states at {root} cannot be used: {why}", "give another --states") from None
    if there is None:
        raise SandboxUnavailable(f"{root} holds no states", "give the directory that a run had as --states")


def amount(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _free(root: Path) -> int:
    return shutil.disk_usage(root).free
