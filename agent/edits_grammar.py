"""The grammar of a model's answer: one table of tags, from which it is described, parsed and written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple


class Pair(NamedTuple):
    """Whole lines, without their endings, to be found at one place of the original file, and what stands there instead."""

    search: tuple[str, ...]
    replace: tuple[str, ...]


class Edit(NamedTuple):
    path: str
    pairs: tuple[Pair, ...]


class File(NamedTuple):
    """The whole contents of a file, new or not."""

    path: str
    lines: tuple[str, ...]
    eol: Literal["crlf", "lf"] | None = None
    """None: as the file had it if it is there and has it throughout, else `lf`."""
    end: Literal["none"] | None = None
    """`none`: no newline after the last line."""


class Delete(NamedTuple):
    path: str


class Rename(NamedTuple):
    """An `Edit` of the same answer names the file by `target`, and is searched in the text `source` had."""

    source: str
    target: str


Change = Edit | File | Delete | Rename


class Answer(NamedTuple):
    edits: tuple[Change, ...] = ()
    """One edit in all, however many blocks it took. Empty if there is any problem: half an edit is never made."""
    tests: tuple[str, ...] = ()
    """Complete scripts. More than one is a problem, too, but none is dropped."""
    done: bool = False
    """Said, and nothing else beside it."""
    choose: str | None = None
    """The id chosen, and nothing else beside it."""
    problems: tuple[str, ...] = ()
    """To be told to the model, which has to answer again."""
    notices: tuple[str, ...] = ()
    """To be told to the model, which need not mind."""


def describe(*blocks: str) -> str:
    """The grammar for a prompt; of the named blocks alone, or of all."""
    chosen = [(name, tag) for name, tag in _TAGS.items() if tag.says and (not blocks or name in blocks)]
    if unknown := set(blocks) - {name for name, _ in chosen}:
        raise ValueError(f"not a block: {', '.join(sorted(unknown))}; there are {', '.join(_top())}")
    parts = [_RULES]
    parts += [f"{_EXAMPLES[name]}\n{tag.says}" for name, tag in chosen]
    if any(tag.body for _, tag in chosen):
        parts.append(_LABELS)
    if closing := [f"<{name}>" for name, tag in chosen if tag.alone]:
        parts.append(f"{_and(closing)} {'is' if len(closing) == 1 else 'are'} taken only alone, beside no other block.")
    return "\n\n".join(parts) + "\n"


def parse(reply: str) -> Answer:
    """What a reply says. Never raises: whatever is wrong is in `problems`, in the words the model is to be told."""
    return _Parser(reply.split("\n")).answer()


def render(changes: Sequence[Change]) -> str:
    """The blocks that say `changes`, which `parse` reads back."""
    return "".join(f"{line}\n" for change in changes for line in _written(change))


class _Tag(NamedTuple):
    body: Literal["text", "pairs"] | None = None
    needs: tuple[str, ...] = ()
    may: Mapping[str, tuple[str, ...]] = {}
    says: str = ""
    """What the block means, for the prompt; empty for a tag that is no block of its own."""
    alone: bool = False


_TAGS = {
    "edit": _Tag(
        "pairs",
        ("path",),
        says="Changes a file. Each <search> holds whole lines that stand at exactly one place of the original file, with their "
        "exact indentation; <replace> holds the lines to stand there instead, none to delete them. An edit may have several "
        "pairs, on different lines. Every edit is made to the original files, not to the result of an earlier answer: "
        "repeat what you want to keep. Line endings, and a missing newline at the end, are kept as the file has them.",
    ),
    "search": _Tag("text"),
    "replace": _Tag("text"),
    "file": _Tag(
        "text",
        ("path",),
        {"eol": ("crlf", "lf"), "end": ("none",)},
        says='Writes a whole file, a new one or in place of an old one. Optional: eol="crlf" or eol="lf" for its line endings, '
        'end="none" for no newline at its end.',
    ),
    "delete": _Tag(None, ("path",), says="Deletes a file."),
    "rename": _Tag(
        None,
        ("from", "to"),
        says="Renames a file. To change its text as well, add an <edit> for the new path; its <search> quotes the old text.",
    ),
    "test": _Tag(
        "text",
        says="A complete test script, one in an answer. If its first and its last line are both ``` lines, they are dropped.",
    ),
    "done": _Tag(None, says="Nothing more is to be done.", alone=True),
    "choose": _Tag(None, ("id",), says="Chooses the candidate of that id.", alone=True),
}

_BLANK = " \t\r"
_ATTRIBUTE = re.compile(r"""[ \t]+([a-z]+)=("[^"]*"|'[^']*')""")
_TAG_LINE = re.compile(
    rf"""<(?P<close>/?)(?P<name>{"|".join(_TAGS)})(?::(?P<label>[A-Za-z0-9]+))?"""
    r"""(?P<rest>(?:[ \t](?:[^<>"']|"[^"]*"|'[^']*')*?)?)(?P<void>/?)>""",
    re.DOTALL,
)
_FENCE = re.compile(r"```+[A-Za-z0-9_+.-]*")


