"""From a finished run to a branch, a push, a draft pull request, a comment: no more than was asked for, and each of them once.

The same command again finds what is there: the same branch is moved, the same pull request and comment are rewritten. Killed
anywhere in between, it goes on from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from runoff.agent.protocol import digest
from runoff.failure import MISSING
from runoff.github.access import Token, find_token
from runoff.github.address import GITHUB, IssueAddress, base_of
from runoff.github.client import GitHub, GitHubFailed
from runoff.github.commit import Git, Made, NotPublished, check_branch, commit_on, identity, there, tree_with
from runoff.github.description import Place, comment, describe, message, subject
from runoff.github.evidence import Evidence
from runoff.github.markdown import plain
from runoff.github.pushing import Remote, dry_run, push, remote, remote_of
from runoff.github.submission import Submission
from runoff.instance import Instance
from runoff.sandbox.protocol import Value

_BEGIN, _END = "<!-- runoff: {} -->", "<!-- /runoff -->"


class Wanted(Value):
    """What is to be published. Nothing is, unless it is asked for."""

    branch: str | None = None
    """The branch's name; None: the usual one."""
    local: bool = False
    """A branch."""
    push: bool = False
    pr: bool = False
    comment: bool = False
    with_test: bool = False
    """The reproduction as a test of the project's own is part of the commit."""
    remote: str | None = None
    """A remote of the repository or an address; None: the issue's repository, else `origin`."""
    into: str | None = None
    """The branch that the pull request is to be merged into; None: the default one."""

    @property
    def anything(self) -> bool:
        return self.local or self.pushes or self.comment

    @property
    def pushes(self) -> bool:
        return self.push or self.pr

    @property
    def branches(self) -> bool:
        return self.local or self.pushes or self.with_test


class Target(NamedTuple):
    """Where the pull request and the comment go."""

    hub: GitHub
    slug: str
    default: str


def key_of(instance: Instance, address: IssueAddress | None) -> str:
    """What a branch and a description are known by as ours: the issue's. Issues that were given as texts share a project's name."""
    return instance.id if address else f"{instance.id}-{digest(instance.statement, size=4)}"


def branch_of(instance: Instance, address: IssueAddress | None, given: str | None) -> str:
    if given:
        return given
    if address:
        return f"runoff/issue-{address.number}"
    return f"runoff/{key_of(instance, address).lower()}"


def check(instance: Instance, address: IssueAddress | None, wanted: Wanted, say: Callable[[str], None]) -> None:
    """Before anything is spent: whether what is wanted can be done. Raises NotPublished, GitHubFailed, BadTarget."""
    if wanted.comment and not address:
        raise NotPublished("--comment takes an issue of GitHub: there is none that could be commented on")
    if not wanted.branches:
        return
    if instance.commit is None:
        raise NotPublished(f"{instance.source} is no git repository: there is nothing to make a branch in")
    repository, name = Path(instance.source), branch_of(instance, address, wanted.branch)
    git = Git(repository)
    check_branch(git, name)
    identity(git, repository)
    there(git, name, key_of(instance, address))
    if not wanted.pushes:
        return
    to, token = _remote(git, instance, address, wanted)
    dry_run(git, repository, to, name, instance.commit, key_of(instance, address), token)
    if wanted.pr:
        target = _target(address, to, say)
        _not_closed(target, _head(to, target, name))


def publish(
    submission: Submission, wanted: Wanted, evidence: Evidence, say: Callable[[str], None]
) -> tuple[list[str], bool]:
    """What was done, a line each; and whether all that was asked for could be.

    Raises NotPublished, GitHubFailed, BadTarget; SandboxError where something had to be executed.
    """
    instance, said, link, pushed = submission.instance, list[str](), "", ""
    if wanted.comment and not submission.address:
        raise NotPublished("--comment takes an issue of GitHub: there is none that could be commented on")
    if wanted.branches and submission.submitted:
        evidence = evidence.of(submission, test=wanted.with_test)
        submission = submission.model_copy(update={"proof": evidence.proof})
        name, git, made = _branch(submission, wanted, evidence)
        said.append(f"branch {name}: {_WHAT[made.what]} {made.commit[:12]} in {instance.source}")
        if evidence.test:
            said.append(f"  with {evidence.test.path}, which fails on the base and passes on the patch")
        elif wanted.with_test:
            said.append(f"  without a test: {evidence.no_test}")
        if wanted.pushes:
            to, token = _remote(git, instance, submission.address, wanted)
            target = _target(submission.address, to, say) if wanted.pr else None
            head = _head(to, target, name) if target else ""
            found = _not_closed(target, head) if target else None
            done = push(git, Path(instance.source), to, name, made.commit, key_of(instance, submission.address), token)
            pushed = name
            said.append(f"pushed to {to.place}: {_WHAT[done.what]} {made.commit[:12]}")
            if target:
                link, what = _pull(target, found, head, name, submission, made, wanted, evidence)
                said.append(f"{what}: {link}")
    elif wanted.branches:
        said.append(f"no branch and no pull request: {submission.why.removeprefix('abstained: ')}")
    if wanted.comment:
        said.append(_commented(submission, comment(submission, link=link, branch=pushed), say))
    return said, submission.submitted or not wanted.branches


