"""Does an edited file still parse? Asked of tree-sitter: it takes old and new versions, and goes on after an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runoff.agent.languages import language_of, parser

if TYPE_CHECKING:
    from tree_sitter import Node, Parser


def syntax_errors(path: str, contents: bytes, original: bytes | None = None) -> list[str]:
    """`line 12: syntax error near …` for each error that `original` did not have. None known without a grammar.

    It is lenient: an empty result does not prove that the file compiles (tree-sitter forgives some wrong indentation).
    """
    language = language_of(path)
    # A header may be of either language; the one that it fits better is its own.
    candidates = ("c", "cpp") if path.endswith(".h") else (language,)
    found = [_fresh(reads, contents, original) for name in candidates if (reads := parser(name))]
    return min(found, key=len, default=[])


def _fresh(reads: Parser, contents: bytes, original: bytes | None) -> list[str]:
    before = Counter(what for _, what in _errors(reads, original)) if original is not None else Counter[str]()
    fresh = []
    for line, what in _errors(reads, contents):
        # By what it says, not by its line: the edit may have moved it.
        if before[what]:
            before[what] -= 1
        else:
            fresh.append(f"line {line}: {what}")
    return fresh


def _errors(reads: Parser, contents: bytes) -> Iterator[tuple[int, str]]:
    waiting = [reads.parse(contents).root_node]
    while waiting:
        node = waiting.pop()
        broken = [child for child in node.children if child.has_error]
        if node.is_missing or (node.is_error and not broken):
            yield node.start_point[0] + 1, _said(node, contents)
        waiting += reversed(broken)


def _said(node: Node, contents: bytes) -> str:
    if not node.is_missing:
        near = contents[node.start_byte : node.end_byte]
        return f"syntax error near `{_first_line(near)}`"
    # What is missing has no text of its own: show what stands before it.
    start = contents.rfind(b"\n", 0, node.start_byte) + 1
    near = contents[start : node.start_byte].strip() or contents[start:]
    return f"syntax error near `{_first_line(near)}`: {node.type} is missing"


def _first_line(near: bytes) -> str:
    line = near.decode("utf-8", "replace").strip().partition("\n")[0].rstrip()
    return line if len(line) <= 60 else f"{line[:60]}…"
