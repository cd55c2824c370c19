"""A candidate made of others: the edits that recur over independent candidates and fit together, without what nothing supports.

    fuse(pool, scores, base) → Fused(patch, Fusion(like, members, kept, dropped, added)), or why there is none

An edit is a run of neighbouring changed lines, anchored in the base. After PatchFusion (arXiv 2607.01597), in our own way:
nothing is run and no model is asked; what comes out is one more candidate that must pass all gates that any other must.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import unified_diff
from typing import NamedTuple

from runoff.sandbox.protocol import Value
from runoff.selection.edits import Edit, apply, edits
from runoff.selection.pool import Pool
from runoff.selection.sameness import parses

FUSION = "fusion"
"""What such a candidate is called, wherever it shows."""


class Fusion(Value):
    """How one was made."""

    like: str
    """Id of the member it was made from."""
    members: tuple[str, ...]
    """Ids of all whose edits are in it."""
    kept: int
    """Edits of that member that others make, too, or that what is kept needs."""
    dropped: int
    """Edits of that member that nobody else makes."""
    added: int
    """Edits that most others make and it does not."""

    def __str__(self) -> str:
        return (
            f"{FUSION} is made of others' patches: {self.like}'s, without what nobody else makes (of its "
            f"{self.kept + self.dropped} edits {self.dropped}), with what most others make ({self.added})"
        )


class Fused(NamedTuple):
    patch: bytes
    how: Fusion


class NotFused(Value):
    why: str


def fuse(
    pool: Pool, scores: Sequence[float], base: Mapping[str, bytes] | None, family: Mapping[str, str] = {}
) -> Fused | NotFused:
    """The fusion around the best member by `scores`. `base` holds the files that the patches touch, as they are before.

    Support of an edit is the number of families (agents, if none are known) that make it. Of the best member's edits stay
    those with support of two; if there is any, the rest goes, except for what defines a name that a kept edit uses. Edits of
    others that more than half of all families make are added where they fit. The patch applies to `base` to the letter.
    """
    if base is None:
        return NotFused(why="the files before the change are not at hand")
    made = {n: found for n, member in enumerate(pool.members) if (found := edits(member.patch, base))}
    best = max(made, key=lambda n: (scores[n], -n), default=None)
    if best is None:
        return NotFused(why="no patch applies to the files before the change to the letter")
    witness = {n: family.get(pool.members[n].agent, pool.members[n].agent) for n in made}
    support: dict[tuple[object, ...], set[str]] = defaultdict(set)
    makers: dict[tuple[object, ...], set[int]] = defaultdict(set)
    for n, found in made.items():
        for edit in found:
            support[edit.name].add(witness[n])
            makers[edit.name].add(n)
    kept = [edit for edit in made[best] if len(support[edit.name]) > 1]
    if not kept:
        return NotFused(why="nothing of the best candidate recurs in others")
    kept += _needed([edit for edit in made[best] if edit not in kept], kept, base)
    own, most = {edit.name for edit in made[best]}, len(set(witness.values())) / 2
    more = list[Edit]()
    for name in sorted((name for name in support if name not in own and len(support[name]) > most), key=repr):
        maker = max(makers[name], key=lambda n: (scores[n], -n))
        edit = next(edit for edit in made[maker] if edit.name == name)
        if all(edit.beside(other) for other in kept + more):
            more.append(edit)
    chosen = sorted(kept + more)
    after = {
        path: apply(base.get(path), [edit for edit in chosen if edit.path == path]) for path in {e.path for e in chosen}
    }
    for path, text in after.items():
        if path.endswith(".py") and not parses(text) and parses(base.get(path, b"")):
            return NotFused(why=f"what recurs does not fit together: {path} would not parse")
    return Fused(
        patch="".join(_diff(path, base.get(path), text) for path, text in sorted(after.items())).encode(
            "utf-8", "surrogateescape"
        ),
        how=Fusion(
            like=pool.members[best].id,
            members=tuple(pool.members[n].id for n in sorted({n for edit in chosen for n in makers[edit.name]})),
            kept=len(kept),
            dropped=len(made[best]) - len(kept),
            added=len(more),
        ),
    )


_WORD = re.compile(r"[A-Za-z_]\w*")
_DEFINES = re.compile(
    r"^\s*(?:(?:async\s+)?def|class|func|function|fn|const|let|var)\s+(\w+)|^\s*(\w+)\s*(?::[^=]*)?=[^=]|^\s*(?:from\s+\S+\s+)?import\s+(.+)"
)


def _needed(rest: list[Edit], kept: list[Edit], base: Mapping[str, bytes]) -> list[Edit]:
    """Edits that define a name which is used by what is kept and is not in the file yet; and what those need."""
    needed = list[Edit]()
    while True:
        used = {word for edit in kept + needed for line in edit.added for word in _WORD.findall(line)}
        fresh = [edit for edit in rest if edit not in needed and _defined(edit, base) & used]
        if not fresh:
            return needed
        needed += fresh


def _defined(edit: Edit, base: Mapping[str, bytes]) -> set[str]:
    there = set(_WORD.findall(base.get(edit.path, b"").decode("utf-8", "replace")))
    names = {
        word
        for line in edit.added
        for found in _DEFINES.findall(line)
        for text in found
        for word in _WORD.findall(text)
    }
    return names - there


def _diff(path: str, before: bytes | None, after: bytes) -> str:
    old, new = ((text or b"").decode("utf-8", "surrogateescape") for text in (before, after))
    head = f"diff --git a/{path} b/{path}\n" + ("new file mode 100644\n" if before is None else "")
    shown = unified_diff(
        _kept_ends(old), _kept_ends(new), "/dev/null" if before is None else f"a/{path}", f"b/{path}", lineterm="\n"
    )
    return head + "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in shown)


def _kept_ends(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+$", text)
