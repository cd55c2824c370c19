"""A bubblewrap that was started: limited, read, watched, killed for the first reason there is, and reaped.

Part of the sandbox's helper (cell.py), standard library only.
"""

from __future__ import annotations

import json
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox import templates, watch
    from runoff.sandbox.slots import Slot
    from runoff.sandbox.streams import Capped
else:
    sys.path.append(str(Path(__file__).parent))
    from streams import Capped

_NOT_THERE = 127
_CANNOT_START = 126


class Problem(Exception):
    """Not the outcome of an execution: `refused`, `lost`, `full` or `cancelled`."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


class Stop:
    """How one thread tells another, which waits for file descriptors, to end what it runs."""

    def __init__(self) -> None:
        self.handle = os.eventfd(0, os.EFD_CLOEXEC)

    def ask(self) -> None:
        os.eventfd_write(self.handle, 1)

    def close(self) -> None:
        os.close(self.handle)


class Ran(NamedTuple):
    outcome: str
    limit: str | None
    exit_code: int | None
    seconds: float
    stdout: Capped
    stderr: Capped
    written: tuple[int, int]
    """Bytes and files, as far as they were counted."""


class Running:
    """A bubblewrap that was started, and process 1 of its sandbox, its child."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        told: int,
        limits: Mapping[str, Any],
        slot: Slot,
        own: ExitStack,
    ) -> None:
        self._process, self._told, self._seconds, self._group = process, told, limits["seconds"], slot.group
        self._said, self._cpu_seconds = b"", 0.0
        self._slot, self.cpu_of_entered = slot, 0.0
        self._code: int | None = None
        self.entered: int | None = None
        self.waits: int | None = None
        self.template: templates.Template | None = None
        self._streams: list[IO[bytes]] = [stream for stream in (process.stdout, process.stderr) if stream]
        self._theirs: list[int] = []
        while b"\n" not in self._said and (chunk := os.read(told, 4096)):
            self._said += chunk
        self.first = json.loads(self._said.splitlines()[0])["child-pid"] if self._said else None
        self._handle: int | None = None
        self._out, self._err = Capped(limits["output"]), Capped(limits["output"])
        with suppress(ProcessLookupError):
            if first := self.first:
                self._handle = os.pidfd_open(first)
                own.callback(os.close, self._handle)
                self.limit(first, limits)

    def limit(self, process: int, limits: Mapping[str, Any]) -> None:
        group = self._slot.group
        group.take(process)
        try:
            _limit(process, limits, "memory" in group.holds)
        except PermissionError:  # a container's root may not, the user may
            self._slot.call(lambda: _limit(process, limits, "memory" in group.holds))

    def open_streams(self) -> tuple[int, int]:
        """The ends that what runs writes to; ours are read."""
        for _ in range(2):
            reading, writing = os.pipe()
            self._streams.append(os.fdopen(reading, "rb", 0))
            self._theirs.append(writing)
        return self._theirs[0], self._theirs[1]

    def close_their_streams(self) -> None:
        while self._theirs:
            os.close(self._theirs.pop())

    def begin(self) -> None:
        if self.waits is not None:
            with suppress(OSError):  # it died
                os.write(self.waits, b".")
            os.close(self.waits)
            self.waits = None

    def abandon(self) -> None:
        """Nothing of it is left, if it was not finished."""
        if self.waits is not None:
            os.close(self.waits)
            self.waits = None
        if self._process.returncode is None:
            self._kill()
            self._reap()
        if self.template is not None:
            self._leave()
        for stream in self._streams:
            stream.close()

    def _leave(self) -> None:
        """What the template says of what it forked."""
        assert self.template
        self._code, self.cpu_of_entered = self.template.ended()
        self._cpu_seconds += self.cpu_of_entered
        self.template = None

    def finish(self, began: float, stop: Stop, watching: watch.Watch) -> Ran:
        """Read what it writes until it is dead; kill it for the first reason there is."""
        reason, ended = "", 0.0
        stdout, stderr = self._streams
        with stdout, stderr, selectors.DefaultSelector() as waiting:
            waiting.register(stdout, selectors.EVENT_READ, self._out.add)
            waiting.register(stderr, selectors.EVENT_READ, self._err.add)
            waiting.register(self._told, selectors.EVENT_READ, self._hear)
            for event in filter(None, (stop.handle, self._group.event)):  # these never end
                waiting.register(event, selectors.EVENT_READ)
            if template := self.template:
                waiting.register(template.handle, selectors.EVENT_READ)
            streams = {stdout, stderr, self._told}
            while streams:  # the streams end once all in there are dead
                left = max(0.0, min(began + self._seconds, watching.due) - time.monotonic())
                for key, _ in waiting.select(None if reason or ended else left):
                    if (
                        template and key.fd == template.handle
                    ):  # what it forked is dead, and so the execution at its end
                        waiting.unregister(key.fileobj)
                        self._leave()
                        self._kill()
                    elif key.data is None:
                        os.eventfd_read(key.fd)
                        reason = reason or ("cancelled" if key.fd == stop.handle else watching.out_of_memory())
                    elif chunk := os.read(key.fd, 1 << 16):
                        key.data(chunk)
                    else:
                        waiting.unregister(key.fileobj)
                        streams.remove(key.fileobj)
                        ended = self._reap() if key.fileobj == self._told else ended
                if ended:
                    continue
                if not reason and time.monotonic() >= watching.due:
                    reason = watching.look()
                if not reason and time.monotonic() >= began + self._seconds:
                    reason = "timed out"
                if reason:
                    self._kill()
        if self.template:
            self._leave()
        if reason in ("", "timed out"):
            reason = watching.end(self._cpu_seconds) or reason
        return self._ran(reason, ended - began, watching.written)

    def _hear(self, chunk: bytes) -> None:
        self._said += chunk

    def _kill(self) -> None:
        """Process 1 first, by a handle that can mean no other: bubblewrap may not have armed it to die with its parent."""
        with suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        self._group.kill()
        self._process.kill()

    def _reap(self) -> float:
        """bubblewrap may leave before its process 1, which becomes ours, and ends after all others in there."""
        for number in filter(None, (self._process.pid, self.first)):
            with suppress(ChildProcessError):
                _, status, used = os.wait4(number, 0)
                self._cpu_seconds += used.ru_utime + used.ru_stime
                if number == self._process.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
        return time.monotonic()

    def _ran(self, reason: str, seconds: float, written: tuple[int, int]) -> Ran:
        if reason in ("full", "cancelled"):
            raise Problem(reason, "no space left where the states live" if reason == "full" else "cancelled")
        told: dict[str, int] = {}
        for line in self._said.splitlines():
            told |= json.loads(line)
        code = None if reason else self._code if self.entered else told.get("exit-code")
        if (
            not reason
            and not self.entered
            and code is None
            and (words := self._err.kept()).startswith(b"bwrap: execvp ")
        ):
            code = _NOT_THERE if words.endswith(b": No such file or directory\n") else _CANNOT_START
        limit = reason if reason in ("memory", "cpu", "disk", "files") else None
        outcome = "killed" if limit else reason or ("lost" if code is None else "finished")
        if outcome == "lost" and b"Can't chdir" in (words := self._err.kept()):
            raise Problem("refused", words.decode("utf-8", "replace").strip())
        return Ran(outcome, limit, code, seconds, self._out, self._err, written)


def _limit(process: int, limits: Mapping[str, Any], memory_is_enforced: bool) -> None:
    """On process 1, which waits at the gate; all others are its children. Never above what this process may have.

    Of memory only what a process may write to counts: some reserve far more addresses than they ever use.
    """
    wanted = {
        resource.RLIMIT_CPU: math.ceil(limits["cpu_seconds"]) + 1,  # the total is met first
        resource.RLIMIT_FSIZE: limits["file_size"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    if not memory_is_enforced:
        wanted[resource.RLIMIT_DATA] = limits["memory"]
    for which, most in wanted.items():
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(process, which, (most, most))
