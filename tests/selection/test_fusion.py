"""Fusion: what recurs and fits together, as a diff that git applies; and when there is none, why."""

from __future__ import annotations

import subprocess
from difflib import unified_diff
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.selection.edits import edits
from runoff.selection.fusion import Fused, NotFused, fuse
from runoff.selection.pool import Member, Pool, blind

BASE = """\
def total(items):
    result = 0
    for item in items:
        result += item.price
    return result


def mean(items):
    return total(items) / len(items)
"""
RIGHT = BASE.replace("item.price", "item.price * item.count")
GUARD = "    if not items:\n        return 0\n"
GUARDED = BASE.replace("    return total", GUARD + "    return total")


def diff(after: str, before: str | None = BASE, path: str = "shop.py") -> bytes:
    def lines(text: str) -> list[str]:
        return text.splitlines(keepends=True)

    head = f"diff --git a/{path} b/{path}\n" + ("" if before is not None else "new file mode 100644\n")
    shown = unified_diff(
        lines(before or ""), lines(after), f"a/{path}" if before is not None else "/dev/null", f"b/{path}"
    )
    return (
        head + "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in shown)
    ).encode()


def pool(*patches: bytes, agents: tuple[str, ...] = ()) -> Pool:
    names = [chr(ord("a") + n) for n in range(len(patches))]
    members = zip(names, agents or names, patches, strict=True)
    return Pool(
        instance="i", members=tuple(Member(id=name, agent=agent, patch=patch) for name, agent, patch in members)
    )


def fused(found: Pool, base: dict[str, bytes] | None = None, **more: dict[str, str]) -> Fused:
    made = fuse(found, blind(found), {"shop.py": BASE.encode()} if base is None else base, **more)
    assert isinstance(made, Fused), made
    return made


def git_applies(patch: bytes, base: dict[str, bytes], at: Path) -> dict[str, bytes]:
    for name, contents in base.items():
        (at / name).write_bytes(contents)
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=patch, cwd=at, check=True)
    return {file.name: file.read_bytes() for file in at.iterdir()}


BOTH = RIGHT.replace("    return total", GUARD + "    return total")
NOISY = BOTH.replace("    result = 0\n", "    result = 0\n    print(items)\n")


def test_what_recurs_stays_and_what_nobody_else_does_goes(tmp_path: Path) -> None:
    made = fused(pool(diff(NOISY), diff(BOTH), diff(RIGHT), diff(GUARDED)))
    assert git_applies(made.patch, {"shop.py": BASE.encode()}, tmp_path)["shop.py"].decode() == BOTH
    noisy = fuse(pool(diff(NOISY), diff(BOTH), diff(RIGHT)), [1.0, 0.0, 0.0], {"shop.py": BASE.encode()})
    assert isinstance(noisy, Fused)
    assert (noisy.how.like, noisy.how.kept, noisy.how.dropped, noisy.how.added) == ("a", 2, 1, 0)
    assert b"print" not in noisy.patch


def test_what_most_make_is_added() -> None:
    made = fuse(pool(diff(RIGHT), diff(BOTH), diff(BOTH), diff(GUARDED)), [1.0, 0, 0, 0], {"shop.py": BASE.encode()})
    assert isinstance(made, Fused)
    assert (made.how.like, made.how.kept, made.how.added) == ("a", 1, 1)
    assert set(made.how.members) == {"a", "b", "c", "d"}


def test_copies_of_one_family_support_nothing() -> None:
    copies = pool(*[diff(NOISY)] * 5, diff(RIGHT), agents=("x1", "x2", "x3", "x4", "x5", "y"))
    assert b"print" in fused(copies).patch
    made = fused(copies, family={f"x{n}": "x" for n in range(1, 6)})
    assert b"print" not in made.patch


def test_what_a_kept_edit_needs_stays() -> None:
    """The import recurs nowhere, but what does recur uses it."""
    fancy = "import math\n" + RIGHT.replace("return result", "return math.floor(result)")
    other = "from math import *\n" + RIGHT.replace("return result", "return math.floor(result)")
    made = fuse(pool(diff(fancy), diff(other)), [1.0, 0.0], {"shop.py": BASE.encode()})
    assert isinstance(made, Fused)
    assert b"+import math\n" in made.patch
    assert made.how.dropped == 0


def test_new_files_and_tests(tmp_path: Path) -> None:
    new = diff("x = 1\n", None, "new.py")
    test = diff("assert 1\n", None, "test_shop.py")
    made = fused(pool(diff(RIGHT) + new + test, diff(RIGHT) + new))
    assert set(git_applies(made.patch, {"shop.py": BASE.encode()}, tmp_path)) == {"shop.py", "new.py"}


@pytest.mark.parametrize(
    ("patches", "base", "why"),
    [
        ([diff(RIGHT), diff(RIGHT)], None, "not at hand"),
        ([diff(RIGHT), diff(GUARDED)], BASE, "nothing of the best"),
        ([diff(RIGHT), diff(RIGHT)], "something else\n", "no patch applies"),
        ([b"", b"no diff"], BASE, "no patch applies"),
        ([], BASE, "no patch applies"),
    ],
)
def test_why_there_is_none(patches: list[bytes], base: str | None, why: str) -> None:
    found = pool(*patches)
    made = fuse(found, blind(found), None if base is None else {"shop.py": base.encode()})
    assert isinstance(made, NotFused)
    assert why in made.why


def test_edits_that_do_not_parse_together_are_refused() -> None:
    broken = BASE.replace("    return result", "    return (result")
    found = pool(diff(broken), diff(broken))
    made = fuse(found, blind(found), {"shop.py": BASE.encode()})
    assert isinstance(made, NotFused)
    assert "would not parse" in made.why


LINES = st.lists(st.sampled_from(["a", "b", "  c", "# d", "", "e = 1"]), max_size=8)


@settings(deadline=None)
@given(LINES, LINES, st.booleans())
def test_edits_and_diff_are_inverse(before: list[str], after: list[str], ended: bool) -> None:
    """Two candidates with the same change: the fusion is that change, whatever it is."""
    old, new = ("\n".join(lines) + "\n" for lines in (before, after))
    if not ended:
        old, new = old.rstrip("\n"), new.rstrip("\n")
    base = {"x.txt": old.encode()}
    patch = diff(new, old, "x.txt")
    found = pool(patch, patch)
    made = fuse(found, [0.0, 0.0], base)
    if isinstance(made, Fused):
        assert edits(made.patch, base) == edits(patch, base)
    else:
        assert not edits(patch, base)


@settings(deadline=None)
@given(st.lists(st.tuples(LINES, LINES), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_whatever_is_fused_fits_the_base(given_: list[tuple[list[str], list[str]]], chance: object) -> None:
    old = "\n".join(given_[0][0]) + "\n"
    base = {"x.txt": old.encode()}
    found = pool(*(diff("\n".join(after) + "\n", old, "x.txt") for _, after in given_))
    made = fuse(found, blind(found), base)
    if isinstance(made, Fused):
        assert edits(made.patch, base) is not None
        assert set(made.how.members) <= {member.id for member in found.members}
