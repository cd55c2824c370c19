"""`runoff elect` from files of patches to one of them, without a model and with one; and `replay` and `verify` after it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from runoff.agent.faulty import Faulty
from runoff.election import pooled
from runoff.instance import Instance
from runoff.recipe import Recipe
from runoff.run import RunDirectory
from runoff.selection.agreement import LEAST
from runoff.selection.confidence import Calibration
from runoff.selection.predictions import Prediction
from tests.runoff.project import ISSUE, SOURCE, TEST, answer, make, runoff
from tests.selection.test_agreement import batch
from tests.workshop import written

FILES = {"numbers_.py": SOURCE}
GUARDED = "def mean(values):\n    return sum(values) / len(values) if values else 0\n"
SPLIT = "def mean(values):\n    if not values:\n        return 0\n    return sum(values) / len(values)\n"
BROKEN = "def mean(values):\n    return sum(values) // max(1, len(values) - 1)\n"  # breaks the repository's own test
NONE = "def mean(values):\n    return sum(values) / len(values) if values else None\n"
CHECK = """\
import sys
from numbers_ import mean

try:
    got = mean([])
except ZeroDivisionError:
    got = "an error"
print(got)
sys.exit(0 if got == 0 else 2)
"""


def patch(text: str) -> bytes:
    return written(FILES, {"numbers_.py": text})


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A folder of patches: two right ones that differ in syntax, one that breaks a test, one that is wrong quietly, one bad."""
    folder = tmp_path / "patches"
    folder.mkdir()
    for name, text in {"one": GUARDED, "two": SPLIT, "three": BROKEN, "four": NONE}.items():
        (folder / f"{name}.diff").write_bytes(patch(text))
    (folder / "five.diff").write_bytes(patch(GUARDED).replace(b"len(values)", b"length"))
    return folder


def elect(*given: str | Path, states: Path, out: Path, **how: object) -> dict[str, object]:
    done = runoff("elect", *given, "--out", out, "--states", states, **how)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return json.loads((out / "selection.json").read_text())["selection"]  # type: ignore[no-any-return]


def test_without_a_model_what_breaks_is_pruned_and_nothing_is_asked(tmp_path: Path, states: Path, pool: Path) -> None:
    repo, out = make(tmp_path / "project"), tmp_path / "out"
    selection = elect(pool, "--repo", repo, "--issue", ISSUE, states=states, out=out)
    assert selection["chosen"] != "three"
    assert [s["entry"] for s in selection["standings"] if s["broken"]] == ["three"]  # type: ignore[index,attr-defined]
    assert list(selection["rejected"]) == ["five"]  # type: ignore[call-overload]
    assert (out / "patch.diff").is_file()
    assert "five" in (out / "report.html").read_text()
    assert not [line for line in (out / "log" / "project.jsonl").read_text().splitlines() if '"ask"' in line]


def test_a_test_of_one_s_own_votes(tmp_path: Path, states: Path, pool: Path) -> None:
    (tmp_path / "check.py").write_text(CHECK)
    options = ("--repo", make(tmp_path / "project"), "--issue", ISSUE, "--tests", tmp_path / "check.py")
    selection = elect(pool, *options, states=states, out=tmp_path / "out")
    assert selection["chosen"] in ("one", "two")
    votes = {s["entry"]: s["votes"] for s in selection["standings"]}  # type: ignore[index,attr-defined]
    assert votes == {"one": 1, "two": 1, "three": 1, "four": 0}


