"""The evidence of a selection: everything it is decided on, as one value. What `replay` needs, and all that it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection

from runoff.sandbox.protocol import Value
from runoff.selection.fusion import FUSION, Fusion
from runoff.selection.protocol import Asked, Entry, OutcomeTable, Score


class Evidence(Value):
    """Nothing is executed or asked to decide on it: every ranking, gate and subset is a pure function of this."""

    entries: tuple[Entry, ...] = ()
    rejected: dict[str, str] = {}
    """Candidates that could not take part, each with the reason."""
    table: OutcomeTable | None = None
    """None where there is no entry."""
    scores: dict[str, Score] = {}
    origins: dict[str, str] = {}
    """Candidate or test → whose it is: a trajectory's number, an agent's name. What is not named is its own."""
    reliability: dict[str, float] = {}
    """Agent → how far above the others' its chance to be right lies, learned over a batch without labels (agreement.py)."""
    fusion: Fusion | None = None
    """How the candidate `fusion` was made of others."""
    exempt: dict[str, str] = {}
    """Test of the repository that does not count → why, in the words of the model that exempted it."""
    further: tuple[Asked, ...] = ()
    """Tests that were asked for when the others were there, in order; those that there are have their columns in the table."""

    @property
    def judged(self) -> OutcomeTable | None:
        """The table that is decided on: without the tests that are exempt."""
        if not self.table or not self.exempt:
            return self.table
        return self.table.part(repository=[test for test in self.table.repository if test not in self.exempt])

    def origin(self, name: str) -> str:
        return self.origins.get(name, name)

    def members(self) -> list[str]:
        """Whoever proposed a candidate, also one that could not take part; in order, each once."""
        proposed = [name for entry in self.entries for name in entry.proposers]
        return list(dict.fromkeys(self.origin(name) for name in [*proposed, *self.rejected] if name != FUSION))

    def relied_on(self) -> tuple[Entry, ...]:
        """The entries, with what the batch says of their agents. A fusion is relied on as the member that it was made from."""
        if not self.reliability:
            return self.entries

        def of(entry: Entry) -> float | None:
            like = self.fusion.like if self.fusion else ""
            whose = (self.origin(like if name == FUSION else name) for name in entry.proposers)
            return max((self.reliability[agent] for agent in whose if agent in self.reliability), default=None)

        return tuple(entry.model_copy(update={"reliability": of(entry)}) for entry in self.entries)

    def outside(self) -> set[str]:
        """Tests that are nobody's of those who propose: given from outside, or written among other agents' patches."""
        names = [name for all_of in self.table.same.values() for name in all_of] if self.table else []
        return {name for name in names if name not in self.origins}

    def among(self, members: Collection[str]) -> Evidence:
        """As if only these had been there: without the candidates *and the tests* of all others.

        CodeMonkeys (arXiv 2501.14723) computes its curves so; with everyone's tests, small subsets would look better than
        they are. An entry keeps its id, whoever proposed it first. Which of the repository's tests were run does not
        change: they were chosen near the changes of all. A further test stays where all stay between whom it was asked for.
        """

        def theirs(name: str) -> bool:
            made_of = self.fusion.members if name == FUSION and self.fusion else (name,)
            return all(self.origin(one) in members for one in made_of)

        entries = [entry.of(kept) for entry in self.entries if (kept := tuple(filter(theirs, entry.proposers)))]
        names = {entry.id for entry in entries}
        further = tuple(asked for asked in self.further if names.issuperset(asked.entries))
        asked_for = {asked.test: asked in further for asked in self.further}

        def voting(name: str) -> bool:
            return asked_for.get(name, theirs(name))

        return Evidence(
            entries=tuple(entries),
            rejected={name: why for name, why in self.rejected.items() if theirs(name)},
            table=_restricted(self.table, names, voting) if self.table and entries else None,
            scores={name: score for name, score in self.scores.items() if name in names},
            origins={name: whose for name, whose in self.origins.items() if whose in members},
            reliability=self.reliability,
            exempt=self.exempt,
            fusion=self.fusion if theirs(FUSION) else None,
            further=further,
        )


def _restricted(table: OutcomeTable, entries: Collection[str], theirs: Callable[[str], bool]) -> OutcomeTable:
    same = {test: kept for test, all_of in table.same.items() if (kept := tuple(filter(theirs, all_of)))}
    return table.model_copy(update={"same": same}).part(entries=entries, generated=same)
