"""The lines a diff changes, one by one, with their places in the base. Reads text, applies nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

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
