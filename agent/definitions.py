"""A source file split by tree-sitter: its functions, its classes' heads and what stands outside of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from runoff.agent.languages import definition_query, language_of, parser

if TYPE_CHECKING:
    from tree_sitter import Node

_HOLDERS = ("class", "module", "namespace", "impl", "interface", "trait", "struct", "record", "object", "protocol")
"""What a kind of definition is called whose members are definitions of their own."""


class Definition(NamedTuple):
    """Lines that belong together: a function with all inside of it, or a class without its functions."""

    name: str
    """Qualified by what it stands in, `Cart.total`; empty for what stands outside of all definitions."""
    first: int
    """Its first line, decorators included; lines count from 1."""
    last: int
    """Its last line. In a class, lines that belong to a member are not the class's own."""
    holder: bool
    """Whether members may stand in it: a class, a namespace."""


def definitions(path: str, source: bytes) -> list[Definition]:
    """The definitions in a file in the order of their first lines. Empty without a grammar for the file's suffix.

    A function inside of a function is a part of it, not a definition of its own. Broken source gives what can be read.
    """
    listed = list[Definition]()
    for node, around in nested_definitions(path, source):
        parent = node.parent
        first = parent if parent and parent.type == "decorated_definition" else node
        name = ".".join(_name(each) for each in (*around, node))
        listed.append(Definition(name, first.start_point[0] + 1, node.end_point[0] + 1, _holds(node)))
    return listed


def nested_definitions(path: str, source: bytes) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """The nodes that define something, in order, each with those that it stands in, outermost first."""
    language = language_of(path)
    reads, query = parser(language), definition_query(language)
    if reads is None or query is None:
        return
    from tree_sitter import QueryCursor

    nodes = QueryCursor(query).captures(reads.parse(source).root_node).get("definition", [])
    around: list[Node] = []
    for _, _, node in sorted(((node.start_byte, -node.end_byte, node) for node in nodes), key=lambda n: n[:2]):
        while around and around[-1].end_byte <= node.start_byte:
            around.pop()
        if (around and not _holds(around[-1])) or not _name(node):
            continue
        yield node, tuple(around)
        around.append(node)


def owners(found: list[Definition], lines: int) -> list[int]:
    """For each line of a file, which definition it belongs to, the innermost; -1 is none. `found` as `definitions` gives it."""
    owner = [-1] * lines
    for n, definition in enumerate(found):
        last = min(definition.last, lines)
        owner[definition.first - 1 : last] = [n] * (last - definition.first + 1)
    return owner


def _holds(node: Node) -> bool:
    return any(word in node.type for word in _HOLDERS)


def _name(node: Node) -> str:
    """What a definition is called. C wraps the name in declarators; Rust's impl has that of its type."""
    inner = node
    while (name := inner.child_by_field_name("name")) is None:
        declarator = inner.child_by_field_name("declarator")
        if declarator is None:
            name = inner.child_by_field_name("type")
            return _text(name or inner) if name or inner.type.endswith("identifier") else ""
        inner = declarator
    return _text(name)


def _text(node: Node) -> str:
    return node.text.decode("utf-8", "replace") if node.text else ""
