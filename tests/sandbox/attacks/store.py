"""Out of the next state and into others: overlay's marks, changes of what lies under, trees that cannot be handled."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Base, Refused, State
from tests.sandbox.attacks.attack import Staged
from tests.sandbox.attacks.machine import Machine

_MARK = """
python3 -c '
import os, sys
for prefix in ("trusted.overlay.", "user.overlay."):
    try:
        os.setxattr(sys.argv[1], prefix + sys.argv[2], sys.argv[3].encode())
    except OSError as error:
        print(error)
' """

_OVERLAY = """
mount -t overlay o -o lowerdir=upper:lower{options} merged
cat merged/{look} merged/*/{look} 2>/dev/null
true
"""


def _marks(name: str, gain: str, before: str, mark: str, look: str, *, hides: bool, only_root: bool = False) -> Staged:
    """A mark that the sandbox sets on what it wrote, and which overlayfs obeys if it stands in a layer.

    `before` makes what lies under in `lower`; `mark` sets the mark in `upper`, where names are the same. `look` is the
    file that the mark shows (or hides).
    """

    async def attempt(machine: Machine) -> bool:
        state = await machine.after(before)
        state = await machine.after(mark, state)
        state = await machine.after("touch another", state)
        done = await machine.sandbox.execute(state, ["sh", "-c", f"cat {look} */{look} 2>/dev/null"], freeze=False)
        return (machine.won in done.text) != hides

    def undefended(machine: Machine, directory: Path) -> bool:
        for part in ("lower", "upper", "merged"):
            (directory / part).mkdir()
        machine.bare(before, directory / "lower")
        shutil.copytree(directory / "lower", directory / "upper", dirs_exist_ok=True)
        for copied in (directory / "upper").rglob(look):
            copied.unlink()
        machine.bare(mark, directory / "upper")
        root = os.geteuid() == 0
        alone = ["unshare", "--mount"] if root else ["unshare", "--user", "--map-root-user", "--mount"]
        script = _OVERLAY.format(options=",redirect_dir=follow,metacopy=on" if root else ",userxattr", look=look)
        said = subprocess.run([*alone, "sh", "-c", script], cwd=directory, capture_output=True, text=True)
        return (machine.won in said.stdout) != hides

    unswitchable = (
        {"rootless": "overlayfs obeys this mark only where root of the machine mounts it"} if only_root else {}
    )
    return Staged(
        name, gain, "overlayfs keeps its marks apart from what is written through it", attempt, undefended, unswitchable
    )


def _changes(name: str, gain: str, script: str) -> Staged:
    """A change of what an earlier state holds, which stays under the next one."""
    before = "mkdir d; echo before > d/f; chmod 644 d/f; touch -d 2020-01-01 d/f"

    async def attempt(machine: Machine) -> bool:
        first = await machine.after(before)
        was = await _looks(machine, first)
        await machine.after(script, first)
        return was != await _looks(machine, first)

    def undefended(machine: Machine, directory: Path) -> bool:
        """For whom the next state is a tree of hard links, or the same tree."""
        (directory / "first").mkdir()
        machine.bare(before, directory / "first")
        look = ["sh", "-c", _LOOK]
        was = subprocess.run(look, cwd=directory / "first", capture_output=True).stdout
        shutil.copytree(directory / "first", directory / "second", copy_function=os.link)
        machine.bare(script, directory / "second")
        return was != subprocess.run(look, cwd=directory / "first", capture_output=True).stdout

    return Staged(
        name, gain, "what an earlier state holds is never written: overlayfs copies it up", attempt, undefended
    )


_LOOK = "stat -c '%n %s %a %Y' d/f; cat d/f; python3 -c 'import os; print(os.listxattr(\"d/f\"))'"


async def _looks(machine: Machine, state: State) -> bytes:
    return (await machine.sandbox.execute(state, ["sh", "-c", _LOOK], freeze=False)).stdout


async def _sparse(machine: Machine) -> bool:
    used = _disk(machine.place / "states")
    state = await machine.after("truncate -s 200M f")
    for n in range(6):
        state = await machine.after(f"head -c 2000000 /dev/urandom > {n}", state)
    return _disk(machine.place / "states") - used > 100 << 20


def _sparse_naively(machine: Machine, directory: Path) -> bool:
    machine.bare("truncate -s 200M f", directory)
    shutil.copyfile(directory / "f", directory / "g")
    return (directory / "g").stat().st_blocks * 512 > 100 << 20


def _disk(directory: Path) -> int:
    return int(subprocess.run(["du", "-sB1", directory], capture_output=True, text=True).stdout.split()[0])


_DEEP = 'python3 -c \'import os\nfor n in range(60): os.mkdir("d" * 200); os.chdir("d" * 200)\''


