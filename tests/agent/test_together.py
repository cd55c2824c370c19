"""Several samples of one request: asked for once where trajectories ask the same, paid for once, and each has its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent import providers
from runoff.agent.budget import Budget, Prices
from runoff.agent.client import LiteLLM
from runoff.agent.faulty import Fault, Faulty, Messages
from runoff.agent.log import Log
from runoff.agent.protocol import Call, Message, Model, ModelUnreachable, Reply, Request, Sampling, Usage
from runoff.agent.step import Ended, Step, World, settled, trajectory
from runoff.agent.together import divided
from tests.llama import Llama, llama_server  # noqa: F401

MODEL = "openai/tiny"
PRICES = Prices(2e-6, 0.5e-6, 8e-6)
PROMPT = Message("system", "the code " * 50).then("user", "write a test")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-that-counts")


def client(server: Any, several: bool | None = True, **how: Any) -> LiteLLM:
    async def at_once(seconds: float) -> None:
        pass

    return LiteLLM(
        **({"api_base": server.api_base, "several": several, "sleep": at_once, "prices": {MODEL: PRICES}} | how)
    )


def numbered() -> Any:
    """A model that never says the same twice, and more each time."""
    count = itertools.count(1)
    return lambda messages: f"sample {next(count)}" + " word" * next(count)


def ask(model: LiteLLM, calls: Sequence[Call]) -> list[Reply | BaseException]:
    async def all_of_them() -> list[Reply | BaseException]:
        try:
            return await asyncio.gather(*map(model.ask, calls), return_exceptions=True)
        finally:
            await model.close()

    return asyncio.run(all_of_them())


def calls(number: int, talk: Message = PROMPT, **how: Any) -> list[Call]:
    return [Call("i", f"t{n}", "turn1", Request(MODEL, Sampling(temperature=1), talk), **how) for n in range(number)]


def replies(ends: Sequence[Reply | BaseException]) -> list[Reply]:
    assert not [end for end in ends if not isinstance(end, Reply)]
    return cast(list[Reply], ends)


def test_the_same_question_is_one_request_and_its_prompt_is_paid_for_once() -> None:
    with Faulty(answer=numbered(), samples=8) as server:
        got = replies(ask(client(server), calls(6)))
    assert [request.get("n") for request in server.requests] == [6]
    assert len({reply.text for reply in got}) == 6
    assert sum((reply.usage for reply in got), Usage()) == server.billed[0]
    assert sum(reply.cost or 0 for reply in got) == pytest.approx(PRICES.of(server.billed[0]))
    assert sorted(reply.usage.input for reply in got)[:5] == [0] * 5
    assert all(reply.usage.output and reply.cost for reply in got)


def test_other_questions_are_asked_apart() -> None:
    with Faulty(samples=8) as server:
        other = Call("i", "t9", "turn1", Request(MODEL, Sampling(temperature=0.5), PROMPT))
        ask(client(server), [*calls(2), *calls(1, PROMPT.then("assistant", "a").then("user", "b")), other])
    assert sorted(request.get("n") or 1 for request in server.requests) == [1, 1, 2]


@pytest.mark.parametrize(("samples", "requests"), [(1, 6), (3, 4)])
def test_where_fewer_come_back_the_others_are_asked_for_one_by_one(samples: int, requests: int) -> None:
    with Faulty(answer=numbered(), samples=samples) as server:
        model = client(server)
        got = replies(ask(model, calls(6)))
    assert len({reply.text for reply in got}) == 6
    assert [request.get("n") for request in server.requests] == [6, *[None] * (requests - 1)]
    assert sum((reply.usage for reply in got), Usage()) == sum(server.billed, Usage())


def test_it_is_off_where_nobody_knows_and_where_it_is_said() -> None:
    assert providers.takes_n("openai/gpt-4o-mini")
    assert not providers.takes_n("anthropic/claude-sonnet-4-5")
    assert not providers.takes_n("openai/nobody-lists-this")
    for several in (None, False):
        with Faulty(samples=8) as server:
            replies(ask(client(server, several), calls(3)))
        assert [request.get("n") for request in server.requests] == [None] * 3


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.EMPTY, Fault.CUT, Fault.GARBAGE], ids=lambda fault: fault.name)
def test_a_passing_fault_is_tried_again_for_all_of_them(fault: Fault) -> None:
    with Faulty([fault], numbered(), samples=8) as server:
        got = replies(ask(client(server), calls(4)))
    assert len(server.requests) == 2 if fault is not Fault.EMPTY else 2 <= len(server.requests) <= 5
    assert len({reply.text for reply in got}) == 4
    assert sum((reply.usage for reply in got), Usage()) == sum(server.billed, Usage())


def test_a_lasting_fault_is_each_ones_and_what_it_took_the_first_ones() -> None:
    with Faulty(lambda *_: Fault.EMPTY, samples=8) as server:
        ends = ask(client(server, attempts=2), calls(3))
    assert {type(end) for end in ends} == {ModelUnreachable}
    spent = [end.spent.usage for end in ends if isinstance(end, ModelUnreachable) and end.spent]
    assert sum(spent, Usage()) == sum(server.billed, Usage())


def test_one_that_may_not_spend_or_is_cancelled_leaves_the_others_be() -> None:
    broke = Budget(calls=1)
    broke.add(Reply(text="", cost=0.0))

    async def scene() -> list[Reply | BaseException]:
        model = client(server)
        mine = calls(4)
        mine[0] = mine[0]._replace(check=broke.check)
        tasks = [asyncio.ensure_future(model.ask(call)) for call in mine]
        await asyncio.sleep(0.01)
        tasks[2].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await model.close()
        return ends

    with Faulty(answer=numbered(), samples=8) as server:
        ends = asyncio.run(scene())
    assert [type(end).__name__ for end in ends] == ["BudgetSpent", "Reply", "CancelledError", "Reply"]
    assert len(server.billed) == 1
    assert [request.get("n") for request in server.requests] == [2]


async def unit(step: Step) -> Ended[str]:
    talk = PROMPT
    for turn in range(2):
        answer = await step.ask(f"turn{turn}", Request(MODEL, Sampling(temperature=1), talk))
        talk = answer.conversation.then("user", "go on")
    return Ended(reason="done", value="; ".join(said.text for said in talk.messages()[2::2]))


async def life(place: Path, model: Model) -> tuple[list[Any], Usage, int]:
    world = World(Log(place / "log.jsonl"), "i", model, cast(Any, None))
    in_doubt = world.log.possibly_billed.total()
    try:
        ends = await settled(*(trajectory(world, f"t{n}", str, unit) for n in range(5)))
    finally:
        await world.close()
    took = [Usage.model_validate(line["usage"]) for line in world.log.ledger if line["usage"]]
    return ends, sum(took, Usage()), in_doubt


def test_each_trajectory_has_its_own_record_and_a_replay_asks_nothing(tmp_path: Path) -> None:
    def first_time(messages: Messages) -> str:
        return f"{len(messages)} {answer(messages)}"

    answer = numbered()
    with Faulty(answer=first_time, samples=8) as server:
        model = client(server)

        async def twice() -> None:
            first = await life(tmp_path, model)
            asked = len(server.requests)
            assert await life(tmp_path, model) == first
            assert len(server.requests) == asked
            assert first[1] == sum(server.billed, Usage()), "the ledger is the bill"
            assert len({end.value for end in first[0]}) == 5
            await model.close()

        asyncio.run(twice())
    assert sorted(request.get("n") or 1 for request in server.requests) == [1, 1, 1, 1, 1, 5]


def test_a_kill_between_their_records_repeats_only_what_was_not_recorded(tmp_path: Path) -> None:
    """The log is cut after each of its lines in turn, as a kill at that moment leaves it."""
    with Faulty(answer=numbered(), samples=8) as server:
        model = client(server)

        async def lives() -> None:
            await life(tmp_path, model)
            lines = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
            for kept in range(1, len(lines)):
                place = tmp_path / f"{kept}"
                place.mkdir()
                (place / "log.jsonl").write_bytes(b"".join(lines[:kept]))
                recorded = sum(b'"kind": "ask"' in line for line in lines[:kept])
                intents = sum(b'"kind": "intent"' in line for line in lines[:kept])
                before = len(server.billed), sum(request.get("n") or 1 for request in server.requests)
                _, _, in_doubt = await life(place, model)
                assert in_doubt == intents - recorded
                asked = sum(request.get("n") or 1 for request in server.requests) - before[1]
                assert asked == 10 - recorded, "each answer that is not on record, once"
            await model.close()

        asyncio.run(lives())


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=8),
    st.integers(0, 5000),
    st.integers(0, 3000),
    st.one_of(st.none(), st.floats(0, 5)),
)
def test_what_is_divided_adds_up(sizes: list[int], read: int, said: int, cost: float | None) -> None:
    usage = Usage(input=read, cached=read // 2, output=said, reasoning=said // 3)
    parts = divided([Reply(text="x" * size) for size in sizes], usage, cost, 1e-5)
    assert sum((part.usage for part in parts), Usage()) == usage
    assert all(min(part.usage.output, part.usage.reasoning) >= 0 for part in parts)
    if cost is None:
        assert {part.cost for part in parts} == {None}
    else:
        assert sum(part.cost or 0 for part in parts) == pytest.approx(cost)
        assert all((part.cost or 0) >= 0 for part in parts)


def test_a_real_server_gives_several_and_refuses_more_than_it_has_places(llama_server: Llama) -> None:  # noqa: F811
    def few(number: int) -> list[Call]:
        sampling = Sampling(temperature=1, max_tokens=12)
        return [Call("i", f"t{n}", "p", Request(llama_server.model, sampling, PROMPT)) for n in range(number)]

    two = replies(ask(client(llama_server), few(2)))
    assert two[0].usage.input > 50
    assert two[1].usage.input == 0
    assert 2 <= sum(reply.usage.output for reply in two) <= 24
    assert all(reply.text.strip() for reply in replies(ask(client(llama_server), few(4)))), "one by one, if it must be"
