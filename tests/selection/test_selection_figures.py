"""The table of what selection by text recovers: on made-up data with known answers it says what is true of them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def made(data: Path, good: bool) -> None:
    """Twelve issues of four repositories. Two agents hand in the same right lines, a third and a fourth their own wrong ones."""
    instances, patches = list[dict[str, object]](), list[dict[str, object]]()
    for n in range(12):
        name = f"r{n % 4}-{n}"
        instances.append(
            {"instance_id": name, "repo": f"o/r{n % 4}", "environment": {}, "splits": ["verified"], "base_commit": "0"}
        )
        for agent, line in (("w1", f"one{n}"), ("a", f"yes{n}"), ("w2", f"other_than_that_{n}"), ("b", f"yes{n}")):
            patch = f"--- a/x.py\n+++ b/x.py\n@@ -1 +1,2 @@\n x\n+{line}\n"
            right = (agent in "ab") == good
            patches.append(
                {"instance_id": name, "agent": agent, "patch": patch, "resolved": not right, "resolved_here": right}
            )
    for file, rows in (("instances", instances), ("patches", patches)):
        (data / f"{file}.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.mark.parametrize("good", [True, False])
def test_the_table_says_what_is_true_of_its_data(good: bool, tmp_path: Path) -> None:
    """With labels turned round the same patches are selected and the table says that they are wrong: no label reached a rule."""
    made(tmp_path, good)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/bench/selection.py", "--data", tmp_path, "--resamples", "20"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    whole = done.stdout.split("**all, both halves**")[1].split("\n**")[0]
    assert whole.startswith(": 12 issues, 12 contested; mean 50.0, best single agent 100.0, oracle 100.0")
    rows = {cells[1]: cells[2] for line in whole.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 5}
    for rule in ("majority, equal text", "nearness (agents unknown)", "known agents"):
        assert rows[rule] == ("100.0" if good else "0.0"), rule
    assert rows["first"] == ("0.0" if good else "100.0")
