"""How alike two patches are, a number: the share of what they change that they have in common, by lines or by words and places."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

from runoff.agent.context import is_test
from runoff.selection.edits import changes

Atoms = Counter[tuple[str, str, str]]
"""(file, `+` or `-`, the changed line without white space) → how often."""

_HASH = frozenset(".py .pyi .rb .sh .toml .yaml .yml .cfg".split())
_COMMENT = re.compile(r"//|/\*|\*/|\*\s")


_WORD = re.compile(r"""(['"`])((?:(?!\1)[^\\]|\\.)*)\1|(\w+)|([^\w\s])""")
T = TypeVar("T")


class Traits(NamedTuple):
    """What a patch changes, without tests, scripts that reproduce the issue, comments and blank lines."""

    atoms: Atoms
    words: Counter[tuple[str, str, str, str]]
    """(file, sign, word, next word): so lines that differ a little are a little unlike. Quotation marks are one."""
    places: Counter[tuple[str, float]]
    """(file, line of the base that goes, or half a line above which something comes), each once."""


def traits(patch: bytes) -> Traits:
    """Of a diff; the order of its lines falls away."""
    lines: Atoms = Counter()
    words: Counter[tuple[str, str, str, str]] = Counter()
    places: Counter[tuple[str, float]] = Counter()
    for path, sign, line, text in changes(patch):
        text = text.strip()
        if text and not _beside(path) and not _comment(path, text):
            lines[path, sign, re.sub(r"\s+", "", text)] += 1
            said = [f'"{found[2]}"' if found[1] else found[0] for found in _WORD.finditer(text)]
            words.update((path, sign, *pair) for pair in pairwise(["", *said, ""]))
            places[path, line if sign == "-" else line - 0.5] = 1
    return Traits(lines, words, places)


def atoms(patch: bytes) -> Atoms:
    """The changed lines of a diff alone."""
    return traits(patch).atoms


def likeness(one: Counter[T], other: Counter[T]) -> float:
    """Dice's coefficient of two bags, 0 … 1: symmetric, 1 on equal ones. A patch without atoms is like nothing.

    Dice, Measures of the Amount of Ecologic Association Between Species, 1945: 2 |A ∩ B| / (|A| + |B|).
    """
    return 2 * (one & other).total() / (one.total() + other.total()) if one and other else 0.0


def nearness(one: Traits, other: Traits) -> float:
    """Mean likeness of words and of places: finer than that of lines, with the same properties."""
    return (likeness(one.words, other.words) + likeness(one.places, other.places)) / 2


def _beside(path: str) -> bool:
    """Whether a file is no part of a change proper: a test, or what an agent wrote to see the issue."""
    return is_test(path) or "repro" in PurePosixPath(path).name.lower()


def _comment(path: str, text: str) -> bool:
    return text.startswith("#") if PurePosixPath(path).suffix in _HASH else bool(_COMMENT.match(text))
