"""Which node has which environments, so that each is made once in a cluster, and reaches every other node once.

What is big does not pass through the head: it hands on references to parts of a layer, one at a time as they are asked for.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Protocol

from runoff.executors.protocol import Away, Found, Left, Lost, More, Part, Seeks
from runoff.sandbox.protocol import State


class Place(Hashable, Protocol):
    @property
    def worker(self) -> Away: ...


class Shelf:
    def __init__(self, tell: Callable[[Place, Found | Part], None]) -> None:
        self._tell = tell
        self._has = defaultdict[str, dict[Place, State]](dict)
        self._making: dict[str, Place] = {}
        self._waiting = defaultdict[str, deque[tuple[Place, Seeks]]](deque)
        self._streams: dict[tuple[Place, str], AsyncIterator[Awaitable[bytes]]] = {}

    def has(self, place: Place, name: str, state: State) -> None:
        self._has[name][place] = state

    def seek(self, place: Place, sought: Seeks) -> None:
        """Told at once, or when whoever makes it has left."""
        if states := self._found(sought.wanted):
            self._tell(place, Found(sought.name, states))
        elif sought.name in self._making:
            self._waiting[sought.name].append((place, sought))
        else:
            self._making[sought.name] = place
            self._tell(place, Found(sought.name, ()))

    def left(self, place: Place, left: Left) -> None:
        if self._making.get(left.name) is not place:
            return
        del self._making[left.name]
        waiting = self._waiting.pop(left.name, deque())
        for one, sought in waiting:
            self.seek(one, sought)  # the first makes it, if nobody has it by now

    async def more(self, place: Place, more: More) -> None:
        """The next part of a layer, for a place."""
        key = (place, more.layer)
        if more.first:
            self._streams.pop(key, None)
            source = self._source(place, more.layer)
            if source:
                self._streams[key] = source.worker.ship(more.layer)
        stream = self._streams.get(key)
        try:
            part = Part(more.layer, await anext(stream)) if stream else Part(more.layer, None, broken=True)
        except StopAsyncIteration:
            part = Part(more.layer, None)
        except Lost:
            part = Part(more.layer, None, broken=True)
        if part.data is None:
            self._streams.pop(key, None)
        self._tell(place, part)

    def lose(self, place: Place) -> None:
        for states in self._has.values():
            states.pop(place, None)
        for key in [key for key in self._streams if key[0] is place]:
            del self._streams[key]
        for name, waiting in self._waiting.items():
            self._waiting[name] = deque((one, sought) for one, sought in waiting if one is not place)
        for name in [name for name, maker in self._making.items() if maker is place]:
            self.left(place, Left(name))

    def _found(self, wanted: tuple[str, ...]) -> tuple[tuple[str, State], ...]:
        """All of it, or nothing."""
        if not all(self._has.get(name) for name in wanted):
            return ()
        return tuple((name, next(iter(self._has[name].values()))) for name in wanted)

    def _source(self, place: Place, layer: str) -> Place | None:
        having = (one for states in self._has.values() for one, state in states.items() if layer in state.layers)
        return next((one for one in having if one is not place), None)
