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


def _report(item: pytest.Function) -> None:
    if _reports not in item.session.stash:
        item.session.stash[_reports] = _run_as_nobody(item.session)
    case = item.session.stash[_reports].get(item.name)
    if case is None:
        pytest.fail("the unprivileged pytest did not get to this test")
    for said in case:
        if said.tag in ("failure", "error"):
            pytest.fail(said.text or said.get("message") or said.tag, pytrace=False)
        if said.tag == "skipped":
            pytest.skip(said.get("message") or "")


def _run_as_nobody(session: pytest.Session) -> dict[str, ElementTree.Element]:
    tests = [item.nodeid for item in session.items if isinstance(item, pytest.Function) and "[rootless" in item.name]
    paths = os.pathsep.join([str(ROOT), *site.getsitepackages()])
    with tempfile.TemporaryDirectory(prefix="rootless-") as directory:
        shutil.chown(directory, NOBODY, NOBODY)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": directory,
        }
        python = _python_for_all(environment)
        done = subprocess.run(
            [
                *AS_NOBODY,
                python,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                f"--junit-xml={directory}/report.xml",
                *tests,
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not (report := Path(directory, "report.xml")).exists():
            pytest.fail(f"no rootless report: {done.stdout}{done.stderr}", pytrace=False)
        return {case.get("name", ""): case for case in ElementTree.parse(report).iter("testcase")}


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
    return pytest.skip("no Python that an unprivileged user may execute")
