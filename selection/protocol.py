"""What selection takes and gives: candidates from anywhere, one outcome table, rankings as pure functions over it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from runoff.agent.editing import Candidate
from runoff.agent.testing import GeneratedTest
from runoff.sandbox.protocol import Value

__all__ = [
    "Asked",
    "Candidate",
    "Cell",
    "Confidence",
    "Entry",
    "Features",
    "FurtherKind",
    "GeneratedTest",
    "OutcomeTable",
    "Ranking",
    "Score",
    "Selection",
    "Stability",
    "Standing",
]

Cell = Literal["pass", "fail", "could not tell"]
FurtherKind = Literal["differential", "challenge"]
"""A test asked for since two leaders behave alike, on which they differ; or one that attacks what all leaders agree on."""


class Entry(Value):
    """A distinct candidate: one patch, cleaned, and all who proposed it. `votes` of a cluster are its `proposers`."""

    id: str
    """The id of the first proposer."""
    candidate: Candidate
    proposers: tuple[str, ...]
    wordings: tuple[tuple[str, ...], ...] = ()
    """Those of them whose patches are the same as text (`same_text`) together, as they came. Empty: all of them are."""
    changed_lines: int
    removed: tuple[str, ...] = ()
    """What cleaning took out of the patch, each with its reason."""
    reliability: float | None = None
    """How far a batch of issues speaks for the most reliable of its proposers (agreement.py). None: it says nothing."""

    def of(self, proposers: Collection[str]) -> Entry:
        """As if only these of its proposers had been there."""
        kept = [part for group in self.wordings if (part := tuple(name for name in group if name in proposers))]
        return self.model_copy(
            update={
                "proposers": tuple(name for name in self.proposers if name in proposers),
                "wordings": tuple(kept) if len(kept) > 1 else (),
            }
        )


class OutcomeTable(Value):
    """Entries × tests, and the base row. Every cell is three-valued; nothing is folded together."""

    generated: tuple[str, ...]
    """Ids of the generated tests: those that fail on the base, each distinct script once."""
    base: dict[str, Cell]
    rows: dict[str, dict[str, Cell]]
    """Entry → generated test → cell."""
    control: dict[str, Cell]
    """Entry → what the must-fail control says of it: `pass` disqualifies."""
    repository: tuple[str, ...] = ()
    """Ids of the repository's own tests near the change that passed on the base, twice."""
    broken: dict[str, tuple[str, ...] | None] = {}
    """Entry → which of `repository` fail on it; None: could not tell."""
    reasons: dict[str, str] = {}
    """`entry/test` → why a cell is what it is, where that is not plain."""
    scripts: dict[str, str] = {}
    """Generated test → its text."""
    same: dict[str, tuple[str, ...]] = {}
    """Generated test → all tests that are this script; together they have one vote."""
    authors: dict[str, tuple[str, ...]] = {}
    """Test that candidates brought → the entries of its authors: nobody votes for themselves."""

    def votes(self, entry: str) -> int:
        return sum(
            self.rows[entry][test] == "pass" for test in self.generated if entry not in self.authors.get(test, ())
        )

    def row(self, entry: str) -> tuple[object, ...]:
        """How an entry behaves: entries of one row are indistinguishable by all that was run."""
        return (*(self.rows[entry][test] for test in self.generated), self.broken.get(entry), self.control[entry])

    def part(
        self,
        *,
        entries: Collection[str] | None = None,
        generated: Collection[str] | None = None,
        repository: Collection[str] | None = None,
    ) -> OutcomeTable:
        """Only these rows and columns, in the table's own order; None: all. A test that never voted goes with the others."""
        rows = [name for name in self.rows if entries is None or name in entries]
        tests = {test: 0 for test in self.base | self.same if generated is None or test in generated}
        kept = {test: 0 for test in self.repository if repository is None or test in repository}
        places = {f"{row}/{column}" for row in (*rows, "base") for column in (*tests, "control", "repository")} | {
            "base"
        }
        return self.model_copy(
            update={
                "generated": tuple(test for test in self.generated if test in tests),
                "base": {test: cell for test, cell in self.base.items() if test in tests},
                "rows": {row: {t: cell for t, cell in self.rows[row].items() if t in tests} for row in rows},
                "control": {row: self.control[row] for row in rows if row in self.control},
                "repository": tuple(kept),
                "broken": {
                    row: None if (lost := self.broken[row]) is None else tuple(test for test in lost if test in kept)
                    for row in rows
                    if row in self.broken
                },
                "reasons": {place: why for place, why in self.reasons.items() if place in places},
                "same": {test: names for test, names in self.same.items() if test in tests},
                "authors": {
                    test: tuple(entry for entry in by if entry in rows)
                    for test, by in self.authors.items()
                    if test in tests
                },
                "scripts": {
                    name: text
                    for name, text in self.scripts.items()
                    if name in tests or any(name in self.same.get(test, ()) for test in tests)
                },
            }
        )


