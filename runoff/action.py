"""`runoff action`: what action.yml runs. An event is a request or it is not; who asks must be allowed to write; one run an issue.

    check   reads the event, asks the API whether its sender may write, looks whether somebody is at work. Knows no model's key.
    solve   says that it is at work, runs `runoff solve ISSUE --pr` in a process of its own, which alone knows the keys, and
            takes back what it said.

Standard output of a step is read by the runner: a line `::…::` in it is a command. All that is said here stands between a stop of
such commands and its end, by a word that nobody else knows.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import click

from runoff.failure import USAGE, ForTheUser, one_line
from runoff.github.access import find_token, server
from runoff.github.address import IssueAddress
from runoff.github.client import GitHub, GitHubFailed
from runoff.github.publish import own_comments
from runoff.github.request import BadRequest, Ignored, Request, capped, requested
from runoff.visible import shown

MAY = ("admin", "write")
"""What the API calls the permission of those who may ask; `maintain` is `write` there, `triage` is `read`."""
LONGEST = timedelta(hours=6, minutes=10)
"""After which a run is over, whatever it said: GitHub ends a job after six hours."""

_WORKING = "<!-- runoff: working on {} -->"
_KEY = re.compile(
    r"[A-Z][A-Z0-9_]*_(KEY|TOKEN|SECRET|KEY_ID|API_BASE|BASE_URL|REGION|REGION_NAME|PROJECT|LOCATION)", re.ASCII
)
_RUNNERS = re.compile(r"(GITHUB_(ENV|PATH|OUTPUT|STATE|STEP_SUMMARY)|ACTIONS_\w+|RUNOFF_INPUT_\w+)")
"""What the runner reads back, or hands out rights by: not for the process that solves."""


class ActionFailed(ForTheUser):
    exit_code = USAGE


class Settings(NamedTuple):
    """The workflow's own, from the inputs of action.yml. None of it comes from an event."""

    models: tuple[str, ...]
    budget: str
    trajectories: int | None
    threshold: str
    calibration: str
    comment: bool
    with_test: bool
    label: str
    api_base: str

    @staticmethod
    def of(environment: Mapping[str, str]) -> Settings:
        """Raises ActionFailed, naming the input."""

        def given(name: str) -> str:
            return environment.get(f"RUNOFF_INPUT_{name}", "").strip()

        number = given("N")
        if number and not re.fullmatch(r"[1-9]\d?", number, re.ASCII):
            raise ActionFailed(f"the input n is a number of trajectories, not {number!r}")
        for name in ("COMMENT", "WITH_TEST"):
            if given(name) not in ("", "true", "false"):
                raise ActionFailed(f"the input {name.lower().replace('_', '-')} is true or false")
        models = tuple(line.strip() for line in given("MODEL").splitlines() if line.strip())
        if not models:
            raise ActionFailed("the input model names none: openai/gpt-5, or a line each ROLE=NAME")
        if not given("BUDGET"):
            raise ActionFailed("the input budget is not set: what one issue may cost at most, such as 2.50")
        if given("THRESHOLD") and not given("CALIBRATION"):
            raise ActionFailed("the input threshold takes calibration: without one no probability can be stated")
        return Settings(
            models=models,
            budget=given("BUDGET"),
            trajectories=int(number) if number else None,
            threshold=given("THRESHOLD"),
            calibration=given("CALIBRATION"),
            comment=given("COMMENT") == "true",
            with_test=given("WITH_TEST") == "true",
            label=given("LABEL") or "runoff",
            api_base=given("API_BASE"),
        )


class Place(NamedTuple):
    """Where the workflow runs, as the runner says; its environment, not its event."""

    address: IssueAddress
    hub: GitHub
    run: str
    """The workflow run's number, and its page."""
    page: str
    commit: str
    """The default branch's last, when the event came."""


def action_command(
    part: str, environment: Mapping[str, str] = os.environ, run: Callable[..., int] | None = None
) -> int:
    """Returns the exit code, having said what is wrong. `run` runs `runoff` with arguments and an environment."""
    with _unheard(environment):
        try:
            request, place, settings = _request(environment)
            if part == "check":
                arguments(request, place, settings, Path())
                _output(environment, "go", "true")
                click.echo(f"issue {request.issue}, asked for by {request.by}, who may write here")
                return 0
            return _solve(request, place, settings, environment, run or _run)
        except Ignored as why:
            click.echo(f"nothing to do: {why}")
            return 0
        except Exception as error:  # said while nothing that is said is a command
            line, code = one_line(error)
            click.echo(f"runoff: {line}", err=True)
            return code


