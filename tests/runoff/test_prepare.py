"""`runoff prepare`: what it says, that a later commit reads only what differs, and what cannot be prepared."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.runoff.project import make, runoff

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")


def commit(project: Path) -> None:
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "more")):
        subprocess.run([*GIT, "-C", project, *command], check=True)


def test_a_later_commit_reads_only_what_differs(tmp_path: Path) -> None:
    project, index = make(tmp_path / "project", {"more.py": "def more(): ...\n"}), tmp_path / "index.sqlite"
    said = []
    for text in (None, None, "def median(values):\n    return 0\n"):
        if text or not said:
            (project / "numbers_.py").write_text(text or (project / "numbers_.py").read_text())
            commit(project)
        done = runoff("prepare", project, "--index", index)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.partition(": ")[2].partition(", in ")[0])
    assert said == [
        "2 source files, 2 of them read",
        "2 source files, 0 of them read",
        "2 source files, 1 of them read",
    ]
    back = runoff("prepare", project, "--ref", "HEAD~1", "--index", index)
    assert "0 of them read" in back.stdout


def test_what_cannot_be_prepared_is_said_in_a_line(tmp_path: Path) -> None:
    project = make(tmp_path / "project")
    for wrong in ([project], [tmp_path / "nowhere"]):
        done = runoff("prepare", *wrong, "--index", tmp_path / "index.sqlite")
        assert (done.returncode, done.stdout) == (2, "")
        assert wrong[0].name in done.stderr
        assert done.stderr.count("\n") == 1
