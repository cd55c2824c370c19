"""A patch as a commit on a branch of a local repository: neither the work tree, nor the index, nor a hook is touched.

Git works on an index of its own, in an empty folder, so nothing is checked out and no filter runs; the new objects go to the
repository, and one reference to them. A branch is moved only if all it holds beyond the base is a commit that was made here.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from runoff.agent.secrets import Secrets
from runoff.failure import INFRASTRUCTURE, MISSING, USAGE, ForTheUser
from runoff.github import guarded
from runoff.visible import shown

MARK = "Runoff-Instance"
"""The trailer by which a commit is known to have been made here, and for what."""

_SETTINGS = guarded.SETTINGS | {
    "core.quotePath": "true",
    "commit.gpgSign": "false",
    "protocol.file.allow": "always",
    "protocol.http.allow": "always",
    "protocol.https.allow": "always",
    "protocol.ssh.allow": "always",
    "push.recurseSubmodules": "no",
    "push.gpgSign": "false",
}
_KEPT = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSL_\w+|AUTHOR_\w+|COMMITTER_\w+|CONFIG_GLOBAL|CONFIG_SYSTEM|CONFIG_NOSYSTEM)"
)


class NotPublished(ForTheUser):
    """Why something could not be published, for the user, in one line."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Made(NamedTuple):
    branch: str
    commit: str
    what: str
    """`new`, `moved` from an earlier commit of ours, or `there` already."""


