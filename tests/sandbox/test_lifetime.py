"""States outlive their process, nothing else does: kills, other processes, a full disk, a machine that lacks something."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from runoff.sandbox import prerequisites
from runoff.sandbox.bubblewrap import Bubblewrap, probe
from runoff.sandbox.protocol import Base, Limits, Refused, SandboxLost, SandboxUnavailable
from tests.sandbox.stores import left_of, nothing_stays

OWNER = """
import asyncio, sys
from pathlib import Path
from runoff.sandbox import Base, Bubblewrap

async def main(root, mode):
    async with Bubblewrap(Path(root), mode, slots=4) as sandbox:
        base = await sandbox.base(Base())
        sandbox.keep("kept", await sandbox.write(base, {"/testbed/f": b"kept"}))
        print("kept", flush=True)
        if len(sys.argv) > 3:
            script = f"setsid sleep {sys.argv[3]} & echo x > f; sleep {sys.argv[3]}"
            await asyncio.gather(*(sandbox.execute(base, ["sh", "-c", script]) for _ in range(4)))

asyncio.run(main(*sys.argv[1:3]))
"""

FULL = """
import asyncio, sys
from pathlib import Path
from runoff.sandbox import Base, Bubblewrap, StoreFull

async def main(root, mode):
    async with Bubblewrap(Path(root), mode) as sandbox:
        base = await sandbox.base(Base())
        state = await sandbox.write(base, {"/testbed/f": b"fits"})
        for what in (
            sandbox.write(state, {"/testbed/large": bytes(16 << 20)}),
            sandbox.execute(state, ["sh", "-c", "head -c 16000000 /dev/zero > large || exit 0"]),
            sandbox.execute(state, ["sh", "-c", "cat /dev/zero > /tmp/large; sleep 60"]),
            sandbox.execute(state, ["sh", "-c", "i=0; while : > $i; do i=$((i+1)); done; exit 0"]),
        ):
            try:
                print("no:", await what)
            except StoreFull as error:
                print("full:", error)
        assert await sandbox.read(state, "/testbed/f") == b"fits"
        print("and goes on")

