"""The named rankings: each some lines over the same evidence, exchangeable, pure. Best first, always the same order.

Plug-ins register theirs under the entry point `runoff.rankings`. Who passes the must-fail control is last under all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points

from runoff.selection.agreement import known
from runoff.selection.pool import blind, proposed
from runoff.selection.protocol import Entry, OutcomeTable, Ranking, Score, Standing
from runoff.selection.ranking import broken_tests, hybrid, standings, verdict

_WEIGHT = 0.5
"""Of a generated test in `log_odds`: log-likelihood ratio, shrunk to one for all (methods: the simulation of hybrids)."""


class UnknownRanking(Exception):
    """No ranking has this name; the message names those there are."""


def ranking(name: str) -> Ranking:
    """Raises UnknownRanking."""
    if name in RANKINGS:
        return RANKINGS[name]
    plugged = {point.name: point for point in entry_points(group="runoff.rankings")}
    if name in plugged:
        return plugged[name].load()  # type: ignore[no-any-return]
    raise UnknownRanking(f"no ranking is called {name!r}; there are {', '.join(sorted([*RANKINGS, *plugged]))}")


def r2e(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """R2E-Gym, arXiv 2504.07164, section 4: gate, fewest broken, most votes, then the verifier."""
    return hybrid(table, entries, scores, margin=0)


def codemonkeys(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """CodeMonkeys, arXiv 2501.14723, section 4.3: most votes, then the shorter patch. No regression tests, no verifier."""
    return _ranked(
        table, entries, scores, lambda entry: (-table.votes(entry.id), len(entry.candidate.patch), entry.changed_lines)
    )


def agentless(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """Agentless, arXiv 2407.01489, section 3.4: fewest broken, then who passes *the* reproduction test, then the majority.

    The one test is the script that most testers wrote.
    """
    the_one = max(table.generated, key=lambda test: len(table.same.get(test, (test,))), default=None)

    def key(entry: Entry) -> tuple[object, ...]:
        fails = the_one is not None and table.rows[entry.id][the_one] != "pass"
        return (broken_tests(table, entry.id), fails, -len(entry.proposers))

    return _ranked(table, entries, scores, key)


def trae(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """Trae Agent, arXiv 2507.23370, section 3.3, up to its selector: who breaks nothing, if anyone, then the largest group."""
    return _ranked(table, entries, scores, lambda entry: (broken_tests(table, entry.id) > 0, -len(entry.proposers)))


def codet(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """CodeT, arXiv 2207.10397, section 2.2: candidates of one behaviour × tests that they pass; fewest broken before it."""
    members = Counter[object]()
    for entry in entries:
        members[table.row(entry.id)] += len(entry.proposers)
    return _ranked(
        table,
        entries,
        scores,
        lambda entry: (broken_tests(table, entry.id), -members[table.row(entry.id)] * table.votes(entry.id)),
    )


def agreement(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """Most votes, fewest broken, then whose agent the batch speaks for, and how near a change is to those of all others.

    What there is to go by without a model: right changes resemble each other. Nearness is `pool.blind`; what a batch says
    of its agents, `agreement.relied_on`. All are measured in docs/measured (selection by text, elections), and so is the
    order: a right change may break a test that holds what it is to change.
    """
    pool = proposed(entries)
    near = dict(zip([member.id for member in pool.members], blind(pool), strict=True))
    return _ranked(
        table,
        entries,
        scores,
        lambda entry: (
            -table.votes(entry.id),
            broken_tests(table, entry.id),
            -round(known(entry.reliability, near[entry.proposers[0]]), 9),
        ),
    )


def log_odds(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """Evidence added up instead of in an order: no single bad test decides, and none is ignored.

    logit P(verifier) + a weight for each vote + log of how many proposed it, less one for each broken test, at most three.
    """

    def sum_of(entry: Entry) -> float:
        p = min(max(verdict(scores, entry.id), 0.02), 0.98)
        agree = math.log(len(entry.proposers))
        return math.log(p / (1 - p)) + _WEIGHT * table.votes(entry.id) + agree - min(3.0, broken_tests(table, entry.id))

    return _ranked(table, entries, scores, lambda entry: (-round(sum_of(entry), 9),))


def majority(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """The patch that most proposed (self-consistency): nothing is executed for it."""
    return _ranked(table, entries, scores, lambda entry: (-len(entry.proposers),))


def regression(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """Fewest broken tests alone."""
    return _ranked(table, entries, scores, lambda entry: (broken_tests(table, entry.id),))


def votes(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """Most generated tests passed alone."""
    return _ranked(table, entries, scores, lambda entry: (-table.votes(entry.id),))


def verifier(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Standing]:
    """The verifier alone."""
    return _ranked(table, entries, scores, lambda entry: (-round(verdict(scores, entry.id), 3),))


RANKINGS: Mapping[str, Ranking] = {
    "margin": hybrid,
    "r2e": r2e,
    "codemonkeys": codemonkeys,
    "agentless": agentless,
    "trae": trae,
    "codet": codet,
    "agreement": agreement,
    "log-odds": log_odds,
    "majority": majority,
    "regression": regression,
    "votes": votes,
    "verifier": verifier,
}
"""`margin` is the default, `agreement` where there is no model. The last four are one kind of evidence each, to see what it gives alone."""


def _ranked(
    table: OutcomeTable,
    entries: Sequence[Entry],
    scores: Mapping[str, Score],
    key: Callable[[Entry], tuple[object, ...]],
) -> list[Standing]:
    """By `key`, least first; then the change that more proposed, then the smaller one, then by id."""
    able = [entry for entry in entries if table.control.get(entry.id) != "pass"]

    def whole(entry: Entry) -> tuple[object, ...]:
        return (
            table.control.get(entry.id) == "pass",
            *key(entry),
            -len(entry.proposers),
            entry.changed_lines,
            entry.id,
        )

    return standings(table, sorted(entries, key=whole), scores, {entry.id for entry in able}, able)
