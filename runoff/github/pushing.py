"""A branch brought to a remote repository: by the host, without hooks, and never over what others put there.

The token goes to git by its environment, for the one server that it was given for; it stands in no argument, address or file.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from runoff.failure import INFRASTRUCTURE, MISSING
from runoff.github.access import Token
from runoff.github.commit import Git, NotPublished, ours
from runoff.visible import shown

_SCP = re.compile(r"(?:[\w.-]+@)?([\w.-]+):(?!//)(.+)")


class Remote(NamedTuple):
    """Where to push to."""

    url: str
    """As git takes it; may hold a name or a password that the user's configuration has."""
    place: str
    """The same for people, without those."""
    host: str
    slug: str
    """`owner/repository`, if it looks like one of a server's; else empty."""


class Pushed(NamedTuple):
    commit: str
    what: str
    """`new`, `moved` from an earlier commit of ours, or `there` already."""


def remote_of(git: Git, repository: Path, given: str) -> Remote:
    """What `--remote` names: one of the repository's remotes, or an address. Raises NotPublished."""
    if given.startswith("-"):
        raise NotPublished(f"--remote {shown(given)} is neither a remote nor an address")
    named = (
        git.try_("remote", "get-url", "--push", given, at=repository) if "/" not in given and ":" not in given else None
    )
    if named is None and "/" not in given:
        known = ", ".join(shown(git.run("remote", at=repository)).split()) or "none"
        raise NotPublished(
            f"{repository} has no remote {shown(given)} (there are: {known}); give --remote NAME or its URL"
        )
    return remote(named or given)


def remote(url: str) -> Remote:
    """An address, taken apart. Raises NotPublished for what is none."""
    if "://" in url:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ssh", "file"):
            raise NotPublished(f"nothing is pushed by {shown(parts.scheme)}; give an address of https or ssh")
        place = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return Remote(url, shown(place), parts.hostname or "", _slug(parts.path) if parts.scheme != "file" else "")
    if url.startswith(("/", "./", "../", "~")):
        return Remote(url, shown(url), "", "")
    if found := _SCP.fullmatch(url):
        return Remote(url, shown(url), found[1], _slug(found[2]))
    raise NotPublished(f"{shown(url)} is no address that can be pushed to")


def _slug(path: str) -> str:
    parts = path.strip("/").removesuffix(".git").split("/")
    return (
        "/".join(parts[-2:])
        if len(parts) >= 2 and all(re.fullmatch(r"[\w.-]+", part, re.ASCII) for part in parts[-2:])
        else ""
    )


def authorizing(url: str, token: Token | None) -> dict[str, str]:
    """The environment by which git authorizes itself at the server of an address of https; nothing of it is in the command."""
    parts = urlsplit(url)
    if token is None or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        return {}
    name, value = token.setting(f"{parts.scheme}://{parts.netloc}")
    return {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": name,
        "GIT_CONFIG_VALUE_0": value,
        "GIT_CONFIG_KEY_1": "credential.helper",  # another's password must not stand in for a token that is refused
        "GIT_CONFIG_VALUE_1": "",
    }


def push(
    git: Git, repository: Path, to: Remote, branch: str, commit: str, instance: str, token: Token | None
) -> Pushed:
    """Bring the commit there as `branch`. Called again it finds what is there.

    Raises NotPublished: the branch holds what was not made here, is the repository's default one, or the server refuses.
    """
    own = authorizing(to.url, token)
    there = _ours_there(git, repository, to, branch, instance, own, token)
    if there == commit:
        return Pushed(commit, "there")
    done = git.process(
        "push",
        "--porcelain",
        "--no-verify",
        "--no-follow-tags",
        f"--force-with-lease=refs/heads/{branch}:{there or ''}",
        "--",
        to.url,
        f"{commit}:refs/heads/{branch}",
        at=repository,
        env=own,
    )
    if done.returncode:
        raise _refused(git, done, to, branch, token)
    return Pushed(commit, "moved" if there else "new")


def dry_run(
    git: Git, repository: Path, to: Remote, branch: str, commit: str, instance: str, token: Token | None
) -> None:
    """Whether a branch may be pushed there, before anything is spent on one. Raises NotPublished as `push` does."""
    own = authorizing(to.url, token)
    _ours_there(git, repository, to, branch, instance, own, token)
    target = f"+{commit}:refs/heads/{branch}"
    done = git.process("push", "--dry-run", "--porcelain", "--no-verify", "--", to.url, target, at=repository, env=own)
    if done.returncode:
        raise _refused(git, done, to, branch, token)


