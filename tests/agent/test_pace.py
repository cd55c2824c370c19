"""Pace: an endpoint gets what it bears, not more a minute than it was said to, and warms its cache once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.client import LiteLLM
from runoff.agent.faulty import Fault, Faulty
from runoff.agent.pace import Gate, Minute, Rate, Warmth, parse_rate
from runoff.agent.protocol import Call, Message, Reply, Request, Sampling


def test_rates_that_may_be_written() -> None:
    assert parse_rate("500rpm, 2Mtpm,16atonce") == Rate(at_once=16, requests=500, tokens=2_000_000)
    assert parse_rate("1.5ktpm") == Rate(tokens=1500)
    for text in ("", "500", "0rpm", "5rpm,6rpm", "-1rpm", "5rps", "5rpm,"):
        with pytest.raises(ValueError, match="a rate is") as refused:
            parse_rate(text)
        assert "\n" not in str(refused.value)


class Time:
    """A clock that only sleeping moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(0, 30)), min_size=1, max_size=40),
    st.integers(1, 10),
    st.integers(1, 1000),
)
def test_no_minute_holds_more_than_the_rate(calls: list[tuple[int, float]], requests: int, tokens: int) -> None:
    time, sent = Time(), list[tuple[float, int]]()

    async def scenario() -> None:
        minute = Minute(Rate(requests=requests, tokens=tokens), time.sleep, time)
        for size, pause in calls:
            await minute.admit(size)
            sent.append((time.now, size))
            time.now += pause

    asyncio.run(scenario())
    for began, _ in sent:
        window = [size for at, size in sent if began <= at < began + 60 - 1e-6]
        assert len(window) <= requests
        assert sum(window) <= tokens or len([size for size in window if size]) == 1


def test_what_a_call_really_took_counts_in_its_minute() -> None:
    time = Time()

    async def scenario() -> None:
        minute = Minute(Rate(tokens=100), time.sleep, time)
        (await minute.admit(10))(95)
        await minute.admit(10)
        assert time.now == 60
        (await minute.admit(80))(0)
        await minute.admit(80)
        assert time.now == 60

    asyncio.run(scenario())


def test_one_episode_of_429_halves_once_however_many_calls_and_attempts_it_meets() -> None:
    gate = Gate(64)
    for _ in range(62):
        gate.widen()
    for _ in range(20):
        gate.narrow(began=1.0 - 1e9)
    assert gate._limit == 32, "twenty calls that were under way together"
    for _ in range(20):
        gate.narrow(began=1e12)
    assert gate._limit == 32, "and asked again while nothing had gone well"
    gate.widen(began=1.0 - 1e9)
    gate.narrow(began=1e12)
    assert gate._limit == pytest.approx(32, abs=0.1), "what was sent before the cut says nothing of it"
    gate.widen(began=1e12)
    gate.narrow(began=1e12)
    assert gate._limit == pytest.approx(16, abs=0.1)


@pytest.mark.parametrize(("fault", "holds"), [(Fault.LIMITED, True), (Fault.LIMITED_UNTIL, True), (Fault.BUSY, False)])
def test_one_call_that_is_told_to_wait_holds_all(fault: Fault, holds: bool) -> None:
    """Time is the test's: the pause ends when it says so, and until then nobody may have asked."""
    told, go_on, waited = asyncio.Event(), asyncio.Event(), list[float]()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        told.set()
        await go_on.wait()

    async def scene() -> tuple[int, int]:
        client = LiteLLM(api_base=server.api_base, sleep=sleep)
        first = asyncio.ensure_future(fan_out(client, "short", 1))
        await told.wait()
        others = asyncio.ensure_future(fan_out(client, "other", 6))
        await asyncio.sleep(0.5)
        meanwhile = len(server.requests) - 1
        go_on.set()
        ends = [*await first, *await others]
        await client.close()
        assert all(isinstance(end, Reply) for end in ends)
        return meanwhile, len(server.requests)

    with Faulty([fault], retry_after="60") as server:
        meanwhile, requests = asyncio.run(asyncio.wait_for(scene(), 60))
    assert (meanwhile == 0) == holds
    assert requests == 8
    assert len(waited) == 1
    assert waited[0] >= (60 if fault is Fault.LIMITED_UNTIL else 1)


