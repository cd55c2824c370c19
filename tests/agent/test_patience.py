"""Patience: it is lost with who says nothing, not with who spoke while we were busy elsewhere."""

from __future__ import annotations

import asyncio
import time

import pytest

from runoff.agent.patience import Patience


def test_it_runs_out_when_nothing_comes_and_never_early() -> None:
    async def scene() -> float:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with Patience(0.4):
                await asyncio.sleep(60)
        return time.monotonic() - began

    assert 0.4 <= asyncio.run(scene()) < 10


def test_each_sign_of_life_renews_it_and_none_is_no_limit() -> None:
    async def scene() -> None:
        async with Patience(0.4) as patience:
            for _ in range(12):
                await asyncio.sleep(0.1)
                patience.renew()
        async with Patience(None):
            await asyncio.sleep(0.1)

    asyncio.run(scene())


def test_what_came_while_the_loop_was_busy_is_heard() -> None:
    """With `asyncio.timeout` in its place this fails: its timer is due as soon as the loop comes back."""

    async def scene() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            await asyncio.sleep(0.05)
            writer.write(b"here")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"?")
            asyncio.get_running_loop().call_later(0.01, time.sleep, 0.5)
            async with Patience(0.2):
                said = await reader.read()
            writer.close()
            return said

    assert asyncio.run(scene()) == b"here"


def test_an_error_inside_is_not_hidden_and_leaves_no_timer() -> None:
    async def scene() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Patience(0.1):
                raise ZeroDivisionError
        await asyncio.sleep(0.3)

    asyncio.run(scene())