async def _deep(machine: Machine) -> bool:
    """Refused or kept, but nothing of it stays behind, and others go on."""
    with suppress(Refused):
        await machine.after(_DEEP)
    await machine.after("echo x > f")
    ends = time.monotonic() + 10
    while left := any(path.is_dir() for path in (machine.place / "states").glob("tmp-*/*")):
        if time.monotonic() > ends:
            break
        await asyncio.sleep(0.1)  # small things are removed in the background
    return left


def _deep_naively(machine: Machine, directory: Path) -> bool:
    """By paths from the top, as os.walk and most programs go."""
    machine.bare(_DEEP, directory)
    try:
        for top, _, _ in os.walk(directory, onerror=_raise):
            Path(top).stat()
    except OSError:
        return True
    finally:
        shutil.rmtree(directory / ("d" * 200))
    return False


def _raise(error: OSError) -> None:
    raise error


async def _set_user(machine: Machine) -> bool:
    """Whether other users of the machine can reach a program that runs as whoever wrote it."""
    if machine.mode == "docker":
        await machine.after(_PROGRAM)
        asked = ["docker", "info", "--format", "{{.DockerRootDir}}"]
        root = (await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True)).stdout.strip()
        return bool(os.stat(root).st_mode & 0o001)  # noqa: PTH116
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101
        async with Bubblewrap(Path(directory) / "states", machine.mode) as sandbox:  # type: ignore[arg-type]
            await sandbox.execute(await sandbox.base(Base()), ["sh", "-c", _PROGRAM])
        return _reachable(Path(directory))


_PROGRAM = "cp /bin/sh f; chmod 4755 f"


def _set_user_naively(machine: Machine, directory: Path) -> bool:
    directory.chmod(0o755)
    machine.bare(_PROGRAM, directory)
    return _reachable(directory)


def _reachable(directory: Path) -> bool:
    """A set-user program below it, on whose way no directory is closed to others."""
    for path in directory.iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and mode & 0o001 and _reachable(path):
            return True
        if stat.S_ISREG(mode) and mode & stat.S_ISUID and mode & 0o001:
            return True
    return False


STAGED = [
    _marks(
        "mark-redirect",
        "a directory of a lower layer that was removed: the future, the answer",
        "mkdir sealed; echo $won > sealed/answer",
        "rm -rf sealed; mkdir d;" + _MARK + "d redirect /sealed;" + _MARK + "d redirect /testbed/sealed",
        "answer",
        hides=False,
        only_root=True,
    ),
    _marks(
        "mark-opaque",
        "that a directory's files are gone, though none was deleted",
        "mkdir kept; echo $won > kept/f",
        _MARK + "kept opaque y",
        "f",
        hides=True,
    ),
    _marks(
        "mark-metacopy",
        "a file of a lower layer under another name",
        "mkdir sealed; echo $won > sealed/answer",
        "rm -rf sealed; truncate -s 17 f;" + _MARK + "f redirect /sealed/answer;" + _MARK + "f metacopy ''",
        "f",
        hides=False,
        only_root=True,
    ),
    _changes("change-by-writing", "another state's files", "echo after > d/f"),
    _changes("change-by-appending", "the same", "echo after >> d/f"),
    _changes("change-by-truncating", "the same", "truncate -s 1 d/f"),
    _changes("change-modes", "the same", "chmod 777 d/f"),
    _changes("change-times", "that its files look new", "touch d/f"),
    _changes("change-attributes", "the same", 'python3 -c \'import os; os.setxattr("d/f", "user.mine", b"x")\''),
    _changes("change-through-a-link", "the same", "ln d/f g; echo after > g"),
    _changes("change-through-a-renamed-link", "the same", "ln d/f g; mv g h; echo after > h"),
    _changes(
        "change-through-a-mapping",
        "the same",
        'python3 -c \'import mmap; f = open("d/f", "r+b"); m = mmap.mmap(f.fileno(), 6); m[0:2] = b"XX"; m.flush()\'',
    ),
    _changes(
        "change-through-a-handle",
        "the same",
        'python3 -c \'import os; f = os.open("d/f", os.O_RDONLY); g = os.open(f"/proc/self/fd/{f}", os.O_WRONLY); os.write(g, b"XX")\'',
    ),
    _changes("change-by-punching", "the same", "fallocate -p -o 0 -l 3 d/f"),
    Staged("sparse", "a store full of nothing", "layers are linked, not copied", _sparse, _sparse_naively),
    Staged(
        "deep",
        "a tree that cannot be removed",
        "the helper goes down by steps, and refuses what is too deep",
        _deep,
        _deep_naively,
    ),
    Staged(
        "set-user",
        "the sandbox's user for all users of the machine",
        "the store is closed to others",
        _set_user,
        _set_user_naively,
    ),
]
