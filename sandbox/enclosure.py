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
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox import cgroups, defences, mounts, seccomp, templates, usernamespace, watch
    from runoff.sandbox.devices import Devices
    from runoff.sandbox.streams import Capped
else:
    sys.path.append(str(Path(__file__).parent))
    import cgroups
    import defences
    import mounts
    import seccomp
    import templates
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
_HOLD = ("/bin/sh", "-c", "read nothing")  # keeps a sandbox open in which a template's fork is what runs
_LEAST_MEMORY, _LEAST_SECONDS = 256 << 20, 60.0  # less is not for a template that is being started beside it
_MOST_FAILURES = 3
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
        self.template: templates.Template | None = None
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
        self._program = config.get("template") or str(Path(__file__).with_name("template.py"))
        own_or_look = self._without <= {"template-look"}
        self._can_fork, self._failures, self.cpu_seconds = own_or_look, 0, 0.0
        self._filter = None if "seccomp" in self._without else seccomp.Filter(watched)
        self._masks, self._reach = defences.masks(_is_open), mounts.WithinReach()
        self._free, self._slots = SimpleQueue[_Slot](), list[_Slot]()
        for n, (group, namespace) in enumerate(zip(self._cgroups.groups, namespaces, strict=True)):
            devices = Devices(f"{mounts.PLACE}/dev-{n}", changeable="dev-read-only" in self._without)
            self._slots.append(_Slot(group, namespace, devices, self._uid))
            self._free.put(self._slots[-1])
        groups = self._cgroups
        self.facts = {
            "version": groups.version,
            "controllers": sorted(groups.holds),
            "why": groups.why,
            "namespaces": not self._root or None not in namespaces,
        }
        """What the table of limits depends on, see held.py."""

    def close(self) -> None:
        for slot in self._slots:
            if slot.template:
                slot.template.close()
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
        with ExitStack() as ours:
            slot = self._free.get()
            ours.callback(self._free.put, slot)
            if template := self._template(slot, root, shown, request):
                try:
                    return self._run(slot, template, root, upper, shown, request, stdin, stop, has_room)
                except templates.NotEntered:  # nothing of the command was run
                    self._give_up(slot)
            return self._run(slot, None, root, upper, shown, request, stdin, stop, has_room)

    def _run(
        self,
        slot: _Slot,
        template: templates.Template | None,
        root: str,
        upper: str,
        shown: Sequence[str],
        request: Mapping[str, Any],
        stdin: bytes | int,
        stop: Stop,
        has_room: Callable[[], bool],
    ) -> Ran:
        limits, foreign = request["limits"], bool(request.get("foreign"))
        beside = bool(slot.template) + bool(template)  # the template itself, and what holds its sandbox open
        limits = {**limits, "processes": limits["processes"] + beside}
        with ExitStack() as ours:
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
                reads = stdin if isinstance(stdin, int) else _file(stdin, theirs)
                began = time.monotonic()
                process = slot.start(
                    self._command(root, slot.devices.ready(), shown, request, kept, _HOLD if template else None),
                    stdin=_pipe(theirs, ours)[0] if template else reads,
                    stdout=subprocess.DEVNULL if template else subprocess.PIPE,
                    stderr=subprocess.DEVNULL if template else subprocess.PIPE,
                    pass_fds=tuple(kept.values()),
                    env=dict(os.environ) if "environment" in self._without else {},  # it can be read inside, in /proc/1
                )
                running = _Running(process, told, limits, slot, ours)
                if template:
                    ours.callback(running.abandon)
                    self._enter(template, running, gate, request, reads, limits)
            watching = watch.Watch(running.first, limits, slot.group, upper, has_room, running.entered)
            if request["proxy"] and running.first:
                ours.enter_context(_relayed(running.first, request["proxy"]))
            running.begin()
            with suppress(BrokenPipeError):  # it died
                os.write(opener, b".")  # only now, with its limits set, does it start the command
            try:
                return running.finish(began, stop, watching)
            finally:
                self.cpu_seconds += running.cpu_of_entered

    def _template(
        self, slot: _Slot, root: str, shown: Sequence[str], request: Mapping[str, Any]
    ) -> templates.Template | None:
        """One that can be used now. If there is none it is started, for those that come later."""
        limits = request["limits"]
        if not (
            request.get("template")
            and self._can_fork
            and slot.namespace is not None
            and self._cgroups.version == 1  # where it was tried
            and slot.group.holds >= {"memory", "pids", "cpuacct"}
            and not (request["proxy"] or request.get("beside") or request.get("foreign"))
            and limits["memory"] >= _LEAST_MEMORY
            and limits["cpu_seconds"] >= _LEAST_SECONDS
        ):
            return None
        wanted = templates.interpreter(root, shown, request["argv"], request["env"])
        if wanted is None:
            return None
        if slot.template and slot.template.interpreter == wanted and slot.template.lives():
            return slot.template if slot.template.ready() else None
        if slot.template:
            self._give_up(slot, failed=not slot.template.lives())
        base = self._reach.of(f"{Path.cwd()}/{request['layers'][-1]}/u")
        read_only = {path: self._reach.of(path) for path in shown}
        slot.template = templates.Template(
            wanted, slot.start, self._bwrap, slot.namespace, self._uid, base, read_only, self._program
        )
        return None

    def _give_up(self, slot: _Slot, failed: bool = True) -> None:
        if slot.template:
            slot.template.close()
        slot.template = None
        self._failures += failed
        self._can_fork = self._can_fork and self._failures < _MOST_FAILURES

    def _enter(
        self,
        template: templates.Template,
        running: _Running,
        gate: int,
        request: Mapping[str, Any],
        stdin: int,
        limits: Mapping[str, Any],
    ) -> None:
        """The template's fork is in the sandbox, limited and looked at, and waits."""
        if running.first is None:
            raise templates.NotEntered("there is no sandbox")
        asked = {
            "argv": ["/env/bin/python", *request["argv"][1:]],
            "env": _ENVIRONMENT | request["env"] | {"PWD": request["cwd"]},
            "cwd": request["cwd"],
        }
        program = self._filter.open() if self._filter else None
        try:
            outs = running.open_streams()
            running.entered, running.waits = template.enter(running.first, gate, asked, (stdin, *outs), program)
            running.template = template
            running.limit(running.entered, limits)
            if "template-look" not in self._without:
                templates.look_at(running.entered, running.first, self._uid, program is not None)
        except OSError as error:
            raise templates.NotEntered(str(error)) from error
        finally:
            running.close_their_streams()
            if program is not None:
                os.close(program)

    def _command(
        self,
        root: str,
        devices: str,
        shown: Sequence[str],
        request: Mapping[str, Any],
        kept: Mapping[str, int],
        instead: Sequence[str] | None,
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
        return [*isolated, *(instead or request["argv"])]


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
