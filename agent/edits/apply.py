"""Makes changes to the original files, or refuses them with feedback; and finds the changes between two trees."""

from __future__ import annotations

import difflib
import itertools
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from runoff.agent.edits.grammar import Change, Delete, Diff, Edit, File, Hunk, Pair, Rename
from runoff.agent.edits.match import Lines, nearest, places, spelled

Tree = Callable[[str], bytes | None]
"""Path, relative to the root of the repository → its contents, None if there is no such file."""


class EditProblem(Exception):
    """The edit cannot be made, and no part of it was. `problems` are for the model, one for each block that failed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n\n".join(problems))
        self.problems = tuple(problems)


def apply(
    changes: Sequence[Change],
    tree: Tree,
    *,
    paths: Sequence[str] = (),
    others: Mapping[str, bytes] = {},
) -> dict[str, bytes | None]:
    """Path → new contents, or None if deleted, of every file that becomes another. Raises EditProblem.

    The order of `changes` does not matter: each is about the original tree. `paths` are all there are, from which a
    missing one is guessed; `others` are the files the model was shown, in which lines it misplaced may stand.
    """
    plan = _Plan(tree, paths, others)
    for change in changes:
        plan.add(change)
    return plan.results()


def changes_between(old: Mapping[str, bytes], new: Mapping[str, bytes], *, diffs: bool = False) -> tuple[Change, ...]:
    """Changes that make `new` of `old`. A file moved as it is becomes a Rename; where no Edit would do, a File.

    `diffs`: with Diffs instead of Edits.
    """
    gone = sorted(set(old) - set(new))
    changes: list[Change] = []
    for path in sorted(new):
        if path in old:
            if old[path] != new[path]:
                changes.append(_between(path, old[path], new[path], diffs))
            continue
        source = next((name for name in gone if old[name] == new[path]), None)
        if source is None:
            changes.append(_whole(path, None, new[path]))
        else:
            gone.remove(source)
            changes.append(Rename(source, path))
    return (*changes, *map(Delete, gone))


class _Plan:
    """The blocks of one answer by the paths they are about, and what they come to."""

    def __init__(self, tree: Tree, paths: Sequence[str], others: Mapping[str, bytes]) -> None:
        self.tree, self.paths, self.others = tree, paths, others
        self.known: dict[str, bytes | None] = {}
        self.pairs: dict[str, list[Pair | Hunk]] = {}
        self.files: dict[str, File] = {}
        self.sources: dict[str, str] = {}
        """Where a file is renamed to → where from."""
        self.given: dict[str, str] = {}
        """Path → the block that says what will be there."""
        self.taken: dict[str, str] = {}
        """Path → the block that takes away what was there."""
        self.problems: list[str] = []

    def add(self, change: Change) -> None:
        match change:
            case Edit(path, parts) | Diff(path, parts):
                if name := self._path(f"{'edit' if isinstance(change, Edit) else 'patch'} {path}", path):
                    self.pairs.setdefault(name, []).extend(parts)
            case File(path):
                if (name := self._path(f"file {path}", path)) and self._claim(self.given, name, f"file {path}"):
                    self.files[name] = change
            case Delete(path):
                if name := self._path(f"delete {path}", path):
                    self._take(name, f"delete {path}")
            case Rename(source, target):
                block = f"rename {source}"
                old, new = self._path(block, source), self._path(block, target)
                if old and new and self._take(old, block) and self._claim(self.given, new, block):
                    self.sources[new] = old

    def results(self) -> dict[str, bytes | None]:
        results: dict[str, bytes | None] = dict.fromkeys(self.taken)
        for target, source in self.sources.items():
            results[target] = self._original(source)
            if self._original(target) is not None and target not in self.taken:
                self._problem(
                    self.given[target], f"{target} exists already; delete it in the same answer, or take another name"
                )
        for path, file in self.files.items():
            if self.taken.get(path, "").startswith("delete"):
                self._problem(self.given[path], "the same answer deletes it; keep one of the two")
            try:
                results[path] = _contents(file, self._original(path))
            except UnicodeEncodeError as error:
                self._problem(self.given[path], _unsayable(error))
        for path, pairs in self.pairs.items():
            if (edited := self._edited(path, pairs)) is not None:
                results[path] = edited
        for path, contents in results.items():
            if contents is not None:
                self._check_room(path, results)
        if self.problems:
            raise EditProblem(self.problems)
        results = {path: contents for path, contents in results.items() if contents != self._original(path)}
        if not results:
            raise EditProblem(["The edit changes nothing: every file would be as it is."])
        return results

    def _path(self, block: str, path: str) -> str | None:
        """The path in its plain form; None and a problem if nothing may be written there."""
        parts = path.split("/")
        if path.startswith("/"):
            self._problem(block, f"the path {path} is absolute; write it from the root of the repository on")
        elif ".." in parts:
            self._problem(block, f"the path {path} has `..` in it; write it from the root of the repository on")
        elif any(part.lower() == ".git" for part in parts):
            self._problem(block, f"the path {path} is in the repository's own records, which are not to be edited")
        elif not path.strip("./ ") or path.endswith("/") or "\0" in path or _UNSAYABLE.search(path):
            self._problem(block, f"{path!a} is not a path")
        else:
            return posixpath.normpath(path)
        return None

    def _take(self, path: str, block: str) -> bool:
        if self._original(path) is None:
            self._problem(block, self._missing(path))
            return False
        return self._claim(self.taken, path, block)

    def _claim(self, claims: dict[str, str], path: str, block: str) -> bool:
        if path in claims:
            self._problem(block, f"the same answer has `{claims[path]}`, too; keep one of the two")
            return False
        claims[path] = block
        return True

    def _edited(self, path: str, pairs: Sequence[Pair | Hunk]) -> bytes | None:
        block = f"{'patch' if pairs and isinstance(pairs[0], Hunk) else 'edit'} {path}"
        source = self.sources.get(path, path)
        original = self._original(source)
        moved = next((target for target, source in self.sources.items() if source == path), None)
        if path in self.files:
            self._problem(block, "a file block of the same answer gives its whole text; keep one of the two")
        elif path in self.taken and path not in self.sources:
            remedy = "keep one of the two" if moved is None else f"edit it as {moved}"
            self._problem(block, f"the same answer has `{self.taken[path]}`; {remedy}")
        elif original is None:
            self._problem(block, f"{self._missing(path)}; to make a new file, use a <file> block")
        else:
            lines = Lines.of(original)
            regions = self._regions(block, source, lines, pairs)
            if regions is None:
                return None
            for region, pair in sorted(regions, key=lambda found: found[0].start, reverse=True):
                _replace(lines, region, pair)
            try:
                return lines.contents
            except UnicodeEncodeError as error:
                self._problem(block, _unsayable(error))
        return None

    def _regions(
        self, block: str, source: str, lines: Lines, pairs: Sequence[Pair | Hunk]
    ) -> list[tuple[range, Pair | Hunk]] | None:
        """Where each pair's lines stand; None and the problems unless each stands at a place of its own."""
        found: list[tuple[range, str, Pair | Hunk]] = []
        for number, pair in enumerate(pairs, 1):
            part, quoted = ("hunk", "old text of the hunk") if isinstance(pair, Hunk) else ("pair", "search text")
            name = f"{block}, {part} {number}" if len(pairs) > 1 else block
            if not pair.search:
                # In an empty file there is nothing to quote, and only one place it can mean.
                if lines.texts:
                    what = "hunk has no old lines" if isinstance(pair, Hunk) else "search is empty"
                    self._problem(name, f"the {what}; quote the lines that are to change, or the line next to them")
                else:
                    found.append((range(0), name, pair))
                continue
            starts = places(lines, pair.search)
            if len(starts) == 1:
                found.append((range(starts[0], starts[0] + len(pair.search)), name, pair))
            elif starts:
                at = spelled(start + 1 for start in starts)
                self._problem(
                    name, f"the {quoted} stands at {len(starts)} places, {at}; add lines around it until one is left"
                )
            else:
                self._problem(name, self._nowhere(source, lines, pair.search, quoted))
        ordered = sorted(found, key=lambda region: (region[0].start, region[0].stop))
        for (one, first, _), (other, second, _) in itertools.pairwise(ordered):
            if other.start < one.stop or other.start == one.start:
                spans = f"lines {one.start + 1}-{one.stop} and {other.start + 1}-{other.stop}"
                self._problem(second, f"its {quoted} overlaps that of {first} ({spans}); make one {part} of the two")
        return [(region, pair) for region, _, pair in found] if len(found) == len(pairs) else None

    def _nowhere(self, source: str, lines: Lines, wanted: Sequence[str], quoted: str) -> str:
        longest = max(wanted, key=len).strip()
        elsewhere = []
        for path, contents in self.others.items():
            # Looked for as bytes first: there may be thousands of files.
            if path == source or not longest or longest.encode("utf-8", "surrogatepass") not in contents:
                continue
            if starts := places(Lines.of(contents), wanted):
                elsewhere.append(f"{path} ({spelled(start + 1 for start in starts)})")
        if elsewhere:
            named = ", ".join(elsewhere[:3]) + (f" and {len(elsewhere) - 3} more files" if elsewhere[3:] else "")
            return f"the {quoted} does not stand in this file, but in {named}; name the file you mean"
        return f"the {quoted} does not stand in the file. {nearest(lines, wanted)}"

    def _check_room(self, path: str, results: Mapping[str, bytes | None]) -> None:
        def stays(name: str) -> bool:
            return (results[name] if name in results else self._original(name)) is not None

        block = self.given.get(path, f"edit {path}")
        above = path
        while above := posixpath.dirname(above):
            if stays(above):
                self._problem(block, f"{above} is a file, so {path} cannot be below it")
        if any(name.startswith(f"{path}/") and stays(name) for name in self.paths):
            self._problem(block, f"{path} is a directory")

    def _original(self, path: str) -> bytes | None:
        if path not in self.known:
            self.known[path] = self.tree(path)
        return self.known[path]

    def _missing(self, path: str) -> str:
        namesakes = [name for name in self.paths if posixpath.basename(name) == posixpath.basename(path)]
        alike = difflib.get_close_matches(path, namesakes, 3, 0) or difflib.get_close_matches(path, self.paths, 3)
        return f"there is no file {path}" + (f"; did you mean {' or '.join(alike)}?" if alike else "")

    def _problem(self, block: str, what: str) -> None:
        said = f"{block}: {what}" + ("" if what[-1] in "?." or "\n" in what else ".")
        # A path may hold bytes that are not UTF-8; what is said of it goes to a provider, who wants UTF-8.
        self.problems.append(said.encode("utf-8", "replace").decode())


