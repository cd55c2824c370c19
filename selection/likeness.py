"""How alike two patches are, a number: the share of changed lines that they have in common."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

from runoff.agent.context import is_test
from runoff.selection.edits import changes

Atoms = Counter[tuple[str, str, str]]
"""(file, `+` or `-`, the changed line without white space) → how often."""

_HASH = frozenset(".py .pyi .rb .sh .toml .yaml .yml .cfg".split())
_COMMENT = re.compile(r"//|/\*|\*/|\*\s")


def atoms(patch: bytes) -> Atoms:
    """What a diff changes, without tests, scripts that reproduce the issue, comments and blank lines; order falls away too."""
    found: Atoms = Counter()
    for path, sign, _, text in changes(patch):
        text = text.strip()
        if text and not _beside(path) and not _comment(path, text):
            found[path, sign, re.sub(r"\s+", "", text)] += 1
    return found


def likeness(one: Atoms, other: Atoms) -> float:
    """Dice's coefficient of two bags, 0 … 1: symmetric, 1 on equal ones. A patch without atoms is like nothing.

    Dice, Measures of the Amount of Ecologic Association Between Species, 1945: 2 |A ∩ B| / (|A| + |B|).
    """
    return 2 * (one & other).total() / (one.total() + other.total()) if one and other else 0.0


def _beside(path: str) -> bool:
    """Whether a file is no part of a change proper: a test, or what an agent wrote to see the issue."""
    return is_test(path) or "repro" in PurePosixPath(path).name.lower()


def _comment(path: str, text: str) -> bool:
    return text.startswith("#") if PurePosixPath(path).suffix in _HASH else bool(_COMMENT.match(text))
