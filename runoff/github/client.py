"""GitHub's REST API behind one narrow door: every request goes through `GitHub._asked`, every failure is GitHubFailed.

PyGithub carries the requests (authentication, connections, what an error is); waiting for rate limits is done here, in one
place, so that it is said aloud and bounded, and no object asks again behind our back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import ConfigDict, ValidationError

from runoff import __version__
from runoff.failure import INFRASTRUCTURE, MISSING, USAGE, ForTheUser
from runoff.github.access import Token, api_of, find_token
from runoff.github.address import IssueAddress
from runoff.sandbox.protocol import Value
from runoff.visible import shown

PATIENCE = 600.0
"""Seconds that a command waits, in all, for rate limits to come back and for a server that stumbles."""
SECONDARY = 60.0
"""Seconds to wait where GitHub speaks of its secondary limit and does not say how long: its documentation's own figure."""
STUMBLES = 4
"""How often a request that got no answer, or a 5xx, is made."""
A_PAGE = 100

T = TypeVar("T", bound=Value)


class GitHubFailed(ForTheUser):
    """GitHub did not do what was asked; the message says what to do, in one line, and holds no token."""

    def __init__(self, message: str, *, status: int | None = None, exit_code: int = INFRASTRUCTURE) -> None:
        super().__init__(message)
        self.status, self.exit_code = status, exit_code
        """GitHub's own status, if it answered; ours for the process."""


class _Read(Value):
    """What is read of an answer; the rest of it is not looked at."""

    model_config = ConfigDict(extra="ignore")


class Repository(_Read):
    """A repository as GitHub names it now."""

    id: int
    full_name: str
    default_branch: str
    html_url: str
    private: bool = False
    archived: bool = False

    @property
    def owner(self) -> str:
        return self.full_name.partition("/")[0]

    @property
    def name(self) -> str:
        return self.full_name.partition("/")[2]


class Author(_Read):
    login: str
    type: str = "User"


class Comment(_Read):
    user: Author | None = None
    """None: whoever wrote it is not there any more."""
    body: str | None = None
    created_at: datetime
    author_association: str = "NONE"


class Issue(Comment):
    number: int
    title: str
    state: str
    comments: int = 0
    html_url: str
    closed_at: datetime | None = None
    pull_request: dict[str, Any] | None = None
    """There if this is no issue but a pull request, which GitHub numbers together with them."""
    labels: tuple[dict[str, Any] | str, ...] = ()


