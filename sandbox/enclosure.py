"""One run of bubblewrap on a mounted root: what is shown, what is limited, and the wait until all of it is dead.

Part of the sandbox's helper (cell.py), standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox import usernamespace
    from runoff.sandbox.streams import Capped
else:
    sys.path.append(str(Path(__file__).parent))
    import usernamespace
    from streams import Capped

SHARED_MEMORY = 256 << 20
"""Bytes of /dev/shm."""
OPEN_FILES = 4096

_ENVIRONMENT = {"PATH": "/env/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user", "LANG": "C.UTF-8"}
_LOOK = 1.0  # seconds between two looks at how much room is left


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
    exit_code: int | None
    seconds: float
    stdout: Capped
    stderr: Capped


class Enclosure:
    def __init__(self, config: Mapping[str, Any]) -> None:
        self._bwrap, self._setpriv, self._root = config["bwrap"], config["setpriv"], config["root"]
        self._uid, users = config["uid"], (0, config["uid"])
        self._free = SimpleQueue[int | None]()
        for namespace in usernamespace.pool(users, config["slots"]) if self._root else [None] * config["slots"]:
            self._free.put(namespace)

    def run(
        self,
        root: str,
        shown: Sequence[str],
        request: Mapping[str, Any],
        stdin: bytes,
        stop: Stop,
        has_room: Callable[[], bool],
    ) -> Ran:
        """Returns when process 1 of the sandbox was reaped, and so the last process in it is gone."""
        with ExitStack() as ours:
            namespace = self._free.get()
            ours.callback(self._free.put, namespace)
            with ExitStack() as theirs:
                told, tell = _pipe(ours, theirs)
                gate, opener = _pipe(theirs, ours)
                kept = {"--json-status-fd": tell, "--block-fd": gate}
                if namespace is not None:
                    kept["--userns"] = namespace
                began = time.monotonic()
                process = subprocess.Popen(
                    self._command(root, shown, request, kept),
                    stdin=_file(stdin, theirs),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=tuple(kept.values()),
                    env={},  # bubblewrap's own environment can be read inside, in /proc/1
                )
            running = _Running(process, told, request["limits"], ours)
            if request["proxy"] and running.first:
                ours.enter_context(_relayed(running.first, request["proxy"]))
            with suppress(BrokenPipeError):  # it died
                os.write(opener, b".")  # only now, with its limits set, does it start the command
            return running.finish(began, stop, has_room)

    def _command(
        self, root: str, shown: Sequence[str], request: Mapping[str, Any], kept: Mapping[str, int]
    ) -> list[str]:
        """Every kind of isolation is asked for by name: bubblewrap isolates nothing by itself."""
        command = [self._bwrap, "--bind", root, "/"]
        for path in shown:
            command += ["--ro-bind", path, path]
        command += [
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--perms",
            "1777",
            "--size",
            str(SHARED_MEMORY),
            "--tmpfs",
            "/dev/shm",
        ]
        for path, source in request.get("beside", {}).items():
            command += ["--ro-bind", source, path]
        command += ["--remount-ro", "/dev", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
        command += ["--unshare-net"]  # also for setups: see relay.py
        command += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL", "--clearenv"]
        for name, value in (_ENVIRONMENT | request["env"]).items():
            command += ["--setenv", name, value]
        become = [self._setpriv, "--no-new-privs"]
        if self._root:  # what setpriv needs to become the user, and the directories of the user that it starts in
            for capability in ("SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH"):
                command += ["--cap-add", f"CAP_{capability}"]
            become += [f"--reuid={self._uid}", f"--regid={self._uid}", "--clear-groups"]
            become += ["--inh-caps=-all", "--bounding-set=-all"]
        else:
            command += ["--unshare-user", "--disable-userns", "--uid", str(self._uid), "--gid", str(self._uid)]
        for option, handle in kept.items():
            command += [option, str(handle)]
        command += ["--chdir", request["cwd"]]
        return [*command, "--", *become, "--", *request["argv"]]


class _Running:
    """A bubblewrap that was started, and process 1 of its sandbox, its child."""

    def __init__(self, process: subprocess.Popen[bytes], told: int, limits: Mapping[str, Any], own: ExitStack) -> None:
        self._process, self._told, self._seconds = process, told, limits["seconds"]
        self._said = b""
        while b"\n" not in self._said and (chunk := os.read(told, 4096)):
            self._said += chunk
        self.first = json.loads(self._said.splitlines()[0])["child-pid"] if self._said else None
        self._handle: int | None = None
        self._out, self._err = Capped(limits["output"]), Capped(limits["output"])
        with suppress(ProcessLookupError):
            if self.first:
                self._handle = os.pidfd_open(self.first)
                own.callback(os.close, self._handle)
                _limit(self.first, limits)

    def finish(self, began: float, stop: Stop, has_room: Callable[[], bool]) -> Ran:
        """Read what it writes until it is dead; kill it for the first reason there is."""
        reason, looked, ended = "", began, 0.0
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout
        assert stderr
        with stdout, stderr, selectors.DefaultSelector() as waiting:
            waiting.register(stdout, selectors.EVENT_READ, self._out.add)
            waiting.register(stderr, selectors.EVENT_READ, self._err.add)
            waiting.register(self._told, selectors.EVENT_READ, self._hear)
            waiting.register(stop.handle, selectors.EVENT_READ)
            while len(waiting.get_map()) > 1:  # all but `stop` end by themselves once all in there are dead
                left = max(0.0, min(began + self._seconds, looked + _LOOK) - time.monotonic())
                for key, _ in waiting.select(None if reason or ended else left):
                    if key.data is None:
                        os.eventfd_read(stop.handle)
                        reason = reason or "cancelled"
                    elif chunk := os.read(key.fd, 1 << 16):
                        key.data(chunk)
                    else:
                        waiting.unregister(key.fileobj)
                        ended = self._reap() if key.fileobj == self._told else ended
                if ended:
                    continue
                if not reason and time.monotonic() > looked + _LOOK:
                    looked = time.monotonic()
                    reason = "" if has_room() else "full"
                if not reason and time.monotonic() >= began + self._seconds:
                    reason = "timed out"
                if reason:
                    self._kill()
        return self._ran(reason, ended - began)

    def _hear(self, chunk: bytes) -> None:
        self._said += chunk

    def _kill(self) -> None:
        """Process 1 first, by a handle that can mean no other: bubblewrap may not have armed it to die with its parent."""
        with suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        self._process.kill()

    def _reap(self) -> float:
        """bubblewrap may leave before its process 1, which becomes ours, and ends after all others in there."""
        self._process.wait()
        with suppress(ChildProcessError):
            if self.first:
                os.waitpid(self.first, 0)
        return time.monotonic()

    def _ran(self, reason: str, seconds: float) -> Ran:
        if reason in ("full", "cancelled"):
            raise Problem(reason, "no space left where the states live" if reason == "full" else "cancelled")
        told: dict[str, int] = {}
        for line in self._said.splitlines():
            told |= json.loads(line)
        code = None if reason else told.get("exit-code")
        outcome = reason or ("lost" if code is None else "finished")
        if outcome == "lost" and b"Can't chdir" in (words := self._err.kept()):
            raise Problem("refused", words.decode("utf-8", "replace").strip())
        return Ran(outcome, code, seconds, self._out, self._err)


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


def _limit(process: int, limits: Mapping[str, int]) -> None:
    """On process 1, which waits at the gate; all others are its children. Never above what this process may have."""
    wanted = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["file_size"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in wanted.items():
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(process, which, (most, most))
