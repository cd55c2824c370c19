"""`runoff prepare`: what it says, that a later commit reads only what differs, and what cannot be prepared."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from runoff.agent.faulty import Faulty
from runoff.agent.index import Index, blob_hash
from tests.runoff.project import ISSUE, SOURCE, answer, make, runoff

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")


def commit(project: Path) -> None:
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "more", "--allow-empty")):
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


TEST_OTHER = """import os
import pytest
from other import other


@pytest.mark.parametrize("n", range(24))
def test_chance(n):
    assert os.urandom(1)[0] % 2


def test_wrong():
    assert other() == 2
"""


def test_tests_are_run_twice_and_again_only_where_they_may_differ(tmp_path: Path, states: Path) -> None:
    files = {"other.py": "def other(): return 1\n", "tests/test_other.py": TEST_OTHER, "README.md": "x\n"}
    project = make(tmp_path / "project", files)
    (project / "pytest.ini").write_text("[pytest]\n")

    def prepared(*more: str) -> str:
        commit(project)
        index = ("--index", str(tmp_path / "index.sqlite"), "--states", str(states))
        done = runoff("prepare", project, "--tests", *index, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = prepared("--setup", "pip install pytest")
    assert "2 of 2 test files run twice" in said
    assert "flaky: tests.test_other::test_chance[" in said
    (project / "README.md").write_text("other words\n")
    assert "0 of 2 test files run twice" in prepared(), "prose changes no result; the setup is remembered"
    (project / "numbers_.py").write_text("def mean(values):\n    return 2\n")
    assert "1 of 2 test files run twice" in prepared()
    (project / "pytest.ini").write_text("[pytest]\naddopts = -q\n")
    assert "2 of 2 test files run twice" in prepared()


def test_a_model_is_asked_once_for_a_line_on_each_content(tmp_path: Path, states: Path) -> None:
    project = make(tmp_path / "project", {"copy.py": SOURCE, "more.py": "def more(): ...\n"})
    asked = list[str]()

    def line(messages: list[dict[str, str]]) -> str:
        asked.append(messages[-1]["content"])
        return (
            "```json\n"
            + json.dumps(dict.fromkeys(re.findall(r'<document path="(.+?)">', asked[-1]), "a line"))
            + "\n```"
        )

    with Faulty(answer=line) as server:

        def prepared(*more: str) -> subprocess.CompletedProcess[str]:
            commit(project)
            options = (
                "--model",
                "openai/any",
                "--api-base",
                server.api_base,
                "--index",
                str(tmp_path / "index.sqlite"),
            )
            return runoff("prepare", project, *options, "--states", states, *more, env={"OPENAI_API_KEY": "sk-test"})

        assert "lines on 3 of 3 source files, 3 of them new" in prepared().stdout
        assert asked[0].count("<document path") == 2, "what is there twice is asked about once"
        assert "3 of 3 source files, 0 of them new" in prepared().stdout
        assert len(asked) == 1
        (project / "more.py").write_text("def less(): ...\n")
        assert "3 of 3 source files, 1 of them new" in prepared().stdout
        assert "def less" in asked[1]
        assert "def mean" not in asked[1]
        (project / "more.py").write_text("def another(): ...\n")
        poor = prepared("--budget", "1calls")
        assert (poor.returncode, len(asked)) == (4, 2), poor.stderr
        assert "lines on 2 of 3 source files" in poor.stdout


def test_a_solve_reads_files_that_only_their_prepared_line_gives_away(tmp_path: Path, states: Path) -> None:
    many = {
        f"filler{n}.py": f"def mean_{n}(): return 'ZeroDivisionError mean crashes other lists'\n" for n in range(45)
    }
    project = make(tmp_path / "project", many | {"hidden.py": "def f(x):\n    return x\n"})
    commit(project)
    index, glances = Index(tmp_path / "index.sqlite"), list[str]()
    index.keep("line", {(blob_hash(b"def f(x):\n    return x\n"), ""): "where means are really made"})
    index.close()

    def said(messages: list[dict[str, str]]) -> str:
        if "each with one\nline" in messages[0]["content"]:
            glances.append(messages[0]["content"])
            return '```json\n["hidden.py"]\n```'
        return answer(messages)

    with Faulty(answer=said) as server:
        options = ("--model", "openai/any", "--api-base", server.api_base, "-n", "1", "--states", states)
        where = ("--index", tmp_path / "index.sqlite", "--out", tmp_path / "out")
        done = runoff("solve", project, "--issue", ISSUE, *options, *where, env={"OPENAI_API_KEY": "sk-test"})
        assert done.returncode == 0, done.stderr
        sent = [json.dumps(request) for request in server.requests]
    assert len(glances) == 1
    assert "hidden.py: where means are really made" in glances[0]
    assert any("help to resolve an issue" in text and "def f(x):" in text for text in sent), "it was read in full"
