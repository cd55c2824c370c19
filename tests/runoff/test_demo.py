"""The demonstration: real issues from the package index, solved here with recorded answers, graded by a process apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runoff.demo.show import ANSWERS
from runoff.releases import pairs as releases
from runoff.releases.pairs import Pair
from tests.runoff.project import runoff


def pairs() -> list[Pair]:
    return releases.pairs({file.stem for file in ANSWERS.glob("*.jsonl")})


_WATCHED = """
import os, sys
from pathlib import Path

seen = open(os.environ["SEEN"], "a")
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and "answer/" in os.fsdecode(arguments[0]):
        os.write(seen.fileno(), f"{' '.join(sys.orig_argv[1:4])}: {os.fsdecode(arguments[0])}\\n".encode())
sys.addaudithook(watch)
"""


SOME = ("python-dateutil-2.8.1", "shell-quote-1.8.0")
"""What is run without --full, one of PyPI's, one of npm's. Two of the first one's candidates are wrong, and pass their own tests."""


def shown_pairs(out: Path) -> list[Pair]:
    return [one for one in pairs() if (out / "views" / one.id).is_dir()]


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[subprocess.CompletedProcess[str], Path, list[str]]:
    """One run of the demo, and which processes opened an answer."""
    only = [] if request.config.getoption("--full") else [word for name in SOME for word in ("--only", name)]
    folder = tmp_path_factory.mktemp("demo")
    (folder / "sitecustomize.py").write_text(_WATCHED)
    seen = folder / "seen"
    env = {"SEEN": str(seen), "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
    done = runoff("demo", *only, "--out", folder / "out", "--states", folder / "store" / "states", env=env)
    return done, folder / "out", seen.read_text().splitlines() if seen.exists() else []


def test_every_chosen_patch_passes_its_hidden_check(
    shown: tuple[subprocess.CompletedProcess[str], Path, list[str]],
) -> None:
    done, out, _ = shown
    assert done.returncode == 0, done.stderr + done.stdout
    wanted = len(shown_pairs(out))
    assert f"{wanted} of {wanted} chosen patches pass the hidden check" in done.stdout
    assert wanted >= 2
    assert len(pairs()) >= 3
    assert len((out / "preds.jsonl").read_text().splitlines()) == wanted


def test_it_says_that_the_answers_are_recorded_and_no_resolve_rate(
    shown: tuple[subprocess.CompletedProcess[str], Path, list[str]],
) -> None:
    done, out, _ = shown
    assert done.stdout.count("no resolve rate") == 2, "first and last"
    assert "recorded" in (out / "report.html").read_text()


def test_no_recorded_answer_belongs_to_a_prompt_that_has_changed(
    shown: tuple[subprocess.CompletedProcess[str], Path, list[str]],
) -> None:
    """If this fails, a prompt was changed: record the answers again (CONTRIBUTING, "Changing a prompt")."""
    assert re.findall(r"^stale: .*", shown[0].stderr, re.MULTILINE) == []


def test_a_wrong_candidate_that_passes_its_own_test_is_not_chosen(
    shown: tuple[subprocess.CompletedProcess[str], Path, list[str]],
) -> None:
    """The reason for all the rest: what a trajectory says of itself is not what decides."""
    wrong = re.findall(r"^  (.) (\S+) .* own test: fixed; fails the hidden check$", shown[0].stdout, re.MULTILINE)
    assert wrong
    assert all(mark == " " for mark, _ in wrong)


def test_only_the_grading_process_opens_an_answer(
    shown: tuple[subprocess.CompletedProcess[str], Path, list[str]],
) -> None:
    opened = shown[2]
    assert len(opened) >= len(shown_pairs(shown[1])), "the watch is on"
    assert [line for line in opened if "runoff.demo.grade" not in line] == []


def test_at_least_five_trajectories_an_issue(shown: tuple[subprocess.CompletedProcess[str], Path, list[str]]) -> None:
    for one in shown_pairs(shown[1]):
        view = json.loads((shown[1] / "views" / one.id / "selection.json").read_text())
        assert len(view["samples"]) >= 5


def test_a_check_fails_on_the_release_as_it_is(
    tmp_path: Path, shown: tuple[subprocess.CompletedProcess[str], Path, list[str]]
) -> None:
    """A check that passes whatever is chosen would prove nothing."""
    store = shown[1].parent / "store"
    for one in shown_pairs(shown[1]):
        source = store / "sources" / f"{one.project}-{one.version}"
        request = {"pair": one.id, "states": str(store / "states"), "source": str(source)}
        request |= {"sandbox": "auto", "patches": {"nothing": ""}}
        command = [sys.executable, "-m", "runoff.demo.grade"]
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"nothing": False}, one.id


def test_statements_hold_nothing_of_their_answers() -> None:
    for one in releases.pairs():
        (file,) = releases.answer(one.id).glob("check.*")
        check = file.read_text()
        shared = {line.strip() for line in check.splitlines() if len(line.strip()) > 40} & {
            line.strip() for line in one.statement.splitlines()
        }
        assert not shared, one.id


def test_live_asks_for_a_model_and_a_budget() -> None:
    done = runoff("demo", "--live")
    assert done.returncode == 2
    assert "--model" in done.stderr
    assert "--budget" in done.stderr