_UNSAYABLE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of characters. Those between stand for bytes that are not UTF-8."""


def _unsayable(error: UnicodeEncodeError) -> str:
    return f"the text holds {error.object[error.start]!a}, half a character, which no file can hold"


def _contents(file: File, original: bytes | None) -> bytes:
    before = {ending for ending in Lines.of(original or b"").endings if ending}
    crlf = file.eol == "crlf" or (file.eol is None and before == {"\r\n"})
    endings = ["\r\n" if crlf else "\n"] * len(file.lines)
    if file.end == "none":
        endings[-1:] = [""] * len(endings[-1:])
    return Lines("", _untyped(file.lines, endings), endings).contents


def _replace(lines: Lines, region: range, pair: Pair | Hunk) -> None:
    """Put the pair's new lines in the place of `region`, each with the ending of the line it takes after."""
    span, texts = slice(region.start, region.stop), pair.replace
    olds, before = lines.endings[span], lines.endings[: region.start][-1:]
    if len(set(olds)) > 1:
        runs = (
            _runs(pair)
            if isinstance(pair, Hunk)
            else [ends for _, *ends in difflib.SequenceMatcher(None, lines.texts[span], texts).get_opcodes()]
        )
        after = [max(0, min(i + j - j1, i_end - 1)) for i, i_end, j1, j2 in runs for j in range(j1, j2)]
    else:
        after = [0] * len(texts)
    endings: list[str] = []
    for number in after:
        ending = olds[number] if olds else ""
        # The last line of the file may have no ending, but a line that is no longer the last needs one.
        endings.append(ending or next(iter(endings[-1:] or before), "\n"))
    if olds and not olds[-1] and texts and texts[-1]:  # an empty line without an ending would be none
        endings[-1] = ""
    lines.texts[span], lines.endings[span] = _untyped(texts, endings), endings


