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

ROOT = Path(__file__).parents[2]
NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

_nobody = pytest.StashKey[tuple[subprocess.Popen[str], tempfile.TemporaryDirectory[str]]]()
_reports = pytest.StashKey[dict[str, ElementTree.Element]]()


@pytest.fixture(params=["root", "rootless"])
def mode(request: pytest.FixtureRequest) -> str:
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
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
    tests = [item for item in session.items if isinstance(item, pytest.Function) and "[rootless" in item.name]
    if os.geteuid() == 0 and tests and not session.config.option.collectonly:
        session.items.sort(key=lambda item: item in tests)
        session.stash[_nobody] = _start_as_nobody([test.nodeid for test in tests])


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
        if part.tag in ("failure", "error"):
            pytest.fail(part.text or part.get("message") or part.tag, pytrace=False)
        if part.tag == "skipped":
            pytest.skip(part.get("message") or "")


def _start_as_nobody(tests: list[str]) -> tuple[subprocess.Popen[str], tempfile.TemporaryDirectory[str]]:
    paths = os.pathsep.join([str(ROOT), *site.getsitepackages()])
    directory = tempfile.TemporaryDirectory(prefix="rootless-")
    shutil.chown(directory.name, NOBODY, NOBODY)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "TMPDIR": directory.name}
    pytest_of_nobody = [_python_for_all(environment), "-m", "pytest", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*AS_NOBODY, *pytest_of_nobody, f"--junit-xml={directory.name}/report.xml", *tests],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, directory


def _python_for_all(environment: dict[str, str]) -> str:
    """This Python may lie in root's home; then the system's will do, if it is the same version."""
    check = f"""
import os, sys, pytest, pydantic
sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])} or not os.access(sys.executable, os.X_OK))
"""
    for python in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run([*AS_NOBODY, python, "-c", check], env=environment, capture_output=True, check=False)
        if done.returncode == 0:
            return python
    return "/no/python/that/an/unprivileged/user/may/execute"  # which the report then says
