"""Streams: put together they are what one piece would have been; what breaks off is asked for again and said to be doubtful."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from runoff.agent.client import LiteLLM
from runoff.agent.faulty import TRANSIENT, Fault, Faulty
from runoff.agent.protocol import Call, Message, ModelUnreachable, Reply, Request, Sampling, Usage
from tests.llama import Llama, llama_server  # noqa: F401

PRICED = "openai/gpt-4o-mini"
SAID = "one two three four five six"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-that-counts")


def ask(server: Faulty, *, model: str = PRICED, stall: float | None = 0.5, **how: Any) -> Reply:
    async def at_once(seconds: float) -> None:
        pass

    sampling = how.pop("sampling", Sampling())
    client = LiteLLM(**({"api_base": server.api_base, "stall": stall, "sleep": at_once} | how))

    async def one() -> Reply:
        try:
            return await client.ask(Call("i", "t", "p", Request(model, sampling, Message("user", "count"))))
        finally:
            await client.close()

    return asyncio.run(one())


def test_a_streamed_reply_is_the_same_as_one_in_one_piece() -> None:
    with Faulty(answer=lambda messages: SAID) as streaming:
        streamed = ask(streaming)
    with Faulty(answer=lambda messages: SAID) as whole:
        assert ask(whole, stall=None) == streamed
    assert streamed.text == SAID
    assert streamed.usage == streaming.billed[0]
    assert streamed.cost is not None
    assert streaming.requests[0]["stream_options"] == {"include_usage": True}
    assert "stream" not in whole.requests[0]


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: fault.name)
def test_a_passing_fault_is_tried_again(fault: Fault) -> None:
    with Faulty([fault, fault], lambda messages: SAID) as server:
        reply = ask(server, timeout=1 if fault is Fault.STALL else 60)
    assert reply.text == SAID
    assert server.faults == {fault: 2}
    # Whatever was billed for certain is the reply's; what broke off is estimated, apart.
    assert reply.usage.output == sum(usage.output for usage in server.billed)
    lost = sum(usage.output for usage in server.lost)
    assert (reply.cut.usage.output if reply.cut else 0) == lost
    assert bool(lost) == (fault in (Fault.CUT, Fault.DRIP))
    if reply.cut:
        assert reply.cut.cost == pytest.approx(reply.cut.usage.input * 0.15e-6 + lost * 0.6e-6)


def test_an_answer_that_does_not_go_on_is_given_up_soon() -> None:
    began = time.monotonic()
    with (
        Faulty(lambda *_: Fault.DRIP, lambda messages: SAID) as server,
        pytest.raises(ModelUnreachable, match=r"the answer stalled: nothing came for 0\.3 s") as end,
    ):
        ask(server, stall=0.3, attempts=2, timeout=30)
    assert time.monotonic() - began < 15
    assert end.value.spent is not None
    assert end.value.spent.cut is not None
    assert end.value.spent.cut.usage.output == sum(usage.output for usage in server.lost) > 0


def test_an_answer_whose_end_has_come_is_not_asked_for_again() -> None:
    """All that the provider owes is the count: it is estimated, and said to be."""
    with Faulty([Fault.OPEN], lambda messages: SAID) as server:
        reply = ask(server)
    assert len(server.requests) == 1
    assert (reply.text, reply.finish) == (SAID, "stop")
    assert (reply.usage, reply.cost) == (Usage(), 0.0)
    assert reply.cut is not None
    assert reply.cut.usage.output == server.uncounted[0].output
    assert (reply.cut.cost or 0) > 0


@pytest.mark.parametrize("stall", [None, 2])
def test_an_answer_that_came_while_this_process_was_busy_is_not_asked_for_again(stall: float | None) -> None:
    """Of thousands of trajectories there may be as much to do at once: that is no silence of the server's."""

    async def scene() -> list[Reply]:
        client = LiteLLM(api_base=server.api_base, stall=stall, timeout=2)
        calls = [Call("i", "t", "p", Request(PRICED, Sampling(), Message("user", f"count {n}"))) for n in range(5)]
        first = await client.ask(calls[0])  # so that all is imported
        asyncio.get_running_loop().call_later(0.2, time.sleep, 4)
        rest = await asyncio.gather(*map(client.ask, calls[1:]))
        await client.close()
        return [first, *rest]

    with Faulty(lambda digest, attempt: None, lambda messages: SAID, latency=0.5) as server:
        ask(server, timeout=60)
        assert {reply.text for reply in asyncio.run(scene())} == {SAID}
    assert len(server.requests) == 6
    assert len(server.billed) == 6


def test_an_answer_that_repeats_itself_is_an_answer() -> None:
    with Faulty(answer=lambda messages: "0, " * 300) as server:
        assert ask(server).text == "0, " * 300
    assert len(server.requests) == 1


def test_log_probs_are_kept_where_they_are_asked_for() -> None:
    with Faulty(answer=lambda messages: SAID) as server:
        reply = ask(server, sampling=Sampling(logprobs=2))
    assert reply.tokens is not None
    assert [token.text for token in reply.tokens] == SAID.split()


def test_how_much_to_think_is_sent_only_where_it_is_said() -> None:
    with Faulty() as server:
        ask(server, model="openai/gpt-5-mini", sampling=Sampling(effort="low"))
        ask(server, model="openai/gpt-5-mini")
    assert server.requests[0]["reasoning_effort"] == "low"
    assert "reasoning_effort" not in server.requests[1]
    unset = {"temperature": 0.5, "max_tokens": 8192, "logprobs": None}
    assert Sampling(temperature=0.5).parts() == unset, "what was recorded before still fits"
    assert Sampling(temperature=0.5, effort="low").parts() == unset | {"effort": "low"}


def test_thinking_leaves_room_for_the_answer_and_takes_no_temperature() -> None:
    """Anthropic refuses a budget for thinking that is not below max_tokens, and any temperature but 1 beside it."""
    request = Request("anthropic/claude-sonnet-4-5", Sampling(temperature=0.7, thinking=16_000), Message("user", "?"))
    sent = LiteLLM()._arguments(request)
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 16_000}
    assert sent["max_tokens"] == 16_000 + 8192
    assert "temperature" not in sent
    sent = LiteLLM()._arguments(request._replace(sampling=Sampling(temperature=0.7)))
    assert (sent["temperature"], sent["max_tokens"]) == (0.7, 8192)


def test_a_real_model_streams(llama_server: Llama) -> None:  # noqa: F811
    server = type("Server", (), {"api_base": llama_server.api_base})()
    sampling = Sampling(temperature=0, max_tokens=12)
    streamed, whole = (ask(server, model=llama_server.model, stall=stall, sampling=sampling) for stall in (20.0, None))
    assert streamed.text == whole.text
    assert streamed.usage.input == whole.usage.input
    assert streamed.usage.output == whole.usage.output > 0