def _request(environment: Mapping[str, str]) -> tuple[Request, Place, Settings]:
    """Raises Ignored; BadRequest only to those who may ask."""
    settings = Settings.of(environment)
    event = _event(environment)
    refused: BadRequest | None = None
    try:
        request = requested(environment.get("GITHUB_EVENT_NAME", ""), event, settings.label)
    except BadRequest as error:
        plain = json.loads(json.dumps(event)) | {"comment": event["comment"] | {"body": "/runoff"}}
        request, refused = requested(environment.get("GITHUB_EVENT_NAME", ""), plain, settings.label), error
    place = _place(environment, request.issue)
    if not may_write(place.hub, place.address.slug, request.by):
        raise Ignored(f"{request.by} may not write to {place.address.slug}")
    if refused:
        raise refused
    if not request.options.again:
        if there := next((mark.page for mark in _marks(place) if not mark.over), None):
            raise Ignored(f"a run is at work on it already: {there}")
        if pull := pull_request(place):
            raise Ignored(f"there is a pull request already: {pull}; /runoff --again makes another attempt")
    return request, place, settings


def may_write(hub: GitHub, slug: str, who: str) -> bool:
    """Whether somebody may write to a repository, as the API says now. What cannot be told is a no."""
    try:
        found = hub.get(f"/repos/{slug}/collaborators/{who}/permission", needs="Metadata: read")
    except GitHubFailed as error:
        if error.status == 404:
            return False
        raise
    user = found.get("user") if isinstance(found, dict) else None
    same = isinstance(user, dict) and str(user.get("login", "")).lower() == who.lower()
    return same and found.get("permission") in MAY


def pull_request(place: Place) -> str | None:
    """The page of the open pull request for the issue's usual branch."""
    branch, slug = f"runoff/issue-{place.address.number}", place.address.slug
    head = f"{place.address.owner}:{branch}"
    for one in place.hub.pages(f"/repos/{slug}/pulls", {"head": head, "state": "open"}, needs="Pull requests: read"):
        if (one.get("head") or {}).get("ref") == branch:
            return _page(one)
    return None


def _solve(
    request: Request, place: Place, settings: Settings, environment: Mapping[str, str], run: Callable[..., int]
) -> int:
    folder = Path(environment.get("RUNNER_TEMP") or "/tmp") / "runoff" / place.address.id
    words = arguments(request, place, settings, folder)
    with _at_work_on(place, request) as there:
        if there:
            click.echo(f"nothing to do: a run is at work on it already: {there}")
            return 0
        code = run(words, _with_keys(environment))
    status = _status(folder)
    pull = pull_request(place) if code == 0 else None
    _output(environment, "status", status)
    _output(environment, "pull-request", pull or "")
    _output(environment, "run", str(folder))
    _summary(environment, place, status, pull, folder)
    return 0 if code in (0, 1, 6) else code  # no patch, or not sure enough, is an answer


def arguments(request: Request, place: Place, settings: Settings, folder: Path) -> list[str]:
    """What is typed after `runoff`. Of the request there are numbers in it, and nothing else."""
    asked = request.options
    most = settings.trajectories
    n = min(filter(None, (asked.trajectories, most)), default=None)
    words = ["solve", place.address.url, "--ref", place.commit, "--out", str(folder), "--pr"]
    for model in settings.models:
        words += ["--model", model]
    words += ["--budget", capped(asked.budget, settings.budget)]
    words += ["-n", str(n)] if n else []
    words += ["--api-base", settings.api_base] if settings.api_base else []
    words += ["--calibration", settings.calibration] if settings.calibration else []
    words += ["--abstain-below", settings.threshold] if settings.threshold else []
    words += ["--comment"] if settings.comment else []
    return words + (["--with-test"] if settings.with_test or asked.with_test else [])


@contextmanager
def _at_work_on(place: Place, request: Request) -> Iterator[str | None]:
    """Say on the issue that this run is at work, and take it back. Gives the page of one that was earlier: it is joined.

    Two that begin at once both say it, and then see each other: the one whose comment is older goes on.
    """
    where = f"/repos/{place.address.slug}/issues"
    text = f"{_WORKING.format(place.run)}\nrunoff is at work on this, as was asked: {place.page}"
    made = place.hub.send("POST", f"{where}/{place.address.number}/comments", {"body": text}, needs="Issues: write")
    mine = int(made["id"])
    try:
        others = [mark for mark in _marks(place) if mark.number != mine]
        for mark in others:
            if mark.over:  # it was killed before it could take it back
                place.hub.send("DELETE", f"{where}/comments/{mark.number}", needs="Issues: write")
        earlier = (mark.page for mark in others if not mark.over and mark.number < mine)
        yield None if request.options.again else next(earlier, None)
    finally:
        place.hub.send("DELETE", f"{where}/comments/{mine}", needs="Issues: write")


