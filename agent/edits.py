"""Edits a model answers with: made to the original files, or refused in words from which it can mend them.

    reply ──parse──► Answer.edits ──apply(changes, tree)──► {path: new contents, or None where it is deleted}
                          ▲
    old, new ──changes_between──► changes ──render──► text

`describe` tells the grammar to the model, `syntax_errors` looks at what came of it.
"""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from runoff.agent.edits_grammar import Answer, Change, Delete, Edit, File, Pair, Rename, describe, parse, render
from runoff.agent.edits_match import Lines, nearest, places, spelled
from runoff.agent.edits_syntax import syntax_errors

__all__ = [
    "Answer",
    "Change",
    "Delete",
    "Edit",
    "EditProblem",
    "File",
    "Pair",
    "Rename",
    "apply",
    "changes_between",
    "describe",
    "parse",
    "render",
    "syntax_errors",
]

Tree = Callable[[str], bytes | None]
"""Path, relative to the root of the repository → its contents, None if there is no such file."""


class EditProblem(Exception):
    """The edit cannot be made, and no part of it was. `problems` are for the model, one for each block that failed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n\n".join(problems))
        self.problems = tuple(problems)


def apply(
    changes: Sequence[Change],
    tree: Tree,
    *,
    paths: Sequence[str] = (),
    others: Mapping[str, bytes] = {},
) -> dict[str, bytes | None]:
    """Path → new contents, or None if deleted, of every file that becomes another. Raises EditProblem.

    The order of `changes` does not matter: each is about the original tree. `paths` are all there are, from which a
    missing one is guessed; `others` are the files the model was shown, in which lines it misplaced may stand.
    """
    return _Application(tree, paths, others).result(changes)


def changes_between(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> tuple[Change, ...]:
    """Changes that make `new` of `old`. Files without UTF-8 are well, too; a file moved as it is becomes a Rename."""
    gone = sorted(set(old) - set(new))
    changes: list[Change] = []
    for path in sorted(new):
        if path in old:
            if old[path] != new[path]:
                changes.append(_between(path, old[path], new[path]))
            continue
        source = next((name for name in gone if old[name] == new[path]), None)
        if source is None:
            changes.append(_whole(path, None, new[path]))
        else:
            gone.remove(source)
            changes.append(Rename(source, path))
    return (*changes, *map(Delete, gone))


class _Application:
    def __init__(self, tree: Tree, paths: Sequence[str], others: Mapping[str, bytes]) -> None:
        self.tree, self.paths, self.others = tree, paths, others
        self.known: dict[str, bytes | None] = {}
        self.problems: list[str] = []

    def result(self, changes: Sequence[Change]) -> dict[str, bytes | None]:
        pairs: dict[str, list[Pair]] = {}
        files: dict[str, File] = {}
        sources: dict[str, str] = {}
        deleted: set[str] = set()
        said: dict[str, str] = {}  # path → the block that gives its contents
        moved: dict[str, str] = {}  # path → the block that takes it away

        def claim(taken: dict[str, str], path: str, block: str) -> bool:
            other = taken.setdefault(path, block)
            if other is not block:
                self.problems.append(f"{block}: a {other.split(' ')[0]} block of the same answer is about {path}, too. Keep one.")
            return other is block

        for change in changes:
            block = _named(change)
            match change:
                case Rename(source, target):
                    ends = self._path(block, source), self._path(block, target)
                    if ends[0] is None or ends[1] is None:
                        continue
                    if self._original(ends[0]) is None:
                        self._missing(block, ends[0])
                    elif claim(moved, ends[0], block) and claim(said, ends[1], block):
                        sources[ends[1]] = ends[0]
                case Delete(path):
                    name = self._path(block, path)
                    if name is None:
                        continue
                    if self._original(name) is None:
                        self._missing(block, name)
                    elif claim(moved, name, block):
                        deleted.add(name)
                case File(path):
                    name = self._path(block, path)
                    if name is not None and claim(said, name, block):
                        files[name] = change
                case Edit(path):
                    name = self._path(block, path)
                    if name is not None:
                        pairs.setdefault(name, []).extend(change.pairs)

        for name in deleted & said.keys():
            self.problems.append(f"{moved[name]}: {name} is also given by a {said[name].split(' ')[0]} block. Keep one.")
        for target, source in sources.items():
            if self._original(target) is not None and target not in moved:
                self.problems.append(f"{said[target]}: {target} exists already. Delete it in the same answer, or take another name.")
            elif target == source:
                self.problems.append(f"{said[target]}: both names are the same.")

        results: dict[str, bytes | None] = dict.fromkeys(moved)
        results |= {target: self._original(source) for target, source in sources.items()}
        for name, file in files.items():
            results[name] = self._encoded(f"file {name}", lambda name=name, file=file: _contents(file, self._original(name)))  # type: ignore[misc]
        for name, wanted in pairs.items():
            block = f"edit {name}"
            if name in files:
                self.problems.append(f"{block}: a file block of the same answer gives its whole text. Keep one.")
            elif name in deleted:
                self.problems.append(f"{block}: the same answer deletes it. Keep one.")
            elif name in moved and name not in sources:
                target = next(target for target, source in sources.items() if source == name)
                self.problems.append(f"{block}: it is renamed in the same answer; call it {target} in the edit.")
            else:
                original = self._original(sources.get(name, name))
                if original is None:
                    self._missing(block, name, " To make a new file, use a <file> block.")
                else:
                    results[name] = self._edited(name, original, wanted)
        self._check_places(results)
        if self.problems:
            raise EditProblem(self.problems)
        results = {name: contents for name, contents in results.items() if contents != self._original(name)}
        if not results:
            raise EditProblem(["The edit changes nothing: every file would be as it was."])
        return results
