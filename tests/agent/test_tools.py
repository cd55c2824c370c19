"""Tools: the same calls come out of a model that takes tools and of one that is told of them in words."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.client import LiteLLM
from runoff.agent.faulty import Faulty
from runoff.agent.protocol import Call, Message, Reply, Request, Sampling, Tool, ToolCall
from runoff.agent.tools import described, parsed, said

RUN = Tool(
    name="run",
    description="runs a shell command",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}},
)
TALK = Message("system", "You repair programs.").then("user", "mend it")
ASKED = (
    ToolCall(id="a", name="run", arguments='{"command": "ls"}'),
    ToolCall(id="b", name="run", arguments='{"command": "```"}'),
)
WRITTEN = """I look around.

```tool
{"name": "run", "arguments": {"command": "ls"}}
```
```tool
{"name": "run", "arguments": {"command": "```"}}
```
"""


def ask(server: Faulty, talk: Message, native: bool, stall: float | None) -> Reply:
    client = LiteLLM(api_base=server.api_base, native_tools=native, stall=stall)

    async def one() -> Reply:
        try:
            return await client.ask(Call("i", "t", "p", Request("openai/tiny", Sampling(), talk, (RUN,))))
        finally:
            await client.close()

    return asyncio.run(one())


@pytest.mark.parametrize("stall", [None, 5.0])
@pytest.mark.parametrize("native", [True, False])
def test_a_call_its_answer_and_the_next_call(native: bool, stall: float | None) -> None:
    first: str | Reply = Reply(text="I look around.", calls=ASKED) if native else WRITTEN
    with Faulty(answer=lambda messages: first if len(messages) == 2 else "done") as server:
        reply = ask(server, TALK, native, stall)
        assert reply.text == "I look around."
        assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [
            ("run", {"command": "ls"}),
            ("run", {"command": "```"}),
        ]
        assert len({call.id for call in reply.calls}) == 2
        talk = TALK.then("assistant", reply.text, calls=reply.calls)
        for call, result in zip(reply.calls, ("a.py", "no such command"), strict=True):
            talk = talk.then("tool", result, call=call.id)
        assert ask(server, talk, native, stall).text == "done"
    sent = server.requests[1]
    if native:
        assert sent["tools"] == [{"type": "function", "function": RUN.model_dump()}]
        assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool", "tool"]
        assert [call["id"] for call in sent["messages"][2]["tool_calls"]] == ["a", "b"]
        assert [message["tool_call_id"] for message in sent["messages"][3:]] == ["a", "b"]
    else:
        assert "tools" not in sent
        assert sent["messages"][0]["content"] == f"{TALK.messages()[0].text}\n\n{described([RUN])}"
        assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "user", "user"]
        assert sent["messages"][2]["content"].split() == WRITTEN.split(), "it sees its own blocks again"
        assert sent["messages"][4]["content"] == "Result of run (call 2):\nno such command"


def test_a_reply_that_only_calls_is_no_empty_reply() -> None:
    with Faulty(answer=lambda messages: Reply(text="", calls=ASKED[:1])) as server:
        assert ask(server, TALK, native=True, stall=None).calls == ASKED[:1]
    assert len(server.requests) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)
)


@given(st.text(), st.lists(st.tuples(st.text(min_size=1), st.dictionaries(st.text(), json_values)), max_size=4))
def test_what_is_written_as_blocks_is_read_as_the_same_calls(
    text: str, asked: list[tuple[str, dict[str, object]]]
) -> None:
    calls = [ToolCall(id=str(n), name=name, arguments=json.dumps(given)) for n, (name, given) in enumerate(asked)]
    if "```tool" in text:
        return
    role, written = said(TALK.then("assistant", text, calls=calls))
    rest, read = parsed(written, TALK)
    assert role == "assistant"
    assert [(call.name, json.loads(call.arguments)) for call in read] == asked
    assert rest.strip() == Message("user", text).text.strip()
    assert parsed(written, TALK)[1] == read, "a replay reads the same ids"


@pytest.mark.parametrize("block", ["ls -l", '{"name": "run"', '["run"]', "{}", "null", '"run"'])
def test_a_block_that_is_no_call_is_handed_on_as_one_of_no_tool(block: str) -> None:
    _, calls = parsed(f"so:\n```tool\n{block}\n```", TALK)
    assert [(call.name, call.arguments) for call in calls] == [("", block)]
    _, written = said(TALK.then("assistant", "", calls=calls))
    assert block in written