def _ours_there(
    git: Git, repository: Path, to: Remote, branch: str, instance: str, own: Mapping[str, str], token: Token | None
) -> str | None:
    """The commit of the branch there, which was made here; None: there is no such branch."""
    there = _there(git, repository, to, branch, own, token)
    if there and not ours(_commit_there(git, repository, to, branch, there, own, token), instance):
        raise NotPublished(
            f"{to.place} has a branch {branch} with commits that runoff did not make for {instance}; it is left as it is: "
            "give another name with --branch NAME"
        )
    return there


def _there(
    git: Git, repository: Path, to: Remote, branch: str, own: Mapping[str, str], token: Token | None
) -> str | None:
    done = git.process("ls-remote", "--symref", "--", to.url, "HEAD", f"refs/heads/{branch}", at=repository, env=own)
    if done.returncode:
        raise _refused(git, done, to, branch, token)
    found = None
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        what, _, ref = line.partition("\t")
        if what == f"ref: refs/heads/{branch}" and ref == "HEAD":
            raise NotPublished(f"{branch} is the default branch of {to.place}: runoff pushes to no such branch")
        if ref == f"refs/heads/{branch}" and not what.startswith("ref:"):
            found = what
    return found


def _commit_there(
    git: Git, repository: Path, to: Remote, branch: str, commit: str, own: Mapping[str, str], token: Token | None
) -> str:
    """A commit that the remote has, as `git cat-file` prints it. What has to be fetched for it is thrown away."""
    if (known := git.try_("cat-file", "commit", commit, at=repository, env={"GIT_NO_LAZY_FETCH": "1"})) is not None:
        return known
    with tempfile.TemporaryDirectory() as scratch:
        at = Path(scratch)
        git.run("init", "--quiet", "--bare", ".", at=at)
        done = git.process(
            "fetch", "--quiet", "--no-tags", "--depth=1", "--", to.url, f"refs/heads/{branch}", at=at, env=own
        )
        if done.returncode:
            raise _refused(git, done, to, branch, token)
        return (
            git.try_("cat-file", "commit", commit, at=at) or "\n\n"
        )  # it has moved meanwhile: whoever moved it, not we


def _refused(
    git: Git, done: subprocess.CompletedProcess[bytes], to: Remote, branch: str, token: Token | None
) -> NotPublished:
    """In words for the user."""
    said = done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
    by = f"the token from {token.source}" if token else "what git knows (there is no token in GITHUB_TOKEN, nor of gh)"
    theirs = [line.partition(":")[2].strip() for line in said.splitlines() if line.startswith("remote:")]
    their = git.clean(" ".join(filter(None, theirs)))[:300]
    their = f" ({their})" if their else ""
    if "stale info" in said or "fetch first" in said or "non-fast-forward" in said:
        return NotPublished(
            f"somebody else pushed {branch} to {to.place} in this moment; it is left as it is: look at it, and type the "
            "same command again"
        )
    if re.search(
        r"returned error: 403|Permission to .* denied|Write access .* not granted|denied to|access rights", said
    ):
        return NotPublished(
            f"{to.place}: {by} may not push there{their}; push to a fork of yours with --remote URL: the pull request is "
            "then made from it",
            MISSING,
        )
    if re.search(
        r"Authentication failed|could not read (Username|Password)|returned error: 401|Permission denied", said
    ):
        return NotPublished(f"{to.place} does not know {by}; set GITHUB_TOKEN, or gh auth login{their}", MISSING)
    if "[remote rejected]" in said or "declined" in said:
        why = re.search(r"\[remote rejected\] .*?\((.*?)\)\s*$", said, re.MULTILINE)
        return NotPublished(
            f"{to.place} refuses the branch {branch}{f': {git.clean(why[1])}' if why else ''}{their}; the commit is kept in "
            "the local branch",
            INFRASTRUCTURE,
        )
    if re.search(r"unable to update url base from redirection|redirect", said):
        return NotPublished(f"{to.place} has moved; give its new address with --remote URL{their}")
    if re.search(r"not found|does not exist|does not appear to be a git repository", said, re.IGNORECASE):
        return NotPublished(f"{to.place} is no repository, or is not to be seen by {by}", MISSING)
    return NotPublished(f"pushing to {to.place}: git says {git.said(done, 2)}", INFRASTRUCTURE)
