"""Are edits ever made wrongly in silence? Hypothesis draws cases over real files and counts what came of them.

A case is a window of a real file, in which lines are put that could be taken for the grammar (separators, underlines,
fences, tags, diffs), a change to it, and somebody who writes the change down:

    edits, diffs, files   as the grammar says, by `render`: has to come out exactly, so a refusal is a failure, too
    quoting               as an <edit> or <patch> whose old lines are misquoted or stand at several places
    diff tool             as `difflib.unified_diff` prints it, with wrong numbers and counts
    careless              without labels, whatever tags are in the text, as a model may that forgot the rule

What is made of it is compared with what the quoted lines mean, found here by plain search in a list of lines, not by
the matcher under test. Exact and refused are both fine, anything else is a silent corruption. Started by scripts/bench/edits.
"""

from __future__ import annotations

import argparse
import difflib
import random
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from runoff.agent.edits import Change, Diff, Edit, EditProblem, File, Hunk, Pair, apply, changes_between, parse, render

PATH = "pkg/a.txt"
NAMES = "edit patch diff search replace file test delete rename done choose".split()
ALIKE = [
    *(
        form.format(name)
        for name in NAMES
        for form in ("<{}>", "</{}>", "<{}:A>", "</{}:A>", " </{}>", "<{} path='x'>")
    ),
    *("=======", "=====", "-----", "- - -", "~~~~~", "<<<<<<<", "<<<<<<< SEARCH", ">>>>>>> REPLACE", "|||||||"),
    *(
        "```",
        "```python",
        "````",
        " ```",
        "~~~",
        "<think>",
        "</think>",
        "<done/>",
        "<choose id='A'/>",
        f"<delete path='{PATH}'/>",
    ),
    *(
        "@@",
        "@@ -1,2 +1,2 @@",
        "--- a/x",
        "+++ b/x",
        "-- a/x",
        "++ b/x",
        "diff --git a/x b/x",
        "\\ No newline at end of file",
    ),
    *(
        "+",
        "-",
        " ",
        "",
        "\t",
        "+x",
        "-x",
        " x",
        "\\",
        "index 123..456",
        "*** Begin Patch",
        "*** Update File: x",
        "\r",
        "x\r",
        "\ufeff",
    ),
]


class Case(NamedTuple):
    """Lines of a file without their endings, those it should have, and how they are written and stored."""

    old: list[str]
    new: list[str]
    writer: str
    slip: int
    eol: str
    ended: bool

    def stored(self, lines: Sequence[str]) -> bytes:
        text = self.eol.join(lines) + (self.eol if self.ended and lines else "")
        return text.encode("utf-8", "surrogateescape")


WRITERS = ("edits", "diffs", "files", "quoting", "diff tool", "careless")


def cases(files: Sequence[Path]) -> st.SearchStrategy[Case]:
    """Windows of up to 24 lines of these files, with up to four alien lines and up to three changes."""

    @st.composite
    def case(draw: st.DrawFn) -> Case:
        text = _text(files[draw(st.integers(0, len(files) - 1))])
        start = draw(st.integers(0, max(0, len(text) - 3)))
        old = text[start : start + draw(st.integers(1, 24))]
        # One draw for all the rest: a case costs a tenth of what it does with a draw for each.
        dice = random.Random(draw(st.integers(0, 2**32)))
        for _ in range(dice.randrange(5)):
            old.insert(dice.randrange(len(old) + 1), dice.choice(ALIKE))
        if dice.random() < 0.2:
            old += old[dice.randrange(len(old)) :]  # lines that stand at several places
        new = list(old)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(new) + 1)
            pool = (*ALIKE, *old, "x = 1", "    return x")
            new[at : at + dice.randrange(3)] = [dice.choice(pool) for _ in range(dice.randrange(3))]
        return Case(
            old,
            new,
            dice.choice(WRITERS),
            dice.randrange(2**32),
            "\n" if dice.random() < 0.8 else "\r\n",
            dice.random() < 0.9,
        )

    return case()


