"""Layers as streams, from one store into another. Standard library only: it runs in the sandbox's helper.

A stream is the tar of a layer (with the extended attributes and devices that are overlay's marks), then a digest of it. It is
made and taken in parts, so that no layer is ever whole in memory, or twice on a disk. A layer appears in a store only when
all of its stream came and was what was sent; one that is named by its content must have that content, too.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from runoff.sandbox import layerstore, running
else:
    sys.path.append(str(Path(__file__).parent))
    import layerstore
    import running

PART = 4 << 20
"""Bytes of a stream's parts, but for the last."""

_DIGEST = 32
_TAR = ("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner")


class Shipping:
    def __init__(self, store: layerstore.LayerStore) -> None:
        self._store, self._numbers = store, itertools.count(1)
        self._open: dict[int, _Sending | _Taking] = {}

    def send(self, name: str) -> int:
        """Begin with a layer. Returns the number of the stream, to be closed."""
        return self._begun(_Sending(self._store, name))

    def part(self, number: int) -> bytes:
        """The next part; empty when all was sent."""
        stream = self._open[number]
        assert isinstance(stream, _Sending)
        return next(stream.parts, b"")

    def take(self, name: str, below: Sequence[str]) -> int:
        """Begin to take a layer that lies on those below. Returns the number of the stream, to be closed."""
        return self._begun(_Taking(self._store, name, tuple(below)))

    def add(self, number: int, part: bytes) -> None:
        """The next part; empty when that was all: then the layer is in the store. Raises Problem if it is not what was sent."""
        stream = self._open[number]
        assert isinstance(stream, _Taking)
        stream.add(part)

    def close(self, number: int) -> None:
        self._open.pop(number).close()

    def _begun(self, stream: _Sending | _Taking) -> int:
        number = next(self._numbers)
        self._open[number] = stream
        return number


class _Sending:
    def __init__(self, store: layerstore.LayerStore, name: str) -> None:
        with ExitStack() as stack:
            if not stack.enter_context(store.used([name])):
                raise running.Problem("lost", f"layer {name} is not in the store")
            command = [*_TAR, "--create", "--format=posix", f"--directory={name}/u", "--file=-", "."]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            stack.callback(_ended, process)
            self._held = stack.pop_all()
        assert process.stdout
        self.parts = self._parts(process, process.stdout)

    def close(self) -> None:
        self._held.close()

    def _parts(self, process: subprocess.Popen[bytes], tar: IO[bytes]) -> Iterator[bytes]:
        digest = hashlib.blake2b(digest_size=_DIGEST)
        while part := tar.read(PART):
            digest.update(part)
            yield part
        if process.wait():
            raise running.Problem("lost", f"tar ended with {process.returncode}")
        yield digest.digest()


class _Taking:
    def __init__(self, store: layerstore.LayerStore, name: str, below: tuple[str, ...]) -> None:
        self._store, self._name, self._below = store, name, below
        self._digest, self._last = hashlib.blake2b(digest_size=_DIGEST), b""
        with ExitStack() as stack:
            self._slot = stack.enter_context(store.slot())
            command = [*_TAR, "--extract", "--preserve-permissions", "--same-owner", "--file=-"]
            command += [f"--directory={self._slot}/u"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
            stack.callback(_ended, self._process)
            self._held = stack.pop_all()

    def close(self) -> None:
        self._held.close()

    def add(self, part: bytes) -> None:
        assert self._process.stdin
        try:
            if part:
                known = self._last + part  # its end may be the digest
                whole, self._last = known[:-_DIGEST], known[-_DIGEST:]
                self._digest.update(whole)
                self._process.stdin.write(whole)
                return
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it says why by how it ends
        if self._process.wait() or self._last != self._digest.digest():
            raise running.Problem("lost", f"layer {self._name} is not what was sent")
        self._store.adopt(self._slot, self._name, self._below)


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()
