"""The sandbox for a machine without Docker: overlayfs and bubblewrap, as root or without.

    async with Bubblewrap(Path("states")) as sandbox:
        state = await sandbox.base(Base())
        done = await sandbox.execute(state, ["sh", "-c", "echo hello > greeting"])

All mounts and processes belong to one helper (cell.py) and die with it, and it dies with this process. To
the kernel that is the thread that started it: the event loop's thread must outlive the sandbox.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import itertools
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

from runoff.sandbox import held, housekeeping, images, prerequisites, shared
from runoff.sandbox.byexecution import ByExecution
from runoff.sandbox.defences import DEFENCES, LIMITS
from runoff.sandbox.lock import locked
from runoff.sandbox.prerequisites import Finding, Mode
from runoff.sandbox.protocol import (
    REPO,
    Base,
    Execution,
    Held,
    Image,
    Limits,
    Refused,
    SandboxError,
    SandboxLost,
    SandboxUnavailable,
    State,
    StoreFull,
)
from runoff.sandbox.proxy import Proxy

SANDBOX_UID = 64000
"""Who runs inside when root runs the sandbox: nobody's number, owner of all that a sandbox wrote."""

INSIDE_UID = 1000
"""Who one is inside, rootless: the user who runs the sandbox, under another number."""

_ERRORS: dict[str, type[SandboxError]] = {"refused": Refused, "full": StoreFull, "lost": SandboxLost}
_NO_LIMIT = 1 << 62


