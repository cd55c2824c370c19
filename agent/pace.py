"""How fast an endpoint is asked: calls at once by what it bears, requests and tokens a minute, one call first to warm its cache."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from runoff.agent.protocol import Message
from runoff.sandbox.protocol import Value

CACHED_FROM = 1024
"""Tokens of a prefix below which providers cache nothing (OpenAI's and most of Anthropic's smallest)."""
LONGEST_WARMING = 60.0
"""Seconds that calls wait for the one that warms the cache for them."""
STAYS_WARM = 240.0
"""Seconds after its last use that a prefix is taken to be cached; providers keep one for five minutes."""


class Rate(Value):
    """What an endpoint is asked at most. None: no such limit."""

    at_once: int = 32
    """Calls at once; reached only if the endpoint bears it."""
    requests: int | None = None
    """A minute."""
    tokens: int | None = None
    """A minute, input and output together, as estimated before a call and as counted after it."""

    def share(self, among: int) -> Rate:
        """One of so many equal parts. No part is nothing: more than there is to divide get more than all of it."""
        parts = {name: value // among for name, value in self if value is not None}
        return Rate.model_validate({name: max(1, part) for name, part in parts.items()})


def parse_rate(text: str) -> Rate:
    """`500rpm`, `2Mtpm`, `16atonce`, any of them joined by commas. Raises ValueError, in one line."""
    given: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)([kM]?)(rpm|tpm|atonce)\s*", part, re.ASCII)
        amount = round(float(match[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]]) if match else 0
        if not match or amount < 1 or match[3] in given:
            raise ValueError(
                f"a rate is 500rpm (requests a minute), 2Mtpm (tokens), 16atonce, or several; not {text!r}"
            )
        given[match[3]] = amount
    names = {"rpm": "requests", "tpm": "tokens", "atonce": "at_once"}
    return Rate.model_validate({names[kind]: amount for kind, amount in given.items()})


class Gate:
    """How many calls an endpoint gets at once, and whether it gets any.

    It begins low and doubles with each round that goes well; half as many after a 429, once an episode; from there on one
    more with each round. An episode ends with the first good answer to a call that was sent after the cut. While a call
    that was told to wait does so, the gate is shut to all: nobody learns for himself what the endpoint has said.
    """

    def __init__(self, most: int, first: int = 2) -> None:
        self._most, self._limit = most, float(min(first, most))
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._narrowed = -math.inf
        self._episode = False
        self._shut = 0
        self._opened: asyncio.Future[None] | None = None

    def hold(self, most: int) -> None:
        """No more at once from now on; those that are under way end."""
        self._most, self._limit = most, min(self._limit, float(most))
        self._admit()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """While somebody waits as he was told to."""
        self._shut += 1
        try:
            yield
        finally:
            self._shut -= 1
            if not self._shut and self._opened and not self._opened.done():
                self._opened.set_result(None)

    async def open(self) -> None:
        """Wait until nobody holds it shut: before each sending, by those that have a place."""
        while self._shut:
            if self._opened is None or self._opened.done():
                self._opened = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._opened])  # which leaves it to the others if this one is cancelled

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        # No lock: nothing else may run between a reply and its being added to the budget, see `LiteLLM.ask`.
        if self._inside < int(self._limit) and not self._waiting:
            self._inside += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        try:
            yield
        finally:
            self._leave()

    def widen(self, began: float = math.inf) -> None:
        """A call that was sent at `began` went well."""
        if began >= self._narrowed:
            self._episode = False
        bore_it_all = self._narrowed == -math.inf
        self._limit = min(float(self._most), self._limit + (1 if bore_it_all else 1 / self._limit))
        self._admit()

    def narrow(self, began: float) -> None:
        """A call that was sent at `began` was refused with 429."""
        # Calls that were sent before the last cut say nothing about what it did.
        if began >= self._narrowed and not self._episode:
            self._limit, self._narrowed, self._episode = max(1.0, self._limit / 2), time.monotonic(), True

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._inside < int(self._limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)


class Minute:
    """Requests and tokens of the last sixty seconds, held to a rate."""

    def __init__(
        self,
        rate: Rate,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate, self._sleep, self._clock = rate, sleep, clock
        self._sent: deque[list[float]] = deque()  # [when, tokens] of each request
        self._tokens = 0.0
        self._turn = asyncio.Lock()

    def hold(self, rate: Rate) -> None:
        """Another rate from the next request on; what was sent in the last minute counts."""
        self._rate = rate

    async def admit(self, tokens: int) -> Callable[[int], None]:
        """Wait until a request of so many tokens fits, in the order of asking. Whoever knows better afterwards says so
        to what this returns. One larger than the whole rate is let in when the minute before it was empty."""
        if self._rate.requests is None and self._rate.tokens is None:
            return lambda counted: None
        async with self._turn:
            while (wait := self._wait(tokens)) > 0:
                await self._sleep(wait)
            entry = [self._clock(), float(tokens)]
            self._sent.append(entry)
            self._tokens += tokens

        def correct(counted: int) -> None:
            self._tokens += counted - entry[1] if entry in self._sent else 0
            entry[1] = counted

        return correct

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        while self._sent and self._sent[0][0] <= now - 60:
            self._tokens -= self._sent.popleft()[1]
        full = self._rate.requests is not None and len(self._sent) >= self._rate.requests
        crowded = self._rate.tokens is not None and self._sent and self._tokens + tokens > self._rate.tokens
        return max(self._sent[0][0] + 60 - now, 0.001) if full or crowded else 0.0


class Warmth:
    """Of many calls with one long first message the first goes alone; when it is answered, the rest fan out.

    So that they read the prefix from the provider's cache: asked together, each would be billed for all of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._warm: dict[str, float] = {}
        self._warming: dict[str, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def turn(self, model: str, talk: Message) -> AsyncIterator[Callable[[], None]]:
        """Wait while somebody else warms this prefix. Gives what is to be called at the first token of the answer.

        If the warming call fails, the next one warms.
        """
        *_, first = talk.back()
        key = f"{model} {first.digest}"
        if len(first.text) // 4 <= CACHED_FROM:
            yield lambda: None
            return
        deadline = self._clock() + LONGEST_WARMING
        while not self._is_warm(key) and key in self._warming and self._clock() < deadline:
            await asyncio.wait([self._warming[key]], timeout=deadline - self._clock())
        mine: asyncio.Future[None] | None = None
        if not self._is_warm(key) and key not in self._warming:
            mine = self._warming[key] = asyncio.get_running_loop().create_future()

        def answered() -> None:
            self._warm[key] = self._clock()
            release()

        def release() -> None:
            if mine and not mine.done():
                del self._warming[key]
                mine.set_result(None)

        try:
            yield answered
        finally:
            release()

    def _is_warm(self, key: str) -> bool:
        return self._clock() - self._warm.get(key, -math.inf) < STAYS_WARM