def outcome(case: Case) -> str:
    """`exact`, `refused`, or what was made without a word instead of what was meant."""
    old, new = case.stored(case.old), case.stored(case.new)
    dice = random.Random(case.slip)
    if case.writer in ("edits", "diffs", "files"):
        if old == new:
            return "exact"
        whole = (File(PATH, tuple(new.decode("utf-8", "surrogateescape").split("\n")[: -1 if new.endswith(b"\n") else None]), "lf",
                      None if new.endswith(b"\n") else "none"),)  # fmt: skip
        changes: Sequence[Change] = (
            whole
            if case.writer == "files" and new
            else changes_between({PATH: old}, {PATH: new}, diffs=case.writer == "diffs")
        )
        made = _made(render(changes), old)
        return "exact" if made == new else f"should be {new!r}, is {made!r}"
    if case.writer == "quoting":
        start = dice.randrange(len(case.old))
        search = case.old[start : start + dice.randrange(1, 5)]
        if dice.random() < 0.7:
            at = dice.randrange(len(search))
            slips = (
                search[at] + " ",
                search[at].strip(),
                search[at][:-1],
                search[at].replace("    ", "\t"),
                dice.choice(ALIKE),
            )
            search[at] = dice.choice(slips)
        replace = [dice.choice((*ALIKE, *case.old)) for _ in range(dice.randrange(4))]
        hunk = Hunk((*(f"-{line}" for line in search), *(f"+{line}" for line in replace)))
        one = Diff(PATH, (hunk,)) if dice.random() < 0.5 else Edit(PATH, (Pair(tuple(search), tuple(replace)),))
        return judged(_made(render([one]), old), old, [(search, replace)])
    if case.writer == "diff tool":
        meant, lines = list[tuple[list[str], list[str]]](), list[str]()
        for line in list(difflib.unified_diff(case.old, case.new, lineterm="", n=dice.randrange(4)))[2:]:
            if line.startswith("@@"):
                meant.append(([], []))
                lines.append(f"@@ -{dice.randrange(99)},{dice.randrange(9)} +{dice.randrange(99)} @@")
            else:
                meant[-1][0].extend([line[1:]] * (line[0] != "+"))
                meant[-1][1].extend([line[1:]] * (line[0] != "-"))
                lines.append(line)
        head = ["--- a/" + PATH, "+++ b/" + PATH] * dice.randrange(2)
        label = ":Z9" * (dice.random() < 0.8)  # the others forget the label
        return judged(
            _made("\n".join([f'<patch{label} path="{PATH}">', *head, *lines, f"</patch{label}>\n"]), old),
            old,
            meant,
        )
    start = dice.randrange(len(case.old))
    search = case.old[start : start + dice.randrange(1, 6)]
    replace = [dice.choice((*ALIKE, *case.old)) for _ in range(dice.randrange(4))]
    told = ["<search>", *search, "</search>", "<replace>", *replace, "</replace>"]
    return judged(_made("\n".join([f'<edit path="{PATH}">', *told, "</edit>\n"]), old), old, [(search, replace)])


def _made(reply: str, old: bytes) -> bytes | None:
    """What becomes of the file; None if it was refused in words."""
    answer = parse(reply)
    if answer.problems or not answer.edits:
        return None
    try:
        results = apply(answer.edits, {PATH: old}.get, paths=[PATH], others={PATH: old})
    except EditProblem:
        return None
    return b"other files: %r" % results if set(results) != {PATH} else results[PATH] or b""


