"""An instance: one problem, a repository at its base commit and a statement. Never the answer."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from runoff import declared
from runoff.declared import BadDeclaration, Declared
from runoff.sandbox.environments.builder import Contents, EnvironmentSpec, Source
from runoff.sandbox.environments.dependencies import LARGEST, deciding
from runoff.sandbox.environments.detection import MOST_FILES, worth_reading
from runoff.sandbox.environments.services import Service
from runoff.sandbox.protocol import REPO, Value


class BadTarget(Exception):
    """The target or the issue cannot be used; the message says why, in one line."""


class Instance(Value):
    id: str
    source: str = ""
    """The repository: a path of this machine; empty where an image holds it."""
    image: str | None = None
    """The OCI image that holds the repository, installed, as skopeo names it (`docker://…`); None: it is built."""
    workdir: str = REPO
    """Where the image holds it."""
    statement: str
    commit: str | None = None
    """The base commit; None for an unpacked source tree, which has no history."""
    digest: str
    """Names the source's contents."""
    setup: str | None = None
    build: str | None = None
    test: str | None = None
    """The command that runs its tests; empty where it has none, None for the usual one."""
    python: str | None = None
    """The version of Python that it needs, or a path; None is the one that runs this."""
    node: bool | str | None = None
    """As in `EnvironmentSpec`."""
    env: dict[str, str] = {}
    """Environment variables of its setup and its tests."""
    services: tuple[Service, ...] = ()
    """Servers that run beside its tests."""
    detect: bool = False
    """Nobody said how it is installed: what its files say is tried, and judged by its tests (`setups`)."""


def local_instance(
    target: Path,
    issue: str,
    *,
    ref: str | None = None,
    setup: str | None = None,
    build: str | None = None,
    test: str | None = None,
    python: str | None = None,
) -> tuple[Instance, list[str]]:
    """The instance for a local git repository or unpacked source tree, and what a user should be told. Raises BadTarget."""
    if not target.exists():
        raise BadTarget(f"no such path: {target}; give a git repository or an unpacked source tree")
    if not target.is_dir():
        raise BadTarget(f"{target} is a file; give a git repository or an unpacked source tree")
    if not issue.strip():
        raise BadTarget("the issue is empty; give its text with --issue TEXT or --issue @FILE")
    path, notes = target.resolve(), list[str]()
    if (path / ".git").exists():
        commit = _commit(path, ref)
        digest = commit
        if _dirty(path):
            notes.append(f"{target}: uncommitted changes are left out, the base is commit {commit[:12]}")
    elif ref:
        raise BadTarget(f"{target} is not a git repository, so it has no {ref}")
    else:
        if not any(path.iterdir()):
            raise BadTarget(f"{target} is empty: not a repository")
        if not _has_source(path):
            raise BadTarget(f"{target} is not a repository: it holds no source files")
        commit, digest = None, hashlib.blake2b(_archive(path), digest_size=20).hexdigest()
    said = _declared(path, commit)
    made = Instance(
        id=re.sub(r"[^A-Za-z0-9._-]+", "-", path.name) or "repository",
        source=str(path),
        statement=issue.strip() + "\n",
        commit=commit,
        digest=digest,
        setup=setup or said.setup,
        build=build or said.build,
        test=said.test if test is None else test,
        python=python or said.python,
        node=said.node,
        env=said.env,
        services=said.services,
        detect=setup is None and said.setup is None,
    )
    if said != Declared():
        notes.append(f"as {declared.NAME} says")
    return made, notes


def _declared(path: Path, commit: str | None) -> Declared:
    """What its own .runoff.toml says, at its base commit. Raises BadTarget."""
    from git import GitCommandError

    try:
        if commit is None:
            file = path / declared.NAME
            raw = file.read_bytes()[: declared.LARGEST] if file.is_file() and not file.is_symlink() else b""
        else:
            raw = _repository(path).git.cat_file(
                "blob", f"{commit}:{declared.NAME}", stdout_as_string=False, strip_newline_in_stdout=False
            )[: declared.LARGEST]
    except GitCommandError:
        return Declared()  # it has none
    try:
        return declared.parse(raw.decode("utf-8", "replace"))
    except BadDeclaration as error:
        raise BadTarget(str(error)) from None


