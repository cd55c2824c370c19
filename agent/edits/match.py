"""Finding quoted lines in a file: where they stand, and, if nowhere, what comes nearest and how it differs."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Lines(NamedTuple):
    """A file as lines. Only a newline ends one: form feeds, U+2028 and a carriage return on its own are text."""

    mark: str
    """The byte order mark, or nothing. It is the file's, not the first line's: nobody quotes what cannot be seen."""
    texts: list[str]
    endings: list[str]
    """Of each line, `\\n` or `\\r\\n`; of the last one perhaps nothing."""

    @classmethod
    def of(cls, contents: bytes) -> Lines:
        text = contents.decode("utf-8", "surrogateescape")
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        texts = text[len(mark) :].split("\n")
        endings = ["\n"] * (len(texts) - 1)
        if texts[-1]:
            endings.append("")
        else:
            texts.pop()
        for number, ending in enumerate(endings):
            if ending and texts[number].endswith("\r"):
                texts[number], endings[number] = texts[number][:-1], "\r\n"
        return cls(mark, texts, endings)

    @property
    def contents(self) -> bytes:
        text = self.mark + "".join(map("".join, zip(self.texts, self.endings, strict=True)))
        return text.encode("utf-8", "surrogateescape")


def places(lines: Lines, wanted: Sequence[str]) -> list[int]:
    """The indices at which `wanted` stands. Carriage returns of CRLF lines may be typed out in it or left off."""
    found = _standing(lines.texts, wanted)
    if not found and any(line.endswith("\r") for line in wanted):
        typed = [t + e.removesuffix("\n") for t, e in zip(lines.texts, lines.endings, strict=True)]
        found = _standing(typed, wanted)
    return found


def nearest(lines: Lines, wanted: Sequence[str]) -> str:
    """What to tell about lines that stand nowhere: the region that is most like them, and how it differs."""
    if not any(map(_squeezed, wanted)):
        return "It is blank, and the file has no such blank lines in a row; quote lines with text on them."
    region = _alike_but_for_blanks(lines.texts, wanted)
    if region:
        said = _blank_differences(lines, region, wanted)
        return f"It differs in white space only. {said}\n{_numbered(lines, region)}"
    region = _alike(lines.texts, wanted)
    if not region:
        return f"Nothing in the file ({len(lines.texts)} {_plural('line', len(lines.texts))}) is like it."
    at, said = _first_difference(lines, region, wanted)
    return f"The nearest is this; {said}\n{_numbered(lines, region, at)}"


def spelled(numbers: Iterable[int], most: int = 10) -> str:
    """Line numbers in words: `lines 3, 20 and 41`."""
    shown = [str(number) for number in numbers]
    if len(shown) > most:
        return f"lines {', '.join(shown[:most])} and {len(shown) - most} more"
    return f"lines {', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else f"line {shown[0]}"


_SHOWN_LINES = 30
_SHOWN_CHARACTERS = 200
_SHOWN_DIFFERENCES = 5


def _standing(texts: Sequence[str], wanted: Sequence[str]) -> list[int]:
    wanted = list(wanted)
    size = len(wanted)
    return [
        at
        for at in range(len(texts) - size + 1)
        if texts[at] == wanted[0] and texts[at + size - 1] == wanted[-1] and texts[at : at + size] == wanted
    ]


def _alike_but_for_blanks(texts: Sequence[str], wanted: Sequence[str]) -> range | None:
    squeezed = [(number, text) for number, text in enumerate(map(_squeezed, texts)) if text]
    core = [text for text in map(_squeezed, wanted) if text]
    found = _standing([text for _, text in squeezed], core)
    if not found:
        return None
    return range(squeezed[found[0]][0], squeezed[found[0] + len(core) - 1][0] + 1)


def _blank_differences(lines: Lines, region: range, wanted: Sequence[str]) -> str:
    filled = [number for number, line in enumerate(wanted) if _squeezed(line)]
    core = wanted[filled[0] : filled[-1] + 1]
    have = [lines.texts[number] for number in region]
    if [bool(_squeezed(line)) for line in have] != [bool(_squeezed(line)) for line in core]:
        return "There are blank lines between the lines in one of them that are not in the other."
    differing = [(n + 1, h, w) for n, h, w in zip(region, have, core, strict=True) if h != w]
    if not differing:
        return "Your text has blank lines before or after it that are not in the file."
    shift = _shift([pair for pair in zip(have, core, strict=True) if _squeezed(pair[0])])
    if shift and len(differing) > 1:
        return f"Every line has {shift}."
    said = [_blank_difference(*difference) for difference in differing[:_SHOWN_DIFFERENCES]]
    more = len(differing) - len(said)
    return "; ".join(said) + (f"; {more} more {_plural('line', more)} likewise." if more else ".")


def _shift(pairs: Sequence[tuple[str, str]]) -> str:
    """How all lines are indented too much or too little by the same; nothing if it is not that."""
    have, want = pairs[0]
    longer, shorter = (have, want) if len(have) > len(want) else (want, have)
    pad = longer.removesuffix(shorter)
    if pad == longer or pad.strip():
        return ""
    if all(h == pad + w for h, w in pairs):
        return f"{_blanks(pad)} more before it in the file than in your text"
    if all(w == pad + h for h, w in pairs):
        return f"{_blanks(pad)} more before it in your text than in the file"
    return ""


def _blank_difference(number: int, have: str, want: str) -> str:
    same = next((i for i, (h, w) in enumerate(zip(have, want, strict=False)) if h != w), min(len(have), len(want)))
    start = len(have[:same].rstrip())
    have_run, want_run = _leading(have[start:]), _leading(want[start:])
    if start + len(have_run) == len(have) and start + len(want_run) == len(want):
        if not have_run.startswith(want_run) and not want_run.startswith(have_run):
            return f"line {number} ends in {_blanks(have_run)} where your text has {_blanks(want_run)}"
        if len(have_run) > len(want_run):
            return f"line {number} ends in {_blanks(have_run[len(want_run) :])} that your text lacks"
        return f"your text has {_blanks(want_run[len(have_run) :])} at the end of a line that line {number} lacks"
    after = f" after `{_shown(have[:start][-20:])}`" if start else ""
    return f"line {number} has {_blanks(have_run)} where your text has {_blanks(want_run)}{after}"


def _alike(texts: Sequence[str], wanted: Sequence[str]) -> range | None:
    """The region of the same length that shares most words, the rare ones counting most in the search for it."""
    holding: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for word in set(_WORD.findall(text)):
            holding[word].append(number)
    clues = sorted(
        (
            (len(holding[word]), word, number)
            for number, line in enumerate(wanted)
            for word in set(_WORD.findall(line))
            if word in holding
        )
    )[:200]  # bounds the time; more clues would not find another place
    votes: Counter[int] = Counter()
    for often, word, number in clues:
        for at in holding[word][:2000]:
            votes[max(0, min(at - number, len(texts) - 1))] += 1_000_000 // often
    core = _tokens(wanted)
    best = max(
        ((_overlap(core, _tokens(texts[at : at + len(wanted)])), -at) for at, _ in votes.most_common(10)),
        default=(0.0, 0),
    )
    if best[0] >= 0.5:
        return _fitted(texts, wanted, -best[1])
    # Not one word spelled as in the file: compare the longest line by its letters.
    longest = max(range(len(wanted)), key=lambda number: len(wanted[number]))
    aim = wanted[longest].strip()
    near = {text.strip() for text in texts if 0.6 * len(aim) <= len(text.strip()) <= 1.7 * len(aim)}
    close = difflib.get_close_matches(aim[:400], sorted(near), 1, 0.7) if len(aim) <= 400 else []
    if not close:
        return None
    at = next(number for number, text in enumerate(texts) if text.strip() == close[0])
    return range(max(0, at - longest), min(len(texts), at - longest + len(wanted)))


def _fitted(texts: Sequence[str], wanted: Sequence[str], at: int) -> range:
    """The region at `at`; a longer or shorter one about it if more lines agree then: one may be missing or added."""
    plain = range(at, min(len(texts), at + len(wanted)))
    slack = 3 + len(wanted) // 4
    first = max(0, at - slack)
    blocks = _agreeing(texts[first : at + len(wanted) + slack], wanted)
    if sum(block.size for block in blocks) <= sum(block.size for block in _agreeing(texts[at : plain.stop], wanted)):
        return plain
    start = first + blocks[0].a - blocks[0].b
    stop = first + blocks[-2].a + len(wanted) - blocks[-2].b
    return range(max(0, start), min(len(texts), stop))


def _agreeing(texts: Sequence[str], wanted: Sequence[str]) -> list[difflib.Match]:
    return difflib.SequenceMatcher(None, texts, wanted).get_matching_blocks()


def _first_difference(lines: Lines, region: range, wanted: Sequence[str]) -> tuple[int, str]:
    have = [lines.texts[number] for number in region]
    for _, i, i_end, j, j_end in difflib.SequenceMatcher(None, have, wanted).get_opcodes():
        while i < i_end and j < j_end and have[i] == wanted[j]:
            i, j = i + 1, j + 1
        if i == i_end and j == j_end:
            continue
        at = region.start + min(i, len(have) - 1)
        if i == i_end:
            before = region.start + i + 1
            return at, f"your text has a line `{_shown(wanted[j])}` before line {before} that is not in the file."
        if any("\udc80" <= letter <= "\udcff" for letter in have[i]):
            return at, f"line {at + 1} holds bytes that are not UTF-8 and cannot be quoted: leave it out."
        if j == j_end:
            return at, f"your text lacks line {at + 1}: `{_shown(have[i])}`."
        return at, f"line {at + 1} is `{_shown(have[i])}`, your text has `{_shown(wanted[j])}`."
    return region.start, "it is cut short by the end of the file."


def _numbered(lines: Lines, region: range, at: int | None = None) -> str:
    first, last = max(0, region.start - 1), min(len(lines.texts), region.stop + 1)
    if last - first > _SHOWN_LINES:
        first = max(first, min((region.start if at is None else at) - _SHOWN_LINES // 2, last - _SHOWN_LINES))
        last = first + _SHOWN_LINES
    return "\n".join(f"{number + 1:6}|{_shown(lines.texts[number])}" for number in range(first, last))


_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAMES = {"\t": "tab", " ": "space", "\r": "carriage return", "\xa0": "no-break space"}


def _tokens(texts: Sequence[str]) -> Counter[str]:
    return Counter(token for text in texts for token in _TOKEN.findall(text))


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    size = one.total() + other.total()
    return 2 * (one & other).total() / size if size else 0.0


def _squeezed(line: str) -> str:
    return "".join(line.split())


def _leading(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _blanks(run: str) -> str:
    """A run of white space in words: `a tab and 2 spaces`."""
    said = []
    for blank in re.findall(r"((.)\2*)", run, re.DOTALL):
        name = _NAMES.get(blank[1]) or unicodedata.name(blank[1], f"U+{ord(blank[1]):04X}")
        said.append(f"a {name}" if len(blank[0]) == 1 else f"{len(blank[0])} {name}s")
    return " and ".join(said) or "nothing"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _shown(line: str) -> str:
    """Printable and sendable: no undecodable bytes, no control characters but tabs, not over-long."""
    cut = line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"
    return "".join(
        "\ufffd"
        if "\ud800" <= letter <= "\udfff"
        else letter
        if letter == "\t" or letter.isprintable()
        else ascii(letter)[1:-1]
        for letter in cut
    )
