"""Bad input and missing parts: one plain line that says what, where and what to do; the right exit code; nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runoff.agent.faulty import Fault, Faulty
from tests.runoff.project import ISSUE, answer, make, runoff

_AS_ROOT = () if os.geteuid() == 0 else ("--map-root-user",)
KEY = {"OPENAI_API_KEY": "sk-of-the-test"}
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere"}


def one_line(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    said = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert said, "it says nothing"
    assert said[-1].startswith("runoff: ")
    for part in parts:
        assert part in said[-1], f"{part!r} is not in {said[-1]!r}"


def test_no_such_path(tmp_path: Path) -> None:
    one_line(
        runoff("solve", tmp_path / "nowhere", "--issue", ISSUE, "--model", "openai/any"), 2, "no such path", "nowhere"
    )


def test_a_folder_without_source_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    one_line(runoff("solve", tmp_path, "--issue", ISSUE, "--model", "openai/any"), 2, "not a repository")


def test_an_empty_issue(tmp_path: Path) -> None:
    one_line(
        runoff("solve", make(tmp_path), "--issue", "  ", "--model", "openai/any"), 2, "the issue is empty", "--issue"
    )


def test_an_issue_file_that_is_not_there(tmp_path: Path) -> None:
    one_line(
        runoff("solve", make(tmp_path), "--issue", f"@{tmp_path}/no.md", "--model", "openai/any"),
        2,
        "no.md",
        "No such file",
    )


def test_no_model(tmp_path: Path) -> None:
    one_line(runoff("solve", make(tmp_path), "--issue", ISSUE), 2, "no model is given", "--model")


def test_an_unknown_role(tmp_path: Path) -> None:
    one_line(runoff("solve", make(tmp_path), "--issue", ISSUE, "--model", "judge=openai/any"), 2, "'judge'", "verifier")


def test_an_unknown_model(tmp_path: Path) -> None:
    done = runoff(
        "solve", make(tmp_path / "p"), "--issue", ISSUE, "--model", "no-such-model", "--out", tmp_path / "out"
    )
    one_line(done, 2, "no-such-model")
    assert not (tmp_path / "out").exists(), "nothing was begun"


def test_a_missing_key(tmp_path: Path) -> None:
    done = runoff(
        "solve", make(tmp_path / "p"), "--issue", ISSUE, "--model", "openai/gpt-4o", "--out", tmp_path / "out"
    )
    one_line(done, 3, "OPENAI_API_KEY")


def test_a_wrong_key(tmp_path: Path, states: Path) -> None:
    options = ("--model", "openai/any", "--out", tmp_path / "out", "--states", states)
    with Faulty([Fault.KEY] * 100) as server:
        done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, "--api-base", server.api_base, *options, env=KEY)
    one_line(done, 3, "401", "OPENAI_API_KEY")
    assert "sk-of-the-test" not in done.stderr + done.stdout


def test_a_budget_in_dollars_for_a_model_whose_price_nobody_knows(tmp_path: Path) -> None:
    options = (
        "--model",
        "openai/mine",
        "--api-base",
        "http://127.0.0.1:9/v1",
        "--budget",
        "2",
        "--out",
        tmp_path / "out",
    )
    one_line(
        runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, *options, env=KEY), 2, "price", "openai/mine", "--price"
    )


@pytest.mark.parametrize("text", ["much", "-1", "3 apples"])
def test_a_budget_that_is_none(tmp_path: Path, text: str) -> None:
    done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, "--model", "openai/any", f"--budget={text}", env=KEY)
    one_line(done, 2, text)


def test_an_unknown_recipe_and_a_bad_setting(tmp_path: Path) -> None:
    target = make(tmp_path / "p")
    one_line(
        runoff("solve", target, "--issue", ISSUE, "--model", "openai/any", "--recipe", "magic"),
        2,
        "no recipe 'magic'",
        "hybrid",
    )
    bad = runoff("solve", target, "--issue", ISSUE, "--model", "openai/any", "--set", "editing.turns=many")
    one_line(bad, 2, "editing.turns", "integer")


def test_a_bad_line_in_a_list_of_problems(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"target": ".", "issue": 3}\n{"target"\n')
    make(tmp_path)
    one_line(runoff("solve", tmp_path / "problems.jsonl", "--model", "openai/any"), 2, "problems.jsonl, line 2")


def test_an_id_that_would_leave_the_run_directory(tmp_path: Path) -> None:
    make(tmp_path / "p")
    (tmp_path / "problems.jsonl").write_text(json.dumps({"id": "../../p", "target": "p", "issue": ISSUE}))
    one_line(runoff("solve", tmp_path / "problems.jsonl", "--model", "openai/any"), 2, "line 1", "'../../p' is no id")


def test_what_a_repository_prints_cannot_drive_the_terminal(tmp_path: Path, states: Path) -> None:
    setup = "printf '\\033]0;title\\007\\033[2Jred' >&2; exit 1"
    options = (
        "--model",
        "openai/any",
        "--api-base",
        "http://127.0.0.1:9/v1",
        "--out",
        tmp_path / "out",
        "--states",
        states,
    )
    done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, "--setup", setup, *options, env=KEY)
    assert done.returncode == 5
    assert "⟨U+001B⟩[2Jred" in done.stdout
    assert not {"\x1b", "\x07"} & set(done.stdout + done.stderr)


def test_a_run_directory_of_another_issue_or_recipe(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "p"), tmp_path / "out"
    with Faulty(answer=answer) as server:
        options = ("--model", "openai/any", "--api-base", server.api_base, "--out", out, "--states", states, "-n", "1")
        assert runoff("solve", target, "--issue", ISSUE, *options, env=KEY).returncode == 0
        log = (out / "log" / "p.jsonl").read_bytes()
        one_line(runoff("solve", target, "--issue", "another", *options, env=KEY), 2, "another issue", "--out")
        done = runoff("solve", target, "--issue", ISSUE, *options, "--set", "editing.turns=3", env=KEY)
        one_line(done, 2, "recipe.editing.turns (8, now 3)", "--out")
    assert (out / "log" / "p.jsonl").read_bytes() == log, "nothing of the first run is lost"


def test_a_directory_that_holds_something_else_is_not_written_into(tmp_path: Path, states: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    options = (
        "--model",
        "openai/any",
        "--api-base",
        "http://127.0.0.1:9/v1",
        "--out",
        tmp_path / "out",
        "--states",
        states,
    )
    one_line(runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, *options, env=KEY), 2, "not empty", "--out")


def test_a_torn_and_flipped_log_is_said_and_its_effects_made_again(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "p"), tmp_path / "out"
    with Faulty(answer=answer) as server:
        options = ("--model", "openai/any", "--api-base", server.api_base, "--out", out, "--states", states, "-n", "1")
        assert runoff("solve", target, "--issue", ISSUE, *options, env=KEY).returncode == 0
        selection = (out / "selection.json").read_bytes()
        log = out / "log" / "p.jsonl"
        data = bytearray(log.read_bytes())
        data[data.index(b'"ask"')] ^= 1  # a flipped bit in the first reply
        log.write_bytes(data[:-40])  # and a torn last line
        done = runoff("solve", target, "--issue", ISSUE, *options, env=KEY)
    assert done.returncode == 0, done.stderr
    assert "2 damaged pieces in the log were set aside" in done.stdout
    assert (out / "selection.json").read_bytes() == selection


def test_two_at_once_in_one_directory(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "p"), tmp_path / "out"
    with Faulty(answer=answer, latency=3) as server:
        options = [
            "--model",
            "openai/any",
            "--api-base",
            server.api_base,
            "--out",
            str(out),
            "--states",
            str(states),
            "-n",
            "1",
        ]
        command = [
            sys.executable,
            "-c",
            "from runoff.cli import main; main()",
            "solve",
            str(target),
            "--issue",
            ISSUE,
            *options,
        ]
        first = subprocess.Popen(command, env=os.environ | KEY, stderr=subprocess.DEVNULL)
        while not server.requests:
            time.sleep(0.05)
        one_line(runoff("solve", target, "--issue", ISSUE, *options, env=KEY), 2, "written by another runoff", "--out")
        server.latency = 0
        assert first.wait(60) == 0


def test_no_bubblewrap(tmp_path: Path) -> None:
    """Hidden in a mount namespace of the test's own, as on a machine that does not have it."""
    hidden = 'for place in /usr/bin/bwrap /usr/local/bin/bwrap; do [ ! -e $place ] || mount --bind /dev/null $place; done; exec "$@"'
    before = ("unshare", "--mount", "--propagation", "private", *_AS_ROOT, "sh", "-ec", hidden, "sh")
    options = (
        "--model",
        "openai/any",
        "--api-base",
        "http://127.0.0.1:9/v1",
        "--out",
        tmp_path / "out",
        "--states",
        tmp_path / "states",
    )
    done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, *options, env=KEY | NO_ENGINE, before=before)
    one_line(done, 3, "bwrap", "nor Docker", "/nowhere does not exist", "apt-get install bubblewrap")
    named = runoff("solve", tmp_path / "p", "--issue", ISSUE, *options, "--sandbox", "dokcer", env=KEY)
    one_line(named, 3, "no sandbox called dokcer", "bubblewrap", "docker")
    doctor = runoff("doctor", "--states", tmp_path, env=NO_ENGINE, before=before)
    assert doctor.returncode == 3
    assert "next: apt-get install bubblewrap" in doctor.stdout


