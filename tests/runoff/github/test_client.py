"""The one door to GitHub's API, against a server on loopback that refuses, limits, moves and stumbles as GitHub does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runoff.github.access import Token
from runoff.github.address import IssueAddress
from runoff.github.client import GitHub, GitHubFailed
from tests.runoff.github.conftest import TOKEN
from tests.runoff.github.server import FakeGitHub, error, make_issue

NOW = 1_800_000_000


class Waiting:
    """A clock that is moved on by whoever sleeps, and what was said aloud."""

    def __init__(self) -> None:
        self.now, self.said = float(NOW), list[str]()
        self.slept = list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def client(fake: FakeGitHub, waiting: Waiting, *, token: str | None = TOKEN, patience: float = 600) -> GitHub:
    known = Token(token, "GITHUB_TOKEN") if token else None
    how: dict[str, Any] = {"sleep": waiting.sleep, "now": lambda: waiting.now, "say": waiting.said.append}
    return GitHub(fake.base, token=known, patience=patience, **how)


def address(fake: FakeGitHub, slug: str = "o/r", number: int = 1) -> IssueAddress:
    owner, _, repo = slug.partition("/")
    return IssueAddress(base=fake.base, owner=owner, repo=repo, number=number)


def first(*answers: tuple[int, dict[str, str], Any]) -> Callable[..., Any]:
    """These answers, one after the other; then what is usual."""
    left = list(answers)
    return lambda path, query: left.pop(0) if left else None


def refused(asking: Callable[[], Any]) -> GitHubFailed:
    with pytest.raises(GitHubFailed) as found:
        asking()
    assert "\n" not in str(found.value)
    assert TOKEN not in str(found.value)
    return found.value


def test_an_issue_its_repository_and_five_hundred_comments(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r", body=None)
    fake.say("o/r", 1, *((f"user{n}", f"comment {n}") for n in range(500)))
    here = client(fake, waiting)
    assert here.repository(address(fake)).default_branch == "main"
    where, issue = here.issue(address(fake))
    assert (where, issue.body, issue.comments) == (address(fake), None, 500)
    comments = here.comments(address(fake))
    assert [comment.body for comment in comments] == [f"comment {n}" for n in range(500)]
    assert len([path for _, path, _ in fake.requests if "/comments" in path]) == 5
    assert len(here.comments(address(fake), limit=120)) == 120
    assert len([path for _, path, _ in fake.requests if "/comments" in path]) == 7
    assert all(headers["authorization"].endswith(TOKEN) for _, _, headers in fake.requests)
    assert waiting.said == []


def test_whoever_left_github_left_comments(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    fake.say("o/r", 1, ("x", "a comment"))
    fake.lists["/repos/o/r/issues/1/comments"][0] |= {"user": None, "body": None}
    assert client(fake, waiting).comments(address(fake))[0].user is None


def test_a_next_page_elsewhere_is_asked_here(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    fake.say("o/r", 1, *(("x", str(n)) for n in range(150)))
    fake.api_base = "http://evil.example/api/v3"
    assert len(client(fake, waiting).comments(address(fake))) == 150


def test_a_primary_limit_is_waited_for_and_said(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    used = {"x-ratelimit-remaining": "0", "x-ratelimit-limit": "5000", "x-ratelimit-reset": str(NOW + 90)}
    fake.routes["/repos/o/r/issues/1"] = first((403, used, error("API rate limit exceeded for user ID 1.", 403)))
    assert client(fake, waiting).issue(address(fake))[1].number == 1
    assert waiting.slept == [91.0]
    assert "limit of 5000 requests an hour, asked with GITHUB_TOKEN, is used up; waiting 91 s" in waiting.said[0]


def test_a_limit_beyond_all_patience_says_when_to_come_back(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    used = {"x-ratelimit-remaining": "0", "x-ratelimit-limit": "60", "x-ratelimit-reset": str(NOW + 3000)}
    fake.routes["/repos/o/r/.*"] = lambda path, query: (403, used, error("API rate limit exceeded for 1.2.3.4.", 403))
    said = refused(lambda: client(fake, waiting, token=None).issue(address(fake)))
    assert waiting.slept == []
    assert "come back at" in str(said)
    assert "(in 50 min)" in str(said)
    assert "set GITHUB_TOKEN" in str(said)
    assert said.exit_code == 5


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("headers", "slept"), [({"retry-after": "7"}, 7.0), ({}, 60.0), ({"x-ratelimit-remaining": "4000"}, 60.0)]
)
def test_a_secondary_limit_is_waited_for(
    fake: FakeGitHub, waiting: Waiting, status: int, headers: dict[str, str], slept: float
) -> None:
    fake.add("o/r")
    told = error("You have exceeded a secondary rate limit. Please wait a few minutes before you try again.", status)
    fake.routes["/repos/o/r/issues/1"] = first((status, headers, told), (status, headers, told))
    assert client(fake, waiting).issue(address(fake))[1].number == 1
    assert waiting.slept == [slept, slept]
    assert "secondary rate limit" in waiting.said[0]


def test_patience_is_for_the_whole_command(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    told = error("You have exceeded a secondary rate limit", 403)
    fake.routes["/repos/o/r/issues/1"] = lambda path, query: (403, {"retry-after": "40"}, told)
    refused(lambda: client(fake, waiting, patience=100).issue(address(fake)))
    assert waiting.slept == [40.0, 40.0]


def test_a_limit_in_the_middle_of_a_list_loses_nothing(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    fake.say("o/r", 1, *(("x", str(n)) for n in range(250)))
    answers = iter([None, (429, {"retry-after": "3"}, error("slow down", 429)), None, None])
    fake.routes["/repos/o/r/issues/1/comments"] = lambda path, query: next(answers)
    assert [comment.body for comment in client(fake, waiting).comments(address(fake))] == [str(n) for n in range(250)]
    assert waiting.slept == [3.0]


@pytest.mark.parametrize(
    ("status", "headers", "message", "token", "says", "code"),
    [
        (401, {}, "Bad credentials", TOKEN, "does not know the token from GITHUB_TOKEN (expired or revoked?)", 3),
        (401, {}, "Requires authentication", None, "wants a token: set GH_ENTERPRISE_TOKEN", 3),
        (403, {}, "Resource not accessible by integration", TOKEN, "Resource not accessible by integration", 3),
        (403, {"x-accepted-github-permissions": "issues=read"}, "x", TOKEN, "it needs issues=read", 3),
        (403, {"x-github-sso": "required; url=https://github.com/orgs/o/sso?x=1"}, "x", TOKEN, "https://github.com/orgs/o/sso", 3),
        (404, {}, "Not Found", TOKEN, "not found, or not to be seen by the token from GITHUB_TOKEN; it needs Issues: read", 3),
        (404, {}, "Not Found", None, "if it is private, it takes a token: set GH_ENTERPRISE_TOKEN", 3),
        (410, {}, "Issues are disabled for this repo", TOKEN, "gone", 2),
        (451, {}, "Repository access blocked", TOKEN, "legal reasons", 3),
        (422, {}, f"echo {TOKEN} \x1b[2J", TOKEN, "⟨U+001B⟩", 5),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(
    fake: FakeGitHub,
    waiting: Waiting,
    status: int,
    headers: dict[str, str],
    message: str,
    token: str | None,
    says: str,
    code: int,
) -> None:
    fake.routes[".*"] = lambda path, query: (status, headers, error(message, status))
    said = refused(lambda: client(fake, waiting, token=token).issue(address(fake)))
    assert says in str(said)
    assert (said.status, said.exit_code) == (status, code)
    assert waiting.slept == []


def test_a_moved_repository_and_a_transferred_issue_are_followed_and_said(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("new/name", 3)
    fake.issues["new/name", 9] = make_issue(fake.base, "new/name", 9)
    to = {"Location": f"{fake.api}/repos/new/name"}
    fake.routes["/repos/old/name"] = lambda path, query: (301, to, {"message": "Moved Permanently"})
    fake.routes["/repos/new/name/issues/3"] = lambda path, query: (
        301, {"Location": f"{fake.api}/repos/new/name/issues/9"}, {"message": "Moved Permanently"}
    )  # fmt: skip
    here = client(fake, waiting)
    assert here.repository(address(fake, "old/name", 3)).full_name == "new/name"
    assert here.issue(address(fake, "new/name", 3))[0] == address(fake, "new/name", 9)
    assert waiting.said == ["old/name has moved: it is new/name now", "new/name#3 is new/name#9 now"]


def test_a_token_does_not_follow_to_another_server(fake: FakeGitHub, waiting: Waiting, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with FakeGitHub(tmp_path / "evil") as evil:
        evil.add("o/r")
        fake.routes[".*"] = lambda path, query: (
            301,
            {"Location": f"{evil.api.replace('127.0.0.1', 'localhost')}{path}"},
            {},
        )
        refused(lambda: client(fake, waiting).repository(address(fake)))
        assert evil.requests == []


def test_a_pull_request_by_an_issues_address_is_refused(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r", pull_request={"url": "x"})
    said = refused(lambda: client(fake, waiting).issue(address(fake)))
    assert "is a pull request" in str(said)
    assert said.exit_code == 2


def test_a_server_that_stumbles_is_asked_again_and_a_write_is_not(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    fake.routes["/repos/o/r/issues/1"] = first((502, {}, b"<html>bad gateway</html>"), (500, {}, b""))
    assert client(fake, waiting).issue(address(fake))[1].number == 1
    assert waiting.slept == [2.0, 4.0]
    fake.routes[".*"] = lambda path, query: (502, {}, b"")
    refused(lambda: client(fake, waiting).issue(address(fake)))
    asked = len(fake.requests)
    refused(lambda: client(fake, waiting).send("POST", "/repos/o/r/issues/1/comments", {"body": "x"}))
    assert len(fake.requests) == asked + 1


@pytest.mark.parametrize(
    "sent", [b"<html>Sign in to the Wi-Fi</html>", b"[]", b"null", b'{"number": "x"}', b'{"message": "hello"}']
)
def test_what_is_no_github_is_said_to_be_none(fake: FakeGitHub, waiting: Waiting, sent: bytes) -> None:
    fake.routes[".*"] = lambda path, query: (200, {}, sent)
    assert "is it GitHub?" in str(refused(lambda: client(fake, waiting).issue(address(fake))))
    assert "GitHub" in str(refused(lambda: client(fake, waiting).repository(address(fake))))
    if not sent.startswith(b"[]"):
        assert "no list" in str(refused(lambda: client(fake, waiting).comments(address(fake))))


def test_a_server_that_is_not_there(fake: FakeGitHub, waiting: Waiting) -> None:
    nobody = GitHub("http://127.0.0.1:9", sleep=waiting.sleep, say=waiting.said.append)
    assert "the connection was refused" in str(refused(lambda: nobody.get("/repos/o/r")))
    assert waiting.slept == [2.0, 4.0, 8.0]


def test_a_list_that_leads_in_a_circle_ends(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    link = {"Link": f'<{fake.api}/repos/o/r/pulls?page=2>; rel="next"'}
    fake.routes["/repos/o/r/pulls"] = lambda path, query: (200, link, [{"number": 1}])
    assert len(list(client(fake, waiting).pages("/repos/o/r/pulls"))) == 2


def test_everything_sent_is_json_without_the_token(fake: FakeGitHub, waiting: Waiting) -> None:
    fake.add("o/r")
    client(fake, waiting).issue(address(fake))
    verb, path, headers = fake.requests[0]
    assert (verb, path) == ("GET", "/api/v3/repos/o/r/issues/1")
    assert headers["x-github-api-version"] == "2022-11-28"
    assert headers["user-agent"].startswith("runoff/")
    assert TOKEN not in json.dumps([verb, path])
