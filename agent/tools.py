"""Tools as providers take them, and in plain text for models that know of none: the same calls come out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from runoff.agent.protocol import Message, Tool, ToolCall, digest

_FENCE = "```"
_BLOCK = re.compile(r"^```tool[ \t]*\n(.*?)^```[ \t]*$\n?", re.DOTALL | re.MULTILINE)

_HOW = """You can call tools. To call one, write a block of this form, its arguments one JSON object:

```tool
{"name": "NAME", "arguments": {}}
```

You may write several blocks in one answer, each at the beginning of a line. The results come in the next message.

The tools, each with the JSON schema of its arguments:
"""


def native(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """As the chat-completions interface takes them."""
    return [{"type": "function", "function": tool.model_dump(mode="json")} for tool in tools]


def native_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def described(tools: Sequence[Tool]) -> str:
    """What a model that cannot be given tools is told of them."""
    return _HOW + "\n".join(
        f"\n{tool.name}: {tool.description}\n{json.dumps(tool.parameters, sort_keys=True)}" for tool in tools
    )


def said(message: Message) -> tuple[str, str]:
    """Role and text of a message for such a model: its calls are blocks in its text, results come from the user."""
    if message.role == "tool":
        return "user", f"Result of {_named(message)}:\n{message.text}"
    return message.role, "\n".join(filter(None, [message.text, *map(_block, message.calls)]))


def parsed(text: str, talk: Message) -> tuple[str, tuple[ToolCall, ...]]:
    """The text of such a model's answer without its blocks, and the calls in them.

    A block that is no call is one of the tool `""`, so that the model can be told. Ids differ from answer to answer.
    """
    calls = []
    for place, found in enumerate(_BLOCK.finditer(text)):
        name, arguments = _read(found[1])
        calls.append(ToolCall(id=f"call_{digest(talk.digest, str(place), size=6)}", name=name, arguments=arguments))
    return (_BLOCK.sub("", text).strip() if calls else text), tuple(calls)


def _read(block: str) -> tuple[str, str]:
    try:
        said = json.loads(block)
        name, arguments = said["name"], said.get("arguments", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", block.strip()
    return str(name), arguments if isinstance(arguments, str) else json.dumps(arguments)


def _block(call: ToolCall) -> str:
    if not call.name:
        return f"{_FENCE}tool\n{call.arguments}\n{_FENCE}"
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    return f"{_FENCE}tool\n{json.dumps({'name': call.name, 'arguments': arguments})}\n{_FENCE}"


def _named(answer: Message) -> str:
    """Which call a result is of, in words: its name, and which one where the message before it made several."""
    for asked in answer.back():
        for place, call in enumerate(asked.calls, 1):
            if call.id == answer.call:
                return f"{call.name or 'a call'}" + (f" (call {place})" if len(asked.calls) > 1 else "")
    return "a call"
