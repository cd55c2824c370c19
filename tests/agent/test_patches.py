"""Patches read as text: whose lines are whose, whatever a diff says about itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given, settings
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
        (b"diff --git a/a/x.py b/a/x.py\nold mode 100644\nnew mode 100755\n", ["a/x.py"]),
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


# Against git itself

_NAMES = st.text(st.sampled_from('ab é"\\\t-+@/.'), min_size=1, max_size=8).filter(
    lambda name: not {"", ".", ".."} & set(name.split("/"))
)
_LINES = st.lists(
    st.sampled_from(["a", "b", "-- a/x", "++ b/x", "", " ", "@@ -1 +1 @@", "diff --git a/x b/x", "\r"]), max_size=6
)
_TEXTS = st.tuples(_LINES, st.booleans()).map(lambda t: ("\n".join(t[0]) + ("\n" if t[1] and t[0] else "")).encode())
_FILES = st.dictionaries(_NAMES, st.tuples(_TEXTS, st.sampled_from([b"100644", b"100755"])), max_size=3).filter(
    lambda files: not any(other.startswith(f"{name}/") for name in files for other in files)
)
Files = dict[str, tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    folder = tmp_path_factory.mktemp("git")
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}

    def run(*arguments: str, said: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, input=said, capture_output=True, check=True
        )
        return done.stdout

    run("init", "--quiet", "--bare", ".")
    return run


def _commit(branch: str, files: Files) -> bytes:
    said = b"commit refs/heads/%b\ncommitter t <t> 0 +0000\ndata 0\ndeleteall\n" % branch.encode()
    for name, (text, mode) in files.items():
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode()
        said += b'M %b inline "%b"\ndata %d\n%b\n' % (mode, quoted, len(text), text)
    return said


@settings(max_examples=50, deadline=None)
@given(old=_FILES, new=_FILES)
def test_the_paths_and_pieces_are_those_that_git_says(git: Callable[..., bytes], old: Files, new: Files) -> None:
    git("fast-import", "--quiet", "--force", said=_commit("old", old) + _commit("new", new))
    patch = git("diff", "-M", "--binary", "old", "new")
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert set(patched_paths(patch)) == changed
    parts = file_parts(patch)
    assert b"".join(part.text for part in parts) == patch
    counts = git("diff", "-M", "--numstat", "old", "new").splitlines()
    assert sum(part.changed for part in parts) == sum(int(n) for line in counts for n in line.split(b"\t")[:2])
