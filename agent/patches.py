"""Reads git diffs and unified diffs as text: which files they are about, piece by piece. Applies nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_NAMED = re.compile(rb'(?:---|\+\+\+|rename from|rename to|copy from|copy to) ("(?:[^"\\]|\\.)*"|[^\t\r\n]+)')
_BOTH = re.compile(rb"diff --git (?:a/(.+) b/\1|(\"(?:[^\"\\]|\\.)*\") (\"(?:[^\"\\]|\\.)*\"))\r?$")
_ESCAPED = re.compile(rb'\\([0-7]{3}|["\\abtnvfr])')
_LETTERS = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


class FilePart(NamedTuple):
    """What a diff says of one file."""

    text: bytes
    paths: tuple[str, ...]
    """Old and new path, once if they are one."""
    binary: bool
    changed: int
    """Lines added and removed."""


def file_parts(patch: bytes) -> list[FilePart]:
    """The pieces of a diff, one a file, in order; text before the first is dropped.

    Hunks are counted through, so that a removed line like `-- a/x` is not taken for a header.
    """
    parts: list[FilePart] = []
    lines = list(_classified(patch))
    starts = [n for n, (kind, _) in enumerate(lines) if kind == "start"]
    for start, end in pairwise([*starts, len(lines)]):
        piece = lines[start:end]
        names: dict[str, None] = {}
        for kind, line in piece:
            if kind in ("start", "header"):
                names |= dict.fromkeys(_names(line))
        binary = any(kind == "header" and re.match(rb"GIT binary patch|Binary files ", line) for kind, line in piece)
        changed = sum(kind == "change" for kind, _ in piece)
        paths = tuple(name for name in names if name != "/dev/null")
        parts.append(FilePart(b"".join(line for _, line in piece), paths, binary, changed))
    return parts


def patched_paths(patch: bytes) -> list[str]:
    """Paths that a diff is about, old and new, in order, each once."""
    return list(dict.fromkeys(path for part in file_parts(patch) for path in part.paths))


def _classified(patch: bytes) -> Iterator[tuple[str, bytes]]:
    """Each line and what it is: start (of a file's piece), header, context, change, or other."""
    old = new = 0
    git = False
    lines = patch.splitlines(keepends=True) if b"\r" not in patch else re.findall(rb"[^\n]*\n|[^\n]+$", patch)
    for n, line in enumerate(lines):
        if old > 0 or new > 0:
            sign = line[:1]
            if sign in (b"-", b"+"):
                old, new = old - (sign == b"-"), new - (sign == b"+")
                yield "change", line
                continue
            if sign in (b" ", b"\n", b"\r"):
                old, new = old - 1, new - 1
                yield "context", line
                continue
            if sign == b"\\":
                yield "context", line
                continue
            old = new = 0  # a hunk shorter than it says: git will refuse it
        if found := _HUNK.match(line):
            old, new = (1 if count is None else int(count) for count in found.groups())
            git = False  # behind its hunks, git takes a bare `---` and `+++` for the next file's header
            yield "header", line
        elif line.startswith(b"diff --git "):
            git = True
            yield "start", line
        elif not git and line.startswith(b"--- ") and lines[n + 1 : n + 2] and lines[n + 1].startswith(b"+++ "):
            yield "start", line
        else:
            yield "header", line


def _names(line: bytes) -> list[str]:
    if found := _BOTH.match(line):
        plain, *quoted = found.groups()
        return [_path(plain, prefixed=False)] if plain else [_path(name) for name in quoted]
    if found := _NAMED.match(line):
        return [_path(found[1], prefixed=line.startswith((b"---", b"+++")))]
    return []


def _path(name: bytes, prefixed: bool = True) -> str:
    if name.startswith(b'"'):
        name = _ESCAPED.sub(
            lambda m: _LETTERS.get(m[1]) or (m[1] if len(m[1]) == 1 else bytes([int(m[1], 8) & 255])), name[1:-1]
        )
    if prefixed and name.startswith((b"a/", b"b/")):
        name = name[2:]
    return name.decode("utf-8", "surrogateescape")
