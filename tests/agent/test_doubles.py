"""The doubles: recordings that know when they are stale, scripts, schedules of faults."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from runoff.agent.doubles import Asked, Recorded, Recording, Scripted
from runoff.agent.faulty import TRANSIENT, seeded
from runoff.agent.protocol import (
    Call,
    Message,
    Model,
    ModelMisconfigured,
    Reply,
    Request,
    Sampling,
    Token,
    Usage,
    observed,
)


def _call(text: str, path: str = "edit", instance: str = "owner__repo-1", trajectory: str = "t1") -> Call:
    return Call(instance, trajectory, path, Request("openai/gpt-4o-mini", Sampling(), Message("user", text)))


def _ask(model: Model, *calls: Call) -> list[Reply]:
    async def inside() -> list[Reply]:
        return await asyncio.gather(*(model.ask(call) for call in calls))

    return asyncio.run(inside())


def test_a_recording_gives_back_what_was_said(tmp_path: Path) -> None:
    full = Reply(
        text="sure\n\u2028 é",
        usage=Usage(input=10, cached=4, output=3),
        cost=0.25,
        finish="length",
        tokens=(Token(text="sure", logprob=-0.5, alternatives={"no": -1.0}),),
    )
    calls = [_call("a"), _call("b", instance="owner__repo-2"), _call("a", path="a/b"), _call("a", trajectory="t2")]
    said = _ask(Recording(Scripted([full, "two", "three", "four"]), tmp_path), *calls)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["owner__repo-1.jsonl", "owner__repo-2.jsonl"]

    recorded = Recorded(tmp_path)
    heard = _ask(recorded, *reversed(calls))[::-1]
    assert [reply.text for reply in heard] == [reply.text for reply in said]
    assert heard[0] == full.model_copy(update={"recorded": True, "cost": 0.0})
    assert all(reply.recorded for reply in heard)
    assert (recorded.stale, recorded.drifted) == ([], [])


def test_stale_and_drifted_answers_are_listed_once(tmp_path: Path) -> None:
    def prompt(words: str, output: str, path: str) -> Call:
        return _call(f"{words}: {observed(output)}", path)

    _ask(Recording(Scripted(lambda call: call.path), tmp_path), *(prompt("It printed", "1.02 s", p) for p in "abc"))
    recorded = Recorded(tmp_path)
    now = [prompt("It printed", "1.02 s", "a"), prompt("It printed", "0.97 s", "b"), prompt("Output", "1.02 s", "c")]
    assert [reply.text for reply in _ask(recorded, *now, *now)] == ["a", "b", "c"] * 2
    assert recorded.drifted == [Asked("owner__repo-1", "t1", "b")]
    assert recorded.stale == [Asked("owner__repo-1", "t1", "c")]


def test_an_answer_that_is_not_there(tmp_path: Path) -> None:
    _ask(Recording(Scripted(["one"]), tmp_path), _call("a"))
    for call in (_call("a", path="other"), _call("a", instance="other__repo-1")):
        with pytest.raises(
            ModelMisconfigured, match=f"no recorded answer for {call.instance}/t1/{call.path} in .*; record it"
        ):
            _ask(Recorded(tmp_path), call)


def test_usage_is_estimated_where_a_line_has_none(tmp_path: Path) -> None:
    call = _call("x" * 400)
    talk = call.request.conversation
    line = {"trajectory": "t1", "path": "edit", "shape": talk.shape, "digest": talk.digest, "text": "y" * 40}
    file = tmp_path / "owner__repo-1.jsonl"
    file.write_text(json.dumps(line) + "\n")
    (reply,) = _ask(Recorded(file), call)
    assert reply == Reply(text="y" * 40, usage=Usage(input=104, output=11), cost=0.0, recorded=True)
    with pytest.raises(ModelMisconfigured, match="give a folder"):
        _ask(Recorded(file), _call("x", instance="another"))


def test_recording_goes_on_after_a_kill_and_keeps_what_is_there(tmp_path: Path) -> None:
    _ask(Recording(Scripted(["one", "two"]), tmp_path), _call("a", "1"), _call("a", "2"))
    file = tmp_path / "owner__repo-1.jsonl"
    file.write_bytes(file.read_bytes()[:-5])  # the second line is torn
    again = Scripted(["other", "two again", "three"])
    _ask(Recording(again, tmp_path), _call("a", "1"), _call("a", "2"), _call("a", "3"))
    assert len(again.calls) == 3
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert texts == ["one", "two again", "three"]


def test_concurrent_recording_does_not_mix_lines(tmp_path: Path) -> None:
    calls = [_call("a" * 1000, f"{number}") for number in range(200)]
    _ask(Recording(Scripted(lambda call: call.path * 500, latency=0.001), tmp_path), *calls)
    assert [reply.text for reply in _ask(Recorded(tmp_path), *calls)] == [call.path * 500 for call in calls]


def test_scripts() -> None:
    model = Scripted({"a": "one", "b": Reply(text="two", cost=1.0), "c": ModelMisconfigured("x", "y")})
    one, two = _ask(model, _call("q", "a"), _call("q", "b"))
    assert (one.text, one.cost, one.usage.output) == ("one", None, 1)
    assert two == Reply(text="two", cost=1.0)
    for path, says in (("c", "x; y"), ("d", "no scripted answer for call 4, d")):
        with pytest.raises(ModelMisconfigured, match=says):
            _ask(model, _call("q", path))
    assert [call.path for call in model.calls] == ["a", "b", "c", "d"]
    with pytest.raises(ModelMisconfigured, match="no scripted answer for call 2"):
        _ask(Scripted(["only one"]), _call("q"), _call("q"))


def test_a_seeded_schedule_depends_on_nothing_but_the_conversation() -> None:
    once, again, other = (seeded(seed, 0.6, most=3) for seed in (5, 5, 6))
    asked = [(f"digest {number}", attempt) for number in range(50) for attempt in range(5)]
    faults = {key: once(*key) for key in asked}
    assert faults == {key: again(*key) for key in reversed(asked)}
    assert faults != {key: other(*key) for key in asked}
    assert {fault for fault in faults.values() if fault} == set(TRANSIENT)
    assert all(fault is None for (_, attempt), fault in faults.items() if attempt >= 3)