class _Seen(NamedTuple):
    """A line that is a tag. `fault` says how it should read, if it is not quite one."""

    name: str
    close: bool
    label: str | None
    attributes: dict[str, str]
    fault: str

    @property
    def closing(self) -> str:
        return f"</{self.name}{f':{self.label}' if self.label else ''}>"

    def __str__(self) -> str:
        return self.closing if self.close else f"<{self.closing[2:]}"


def _tag(line: str) -> _Seen | None:
    match = _TAG_LINE.fullmatch(line.strip(_BLANK))
    if not match:
        return None
    name, label, close = match["name"], match["label"], bool(match["close"])
    tag = _TAGS[name]
    found = _ATTRIBUTE.findall(match["rest"])
    attributes = {key: value[1:-1] for key, value in found}
    good = (
        not _ATTRIBUTE.sub("", match["rest"]).strip(_BLANK)
        and len(found) == len(attributes)
        and (not attributes if close else set(tag.needs) <= set(attributes) <= {*tag.needs, *tag.may})
        and all(attributes[key] in values for key, values in tag.may.items() if key in attributes)
        and bool(match["void"]) == (not close and not tag.body)
        and bool(tag.body or not (label or close))
    )
    return _Seen(name, close, label, attributes, "" if good else _form(name))


def _form(name: str) -> str:
    tag = _TAGS[name]
    attributes = "".join(f' {key}="…"' for key in tag.needs)
    attributes += "".join(f" [{key}={'|'.join(map(_quoted, values))}]" for key, values in tag.may.items())
    return f"<{name}{attributes}> … </{name}>" if tag.body else f"<{name}{attributes}/>"


