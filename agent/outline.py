"""What stands in a source file, without its bodies: the signatures that tree-sitter finds, with line numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runoff.agent.definitions import nested_definitions
from runoff.agent.languages import grammar, language_of, parser

if TYPE_CHECKING:
    from tree_sitter import Node

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


_ASSIGNED = "(program (lexical_declaration) @assigned) (program (export_statement (lexical_declaration) @assigned))"
"""Functions of TypeScript are values of constants as often as not."""
_WRAPPERS = {"type_declaration": 1, "template_declaration": 2}
"""Nodes around a definition that hold words of its signature, and how many children they have if they are of it alone."""


def outline(path: str, source: bytes) -> str:
    """One line a definition, indented by nesting: `120: def parse(text, *, strict=False)`. Empty without a grammar."""
    language = language_of(path)
    lines: list[str] = []
    if language in ("python", "javascript") and (found := parser(language)):
        _visit(found.parse(source).root_node, source, 0, lines)
    else:
        heads = [(node, len(around)) for node, around in nested_definitions(path, source)]
        heads += [(node, 0) for node in _assigned(language, source)]
        for node, depth in sorted(heads, key=lambda head: (head[0].start_byte, head[1])):
            parent = node.parent
            first = (
                parent
                if parent and parent.type in _WRAPPERS and parent.named_child_count <= _WRAPPERS[parent.type]
                else node
            )
            lines.append(f"{'    ' * depth}{first.start_point[0] + 1}: {_head(first, node, source)}")
    return "\n".join(lines)


def _head(first: Node, node: Node, source: bytes) -> str:
    """A definition up to its body; its first line, if it has none."""
    body = node.child_by_field_name("body")
    text = source[first.start_byte : body.start_byte if body else node.end_byte]
    text = text if body else text.partition(b"\n")[0]
    return " ".join(text.decode("utf-8", "replace").split()).rstrip("{: ")[:160]


def _assigned(language: str, source: bytes) -> list[Node]:
    found, reads = grammar(language), parser(language)
    if language not in ("typescript", "tsx") or found is None or reads is None:
        return []
    from tree_sitter import Query, QueryCursor

    return QueryCursor(Query(found, _ASSIGNED)).captures(reads.parse(source).root_node).get("assigned", [])


def _visit(node: Node, source: bytes, depth: int, lines: list[str]) -> None:
    for child in node.children:
        if child.type in _DEFINITIONS:
            body = child.child_by_field_name("body")
            if child.type != "lexical_declaration" or depth == 0:
                lines.append(f"{'    ' * depth}{child.start_point[0] + 1}: {_head(child, child, source)}")
            if "class" in child.type and body:
                _visit(body, source, depth + 1, lines)
        elif child.type in _CONTAINERS:
            _visit(child, source, depth, lines)
