"""Thousands of calls to a provider on a bad day: every unit ends, nothing is paid twice, and the ledger is the bill."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextvars import ContextVar
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from runoff.agent import providers
from runoff.agent.budget import Budget, Prices
from runoff.agent.chat import messages
from runoff.agent.client import LiteLLM
from runoff.agent.faulty import TRANSIENT, Fault, Faulty, seeded
from runoff.agent.log import Log, read
from runoff.agent.pace import Rate
from runoff.agent.patience import Patience
from runoff.agent.protocol import Call, Message, Reply, Request, Sampling, Usage
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


class Client(LiteLLM):
    """As it is, but that pauses are a thousandth as long, and nothing runs out before the server says it has fallen silent:
    whatever else the machine does, what was not meant to fail does not."""

    def __init__(self, server: Faulty, **options: Any) -> None:
        async def soon(seconds: float) -> None:
            await asyncio.sleep(seconds / 1000)

        super().__init__(
            api_base=server.api_base,
            prices={MODEL: PRICES},
            rates={"": Rate(at_once=AT_ONCE)},
            sleep=soon,
            patience=_Told,
            **options,
        )

    async def _attempt(self, call: Call, *how: Any) -> list[Reply]:
        token = _Asked.now.set(_Asked(Faulty.digest(messages(call.request, native=True, marked=False))))
        try:
            return await super()._attempt(call, *how)
        finally:
            _Asked.now.reset(token)


class _Asked:
    """A request on its way, and who waits for it."""

    now: ClassVar[ContextVar[_Asked]] = ContextVar("now")
    all: ClassVar[dict[str, _Asked]] = {}

    def __init__(self, digest: str) -> None:
        self.waiting: list[_Told] = []
        self.silent = False
        self.all[digest] = self


class _Told(Patience):
    def __init__(self, seconds: float | None) -> None:
        super().__init__(seconds and 0.4)
        self._asked = _Asked.now.get()
        self._asked.waiting.append(self)

    def _tick(self) -> None:
        if not self._asked.silent or self._asked.waiting[-1] is not self:
            self.renew()
        super()._tick()

    async def __aexit__(self, *error: Any) -> None:
        self._asked.waiting.remove(self)
        await super().__aexit__(*error)


class Life:
    """One process's share of the run: it opens the logs, goes on from what is there, and ends as a command does."""

    def __init__(self, place: Path, server: Faulty, instances: int, money: float | None) -> None:
        self.place, self.server, self.instances = place, server, instances
        self.budget = Budget(money=money)
        self.dearest = 0.0

    async def run(self) -> Counter[str]:
        # One issue in six has its answers streamed, which costs most of the processor's time.
        clients = [Client(self.server, budget=self.budget, stall=stall) for stall in (3, *[None] * 5)]
        worlds: list[World] = []
        for number in range(self.instances):
            log = Log(self.place / f"{number}.jsonl")
            budget = Budget(within=self.budget)
            worlds.append(World(log, f"issue-{number}", clients[number % 6], None, budget))  # type: ignore[arg-type]
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
            for client in clients:
                await client.close()
        return Counter(end.reason for end in ends)


def _money(line: dict[str, Any]) -> float:
    call = priced(line, lambda model: None)
    return (call.cost or 0.0) + ((call.cut.cost or 0.0) if call.cut else 0.0)


class Figures(NamedTuple):
    """What came of a share of the calls."""

    calls: int
    requests: int
    faults: Counter[Fault]
    lives: list[Counter[str]]
    billed: Usage
    cost: float
    lines: int
    broken: int
    cut: Usage
    unread: int
    over: float
    allowed: float
    most_at_once: int