asyncio.run(main(*sys.argv[1:]))
"""


def start(script: str, *arguments: str, alone: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*alone, sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


async def test_another_process_finds_what_has_a_name(sandbox: Bubblewrap, tmp_path: Path, mode: str) -> None:
    assert sandbox.named("kept") is None
    other = start(OWNER, str(tmp_path / "states"), mode)
    assert other.communicate()[0] == "kept\n"
    state = sandbox.named("kept")
    assert state
    assert sandbox.find(state.digest) == state
    assert await sandbox.read(state, "/testbed/f") == b"kept"
    layer = tmp_path / "states" / state.digest
    layer.rename(tmp_path / "away")
    assert sandbox.named("kept") is None
    with pytest.raises(SandboxLost, match="not in the store"):
        sandbox.keep("again", state)


def test_after_kill_9_no_mount_no_process_and_no_litter(mode: str, tmp_path: Path) -> None:
    store = tmp_path / "states"
    for wait in (0.4, *(random.random() / 4 for _ in range(3))):
        mark = f"{300 + random.random():.9f}"
        owner = start(OWNER, str(store), mode, mark)
        assert owner.stdout
        assert owner.stdout.readline() == "kept\n"
        time.sleep(wait)
        if wait == 0.4:
            assert len(left_of(mark, str(store))) > 8  # so the test can fail
        owner.kill()
        owner.communicate()
        began = time.monotonic()
        while left := left_of(mark, str(store)):
            assert time.monotonic() < began + 3, left
            time.sleep(0.01)

    async def reopened() -> None:
        async with Bubblewrap(store, mode) as sandbox:  # type: ignore[arg-type]
            state = sandbox.named("kept")
            assert state
            assert await sandbox.read(state, "/testbed/f") == b"kept"
            began = time.monotonic()
            while len(list(store.glob("tmp-*"))) > 1:  # removed while others work
                assert time.monotonic() < began + 5
                await asyncio.sleep(0.01)
            await nothing_stays(store)

    asyncio.run(reopened())


async def test_when_the_helper_dies_all_who_wait_hear_it(sandbox: Bubblewrap) -> None:
    base = await sandbox.base(Base())
    waiting = [asyncio.create_task(sandbox.execute(base, ["sleep", "300"])) for _ in range(4)]
    await asyncio.sleep(0.2)
    sandbox._helper.send_signal(signal.SIGKILL)
    for done in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(done, SandboxLost)
    with pytest.raises(SandboxLost):
        await sandbox.execute(base, ["true"])


async def test_every_way_to_end_removes_its_slot(sandbox: Bubblewrap, tmp_path: Path) -> None:
    base, mark = await sandbox.base(Base()), f"{300 + random.random():.9f}"
    await sandbox.execute(base, ["sh", "-c", "mkdir -m 0 closed; exit 3"])
    await sandbox.execute(base, ["sleep", "9"], Limits(seconds=0.1))
    task = asyncio.create_task(sandbox.execute(base, ["sh", "-c", f"mkdir -m 0 closed; sleep {mark}"]))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Refused):
        await sandbox.read(base, "/nope")
    await nothing_stays(tmp_path / "states")
    assert left_of(mark) == []


async def test_no_more_at_once_than_slots(mode: str, sandbox: Bubblewrap, tmp_path: Path) -> None:
    async with Bubblewrap(tmp_path / "narrow", mode, slots=1) as narrow:  # type: ignore[arg-type]
        base = await narrow.base(Base())
        began = time.monotonic()
        await asyncio.gather(*(narrow.execute(base, ["sleep", "0.2"]) for _ in range(3)))
        assert time.monotonic() - began > 0.6
        before = narrow.cpu_seconds
        await narrow.execute(base, ["python3", "-c", "for i in range(5_000_000): pass"])
        assert 0.05 < narrow.cpu_seconds - before < 5


async def test_a_full_file_system_is_nobodys_verdict(mode: str, sandbox: Bubblewrap, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    alone = ("unshare", "--mount", *([] if mode == "root" else ["--map-root-user"]), "sh", "-c")
    mount = f'mount -t tmpfs -o size=8m,nr_inodes=2000 none {place} && exec "$@"'
    said = start(FULL, str(place), mode, alone=(*alone, mount, "sh")).communicate()[0]
    assert [line.split(":")[0] for line in said.splitlines()] == ["full"] * 4 + ["and goes on"], said


async def test_unpack(sandbox: Bubblewrap) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, mode in (("tool", 0o755), ("d/f", 0o640)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 3, mode
            tar.addfile(member, io.BytesIO(b"abc"))
    state = await sandbox.unpack(await sandbox.base(Base()), packed.getvalue(), "/env/new")
    done = await sandbox.execute(state, ["stat", "-c", "%a %U", "tool", "d/f"], cwd="/env/new")
    assert done.stdout == b"755 user\n640 user\n"
    with pytest.raises(Refused, match="tar"):
        await sandbox.unpack(state, b"not a tar archive" * 100, "/env")


async def test_what_is_missing_is_named_with_its_remedy(mode: str, sandbox: Bubblewrap, tmp_path: Path) -> None:
    findings = {finding.what: finding for finding in await probe(tmp_path)}
    assert findings[f"bubblewrap-{mode}"].ok
    assert findings["bwrap"].ok
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prerequisites, "PLACES", str(tmp_path))
        with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
            await Bubblewrap(tmp_path / "other", mode).__aenter__()  # type: ignore[arg-type]
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.6.1\n")
    old.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prerequisites, "PLACES", str(tmp_path))
        with pytest.raises(SandboxUnavailable, match=r"0\.6\.1, 0\.8 is needed"):
            prerequisites.tools()
    if mode == "rootless":
        with pytest.raises(SandboxUnavailable, match="run as root"):
            await Bubblewrap(tmp_path / "other", "root").__aenter__()
