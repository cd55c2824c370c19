"""An issue of a server as an instance: read once, kept in the run, and what was kept is what the run goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from runoff.agent.secrets import Secrets
from runoff.failure import ForTheUser
from runoff.github import access
from runoff.github.address import IssueAddress
from runoff.github.claims import Claim, claims
from runoff.github.client import GitHub, Repository
from runoff.github.clone import Clone, default_cache
from runoff.github.statement import Link, Which, excerpt, statement
from runoff.instance import Instance
from runoff.run import BadRun, write_whole
from runoff.sandbox.protocol import Value

KEPT = "issue.json"
"""What is kept of an issue, in the run's directory."""
TALK = 1000
"""Comments that are read."""


class Claimed(ForTheUser):
    """Somebody is at work on the issue already, and it was asked to leave it then."""

    exit_code = 1


class Task(Value):
    """An issue as it was first read, and where it is solved."""

    version: Literal[1] = 1
    asked: IssueAddress
    """As the user named it."""
    address: IssueAddress
    """Where it is: the same, unless it or its repository has moved."""
    repository: Repository
    title: str
    state: str
    which: Which
    ref: str | None = None
    """--ref, if it was given."""
    commit: str
    why: str
    """Which commit that is, for the user."""
    statement: str
    notes: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    read_at: datetime


def read_task(
    asked: IssueAddress,
    out: Path,
    *,
    ref: str | None = None,
    which: Which = "auto",
    say: Callable[[str], None] = lambda text: None,
    cache: Path | None = None,
    client: GitHub | None = None,
) -> tuple[Task, Path]:
    """What is kept of the issue in the run `out`, or what the server says, kept there; and the repository at its base commit.

    `say` is told everything that a user should know before anything is paid. Raises BadTarget, BadRun, GitHubFailed.
    """
    cache = cache or default_cache(os.environ)
    begun = any((out / "log").glob("*.jsonl"))
    if begun and (task := kept(out)):
        if task.asked != asked:
            raise BadRun(f"{out} holds a run for {task.asked}; give another --out")
        if (differs := "--ref" if ref != task.ref and ref else "--comments" if which != task.which else "") != "":
            raise BadRun(f"{out} holds a run with another {differs}; give another --out")
        say(
            f"{asked} as it was read on {task.read_at:%Y-%m-%d %H:%M} UTC ({out / KEPT}); to read it anew give another --out"
        )
        token = access.find_token(asked.base)
        return task, Clone(asked.base, task.repository, token, cache, say).source(task.commit)
    if out.is_file() or (
        out.is_dir() and any(not path.name.startswith(".") and path.name != KEPT for path in out.iterdir())
    ):
        raise BadRun(f"{out} holds something else than a run for {asked}; give another --out")
    client = client or GitHub.of(asked, say)
    if client.token is None:
        say(f"no token for {asked.host}: only what is public can be read, 60 requests an hour")
    repository = client.repository(asked)
    moved = asked.model_copy(update={"owner": repository.owner, "repo": repository.name})
    address, issue = client.issue(moved)
    if address.slug.lower() != repository.full_name.lower():
        repository = client.repository(address)
    comments = client.comments(address, limit=TALK) if issue.comments and which != "none" else []
    who = claims(client, address)
    clone = Clone(asked.base, repository, client.token, cache, say)
    clone.bring()
    base = clone.base(issue.created_at, ref)

    def quoted(link: Link) -> str | None:
        """At a commit that the base has behind it, or as the base has it: later code would give the answer away."""
        at = link.ref if link.at_commit else base.commit
        if at != base.commit and which != "all" and not clone.is_before(at, base.commit):
            return None
        data = clone.read(at, link.path, limit=1 << 20)
        return None if data is None else excerpt(data, link)

    said = statement(address, issue, comments, which, quoted)
    task = Task(
        asked=asked,
        address=address,
        repository=repository,
        title=issue.title,
        state=issue.state,
        which=which,
        ref=ref,
        commit=base.commit,
        why=base.why,
        statement=said.text,
        notes=(*said.notes, *clone.notes(base.commit)),
        claims=tuple(who),
        read_at=datetime.now(UTC).replace(microsecond=0),
    )
    source = clone.source(base.commit)
    return _keep(out, task), source


def told(task: Task) -> list[str]:
    """What a user should know of it before anything is paid."""
    lines = [f"{task.address}: {task.title}"]
    if task.state == "closed":
        lines.append("the issue is closed")
    lines += [claim.line() for claim in task.claims]
    return [*lines, f"base: {task.why}", *task.notes]


def instance(task: Task, source: Path, commands: dict[str, Any]) -> Instance:
    """As runoff solves it."""
    return Instance(
        id=task.asked.id,
        source=str(source),
        statement=task.statement,
        commit=task.commit,
        digest=task.commit,
        **commands,
    )


def kept(out: Path) -> Task | None:
    """The issue that is kept in a run; None if there is none. Raises BadRun if it is damaged."""
    file = out / KEPT
    try:
        return Task.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError:
        raise BadRun(f"{file} is damaged: what was asked for is not known; give another --out") from None


def _keep(out: Path, task: Task) -> Task:
    """Written down; what is secret here is taken out, so that the run that goes on reads what the first one did."""
    told = Secrets().redacted(task.model_dump(mode="json"))
    write_whole(out / KEPT, json.dumps(told, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    return Task.model_validate(told)


__all__ = ["KEPT", "Claimed", "Task", "instance", "kept", "read_task", "told"]
