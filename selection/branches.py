"""Candidates from the branches and work trees that coding agents left in a local repository, uncommitted and new files too.

The trees are read as a stranger's. Git runs on the repository only where no program that a configuration, an attribute or a
hook names is run: nothing is checked out, no filter cleans a file, and no work tree's own `.git` is believed. Files are
read here, never through a symbolic link, and stored as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from runoff.sandbox.git import EXCLUDED
from runoff.selection.predictions import NothingThere, NotReadable, Prediction

LARGEST = 16 << 20
"""Bytes of a changed file beyond which it is left out, and said to be."""

_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.untrackedCache": "false",
    "core.quotePath": "true",
    "diff.renameLimit": "1000",
    "protocol.allow": "never",  # a partial clone would fetch what it lacks, by a command that it names
}
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "LC_ALL": "C",
}
_SHOWN = (
    "-r -p -M --binary --full-index --no-color --no-ext-diff --no-textconv --no-relative --submodule=short --diff-algorithm=myers -U3 "
    "--inter-hunk-context=0 --src-prefix=a/ --dst-prefix=b/ -O/dev/null"
).split()
_LEFT_OUT = 1 << 30  # the index's flag for a file that a sparse checkout leaves out


class Branches(NamedTuple):
    predictions: list[Prediction]
    notes: list[str]
    """What was left out of them, a line each."""


def branch_predictions(repository: Path, patterns: Sequence[str], instance: str, base: str = "HEAD") -> Branches:
    """One prediction a branch whose name fits a pattern (`agent/*`), and a work tree without one whose folder's name does.

    The patch is what differs from where it parted from `base`; a branch that is checked out somewhere is taken as its files
    are there. The agent is the branch. Raises BadPredictions.
    """
    with tempfile.TemporaryDirectory() as scratch:
        git = _Git(repository, Path(scratch))
        start = git.commit(base)
        trees = {tree.branch or tree.place.name: tree for tree in git.work_trees()}
        tips = git.branches()
        tips |= {name: tree.head for name, tree in trees.items() if not tree.branch and name not in tips}
        chosen = [name for name in sorted(tips) if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not chosen:
            wanted = " or ".join(map(repr, patterns))
            known = ", ".join(sorted(tips)[:8]) or "none"
            raise NothingThere(repository, f"no branch or work tree fits {wanted}", f"there are: {known}")
        notes = list[str]()
        found = list[Prediction]()
        for name in chosen:
            since = git.parted(start, tips[name])
            if since is None:
                notes.append(f"{name}: shares no history with {base}, left out")
                continue
            tree, where = trees.get(name), f"{repository}:{name} since {since[:12]}"
            if tree and tree.place.is_dir():
                after, missing = git.snapshot(tree)
                notes += [f"{name}: {line}" for line in missing]
                where += f", files of {tree.place}"
            else:
                after = tips[name]
            found.append(Prediction(instance=instance, agent=name, patch=git.diff(since, after), source=where))
        return Branches(found, notes)


class _WorkTree(NamedTuple):
    place: Path
    git_dir: Path
    head: str
    branch: str | None


class _Entry(NamedTuple):
    """A file as an index has it."""

    mode: str
    blob: str
    size: int
    time: int
    """Nanoseconds since the epoch."""
    flags: int


class _Git:
    """Plumbing on one repository. New objects go to a scratch directory, so nothing is written to it."""

    def __init__(self, repository: Path, scratch: Path) -> None:
        self._repository, self._scratch = repository, scratch
        (scratch / "empty").mkdir()
        (scratch / "objects").mkdir()
        (scratch / "excluded").write_text(EXCLUDED + "\n")
        if not repository.is_dir():
            raise NothingThere(repository, "no such folder", "give a git repository")
        self._dir: Path | None = None
        found = self._run("-C", str(repository.resolve()), "rev-parse", "--path-format=absolute", "--git-common-dir")
        self._dir = Path(os.fsdecode(found.removesuffix(b"\n")))

    def commit(self, ref: str) -> str:
        """What `ref` means in the work tree that was given, which has a HEAD of its own."""
        at = ("-C", str(self._repository.resolve()))
        found = self._try(
            *at, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", anywhere=True
        )
        if found is None:
            raise NothingThere(self._repository, f"has no commit {ref}", "give another base")
        return found.decode().strip()

    def branches(self) -> dict[str, str]:
        """Local branch → commit."""
        listed = self._run("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads").decode(
            "utf-8", "surrogateescape"
        )
        return {
            name.removeprefix("refs/heads/"): commit
            for commit, name in (line.split(" ", 1) for line in listed.splitlines())
        }

    def work_trees(self) -> Iterator[_WorkTree]:
        assert self._dir
        own = {}
        for file in (self._dir / "worktrees").glob("*/gitdir"):
            own[Path(os.fsdecode(file.read_bytes().rstrip(b"\n"))).parent] = file.parent
        for block in self._run("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape").split("\n\n"):
            said = dict(line.partition(" ")[::2] for line in block.splitlines())
            if "HEAD" in said and "bare" not in said:
                place = Path(said["worktree"])
                branch = said["branch"].removeprefix("refs/heads/") if "branch" in said else None
                yield _WorkTree(place, own.get(place, self._dir), said["HEAD"], branch)

    def parted(self, one: str, other: str) -> str | None:
        found = self._try("merge-base", one, other)
        return found.decode().strip() if found else None

    def diff(self, before: str, after: str) -> bytes:
        return self._run("diff-tree", *_SHOWN, before, after, "--")

    def snapshot(self, tree: _WorkTree) -> tuple[str, list[str]]:
        """A tree object of a work tree's files as they are now, and what could not be brought into it."""
        index, notes = self._index(tree), list[str]()
        written = (tree.git_dir / "index").stat().st_mtime_ns if index else 0
        entries = dict[str, tuple[str, str]]()
        for path, entry in index.items():
            now = _look(tree.place, path)
            if entry.mode == "160000" or entry.flags & _LEFT_OUT:
                entries[path] = (entry.mode, entry.blob)
            elif now is None:
                continue
            elif (entry.size, entry.time) == (now.st_size, now.st_mtime_ns) and entry.time < written:
                entries[path] = (_mode(now), entry.blob)
            else:
                self._take(tree.place, path, now, entries, notes, entry.blob)
        for path in self._untracked(tree):
            if now := _look(tree.place, path):
                self._take(tree.place, path, now, entries, notes)
        listed = b"".join(
            f"{mode} {blob}\t".encode() + os.fsencode(path) + b"\0" for path, (mode, blob) in entries.items()
        )
        own = {
            "GIT_INDEX_FILE": str(self._scratch / f"index-{hashlib.sha256(os.fsencode(tree.place)).hexdigest()[:16]}")
        }
        self._run("update-index", "-z", "--index-info", stdin=listed, own=own)
        return self._run("write-tree", own=own).decode().strip(), notes

    def _take(
        self,
        place: Path,
        path: str,
        now: os.stat_result,
        entries: dict[str, tuple[str, str]],
        notes: list[str],
        known: str = "",
    ) -> None:
        """Bring a file as it is now into `entries`; `known` is what the index says it was."""
        if now.st_size > LARGEST:
            notes.append(f"{path}: {now.st_size >> 20} MiB, left out")
            contents = None
        elif (contents := _read(place, path, now)) is None:
            notes.append(f"{path}: cannot be read, left out")
        elif not known and b"\0" in contents[:8000]:
            notes.append(f"{path}: a new binary file, left out")
            contents = None
        if contents is not None:
            blob = known if _blob(contents, known) == known else ""
            blob = blob or self._run("hash-object", "-w", "--no-filters", "--stdin", stdin=contents).decode().strip()
            entries[path] = (_mode(now), blob)
        elif known:
            entries[path] = (_mode(now), known)

    def _index(self, tree: _WorkTree) -> dict[str, _Entry]:
        if not (tree.git_dir / "index").is_file():
            return {}
        printed = self._run("ls-files", "--stage", "--debug", "-z", tree=tree)
        found = dict[str, _Entry]()
        for mode, blob, path, seconds, nanos, size, flags in re.findall(
            rb"(\d{6}) ([0-9a-f]{40,64}) \d\t([^\0]+)\0  ctime: .*\n  mtime: (\d+):(\d+)\n.*\n.*\n  size: (\d+)\tflags: ([0-9a-f]+)\n",
            printed,
        ):
            time = int(seconds) * 10**9 + int(nanos)
            found[os.fsdecode(path)] = _Entry(mode.decode(), blob.decode(), int(size), time, int(flags, 16))
        return found

    def _untracked(self, tree: _WorkTree) -> list[str]:
        given = ("-c", f"core.excludesFile={self._scratch / 'excluded'}")
        printed = self._run(*given, "ls-files", "--others", "--exclude-standard", "-z", tree=tree)
        return [
            path for path in os.fsdecode(printed).split("\0") if path and not path.endswith("/")
        ]  # `/`: a repository

    def _run(
        self, *arguments: str, stdin: bytes = b"", own: Mapping[str, str] = {}, tree: _WorkTree | None = None
    ) -> bytes:
        done = self._process(arguments, stdin, own, tree)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise NotReadable(
                self._repository, f"git says: {said[-1] if said else done.returncode}", "mend the repository first"
            )
        return done.stdout

    def _try(self, *arguments: str, anywhere: bool = False) -> bytes | None:
        done = self._process(arguments, b"", {}, None, anywhere)
        return None if done.returncode else done.stdout

    def _process(
        self,
        arguments: Sequence[str],
        stdin: bytes,
        own: Mapping[str, str],
        tree: _WorkTree | None,
        anywhere: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _ENVIRONMENT
        command = ["git", "--no-pager", *(part for item in _SETTINGS.items() for part in ("-c", "=".join(item)))]
        if self._dir and not anywhere:
            environment |= {
                "GIT_DIR": str(tree.git_dir if tree else self._dir),
                "GIT_WORK_TREE": str(tree.place if tree else self._scratch / "empty"),
                "GIT_OBJECT_DIRECTORY": str(self._scratch / "objects"),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(self._dir / "objects"),
            }
            if not tree:
                environment["GIT_INDEX_FILE"] = str(self._scratch / "none")  # attributes are read from an index, too
        try:
            return subprocess.run(
                [*command, *arguments],
                cwd=tree.place if tree else self._scratch / "empty",
                env={**environment, **own},
                input=stdin,
                capture_output=True,
            )
        except FileNotFoundError:
            raise NotReadable(self._repository, "there is no git", "install git") from None


def _quoted(path: Path) -> str:
    """A path for git's lists of paths, which are split at colons."""
    text = str(path)
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"' if ":" in text or text.startswith('"') else text


def _look(place: Path, path: str) -> os.stat_result | None:
    """What is at a path of a work tree, if it is a file or a link that no other link leads to."""
    *folders, _ = Path(path).parts
    at = place
    try:
        for folder in folders:
            at /= folder
            if stat.S_ISLNK(at.lstat().st_mode):
                return None
        found = (place / path).lstat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) else None


def _read(place: Path, path: str, now: os.stat_result) -> bytes | None:
    """The contents of a file, or where a link leads; None if it is not what was seen there."""
    try:
        if stat.S_ISLNK(now.st_mode):
            return os.fsencode((place / path).readlink())
        descriptor = os.open(place / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            return file.read(LARGEST) if (found.st_dev, found.st_ino) == (now.st_dev, now.st_ino) else None
    except OSError:
        return None


def _mode(found: os.stat_result) -> str:
    if stat.S_ISLNK(found.st_mode):
        return "120000"
    return "100755" if found.st_mode & 0o100 else "100644"


def _blob(contents: bytes, like: str) -> str:
    """Git's name of contents, by the hash that the repository uses (a name of it is `like`)."""
    kind = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest()
