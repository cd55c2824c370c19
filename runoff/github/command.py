"""What `--branch`, `--push`, `--pr` and `--comment` of `runoff solve` and `runoff publish` do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from runoff.github.commit import NotPublished
from runoff.github.evidence import Evidence
from runoff.github.publish import Wanted, check, publish
from runoff.github.submission import issue_of, read
from runoff.instance import Instance
from runoff.visible import shown


def wanted_of(options: dict[str, Any]) -> Wanted:
    """What of it was asked for, taken out of the options. Raises NotPublished where they contradict each other."""
    branch = options.pop("branch", None)
    wanted = Wanted(
        branch=branch or None,
        local=branch is not None,
        **{name: options.pop(name, False) for name in ("push", "pr", "comment", "with_test")},
        **{name: options.pop(name, None) for name in ("remote", "into")},
    )
    if wanted.remote and not wanted.pushes:
        raise NotPublished("--remote says where to push to: give --push or --pr, too")
    if wanted.into and not wanted.pr:
        raise NotPublished("--into says where the pull request is to be merged: give --pr, too")
    return wanted


def check_all(instances: Sequence[Instance], run: Path, wanted: Wanted) -> None:
    """Before anything is spent: whether all that is wanted can be done. Raises NotPublished, GitHubFailed."""
    if wanted.branch and len(instances) > 1:
        raise NotPublished(
            f"--branch {wanted.branch}: {len(instances)} issues cannot have one branch; leave the name out"
        )
    for instance in instances:
        if wanted.anything or wanted.branches:
            issue = issue_of(run, instance.id)
            check(instance, issue[0] if issue else None, wanted, _say)


def publish_all(run: Path, instances: Iterable[str | None], wanted: Wanted, states: Path, sandbox: str) -> bool:
    """Say what was done; whether it was all that was asked for. Raises NotPublished, GitHubFailed, BadRun."""
    whole = True
    for name in instances:
        told, done = publish(read(run, name), wanted, Evidence(states, sandbox, _say), _say)
        whole &= done
        click.echo(shown("\n".join(told)))
    return whole


def _say(text: str) -> None:
    click.echo(f"runoff: {shown(text)}", err=True)
