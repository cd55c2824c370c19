"""What layers take on the disk: measured once for each, hard links between them counted once. Standard library only.

Part of the collector (collect.py), which runs in the store's directory and may look into every directory. No links are
followed.
"""

# ruff: noqa: PTH104, PTH110, PTH208
from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox import shared
else:
    sys.path.append(str(Path(__file__).parent))
    import shared


class Layer(NamedTuple):
    below: tuple[str, ...]
    used: int
    """Nanoseconds since the epoch."""
    bytes: int = 0
    """On the disk, of what is its own."""
    files: Mapping[int, int] = {}
    """Inode → bytes of files that other layers may have too."""


def total(layers: Iterable[Layer]) -> int:
    """Bytes on the disk, what several have in common once."""
    files: dict[int, int] = {}
    own = 0
    for layer in layers:
        own += layer.bytes
        files.update(layer.files)
    return own + sum(files.values())


def sized(name: str) -> Layer:
    """A layer with its size, which is kept beside it. Raises FileNotFoundError."""
    linked = os.path.exists(f"{name}/{shared.LINKED}")
    with suppress(OSError, ValueError, KeyError, TypeError), open(f"{name}/size") as file:
        known = json.loads(file.read())
        if known["linked"] == linked:
            own, flat = os.fstat(file.fileno()).st_blocks * 512, known["files"]
            return Layer((), 0, own + known["bytes"], dict(zip(flat[::2], flat[1::2], strict=True)))
    own, files = _measured(f"{name}/u")
    if not linked:
        own, files = own + sum(files.values()), {}
    own += os.lstat(name).st_blocks * 512
    own += sum(os.lstat(f"{name}/{part}").st_blocks * 512 for part in os.listdir(name) if part not in ("u", "size"))
    flat = [number for pair in files.items() for number in pair]
    with suppress(OSError):  # a full disk may be why we are here
        with open(f"{name}/size.new", "w") as file:
            file.write(json.dumps({"linked": linked, "bytes": own, "files": flat}))
        os.rename(f"{name}/size.new", f"{name}/size")
        own += os.lstat(f"{name}/size").st_blocks * 512
    return Layer((), 0, own, files)


def on_disk(path: str) -> int:
    """Bytes of a directory and all that is in it."""
    own, files = _measured(path)
    return own + sum(files.values())


def _measured(top: str) -> tuple[int, dict[int, int]]:
    """What directories and all that is no regular file take, and each regular file, by its inode."""
    own, files, todo = os.lstat(top).st_blocks * 512, dict[int, int](), [top]
    try:
        while todo:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    s = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(s.st_mode):
                        files[s.st_ino] = s.st_blocks * 512
                        continue
                    own += s.st_blocks * 512
                    if stat.S_ISDIR(s.st_mode):
                        todo.append(entry.path)
    except OSError:  # deeper than a path can say
        command = ["du", "-s", "-B1", "--", top]
        said = subprocess.run(command, capture_output=True, check=False, env={"PATH": os.defpath}).stdout.split()
        return int(said[0] if said else 0), {}
    return own, files
