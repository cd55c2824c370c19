"""One program run in a container: the script that starts it there, and the talk with it until it ends. Blocking."""

from __future__ import annotations

import secrets
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from runoff.sandbox.protocol import Refused
from runoff.sandbox.streams import Capped, Ending

_LARGEST_ARGUMENT, _LARGEST_COMMAND = (128 << 10) - 1, (2 << 20) - (64 << 10)  # Linux: one string, and all of them
_LAST_WORDS = 20.0  # seconds in which the stream must end once everything in the container was killed

# Its first word on stderr says, before anything else can, whether it came so far; nobody inside knows that word before.
# It stays as the parent: then the command has ordinary signals, and what it left running holds no stream open.
_SUPERVISE = """
word=$1 reused=$2 cwd=$3 bytes=$4 handles=$5; shift 5
exec 3>&2 2>/dev/null
if [ "$reused" = 1 ]; then
  for left in /dev/shm/* /dev/shm/.[!.]* /dev/shm/..?* /dev/mqueue/* /dev/mqueue/.[!.]*; do
    if [ -e "$left" ] || [ -L "$left" ]; then echo "$word unclean" >&3; exit 1; fi
  done
  for table in shm sem msg; do
    { read -r line; if read -r line; then echo "$word unclean" >&3; exit 1; fi; } < /proc/sysvipc/$table
  done
fi
cd -- "$cwd" || { echo "$word nowhere" >&3; exit 1; }
ulimit -c 0; ulimit -n "$handles"
prlimit --pid $$ --fsize="$bytes" || ulimit -f $((bytes / 512))
echo "$word begun" >&3
( exec env -i PWD="$PWD" "$@" 2>&3 3>&- )
code=$?
kill -9 -1
exit $code
"""


class Program(NamedTuple):
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    file_size: int
    open_files: int
    reused: bool
    """Whether something ran in this container before: it does not begin if that left something outside of the files."""

    def command(self, word: str) -> list[str]:
        """What is given to the engine. Raises Refused for what no kernel would start."""
        if not self.argv:
            raise Refused("there is no command")
        run = [f"{name}={value}" for name, value in self.env.items()]
        run += ["/bin/sh", "-c", 'exec "$@"', "sh"] if "=" in self.argv[0] else []  # env would take it for a variable
        given = [word, "01"[self.reused], self.cwd, str(self.file_size), str(self.open_files), *run, *self.argv]
        sizes = [len(each.encode("utf-8", "surrogateescape")) + 1 for each in given]
        if any("\0" in each for each in given):
            raise Refused("an argument holds a zero byte")
        if max(sizes) > _LARGEST_ARGUMENT or sum(sizes) + 8 * len(sizes) > _LARGEST_COMMAND:
            raise Refused("Argument list too long")
        return _portable(["/bin/sh", "-c", _SUPERVISE, "sh", *given])


class Said(NamedTuple):
    """How it went."""

    word: str
    """`begun`; `nowhere`: no such working directory; `unclean`; empty: the engine could not start it, see the streams."""
    reason: str
    """Why it was ended; empty if it ended by itself."""
    seconds: float
    stdout: Capped
    stderr: Capped


def new_word() -> str:
    return secrets.token_hex(16)


def talk(
    stream: tuple[socket.socket, bytes],
    stdin: bytes,
    word: str,
    *,
    seconds: float,
    output: int,
    patience: float,
    ending: Ending,
    kill: Callable[[], object],
) -> Said:
    """Feed it and read it until it ends. For the first reason there is, `kill` must see to it that all in the container is
    killed, and return at once: the engine may not get to that while nobody reads what still comes.

    `seconds` are counted from when it began, which it must within `patience`, or it is `lost`.
    """
    connection, early = stream
    reading = _Reading(word, output)
    reading.feed(early)
    connection.setblocking(False)
    view, until, reason = memoryview(stdin), time.monotonic() + patience, ""
    with selectors.DefaultSelector() as waiting:
        waiting.register(ending.handle, selectors.EVENT_READ)
        waiting.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while True:
            if reading.began and not reason:
                until = reading.began + seconds
            events = waiting.select(max(0.0, until - time.monotonic()))
            late = time.monotonic() >= until
            if reason and late:
                break
            if not reason and (ending.reason or late):
                reason = ending.reason or ("timed out" if reading.began else "lost")
                waiting.unregister(ending.handle)
                kill()
                until = time.monotonic() + _LAST_WORDS
            for key, event in events:
                if key.fileobj is not connection:
                    continue
                if event & selectors.EVENT_WRITE and not (view := _send(connection, view)):
                    waiting.modify(connection, selectors.EVENT_READ)
                if event & selectors.EVENT_READ and not _receive(connection, reading):
                    return reading.said(reason)
    return reading.said(reason)


class _Reading:
    """The engine's frames taken apart: a byte for the stream, three of nothing, four of length, and so many of output."""

    def __init__(self, word: str, output: int) -> None:
        self.began = 0.0
        self._word, self._first = word.encode(), bytearray()
        self._said: str | None = None
        self._out, self._err = Capped(output), Capped(output)
        self._head, self._left, self._into = bytearray(), 0, self._out.add

    def feed(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            if not self._left:
                missing = 8 - len(self._head)
                self._head += view[:missing]
                view = view[missing:]
                if len(self._head) < 8:
                    return
                self._left = int.from_bytes(self._head[4:], "big")
                self._into = self._hear if self._head[0] == 2 else self._out.add
                self._head.clear()
                continue
            self._into(bytes(view[: self._left]))
            taken = min(self._left, len(view))
            self._left -= taken
            view = view[taken:]

    def _hear(self, chunk: bytes) -> None:
        """Standard error: the first line is ours, if it comes so far."""
        if self._said is not None:
            self._err.add(chunk)
            return
        self._first += chunk
        line, end, rest = bytes(self._first).partition(b"\n")
        if not end and len(line) <= len(self._word) + 10:
            return
        mine, _, said = line.partition(b" ")
        self._said = said.decode() if mine == self._word else ""
        self._err.add(rest if self._said else bytes(self._first))
        if self._said == "begun":
            self.began = time.monotonic()

    def said(self, reason: str) -> Said:
        if self._said is None:
            self._err.add(bytes(self._first))
        took = time.monotonic() - self.began if self.began else 0.0
        return Said(self._said or "", reason, took, self._out, self._err)


def _send(connection: socket.socket, view: memoryview) -> memoryview:
    """What is left to send; at the end of it the program sees the end of its input."""
    try:
        view = view[connection.send(view) :] if view else view
        if not view:
            connection.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        pass
    except OSError:  # it ended without reading all
        return memoryview(b"")
    return view


def _receive(connection: socket.socket, reading: _Reading) -> bool:
    """Whether there will be more."""
    try:
        chunk = connection.recv(1 << 18)
    except BlockingIOError:
        return True
    except OSError:
        return False
    reading.feed(chunk)
    return bool(chunk)


def _portable(command: list[str]) -> list[str]:
    """The engine speaks JSON, which cannot say every byte: such arguments are put together inside."""
    try:
        "".join(command).encode()
    except UnicodeEncodeError:
        lines = ["set --"]
        for each in command:
            octal = "".join(f"\\0{byte:03o}" for byte in each.encode("utf-8", "surrogateescape"))
            lines += [f"v=$(printf %b '{octal}.')", 'set -- "$@" "${v%.}"']
        return ["/bin/sh", "-c", "\n".join([*lines, 'exec "$@"'])]
    return command
