"""The store of states over months: what goes, what stays, who may share it, and stores that something happened to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.collect import Layer, losers
from runoff.sandbox.prerequisites import Mode
from runoff.sandbox.protocol import Base, SandboxUnavailable, State
from runoff.sandbox.sizes import total
from tests.sandbox.stores import cleaned, layers, litter, on_disk, under

MIB = 1 << 20


async def written(sandbox: Bubblewrap, text: str, size: int = 0, state: State | None = None) -> State:
    state = state or await sandbox.base(Base())
    files = {"/testbed/f": text.encode()} | ({f"/testbed/large-{text}": os.urandom(size)} if size else {})
    return await sandbox.write(state, files)


def test_what_no_name_and_no_log_refers_to_goes(mode: Mode, tmp_path: Path) -> None:
    store, log = tmp_path / "states", tmp_path / "run" / "log.jsonl"
    log.parent.mkdir()

    async def life() -> tuple[State, State, State]:
        async with Bubblewrap(store, mode) as sandbox:
            named, logged, lost = [await written(sandbox, text) for text in ("named", "logged", "lost")]
            sandbox.keep("name", await written(sandbox, "on top", 2 * MIB, named))
            log.write_text(json.dumps({"after": {"layers": logged.layers}}))
            sandbox.refer(log)
            return named, logged, lost

    async def later() -> None:
        named, logged, lost = await life()
        await life()
        assert {named.digest, logged.digest, lost.digest} <= layers(store)
        before = layers(store)
        assert "unreferred" in (await cleaned(store, dry_run=True)).removed
        assert layers(store) == before
        report = await cleaned(store)
        async with Bubblewrap(store, mode) as sandbox:
            top = sandbox.named("name")
            assert top
            assert await sandbox.read(top, "/testbed/f") == b"on top"
            assert await sandbox.read(logged, "/testbed/f") == b"logged"
            assert sandbox.find(lost.digest) is None
        assert layers(store) == under(store, [top.digest, logged.digest])
        assert report.bytes == on_disk(store)
        log.unlink()
        await cleaned(store)
        assert layers(store) == under(store, [top.digest])
        assert litter(store) == []
        assert not list((store / "referrers").iterdir())

    asyncio.run(later())


async def test_what_is_in_use_stays_whatever_is_wanted(mode: Mode, sandbox: Bubblewrap, tmp_path: Path) -> None:
    store = tmp_path / "states"
    state = await written(sandbox, "mine")
    sandbox.keep("mine", state)
    running = asyncio.create_task(sandbox.execute(state, ["sh", "-c", "sleep 1; cat f"]))
    await asyncio.sleep(0.2)
    report = await cleaned(store, limit=0, unused=0)
    assert report.in_use[0] >= 2
    assert report.sessions == 1
    assert (await running).stdout == b"mine"
    assert sandbox.named("mine") == state
    # One that says where it names its states keeps those, and what is executing, and nothing else.
    released, held = tmp_path / "released", tmp_path / "held"
    old, new, loose = [await written(sandbox, text, MIB) for text in ("old", "new", "loose")]
    released.write_text(json.dumps(old.layers))
    held.write_text(json.dumps(new.layers))
    sandbox.refer(released)
    sandbox.refer(held)
    running = asyncio.create_task(sandbox.execute(loose, ["sh", "-c", "sleep 1; cat f"]))
    await asyncio.sleep(0.2)
    await cleaned(store, limit=0, idle=0)
    assert {state.digest, old.digest} & layers(store) == {old.digest}
    sandbox.release(released)
    await cleaned(store, limit=0)  # used just now
    assert old.digest in layers(store)
    await cleaned(store, limit=0, idle=0)
    assert sandbox.find(old.digest) is None
    assert await sandbox.read(new, "/testbed/f") == b"new"
    assert (await running).stdout == b"loose"
    assert sandbox.named("mine") is None


def test_over_the_limit_the_least_recently_used_go_first_and_names_before_states(mode: Mode, tmp_path: Path) -> None:
    store = tmp_path / "states"

    async def life() -> None:
        async with Bubblewrap(store, mode) as sandbox:
            for n in range(6):
                sandbox.keep(str(n), await written(sandbox, str(n), 2 * MIB))
            assert sandbox.named("0")
        report = await cleaned(store, limit=8 * MIB)
        assert report.bytes == on_disk(store) <= 8 * MIB
        async with Bubblewrap(store, mode, limit=MIB) as sandbox:
            there = [name for name in "012345" if sandbox.named(name)]
            assert there == ["0", "4", "5"]
            assert len(list((store / "names").iterdir())) == 3
        async with Bubblewrap(store, mode, limit=MIB):
            began = time.monotonic()
            while len(layers(store)) > 1:  # the base, which the new session has used
                assert time.monotonic() < began + 5
                await asyncio.sleep(0.05)

    asyncio.run(life())


def test_hard_links_between_layers_are_counted_once(mode: Mode, tmp_path: Path) -> None:
    store = tmp_path / "states"

    async def life() -> None:
        async with Bubblewrap(store, mode) as sandbox:
            state, chain = await sandbox.base(Base()), []
            for n in range(6):
                state = await written(sandbox, str(n), 2 * MIB, state)
                chain.append(state)
                if n == 2:
                    early = await cleaned(store)  # sized before anything is linked
                    assert early.bytes == on_disk(store)
            sandbox.keep("last", chain[-1])
            sandbox.keep("second", chain[1])
        assert any((store / name / "linked").exists() for name in layers(store))
        looked = await cleaned(store, dry_run=True)
        report = await cleaned(store)
        assert report.bytes == looked.bytes == on_disk(store)
        assert layers(store) == under(store, [chain[-1].digest, chain[1].digest])
        async with Bubblewrap(store, mode) as sandbox:
            for n in range(6):
                assert len(await sandbox.read(chain[-1], f"/testbed/large-{n}")) == 2 * MIB

    asyncio.run(life())


WORKER = """
import asyncio, os, sys, time
from pathlib import Path
from runoff.sandbox import Base, Bubblewrap

