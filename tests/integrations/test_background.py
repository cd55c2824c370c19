"""A sandbox on a thread of its own: called from any thread and loop, it outlives them all and ends with the process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from runoff.integrations.background import Background, background
from runoff.sandbox.protocol import Limits, SandboxUnavailable, State

USE = """
import sys
from runoff.integrations.background import background

opened = background("bubblewrap", "")
state = opened.run(opened.base(""))
opened.start(opened.sandbox.execute(state, ["sleep", sys.argv[1]]))
print(opened.run(opened.sandbox.execute(state, ["echo", "done"])).text, end="")
"""


def echo(opened: Background, state: State, word: str) -> str:
    return opened.run(opened.sandbox.execute(state, ["echo", word], freeze=False)).text


def test_it_outlives_the_thread_that_opened_it(tmp_path: Path) -> None:
    opened: list[Background] = []
    thread = threading.Thread(target=lambda: opened.append(background("bubblewrap", str(tmp_path / "states"))))
    thread.start()
    thread.join()
    time.sleep(0.3)
    state = opened[0].run(opened[0].base(""))
    assert echo(opened[0], state, "still here") == "still here\n"
    assert background("bubblewrap", str(tmp_path / "states")) is opened[0]

    async def from_a_loop() -> str:
        call = opened[0].sandbox.execute(state, ["echo", "loop"], freeze=False)
        return (await asyncio.wrap_future(opened[0].start(call))).text

    assert asyncio.run(from_a_loop()) == "loop\n"
    assert asyncio.run(from_a_loop()) == "loop\n"


def test_cancelling_the_future_kills_the_command(tmp_path: Path) -> None:
    opened = background("bubblewrap", str(tmp_path / "states"))
    state = opened.run(opened.base(""))
    began = time.monotonic()
    waiting = [opened.start(opened.sandbox.execute(state, ["sleep", "300"], Limits(seconds=300))) for _ in range(4)]
    time.sleep(0.3)
    for future in waiting:
        future.cancel()
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result()
    assert echo(opened, state, "free again") == "free again\n"
    assert time.monotonic() - began < 30


def test_nothing_is_left_of_it_when_the_process_ends(tmp_path: Path) -> None:
    mark = "300.0987654321"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", USE, mark],
        env=environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()) or subprocess.run(["pgrep", "-f", mark], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.05)


def test_a_backend_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="no sandbox called nothing"):
        background("nothing", str(tmp_path / "states"))
