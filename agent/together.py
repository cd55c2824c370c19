"""Calls that ask the very same thing, answered by one request for several samples (`n`): its prompt is paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from runoff.agent.protocol import BudgetSpent, Call, ModelError, Reply, Stopping, Usage

_GATHERED = 0.05
"""Seconds that the first of them waits for more: trajectories that begin together first write what they will ask."""


class _Waiting(NamedTuple):
    call: Call
    answer: asyncio.Future[Reply | None]


class Together:
    """Groups of calls that are on no wire yet.

    Each caller gets an answer of its own, or an error of its own, as if it had asked alone. A caller that is cancelled
    leaves the group. If the one that asks for all is, or may no longer spend, the others ask again.
    """

    def __init__(self) -> None:
        self._open: dict[str, list[_Waiting]] = {}

    async def ask(
        self, call: Call, perform: Callable[[Call, Callable[[], list[Call]]], Awaitable[Sequence[Reply]]]
    ) -> Reply | None:
        """None: it was not answered with the others; ask again.

        `perform` asks for a call, and for those that it is given the moment it sends; it returns an answer for each, the
        call's own first, or fewer.
        """
        request = call.request
        key = f"{request.model} {request.sampling!r} {request.conversation.digest} {request.tools!r}"
        if (group := self._open.get(key)) is not None:
            here = _Waiting(call, asyncio.get_running_loop().create_future())
            group.append(here)
            return await here.answer
        group = self._open[key] = []
        sent: list[_Waiting] = []

        def close() -> list[Call]:
            if self._open.get(key) is group:
                del self._open[key]
                for other in group:
                    if other.answer.done():
                        continue
                    try:
                        other.call.check()
                    except BudgetSpent as error:
                        other.answer.set_exception(error)
                    else:
                        sent.append(other)
            return [other.call for other in sent if not other.answer.done()]

        try:
            await asyncio.sleep(_GATHERED)
            replies = await perform(call, close)
        except (BudgetSpent, Stopping):
            raise
        except ModelError as error:
            for other in sent:
                if not other.answer.done():
                    other.answer.set_exception(_same(error))
            raise
        else:
            waiting = [other for other in sent if not other.answer.done()]
            for other, reply in zip(waiting, replies[1:], strict=False):
                other.answer.set_result(reply)
            return replies[0]
        finally:
            if self._open.get(key) is group:
                del self._open[key]
            for other in group:
                if not other.answer.done():
                    other.answer.set_result(None)


def divided(replies: Sequence[Reply], usage: Usage, cost: float | None, price: float | None) -> list[Reply]:
    """What one request for several samples took, each token once: the first has the prompt, each what it generated.

    A provider counts all samples together, so they are told apart by their lengths. `price`: dollars a token generated.
    """
    sizes = [len(reply.text) + sum(len(call.arguments) for call in reply.calls) for reply in replies]
    own = [_part(usage, size, sum(sizes)) for size in sizes[1:]]
    rest = usage.model_copy(
        update={
            "output": usage.output - sum(each.output for each in own),
            "reasoning": usage.reasoning - sum(each.reasoning for each in own),
        }
    )
    costs: list[float | None] = [None] * len(replies)
    if cost is not None:
        costs[1:] = [min(each.output * (price or 0.0), cost / len(replies)) for each in own]
        costs[0] = cost - sum(each or 0.0 for each in costs[1:])
    shares = zip(replies, [rest, *own], costs, strict=True)
    return [reply.model_copy(update={"usage": took, "cost": paid}) for reply, took, paid in shares]


def _part(usage: Usage, size: int, of: int) -> Usage:
    share = size / of if of else 0.0
    return Usage(output=int(usage.output * share), reasoning=int(usage.reasoning * share))


def _same(error: ModelError) -> ModelError:
    """The error once more, without what was spent: that is its first one's."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.spent = None
    return copy
