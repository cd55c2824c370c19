"""Patches read as text: whose lines are whose, whatever a diff says about itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runoff.agent.patches import file_parts, patched_paths

MODIFIED = b"""\
diff --git a/src/x.py b/src/x.py
index 1111111..2222222 100644
--- a/src/x.py
+++ b/src/x.py
@@ -1,3 +1,3 @@ def f():
 one
-two
+2
 three
"""
BARE = b"--- a/tests/test_x.py\n+++ b/tests/test_x.py\n@@ -1 +1 @@\n-a\n+b\n"


def test_a_file_s_piece_has_its_path_once_and_its_changed_lines() -> None:
    (part,) = file_parts(MODIFIED)
    assert part == (MODIFIED, ("src/x.py",), False, 2)


def test_a_removed_line_that_looks_like_a_header_is_no_header() -> None:
    patch = MODIFIED.replace(b"-two\n+2\n", b"--- a/tests/y.py\n+++ b/tests/y.py\n")
    assert patched_paths(patch) == ["src/x.py"]
    sql = b"--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1,2 @@\n--- a/conftest.py\n+++ b/conftest.py\n select 1\n"
    assert patched_paths(sql) == ["q.sql"]
    assert len(file_parts(sql + MODIFIED)) == 2


def test_an_added_line_that_looks_like_a_git_header_is_no_header() -> None:
    patch = MODIFIED.replace(b"+2\n", b"+2\n+diff --git a/y.py b/y.py\n").replace(b"+1,3", b"+1,4")
    assert patched_paths(patch) == ["src/x.py"]


def test_a_bare_header_behind_the_hunks_of_a_git_diff_is_another_file_as_git_takes_it() -> None:
    """Or a test could be edited under the name of a source file."""
    parts = file_parts(MODIFIED + BARE)
    assert [part.paths for part in parts] == [("src/x.py",), ("tests/test_x.py",)]
    assert parts[1].text == BARE


@pytest.mark.parametrize(
    ("patch", "paths"),
    [
        (b"diff --git a/x.py b/x.py\nold mode 100644\nnew mode 100755\n", ["x.py"]),
        (b"diff --git a/a b/c d b/a b/c d\nold mode 100644\nnew mode 100755\n", ["a b/c d"]),
        (b"diff --git a/x.py b/x.py\nnew file mode 100644\nindex 0000000..e69de29\n", ["x.py"]),
        (b"diff --git a/x.py b/x.py\ndeleted file mode 100644\nindex e69de29..0000000\n", ["x.py"]),
        (b"diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n", ["x", "y"]),
        (b"diff --git a/a/x b/b/x\nsimilarity index 100%\nrename from a/x\nrename to b/x\n", ["a/x", "b/x"]),
        (b"diff --git a/x b/y\nsimilarity index 100%\ncopy from x\ncopy to y\n", ["x", "y"]),
        (b'diff --git "a/\\303\\274 \\"q\\".py" "b/\\303\\274 \\"q\\".py"\nold mode 1\nnew mode 2\n', ['ü "q".py']),
        (b'--- "a/t\\tab"\n+++ "b/t\\tab"\n@@ -1 +1 @@\n-a\n+b\n', ["t\tab"]),
        (b"--- a/with space.py\t\n+++ b/with space.py\t\n@@ -1 +1 @@\n-a\n+b\n", ["with space.py"]),
        (b"--- a/x.py\t2020-01-01 00:00:00\n+++ b/x.py\t2020-01-02 00:00:00\n@@ -1 +1 @@\n-a\n+b\n", ["x.py"]),
        (b'--- "a/caf\\351"\n+++ "b/caf\\351"\n@@ -1 +1 @@\n-a\n+b\n', ["caf\udce9"]),
        (b"--- /dev/null\n+++ b/n.py\n@@ -0,0 +1 @@\n+b\n", ["n.py"]),
        (b"--- a/x.py\r\n+++ b/x.py\r\n@@ -1 +1 @@\r\n-a\r\n+b\r\n", ["x.py"]),
        (b"diff --git a/x.py b/x.py\r\nold mode 100644\r\nnew mode 100755\r\n", ["x.py"]),
        (b"", []),
        (b"Sorry, I could not find the bug.\n--- \n", []),
        (b"@@ -1 +1 @@\n-a\n+b\n", []),
        (b"\0\xff\xfe", []),
    ],
)
def test_what_a_patch_is_about(patch: bytes, paths: list[str]) -> None:
    assert patched_paths(patch) == paths


def test_a_hunk_that_ends_early_does_not_swallow_the_next_file() -> None:
    cut = MODIFIED.replace(b"@@ -1,3 +1,3 @@", b"@@ -1,30 +1,30 @@")
    other = MODIFIED.replace(b"src/x.py", b"src/y.py")
    assert patched_paths(cut + other) == ["src/x.py", "src/y.py"]
    assert patched_paths(MODIFIED[:-20]) == ["src/x.py"]


def test_a_missing_newline_at_the_end_is_no_change_of_its_own() -> None:
    patch = b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n"
    assert [part.changed for part in file_parts(patch + MODIFIED)] == [2, 2]


def test_a_binary_piece_is_known_and_ends_where_it_ends() -> None:
    literal = b"diff --git a/b.png b/b.png\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQzWMT#Y01f~L\n\nliteral 0\nHcmV?d00001\n\n"
    differ = b"diff --git a/c.png b/c.png\nindex 1..2 100644\nBinary files a/c.png and b/c.png differ\n"
    parts = file_parts(literal + differ + MODIFIED)
    assert [(part.paths, part.binary) for part in parts] == [
        (("b.png",), True),
        (("c.png",), True),
        (("src/x.py",), False),
    ]


def test_text_around_the_pieces_is_dropped_before_and_kept_behind() -> None:
    mail = b"From 1234 Mon Sep 17\nSubject: [PATCH] --- a\n---\n src/x.py | 2 +-\n\n" + MODIFIED + b"-- \n2.39\n\n"
    (part,) = file_parts(mail)
    assert part.text == MODIFIED + b"-- \n2.39\n\n"
    assert (part.paths, part.changed) == (("src/x.py",), 2)


@given(st.lists(st.sampled_from([*MODIFIED.splitlines(True), *BARE.splitlines(True), b"\r\n", b"\\ No", b"junk\n"])))
def test_every_line_from_the_first_header_on_is_in_one_piece(lines: list[bytes]) -> None:
    patch = b"".join(lines)
    whole = b"".join(part.text for part in file_parts(patch))
    assert patch.endswith(whole)
    assert whole or not any(line.startswith(b"diff --git") for line in patch.split(b"\n"))


_NAMES = st.text(st.sampled_from('ab é"\\\t-+@/.'), min_size=1, max_size=8).filter(
    lambda name: not {"", ".", ".."} & set(name.split("/")) and name.strip() == name
)
_LINES = st.lists(
    st.sampled_from(["a", "b", "-- a/x", "++ b/x", "", " ", "@@ -1 +1 @@", "diff --git a/x b/x", "\r"]), max_size=6
)
_TEXTS = st.tuples(_LINES, st.booleans()).map(lambda t: ("\n".join(t[0]) + ("\n" if t[1] and t[0] else "")).encode())


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.dictionaries(_NAMES, _TEXTS, max_size=3), new=st.dictionaries(_NAMES, _TEXTS, max_size=3))
def test_the_paths_are_those_that_git_diff_names(tmp_path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    folder = tmp_path / "trees"
    for side, files in (("a", old), ("b", new)):
        (folder / side).mkdir(parents=True)
        for name, text in files.items():
            try:
                (folder / side / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / side / name).write_bytes(text)
            except OSError:  # a file is in the way of a directory
                pass
    command = ["git", "-c", "core.quotePath=true", "diff", "--no-index", "--no-renames", "--no-prefix", "--text", "a", "b"]
    patch = subprocess.run(command, cwd=folder, capture_output=True, check=False).stdout
    trees = [
        {str(file.relative_to(folder / side)): file.read_bytes() for file in (folder / side).rglob("*") if file.is_file()}
        for side in ("a", "b")
    ]
    shutil.rmtree(folder)
    changed = {name for name in trees[0].keys() | trees[1].keys() if trees[0].get(name) != trees[1].get(name)}
    assert sorted(patched_paths(patch)) == sorted(changed)