def test_user_namespaces_forbidden(tmp_path: Path) -> None:
    """In a user namespace of the test's own that may not make more of them, as where a distribution forbids them."""
    options = (
        "--model",
        "openai/any",
        "--api-base",
        "http://127.0.0.1:9/v1",
        "--out",
        tmp_path / "out",
        "--states",
        tmp_path / "states",
    )
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_mnt_namespaces; exec "$@"'
    before = ("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, *options, env=KEY | NO_ENGINE, before=before)
    one_line(done, 3, "user.max_user_namespaces is 0", "sysctl user.max_user_namespaces")


@pytest.mark.parametrize("full", ["states", "out"])
def test_a_full_disk(tmp_path: Path, states: Path, full: str) -> None:
    """On a small file system of the test's own, mounted where nobody else sees it."""
    small = tmp_path / "small"
    small.mkdir()
    size = "3m" if full == "states" else "24k"
    places = {"states": states, "out": tmp_path / "out"} | {full: small / "here"}
    mount = f'mount -t tmpfs -o size={size} none {small}; exec "$@"'
    before = ("unshare", "--mount", "--propagation", "private", *_AS_ROOT, "sh", "-ec", mount, "sh")
    with Faulty(answer=answer) as server:
        options = (
            "--model",
            "openai/any",
            "--api-base",
            server.api_base,
            "--out",
            places["out"],
            "--states",
            places["states"],
            "-n",
            "1",
        )
        done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, *options, env=KEY, before=before)
    if full == "states":  # said before anything is begun
        one_line(done, 3, "needs about 512 MiB", "free at", str(places["states"]), "runoff clean --states", "--states")
    else:
        one_line(done, 5, "space")


def test_help_costs_little_more_than_starting_python() -> None:
    """A ratio of bests within one run; `--full` measures the seconds."""

    def best(*command: str) -> float:
        times = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", *command], check=True, capture_output=True)
            times.append(time.monotonic() - began)
        return min(times)

    assert best("from runoff.cli import main; main()", "--help") < 12 * best("pass")


def test_every_command_has_help_with_examples() -> None:
    for command in ("solve", "demo", "doctor"):
        assert runoff(command, "--help").stdout.startswith("Usage:")
    assert "Exit code: 0 patch, 1 none, 2 usage" in " ".join(runoff("solve", "--help").stdout.split())


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = "('litellm', 'docker', 'swebench', 'git', 'rich.live')"
    script = f"import sys, runoff.pipeline, runoff.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
