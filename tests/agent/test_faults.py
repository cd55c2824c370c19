"""Thousands of calls to a provider on a bad day: every unit ends, nothing is paid twice, and the ledger is the bill."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runoff.agent.budget import Budget, Prices
from runoff.agent.client import LiteLLM
from runoff.agent.faulty import TRANSIENT, Fault, Faulty, seeded
from runoff.agent.log import Log, read
from runoff.agent.pace import Rate
from runoff.agent.protocol import Message, Request, Sampling, Usage
from runoff.agent.step import Ended, Step, World, priced, settled, trajectory

MODEL = "openai/tiny"
PRICES = Prices(2e-6, 0.5e-6, 8e-6)
TURNS, TRAJECTORIES = 5, 10
AT_ONCE = 48


async def unit(step: Step) -> Ended[str]:
    """A conversation like an editing trajectory's: what its instance shares first, then turn by turn."""
    instance = step.world.instance
    talk = Message("system", f"{instance}: the code. " + "line of code; " * 400)
    talk = talk.then("user", f"{instance}, {step.trajectory}: mend it")
    for turn in range(TURNS):
        answer = await step.ask(f"turn{turn}", Request(MODEL, Sampling(temperature=1), talk))
        talk = answer.conversation.then("user", f"turn {turn} failed")
    return Ended(reason="done", value=talk.digest)


class Life:
    """One process's share of the run: it opens the logs, goes on from what is there, and ends as a command does."""

    def __init__(self, place: Path, server: Faulty, instances: int, money: float | None) -> None:
        self.place, self.server, self.instances = place, server, instances
        self.budget = Budget(money=money)
        self.dearest = 0.0

    async def run(self) -> Counter[str]:
        async def soon(seconds: float) -> None:
            await asyncio.sleep(seconds / 1000)

        client = LiteLLM(
            budget=self.budget,
            api_base=self.server.api_base,
            prices={MODEL: PRICES},
            rates={"": Rate(at_once=AT_ONCE)},
            stall=3,
            timeout=12,
            sleep=soon,
        )
        worlds: list[World] = []
        for number in range(self.instances):
            log = Log(self.place / f"{number}.jsonl")
            worlds.append(World(log, f"issue-{number}", client, None, Budget(within=self.budget)))  # type: ignore[arg-type]
            worlds[-1].count_back()
        counted = self.budget.spent_money
        recorded = math.fsum(_money(line) for world in worlds for line in world.log.ledger)
        assert counted == pytest.approx(recorded), "the budget begins at what the logs say"
        try:
            ends = await settled(
                *(trajectory(world, f"t{n}", str, unit) for world in worlds for n in range(TRAJECTORIES))
            )
        finally:
            for world in worlds:
                self.dearest = max([self.dearest, *(_money(line) for line in world.log.ledger)])
                await world.close()
            await client.close()
        return Counter(end.reason for end in ends)


def _money(line: dict[str, Any]) -> float:
    call = priced(line, lambda model: None)
    return (call.cost or 0.0) + ((call.cut.cost or 0.0) if call.cut else 0.0)


@pytest.mark.parametrize(
    "calls", [pytest.param(150, id="sampled"), pytest.param(10_000, id="all", marks=pytest.mark.full)]
)
def test_a_provider_on_a_bad_day(
    calls: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-that-counts")
    instances = calls // (TURNS * TRAJECTORIES)
    cap = 0.0008 * calls  # about a third of what it will take
    # More faults in a row than a call has attempts now and then: some calls fail, and are made again in a later life.
    kinds = [kind for kind in TRANSIENT if kind not in (Fault.STALL, Fault.DRIP)] * 6
    kinds += [Fault.STALL, Fault.DRIP] * (calls > 1000)  # each takes seconds
    began = time.monotonic()
    lives: list[Counter[str]] = []
    with Faulty(seeded(12, 0.35, kinds, most=14), _answer) as server:
        first = Life(tmp_path, server, instances, cap)
        lives.append(asyncio.run(first.run()))
        assert set(lives[0]) <= {"budget", "error", "done"}
        assert lives[0]["budget"]
        over = first.budget.spent_money - cap
        assert 0 <= over <= AT_ONCE * first.dearest
        while lives[-1].keys() != {"done"}:
            assert len(lives) < 9
            lives.append(asyncio.run(Life(tmp_path, server, instances, None).run()))
    seconds = time.monotonic() - began

    logs = [Log(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    for log in logs:
        log._file.close()
    lines = [line for log in logs for line in log.ledger]
    replies = [priced(line, lambda model: None) for line in lines]
    answers = [record for path in tmp_path.glob("*.jsonl") for record in read(path) if record["kind"] == "ask"]

    assert lives[-1] == {"done": instances * TRAJECTORIES}, "every unit ends"
    assert not sum(log.possibly_billed.total() for log in logs), "and no call is left in doubt"
    assert len(answers) == calls
    assert len({(record["t"], record["request"]["messages"]) for record in answers}) == calls
    whole = [usage for usage in server.billed if usage.output > 1]
    assert len(whole) == calls, "of each call one answer was paid for, whatever came before it"

    billed, lost = sum(server.billed, Usage()), sum(server.lost, Usage())
    ledger = sum((reply.usage for reply in replies), Usage())
    cut = sum((reply.cut.usage for reply in replies if reply.cut), Usage())
    assert ledger == billed
    cost = math.fsum(reply.cost or 0.0 for reply in replies)
    assert all(reply.cost is not None for reply in replies)
    assert cost == pytest.approx(PRICES.of(billed), abs=1e-6)
    assert (cut.input, cut.output) == (lost.input, lost.output), "what broke off is estimated as it was sent"

    failed = sum(line["usage"] is None or not line["usage"] for line in lines)
    with capsys.disabled():
        print(f"\n{calls:,} calls of {instances * TRAJECTORIES:,} units through {len(server.requests):,} requests")
        print(f"faults: {', '.join(f'{kind.name} {n}' for kind, n in sorted(server.faults.items()))}")
        print(f"lives (ends of units): {'; '.join(str(dict(life)) for life in lives)}")
        print(
            f"billed ${PRICES.of(billed):.6f}, ledger ${cost:.6f}; {len(lines):,} lines, {failed} of cut answers alone"
        )
        print(f"tokens billed and in the ledger: {billed.input:,} in ({billed.cached:,} cached), {billed.output:,} out")
        print(
            f"broke off: {len(server.lost):,} answers, {lost.input + lost.output:,} tokens; estimated {cut.input + cut.output:,}"
        )
        print(f"budget ${cap:.2f}: ${over:.4f} over; the calls in flight could take ${AT_ONCE * first.dearest:.4f}")
        print(f"at most {server.most_at_once} at once; {seconds:.0f} s")


def _answer(messages: list[dict[str, Any]]) -> str:
    return f"an_answer_to:{messages[1]['content'].replace(' ', '_')} with words {len(messages)}"
