"""An instance of a run as the report has it: its fate, what became of its candidates, what labels say of them."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from runoff.reporting.accounts import Stage, Took, Unit
from runoff.sandbox.protocol import Value
from runoff.selection.protocol import Selection

Fate = Literal[
    "infrastructure",
    "unfinished",
    "not graded",
    "files missed",
    "no candidate",
    "no right candidate",
    "not known",
    "not selected",
    "resolved",
]
"""Where an instance ended, or was lost, first to last; every instance has one, so their numbers add up.

`infrastructure`: it could not be worked on, which is no verdict. `unfinished`: it has come to no selection yet. `not graded`:
nobody has said whether what was submitted is right. `files missed`: no candidate is right, and the context lacked a file
that the fix changes. `no candidate`: none that could be used. `no right candidate`: there were some. `not known`: what was
submitted is wrong, and other candidates have no label, so a right one may have been there. `not selected`: one was.
"""
FATES: tuple[Fate, ...] = get_args(Fate)
OPEN: tuple[Fate, ...] = ("infrastructure", "unfinished", "not graded")
"""Those of which it is not known whether they are resolved."""


class Case(Value):
    """An instance of a run."""

    instance: str
    fate: Fate
    status: str
    """As the run says: patch, none, abstained, budget, stopped or failed; empty: it has not ended."""
    why: str
    resolved: bool | None
    chosen: str | None
    """What is submitted."""
    members: int
    """Trajectories, or agents."""
    proposals: int
    candidates: int
    """Distinct ones that could be used."""
    votes: int | None
    """Generated tests that what is chosen passes; None: nothing is, or there is no table."""
    tests: int
    """Generated tests that vote."""
    right: int | None
    """Members whose candidate is right; None: not all have a label."""
    missed: tuple[str, ...] = ()
    """Files that the fix changes and the context lacked."""
    took: Took = Took()
    damaged: int = 0
    possibly_billed: int = 0


class Known(NamedTuple):
    """What labels say of an instance's candidates."""

    labels: dict[str, bool | None]
    """Of all that were proposed."""
    members: dict[str, bool]
    """Trajectory or agent → whether it has a right candidate; who has none at all has not."""

    @property
    def complete(self) -> bool:
        return None not in self.labels.values()


class Read(NamedTuple):
    """An instance, and what its figures are made of."""

    case: Case
    known: Known
    selection: Selection
    units: list[Unit]
    stages: dict[Stage, Took]


__all__ = ["FATES", "OPEN", "Case", "Fate", "Known", "Read"]
