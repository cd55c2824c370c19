"""Questions about many files: cut into batches, answered in JSON, asked for once more where the answer cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from runoff.agent.protocol import ContextOverflow, Message, Request, Sampling
from runoff.agent.step import Step

T = TypeVar("T")


async def readable(
    step: Step,
    names: Sequence[str],
    model: str,
    sampling: Sampling,
    *,
    first: str,
    again: str,
    read: Callable[[object], T | None],
    after: Message | None = None,
) -> T | None:
    """An answer's JSON as `read` takes it; asked for again by each further name; None if none reads or none fits the model.

    `after`: what is said before the question.
    """
    talk = Message("user", first, after)
    for name in names:
        try:
            answer = await step.ask(name, Request(model, sampling, talk))
        except ContextOverflow:
            return None
        if (found := read(_json(answer.reply.text))) is not None:
            return found
        talk = answer.conversation.then("user", again)
    return None


def _json(reply: str) -> object:
    """The last JSON value in a reply that stands in a fenced block, or the reply itself; None if neither reads."""
    for text in [*re.findall(r"```(?:json)?\s*\n(.*?)\n\s*```", reply, re.DOTALL)[::-1], reply]:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            continue
    return None


def batches(costs: Mapping[str, int], budget: int) -> list[list[str]]:
    """Names in their order, as many to a batch as cost no more than `budget` together; one that costs more is alone."""
    listed, left = list[list[str]](), 0
    for name, cost in costs.items():
        if not listed or cost > left:
            listed.append([])
            left = budget
        listed[-1].append(name)
        left -= cost
    return listed