def _runs(hunk: Hunk) -> list[list[int]]:
    """Start and end of each run of lines that stay or change: among the old lines, among the new ones."""
    runs, i, j = list[list[int]](), 0, 0
    for _, run in itertools.groupby(hunk.lines, lambda line: line[0] == " "):
        signs = [line[0] for line in run]
        ends = i + sum(sign != "+" for sign in signs), j + sum(sign != "-" for sign in signs)
        runs.append([i, ends[0], j, ends[1]])
        i, j = ends
    return runs


def _untyped(texts: Sequence[str], endings: Sequence[str]) -> list[str]:
    """The lines without carriage returns that only type out what their ending is anyway."""
    return [t.removesuffix("\r") if ending == "\r\n" else t for t, ending in zip(texts, endings, strict=True)]


def _between(path: str, old: bytes, new: bytes, diffs: bool) -> Change:
    before, after = Lines.of(old), Lines.of(new)
    had, has = (list(map("".join, zip(lines.texts, lines.endings, strict=True))) for lines in (before, after))
    # Without what they begin and end with alike: most edits are small, and difflib may line up the rest otherwise.
    head = _alike(had, has)
    tail = _alike(had[head:][::-1], has[head:][::-1])
    opcodes = difflib.SequenceMatcher(None, had[head : len(had) - tail], has[head : len(has) - tail]).get_opcodes()
    regions: list[tuple[int, int, int, int]] = []
    for tag, *ends in opcodes:
        if tag == "equal":
            continue
        i, i_end, j, j_end = (head + end for end in ends)
        up, down = _context(before, i, i_end)
        region = i - up, i_end + down, j - up, j_end + down
        while regions and regions[-1][1] > region[0]:
            last = regions.pop()
            region = min(last[0], region[0]), max(last[1], region[1]), min(last[2], region[2]), max(last[3], region[3])
        regions.append(region)
    pairs = [Pair(tuple(before.texts[i:i_end]), tuple(after.texts[j:j_end])) for i, i_end, j, j_end in regions]
    edit = Diff(path, tuple(map(_hunk, pairs))) if diffs else Edit(path, tuple(pairs))
    try:
        return edit if apply([edit], {path: old}.get) == {path: new} else _whole(path, old, new)
    except EditProblem:  # the files differ in what an edit leaves alone, such as their last newline
        return _whole(path, old, new)


