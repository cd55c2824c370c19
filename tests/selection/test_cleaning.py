"""Cleaning: what must not decide or be submitted is taken out of a patch, and nothing else of it is touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.patches import patched_paths
from runoff.selection.cleaning import clean


def piece(path: str, body: bytes = b"-a\n+b\n", counts: bytes = b"-1 +1") -> bytes:
    head = f"diff --git a/{path} b/{path}\nindex 1111111..2222222 100644\n--- a/{path}\n+++ b/{path}\n".encode()
    return head + b"@@ %b @@ def f():\n" % counts + body


UNWANTED = {
    "conftest.py": "configuration of the test runner",
    "pkg/conftest.py": "configuration of the test runner",
    "pytest.ini": "configuration of the test runner",
    ".pytest.ini": "configuration of the test runner",
    "tox.ini": "configuration of the test runner",
    "sitecustomize.py": "configuration of the test runner",
    "src/usercustomize.py": "configuration of the test runner",
    "src/sitecustomize/__init__.py": "configuration of the test runner",
    ".coveragerc": "configuration of the test runner",
    "tests/test_x.py": "a test: tests are not part of a candidate",
    "pkg/tests/data.json": "a test: tests are not part of a candidate",
    "test_fix.py": "a test: tests are not part of a candidate",
    "pkg/x_test.go": "a test: tests are not part of a candidate",
    "src/x.spec.ts": "a test: tests are not part of a candidate",
    "pkg/__pycache__/x.cpython-311.pyc": "made by a tool, not part of the source",
    ".pytest_cache/v/cache/lastfailed": "made by a tool, not part of the source",
    "node_modules/left-pad/index.js": "made by a tool, not part of the source",
    "x.egg-info/PKG-INFO.rej": "made by a tool, not part of the source",
    "evil.pth": "made by a tool, not part of the source",
    "src/x.py.orig": "made by a tool, not part of the source",
}
KEPT = [
    "src/x.py",
    "setup.py",
    "pyproject.toml",
    "setup.cfg",
    "pkg/testing/tools.py",
    "pkg/conftest_reader.py",
    "docs/tests.rst",
    "src/contest.py",
    "latest.py",
    "README",
]


@pytest.mark.parametrize(("path", "why"), UNWANTED.items())
def test_what_has_no_place_in_a_patch_is_taken_out_and_said(path: str, why: str) -> None:
    assert clean(piece(path)) == (b"", (f"{path}: {why}",))


@pytest.mark.parametrize("path", KEPT)
def test_source_stays(path: str) -> None:
    assert clean(piece(path)) == (piece(path), ())


@given(st.lists(st.sampled_from([*UNWANTED, *KEPT]), unique=True), st.sampled_from([b"", b"Here is my patch:\n\n"]))
def test_the_rest_is_kept_byte_for_byte(paths: list[str], before: bytes) -> None:
    bodies = {path: b"-%d\r\n+caf\xe9 \xff\t \n" % n for n, path in enumerate(paths)}
    patch = before + b"".join(piece(path, body) for path, body in bodies.items())
    kept, removed = clean(patch)
    assert kept == b"".join(piece(path, body) for path, body in bodies.items() if path in KEPT)
    assert [line.partition(": ")[0] for line in removed] == [path for path in paths if path in UNWANTED]


@given(st.lists(st.sampled_from([*UNWANTED, *KEPT]), unique=True))
def test_cleaning_twice_is_cleaning_once(paths: list[str]) -> None:
    kept, _ = clean(b"".join(map(piece, paths)))
    assert clean(kept) == (kept, ())


@pytest.mark.parametrize(
    "binary",
    [
        b"diff --git a/x.png b/x.png\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQzWMT#Y01f~L\n\nliteral 0\nHcmV?d00001\n\n",
        b"diff --git a/x.png b/x.png\nindex 1..2 100644\nBinary files a/x.png and b/x.png differ\n",
    ],
)
def test_a_binary_file_is_taken_out(binary: bytes) -> None:
    assert clean(binary + piece("src/x.py")) == (piece("src/x.py"), ("x.png: a binary file",))


def test_a_removed_line_that_looks_like_a_test_s_header_costs_nothing() -> None:
    patch = piece("src/q.sql", b"--- a/tests/test_x.py\n+++ b/tests/test_x.py\n") + piece("src/x.py")
    assert clean(patch) == (patch, ())


def test_a_test_does_not_pass_under_the_header_of_a_source_file() -> None:
    bare = b"--- a/tests/test_x.py\n+++ b/tests/test_x.py\n@@ -1 +1 @@\n-a\n+b\n"
    kept, removed = clean(piece("src/x.py") + bare + piece("src/y.py"))
    assert kept == piece("src/x.py") + piece("src/y.py")
    assert removed == ("tests/test_x.py: a test: tests are not part of a candidate",)


@pytest.mark.parametrize(
    "patch",
    [
        piece("src/x.py", b"-a\r\n+b\r\n"),
        piece("src/x.py", b"-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n"),
        b"diff --git a/src/x.py b/src/y.py\nsimilarity index 100%\nrename from src/x.py\nrename to src/y.py\n",
        b"diff --git a/src/x.py b/src/x.py\nold mode 100644\nnew mode 100755\n",
        b"diff --git a/n.py b/n.py\nnew file mode 100644\n--- /dev/null\n+++ b/n.py\n@@ -0,0 +1 @@\n+b\n",
        b"diff --git a/n/__init__.py b/n/__init__.py\nnew file mode 100644\nindex 0000000..e69de29\n",
        b"diff --git a/o.py b/o.py\ndeleted file mode 100644\n--- a/o.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
        b'diff --git "a/\\303\\274.py" "b/\\303\\274.py"\n--- "a/\\303\\274.py"\n+++ "b/\\303\\274.py"\n@@ -1 +1 @@\n-a\n+b\n',
        b"--- x.py.orig\t2020-01-01\n+++ x.py\t2020-01-02\n@@ -1 +1 @@\n-a\n+b\n".replace(b".orig", b""),
    ],
)
def test_every_kind_of_change_is_kept_as_it_is(patch: bytes) -> None:
    assert clean(patch) == (patch, ())


def test_quoted_names_are_recognized() -> None:
    patch = b'diff --git "a/t\\303\\251/conftest.py" "b/t\\303\\251/conftest.py"\nold mode 100644\nnew mode 100755\n'
    assert clean(patch) == (b"", ("té/conftest.py: configuration of the test runner",))


def test_moving_a_test_within_the_tests_goes_and_moving_it_out_stays() -> None:
    def moved(old: str, new: str) -> bytes:
        return f"diff --git a/{old} b/{new}\nsimilarity index 100%\nrename from {old}\nrename to {new}\n".encode()

    assert clean(moved("tests/a.py", "tests/b.py"))[0] == b""
    assert clean(moved("tests/a.py", "src/a.py"))[0], "half of it could not be applied"
    assert clean(moved("src/a.py", "conftest.py"))[0] == b"", "but no way leads to the runner's configuration"


@pytest.mark.parametrize("nothing", [b"", b"\n", b"I give up.\n", b"\xff\0", b"@@ -1 +1 @@\n-a\n+b\n"])
def test_what_is_no_diff_leaves_nothing(nothing: bytes) -> None:
    assert clean(nothing) == (b"", ())


def test_the_last_line_gets_its_newline() -> None:
    assert clean(piece("src/x.py")[:-1]) == (piece("src/x.py"), ())


def test_a_truncated_hunk_is_left_for_git_to_refuse() -> None:
    patch = piece("src/x.py", b" a\n", b"-1,9 +1,9") + piece("conftest.py")
    kept, removed = clean(patch)
    assert patched_paths(kept) == ["src/x.py"]
    assert len(removed) == 1


@given(
    st.binary()
    | st.lists(st.sampled_from(piece("src/x.py").splitlines(True) + piece("conftest.py").splitlines(True))).map(
        b"".join
    )
)
def test_whatever_comes_nothing_breaks_and_no_conftest_gets_through(patch: bytes) -> None:
    kept, removed = clean(patch)
    assert not any(path.endswith("conftest.py") for path in patched_paths(kept))
    assert not kept or kept.endswith(b"\n")
    assert all(": " in line for line in removed)
