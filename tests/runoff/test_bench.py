"""`runoff bench` on rows of a dataset: sources found, what it takes said first, stopped and gone on with, trajectories exported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from runoff.agent.faulty import Faulty
from runoff.batch.sources import reference, versioned_by_tags
from runoff.selection.predictions import read_predictions
from tests.runoff.memory import SECRET, files_with, holds
from tests.runoff.project import ISSUE, SOURCE, answer, make, runoff

LIVE = {"OPENAI_API_KEY": "sk-secret-of-the-test"}
_GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")


def clone(folder: Path, files: Mapping[str, str] = {}) -> str:
    """A repository with a commit after the base; the base commit."""
    make(folder, files)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "base"]):
        subprocess.run([*_GIT, *command], cwd=folder, check=True)
    base = subprocess.run([*_GIT, "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout
    (folder / "numbers_.py").write_text(SOURCE.replace("len(values)", "(len(values) or 1)"))
    subprocess.run([*_GIT, "commit", "-qam", "the fix"], cwd=folder, check=True)
    return base.strip()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two problems of two repositories, and a folder of their clones."""
    file = tmp_path / "rows.jsonl"
    lines = []
    for name in ("one/first", "two/second"):
        base = clone(tmp_path / "clones" / name.replace("/", "__"))
        lines.append(
            {
                "instance_id": name.replace("/", "__") + "-1",
                "repo": name,
                "base_commit": base,
                "problem_statement": ISSUE,
                "environment": {"python": None, "pip_packages": [], "install": None, "pythonpath": True},
                "patch": SECRET,
            }
        )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def bench(rows: Path, states: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    return runoff("bench", rows, "--repositories", rows.parent / "clones", "--states", states, *more, env=LIVE)


def test_a_batch_from_rows_to_predictions_and_exports(rows: Path, states: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Faulty(answer=answer) as server:
        model = ("--model", "openai/any", "--api-base", server.api_base, "--out", out)
        planned = bench(rows, states, *model, "-n", "2", "--dry-run", "--price", "1,2")
        assert planned.returncode == 0, planned.stderr
        assert "2 instances (0 by an image, 2 built), 2 trajectories each" in planned.stdout
        assert "about $" in planned.stdout
        assert not out.exists(), "nothing is begun"
        done = bench(rows, states, *model, "-n", "2", "--at-once", "1")
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        again = runoff("retry", out, "--at-once", "2", env=LIVE)
        assert again.returncode == 0, again.stderr
        assert len(server.requests) == asked, "nothing recorded is paid twice"
    predictions = json.loads((out / "preds.json").read_text())
    assert sorted(predictions) == ["one__first-1", "two__second-1"]
    assert all("if values else 0" in prediction["model_patch"] for prediction in predictions.values())
    log = (out / "log" / "one__first-1.jsonl").read_text()
    assert files_with(out) == [], "an answer lies where solving wrote"
    assert "or 1" not in log, "what came after the base commit was seen"

    exported = runoff("export", out, "--as", "mini-swe-agent", "--submission", "a name")
    assert exported.returncode == 0, exported.stderr
    found = read_predictions([out / "mini-swe-agent" / "one__first-1" / "editing-1.traj.json"])
    assert [prediction.instance for prediction in found] == ["one__first-1"]
    assert b"if values else 0" in found[0].patch
    assert 'name: "a name"' in (out / "submission" / "metadata.yaml").read_text()
    assert (out / "submission" / "all_preds.jsonl").read_bytes() == (out / "preds.jsonl").read_bytes()
    assert runoff("export", out).returncode == 0
    trajectory = json.loads((out / "atif" / "two__second-1" / "testing-2.json").read_text())
    assert trajectory["schema_version"] == "ATIF-v1.7"
    assert [step["step_id"] for step in trajectory["steps"]] == list(range(1, len(trajectory["steps"]) + 1))
    assert {"user", "agent"} <= {step["source"] for step in trajectory["steps"]}
    told = sum(step["metrics"]["completion_tokens"] for step in trajectory["steps"] if step["source"] == "agent")
    assert trajectory["final_metrics"]["total_completion_tokens"] == told > 0


def test_a_run_is_stopped_from_elsewhere_and_gone_on_with(rows: Path, states: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked_to_stop = threading.Event()  # until then a call is on its way, however slow the machine is
    with Faulty(answer=lambda messages: (asked_to_stop.wait(90), answer(messages))[1]) as server:
        words = ["bench", rows, "--repositories", rows.parent / "clones", "--states", states, "-n", "2", "--out", out]
        words += ["--model", "openai/any", "--api-base", server.api_base]
        command = [sys.executable, "-c", "from runoff.cli import main; main()", *map(str, words)]
        with subprocess.Popen(command, env=os.environ | LIVE, stderr=subprocess.PIPE, text=True) as working:
            ends = time.monotonic() + 120
            while not server.requests:
                assert time.monotonic() < ends
                time.sleep(0.02)
            working.send_signal(signal.SIGSTOP)  # the search takes longer than the run
            assert not holds(working.pid), "an answer is in the memory of the process that solves"
            working.send_signal(signal.SIGCONT)
            refused = runoff("retry", out)
            assert refused.returncode == 2
            assert f"process {working.pid} works on" in refused.stderr
            said = list[str]()

            def heed() -> None:
                assert working.stderr
                for line in working.stderr:
                    said.append(line)
                    if "finishing what is paid for" in line:
                        asked_to_stop.set()

            threading.Thread(target=heed, daemon=True).start()
            stopped = runoff("stop", out)
            assert stopped.returncode == 0, stopped.stderr
            assert working.wait(60) == 130
            assert "Traceback" not in "".join(said)
        nobody = runoff("stop", out)
        assert (nobody.returncode, "nothing works on" in nobody.stderr) == (2, True)
        done = runoff("retry", out, env=LIVE)
        assert done.returncode == 0, done.stderr
    assert len(json.loads((out / "preds.json").read_text())) == 2


def test_what_cannot_be_had_is_said_before_anything_is_asked(rows: Path, states: Path, tmp_path: Path) -> None:
    row = json.loads(rows.read_text().splitlines()[0])
    more = [
        row | {"instance_id": "gone-1", "repo": "no/such"},
        row | {"instance_id": "gone-2", "base_commit": "0" * 40},
    ]
    rows.write_text(rows.read_text() + "".join(json.dumps(line) + "\n" for line in more))
    done = bench(rows, states, "--model", "openai/any", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "holds no no__such" in done.stderr
    assert "gives no commit 000000000000" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("runoff: 2 of 4 instances cannot be had")
    assert not (tmp_path / "out").exists()
    assert bench(rows, states, "--instances", "one__first-2", "--dry-run").returncode == 2
    assert bench(rows, states, "--instances", "one__first-1").stderr.startswith("runoff: no model is given")


def test_an_image_is_named_as_skopeo_takes_it() -> None:
    local = "sweb.eval.x86_64.a__b-1:latest"
    published = "swebench/sweb.eval.x86_64.a_1776_b-1:latest"
    assert reference(published, here={local}) == f"docker-daemon:{local}"
    assert reference(local) == f"docker://{published}", "a build without a namespace is nowhere but in an engine"
    assert reference("host.io/x/y:1", registry="mirror:5000/z") == "docker://mirror:5000/z/x/y:1"
    assert reference("x/y", registry="mirror:5000") == "docker://mirror:5000/x/y:latest"
    assert reference("oci:/somewhere:image") == "oci:/somewhere:image"
    assert reference("docker://x/y") == "docker://x/y"


def test_whether_tags_tell_a_version_is_seen_in_a_bare_repository_without_a_configuration(tmp_path: Path) -> None:
    for name, setup, tells in (
        ("plain", "setup()", False),
        ("tagged", "setup(setup_requires=['setuptools-scm'])", True),
    ):
        base = clone(tmp_path / name, {"setup.py": setup})
        bare = tmp_path / f"{name}.git"
        subprocess.run(["git", "clone", "-q", "--bare", tmp_path / name, bare], check=True)
        (bare / "config").unlink()
        for origin in (tmp_path / name, bare):
            assert versioned_by_tags(origin, base) is tells
