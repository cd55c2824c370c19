"""Each kind of trajectory on release pairs, with recorded answers: it comes to what was graded when they were recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ANSWERS = HERE / "answers"
RESULTS: dict[str, dict[str, str]] = {
    file.parent.name: json.loads(file.read_text()) for file in sorted(ANSWERS.glob("*/results.json"))
}


def cases() -> list[object]:
    """All of them; without --full one, in JavaScript: what tools and a shell do is tried in test_solve.py, too, and pairs by the demo."""
    found = []
    for number, (kind, results) in enumerate(sorted(RESULTS.items())):
        for place, pair in enumerate(sorted(results)):
            marks = [] if place == number and kind == "tools" else [pytest.mark.full]
            found.append(pytest.param(kind, pair, marks=marks, id=f"{kind} {pair}"))
    return found


@pytest.mark.parametrize(("kind", "pair"), cases())
def test_recorded_answers_come_to_the_result_they_came_to(
    kind: str, pair: str, states: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A prompt that has changed since is named beside the result: the answers are then to be recorded again (CONTRIBUTING)."""
    command = [sys.executable, str(HERE.parents[1] / "scripts" / "bench" / "kinds.py"), "--kind", kind, "--pair", pair]
    command += ["--replay", str(ANSWERS), "--states", str(states), "--out", str(tmp_path_factory.mktemp("kinds"))]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, check=False)
    assert f"| {kind} | {pair} | {RESULTS[kind][pair]} " in done.stdout, done.stdout + done.stderr[-2000:]


def test_every_recording_has_its_result() -> None:
    recorded = {(file.parent.name, file.stem) for file in ANSWERS.glob("*/*.jsonl")}
    assert recorded == {(kind, pair) for kind, results in RESULTS.items() for pair in results}
    assert {kind for kind, _ in recorded} == {"pair", "shell", "tools"}
