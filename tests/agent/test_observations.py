"""Loops and foldings as pure decisions: what counts as the same, when it ends, and what a folded view always keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent import providers
from runoff.agent.doubles import Scripted
from runoff.agent.log import Log, read
from runoff.agent.observations import Loops, View, output
from runoff.agent.protocol import Message, Reply, Request, Sampling, Usage
from runoff.agent.step import Answer, Step, World
from runoff.sandbox.protocol import Execution, Sandbox


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", ""]), st.booleans())), st.integers(2, 8))
def test_nothing_ends_before_it_has_happened_so_often(acts: list[tuple[str, str, bool]], most: int) -> None:
    loops = Loops(most)
    for number, (action, result, failed) in enumerate(acts, 1):
        before = acts[:number]
        same = sum(act[:2] == (action, result) for act in before)
        failures = sum(act[1] == result and act[2] for act in before) if failed and result else 0
        loop = loops.met(action, result, failed)
        assert (loop.times if loop else 0) == (
            times if (times := max(same, failures)) >= max(2, (most + 1) // 2) else 0
        )
        assert (loop is not None and loop.ends) == (max(same, failures) >= most)


def test_times_and_addresses_make_no_difference() -> None:
    loops = Loops(4)
    loops.met("pytest", "1 failed in 0.12s: <object at 0x7f00aa>", failed=True)
    loop = loops.met("pytest -x", "1 failed in 3.50s: <object at 0x7f1111>", failed=True)
    assert loop
    assert (loop.what, loop.times, loop.ends) == ("failure", 2, False)
    assert loops.met("pytest", "2 failed in 0.12s", failed=True) is None


@given(st.text(max_size=300), st.integers(10, 200), st.integers(0, 5))
def test_an_output_is_capped_and_its_size_said(text: str, shown: int, dropped: int) -> None:
    raw = text.encode("utf-8", "replace")
    said = output(
        Execution(outcome="finished", exit_code=0, stdout=raw, stderr=b"", dropped=dropped, seconds=1, after=None),
        shown,
    )
    whole = raw.decode("utf-8", "replace").strip("\n")
    assert len(said.text) <= shown + 60
    assert said.text[: shown // 2] == whole[: shown // 2]
    assert (said.size is None) == (len(whole) <= shown and not dropped)


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 3000)), max_size=15),
    st.integers(600, 6000),
    st.floats(0.5, 1.5),
)
def test_a_view_keeps_the_opening_the_answers_and_the_last_results(
    turns: list[tuple[int, int]], window: int, ratio: float
) -> None:
    """Whatever the sizes, the window, and how the provider counts; and prompts only grow but for foldings."""
    opening = Message("system", "issue").then("user", "task")
    asked: list[Message] = []

    class Here:
        """Effects without a log, whose durable writes would take most of the time."""

        async def ask(self, name: str, request: Request) -> Answer:
            asked.append(request.conversation)
            size = sum(len(said.text) for said in request.conversation.back())
            text = f"answer {len(asked)} " + "a" * turns[len(asked) - 1][1]
            reply = Reply(text=text, usage=Usage(input=int(size / 3.6 * ratio)))
            return Answer(request.conversation.then("assistant", text), reply)

        async def once(self, name: str, decide: Any, **given: Any) -> Any:
            return await decide()

    async def scene() -> None:
        view, heard = View(opening, "m", Sampling(max_tokens=100), window), list[str]()
        for number, (size, _) in enumerate(turns, 1):
            await view.ask(cast(Step, Here()))
            shown = asked[-1].messages()
            assert [said.text for said in shown[:2]] == ["issue", "task"]
            assert len(shown) == 2 + 2 * (number - 1)
            assert all(said.text.startswith(f"answer {n} ") for n, said in enumerate(shown[2::2], 1))
            observations = [said.text for said in shown[3::2]]
            assert observations[-3:] == heard[-3:], "the last results are whole"
            folded = [said != whole for said, whole in zip(observations, heard, strict=True)]
            assert not any(folded[n] for n, whole in enumerate(heard) if len(whole) < 400)
            long = [was for was, whole in zip(folded, heard, strict=True) if len(whole) > 400]
            assert long == sorted(long, reverse=True), "the oldest are folded first"
            heard.append(f"heard {number} " + "h" * size)
            view.hear(heard[-1])

    asyncio.run(scene())


def test_the_window_is_what_litellm_lists() -> None:
    assert (providers.window("openai/gpt-4o") or 0) > 100_000
    assert providers.window("openai/nobody-lists-this") is None
    assert providers.window("recorded:/tmp/x") is None


@pytest.mark.parametrize("window", [None, 10_000])
def test_a_window_is_looked_up_once_and_is_on_record(tmp_path: Path, window: int | None) -> None:
    async def scene() -> list[str]:
        world = World(Log(tmp_path / "log.jsonl"), "i", Scripted(["a", "b", "c"]), cast(Sandbox, None))
        view = View(Message("user", "x" * 40_000), "nobody/lists-this", Sampling(max_tokens=100), window)
        for turn in range(2):
            await view.ask(Step(world, "t").scope(f"turn{turn}"))
            view.hear("heard")
        await world.close()
        return [record["path"] for record in read(tmp_path / "log.jsonl") if record["kind"] in ("ask", "once")]

    looked = ["turn0/window"] if window is None else []
    assert asyncio.run(scene()) == [*looked, "turn0/ask", "turn1/ask"]