_WHAT = {"new": "new, commit", "moved": "moved to commit", "there": "already there, commit"}


def _branch(submission: Submission, wanted: Wanted, evidence: Evidence) -> tuple[str, Git, Made]:
    instance = submission.instance
    if instance.commit is None:
        raise NotPublished(
            f"{instance.source or instance.image} is no git repository: there is nothing to make a branch in"
        )
    entry = submission.entry
    assert entry
    repository, name = Path(instance.source), branch_of(instance, submission.address, wanted.branch)
    git = Git(repository)
    check_branch(git, name)
    files = {evidence.test.path: evidence.test.contents} if evidence.test else {}
    tree = tree_with(git, instance.commit, entry.candidate.patch, files)
    text = message(submission, evidence.test.path if evidence.test else "")
    return (
        name,
        git,
        commit_on(git, repository, name, instance.commit, tree, text, key_of(instance, submission.address)),
    )


def _remote(git: Git, instance: Instance, address: IssueAddress | None, wanted: Wanted) -> tuple[Remote, Token | None]:
    """Where to push, and the token that opens it, if it is a server's."""
    if wanted.remote:
        to = remote_of(git, Path(instance.source), wanted.remote)
    elif address:
        to = remote(f"{address.base}/{address.slug}.git")
    else:
        to = remote_of(git, Path(instance.source), "origin")
    if not to.url.startswith(("http://", "https://")) or "@" in urlsplit(to.url).netloc:
        return to, None
    return to, find_token(base_of(to.url))


def _target(address: IssueAddress | None, to: Remote, say: Callable[[str], None]) -> Target:
    """The repository whose issue it is; else the one that is pushed to."""
    if address:
        base, slug = address.base, address.slug
    elif to.slug:
        base, slug = (
            (base_of(to.url) if "://" in to.url and to.url.startswith("http") else f"https://{to.host}"),
            to.slug,
        )
    else:
        raise NotPublished(f"--pr: {to.place} is no repository of GitHub's; --push brings the branch there")
    hub = GitHub(base, token=find_token(base), say=say)
    if hub.token is None:
        where = "GITHUB_TOKEN" if base == GITHUB else "GH_ENTERPRISE_TOKEN"
        raise NotPublished(f"a pull request takes a token: set {where}, or gh auth login", MISSING)
    found = hub.get(f"/repos/{slug}", needs="Metadata: read")
    if found.get("archived"):
        raise NotPublished(f"{slug} is archived: it takes no pull requests")
    name = str(found["full_name"])
    if not address and found.get("fork") and (parent := found.get("parent", {}).get("full_name")):
        say(f"{name} is a fork of {parent}; the pull request is made within the fork")
    return Target(hub, name, str(found["default_branch"]))


def _head(to: Remote, target: Target, branch: str) -> str:
    """As the API names it: with its owner, who is another for a fork."""
    owner = (to.slug or target.slug).partition("/")[0]
    return f"{owner}:{branch}"


def _not_closed(target: Target, head: str) -> dict[str, Any] | None:
    """The open pull request of a branch; None: there has been none. Raises NotPublished where a person closed or merged it."""
    branch = head.partition(":")[2]
    listed = target.hub.pages(
        f"/repos/{target.slug}/pulls", {"head": head, "state": "all"}, needs="Pull requests: read"
    )
    of = [one for one in listed if (one.get("head") or {}).get("ref") == branch]  # an empty filter would list all
    found = next((one for one in of if one["state"] == "open"), None)
    if found is None and of:
        one = of[0]
        how = "merged" if one.get("merged_at") else "closed"
        raise NotPublished(
            f"the pull request for {branch} was {how}: {_link(one)}; runoff makes no other for that branch: "
            "give another name with --branch NAME"
        )
    return found


