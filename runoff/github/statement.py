"""What an issue says, as the problem statement: title, text, comments, and the code that they link to.

Pure functions on text that strangers wrote. Nothing in it is believed: what hides is shown, what is too long is cut and said
to be, templates that nobody filled in are dropped, and so is, unless asked for, what was written when the answer was known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple
from urllib.parse import unquote

from runoff.agent.prompts import inside
from runoff.github.address import IssueAddress
from runoff.github.client import Comment, Issue
from runoff.visible import shown

Which = Literal["auto", "all", "none"]
"""auto: what people wrote, without what gives the answer away; all: everything; none: the issue's own text alone."""

BODY, COMMENT, COMMENTS = 40_000, 8_000, 40_000
"""Characters of the issue's text, of one comment, of all comments together."""
LINE = 2_000
LINKS, LINES, QUOTED = 10, 120, 8_000
"""Links that are quoted, lines of each, characters of each."""

_BOTS = re.compile(
    r"\[bot\]$|^(codecov(-io|-commenter)?|coveralls|netlify|vercel|cla-?assistant|github-actions|stale|dependabot|"
    r"renovate|pre-commit-ci|googlebot|k8s-ci-robot|rust-(highfive|log-analyzer|timer)|bors|sonarcloud|welcome|allcontributors)$",
    re.I,
)
_KNOWS = re.compile(
    r"""
    \b(?:fixed|solved|resolved|addressed|implemented|closed|merged|released|shipped)\s+
    (?:in|by|with|via|on|as\s+of|as\s+part\s+of|through|upstream|since)\s+
    (?:\S{0,40}\#\d+|GH-\d+|(?:the\s+)?(?:pull\s+request|PR|commit|release|version|master|main|develop|dev|trunk|nightly|latest|next)\b
      |https?://|v?\d+(?:\.\d+)+|[0-9a-f]{7,40}\b)
    | \b(?:clos|fix|resolv)(?:e[sd]?|ing)\s*:?\s+(?:\S{0,40}\#\d+|GH-\d+|https?://\S+/(?:issues|pull)/\d+|this\s+(?:in|by|via|with))
    | \b(?:clos|fix|resolv)(?:es|ed|ing)\s+(?:via|in|by)\s+[0-9a-f]{7,40}\b
    | https?://[^\s/]+/[^\s/]+/[^\s/]+/(?:pull|commit|compare)/[^\s)]+
    | \b(?:PR|pull\s+request|merge\s+request|MR)\s*:?\s*(?:\S{0,40}\#|!)\d+
    | \b(?:opened|submitted|sent|created|filed|made|raised|pushed)\s+(?:a|an|the)?\s*(?:\w+\s+){0,2}(?:PR|pull\s+request|fix|patch)\b
    | \bthe\s+fix\s+(?:is|was|went|landed|will)\b | \bfix(?:\s+is|ed)?\s+(?:on|in)\s+(?:master|main)\b
    """,
    re.I | re.X,
)
_INSIDERS = {"OWNER", "MEMBER", "COLLABORATOR"}
_PATCH = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*(?:diff|patch)\b|^(?:diff --git |@@ -\d+(?:,\d+)? \+\d+)", re.M)
_UNFILLED = re.compile(
    r"(?:_?no response_?|n/?a|none|\.{3}|…|-|tbd|\[?(?:please\s+)?(?:fill|describe|insert|enter|add)\b[^\n]{0,80})?[.\s]*",
    re.I,
)
_HEADING = re.compile(r" {0,3}(#{1,6})\s+\S|\*\*[^*\n]{1,80}\*\*:?\s*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(?!.*`)|^ {0,3}(~{3,})")
_DATA = re.compile(r"data:[A-Za-z0-9.+/-]{1,80}(?:;[^,\s\"')>]{0,80})?,[A-Za-z0-9+/=%_.~-]{64,}")
_IMAGE = re.compile(
    r"!\[([^\[\]\n]{0,300})\]\((?:[^()\s]|\([^()\s]*\)){0,1000}(?:\s+\"[^\"\n]{0,300}\")?\)|<(?:img|video|source)\b[^>\n]{0,1000}>",
    re.I,
)
_ATTACHED = re.compile(
    r"\[([^\[\]\n]{1,300})\]\((https?://[^\s()]{0,300}/(?:user-attachments/)?files/[^\s()]{1,1000})\)"
)
_BLOB = re.compile(
    r"(https?://[^\s/<>()\"'\[\]]{1,200})/([\w.-]{1,100})/([\w.-]{1,100})/blob/([^\s<>()\"'\[\]`#?]{1,500})(?:\?[^\s#<>()\"'\[\]`]{0,100})?#L(\d{1,7})(?:C\d+)?(?:-L?(\d{1,7})(?:C\d+)?)?"
)


