"""Whether two patches are the same change, as text and by syntax: comments and layout fall away, indentation that means
something does not. Behaviour, the third depth, is a row of the outcome table.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runoff.agent.environment import Language
from runoff.agent.languages import language_of, parser
from runoff.selection.edits import changes
from runoff.selection.likeness import atoms

if TYPE_CHECKING:
    from tree_sitter import Node


def same_text(patch: bytes) -> str:
    """A digest of the lines that a diff takes away and adds, file by file, whatever the context and the place. Needs no base."""
    lines: dict[str, list[str]] = {}
    for path, sign, _, text in changes(patch):
        lines.setdefault(path, []).append(sign + text)
    return _digest(sorted(lines.items()))


def same_lines(patch: bytes) -> str:
    """As `same_text`, without comments, blank lines, tests and all white space: coarser than the truth, for it takes two
    patches for one that differ in indentation alone. Only to reproduce what others vote by.
    """
    return _digest(sorted(atoms(patch).items()))


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def fingerprint(files: Mapping[str, bytes | None]) -> str:
    """A digest of the changed files as they are after a patch (None: deleted), each by its syntax tree.

    Equal fingerprints mean: the same files, and in each the same tree with the same tokens, comments apart.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, contents in sorted(files.items()):
        normal = None if contents is None else _normal(path, contents)
        digest.update(repr((path, normal)).encode())
    return digest.hexdigest()


def same_script(script: str, language: Language) -> str:
    """A script by its syntax tree, so that equal scripts are one test. Unparsable text stays as it is."""
    if language == "javascript":
        return _normal("test.js", script.encode("utf-8", "surrogateescape"))
    try:
        return ast.unparse(ast.parse(script))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply for the parser
        return script


def _normal(path: str, contents: bytes) -> str:
    found = parser(language_of(path))
    tree = found.parse(contents) if found else None
    if tree is None or tree.root_node.has_error or not _taken(path, contents):
        return contents.decode("utf-8", "surrogateescape")
    parts: list[str] = []
    _write(tree.root_node, contents, parts)
    return " ".join(parts)


def _taken(path: str, contents: bytes) -> bool:
    """Whether Python takes a Python file, too: tree-sitter forgives wrong indentation, and then it means something else."""
    return not path.endswith((".py", ".pyi")) or parses(contents)


def parses(contents: bytes) -> bool:
    """Whether Python itself can read a file."""
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(contents)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


_FALLS_AWAY = re.compile(r"comment$|^line_continuation$")
_VERBATIM = frozenset(
    "string template_string string_literal raw_string_literal interpreted_string_literal verbatim_string_literal "
    "interpolated_string_expression encapsed_string heredoc heredoc_body nowdoc string_array symbol_array subshell "
    "delimited_symbol shell_command_expression char_literal character_literal rune_literal regex text text_interpolation "
    "jsx_text preproc_def preproc_function_def preproc_call".split()
)
"""Kinds of node in which white space may mean something; they are taken as they stand."""


def _write(node: Node, source: bytes, parts: list[str]) -> None:
    waiting: list[Node | str] = [node]  # not by recursion: a tree may be as deep as its file is long
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            parts.append(one)
            continue
        kind = one.type
        if _FALLS_AWAY.search(kind):
            continue
        if not one.children or kind in _VERBATIM:
            parts.append(source[one.start_byte : one.end_byte].decode("utf-8", "surrogateescape"))
            continue
        parts.append(f"({kind}")  # the shape holds what Python says by indentation
        waiting.append(")")
        waiting.extend(reversed(one.children))
