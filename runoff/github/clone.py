"""A repository of a server on this machine: a partial clone that is kept, and beside it the base commit alone.

Git runs on the host, as far as it needs a network and a token, and nothing that is fetched decides what runs: no work tree is
checked out, no hook, filter or submodule is run, no protocol but https is spoken (http on loopback), and no redirection is
followed. The token is handed over in the environment, scoped to the server; no URL, argument or configuration holds it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runoff.alone import alone
from runoff.github import guarded
from runoff.github.access import Token
from runoff.github.client import GitHubFailed, Repository
from runoff.instance import BadTarget
from runoff.sandbox.environments.of_python import BUILD_FILES, version_of_tags
from runoff.sandbox.protocol import Value
from runoff.visible import shown

STALLED = 60
"""Seconds with less than 1,000 bytes a second after which git gives a connection up."""
DEEPEST = 2000
"""Commits since a tag beyond which the history that tells a version is not brought along."""
RECENT = 1800
"""Seconds for which a clone counts as in use after it was opened: `forget`."""


class Base(Value):
    """The commit that is solved at."""

    commit: str
    why: str
    """For the user: which one it is, and how to get another."""


class Clone:
    """One repository of one server, in a folder of the cache that nothing else writes."""

    def __init__(
        self,
        base: str,
        repository: Repository,
        token: Token | None,
        cache: Path,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        host = re.sub(r"[^A-Za-z0-9.-]", "_", base.partition("://")[2])
        self.folder = cache / host / f"{repository.owner}__{repository.name}-{repository.id}"
        self.url = f"{base}/{repository.full_name}.git"
        self._repository, self._token, self._base, self._say = repository, token, base, say
        self._path = self.folder / "clone.git"

    def bring(self) -> None:
        """Make or freshen the partial clone: all commits and trees of the default branch and the tags, no file yet.

        Raises GitHubFailed.
        """
        branch = f"refs/heads/{self._repository.default_branch}"
        with self._alone():
            made, path = self._path, self._path
            if not made.is_dir():
                path = made.with_name(".clone.git.part")
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
                self._git(path, "init", "--quiet", "--bare", "--template=")
                self._say(f"cloning {self._repository.full_name}: its history, without the files of old commits")
            fetch = ["fetch", "--quiet", "--prune", "--force", "--no-write-fetch-head", "--filter=blob:none"]
            try:
                self._git(path, *fetch, "origin", f"+{branch}:{branch}", "+refs/tags/*:refs/tags/*")
            except GitHubFailed as error:
                if "couldn't find remote ref" in str(error):
                    raise GitHubFailed(f"{self._repository.full_name} has no commit yet", exit_code=2) from None
                raise
            if path != made:
                path.rename(made)

    def base(self, at: datetime, ref: str | None) -> Base:
        """What `ref` means; without one, the default branch's last commit at or before a time. Raises BadTarget, GitHubFailed."""
        branch = self._repository.default_branch
        tip = f"refs/heads/{branch}"
        if ref is not None:
            with self._alone():  # what is fetched is known by a name that all share
                commit = self._named(ref)
            return Base(commit=commit, why=f"{self._told(commit)}, as --ref {ref} says")
        rest = [f"--min-age={int(at.timestamp())}", "--first-parent", "-1", tip]
        commit = self._git(self._path, "rev-list", *rest).decode().strip()
        if not commit:
            commit = self._git(self._path, "rev-parse", "--verify", tip).decode().strip()
            return Base(
                commit=commit,
                why=f"{self._told(commit)}, the last of {branch}: it has none from before the issue was opened",
            )
        further = int(self._git(self._path, "rev-list", "--count", "--first-parent", f"{commit}..{tip}").decode())
        now = f"; {branch} is {further} commits further, for today's code give --ref {branch}" if further else ""
        return Base(
            commit=commit,
            why=f"{self._told(commit)}, the last of {branch} before the issue was opened ({at:%Y-%m-%d}){now}",
        )

    def source(self, commit: str) -> Path:
        """A repository that holds the base commit, and of what was before it only what its build reads a version from.

        What an Instance takes as its source: no remote, no token, no other commit. Raises GitHubFailed.
        """
        made = self.folder / f"{commit}.git"
        if not made.is_dir() and not self._path.is_dir():  # a run that goes on after `forget`
            self.bring()
        with self._alone():
            if made.is_dir():
                return made
            part = made.with_name(f".{made.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            self._git(part, "init", "--quiet", "--bare", "--template=")
            tag, depth = self._version(commit)
            self._say(f"fetching the files of {commit[:12]}" + (f" and its history since {tag}" if tag else ""))
            refs = [f"+refs/tags/{tag}:refs/tags/{tag}"] if tag else []
            self._git(
                part,
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
                f"--depth={depth}",
                self.url,
                commit,
                *refs,
            )
            self._git(part, "update-ref", "--no-deref", "HEAD", commit)
            part.rename(made)
        return made

    def notes(self, commit: str) -> list[str]:
        """What of the repository does not come along."""
        notes = list[str]()
        if self.read(commit, ".gitmodules", limit=1 << 20):
            notes.append("its submodules are left out")
        if b"filter=lfs" in (self.read(commit, ".gitattributes", limit=1 << 20) or b""):
            notes.append("its files in Git LFS are left out: their places hold pointers")
        return notes

    def read(self, commit: str, path: str, *, limit: int) -> bytes | None:
        """A file of a commit, fetched if it has to be; None where there is none, or a larger one. Raises GitHubFailed."""
        listed = self._git(
            self._path, "ls-tree", "-z", "--full-tree", commit, "--", f":(literal,top){path}", quiet=True
        )
        found = re.fullmatch(rb"100(?:644|755) blob ([0-9a-f]{40,64})\t([^\0]*)\0", listed)
        if not found or found[2] != path.encode("utf-8", "surrogateescape"):
            return None
        blob = found[1].decode()
        data = self._git(self._path, "cat-file", "blob", blob)
        return data if len(data) <= limit else None

    def is_before(self, commit: str, other: str) -> bool:
        """Whether `commit` is one that `other` reaches. No is also the answer for one that is not there."""
        try:
            self._git(self._path, "merge-base", "--is-ancestor", commit, other)
        except GitHubFailed:
            return False
        return True

    def _named(self, ref: str) -> str:
        if not re.fullmatch(r"(?!-)(?!.*(\.\.|@\{|//))[^\s~^:?*\[\\\x00-\x1f\x7f]+", ref):
            raise BadTarget(f"--ref {ref}: no name of a commit, a branch or a tag")
        fetched = re.fullmatch(r"[0-9a-f]{40}", ref)
        try:
            if not fetched:  # a branch may have moved on since the clone was freshened, or not be in it
                self._git(self._path, "fetch", "--quiet", "--no-tags", "--filter=blob:none", "origin", ref)
                return self._git(self._path, "rev-parse", "--verify", "FETCH_HEAD^{commit}").decode().strip()
            return self._git(self._path, "rev-parse", "--verify", f"{ref}^{{commit}}").decode().strip()
        except GitHubFailed as error:
            if "couldn't find remote ref" not in str(error) and not fetched:
                raise
        try:
            return (
                self._git(self._path, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
            )
        except GitHubFailed:
            raise BadTarget(f"{self._repository.full_name} has no commit {ref}") from None

    def _told(self, commit: str) -> str:
        seconds = int(
            self._git(self._path, "show", "-s", "--no-show-signature", "--format=%ct", commit).decode().split()[0]
        )
        return f"commit {commit[:12]} of {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"

    def _version(self, commit: str) -> tuple[str | None, int]:
        """The tag from which the build tells the version, if it does, and how many commits deep it lies."""
        files = (self.read(commit, name, limit=1 << 20) or b"" for name in BUILD_FILES)
        if not version_of_tags(text.decode("utf-8", "replace") for text in files):
            return None, 1
        said = self._git(self._path, "describe", "--tags", "--long", "--abbrev=4", commit, quiet=True).decode().strip()
        found = re.fullmatch(r"(.+)-(\d+)-g[0-9a-f]+", said)
        return (found[1], int(found[2]) + 1) if found and int(found[2]) < DEEPEST else (None, 1)

    def _git(self, path: Path, *words: str, quiet: bool = False) -> bytes:
        """Git's output. Raises GitHubFailed; `quiet`: what fails has said nothing."""
        from git import Git, GitCommandError

        try:
            said = Git(path).execute(
                ["git", *words],
                env=self._environment(path),
                stdout_as_string=False,
                strip_newline_in_stdout=False,
            )
        except GitCommandError as error:
            if quiet:
                return b""
            raise self._failed(str(error.stderr)) from None
        return bytes(said)

    def _environment(self, path: Path) -> Mapping[str, str]:
        settings = guarded.SETTINGS | {
            "remote.origin.url": self.url,
            "remote.origin.promisor": "true",
            "remote.origin.partialclonefilter": "blob:none",
            "credential.helper": "",
            "core.askPass": "",
            "submodule.recurse": "false",
            "transfer.bundleURI": "false",
            f"protocol.{self._base.partition(':')[0]}.allow": "always",
            "http.lowSpeedLimit": "1000",
            "http.lowSpeedTime": str(STALLED),
        }
        if self._token:
            name, value = self._token.setting(self._base)
            settings |= {name: value}
        environment = guarded.ENVIRONMENT | {
            "GIT_DIR": str(path),
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TRACE_REDACT": "1",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        for number, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return environment

    def _failed(self, said: str) -> GitHubFailed:
        text = re.sub(r"^\s*stderr: '|'\s*$", "", said.strip())
        if self._token:
            text = text.replace(self._token.value, f"[{self._token.source}]")
        last = shown(" ".join(text.split()))[-300:]
        whom = f"the token from {self._token.source}" if self._token else "no token"
        if re.search(r"Authentication failed|could not read Username|error: 40[13]|HTTP Basic: Access denied", text):
            return GitHubFailed(
                f"{self.url} cannot be fetched with {whom}: it needs Contents: read", status=401, exit_code=3
            )
        if "not found" in text and "repository" in text:
            return GitHubFailed(f"{self.url} is not found, or not to be fetched with {whom}", status=404, exit_code=3)
        return GitHubFailed(f"git cannot fetch {self.url}: {last}")

    def _alone(self) -> AbstractContextManager[None]:
        """One process at a time writes here."""
        return alone(self.folder / ".lock")


def forget(cache: Path, unused: float, *, dry_run: bool) -> list[str]:
    """Remove the clones that nothing has opened for so many seconds, at least half an hour; what they were, a name each.

    A run that needs one makes it again. Where somebody had a branch made, all stays.
    """
    found = list[str]()
    for folder in sorted(path for path in cache.glob("*/*") if (path / ".lock").is_file()):
        with (folder / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if time.time() - os.fstat(lock.fileno()).st_mtime < max(unused, RECENT):
                continue
            parts = [path for path in folder.iterdir() if path.name != ".lock"]
            branches = (path for part in parts if part.stem != "clone" for path in part.glob("refs/heads/**/*"))
            if not parts or any(path.is_file() for path in branches):
                continue
            found.append(f"{folder.parent.name}/{folder.name}")
            for path in parts if not dry_run else ():
                shutil.rmtree(path)
    return found


def default_cache(environment: Mapping[str, Any]) -> Path:
    """Where clones are kept."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runoff" / "github"


__all__ = ["Base", "Clone", "default_cache", "forget"]
