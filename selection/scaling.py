"""Adaptive parallel scaling: whether more trajectories are worth their cost, decided on the first k of them by what they did.

A look is pure: it sees the candidates of trajectories 1…k, all of which have ended, and never what happened to end first. So
the same run, continued or replayed, looks alike and decides alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from runoff.sandbox.protocol import Value
from runoff.selection.protocol import Entry, OutcomeTable, Score


class ScalingRecipe(Value):
    first: int = Field(default=4, ge=2)
    """Trajectories before the first look."""
    step: int = Field(default=2, ge=1)
    """Trajectories between two looks."""
    agreement: float = Field(default=0.6, gt=0, le=1)
    """Share of the candidates that must behave alike."""
    unseen: float = Field(default=0.25, ge=0, le=1)
    """Chance that one more candidate behaves as none so far has, at which there is little left to find."""
    margin: float = Field(default=0.3, gt=0, le=1)
    """Distance of the verifier's best two behaviours that tells as much as agreement does."""
    verifier: bool = False
    """Whether the verifier scores candidates before each look; its verdicts are those that selection needs anyway."""


class Look(Value):
    """What the first `trajectories` came to, and what follows."""

    trajectories: int
    candidates: int
    patches: int
    """Distinct ones, by their syntax."""
    behaviours: int
    agreement: float
    """Share of the candidates in the largest behaviour among those that pass most tests."""
    unseen: float
    """Good–Turing: behaviours seen once, by candidates (Good 1953)."""
    margin: float | None = None
    """The verifier's best behaviour before its second best; None: no verdicts, or nothing to tell apart."""
    stop: bool
    why: str


def look(
    trajectories: int,
    entries: Sequence[Entry],
    table: OutcomeTable | None,
    scores: Mapping[str, Score],
    recipe: ScalingRecipe,
) -> Look:
    """Stop where little is left to be found *and* the behaviour that passes most tests leads. `table` None: nothing was run.

    Who passes the must-fail control is no candidate here.
    """
    able = [entry for entry in entries if table is None or table.control.get(entry.id) != "pass"]
    cast, votes = Counter[object](), dict[object, int]()
    for entry in able:
        kind = behaviour(entry, table)
        cast[kind] += len(entry.proposers)
        votes[kind] = table.votes(entry.id) if table and entry.id in table.rows else 0
    candidates, once = cast.total(), sum(count == 1 for count in cast.values())
    most = max(votes.values(), default=0)
    agreement = max((cast[kind] for kind in cast if votes[kind] == most), default=0) / max(1, candidates)
    unseen = once / candidates if candidates else 1.0
    margin = _margin(able, table, scores)
    stop = False
    if not candidates:
        why = "no candidate yet"
    elif table and table.generated and not most:
        why = "no candidate passes a generated test"
    elif unseen > recipe.unseen:
        why = (
            f"one more would behave as none so far with a chance of about {unseen:.0%} (more than {recipe.unseen:.0%})"
        )
    elif agreement >= recipe.agreement:
        stop, why = True, f"{agreement:.0%} behave alike, and little is left to be found ({unseen:.0%})"
    elif margin is not None and margin >= recipe.margin:
        stop, why = True, f"the verifier's best behaviour leads by {margin:.2f}, and little is left ({unseen:.0%})"
    else:
        why = f"no behaviour leads: the one with most votes has {agreement:.0%} (less than {recipe.agreement:.0%})"
    return Look(
        trajectories=trajectories,
        candidates=candidates,
        patches=len(able),
        behaviours=len(cast),
        agreement=agreement,
        unseen=unseen,
        margin=margin,
        stop=stop,
        why=why,
    )


def behaviour(entry: Entry, table: OutcomeTable | None) -> object:
    """What an entry does in the tests that vote; where none does, its patch stands for it."""
    return table.row(entry.id) if table and table.generated and entry.id in table.rows else entry.id


def _margin(entries: Sequence[Entry], table: OutcomeTable | None, scores: Mapping[str, Score]) -> float | None:
    best: dict[object, float] = {}
    for entry in entries:
        if entry.id in scores and (p := scores[entry.id].p) is not None:
            kind = behaviour(entry, table)
            best[kind] = max(p, best.get(kind, 0.0))
    first, *rest = sorted(best.values(), reverse=True) or [0.0]
    return first - rest[0] if rest else None