def share(calls: int, seed: int, place: Path) -> Figures:
    """A run of so many calls against a server of its own; what must hold of it is asserted here."""
    os.environ["OPENAI_API_KEY"] = "none-that-counts"
    providers.litellm()
    gc.freeze()  # what litellm brings along would be looked through at each collection, for a sixth of the time
    instances = calls // (TURNS * TRAJECTORIES)
    cap = 0.0008 * calls  # about a third of what it will take
    # More faults in a row than a call has attempts now and then: some calls fail, and are made again in a later life.
    kinds = [kind for kind in TRANSIENT if kind not in (Fault.STALL, Fault.DRIP)] * 6
    kinds += [Fault.STALL, Fault.DRIP, Fault.OPEN]
    lives: list[Counter[str]] = []
    with Faulty(seeded(seed, 0.35, kinds, most=14), _answer) as server:

        async def life(money: float | None) -> Life:
            loop, life = asyncio.get_running_loop(), Life(place, server, instances, money)

            def fell_silent(digest: str) -> None:
                _Asked.all[digest].silent = True

            server.silent = lambda digest: loop.call_soon_threadsafe(fell_silent, digest) and None
            lives.append(await life.run())
            return life

        first = asyncio.run(life(cap))
        assert set(lives[0]) <= {"budget", "error", "done"}
        assert lives[0]["budget"]
        over, allowed = first.budget.spent_money - cap, AT_ONCE * first.dearest
        assert 0 <= over <= allowed
        while lives[-1].keys() != {"done"}:
            assert len(lives) < 9
            asyncio.run(life(None))

    logs = [Log(path) for path in sorted(place.glob("*.jsonl"))]
    for log in logs:
        log._kept.close()
    lines = [line for log in logs for line in log.ledger]
    replies = [priced(line, lambda model: None) for line in lines]
    answers = [record for path in place.glob("*.jsonl") for record in read(path) if record["kind"] == "ask"]

    assert lives[-1] == {"done": instances * TRAJECTORIES}, "every unit ends"
    assert not sum(log.possibly_billed.total() for log in logs), "and no call is left in doubt"
    assert len(answers) == calls
    assert len({(record["t"], record["request"]["messages"]) for record in answers}) == calls
    whole = [usage for usage in server.billed + server.uncounted if usage.output > 1]
    assert len(whole) == calls, "of each call one answer was paid for, whatever came before it"

    billed, broken = sum(server.billed, Usage()), sum(server.lost + server.uncounted, Usage())
    ledger = sum((reply.usage for reply in replies), Usage())
    cut = sum((reply.cut.usage for reply in replies if reply.cut), Usage())
    assert ledger == billed
    cost = math.fsum(reply.cost or 0.0 for reply in replies)
    assert all(reply.cost is not None for reply in replies)
    assert cost == pytest.approx(PRICES.of(billed), abs=1e-6)
    assert (cut.input, cut.output) == (broken.input, broken.output), "what broke off is estimated as it was sent"
    return Figures(
        calls, len(server.requests), server.faults, lives, billed, cost, len(lines),
        len(server.lost + server.uncounted), cut, len(server.unread), over, allowed, server.most_at_once,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("calls", "shares"), [pytest.param(150, 1, id="sampled"), pytest.param(10_000, 4, id="all", marks=pytest.mark.full)]
)
def test_a_provider_on_a_bad_day(calls: int, shares: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    shared = ([calls // shares] * shares, range(12, 12 + shares), [tmp_path / f"{n}" for n in range(shares)])
    if shares == 1:
        figures = list(map(share, *shared))
    else:
        with ProcessPoolExecutor(shares, mp_context=get_context("spawn")) as pool:
            figures = list(pool.map(share, *shared))
    seconds = time.monotonic() - began
    billed, cut = sum((each.billed for each in figures), Usage()), sum((each.cut for each in figures), Usage())
    faults = sum((each.faults for each in figures), Counter[Fault]())
    units, requests = calls // TURNS, sum(each.requests for each in figures)
    with capsys.disabled():
        print(f"\n{calls:,} calls of {units:,} units through {requests:,} requests, in {shares} processes")
        print(f"faults: {', '.join(f'{kind.name} {n}' for kind, n in sorted(faults.items()))}")
        for each in figures:
            print(f"lives (ends of units): {'; '.join(str(dict(life)) for life in each.lives)}")
            print(f"  ${each.over:.4f} over its budget; the calls in flight could take ${each.allowed:.4f}")
        print(f"billed ${PRICES.of(billed):.6f}, ledger ${math.fsum(each.cost for each in figures):.6f}")
        print(f"tokens billed and in the ledger: {billed.input:,} in ({billed.cached:,} cached), {billed.output:,} out")
        print(
            f"broke off: {sum(each.broken for each in figures):,} answers, estimated {cut.input + cut.output:,} tokens"
        )
        print(f"at most {max(each.most_at_once for each in figures)} at once in a process; {seconds:.0f} s")


def _answer(messages: list[dict[str, Any]]) -> str:
    return f"an_answer_to:{messages[1]['content'].replace(' ', '_')} with words {len(messages)}"