async def work(sandbox, who, until):
    made = n = 0
    while time.monotonic() < until:
        text = f"{who} {n}".encode()
        state = await sandbox.write(await sandbox.base(Base()), {"/testbed/f": text})
        for _ in range(n % 6):
            state = (await sandbox.execute(state, ["sh", "-c", "head -c 1200000 /dev/zero > z$(date +%N)"])).after
        sandbox.keep(f"{who}", state)
        await asyncio.sleep(0.02)
        assert sandbox.named(who) == state and sandbox.find(state.digest), "gone"
        assert await sandbox.read(state, "/testbed/f") == text
        n += 1
    return n

async def main(root, mode, who):
    async with Bubblewrap(Path(root), mode, slots=2) as sandbox:
        print(sum(await asyncio.gather(*(work(sandbox, f"{who}{i}", time.monotonic() + 4) for i in range(2)))))

asyncio.run(main(*sys.argv[1:]))
"""


def test_two_processes_work_while_a_third_collects(mode: Mode, tmp_path: Path) -> None:
    store = tmp_path / "states"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(store), mode, who], stdout=subprocess.PIPE, env=environment)
        for who in "ab"
    ]

    async def collecting() -> int:
        rounds = 0
        while any(worker.poll() is None for worker in workers):
            if (store / "version").exists():
                await cleaned(store, limit=0, unused=0)
                rounds += 1
            await asyncio.sleep(0.01)
        return rounds

    rounds = asyncio.run(collecting())
    done = [int(worker.communicate()[0] or 0) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    assert min(done) >= 2
    assert rounds >= 5
    asyncio.run(cleaned(store, limit=0, unused=0))
    assert layers(store) == set()
    assert litter(store) == []


async def test_a_damaged_store_heals(mode: Mode, sandbox: Bubblewrap, tmp_path: Path) -> None:
    store = tmp_path / "broken"

    async def again() -> State:
        async with Bubblewrap(store, mode) as opened:
            state = await written(opened, "content")
            assert opened.find(state.digest) == state
            assert await opened.read(state, "/testbed/f") == b"content"
            if not opened.named("name"):
                opened.keep("name", state)
            return state

    state = await again()
    layer, (name,) = store / state.digest, (store / "names").iterdir()
    for garbage in (b"", b"\xff\xfe", b"../../etc", b"0" * 32):
        (layer / "below").write_bytes(garbage)
        async with Bubblewrap(store, mode) as opened:
            assert opened.find(state.digest) is None or garbage == b""
        await again()
    (layer / "u").rename(layer / "v")
    await again()
    for garbage in (b"", b"[]", b'{"name": "name", "layers": ["../../etc"]}', b'{"name": 1}', b"\xff", b"[" * 100_000):
        name.write_bytes(garbage)
        async with Bubblewrap(store, mode) as opened:
            assert opened.named("name") is None
        assert any(name.name in note for note in (await cleaned(store)).notes)
        assert not name.exists()
        await again()
    (store / "referrers").mkdir(exist_ok=True)
    (store / "referrers" / "x").write_bytes(b"\xff relative")
    (store / state.digest / "size").write_text("[1, 2")
    (store / ("0" * 32)).mkdir()
    report = await cleaned(store)
    assert report.removed["damaged"][0] == 1
    assert report.bytes == on_disk(store)
    assert layers(store) == under(store, [state.digest])


async def test_a_store_that_is_not_for_us_is_refused_in_a_line(mode: Mode, sandbox: Bubblewrap, tmp_path: Path) -> None:
    store = tmp_path / "states"

    async def refused(words: str, root: Path = store) -> None:
        with pytest.raises(SandboxUnavailable, match=words) as told:
            async with Bubblewrap(root, mode):
                pass
        assert "\n" not in str(told.value)

    right = (store / "version").read_text()
    (store / "names").mkdir(exist_ok=True)
    (store / "names" / "some.json").write_text("{}")  # it is in use, so its mode stays
    for text, words in (
        ("2 root\n", "newer runoff"),
        ("17 whatever that is", "newer runoff"),
        ("1 root\n" if mode == "rootless" else "1 rootless\n", "made by the root"),
        ("\0", "damaged"),
    ):
        (store / "version").write_text(text)
        await refused(words)
    (store / "version").write_text(right)
    documents = tmp_path / "documents"
    (documents / "tmp-notes").mkdir(parents=True)
    await refused("holds no states", documents)
    with pytest.raises(SandboxUnavailable, match="holds no states"):
        await cleaned(documents)
    assert (documents / "tmp-notes").exists()
    (tmp_path / "file").touch()
    await refused("cannot", tmp_path / "file" / "states")


SMALL = """
import asyncio, os, sys
from pathlib import Path
from runoff.sandbox import Base, Bubblewrap, NoRoom, SandboxError, StoreFull
from tests.sandbox.stores import cleaned, layers