class GitHub:
    """One server, asked with one token. Made for one command."""

    def __init__(
        self,
        base: str,
        *,
        api: str | None = None,
        token: Token | None = None,
        patience: float = PATIENCE,
        say: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`base` as in IssueAddress. `say` is told whenever something is waited for or is not where it was said to be."""
        import github

        self.base, self.api, self.token = base, api or api_of(base), token
        self._left, self.say, self._sleep, self._now = patience, say, sleep, now
        self._requester = github.Github(
            base_url=self.api,
            auth=github.Auth.Token(token.value) if token else None,
            user_agent=f"runoff/{__version__}",
            timeout=30,
            retry=0,
            seconds_between_requests=None,
            seconds_between_writes=1.0,
            api_version="2022-11-28",
        ).requester

    @staticmethod
    def of(address: IssueAddress, say: Callable[[str], None] = lambda text: None) -> GitHub:
        """With what the environment says: its token, its API. Raises BadTarget."""
        return GitHub(address.base, token=find_token(address.base), say=say)

    def get(self, path: str, parameters: Mapping[str, Any] = {}, *, needs: str = "") -> Any:
        """What is at a path of the API (`/repos/o/r`). `needs`: the permission it takes, for the message if it lacks.

        Raises GitHubFailed.
        """
        return self._asked("GET", path, parameters, None, needs)[1]

    def send(self, verb: str, path: str, body: Mapping[str, Any] = {}, *, needs: str = "") -> Any:
        """POST, PATCH, PUT or DELETE. A request without an answer may have been carried out: it is not made again.

        Raises GitHubFailed.
        """
        return self._asked(verb, path, {}, dict(body) or None, needs)[1]

    def pages(
        self, path: str, parameters: Mapping[str, Any] = {}, *, limit: int | None = None, needs: str = ""
    ) -> Iterator[dict[str, Any]]:
        """The items of a list, page by page, `limit` of them at most. Raises GitHubFailed, also in the middle."""
        return islice(self._pages(path, parameters, needs), limit)

    def repository(self, address: IssueAddress) -> Repository:
        """Where it is now: followed if it has moved, and said. Raises GitHubFailed."""
        found = _read(Repository, self.get(_at(address), needs="Metadata: read"))
        if found.full_name.lower() != address.slug.lower():
            self.say(f"{address.slug} has moved: it is {found.full_name} now")
        return found

    def issue(self, address: IssueAddress) -> tuple[IssueAddress, Issue]:
        """The issue, and where it is now: transferred issues are followed, and said. Raises GitHubFailed."""
        found = _read(Issue, self.get(f"{_at(address)}/issues/{address.number}", needs="Issues: read"))
        parts = urlsplit(found.html_url).path.split("/")
        if found.pull_request is not None or "pull" in parts[3:4]:
            raise GitHubFailed(f"{address} is a pull request; give the issue that it is to solve", exit_code=USAGE)
        if len(parts) < 5 or not parts[4].isdigit():
            raise GitHubFailed(f"{self.base} answered with no issue: {shown(found.html_url)[:200]}")
        here = address.model_copy(update={"owner": parts[1], "repo": parts[2], "number": int(parts[4])})
        if (here.slug.lower(), here.number) != (address.slug.lower(), address.number):
            self.say(f"{address} is {here} now")
        return here, found

    def comments(self, address: IssueAddress, *, limit: int | None = None) -> list[Comment]:
        """The issue's comments, the oldest first. Raises GitHubFailed."""
        path = f"{_at(address)}/issues/{address.number}/comments"
        return [_read(Comment, item) for item in self.pages(path, limit=limit, needs="Issues: read")]

    def _pages(self, path: str, parameters: Mapping[str, Any], needs: str) -> Iterator[dict[str, Any]]:
        parameters, seen = {"per_page": A_PAGE, **parameters}, set[str]()
        while path not in seen:
            seen.add(path)
            headers, items = self._asked("GET", path, parameters, None, needs)
            if not isinstance(items, list):
                raise GitHubFailed(f"{self.api} answered with no list for {path}")
            yield from items
            link = re.search(r'<([^<>]*)>;[^,]*\brel="?next"?', headers.get("link") or "")
            if not link:
                return
            url = urlsplit(link[1])  # of which the host is not looked at: it is asked where all else is
            path, parameters = f"{url.path.removeprefix(urlsplit(self.api).path)}?{url.query}", {}

    def _asked(
        self, verb: str, path: str, parameters: Mapping[str, Any], body: Any, needs: str
    ) -> tuple[Mapping[str, str], Any]:
        from github import GithubException
        from requests import RequestException

        stumbled = 0
        while True:
            try:
                return self._requester.requestJsonAndCheck(verb, path, dict(parameters), input=body)
            except GithubException as error:
                headers = {name.lower(): str(value) for name, value in (error.headers or {}).items()}
                message = self._clean(_message(error.data))
                if (wait := self._limited(error.status, headers, message)) is not None:
                    self._wait(wait, self._which(headers))
                    continue
                stumbled += 1
                if error.status < 500 or verb != "GET" or stumbled >= STUMBLES:
                    raise self._failed(verb, path, error.status, headers, message, needs) from None
                self._wait(2.0**stumbled, f"{self._host} answered {error.status}")
            except RequestException as error:
                stumbled += 1
                why = _reason(error)
                if verb != "GET" or stumbled >= STUMBLES or why.startswith("its certificate"):
                    raise GitHubFailed(f"{self.api} gave no answer: {self._clean(why)}") from None
                self._wait(2.0**stumbled, f"{self._host} gave no answer ({self._clean(why)})")
            except (RuntimeError, AssertionError, UnicodeError) as error:  # PyGithub's word for redirections it refuses
                raise GitHubFailed(f"{self.api}: {self._clean(str(error))}") from None

    @property
    def _host(self) -> str:
        return urlsplit(self.base).netloc

    def _limited(self, status: int, headers: Mapping[str, str], message: str) -> float | None:
        """Seconds until a rate limit lets a request through; None: it was refused for another reason."""
        if status not in (403, 429):
            return None
        if (after := headers.get("retry-after", "")).isdigit():
            return float(after)
        if headers.get("x-ratelimit-remaining") == "0" and headers.get("x-ratelimit-reset", "").isdigit():
            return max(0.0, float(headers["x-ratelimit-reset"]) - self._now()) + 1.0
        return SECONDARY if status == 429 or "rate limit" in message.lower() else None

    def _which(self, headers: Mapping[str, str]) -> str:
        if headers.get("x-ratelimit-remaining") == "0" and "retry-after" not in headers:
            limit = headers.get("x-ratelimit-limit", "?")
            return f"{self._host}'s limit of {limit} requests an hour, {self._whom()}, is used up"
        return f"{self._host} asks to be asked more slowly (its secondary rate limit)"

    def _wait(self, seconds: float, why: str) -> None:
        """Raises GitHubFailed if it would take longer than there is patience for."""
        if seconds > self._left:
            at = datetime.fromtimestamp(self._now() + seconds, UTC).astimezone()
            more = "" if self.token else "; with a token it is 5000 an hour: set GITHUB_TOKEN, or gh auth login"
            raise GitHubFailed(
                f"{why}; come back at {at:%H:%M} (in {_minutes(seconds)}) and type the same command again{more}"
            )
        self._left -= seconds
        self.say(f"{why}; waiting {_minutes(seconds)}")
        self._sleep(seconds)

    def _whom(self) -> str:
        return f"asked with {self.token.source}" if self.token else "asked without a token"

    def _failed(
        self, verb: str, path: str, status: int, headers: Mapping[str, str], message: str, needs: str
    ) -> GitHubFailed:
        what = f"{self.base}{re.sub(r'^/repos', '', path).partition('?')[0]}"
        said = f" ({message})" if message and message.lower() not in ("not found", "bad credentials") else ""
        accepted = headers.get("x-accepted-github-permissions") or needs
        scope = f"; it needs {self._clean(accepted)} (a classic token: the scope repo)" if accepted else ""
        give = "set GITHUB_TOKEN, or gh auth login" if "github.com" in self.base else "set GH_ENTERPRISE_TOKEN"
        if status == 401:
            line = (
                f"{self._host} does not know the token from {self.token.source}"
                if self.token
                else (f"{self._host} wants a token: {give}")
            )
            return GitHubFailed(
                f"{line}{' (expired or revoked?)' if self.token else ''}", status=401, exit_code=MISSING
            )
        if status == 403 and (sso := headers.get("x-github-sso", "")).startswith("required"):
            where = sso.partition("url=")[2]
            return GitHubFailed(
                f"the organisation wants the token from {self.token.source if self.token else '?'} to be authorised "
                f"for its single sign-on: {self._clean(where)}",
                status=403,
                exit_code=MISSING,
            )
        if status == 403:
            return GitHubFailed(f"{what}: refused, {self._whom()}{said}{scope}", status=403, exit_code=MISSING)
        if status == 404:
            if self.token:
                line = f"{what}: not found, or not to be seen by the token from {self.token.source}{scope}"
            else:
                line = f"{what}: not found; if it is private, it takes a token: {give}"
            return GitHubFailed(line + said, status=404, exit_code=MISSING)
        if status == 410:
            return GitHubFailed(
                f"{what}: gone, it was deleted or issues are switched off{said}", status=410, exit_code=USAGE
            )
        if status == 451:
            return GitHubFailed(f"{what}: blocked for legal reasons{said}", status=451, exit_code=MISSING)
        return GitHubFailed(f"{verb} {what}: {self._host} answered {status}{said}", status=status)

    def _clean(self, text: str) -> str:
        """Text of others in a message of ours: one line that shows, without the token, whoever sends it back."""
        text = shown(" ".join(text.split()))
        return (text.replace(self.token.value, f"[{self.token.source}]") if self.token else text)[:300]


def _at(address: IssueAddress) -> str:
    return f"/repos/{quote(address.owner)}/{quote(address.repo)}"


def _message(data: Any) -> str:
    """GitHub's own words for an error, with what it says of single fields."""
    if not isinstance(data, dict):
        return ""
    errors = given if isinstance(given := data.get("errors"), list) else []
    more = [
        str(each.get("message") or each.get("code") or "") if isinstance(each, dict) else str(each) for each in errors
    ]
    words = [str(data.get("message") or ""), *more]
    return shown(" ".join("; ".join(word for word in words if word).split()))[:300]


def _read(kind: type[T], data: Any) -> T:
    try:
        return kind.model_validate(data)
    except (ValidationError, TypeError) as error:
        what = error.errors()[0]["loc"] if isinstance(error, ValidationError) else type(data).__name__
        raise GitHubFailed(
            f"the server's answer is no {kind.__name__.lower()} of GitHub's ({what}): is it GitHub?"
        ) from None


def _reason(error: Exception) -> str:
    """What went wrong with a connection, without the library's own nesting."""
    import requests

    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        return f"its certificate is not accepted ({text[-120:]})"
    if isinstance(error, requests.Timeout):
        return "it takes too long"
    for sign, said in {
        "Name or service not known": "its name cannot be looked up; is there a network?",
        "Temporary failure in name resolution": "its name cannot be looked up; is there a network?",
        "NameResolutionError": "its name cannot be looked up; is there a network?",
        "Connection refused": "the connection was refused",
    }.items():
        if sign in text:
            return said
    return f"{type(error).__name__}: {text}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


__all__ = ["PATIENCE", "Author", "Comment", "GitHub", "GitHubFailed", "Issue", "Repository"]
