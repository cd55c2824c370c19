"""How a repository becomes layers: what is shared, what is built once, what a failure says, and real Pythons and Nodes."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.environments import dependencies, interpreters
from runoff.sandbox.environments.builder import Contents, EnvironmentFailed, EnvironmentSpec, Layers, Source, build
from runoff.sandbox.lock import locked
from runoff.sandbox.protocol import Base, Sandbox, SandboxUnavailable, State
from tests.sandbox.test_proxy import served, simple_index, wheel

# A build backend in the tree, for a project that is installed without fetching one.
_BACKEND = """
import zipfile
def build_editable(folder, settings=None, metadata=None):
    name = "project-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.writestr("project.pth", "/testbed")
        wheel.writestr("project-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: project\\nVersion: 1.0\\n")
        wheel.writestr("project-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("project-1.0.dist-info/RECORD", "")
    return name
build_wheel = build_editable
"""
_PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "project"
version = "1.0"
dependencies = ["tinything"]
"""
PROJECT = {"pyproject.toml": _PYPROJECT, "backend.py": _BACKEND, "project.py": "import tinything\nprint('project')\n"}


def source(files: Mapping[str, str]) -> Source:
    """A source tree, from memory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    decide = {path: files[path].encode() for path in dependencies.deciding(files)}
    return Source(repr(sorted(files.items())), decide, lambda: Contents(archive=packed.getvalue()))


async def said(sandbox: Sandbox, state: State, script: str) -> str:
    return (await sandbox.execute(state, ["sh", "-c", script], freeze=False)).text


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An index of the test's own: of `tinything` and of something that is called pytest."""
    pages = simple_index("tinything", wheel("tinything", "print('tiny')\n"))
    pages |= simple_index("pytest", wheel("pytest", "print('no test runner')\n"))
    with ExitStack() as servers:
        port = servers.enter_context(served(pages))
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://localhost:{port}/simple")
        yield


async def test_commits_with_equal_setup_files_share_their_dependencies(index: None, sandbox: Bubblewrap) -> None:
    told, spec, seconds = list[str](), EnvironmentSpec(), list[float]()

    async def built(files: Mapping[str, str]) -> Layers:
        began = time.monotonic()
        layers = await build(sandbox, spec, source(files), told.append)
        seconds.append(time.monotonic() - began)
        return layers

    one = await built(PROJECT)
    assert told == ["installing dependencies", "installing"]
    assert await said(sandbox, one.installed, "python -m project; git status --porcelain") == "tiny\nproject\n"
    compiled = await said(sandbox, one.installed, "ls __pycache__ /env/lib/*/site-packages/__pycache__")
    assert "project." in compiled
    assert "tinything." in compiled
    assert "project" not in await said(sandbox, one.pristine, "ls /env/lib/*/site-packages"), (
        "pristine is not installed"
    )
    other = await built(PROJECT | {"project.py": "print('changed')\n"})
    assert told[2:] == ["installing"]
    assert one.pristine.layers[1:] == other.pristine.layers[1:]
    assert await built(PROJECT) == one
    assert told[3:] == []
    settings = _PYPROJECT + "[tool.pytest]\nx = 1\n"
    await built(PROJECT | {"pyproject.toml": settings})
    assert told[3:] == ["installing"], "settings of tools decide nothing"
    await built(PROJECT | {"pyproject.toml": _PYPROJECT.replace('["tinything"]', '["tinything==1.0"]')})
    assert told[4:] == ["installing dependencies", "installing"]
    print(f"\n{sandbox.name}: first, shared dependencies, found: " + ", ".join(f"{one:.2f} s" for one in seconds[:3]))


async def test_a_base_that_has_its_own_interpreter(index: None, sandbox: Bubblewrap) -> None:
    base = await sandbox.execute(await sandbox.base(Base()), ["sh", "-c", "echo mine > /home/user/mine"])
    layers = await build(sandbox, EnvironmentSpec(), source(PROJECT), base=base.after)
    assert await said(sandbox, layers.installed, "python -m project; cat ~/mine") == "tiny\nproject\nmine\n"
    with pytest.raises(EnvironmentFailed, match=r"python3\.2 does not run in this image"):
        await build(sandbox, EnvironmentSpec(python="3.2"), source(PROJECT), base=base.after)


async def test_many_who_ask_at_once_build_once(index: None, sandbox: Bubblewrap) -> None:
    told = list[str]()
    async with Bubblewrap(sandbox._root, sandbox._mode) as second:
        places = (sandbox, second, sandbox)
        layers = await asyncio.gather(*(build(one, EnvironmentSpec(), source(PROJECT), told.append) for one in places))
    assert told == ["installing dependencies", "installing"]
    assert len(set(layers)) == 1


def test_a_lock_outlives_nobody(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys, time\nfrom runoff.sandbox.lock import locked\nasync def hold():\n"
        "    async with locked(pathlib.Path(sys.argv[1]), 'name'): print('held', flush=True); time.sleep(60)\n"
        "asyncio.run(hold())"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"

    async def take(name: str, seconds: float) -> None:
        async with asyncio.timeout(seconds), locked(tmp_path, name):
            pass

    asyncio.run(take("another name", 5))
    with pytest.raises(TimeoutError):
        asyncio.run(take("name", 0.3))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    asyncio.run(take("name", 5))
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_a_failure_names_the_command_and_leaves_nothing(index: None, sandbox: Bubblewrap) -> None:
    setup = "echo begun\nfor n in 1 2; do\n  echo step $n\ndone\ncd src && python -c 'import nothing_such' --flag\necho later"
    failing = source({"src/f": ""})
    spec = EnvironmentSpec(setup=setup, node=False)
    with pytest.raises(EnvironmentFailed, match=r"installing dependencies failed: .*uv venv"):
        await build(sandbox, spec, failing)  # this index has no pip
    spec = EnvironmentSpec(python="/usr/bin/python3", packages=("no-such-thing",))
    with pytest.raises(
        EnvironmentFailed, match=r"installing dependencies failed: `.*pip install .*no-such-thing`, exit code \d"
    ):
        await build(sandbox, spec, failing)
    project = source(PROJECT | {"backend.py": "import nothing_such"})
    with pytest.raises(EnvironmentFailed, match=r"the setup failed: `.*--editable \.`, exit code \d+: .*nothing_such"):
        await build(sandbox, EnvironmentSpec(), project)
    names = [path.read_text() for path in sandbox._root.glob("names/*.json")]
    assert [name for name in names if '"environment' in name or '"pristine' in name] == []
    assert not list(sandbox._root.glob("locks/*"))


async def test_a_source_trees_own_history_is_left_out(index: None, sandbox: Bubblewrap) -> None:
    files = {
        "f": "now",
        ".git/HEAD": "ref: refs/heads/later",
        ".hg/store": "later",
        "old/.git/HEAD": "ref: refs/heads/x",
    }
    layers = await build(sandbox, EnvironmentSpec(), source(files))
    assert (
        await said(sandbox, layers.pristine, "git log --format=%s; git rev-list --all --count")
        == "the source tree\n1\n"
    )
    assert "store" not in await said(sandbox, layers.pristine, "ls -A .hg")


def test_a_python_that_is_not_here_is_said_with_those_that_are() -> None:
    with pytest.raises(SandboxUnavailable, match=r"Python 3\.2 cannot be used: 3\.6 is the oldest"):
        interpreters.find_python("3.2")
    with pytest.raises(SandboxUnavailable, match=r"Python 3\.99 is not on this machine \(there are: .*3\.\d+"):
        interpreters.find_python("3.99")
    for wrong in ("/nowhere/python", "three", "3", "3.11; rm"):
        with pytest.raises(SandboxUnavailable, match="is not on this machine"):
            interpreters.find_python(wrong)
    with pytest.raises(SandboxUnavailable, match=r"Node 3 is not on this machine \(there is: "):
        interpreters.find_node("3")
    assert interpreters.find_python("3.11").minor == (3, 11)
    assert interpreters.find_python(sys.executable).prefix == interpreters.find_python().prefix, (
        "not a virtual environment"
    )


_SELF = '[project]\nname="a_b"\ndependencies=["x>1"]\n[project.optional-dependencies]\ntest=["a-b[fast]", "t"]\nfast=["f"]\ndocs=["d"]\n'
_GROUPS = (
    '[project]\nname="a"\n[dependency-groups]\ndev=[{include-group="Test"}, "v"]\ntest=["t", {include-group="dev"}]\n'
)


@pytest.mark.parametrize(
    ("files", "must", "may", "late"),
    [
        ({"pyproject.toml": _SELF}, ("pytest", "x>1"), (("f", "t"),), ()),
        ({"pyproject.toml": _GROUPS}, ("pytest",), (("t", "v"), ("t", "v")), ()),
        ({"pyproject.toml": '[project]\nname="a"\ndynamic=["dependencies"]'}, ("pytest",), (), ()),
        ({"pyproject.toml": '[project]\nname="a"\ndependencies=["b @ file:///testbed/b"]'}, ("pytest",), (), ()),
        ({"pyproject.toml": "[[[ not toml"}, ("pytest",), (), ()),
        ({"setup.py": "x", "requirements-test.txt": "-e .\nfoo"}, ("pytest",), (), ("requirements-test.txt",)),
        ({"setup.py": "x", "requirements-test.txt": "-r gone.txt"}, ("pytest",), (), ("requirements-test.txt",)),
    ],
)
def test_what_setup_files_say(files: dict[str, str], must: object, may: object, late: object) -> None:
    found = dependencies.plan({path: text.encode() for path, text in files.items()})
    assert (found.must, tuple(tuple(sorted(one)) for one in found.may), found.late_files) == (must, may, late)
    assert found.project


def test_requirement_files_bring_those_that_they_name() -> None:
    files = {
        "tests/requirements.txt": "-r ../requirements/base.txt\nfoo",
        "requirements/base.txt": "-c ../constraints.txt\nbar",
    }
    files |= {"constraints.txt": "foo<2", "setup.py": "", "requirements/docs.txt": "sphinx"}
    assert dependencies.deciding([*files, "src/setup.py", "README"]) == sorted(files)
    found = dependencies.plan({path: text.encode() for path, text in files.items()})
    assert found.may_files == ("tests/requirements.txt",)
    assert sorted(found.files) == ["constraints.txt", "requirements/base.txt", "tests/requirements.txt"]


def test_a_release_number_of_a_node_package_decides_nothing() -> None:
    package = '{"name": "n", "version": "%s", "scripts": {"test": "node t"}, "dependencies": {"ms": "2.1.3"}}'
    lock = '{"name": "n", "version": "%s", "packages": {"": {"version": "%s", "dependencies": {"ms": "2.1.3"}}}}'
    one, two = (
        dependencies.plan({"package.json": (package % v).encode(), "package-lock.json": (lock % (v, v)).encode()})
        for v in ("1.0.0", "2.0.0")
    )
    assert one == two
    assert one.npm
    assert not one.must
    near = dependencies.plan({"package.json": b'{"name": "n", "dependencies": {"b": "file:../b"}}'})
    assert near.late_npm
    assert not near.npm


# Real ones: through the proxy to the real indexes.

_REAL = {
    "setup.py": "from setuptools import setup\nsetup(name='real', version='1.0', packages=['real'], install_requires=['six'])\n",
    "real/__init__.py": "import six\n\n\ndef twice(text):\n    return six.text_type(text) * 2\n",
    "tests/test_real.py": "from real import twice\n\n\ndef test_twice():\n    assert twice('ab') == 'abab'\n",
}
_SUPPORTED = ("3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def _pythons() -> list[object]:
    """The oldest and the newest of those that are here; `--full` wants all of them."""
    here = [version for version in _SUPPORTED if interpreters.is_here(version)]
    return [
        version if version in (here[0], here[-1]) else pytest.param(version, marks=pytest.mark.full)
        for version in _SUPPORTED
    ]


@pytest.mark.parametrize("version", _pythons())
async def test_a_package_is_installed_and_tested_on_an_installed_python(version: str, sandbox: Sandbox) -> None:
    layers = await build(sandbox, EnvironmentSpec(python=version), source(_REAL))
    told = await said(sandbox, layers.installed, "python --version; python -m pytest -q; git status --porcelain")
    assert told.startswith(f"Python {version}."), told
    assert "1 passed" in told, told
    assert "??" not in told


async def test_a_node_package_is_installed_and_tested(sandbox: Sandbox) -> None:
    package = """{"name": "n", "version": "1.0.0", "dependencies": {"ms": "2.1.3"},
                  "scripts": {"postinstall": "node -e \\"require('fs').writeFileSync('made', '')\\"", "test": "node t.js"}}"""
    files = {"package.json": package, "t.js": "console.log(require('ms')('2 days'))"}
    layers = await build(sandbox, EnvironmentSpec(), source(files))
    assert "172800000" in await said(sandbox, layers.installed, "npm test --silent")
    assert (
        await said(sandbox, layers.installed, "ls -d made node_modules; git status --porcelain")
        == "made\nnode_modules\n"
    )
    assert await said(sandbox, layers.pristine, "ls; git status --porcelain") == "node_modules\npackage.json\nt.js\n"
