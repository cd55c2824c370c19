"""Whether two patches are the same change: comments and layout fall away, indentation that means something does not."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runoff.agent.environment import Language
from runoff.agent.languages import language_of, parser

if TYPE_CHECKING:
    from tree_sitter import Node


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
    language = language_of(path)
    # Of no other grammar is it known that its leaves are all that is written: text that is none would not count.
    found = parser(language) if language in ("python", "javascript") else None
    tree = found.parse(contents) if found else None
    if tree is None or tree.root_node.has_error or not _is_python(path, contents):
        return contents.decode("utf-8", "surrogateescape")
    parts: list[str] = []
    _write(tree.root_node, contents, parts)
    return " ".join(parts)


def _is_python(path: str, contents: bytes) -> bool:
    """Whether Python takes a Python file, too: tree-sitter forgives wrong indentation, and then it means something else."""
    if not path.endswith((".py", ".pyi")):
        return True
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(contents)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _write(node: Node, source: bytes, parts: list[str]) -> None:
    if node.type in ("comment", "line_continuation"):
        return
    if not node.children or node.type == "string":
        parts.append(source[node.start_byte : node.end_byte].decode("utf-8", "surrogateescape"))
        return
    parts.append(f"({node.type}")  # the shape holds what Python says by indentation
    for child in node.children:
        _write(child, source, parts)
    parts.append(")")
