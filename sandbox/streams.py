"""What reading an execution's output needs: a cap while it streams, and a way to be told to end. Standard library only."""

from __future__ import annotations

import os
import threading


class Ending:
    """How one thread tells another, which waits for file descriptors, to end what it runs, and for which reason."""

    def __init__(self) -> None:
        self.handle = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.reason = ""
        self._lock, self._open = threading.Lock(), True

    def ask(self, reason: str) -> None:
        """The first reason stays. No error if it has ended by itself."""
        with self._lock:
            if self._open and not self.reason:
                self.reason = reason
                os.eventfd_write(self.handle, 1)

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self.handle)


class Capped:
    """The first half and the last half of a stream of any length, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self.first, self._last = limit // 2, limit - limit // 2
        self._head, self._tail, self._total = bytearray(), bytearray(), 0

    def add(self, chunk: bytes) -> None:
        self._total += len(chunk)
        room = self.first - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:] if room else chunk
        if len(self._tail) > 2 * self._last + (1 << 16):
            del self._tail[: len(self._tail) - self._last]

    @property
    def dropped(self) -> int:
        return max(0, self._total - self.first - self._last)

    def kept(self) -> bytes:
        return bytes(self._head + self._tail[max(0, len(self._tail) - self._last) :])
