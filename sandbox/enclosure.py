"""Executions, each in one run of bubblewrap on a mounted root: what is shown, what is limited, who starts it.

Part of the sandbox's helper (cell.py), standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox import cgroups, defences, mounts, seccomp, templates, usernamespace, watch
    from runoff.sandbox.devices import Devices
    from runoff.sandbox.running import Problem, Ran, Running, Stop
    from runoff.sandbox.slots import Slot
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
    from running import Problem, Running
    from slots import Slot

SHARED_MEMORY = 256 << 20
"""Bytes of /dev/shm."""

_ENVIRONMENT = {"PATH": "/env/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user", "LANG": "C.UTF-8"}
_NEED_NO_NAMESPACE = {"uid", "capabilities"}
_HOLD = ("/bin/sh", "-c", "read nothing")  # keeps a sandbox open in which a template's fork is what runs
_LEAST_MEMORY, _LEAST_SECONDS = 256 << 20, 60.0  # less is not for a template that is being started beside it
_MOST_FAILURES = 3
_NESTED = 8  # namespaces, where that defence is left out


class Execution(NamedTuple):
    """What is to be executed, and where."""

    root: str
    """The mounted state."""
    upper: str
    """What is written in it lands there."""
    shown: Sequence[str]
    """The host's paths that are shown in it, read-only."""
    request: Mapping[str, Any]
    """What cell.py was asked for. With `foreign` in it the root's programs are not the host's, and none of them may have
    rights for a moment."""
    stdin: bytes | int
    """Bytes, or a handle."""
    stop: Stop
    has_room: Callable[[], bool]
    """Whether the disk that is written to has room left."""


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
        self._free, self._slots = SimpleQueue[Slot](), list[Slot]()
        for n, (group, namespace) in enumerate(zip(self._cgroups.groups, namespaces, strict=True)):
            devices = Devices(f"{mounts.PLACE}/dev-{n}", changeable="dev-read-only" in self._without)
            self._slots.append(Slot(group, namespace, devices, self._uid))
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

    def run(self, this: Execution) -> Ran:
        """Returns when process 1 of the sandbox was reaped, and so the last process in it is gone."""
        with ExitStack() as ours:
            slot = self._free.get()
            ours.callback(self._free.put, slot)
            if template := self._template(slot, this):
                try:
                    return self._run(slot, template, this)
                except templates.NotEntered:  # nothing of the command was run
                    self._give_up(slot)
            return self._run(slot, None, this)

    def _run(self, slot: Slot, template: templates.Template | None, this: Execution) -> Ran:
        request = this.request
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
                reads = this.stdin if isinstance(this.stdin, int) else _file(this.stdin, theirs)
                began = time.monotonic()
                process = slot.start(
                    self._command(this, slot.devices.ready(), kept, _HOLD if template else None),
                    stdin=_pipe(theirs, ours)[0] if template else reads,
                    stdout=subprocess.DEVNULL if template else subprocess.PIPE,
                    stderr=subprocess.DEVNULL if template else subprocess.PIPE,
                    pass_fds=tuple(kept.values()),
                    env=dict(os.environ) if "environment" in self._without else {},  # it can be read inside, in /proc/1
                )
                running = Running(process, told, limits, slot, ours)
                if template:
                    ours.callback(running.abandon)
                    self._enter(template, running, gate, request, reads, limits)
            watching = watch.Watch(running.first, limits, slot.group, this.upper, this.has_room, running.entered)
            if request["proxy"] and running.first:
                ours.enter_context(_relayed(running.first, request["proxy"]))
            running.begin()
            with suppress(BrokenPipeError):  # it died
                os.write(opener, b".")  # only now, with its limits set, does it start the command
            try:
                return running.finish(began, this.stop, watching)
            finally:
                self.cpu_seconds += running.cpu_of_entered

    def _template(self, slot: Slot, this: Execution) -> templates.Template | None:
        """One that can be used now. If there is none it is started, for those that come later."""
        request, limits = this.request, this.request["limits"]
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
        wanted = templates.interpreter(this.root, this.shown, request["argv"], request["env"])
        if wanted is None:
            return None
        if slot.template and slot.template.interpreter == wanted and slot.template.lives():
            return slot.template if slot.template.ready() else None
        if slot.template:
            self._give_up(slot, failed=not slot.template.lives())
        base = self._reach.of(f"{Path.cwd()}/{request['layers'][-1]}/u")
        read_only = {path: self._reach.of(path) for path in this.shown}
        slot.template = templates.Template(
            wanted, slot.start, self._bwrap, slot.namespace, self._uid, base, read_only, self._program
        )
        return None

    def _give_up(self, slot: Slot, failed: bool = True) -> None:
        if slot.template:
            slot.template.close()
        slot.template = None
        self._failures += failed
        self._can_fork = self._can_fork and self._failures < _MOST_FAILURES

    def _enter(
        self,
        template: templates.Template,
        running: Running,
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
        self, this: Execution, devices: str, kept: Mapping[str, int], instead: Sequence[str] | None
    ) -> list[str]:
        request = this.request
        isolated = defences.command(
            (self._bwrap, self._setpriv if self._root and "--userns" not in kept else None),
            self._without,
            root=this.root,
            devices=devices,
            read_only={path: self._reach.of(path) for path in this.shown},
            beside=request.get("beside", {}),
            masks=self._masks,
            shared_memory=SHARED_MEMORY,
            user=self._uid,
            environment=_ENVIRONMENT | request["env"],
            handles=kept,
            cwd=request["cwd"],
        )
        return [*isolated, *(instead or request["argv"])]


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
