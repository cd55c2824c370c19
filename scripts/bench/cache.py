"""How much of what the trajectories of an issue send lies in a prefix that an earlier call of the issue has sent.

Pure: over the event logs of runs, each issue's asks in the order of their intents. A provider's cache reads what begins
like an earlier prompt: the messages from the first on that are alike, and of the first that is not, the text they have
in common. Tokens are the project's estimate (`budget.estimated`). Counted are trajectories 2 to N, testing and editing;
what finds the context, judges and chooses is sent, too, and stands apart. It is what a cache could read, if every earlier
call had been answered and nothing had left the cache. Beside it, what the same conversations would give in other orders:

    stage first  each stage's instruction, then issue and context, then the rest, as in CodeMonkeys: a prefix a stage
    task first   the whole task of the trajectory, the test in it, then issue and context: as if nobody had thought of it

With --context TOKENS the context that an issue's trajectories share is padded to that size, all else as recorded: the demo's
is small, so that what is new in each call weighs more in it than it does on a large repository.

    scripts/bench/cache [--context TOKENS] RUN...
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from runoff.agent.log import read

Talk = tuple[str, ...]
"""The texts of a conversation's messages, in order; the first is what the trajectories of an issue share."""


class Asked(NamedTuple):
    trajectory: str
    talk: Talk

    @property
    def stage(self) -> str:
        """testing, editing, verdict, …: the trajectory's name without its number, or whose it is."""
        return re.sub(r"(-editing)?-\d.*", "", self.trajectory)

    @property
    def first(self) -> bool:
        """Whether it is of an issue's first trajectory, before which nothing could be cached."""
        return self.trajectory in ("testing-1", "editing-1")


class Share(NamedTuple):
    """Estimated input tokens of some calls, and those of them that a cache could read."""

    known: int
    all: int

    def __add__(self, other: object) -> Share:
        return Share(self.known + other.known, self.all + other.all) if isinstance(other, Share) else NotImplemented

    def __str__(self) -> str:
        return f"{self.known / self.all:7.1%} of {self.all:11,} tokens" if self.all else "no calls"


def asked(log: Path) -> list[Asked]:
    """What was sent, in order, from an event log."""
    before: dict[str, tuple[str, str]] = {}
    calls = []
    for record in read(log):
        for digest, previous, *said in record.get("new", ()):
            before[digest] = previous, said[1] if said else record["result"]["text"]
        if record["kind"] == "intent":
            here, texts = record["request"]["messages"], list[str]()
            while here:
                here, text = before[here]
                texts.append(text)
            calls.append(Asked(record["t"], tuple(reversed(texts))))
    return calls


def shared(calls: Sequence[Asked]) -> dict[str, Share]:
    """By stage, what lies in a prefix sent before; the first trajectory's calls are sent, but not counted."""
    following: defaultdict[Talk, set[str]] = defaultdict(set)
    found: defaultdict[str, Share] = defaultdict(lambda: Share(0, 0))
    for call in calls:
        known, alike = 0, True
        for number, text in enumerate(call.talk):
            others = following[call.talk[:number]]
            if alike and text in others:
                known += tokens(text)
            elif alike:
                alike = False
                known += max((common([text, other]) // 4 for other in others), default=0)
            others.add(text)
        if not call.first:
            found[call.stage] += Share(known, sum(map(tokens, call.talk)))
    return dict(found)


def tokens(text: str) -> int:
    return len(text) // 4 + 4


def common(texts: Sequence[str]) -> int:
    """Characters with which all begin."""
    return len(os.path.commonprefix(list(texts)))  # noqa: RUF071 - characters are what is meant


def as_sent(calls: Sequence[Asked]) -> list[Asked]:
    return list(calls)


def stage_first(calls: Sequence[Asked]) -> list[Asked]:
    tasks = defaultdict(list)
    for call in calls:
        tasks[call.stage].append(call.talk[1] if call.talk[1:] else "")
    instruction = {stage: common(texts) for stage, texts in tasks.items()}
    return [_with_first(call, instruction[call.stage]) for call in calls]


def task_first(calls: Sequence[Asked]) -> list[Asked]:
    return [_with_first(call, None) for call in calls]


def padded(calls: Sequence[Asked], context: int) -> list[Asked]:
    """The same with the first message that most calls have padded to so many tokens."""
    usual = Counter(call.talk[0] for call in calls).most_common(1)[0][0]
    filled = usual + "~" * (4 * context - len(usual))
    return [call._replace(talk=(filled, *call.talk[1:])) if call.talk[0] == usual else call for call in calls]


def _with_first(call: Asked, characters: int | None) -> Asked:
    """So many characters of the second message moved to the front of the first."""
    if not call.talk[1:]:
        return call
    first, second, *rest = call.talk
    return call._replace(talk=(second[:characters] + first, second[len(second[:characters]) :], *rest))


ORDERS: dict[str, Callable[[Sequence[Asked]], list[Asked]]] = {
    "as sent": as_sent,
    "stage first": stage_first,
    "task first": task_first,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, metavar="TOKENS", default=0)
    parser.add_argument("runs", nargs="+", type=Path)
    given = parser.parse_args()
    logs = [log for run in given.runs for log in sorted(run.glob("log/*.jsonl"))]
    issues = [padded(calls, given.context) for log in logs if (calls := asked(log))]
    if not issues:
        parser.error("these hold no event log with a call; give the directories of runs")
    trajectories = sum(len({call.trajectory for call in calls if call.stage == "editing"}) for calls in issues)
    print(
        f"{len(issues)} issues, {trajectories} trajectories, {sum(map(len, issues))} calls, "
        f"{sum(len(call.talk[0]) // 4 for calls in issues for call in calls) // sum(map(len, issues)):,} tokens of context on average"
    )
    for order, arrange in ORDERS.items():
        stages: defaultdict[str, Share] = defaultdict(lambda: Share(0, 0))
        for calls in issues:
            for stage, share in shared(arrange(calls)).items():
                stages[stage] += share
        trajectory, context = stages["testing"] + stages["editing"], stages.pop("context", Share(0, 0))
        print(f"{order:12} trajectories 2 to N   {trajectory}")
        print(f"{'':12} and verdicts, run-off  {sum(stages.values(), Share(0, 0))}")
        for stage, share in (stages | {"context": context}).items():
            print(f"{'':14}{stage:20} {share}")


if __name__ == "__main__":
    main()
