"""Loops and foldings as pure decisions: what counts as the same, when it ends, and what a folded view always keeps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent import providers
from runoff.agent.doubles import Scripted
from runoff.agent.log import Log, read
from runoff.agent.observations import Loops, View, _asked, output
from runoff.agent.protocol import Message, Reply, Request, Sampling, ToolCall, Usage
from runoff.agent.step import Answer, Step, World
from runoff.agent.tokenizers import counter, tokens
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


def length(message: Message) -> int:
    return len(message.text) + sum(len(call.arguments) for call in message.calls)


class Here:
    """Effects without a log, whose durable writes would take most of the time; an answer of each of these lengths."""

    def __init__(self, answers: list[int], ratio: float = 1.0, old: bool = False, argument: int = 0) -> None:
        self.answers, self.ratio, self.old, self.argument = answers, ratio, old, argument
        self.asked: list[Message] = []
        self.folded: list[Any] = []

    def was_here(self) -> bool:
        return self.old

    async def ask(self, name: str, request: Request) -> Answer:
        self.asked.append(request.conversation)
        size = sum(map(length, request.conversation.back()))
        text = f"answer {len(self.asked)} " + "a" * self.answers[len(self.asked) - 1]
        reply = Reply(text=text, usage=Usage(input=int(size / 3.6 * self.ratio)))
        calls = [ToolCall(id="1", name="edit", arguments=json.dumps({"path": "x.py", "new": "n" * self.argument}))]
        return Answer(request.conversation.then("assistant", text, calls=calls if self.argument else ()), reply)

    async def once(self, name: str, decide: Any, **given: Any) -> Any:
        self.folded += [await decide()] if name.startswith("fold") else []
        return self.folded[-1] if name.startswith("fold") else await decide()


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 3000)), max_size=15),
    st.integers(600, 6000),
    st.floats(0.5, 1.5),
    st.booleans(),
)
def test_a_view_keeps_the_opening_and_the_last_answers_with_their_results(
    turns: list[tuple[int, int]], window: int, ratio: float, old: bool
) -> None:
    """Whatever the sizes, the window, and how the provider counts; and prompts only grow but for foldings."""
    opening, here = Message("system", "issue").then("user", "task"), Here([said for _, said in turns], ratio, old)

    async def scene() -> None:
        view, heard, said = View(opening, "m", Sampling(max_tokens=100), window), list[str](), list[str]()
        for number, (size, _) in enumerate(turns, 1):
            answer = await view.ask(cast(Step, here))
            shown = here.asked[-1].messages()
            assert [message.text for message in shown[:2]] == ["issue", "task"]
            assert len(shown) == 2 + 2 * (number - 1)
            answers, observations = ([message.text for message in shown[start::2]] for start in (2, 3))
            assert all(text.startswith(f"answer {n} ") for n, text in enumerate(answers, 1))
            for was, now in ((heard, observations), (said, answers)):
                assert now[-3:] == was[-3:], "the last are whole"
                folded = [short != whole for short, whole in zip(now, was, strict=True)]
                assert not any(folded[n] for n, whole in enumerate(was) if len(whole) < 400)
                long = [short for short, whole in zip(folded, was, strict=True) if len(whole) > 420]
                assert long == sorted(long, reverse=True), "the oldest are folded first"
                assert not (old and was is said and any(folded))
            said.append(answer.conversation.text)
            heard.append(f"heard {number} " + "h" * size)
            view.hear(heard[-1])

    asyncio.run(scene())


def played(here: Here, window: int, results: list[int], call: str = "") -> None:
    async def scene() -> None:
        view = View(Message("system", "issue").then("user", "task"), "m", Sampling(max_tokens=100), window)
        for size in results:
            await view.ask(cast(Step, here))
            view.hear("h" * size, call=call)

    asyncio.run(scene())


def test_long_answers_fold_only_where_short_observations_do_not_help() -> None:
    wordy, terse = Here([2400] * 30), Here([50] * 30)
    played(wordy, 10_000, [50] * 30)
    played(terse, 10_000, [2400] * 30)
    assert max(sum(len(said.text) for said in talk.back()) for talk in wordy.asked) < 3.6 * 9000
    assert "more characters of this answer are folded away now" in wordy.asked[-1].messages()[2].text
    assert wordy.asked[-1].messages()[-2].text == "answer 29 " + "a" * 2400
    assert 1 <= len(wordy.folded) <= 4, "rarely, in large steps"
    assert not [said for said in terse.asked[-1].back() if "of this answer" in said.text], "its own words stay"
    before = Here([2400] * 30, old=True)
    played(before, 10_000, [50] * 30)
    assert max(sum(len(said.text) for said in talk.back()) for talk in before.asked) > 3.6 * 15_000


def test_folded_arguments_of_calls_are_still_arguments() -> None:
    here = Here([10] * 30, argument=2400)
    played(here, 10_000, [50] * 30, call="1")
    shown = [said for said in here.asked[-1].messages() if said.calls]
    arguments = [json.loads(said.calls[0].arguments) for said in shown]
    assert all(given["path"] == "x.py" for given in arguments)
    assert arguments[0]["new"].startswith("n" * 300 + " [… 2100 more characters")
    assert [len(given["new"]) for given in arguments[-3:]] == [2400] * 3
    assert [said.call for said in here.asked[-1].messages() if said.role == "tool"] == ["1"] * 29


@given(
    st.text(min_size=401) | st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.integers()), min_size=1)
)
def test_whatever_was_called_folds_to_a_json_object_no_longer_than_it_was(given_: Any) -> None:
    arguments = given_ if isinstance(given_, str) else json.dumps(given_)
    folded = _asked(ToolCall(id="1", name="edit", arguments=arguments))
    if len(arguments) <= 400:
        assert folded.arguments == arguments
    else:
        assert isinstance(json.loads(folded.arguments), dict)


def test_a_trajectory_that_folded_before_there_was_more_to_fold_goes_on(tmp_path: Path) -> None:
    """A log as it was written then: without what is decided now, and with foldings by estimate alone."""

    async def life(log: Path, turns: int) -> list[Message]:
        model = Scripted(lambda call: "wordy " * 600)
        world = World(Log(log), "i", model, cast(Sandbox, None))
        view = View(Message("user", "task"), "openai/gpt-4o", Sampling(max_tokens=100), 12_000)
        for turn in range(turns):
            await view.ask(Step(world, "t").scope(f"turn{turn}"))
            view.hear("heard " * 300)
        await world.close()
        return [call.request.conversation for call in model.calls]

    with pytest.MonkeyPatch.context() as then:
        then.setattr(Step, "was_here", lambda step: True)
        asked = await_(life(tmp_path / "then.jsonl", 14))
    assert "folded away" in "".join(said.text for said in asked[-1].back())
    lines = [line for line in (tmp_path / "then.jsonl").read_bytes().splitlines(keepends=True) if b"/view" not in line]
    assert len(lines) == len((tmp_path / "then.jsonl").read_bytes().splitlines()) - 1
    (tmp_path / "now.jsonl").write_bytes(b"".join(lines))
    assert len(await_(life(tmp_path / "now.jsonl", 16))) == 2, "what is on record is not asked again"
    assert len(await_(life(tmp_path / "now.jsonl", 16))) == 0
    fresh = await_(life(tmp_path / "fresh.jsonl", 16))
    assert await_(life(tmp_path / "fresh.jsonl", 16)) == []
    assert "of this answer are folded" in "".join(said.text for said in fresh[-1].back())


def test_tokens_are_counted_as_the_model_does() -> None:
    """Digits are a token for three; the estimate takes them for fewer, and the request would not fit."""
    here = Here([10] * 12, ratio=1.0)

    async def scene() -> None:
        view = View(Message("user", "task"), "openai/gpt-4o", Sampling(max_tokens=100), 20_000)
        for turn in range(12):
            await view.ask(cast(Step, here))
            view.hear(" ".join(str(10**6 + turn * 1000 + n) for n in range(900)))
        assert view._count("1000000 1000001") == counter("openai/gpt-4o")("1000000 1000001") > tokens("1000000 1000001")

    asyncio.run(scene())


def await_(work: Any) -> Any:
    return asyncio.run(work)


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
    assert asyncio.run(scene()) == ["turn0/view", *looked, "turn0/ask", "turn1/ask"]