class Link(NamedTuple):
    """Lines of a file of the repository that somebody pointed at."""

    ref: str
    """A commit's name, whole; or the name of a branch or a tag."""
    path: str
    first: int
    last: int

    @property
    def at_commit(self) -> bool:
        return re.fullmatch(r"[0-9a-f]{40}", self.ref) is not None

    def __str__(self) -> str:
        return (
            f"{self.path}, lines {self.first} to {self.last}"
            if self.last > self.first
            else f"{self.path}, line {self.first}"
        )


class Statement(NamedTuple):
    text: str
    notes: tuple[str, ...]
    """What was left out, a line each, for the user."""


def statement(
    address: IssueAddress,
    issue: Issue,
    comments: Sequence[Comment] = (),
    which: Which = "auto",
    quote: Callable[[Link], str | None] = lambda link: None,
) -> Statement:
    """The problem statement. `quote` gives the lines that a link points at, or None where they are not to be had."""
    notes = list[str]()
    body, said = _readable(issue.body or "", BODY)
    if which == "auto" and issue.body:
        body, dropped = _without_answers(body)
        said += [f"{dropped} lines that tell of the fix"] if dropped else []
    notes += [f"left out of the issue's text: {', '.join(said)}"] if said else []
    parts = [f"# {_line(issue.title) or '(no title)'}"]
    if body:
        parts.append(body)
    elif not (issue.body or "").strip():
        notes.append("the issue has no text beside its title")
    kept, left = _kept(issue, comments, which)
    notes += left
    talk, cut = _talk(kept)
    notes += cut
    if talk:
        parts += ["## What was said about it", *talk]
    quoted, unread = _code(address, "\n".join(parts), quote)
    notes += unread
    if quoted:
        parts += ["## Code that is linked to above", *quoted]
    # Prompts show it between these tags. What an issue of an issue tracker says of `<issue>` loses its bracket, and is as readable.
    return Statement(inside("\n\n".join(parts).strip(), "issue") + "\n", tuple(notes))


def links(address: IssueAddress, text: str) -> list[Link]:
    """The lines of files of the issue's own repository that a text links to, each once, in order."""
    found = dict[Link, None]()
    for base, owner, repo, rest, first, last in _BLOB.findall(text):
        same = base.lower().replace("http://github.com", "https://github.com").replace("//www.", "//") == address.base
        ref, _, path = unquote(rest).partition("/")
        if not same or f"{owner}/{repo}".lower() != address.slug.lower() or not path or "\0" in path:
            continue
        low, high = sorted((int(first), int(last or first)))
        if low >= 1:
            found[Link(ref, path, low, high)] = None
    return list(found)


