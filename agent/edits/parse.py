"""Reading an answer: the blocks in a reply, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from runoff.agent.edits.grammar import (
    BLANK,
    TAGS,
    Answer,
    Change,
    Delete,
    Diff,
    Edit,
    File,
    Hunk,
    Pair,
    Rename,
    Seen,
    is_fence,
    seen,
    starts,
)
from runoff.agent.patches import patched_paths


def parse(reply: str) -> Answer:
    """What a reply says. Never raises: whatever is wrong is in `problems`, in the words the model is to be told."""
    return _Parser(reply.split("\n")).answer()


_TOLD = 10
"""Problems told in full: a reply that goes round in circles can have thousands."""


class _Parser:
    """One pass over the lines; `at` is the line not yet read. Lines are numbered from 1 in what is said of them."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        self.tags = [seen(line) for line in lines]
        self.at = 0
        self.cut_off = False
        self.changes: list[Change] = []
        self.tests: list[str] = []
        self.final: list[tuple[str, str]] = []
        self.problems: list[str] = []
        self.notices: list[str] = []

    def answer(self) -> Answer:
        while self.at < len(self.lines):
            self._block()
        if not (self.changes or self.tests or self.final or self.problems):
            self.problems.append("There is no block in the answer. Every tag must stand alone on its line.")
        if len(self.tests) > 1:
            self.problems.append(f"There are {len(self.tests)} <test> blocks; give one script.")
        if len({said for said in self.final if said[0] == "choose"}) > 1:
            self.problems.append("More than one candidate is chosen; choose one.")
        beside = bool(self.changes or self.tests or self.problems)
        for name in dict.fromkeys(name for name, _ in self.final):
            if beside or any(other != name for other, _ in self.final):
                self.notices.append(f"{name} is taken only alone; it was left out of account.")
        alone = not beside and len({name for name, _ in self.final}) == 1
        return Answer(
            edits=() if self.problems else tuple(self.changes),
            tests=tuple(self.tests),
            done=alone and self.final[0][0] == "done",
            choose=self.final[0][1] if alone and self.final[0][0] == "choose" else None,
            problems=tuple(self.problems[:_TOLD])
            + ((f"And {more} more problems of this kind.",) if (more := len(self.problems) - _TOLD) > 0 else ()),
            notices=tuple(self.notices),
        )

    def _block(self) -> None:
        line = self.lines[self.at]
        if line.lstrip().startswith("<think>"):
            self._skip_thought()
            return
        if line.lstrip().startswith("</think>"):
            # Some servers keep the opening tag for themselves: all that came before was thought.
            if self.changes or self.tests or self.final or self.problems:
                self.notices.append(f"Line {self.at + 1}: what stands before </think> was left out of account.")
            self.changes, self.tests, self.final, self.problems = [], [], [], []
            self._cut(self.at, line.partition("</think>")[2])
            return
        tag = self.tags[self.at]
        self.at += 1
        if tag is None:
            started = starts(line)
            if started and not started.fault:
                self.notices.append(f"Line {self.at}: {started} has more on its line, so it is not taken as a tag.")
        elif tag.fault:
            self._problem(self.at, f"{line.strip(BLANK)} is not understood; write {tag.fault}")
            self._skip_to(tag.closing)
        elif tag.close:
            self._problem(self.at, f"{tag} closes nothing that is open")
        elif tag.name == "edit":
            self._edit(tag)
        elif tag.name in ("search", "replace"):
            self._problem(self.at, f"{tag} stands outside of an <edit>")
            self._skip_to(tag.closing)
        elif TAGS[tag.name].body:
            opened, body = self.at, self._body(tag)
            if body is not None and tag.name == "patch":
                self._patch(tag, opened, body)
            elif body is not None:
                self._text(tag, body)
        elif tag.name == "delete":
            self.changes.append(Delete(tag.attributes["path"]))
        elif tag.name == "rename":
            self.changes.append(Rename(tag.attributes["from"], tag.attributes["to"]))
        else:
            self.final.append((tag.name, tag.attributes.get("id", "")))

    def _text(self, tag: Seen, body: tuple[str, ...]) -> None:
        if tag.name == "file":
            eol, end = tag.attributes.get("eol"), tag.attributes.get("end")
            lines_end: Literal["crlf", "lf"] | None = "crlf" if eol == "crlf" else "lf" if eol else None
            self.changes.append(File(tag.attributes["path"], body, lines_end, "none" if end else None))
            return
        if len(body) > 1 and is_fence(body[0]) and is_fence(body[-1]):
            body = body[1:-1]
        self.tests.append("".join(f"{line}\n" for line in body))

    def _patch(self, patch: Seen, opened: int, body: Sequence[str]) -> None:
        path, numbered = patch.attributes["path"], list(enumerate(body, opened + 1))
        if len(body) > 1 and is_fence(body[0]) and is_fence(body[-1]):
            numbered = numbered[1:-1]
        head = list(takewhile(lambda line: not line[1].startswith("@@"), numbered))
        for number, line in head:
            if line.strip(BLANK) and not line.startswith(("diff --git ", "index ", "--- ", "+++ ")):
                self._problem(
                    number,
                    f"`{line.strip(BLANK)}` stands before the first hunk, which begins with a line @@; "
                    "what is no change of lines is written as <file>, <delete> or <rename>",
                )
                return
        named = patched_paths("".join(f"{line}\n" for _, line in head).encode("utf-8", "surrogateescape"))
        if named and not {path, path.removeprefix("a/"), path.removeprefix("b/")} & set(named):
            self._problem(opened, f"{patch} is about {path}, but the diff in it about {named[-1]}")
        if len(head) == len(numbered):
            self._problem(opened, f"{patch} holds no hunk; a hunk begins with a line @@")
        hunks: list[list[str]] = []
        ends: list[set[str]] = []
        for number, line in numbered[len(head) :]:
            if line.startswith("@@"):
                hunks.append([])
                ends.append(set())
            elif line.startswith((" ", "-", "+")):
                hunks[-1].append(line)
            elif not line.strip("\r"):
                hunks[-1].append(f" {line}")
            elif line.startswith("\\") and hunks[-1]:
                ends[-1] |= set(hunks[-1][-1][0].replace(" ", "-+"))
            else:
                self._problem(number, f"`{line}` has no sign; begin it with a space if it stays, with - or with +")
                return
        if any(len(sides) == 1 for sides in ends):
            self._problem(
                opened,
                f"{patch} would add or take away the newline at the end of the file, which a patch keeps; "
                "write the whole file in a <file>",
            )
        self.changes.append(Diff(path, tuple(Hunk(tuple(lines)) for lines in hunks)))

    def _edit(self, edit: Seen) -> None:
        opened, faults = self.at, len(self.problems)
        pairs: list[Pair] = []
        while tag := self._inside(edit, opened):
            here = self.at
            if tag.name == "edit":
                if not pairs and len(self.problems) == faults:
                    self._problem(opened, f"{edit} holds no <search> and <replace>")
                self.changes.append(Edit(edit.attributes["path"], tuple(pairs)))
                return
            search = self._body(tag)
            if tag.name == "replace":
                self._problem(here, f"{tag} has no <search> before it")
                continue
            follows = self._inside(edit, opened)
            if follows is None:
                return
            if follows.name != "replace":
                self._problem(here, f"{tag} has no <replace> after it")
                self.at -= 1
                continue
            replace = self._body(follows)
            if search is not None and replace is not None:
                pairs.append(Pair(search, replace))

    def _inside(self, edit: Seen, opened: int) -> Seen | None:
        """The next <search>, <replace> or closing tag of an edit; None and a problem if it is not closed."""
        stray = False
        while self.at < len(self.lines):
            line, tag = self.lines[self.at], self.tags[self.at]
            self.at += 1
            if tag is None or tag.fault:
                if line.strip(BLANK) and not is_fence(line) and not stray:
                    stray = True
                    self._problem(
                        self.at,
                        f"`{line.strip(BLANK)}` stands in an <edit>, outside of <search> and <replace>; "
                        "these tags stand alone on their lines, and nothing but them in between",
                    )
            elif str(tag) == edit.closing or (tag.name in ("search", "replace") and not tag.close):
                return tag
            else:
                self._problem(opened, f"{edit} is not closed before {tag} of line {self.at}")
                # An opening tag is to be read as a block; a closing one would be reported again, as closing nothing.
                self.at -= not tag.close
                return None
        if not self.cut_off:
            self._problem(opened, f"{edit} is never closed: {edit.closing} is missing")
        return None

    def _body(self, tag: Seen) -> tuple[str, ...] | None:
        """The lines up to the closing tag; None and a problem if there is none, or another tag before it."""
        opened = self.at
        end = self._closing(tag.closing)
        for number in range(opened, len(self.lines) if end is None else end):
            inner = self.tags[number] if tag.label is None else None
            if inner and not inner.fault:
                label = f"<{tag.name}:A{' …' if tag.attributes else ''}> and </{tag.name}:A>"
                self._problem(
                    opened,
                    f"{tag} is not closed before {inner} of line {number + 1}; close it with {tag.closing} or, "
                    f"if line {number + 1} is text, label both: {label}",
                )
                self.at = number if end is None else end + 1
                return None
        if end is None:
            self._problem(opened, f"{tag} is never closed: {tag.closing} is missing")
            self.at, self.cut_off = len(self.lines), True
            return None
        self.at = end + 1
        return tuple(self.lines[opened:end])

    def _skip_thought(self) -> None:
        for number in range(self.at, len(self.lines)):
            _, closed, after = self.lines[number].partition("</think>")
            if closed:
                self.at = number
                self._cut(number, after)
                return
        self._problem(self.at + 1, "<think> is never closed: </think> is missing")
        self.at = len(self.lines)

    def _cut(self, number: int, rest: str) -> None:
        self.lines[number], self.tags[number] = rest, seen(rest)

    def _skip_to(self, closing: str) -> None:
        """Past the closing tag, if there is one, so that one slip is not reported line by line."""
        end = self._closing(closing)
        self.at = self.at if end is None else end + 1

    def _closing(self, closing: str) -> int | None:
        for number in range(self.at, len(self.lines)):
            tag = self.tags[number]
            if tag and tag.close and tag.closing == closing and not tag.fault:
                return number
        return None

    def _problem(self, line: int, what: str) -> None:
        self.problems.append(f"Line {line}: {what}.")
