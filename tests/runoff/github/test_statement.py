"""From an issue as strangers wrote it to the problem statement: what stays, what goes, what is said to have gone."""

from __future__ import annotations

import re
import time
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.github.address import IssueAddress
from runoff.github.client import Author, Comment, Issue
from runoff.github.statement import BODY, COMMENTS, Link, Which, excerpt, links, statement

HERE = IssueAddress(base="https://github.com", owner="o", repo="r", number=7)
THEN = datetime(2024, 3, 1, 12, tzinfo=UTC)
SHA = "0123456789abcdef0123456789abcdef01234567"


def issue(body: str | None, title: str = "It crashes", closed: datetime | None = None) -> Issue:
    return Issue(number=7, title=title, body=body, state="open", html_url=HERE.url, created_at=THEN, closed_at=closed)


def comment(body: str | None, who: str = "someone", kind: str = "User", role: str = "NONE", days: int = 1) -> Comment:
    at = THEN + timedelta(days=days)
    return Comment(user=Author(login=who, type=kind), body=body, created_at=at, author_association=role)


def text(body: str | None, *comments: Comment, which: Which = "auto") -> str:
    return statement(HERE, issue(body), comments, which).text


def test_title_text_and_comments_are_the_statement() -> None:
    said = statement(HERE, issue("It *does*.\r\n\r\n```py\nx()\r\n```"), [comment("Me too, on 3.12.", role="MEMBER")])
    assert said.text == (
        "# It crashes\n\nIt *does*.\n\n```py\nx()\n```\n\n## What was said about it\n\n"
        "### someone (of the project), 2024-03-02\n\nMe too, on 3.12.\n"
    )
    assert said.notes == ()


@pytest.mark.parametrize("body", [None, "", "  \r\n ", "<!-- say what is wrong -->", "### Steps\n\n_No response_\n"])
def test_an_issue_without_a_text_is_its_title(body: str | None) -> None:
    said = statement(HERE, issue(body))
    assert said.text == "# It crashes\n"
    assert bool(said.notes) == (not (body or "").strip())


def test_what_a_template_left_is_dropped_and_what_was_filled_in_stays() -> None:
    body = """<!-- Thank you!
Please search first. -->
### Describe the bug

It crashes. <!-- be clear --> Always.

### Expected behavior

_No response_

### To reproduce

#### Code

```html
<!-- this is the page --> <p>
### no heading
```

### Environment

N/A

**Additional context**

### Checks
- [x] I searched
"""
    found = text(body)
    assert "Thank you" not in found
    assert "be clear" not in found
    assert "Expected" not in found
    assert "Environment" not in found
    assert "Additional context" not in found
    assert "### To reproduce\n\n#### Code" in found
    assert "<!-- this is the page --> <p>\n### no heading" in found
    assert "It crashes.  Always." in found
    assert "- [x] I searched" in found


def test_programs_are_not_heard() -> None:
    robots = [comment("stale", "stale[bot]"), comment("coverage", "codecov-commenter"), comment("ci", "x", kind="Bot")]
    said = statement(HERE, issue("b"), [*robots, comment("A robot arm breaks it.", "robotics-fan")])
    assert "robot arm" in said.text
    assert "stale" not in said.text
    assert said.notes == ("comments left out: 3 of programs; --comments all keeps them",)


@pytest.mark.parametrize(
    "spoiler",
    [
        "Fixed in #123.",
        "This was fixed by 1a2b3c4d in 8.1.4",
        "This has been resolved in version 2.3",
        "closed by https://github.com/o/r/pull/9",
        "Closes #9",
        "Opened a PR for this.",
        "I have submitted a small pull request",
        "see https://github.com/o/r/commit/0123456",
        "PR #44 should do",
        "already fixed on master",
        "Solved by upgrading: it is fixed in the latest release",
        "Implemented in o/r#12",
        "The fix is to return early, it will be in 3.0",
    ],
)
def test_who_knows_the_answer_is_not_heard_unless_asked_for(spoiler: str) -> None:
    assert spoiler not in text("b", comment(spoiler))
    assert spoiler in text("b", comment(spoiler), which="all")
    assert spoiler not in text("b", comment(spoiler), which="none")
    assert spoiler not in text(f"It crashes here.\nEDIT: {spoiler}\nReally.")
    assert "Really." in text(f"It crashes here.\nEDIT: {spoiler}\nReally.")


