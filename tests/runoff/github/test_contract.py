"""What runoff asks of GitHub, and how it reads the answers, against GitHub's own published description (tests/…/contract.py).

Every request and every answer here went through a judge that knows the description: whole answers as the description's own
examples are, mended where they break their own schema.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from urllib.error import HTTPError

import pytest

from runoff.github.access import Token
from runoff.github.address import IssueAddress
from runoff.github.claims import claims
from runoff.github.client import GitHub, GitHubFailed
from runoff.github.statement import statement
from tests.runoff.github.conftest import TOKEN
from tests.runoff.github.contract import READ, described, example, judged
from tests.runoff.github.server import FakeGitHub, error, user


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeGitHub, str]]:
    """A server whose answers are whole, and the judge before it."""
    folder = tmp_path_factory.mktemp("contract")
    with FakeGitHub(folder / "served", token=TOKEN) as fake, judged(fake.api, folder) as judge:
        fake.api_base = judge
        yield fake, judge


@pytest.fixture
def fake(behind: tuple[FakeGitHub, str]) -> FakeGitHub:
    server = behind[0]
    server.routes.clear()
    server.requests.clear()
    server.add("o/r", 7)
    server.repositories["o/r"] = whole_repository("o/r")
    server.issues["o/r", 7]["html_url"] = "https://github.com/o/r/issues/7"
    return server


@pytest.fixture
def client(behind: tuple[FakeGitHub, str], fake: FakeGitHub) -> GitHub:
    said = list[float]()
    return GitHub("https://github.com", api=behind[1], token=Token(TOKEN, "GITHUB_TOKEN"), sleep=said.append)


HERE = IssueAddress(base="https://github.com", owner="o", repo="r", number=7)


def whole_repository(slug: str) -> dict[str, object]:
    there = example(
        "full-repository-default-response", full_name=slug, name=slug.partition("/")[2], default_branch="main"
    )
    for name in ("template_repository", "parent", "source"):  # examples that break the schema they illustrate
        there.pop(name, None)
    return {**there, "language": None}


def whole_pull(number: int, **ours: object) -> dict[str, object]:
    (pull,) = example("pull-request-simple-items")
    for team in pull["requested_teams"]:
        team["type"] = "organization"
    return {**pull, "number": number, **ours}


def test_an_issue_is_read_as_github_describes_it(client: GitHub, fake: FakeGitHub) -> None:
    fake.say("o/r", 7, *((f"user{n}", f"comment {n}") for n in range(101)))
    assert client.repository(HERE).default_branch == "main"
    where, issue = client.issue(HERE)
    assert where == HERE
    comments = client.comments(HERE)
    assert "comment 100" in statement(HERE, issue, comments).text
    assert sum("/comments" in path for _, path, _ in fake.requests) == 2


@pytest.mark.full  # Prism takes long to get ready for answers as large as a pull request
def test_claims_and_much_talk_are_read_as_github_describes_them(client: GitHub, fake: FakeGitHub) -> None:
    fake.say("o/r", 7, *((f"user{n}", f"comment {n}") for n in range(500)))
    fake.lists["/repos/o/r/issues/7/comments"][3] |= {"body": "![x](data:image/png;base64," + "A" * 200_000 + ")"}
    fake.lists["/repos/o/r/pulls"] = [whole_pull(n, title=f"Closes #{n}", body=None) for n in range(1, 102)]
    fake.lists["/repos/o/r/branches"] = [
        {"name": name, "commit": {"sha": "c" * 40, "url": "https://api.github.com/x"}, "protected": False}
        for name in ("main", "issue-7", "issue-77")
    ]
    assert len(client.comments(HERE)) == 500
    assert [claim.name for claim in claims(client, HERE)] == ["#7", "issue-7"]
    asked = [path for _, path, _ in fake.requests]
    assert sum("/comments" in path for path in asked) == 5
    assert sum("/pulls" in path for path in asked) == 2


@pytest.mark.full
def test_the_timeline_of_the_description_is_read(client: GitHub, fake: FakeGitHub) -> None:
    source = example(
        "issue", number=12, state="open", html_url="https://github.com/o/r/pull/12", title="Repair", body="see #7"
    )
    source["user"] = user("eve")
    event = {
        "event": "cross-referenced",
        "actor": user("eve"),
        "created_at": "2024-03-01T12:00:00Z",
        "updated_at": "2024-03-01T12:00:00Z",
        "source": {"type": "issue", "issue": source},
    }
    fake.lists["/repos/o/r/issues/7/timeline"] = [*example("timeline-issue-events"), event]
    (claim,) = claims(client, HERE)
    assert (claim.kind, claim.name, claim.author) == ("mentions", "#12", "eve")


def test_an_empty_body_and_an_author_who_left(client: GitHub, fake: FakeGitHub) -> None:
    fake.issues["o/r", 7] |= {"body": None, "user": None}
    assert client.issue(HERE)[1].body is None


@pytest.mark.parametrize(
    ("status", "path", "ask"),
    [
        (404, "/repos/o/r", "repository"),
        (403, "/repos/o/r", "repository"),
        (410, "/repos/o/r/issues/7", "issue"),
        (404, "/repos/o/r/issues/7/comments", "comments"),
    ],
)
def test_refusals_that_github_describes(client: GitHub, fake: FakeGitHub, status: int, path: str, ask: str) -> None:
    fake.routes[path] = lambda path, query: (status, {}, error("No", status))
    with pytest.raises(GitHubFailed) as refused:
        getattr(client, ask)(HERE)
    assert refused.value.status == status


def test_limits_are_waited_for_behind_a_proxy_too(client: GitHub, fake: FakeGitHub) -> None:
    used = {"x-ratelimit-remaining": "0", "x-ratelimit-limit": "60", "x-ratelimit-reset": "1"}
    answers = iter(
        [(403, used, error("API rate limit exceeded", 403)), (403, {"retry-after": "9"}, error("slow", 403))]
    )
    fake.routes["/repos/o/r"] = lambda path, query: next(answers, None)
    assert client.repository(HERE).full_name == "o/r"


def test_what_moved_is_followed(client: GitHub, fake: FakeGitHub, behind: tuple[FakeGitHub, str]) -> None:
    fake.repositories["new/name"] = whole_repository("new/name")
    to = f"{behind[1]}/repos/new/name"
    fake.routes["/repos/o/r"] = lambda path, query: (
        301, {"Location": to}, {"message": "Moved Permanently", "url": to, "documentation_url": "https://docs.github.com"}
    )  # fmt: skip
    assert client.repository(HERE).full_name == "new/name"


@pytest.mark.full
def test_the_judge_refuses_what_github_would_not_take_or_give(
    behind: tuple[FakeGitHub, str], fake: FakeGitHub, client: GitHub
) -> None:
    for path in ("/repos/o/r/pulls?state=mine", "/repos/o/r/issues/seven", "/repos/o/r/no-such-thing"):
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{behind[1]}{path}")
        assert refused.value.code in (404, 422), path
    fake.lists |= {
        "/repos/o/r/issues/7/comments": [{"id": 1}],
        "/repos/o/r/issues/7/timeline": [{"event": 7}],
        "/repos/o/r/pulls": [{"number": 1}],
        "/repos/o/r/branches": [{"name": "main"}],
    }
    del fake.issues["o/r", 7]["created_at"]
    del fake.repositories["o/r"]["id"]
    for path in described(READ)["paths"]:
        asked = path.format(owner="o", repo="r", issue_number=7)
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{behind[1]}{asked}")
        assert refused.value.code == 500, path
        assert b"VIOLATIONS" in refused.value.read(), path


def test_only_what_is_asked_for_is_described() -> None:
    assert set(described(["/repos/{owner}/{repo}"])["paths"]) == {"/repos/{owner}/{repo}"}
    assert "nullable-simple-user" in json.dumps(described(["/repos/{owner}/{repo}"])["components"])
