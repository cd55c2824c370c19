"""`runoff solve ADDRESS`, from the command line to the patch: a server on loopback, a real clone, a real sandbox."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runoff import Error
from runoff import solve as solve_library
from runoff.agent.faulty import Faulty
from tests.runoff.github.conftest import TOKEN
from tests.runoff.github.server import FakeGitHub, make_repository
from tests.runoff.project import SOURCE, TESTS, answer, runoff

FILES = {"numbers_.py": SOURCE, "tests/test_mean.py": TESTS}
REPAIRED = {"numbers_.py": "def mean(values):\n    return sum(values) / len(values) if values else 0  # the answer\n"}


def serve(fake: FakeGitHub) -> list[str]:
    fake.private = True
    fake.add("o/r", 7)
    fake.say("o/r", 7, ("helper", "Happens with `mean(())`, too."), ("maintainer", "Fixed in #9, thanks."))
    fake.say("o/r", 7, ("stale[bot]", "This issue is stale."))
    return make_repository(fake.root, "o/r", [("2024-02-01T00:00:00Z", FILES), ("2024-04-01T00:00:00Z", REPAIRED)])


def solve(
    fake: FakeGitHub, tmp_path: Path, states: Path, model: Faulty, *more: str, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    known = {"OPENAI_API_KEY": "sk-secret-of-the-test", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    known |= {"GH_ENTERPRISE_TOKEN": token} if token else {}
    options = ("--model", "openai/any", "--api-base", model.api_base, "--states", states, "-n", "1")
    return runoff("solve", f"{fake.base}/o/r/issues/7", *options, *more, env=known, cwd=tmp_path)


def test_an_issue_on_a_private_server_becomes_a_patch_and_an_edited_issue_does_not_change_the_run(
    fake: FakeGitHub, tmp_path: Path, states: Path
) -> None:
    commits = serve(fake)
    with Faulty(answer=answer) as model:
        done = solve(fake, tmp_path, states, model)
        assert done.returncode == 0, done.stderr
        out = tmp_path / "runs" / "o__r-7"
        assert (
            f"base: commit {commits[0][:12]} of 2024-02-01, the last of main before the issue was opened" in done.stderr
        )
        assert "main is 1 commits further" in done.stderr
        assert "comments left out: 1 of programs, 1 that tell of the fix" in done.stderr
        patch = (out / "patch.diff").read_text()
        assert "if values else 0" in patch
        kept = json.loads((out / "issue.json").read_text())
        assert kept["statement"].startswith("# mean of nothing\n\n`mean([])` raises ZeroDivisionError; it should be 0.")
        assert "mean(())" in kept["statement"]
        assert "#9" not in kept["statement"]
        prompts = json.dumps(model.requests, default=str)
        assert "mean(())" in prompts
        assert "the answer" not in prompts
        for file in [*tmp_path.rglob("*")]:
            if file.is_file() and fake.root not in file.parents:
                assert TOKEN.encode() not in file.read_bytes(), f"the token is in {file}"
        inside = ["grep", "-rlF", "-e", TOKEN, "-e", f"{fake.base}/o/r", states]
        assert subprocess.run(inside, capture_output=True, text=True).stdout == "", (
            "a sandbox saw the token or the remote"
        )
        asked, read = len(model.requests), len(fake.requests)
        fake.issues["o/r", 7] |= {"title": "something else", "body": "It was all different."}
        again = solve(fake, tmp_path, states, model)
        assert again.returncode == 0, again.stderr
        assert "as it was read on" in again.stderr
        assert (len(model.requests), len(fake.requests)) == (asked, read), "nothing is asked or read again"
        other = solve(fake, tmp_path, states, model, "--comments", "all")
        assert other.returncode == 2
        assert "another --comments" in other.stderr
    assert (out / "patch.diff").read_text() == patch


def test_the_library_takes_an_address_tells_what_is_to_be_known_and_leaves_what_is_claimed(
    fake: FakeGitHub, tmp_path: Path, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(fake)
    for name, value in (("OPENAI_API_KEY", "none"), ("XDG_CACHE_HOME", str(tmp_path)), ("GH_ENTERPRISE_TOKEN", TOKEN)):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    address, notes = f"{fake.base}/o/r/issues/7", list[str]()
    with Faulty(answer=answer) as model:
        how: dict[str, Any] = {"model": f"openai/any@{model.api_base}", "states": states, "trajectories": 1}
        found = solve_library(address, comments="none", progress=lambda said: notes.append(said.note), **how)
        (result,) = found.results
        assert result.status == "patch"
        assert result.run == Path("runs/o__r-7")
        assert any("the last of main before the issue was opened" in note for note in notes)
        assert "mean(())" not in json.loads((result.run / "issue.json").read_text())["statement"]
        pull = {"number": 9, "title": "x", "body": "Fixes #7", "head": {"ref": "x"}, "user": {"login": "eve"}}
        fake.lists["/repos/o/r/pulls"].append(pull | {"html_url": f"{fake.base}/o/r/pull/9", "draft": False})
        asked = len(model.requests)
        with pytest.raises(Error, match="is claimed: pull request #9 by eve"):
            solve_library(address, unless_claimed=True, **how | {"out": tmp_path / "other"})
        assert len(model.requests) == asked


def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str | Path) -> int:
    """The command line in this process, in a folder of its own; its exit code."""
    from runoff.cli import main

    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "there").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.argv", ["runoff", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_claimed_issue_is_said_to_be_and_can_be_left_before_anything_is_paid(
    fake: FakeGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(fake)
    pull = {
        "number": 9,
        "title": "Mean of nothing\x1b[2J",
        "body": "Fixes #7",
        "head": {"ref": "x"},
        "user": {"login": "eve"},
    }
    fake.lists["/repos/o/r/pulls"].append(pull | {"html_url": f"{fake.base}/o/r/pull/9", "draft": False})
    monkeypatch.setenv("GH_ENTERPRISE_TOKEN", TOKEN)
    model = ("--model", "openai/any", "--api-base", "http://127.0.0.1:1/v1")
    assert typed(monkeypatch, tmp_path, "solve", f"{fake.base}/o/r/issues/7", *model, "--unless-claimed") == 1
    said = capsys.readouterr().err
    assert "o/r#7 is claimed: pull request #9 by eve says it closes it: Mean of nothing⟨U+001B⟩[2J" in said
    assert "nothing was paid" in said


@pytest.mark.parametrize(
    ("target", "more", "says", "code"),
    [
        ("/o/r/issues/8", (), "not found, or not to be seen by the token from GH_ENTERPRISE_TOKEN", 3),
        ("/o/r/pull/8", (), "is a pull request", 2),
        ("/o/r/issues/7", ("--issue", "x"), "leave --issue out", 2),
        ("/o/r/issues/7", ("--ref", "nothing"), "has no commit nothing", 2),
        ("/o/r/issues/7", ("--out", "."), "holds something else", 2),
    ],
)
def test_what_cannot_be_solved_is_said_in_one_line(
    fake: FakeGitHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
    more: tuple[str, ...],
    says: str,
    code: int,
) -> None:
    serve(fake)
    monkeypatch.setenv("GH_ENTERPRISE_TOKEN", TOKEN)
    assert typed(monkeypatch, tmp_path, "solve", f"{fake.base}{target}", "--model", "openai/any", *more) == code
    said = capsys.readouterr().err.strip()
    assert says in said.splitlines()[-1]
    assert "Traceback" not in said
    assert TOKEN not in said


def test_a_model_without_its_key_is_told_before_the_server_is_asked(
    fake: FakeGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(fake)
    monkeypatch.setenv("GH_ENTERPRISE_TOKEN", TOKEN)
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    assert typed(monkeypatch, tmp_path, "solve", f"{fake.base}/o/r/issues/7", "--model", "groq/any") == 3
    assert "set GROQ_API_KEY" in capsys.readouterr().err
    assert not fake.requests


def test_options_of_an_address_are_refused_for_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, tmp_path, "solve", ".", "--issue", "x", "--comments", "all", "--model", "openai/any") == 2
    assert "not its address" in capsys.readouterr().err
