"""What fits into a budget of tokens: whole files in order, then outlines and the definitions that matter of the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from runoff.agent.index import Source
from runoff.agent.outline import outline
from runoff.agent.search import At

Span = tuple[int, int]
"""First and last line, from 1."""
_WHOLE = 0.65
"""Share of the budget for whole files, chosen as docs/measured (recall) says: the rest buys definitions of many more."""
_LARGE, _FIRST = 0.08, 5
"""Share of the budget that one file may take whole, but for the first so many: of a larger one, definitions are shown."""
_OUTLINE = 0.02
"""Share of the budget that one outline may take."""
_OUTLINED = 20
"""Files so far down the ranking leave no outline when they are passed over."""
_TRIED = 4_000
"""Definitions that are tried: beyond, none has a chance, and counting costs."""


class Packed(NamedTuple):
    """What is shown of which files."""

    whole: tuple[str, ...]
    outlined: tuple[str, ...]
    """Files too large to be whole, of which the signatures are shown."""
    excerpts: dict[str, tuple[Span, ...]]
    """Path → the lines shown of it, whole definitions; in the order of the lines, none twice."""


def pack(
    files: Sequence[str],
    pieces: Sequence[At],
    tree: Mapping[str, bytes],
    sources: Mapping[str, Source],
    budget: int,
    count: Callable[[str], int],
) -> Packed:
    """Fill `budget` tokens; `count` says how many a text has. What does not fit is passed over, it never ends the packing.

    `files` and `pieces` come best first. `_WHOLE` goes to whole files; what a file has to be passed over for leaves its
    outline, if that is small; all that is left goes to single definitions.
    """
    whole, outlined, left = list[str](), list[str](), int(budget * _WHOLE)
    passed, last = list[tuple[int, str]](), 0
    for rank, path in enumerate(files):
        # Counting takes longer than anything else here, and no tokenizer gets more than some ten characters into a token.
        room = left if rank < _FIRST else min(left, int(budget * _LARGE))
        if len(tree[path]) <= 16 * room and (cost := count(_text(tree[path]))) <= room:
            whole.append(path)
            left -= cost
            last = rank
        else:
            passed.append((rank, path))
    left += budget - int(budget * _WHOLE)
    for rank, path in passed:
        if rank < min(last, _OUTLINED) and (text := outline(path, tree[path])):
            cost = count(text)
            if cost <= min(left, budget * _OUTLINE):
                outlined.append(path)
                left -= cost
    shown = set(whole)
    lines: dict[str, list[str]] = {}
    taken: dict[str, set[int]] = defaultdict(set)
    for at in [at for at in pieces if at.path not in shown][:_TRIED]:
        source = sources[at.path]
        if at.path not in lines:
            lines[at.path] = _text(tree[at.path]).split("\n")
        text_of = lines[at.path]
        runs = [
            (first, last)
            for first, last in spans(own_lines(source, at.piece))
            if any(line.strip() for line in text_of[first - 1 : last])  # what is blank is not shown, nor counted
        ]
        if runs and (cost := count(excerpt(text_of, runs) + "\n")) <= left:
            taken[at.path].update(line for first, last in runs for line in range(first, last + 1))
            left -= cost
    return Packed(tuple(whole), tuple(outlined), {path: spans(sorted(own)) for path, own in taken.items()})


def own_lines(source: Source, piece: int) -> list[int]:
    """The lines that belong to a piece and to none inside of it."""
    _, first, last, holder, _ = source.pieces[piece]
    lines = set(range(first, last + 1))
    if holder:
        for n, inner in enumerate(source.pieces):
            if n and n != piece and first <= inner.first and inner.last <= last and (not piece or n > piece):
                lines.difference_update(range(inner.first, inner.last + 1))
    return sorted(lines)


def spans(lines: Sequence[int]) -> tuple[Span, ...]:
    """Rising line numbers as first and last of each unbroken run."""
    runs = ([n for _, n in run] for _, run in groupby(enumerate(lines), key=lambda pair: pair[1] - pair[0]))
    return tuple((run[0], run[-1]) for run in runs)


def excerpt(lines: Sequence[str], shown: Sequence[Span]) -> str:
    """Lines of a file as they stand there, each run below the numbers of its first and last."""
    return "\n".join(
        f"[lines {first}-{last}]\n" + "\n".join(lines[first - 1 : last])
        for first, last in shown
        if any(line.strip() for line in lines[first - 1 : last])
    )


def _text(contents: bytes) -> str:
    return contents.decode("utf-8", "surrogateescape")
