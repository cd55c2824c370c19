"""Who is at work on an issue already: open pull requests that say they close it, branches named after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from runoff.github.address import IssueAddress
from runoff.github.client import GitHub
from runoff.sandbox.protocol import Value
from runoff.visible import shown

PULLS, EVENTS, BRANCHES = 300, 1000, 1000
"""How many open pull requests (those changed last), events of the issue, and branches are looked at."""


class Claim(Value):
    kind: Literal["closes", "branch", "mentions"]
    """closes: a pull request says that it closes the issue; branch: one is named after it; mentions: a pull request speaks of it."""
    name: str
    """`#12`, or the branch."""
    url: str = ""
    title: str = ""
    author: str = ""
    draft: bool = False

    def line(self) -> str:
        """For a terminal."""
        if self.kind == "branch":
            return f"the branch {shown(self.name)} is named after it"
        draft = "draft " if self.draft else ""
        does = "says it closes it" if self.kind == "closes" else "mentions it"
        return shown(
            f"{draft}pull request {self.name} by {self.author or 'somebody'} {does}: {' '.join(self.title.split())[:100]} {self.url}"
        )


def claims(client: GitHub, address: IssueAddress) -> list[Claim]:
    """Every claim on the issue, the firmest first. Raises GitHubFailed."""
    at = f"/repos/{address.slug}"
    events = client.pages(f"{at}/issues/{address.number}/timeline", limit=EVENTS, needs="Issues: read")
    told = {"state": "open", "sort": "updated", "direction": "desc"}
    pulls = client.pages(f"{at}/pulls", told, limit=PULLS, needs="Pull requests: read")
    branches = client.pages(f"{at}/branches", limit=BRANCHES, needs="Contents: read")
    return found(address, events, pulls, [str(branch.get("name", "")) for branch in branches])


def found(
    address: IssueAddress,
    events: Iterable[Mapping[str, Any]],
    pulls: Iterable[Mapping[str, Any]],
    branches: Sequence[str],
) -> list[Claim]:
    """The claims among the issue's timeline, the open pull requests and the branches, as GitHub's API gives them."""
    by_name = dict[str, Claim]()
    heads = set[str]()
    for pull in [*pulls, *_mentioning(address, events)]:
        kind = claiming(address, pull)
        head = pull.get("head") if isinstance(pull.get("head"), Mapping) else {}
        heads.add(str((head or {}).get("ref", "")))
        name = f"#{pull.get('number')}"
        if kind and (name not in by_name or (kind, by_name[name].kind) == ("closes", "mentions")):
            by_name[name] = Claim(
                kind=kind,
                name=name,
                url=str(pull.get("html_url") or ""),
                title=str(pull.get("title") or ""),
                author=str((pull.get("user") or {}).get("login") or ""),
                draft=bool(pull.get("draft")),
            )
    for branch in branches:
        if branch not in heads and names_issue(branch, address.number):
            by_name[branch] = Claim(kind="branch", name=branch, url=f"{address.base}/{address.slug}/tree/{branch}")
    order = ["closes", "branch", "mentions"]
    return sorted(by_name.values(), key=lambda claim: order.index(claim.kind))


def claiming(address: IssueAddress, pull: Mapping[str, Any]) -> Literal["closes", "mentions"] | None:
    """What an open pull request has to do with the issue, by its title, its text and its branch; `cross` marks one that
    GitHub found to speak of it."""
    text = re.sub(r"(?s)<!--.*?-->", "", f"{pull.get('title') or ''}\n{pull.get('body') or ''}")
    if _closing(address).search(text):
        return "closes"
    head = pull.get("head")
    if isinstance(head, Mapping) and names_issue(str(head.get("ref") or ""), address.number):
        return "closes"
    return "mentions" if pull.get("cross") else None


def names_issue(branch: str, number: int) -> bool:
    """Whether a branch bears an issue's number as people write it: `fix/123-crash`, `issue-123`, `gh123`, `123-crash`.

    A number elsewhere may be a version, a year or another repository's.
    """
    return bool(
        re.search(
            rf"(?:^|[/_.-])(?:issues?|gh|bug|fix(?:es)?|close[sd]?|resolves?|ticket|runoff)[/_.#-]?{number}(?![0-9.])",
            branch,
            re.I,
        )
        or re.search(rf"(?:^|/)#?{number}(?=[-_]|$)", branch)
    )


def _closing(address: IssueAddress) -> re.Pattern[str]:
    """GitHub's closing keywords before the issue: https://docs.github.com/issues/tracking-your-work-with-issues."""
    slug, base, number = re.escape(address.slug), re.escape(address.base), address.number
    return re.compile(
        rf"\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?)(?:\s*:|)\s+(?:(?:{slug})?\#|gh-|{base}/{slug}/issues/){number}(?!\d)",
        re.I,
    )


def _mentioning(address: IssueAddress, events: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The open pull requests of the same repository that the timeline tells of."""
    for event in events:
        source = event.get("source")
        issue = source.get("issue") if isinstance(source, Mapping) else None
        if event.get("event") != "cross-referenced" or not isinstance(issue, Mapping):
            continue
        where = f"{address.base}/{address.slug}/pull/".lower()
        if (
            issue.get("pull_request")
            and issue.get("state") == "open"
            and str(issue.get("html_url")).lower().startswith(where)
        ):
            yield {**issue, "cross": True}


__all__ = ["Claim", "claims", "found", "names_issue"]