def _readable(text: str, limit: int) -> tuple[str, list[str]]:
    """Text as it is to be read, and what was left out of it."""
    said = list[str]()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, data = _DATA.subn("[data-left-out]", text)
    whole, text = len(text), text[: 2 * limit]  # so that no work is done on what is dropped anyway
    text = shown(_plain(text))
    out = list[str]()
    images = files = 0
    for code, chunk in _chunks(text):
        if not code:
            chunk = _uncommented(chunk)
            chunk, count = _ATTACHED.subn(r"[attached file: \1]", chunk)
            files += count
            chunk, count = _IMAGE.subn(lambda found: f"[image: {found[1]}]" if found[1] else "[image]", chunk)
            images += count
            chunk = _filled_in(chunk)
        out.append(chunk)
    text = _without_empty_sections("".join(out))
    lines = text.split("\n")
    long = sum(len(line) > LINE for line in lines)
    text = "\n".join(line if len(line) <= LINE else f"{line[:LINE]} […]" for line in lines)
    text = re.sub(r"\n{4,}", "\n\n\n", text).strip()
    if whole > 2 * limit or len(text) > limit:
        text = _cut(text, limit)
        said.append(f"all but {limit:,} of {whole:,} characters")
    said += [f"the ends of {long} long lines"] if long else []
    said += [f"{data} data URIs"] if data else []
    said += [f"{images} images"] if images else []
    said += [f"{files} attached files"] if files else []
    return text, said


def _plain(text: str) -> str:
    """Without what joins and colours emoji, which is invisible and means nothing; anything else that hides will show."""
    return re.sub(r"(?<=[^\x00-\u02ff])[\ufe0e\ufe0f\u200d]+|[\u200b\ufeff](?=[^\x00-\u02ff]|$)", "", text)


def _chunks(text: str) -> list[tuple[bool, str]]:
    """Text in turns: what is prose (False), what is a fenced block of code (True). Together they are the text."""
    chunks = list[tuple[bool, str]]()
    now, fence = list[str](), ""
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        mark = (found[1] or found[2]) if found else ""
        if not fence and mark:
            chunks.append((False, "".join(now)))
            now, fence = [line], mark
        elif fence and mark and mark[0] == fence[0] and len(mark) >= len(fence) and not line.strip().strip(mark[0]):
            chunks.append((True, "".join([*now, line])))
            now, fence = [], ""
        else:
            now.append(line)
    chunks.append((bool(fence), "".join(now)))
    return [chunk for chunk in chunks if chunk[1]]


def _uncommented(text: str) -> str:
    """Without HTML comments: in prose nobody sees them. One that is not closed is text, as it is for whoever reads the page."""
    out, at = list[str](), 0
    while (begin := text.find("<!--", at)) >= 0 and (end := text.find("-->", begin + 4)) >= 0:
        out.append(text[at:begin])
        at = end + 3
    return "".join(out) + text[at:]


def _filled_in(text: str) -> str:
    """Without what a form says for a field that was left empty."""
    return re.sub(r"(?m)^[ \t]*_No response_[ \t]*$", "", text)


def _without_empty_sections(text: str) -> str:
    """Without headings under which nothing stands but what a template put there."""
    lines, code = list[tuple[bool, str]](), False
    for code, chunk in _chunks(text):
        lines += [(code, line) for line in chunk.split("\n")[: -1 if chunk.endswith("\n") else None]]
    heads = [n for n, (code, line) in enumerate(lines) if not code and _HEADING.match(line)]
    gone, following = set[int](), None
    for here, after in reversed(list(pairwise([*heads, len(lines)]))):
        between = "\n".join(line for _, line in lines[here + 1 : after]).strip()
        deeper = following is not None and _depth(lines[following][1]) > _depth(lines[here][1])
        if not deeper and _UNFILLED.fullmatch(between):  # a heading over sections that say something stays
            gone |= {*range(here, after)}
        else:
            following = here
    return "\n".join(line for n, (_, line) in enumerate(lines) if n not in gone)


def _depth(heading: str) -> int:
    found = re.match(r" {0,3}(#+)", heading)
    return len(found[1]) if found else 7


