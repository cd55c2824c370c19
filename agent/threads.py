"""Threads of our own beside an event loop's: a pool that a forked process makes anew."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Threads:
    """So many threads. A fork has none of its parent's: who waited for one there would wait for ever."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)

    async def run(self, function: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What the function gives, in one of these threads, in turn."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *given, **named))


__all__ = ["Threads"]
