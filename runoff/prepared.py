"""What `runoff prepare` has left of a repository, as a solve takes it: a line on each file, and which tests pass on the base."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from runoff.agent.context import Tree, searched
from runoff.agent.environment import Environment
from runoff.agent.index import Index, blob_hash, python_imports
from runoff.selection.known_tests import KnownTests, dependencies

Contents = Callable[[list[str]], Iterable[tuple[str, bytes]]]
"""Yields (path, bytes) for the paths asked for."""
COMMANDS = ("setup", "build", "test", "python")
"""How a repository is installed and its tests are run: the options of `solve` that `prepare` keeps."""


class Prepared(NamedTuple):
    lines: dict[str, str]
    """Path → what the file is for, by a model."""
    stable: dict[str, tuple[str, ...]]
    """See `Environment.stable`."""


NOTHING = Prepared({}, {})


def of_tree(place: Path, tree: Tree, environment: Environment) -> Prepared:
    """What the index at `place` says of a tree: nothing if there is none, or if it cannot be read."""
    try:
        if not place.is_file():
            return NOTHING
        index = Index(place)
    except (sqlite3.Error, OSError):
        return NOTHING
    try:
        blobs = {path: blob_hash(data) for path, data in tree.items()}
        stable = dict[str, tuple[str, ...]]()
        if index.has("tests"):
            needed = depending(index, blobs, lambda paths: ((path, tree[path]) for path in paths), environment)
            known = index.facts("tests", {(digest, "") for digest in needed.values()})
            stable = {
                path: KnownTests.model_validate(known[digest, ""]).passed
                for path, digest in needed.items()
                if (digest, "") in known
            }
        return Prepared(lines(index, {path: blobs[path] for path in searched(blobs)}), stable)
    except (sqlite3.Error, OSError):
        return NOTHING
    finally:
        index.close()


def lines(index: Index, blobs: Mapping[str, str]) -> dict[str, str]:
    """Path → the line on its contents, of files that have one."""
    known = index.facts("line", {(blob, "") for blob in blobs.values()})
    return {path: known[blob, ""] for path, blob in blobs.items() if (blob, "") in known}


def depending(index: Index, blobs: Mapping[str, str], contents: Contents, environment: Environment) -> dict[str, str]:
    """`known_tests.dependencies` of a tree; what its files import is kept in the index too."""
    python = {path: (blob, "") for path, blob in blobs.items() if PurePosixPath(path).suffix == ".py"}
    known = index.facts("imports", python.values())
    fresh = {
        python[path]: python_imports(data.decode("utf-8", "replace"))
        for path, data in contents([path for path, key in python.items() if key not in known])
    }
    index.keep("imports", fresh)
    known |= fresh
    return dependencies(blobs, {path: known[key] for path, key in python.items()}, environment)


def commands(place: Path, repository: Path) -> dict[str, str]:
    """The commands that were given when a repository was prepared, by name of the option."""
    try:
        if not place.is_file():
            return {}
        index = Index(place)
    except (sqlite3.Error, OSError):
        return {}
    try:
        found = index.facts("commands", [(str(repository.resolve()), "")])
        return next(iter(found.values()), {})
    except sqlite3.Error:
        return {}
    finally:
        index.close()