class Score(Value):
    """The verifier's word on an entry: P(correct) as a model reads it, without running anything; in a tournament, P(it beats
    the average one)."""

    p: float | None
    """None: no verdict could be read, which is not a no."""
    how: str = ""
    verdicts: tuple[float | None, ...] = ()
    parts: dict[str, tuple[float | None, ...]] = {}
    """Criterion → its verdicts; empty where the entry was judged as a whole."""


class Asked(Value):
    """A further test that was asked for (see further.py), and what came of it."""

    kind: FurtherKind
    entries: tuple[str, ...]
    """Whom it was to tell apart, or to attack."""
    test: str | None
    """Its name among the generated tests; None: there is none, `why` says what for."""
    why: str = ""
    """Its writer's words: why the issue wants it."""


class Standing(Value):
    """An entry's place and what it rests on."""

    entry: str
    disqualified: bool
    gated: bool
    """Among the best by the verifier."""
    broken: int | None
    votes: int
    score: float | None
    proposers: int
    changed_lines: int


class Ranking(Protocol):
    """Best first. Pure: the same table, entries and scores always give the same order."""

    def __call__(
        self, table: OutcomeTable, entries: Sequence[Entry], scores: Mapping[str, Score]
    ) -> list[Standing]: ...


class Features(Value):
    """What was seen of a submission; higher speaks for it. None: not known, which speaks neither way."""

    votes: float | None = None
    """Share of the generated tests that it passes."""
    vote_margin: float | None = None
    """That, less the most that a candidate of another behaviour passes. None: all behave alike."""
    cluster: float | None = None
    """Share of all proposals that behave as it does."""
    score: float | None = None
    """The verifier's P(correct)."""
    score_margin: float | None = None
    """That, less the highest of a candidate of another behaviour."""
    regression: float | None = None
    """1 / (1 + broken tests of the repository). None: there were none to break, or it could not be told."""
    agreement: float | None = None
    """Share of the run-off's rounds that chose its behaviour; a round without a choice chose another. None: there was none."""
    stable: float | None = None
    """Share of what can be left out alone that leaves the ranking's first where it is. None: there is nothing to leave out."""


class Stability(Value):
    """What the first of a ranking hangs on: all that changes it when it alone is left out → who is first then (None: nobody).

    Of a ranking alone: a run-off cannot be held again.
    """

    first: str | None
    tried: int = 0
    """How many were left out, each alone."""
    generated: dict[str, str | None] = {}
    repository: dict[str, str | None] = {}
    """Tests of the repository; those that no entry breaks tell nobody apart and are not tried."""
    members: dict[str, str | None] = {}
    """Trajectories or agents, with their candidates and their tests; not one without whom the first would not be there."""

    @property
    def changed(self) -> int:
        return len(self.generated) + len(self.repository) + len(self.members)

    @property
    def stable(self) -> bool:
        return not self.changed


class Confidence(Value):
    """How sure a selection is of an entry, and what that rests on."""

    of: str
    """The entry that was decided for."""
    p: float | None
    """P(it is right), calibrated. None: uncalibrated, and no probability is claimed."""
    how: str
    """`uncalibrated`, or what the probability was calibrated on."""
    seen: Features
    hangs_on: Stability
    withheld: str | None = None
    """Why it would have been submitted, where the selection abstained."""


class Selection(Value):
    """Which entry is submitted, why, and all it was decided on."""

    chosen: str | None
    reason: str
    """`chosen: …` by the run-off, `undisputed: …` without one, `ranked: …` where none was held, `fallback: …` if it did not
    decide, `abstained: …` where it was not sure enough to submit what it decided for, `none: …`."""
    remarks: tuple[str, ...] = ()
    """What else a reader should know of how it came about: tests that were asked for, and what they said; a line each."""
    entries: tuple[Entry, ...] = ()
    standings: tuple[Standing, ...] = ()
    finalists: tuple[str, ...] = ()
    letters: dict[str, str] = {}
    """Under which letter the run-off, whose reasons speak of letters, was shown which finalist."""
    rounds: tuple[str | None, ...] = ()
    """What each round of the run-off chose, where there were several; None: it came to no choice."""
    table: OutcomeTable | None = None
    silent: dict[str, str] = {}
    """Generated tests of the table whose votes the ranking did not count, each with the reason."""
    scores: dict[str, Score] = {}
    rejected: dict[str, str] = {}
    """Candidates that could not take part, each with the reason."""
    confidence: Confidence | None = None
    """None: there was nothing to be sure of."""

    def entry(self, name: str) -> Entry:
        return next(entry for entry in self.entries if entry.id == name)
