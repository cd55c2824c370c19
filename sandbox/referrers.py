"""Which states files outside of the store name: logs of runs, which are read and not understood. Standard library only.

Part of the collector (collect.py), which runs in the store's directory. A name counts where it follows a double quote, as every
JSON string does. A run may have logs of gigabytes: they are searched at about a gigabyte a second.
"""

# ruff: noqa: PTH108, PTH116, PTH117, PTH208
from __future__ import annotations

import json
import mmap
import os
import re
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runoff.sandbox import shared
else:
    sys.path.append(str(Path(__file__).parent))
    import shared

_NAMED = re.compile(rb'"([a-z]?[0-9a-f]{32,64})\b')  # the quote makes it a hundred times as fast


class Referrers:
    """Which states files outside of the store name. Read without the lock: what is named later was used later."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.unreadable = False
        self.named: set[str] = set()
        self._gone: list[str] = []
        self._found: dict[str, set[str]] = {}
        for file in listed("referrers"):
            if os.path.basename(file).startswith("tmp-"):
                continue
            try:
                path = Path(file).read_bytes().decode("utf-8", "surrogateescape")
                if not os.path.isabs(path) or os.path.basename(file) != shared.hashed(path):
                    raise ValueError
                self._found[path] = named_in(path)
                self.named |= self._found[path]
            except ValueError:
                self.notes.append(f"{file} is damaged")
                self._gone.append(file)
            except FileNotFoundError:
                self._gone.append(file)
            except OSError as error:
                self.unreadable = True
                self.notes.append(f"cannot read {path} ({error.strerror}): all states stay that it may name")

    def writing(self, sessions: Collection[str]) -> set[str] | None:
        """States named by what open sessions are still writing; None if one of them does not say what that is."""
        named: set[str] = set()
        for session in sessions:
            try:
                with open(f"referrers/{session}", encoding="utf-8", errors="surrogateescape") as file:
                    paths = json.loads(file.read())
            except (OSError, ValueError):
                return None
            for path in paths:
                named |= self._found.get(path, set())
        return named

    def drop(self, sessions: Collection[str], protected: int) -> None:
        for file in self._gone:
            with suppress(FileNotFoundError):
                if os.stat(file).st_mtime_ns < protected:
                    os.unlink(file)
        for file in listed("referrers"):
            if (name := os.path.basename(file)).startswith("tmp-") and name not in sessions:
                os.unlink(file)


def listed(folder: str) -> list[str]:
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
    except FileNotFoundError:
        return []


def named_in(path: str) -> set[str]:
    """The names that stand, after a double quote, in a file or any file below a directory. Raises OSError."""
    found: set[str] = set()
    for file in _files(path):
        with suppress(FileNotFoundError), open(file, "rb") as opened:
            if os.fstat(opened.fileno()).st_size:
                with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as view:
                    found.update(name.decode() for name in _NAMED.findall(view))
    return found


def _files(path: str) -> Iterator[str]:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        yield path
        return

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, names in os.walk(path, onerror=failed):
        for name in names:
            with suppress(FileNotFoundError):
                if stat.S_ISREG(os.lstat(at := f"{folder}/{name}").st_mode):
                    yield at
