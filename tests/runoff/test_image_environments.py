"""An image that holds its repository is an environment as it is: SWE-bench's, with its conda environment, and others'."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from runoff import environments
from runoff.agent.environment import Environment, patched
from runoff.agent.step import Run, World
from runoff.instance import Instance
from runoff.sandbox.protocol import Refused
from tests.sandbox.imagefiles import Layout, layer, link, tools
from tests.workshop import Workshop

_PROGRAMS = "bash env sort grep sed git mktemp cut comm find head wc tr uniq true ln mv chmod xargs".split()
_ACTIVATE = b"export PATH=/opt/miniconda3/envs/$1/bin:$PATH CONDA_PREFIX=/opt/miniconda3/envs/$1\n"
_GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")


def python(prefix: str) -> bytes:
    """The interpreter that runs the tests, as far as a small program needs it, below another prefix."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_paths()["stdlib"])
    folders = ("", "json", "collections", "encodings", "re", "importlib", "importlib/metadata", "lib-dynload")
    files = [
        file for folder in folders for file in sorted((library / folder).iterdir()) if file.suffix in (".py", ".so")
    ]
    contents = [(f"{prefix}/lib/{version}/{file.relative_to(library)}", file.read_bytes()) for file in files]
    program = Path(os.path.realpath(sys.executable))
    needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    shared = [(path.lstrip("/"), Path(path).read_bytes()) for path in re.findall(r"/\S+\.so\S*(?= \(0x)", needed)]
    return layer(
        (f"{prefix}/bin/{version}", program.read_bytes()), (f"{prefix}/bin/python", link(version)), *contents, *shared
    )


def repository(folder: Path, files: Mapping[str, str], later: str = "") -> Path:
    """A repository of one commit; what comes later is in it as an object that no branch has."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    subprocess.run([*_GIT, "init", "-q", "-b", "main"], cwd=folder, check=True)
    subprocess.run([*_GIT, "add", "."], cwd=folder, check=True)
    subprocess.run([*_GIT, "commit", "-qm", "base"], cwd=folder, check=True)
    if later:
        (folder / next(iter(files))).write_text(later)
        subprocess.run([*_GIT, "commit", "-qam", "the fix"], cwd=folder, check=True)
        subprocess.run([*_GIT, "reset", "-q", "--hard", "HEAD~1"], cwd=folder, check=True)
    return folder


def packed(folder: Path, at: str) -> bytes:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return layer((at, None), *((f"{at}/{path.relative_to(folder)}", path.read_bytes()) for path in files))


@pytest.fixture(scope="module")
def below() -> list[bytes]:
    return [tools(*_PROGRAMS), python("opt/miniconda3/envs/testbed"), layer(("opt/miniconda3/bin/activate", _ACTIVATE))]


def built(workshop: Workshop, image: str, **more: str) -> Environment:
    return play(workshop, image, environments.build, **more)


def play(
    workshop: Workshop, image: str, what: Callable[[World, Instance], Awaitable[Environment]], **more: str
) -> Environment:
    instance = Instance(id="one", image=image, statement="it is wrong", digest=image, **more)  # type: ignore[arg-type]
    return workshop.play(lambda world: what(world, instance))


def test_a_swe_bench_image_is_activated_and_its_future_cannot_be_read(
    workshop: Workshop, tmp_path: Path, below: list[bytes]
) -> None:
    tree = repository(tmp_path / "tree", {"wrong.py": "ANSWER = 41\n", "README": "x\n"}, later="ANSWER = 42\n")
    (tree / "built.so").write_bytes(b"\0")  # what whoever made the image left in the tree
    (tree / "README").write_text("changed by the setup\n")
    environment = built(workshop, Layout(tmp_path / "image", [*below, packed(tree, "testbed")], compress="").reference)
    assert environment.env["PATH"].startswith("/opt/miniconda3/envs/testbed/bin:")

    async def seen(world: World) -> tuple[str, str, str, str]:
        async def said(*argv: str) -> str:
            return (await world.execute(Run(state=environment.state, argv=argv, env=environment.env))).text.strip()

        objects = await said("sh", "-c", "git cat-file --batch-all-objects --batch --buffer")
        answer = await said("python", "-c", "import wrong; print(wrong.ANSWER)")
        return objects, await said("git", "status", "--short"), await said("git", "log", "--format=%s"), answer

    objects, status, commits, answer = workshop.play(seen)
    assert "ANSWER = 41" in objects
    assert "ANSWER = 42" not in objects
    assert status == ""
    assert commits.splitlines() == ["what the setup changed", "base"]
    assert answer == "41"
    assert environment.installed[0].startswith("Python 3.")


def test_a_patch_is_applied_to_what_the_image_holds(workshop: Workshop, tmp_path: Path, below: list[bytes]) -> None:
    tree = repository(tmp_path / "tree", {"wrong.py": "ANSWER = 41\n"})
    environment = built(workshop, Layout(tmp_path / "image", [*below, packed(tree, "testbed")], compress="").reference)
    patch = workshop.patch(environment, {"wrong.py": "ANSWER = 42\n"})

    async def right(world: World) -> str:
        state = await patched(world, environment, patch)
        run = Run(state=state, argv=("python", "-c", "import wrong; print(wrong.ANSWER)"), env=environment.env)
        return (await world.execute(run)).text.strip()

    assert workshop.play(right) == "42"


def test_a_repository_elsewhere_and_without_history_is_found_by_both_names(
    workshop: Workshop, tmp_path: Path, below: list[bytes]
) -> None:
    app = layer(("app", None), ("app/wrong.py", b"ANSWER = 41\n"))
    environment = built(workshop, Layout(tmp_path / "image", [*below, app], compress="").reference, workdir="/app")

    async def seen(world: World) -> str:
        command = "cat wrong.py /app/wrong.py && git log --format=%s"
        return (await world.execute(Run(state=environment.state, argv=("sh", "-c", command)))).text

    assert workshop.play(seen) == "ANSWER = 41\nANSWER = 41\nthe source tree\n"


def test_an_image_that_is_not_there_is_one_line(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no-such-layout"):
        built(workshop, f"oci:{tmp_path}/no-such-layout:image")
