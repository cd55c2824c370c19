"""Where what is graded comes from: images, released sources, and repositories of this machine at a base commit."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from runoff.datasets.protocol import Built, Problem
from runoff.demo import pairs
from runoff.instance import BadTarget, Instance, local_instance
from runoff.sandbox.protocol import Sandbox


class Sources:
    """`repositories` holds git directories of owner/name: DIR/owner+name/repo, DIR/owner+name, DIR/owner/name or DIR/name.

    `cache` is where released sources are kept.
    """

    def __init__(self, repositories: Path | None, cache: Path) -> None:
        self._repositories, self._cache = repositories, cache

    async def image(self, name: str) -> str:
        """An image of Docker's as skopeo names it: from the engine of this machine where that has it, else from its registry."""
        if ":" in name.split("/")[0] and name.split(":")[0] in ("docker", "docker-daemon", "oci", "docker-archive"):
            return name
        tagged = name if ":" in name.rsplit("/", 1)[-1] or "@" in name else f"{name}:latest"
        return f"docker-daemon:{tagged}" if await asyncio.to_thread(held, name) else f"docker://{tagged}"

    async def instance(self, sandbox: Sandbox, problem: Problem, tell: Callable[[str], None]) -> Instance:
        """Raises BadTarget where there is no repository, EnvironmentFailed if an index does not give a release."""
        if problem.release:
            return await pairs.instance(sandbox, pairs.pair(problem.release), self._cache, tell)
        built, of = problem.built or Built(), self._repository(problem)
        if not (of / ".git").exists():
            place = self._cache / f"{problem.repo.replace('/', '+')}@{problem.base_commit[:16]}"
            async with sandbox.alone(str(place)):
                of = await asyncio.to_thread(_checked_out, of, problem.base_commit, place)
        made, _ = await asyncio.to_thread(
            local_instance,
            of,
            problem.statement or "-",
            ref=problem.base_commit or None,
            setup=built.setup,
            build=built.build,
            test=built.test,
            python=built.python,
        )
        return made.model_copy(update={"id": problem.id})

    def _repository(self, problem: Problem) -> Path:
        if self._repositories is None:
            raise BadTarget(f"{problem.id} has no image; give --repositories DIR, which holds {problem.repo}")
        owner, _, name = problem.repo.partition("/")
        places = (f"{owner}+{name}/repo", f"{owner}+{name}", f"{owner}__{name}", f"{owner}/{name}", name)
        for place in places:
            if (self._repositories / place).is_dir():
                return self._repositories / place
        raise BadTarget(f"{self._repositories} holds no repository of {problem.repo}; {places[1]} or {places[3]} is looked for")


def _checked_out(repository: Path, commit: str, into: Path) -> Path:
    """A repository whose HEAD is a commit of one without a work tree: with its history where that tells the version."""
    if into.is_dir():
        return into
    git = ["git", "-C", str(repository)]
    files = [
        subprocess.run([*git, "show", f"{commit}:{name}"], check=False, capture_output=True).stdout
        for name in ("setup.py", "setup.cfg", "pyproject.toml")
    ]
    if not any(files) and subprocess.run([*git, "cat-file", "-e", commit], check=False, capture_output=True).returncode:
        raise BadTarget(f"{repository} has no commit {commit}; fetch it there, or give another --repositories")
    into.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=into.parent))
    depth = [] if any(re.search(rb"setuptools[-_]scm", text) for text in files) else ["--depth", "1"]
    for command in (
        ["init", "-q"],
        ["-c", "protocol.file.allow=always", "fetch", "-q", *depth, repository.resolve().as_uri(), commit],
        ["checkout", "-q", "--detach", "FETCH_HEAD"],
    ):
        subprocess.run(["git", "-C", str(made), *command], check=True, capture_output=True)
    return made.rename(into)


def held(image: str) -> bool:
    """Whether the Docker engine of this machine has an image. Not, where there is no engine."""
    try:
        done = subprocess.run(["docker", "image", "inspect", "--format", "-", image], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