class Bubblewrap(ByExecution):
    """See `Sandbox` in protocol.py. `root` is the directory of states: any number of processes may share it.

    `mode` None is `root` for root where the machine allows it, otherwise `rootless`. The two write files of different
    owners, so a directory of states belongs to one of them. No more than `slots` executions run at once; the others
    wait in order. `index_hosts` are package indexes that setups may reach beside those that this machine's tools are
    configured with. `limit`, in bytes of states, is kept as long as this is open, see docs/how-to/states.md; None: 50 GiB,
    or half of what could be had, if that is less.

    `without` is for tests only: it leaves out defences by their names in defences.py, so that an attack can be seen to
    succeed. Nothing reads it from a configuration; such a sandbox has another name, and keeps no state.
    """

    def __init__(
        self,
        root: Path,
        mode: Mode | None = None,
        *,
        slots: int | None = None,
        index_hosts: Sequence[str] = (),
        limit: int | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        if unknown := without - DEFENCES.keys():
            raise ValueError(f"no defence is called {', '.join(sorted(unknown))}")
        self._without, self._template = without, str(Path(__file__).with_name("template.py"))
        self.name = self._named_after(mode or "root")
        self._root, self._mode = Path(root), mode
        self._count = slots or os.cpu_count() or 1
        self._slots = asyncio.Semaphore(self._count)
        self._numbers, self._waiting = itertools.count(1), dict[int, asyncio.Future[_Answer]]()
        self._bases: dict[Base | Image, State] = {}
        self._limit, self._session, self._writing = limit, "", list[str]()
        self._cpu, self._lost = 0.0, "it is not open"
        self._proxy = Proxy(index_hosts)

    async def __aenter__(self) -> Bubblewrap:
        modes: list[Mode] = [self._mode] if self._mode else ["root", "rootless"] if os.geteuid() == 0 else ["rootless"]
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            why = "it is a file" if self._root.is_file() else (error.strerror or str(error)).lower()
            raise SandboxUnavailable(f"cannot make {self._root}: {why}", "give another --states") from None
        for mode in modes:
            try:
                await self._start(mode)
            except SandboxUnavailable:
                await self._stop()
                if mode == modes[-1]:
                    raise
            except BaseException:
                await self._stop()
                raise
            else:
                self.name, self._opened = self._named_after(mode), mode
                self._watching = asyncio.create_task(housekeeping.watch(self._root, self._limit))
                break
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def cpu_seconds(self) -> float:
        """What all executions so far used, and the starting of them."""
        return self._cpu

    def holds(self) -> list[Held]:
        """As found when it was opened. A defence that was left out still stands here."""
        return held.rows(self._opened, self._facts)

    async def base(self, base: Base | Image) -> State:
        if base not in self._bases or not self._holds(self._bases[base]):
            if isinstance(base, Image):
                self._bases[base] = await images.base(base.reference, self._import, self._root, self._slots)
            else:
                answer = await self._ask("base", binds=list(base.binds))
                self._bases[base] = State(layers=answer.layers("layers"))
                self._session = answer.said["session"]
        return self._bases[base]

    async def _execute(
        self,
        state: State,
        argv: Sequence[str],
        limits: Limits,
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] = {},
        cwd: str = REPO,
        network: bool = False,
        freeze: bool = True,
        template: bool = False,
        compared: Mapping[str, Any] | None = None,
    ) -> Execution:
        proxy = await self._proxy.address() if network else None
        async with self._slots:
            answer = await self._ask(
                "execute",
                stdin,
                layers=list(state.layers),
                argv=list(argv),
                limits=limits.model_dump() | self._unlimited(),
                env=dict(env),
                cwd=cwd,
                proxy=proxy,
                freeze=freeze,
                template=template,
                compared=compared,
            )
        said = answer.said
        return Execution(
            outcome=said["outcome"],
            exit_code=said["exit_code"],
            limit=said.get("limit"),
            stdout=answer.stdout,
            stderr=answer.stderr,
            dropped=said["dropped"],
            seconds=said["seconds"],
            after=State(layers=answer.layers("after")) if said["after"] else None,
        )

    def named(self, name: str) -> State | None:
        with suppress(FileNotFoundError):
            if (said := shared.read_name(f"{self._root}/{_file_of(name)}")) and said[0] == name:
                state = State(layers=said[1])
                return state if self._holds(state) else None
        return None

    def find(self, digest: str) -> State | None:
        """The state of a digest, if its layers are still there."""
        below = shared.below(str(self._root), digest)
        base = (self._root / digest / "shown").exists()  # what an image's base lies on is its own affair
        state = State(layers=(digest, *(() if base else below or ())))
        return state if below is not None and self._holds(state) else None

    def keep(self, name: str, state: State) -> None:
        if self._without:
            raise ValueError(f"{self.name} is for tests, and keeps no state")
        if not self._holds(state):
            raise SandboxLost(f"the layers of state {state.digest} are not in the store")
        _sync(self._root)  # the layers too: what is named must be there after a power cut
        self._write(_file_of(name), json.dumps({"name": name, "layers": state.layers}))
        _sync(self._root)

    def refer(self, path: Path) -> None:
        path = path.absolute()
        self._write(f"referrers/{shared.hashed(str(path))}", str(path))
        self._writing.append(str(path))
        self._write(f"referrers/{self._session}", json.dumps(self._writing))

    def release(self, path: Path) -> None:
        self._writing.remove(str(path.absolute()))
        self._write(f"referrers/{self._session}", json.dumps(self._writing))

    async def make_room(self, size: int) -> None:
        await housekeeping.make_room(self._root, size, self._limit)

    def alone(self, name: str) -> AbstractAsyncContextManager[None]:
        return locked(self._root / "locks", name)

    def lacks(self, state: State) -> tuple[str, ...]:
        """See `Ships`."""
        with shared.locked(str(self._root)):
            return tuple(name for name in state.layers if not shared.touch(str(self._root), [name], self._session))

    async def ship(self, layer: str) -> AsyncIterator[bytes]:
        """See `Ships`."""
        stream = (await self._ask("ship send", layer=layer)).said["stream"]
        try:
            while part := (await self._ask("ship part", stream=stream)).stdout:
                yield part
        finally:
            await self._ask("ship close", stream=stream)

    async def take(self, layer: str, below: Sequence[str], parts: AsyncIterator[bytes]) -> None:
        """See `Ships`."""
        stream = (await self._ask("ship take", layer=layer, below=list(below))).said["stream"]
        try:
            async for part in parts:
                await self._ask("ship add", part, stream=stream)
            await self._ask("ship add", stream=stream)
        finally:
            await self._ask("ship close", stream=stream)

    def _holds(self, state: State) -> bool:
        """Whether its layers are there; from then on they stay."""
        with shared.locked(str(self._root)):
            return shared.touch(str(self._root), state.layers, self._session)

    def _write(self, at: str, text: str) -> None:
        try:
            shared.write_whole(str(self._root), self._session, at, text)
        except FileNotFoundError:
            raise SandboxLost("the sandbox helper died, and with it its place in the store") from None
        except OSError as error:
            raise (StoreFull(str(error)) if error.errno in (errno.ENOSPC, errno.EDQUOT) else error) from error

    def _named_after(self, mode: Mode) -> str:
        return " without ".join([f"bubblewrap-{mode}", *filter(None, [",".join(sorted(self._without))])])

    def _unlimited(self) -> dict[str, int]:
        return dict.fromkeys(LIMITS if "limits" in self._without else self._without.intersection(LIMITS), _NO_LIMIT)

    async def _import(self, do: str, **what: Any) -> dict[str, Any]:
        return (await self._ask(f"image {do}", **what)).said

    async def _start(self, mode: Mode) -> None:
        tools = prerequisites.tools()
        housekeeping.settle(self._root, mode)
        config = {
            "root": mode == "root",
            "slots": self._count,
            "uid": SANDBOX_UID if mode == "root" else INSIDE_UID,
            "bwrap": tools["bwrap"],
            "setpriv": tools["setpriv"],
            "without": sorted(self._without),
            "template": self._template,
        }
        alone = ["--mount", "--propagation", "private"]
        alone += [] if "pids" in self._without else ["--pid", "--fork", "--kill-child", "--mount-proc"]
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the helper lives
        with theirs:
            self._helper = await asyncio.create_subprocess_exec(
                *(tools["setpriv"], "--pdeathsig", "KILL", tools["unshare"]),
                *([] if mode == "root" else ["--user", "--map-root-user"]),
                *(*alone, sys.executable, "-I", "-S", str(Path(__file__).with_name("cell.py")), json.dumps(config)),
                stdin=theirs.fileno(),
                stdout=self._stderr,
                stderr=self._stderr,
                cwd=self._root,
                env=dict(os.environ) if "environment" in self._without else {"PATH": os.defpath},
                start_new_session=True,  # Ctrl-C is for us: we cancel what runs
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        self._lost = ""
        self._listening = asyncio.create_task(self._listen(reader))
        try:
            self._facts = held.Facts(**(await self._ask("facts")).said["facts"])
            done = await self.execute(await self.base(Base()), ["true"], cwd="/", freeze=False)
        except (SandboxLost, Refused) as error:
            raise prerequisites.unavailable(mode, str(error), self._root) from error
        if done.exit_code != 0:
            raise prerequisites.unavailable(mode, done.stderr.decode("utf-8", "replace").strip(), self._root)

    async def _stop(self) -> None:
        await self._proxy.stop()
        if hasattr(self, "_watching"):
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if hasattr(self, "_listening"):
            self._writer.close()
            await self._helper.wait()
            await self._listening
            self._stderr.close()

    async def _ask(self, do: str, body: bytes = b"", **what: Any) -> _Answer:
        if self._lost:
            raise SandboxLost(f"the sandbox helper cannot be asked: {self._lost}")
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        request = {"do": do, "number": number, "body": len(body)} | what
        self._writer.write(json.dumps(request).encode() + b"\n" + body)
        try:
            answer: _Answer = await asyncio.shield(future)
        except asyncio.CancelledError:
            self._writer.write(json.dumps({"do": "kill", "which": number}).encode() + b"\n")
            while not future.done():  # also if cancelled again: the slot is free only when all of it is dead
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            future.exception()
            raise
        self._cpu = max(self._cpu, answer.said["cpu"])
        if "error" in answer.said:
            raise _ERRORS[answer.said["error"]](answer.said["words"])
        return answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while line := await reader.readline():
                said = json.loads(line)
                answer = _Answer(
                    said, await reader.readexactly(said["stdout"]), await reader.readexactly(said["stderr"])
                )
                self._waiting.pop(said["number"]).set_result(answer)
        await self._helper.wait()
        self._stderr.seek(0)
        words = self._stderr.read()[-1000:].decode("utf-8", "replace").strip()
        self._lost = words or "it died"
        for waiting in self._waiting.values():
            waiting.set_exception(SandboxLost(f"the sandbox helper died under this execution: {self._lost}"))
        self._waiting.clear()


class _Answer:
    def __init__(self, said: dict[str, Any], stdout: bytes, stderr: bytes) -> None:
        self.said, self.stdout, self.stderr = said, stdout, stderr

    def layers(self, field: str) -> tuple[str, ...]:
        return tuple(self.said[field])


async def probe(root: Path | None = None) -> list[Finding]:
    """What `runoff doctor` says: the tools, and for each mode whether a sandbox really runs here (states at `root`)."""
    findings = prerequisites.findings()
    modes: tuple[Mode, ...] = ("root", "rootless") if os.geteuid() == 0 else ("rootless",)
    for mode in modes:
        with tempfile.TemporaryDirectory(prefix="runoff-probe-", dir=root) as directory:
            try:
                async with Bubblewrap(Path(directory) / "store", mode) as sandbox:
                    what = held.remedy(mode, sandbox._facts) or "a sandbox ran"
                    what += f"; {held.starts(mode, sandbox._facts)}"
                    findings.append(Finding(f"bubblewrap-{mode}", True, what, None, tuple(sandbox.holds())))
            except SandboxUnavailable as error:
                findings.append(Finding(f"bubblewrap-{mode}", False, error.what, error.remedy))
            except SandboxError as error:
                findings.append(Finding(f"bubblewrap-{mode}", False, str(error), None))
    return findings


def _file_of(name: str) -> str:
    return f"names/{shared.hashed(name)}.json"


def _sync(directory: Path) -> None:
    """Everything on this file system, to the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            number = ctypes.get_errno()
            words = "cannot write the states to the disk"
            raise StoreFull(words) if number in (errno.ENOSPC, errno.EDQUOT) else OSError(number, words)
    finally:
        os.close(handle)
