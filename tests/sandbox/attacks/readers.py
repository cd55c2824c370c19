"""Traps for the host that reads, writes, deletes and unpacks in what a sandbox wrote."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from runoff.sandbox.protocol import Refused, State
from tests.sandbox.attacks.attack import Staged
from tests.sandbox.attacks.machine import Machine

INSIDE = "the host's acts run inside, where its files are not"


def _staged(
    name: str,
    gain: str,
    trap: str,
    ours: Callable[[Machine, State], Awaitable[object]],
    naive: Callable[[Machine, Path], object],
    caught: Callable[[Machine, object], bool],
    stopped_by: str = INSIDE,
    bare_trap: str | None = None,
) -> Staged:
    async def attempt(machine: Machine) -> bool:
        state = await machine.after(trap)
        got: object = None
        with suppress(Refused):
            got = await asyncio.wait_for(ours(machine, state), 10)
        return caught(machine, got)

    def undefended(machine: Machine, directory: Path) -> bool:
        machine.bare(trap if bare_trap is None else bare_trap, directory)
        return caught(machine, naive(machine, directory))

    return Staged(name, gain, stopped_by, attempt, undefended)


def _reads(name: str, gain: str, trap: str, path: str = "f") -> Staged:
    async def ours(machine: Machine, state: State) -> object:
        return await machine.sandbox.read(state, f"/testbed/{path}")

    def naive(machine: Machine, directory: Path) -> object:
        return (directory / path).read_bytes()

    return _staged(name, gain, trap, ours, naive, lambda machine, got: machine.secret.encode() in (got or b""))


def _writes(name: str, gain: str, trap: str, path: str) -> Staged:
    """`path` leads to a file called as the attack is, in `mine`."""

    async def ours(machine: Machine, state: State) -> object:
        return await machine.sandbox.write(state, {f"/testbed/{path}": b"owned"})

    def naive(machine: Machine, directory: Path) -> object:
        return (directory / path).write_bytes(b"owned")

    return _staged(name, gain, trap, ours, naive, lambda machine, _: name in machine.mine())


def _tar(name: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


async def _unpack(machine: Machine, state: State) -> object:
    return await machine.sandbox.unpack(state, _tar("d/unpack-through-link", b"owned"), "/testbed")


def _unpack_naively(machine: Machine, directory: Path) -> object:
    with tarfile.open(fileobj=io.BytesIO(_tar("d/unpack-through-link", b"owned"))) as tar:
        tar.extractall(directory, filter="fully_trusted")
    return None


async def _delete(machine: Machine, state: State) -> object:
    return await machine.sandbox.write(state, {"/testbed/d/precious": None})


def _delete_naively(machine: Machine, directory: Path) -> object:
    return (directory / "d" / "precious").unlink()


async def _read_swapped(machine: Machine, state: State) -> object:
    return b"".join([await machine.sandbox.read(state, "/testbed/f") for _ in range(5)])


_SWAP = """
while :; do
  echo harmless > a; mv -f a f
  ln -s $secret b; mv -f b f
