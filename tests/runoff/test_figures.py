"""The figures of the main path, measured at rest by `scripts/test --full` and printed: docs/measured keeps what they printed."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from runoff.cli import main; main()"]


@pytest.mark.full
def test_the_demo_after_set_up_in_time_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under 60 s and 300 MB on two cores; the aim for our own share of the CPU time is 15 %."""
    command = [*COMMAND, "demo", "--states", str(tmp_path / "store" / "states")]
    began = time.monotonic()
    subprocess.run([*command, "--out", tmp_path / "first"], check=True, capture_output=True)
    set_up = time.monotonic() - began
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "second"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _tree_bytes(process.pid))
        time.sleep(0.02)
    seconds = time.monotonic() - began
    assert process.stdout
    said = process.stdout.read()
    share = int(re.search(r"\((\d+)%\) runoff's own code", said)[1])  # type: ignore[index]
    with capsys.disabled():
        print(f"\ndemo: {set_up:.1f} s the first time (sources and environments too), {seconds:.1f} s after set-up;")
        print(f"peak {peak / 2**20:.0f} MiB over all its processes; own code {share} % of the CPU time")
    assert seconds < 60
    assert peak < 300e6
    assert share < 15


@pytest.mark.full
def test_help_at_rest(capsys: pytest.CaptureFixture[str]) -> None:
    times = []
    for _ in range(20):
        began = time.monotonic()
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
        times.append(time.monotonic() - began)
    with capsys.disabled():
        print(f"\nrunoff --help: median {statistics.median(times):.3f} s of {len(times)}")
    assert statistics.median(times) < 0.3


def _tree_bytes(root: int) -> int:
    """Memory of a process and all under it, shared pages counted once among those that share them (PSS)."""
    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):  # it has just ended
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
    tree, more = {root}, True
    while more:
        found = {child for child, parent in parents.items() if parent in tree} - tree
        tree, more = tree | found, bool(found)
    total = 0
    for pid in tree:
        try:
            pss = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(pss[1]) * 1024 if pss else 0
    return total
