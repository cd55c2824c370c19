"""Who claims an issue already: what GitHub would close it by, what is named after it, what only speaks of it."""

from __future__ import annotations

from typing import Any

import pytest

from runoff.github.address import IssueAddress
from runoff.github.claims import found, names_issue

HERE = IssueAddress(base="https://github.com", owner="o", repo="r", number=123)


def pull(number: int, title: str = "t", body: str | None = "", head: str = "x", **more: Any) -> dict[str, Any]:
    return {"number": number, "title": title, "body": body, "head": {"ref": head}, "user": {"login": "eve"}} | more


def mention(slug: str = "o/r", state: str = "open", number: int = 5, body: str = "see #123") -> dict[str, Any]:
    issue = {"number": number, "title": "t", "body": body, "state": state, "pull_request": {"url": "x"}, "user": None}
    issue["html_url"] = f"https://github.com/{slug}/pull/{number}"
    return {"event": "cross-referenced", "source": {"type": "issue", "issue": issue}}


@pytest.mark.parametrize(
    "text",
    [
        "Fixes #123",
        "closes: #123.",
        "resolved o/r#123",
        "FIX https://github.com/o/r/issues/123",
        "fixed GH-123",
        "Closes  #123,#4",
    ],
)
def test_a_pull_request_that_would_close_it_claims_it(text: str) -> None:
    assert [claim.kind for claim in found(HERE, [], [pull(1, body=text)], [])] == ["closes"]
    assert [claim.kind for claim in found(HERE, [], [pull(1, title=text, body=None)], [])] == ["closes"]


@pytest.mark.parametrize(
    "text",
    ["Fixes #1234", "Fixes #12", "Fixes other/repo#123", "#123", "prefixes #123", "<!-- Fixes #123 -->",
     "fixes https://github.com/o/other/issues/123"],
)  # fmt: skip
def test_one_that_would_not_does_not(text: str) -> None:
    assert found(HERE, [], [pull(1, body=text)], []) == []


def test_one_that_speaks_of_it_is_said_to_and_where_it_is_not_open_or_elsewhere_it_is_not() -> None:
    events = [
        mention(),
        mention(slug="fork/r"),
        mention(state="closed", number=6),
        {"event": "labeled"},
        {"event": "cross-referenced"},
    ]
    (claim,) = found(HERE, events, [], [])
    assert (claim.kind, claim.name, claim.author) == ("mentions", "#5", "")
    assert "mentions it" in claim.line()
    (claim,) = found(HERE, [mention(body="Closes #123")], [pull(5, body="Closes #123", draft=True)], [])
    assert claim.line().startswith("draft pull request #5 by eve says it closes it")


@pytest.mark.parametrize(
    "name",
    [
        "fix/123-crash",
        "issue-123",
        "issues/123",
        "gh123",
        "gh-123",
        "123-crash",
        "eve/123",
        "bugfix/issue_123",
        "runoff/123",
    ],
)
def test_a_branch_named_after_it(name: str) -> None:
    assert names_issue(name, 123)
    assert [claim.name for claim in found(HERE, [], [], ["main", name])] == [name]
    assert [claim.kind for claim in found(HERE, [], [pull(1, head=name)], [name])] == ["closes"]


@pytest.mark.parametrize(
    "name", ["v1.123", "release-1.2.123", "issue-1234", "fix-12", "py123", "backport-9123", "fix/123.1", "main"]
)
def test_a_branch_that_only_has_the_number(name: str) -> None:
    assert not names_issue(name, 123)


def test_a_hostile_title_shows() -> None:
    (claim,) = found(HERE, [], [pull(1, title="\u202e\x1b[2J\nx", body="fixes #123")], [])
    assert "\x1b" not in claim.line()
    assert "\u202e" not in claim.line()
    assert "\n" not in claim.line()
