"""The client, through litellm and real sockets: to a server that fails on cue, and to a real, tiny model."""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from runoff.agent.budget import Budget, Prices
from runoff.agent.client import LONGEST_WAIT, LiteLLM
from runoff.agent.faulty import TRANSIENT, Fault, Faulty, seeded
from runoff.agent.pace import Gate, Rate
from runoff.agent.protocol import (
    BudgetSpent,
    Call,
    ContextOverflow,
    Message,
    Model,
    ModelError,
    ModelMisconfigured,
    ModelUnreachable,
    Reply,
    Request,
    Sampling,
    Stopping,
    Usage,
)
from tests.llama import Llama, llama_server  # noqa: F401

ENDLESS = (Fault.STALL, Fault.DRIP)
PRICED = "openai/gpt-4o-mini"
KEY = "Zx81_never-to-be-seen"
OTHERS = "sk-proj-****beef"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


class Client(LiteLLM):
    """As it is, except that it tells how long it would have waited and closes what litellm opened."""

    def __init__(self, **options: Any) -> None:
        self.waited: list[float] = []

        async def sleep(seconds: float) -> None:
            self.waited.append(seconds)
            await asyncio.sleep(0)

        super().__init__(**({"sleep": sleep} | options))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def inside() -> Any:
            try:
                return await work
            finally:
                await self.close()

        return asyncio.run(inside())

    def one(self, text: str = "hello", model: str = PRICED, **sampling: Any) -> Reply:
        reply = self.run(self.ask(_call(text, model, **sampling)))
        assert isinstance(reply, Reply)
        return reply


def _call(text: str, model: str = PRICED, **sampling: Any) -> Call:
    talk = Message("system", "Answer briefly, whatever the question is.").then("user", text)
    return Call("instance", "trajectory", text[:40], Request(model, Sampling(**sampling), talk))


def _total(usages: list[Usage]) -> Usage:
    return sum(usages, Usage())


def test_what_is_sent_and_what_comes_back() -> None:
    with Faulty(answer=lambda messages: "two words") as server:
        client = Client(api_base=server.api_base)
        model: Model = client
        assert model is client
        first = client.one("bytes: \udcff", temperature=0.5, max_tokens=20, logprobs=2)
        again = client.one("bytes: \udcff", max_tokens=None)
    sent, plain = server.requests
    assert sent["messages"][0] == {"role": "system", "content": "Answer briefly, whatever the question is."}
    assert sent["messages"][1] == {"role": "user", "content": "bytes: \ufffd"}
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("gpt-4o-mini", 0.5, 20)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)
    assert not {"temperature", "max_tokens", "logprobs", "top_logprobs"} & set(plain)
    assert server.keys == {f"Bearer {KEY}"}

    assert first.text == "two words"
    assert first.tokens is not None
    assert [(token.text, token.logprob, token.alternatives) for token in first.tokens] == [
        ("two", -0.1, {"two": -0.1}),
        ("words", -0.1, {"words": -0.1}),
    ]
    assert again.tokens is None
    assert [first.usage, again.usage] == server.billed
    assert first.usage.cached == 0
    assert again.usage.cached == again.usage.input > 0
    assert first.cost == pytest.approx(first.usage.input * 0.15e-6 + first.usage.output * 0.6e-6)
    assert again.cost == pytest.approx(again.usage.cached * 0.075e-6 + again.usage.output * 0.6e-6)


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: fault.name)
def test_a_passing_fault_is_tried_again(fault: Fault) -> None:
    with Faulty([fault, fault]) as server:
        client = Client(api_base=server.api_base, timeout=0.5 if fault in ENDLESS else 60)
        assert client.one().text == "heard: hello"
    assert server.faults == {fault: 2}
    assert len(server.requests) == 3
    first, second = client.waited
    assert 1 <= first <= 2
    assert 2 <= second <= 3


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: fault.name)
def test_a_lasting_fault_ends_as_unreachable(fault: Fault) -> None:
    with Faulty(lambda digest, attempt: fault) as server:
        client = Client(api_base=server.api_base, timeout=0.2 if fault in ENDLESS else 60, attempts=2)
        with pytest.raises(
            ModelUnreachable, match=r"^openai/gpt-4o-mini at 127.0.0.1:\d+ was asked 2 times and did not"
        ) as end:
            client.one()
    assert len(server.requests) == 2
    assert "\n" not in str(end.value)
    spent = end.value.spent.usage if end.value.spent else Usage()
    assert spent == _total(server.billed), "whoever keeps the ledger is told what it took"


