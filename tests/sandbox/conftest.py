"""Runs each test of a sandbox in both modes. What needs no root is run without, even where root runs the tests.

A test is an `async def` that takes `sandbox`, which is open while it runs. Under root, all rootless tests are run by one
pytest of an unprivileged user, and each reports here what it did there.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap

pytest.register_assert_rewrite("runoff.sandbox.conformance")

ROOT = Path(__file__).parents[2]
NOBODY = 65534
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

_nobody = pytest.StashKey[tuple[subprocess.Popen[str], tempfile.TemporaryDirectory[str]]]()
_reports = pytest.StashKey[dict[str, ElementTree.Element]]()


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.needs_root), "rootless"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sandbox(mode: str, tmp_path: Path) -> Bubblewrap:
    return Bubblewrap(tmp_path / "states", mode)  # type: ignore[arg-type]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if pyfuncitem.funcargs.get("mode") == "rootless" and os.geteuid() == 0:
        _report(pyfuncitem)
        return True
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        asyncio.run(_opened(pyfuncitem))
        return True
    return None


async def _opened(item: pytest.Function) -> None:
    names = inspect.signature(item.obj).parameters
    sandbox: Bubblewrap = item.funcargs["sandbox"]  # type: ignore[assignment]
    async with sandbox:
        await item.obj(**{name: item.funcargs[name] for name in names})


def pytest_collection_finish(session: pytest.Session) -> None:
    """The rootless tests come last, and have long begun by then."""
    tests = [item for item in session.items if isinstance(item, pytest.Function) and _mode(item) == "rootless"]
    if os.geteuid() == 0 and tests and not session.config.option.collectonly:
        session.items.sort(key=lambda item: item in tests)
        full = ["--full"] if session.config.getoption("--full") else []
        session.stash[_nobody] = _start_as_nobody([*full, *(test.nodeid for test in tests)])


def _mode(item: pytest.Function) -> object:
    return item.callspec.params.get("mode") if hasattr(item, "callspec") else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _nobody in session.stash:
        process, directory = session.stash[_nobody]
        process.kill()
        process.wait()
        directory.cleanup()


def _report(item: pytest.Function) -> None:
    stash = item.session.stash
    if _reports not in stash:
        process, directory = stash[_nobody]
        said = process.communicate()[0]
        if not (report := Path(directory.name, "report.xml")).exists():
            pytest.fail(f"no rootless report: {said}", pytrace=False)
        stash[_reports] = {case.get("name", ""): case for case in ElementTree.parse(report).iter("testcase")}
    case = stash[_reports].get(item.name)
    if case is None:
        pytest.fail("the unprivileged pytest did not get to this test")
    for part in case:
        if part.tag in ("failure", "error", "skipped"):
            pytest.fail(part.text or part.get("message") or part.tag, pytrace=False)


def _start_as_nobody(arguments: list[str]) -> tuple[subprocess.Popen[str], tempfile.TemporaryDirectory[str]]:
    paths = os.pathsep.join([str(ROOT), *site.getsitepackages()])
    directory = tempfile.TemporaryDirectory(prefix="rootless-")
    shutil.chown(directory.name, NOBODY, NOBODY)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "TMPDIR": directory.name, "PYENV_ROOT": str(PYENV)}
    pytest_of_nobody = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-ec", _within_reach() + 'exec "$@"', "sh"),
            *(*AS_NOBODY, *pytest_of_nobody, f"--junit-xml={directory.name}/report.xml", *arguments),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, directory


def _within_reach() -> str:
    """Shell commands for a private mount namespace: what the tests need may lie in a home that is closed to others.

    Each closed folder on the way is covered with an empty one that is open, and only what is needed put back into it.
    """
    needed = {ROOT, Path(sys.prefix), Path(sys.base_prefix), *PYENV.glob("versions/*")}
    closed: dict[Path, list[Path]] = {}
    for path in sorted(needed):
        if blocked := next(
            (place for place in [*[*path.parents][::-1], path] if not place.stat().st_mode & 0o001), None
        ):
            closed.setdefault(blocked, []).extend(path.iterdir() if blocked == path else [path])
    commands = []
    for n, (folder, inside) in enumerate(closed.items()):
        for m, path in enumerate(inside):
            make = f"mkdir -p /run/reach/{n}; " + ("mkdir" if path.is_dir() else "touch")
            commands.append(f"{make} /run/reach/{n}/{m}; mount --rbind {path} /run/reach/{n}/{m}")
        commands.append(f"mount -t tmpfs -o mode=755 none {folder}")
        for m, path in enumerate(inside):
            make = f"mkdir -p {path}" if path.is_dir() else f"mkdir -p {path.parent}; touch {path}"
            commands.append(f"{make}; mount --rbind /run/reach/{n}/{m} {path}")
    covered = ["mount -t tmpfs none /run", *commands, f"cd {ROOT}"] if commands else []
    return "".join(f"{command}\n" for command in covered)
