"""Hybrid rankings over one outcome table: existing tests prune, generated tests vote, the verifier gates and breaks ties."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runoff.selection.protocol import Entry, OutcomeTable, Score, Standing

UNKNOWN = 0.5
"""Where a missing verdict stands among verdicts: in the middle, for missing is not no."""


def hybrid(
    table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score], *, gate: float = 0.5, margin: int = 1
) -> list[Standing]:
    """Gate by the verifier, then fewest broken tests, then votes, then the verifier again. Best first.

    R2E-Gym (arXiv 2504.07164, section 4) ranks so with margin 0: the best `max(3, gate · k)` by the verifier stay, of them
    those that break fewest of the repository's tests, then most votes. With a margin, whoever is within `margin` votes
    of the best counts as level, and the verifier decides: one bad generated test cannot decide alone. (So it takes three
    tests for a margin of one: with fewer there is nothing that could outvote a bad one.) Ties go to the
    change that more trajectories proposed, then to the smaller one, then by id. Who passes the must-fail control is last.
    """
    p = {entry.id: verdict(scores, entry.id) for entry in entries}
    able = [entry for entry in entries if table.control.get(entry.id) != "pass"]
    gated = gated_by(able, scores, gate)
    broken = {entry.id: broken_tests(table, entry.id) for entry in entries}
    fewest = min((broken[name] for name in gated), default=0)
    best = max((table.votes(name) for name in gated if broken[name] == fewest), default=0)

    margin = min(margin, max(0, len(table.generated) - 1) // 2)

    def key(entry: Entry) -> tuple[object, ...]:
        votes = table.votes(entry.id)
        level = 0 if votes >= best - margin else best - votes
        place = (
            table.control.get(entry.id) == "pass",
            entry.id not in gated,
            broken[entry.id],
            level,
            -round(p[entry.id], 3),
            -votes,
        )
        return (*place, -len(entry.proposers), entry.changed_lines, entry.id)

    return standings(table, sorted(entries, key=key), scores, gated, able)


def gated_by(able: Sequence[Entry], scores: Mapping[str, Score], share: float) -> set[str]:
    """Who stays: the best share by the verifier, at least three, and all who are level with the last of them."""
    cut = sorted((verdict(scores, entry.id) for entry in able), reverse=True)[: max(3, math.ceil(share * len(able)))]
    return {entry.id for entry in able if verdict(scores, entry.id) >= cut[-1]}


def standings(
    table: OutcomeTable, order: Sequence[Entry], scores: Mapping[str, Score], gated: set[str], able: Sequence[Entry]
) -> list[Standing]:
    """What the places of an order rest on."""
    names = {entry.id for entry in able}
    return [_standing(table, entry, scores, gated, names) for entry in order]


def _standing(
    table: OutcomeTable, entry: Entry, scores: Mapping[str, Score], gated: set[str], able: set[str]
) -> Standing:
    lost = table.broken.get(entry.id, ())
    return Standing(
        entry=entry.id,
        disqualified=entry.id not in able,
        gated=entry.id in gated,
        broken=None if lost is None else len(lost),
        votes=table.votes(entry.id),
        score=scores[entry.id].p if entry.id in scores else None,
        proposers=len(entry.proposers),
        changed_lines=entry.changed_lines,
    )


def verdict(scores: Mapping[str, Score], name: str) -> float:
    """P(correct) by the verifier, UNKNOWN without one."""
    found = scores[name].p if name in scores else None
    return UNKNOWN if found is None else found


def broken_tests(table: OutcomeTable, name: str) -> float:
    """Broken tests; an entry whose tests could not tell stands behind all that break one, before those that break two."""
    lost = table.broken.get(name, ())
    return 1.5 if lost is None else len(lost)
