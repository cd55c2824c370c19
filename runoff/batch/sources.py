"""Where the repositories of a benchmark come from: its images, a folder of clones and bundles, or a remote, cloned once."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import Callable, Container
from pathlib import Path
from typing import Literal

from runoff.alone import alone
from runoff.datasets.images import forms
from runoff.datasets.protocol import Built, Problem
from runoff.instance import BadTarget, Instance
from runoff.releases import pairs
from runoff.sandbox.environments.of_python import BUILD_FILES, version_of_tags
from runoff.sandbox.images import TRANSPORTS
from runoff.sandbox.protocol import Sandbox, Value

TESTS = {"django/django": "./tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1"}
"""How projects run their tests, by their own documents, where it is not pytest."""

Images = Literal["auto", "never", "always"]
History = Literal["auto", "all", "none"]


class Where(Value):
    """Where to look, in the words of the command line."""

    repositories: Path | None = None
    """A folder of clones (OWNER__NAME, OWNER+NAME, OWNER/NAME or NAME, bare or not) and bundles (….bundle)."""
    remote: str | None = None
    """What to clone where that folder has none: a URL with {repo} in it."""
    images: Images = "auto"
    """auto: an image where the dataset names one, else an environment of our making."""
    registry: str | None = None
    """HOST[/PATH] that has the images in place of where their names say."""
    history: History = "auto"
    """What of a repository's history comes along; auto: all of it where the version is told from tags, else none, which
    is quicker and smaller. Never anything after the base commit."""
    cache: Path


async def instance(problem: Problem, where: Where, sandbox: Sandbox, tell: Callable[[str], None]) -> Instance:
    """A problem as an instance whose source is on this machine. Raises BadTarget, EnvironmentFailed, in one line."""
    if problem.release:
        pair = pairs.pair(problem.release)
        return await pairs.instance(sandbox, pair, where.cache, tell)
    if problem.image and where.images != "never":
        return _of_image(problem, reference(problem.image, where.registry, await asyncio.to_thread(in_engine)))
    if where.images == "always":
        raise BadTarget(f"{problem.id}: the dataset names no image; leave --images always out to have one built")
    if not (problem.repo and problem.base_commit):
        raise BadTarget(f"{problem.id}: neither an image nor a repository with a base commit is named")
    tree = await asyncio.to_thread(_checked_out, problem, where, tell)
    how = problem.built or Built()
    return Instance(
        id=problem.id,
        source=str(tree),
        statement=problem.statement,
        commit=problem.base_commit,
        digest=problem.base_commit,
        setup=how.setup,
        build=how.build,
        test=_test(problem),
        python=how.python,
    )


def reference(image: str, registry: str | None = None, here: Container[str] = ()) -> str:
    """An image's name as skopeo takes it: as it is where it says how, the engine's where that has it (`here`), else a registry's.

    `registry` takes the place of the host in its name, or comes before a name that has none.
    """
    transport, _, rest = image.partition(":")
    if transport in TRANSPORTS and (transport != "docker" or rest.startswith("//")):
        return image
    names = [name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest" for name in forms(image)]
    if held := [name for name in names if name in here]:
        return f"docker-daemon:{held[0]}"
    tagged = next((name for name in names if "/" in name), names[0])
    if registry:
        host, slash, rest = tagged.partition("/")
        is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
        tagged = f"{registry.rstrip('/')}/{rest if is_host else tagged}"
    return f"docker://{tagged}"


def in_engine() -> frozenset[str]:
    """The names of images that the Docker engine of this machine holds; none where there is no engine."""
    import docker

    try:
        client = docker.from_env(timeout=20)
        try:
            return frozenset(tag for image in client.images.list() for tag in image.tags)
        finally:
            client.close()
    except (docker.errors.DockerException, OSError):
        return frozenset()


def _of_image(problem: Problem, image: str) -> Instance:
    return Instance(
        id=problem.id,
        image=image,
        workdir=problem.workdir,
        statement=problem.statement,
        digest=hashlib.blake2b(f"{image} {problem.workdir}".encode(), digest_size=20).hexdigest(),
        test=_test(problem),
    )


def _test(problem: Problem) -> str | None:
    told = problem.built.test if problem.built else None
    return TESTS.get(problem.repo) if told is None else told


def _checked_out(problem: Problem, where: Where, tell: Callable[[str], None]) -> Path:
    """A repository whose only head is the problem's base commit."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "__", problem.repo)
    tree = where.cache / f"{name}-{problem.base_commit}-{where.history}"
    if not tree.is_dir():
        origin = _origin(problem.repo, name, where, tell)
        with alone(tree.with_name(f".{tree.name}.lock")):  # others may be of this commit
            if not tree.is_dir():
                _check_out(problem, where, origin, tree)
    return tree


