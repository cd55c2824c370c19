"""Replacing a piece of text that stands at one place of a file, said as the whole-line edit that it comes to."""

from __future__ import annotations

from runoff.agent.edits.apply import EditProblem
from runoff.agent.edits.grammar import Edit, Pair
from runoff.agent.edits.match import Lines, places, spelled


def replacement(path: str, contents: bytes, old: str, new: str) -> Edit:
    """The edit that puts `new` in the place of `old`. Raises EditProblem if `old` stands at several places.

    Whole lines are taken as such first: then it does not matter whether the last newline is quoted, and an empty `new`
    deletes them. Otherwise `old` may begin and end within lines. An `old` that stands nowhere is left for `apply` to refuse.
    """
    lines, search = Lines.of(contents), _lines(old)
    if not search or len(places(lines, search)) == 1:
        return Edit(path, (Pair(search, _lines(new)),))
    text = "".join(f"{line}\n" for line in lines.texts)
    old, new = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
    found = _places(text, old)
    if len(found) > 1:
        where = spelled(text.count("\n", 0, place) + 1 for place in found)
        raise EditProblem([f"edit {path}: the old text stands at {len(found)} places, {where}; quote more around it."])
    if not found:
        return Edit(path, (Pair(search, _lines(new)),))
    at, end = found[0], found[0] + len(old)
    if old.endswith("\n") and new.endswith("\n"):
        end, new = end - 1, new[:-1]
    start, stop = text.rfind("\n", 0, at) + 1, text.find("\n", end)
    stop = len(text) - 1 if stop < 0 else stop  # the last newline is itself replaced: the file keeps it
    changed = text[start:at] + new + text[end:stop]
    return Edit(path, (Pair(tuple(text[start:stop].split("\n")), tuple(changed.split("\n"))),))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.removesuffix("\n").split("\n")) if text else ()


def _places(text: str, wanted: str) -> list[int]:
    found, at = [], text.find(wanted)
    while at >= 0:
        found.append(at)
        at = text.find(wanted, at + 1)
    return found
