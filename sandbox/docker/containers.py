"""The containers in which states are executed: started, run in, frozen into an image, kept warm, removed. Blocking."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runoff.sandbox import git, seccomp
from runoff.sandbox.docker.bottom import Inside
from runoff.sandbox.docker.engine import Engine, Missing
from runoff.sandbox.docker.exchange import Program, Said, new_word, talk
from runoff.sandbox.docker.orphans import OWNER
from runoff.sandbox.protocol import Execution, Limits, Refused, SandboxLost, State, StoreFull
from runoff.sandbox.relay import relayed
from runoff.sandbox.streams import Capped, Ending

SHARED_MEMORY = 256 << 20
"""Bytes of /dev/shm."""

LIFE = 900.0
"""Seconds after which a container ends by itself if everyone forgot it; longer for an execution that may take longer."""

MOST_LAYERS = 100
"""An image deeper than this is flattened: engines stop at 127."""

_WARM_BYTES = 32 << 20  # a container that wrote more is not kept: each later commit would write all of it again
_SPARE = 60.0  # seconds that a container must outlive the longest execution in it
_FILES_A_SECOND = 200_000  # more than a processor can make
_EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"  # of a tar with nothing in it
_SINCE = {"Type": "volume", "Target": git.SINCE, "ReadOnly": True, "VolumeOptions": {"NoCopy": True}}

LOOK = 1.0
"""Seconds between two looks at what a long execution has used."""
_LEAST_BYTES = 1 << 20  # a file system with less left is full
_LEAST_MEMORY = 6 << 20  # the least that an engine accepts


# Process 1 lives as long as its standard input is held open, and some time at most. It cannot be killed from inside, and
# reaps what lost its parent. Where the command is root too it could kill what process 1 started: nothing, then.
_REAPING, _REAPING_PROCESSES = 'exec 3<&0; timeout -s KILL "$0" cat <&3 & wait', 3
_PLAIN, _PLAIN_PROCESSES = "exec cat", 1


class _Known(NamedTuple):
    """What does not change about a state."""

    inside: Inside
    size: int
    layers: tuple[str, ...]


class Asked(NamedTuple):
    state: str
    argv: Sequence[str]
    limits: Limits
    stdin: bytes
    env: Mapping[str, str]
    cwd: str
    proxy: tuple[str, int] | None
    """What it may reach, through a relay."""
    since: str
    """A volume with the repository that a diff is taken against, or nothing."""
    freeze: bool

    @property
    def is_plain(self) -> bool:
        return not self.proxy and not self.since


@dataclass(eq=False)
class _Container:
    id: str
    image: str
    """The state that it was made from."""
    holds: str | None
    """The state that its files are now; None: nobody knows."""
    inside: Inside
    fits: tuple[int, int, bool]
    """Memory, processes, and whether it is like any other: no way out, nothing more shown."""
    ends: float
    """When process 1 ends, on the monotonic clock."""
    reused: bool = False
    ran: float = 0.0
    """Seconds that executions in it took."""
    program: str = ""
    """The engine's id of the execution in it."""
    lifeline: socket.socket | None = None
    ending: Ending | None = field(default=None, repr=False)
    killed: bool = False
    out_of_memory: bool = False

    @property
    def own_processes(self) -> int:
        return _PLAIN_PROCESSES if self.inside.is_root else _REAPING_PROCESSES


