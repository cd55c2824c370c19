"""action.yml run here, step by step as a runner does, from a recorded comment to the draft pull request with its proof.

The sandbox, the Git server and the commands are real; the model is a server that knows the answer, and the API a fake.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runoff.agent.faulty import Faulty
from runoff.github.evidence import Evidence
from runoff.github.submission import read
from tests.runoff.github.decided import git, repository
from tests.runoff.github.host import WRITER, serving
from tests.runoff.github.test_action import EVIL, ROOT, event
from tests.runoff.project import answer

KEY = "sk-the-key-of-the-model"


class Runner:
    """Runs a composite action: inputs into environments, outputs of one step for the next, scripts by bash."""

    def __init__(self, folder: Path, environment: dict[str, str], inputs: dict[str, str]) -> None:
        self.action = yaml.safe_load((ROOT / "action.yml").read_text())
        self.folder, self.environment = folder, environment
        self.inputs = {name: str(about.get("default", "")) for name, about in self.action["inputs"].items()} | inputs
        self.outputs: dict[str, dict[str, str]] = {}
        runoff = folder / "runoff-venv" / "bin" / "runoff"  # in the place of the step that installs
        runoff.parent.mkdir(parents=True)
        runoff.write_text(
            f'#!/bin/sh\nenv > {folder}/env-$2\nexec {sys.executable} -c "from runoff.cli import main; main()" "$@"\n'
        )
        runoff.chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        for step in self.action["runs"]["steps"]:
            if step["name"].startswith("Install"):
                continue
            if "if" in step and not self._holds(step["if"]):
                continue
            output = self.folder / f"output-{step['id']}"
            output.touch()
            own = {name: self._filled(value) for name, value in step["env"].items()}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                env=self.environment | own | {"GITHUB_OUTPUT": str(output), "RUNNER_TEMP": str(self.folder)},
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            lines = (line.partition("=") for line in output.read_text().splitlines())
            self.outputs[step["id"]] = {name: value for name, _, value in lines}
            if done.returncode:
                break
        return done

    def _filled(self, value: str) -> str:
        found = re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", value)
        return self.inputs[found[1]] if found else value

    def _holds(self, condition: str) -> bool:
        found = re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+) == '(\w+)'", condition)
        assert found
        return self.outputs[found[1]].get(found[2]) == found[3]


@pytest.mark.full
def test_from_a_comment_to_a_draft_pull_request_with_its_proof(tmp_path: Path, states: Path) -> None:
    place, commit = repository(tmp_path / "project")
    with serving(tmp_path / "server") as host, Faulty(answer=answer) as model:
        host.make("o/r", place)
        host.permissions = {"maintainer": "write"}
        host.issue |= {"body": "`mean([])` raises ZeroDivisionError. It should be 0.\n\n" + "\n".join(EVIL)}
        payload = event("comment")
        payload["issue"]["body"] = host.issue["body"]
        (tmp_path / "event.json").write_text(json.dumps(payload))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(states.parent),
            "GITHUB_ACTIONS": "true",
            "GITHUB_SERVER_URL": host.base,
            "GITHUB_API_URL": f"{host.base}/api/v3",
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_SHA": commit,
            "GITHUB_RUN_ID": "1000",
            "GITHUB_EVENT_NAME": "issue_comment",
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        }
        (tmp_path / "home").mkdir()
        inputs = {
            "model": "openai/any",
            "keys": f"OPENAI_API_KEY={KEY}",
            "budget": "1Mtok",
            "n": "2",
            "token": WRITER,
            "api-base": model.api_base,
            "with-test": "true",
        }
        runner = Runner(tmp_path, environment, inputs)
        done = runner.run()
        assert done.returncode == 0, done.stdout + done.stderr
        (pull,) = host.pulls
        assert runner.outputs["solve"]["pull-request"] == pull["html_url"]
        assert (pull["draft"], pull["base"]["ref"]) == (True, "main")
        for text in ("**not fixed**", "**fixed**", "Fixes #12.", "tests/test_runoff_issue_12.py", commit):
            assert text in pull["body"]
        assert KEY in (tmp_path / "env-solve").read_text()
        assert KEY not in (tmp_path / "env-check").read_text()
        assert not host.comments
        assert not list(tmp_path.rglob("PWNED"))
        bare = tmp_path / "server" / "o" / "r.git"
        names = git(bare, "diff", "--name-only", commit, "refs/heads/runoff/issue-12").splitlines()
        assert names == ["numbers_.py", "tests/test_runoff_issue_12.py"]
        assert "github-actions[bot]" in git(bare, "log", "-1", "--format=%an %cn", "refs/heads/runoff/issue-12")
        for file in [*(tmp_path / "runoff").rglob("*"), *bare.rglob("*")]:
            if file.is_file():
                data = file.read_bytes()
                assert KEY.encode() not in data, file
                assert WRITER.encode() not in data, file
        _executed_again_where_the_record_is_gone(tmp_path / "runoff" / "o__r-12", states)
        second = Runner(_fresh(tmp_path / "second"), environment, inputs)
        again = second.run()
        assert again.returncode == 0
        assert f"there is a pull request already: {pull['html_url']}" in again.stdout
        assert len(host.pulls) == 1


def _executed_again_where_the_record_is_gone(run: Path, states: Path) -> None:
    kept = read(run).proof
    assert kept
    assert not kept.again
    log = run / "log" / "o__r-12.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"kind": "execution"' not in line))
    submission = read(run)
    assert submission.proof is None
    proof = Evidence(states).of(submission).proof
    assert proof
    assert proof.again
    assert (proof.base, proof.patch) == (kept.base, kept.patch)


def _fresh(folder: Path) -> Any:
    folder.mkdir()
    return folder


@pytest.mark.full
def test_the_step_that_installs_leaves_a_runoff_that_works(tmp_path: Path) -> None:
    checkout = tmp_path / "action"
    checkout.mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", checkout], input=archive, check=True)
    (step,) = (
        one for one in Runner(tmp_path / "unused", {}, {}).action["runs"]["steps"] if one["name"].startswith("Install")
    )
    env = os.environ | {"RUNNER_TEMP": str(tmp_path), "GITHUB_ACTION_PATH": str(checkout)}
    script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(script, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runoff = tmp_path / "runoff-venv" / "bin" / "runoff"
    found = subprocess.run([runoff, "doctor"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    home = "import runoff, runoff.agent.client; print(runoff.__file__)"
    where = subprocess.run([runoff.with_name("python"), "-c", home], cwd=tmp_path, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(tmp_path / "runoff-venv"), where.stderr