async def main(root, mode):
    root = Path(root)
    async with Bubblewrap(root / "states", mode) as sandbox:
        for n in range(3):
            sandbox.keep(str(n), await sandbox.write(await sandbox.base(Base()), {"/testbed/f": os.urandom(2 << 20)}))
    async with Bubblewrap(root / "states", mode) as sandbox:
        await sandbox.make_room(12 << 20)
        print("kept", *(n for n in "012" if sandbox.named(n)))
        try:
            await sandbox.make_room(1 << 30)
        except NoRoom as error:
            print(str(error).split(" at ")[0])
    with suppress(OSError), open(root / "filler", "wb") as file:
        while file.write(bytes(1 << 16)):
            file.flush()
    try:
        async with Bubblewrap(root / "states", mode) as sandbox:
            await sandbox.write(await sandbox.base(Base()), {"/testbed/f": b"more"})
            print("written on a full disk")
    except StoreFull:
        print("full")
    report = await cleaned(root / "states", limit=0, unused=0)
    print("left", len(layers(root / "states")), report.notes)
    os.unlink(root / "filler")
    async with Bubblewrap(root / "states", mode) as sandbox:
        await sandbox.base(Base())
    os.system(f"mount -o remount,bind,ro {root}")
    for attempt in (Bubblewrap(root / "states", mode).__aenter__(), cleaned(root / "states", unused=0)):
        try:
            await attempt
            print("read-only and nobody noticed")
        except (SandboxError, OSError) as error:
            print(str(error).replace(str(root), "…"))

from contextlib import suppress
asyncio.run(main(*sys.argv[1:]))
"""


def test_on_a_small_a_full_and_a_read_only_file_system(mode: Mode, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    alone = ("unshare", "--mount", *([] if mode == "root" else ["--map-root-user"]), "sh", "-c")
    mount = f'mount -t tmpfs -o size=16m none {place} && exec "$@"'
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)]),
    }
    command = [*alone, mount, "sh", sys.executable, "-c", SMALL, str(place), mode]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    base = said.stdout.strip().rpartition("/")[2].strip("'")
    assert said.stdout.splitlines() == [
        "kept 2",
        "needs about 1.0 GiB for states, 14 MiB free",
        "full",
        "left 0 []",
        "the states at …/states cannot be used: read-only file system; give another --states",
        f"[Errno 30] Read-only file system: '…/states/{base}'",
    ], said


@st.composite
def stores(draw: st.DrawFn) -> dict[str, Layer]:
    made: dict[str, Layer] = {}
    for n in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from([None, *made]))
        below = (parent, *made[parent].below) if parent else ()
        files = dict.fromkeys(draw(st.sets(st.integers(0, 5))), 7)
        made[f"layer{n}"] = Layer(below, draw(st.integers(0, 20)), draw(st.integers(0, 50)), files)
    return made


@given(stores(), st.data())
def test_what_goes(made: dict[str, Layer], data: st.DataObject) -> None:
    some = st.sets(st.sampled_from(sorted(made))) if made else st.just(set())
    busy = data.draw(some)
    referred = {name for top in data.draw(some) for name in (top, *made[top].below)}
    limit, tidy = data.draw(st.integers(0, 300)), data.draw(st.booleans())
    gone = losers(made, referred, busy, limit=limit, tidy=tidy)
    left = {name: layer for name, layer in made.items() if name not in gone}
    assert len(set(gone)) == len(gone)
    for name, layer in left.items():
        assert left.keys() >= set(layer.below), f"{name} is half"
    for n, name in enumerate(gone):
        assert not {above for above in made if name in made[above].below} - set(gone[:n])
    held = {name for top in busy for name in (top, *made[top].below)}
    assert held <= left.keys()
    assert total(left.values()) <= limit or left.keys() == held
    if tidy:
        assert left.keys() - referred <= held
    elif total(made.values()) <= limit:
        assert not gone
    if gone and not tidy:  # no more than is needed
        assert total([*left.values(), made[gone[-1]]]) > limit
