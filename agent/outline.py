"""What stands in a source file, without its bodies: the signatures that tree-sitter finds, with line numbers."""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

_DEFINITIONS = frozenset({
    "class_definition", "function_definition", "class_declaration", "function_declaration",
    "generator_function_declaration", "method_definition", "lexical_declaration",
})  # fmt: skip
_CONTAINERS = _DEFINITIONS | {
    "module",
    "program",
    "block",
    "class_body",
    "decorated_definition",
    "export_statement",
    "if_statement",
}


@cache
def parser(suffix: str) -> Parser | None:
    """The tree-sitter parser for a file-name suffix; None for a language whose grammar is not installed."""
    from tree_sitter import Language, Parser

    if suffix in (".py", ".pyi"):
        import tree_sitter_python

        return Parser(Language(tree_sitter_python.language()))
    if suffix in (".js", ".mjs", ".cjs", ".jsx"):
        import tree_sitter_javascript

        return Parser(Language(tree_sitter_javascript.language()))
    return None


def outline(path: str, source: bytes) -> str:
    """One line a definition, indented by nesting: `120: def parse(text, *, strict=False)`. Empty without a grammar."""
    found = parser(PurePosixPath(path).suffix)
    if not found:
        return ""
    lines: list[str] = []
    _visit(found.parse(source).root_node, source, 0, lines)
    return "\n".join(lines)


def _visit(node: Node, source: bytes, depth: int, lines: list[str]) -> None:
    for child in node.children:
        if child.type in _DEFINITIONS:
            body = child.child_by_field_name("body")
            text = source[child.start_byte : body.start_byte if body else child.end_byte]
            text = text if body else text.partition(b"\n")[0]
            head = " ".join(text.decode("utf-8", "replace").split()).rstrip("{: ")
            if child.type != "lexical_declaration" or depth == 0:
                lines.append(f"{'    ' * depth}{child.start_point[0] + 1}: {head[:160]}")
            if "class" in child.type and body:
                _visit(body, source, depth + 1, lines)
        elif child.type in _CONTAINERS:
            _visit(child, source, depth, lines)
