"""`runoff clean`: what it says it removes is removed, what runs and names refer to stays, and so does what is in use."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Base
from tests.runoff.project import runoff
from tests.sandbox.stores import layers, on_disk


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An environment, a state of a run, one that nobody refers to, and what a kill left."""

    async def made() -> None:
        async with Bubblewrap(tmp_path / "states") as sandbox:
            base = await sandbox.base(Base())
            environment = await sandbox.write(base, {"/testbed/f": bytes(1 << 20)})
            sandbox.keep("environment", environment)
            tried = await sandbox.write(environment, {"/testbed/g": b"tried"})
            await sandbox.write(environment, {"/testbed/g": b"forgotten"})
            log = tmp_path / "log.jsonl"
            log.write_text(json.dumps({"after": {"layers": tried.layers}}))
            sandbox.refer(log)
        (tmp_path / "states" / "tmp-0123456789abcdef").mkdir()

    asyncio.run(made())
    return tmp_path / "states"


def clean(store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return runoff("clean", "--states", store, *options, env={"XDG_CACHE_HOME": str(store.parent / "cache")})


def said(store: Path, *options: str) -> dict[str, dict[str, dict[str, int]]]:
    done = clean(store, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def counts(table: dict[str, dict[str, int]]) -> dict[str, int]:
    return {kind: row["count"] for kind, row in table.items()}


def test_what_goes_is_said_first_and_then_goes(store: Path) -> None:
    there = layers(store)
    looked = said(store, "--dry-run")
    assert layers(store) == there
    assert counts(looked["removed"]) == {"orphans": 1, "unreferred": 1}
    assert counts(looked["kept"]) == {"environments": 2, "runs": 1}
    done = clean(store)
    assert done.returncode == 0
    assert "no run and no name refers to them" in done.stdout
    assert "left by killed processes" in done.stdout
    after = said(store)
    assert counts(after["removed"]) == {}
    assert counts(after["kept"]) == counts(looked["kept"])
    assert after["bytes"] == on_disk(store)
    assert len(layers(store)) == 3
    assert counts(said(store, "--older-than", "1d")["removed"]) == {}
    assert counts(said(store, "--limit", "1MiB")["removed"]) == {"runs": 1, "environments": 1}
    said(store, "--all")
    assert layers(store) == set()


def test_a_run_that_is_active_keeps_what_it_uses(store: Path) -> None:
    async def active() -> None:
        async with Bubblewrap(store) as sandbox:
            state = sandbox.named("environment")
            assert state
            done = await asyncio.to_thread(clean, store, "--all")
            assert done.returncode == 0, done.stderr
            assert "by an open run: they stay" in done.stdout
            assert await sandbox.read(state, "/testbed/f") == bytes(1 << 20)

    asyncio.run(active())
    assert clean(store, "--all").returncode == 0
    assert layers(store) == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--limit", "much"), "'much' is no size"),
        (("--older-than", "7"), "'7' is no age"),
        (("--all", "--older-than", "7d"), "--all removes everything"),
        (("--states", "/usr"), "/usr holds no states"),
    ],
)
def test_what_cannot_be_meant_is_one_line(store: Path, options: tuple[str, ...], words: str) -> None:
    done = clean(store, *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
    assert len(layers(store)) == 4
