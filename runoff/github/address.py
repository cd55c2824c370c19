"""What a user types to name an issue: a URL of github.com or of a GitHub Enterprise, or `owner/repository#number`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from runoff.instance import BadTarget
from runoff.sandbox.protocol import Value

GITHUB = "https://github.com"
_OWNER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
_REPOSITORY = r"[A-Za-z0-9._-]{1,100}"
_NUMBER = r"[1-9][0-9]{0,9}"
_SHORT = re.compile(rf"(?P<owner>{_OWNER})/(?P<repo>{_REPOSITORY})#(?P<number>{_NUMBER})", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", re.ASCII)
_LOOPBACK = {"127.0.0.1", "localhost"}


class IssueAddress(Value):
    base: str
    """The server: scheme and host, with its port if it is not the usual one: `https://github.com`."""
    owner: str
    repo: str
    number: int

    def __str__(self) -> str:
        return f"{self.slug}#{self.number}"

    @property
    def slug(self) -> str:
        return f"{self.owner}/{self.repo}"

    @property
    def host(self) -> str:
        """Without a port."""
        return urlsplit(self.base).hostname or ""

    @property
    def url(self) -> str:
        return f"{self.base}/{self.slug}/issues/{self.number}"

    @property
    def id(self) -> str:
        """Of the instance: SWE-bench's way of writing it."""
        return f"{self.owner}__{self.repo}-{self.number}"


def is_address(target: str) -> bool:
    """Whether a target is meant for a server, not a path of this machine. What is meant may still be no issue."""
    return bool(
        re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|git@|(www\.)?github\.com/", target)
        or re.fullmatch(r"[^/\s]+/[^/\s]+#\d+", target)
    )


def parse(target: str, server: str = GITHUB) -> IssueAddress:
    """The issue that `target` names; `server` is whose `owner/repo#1` is. Raises BadTarget, in one line."""
    text = target.strip()
    if re.fullmatch(r"[^/\s]+/[^/\s]+#\S*", text) and "://" not in text:
        if (found := _SHORT.fullmatch(text)) is None or _unnamed(found["repo"]):
            raise BadTarget(f"{target} is no issue: owner/repository#number, such as pallets/click#2500")
        return IssueAddress(base=base_of(server), owner=found["owner"], repo=found["repo"], number=int(found["number"]))
    if text.startswith(("git@", "ssh://", "git://")):
        raise BadTarget(
            f"{target} names a repository by {text.split('@')[0].split(':')[0]}; give the issue's https URL"
        )
    url = text if "://" in text else f"https://{text}"
    base, path = base_of(url, target), [part for part in urlsplit(url).path.split("/") if part]
    if len(path) < 2 or not re.fullmatch(_OWNER, path[0], re.ASCII) or not re.fullmatch(_REPOSITORY, path[1], re.ASCII):
        raise BadTarget(f"{target} is no issue's address: {GITHUB}/OWNER/REPOSITORY/issues/NUMBER")
    owner, repo, kind, *rest = [*path, "", ""][:5]
    if _unnamed(repo):
        raise BadTarget(f"{target} is no issue's address: {repo} is no repository's name")
    if kind in ("pull", "pulls"):
        raise BadTarget(
            f"{target} is a pull request; give the issue that it is to solve: {base}/{owner}/{repo}/issues/N"
        )
    if kind == "discussions":
        raise BadTarget(f"{target} is a discussion; give an issue: {base}/{owner}/{repo}/issues/N")
    if kind in ("", "issues") and not rest[0]:
        raise BadTarget(f"{target} is a repository; give one of its issues: {base}/{owner}/{repo}/issues/N")
    if kind != "issues" or len(path) > 4 or not re.fullmatch(_NUMBER, rest[0], re.ASCII):
        raise BadTarget(f"{target} is no issue's address: {base}/{owner}/{repo}/issues/N")
    return IssueAddress(base=base, owner=owner, repo=repo, number=int(rest[0]))


def base_of(url: str, target: str | None = None) -> str:
    """The server of a URL: scheme and host in lower case, no `www.`, no usual port, no name or password. Raises BadTarget."""
    said = target or url
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadTarget(f"{said} is no address") from None
    host = (parts.hostname or "").removeprefix("www.")
    if parts.scheme not in ("http", "https"):
        raise BadTarget(f"{said}: an issue is read over https, not {parts.scheme}")
    if parts.username is not None or parts.password is not None:
        raise BadTarget("a name or a password stands in the address; give it without, and the token as GITHUB_TOKEN")
    if not _HOST.fullmatch(host):
        raise BadTarget(f"{said} names no server")
    if parts.scheme == "http" and host == "github.com":
        return GITHUB
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise BadTarget(f"{said}: a token would be sent in the clear; give the address with https")
    usual = port is None or port == {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if usual else f":{port}")


def _unnamed(repo: str) -> bool:
    return repo in (".", "..") or repo.lower().endswith(".git")


__all__ = ["GITHUB", "IssueAddress", "base_of", "is_address", "parse"]
