"""Candidates from branches and work trees: all that an agent left, and nothing of the tree is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runoff.agent.patches import patched_paths
from runoff.selection.branches import branch_predictions
from runoff.selection.predictions import BadPredictions, NothingThere


def git(at: Path, *arguments: str) -> str:
    own = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-C", str(at), *arguments],
        capture_output=True,
        check=True,
        env=os.environ | own | {"GIT_CONFIG_GLOBAL": "/dev/null"},
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """main has gone on since agent/one (committed) and agent/two (a work tree with all kinds of changes) parted from it."""
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q")
    for name in ("kept.py", "changed.py", "gone.py", "staged.py"):
        (root / name).write_text(f"# {name}\nx = 1\n")
    (root / ".gitignore").write_text("*.log\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "base")
    git(root, "checkout", "-qb", "agent/one")
    (root / "changed.py").write_text("# changed.py\nx = 2\n")
    git(root, "commit", "-qam", "one")
    git(root, "checkout", "-q", "main")
    git(root, "worktree", "add", "-q", "-b", "agent/two", str(tmp_path / "two"))
    (root / "kept.py").write_text("# kept.py\nx = 'main went on'\n")
    git(root, "commit", "-qam", "on")
    return root


def patches(root: Path, *patterns: str, base: str = "HEAD") -> dict[str, bytes]:
    return {
        one.agent: one.patch for one in branch_predictions(root, patterns or ["agent/*"], "issue", base).predictions
    }


def test_a_branch_is_what_it_changed_since_it_parted(repository: Path) -> None:
    found = branch_predictions(repository, ["agent/*"], "issue")
    one = found.predictions[0]
    assert (one.agent, one.instance) == ("agent/one", "issue")
    assert patched_paths(one.patch) == ["changed.py"], "what main did since is not in it"
    assert b"+x = 2" in one.patch
    assert "agent/one" in one.source
    assert not found.notes


def test_a_work_tree_is_taken_as_its_files_are(repository: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    (two / "changed.py").write_text("# changed.py\nx = 'not committed'\n")
    (two / "staged.py").write_text("# staged.py\nx = 'staged'\n")
    git(two, "add", "staged.py")
    (two / "gone.py").unlink()
    (two / "new").mkdir()
    (two / "new" / "näme.py").write_text("fresh = True\n")
    (two / "tool").write_text("#!/bin/sh\n")
    (two / "tool").chmod(0o755)
    (two / "link").symlink_to("kept.py")
    (two / "run.log").write_text("ignored by the repository\n")
    (two / "__pycache__").mkdir()
    (two / "__pycache__" / "x.pyc").write_bytes(b"\0")
    (two / "data.bin").write_bytes(b"\0\1")
    before = git(repository, "for-each-ref") + git(repository, "count-objects") + git(two, "status", "--porcelain")
    found = branch_predictions(repository, ["agent/two"], "issue")
    after = git(repository, "for-each-ref") + git(repository, "count-objects") + git(two, "status", "--porcelain")
    assert before == after, "nothing is written to the repository"
    patch = found.predictions[0].patch
    assert patched_paths(patch) == ["changed.py", "gone.py", "link", "new/näme.py", "staged.py", "tool"]
    assert b"new file mode 100755" in patch
    assert b"new file mode 120000" in patch
    assert found.notes == ["agent/two: data.bin: a new binary file, left out"]
    git(repository, "checkout", "-q", "--detach", "main~1")
    (tmp_path / "p").write_bytes(patch)
    git(repository, "apply", str(tmp_path / "p"))
    assert (repository / "new" / "näme.py").read_text() == "fresh = True\n"
    assert not (repository / "gone.py").exists()


def test_a_work_tree_without_a_branch_is_known_by_its_folder(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", "--detach", str(tmp_path / "loose"), "main")
    (tmp_path / "loose" / "kept.py").write_text("loose\n")
    assert patched_paths(patches(repository, "loo*")["loose"]) == ["kept.py"]


def test_it_can_be_asked_from_a_work_tree_and_for_another_base(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "two" / "kept.py").write_text("two\n")
    assert patches(tmp_path / "two") == patches(repository)
    assert patches(repository, "agent/one", base="agent/one") == {"agent/one": b""}


def test_a_work_tree_whose_folder_is_gone_is_its_branch(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "two").rename(tmp_path / "elsewhere")
    assert patches(repository)["agent/two"] == b""


@pytest.mark.parametrize("where", ["repository", "work tree"])
def test_nothing_of_the_tree_is_run(where: str, repository: Path, tmp_path: Path) -> None:
    """Filters, hooks, monitors, external diffs, and a `.git` that a work tree puts in the place of its own."""
    two, ran = tmp_path / "two", tmp_path / "ran"
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho $0 $* >> {ran}\ncat\n")
    trap.chmod(0o755)
    if where == "work tree":
        (two / ".git").unlink()
        git(two, "init", "-q")
    at = repository if where == "repository" else two
    for name in ("filter.t.clean", "filter.t.smudge", "filter.t.process", "diff.t.textconv", "diff.t.command"):
        git(at, "config", name, str(trap))
    git(at, "config", "core.fsmonitor", str(trap))
    git(at, "config", "diff.external", str(trap))
    git(at, "config", "core.pager", str(trap))
    hooks = at / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-index-change", "reference-transaction", "post-checkout", "pre-commit"):
        (hooks / name).write_text(trap.read_text())
        (hooks / name).chmod(0o755)
    (two / ".gitattributes").write_text("* filter=t diff=t\n")
    (two / "changed.py").write_text("changed\n")
    ran.unlink(missing_ok=True)
    found = patches(repository)
    assert b"+changed" in found["agent/two"]
    assert not ran.exists(), ran.read_text()


def test_the_trap_of_that_test_is_sprung_by_an_ordinary_git(repository: Path, tmp_path: Path) -> None:
    ran, trap = tmp_path / "ran", tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho $0 >> {ran}\ncat\n")
    trap.chmod(0o755)
    git(repository, "config", "filter.t.clean", str(trap))
    (tmp_path / "two" / ".gitattributes").write_text("* filter=t\n")
    (tmp_path / "two" / "changed.py").write_text("changed\n")
    git(tmp_path / "two", "diff")
    assert ran.exists()


def test_no_link_leads_out_of_a_work_tree(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("s3cret\n")
    two = tmp_path / "two"
    (two / "changed.py").unlink()
    (two / "changed.py").symlink_to(tmp_path / "secrets" / "key")
    (two / "folder").symlink_to(tmp_path / "secrets")
    os.mkfifo(two / "pipe")
    assert b"s3cret" not in patches(repository)["agent/two"]


@pytest.mark.parametrize(
    ("pattern", "base", "words"),
    [
        ("nobody/*", "HEAD", "no branch or work tree fits 'nobody/*'; there are: agent/one"),
        ("agent/*", "nowhere", "has no commit nowhere"),
    ],
)
def test_what_is_not_there_is_said(pattern: str, base: str, words: str, repository: Path) -> None:
    with pytest.raises(NothingThere, match=words.replace("*", r"\*")):
        branch_predictions(repository, [pattern], "issue", base)


def test_a_folder_that_is_no_repository_is_said_in_one_line(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BadPredictions) as failure:
            branch_predictions(place, ["*"], "issue")
        assert str(failure.value).startswith(f"{place}: ")
        assert "\n" not in str(failure.value)


def test_a_branch_without_common_history_is_left_out_and_said(repository: Path) -> None:
    git(repository, "checkout", "-q", "--orphan", "agent/zero")
    git(repository, "commit", "-qm", "zero")
    git(repository, "checkout", "-q", "main")
    found = branch_predictions(repository, ["agent/*"], "issue")
    assert [one.agent for one in found.predictions] == ["agent/one", "agent/two"]
    assert found.notes == ["agent/zero: shares no history with HEAD, left out"]