def test_a_call_that_is_cancelled_while_it_holds_all_lets_them_go() -> None:
    async def scene() -> None:
        gate = Gate(4)

        async def holds() -> None:
            with gate.shut():
                await asyncio.sleep(60)

        held = asyncio.ensure_future(holds())
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(gate.open()) for _ in range(3)]
        await asyncio.sleep(0)
        others[0].cancel()
        await asyncio.sleep(0.01)
        assert not others[1].done()
        held.cancel()
        await asyncio.wait_for(asyncio.gather(*others[1:]), 1)

    asyncio.run(scene())


LONG = "the same for all " * 400


def run(client: LiteLLM, work: Coroutine[Any, Any, Any]) -> Any:
    async def inside() -> Any:
        try:
            return await asyncio.wait_for(work, 30)
        finally:
            await client.close()

    return asyncio.run(inside())


async def fan_out(client: LiteLLM, first: str, number: int) -> list[Reply | BaseException]:
    shared = Message("system", first)
    calls = [
        Call("i", f"t{n}", "p", Request("openai/tiny", Sampling(), shared.then("user", f"number {n}")))
        for n in range(number)
    ]
    return await asyncio.gather(*map(client.ask, calls), return_exceptions=True)


@pytest.mark.parametrize("stall", [None, 5.0])
def test_the_first_call_warms_the_cache_and_the_rest_read_it(stall: float | None) -> None:
    with Faulty(latency=0.05) as server:
        client = LiteLLM(api_base=server.api_base, rates={"": Rate(at_once=8)}, stall=stall)
        run(client, fan_out(client, LONG, 8))
    assert [usage.cached for usage in server.billed].count(0) == 1
    assert all(usage.cached >= len(LONG) // 4 for usage in server.billed[1:])
    assert server.most_at_once > 1


def test_calls_of_short_prefixes_wait_for_nobody() -> None:
    with Faulty(latency=0.3) as server:
        client = LiteLLM(api_base=server.api_base)
        run(client, fan_out(client, "short", 2))
    assert server.most_at_once == 2


def test_a_call_that_could_not_warm_hands_on_to_the_next() -> None:
    async def sleep(seconds: float) -> None:
        pass

    with Faulty([Fault.BROKEN] * 2, latency=0.02) as server:
        client = LiteLLM(api_base=server.api_base, attempts=2, sleep=sleep)
        ends = run(client, fan_out(client, LONG, 5))
    assert [isinstance(end, Reply) for end in ends] == [False, True, True, True, True]
    assert [usage.cached for usage in server.billed].count(0) == 1


def test_a_call_that_is_cancelled_while_it_warms_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        warmth, talk = Warmth(), Message("system", LONG)
        entered = asyncio.Event()

        async def holds() -> None:
            async with warmth.turn("m", talk):
                entered.set()
                await asyncio.sleep(60)

        async def follows() -> None:
            async with warmth.turn("m", talk):
                pass

        first = asyncio.ensure_future(holds())
        await entered.wait()
        others = [asyncio.ensure_future(follows()) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert not any(other.done() for other in others)
        first.cancel()
        await asyncio.wait_for(asyncio.gather(*others), 1)

    asyncio.run(scenario())


def test_a_cache_is_marked_where_the_provider_wants_marks() -> None:
    from runoff.agent.chat import messages
    from runoff.agent.providers import marks_cache

    assert marks_cache("anthropic/claude-sonnet-4-5")
    assert marks_cache("bedrock/anthropic.claude-3-haiku-20240307-v1:0")
    assert not marks_cache("openai/gpt-4o-mini")
    talk = Message("system", "shared").then("user", "one").then("assistant", "two").then("user", "three")
    sent = messages(Request("m", Sampling(), talk), native=True, marked=True)
    assert [isinstance(message["content"], list) for message in sent] == [True, False, False, True]
    assert sent[0]["content"] == [{"type": "text", "text": "shared", "cache_control": {"type": "ephemeral"}}]
