"""Conversations and answers as the chat-completions interface writes them: what is sent, and what came, read. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from runoff.agent import tools
from runoff.agent.protocol import Reply, Request, Token, Usage


class Heard:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls: dict[int, list[str]] = {}
        """Id, name and arguments by the call's index."""
        self.billed: list[str] = []
        """All that was generated: text, arguments, and thinking that is not part of the reply."""
        self.finish: str | None = None
        self.counted: Any = None
        self.uncounted = False
        """Whether all of it has come but for what it took."""

    def take(self, piece: Any) -> None:
        self.counted = getattr(piece, "usage", None) or self.counted
        for choice in piece.choices[:1]:
            self._take(choice)

    def _take(self, choice: Any) -> None:
        delta = choice.delta
        self.text.append(delta.content or "")
        said = [delta.content, getattr(delta, "reasoning_content", None)]
        for part in getattr(delta, "tool_calls", None) or ():
            call = self.calls.setdefault(part.index, ["", "", ""])
            call[0] = part.id or call[0]
            call[1] = part.function.name or call[1]
            call[2] += part.function.arguments or ""
            said.append(part.function.arguments)
        self.billed += filter(None, said)
        self.finish = choice.finish_reason or self.finish


def whole(replies: Sequence[Reply], counted: Any) -> Usage:
    """What all samples of one request took: each says it of all, unless nobody counted and each was estimated alone."""
    known = usage(counted)
    if known.input + known.output:
        return known
    return replies[0].usage.model_copy(update={"output": sum(reply.usage.output for reply in replies)})


def usage(counted: Any) -> Usage:
    """What a provider says that an answer took, in tokens; all zero where it says nothing."""
    given, said = getattr(counted, "prompt_tokens_details", None), getattr(counted, "completion_tokens_details", None)
    cached = getattr(given, "cached_tokens", None) or getattr(counted, "cache_read_input_tokens", None) or 0
    written = (
        getattr(given, "cache_creation_tokens", None) or getattr(counted, "cache_creation_input_tokens", None) or 0
    )
    return Usage(
        input=max(getattr(counted, "prompt_tokens", None) or 0, cached + written),
        cached=cached,
        written=written,
        output=getattr(counted, "completion_tokens", None) or 0,
        reasoning=getattr(said, "reasoning_tokens", None) or 0,
    )


def tokens(reported: Any) -> tuple[Token, ...] | None:
    """The log-probs that came with an answer; None if none did."""
    content = getattr(reported, "content", None)
    if not content:
        return None
    found = []
    for token in content:
        alternatives: dict[str, float] = {}
        for other in token.top_logprobs or ():
            text = sendable(other.token)
            # Two tokens may be read as one text (parts of a character): the likelier stands for it.
            alternatives[text] = max(_finite(other.logprob), alternatives.get(text, -math.inf))
        found.append(Token(text=sendable(token.token), logprob=_finite(token.logprob), alternatives=alternatives))
    return tuple(found)


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else -9999.0  # as OpenAI writes "impossible"


def messages(request: Request, *, native: bool, marked: bool) -> list[dict[str, Any]]:
    """A conversation as the chat-completions interface takes it. `marked`: the provider caches what it is told to."""
    talk = request.conversation.messages()
    sent: list[dict[str, Any]] = []
    for said in talk:
        role, text = (said.role, said.text) if native else tools.said(said)
        message: dict[str, Any] = {"role": role, "content": sendable(text)}
        if native and said.calls:
            message |= {"content": message["content"] or None, "tool_calls": tools.native_calls(said.calls)}
        if native and said.role == "tool":
            message["tool_call_id"] = said.call
        sent.append(message)
    if request.tools and not native:
        sent[0]["content"] += f"\n\n{tools.described(request.tools)}"  # at the end: what is shared stays a prefix
    for message in (sent[0], sent[-1]) if marked else ():
        _mark(message)
    return sent


def _mark(message: dict[str, Any]) -> None:
    """Have what ends here cached: what all trajectories share, and the conversation so far."""
    mark = {"type": "ephemeral"}
    if message["role"] == "tool":
        message["cache_control"] = mark
    elif isinstance(message["content"], str) and message["content"]:
        message["content"] = [{"type": "text", "text": message["content"], "cache_control": mark}]


def sendable(text: str) -> str:
    """Undecodable bytes of a program's output are lone surrogates here, and those no request can carry."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
