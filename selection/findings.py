"""What the outcome table says of one candidate, as it is told to whoever reads patches. Pure."""

from __future__ import annotations

from typing import Any

from runoff.agent.verdict import capped
from runoff.sandbox.protocol import Value
from runoff.selection.protocol import Cell, OutcomeTable

_SHOWN = 20
"""Tests named of each kind; the rest is counted."""
_SCRIPTS = 3
_SCRIPT = 4_000
"""Characters of each."""


class Findings(Value):
    cells: dict[str, tuple[Cell, str]] = {}
    """Generated test → what it said and, where that is not plain, why. Not those that the candidate brought itself."""
    passed: int = 0
    left_out: int = 0
    """Generated tests that are in `passed` and in `tests`, and not named."""
    tests: int = 0
    repository: int = 0
    """The repository's own tests that passed before."""
    broken: tuple[str, ...] | None = ()
    """Those that no longer do; None: could not tell."""
    why: str = ""

    @property
    def facts(self) -> list[Any]:
        """What was found, without the reasons."""
        return [{test: cell for test, (cell, _) in self.cells.items()}, self.passed, self.tests, self.broken]


def findings(table: OutcomeTable, entry: str) -> Findings:
    tests = [test for test in table.generated if entry not in table.authors.get(test, ())]
    row = table.rows[entry]
    lost = table.broken.get(entry, ())
    named = None if lost is None else lost[:_SHOWN]
    if lost and named and len(lost) > len(named):
        named = (*named, f"and {len(lost) - len(named)} more")
    return Findings(
        cells={test: (row[test], _line(table.reasons.get(f"{entry}/{test}", ""))) for test in tests[:_SHOWN]},
        passed=sum(row[test] == "pass" for test in tests),
        tests=len(tests),
        left_out=max(0, len(tests) - _SHOWN),
        repository=len(table.repository),
        broken=named,
        why=_line(table.reasons.get(f"{entry}/repository", "")),
    )


def telling_scripts(table: OutcomeTable) -> dict[str, str]:
    """Scripts on which candidates differ, in the table's order, at most three: the same for all, so that a prefix holds them."""
    telling = [test for test in table.generated if len({row[test] for row in table.rows.values()}) > 1]
    return {test: capped(table.scripts[test], _SCRIPT) for test in telling[:_SCRIPTS] if test in table.scripts}


def _line(why: str) -> str:
    return capped(" ".join(why.split()), 200)