class Git:
    """Plumbing on one repository, by the settings above. What it says is redacted and made visible."""

    def __init__(self, repository: Path, *, secrets: Sequence[str] = ()) -> None:
        """Raises NotPublished where there is no git repository."""
        self._secrets = [*filter(None, secrets)]
        self._at = repository
        if not repository.is_dir():
            raise NotPublished(f"{repository} is not there any more: there is no repository to make a branch in")
        done = self.process("rev-parse", "--path-format=absolute", "--git-common-dir", at=repository)
        if done.returncode:
            raise NotPublished(f"there is nothing to make a branch in: git says of {repository} {self.said(done)}")
        self.dir = Path(os.fsdecode(done.stdout).removesuffix("\n"))

    def run(self, *arguments: str, at: Path | None = None, stdin: bytes = b"", env: Mapping[str, str] = {}) -> str:
        """What it prints, without the last newline. Raises NotPublished with the last line of what it says."""
        done = self.process(*arguments, at=at, stdin=stdin, env=env)
        if done.returncode:
            raise NotPublished(f"git {arguments[0]}: {self.said(done)}", INFRASTRUCTURE)
        return os.fsdecode(done.stdout).removesuffix("\n")

    def try_(self, *arguments: str, at: Path | None = None, env: Mapping[str, str] = {}) -> str | None:
        done = self.process(*arguments, at=at, env=env)
        return None if done.returncode else os.fsdecode(done.stdout).removesuffix("\n")

    def process(
        self, *arguments: str, at: Path | None = None, stdin: bytes = b"", env: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[bytes]:
        """`at`: a place in which git looks for the repository itself; None: this one, with an empty work tree."""
        secrets = Secrets()
        kept = {
            name: value
            for name, value in os.environ.items()
            if (not name.startswith("GIT_") or _KEPT.fullmatch(name)) and secrets.redact(value) == value
        }
        kept |= guarded.ENVIRONMENT | {"GIT_OPTIONAL_LOCKS": "0"}
        settings = [part for item in _SETTINGS.items() for part in ("-c", "=".join(item))]
        with tempfile.TemporaryDirectory() as empty:
            if at is None:
                kept |= {"GIT_DIR": str(self.dir), "GIT_WORK_TREE": empty, "GIT_INDEX_FILE": f"{empty}.index"}
            try:
                return subprocess.run(
                    ["git", "--no-pager", *settings, *arguments],
                    cwd=at or empty,
                    env={**kept, **env},
                    input=stdin,
                    capture_output=True,
                    check=False,
                )
            except FileNotFoundError:
                raise NotPublished("there is no git here; install it", MISSING) from None

    def said(self, done: subprocess.CompletedProcess[bytes], lines: int = 1) -> str:
        """The last lines of what it complained of."""
        found = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        return self.clean(" | ".join(found[-lines:]) or f"exit code {done.returncode}")

    def clean(self, text: str) -> str:
        """Without secrets: those of the environment, those that were given, and whatever stands before the @ of an address."""
        for secret in self._secrets:
            text = text.replace(secret, "[token]")
        return shown(re.sub(r"(\w+://)[^/@\s]+@", r"\1", Secrets().redact(text)))


def check_branch(git: Git, name: str) -> None:
    """Raises NotPublished for what is no name of a branch."""
    if (
        name.startswith(("-", "refs/"))
        or name in ("HEAD", "@")
        or git.try_("check-ref-format", "--branch", name) != name
    ):
        raise NotPublished(f"--branch {shown(name)}: git takes no branch of this name")


def identity(git: Git, repository: Path) -> dict[str, str]:
    """Author and committer, as the user's git says. Raises NotPublished where it does not say."""
    found = {}
    for who in ("AUTHOR", "COMMITTER"):
        for part in ("NAME", "EMAIL"):
            name = f"GIT_{who}_{part}"
            given = os.environ.get(name) or git.try_("config", "--get", f"user.{part.lower()}", at=repository)
            if not given:
                raise NotPublished(
                    f"git does not know who commits; git config --global user.{part.lower()} says it", MISSING
                )
            found[name] = given
    return found


def tree_with(git: Git, base: str, patch: bytes, files: Mapping[str, bytes] = {}) -> str:
    """The tree of the base commit with a patch, and files beside it. Raises NotPublished where it does not apply."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": f"{folder}/index"}
        git.run("read-tree", f"{base}^{{tree}}", env=own)
        git.run("apply", "--cached", "--whitespace=nowarn", "-", stdin=patch, env=own)
        for path, contents in files.items():
            blob = git.run("hash-object", "-w", "--no-filters", "--stdin", stdin=contents)
            git.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=own)
        return git.run("write-tree", env=own)


def commit_on(git: Git, repository: Path, branch: str, base: str, tree: str, message: str, instance: str) -> Made:
    """The branch with one commit after the base. Called again it finds what is there.

    Raises NotPublished where the branch holds what was not made here, or is checked out somewhere.
    """
    check_branch(git, branch)
    message = f"{message.strip()}\n\n{MARK}: {instance}\n"
    if old := there(git, branch, instance):
        parents, kept, text = _parts(git.run("cat-file", "commit", old))
        if (parents, kept, text.strip()) == ([base], tree, message.strip()):
            return Made(branch, old, "there")
        if place := _checked_out(git, branch):
            raise NotPublished(
                f"{branch} is checked out in {place}, and would change under it; check out another branch there, or give "
                "another name with --branch NAME"
            )
    who = identity(git, repository)
    made = git.run("commit-tree", tree, "-p", base, "-F", "-", stdin=message.encode("utf-8", "replace"), env=who)
    git.run("update-ref", "-m", "runoff", f"refs/heads/{branch}", made, old or "0" * len(made), env=who)
    return Made(branch, made, "moved" if old else "new")


def there(git: Git, branch: str, instance: str) -> str | None:
    """The commit of a branch here, which was made here; None: there is no such branch. Raises NotPublished for any other."""
    old = git.try_("rev-parse", "--verify", "--quiet", "--end-of-options", f"refs/heads/{branch}^{{commit}}")
    if old and not ours(git.run("cat-file", "commit", old), instance):
        raise NotPublished(
            f"there is a branch {branch} with commits that runoff did not make for {instance}; "
            "give another name with --branch NAME"
        )
    return old


def ours(commit: str, instance: str) -> bool:
    """Whether a commit, as `git cat-file` prints it, was made here for an instance."""
    parents, _, message = _parts(commit)
    return len(parents) == 1 and f"{MARK}: {instance}" in message.strip().splitlines()[-1:]


def _parts(commit: str) -> tuple[list[str], str, str]:
    """Its parents, its tree, its message."""
    head, _, message = commit.partition("\n\n")
    fields = [line.partition(" ")[::2] for line in head.splitlines()]
    return [value for name, value in fields if name == "parent"], dict(fields).get("tree", ""), message


def _checked_out(git: Git, branch: str) -> str | None:
    for block in git.run("worktree", "list", "--porcelain").split("\n\n"):
        said = dict(line.partition(" ")[::2] for line in block.splitlines())
        if said.get("branch") == f"refs/heads/{branch}":
            return said["worktree"]
    return None
