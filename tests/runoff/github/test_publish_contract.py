"""What publishing and the Action ask of GitHub, and how they read the answers, against its own published description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runoff.action import action_command
from runoff.github.address import IssueAddress
from runoff.github.evidence import Evidence
from runoff.github.publish import Wanted, publish
from runoff.github.submission import read
from tests.runoff.github.contract import REPOSITORY, example, judged
from tests.runoff.github.decided import decided, repository
from tests.runoff.github.host import WRITER, serving
from tests.runoff.github.test_action import EVENTS, SHA
from tests.runoff.github.test_contract import whole_pull, whole_repository

WRITES = (
    "/user",
    *(
        f"{REPOSITORY}{path}"
        for path in (
            "",
            "/collaborators/{username}/permission",
            "/pulls",
            "/pulls/{pull_number}",
            "/issues/{issue_number}/comments",
            "/issues/comments/{comment_id}",
        )
    ),
)


def dressed(kind: str, ours: Mapping[str, Any]) -> Any:
    """A published example with what is ours in it."""
    ours = {name: value for name, value in ours.items() if name != "slug"}
    if kind == "repository":
        return whole_repository(str(ours["full_name"])) | ours
    if kind == "listed pull":
        whole = whole_pull(int(ours["number"]))
    elif kind == "pull":
        whole = example("pull-request")
        for team in whole["requested_teams"]:
            team["type"] = "organization"
    elif kind == "comment":
        whole = example("issue-comment")
    elif kind == "permission":
        whole = example("repository-collaborator-permission-response-if-user-has-admin-permissions")
        whole["user"]["role_name"] = ours["role_name"]  # the example breaks the schema that it illustrates
    else:
        whole = example("private-user-response-with-public-and-private-profile-information")
    return _over(whole, ours)


def _over(whole: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in ours.items():
        whole[name] = (
            _over(whole[name], value) if isinstance(value, dict) and isinstance(whole.get(name), dict) else value
        )
    return whole


@pytest.mark.full
def test_what_is_published_is_asked_for_as_github_describes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NAME", "EMAIL"):
        for who in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{who}_{name}", "me@localhost")
    place, commit = repository(tmp_path / "project")
    with serving(tmp_path / "server") as host, judged(f"{host.base}/api/v3", tmp_path, WRITES) as judge:
        host.dressed = dressed
        host.make("o/r", place)
        host.permissions = {"maintainer": "write"}
        monkeypatch.setenv("GITHUB_SERVER_URL", host.base)
        monkeypatch.setenv("GITHUB_API_URL", judge)
        monkeypatch.setenv("GITHUB_TOKEN", WRITER)
        address = IssueAddress(base=host.base, owner="o", repo="r", number=12)

        def published(name: str, **how: Any) -> None:
            out = decided(tmp_path / name, place, commit, address=address, **how)
            publish(read(out), Wanted(pr=True, comment=True), Evidence(tmp_path), print)

        published("first")
        published("second", model="openai/other", words="Said otherwise, at some length.")
        sent = [(verb, path.partition("/o/r")[2]) for verb, path, _ in host.asked if verb != "GET"]
        assert [verb for verb, _ in sent] == ["POST", "POST", "PATCH", "PATCH"]
        assert sent[:2] == [("POST", "/pulls"), ("POST", "/issues/12/comments")]
        host.pulls.clear()
        environment = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_SERVER_URL": host.base,
            "GITHUB_API_URL": judge,
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_SHA": SHA,
            "GITHUB_RUN_ID": "7",
            "GITHUB_EVENT_PATH": str(EVENTS / "comment.json"),
            "GITHUB_EVENT_NAME": "issue_comment",
            "GITHUB_TOKEN": WRITER,
            "RUNNER_TEMP": str(tmp_path),
            "RUNOFF_INPUT_MODEL": "openai/any",
            "RUNOFF_INPUT_BUDGET": "1",
            "PATH": "/usr/bin:/bin",
        }
        ran: list[list[str]] = []
        assert action_command("solve", environment, lambda words, env: ran.append(list(words)) or 0) == 0
        assert len(ran) == 1
        assert host.asked[-2][0] == "DELETE"