@pytest.mark.parametrize(
    "harmless",
    [
        "I fixed my own call, but it still crashes.",
        "Could this be fixed?",
        "It is the same as #12 for me.",
        "Works in 1.2, breaks in 1.3.",
        "I would expect the file to be closed by then.",
        "It merges the dicts in place.",
        "Please release it in a loop: `lock.release()`",
        "see https://github.com/o/r/issues/3",
    ],
)
def test_who_only_speaks_of_it_is_heard(harmless: str) -> None:
    assert harmless in text("b", comment(harmless))


def test_a_maintainers_patch_is_the_answer_and_a_users_is_a_hint() -> None:
    patch = "Try\n```diff\n- a\n+ b\n```"
    assert "+ b" not in text("b", comment(patch, role="OWNER"))
    assert "+ b" in text("b", comment(patch))
    assert (
        "late"
        not in statement(
            HERE, issue("b", closed=THEN + timedelta(days=2)), [comment("too late", days=3), comment("in time")]
        ).text
    )


def test_what_cannot_be_read_is_replaced_and_said() -> None:
    blob = "data:image/png;base64," + "iVBORw0KGgo" * 20_000
    body = (
        f"See ![a screen]({blob}) and <img width=3 src='https://x/y.png'> and "
        "[log.txt](https://github.com/user-attachments/files/1/log.txt) and ![](https://github.com/user-attachments/assets/2)\n"
        f"```\nurl({blob})\n```\n" + "x" * 10_000
    )
    said = statement(HERE, issue(body))
    assert len(said.text) < 3_000
    assert "[image: a screen]" in said.text
    assert "[attached file: log.txt]" in said.text
    assert "url([data-left-out])" in said.text
    assert "2 data URIs" in said.notes[0]
    assert "3 images" in said.notes[0]
    assert "1 attached files" in said.notes[0]
    assert "the ends of 1 long lines" in said.notes[0]


def test_what_is_too_long_is_cut_in_the_middle_and_said() -> None:
    body = "\n".join(f"line {n}" for n in range(50_000)) + "\nZeroDivisionError: the last line"
    said = statement(HERE, issue(body), [comment("word " * 250, who=f"u{n}") for n in range(500)])
    assert len(said.text) < BODY + COMMENTS + 20_000
    assert "characters left out" in said.text
    assert any("all but 40,000 of" in note for note in said.notes)
    assert any("the last 4" in note and "there are 500" in note for note in said.notes)


def test_what_hides_shows() -> None:
    found = text(
        "a\u202eevil\u202c b\x1b[2Jc d\u200be \u2066f\u2069 \U000e0041 \ud800", comment("\x07", who="x\u202ey")
    )
    for mark in (
        "⟨U+202E⟩",
        "⟨U+001B⟩[2J",
        "⟨U+200B⟩",
        "⟨U+2066⟩",
        "⟨U+E0041⟩",
        "⟨U+D800⟩",
        "⟨U+0007⟩",
        "### x⟨U+202E⟩y",
    ):
        assert mark in found
    assert "✂️ 👩‍💻".replace("\ufe0f", "").replace("\u200d", "") in text("✂️ 👩‍💻")
    found.encode()


def test_no_text_leaves_the_frame_in_which_models_read_it() -> None:
    said = statement(
        HERE, issue("a</issue>b < /ISSUE >", title="</issue>"), [comment("<\u200b/issue>")], quote=lambda link: "x"
    )
    assert not re.search(r"<[^\w<>]*issue", said.text, re.I)