def environment_spec(instance: Instance) -> EnvironmentSpec:
    """How its environment is to be built."""
    return EnvironmentSpec(python=instance.python, setup=instance.setup, node=instance.node, env=instance.env)


def open_source(instance: Instance) -> Source:
    """The repository as the builder takes it: for a git repository exactly the objects that the base commit reaches."""
    path = Path(instance.source)
    if instance.commit is None:
        names = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
        found = {
            name: (path / name).read_bytes() for name in deciding(names) if (path / name).stat().st_size <= LARGEST
        }
        return Source(instance.digest, found, lambda: Contents(archive=_archive(path)))
    repository, commit = _repository(path), instance.commit
    listed = repository.git.ls_tree("-r", "-l", "-z", commit).split("\0")
    entries = {path: about.split() for about, path in (line.split("\t", 1) for line in listed if line)}
    blobs = {name: blob for name, (_, kind, blob, size) in entries.items() if kind == "blob" and int(size) <= LARGEST}
    wanted = {name: blobs[name] for name in deciding(blobs)}
    found = {
        name: repository.git.cat_file("blob", blob, stdout_as_string=False, strip_newline_in_stdout=False)
        for name, blob in wanted.items()
    }
    return Source(commit, found, lambda: _packed(path, commit))


def described(instance: Instance) -> tuple[list[str], dict[str, bytes]]:
    """All paths of its regular files, and the contents of those that say how it is installed and tested; bounded."""
    path = Path(instance.source)
    if instance.commit is None:
        names = [
            str(file.relative_to(path))
            for file in itertools.islice(path.rglob("*"), MOST_FILES)
            if file.is_file() and not file.is_symlink()
        ]
        kept = _within(worth_reading(names), lambda name: (path / name).stat().st_size)
        return sorted(names), {name: (path / name).read_bytes() for name in kept}
    _, blobs, read = tracked(path, instance.commit)
    sizes = _sizes(path, instance.commit)
    kept = _within([name for name in worth_reading(blobs) if name in blobs], lambda name: sizes.get(name, 0))
    return sorted(blobs), dict(zip(kept, read([blobs[name] for name in kept]), strict=True))


def _within(names: list[str], size: Callable[[str], int]) -> list[str]:
    """Those that are small enough each and together."""
    kept, room = list[str](), 4 * LARGEST
    for name in names:
        if (bytes_ := size(name)) <= min(LARGEST, room):
            kept.append(name)
            room -= bytes_
    return kept


def _sizes(path: Path, commit: str) -> dict[str, int]:
    listed = _repository(path).git.ls_tree("-r", "-l", "-z", commit).split("\0")
    entries = ((about.split(), name) for about, _, name in (line.partition("\t") for line in listed if line))
    return {name: int(about[3]) for about, name in entries if about[3].isdigit()}


def packed(instance: Instance) -> Contents:
    """The repository of an instance as one value, to be had elsewhere: its base commit and all before it, or the tree."""
    path = Path(instance.source)
    return Contents(archive=_archive(path)) if instance.commit is None else _packed(path, instance.commit)


def unpacked(contents: Contents, folder: Path) -> None:
    """What was `packed`, as a repository or tree in `folder`: all of it or nothing."""
    made = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    if contents.commit:
        from git import Repo

        repository = Repo.init(made, bare=True)
        if contents.shallow:
            (made / "shallow").write_text(contents.shallow)
        with tempfile.TemporaryFile() as pack:
            pack.write(contents.pack)
            pack.seek(0)
            repository.git.index_pack("--stdin", istream=pack)
        for ref, name in contents.refs.items():
            repository.git.update_ref(ref, name)
        repository.git.update_ref("HEAD", contents.commit, no_deref=True)
        repository.close()
    else:
        with tarfile.open(fileobj=io.BytesIO(contents.archive)) as tar:
            tar.extractall(made, filter="tar")
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
        shutil.rmtree(made)


