"""The release pairs: which there are, and their sources, brought from the registries by a sandbox."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Collection
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Literal

from runoff.environments import EnvironmentFailed, fetch_package, fetch_sdist
from runoff.instance import Instance, local_instance
from runoff.sandbox.protocol import Sandbox, Value

HERE = Path(str(files("runoff.releases")))


class Pair(Value):
    id: str
    project: str
    registry: Literal["pypi", "npm"] = "pypi"
    version: str
    fixed: str
    sha256: str
    """Of the source distribution, or of the package: nothing else is unpacked."""
    setup: str
    test: str
    statement: str


def pairs(only: Collection[str] | None = None) -> list[Pair]:
    """All release pairs, or those with these ids, by id."""
    return [
        pair(path.parent.name) for path in sorted(HERE.glob("*/pair.toml")) if only is None or path.parent.name in only
    ]


def pair(name: str) -> Pair:
    data = tomllib.loads((HERE / name / "pair.toml").read_text())
    return Pair(id=name, statement=(HERE / name / "issue.md").read_text(), **data)


def answer(name: str) -> Path:
    """The folder of a pair's answer, for those who may open it."""
    return HERE / name / "answer"


async def instance(sandbox: Sandbox, wanted: Pair, cache: Path, tell: Callable[[str], None]) -> Instance:
    """The pair as an instance; its source is fetched once. Raises EnvironmentFailed if the index does not give it."""
    tree = cache / f"{wanted.project}-{wanted.version}"
    if not tree.is_dir():
        tell(f"fetching {wanted.project} {wanted.version}")
        fetch = fetch_sdist if wanted.registry == "pypi" else fetch_package
        archive = await fetch(sandbox, wanted.project, wanted.version)
        found = hashlib.sha256(archive).hexdigest()
        if found != wanted.sha256:
            raise EnvironmentFailed(
                f"{wanted.project} {wanted.version}: the index gave another file (SHA-256 {found}) than the one known"
            )
        _unpack(archive, tree)
    made, _ = local_instance(tree, wanted.statement, setup=wanted.setup, test=wanted.test)
    return made.model_copy(update={"id": wanted.id})


def _unpack(archive: bytes, into: Path) -> None:
    """The files and folders of a source distribution, all or none; links and devices stay out, as do paths that leave, and
    what is left of a submodule: its .git leads to a repository that is not there.

    Written out, because the tarfile of Debian 12's Python has no `filter="data"` yet.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if {"..", ".git"} & {*path.parts} or path.is_absolute() or not (member.isdir() or member.isreg()):
                    continue
                target = Path(folder, *path.parts)
                (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
                if contents := tar.extractfile(member):
                    target.write_bytes(contents.read())
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
        root = next(path for path in Path(folder).iterdir() if path.is_dir())
        try:
            root.rename(into)
        except OSError:
            if not into.is_dir():  # another process brought it meanwhile
                raise