def _without_answers(text: str) -> tuple[str, int]:
    """Without the lines of prose in which the issue was edited to say how it ended."""
    dropped, out = 0, list[str]()
    for code, chunk in _chunks(text):
        if code:
            out.append(chunk)
            continue
        lines = chunk.split("\n")
        kept = [line for line in lines if not _KNOWS.search(line)]
        dropped += len(lines) - len(kept)
        out.append("\n".join(kept))
    return "".join(out).strip(), dropped


def _kept(issue: Issue, comments: Sequence[Comment], which: Which) -> tuple[list[Comment], list[str]]:
    """The comments that are shown, and what is said of the others."""
    if which == "none":
        return [], [f"{len(comments)} comments left out, as asked"] if comments else []
    if which == "all":
        return list(comments), []
    kept, counted = list[Comment](), {"of programs": 0, "that tell of the fix": 0, "from after it was closed": 0}
    for comment in comments:
        text = comment.body or ""
        if comment.user and (comment.user.type == "Bot" or _BOTS.search(comment.user.login)):
            counted["of programs"] += 1
        elif issue.closed_at and comment.created_at >= issue.closed_at:
            counted["from after it was closed"] += 1
        elif _KNOWS.search(text) or (comment.author_association in _INSIDERS and _PATCH.search(text)):
            counted["that tell of the fix"] += 1
        else:
            kept.append(comment)
    left = ", ".join(f"{count} {what}" for what, count in counted.items() if count)
    return kept, [f"comments left out: {left}; --comments all keeps them"] if left else []


def _talk(comments: Sequence[Comment]) -> tuple[list[str], list[str]]:
    talk, total, cut, left = list[str](), 0, 0, 0
    for number, comment in enumerate(comments):
        if total >= COMMENTS:
            left = len(comments) - number
            break
        text, said = _readable(comment.body or "", COMMENT)
        if not text:
            continue
        cut += bool(said)
        who = _line(comment.user.login) if comment.user else "somebody"
        role = " (of the project)" if comment.author_association in _INSIDERS else ""
        talk.append(f"### {who}{role}, {comment.created_at:%Y-%m-%d}\n\n{text}")
        total += len(text)
    notes = [f"{cut} comments were shortened"] if cut else []
    notes += [f"the last {left} comments are left out: there are {len(comments)}"] if left else []
    return talk, notes


def _code(address: IssueAddress, text: str, quote: Callable[[Link], str | None]) -> tuple[list[str], list[str]]:
    found, quoted, missing = links(address, text), list[str](), list[str]()
    for link in found[:LINKS]:
        lines = quote(link)
        if lines is None:
            missing.append(str(link))
            continue
        lines = _cut(shown(lines), QUOTED)
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", lines)), default=0))
        quoted.append(f"{shown(str(link))}:\n\n{fence}\n{lines}\n{fence}")
    notes = [f"linked code that could not be quoted: {shown('; '.join(missing))[:300]}"] if missing else []
    if len(found) > LINKS:
        notes.append(f"{len(found) - LINKS} more links to code are not quoted")
    return quoted, notes


def _line(text: str) -> str:
    return shown(_plain(" ".join(text.split())))[:500]


def _cut(text: str, limit: int) -> str:
    """The beginning and the end: a traceback's last line says most."""
    if len(text) <= limit:
        return text
    return (
        f"{text[: limit * 3 // 4]}\n[… {len(text) - limit:,} characters left out …]\n{text[len(text) - limit // 4 :]}"
    )


def excerpt(data: bytes, link: Link) -> str | None:
    """The lines that a link points at, LINES at most; None where the file has no such line or is no text."""
    if b"\0" in data:
        return None
    lines = data.decode("utf-8", "replace").splitlines()
    if link.first > len(lines):
        return None
    return "\n".join(lines[link.first - 1 : min(link.last, link.first + LINES - 1)])


__all__ = ["Link", "Statement", "Which", "excerpt", "links", "statement"]
