"""No edit over real files is made wrongly in silence: a sample of what scripts/bench/edits counts, and that it can count."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from scripts.bench.edits import WRITERS, count, judged, real_files


@pytest.fixture(scope="module")
def library() -> list[Path]:
    return real_files(
        [Path(sysconfig.get_path("stdlib"), part) for part in ("email", "json", "lib2to3", "unittest")], 100
    )


def test_what_is_made_of_real_files_is_exact_or_refused(library: list[Path]) -> None:
    tally, corrupt = count(library, 600)
    assert corrupt == []
    assert {writer for writer, _ in tally} == set(WRITERS)
    assert not any(tally[writer, "refused"] for writer in ("edits", "diffs", "files")), "the grammar's own text is read"
    assert all(tally[writer, "refused"] and tally[writer, "exact"] for writer in ("quoting", "diff tool", "careless"))


@pytest.mark.parametrize(
    ("made", "meant"),
    [
        (b"a\nx\nc\nb", [(["a"], ["x"])]),  # another place
        (b"x\nb\nc\nb", [(["b"], ["x"])]),  # one of two places
        (b"a\nx\nc\nb", [(["b", "C"], ["x"])]),  # a place that is only like it
        (b"x\nb\nc\nb\n", [(["a"], ["x"])]),  # a newline at the end
        (b"x\nb\nc", [(["a"], ["x"])]),  # a line lost
    ],
)
def test_a_corruption_is_seen(made: bytes, meant: list[tuple[list[str], list[str]]]) -> None:
    assert judged(made, b"a\nb\nc\nb", meant) not in ("exact", "refused")
    assert judged(b"x\nb\nc\nb", b"a\nb\nc\nb", [(["a"], ["x"])]) == "exact"
