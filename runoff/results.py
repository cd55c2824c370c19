"""What `solve`, `elect` and `bench` give to a program: frozen values that can be printed, compared and stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runoff.run import Ledger, Run, Status
from runoff.run import Result as Ended
from runoff.sandbox.protocol import Value
from runoff.selection.protocol import Confidence, Selection

__all__ = ["Batch", "Candidate", "Confidence", "Cost", "Error", "Progress", "Result"]


class Error(Exception):
    """What was asked for cannot be done. Its text is the line that the command line prints; nothing was paid that is not on
    record, and the same call goes on from there.

    A mistake in runoff itself is raised as what it is.
    """

    code: int
    """The exit code of the command line: 2 usage, 3 something is missing (a key, a sandbox, room), 5 infrastructure."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


class Cost(Value):
    """What the calls of a run, or of one instance, took."""

    dollars: float
    """Without the calls at a price that nobody knows."""
    calls: int
    """Calls that were paid for; answers that were played from a recording are not among them."""
    recorded: int
    input: int
    """Tokens, those read from a cache among them."""
    output: int
    unpriced: int
    """Calls at a price that nobody knows: `dollars` is then a lower bound."""
    possibly_billed: int
    """Calls whose answer never came, since a process was killed: they may be on the bill."""


class Candidate(Value):
    """One distinct patch that took part in the selection, and what was seen of it."""

    id: str
    patch: bytes
    """As `git apply` takes it, cleaned of tests, caches, binaries and test-runner configuration."""
    chosen: bool
    proposers: tuple[str, ...]
    """All trajectories, or agents, that made this patch."""
    votes: int | None
    """Generated tests that it passes; None: it was not ranked."""
    broken: int | None
    """Tests of the repository that fail with it and pass without; None: could not tell."""
    score: float | None
    """P(correct) as the verifier reads the patch, without running it; None: no verdict."""


class Result(Value):
    """How an instance ended."""

    instance: str
    status: Status
    """`patch`; `none`: no candidate is good enough; `abstained`: not sure enough, where that was asked for; `budget`: spent before
    there was a patch; `stopped`, `failed`: nobody's verdict on the issue, the same call tries again."""
    reason: str
    """Why that patch, or why none."""
    patch: bytes | None
    """What is submitted; None unless `status` is `patch`."""
    confidence: Confidence | None
    """How sure the choice is. Its `p` is a probability only where a calibration was given, otherwise None."""
    candidates: tuple[Candidate, ...]
    """The distinct patches, best first as they were ranked."""
    rejected: dict[str, str]
    """Candidates that could not take part → the reason."""
    cost: Cost
    run: Path
    """The run's directory: its log, report.html, selection.json."""
    selection: Selection | None
    """All that the choice was made on: the outcome table, the ranking, the run-off."""


class Batch(Value):
    """How several instances ended, in one run and under one budget."""

    results: tuple[Result, ...]
    cost: Cost
    run: Path

    @property
    def predictions(self) -> Path:
        """What is submitted, in SWE-bench's format."""
        return self.run / "preds.jsonl"

    def __getitem__(self, instance: str) -> Result:
        """The result of an instance by its id. Raises KeyError."""
        for result in self.results:
            if result.instance == instance:
                return result
        raise KeyError(instance)


class Progress(Value):
    """How far a run is."""

    instance: str
    """The instance that came to another stage; empty where the whole run is meant."""
    stage: str
    """`environment`, `context`, `trajectories`, `selection` …, at last its status."""
    note: str
    """What a user should know, on one line; mostly empty."""
    ended: int
    """Instances."""
    total: int
    calls: int
    """Paid for in this call."""
    dollars: float


def result(ended: Ended, run: Run) -> Result:
    selection = ended.outcome.selection if ended.outcome else None
    return Result(
        instance=ended.instance,
        status=ended.status,
        reason=ended.why,
        patch=ended.outcome.patch if ended.outcome and ended.status == "patch" else None,
        confidence=selection.confidence if selection else None,
        candidates=tuple(candidates(selection)) if selection else (),
        rejected=selection.rejected if selection else {},
        cost=cost(run.ledger(ended.instance)),
        run=run.directory.path,
        selection=selection,
    )


def batch(ended: Sequence[Ended], run: Run) -> Batch:
    return Batch(results=tuple(result(one, run) for one in ended), cost=cost(run.ledger()), run=run.directory.path)


def candidates(selection: Selection) -> list[Candidate]:
    """The entries of a selection, as they were ranked; those that were not come last."""
    ranked = {standing.entry: standing for standing in selection.standings}
    order = {name: place for place, name in enumerate(ranked)}
    made = []
    for entry in sorted(selection.entries, key=lambda entry: order.get(entry.id, len(order))):
        standing = ranked.get(entry.id)
        made.append(
            Candidate(
                id=entry.id,
                patch=entry.candidate.patch,
                chosen=entry.id == selection.chosen,
                proposers=entry.proposers,
                votes=standing.votes if standing else None,
                broken=standing.broken if standing else None,
                score=standing.score if standing else None,
            )
        )
    return made


def cost(ledger: Ledger) -> Cost:
    return Cost(
        dollars=ledger.cost,
        calls=ledger.calls,
        recorded=ledger.recorded,
        input=ledger.input,
        output=ledger.output,
        unpriced=ledger.unknown,
        possibly_billed=ledger.possibly_billed,
    )
