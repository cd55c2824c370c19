"""An agent's process, killed at random moments and started again until it ends: as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runoff.agent.log import read
from runoff.agent.step import Run
from runoff.sandbox.protocol import State


def start(folder: Path, kind: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "tests.agent.agent_life", str(folder), kind]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def notes(folder: Path) -> list[dict[str, Any]]:
    file = folder / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def on_record(folder: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """Paths of the replies on record; state and command of the executions on record."""
    log = folder / "log.jsonl"
    records = list(read(log)) if log.exists() else []
    asked = {record["path"] for record in records if record["kind"] == "ask"}
    executed = {
        (record["request"]["state"], record["request"]["argv"]) for record in records if record["kind"] == "execute"
    }
    return asked, executed


def run_with_kills(folder: Path, kind: str, most: int, dice: random.Random) -> tuple[dict[str, Any], int]:
    """How it ended, and how often it was killed with something on record."""
    folder.mkdir()
    killed = 0
    while True:
        before, (asked, executed) = len(notes(folder)), on_record(folder)
        life = start(folder, kind)
        if killed < most:
            wanted = before + dice.randrange(1, 6)
            while life.poll() is None and len(notes(folder)) < wanted:
                time.sleep(0.002)
            time.sleep(dice.random() * 0.06)
            life.kill()
        out, err = life.communicate(timeout=120)
        for what in notes(folder)[before:]:
            assert what.get("asked") not in asked, "an answer on record was asked for again"
            if "argv" in what:
                assert (what["state"], short(what["argv"])) not in executed, "a command on record was run again"
        if life.returncode >= 0:
            assert life.returncode == 0, err.decode()
            return json.loads(out), killed
        killed += 1


def short(argv: list[str]) -> str:
    """As the log names it."""
    return Run(state=State(layers=("x",)), argv=tuple(argv)).parts()["argv"]


@pytest.mark.parametrize("kind", ["shell", "tools"])
def test_a_killed_agent_goes_on_from_the_state_its_log_names(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    full, seed = request.config.getoption("--full"), random.randrange(1 << 30)
    ended, killed = run_with_kills(tmp_path / "killed", kind, 60 if full else 4, random.Random(seed))
    assert ended["reason"] == "done", seed
    assert killed, "it ended before it could be killed once"
    patch = ended["value"]["patch"]
    assert "@@ -0,0 +1,6 @@\n+1\n+2\n+3\n+4\n+5\n+6\n" in patch, f"every command ran once (seed {seed})"
    assert ended["value"]["own_verdict"] == "fixed"
    keys = [record["key"] for record in read(tmp_path / "killed" / "log.jsonl") if record["kind"] == "execution"]
    assert len(keys) == len(set(keys))
    if full:
        print(f"\n{kind}: {killed} kills, {len(keys)} executions on record, none twice (seed {seed})")
