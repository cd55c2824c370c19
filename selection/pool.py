"""What a selection rule is given: the candidates of one issue, and what was run of them, if anything was. And the plain rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TypeVar

from runoff.sandbox.protocol import Raw, Value
from runoff.selection.likeness import Atoms, Traits, likeness, nearness, traits
from runoff.selection.protocol import Entry, OutcomeTable


class Member(Value):
    """A candidate of a pool. Nothing in it says whether it is right."""

    id: str
    agent: str
    patch: Raw


class Pool(Value):
    """The candidates of one issue, in the order they were given."""

    instance: str
    members: tuple[Member, ...]
    table: OutcomeTable | None = None
    """What executing them showed; its entries are members by id."""

    @cached_property
    def traits(self) -> tuple[Traits, ...]:
        return tuple(_traits(member.patch) for member in self.members)

    @cached_property
    def atoms(self) -> tuple[Atoms, ...]:
        return tuple(found.atoms for found in self.traits)

    @cached_property
    def likeness(self) -> Square:
        """Of the changed lines of every two members, by their places."""
        return _square(self.atoms, likeness)

    @cached_property
    def nearness(self) -> Square:
        return _square([member.patch for member in self.members], _near)

    def only(self, ids: Collection[str]) -> Pool:
        """The pool of some of its members, without a table. What is known of pairs is kept, not computed again."""
        places = [n for n, member in enumerate(self.members) if member.id in ids]
        part = Pool(instance=self.instance, members=tuple(self.members[n] for n in places))
        for name in ("likeness", "nearness"):
            square = getattr(self, name)
            part.__dict__[name] = tuple(tuple(square[a][b] for b in places) for a in places)
        part.__dict__["traits"] = tuple(self.traits[n] for n in places)
        return part


def proposed(entries: Sequence[Entry], origins: Mapping[str, str] = {}) -> Pool:
    """All that was proposed for an issue, whoever proposed the same. `origins`: candidate → its agent, if that has another name."""
    return Pool(
        instance="",
        members=tuple(
            Member(id=name, agent=origins.get(name, name), patch=entry.candidate.patch)
            for entry in entries
            for name in entry.proposers
        ),
    )


@lru_cache(1 << 12)
def _traits(patch: bytes) -> Traits:
    return traits(patch)


@lru_cache(1 << 16)
def _near(one: bytes, other: bytes) -> float:
    """Of two patches, once: the same ones are ranked again without each candidate and by each rule."""
    return nearness(_traits(one), _traits(other))


Square = tuple[tuple[float, ...], ...]
T = TypeVar("T")


def _square(of: Sequence[T], measure: Callable[[T, T], float]) -> Square:
    rows = [[0.0] * len(of) for _ in of]
    for a, one in enumerate(of):
        for b in range(a + 1):
            rows[a][b] = rows[b][a] = measure(one, of[b])
    return tuple(map(tuple, rows))


Rule = Callable[[Pool], list[float]]
"""A score a member, in the order of the members; the highest is selected, equal ones are undecided. Pure."""


def first(pool: Pool) -> list[float]:
    return [-float(n) for n in range(len(pool.members))]


def shortest(pool: Pool) -> list[float]:
    """Fewest bytes of diff; an empty one is last."""
    return [-float(len(member.patch)) if member.patch.strip() else float("-inf") for member in pool.members]


def majority(same: Callable[[bytes], str]) -> Rule:
    """Most members that are the same change, `same` giving equal names to equal ones. A patch without atoms has no vote."""

    def rule(pool: Pool) -> list[float]:
        names = [same(member.patch) if bag else "" for member, bag in zip(pool.members, pool.atoms, strict=True)]
        count = Counter(names)
        return [float(count[name]) if name else 0.0 for name in names]

    return rule


def blind(pool: Pool) -> list[float]:
    """How near a member is to the others, on average: right patches resemble each other, wrong ones scatter."""
    return [(sum(row) - row[n]) / max(1, len(row) - 1) for n, row in enumerate(pool.nearness)]