def judged(made: bytes | None, old: bytes, meant: Sequence[tuple[list[str], list[str]]]) -> str:
    """Whether `made` is what the lines mean: each old run replaced at the one place where it stands, all else as it was."""
    if made is None:
        return "refused"
    mark = b"\xef\xbb\xbf" if old.startswith(b"\xef\xbb\xbf") else b""
    kept, is_ = _lines(old.removeprefix(mark)), _lines(made.removeprefix(mark))
    regions = []
    for search, replace in meant:
        starts = _places(
            [line.removesuffix("\n").removesuffix("\r") if line[-1:] == "\n" else line for line in kept], search
        )
        if not starts and any(line.endswith("\r") for line in search):  # the carriage returns may be typed out
            starts = _places([line.removesuffix("\n") for line in kept], search)
        if len(starts) != 1 or (not search and kept):
            return f"made though {search!r} stands at {len(starts)} places: {made!r}"
        regions.append((starts[0], starts[0] + len(search), replace))
    should, at = list[str](), 0
    for start, stop, replace in sorted(regions):
        should += kept[at:start]
        is_[len(should) : len(should) + len(replace)] = [
            line.rstrip("\r\n") for line in is_[len(should) : len(should) + len(replace)]
        ]
        should += [line.rstrip("\r\n") for line in replace]
        at = stop
    should += kept[at:]
    ended = made.endswith(b"\n") == old.endswith(b"\n") or not kept[at:]
    return "exact" if made.startswith(mark) and ended and is_ == should else f"should be {should!r}, is {made!r}"


def _places(texts: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [at for at in range(len(texts) - len(wanted) + 1) if texts[at : at + len(wanted)] == wanted]


def _lines(contents: bytes) -> list[str]:
    return re.findall("[^\n]*\n|[^\n]+$", contents.decode("utf-8", "surrogateescape"))


def _text(file: Path) -> list[str]:
    if file not in _TEXTS:
        _TEXTS[file] = file.read_bytes()[:200_000].decode("utf-8", "surrogateescape").split("\n")[:4000] or [""]
    return _TEXTS[file]


_TEXTS: dict[Path, list[str]] = {}


def real_files(directories: Sequence[Path], most: int) -> list[Path]:
    """Text files below these directories; of more than `most`, a choice that is always the same."""
    kinds = {
        ".py",
        ".pyi",
        ".md",
        ".rst",
        ".txt",
        ".toml",
        ".cfg",
        ".js",
        ".ts",
        ".c",
        ".h",
        ".html",
        ".xml",
        ".json",
        ".diff",
        ".patch",
    }
    found = sorted(path for top in directories for path in top.rglob("*") if path.suffix in kinds and path.is_file())
    return random.Random(0).sample(found, most) if len(found) > most else found


def installed() -> list[Path]:
    """The standard library of the running Python, and what is installed beside it."""
    return [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]


def count(
    files: Sequence[Path], number: int, start: int = 0
) -> tuple[Counter[tuple[str, str]], list[tuple[Case, str]]]:
    """What came of so many cases, by writer, and those in which something was made without a word."""
    tally, corrupt = Counter[tuple[str, str]](), list[tuple[Case, str]]()

    @seed(start)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(files))
    def run(case: Case) -> None:
        said = outcome(case)
        fine = said in ("exact", "refused")
        tally[case.writer, said if fine else "corrupt"] += 1
        if not fine:
            corrupt.append((case, said))

    run()
    return tally, corrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("directories", nargs="*", type=Path)
    asked = parser.parse_args()
    files = real_files(asked.directories or installed(), asked.files)
    began, tally, corrupt, batch = time.monotonic(), Counter[tuple[str, str]](), list[tuple[Case, str]](), 0
    # In batches: hypothesis gives fewer and fewer new cases the more it has given.
    while (left := asked.cases - tally.total()) > 0:
        more, wrong = count(files, min(left, 2_000), asked.seed + batch)
        tally, corrupt, batch = tally + more, corrupt + wrong, batch + 1
    for writer in WRITERS:
        print(f"{writer:10}", *(f"{tally[writer, what]:7,} {what}" for what in ("exact", "refused", "corrupt")))
    print(
        f"{tally.total():,} cases over {len(files):,} files: {len(corrupt)} silent corruptions, {time.monotonic() - began:.0f} s"
    )
    for case, said in corrupt[:5]:
        print(case, said, sep="\n  ")
    return bool(corrupt)


if __name__ == "__main__":
    raise SystemExit(main())