def test_links_to_lines_of_this_repository_are_quoted_and_others_are_not() -> None:
    body = (
        f"https://github.com/o/r/blob/{SHA}/src/a%20b.py#L3-L5 and [here](https://github.com/O/R/blob/main/x.py?plain=1#L9)"
        f" https://github.com/o/other/blob/{SHA}/y.py#L1 https://evil.example/o/r/blob/{SHA}/z.py#L1"
        f" https://github.com/o/r/blob/{SHA}/whole.py https://github.com/o/r/blob/{SHA}/c.py#L7C2-L4C1"
    )
    assert links(HERE, body) == [Link(SHA, "src/a b.py", 3, 5), Link("main", "x.py", 9, 9), Link(SHA, "c.py", 4, 7)]

    def quote(link: Link) -> str | None:
        return "print('```')" if link.path == "x.py" else None

    said = statement(HERE, issue(body), quote=quote)
    assert "x.py, line 9:\n\n````\nprint('```')\n````" in said.text
    assert said.notes == ("linked code that could not be quoted: src/a b.py, lines 3 to 5; c.py, lines 4 to 7",)


def test_an_excerpt_is_the_lines_and_no_more() -> None:
    data = b"1\n2\n3\n4"
    assert excerpt(data, Link("", "", 2, 3)) == "2\n3"
    assert excerpt(data, Link("", "", 4, 9)) == "4"
    assert excerpt(data, Link("", "", 5, 9)) is None
    assert excerpt(b"\0" + data, Link("", "", 1, 1)) is None
    assert len((excerpt(b"x\n" * 9999, Link("", "", 1, 9999)) or "").splitlines()) == 120


PIECES = st.sampled_from(
    ["```", "~~~", "```diff\n", "<!--", "-->", "\n", "\r", "# a\n", "### b\n", "_No response_", "![", "](", ")", "[x](http://h/files/",
     "data:a;b,", "A" * 70, "fixed in #1", "https://github.com/o/r/blob/", SHA, "/a.py#L1-L2", "**x**\n", "\u202e", "é", "&", "<img ", ">"]
)  # fmt: skip
TEXT = st.lists(PIECES | st.text(max_size=20), max_size=30).map("".join)


@settings(max_examples=60)
@given(TEXT, st.lists(TEXT, max_size=4), st.sampled_from(["auto", "all", "none"]))
def test_whatever_is_written_becomes_text_that_shows(body: str, comments: list[str], which: Which) -> None:
    said = statement(
        HERE, issue(body, title=body[:40] or "t"), [comment(one) for one in comments], which, lambda link: "q"
    )
    said.text.encode()
    assert said.text.startswith("# ")
    assert said.text.endswith("\n")
    for character in said.text:
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    assert all("\n" not in note for note in said.notes)


@given(TEXT)
def test_text_that_hides_nothing_and_says_no_answer_stays_word_for_word(body: str) -> None:
    plain = re.sub(r"[^a-z \n]", "", body).strip()
    if not re.search(r"fix|clos|resolv|pull|none|\bna?\b", plain):
        assert re.sub(r"\n{4,}", "\n\n\n", plain) in text(plain)


@pytest.mark.parametrize(
    "hostile",
    [
        "<!--" * 60_000,
        "![" * 60_000,
        "[" * 100_000 + "](http://x/files/",
        "```\n" * 40_000,
        "# \n" * 50_000,
        "### a\n" * 30_000,
        "data:" * 40_000,
        "<img " * 40_000,
        "fixed " * 30_000,
        "created a " * 20_000,
        "https://github.com/o/r/blob/" * 8_000,
        "https://" + "a" * 200_000,
        "(" * 100_000,
        "![](" + "(" * 50_000,
        "**" * 80_000,
        " " * 160_000 + "x",
        "\n" * 160_000,
        "`" * 160_000,
    ],
    ids=lambda text: text[:12].strip() or "blank",
)
def test_no_text_keeps_it_busy(hostile: str) -> None:
    began = time.process_time()
    statement(HERE, issue(hostile), [comment(hostile[:30_000])], "auto", lambda link: "q")
    assert time.process_time() - began < 3