def _hunk(pair: Pair) -> Hunk:
    lines = list[str]()
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, pair.search, pair.replace).get_opcodes():
        if tag == "equal":
            lines += [f" {line}" for line in pair.search[i:i_end]]
        else:
            lines += [f"-{line}" for line in pair.search[i:i_end]] + [f"+{line}" for line in pair.replace[j:j_end]]
    return Hunk(tuple(lines))


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines they begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _context(lines: Lines, start: int, stop: int) -> tuple[int, int]:
    """How many lines before and after must be quoted too, for the region to stand at one place."""
    most = 0 if start < stop else 1
    while True:
        up, down = min(most, start), min(most, len(lines.texts) - stop)
        quoted = lines.texts[start - up : stop + down]
        if len(quoted) == len(lines.texts) or len(places(lines, quoted)) == 1:
            return up, down
        most = max(1, 2 * most)


def _whole(path: str, old: bytes | None, new: bytes) -> File:
    """The first of the ways to write the file that comes out as it should; the last always does."""
    typed = new.decode("utf-8", "surrogateescape").split("\n")
    end: Literal["none"] | None = "none" if typed[-1] else None
    if not end:
        typed.pop()
    bare = tuple(line.removesuffix("\r") for line in typed)
    ways = (
        File(path, bare, None, end),
        File(path, bare, "crlf", end),
        File(path, tuple(typed), None, end),
        File(path, tuple(typed), "lf", end),
    )
    return next(way for way in ways if way is ways[-1] or _contents(way, old) == new)
