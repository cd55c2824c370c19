"""An environment that one node made reaches the others as it is, and once: real sandboxes, two stores, no cluster between."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from runoff.executors.protocol import Found, Has, Left, More, Part, Said, Seeks
from runoff.executors.sharing import Sharing
from runoff.executors.shelf import Shelf
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.environments import builder
from runoff.sandbox.environments.builder import Contents, EnvironmentSpec, Layers, Source
from runoff.sandbox.environments.dependencies import Plan
from runoff.sandbox.protocol import Sandbox, State
from tests.runoff.test_kill import SOURCE
from tests.sandbox.stores import layers

Change = Callable[[bytes], bytes]


class Node:
    """Also the head's `Place` and `Away` for it."""

    def __init__(self, sandbox: Bubblewrap, shelf: Shelf, change: Change) -> None:
        self._shelf, self._sandbox, self._change = shelf, sandbox, change
        self.sharing = Sharing(sandbox, sandbox, self._say)
        self.sandbox, self.worker = cast(Sandbox, self.sharing), cast(Any, self)
        self._tasks = set[asyncio.Task[None]]()
        self.parts = 0

    def _say(self, said: Said) -> None:
        if isinstance(said, Has):
            self._shelf.has(self, said.name, said.state)
        elif isinstance(said, Seeks):
            self._shelf.seek(self, said)
        elif isinstance(said, Left):
            self._shelf.left(self, said)
        elif isinstance(said, More):
            self._tasks.add(asyncio.create_task(self._shelf.more(self, said)))

    async def ship(self, layer: str) -> AsyncIterator[Awaitable[bytes]]:
        async for part in self._sandbox.ship(layer):
            self.parts += 1
            done = asyncio.get_running_loop().create_future()
            done.set_result(self._change(part))
            yield done


@asynccontextmanager
async def two(tmp_path: Path, mode: Any, change: Change = lambda part: part) -> AsyncIterator[list[Node]]:
    def tell(place: Any, heard: Found | Part) -> None:
        place.sharing.hear(heard)

    shelf = Shelf(tell)
    async with AsyncExitStack() as stack:
        sandboxes = [await stack.enter_async_context(Bubblewrap(tmp_path / name, mode)) for name in ("a", "b")]
        yield [Node(sandbox, shelf, change) for sandbox in sandboxes]


NOISE = "head -c 9000000 /dev/urandom >/env/noise; ln /env/noise /env/linked; rm -f report.py; mkdir -p /env/d; chmod 750 /env/d"
"""No two builds come to the same."""


async def build(node: Node) -> Layers:
    with tarfile.open(fileobj=(made := io.BytesIO()), mode="w") as tar:
        for name, text in SOURCE.items():
            about = tarfile.TarInfo(name)
            about.size = len(text)
            tar.addfile(about, io.BytesIO(text.encode()))
    source = Source("d" * 40, {}, lambda: Contents(archive=made.getvalue()))
    return await builder.build(node.sandbox, EnvironmentSpec(setup=NOISE), source)


async def seen(node: Node, made: Layers) -> str:
    script = "sha256sum /env/noise; stat -c '%i' /env/noise /env/linked | uniq | wc -l; stat -c '%a %U' /env/d; ls; git status -s"
    done = await node.sandbox.execute(made.installed, ("sh", "-c", script))
    assert done.exit_code == 0
    return done.stdout.decode()


@pytest.fixture(autouse=True)
def nothing_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "plan", lambda files, node=None: Plan())


@pytest.mark.parametrize("mode", [pytest.param("root", marks=pytest.mark.needs_root), "rootless"])
def test_what_one_node_makes_the_other_gets_once(tmp_path: Path, mode: str) -> None:
    async def inside() -> None:
        async with two(tmp_path, mode) as (one, other):
            made, had = await asyncio.gather(build(one), build(other))
            assert made == had, "one of them made it"
            assert await seen(one, made) == await seen(other, had)
            new = {*made.pristine.layers, *made.installed.layers} - {made.pristine.layers[-1]}
            assert {one.sharing.brought, other.sharing.brought} == {0, len(new)}
            sent = one.parts + other.parts
            assert await build(one) == await build(other) == made
            assert one.parts + other.parts == sent

    asyncio.run(inside())


def test_what_was_damaged_on_its_way_is_made_again(tmp_path: Path) -> None:
    def changed(part: bytes) -> bytes:
        return part[:-1] + bytes([part[-1] ^ 1])

    async def inside() -> None:
        async with two(tmp_path, None, changed) as (one, other):
            made, again = await build(one), await build(other)
            assert other.sharing.brought == 0
            assert again.installed.layers[-1] == made.installed.layers[-1], "the base, which each has"
            assert not {*made.installed.layers[:-1]} & layers(tmp_path / "b")
            assert "noise" in await seen(other, again)

    asyncio.run(inside())


def test_what_a_lost_node_was_about_to_make_another_makes(tmp_path: Path) -> None:
    told = list[tuple[str, Found | Part]]()
    shelf = Shelf(lambda place, heard: told.append((str(place), heard)))
    a, b, c = (cast(Any, name) for name in "abc")
    for place in (a, b, c):
        shelf.seek(place, Seeks("n", ("n",)))
    assert told == [("a", Found("n", ()))]
    shelf.lose(a)
    assert told[1:] == [("b", Found("n", ()))]
    state = State(layers=("1", "2"))
    shelf.has(b, "n", state)
    shelf.left(b, Left("n"))
    assert told[2:] == [("c", Found("n", (("n", state),)))]
    shelf.lose(b)
    asyncio.run(shelf.more(c, More("1", True)))
    assert told[3:] == [("c", Part("1", None, broken=True))]