def _check_out(problem: Problem, where: Where, origin: Path, tree: Path) -> None:
    from git import GitCommandError, Repo

    made = tree.with_name(f".{tree.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    repo = Repo.init(made, bare=True)
    try:
        whole = where.history == "all" or (where.history == "auto" and versioned_by_tags(origin, problem.base_commit))
        how = ["--tags"] if whole else ["--depth", "1", "--no-tags"]
        place = origin.absolute().as_uri()
        repo.git.execute(["git", "-c", "protocol.file.allow=always", "fetch", "-q", *how, place, problem.base_commit])
        repo.git.update_ref("HEAD", problem.base_commit, no_deref=True)
    except GitCommandError as error:
        shutil.rmtree(made, ignore_errors=True)
        said = " ".join(str(error.stderr).split())[-200:]
        raise BadTarget(f"{problem.id}: {origin} gives no commit {problem.base_commit[:12]}: {said}") from None
    finally:
        repo.close()
    made.rename(tree)


def _origin(repo: str, name: str, where: Where, tell: Callable[[str], None]) -> Path:
    """A repository of this machine that has it all."""
    from git import GitCommandError, Repo

    source: Path | str | None = None
    if where.repositories:
        for place in (name, repo.replace("/", "+"), repo, repo.rpartition("/")[2]):
            at = where.repositories / place
            beside = [at.with_name(f"{at.name}.git"), at.with_name(f"{at.name}.bundle")]
            found = (
                it
                for it in (at, at / "repo", *beside)
                if it.is_file() or any((it / of).exists() for of in ("HEAD", ".git"))
            )
            source = source or next(found, None)
    if isinstance(source, Path) and source.is_dir():
        return source
    if source is None and where.remote:
        source = where.remote.replace("{repo}", repo)
    if source is None and where.repositories:
        raise BadTarget(
            f"{where.repositories} holds no {name}, {name}.git or {name}.bundle; clone {repo} there, or give --remote URL"
        )
    if source is None:
        raise BadTarget(
            f"where is {repo}? Give a folder of clones with --repositories, or --remote 'https://…/{{repo}}' to clone from"
        )
    clone = where.cache / "clones" / f"{name}.git"
    with alone(clone.with_name(f".{clone.name}.lock")):
        if clone.is_dir():
            return clone
        tell(f"cloning {repo}")
        part = clone.with_name(f".{clone.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            Repo.clone_from(str(source), part, bare=True).close()
        except GitCommandError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise BadTarget(f"cannot clone {source}: {' '.join(str(error.stderr).split())[-200:]}") from None
        part.rename(clone)
    return clone


def versioned_by_tags(origin: Path, commit: str) -> bool:
    """Whether its build tells its version from git's tags."""
    from git import Git

    git = Git(origin)  # and no Repo: that finds no bare repository without a configuration, which git itself does
    shown = (git.execute(["git", "show", f"{commit}:{file}"], with_exceptions=False) for file in BUILD_FILES)
    return version_of_tags(str(text) for text in shown)