class _Parser:
    """One pass over the lines; `at` is the line not yet read. Lines are numbered from 1 in what is said of them."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        self.at = 0
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
                self.notices.append(f"{name} is taken only alone: <{name}> was left out of account.")
        alone = not beside and len({name for name, _ in self.final}) == 1
        return Answer(
            edits=() if self.problems else tuple(self.changes),
            tests=tuple(self.tests),
            done=alone and self.final[0][0] == "done",
            choose=self.final[0][1] if alone and self.final[0][0] == "choose" else None,
            problems=tuple(self.problems),
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
            self.lines[self.at] = line.partition("</think>")[2]
            return
        tag = _tag(line)
        self.at += 1
        if tag is None:
            started = _TAG_LINE.match(line.strip(_BLANK))
            if started:
                self.notices.append(f"Line {self.at}: {started[0]} has more on its line, so it is not taken as a tag.")
        elif tag.fault:
            self._problem(self.at, f"{line.strip(_BLANK)} is not understood; write {tag.fault}")
            self._skip_to(tag.closing)
        elif tag.close:
            self._problem(self.at, f"{tag} closes nothing that is open")
        elif tag.name == "edit":
            self._edit(tag)
        elif tag.name in ("search", "replace"):
            self._problem(self.at, f"{tag} stands outside of an <edit>")
            self._skip_to(tag.closing)
        elif _TAGS[tag.name].body:
            body = self._body(tag)
            if body is not None:
                self._text(tag, body)
        elif tag.name == "delete":
            self.changes.append(Delete(tag.attributes["path"]))
        elif tag.name == "rename":
            self.changes.append(Rename(tag.attributes["from"], tag.attributes["to"]))
        else:
            self.final.append((tag.name, tag.attributes.get("id", "")))

    def _text(self, tag: _Seen, body: tuple[str, ...]) -> None:
        if tag.name == "file":
            eol, end = tag.attributes.get("eol"), tag.attributes.get("end")
            lines_end: Literal["crlf", "lf"] | None = "crlf" if eol == "crlf" else "lf" if eol else None
            self.changes.append(File(tag.attributes["path"], body, lines_end, "none" if end else None))
            return
        if len(body) > 1 and _is_fence(body[0]) and body[-1].strip(_BLANK) and not body[-1].strip("`" + _BLANK):
            body = body[1:-1] if _is_fence(body[-1]) else body
        self.tests.append("".join(f"{line}\n" for line in body))

    def _edit(self, edit: _Seen) -> None:
        opened = self.at
        pairs: list[Pair] = []
        stray = 0
        faults = len(self.problems)
        while True:
            tag = self._next_in(edit, opened)
            if tag is None:
                return
            if isinstance(tag, str):
                stray = stray or self.at
                continue
            here = self.at
            if tag.close and tag.closing == edit.closing:
                break
            body = self._body(tag)
            if tag.name == "replace":
                self._problem(here, f"{tag} has no <search> before it")
                continue
            follows = self._next_in(edit, opened)
            while isinstance(follows, str):
                stray = stray or self.at
                follows = self._next_in(edit, opened)
            if follows is None:
                return
            if follows.name != "replace":
                self._problem(here, f"{tag} has no <replace> after it")
                self.at -= 1
                continue
            replace = self._body(follows)
            if body is not None and replace is not None:
                pairs.append(Pair(body, replace))
        if stray:
            self._problem(stray, "text in an <edit> must stand in <search> or <replace>, whose tags stand alone on their lines")
        elif not pairs and len(self.problems) == faults:
            self._problem(opened, f"{edit} holds no <search> and <replace>")
        self.changes.append(Edit(edit.attributes["path"], tuple(pairs)))

    def _next_in(self, edit: _Seen, opened: int) -> _Seen | str | None:
        """The next tag inside an edit, or a line that has no business there; None (and a problem) if the edit is not closed."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            tag = _tag(line)
            if tag and not tag.fault:
                inside = tag.name in ("search", "replace") and not tag.close
                if not inside and str(tag) != edit.closing:
                    self._problem(opened, f"{edit} is not closed before {tag} of line {self.at + 1}")
                    # A closing tag would be reported again as closing nothing.
                    self.at += tag.close
                    return None
            self.at += 1
            if tag and not tag.fault:
                return tag
            if line.strip(_BLANK) and not _is_fence(line):
                return line
        self._problem(opened, f"{edit} is never closed: {edit.closing} is missing")
        return None

    def _body(self, tag: _Seen) -> tuple[str, ...] | None:
        """The lines up to the closing tag; None and a problem if there is none, or another tag before it."""
        opened = self.at
        end = self._closing(tag.closing)
        for number in range(opened, len(self.lines) if end is None else end):
            inner = _tag(self.lines[number]) if tag.label is None else None
            if inner and not inner.fault:
                self._problem(
                    opened,
                    f"{tag} is not closed before {inner} of line {number + 1}. Close it with {tag.closing}; "
                    f"or, if line {number + 1} is text, label it: <{tag.name}:A …> … </{tag.name}:A>",
                )
                self.at = number if end is None else end + 1
                return None
        if end is None:
            self._problem(opened, f"{tag} is never closed: {tag.closing} is missing")
            self.at = len(self.lines)
            return None
        self.at = end + 1
        return tuple(self.lines[opened:end])

    def _skip_thought(self) -> None:
        for number in range(self.at, len(self.lines)):
            _, closed, after = self.lines[number].partition("</think>")
            if closed:
                self.at, self.lines[number] = number, after
                return
        self._problem(self.at + 1, "<think> is never closed: </think> is missing")
        self.at = len(self.lines)

    def _skip_to(self, closing: str) -> None:
        """Past the closing tag, if there is one, so that one slip is not reported line by line."""
        end = self._closing(closing)
        self.at = self.at if end is None else end + 1

    def _closing(self, closing: str) -> int | None:
        return next((i for i in range(self.at, len(self.lines)) if self.lines[i].strip(_BLANK) == closing), None)

    def _problem(self, line: int, what: str) -> None:
        self.problems.append(f"Line {line}: {what}.")