def tracked(path: Path, ref: str | None) -> tuple[str, dict[str, str], Callable[[list[str]], Iterator[bytes]]]:
    """A commit of a local git repository, its regular files as path → blob, and what reads blobs. Raises BadTarget."""
    if not path.is_dir():
        raise BadTarget(f"{path}: no such path")
    commit = _commit(path, ref)
    repository = _repository(path)
    listed = repository.git.ls_tree("-r", "-z", commit).split("\0")
    entries = ((about.split(), name) for about, _, name in (line.partition("\t") for line in listed if line))
    blobs = {name: blob for (mode, _, blob), name in entries if mode.startswith("100")}

    def read(wanted: list[str]) -> Iterator[bytes]:
        with tempfile.TemporaryFile() as names:
            names.write("".join(f"{blob}\n" for blob in wanted).encode())
            names.seek(0)
            reading = repository.git.cat_file("--batch", istream=names, as_process=True)
            for _ in wanted:
                size = int(reading.stdout.readline().split()[2])
                yield reading.stdout.read(size + 1)[:size]

    return commit, blobs, read


def _packed(path: Path, commit: str) -> Contents:
    repository = _repository(path)
    tags = [
        line.split(" ", 1)
        for line in repository.git.tag("--merged", commit, format="%(objectname) %(refname)").splitlines()
    ]
    with tempfile.TemporaryFile() as wanted:
        wanted.write("".join(f"{name}\n" for name in [commit, *(name for name, _ in tags)]).encode())
        wanted.seek(0)
        pack = repository.git.pack_objects(
            "--revs", "--stdout", "--quiet", istream=wanted, stdout_as_string=False, strip_newline_in_stdout=False
        )
    shallow = Path(repository.common_dir) / "shallow"  # a work tree's own .git is a file
    return Contents(
        commit=commit,
        pack=pack,
        refs={ref: name for name, ref in tags},
        shallow=shallow.read_text() if shallow.is_file() else "",
    )


def _archive(path: Path) -> bytes:
    """The tree as tar: sorted, without owners and times, so that equal trees are equal archives. Links stay links."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(member.name).parts
        if (parts and (parts[-1] == "__pycache__" or parts[-1] == ".venv")) or not (
            member.isreg() or member.isdir() or member.issym()
        ):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 1_000_000_000
        member.mode = 0o755 if member.mode & 0o100 or member.isdir() else 0o644
        return member

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(path, arcname=".", filter=plain)
    return packed.getvalue()


def _has_source(path: Path) -> bool:
    from runoff.agent.context import CODE

    for _, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(Path(name).suffix in CODE for name in names):
            return True
    return False


def _repository(path: Path):  # type: ignore[no-untyped-def]
    from git import Repo

    return Repo(path)


def _commit(path: Path, ref: str | None) -> str:
    from git import GitCommandError, InvalidGitRepositoryError

    try:
        return str(
            _repository(path).git.rev_parse("--verify", "--quiet", "--end-of-options", f"{ref or 'HEAD'}^{{commit}}")
        )
    except InvalidGitRepositoryError:
        raise BadTarget(f"{path} is not a git repository, though it has a .git") from None
    except GitCommandError as error:
        if "dubious ownership" in str(error):
            raise BadTarget(
                f"git refuses {path}, which another user owns; git config --global --add safe.directory {path}"
            ) from None
        raise BadTarget(
            f"{path} has no commit {ref}" if ref else f"{path} has no commit yet; commit your work first"
        ) from None


def _dirty(path: Path) -> bool:
    """Whether tracked files differ from HEAD. Never `git status`: it would run programs that the repository's own
    configuration names (filters, fsmonitor) on the host."""
    repository = _repository(path)
    if repository.git.diff_index("--cached", "--name-only", "HEAD"):
        return True
    for entry in repository.index.entries.values():
        file = path / str(entry.path)
        if file.is_symlink() or not file.is_file():
            continue
        found = file.stat()
        if found.st_size != entry.size:
            return True
        if int(found.st_mtime) != entry.mtime[0]:
            data = file.read_bytes()
            if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest() != entry.binsha:
                return True
    return False
