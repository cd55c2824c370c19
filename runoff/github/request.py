"""What an event of GitHub's asks of the Action: by whom, for which issue, with which options; or why it asks nothing. Pure.

The payload is what its sender made it. Nothing of it is used but a number, a login, the name of a label that is compared, and the
options of a comment's first line, each of which is known and checked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from runoff.agent.budget import Budget, parse_budget
from runoff.failure import USAGE, ForTheUser
from runoff.sandbox.protocol import Value

COMMAND = "/runoff"
MOST = 64
"""Trajectories, whatever a workflow allows."""

_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}(_[A-Za-z0-9]+)?", re.ASCII)


class Ignored(Exception):
    """Why an event asks nothing: for the log of the workflow, no failure."""


class BadRequest(ForTheUser):
    """What is wrong with an option, in one line."""

    exit_code = USAGE


class Options(Value):
    """What a comment may say, and what the workflow says where it does not."""

    trajectories: int | None = None
    budget: str | None = None
    with_test: bool = False
    again: bool = False
    """Another attempt, though there is a pull request, or a run that seems to be under way."""


class Request(Value):
    issue: int
    by: str
    """The login of who asks; that they may is to be asked of the API, and of nothing in the event."""
    options: Options = Options()


def requested(name: str, event: Mapping[str, Any], label: str) -> Request:
    """What an event asks. `name` as GITHUB_EVENT_NAME says it. Raises Ignored, BadRequest."""
    issue, action = _object(event, "issue"), event.get("action")
    if name == "issues" and action == "labeled":
        given = _object(event, "label").get("name")
        if given != label:
            raise Ignored(f"the label is not {label}")
        words = ""
    elif name == "issue_comment" and action == "created":
        words = str(_object(event, "comment").get("body") or "")
        if not re.match(rf"{COMMAND}(?![\w/-])", words):
            raise Ignored(f"the comment does not begin with {COMMAND}")
    else:
        raise Ignored("only a label on an issue and a new comment ask for anything")
    if "pull_request" in issue and issue["pull_request"] is not None:
        raise Ignored("it is about a pull request, not an issue")
    if issue.get("state") != "open":
        raise Ignored("the issue is not open")
    sender = _object(event, "sender")
    by = sender.get("login")
    if sender.get("type") != "User" or not isinstance(by, str) or not _LOGIN.fullmatch(by):
        raise Ignored("it was no person who asked")
    if words and _object(_object(event, "comment"), "user").get("login") != by:
        raise Ignored("the comment is not by who sent it")
    number = issue.get("number")
    if type(number) is not int or number < 1:
        raise Ignored("the event has no issue")
    return Request(issue=number, by=by, options=options(words))


def options(comment: str) -> Options:
    """Those of a comment: of its first line, which begins with the command; what follows is for people. Raises BadRequest."""
    lines = comment.splitlines()
    try:
        words = shlex.split(lines[0])[1:] if lines else []
    except ValueError:
        raise BadRequest(f"{COMMAND}: a quotation mark is not closed") from None
    found: dict[str, Any] = {}
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word in ("--with-test", "--again") and not equals:
            found[word[2:].replace("-", "_")] = True
        elif word in ("-n", "--budget"):
            if not equals:
                value = words.pop(0) if words else ""
            found |= _number(value) if word == "-n" else _budget(value)
        else:
            raise BadRequest(f"{COMMAND} takes -n NUMBER, --budget SUM, --with-test and --again, and nothing else")
    return Options.model_validate(found)


def capped(asked: str | None, most: str) -> str:
    """A budget, cap by cap no larger than the workflow's own, which must be there. Raises BadRequest."""
    try:
        ours = parse_budget(most)
    except ValueError:
        raise BadRequest(
            "the workflow's budget is none: 2.50 (dollars), 300ktok, 100calls, 2h, or several: 5,2h"
        ) from None
    theirs = parse_budget(asked) if asked else Budget()
    caps: dict[str, float] = {}
    for name in ("money", "tokens", "calls", "seconds"):
        known = [cap for cap in (getattr(ours, name), getattr(theirs, name)) if cap is not None]
        if known:
            caps[name] = min(known)
    units = {"money": "", "tokens": "tok", "calls": "calls", "seconds": "s"}
    return ",".join(
        f"{cap:.10g}{units[name]}" if name in ("money", "seconds") else f"{cap}{units[name]}"
        for name, cap in caps.items()
    )


def _number(text: str) -> dict[str, Any]:
    if not re.fullmatch(r"[1-9]\d?", text, re.ASCII) or int(text) > MOST:
        raise BadRequest(f"{COMMAND} -n takes a number from 1 to {MOST}")
    return {"trajectories": int(text)}


def _budget(text: str) -> dict[str, Any]:
    try:
        parse_budget(text)
    except ValueError:
        raise BadRequest(
            f"{COMMAND} --budget takes a sum: 2.50 (dollars), 300ktok, 100calls, 2h, or several: 5,2h"
        ) from None
    return {"budget": text}


def _object(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    return found if isinstance(found, dict) else {}
