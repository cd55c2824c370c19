"""A machine to be attacked, with a sandbox on it: see planted.py for what is on it.

async with of("rootless", held=False) as machine:
    said = await machine.run({"name": "script"}, off=("network",))
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from runoff.sandbox import prerequisites
from runoff.sandbox.bubblewrap import SANDBOX_UID, Bubblewrap
from runoff.sandbox.protocol import Base, Execution, Limits, Sandbox, State
from tests.sandbox.attacks import planted, undefended

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
INSIDE = (HERE / "inside.py").read_text()
VICTIMS = ("kill", "kill-all", "kill-blindly", "pidfd", "renice", "limit")


def of(mode: str, *, held: bool) -> Machine:
    """`held`: the sandbox as it is. Otherwise every execution may name the defences it goes without."""
    if mode == "docker":
        from tests.sandbox.attacks.docker_machine import DockerMachine

        return DockerMachine(mode, held=held)
    return BubblewrapMachine(mode, held=held)


class Machine(ABC):
    sandbox: Sandbox

    def __init__(self, mode: str, *, held: bool) -> None:
        self.mode, self._held = mode, held
        self.secret, self.won = (secrets.token_hex(8) for _ in range(2))
        self.mark = f"planted-{secrets.token_hex(4)}"
        self._made = dict[str, State]()

    async def __aenter__(self) -> Machine:
        async with AsyncExitStack() as own:
            directory = own.enter_context(tempfile.TemporaryDirectory(prefix="attacked-", ignore_cleanup_errors=True))
            self.place = Path(directory)
            self._plant()
            await self._open(own)
            self.base = await self.sandbox.base(Base(binds=("/usr", str(self.place / "tool"))))
            self._planted = json.loads((self.place / "planted.json").read_text())
            other = await self.sandbox.write(self.base, {"/testbed/other": self.secret.encode()})
            self.sandbox.keep("other", other)
            self._stack = own.pop_all()
        return self

    @abstractmethod
    async def _open(self, own: AsyncExitStack) -> None:
        """Begin with planted.py, and open the sandbox."""

    @abstractmethod
    async def _execute(
        self, off: Sequence[str], state: State, argv: Sequence[str], limits: Limits, **how: Any
    ) -> Execution:
        """One execution, without these defences."""

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(
        self, scripts: Mapping[str, str], off: Sequence[str] = (), limits: Limits = Limits()
    ) -> dict[str, str]:
        """What each script printed. One is missing if it took the execution with it."""
        scripts = {name: textwrap.dedent(script) for name, script in scripts.items()}
        asked = {"scripts": scripts, "facts": self.facts(), "seconds": 3}
        done = await self.execute(["python3", "-I", "-c", INSIDE], off, limits, json.dumps(asked).encode())
        said: dict[str, str] = {}
        for line in done.stdout.splitlines():
            with suppress(ValueError):
                name, output = json.loads(line)
                said[name] = output
        return said

    async def flood(self, script: str, limits: Limits, off: Sequence[str] = ()) -> Execution:
        """The script by itself, under these limits; what it writes belongs to the next state."""
        asked = json.dumps({"script": textwrap.dedent(script), "facts": self.facts()}).encode()
        argv = ["python3", "-I", "-c", INSIDE]
        return await self._execute(off, self.base, argv, limits, stdin=asked, cwd="/")

    async def after(self, script: str, state: State | None = None, **how: Any) -> State:
        """The state that a shell script leaves, which may name what is planted: $place, $secret, $mine, $won."""
        if state is None and script in self._made:
            return self._made[script]
        limits = Limits(seconds=20)
        done = await self.sandbox.execute(state or self.base, ["sh", "-c", self.named(script)], limits, **how)
        assert done.after, done
        if state is None:
            self._made[script] = done.after
        return done.after

    def bare(self, script: str, directory: Path) -> None:
        """The same, in a directory."""
        subprocess.run(["sh", "-c", self.named(script)], cwd=directory, check=False, capture_output=True, timeout=20)

    def named(self, script: str) -> str:
        place = self.place
        return f"place={place} secret={place}/secret mine={place}/mine won={self.won}\n{script}"

    async def execute(
        self, argv: Sequence[str], off: Sequence[str] = (), limits: Limits = Limits(), stdin: bytes = b"", **how: Any
    ) -> Execution:
        assert not off or not self._held
        limits = limits.model_copy(update={"output": 8 << 20})
        how = {"state": self.base, "cwd": "/", "freeze": False} | how
        return await self._execute(off, how.pop("state"), argv, limits, stdin=stdin, **how)

    def facts(self) -> dict[str, Any]:
        """What scripts know: an attacker may know where everything lies."""
        return {
            "secret": self.secret,
            "won": self.won,
            "mark": self.mark,
            "place": str(self.place),
            "home": _home(),
            "tcp": planted.TCP,
            "service": planted.SERVICE,
            "user": SANDBOX_UID,
            "pids": self._planted["pids"],
            "handle": _handle(self.place / "secret"),
        }

    def contacts(self) -> list[str]:
        """Who was spoken to."""
        return (self.place / "contacts").read_text().split()

    def processes(self, mark: str) -> list[Path]:
        """In /proc, wherever they run."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark.encode() in (process / "cmdline").read_bytes() and not _dead(process):
                    found.append(process)
        return found

    def victim(self, name: str) -> Path | None:
        return next((p for p in self.processes(f"{self.mark}-{name}\0")), None)

    def shown(self) -> bytes:
        """What the terminal's user saw."""
        return (self.place / "terminal").read_bytes()

    def mine(self) -> list[str]:
        """Files that somebody else made where only the machine's user writes."""
        return sorted(path.name for path in (self.place / "mine").iterdir() if path.name != ".kept")

    def _plant(self) -> None:
        place, secret = self.place, self.secret
        place.chmod(0o755)
        for name in (
            "root/.ssh",
            "root/.aws",
            "run",
            "tool",
            "mine",
            "private",
            "states",
            "shm",
            "runs/last/log",
            "answers",
        ):
            (place / name).mkdir(parents=True)
        for name in ("mine", "tool", "shm", "private"):  # the view is what stops them, not their modes
            (place / name).chmod(0o777)
        for name in (
            "secret",
            "shadow",
            "root/.ssh/id_ed25519",
            "root/.aws/credentials",
            "root/.netrc",
            "root/.bash_history",
            "private/here",
            "runs/last/log/issue.jsonl",
            "runs/last/run.toml",
            "answers/issue.json",
        ):
            (place / name).write_text(f"{secret}\n")
        (place / "tool" / "program").write_text("as it was\n")
        (place / "tool" / "program").chmod(0o666)
        for name, text in {"precious": "kept\n", "out-kept": "kept\n", "out-secret": self.won}.items():
            (place / "mine" / name).write_text(text)
        for name in ("contacts", "mine/.kept"):
            (place / name).touch()
        (place / "terminal").touch()
        (place / "exposed").mkdir()
        if self.mode != "rootless":
            for program in ("cat",):
                copy = shutil.copy(shutil.which(program) or "", place / "exposed" / f"{program}-as-root")
                Path(copy).chmod(0o4755)
            (place / "exposed" / "roots").write_text(f"{secret}\n")
            (place / "exposed" / "roots").chmod(0o600)

    def _plan(self) -> dict[str, Any]:
        return {
            "place": str(self.place),
            "secret": self.secret,
            "mark": self.mark,
            "keyring": f"{self.mark}-keys",
            "uid": None if self.mode == "rootless" else SANDBOX_UID,
            "victims": VICTIMS,
            "python": shutil.which("python3", path="/usr/local/bin:/usr/bin"),  # the one that runs inside, too
        }

    def _covered(self) -> dict[str, str]:
        place = self.place
        return {
            str(place / "shadow"): "/etc/shadow",
            str(place / "root"): _home(),
            str(place / "run"): "/run",
        }

    def _how(self) -> dict[str, str]:
        return {
            "secret": self.secret,
            "keyring": f"{self.mark}-keys",
            "terminal": self._planted["terminal"],
            "file": str(self.place / "secret"),
            "shm": str(self.place / "shm"),
            "mine": str(self.place / "mine"),
        }