class Containers:
    """`slots` executions at most are expected at once; each uses up to four threads of `pool`."""

    def __init__(
        self,
        engine: Engine,
        info: Mapping[str, Any],
        labels: Mapping[str, str],
        pool: ThreadPoolExecutor,
        *,
        slots: int,
        most_warm: int,
    ) -> None:
        self._engine, self._info, self._labels, self._pool = engine, info, dict(labels), pool
        self._most_warm = most_warm
        self._processors = max(1, math.ceil(int(info["NCPU"]) / slots))
        self._known = dict[str, _Known]()
        self._volumes = dict[tuple[str, str], str]()
        self._lock, self._open, self._listening = threading.Lock(), True, True
        self._running, self._warm = dict[str, _Container](), dict[str, _Container]()
        self._mine = f"{OWNER}={labels[OWNER]}"
        pool.submit(self._listen, engine.memory_ran_out(self._mine, self._memory_ran_out))

    def close(self) -> None:
        """Remove every container that was made here."""
        with self._lock:
            self._open = False
        self._engine.stop_listening()
        until = time.monotonic() + self._engine.deadline
        while left := self._engine.containers(self._mine):  # the engine lists them until they are gone
            for each in left:
                self._engine.remove(each["Id"])
            if time.monotonic() > until:
                raise SandboxLost(f"the Docker engine does not remove {left[0]['Names'][0]}")
        for volume in self._volumes.values():
            self._engine.remove_volume(volume)

    def about(self, state: str) -> _Known:
        if not (known := self._known.get(state)):
            try:
                said = self._engine.image(f"sha256:{state}")
            except Missing:
                raise not_there(state) from None
            if not (inside := Inside.of(said)):
                raise not_there(state)
            known = _Known(inside, said["Size"], tuple(said["RootFS"].get("Layers") or ()))
            self._known[state] = known
        return known

    def execute(self, asked: Asked, ending: Ending) -> Execution:
        self._program(asked, self.about(asked.state).inside, reused=False).command(
            new_word()
        )  # or refused, for nothing
        container = self._taken(asked) or self._started(asked)
        try:
            said = self._talk(container, asked, ending)
            if container.reused and said.word != "begun" and not ending.reason:
                self._release(container)
                container = self._started(asked)
                said = self._talk(container, asked, ending)
            return self._ended(container, asked, said, ending)
        finally:
            self._release(container, at_once=bool(ending.reason))

    def _program(self, asked: Asked, inside: Inside, *, reused: bool) -> Program:
        env = {**inside.env, **asked.env}
        return Program(asked.argv, env, asked.cwd, asked.limits.file_size, asked.limits.open_files, reused)

    def _started(self, asked: Asked) -> _Container:
        inside, limits = self.about(asked.state).inside, asked.limits
        life = max(LIFE, limits.seconds + 2 * _SPARE)
        program = ["/bin/sh", "-c", _PLAIN if inside.is_root else _REAPING, str(math.ceil(life))]
        host = self._host(inside, limits, asked.since)
        try:
            made = self._engine.create(f"sha256:{asked.state}", program, host, self._labels)
        except Missing:
            self._known.pop(asked.state, None)
            raise not_there(asked.state) from None
        fits = (limits.memory, limits.processes, asked.is_plain)
        container = _Container(made, asked.state, asked.state, inside, fits, time.monotonic() + life)
        with self._lock:
            self._running[made] = container
        try:
            container.lifeline = self._engine.start(made)
        except SandboxLost as error:
            self._release(container, at_once=True)
            if "OCI runtime" in str(error) or "bind source path" in str(error):
                raise Refused(f"this state can execute nothing: {error}") from error
            raise
        except BaseException:
            self._release(container, at_once=True)
            raise
        return container

    def _host(self, inside: Inside, limits: Limits, since: str) -> dict[str, Any]:
        """All isolation, asked for by name. Old engines' own seccomp profile allows virtual sockets and io_uring; ours does not."""
        memory = max(limits.memory, _LEAST_MEMORY)
        return {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp.profile()}"],
            "Memory": memory,
            "MemorySwap": memory,
            "PidsLimit": limits.processes + (_PLAIN_PROCESSES if inside.is_root else _REAPING_PROCESSES) + 1,
            "NanoCpus": self._processors * 10**9,
            "ShmSize": SHARED_MEMORY,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "LogConfig": {"Type": "none"},
            "Mounts": [*map(_read_only, inside.shown), *([_SINCE | {"Source": since}] if since else [])],
        }

    def _talk(self, container: _Container, asked: Asked, ending: Ending) -> Said:
        container.ending, word, limits = ending, new_word(), asked.limits
        command = self._program(asked, container.inside, reused=container.reused).command(word)
        try:
            container.program, connection, early = self._engine.begin(container.id, command, container.inside.user)
        except SandboxLost:
            if container.reused:  # it died since
                return Said("", "", 0.0, Capped(0), Capped(0))
            raise
        over, killing = threading.Event(), list[Future[None]]()
        watching = self._pool.submit(self._watch, container, limits, ending, over)
        try:
            with connection, self._relayed(container, asked.proxy):
                said = talk(
                    (connection, early),
                    asked.stdin,
                    word,
                    seconds=limits.seconds,
                    output=limits.output,
                    patience=self._engine.deadline,
                    ending=ending,
                    kill=lambda: killing.append(self._pool.submit(self._kill, container)),
                )
            for each in killing:
                each.result()
            return said
        finally:
            over.set()
            watching.cancel()

    def _relayed(self, container: _Container, proxy: tuple[str, int] | None) -> AbstractContextManager[None]:
        return relayed(self._engine.process(container.id), proxy) if proxy else nullcontext()

    def repository(self, state: str, at: str) -> str:
        """A volume with what `.git` in directory `at` of a state is: the engine fills a new volume from what it covers."""
        if volume := self._volumes.get((state, at)):
            return volume
        name = self._engine.volume(self._labels)
        host = {
            "NetworkMode": "none",
            "Mounts": [{"Type": "volume", "Source": name, "Target": os.path.normpath(f"{at}/.git")}],
        }
        self.about(state)
        self._engine.remove(self._engine.create(f"sha256:{state}", ["/bin/sh"], host, self._labels), volumes=False)
        self._volumes[state, at] = name
        return name

    def _kill(self, container: _Container) -> None:
        container.killed = True
        container.out_of_memory = bool(self._engine.kill(container.id).get("OOMKilled"))

    def _watch(self, container: _Container, limits: Limits, ending: Ending, over: threading.Event) -> None:
        """Ask the engine what a long execution has used, ever more rarely where it takes long to say."""
        wait, files_again = LOOK, 0.0
        with suppress(SandboxLost):  # whoever runs it hears that too
            while not over.wait(wait):
                began = time.monotonic()
                if self._engine.processor_seconds(container.id) >= limits.cpu_seconds:
                    ending.ask("cpu")
                if self._engine.written(container.id) + self._engine.unlinked(container.id) > limits.disk:
                    ending.ask("disk")
                if began > files_again:
                    if self._engine.changed(container.id, limits.files) > limits.files:
                        ending.ask("files")
                    files_again = time.monotonic() + 10 * (time.monotonic() - began)
                if not self._has_room():
                    ending.ask("full")
                wait = max(LOOK, 2 * (time.monotonic() - began))

    def _ended(self, container: _Container, asked: Asked, said: Said, ending: Ending) -> Execution:
        reason, code = said.reason, None
        if not reason and said.word != "begun":
            raise self._not_begun(container, asked, said)
        if not reason:
            code, left = self._engine.exit_code(container.program), self._left(container)
            if left != container.own_processes:
                self._kill(container)
            reason = ending.reason or ("lost" if code is None or not left else "")
        if container.out_of_memory:
            reason = "memory"
        if reason == "cancelled":
            raise SandboxLost("cancelled")
        if reason == "full" or not self._has_room():
            raise StoreFull("no space left where the engine keeps its images")
        container.ran += said.seconds
        after = None
        if reason in ("", "timed out", "memory", "cpu") and asked.freeze:
            after, over = self._frozen(container, asked)
            container.holds, reason = after, over or reason
        else:
            container.holds = None  # the engine's list of changes would not prove that there are none: it goes by times
        killed = reason in ("memory", "cpu", "disk", "files")
        return Execution(
            outcome="killed" if killed else reason or "finished",
            exit_code=None if reason else code,
            limit=reason if killed else None,
            stdout=said.stdout.kept(),
            stderr=said.stderr.kept(),
            dropped=said.stdout.dropped + said.stderr.dropped,
            seconds=said.seconds,
            after=State(layers=(after,)) if after else None,
        )

    def _left(self, container: _Container) -> int:
        """Processes, once the program ended. What was killed at its end may take a moment more."""
        left = self._engine.processes(container.id)
        return left if left <= container.own_processes else self._engine.processes(container.id)

    def _not_begun(self, container: _Container, asked: Asked, said: Said) -> Exception:
        if said.word == "nowhere":
            return Refused(f"{asked.cwd}: no such directory in there, or it is closed")
        words = (said.stdout.kept() + said.stderr.kept()).decode("utf-8", "replace").strip()
        if self._engine.processes(container.id):
            return Refused(f"this state can execute nothing: {words or 'no reason was given'}")
        return SandboxLost(f"the container died before anything ran in it: {words}")

    def _frozen(self, container: _Container, asked: Asked) -> tuple[str | None, str]:
        """The digest of what is in the container; or None, and the limit that it is over."""
        limits, was = asked.limits, self.about(asked.state)
        possible = container.ran * self._processors * _FILES_A_SECOND  # counting is a walk over the whole image
        if possible > limits.files and self._engine.changed(container.id, limits.files) > limits.files:
            return None, "files"
        made = self._engine.commit(container.id)
        now = self.about(made.removeprefix("sha256:"))
        over = "disk" if now.size - self.about(container.image).size > limits.disk else ""
        if over or now.layers in (was.layers, (*was.layers, _EMPTY_LAYER)):
            self._forget(made)
            return (None, over) if over else (asked.state, "")
        if len(now.layers) > MOST_LAYERS:
            made, deep = self._flattened(made, container.inside), made
            self._forget(deep)
            container.killed = True  # what it is made from is far below: its next commit would be as deep
        return made.removeprefix("sha256:"), ""

    def _forget(self, image: str) -> None:
        self._known.pop(image.removeprefix("sha256:"), None)
        self._engine.remove_image(image)

    def _flattened(self, image: str, inside: Inside) -> str:
        """The same files in one layer."""
        container = self._engine.create(image, ["/bin/sh"], {"NetworkMode": "none"}, self._labels)
        try:
            return self._engine.imported(self._engine.exported(container), inside.label() | self._labels)
        finally:
            self._engine.remove(container)

    def free(self) -> int | None:
        """Bytes left where the engine keeps images; None if that is elsewhere."""
        with suppress(OSError):
            at = os.statvfs(self._info["DockerRootDir"])
            return at.f_bavail * at.f_frsize
        return None

    def _has_room(self) -> bool:
        """False: what commands said is nobody's verdict, they may have met a full file system and hidden it."""
        free = self.free()
        return free is None or free >= _LEAST_BYTES

    # Warm containers

    def _taken(self, asked: Asked) -> _Container | None:
        """The container that holds this state, if it does for what is asked."""
        limits = asked.limits
        with self._lock:
            container = self._warm.get(asked.state)
            if not container or container.fits != (limits.memory, limits.processes, asked.is_plain):
                return None
            del self._warm[asked.state]
        late = container.ends - time.monotonic() < limits.seconds + _SPARE
        spent = container.ran * self._processors * 10 > limits.cpu_seconds  # what it used before counts as used
        if late or spent or not self._listening:
            self._pool.submit(self._remove, container)
            return None
        container.reused = True
        return container

    def _release(self, container: _Container, *, at_once: bool = False) -> None:
        """Keep it for the next execution in the state that it holds, if nothing speaks against that; or remove it."""
        container.ending = None
        if self._is_worth_keeping(container):
            assert container.holds
            with self._lock:
                if self._open and container.holds not in self._warm:
                    self._warm[container.holds] = container
                    if len(self._warm) <= self._most_warm:
                        return
                    container = self._warm.pop(next(iter(self._warm)))
        if at_once:
            self._remove(container)
        else:
            self._pool.submit(self._remove, container)

    def _is_worth_keeping(self, container: _Container) -> bool:
        if (
            not self._most_warm
            or not container.holds
            or container.killed
            or not container.fits[2]
            or container.inside.is_root
            or not self._listening
        ):
            return False
        with suppress(SandboxLost):
            return self._engine.written(container.id) <= _WARM_BYTES
        return False

    def _remove(self, container: _Container) -> None:
        with self._lock:
            self._running.pop(container.id, None)
        try:
            self._engine.remove(container.id)
        finally:
            if container.lifeline:
                container.lifeline.close()

    def _listen(self, listen: Callable[[], None]) -> None:
        listen()
        self._listening = False

    def _memory_ran_out(self, container: str) -> None:
        with self._lock:
            known = self._running.get(container)
            if known and known.ending:
                known.ending.ask("memory")


def _read_only(path: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": path, "Target": path, "ReadOnly": True, "BindOptions": {"NonRecursive": True}}


def not_there(state: str) -> SandboxLost:
    return SandboxLost(f"the image of state {state} is not in the store of this Docker engine")
