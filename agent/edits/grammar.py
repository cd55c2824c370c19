"""The grammar of a model's answer: one table of tags, from which it is described, recognized and written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple


class Pair(NamedTuple):
    """Whole lines, without their endings, that stand at one place of the original file, and those to stand there."""

    search: tuple[str, ...]
    replace: tuple[str, ...]


class Edit(NamedTuple):
    path: str
    pairs: tuple[Pair, ...]


class Hunk(NamedTuple):
    """What a `Pair` says, as a unified diff says it: each line behind its sign, a space, `-` or `+`."""

    lines: tuple[str, ...]

    @property
    def search(self) -> tuple[str, ...]:
        return tuple(line[1:] for line in self.lines if line[0] != "+")

    @property
    def replace(self) -> tuple[str, ...]:
        return tuple(line[1:] for line in self.lines if line[0] != "-")


class Diff(NamedTuple):
    """An `Edit` in its other form. Where a hunk stands is known by its lines, as with an `Edit`, not by their numbers."""

    path: str
    hunks: tuple[Hunk, ...]


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
    """An `Edit` or `Diff` of the same answer names the file by `target`, and is searched in the text `source` had."""

    source: str
    target: str


Change = Edit | Diff | File | Delete | Rename


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


def describe(*blocks: str, diffs: bool = False) -> str:
    """The grammar for a prompt; of the named blocks alone, or of all. `diffs`: with <patch> instead of <edit>."""
    offered = [name for name, tag in TAGS.items() if tag.says and name != ("edit" if diffs else "patch")]
    if unknown := set(blocks) - set(offered):
        raise ValueError(f"not a block: {', '.join(sorted(unknown))}; there are {', '.join(offered)}")
    chosen = [(name, TAGS[name]) for name in offered if not blocks or name in blocks]
    parts = [_RULES]
    for name, tag in chosen:
        says = _SAID_BESIDE_DIFFS.get(name, tag.says) if diffs else tag.says
        parts.append(f"{_EXAMPLES[name]}\n{says}{' Taken only alone, beside no other block.' if tag.alone else ''}")
    if any(tag.body for _, tag in chosen):
        parts.append(
            _LABELS.format(*(('<patch:A path="…">', "</patch:A>") if diffs else ("<search:A>", "</search:A>")))
        )
    return "\n\n".join(parts) + "\n"


def render(changes: Sequence[Change]) -> str:
    """The blocks that say `changes`, which `parse` reads back."""
    return "".join(f"{line}\n" for change in changes for line in _written(change))


class Tag(NamedTuple):
    body: Literal["text", "pairs"] | None = None
    needs: tuple[str, ...] = ()
    may: Mapping[str, tuple[str, ...]] = {}
    says: str = ""
    """What the block means, for the prompt; empty for a tag that is no block of its own."""
    alone: bool = False
    """It ends a conversation, so it does not count beside a block whose result is still to be seen."""


TAGS = {
    "edit": Tag(
        "pairs",
        ("path",),
        says="Changes a file. Each <search> holds whole lines that stand at exactly one place of the original file, "
        "with their exact indentation; <replace> holds the lines to stand there instead, none to delete them. An edit "
        "may have several pairs, on different lines. Every edit is made to the original files, not to the result of an "
        "earlier answer: repeat what you want to keep. Line endings, and a missing newline at the end, are kept.",
    ),
    "patch": Tag(  # not <diff>: prompts put that around the diffs they show, and it comes back in quotes
        "text",
        ("path",),
        says="Changes a file by hunks of a unified diff. A line that begins with @@ begins a hunk; the numbers on it are "
        "not read and can be left out. Every other line has its sign, a space, - or +, before its exact indentation; "
        "an empty line is an empty line that stays. The lines that stay and those taken away must stand, one after "
        "another, at exactly one place of the original file: show enough of those that stay. A patch may have several "
        "hunks, on different lines, and is about one file. Every patch is made to the original files, not to the result "
        "of an earlier answer: repeat what you want to keep. Line endings, and a missing newline at the end, are kept.",
    ),
    "search": Tag("text"),
    "replace": Tag("text"),
    "file": Tag(
        "text",
        ("path",),
        {"eol": ("crlf", "lf"), "end": ("none",)},
        says='Writes a whole file, a new one or in place of an old one. Optional: eol="crlf" or eol="lf" for its line '
        'endings, end="none" for no newline at its end.',
    ),
    "delete": Tag(None, ("path",), says="Deletes a file."),
    "rename": Tag(
        None,
        ("from", "to"),
        says="Renames a file. To change its text as well, add an <edit> for the new path; its <search> quotes the old "
        "text.",
    ),
    "test": Tag(
        "text",
        says="A complete test script, one in an answer. If its first and its last line are both ``` lines, they are "
        "dropped.",
    ),
    "done": Tag(None, says="Nothing more is to be done.", alone=True),
    "choose": Tag(None, ("id",), says="Chooses the candidate of that id.", alone=True),
}

BLANK = " \t\r"
_ATTRIBUTE = re.compile(r"""[ \t]+([a-z]+)=("[^"]*"|'[^']*')""")
_TAG_LINE = re.compile(
    rf"""<(?P<close>/?)(?P<name>{"|".join(TAGS)})(?::(?P<label>[A-Za-z0-9]+))?"""
    r"""(?P<rest>(?:[ \t](?:[^<>"']|"[^"]*"|'[^']*')*?)?)(?P<void>/?)>""",
)
_FENCE = re.compile(r"```+[A-Za-z0-9_+.-]*")


