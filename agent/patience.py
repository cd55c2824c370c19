"""How long an answer is waited for: as time in which this process listened, so that being late itself is nobody's silence."""

from __future__ import annotations

import asyncio
from types import TracebackType

_TICKS = 8


class Patience:
    """Ends what is inside with TimeoutError after `seconds` (None: never), renewed with each sign of life.

        async with Patience(30) as patience:
            ...
            patience.renew()

    An `asyncio.timeout` ends an answer that lies in the socket unread, if the loop was busy elsewhere for so long. Here
    the time is counted in ticks, each begun when the last one was run: however long the loop was away, that is one
    tick, and the sockets are looked at before the next. It may so take an eighth longer, and never ends early.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._ticking: asyncio.TimerHandle | None = None
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Patience:
        await self._timeout.__aenter__()
        self.renew()
        if self._seconds is not None:
            self._tick()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticking:
            self._ticking.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def renew(self) -> None:
        self._left = _TICKS + 1  # the tick under way may be nearly over

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        if self._left:
            self._left -= 1
            self._ticking = loop.call_later((self._seconds or 0) / _TICKS, self._tick)
        else:
            self._timeout.reschedule(loop.time())
