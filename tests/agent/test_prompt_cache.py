"""What trajectories share is sent first: the measurement that says so counts what a provider's cache could read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runoff.agent.doubles import Scripted
from runoff.agent.log import Log
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Step, World, trajectory
from scripts.bench.cache import Asked, Share, asked, shared, stage_first, task_first

CONTEXT, OTHER = "c" * 4_000, "o" * 4_000


def test_what_was_sent_before_is_known_and_a_first_message_that_differs_hides_the_rest() -> None:
    calls = [
        Asked("testing-1", (CONTEXT, "one")),
        Asked("testing-2", (CONTEXT, "two")),
        Asked("editing-2", (OTHER, CONTEXT)),
    ]
    assert shared(calls) == {"testing": Share(1_004, 1_008), "editing": Share(0, 2_008)}


def test_of_the_first_message_that_differs_what_it_begins_with_is_known() -> None:
    calls = [
        Asked("testing-1", (CONTEXT + "a" * 40,)),
        Asked("testing-2", (CONTEXT + "b" * 40, "x")),
        Asked("testing-3", ("b",)),
    ]
    assert shared(calls) == {"testing": Share(1_000, 1_018 + 4)}


def test_other_orders_hold_the_same_text() -> None:
    calls = [Asked(f"testing-{n}", (CONTEXT, f"Write a test. {n}", "reply")) for n in range(3)]
    assert [call.talk[:2] for call in stage_first(calls)] == [(f"Write a test. {CONTEXT}", str(n)) for n in range(3)]
    assert [call.talk[:2] for call in task_first(calls)] == [(f"Write a test. {n}{CONTEXT}", "") for n in range(3)]


def test_conversations_are_read_from_a_log_as_they_were_sent(tmp_path: Path) -> None:
    async def strategy(step: Step) -> Ended[str]:
        talk = Message("system", CONTEXT).then("user", step.trajectory)
        answer = await step.ask("turn1", Request("m", Sampling(), talk))
        await step.ask("turn2", Request("m", Sampling(), answer.conversation.then("user", "go on")))
        return Ended(reason="done")

    async def scenario() -> None:
        world = World(Log(tmp_path / "log"), "i", Scripted(lambda call: f"said {call.path}"), None)  # type: ignore[arg-type]
        for name in ("testing-1", "testing-2"):
            await trajectory(world, name, str, strategy)
        await world.close()

    asyncio.run(scenario())
    one, two = ("testing-1", "said turn1", "go on"), ("testing-2", "said turn1", "go on")
    assert asked(tmp_path / "log") == [
        Asked("testing-1", (CONTEXT, *one[:1])),
        Asked("testing-1", (CONTEXT, *one)),
        Asked("testing-2", (CONTEXT, *two[:1])),
        Asked("testing-2", (CONTEXT, *two)),
    ]