def _is_fence(line: str) -> bool:
    return bool(_FENCE.fullmatch(line.strip(_BLANK)))


def _written(change: Change) -> Iterator[str]:
    match change:
        case Edit(path, pairs):
            yield f"<edit path={_quoted(path)}>"
            for pair in pairs:
                yield from _enclosed("search", "", pair.search)
                yield from _enclosed("replace", "", pair.replace)
            yield "</edit>"
        case File(path, lines, eol, end):
            attributes = f" path={_quoted(path)}"
            attributes += f" eol={_quoted(eol)}" if eol else ""
            attributes += f" end={_quoted(end)}" if end else ""
            yield from _enclosed("file", attributes, lines)
        case Delete(path):
            yield f"<delete path={_quoted(path)}/>"
        case Rename(source, target):
            yield f"<rename from={_quoted(source)} to={_quoted(target)}/>"


def _enclosed(name: str, attributes: str, lines: Sequence[str]) -> Iterator[str]:
    if any("\n" in line for line in lines):
        raise ValueError("a line cannot hold a newline")
    label = ""
    if any(_tag(line) for line in lines):
        taken = {line.strip(_BLANK) for line in lines}
        label = next(f":{label}" for label in _labels() if f"</{name}:{label}>" not in taken)
    yield f"<{name}{label}{attributes}>"
    yield from lines
    yield f"</{name}{label}>"


def _labels() -> Iterator[str]:
    yield from "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    number = 1
    while True:
        yield f"A{number}"
        number += 1


def _quoted(value: str) -> str:
    quote = "'" if '"' in value else '"'
    if quote in value or "\n" in value:
        raise ValueError(f"no attribute can say {value!r}: it has a newline, or both kinds of quotes")
    return f"{quote}{value}{quote}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _top() -> list[str]:
    return [name for name, tag in _TAGS.items() if tag.says]


_RULES = """\
Answer in the blocks below. Every tag stands alone on its line; the lines between an opening and a closing tag are taken \
exactly as they are. Text outside of blocks is not read, nor is a ``` line directly before an opening or after a closing tag. \
Paths are relative to the root of the repository."""

_LABELS = """\
If the lines to be quoted hold one of these tags alone on a line, label the tag around them with letters or digits, for example \
<file:A path="…"> or <search:A>: it is closed only by the same label, </file:A> or </search:A>, and nothing in between is \
taken for a tag."""

_EXAMPLES = {
    "edit": render(
        [
            Edit(
                "pkg/shapes.py",
                (
                    Pair(("import sys",), ("import math", "import sys")),
                    Pair(("def area(r):", "    return 3 * r * r"), ("def area(r):", "    return math.pi * r * r")),
                ),
            )
        ]
    ).strip(),
    "file": render([File("pkg/new.py", ("def twice(x):", "    return 2 * x"))]).strip(),
    "delete": render([Delete("pkg/old.py")]).strip(),
    "rename": render([Rename("pkg/a.py", "pkg/b.py")]).strip(),
    "test": "\n".join(_enclosed("test", "", ("from pkg.shapes import area", "", "assert area(1) > 3.14"))),
    "done": "<done/>",
    "choose": '<choose id="B"/>',
}
