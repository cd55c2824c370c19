"""Elections among right and wrong patches of release pairs, with recorded answers: each comes to what it came to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runoff.releases.pairs import answer, pairs

HERE = Path(__file__).parent
POOLS = HERE / "pools"
RESULTS: dict[str, str] = {
    file.parent.name: json.loads(file.read_text())["result"] for file in sorted(POOLS.glob("*/result.json"))
}
IN_CI = ("semver-7.3.4",)


@pytest.mark.parametrize(
    "pair", [pytest.param(pair, marks=[] if pair in IN_CI else [pytest.mark.full]) for pair in RESULTS]
)
def test_recorded_answers_come_to_the_choice_they_came_to(
    pair: str, states: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A prompt that has changed since is named beside the result: the answers are then to be recorded again (CONTRIBUTING)."""
    command = [sys.executable, str(HERE.parents[1] / "scripts" / "bench" / "pools.py"), "--pair", pair]
    command += ["--replay", str(POOLS), "--states", str(states), "--out", str(tmp_path_factory.mktemp("pools"))]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, check=False)
    assert f"| {pair} | {RESULTS[pair]} " in done.stdout, done.stdout + done.stderr[-2000:]


def test_every_pool_holds_a_right_patch_and_wrong_ones() -> None:
    assert len(pairs()) >= 23
    for one in pairs():
        assert {file.stem for file in answer(one.id).glob("*.diff")} == {"good", "bad1", "bad2"}
    for pool in filter(Path.is_dir, POOLS.iterdir()):
        assert (pool / "result.json").exists() == any(pool.glob("*.jsonl"))
