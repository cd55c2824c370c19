"""What the logs of a run say it took: every unit of work with its calls, its executions and how it ended, each log read once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from runoff.agent.log import Record, ledger_line
from runoff.agent.step import execution_key
from runoff.run import Ledger, totalled
from runoff.sandbox.protocol import Value

Stage = Literal[
    "relevance",
    "ranking",
    "testing",
    "editing",
    "shell",
    "tools",
    "votes",
    "verifier",
    "further tests",
    "run-off",
    "other",
]
"""`votes`: cells of the outcome table, the repository's own tests among them, and whatever else no trajectory asked for."""
STAGES: tuple[Stage, ...] = get_args(Stage)

AGENTS: tuple[Stage, ...] = ("editing", "shell", "tools")
"""Those whose trajectories end in a candidate."""

_BY_NAME: Mapping[str, Stage] = {
    "testing": "testing",
    "editing": "editing",
    "shell": "shell",
    "tools": "tools",
    "verdict": "verifier",
    "compare": "verifier",
    "criteria": "verifier",
    "differential": "further tests",
    "challenge": "further tests",
    "run-off": "run-off",
}


class Took(Value):
    """What something took. Seconds are added up over what ran together, and waiting for a sandbox is not among them."""

    calls: Ledger = Ledger()
    asking: float | None = 0.0
    """Seconds between requests and their replies, waiting for the provider and retries included; None: of some calls it is
    not on record, as in logs of before it was kept."""
    executions: int = 0
    executing: float = 0.0
    """Seconds."""
    stopped: int = 0
    """Executions that ran out of time, or were killed for a limit."""

    def __add__(self, other: Took) -> Took:
        return Took(
            calls=Ledger(
                **{name: getattr(self.calls, name) + getattr(other.calls, name) for name in Ledger.model_fields}
            ),
            asking=None if self.asking is None or other.asking is None else self.asking + other.asking,
            executions=self.executions + other.executions,
            executing=self.executing + other.executing,
            stopped=self.stopped + other.stopped,
        )

    @property
    def seconds(self) -> float:
        """All that is known of."""
        return (self.asking or 0.0) + self.executing

    @property
    def cached(self) -> float | None:
        """Share of the input that came from the provider's cache; None: nothing was sent."""
        return self.calls.cached / self.calls.input if self.calls.input else None


class Unit(Value):
    """A trajectory, or what else is counted together: an instance's votes."""

    instance: str
    name: str
    stage: Stage
    """Of a unit of several, the one that it begins with."""
    took: Took
    reason: str
    """How it ended, as `Ended` says; `under way`: neither an end nor a stop is on record."""
    note: str = ""
    made: bool = False
    """Whether it ended in something: a candidate, a test, a verdict."""


class Account:
    """What one log says. Told its records in order."""

    def __init__(self, instance: str, sandbox: str) -> None:
        """`sandbox`: the backend's name, under which executions are kept."""
        self.context: tuple[str, ...] | None = None
        """The files that were shown, whole or in part; None: nothing was chosen."""
        self.patches: dict[str, str] = {}
        """Trajectory → the patch that it ended in."""
        self._instance, self._sandbox = instance, sandbox
        self._lines = defaultdict[tuple[str, Stage], list[Record]](list)
        self._results: dict[str, Mapping[str, Any]] = {}
        self._claimed: dict[str, tuple[str, Stage]] = {}
        self._ends: dict[str, tuple[str, str, bool]] = {}
        self._open: dict[tuple[str, str], int] = defaultdict(int)

    def take(self, record: Record) -> None:
        kind = record["kind"]
        if kind == "execution":
            done = record["result"]
            self._results[record["key"]] = {part: done.get(part) for part in ("seconds", "outcome")}
            return
        if kind in ("opened", "derived"):
            return
        t, path = record["t"], record.get("path", "")
        if kind == "execute":
            self._claimed.setdefault(execution_key(self._sandbox, record["request"]), (t, stage_of(t, path)))
            self._ends.setdefault(t, ("under way", "", False))
        elif kind == "intent":
            self._open[t, path] += 1
            self._ends.setdefault(t, ("under way", "", False))
        elif kind in ("ask", "refused"):
            self._open[t, path] -= self._open[t, path] > 0
            if "result" in record:
                self._lines[t, stage_of(t, path)].append(ledger_line(record))
        elif kind == "end":
            ended = record["result"]
            value = ended.get("value")
            self._ends[t] = (ended["reason"], ended.get("note", ""), value is not None)
            if t == "context" and value:
                self.context = (*value["whole"], *value.get("outlined", ()), *value.get("excerpts", ()))
            elif isinstance(value, dict) and "patch" in value:
                self.patches[t] = value["patch"]
        elif kind == "stopped":
            self._ends[t] = (record["reason"], record["why"], False)
        elif kind == "set aside" and t in self._ends:
            self._ends[t] = ("under way", "", False)
            self.patches.pop(t, None)

    @property
    def possibly_billed(self) -> int:
        """Requests that no reply is on record for."""
        return sum(self._open.values())

    def stages(self) -> dict[Stage, Took]:
        """What each stage took, in their order; those that took nothing are left out."""
        return dict(sorted(self._by(1).items(), key=lambda one: STAGES.index(one[0])))

    def units(self) -> list[Unit]:
        """In the order in which they began. What trajectories executed in common is the first one's."""
        took = self._by(0)
        names = dict.fromkeys((*self._ends, *took))
        found = []
        for name in names:
            reason, note, made = self._ends.get(name, ("done", "", True))
            stage: Stage = "votes" if name == VOTES else stage_of(name)
            found.append(
                Unit(
                    instance=self._instance,
                    name=name,
                    stage=stage,
                    took=took.get(name, Took()),
                    reason=reason,
                    note=note,
                    made=made,
                )
            )
        return found

    def _by(self, part: Literal[0, 1]) -> dict[Any, Took]:
        """By the name of the unit, or by the stage."""
        lines, runs = defaultdict[str, list[Record]](list), defaultdict[str, list[Mapping[str, Any]]](list)
        for whose, found in self._lines.items():
            lines[whose[part]] += found
        for key, done in self._results.items():
            runs[self._claimed.get(key, (VOTES, "votes"))[part]].append(done)
        return {name: _took(lines.get(name, ()), runs.get(name, ())) for name in {**lines, **runs}}


VOTES = "votes"
"""The unit of all executions of an instance that no trajectory asked for."""


def stage_of(name: str, path: str = "") -> Stage:
    """The stage of a trajectory; of its context's questions by their path."""
    if name == "context":
        return "ranking" if path.startswith("ranking") else "relevance"
    if name.startswith("run-off-"):
        return "run-off"
    return _BY_NAME.get(re.split(r"[-.@]", name, maxsplit=1)[0], "other")


def _took(lines: Iterable[Record], runs: Iterable[Mapping[str, Any]]) -> Took:
    lines, runs = list(lines), list(runs)
    times = [line["seconds"] for line in lines]
    return Took(
        calls=totalled(lines),
        asking=None if None in times else sum(times),
        executions=len(runs),
        executing=sum(done["seconds"] or 0.0 for done in runs),
        stopped=sum(done["outcome"] in ("timed out", "killed") for done in runs),
    )
