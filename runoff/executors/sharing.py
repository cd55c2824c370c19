"""A node's sandbox whose environments another node may have made already: then their layers are brought here.

It comes between the builder and the sandbox where the builder would be alone with what it makes, so that nothing that
builds need know of other nodes. What cannot be brought is made here.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from runoff.executors.protocol import Found, Has, Left, More, Part, Said, Seeks
from runoff.sandbox.environments import builder
from runoff.sandbox.protocol import Sandbox, SandboxError, Ships, State


class Sharing:
    """A `Sandbox`. `say` reaches the head, whose answers come to `hear`."""

    def __init__(self, sandbox: Sandbox, ships: Ships, say: Callable[[Said], None]) -> None:
        """`ships` is the sandbox, as what can do this."""
        self._sandbox, self._ships, self._say = sandbox, ships, say
        self._sought: dict[str, asyncio.Future[Found]] = {}
        self._parts: dict[str, asyncio.Future[Part]] = {}
        self._bringing = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._said = set[str]()
        self.brought = 0
        """Layers."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sandbox, name)

    def hear(self, heard: Found | Part) -> None:
        waiting = self._sought.pop(heard.name, None) if isinstance(heard, Found) else None
        if isinstance(heard, Found):
            if waiting and not waiting.done():
                waiting.set_result(heard)
        elif (wanted := self._parts.pop(heard.layer, None)) and not wanted.done():
            wanted.set_result(heard)

    def named(self, name: str) -> State | None:
        if state := self._sandbox.named(name):
            self._tell(name, state)
        return state

    def keep(self, name: str, state: State) -> None:
        self._sandbox.keep(name, state)
        self._tell(name, state)

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Of all nodes, for what another could use."""
        async with self._sandbox.alone(name):
            wanted = builder.made_alone(name)
            if not wanted or all(map(self.named, wanted)):
                yield
                return
            try:
                found = await self._answer(self._sought, name, Seeks(name, wanted))
                await self._bring(found)
                yield
            finally:
                self._say(Left(name))

    async def _bring(self, found: Found) -> None:
        """What was found, if it can be had."""
        try:
            for name, state in found.states:
                await self._sandbox.make_room(builder.ROOM)
                for at in reversed(range(len(state.layers))):
                    await self._layer(state.layers[at], state.layers[at + 1 :])
                self.keep(name, state)
        except (SandboxError, _Broken):
            return

    async def _layer(self, layer: str, below: tuple[str, ...]) -> None:
        async with self._bringing[layer]:
            if layer not in self._ships.lacks(State(layers=(layer, *below))):
                return
            if not below:  # of its own: what it shows of a machine is no part of it
                raise _Broken
            await self._ships.take(layer, below, self._stream(layer))
            self.brought += 1

    async def _stream(self, layer: str) -> AsyncIterator[bytes]:
        first = True
        while True:
            part = await self._answer(self._parts, layer, More(layer, first))
            if part.broken:
                raise _Broken
            if part.data is None:
                return
            yield await _had(part.data)
            first = False

    async def _answer(self, waiting: dict[str, asyncio.Future[Any]], key: str, said: Said) -> Any:
        answer = waiting[key] = asyncio.get_running_loop().create_future()
        self._say(said)
        return await answer

    def _tell(self, name: str, state: State) -> None:
        if name not in self._said and (name.startswith("pristine ") or builder.made_alone(name)):
            self._said.add(name)
            self._say(Has(name, state))


class _Broken(Exception):
    """What another node has did not come."""


async def _had(data: Awaitable[bytes]) -> bytes:
    try:
        return await data
    except Exception as error:  # whatever it is that carries it: the node that has it may be gone
        raise _Broken from error