done
"""


def _read_swapped_naively(machine: Machine, directory: Path) -> object:
    """It looks first whether it is a link."""
    swapping = subprocess.Popen(["sh", "-c", machine.named(_SWAP)], cwd=directory, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with suppress(FileNotFoundError):
                if not (directory / "f").is_symlink() and machine.secret in (got := (directory / "f").read_text()):
                    return got.encode()
    finally:
        swapping.kill()
        swapping.wait()
    return b""


async def _twice(machine: Machine, state: State) -> object:
    first = await machine.sandbox.read(state, "/testbed/f")
    await asyncio.sleep(0.2)
    return first != await machine.sandbox.read(state, "/testbed/f")


def _twice_naively(machine: Machine, directory: Path) -> object:
    growing = subprocess.Popen(["sh", "-c", "while :; do echo x >> f; done"], cwd=directory)
    try:
        time.sleep(0.1)
        first = (directory / "f").read_bytes()
        time.sleep(0.2)
        return first != (directory / "f").read_bytes()
    finally:
        growing.kill()
        growing.wait()


async def _read_pipe(machine: Machine, state: State) -> object:
    began = time.monotonic()
    with suppress(Refused):
        await machine.sandbox.read(state, "/testbed/f")
    return time.monotonic() - began > 5


def _read_pipe_naively(machine: Machine, directory: Path) -> object:
    reader = threading.Thread(target=(directory / "f").read_bytes, daemon=True)
    reader.start()
    reader.join(0.3)
    blocked = reader.is_alive()
    os.close(os.open(directory / "f", os.O_RDWR))  # let it go
    return blocked


async def _read_endless(machine: Machine, state: State) -> object:
    return len(await machine.sandbox.read(state, "/testbed/f", 1000)) > 1000


def _read_endless_naively(machine: Machine, directory: Path) -> object:
    with (directory / "f").open("rb") as file:
        return len(file.read(1 << 20)) > 1000


async def _read_environment(machine: Machine, state: State) -> object:
    return await machine.sandbox.read(state, "/testbed/f")


def _read_environment_naively(machine: Machine, directory: Path) -> object:
    return subprocess.run(["cat", directory / "f"], env={"API_KEY": machine.secret}, capture_output=True).stdout


async def _keep(machine: Machine, state: State) -> object:
    return machine.sandbox.keep("../../mine/keep-by-dots", state)


def _keep_naively(machine: Machine, directory: Path) -> object:
    (machine.place / "states" / "names").mkdir(exist_ok=True)
    return (machine.place / "states" / "names" / "../../mine/keep-by-dots").write_text("{}")


def _secret(machine: Machine, got: object) -> bool:
    return machine.secret.encode() in (got or b"")  # type: ignore[operator]


def _true(machine: Machine, got: object) -> bool:
    return got is True


DEAD = "states are frozen when all in them are dead"

STAGED = [
    _reads("read-link", "a file of the host, for whoever reads a result", "ln -s $secret f"),
    _reads("read-link-of-links", "the same", "ln -s $secret g; ln -s g f"),
    _reads("read-through-directory", "the same", "ln -s $place d", "d/secret"),
    _reads("read-hard-link", "the same", "ln $secret f"),
    _staged(
        "read-by-dots",
        "the same",
        "ln -s ../../../../../../../../../../.. up",
        lambda machine, state: machine.sandbox.read(state, f"/testbed/up/..{machine.place}/secret"),
        lambda machine, directory: (directory / f"up/..{machine.place}/secret").read_bytes(),
        _secret,
    ),
    _staged(
        "read-environment",
        "the host's environment",
        "ln -s /proc/self/environ f",
        _read_environment,
        _read_environment_naively,
        _secret,
    ),
    _staged(
        "read-while-swapping",
        "a file of the host, by a link that was none when it was looked at",
        f"({_SWAP}) >/dev/null 2>&1 & sleep 0.2",
        _read_swapped,
        _read_swapped_naively,
        _secret,
        DEAD,
        bare_trap=":",
    ),
    _staged(
        "change-while-read",
        "that two readers see two things",
        "(while :; do echo x >> f; done) & sleep 0.1",
        _twice,
        _twice_naively,
        _true,
        DEAD,
        bare_trap="echo x > f",
    ),
    _staged("read-pipe", "a host that waits forever", "mkfifo f", _read_pipe, _read_pipe_naively, _true),
    _staged("read-endless", "a host out of memory", "ln -s /dev/zero f", _read_endless, _read_endless_naively, _true),
    _writes("write-link", "a file of the host, changed", "ln -s $mine/write-link f", "f"),
    _writes("write-through-directory", "the same", "ln -s $mine d", "d/write-through-directory"),
    _staged(
        "delete-through-directory",
        "a file of the host, gone",
        "ln -s $mine d",
        _delete,
        _delete_naively,
        lambda machine, _: "precious" not in machine.mine(),
    ),
    _staged(
        "unpack-through-link",
        "a file of the host, changed",
        "ln -s $mine d",
        _unpack,
        _unpack_naively,
        lambda machine, _: "unpack-through-link" in machine.mine(),
    ),
    _staged(
        "keep-by-dots",
        "a file of the host, changed",
        "touch f",
        _keep,
        _keep_naively,
        lambda machine, _: "keep-by-dots" in machine.mine(),
        "names are hashed",
    ),
]
