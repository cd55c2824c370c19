"""What the tests of the store look at: who is left, what is there, what it takes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from runoff.sandbox import shared
from runoff.sandbox.collect import Report, Wanted
from runoff.sandbox.housekeeping import collect


def left_of(*marks: str) -> list[str]:
    """Processes with a mark in their command line, in where they are, or in the table of what is mounted for them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        said = ""
        for look in (
            lambda at: (at / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"),
            lambda at: str((at / "cwd").readlink()),
            lambda at: (at / "mountinfo").read_text(errors="replace"),
        ):
            try:
                said += look(process) + "\n"
            except OSError:
                continue
        if process.name != str(os.getpid()) and any(mark in said for mark in marks):
            found.append(f"{process.name} {said[:100]}")
    return found


def layers(store: Path) -> set[str]:
    return {path.name for path in store.iterdir() if shared.LAYER.fullmatch(path.name)}


def litter(store: Path) -> list[Path]:
    return [path for path in store.iterdir() if path.name.startswith("tmp-")]


async def nothing_stays(store: Path, seconds: float = 10) -> None:
    """Of what the one open session made: small things are removed in the background."""
    (own,) = litter(store)
    ends = time.monotonic() + seconds
    while left := list(own.iterdir()):
        assert time.monotonic() < ends, left
        await asyncio.sleep(0.01)


def under(store: Path, digests: Iterable[str]) -> set[str]:
    """These layers and all that lie under them."""
    found = set(digests)
    return found.union(*((store / digest / "below").read_text().split() for digest in digests))


def on_disk(store: Path) -> int:
    """What all layers take together, as `du` sees it: a hard link once."""
    names = sorted(str(store / name) for name in layers(store))
    said = subprocess.run(["du", "-s", "-c", "-B1", *names], capture_output=True, text=True, check=True).stdout
    return int(said.splitlines()[-1].split()[0])


async def cleaned(store: Path, limit: int | None = None, unused: float | None = None, **more: object) -> Report:
    """`runoff clean`, as it is called by the command."""
    return await collect(store, Wanted(limit=limit, unused=unused, tidy=True, **more))  # type: ignore[arg-type]
