"""What overlay layers say: listed, named by content, merged. Pure rules over directories, standard library only.

A layer is a directory that overlayfs once wrote as an upper, and that nobody will write again. All of this runs in the
sandbox's helper, where a layer can be read whatever modes its files have, and while no process can change it. It never
follows a symbolic link, and opens nothing but regular files.
"""

# ruff: noqa: PTH101, PTH103, PTH115, PTH208, PTH211
# Layers are strings: an execution handles hundreds of paths, and the xattr calls are os calls anyway.
from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

SMALL_ENTRIES, SMALL_BYTES = 200, 1 << 20
"""A layer within both is named by its content, and copied under the next one instead of being stacked."""


def is_small(size: int, count: int) -> bool:
    return size <= SMALL_BYTES and count <= SMALL_ENTRIES


class Entry(NamedTuple):
    """One line of what several layers, taken together, say about what lies under them."""

    path: str
    source: str
    status: os.stat_result
    marks: dict[str, bytes]
    """Overlay's own attributes: this directory hides, or was moved from, one further down."""


class Changed(NamedTuple):
    """Paths relative to a directory; nothing in a `.git` is among them."""

    present: list[str]
    """A file or a symbolic link now."""
    gone: list[str]
    """Something else before, and that no longer."""


class Overlay:
    """The rules for one attribute prefix: `trusted.overlay.` as root, `user.overlay.` with the option `userxattr`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._opaque, self._redirect = prefix + "opaque", prefix + "redirect"

    def entries(self, layers: Sequence[str], under: Sequence[str] | None = None, *, start: str = "") -> Iterator[Entry]:
        """What the layers (topmost first) say together of `start` and what is in it: parents first, names sorted.

        With `under`, the layers that will be under them, a whiteout of what is not there is left out: in a directory
        that no other layer has, overlayfs would list it.
        """
        stack = [*layers, *(under or ())]
        look = self._looking(stack)

        def hides(place: str | None) -> bool:
            """Whether there is anything at this place in the layers under these."""
            for n in range(len(layers), len(stack)):
                if place is None:
                    return False
                status, place = look(n, place)
                if status:
                    return not stat.S_ISCHR(status.st_mode)
            return under is None and place is not None

        # A path, and the one that overlayfs would look at without marks.
        todo: list[tuple[str, str | None]] = [(start, start)]
        while todo:
            path, expected = todo.pop()
            found: list[tuple[str, os.stat_result]] = []
            place: str | None = path
            for n, layer in enumerate(layers):
                if place is None:
                    break
                status, onwards = look(n, place)
                if status and found and not stat.S_ISDIR(status.st_mode):
                    place = None
                    break
                if status:
                    found.append((layer + place, status))
                place = onwards
            if not found:  # only `start` can be in none of them
                return
            source, top = found[0]
            if not stat.S_ISDIR(top.st_mode):
                if not stat.S_ISCHR(top.st_mode) or hides(expected):
                    yield Entry(path, source, top, {})
                continue
            moved = {self._redirect: os.fsencode(place)} if place is not None else {self._opaque: b"y"}
            yield Entry(path, source, top, {} if place == expected else moved)
            names = {name for directory, _ in found for name in os.listdir(directory)}
            for name in sorted(names, reverse=True):
                todo.append((f"{path}/{name}", None if place is None else f"{place}/{name}"))

    def changed(self, state: Sequence[str], since: Sequence[str], at: str) -> Changed | None:
        """The paths under the directory `at` where two stacks of layers may show something different.

        Read from the layers that they do not share. A directory that one of those hides or moved counts as a whole, and
        is gone through in both. None if they share no layer: anything may differ.
        """
        shared = 0
        while shared < min(len(state), len(since)) and state[-1 - shared] == since[-1 - shared]:
            shared += 1
        if not shared:
            return None
        now, before = self._showing(state), self._showing(since)
        touched, whole = set[str](), set[str]()
        for stack in (state, since):
            for entry in self.entries(stack[: len(stack) - shared], start=at):
                touched.add(entry.path)
                if entry.marks or (
                    not stat.S_ISDIR(entry.status.st_mode) and (_is_dir(now(entry.path)) or _is_dir(before(entry.path)))
                ):
                    whole.add(entry.path)
        for path in sorted(whole):
            if path.rpartition("/")[0] not in whole:  # else it is gone through with the directory that it is in
                touched.update(entry.path for stack in (state, since) for entry in self.entries(stack, start=path))
        present, gone = list[str](), list[str]()
        for path in sorted(touched - {at}):
            new, old = now(path), before(path)
            relative = path[len(at) + 1 :]
            if ".git" in relative.split("/") or _same(new, old):
                continue
            tracks = new is not None and (stat.S_ISREG(new[1].st_mode) or stat.S_ISLNK(new[1].st_mode))
            if tracks:
                present.append(relative)
            if old and _is_dir(old) != _is_dir(new) if tracks or _is_dir(new) else old:
                gone.append(relative)
        return Changed(present, gone)

    def content(self, layer: str, below: Sequence[str]) -> str | None:
        """A name for what a small layer says, however and whenever it was written; None if it is not small."""
        digest, first, size = hashlib.blake2b(repr(below).encode(), digest_size=16), dict[int, str](), 0
        for count, entry in enumerate(self.entries([layer])):
            s, plain = entry.status, stat.S_ISREG(entry.status.st_mode)
            size += s.st_size if plain else 0
            if not is_small(size, count):
                return None
            body = _read(entry.source) if plain else b""
            if stat.S_ISLNK(s.st_mode):
                body = os.fsencode(os.readlink(entry.source))
            linked = first.setdefault(s.st_ino, entry.path)
            attributes = sorted(self._attributes(entry).items())
            said = (entry.path, linked, s.st_mode, s.st_uid, s.st_gid, s.st_rdev, attributes, body)
            digest.update(repr(said).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def merge(
        self, layers: Sequence[str], into: str, under: Sequence[str] | None = None, *, link: bool = False
    ) -> None:
        """Write what the layers say as one layer: a copy, or, if neither will ever be written again, hard links."""
        copied, directories = dict[int, str](), list[tuple[str, os.stat_result]]()
        for entry in self.entries(layers, under):
            s, target = entry.status, into + entry.path
            if stat.S_ISREG(s.st_mode) and (link or s.st_ino in copied):
                os.link(entry.source if link else copied[s.st_ino], target)
                continue
            if stat.S_ISREG(s.st_mode):
                shutil.copyfile(entry.source, target)
                copied[s.st_ino] = target
            elif stat.S_ISLNK(s.st_mode):
                os.symlink(os.readlink(entry.source), target)
            elif stat.S_ISDIR(s.st_mode):
                os.makedirs(target, exist_ok=True)
                directories.append((target, s))
            else:  # a pipe, a socket, or a whiteout: the character device 0/0, which anyone may make
                os.mknod(target, s.st_mode, s.st_rdev)
            os.chown(target, s.st_uid, s.st_gid, follow_symlinks=False)
            if not stat.S_ISLNK(s.st_mode):
                os.chmod(target, stat.S_IMODE(s.st_mode))
            for name, value in self._attributes(entry).items():
                os.setxattr(target, name, value, follow_symlinks=False)
            os.utime(target, ns=(s.st_atime_ns, s.st_mtime_ns), follow_symlinks=False)
        for target, s in reversed(directories):  # only now: filling a directory changed its time
            os.utime(target, ns=(s.st_atime_ns, s.st_mtime_ns))

    def _attributes(self, entry: Entry) -> dict[str, bytes]:
        """The sandbox's own extended attributes, and the marks. Of overlay's attributes only those mean anything."""
        escaped = self._prefix + "overlay."  # how overlayfs stores one that the sandbox itself gave such a name
        names = os.listxattr(entry.source, follow_symlinks=False)
        kept = [name for name in names if not name.startswith(self._prefix) or name.startswith(escaped)]
        return {name: os.getxattr(entry.source, name, follow_symlinks=False) for name in kept} | entry.marks

    def _looking(self, stack: Sequence[str]) -> Callable[[int, str], tuple[os.stat_result | None, str | None]]:
        @cache
        def look(n: int, path: str) -> tuple[os.stat_result | None, str | None]:
            """What layer n has at a path, and at which path the layers under it go on (None: they are hidden)."""
            if not path:
                return os.lstat(stack[n]), ""
            parent, _, name = path.rpartition("/")
            directory, under = look(n, parent)
            if directory and not stat.S_ISDIR(directory.st_mode):
                return None, None
            onwards = None if under is None else f"{under}/{name}"
            real = stack[n] + path
            try:
                status = os.lstat(real) if directory else None
            except FileNotFoundError:
                status = None
            if not status:
                return None, onwards
            if not stat.S_ISDIR(status.st_mode):
                return status, None
            names = os.listxattr(real)
            if self._redirect in names:
                target = os.fsdecode(os.getxattr(real, self._redirect))
                if target.startswith("/"):
                    return status, target
                return status, None if under is None else f"{under}/{target}"
            return status, None if self._opaque in names else onwards

        return look

    def _showing(self, stack: Sequence[str]) -> Callable[[str], tuple[str, os.stat_result] | None]:
        """A function from a path to what a stack of layers shows there, and where it really is."""
        look = self._looking(stack)

        def show(path: str) -> tuple[str, os.stat_result] | None:
            place: str | None = path
            for n, layer in enumerate(stack):
                if place is None:
                    return None
                status, onwards = look(n, place)
                if status:
                    return None if stat.S_ISCHR(status.st_mode) else (layer + place, status)
                place = onwards
            return None

        return show


def _is_dir(shown: tuple[str, os.stat_result] | None) -> bool:
    return shown is not None and stat.S_ISDIR(shown[1].st_mode)


def _same(one: tuple[str, os.stat_result] | None, other: tuple[str, os.stat_result] | None) -> bool:
    """Certainly the same file, not only an equal one: a merged layer is made of links, a small one is copied."""
    if not one or not other:
        return one is other
    a, b = one[1], other[1]
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino):
        return True
    if not stat.S_ISREG(a.st_mode) or a.st_mode != b.st_mode or a.st_size != b.st_size or a.st_size > SMALL_BYTES:
        return False
    return a.st_mtime_ns == b.st_mtime_ns and _read(one[0]) == _read(other[0])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