def _pull(
    target: Target,
    found: dict[str, Any] | None,
    head: str,
    branch: str,
    submission: Submission,
    made: Made,
    wanted: Wanted,
    evidence: Evidence,
) -> tuple[str, str]:
    """Its address, and what was done."""
    address, owner = submission.address, target.slug.partition("/")[0]
    issue = ""
    if address:
        same = address.slug.lower() == target.slug.lower()
        issue = f"#{address.number}" if same else f"{address.slug}#{address.number}"
    place = Place(
        base=submission.instance.commit or "",
        commit=made.commit,
        branch=branch,
        issue=issue,
        test=evidence.test.path if evidence.test else "",
        no_test=evidence.no_test if wanted.with_test else "",
    )
    begin = _BEGIN.format(key_of(submission.instance, submission.address))
    body = f"{begin}\n{describe(submission, place)}{_END}\n"
    where = f"/repos/{target.slug}/pulls"
    if found:
        whole = _replaced(str(found.get("body") or ""), begin, body)
        if whole is None:
            return _link(
                found
            ), "the branch's pull request was opened by somebody else, its description is left as it is"
        if whole.strip() == str(found.get("body") or "").strip():
            return _link(found), "the pull request is up to date"
        target.hub.send("PATCH", f"{where}/{int(found['number'])}", {"body": whole}, needs="Pull requests: write")
        return _link(found), "the pull request's description is new"
    try:
        opened = target.hub.send(
            "POST",
            where,
            {
                "title": subject(submission),
                "head": branch if head.partition(":")[0].lower() == owner.lower() else head,
                "base": wanted.into or target.default,
                "body": body,
                "draft": True,
                "maintainer_can_modify": True,
            },
            needs="Pull requests: write",
        )
    except GitHubFailed as error:
        if error.status == 422 and "already exists" in str(error) and (there := _not_closed(target, head)):
            return _link(there), "the pull request is there already"
        compare = f"{target.hub.base}/{target.slug}/compare/{quote(wanted.into or target.default)}...{quote(head)}"
        raise GitHubFailed(
            f"{error}; the branch is pushed: open the pull request by hand at {compare}, or type the same command again",
            status=error.status,
            exit_code=error.exit_code,
        ) from None
    return _link(opened), "draft pull request"


def _replaced(body: str, begin: str, ours: str) -> str | None:
    """A description with our part of it replaced: what people wrote before and behind it stays. None: it has no part of ours."""
    body = body.replace("\r\n", "\n")
    at, to = body.find(begin), body.find(_END)
    if at < 0 or to < at:
        return None
    return body[:at] + ours.removesuffix("\n") + body[to + len(_END) :]


def _commented(submission: Submission, text: str, say: Callable[[str], None]) -> str:
    address = submission.address
    assert address
    hub = GitHub.of(address, say)
    if hub.token is None:
        raise NotPublished("a comment takes a token: set GITHUB_TOKEN, or gh auth login", MISSING)
    begin = _BEGIN.format(key_of(submission.instance, submission.address))
    body = f"{begin}\n{text}"
    where = f"/repos/{address.slug}/issues"
    for one in own_comments(hub, f"{where}/{address.number}/comments", begin):
        if str(one.get("body") or "").replace("\r\n", "\n").strip() == body.strip():
            return f"the comment is up to date: {_link(one)}"
        hub.send("PATCH", f"{where}/comments/{int(one['id'])}", {"body": body}, needs="Issues: write")
        return f"the comment is new: {_link(one)}"
    made = hub.send("POST", f"{where}/{address.number}/comments", {"body": body}, needs="Issues: write")
    return f"comment: {_link(made)}"


def own_comments(hub: GitHub, path: str, begin: str) -> Iterator[dict[str, Any]]:
    """Those that begin with a mark and are by whoever the token is: a mark is easily copied."""
    me: str | None = None
    for one in hub.pages(path, needs="Issues: read"):
        if not str(one.get("body") or "").startswith(begin):
            continue
        me, user = me or login(hub), one.get("user") or {}
        if user.get("login") == me or (me == BOT and user.get("type") == "Bot"):
            yield one


BOT = "github-actions[bot]"


def login(hub: GitHub) -> str:
    """Whose token it is. That of an app, such as a workflow's, may not ask: BOT, which then stands for any."""
    try:
        return str(hub.get("/user")["login"])
    except GitHubFailed as error:
        if error.status in (403, 404):
            return BOT
        raise


def _link(of: dict[str, Any]) -> str:
    """An address that GitHub gave."""
    url = str(of.get("html_url") or "")
    return url if re.fullmatch(r"https?://[\w.:-]+/[\w./#%-]+", url, re.ASCII) else plain(url)


__all__ = ["Target", "Wanted", "branch_of", "check", "publish"]
