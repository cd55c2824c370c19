"""Which tests of the repository hold what an issue wants changed, by who breaks them: no model is asked, and nothing is run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from runoff.selection.protocol import Entry, OutcomeTable

_FAMILIES = 2
"""Families that must break a test: what one does alone, or many copies of one, says nothing of the test."""


def outdated(
    table: OutcomeTable,
    entries: Sequence[Entry],
    origin: Callable[[str], str],
    reliability: Mapping[str, float],
    families: Mapping[str, str],
) -> tuple[str, ...]:
    """The tests that most of the agents which a batch speaks for break, in the table's order. Pure.

    A right change breaks a test of the behaviour that it is to change, and *fewest broken* then prefers those who change
    nothing. Each family of agents (agreement.py) has one voice, as strong as the reliability of its best, and shares it out
    among its candidates; who is right less often than the others has none. So neither copies under many names nor agents that
    a batch knows little of talk a test away. `origin`: candidate → agent. Without families no test is outdated.
    """
    proposed = defaultdict[str, set[str]](set)
    voice = defaultdict[str, float](float)
    for entry in entries:
        if table.broken.get(entry.id) is None:
            continue
        for agent in map(origin, entry.proposers):
            if (family := families.get(agent)) and reliability.get(agent, 0.0) > 0:
                proposed[family].add(entry.id)
                voice[family] = max(voice[family], reliability[agent])
    against, breaking = defaultdict[str, float](float), defaultdict[str, set[str]](set)
    for family, names in sorted(proposed.items()):
        for name in sorted(names):
            for test in table.broken[name] or ():
                against[test] += voice[family] / len(names)
                breaking[test].add(family)
    half = sum(voice.values()) / 2
    return tuple(test for test in table.repository if against[test] > half and len(breaking[test]) >= _FAMILIES)
