"""What a diff changes: line by line with places in the base, and as edits of the files it was made for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from runoff.agent.context import is_test
from runoff.agent.patches import file_parts

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


class Change(NamedTuple):
    path: str
    """Where the file is after the patch; where it was, if it is gone."""
    sign: str
    """`-` taken away, `+` added."""
    line: int
    """Of the base, counted from 1: the line itself, or the one before which something is added."""
    text: str
    """Without its line end. Undecodable bytes are lone surrogates."""


def changes(patch: bytes) -> Iterator[Change]:
    """Each changed line in the order of the diff. A hunk that is shorter than it says ends where the next header stands."""
    for part in file_parts(patch):
        path = part.paths[-1] if part.paths else ""
        at = old = new = 0
        for raw in part.text.split(b"\n"):
            sign = raw[:1]
            if (old > 0 or new > 0) and sign in (b"-", b"+"):
                yield Change(path, sign.decode(), at, raw[1:].rstrip(b"\r").decode("utf-8", "surrogateescape"))
                at, old, new = at + (sign == b"-"), old - (sign == b"-"), new - (sign == b"+")
            elif (old > 0 or new > 0) and sign in (b" ", b"", b"\r"):
                at, old, new = at + 1, old - 1, new - 1
            elif found := _HUNK.match(raw):
                start, *sizes = found.groups()
                old, new = (1 if size is None else int(size) for size in sizes)
                at = int(start) + (old == 0)  # with nothing of the base, its number is that of the line before


class Edit(NamedTuple):
    """`removed` lines of the base from line `line` on (from 1) give way to `added` ones; nothing removed: they come before it."""

    path: str
    line: int
    removed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def name(self) -> tuple[object, ...]:
        """Equal for edits that do the same at the same place, however it is laid out."""
        return (self.path, self.line, len(self.removed), tuple(filter(None, map(_bare, self.added))))

    def beside(self, other: Edit) -> bool:
        """Whether both can be made: they touch no common line, and do not add at the same place."""
        if self.path != other.path:
            return True
        one, two = sorted((self, other), key=lambda edit: (edit.line, len(edit.removed)))
        return one.line + len(one.removed) < two.line or (
            one.line + len(one.removed) == two.line and bool(one.removed and two.removed)
        )


def edits(patch: bytes, base: Mapping[str, bytes]) -> list[Edit] | None:
    """A diff as edits of these files, tests left out. None if it does not fit them to the letter, or moves or deletes files."""
    found = list[Edit]()
    for part in file_parts(patch):
        path = part.paths[-1] if part.paths else ""
        if part.binary or len(part.paths) != 1 or re.search(rb"^deleted file mode", part.text, re.MULTILINE):
            return None
        if is_test(path):
            continue
        lines = _lines(base[path]) if path in base else []
        at, removed, added = 0, list[str](), list[str]()
        for change in changes(part.text):
            if removed or added:
                joined = change.line == at + len(removed) and not (change.sign == "-" and added and not removed)
                if not joined:
                    found.append(Edit(path, at, tuple(removed), tuple(added)))
                    removed, added = [], []
            if not removed and not added:
                at = change.line
            (removed if change.sign == "-" else added).append(change.text)
        if removed or added:
            found.append(Edit(path, at, tuple(removed), tuple(added)))
        for edit in found:
            if edit.path == path:
                there = lines[edit.line - 1 : edit.line - 1 + len(edit.removed)]
                if [line.rstrip("\r") for line in there] != list(edit.removed) or not 1 <= edit.line <= len(lines) + 1:
                    return None
    return found


def apply(before: bytes | None, chosen: Iterable[Edit]) -> bytes:
    """The file after these edits, which do not touch each other. None: there is none before."""
    lines = _lines(before or b"")
    ends = "\r" if lines and all(line.endswith("\r") for line in lines) else ""
    for edit in sorted(chosen, reverse=True):
        lines[edit.line - 1 : edit.line - 1 + len(edit.removed)] = [line + ends for line in edit.added]
    whole = not before or before.endswith(b"\n")
    return ("\n".join(lines) + ("\n" if lines and whole else "")).encode("utf-8", "surrogateescape")


def _lines(contents: bytes) -> list[str]:
    return contents.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n") if contents else []


def _bare(line: str) -> str:
    text = line.strip()
    return "" if text.startswith("#") else re.sub(r"\s+", " ", text)