class Seen(NamedTuple):
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


def seen(line: str) -> Seen | None:
    """The tag that stands alone on the line."""
    match = _TAG_LINE.fullmatch(line.strip(BLANK))
    if not match:
        return None
    name, label, close = match["name"], match["label"], bool(match["close"])
    tag = TAGS[name]
    found = _ATTRIBUTE.findall(match["rest"])
    attributes = {key: value[1:-1] for key, value in found}
    good = (
        not _ATTRIBUTE.sub("", match["rest"]).strip(BLANK)
        and len(found) == len(attributes)
        and (not attributes if close else set(tag.needs) <= set(attributes) <= {*tag.needs, *tag.may})
        and all(attributes[key] in values for key, values in tag.may.items() if key in attributes)
        and bool(match["void"]) == (not close and not tag.body)
        and bool(tag.body or not (label or close))
    )
    return Seen(name, close, label, attributes, "" if good else _form(name))


def starts(line: str) -> Seen | None:
    """The tag with which a line begins that has more on it."""
    match = _TAG_LINE.match(line.strip(BLANK))
    return seen(match[0]) if match and not seen(line) else None


def _form(name: str) -> str:
    tag = TAGS[name]
    attributes = "".join(f' {key}="…"' for key in tag.needs)
    attributes += "".join(f" [{key}={'|'.join(map(_quoted, values))}]" for key, values in tag.may.items())
    return f"<{name}{attributes}> … </{name}>" if tag.body else f"<{name}{attributes}/>"


def is_fence(line: str) -> bool:
    return bool(_FENCE.fullmatch(line.strip(BLANK)))


def _written(change: Change) -> Iterator[str]:
    match change:
        case Edit(path, pairs):
            yield f"<edit path={_quoted(path)}>"
            for pair in pairs:
                yield from _enclosed("search", "", pair.search)
                yield from _enclosed("replace", "", pair.replace)
            yield "</edit>"
        case Diff(path, hunks):
            yield from _enclosed(
                "patch", f" path={_quoted(path)}", [line for hunk in hunks for line in ("@@", *hunk.lines)]
            )
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
    if any(seen(line) for line in lines):
        taken = {tag.label for tag in map(seen, lines) if tag}
        label = next(f":{label}" for label in _labels() if label not in taken)
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


_RULES = """\
Answer in the blocks below. Every tag stands alone on its line; the lines between an opening and a closing tag are \
taken exactly as they are. Text outside of blocks is not read, nor is a ``` line directly before an opening or after \
a closing tag. All changes to files in one answer are made together, or none is. Paths start at the root of the \
repository."""

_LABELS = """\
If the lines to be quoted hold one of these tags alone on a line, label the tag around them with letters or digits, \
for example <file:A path="…"> or {}: it is closed only by the same label, </file:A> or {}, and \
nothing in between is taken for a tag."""

_SAID_BESIDE_DIFFS = {
    "rename": "Renames a file. To change its text as well, add a <patch> from its old text for the new path."
}

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
    "patch": render(
        [
            Diff(
                "pkg/shapes.py",
                (
                    Hunk(("+import math", " import sys")),
                    Hunk((" def area(r):", "-    return 3 * r * r", "+    return math.pi * r * r")),
                ),
            )
        ]
    ).strip(),
    "file": render([File("pkg/new.py", ("def twice(x):", "    return 2 * x"))]).strip(),
    "delete": render([Delete("pkg/old.py")]).strip(),
    "rename": render([Rename("pkg/a.py", "pkg/b.py")]).strip(),
    "test": "\n".join(
        _enclosed(
            "test",
            "",
            (
                "import sys",
                "",
                "from pkg.shapes import area",
                "",
                'print("area(1) is", area(1))',
                "sys.exit(0 if area(1) > 3.14 else 2)",
            ),
        )
    ),
    "done": "<done/>",
    "choose": '<choose id="B"/>',
}
