"""The one way out of a sandbox that builds: a listener in its network namespace, relayed to a proxy on the host.

Part of the sandbox's helper (cell.py), standard library only. The sandbox has no route and no resolver; whatever it sends
here, the proxy reads, and only the proxy decides where it goes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

PORT = 3128
"""Of 127.0.0.1 inside."""
CONNECTIONS = 100
"""At once, of one execution; one more is closed at once."""

_CLONE_NEWNET, _IP_FREEBIND = 0x40000000, 15
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def relayed(process: int, proxy: tuple[str, int]) -> Iterator[None]:
    """As long as this is open, the network namespace of `process` has the listener. Nothing of it remains afterwards."""
    with ThreadPoolExecutor(1) as once:  # a thread that entered a namespace is of no other use
        listener = once.submit(_listen, process).result()
    with listener:
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = threading.Thread(target=_run, args=(loop, _serve(listener, proxy, stop)), daemon=True)
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


def _listen(process: int) -> socket.socket:
    handle = os.open(f"/proc/{process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(handle, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter the sandbox's network namespace: {os.strerror(number)}")
    finally:
        os.close(handle)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # its loopback may not be up yet
    listener.bind(("127.0.0.1", PORT))
    listener.listen(CONNECTIONS)
    listener.setblocking(False)
    return listener


def _run(loop: asyncio.AbstractEventLoop, serving: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels what is still connected
        runner.run(serving)


async def _serve(listener: socket.socket, proxy: tuple[str, int], stop: asyncio.Event) -> None:
    connected = 0

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        if connected >= CONNECTIONS:
            writer.close()
            return
        connected += 1
        try:
            await _relay(reader, writer, proxy)
        finally:
            connected -= 1

    server = await asyncio.start_server(connect, sock=listener)
    await stop.wait()
    server.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, proxy: tuple[str, int]) -> None:
    try:
        with suppress(OSError):
            from_proxy, to_proxy = await asyncio.open_connection(*proxy)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pump(reader, to_proxy))
                    both.create_task(_pump(from_proxy, writer))
            except* OSError:
                pass
            finally:
                to_proxy.close()
    finally:
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