def test_nobody_listens() -> None:
    with Faulty() as server:
        api_base = server.api_base
    client = Client(api_base=api_base, attempts=3)
    with pytest.raises(ModelUnreachable, match=r"asked 3 times and did not answer: Connection error"):
        client.one()
    assert len(client.waited) == 2


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("17", 17, 17),
        ("0.1", 1, 2),
        ("date in 90", 40, 90),
        ("date in -90", 1, 2),
        ("3600", LONGEST_WAIT, LONGEST_WAIT),
        ("soon", 1, 2),
        ("nan", 1, 2),
    ],
)
def test_retry_after(header: str, least: float, most: float) -> None:
    if header.startswith("date in"):
        at = datetime.now(UTC) + timedelta(seconds=int(header.removeprefix("date in")))
        header = format_datetime(at, usegmt=True)
    with Faulty([Fault.LIMITED_UNTIL], retry_after=header) as server:
        client = Client(api_base=server.api_base)
        client.one()
    assert len(client.waited) == 1
    assert least <= client.waited[0] <= most


def test_waits_grow_up_to_a_minute() -> None:
    with Faulty([Fault.BUSY] * 9) as server:
        client = Client(api_base=server.api_base, attempts=10)
        client.one()
    assert all(2**n <= wait <= 2**n + 1 for n, wait in enumerate(client.waited[:6]))
    assert client.waited[6:] == [60, 60, 60]


def test_a_refused_key() -> None:
    with Faulty([Fault.KEY] * 2) as server:
        client = Client(api_base=server.api_base)
        with pytest.raises(ModelMisconfigured) as refused:
            client.one()
    assert client.waited == []
    assert refused.value.exit_code == 3
    assert str(refused.value).startswith(f"the key for {PRICED} at 127.0.0.1:")
    assert str(refused.value).endswith("was refused (401); set OPENAI_API_KEY to one it accepts")


