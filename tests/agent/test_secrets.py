"""Secrets: whatever a model, an execution or a provider says, no key is ever written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.doubles import Scripted
from runoff.agent.log import Log
from runoff.agent.protocol import Message, ModelUnreachable, Reply, Request, Sampling, ToolCall
from runoff.agent.secrets import Secrets
from runoff.agent.step import Ended, Run, Step, World, trajectory
from runoff.sandbox.protocol import Execution, Limits, State

KEY = 'sk-Zx81"never\\seen'
OWN = "hunter2hunter2"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RUNOFF_SECRETS", "MY_LOGIN, NOTHING")
    monkeypatch.setenv("MY_LOGIN", OWN)


class Leaking:
    name = "leaking"

    async def execute(self, state: State, argv: tuple[str, ...], limits: Limits = Limits(), **how: Any) -> Execution:
        said = f"env: {KEY} {OWN}"
        return Execution.model_validate(
            {"outcome": "finished", "exit_code": 0, "stdout": said, "stderr": said, "seconds": 0, "after": None}
        )

    def find(self, digest: str) -> State | None:
        return None


async def leaks(step: Step) -> Ended[str]:
    call = ToolCall(id="1", name="run", arguments=f'"{OWN}"')
    answer = await step.ask("first", Request("m", Sampling(), Message("user", f"my key is {KEY}")))
    done = await step.execute("env", Run(state=State(layers=("b",)), argv=("env", OWN)))
    chosen = await step.once("choose", _said, told=OWN)
    talk = answer.conversation.then("assistant", "", calls=[call]).then("user", f"{done.text} {chosen}")
    last = await step.ask("last", Request("m", Sampling(), talk))
    return Ended(reason="done", value=f"{last.conversation.digest} {last.reply.text}", note=OWN)


async def _said() -> str:
    return KEY


def lives(log: Path, *answers: Any) -> Ended[str]:
    async def scenario() -> Ended[str]:
        world = World(Log(log), "i", Scripted(answers), Leaking())  # type: ignore[arg-type]
        try:
            return await trajectory(world, "t", str, leaks)
        finally:
            await world.close()

    return asyncio.run(scenario())


def test_a_key_in_a_reply_an_error_an_execution_or_a_decision_is_not_written(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    echoing = Reply(text=f"you said {KEY}", calls=(ToolCall(id="x", name="y", arguments=KEY),))
    assert lives(log, echoing, ModelUnreachable(f"401: {KEY} is no key")).reason == "error"
    ended = lives(log, f"bye {OWN}")
    written = log.read_text()
    for secret in (KEY, KEY.replace("\\", "\\\\").replace('"', '\\"'), OWN):
        assert secret not in written
    assert "[OPENAI_API_KEY]" in written
    assert "[MY_LOGIN]" in written
    assert ended.value
    assert ended.value.endswith("bye [MY_LOGIN]"), "nor is it kept anywhere else"


def test_a_killed_run_goes_on_where_a_key_was_taken_out(tmp_path: Path) -> None:
    """What was shown the first time is what a replay gives, or the conversation would have drifted."""
    log = tmp_path / "log.jsonl"
    assert lives(log, f"you said {KEY}", ModelUnreachable("gone")).reason == "error"
    resumed = lives(log, "bye")
    assert resumed.value == lives(tmp_path / "other.jsonl", f"you said {KEY}", "bye").value


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("ANTHROPIC_API_KEY", "abcdefgh", True),
        ("HF_TOKEN", "hf_0123456789", True),
        ("AWS_SECRET_ACCESS_KEY", "0123456789ab", True),
        ("AWS_ACCESS_KEY_ID", "AKIA0123456", True),
        ("DB_PASSWORD", "correct horse", True),
        ("DB_PASSWORD", "short", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json", False),
        ("MAX_TOKEN", "100000000", False),
        ("KEYBOARD", "international", False),
        ("TOKENIZERS_PARALLELISM", "falsefalse", False),
        ("RUNOFF_SECRETS", "SOME_LONG_NAME", False),
    ],
)
def test_what_is_taken_for_a_secret(name: str, value: str, secret: bool) -> None:
    said = Secrets({name: value}).redact(f"<{value}>")
    assert said == (f"<[{name}]>" if secret else f"<{value}>")


@given(st.lists(st.text(min_size=8, max_size=12), min_size=1, max_size=5), st.text())
def test_no_secret_is_left_whatever_stands_around_it(values: list[str], around: str) -> None:
    secrets = Secrets({f"K{n}_KEY": value for n, value in enumerate(values) if not value.startswith("/")})
    kept = [value for value in values if secrets.redact(value) != value]
    text = secrets.redact(around.join(["", *values, ""]))
    # Taking one out may bring others together: names in brackets stand between.
    assert all(value not in text or any(value in f"[K{n}_KEY]" for n in range(5)) for value in kept)
