"""A sandbox that is open on a thread of its own, for callers that are synchronous or live on many event loops.

A sandbox belongs to one event loop, and bubblewrap's helper dies with the thread that started it. So both are made once
for a process and a directory of states, on a thread that lasts as long as the process. Whatever ends the process ends the
helper and all that runs in it.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import Base, Image, Sandbox, State

Result = TypeVar("Result")


class Background:
    """An open sandbox, and how to call it from anywhere. Get one from `background`."""

    def __init__(self, backend: str, directory: Path) -> None:
        self._loop, self._calls = asyncio.new_event_loop(), set[asyncio.Task[Any] | None]()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"runoff {backend}", daemon=True)
        self._thread.start()
        self._bases, self._stack = dict[Base | Image, asyncio.Task[State]](), AsyncExitStack()
        self.sandbox: Sandbox = self.run(self._opened(backend, directory))
        atexit.register(self._close)

    def start(self, call: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Begin a call of the sandbox. To cancel the future cancels the call."""

        async def known() -> Result:
            self._calls.add(task := asyncio.current_task())
            try:
                return await call
            finally:
                self._calls.discard(task)

        return asyncio.run_coroutine_threadsafe(known(), self._loop)

    def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Wait for a call of the sandbox. An interrupt of the caller (Ctrl-C) cancels the call."""
        future = self.start(call)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def base(self, image: str) -> State:
        """The state to begin with: of an image, or with none of the host's own /usr. Asked for once for all callers."""
        wanted = Image(reference=image) if image else Base()
        task = self._bases.get(wanted)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._bases[wanted] = self._loop.create_task(self.sandbox.base(wanted))
        return await asyncio.shield(task)

    async def _opened(self, backend: str, directory: Path) -> Sandbox:
        return await self._stack.enter_async_context(open_backend(backend, directory))

    def _close(self) -> None:
        """At the end of the process: without it asyncio would complain about each call that is still under way."""

        async def close() -> None:
            calls = [task for task in self._calls if task]
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await self._stack.aclose()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def background(backend: str, states: str) -> Background:
    """The one of this process for a directory of states; without a directory, one that is removed when the process ends.

    Raises SandboxUnavailable.
    """
    with _opening:
        return _background(backend, states)


_opening = threading.Lock()


@cache
def _background(backend: str, states: str) -> Background:
    if states:
        return Background(backend, Path(states).expanduser().absolute())
    directory = Path(tempfile.mkdtemp(prefix="runoff-states-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Background(backend, directory)