class BubblewrapMachine(Machine):
    async def _open(self, own: AsyncExitStack) -> None:
        """The helper becomes a part of the planted machine, by what stands in for `unshare`."""
        tools = prerequisites.tools()
        plan = json.dumps(self._plan() | {"binds": self._covered()})
        changed = {"unshare": self._program("unshare", _UNSHARE.format(unshare=tools["unshare"], plan=plan))}
        if not self._held:
            again = self.mode != "rootless"
            text = _BWRAP.format(here=str(HERE), bwrap=tools["bwrap"], again=again)
            changed["bwrap"] = self._program("undefended", text)
            if again:
                changed["bwrap"] = self._as_root(tools["setpriv"], changed["bwrap"])
        with patch.object(prerequisites, "tools", lambda: tools | changed):
            self.sandbox = Bubblewrap(self.place / "states", self.mode)  # type: ignore[arg-type]
            await own.enter_async_context(self.sandbox)

    async def _execute(
        self, off: Sequence[str], state: State, argv: Sequence[str], limits: Limits, **how: Any
    ) -> Execution:
        environment = {undefended.OFF: ",".join(off), undefended.HOW: json.dumps(self._how())} if off else {}
        return await self.sandbox.execute(state, argv, limits, env=environment, **how)

    def _program(self, name: str, text: str) -> str:
        programs = self.place / "programs"
        programs.mkdir(exist_ok=True)
        (programs / name).write_text(f"#!{sys.executable} -IS\n{text}")
        (programs / name).chmod(0o755)
        return str(programs / name)

    def _as_root(self, setpriv: str, program: str) -> str:
        """A program that starts another as root, for what the helper starts as the user; nobody else comes here."""
        os.chown(self.place, 0, SANDBOX_UID)
        self.place.chmod(0o710)
        become = Path(shutil.copy(setpriv, self.place / "programs"))
        become.chmod(0o4755)
        starts = self.place / "programs" / "bwrap"
        starts.write_text(f'#!/bin/sh\nexec {become} --reuid=0 --regid=0 --clear-groups {program} "$@"\n')
        starts.chmod(0o755)
        return str(starts)


_UNSHARE = """
import os, sys
at = sys.argv.index(sys.executable)
planted = [sys.executable, "-I", "-S", {here!r} + "/planted.py", {plan!r}]
os.execv({unshare!r}, ["unshare", "--net", "--ipc", *sys.argv[1:at], *planted, *sys.argv[at:]])
""".replace("{here!r}", repr(str(HERE)))

_BWRAP = """
import sys
sys.path.append({here!r})
import undefended
undefended.main({bwrap!r}, {again!r})
"""


def _home() -> str:
    """The home directory that is covered with a planted one; not if this Python or these tests lie in it."""
    needed = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
    return "/srv" if any(path.is_relative_to("/root") for path in needed) else "/root"


def _dead(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _handle(path: Path) -> list[int]:
    """How the kernel names a file without a path."""
    import ctypes

    handle, mount = ctypes.create_string_buffer(8 + 128), ctypes.c_int()
    handle[0:4] = (128).to_bytes(4, sys.byteorder)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.name_to_handle_at(-100, str(path).encode(), handle, ctypes.byref(mount), 0):
        return []
    return list(handle.raw)
