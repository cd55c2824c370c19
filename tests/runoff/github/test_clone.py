"""Clones from a real Git server on loopback: which commit, what comes along, where the token is, and what is not run."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runoff.github.access import Token
from runoff.github.client import GitHubFailed, Repository
from runoff.github.clone import Clone, forget
from runoff.instance import BadTarget, Instance, open_source
from tests.runoff.github.conftest import TOKEN
from tests.runoff.github.server import FakeGitHub, make_repository

OPENED = datetime(2024, 3, 1, 12, tzinfo=UTC)
HISTORY = [
    ("2024-01-01T00:00:00Z", {"a.py": "a = 1\n", "sub/b.py": "b = 1\n"}),
    ("2024-02-01T00:00:00Z", {"a.py": "a = 2\n", "sub/b.py": None}),
    ("2024-04-01T00:00:00Z", {"a.py": "a = 'the future'\n"}),
]


def clone(fake: FakeGitHub, cache: Path, token: str | None = TOKEN, slug: str = "o/r") -> Clone:
    found = Repository(id=1, full_name=slug, default_branch="main", html_url=f"{fake.base}/{slug}")
    return Clone(fake.base, found, Token(token, "GITHUB_TOKEN") if token else None, cache)


def git(path: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", path, *words], capture_output=True, text=True, check=True).stdout


def test_the_commit_of_the_issues_time_and_nothing_after_it_comes(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.private = True
    commits = make_repository(fake.root, "o/r", HISTORY)
    here = clone(fake, tmp_path / "cache")
    here.bring()
    base = here.base(OPENED, None)
    assert base.commit == commits[1]
    assert "of 2024-02-01, the last of main before the issue was opened" in base.why
    assert "main is 1 commits further" in base.why
    made = here.source(base.commit)
    source = open_source(Instance(id="i", source=str(made), statement="s", commit=base.commit, digest=base.commit))
    contents = source.contents()
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "inside"], check=True)
    subprocess.run(["git", "-C", tmp_path / "inside", "unpack-objects", "-q"], input=contents.pack, check=True)
    inside = git(tmp_path / "inside", "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)")
    assert inside.count("commit ") == 1
    assert base.commit in inside
    assert git(tmp_path / "inside", "show", f"{base.commit}:a.py") == "a = 2\n"
    assert commits[2] not in git(made, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    assert not git(made, "remote")


def test_old_files_are_not_fetched_and_what_is_there_is_not_fetched_again(fake: FakeGitHub, tmp_path: Path) -> None:
    commits = make_repository(fake.root, "o/r", HISTORY)
    fake.token = None
    here = clone(fake, tmp_path / "cache", None)
    here.bring()
    missing = git(
        tmp_path / "cache", "-C", here.folder / "clone.git", "rev-list", "--objects", "--all", "--missing=print"
    )
    assert sum(line.startswith("?") for line in missing.splitlines()) == 4
    first = here.source(commits[0])
    asked = len(fake.requests)
    assert here.source(commits[0]) == first
    assert len(fake.requests) == asked


def test_an_old_version_is_read_for_what_is_linked_to(fake: FakeGitHub, tmp_path: Path) -> None:
    commits = make_repository(fake.root, "o/r", HISTORY)
    here = clone(fake, tmp_path / "cache")
    here.bring()
    assert here.read(commits[0], "sub/b.py", limit=100) == b"b = 1\n"
    assert here.read(commits[0], "sub/b.py", limit=2) is None
    assert here.read(commits[1], "sub/b.py", limit=100) is None
    assert here.read(commits[1], "sub", limit=100) is None
    assert here.read(commits[1], "../../../etc/passwd", limit=100) is None
    assert here.read("f" * 40, "a.py", limit=100) is None
    assert here.is_before(commits[0], commits[1])
    assert not here.is_before(commits[2], commits[1])
    assert not here.is_before("f" * 40, commits[1])


def test_a_name_says_which_commit(fake: FakeGitHub, tmp_path: Path) -> None:
    commits = make_repository(fake.root, "o/r", HISTORY)
    served = fake.root / "o/r.git"
    git(served, "branch", "side/one", commits[0])
    git(served, "tag", "v1", commits[1])
    here = clone(fake, tmp_path / "cache")
    here.bring()
    for ref, commit in {
        "side/one": commits[0],
        "v1": commits[1],
        "main": commits[2],
        commits[0]: commits[0],
        commits[1][:9]: commits[1],
    }.items():
        assert here.base(OPENED, ref).commit == commit, ref
    for ref in ("--upload-pack=touch /tmp/x", "nothing", "a:b", "a..b", "f" * 40, "@{1}", "x y", ""):
        with pytest.raises(BadTarget, match="commit"):
            here.base(OPENED, ref)


def test_a_repository_younger_than_the_issue_is_solved_as_it_is(fake: FakeGitHub, tmp_path: Path) -> None:
    commits = make_repository(fake.root, "o/r", HISTORY)
    here = clone(fake, tmp_path / "cache")
    here.bring()
    base = here.base(datetime(2020, 1, 1, tzinfo=UTC), None)
    assert base.commit == commits[2]
    assert "none from before" in base.why


def test_a_version_that_tags_tell_comes_with_its_history(fake: FakeGitHub, tmp_path: Path) -> None:
    scm = {"pyproject.toml": "[build-system]\nrequires = ['setuptools-scm']\n"}
    commits = make_repository(fake.root, "o/r", [HISTORY[0], (HISTORY[1][0], scm), HISTORY[2]])
    git(fake.root / "o/r.git", "-c", "user.name=t", "-c", "user.email=t@t", "tag", "-am", "one", "v1.0", commits[0])
    here = clone(fake, tmp_path / "cache")
    here.bring()
    made = here.source(commits[2])
    assert git(made, "describe", "--tags", commits[2]).startswith("v1.0-2-g")


def test_the_token_is_in_no_file_no_argument_and_no_message(
    fake: FakeGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.private = True
    commits = make_repository(fake.root, "o/r", HISTORY)
    shim, real = (
        tmp_path / "shim",
        subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip(),
    )
    shim.mkdir()
    (shim / "git").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/arguments\nexec {real} "$@"\n')
    (shim / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(shim), prepend=":")
    here = clone(fake, tmp_path / "cache")
    here.bring()
    here.source(commits[1])
    assert "fetch" in (tmp_path / "arguments").read_text()
    encoded = "eC1hY2Nlc3MtdG9rZW46"  # x-access-token:
    for file in [*here.folder.rglob("*"), tmp_path / "arguments"]:
        data = file.read_bytes() if file.is_file() else b""
        assert TOKEN.encode() not in data, file
        assert encoded.encode() not in data, file
    with pytest.raises(GitHubFailed) as refused:
        clone(fake, tmp_path / "other", "ghp_wrongwrongwrong").bring()
    assert "ghp_wrong" not in str(refused.value)
    assert "the token from GITHUB_TOKEN" in str(refused.value)
    assert refused.value.exit_code == 3


def test_the_token_does_not_follow_a_redirection(fake: FakeGitHub, tmp_path: Path) -> None:
    with FakeGitHub(tmp_path / "evil") as evil:
        make_repository(evil.root, "o/r", HISTORY)

        fake._git = lambda handler, path, query, body: _redirect(handler, f"{evil.base}{handler.path}")  # type: ignore[method-assign]
        with pytest.raises(GitHubFailed):
            clone(fake, tmp_path / "cache").bring()
        assert evil.requests == []


def _redirect(handler, to: str) -> None:  # type: ignore[no-untyped-def]
    handler.send_response(301)
    handler.send_header("Location", to)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_nothing_of_the_repository_or_of_the_users_templates_runs(
    fake: FakeGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, home = tmp_path / "ran", tmp_path / "home"
    hooks = home / "template" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("reference-transaction", "post-checkout", "post-fetch", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (hooks / name).chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[init]\n templateDir = {home}/template\n[filter "x"]\n smudge = touch {ran}\n clean = touch {ran}\n'
        f'[credential]\n helper = "!touch {ran}; echo password=x; echo username=x"\n'
    )
    hostile = {
        ".gitattributes": "* filter=x diff=x\n",
        ".gitmodules": f'[submodule "x"]\n path = x\n url = ext::sh -c "touch {ran}"\n update = !touch {ran}\n',
        "a.py": "a = 1\n",
    }
    commits = make_repository(fake.root, "o/r", [("2024-01-01T00:00:00Z", hostile)])
    monkeypatch.setenv("HOME", str(home))
    here = clone(fake, tmp_path / "cache")
    here.bring()
    assert here.notes(commits[0]) == ["its submodules are left out"]
    here.source(commits[0])
    fake.private = True
    with pytest.raises(GitHubFailed):
        clone(fake, tmp_path / "cache2", None).bring()
    assert not ran.exists()


def test_what_cannot_be_fetched_is_said_in_one_line(fake: FakeGitHub, tmp_path: Path) -> None:
    with pytest.raises(GitHubFailed, match="not found") as refused:
        clone(fake, tmp_path / "cache").bring()
    assert "\n" not in str(refused.value)
    make_repository(fake.root, "o/empty", [])
    with pytest.raises(GitHubFailed, match="no commit yet"):
        clone(fake, tmp_path / "cache", slug="o/empty").bring()


def test_a_clone_that_was_cut_off_is_made_again(fake: FakeGitHub, tmp_path: Path) -> None:
    commits = make_repository(fake.root, "o/r", HISTORY)
    here = clone(fake, tmp_path / "cache")
    (here.folder / ".clone.git.part" / "objects").mkdir(parents=True)
    (here.folder / f".{commits[1]}.git.part").mkdir()
    here.bring()
    assert here.read(commits[1], "a.py", limit=9) == b"a = 2\n"
    assert here.source(commits[1]).is_dir()


def test_a_clone_that_is_not_used_can_be_forgotten_and_a_run_makes_it_again(fake: FakeGitHub, tmp_path: Path) -> None:
    commits = make_repository(fake.root, "o/r", HISTORY)
    cache = tmp_path / "cache"
    here = clone(fake, cache)
    here.bring()
    made, lock = here.source(commits[1]), here.folder / ".lock"
    assert forget(cache, 0, dry_run=False) == [], "it was opened just now"
    os.utime(lock, (0, time.time() - 7200))
    assert forget(cache, 86400, dry_run=False) == []
    git(made, "branch", "mine", commits[1])
    assert forget(cache, 3600, dry_run=False) == [], "the user's branch is there"
    git(made, "branch", "-D", "mine")
    (name,) = forget(cache, 3600, dry_run=True)
    assert name.endswith("/o__r-1")
    assert made.is_dir()
    assert forget(cache, 3600, dry_run=False) == [name]
    assert [path.name for path in here.folder.iterdir()] == [".lock"]
    assert git(here.source(commits[1]), "show", f"{commits[1]}:a.py") == "a = 2\n"
