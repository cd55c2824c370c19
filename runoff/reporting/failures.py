"""What failed in a run, gathered by what it says."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from runoff.reporting.accounts import Unit
from runoff.reporting.cases import Case
from runoff.reporting.labels import Right
from runoff.sandbox.protocol import Value
from runoff.selection.protocol import Cell, Selection

_MOST_CLUSTERS = 12
_BRIEF = 160  # characters


class Cluster(Value):
    """Failures that read alike."""

    kind: str
    what: str
    """The text, with what differs from one to the next (numbers, names of files) left out."""
    count: int
    instances: int
    example: str
    """Where to look: an instance, and a trajectory or a test of it."""


class Failures:
    """Gathers what failed, by what it says."""

    def __init__(self) -> None:
        self._found = defaultdict[tuple[str, str], list[tuple[str, str]]](list)

    def take(self, case: Case, selection: Selection, units: Iterable[Unit]) -> None:
        if case.fate == "infrastructure":
            self._add("infrastructure", case.why, case.instance, "")
        for unit in units:
            if unit.reason == "error":
                self._add("infrastructure", f"{unit.stage}: {unit.note}", case.instance, unit.name)
            elif not unit.made and unit.reason != "under way":
                self._add(
                    "no result", f"{unit.stage}: {_ENDS.get(unit.reason, '')}{unit.note}", case.instance, unit.name
                )
        for candidate, why in selection.rejected.items():
            self._add("unusable candidate", why, case.instance, candidate)
        if table := selection.table:
            untold = [f"{row}/{test}" for row, cells in table.rows.items() for test in cells if cells[test] == _UNTOLD]
            untold += [f"base/{test}" for test, cell in table.base.items() if cell == _UNTOLD]
            untold += [f"{row}/control" for row, cell in table.control.items() if cell == _UNTOLD]
            untold += [f"{row}/repository" for row, lost in table.broken.items() if lost is None]
            for place in untold:
                self._add(
                    "a test could not tell", table.reasons.get(place, "no reason is on record"), case.instance, place
                )

    def grades(self, right: Right) -> None:
        for kind, why, instance, candidate in right.whys:
            self._add(kind, why, instance, candidate or "what was submitted")

    def clusters(self) -> tuple[Cluster, ...]:
        """The largest of each kind; the kinds in the order of what can be mended soonest."""
        found = [
            Cluster(
                kind=kind,
                what=what,
                count=len(places),
                instances=len({instance for instance, _ in places}),
                example=" ".join(filter(None, places[0])),
            )
            for (kind, what), places in self._found.items()
        ]
        found.sort(key=lambda one: (_KINDS.index(one.kind), -one.count, one.what))
        return tuple(one for kind in _KINDS for one in [one for one in found if one.kind == kind][:_MOST_CLUSTERS])

    def _add(self, kind: str, text: str, instance: str, where: str) -> None:
        self._found[kind, alike(text)].append((instance, where))


_UNTOLD: Cell = "could not tell"
_KINDS = (
    "infrastructure",
    "could not be graded",
    "unusable candidate",
    "a test could not tell",
    "no result",
    "graded wrong",
)
_ENDS = {"turns": "turns used up: ", "context": "context full: ", "budget": "budget spent: "}


def alike(text: str) -> str:
    """A failure's first line without what differs from one to the next: numbers, digests, paths, what stands in quotes."""
    line = next((line for line in text.split("\n") if line.strip()), "").strip()[:1000]
    line = re.sub(r"\b0x[0-9a-fA-F]+\b|\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\b", "…", line)
    line = re.sub(r"(?<![\w.])/?(?:[\w.@+-]+/)+[\w.@+-]*", "…/", line)
    line = re.sub(r"'[^']{1,200}'|\"[^\"]{1,200}\"|`[^`]{1,200}`", "‘…’", line)
    line = re.sub(r"\b(testing|editing|shell|tools|agent)-\d+\b", r"\1-n", line)
    return brief(re.sub(r"\d+(?:[.,]\d+)*", "N", line)) or "no reason is on record"


def brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _BRIEF else line[: _BRIEF - 1] + "…"


__all__ = ["Cluster", "Failures", "alike", "brief"]
