"""One run of bubblewrap on a mounted root: what is shown, what is limited, and the wait until all of it is dead.

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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox import cgroups, defences, mounts, seccomp, usernamespace, watch
    from runoff.sandbox.devices import Devices
    from runoff.sandbox.streams import Capped
else:
    sys.path.append(str(Path(__file__).parent))
    import cgroups
    import defences
    import mounts
    import seccomp
    import usernamespace
    import watch
    from devices import Devices
    from streams import Capped

SHARED_MEMORY = 256 << 20
"""Bytes of /dev/shm."""

_ENVIRONMENT = {"PATH": "/env/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user", "LANG": "C.UTF-8"}
_NOT_THERE = 127
_CANNOT_START = 126
_NEED_NO_NAMESPACE = {"uid", "capabilities"}
_NESTED = 8  # namespaces, where that defence is left out


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


class _Slot:
    """What one execution at a time uses. Its thread is in the slot's control group, and so is all that it starts.

    bubblewrap is to die with the thread that started it, so the thread stays. With a namespace the thread is the user
    outside, too: bubblewrap then needs nothing of the root to become the user, nor do we trust it.
    """

    def __init__(self, group: cgroups.Group, namespace: int | None, devices: Devices, user: int) -> None:
        self.group, self.namespace, self.devices = group, namespace, devices
        self._asked, self._answers = SimpleQueue[Callable[[], Any]](), SimpleQueue[Any]()
        threading.Thread(target=self._serve, daemon=True).start()
        self.call(group.enter)
        if namespace is not None:
            self.call(lambda: usernamespace.become(user))

    def start(self, command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self.call(lambda: subprocess.Popen(command, **how))
        return process

    def call(self, what: Callable[[], Any]) -> Any:
        self._asked.put(what)
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _serve(self) -> None:
        while True:
            what = self._asked.get()
            try:
                answer = what()
            except Exception as error:  # whoever asked raises it
                answer = error
            self._answers.put(answer)


class Enclosure:
    def __init__(self, config: Mapping[str, Any]) -> None:
        self._bwrap, self._setpriv, self._root = config["bwrap"], config["setpriv"], config["root"]
        self._uid, count = config["uid"], config["slots"]
        self._without = frozenset(config["without"])
        own = self._root and not self._without & _NEED_NO_NAMESPACE
        nested = _NESTED if "userns" in self._without else 0
        namespaces = usernamespace.pool(self._uid, count, nested) if own else [None] * count
        self._cgroups = cgroups.Cgroups(count, "cgroups" not in self._without)
        watched = "memory" not in self._cgroups.holds
        self._filter = None if "seccomp" in self._without else seccomp.Filter(watched)
        self._masks, self._reach = defences.masks(_is_open), mounts.WithinReach()
        self._free = SimpleQueue[_Slot]()
        for n, (group, namespace) in enumerate(zip(self._cgroups.groups, namespaces, strict=True)):
            devices = Devices(f"{mounts.PLACE}/dev-{n}", changeable="dev-read-only" in self._without)
            self._free.put(_Slot(group, namespace, devices, self._uid))
        groups = self._cgroups
        self.facts = {
            "version": groups.version,
            "controllers": sorted(groups.holds),
            "why": groups.why,
            "namespaces": not self._root or None not in namespaces,
        }
        """What the table of limits depends on, see held.py."""

    def close(self) -> None:
        self._cgroups.remove()

    def run(
        self,
        root: str,
        upper: str,
        shown: Sequence[str],
        request: Mapping[str, Any],
        stdin: bytes | int,
        stop: Stop,
        has_room: Callable[[], bool],
    ) -> Ran:
        """Returns when process 1 of the sandbox was reaped, and so the last process in it is gone.

        With `foreign` in the request the root's programs are not the host's, and none of them may have rights for a moment.
        `stdin` may be a handle.
        """
        limits, foreign = request["limits"], bool(request.get("foreign"))
        with ExitStack() as ours:
            slot = self._free.get()
            ours.callback(self._free.put, slot)
            with ExitStack() as theirs:
                told, tell = _pipe(ours, theirs)
                gate, opener = _pipe(theirs, ours)
                kept = {"--json-status-fd": tell, "--block-fd": gate}
                if slot.namespace is not None:
                    kept["--userns"] = slot.namespace
                elif self._root and foreign:
                    raise Problem("refused", "images cannot be used as root where there are no user namespaces")
                if self._filter:
                    kept["--seccomp"] = self._filter.open()
                    theirs.callback(os.close, kept["--seccomp"])
                slot.group.begin(limits["memory"], limits["processes"])
                began = time.monotonic()
                process = slot.start(
                    self._command(root, slot.devices.ready(), shown, request, kept),
                    stdin=stdin if isinstance(stdin, int) else _file(stdin, theirs),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=tuple(kept.values()),
                    env=dict(os.environ) if "environment" in self._without else {},  # it can be read inside, in /proc/1
                )
            running = _Running(process, told, limits, slot, ours)
            watching = watch.Watch(running.first, limits, slot.group, upper, has_room)
            if request["proxy"] and running.first:
                ours.enter_context(_relayed(running.first, request["proxy"]))
            with suppress(BrokenPipeError):  # it died
                os.write(opener, b".")  # only now, with its limits set, does it start the command
            return running.finish(began, stop, watching)

    def _command(
        self, root: str, devices: str, shown: Sequence[str], request: Mapping[str, Any], kept: Mapping[str, int]
    ) -> list[str]:
        isolated = defences.command(
            (self._bwrap, self._setpriv if self._root and "--userns" not in kept else None),
            self._without,
            root=root,
            devices=devices,
            read_only={path: self._reach.of(path) for path in shown},
            beside=request.get("beside", {}),
            masks=self._masks,
            shared_memory=SHARED_MEMORY,
            user=self._uid,
            environment=_ENVIRONMENT | request["env"],
            handles=kept,
            cwd=request["cwd"],
        )
        return [*isolated, *request["argv"]]


class _Running:
    """A bubblewrap that was started, and process 1 of its sandbox, its child."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        told: int,
        limits: Mapping[str, Any],
        slot: _Slot,
        own: ExitStack,
    ) -> None:
        self._process, self._told, self._seconds, self._group = process, told, limits["seconds"], slot.group
        self._said, self._cpu_seconds = b"", 0.0
        while b"\n" not in self._said and (chunk := os.read(told, 4096)):
            self._said += chunk
        self.first = json.loads(self._said.splitlines()[0])["child-pid"] if self._said else None
        self._handle: int | None = None
        self._out, self._err = Capped(limits["output"]), Capped(limits["output"])
        with suppress(ProcessLookupError):
            if first := self.first:
                self._handle = os.pidfd_open(first)
                own.callback(os.close, self._handle)
                slot.group.take(first)
                try:
                    _limit(first, limits, "memory" in slot.group.holds)
                except PermissionError:  # a container's root may not, the user may
                    slot.call(lambda: _limit(first, limits, "memory" in slot.group.holds))

    def finish(self, began: float, stop: Stop, watching: watch.Watch) -> Ran:
        """Read what it writes until it is dead; kill it for the first reason there is."""
        reason, ended = "", 0.0
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout
        assert stderr
        with stdout, stderr, selectors.DefaultSelector() as waiting:
            waiting.register(stdout, selectors.EVENT_READ, self._out.add)
            waiting.register(stderr, selectors.EVENT_READ, self._err.add)
            waiting.register(self._told, selectors.EVENT_READ, self._hear)
            for event in filter(None, (stop.handle, self._group.event)):  # these never end
                waiting.register(event, selectors.EVENT_READ)
            others = len(waiting.get_map()) - 3
            while len(waiting.get_map()) > others:  # the streams end once all in there are dead
                left = max(0.0, min(began + self._seconds, watching.due) - time.monotonic())
                for key, _ in waiting.select(None if reason or ended else left):
                    if key.data is None:
                        os.eventfd_read(key.fd)
                        reason = reason or ("cancelled" if key.fd == stop.handle else watching.out_of_memory())
                    elif chunk := os.read(key.fd, 1 << 16):
                        key.data(chunk)
                    else:
                        waiting.unregister(key.fileobj)
                        ended = self._reap() if key.fileobj == self._told else ended
                if ended:
                    continue
                if not reason and time.monotonic() >= watching.due:
                    reason = watching.look()
                if not reason and time.monotonic() >= began + self._seconds:
                    reason = "timed out"
                if reason:
                    self._kill()
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
        code = None if reason else told.get("exit-code")
        if not reason and code is None and (words := self._err.kept()).startswith(b"bwrap: execvp "):
            code = _NOT_THERE if words.endswith(b": No such file or directory\n") else _CANNOT_START
        limit = reason if reason in ("memory", "cpu", "disk", "files") else None
        outcome = "killed" if limit else reason or ("lost" if code is None else "finished")
        if outcome == "lost" and b"Can't chdir" in (words := self._err.kept()):
            raise Problem("refused", words.decode("utf-8", "replace").strip())
        return Ran(outcome, limit, code, seconds, self._out, self._err, written)


def _is_open(path: str) -> bool:
    with suppress(FileNotFoundError):
        return bool(Path(path).stat().st_mode & 0o006)
    return False


def _relayed(process: int, proxy: Sequence[Any]) -> AbstractContextManager[None]:
    """Imported where used: asyncio would cost every sandbox its start."""
    if TYPE_CHECKING:
        from runoff.sandbox.relay import relayed
    else:
        from relay import relayed
    return relayed(process, (proxy[0], proxy[1]))


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """The two ends of a pipe, each closed with whom it belongs to."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _file(data: bytes, own: ExitStack) -> int:
    """Something that can be read as standard input, from the start and with an end."""
    if not data:
        handle = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        own.callback(os.close, handle)
        return handle
    handle = os.memfd_create("stdin")
    own.callback(os.close, handle)
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


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