def test_with_a_model_tests_are_written_and_a_run_off_decides(tmp_path: Path, states: Path, pool: Path) -> None:
    out = tmp_path / "out"
    with Faulty(answer=answer) as server:
        models = ("--model", "openai/any", "--api-base", server.api_base, "-n", "2")
        given = (pool, "--repo", make(tmp_path / "project"), "--issue", ISSUE, *models)
        selection = elect(*given, states=states, out=out, env={"OPENAI_API_KEY": "none"})
        asked = len(server.requests)
        assert elect(*given, states=states, out=out, env={"OPENAI_API_KEY": "none"}) == selection
        assert len(server.requests) == asked, "nothing recorded is paid twice"
    assert str(selection["reason"]).startswith("chosen: Both are right")
    assert selection["table"]["generated"] == ["testing-1"]  # type: ignore[index]
    verified = runoff("verify", out)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "project: the same" in verified.stdout
    assert verified.stdout.endswith(f"read for it: {out / 'run.toml'}, {out / 'log' / 'project.jsonl'}\n")
    labels = tmp_path / "labels.jsonl"
    rows = [
        {"instance_id": "project", "agent": name, "resolved": name in ("one", "two")}
        for name in ("one", "two", "three", "four")
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = runoff("replay", out, "--labels", labels)
    assert "does the verifier tell right from wrong within an issue?" in said.stdout
    assert "(fewer than 6 contested issues cannot show it): it should not be used" in said.stdout
    as_run, *_ = json.loads(runoff("replay", out, "--labels", labels, "--json").stdout)
    assert [one["helps"] for one in as_run["verifier"]] == [False]


def test_what_a_recipe_may_add_is_on_record_shown_and_verified(tmp_path: Path, states: Path, pool: Path) -> None:
    """Further tests, rounds of the run-off, tests that vote once: off by default, so views of before have none of it."""
    challenge = "mean of no values, whatever they are in, is 0 by the issue."

    def curious(messages: list[dict[str, str]]) -> str:
        first = next(message["content"] for message in messages if message["role"] == "user")
        if first.startswith("Your part: find a test"):
            return 'They do the same.\n<choose id="none"/>'
        if first.startswith("Your part: attack"):
            return TEST.replace("mean([])", "mean(())") if len(messages) == 2 else f"{challenge}\n<done/>"
        return answer(messages)

    more = ("selection.further={}", "selection.runoff.repeats=3", "selection.alike=once", "selection.suspected=silent")
    out = tmp_path / "out"
    with Faulty(answer=curious) as server:
        models = ("--model", "openai/any", "--api-base", server.api_base, "-n", "1")
        settings = [part for setting in more for part in ("--set", setting)]
        given = (pool, "--repo", make(tmp_path / "project"), "--issue", ISSUE, *models, *settings)
        selection = elect(*given, states=states, out=out, env={"OPENAI_API_KEY": "none"})
        calls = len(server.requests)
        assert elect(*given, states=states, out=out, env={"OPENAI_API_KEY": "none"}) == selection
        assert len(server.requests) == calls, "nothing recorded is paid twice"
        poorer = elect(
            *given,
            "--budget",
            f"{calls - 3}calls",
            states=states,
            out=tmp_path / "poorer",
            env={"OPENAI_API_KEY": "none"},
        )
    assert "project: the same" in runoff("verify", out).stdout
    assert selection["table"]["generated"] == ["testing-1", "challenge-one+two"]  # type: ignore[index]
    assert list(selection["silent"]) == ["testing-1"], "it says the same as the challenge"  # type: ignore[call-overload]
    assert len(selection["rounds"]) in (2, 3)  # type: ignore[arg-type]
    page = (out / "report.html").read_text()
    for told in (
        challenge,
        "there is none: its writer found none worth keeping",
        "Its rounds, each",
        "no vote: it says the same",
    ):
        assert told in page, told
    assert str(poorer["reason"]).startswith("fallback: budget (")
    done = runoff("verify", tmp_path / "poorer")
    assert "project: the same" in done.stdout, "also where the run-off could not be held"


def test_a_view_of_before_there_were_remarks_is_still_the_same(tmp_path: Path, states: Path, pool: Path) -> None:
    out = tmp_path / "out"
    elect(pool, "--repo", make(tmp_path / "project"), "--issue", ISSUE, states=states, out=out)
    view = out / "views" / "project" / "selection.json"
    whole = json.loads(view.read_text())
    for name in ("remarks", "rounds", "silent"):
        del whole["selection"][name]
    view.write_text(json.dumps(whole))
    assert runoff("verify", out).returncode == 0
    whole["selection"]["reason"] += "!"
    view.write_text(json.dumps(whole))
    assert runoff("verify", out).returncode == 1


def test_replay_decides_by_any_rule_and_as_if_only_some_had_been_there(
    tmp_path: Path, states: Path, pool: Path
) -> None:
    (tmp_path / "check.py").write_text(CHECK)
    out = tmp_path / "out"
    options = ("--repo", make(tmp_path / "project"), "--issue", ISSUE, "--tests", tmp_path / "check.py")
    chosen = elect(pool, *options, states=states, out=out)["chosen"]
    (said,) = json.loads(runoff("replay", out, "--json").stdout)
    assert said["chosen"]["as run"] == said["chosen"]["agreement"] == chosen
    assert said["chosen"].keys() >= {"r2e", "codemonkeys", "agentless", "log-odds"}
    for draw in ("1", "2", "3"):
        (some,) = json.loads(runoff("replay", out, "--rule", "votes", "--first", "1", "--draw", draw, "--json").stdout)
        assert some["members"] == 1
    done = runoff("replay", out, "--rule", "best")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no ranking is called 'best'" in done.stderr


def test_rules_are_measured_by_labels_that_nothing_else_reads(tmp_path: Path, states: Path, pool: Path) -> None:
    (tmp_path / "check.py").write_text(CHECK)
    out, labels = tmp_path / "out", tmp_path / "labels.jsonl"
    options = ("--repo", make(tmp_path / "project"), "--issue", ISSUE, "--tests", tmp_path / "check.py")
    elect(pool, *options, states=states, out=out)
    right = {"one": True, "two": True, "three": False, "four": False, "five": False, "six": True}
    rows = [{"instance_id": "project", "agent": name, "resolved": label} for name, label in right.items()]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = json.loads(runoff("replay", out, "--labels", labels, "--json").stdout)
    assert {row["rule"]: row["selected"] for row in said}["as run"] == 1
    assert all((row["mean"], row["oracle"], row["contested"]) == (0.4, 1, 1) for row in said)
    assert "gap to the mean" in runoff("replay", out, "--labels", labels).stdout
    labels.write_text("{}\n")
    done = runoff("replay", out, "--labels", labels)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "labels.jsonl, line 1: not a label" in done.stderr


def test_verify_tells_a_view_that_was_changed(tmp_path: Path, states: Path, pool: Path) -> None:
    out = tmp_path / "out"
    elect(pool, "--repo", make(tmp_path / "project"), "--issue", ISSUE, states=states, out=out)
    (out / "views" / "project" / "patch.diff").write_bytes(patch(BROKEN))
    done = runoff("verify", out)
    assert done.returncode == 1
    assert "project: NOT the same" in done.stdout


def test_what_a_batch_says_of_its_agents_goes_with_their_candidates_and_makes_no_other_run(tmp_path: Path) -> None:
    pools, _ = batch({"good": 0.8, "fair": 0.6, "worse": 0.2}, issues=LEAST)
    found = [
        Prediction(instance=pool.instance, agent=member.agent, patch=member.patch, source="a file")
        for pool in pools
        for member in pool.members
    ]
    found.append(Prediction(instance="i0", agent="fusion", patch=found[0].patch, source="a file"))
    names = [pool.instance for pool in pools]
    instances = [Instance(id=name, source="/r", statement="s", commit=None, digest="d") for name in names]
    told = list[str]()
    entrants = pooled(instances, found, say=told.append)
    assert told == [f"comparing the patches of {LEAST} issues, to learn which agents can be relied on"]
    said = entrants["i1"].reliability
    assert said["good"] > said["worse"]
    assert set(said) == {"good", "fair", "worse"}
    assert [one.id for one in entrants["i0"].candidates] == ["good", "fair", "worse", "fusion#1"]
    assert pooled(instances[1:], found, say=told.append)["i1"].reliability == {}, "too few to tell"
    assert len(told) == 1
    directory = RunDirectory(tmp_path / "run")
    directory.open(instances, Recipe(), {}, "none", entrants)
    without = {name: pool.model_copy(update={"reliability": {}}) for name, pool in entrants.items()}
    directory.open(instances, Recipe(), {}, "none", without)


def test_branches_and_work_trees_of_agents_are_candidates(tmp_path: Path, states: Path) -> None:
    repo = make(tmp_path / "project")

    def git(*words: str | Path, at: Path = repo) -> None:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *map(str, words)]
        subprocess.run(command, cwd=at, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "base")
    for name, text in {"agent/a": GUARDED, "agent/b": BROKEN, "mine": NONE}.items():
        git("checkout", "-q", "-b", name, "main")
        (repo / "numbers_.py").write_text(text)
        git("commit", "-qam", name)
    git("checkout", "-q", "main")
    git("worktree", "add", "-q", "-b", "agent/c", tmp_path / "c", "main")
    (tmp_path / "c" / "numbers_.py").write_text(
        "from zero import zero\n\n\n" + SPLIT.replace("return 0", "return zero")
    )
    (tmp_path / "c" / "zero.py").write_text("zero = 0\n")
    out = tmp_path / "out"
    selection = elect(repo, "--branches", "agent/*", "--issue", ISSUE, states=states, out=out)
    entries = {entry["id"]: entry["candidate"]["patch"] for entry in selection["entries"]}  # type: ignore[index,attr-defined]
    assert set(entries) == {"agent-a", "agent-b", "agent-c"}
    assert "zero.py" in entries["agent-c"], "also what is not committed, and new"
    assert selection["chosen"] in ("agent-a", "agent-c")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("nowhere",), "whose issue is it?"),
        (("nowhere", "--repo", "project"), "no issue is given"),
        (("nowhere", "--repo", "project", "--issue", "x"), "nowhere"),
        (("a", "b", "--branches", "agent/*"), "--branches are those of one local repository"),
        (("nowhere", "--repo", "project", "--issue", "x", "--tests", "no.py"), "no.py"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    make(tmp_path / "project")
    done = runoff("elect", *given, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def readers(file: Path) -> list[str]:
    """The command lines of other processes that have a file open."""
    found = []
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # gone, or another's
            if place.parts[2] != str(os.getpid()) and place.readlink() == file:
                found.append(Path("/proc", place.parts[2], "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_labels_are_opened_when_all_is_decided_and_by_another_process(tmp_path: Path, states: Path, pool: Path) -> None:
    """The labels are a pipe: whoever opens it waits for us, so we see who it is and what is there by then."""
    labels, out, seen = tmp_path / "labels.jsonl", tmp_path / "out", list[tuple[bool, list[str]]]()
    os.mkfifo(labels)
    right = {"one": True, "two": True, "three": False, "four": False}
    rows = [json.dumps({"instance_id": "project", "agent": name, "resolved": label}) for name, label in right.items()]

    def tell() -> None:
        while True:
            try:
                pipe = os.open(labels, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # nobody has opened it yet
                time.sleep(0.01)
        try:
            seen.append(((out / "preds.jsonl").is_file(), readers(labels)))
        finally:
            os.write(pipe, "\n".join(rows).encode())
            os.close(pipe)

    threading.Thread(target=tell, daemon=True).start()
    given = (pool, "--repo", make(tmp_path / "project"), "--issue", ISSUE, "--measure", labels)
    done = runoff("elect", *given, "--out", out, "--states", states)
    assert done.returncode == 0, done.stderr
    ((decided, (opened,)),) = seen
    assert decided
    assert " replay " in opened
    assert " elect " not in opened
    assert "mean 50.0%, best single member 100.0%, oracle 100.0%" in done.stdout
    assert "as run" in done.stdout
    assert "cost: nothing was asked" in done.stdout
    assert "confidence: uncalibrated; seen: " in done.stdout
    missing = runoff("elect", *given[:-1], tmp_path / "none", "--out", out, "--states", states)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_what_is_not_sure_enough_is_not_submitted(tmp_path: Path, states: Path, pool: Path) -> None:
    told = Calibration(intercept=-1, weights={}, centres={}, scales={}, rule="agreement", judged=((0.3, False),) * 20)
    (tmp_path / "calibration.json").write_text(told.model_dump_json())
    out = tmp_path / "out"
    given = (
        pool,
        "--repo",
        make(tmp_path / "project"),
        "--issue",
        ISSUE,
        "--calibration",
        tmp_path / "calibration.json",
    )
    done = runoff("elect", *given, "--abstain-below", "0.5", "--out", out, "--states", states)
    assert done.returncode == 6, done.stderr
    assert "trajectories" not in done.stderr
    assert "project: abstained: right with a probability of 0.27, below 0.50; it would have been" in done.stdout
    assert (out / "preds.jsonl").read_text() == "", "no submission, which is not an empty one"
    assert not (out / "patch.diff").exists()
    said = json.loads((out / "selection.json").read_text())
    assert said["status"] == "abstained"
    assert (said["selection"]["chosen"], said["selection"]["confidence"]["of"] in ("one", "two", "four")) == (
        None,
        True,
    )
    assert "calibrated on 20 issues, decided by agreement" in (out / "report.html").read_text()
    assert runoff("verify", out).returncode == 0
    other = runoff("elect", *given, "--abstain-below", "0.2", "--out", out, "--states", states)
    assert (other.returncode, "abstain_below" in other.stderr) == (2, True), "another wish is another run"
    (again,) = json.loads(runoff("replay", out, "--abstain-below", "0.2", "--rule", "votes", "--json").stdout)
    assert again["chosen"]["as run"] == said["selection"]["confidence"]["of"]