class Mark(NamedTuple):
    """A comment by which a run says that it is at work."""

    number: int
    page: str
    over: bool
    """It cannot be any more: too long ago, or this very run, begun again."""


def _marks(place: Place) -> Iterator[Mark]:
    """Those by whoever our token is: a mark is easily copied."""
    path = f"/repos/{place.address.slug}/issues/{place.address.number}/comments"
    for one in own_comments(place.hub, path, _WORKING.partition("{")[0]):
        said = re.match(_WORKING.format(r"(\d+)"), str(one["body"]))
        age = datetime.now(UTC) - datetime.fromisoformat(str(one["created_at"]))
        yield Mark(int(one["id"]), _page(one), bool(said and said[1] == place.run) or age > LONGEST)


def _place(environment: Mapping[str, str], number: int) -> Place:
    slug = environment.get("GITHUB_REPOSITORY", "")
    owner, _, repo = slug.partition("/")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", slug, re.ASCII):
        raise ActionFailed("this is no workflow of GitHub's: GITHUB_REPOSITORY names no repository")
    base = server(environment)
    token = find_token(base, environment)
    if token is None:
        raise ActionFailed("the input token is empty")
    commit = environment.get("GITHUB_SHA", "")
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise ActionFailed("this is no workflow of GitHub's: GITHUB_SHA names no commit")
    run = environment.get("GITHUB_RUN_ID", "0")
    page = f"{base}/{slug}/actions/runs/{run}"
    address = IssueAddress(base=base, owner=owner, repo=repo, number=number)
    hub = GitHub(base, token=token, say=lambda text: click.echo(f"runoff: {shown(text)}", err=True))
    return Place(address, hub, run if run.isdigit() else "0", page, commit)


def _event(environment: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(Path(environment["GITHUB_EVENT_PATH"]).read_bytes())
    except (KeyError, OSError, ValueError):
        raise ActionFailed("this is no workflow of GitHub's: GITHUB_EVENT_PATH holds no event") from None
    if not isinstance(found, dict):
        raise ActionFailed("the event is none of GitHub's")
    return found


def _with_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the process that asks models: with the keys, which nothing else is given. Raises ActionFailed."""
    kept = {name: value for name, value in environment.items() if not _RUNNERS.fullmatch(name)}
    for line in environment.get("RUNOFF_INPUT_KEYS", "").splitlines():
        name, equals, value = line.strip().partition("=")
        if not name:
            continue
        if not equals or not _KEY.fullmatch(name) or name.startswith(("GITHUB_", "GH_", "ACTIONS_", "RUNNER_")):
            raise ActionFailed(f"the input keys holds a line that is no NAME_API_KEY=VALUE (its name: {name[:40]!r})")
        if value:
            kept[name] = value
    return kept


def _run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    command = [sys.executable, "-c", "from runoff.cli import main; main()", *words]
    return subprocess.run(command, env=dict(environment), check=False).returncode


def _status(folder: Path) -> str:
    try:
        return str(json.loads((folder / "selection.json").read_text())["status"])
    except (OSError, ValueError, KeyError):
        return "failed"


def _page(of: Mapping[str, Any]) -> str:
    url = str(of.get("html_url") or "")
    return url if re.fullmatch(r"https?://[\w.:-]+/[\w./#%-]+", url, re.ASCII) else "?"


def _output(environment: Mapping[str, str], name: str, value: str) -> None:
    _append(environment.get("GITHUB_OUTPUT"), f"{name}={' '.join(value.split())}\n")


def _summary(environment: Mapping[str, str], place: Place, status: str, pull: str | None, folder: Path) -> None:
    told = {"patch": "a patch", "abstained": "not sure enough of any patch", "none": "no patch"}.get(status, status)
    line = f"[Issue {place.address.number}]({place.address.url}): {told}" + (
        f", [draft pull request]({pull})" if pull else ""
    )
    _append(environment.get("GITHUB_STEP_SUMMARY"), f"{line}.\n")


def _append(file: str | None, text: str) -> None:
    if file:
        with Path(file).open("a") as end:
            end.write(text)


@contextmanager
def _unheard(environment: Mapping[str, str]) -> Iterator[None]:
    """Nothing that is said within is a command to the runner."""
    if environment.get("GITHUB_ACTIONS") != "true":
        yield
        return
    word = secrets.token_hex(16)
    click.echo(f"::stop-commands::{word}")
    try:
        yield
    finally:
        sys.stderr.flush()
        click.echo(f"::{word}::")


__all__ = ["ActionFailed", "action_command", "arguments", "may_write"]
