"""A source file split by tree-sitter: its functions, its classes' heads and what stands outside of both."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Query

# Language → the module and the function that give its grammar, and the kinds of node that define something.
# Grammars come as one wheel a language: tree-sitter-language-pack fetches them at run time, which no one should wait for.
_GRAMMARS = {
    "python": ("tree_sitter_python", "language", "function_definition class_definition"),
    "javascript": (
        "tree_sitter_javascript",
        "language",
        "function_declaration generator_function_declaration class_declaration method_definition",
    ),
    "typescript": (
        "tree_sitter_typescript",
        "language_typescript",
        "function_declaration generator_function_declaration class_declaration abstract_class_declaration "
        "method_definition interface_declaration enum_declaration type_alias_declaration",
    ),
    "tsx": (
        "tree_sitter_typescript",
        "language_tsx",
        "function_declaration generator_function_declaration class_declaration abstract_class_declaration "
        "method_definition interface_declaration enum_declaration type_alias_declaration",
    ),
    "go": ("tree_sitter_go", "language", "function_declaration method_declaration type_spec"),
    "rust": (
        "tree_sitter_rust",
        "language",
        "function_item struct_item enum_item trait_item impl_item mod_item macro_definition",
    ),
    "java": (
        "tree_sitter_java",
        "language",
        "class_declaration interface_declaration enum_declaration record_declaration method_declaration "
        "constructor_declaration",
    ),
    "c": ("tree_sitter_c", "language", "function_definition struct_specifier enum_specifier"),
    "cpp": (
        "tree_sitter_cpp",
        "language",
        "function_definition class_specifier struct_specifier enum_specifier namespace_definition",
    ),
    "ruby": ("tree_sitter_ruby", "language", "class module method singleton_method"),
    "php": (
        "tree_sitter_php",
        "language_php",
        "class_declaration interface_declaration trait_declaration enum_declaration function_definition "
        "method_declaration",
    ),
    "c-sharp": (
        "tree_sitter_c_sharp",
        "language",
        "class_declaration interface_declaration struct_declaration enum_declaration record_declaration "
        "method_declaration constructor_declaration property_declaration namespace_declaration",
    ),
}
_SUFFIXES = {
    ".py": "python",
    ".pyi": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".jsx": "javascript",
    ".ts": "typescript",
    ".tsx": "tsx",
    ".go": "go",
    ".rs": "rust",
    ".java": "java",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".rb": "ruby",
    ".php": "php",
    ".cs": "c-sharp",
}
_HOLDERS = ("class", "module", "namespace", "impl", "interface", "trait", "struct", "record")
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
    found = _grammar(_SUFFIXES.get(PurePosixPath(path).suffix, ""))
    if found is None:
        return []
    from tree_sitter import QueryCursor

    reader, query = found
    nodes = QueryCursor(query).captures(reader.parse(source).root_node).get("definition", [])
    listed = list[Definition]()
    around = list[tuple[int, Definition]]()  # (where it ends, what it is) for all that the next node may stand in
    for start, end, node in sorted(((node.start_byte, -node.end_byte, node) for node in nodes), key=lambda n: n[:2]):
        while around and around[-1][0] <= start:
            around.pop()
        if around and not around[-1][1].holder:
            continue
        name = _name(node)
        if not name:
            continue
        parent = node.parent
        first = parent.start_point[0] if parent and parent.type == "decorated_definition" else node.start_point[0]
        inside = around[-1][1].name + "." if around else ""
        holder = any(word in node.type for word in _HOLDERS)
        definition = Definition(inside + name, first + 1, node.end_point[0] + 1, holder)
        around.append((-end, definition))
        listed.append(definition)
    return listed


def parser(path: str) -> Parser | None:
    """The parser for a file by its suffix; None for a language whose grammar is not installed."""
    found = _grammar(_SUFFIXES.get(PurePosixPath(path).suffix, ""))
    return found[0] if found else None


def owners(found: list[Definition], lines: int) -> list[int]:
    """For each line of a file, which definition it belongs to, the innermost; -1 is none. `found` as `definitions` gives it."""
    owner = [-1] * lines
    for n, definition in enumerate(found):
        last = min(definition.last, lines)
        owner[definition.first - 1 : last] = [n] * (last - definition.first + 1)
    return owner


@cache
def _grammar(language: str) -> tuple[Parser, Query] | None:
    """A language's parser and the query for its definitions; None for a language whose grammar is not installed."""
    if language not in _GRAMMARS:
        return None
    module, function, kinds = _GRAMMARS[language]
    from tree_sitter import Language, Parser, Query

    try:
        grammar = Language(getattr(import_module(module), function)())
    except ImportError:
        return None
    return Parser(grammar), Query(grammar, f"[{' '.join(f'({kind})' for kind in kinds.split())}] @definition")


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