@pytest.mark.parametrize("fault", [*TRANSIENT, Fault.KEY, Fault.UNKNOWN], ids=lambda fault: fault.name)
def test_no_error_shows_a_key(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'{{"error": {{"message": "not {OTHERS}, not {KEY}"}}}}'.encode()
    monkeypatch.setattr("runoff.agent.faulty._refusal", lambda said, kind="": body)
    with Faulty(lambda digest, attempt: fault) as server:
        client = Client(api_base=server.api_base, attempts=1, timeout=0.2 if fault in ENDLESS else 60)
        with pytest.raises(ModelError) as refused:
            client.one()
    seen: BaseException | None = refused.value
    while seen:  # nor does anything that is only hidden from the traceback
        shown = "".join(traceback.format_exception(seen)) + repr(seen)
        assert KEY not in shown
        assert "beef" not in shown
        seen = seen.__context__


def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with Faulty([None, Fault.KEY]) as server:
        client = Client(api_base=server.api_base)
        client.check(["openai/tiny"])
        assert client.one(model="openai/tiny").text == "heard: hello"
        with pytest.raises(ModelMisconfigured, match=r"was refused \(401\); set OPENAI_API_KEY"):
            client.one(model="openai/tiny")


@pytest.mark.parametrize(
    ("model", "says", "code"),
    [
        (PRICED, f"{PRICED} needs a key; set OPENAI_API_KEY", 3),
        ("anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5 needs a key; set ANTHROPIC_API_KEY", 3),
        ("gemini/gemini-x", "gemini/gemini-x needs a key; set GOOGLE_API_KEY or GEMINI_API_KEY", 3),
        (
            "nobody/anything",
            "'nobody/anything' names no provider that is known; write PROVIDER/MODEL, for example openai/gpt-4o-mini",
            2,
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    model: str, says: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    client = Client()
    tries: list[Callable[[], object]] = [lambda: client.check([model]), lambda: client.one(model=model)]
    for attempt in tries:
        with pytest.raises(ModelMisconfigured) as refused:
            attempt()
        assert (str(refused.value), refused.value.exit_code) == (says, code)


def test_credentials_that_are_no_environment_variable_are_left_to_the_call() -> None:
    Client().check(["bedrock/anthropic.claude-3-haiku-20240307-v1:0", "vertex_ai/gemini-2.5-pro", "ollama/llama3"])


def test_a_model_the_provider_does_not_know() -> None:
    with Faulty([Fault.UNKNOWN, None, Fault.UNKNOWN]) as server:
        client = Client(api_base=server.api_base)
        with pytest.raises(
            ModelMisconfigured, match=r"refuses the request \(404\).*; check the model's name"
        ) as refused:
            client.one()
        assert refused.value.exit_code == 2
        client.one()
        # A model that has answered is configured well: only this request is refused.
        with pytest.raises(ModelUnreachable, match=r"refuses this request \(404\)"):
            client.one()
    assert client.waited == []


@pytest.mark.parametrize("said", ["", "the prompt exceeds the context window", "the input is too long for this model"])
def test_a_conversation_that_does_not_fit(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's words for it, and some that litellm does not know."""
    if said:
        body = f'{{"error": {{"message": "{said}"}}}}'.encode()
        monkeypatch.setattr("runoff.agent.faulty._refusal", lambda *_: body)
    with Faulty([Fault.TOO_LONG]) as server:
        client = Client(api_base=server.api_base)
        with pytest.raises(
            ContextOverflow, match=f"does not fit openai/gpt-4o-mini: .*{said or 'exceeds the available'}"
        ):
            client.one()
    assert len(server.requests) == 1


def test_prices() -> None:
    given = Prices(1e-6, 1e-7, 2e-6)
    client = Client(prices={"openai/tiny": given, "ollama/llama3": Prices(0, 0, 0)})
    assert client.price_of(PRICED) == Prices(0.15e-6, 0.075e-6, 0.6e-6)
    assert (client.price_of("anthropic/claude-sonnet-4-5") or given).written == pytest.approx(3.75e-6)
    assert client.price_of("openai/tiny") == given
    assert client.price_of("ollama/llama3") == Prices(0, 0, 0), "the user may say that it is free"
    for model in (
        "openai/nobody-knows",
        "ollama/llama2",
        "gemini/gemma-3-27b-it",
        "hosted_vllm/anything",
        "nobody/anything",
    ):
        assert client.price_of(model) is None, model


def test_a_price_that_is_not_known_is_none_and_one_that_is_given_counts() -> None:
    with Faulty() as server:
        unknown = Client(api_base=server.api_base).one(model="openai/tiny")
        given = Client(api_base=server.api_base, prices={"openai/tiny": Prices(1, 0.5, 2)}).one(model="openai/tiny")
        free = Client(api_base=server.api_base, prices={"openai/tiny": Prices(0, 0, 0)}).one(model="openai/tiny")
    assert unknown.cost is None
    assert given.cost == given.usage.input - given.usage.cached / 2 + given.usage.output * 2
    assert free.cost == 0.0


def test_money_is_not_promised_for_a_model_without_a_price() -> None:
    with pytest.raises(ModelMisconfigured, match="the price of openai/tiny is not known"):
        Client(budget=Budget(money=2), api_base="http://127.0.0.1:9/v1").check([PRICED, "openai/tiny"])


@pytest.mark.parametrize("places", [1, 3, 8])
def test_budget_is_passed_by_no_more_than_the_calls_in_flight(places: int) -> None:
    budget = Budget(tokens=400)

    async def everyone() -> list[Reply | BaseException]:
        async def one(number: int) -> Reply:
            reply = await client.ask(_call(f"question {number}"))
            budget.add(reply)  # as whoever records it does
            return reply

        return await asyncio.gather(*(one(number) for number in range(60)), return_exceptions=True)

    with Faulty(seeded(1, 0.2, [Fault.BUSY, Fault.EMPTY, Fault.LIMITED]), latency=0.005) as server:
        client = Client(api_base=server.api_base, budget=budget, rates={"": Rate(at_once=places)})
        ends = client.run(everyone())
    replies = [end for end in ends if isinstance(end, Reply)]
    assert {type(end) for end in ends} == {Reply, BudgetSpent}
    assert server.most_at_once <= places
    dearest = max(reply.usage.input + reply.usage.output for reply in replies)
    assert 400 <= budget.spent_tokens < 400 + places * dearest


def test_ledger_equals_the_bill() -> None:
    """However it went wrong on the way, replies account for every whole reply the server sent."""

    async def everyone() -> list[Reply]:
        return await asyncio.gather(*(client.ask(_call(f"question {number % 40}")) for number in range(80)))

    with Faulty(seeded(7, 0.5, [fault for fault in TRANSIENT if fault not in ENDLESS], most=5)) as server:
        client = Client(api_base=server.api_base)
        replies = client.run(everyone())
    assert sum(server.faults.values()) > 40
    assert len(server.faults) == len(TRANSIENT) - len(ENDLESS)
    assert [reply.text for reply in replies] == [f"heard: question {number % 40}" for number in range(80)]
    assert _total([reply.usage for reply in replies]) == _total(server.billed)
    assert server.unread, "bodies that were cut are on the bill and can be on no ledger"
    billed = _total(server.billed)
    price = (billed.input - billed.cached) * 0.15e-6 + billed.cached * 0.075e-6 + billed.output * 0.6e-6
    assert math.fsum(reply.cost or 0 for reply in replies) == pytest.approx(price)


def test_an_endpoint_is_asked_by_ever_more_calls_until_it_says_429_and_less_then() -> None:
    async def ask(name: str, number: int) -> int:
        server.most_at_once = 0
        await asyncio.gather(*(client.ask(_call(f"{name} {place}")) for place in range(number)))
        return server.most_at_once

    async def phases() -> list[int]:
        return [await ask("first", 2), await ask("then", 40), await ask("limited", 16), await ask("after", 16)]

    def limits(digest: str, attempt: int) -> Fault | None:
        return Fault.LIMITED if attempt == 0 and 42 < len(server.requests) <= 58 else None

    with Faulty(limits, latency=0.02) as server:
        client = Client(api_base=server.api_base, rates={"": Rate(at_once=16)})
        first, then, _, after = client.run(phases())
        assert first <= 2
        assert first < then <= 16, "how many meet at once depends on the machine"
        assert after <= 12
        assert server.faults == {Fault.LIMITED: 16}


@pytest.mark.parametrize("fault", [Fault.BROKEN, Fault.BUSY], ids=lambda fault: fault.name)
def test_a_broken_server_is_not_a_sign_to_ask_less(fault: Fault) -> None:
    async def phases() -> int:
        await asyncio.gather(*(client.ask(_call(f"first {place}")) for place in range(60)))
        server.most_at_once = 0
        await asyncio.gather(*(client.ask(_call(f"then {place}")) for place in range(16)))
        return server.most_at_once

    with Faulty(
        lambda *_: fault if len(server.requests) > 60 and len(server.requests) % 2 else None, latency=0.3
    ) as server:
        client = Client(api_base=server.api_base, rates={"": Rate(at_once=16)})
        assert client.run(phases()) >= 10
    assert server.faults[fault] > 5


def test_a_stop_ends_the_waiting_and_begins_nothing() -> None:
    async def stopped() -> None:
        stop = asyncio.Event()
        client.stop = stop
        asyncio.get_running_loop().call_later(0.2, stop.set)
        with pytest.raises(Stopping):
            await client.ask(_call("waits a minute for its next attempt"))
        with pytest.raises(Stopping):
            await client.ask(_call("never begun"))

    with Faulty([Fault.LIMITED_UNTIL], retry_after="60") as server:
        client = Client(api_base=server.api_base, sleep=asyncio.sleep)
        client.run(asyncio.wait_for(stopped(), 10))
    assert len(server.requests) == 1


def test_cancelled_calls_leave_their_places() -> None:
    async def inside() -> None:
        tasks = [asyncio.ensure_future(client.ask(_call(f"question {number}"))) for number in range(6)]
        await asyncio.sleep(0.05)
        for task in tasks[:5]:
            task.cancel()
        assert (await tasks[5]).text == "heard: question 5"
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks[:5], return_exceptions=True)
        )

    with Faulty(latency=0.1) as server:
        client = Client(api_base=server.api_base, rates={"": Rate(at_once=1)})
        client.run(asyncio.wait_for(inside(), 10))


def test_a_place_given_to_a_call_that_is_just_being_cancelled_is_not_lost() -> None:
    async def inside() -> None:
        gate = Gate(1)

        async def enter() -> None:
            async with gate.place():
                pass

        async with gate.place():
            waiting = asyncio.ensure_future(enter())
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await asyncio.wait_for(enter(), 1)

    asyncio.run(inside())


def test_a_real_model(llama_server: Llama, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.delenv("OPENAI_API_KEY")
    client = Client(api_base=llama_server.api_base)
    client.check([llama_server.model])
    said = "Say hello to the reader of this test. " * 4
    reply = client.one(said, llama_server.model, temperature=0, max_tokens=12, logprobs=3)
    assert reply.text.strip()
    assert reply.finish in ("stop", "length")
    assert reply.cost is None
    assert 40 < reply.usage.input < 120
    assert reply.usage.output <= 12
    assert reply.tokens is not None
    assert "".join(token.text for token in reply.tokens).strip() == reply.text.strip()
    for token in reply.tokens:
        assert len(token.alternatives) == 3
        assert token.logprob <= 0
        assert token.logprob == pytest.approx(max(token.alternatives.values()), abs=1e-4), "temperature 0 is greedy"
    again = client.one(said, llama_server.model, temperature=0, max_tokens=12)
    assert again.usage.cached > 0
    assert again.tokens is None


def test_a_real_model_is_asked_too_much(llama_server: Llama) -> None:  # noqa: F811
    client = Client(api_base=llama_server.api_base)
    with pytest.raises(ContextOverflow, match=r"does not fit openai/tiny"):
        client.one("word " * (llama_server.context + 100), llama_server.model)
    assert client.waited == []
