"""Text of strangers and models, made safe to stand in what is published: descriptions, comments, titles, commit messages.

Nothing in it can mention anybody, close or refer to an issue, be a link, an image or HTML, hide or reorder characters, or end the block
it stands in. GitHub looks for mentions and references in the rendered text, where a backslash is gone: so a zero-width space
parts them, as Dependabot and Renovate do. In code, which GitHub does not search, text stays as it is and can be copied.
"""

from __future__ import annotations

import re

from runoff.visible import shown


class Markdown(str):
    """Text that is as it may be published; any other is escaped where it meets a template."""


_APART = "\u200b"
_REFERS = re.compile(
    r"(?<=[@#])(?=\S)"  # @team, #12, o/r#12, o/r@sha, an address
    r"|(?<=\bgh)(?=-\d)"
    r"|(?<=://)|(?<=\bwww)(?=\.)|(?<=mailto:)|(?<=xmpp:)"  # linked where they stand, and an issue's address is a reference
    r"|(?<=\bgithub)(?=\.com)",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[\\`*_{}\[\]~|$]|^[-+=#>]|(?<=^\d)[.)]|(?<=^\d\d)[.)]|(?<=^\d\d\d)[.)]")


def plain(text: str, limit: int = 0) -> str:
    """For a line that is no Markdown: a title, the subject of a commit. Newlines are blanks; cut at `limit` characters."""
    line = " ".join(shown(text).split())
    line = line if not limit or len(line) <= limit else line[: limit - 1].rstrip() + "…"
    return _REFERS.sub(_APART, line)


def prose(text: str, limit: int = 0) -> Markdown:
    """For a paragraph or a cell of a table, on one line."""
    line = plain(text, limit).replace("&", "&amp;").replace("<", "&lt;")
    return Markdown(_MARKS.sub(r"\\\g<0>", line))


def quoted(text: str, limit: int = 0) -> Markdown:
    """As a quotation of some paragraphs, every line of it marked; cut at `limit` characters."""
    text = shown(text).strip()
    text = text if not limit or len(text) <= limit else text[:limit].rstrip() + " …"
    lines = [prose(line) for line in text.split("\n")]
    return Markdown("\n".join(f"> {line}".rstrip() for line in lines))


def code(text: str, limit: int = 0) -> Markdown:
    """A name, in a line: of a file, a test, a model."""
    line = " ".join(shown(text).split())
    line = (line if not limit or len(line) <= limit else line[: limit - 1] + "…").replace(
        "|", "¦"
    )  # it may stand in a table
    fence = "`" * (_longest(line) + 1)
    blank = " " * (line.startswith("`") or line.endswith("`") or not line)
    return Markdown(f"{fence}{blank}{line}{blank}{fence}")


def fenced(text: str, language: str = "", limit: int = 0) -> Markdown:
    """A block of code, whose fence is longer than any in it. The middle of what is longer than `limit` is left out, and said to be."""
    text = shown(text).strip("\n")
    if limit and len(text) > limit:
        head, tail = text[: limit * 2 // 3], text[-(limit // 3) :]
        text = f"{head}\n[… {len(text) - len(head) - len(tail):,} characters left out …]\n{tail}"
    fence = "`" * max(3, _longest(text) + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def _longest(text: str) -> int:
    """The longest run of backticks."""
    return max((len(found) for found in re.findall(r"`+", text)), default=0)
