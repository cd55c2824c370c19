"""An issue's address, as users type and paste it; what is meant for a server and is no issue is refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.github.access import Token, api_of, find_token, server
from runoff.github.address import IssueAddress, base_of, is_address, parse
from runoff.instance import BadTarget


@pytest.mark.parametrize(
    ("typed", "base", "slug", "number"),
    [
        ("https://github.com/pallets/click/issues/2500", "https://github.com", "pallets/click", 2500),
        ("http://www.github.com/pallets/click/issues/2500/", "https://github.com", "pallets/click", 2500),
        ("github.com/a/b.js/issues/1#issuecomment-99", "https://github.com", "a/b.js", 1),
        ("https://github.com/a/b/issues/7?notification_referrer_id=x#top", "https://github.com", "a/b", 7),
        ("https://GitHub.com:443/a/b/issues/7", "https://github.com", "a/b", 7),
        ("pallets/click#2500", "https://github.com", "pallets/click", 2500),
        (" a_corp/x.y#3 ", "https://github.com", "a_corp/x.y", 3),
        ("https://ghe.example/o/r/issues/9", "https://ghe.example", "o/r", 9),
        ("https://ghe.example:8443/o/r/issues/9", "https://ghe.example:8443", "o/r", 9),
        ("http://127.0.0.1:4010/o/r/issues/9", "http://127.0.0.1:4010", "o/r", 9),
    ],
)
def test_what_users_paste_names_the_issue(typed: str, base: str, slug: str, number: int) -> None:
    assert is_address(typed.strip())
    found = parse(typed)
    assert (found.base, found.slug, found.number) == (base, slug, number)
    assert parse(found.url) == found
    assert found.id == f"{found.owner}__{found.repo}-{number}"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("https://github.com/a/b/pull/3", "pull request"),
        ("https://github.com/a/b/pulls", "pull request"),
        ("https://github.com/a/b/discussions/3", "discussion"),
        ("https://github.com/a/b", "repository"),
        ("https://github.com/a/b.git", "no repository's name"),
        ("https://github.com/a/b/issues", "repository"),
        ("https://github.com/a/b/issues/new", "no issue's address"),
        ("https://github.com/a/b/issues/0", "no issue's address"),
        ("https://github.com/a/b/issues/3/4", "no issue's address"),
        ("https://github.com/a/b/blob/main/x.py", "no issue's address"),
        ("https://github.com/", "no issue's address"),
        ("https://", "names no server"),
        ("https://[::1", "no address"),
        ("https://github.com:99999999/a/b/issues/1", "no address"),
        ("a/b#0", "no issue"),
        ("a/..#1", "no issue"),
        ("a/b#x", "no issue"),
        ("-a/b#1", "no issue"),
        ("https://github.com/a/../issues/1", "no repository's name"),
        ("https://github.com/-a/b/issues/1", "no issue's address"),
        ("git@github.com:a/b.git", "https URL"),
        ("ssh://git@github.com/a/b", "https URL"),
        ("ftp://github.com/a/b/issues/1", "over https"),
        ("http://ghe.example/a/b/issues/1", "in the clear"),
        ("file:///etc/passwd", "https"),
    ],
)
def test_what_is_no_issue_is_refused_in_one_line(typed: str, says: str) -> None:
    with pytest.raises(BadTarget, match=says) as refused:
        parse(typed)
    assert "\n" not in str(refused.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadTarget, match="GITHUB_TOKEN") as refused:
        parse("https://me:hunter2@github.com/a/b/issues/1")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("path", [".", "src/project", "/tmp/x", "~/a", "problems.jsonl", "a/b", "./a/b#1", "a#1"])
def test_paths_of_this_machine_are_no_addresses(path: str) -> None:
    assert not is_address(path)


@given(st.text(max_size=60) | st.from_regex(r"https?://[a-z.:@/#?\[\]0-9-]{0,40}", fullmatch=True))
def test_whatever_is_typed_is_an_issue_or_is_refused_in_one_line(text: str) -> None:
    try:
        found = parse(text)
    except BadTarget:
        return
    assert parse(found.url) == found
    assert not set(found.id) & set("/\\ \n\0")
    assert ".." not in (found.owner, found.repo)


def test_which_api_answers() -> None:
    assert api_of("https://github.com", {}) == "https://api.github.com"
    assert api_of("https://ghe.example", {}) == "https://ghe.example/api/v3"
    assert api_of("https://octo.ghe.com", {}) == "https://api.octo.ghe.com"
    actions = {"GITHUB_SERVER_URL": "https://ghe.example", "GITHUB_API_URL": "https://ghe.example/api/v3/"}
    assert api_of("https://ghe.example", actions) == "https://ghe.example/api/v3"
    assert api_of("https://github.com", actions) == "https://api.github.com"  # set for another server
    assert server(actions) == "https://ghe.example"
    assert server({"GH_HOST": "ghe.example"}) == "https://ghe.example"
    assert parse("o/r#1", server(actions)).base == "https://ghe.example"


def test_a_token_goes_to_the_server_that_it_is_for_and_to_no_other(tmp_path) -> None:  # type: ignore[no-untyped-def]
    both = {"GITHUB_TOKEN": "ghp_ours", "GH_ENTERPRISE_TOKEN": "ghp_theirs", "PATH": str(tmp_path)}
    assert find_token("https://github.com", both) == Token("ghp_ours", "GITHUB_TOKEN")
    assert find_token("https://ghe.example", both) == Token("ghp_theirs", "GH_ENTERPRISE_TOKEN")
    assert find_token("https://github.com.evil.example", {"GITHUB_TOKEN": "x" * 9, "PATH": str(tmp_path)}) is None
    assert find_token("https://evilghe.com", {"GITHUB_TOKEN": "x" * 9, "PATH": str(tmp_path)}) is None
    actions = {"GITHUB_SERVER_URL": "https://ghe.example", "GITHUB_TOKEN": "ghs_actions", "PATH": str(tmp_path)}
    assert find_token("https://ghe.example", actions) == Token("ghs_actions", "GITHUB_TOKEN")
    assert "ghp_ours" not in repr(find_token("https://github.com", both))


def test_gh_is_asked_where_the_environment_has_no_token(tmp_path) -> None:  # type: ignore[no-untyped-def]
    gh = tmp_path / "gh"
    gh.write_text('#!/bin/sh\n[ "$*" = "auth token --hostname ghe.example" ] && echo gho_kept || exit 1\n')
    gh.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    found = find_token("https://ghe.example", environment)
    assert found is not None
    assert (found.value, found.source) == ("gho_kept", "gh auth token --hostname ghe.example")
    assert find_token("https://github.com", environment) is None


def test_a_token_that_would_break_a_header_is_refused_without_being_shown() -> None:
    with pytest.raises(BadTarget, match="GH_TOKEN is no token") as refused:
        find_token("https://github.com", {"GH_TOKEN": "ghp_x\r\nHost: evil"})
    assert "ghp_x" not in str(refused.value)


def test_the_server_of_a_url() -> None:
    assert base_of("HTTPS://GHE.Example:443/x") == "https://ghe.example"
    assert IssueAddress(base="http://127.0.0.1:80", owner="o", repo="r", number=1).host == "127.0.0.1"
