"""The languages that tree-sitter reads here: by a file's suffix its grammar, and which of its nodes define something."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Parser, Query

# Language → the module and the function that give its grammar, and the kinds of node that define something. What has no
# kinds is not a dependency of ours: its wheel is used where it is installed, and what defines something is told by its name.
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
    "bash": ("tree_sitter_bash", "language", ""),
    "dart": ("tree_sitter_dart", "language", ""),
    "elixir": ("tree_sitter_elixir", "language", ""),
    "haskell": ("tree_sitter_haskell", "language", ""),
    "julia": ("tree_sitter_julia", "language", ""),
    "kotlin": ("tree_sitter_kotlin", "language", ""),
    "lua": ("tree_sitter_lua", "language", ""),
    "ocaml": ("tree_sitter_ocaml", "language_ocaml", ""),
    "scala": ("tree_sitter_scala", "language", ""),
    "swift": ("tree_sitter_swift", "language", ""),
    "zig": ("tree_sitter_zig", "language", ""),
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
    ".sh": "bash",
    ".bash": "bash",
    ".dart": "dart",
    ".ex": "elixir",
    ".exs": "elixir",
    ".hs": "haskell",
    ".jl": "julia",
    ".kt": "kotlin",
    ".kts": "kotlin",
    ".lua": "lua",
    ".ml": "ocaml",
    ".scala": "scala",
    ".swift": "swift",
    ".zig": "zig",
}
_DEFINING = re.compile(
    r"(function|method|class|struct|enum|interface|trait|protocol|module|object|type|record)(_statement)?"
    r"_(definition|declaration|item|specifier|spec)"
)


def language_of(path: str) -> str:
    """What a file is written in, as its suffix says; empty if it is nothing that is read here."""
    return _SUFFIXES.get(PurePosixPath(path).suffix, "")


@cache
def grammar(language: str) -> Language | None:
    """None for a language that is not known, or whose wheel is not installed."""
    if language not in _GRAMMARS:
        return None
    module, function, _ = _GRAMMARS[language]
    from tree_sitter import Language  # imported here: most of what this program does never parses a file

    try:
        return Language(getattr(import_module(module), function)())
    except ImportError:
        return None


@cache
def parser(language: str) -> Parser | None:
    """The language's parser; None as for `grammar`."""
    from tree_sitter import Parser

    found = grammar(language)
    return Parser(found) if found else None


@cache
def definition_query(language: str) -> Query | None:
    """Finds the nodes that define something, as `definition`; None as for `grammar`."""
    from tree_sitter import Query

    found = grammar(language)
    if found is None:
        return None
    kinds = _GRAMMARS[language][2].split() or _defining(found)
    return Query(found, f"[{' '.join(f'({kind})' for kind in kinds)}] @definition") if kinds else None


def _defining(found: Language) -> list[str]:
    names = (
        found.node_kind_for_id(number) or ""
        for number in range(found.node_kind_count)
        if found.node_kind_is_named(number)
    )
    return sorted({name for name in names if _DEFINING.fullmatch(name)})
