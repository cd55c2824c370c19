"""The sandbox for machines and images where bubblewrap cannot run: a state is an image of a Docker engine.

    async with Docker(Path("states")) as sandbox:
        state = await sandbox.base(Image(reference="docker://python:3.12"))
        done = await sandbox.execute(state, ["sh", "-c", "echo hello > greeting"])

What that costs (docs/how-to/docker.md has the figures): a container for each execution and a commit for each next state,
some hundred milliseconds in all. In a chain, the container that made a state is kept warm for the next execution in it,
which halves that. A state takes on disk what was written since the image that its container was made from.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from runoff.sandbox import bottom
from runoff.sandbox.bottom import Inside
from runoff.sandbox.byexecution import ByExecution
from runoff.sandbox.engine import DEADLINE, Engine, Missing, Owner, is_dead
from runoff.sandbox.exchange import Program, Said, new_word, talk
from runoff.sandbox.prerequisites import Finding
from runoff.sandbox.protocol import (
    REPO,
    Base,
    Execution,
    Held,
    Image,
    Limits,
    Refused,
    SandboxLost,
    SandboxUnavailable,
    State,
    StoreFull,
)
from runoff.sandbox.streams import Capped, Ending

T = TypeVar("T")

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
_LOOK = 1.0  # seconds between two looks at what a long execution has used
_LEAST_BYTES = 1 << 20  # a file system with less left is full
_LEAST_MEMORY = 6 << 20  # the least that an engine accepts
_OVER = 24 * 3600  # seconds after which a dead container is nobody's, whoever made it

_OWNER, _STORE = "runoff.owner", "runoff.store"  # labels
_NAMES = "runoff-state"  # repository of tags

# Process 1 lives as long as its standard input is held open, and some time at most. It cannot be killed from inside, and
# reaps what lost its parent. Where the command is root too it could kill what process 1 started: nothing, then.
_REAPING, _REAPING_PROCESSES = 'exec 3<&0; timeout -s KILL "$0" cat <&3 & wait', 3
_PLAIN, _PLAIN_PROCESSES = "exec cat", 1


class _Known(NamedTuple):
    """What does not change about a state."""

    inside: Inside
    size: int
    layers: tuple[str, ...]


class _Asked(NamedTuple):
    state: str
    argv: Sequence[str]
    limits: Limits
    stdin: bytes
    env: Mapping[str, str]
    cwd: str
    network: bool
    freeze: bool


@dataclass(eq=False)
class _Container:
    id: str
    image: str
    """The state that it was made from."""
    holds: str | None
    """The state that its files are now; None: nobody knows."""
    inside: Inside
    fits: tuple[int, int, bool]
    """Memory, processes, network."""
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


class Docker(ByExecution):
    """See `Sandbox` in protocol.py. `root` is a directory for what names these states: any number of processes may share it.

    `url` None: $DOCKER_HOST, or the usual socket. No more than `slots` executions run at once; the others wait. An engine
    that does not answer an ordinary call within `deadline` seconds is lost. `network` is the engine's network that an
    execution with `network=True` gets: `host` is what bubblewrap gives, `bridge` keeps the host's loopback out of reach.
    At most `warm` idle containers are kept for what goes on from the states that were made in them; None: one a slot.

    Not promised: extended attributes, and parts of seconds of modification times (commits drop them); /etc/hosts,
    /etc/hostname and /etc/resolv.conf (the engine's own). `find`, `keep` and `named` ask the engine while the caller waits.
    """

    name = "docker"

    def __init__(
        self,
        root: Path,
        *,
        slots: int | None = None,
        url: str | None = None,
        deadline: float = DEADLINE,
        network: str = "host",
        warm: int | None = None,
    ) -> None:
        self._root, self._url, self._deadline, self._network = Path(root), url, deadline, network
        self._count = slots or os.cpu_count() or 1
        self._most_warm = self._count if warm is None else warm
        self._slots = asyncio.Semaphore(self._count)
        self._bases, self._known = dict[Base | Image, State](), dict[str, _Known]()
        self._lock = threading.Lock()
        self._running, self._warm = dict[str, _Container](), dict[str, _Container]()
        self._open = self._listening = False

    async def __aenter__(self) -> Docker:
        self._pool = ThreadPoolExecutor(4 * self._count + 4, "docker")
        try:
            await self._in_thread(lambda _: self._begin())
        except BaseException:
            self._pool.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._in_thread(lambda _: self._end())
        finally:
            self._pool.shutdown(wait=False)

    def holds(self) -> list[Held]:
        return table(self._info)

    async def base(self, base: Base | Image) -> State:
        if base not in self._bases:
            labels = self._labels
            if isinstance(base, Base):
                state = State(layers=(await self._in_thread(lambda _: bottom.of_host(self._engine, base, labels)),))
                await self._see_the_same_host(state)
            else:
                state = State(layers=(await self._in_thread(lambda _: bottom.of_image(self._engine, base, labels)),))
            self._bases[base] = state
        return self._bases[base]

    async def execute(
        self,
        state: State,
        argv: Sequence[str],
        limits: Limits = Limits(),
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] = {},
        cwd: str = REPO,
        network: bool = False,
        freeze: bool = True,
    ) -> Execution:
        asked = _Asked(state.digest, argv, limits, stdin, env, cwd, network, freeze)
        async with self._slots:
            return await self._in_thread(lambda ending: self._execute(asked, ending))

    def named(self, name: str) -> State | None:
        return self._state(f"{_NAMES}:{bottom.key(self._store, name)}")

    def find(self, digest: str) -> State | None:
        """The state of a digest, if the engine has its image."""
        return self._state(f"sha256:{digest}")

    def keep(self, name: str, state: State) -> None:
        if not self.find(state.digest):
            raise _not_there(state.digest)
        self._engine.tag(f"sha256:{state.digest}", _NAMES, bottom.key(self._store, name))

    # Opening and closing

    async def _in_thread(self, work: Callable[[Ending], T]) -> T:
        """Cancelled, it asks the work to end, and waits until it has: each step of it has a deadline."""

        def done() -> T:
            try:
                return work(ending)
            finally:
                ending.close()

        ending = Ending()
        future = asyncio.get_running_loop().run_in_executor(self._pool, done)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            ending.ask("cancelled")
            await asyncio.wait([future])
            future.exception()
            raise

    def _begin(self) -> None:
        self._engine = Engine(self._url, self._deadline)
        try:
            self._info = self._engine.about()
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner, self._store = Owner.of(os.getpid()), _identity(self._root)
            self._mine = f"{self._owner}/{os.urandom(4).hex()}"
            self._labels = {_OWNER: self._mine, _STORE: self._store, "runoff.path": str(self._root.resolve())}
            self._sweep()
            listen = self._engine.memory_ran_out(f"{_OWNER}={self._mine}", self._memory_ran_out)
            self._open = self._listening = True
            self._pool.submit(self._listen, listen)
        except BaseException:
            self._engine.close()
            raise

    def _end(self) -> None:
        with self._lock:
            self._open = False
        self._engine.stop_listening()
        try:
            for each in self._engine.containers(f"{_OWNER}={self._mine}"):
                self._engine.remove(each["Id"])
        finally:
            self._engine.close()

    def _sweep(self) -> None:
        """Remove containers of processes that were killed. Images stay: a log may name them."""
        for each in self._engine.containers(_OWNER):
            owner = Owner.parse(each["Labels"][_OWNER].rpartition("/")[0])
            over = each["State"] in ("created", "exited", "dead") and time.time() - each["Created"] > _OVER
            if over or (owner and is_dead(owner, self._owner)):
                with suppress(SandboxLost):
                    self._engine.remove(each["Id"])

    def _listen(self, listen: Callable[[], None]) -> None:
        listen()
        self._listening = False

    def _memory_ran_out(self, container: str) -> None:
        with self._lock:
            known = self._running.get(container)
            if known and known.ending:
                known.ending.ask("memory")

    # States

    async def _see_the_same_host(self, state: State) -> None:
        """An engine elsewhere would show its own machine's programs, or none."""
        why = "; Docker can show the host's programs only where its engine is on the host: use an image as the base"
        known = await self._in_thread(lambda _: self._about(state.digest))
        shown = known.inside.shown
        try:
            said = (await self.execute(state, ["stat", "-c", "%d:%i", *shown], cwd="/", freeze=False)).stdout.decode()
        except Refused as error:
            raise Refused(f"{error}{why}") from error
        here = "".join(f"{at.st_dev}:{at.st_ino}\n" for at in map(os.stat, shown))
        if said != here:
            raise Refused(f"the engine at {self._engine.url} does not see this machine's {', '.join(shown)}{why}")

    def _state(self, name: str) -> State | None:
        try:
            said = self._engine.image(name)
        except Missing:
            return None
        return State(layers=(said["Id"].removeprefix("sha256:"),)) if Inside.of(said) else None

    def _about(self, state: str) -> _Known:
        if not (known := self._known.get(state)):
            try:
                said = self._engine.image(f"sha256:{state}")
            except Missing:
                raise _not_there(state) from None
            if not (inside := Inside.of(said)):
                raise _not_there(state)
            known = _Known(inside, said["Size"], tuple(said["RootFS"].get("Layers") or ()))
            self._known[state] = known
        return known

    # Executions

    def _execute(self, asked: _Asked, ending: Ending) -> Execution:
        self._program(asked, self._about(asked.state).inside, reused=False).command(
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

    def _program(self, asked: _Asked, inside: Inside, *, reused: bool) -> Program:
        env = {**inside.env, **asked.env}
        return Program(asked.argv, env, asked.cwd, asked.limits.file_size, asked.limits.open_files, reused)

    def _started(self, asked: _Asked) -> _Container:
        inside, limits = self._about(asked.state).inside, asked.limits
        life = max(LIFE, limits.seconds + 2 * _SPARE)
        program = ["/bin/sh", "-c", _PLAIN if inside.is_root else _REAPING, str(math.ceil(life))]
        host = self._host(inside, limits, self._network if asked.network else "none")
        try:
            made = self._engine.create(f"sha256:{asked.state}", program, host, self._labels)
        except Missing:
            self._known.pop(asked.state, None)
            raise _not_there(asked.state) from None
        fits = (limits.memory, limits.processes, asked.network)
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

    def _host(self, inside: Inside, limits: Limits, network: str) -> dict[str, Any]:
        """All isolation, asked for by name. The engine's default seccomp profile stays."""
        memory = max(limits.memory, _LEAST_MEMORY)
        return {
            "NetworkMode": network,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Memory": memory,
            "MemorySwap": memory,
            "PidsLimit": limits.processes + (_PLAIN_PROCESSES if inside.is_root else _REAPING_PROCESSES) + 1,
            "NanoCpus": self._processors * 10**9,
            "ShmSize": SHARED_MEMORY,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "LogConfig": {"Type": "none"},
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": path,
                    "Target": path,
                    "ReadOnly": True,
                    "BindOptions": {"NonRecursive": True},
                }
                for path in inside.shown
            ],
        }

    @property
    def _processors(self) -> int:
        return max(1, math.ceil(int(self._info["NCPU"]) / self._count))

    def _talk(self, container: _Container, asked: _Asked, ending: Ending) -> Said:
        container.ending, word, limits = ending, new_word(), asked.limits
        command = self._program(asked, container.inside, reused=container.reused).command(word)
        try:
            container.program, connection, early = self._engine.begin(container.id, command, container.inside.user)
        except SandboxLost:
            if container.reused:  # it died since
                return Said("", "", 0.0, Capped(0), Capped(0))
            raise
        over = threading.Event()
        watching = self._pool.submit(self._watch, container, limits, ending, over)
        try:
            with connection:
                return talk(
                    (connection, early),
                    asked.stdin,
                    word,
                    seconds=limits.seconds,
                    output=limits.output,
                    patience=self._deadline,
                    ending=ending,
                    kill=lambda: self._kill(container),
                )
        finally:
            over.set()
            watching.cancel()

    def _kill(self, container: _Container) -> None:
        container.killed = True
        container.out_of_memory = bool(self._engine.kill(container.id).get("OOMKilled"))

    def _watch(self, container: _Container, limits: Limits, ending: Ending, over: threading.Event) -> None:
        """Ask the engine what a long execution has used, ever more rarely where it takes long to say."""
        wait, files_again = _LOOK, 0.0
        with suppress(SandboxLost):  # whoever runs it hears that too
            while not over.wait(wait):
                began = time.monotonic()
                if self._engine.processor_seconds(container.id) >= limits.cpu_seconds:
                    ending.ask("cpu")
                if self._engine.written(container.id) > limits.disk:
                    ending.ask("disk")
                if began > files_again:
                    if self._engine.changed(container.id, limits.files) > limits.files:
                        ending.ask("files")
                    files_again = time.monotonic() + 10 * (time.monotonic() - began)
                if not self._has_room():
                    ending.ask("full")
                wait = max(_LOOK, 2 * (time.monotonic() - began))

    def _ended(self, container: _Container, asked: _Asked, said: Said, ending: Ending) -> Execution:
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

    def _not_begun(self, container: _Container, asked: _Asked, said: Said) -> Exception:
        if said.word == "nowhere":
            return Refused(f"{asked.cwd}: no such directory in there, or it is closed")
        words = (said.stdout.kept() + said.stderr.kept()).decode("utf-8", "replace").strip()
        if self._engine.processes(container.id):
            return Refused(f"this state can execute nothing: {words or 'no reason was given'}")
        return SandboxLost(f"the container died before anything ran in it: {words}")

    def _frozen(self, container: _Container, asked: _Asked) -> tuple[str | None, str]:
        """The digest of what is in the container; or None, and the limit that it is over."""
        limits, was = asked.limits, self._about(asked.state)
        possible = container.ran * self._processors * _FILES_A_SECOND  # counting is a walk over the whole image
        if possible > limits.files and self._engine.changed(container.id, limits.files) > limits.files:
            return None, "files"
        made = self._engine.commit(container.id)
        now = self._about(made.removeprefix("sha256:"))
        over = "disk" if now.size - self._about(container.image).size > limits.disk else ""
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

    def _has_room(self) -> bool:
        """False: what commands said is nobody's verdict, they may have met a full file system and hidden it."""
        with suppress(OSError):
            at = os.statvfs(self._info["DockerRootDir"])  # of an engine elsewhere nothing is known
            return at.f_bavail * at.f_frsize >= _LEAST_BYTES
        return True

    # Warm containers

    def _taken(self, asked: _Asked) -> _Container | None:
        """The container that holds this state, if it does for what is asked."""
        limits = asked.limits
        with self._lock:
            container = self._warm.get(asked.state)
            if not container or container.fits != (limits.memory, limits.processes, asked.network):
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
        network = container.fits[2]
        if (
            not self._most_warm
            or not container.holds
            or container.killed
            or network
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


def table(info: Mapping[str, Any]) -> list[Held]:
    """How an engine that says this of itself holds the limits."""

    def enforced(limit: str, switch: str, detail: str, without: str = "this kernel or engine cannot") -> Held:
        there = info.get(switch, False)
        return Held(limit=limit, how="enforced" if there else "not held", detail=detail if there else without)

    version = f"cgroup v{info.get('CgroupVersion', '1')}"
    seccomp = any("seccomp" in option for option in info.get("SecurityOptions") or ())
    watched = f"looked at each {_LOOK:.0f} s: passed by what is {{}} in that time"
    return [
        Held(limit="seconds", how="enforced", detail="everything in the container is killed"),
        Held(limit="output", how="enforced", detail="capped while it streams"),
        enforced(
            "memory", "MemoryLimit", f"{version}, all processes and /dev/shm together; beyond it everything is killed"
        ),
        enforced("swap", "SwapLimit", "none", "the kernel does not count it: as much again may be swapped"),
        Held(limit="cpu_seconds", how="watched", detail=watched.format("used")),
        enforced("processors", "CpuCfsQuota", "an equal share for each slot"),
        Held(limit="disk", how="watched", detail=watched.format("written") + "; what is frozen is measured once more"),
        Held(
            limit="files",
            how="watched",
            detail="looked at each second or more rarely; what is frozen is counted once more",
        ),
        Held(limit="file_size", how="enforced", detail="RLIMIT_FSIZE"),
        enforced("processes", "PidsLimit", f"{version}, zombies included"),
        Held(limit="open_files", how="enforced", detail="RLIMIT_NOFILE, or the engine's own if that is lower"),
        Held(limit="extended attributes", how="not held", detail="a commit drops all but security.capability"),
        Held(
            limit="hard links", how="not held", detail="a write to one parts it from those that earlier executions made"
        ),
        Held(
            limit="directory renames", how="not held", detail="EXDEV for directories of earlier executions; mv copies"
        ),
        Held(limit="network", how="enforced", detail="an empty network namespace: loopback only"),
        Held(
            limit="system calls",
            how="enforced" if seccomp else "not held",
            detail="the engine's default seccomp profile" if seccomp else "the engine was built without seccomp",
        ),
        Held(
            limit="rights",
            how="enforced",
            detail="no capabilities, no new ones; root inside only where an image has no user",
        ),
    ]


async def probe(url: str | None = None) -> list[Finding]:
    """What `runoff doctor` says of Docker."""

    def ask() -> Finding:
        try:
            engine = Engine(url, deadline=5)
            try:
                info = engine.about()
            finally:
                engine.close()
        except SandboxUnavailable as error:
            return Finding("docker", False, error.what, error.remedy)
        said = f"{info['ServerVersion']}, {info['Driver']}, cgroup v{info.get('CgroupVersion', '1')} at {engine.url}"
        return Finding("docker", True, said, None)

    return [await asyncio.to_thread(ask)]


def _not_there(state: str) -> SandboxLost:
    return SandboxLost(f"the image of state {state} is not in the store of this Docker engine")


def _identity(root: Path) -> str:
    """What the names of the states of this directory have in common; it moves with the directory."""
    file = root / "docker-store"
    mine = root / f".docker-store-{os.urandom(8).hex()}"
    try:
        mine.write_text(os.urandom(16).hex())
        with suppress(FileExistsError):
            file.hardlink_to(mine)
        return file.read_text()
    finally:
        mine.unlink(missing_ok=True)
