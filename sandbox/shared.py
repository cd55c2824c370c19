"""What all who share a store of states agree on: its format, its lock, who has it open, what is in use. Standard library only.

version            format and mode, `1 root`
lock               held shared while layers are looked up, touched or published; alone while some are taken away
<layer>/u below    a frozen layer, and the names of those under it; the mtime of `below` is when it was last used
<layer>/size       what it takes on the disk, see collect.py
names/<hash>.json  a name and the layers of its state
referrers/<hash>   the path of a file, or of a directory of files, in which names of states stand
referrers/tmp-…    of an open session: the paths of those that are still being written
tmp-…              what is being made or removed; locked by whoever does it, so that litter can be told from work
"""

# ruff: noqa: PTH103, PTH104, PTH110, PTH112, PTH120, PTH208
# Used by the helper too, which names everything relative to the store: paths are strings.
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

FORMAT = 1

LAYER = re.compile(r"[a-z]?[0-9a-f]{32,64}")
SESSION = re.compile(r"tmp-([0-9a-f]{16})-[0-9a-f]{16}")

LINKED = "linked"
"""A file in a layer's directory: files in it are hard links of another layer's, or may be."""


class Unusable(Exception):
    """This directory of states is not for this program: one line, and what to do, another."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


@contextmanager
def locked(root: str, *, alone: bool = False) -> Iterator[None]:
    handle = os.open(f"{root}/lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def settle(root: str, mode: str | None) -> str | None:
    """The mode that the store belongs to; the first to come with a mode decides. Raises Unusable, OSError."""
    text = f"{FORMAT} {mode}\n"
    if mode and not os.path.exists(f"{root}/version"):
        with locked(root, alone=True):
            if not os.path.exists(f"{root}/version"):
                there = set(os.listdir(root)) - {"lock", "collecting", "lost+found"}
                if there and not any(map(LAYER.fullmatch, there)):
                    raise Unusable(f"{root} is not empty and holds no states", _OTHER)
                _write_version(root, text)
    try:
        with open(f"{root}/version", "rb") as file:
            said = file.read(100).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    if not (found := re.fullmatch(r"(\d+) (root|rootless)\n", said)):
        if newer := re.match(r"(\d+)\s", said):
            raise Unusable(_newer(root, newer[1]), _OTHER)
        raise Unusable(f"{root}/version is damaged", f"remove {root}, or {_OTHER}")
    if int(found[1]) > FORMAT:
        raise Unusable(_newer(root, found[1]), _OTHER)
    if mode and found[2] != mode:
        with locked(root, alone=True):
            if _is_new(root):  # whoever made it could not start, and this one may
                _write_version(root, text)
                return mode
        raise Unusable(f"the states at {root} were made by the {found[2]} sandbox, this is the {mode} one", _OTHER)
    return found[2]


def _write_version(root: str, text: str) -> None:
    with open(f"{root}/version.new", "w") as file:
        file.write(text)
    os.rename(f"{root}/version.new", f"{root}/version")


def _is_new(root: str) -> bool:
    """Whether it holds nothing but what starting a sandbox makes."""
    names = os.listdir(f"{root}/names") if os.path.isdir(f"{root}/names") else []
    return not names and not any(LAYER.fullmatch(name) and not name.startswith("b") for name in os.listdir(root))


def session_name() -> str:
    return f"tmp-{time.time_ns():016x}-{os.urandom(8).hex()}"


def began(session: str) -> int:
    """When a session began, in nanoseconds; the beginning of time for a name that does not say."""
    found = SESSION.fullmatch(session)
    return int(found[1], 16) if found else 0


def touch(root: str, layers: Sequence[str], session: str) -> bool:
    """Say that layers are in use by a session, under the shared lock; False if they are not all there.

    Never a time before the session began, even if the clock was set back since: that is what keeps them from being removed.
    """
    now = max(time.time_ns(), began(session))
    for name in (*layers, *(below(root, layers[-1]) or ())):  # the last is the base, which may lie on an image's layers
        if not os.path.isdir(f"{root}/{name}/u"):
            return False
        try:
            os.utime(f"{root}/{name}/below", ns=(now, now))
        except FileNotFoundError:
            return False
    return True


def below(root: str, layer: str) -> tuple[str, ...] | None:
    """The names of the layers under a layer; None if there is no such layer, or its file is damaged."""
    if not LAYER.fullmatch(layer):
        return None
    try:
        with open(f"{root}/{layer}/below", encoding="ascii") as file:
            names = tuple(file.read().split())
    except (OSError, ValueError):
        return None
    return names if all(map(LAYER.fullmatch, names)) else None


def read_name(path: str) -> tuple[str, tuple[str, ...]] | None:
    """The name in a file of names, and the layers of its state; None if the file is damaged. Raises FileNotFoundError."""
    try:
        with open(path, "rb") as file:
            said = json.loads(file.read())
        name, layers = said["name"], tuple(said["layers"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    good = isinstance(name, str) and layers and all(isinstance(x, str) and LAYER.fullmatch(x) for x in layers)
    return (name, layers) if good else None


def hashed(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def write_whole(root: str, session: str, at: str, text: str) -> None:
    """A small file of the store, all of it or nothing; what a kill leaves lies in the session's own directory."""
    os.makedirs(os.path.dirname(f"{root}/{at}"), exist_ok=True)
    fresh = f"{root}/{session}/{os.urandom(8).hex()}"
    with open(fresh, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.rename(fresh, f"{root}/{at}")


def _newer(root: str, number: str) -> str:
    return f"the states at {root} were written by a newer runoff (format {number}, this one knows {FORMAT})"


_OTHER = "give another directory with --states"
