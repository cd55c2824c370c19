"""Which generated tests have a vote: those that say the same of every candidate are one witness, and a suspected one is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction

from runoff.selection.protocol import Cell, Entry, OutcomeTable, Score

_NOISE = Fraction(1, 1000)
"""Differences of the verifier below this are none, as in the rankings."""
_OTHERS = 2
"""Tests of other behaviours that it takes for a consensus. Of two that contradict each other either may be the wrong one,
however many copies there are of each: the verifier alone would decide, and the rankings give it its place without this."""


def counted(
    table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score], *, once: bool, silence: bool
) -> tuple[OutcomeTable, dict[str, str]]:
    """The table as rankings are to see it, and which of its generated tests have no vote there, each with the reason. Pure.

    `once`: tests of one column have one vote together, as different scripts that test the same thing do not make it more
    right. `silence`: suspected tests have none. With neither it is the table itself.
    """
    silent = dict(suspected(table, entries, scores)) if silence else {}
    same = dict(table.same)
    if once:
        for voter, all_of in alike(table, table.rows).items():
            same[voter] = tuple(dict.fromkeys(name for test in all_of for name in table.same.get(test, (test,))))
            for test in all_of:
                if test != voter:
                    silent.setdefault(test, f"says the same of every candidate as {voter}, which votes for both")
    if not silent:
        return table, {}
    voting = tuple(test for test in table.generated if test not in silent)
    return table.model_copy(update={"generated": voting, "same": same}), silent


def alike(table: OutcomeTable, entries: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Generated tests by their columns over these entries: one test of each → all that have this column.

    The one is the first by name, of those that nobody brought if there are such: an author has no vote from the own test.
    """
    rows, columns = sorted(entries), dict[tuple[Cell, ...], list[str]]()
    for test in table.generated:
        columns.setdefault(tuple(table.rows[row][test] for row in rows), []).append(test)
    return {
        min(tests, key=lambda test: (bool(table.authors.get(test)), test)): tuple(tests) for tests in columns.values()
    }


def suspected(table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]) -> dict[str, str]:
    """Generated tests that are likely toxic, which pass wrong candidates and fail right ones; each with the reason. Pure.

    A test is suspected if those who pass it pass *fewer* of the other tests, on average, than those who fail it, *and* the
    verifier thinks *less* of them, too. That is, its column is anti-correlated with the mean of the others (leave one out)
    and with P(correct): the difference of the means over those who pass and those who fail has the sign of the covariance.
    R2E-Gym (arXiv 2504.07164, section 5) found up to a tenth of the tests toxic on some issues, by labels. There are
    none here, so neither witness is enough: in a simulation, weights by the consensus alone gained little.

    The others are counted once a column, so that copies, of a wrong test or of a right one, gain nothing; it takes two that
    tell candidates apart. *Could not tell* is neither pass nor fail, a missing verdict neither high nor low. Who passes the
    must-fail control is no candidate, and a candidate counts once, however many proposed it.
    """
    able = sorted(entry.id for entry in entries if table.control.get(entry.id) != "pass")
    groups = {test: all_of for test, all_of in alike(table, able).items() if _tells(table, able, test)}
    if len(groups) <= _OTHERS:
        return {}
    p = {name: Fraction(known) for name in able if name in scores and (known := scores[name].p) is not None}
    found = dict[str, str]()
    for test, all_of in groups.items():
        others = [other for other in groups if other != test]

        def share(name: str, others: Sequence[str] = others) -> Fraction | None:
            known = [cell for other in others if (cell := table.rows[name][other]) != "could not tell"]
            return Fraction(known.count("pass"), len(known)) if known else None

        passing, failing = ([name for name in able if table.rows[name][test] == word] for word in ("pass", "fail"))
        of_tests, of_verifier = _means(passing, failing, share), _means(passing, failing, p.get)
        if not of_tests or not of_verifier:
            continue
        if of_tests[0] < of_tests[1] and of_verifier[0] < of_verifier[1] - _NOISE:
            why = (
                "is suspected to be wrong: who passes it passes fewer of the other tests ({:.0%}, not {:.0%}), "
                "and the verifier thinks less of them ({:.2f}, not {:.2f})"
            ).format(*map(float, (*of_tests, *of_verifier)))
            found |= dict.fromkeys(all_of, why)
    return {test: found[test] for test in table.generated if test in found}


def _tells(table: OutcomeTable, entries: Collection[str], test: str) -> bool:
    return {"pass", "fail"} <= {table.rows[name][test] for name in entries}


def _means(
    passing: Sequence[str], failing: Sequence[str], value: Callable[[str], Fraction | None]
) -> tuple[Fraction, Fraction] | None:
    """The mean over those who pass, and over those who fail; None where one of them is not known."""
    sides = [[found for name in side if (found := value(name)) is not None] for side in (passing, failing)]
    if not all(sides):
        return None
    ours, theirs = (sum(side, Fraction()) / len(side) for side in sides)
    return ours, theirs
