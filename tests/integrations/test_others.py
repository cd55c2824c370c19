"""Other projects use our sandboxes: their own tests and whole runs of theirs, in an environment that has them installed.

mini-swe-agent's releases do not hold its environment tests: a checkout is named with `--mini-swe-agent DIRECTORY`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from uv import find_uv_bin

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WANTED = ["inspect-ai==0.3.285", "mini-swe-agent==2.4.6", "pytest>=8.3"]


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of an environment with both, made once for what is wanted, and with runoff as it is now."""
    place = Path(sys.prefix) / f"others-{hashlib.blake2b(repr(WANTED).encode(), digest_size=8).hexdigest()}"
    interpreter, index = place / "bin" / "python", [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    known = subprocess.run(index, capture_output=True, text=True, check=False).stdout.strip()
    environment = ({"UV_DEFAULT_INDEX": known} if known else {}) | os.environ
    install = [find_uv_bin(), "pip", "install", "--quiet", "--python", str(interpreter)]
    if not (place / "complete").exists():
        subprocess.run([find_uv_bin(), "venv", "--quiet", "--clear", "--python", sys.executable, place], check=True)
        subprocess.run([*install, *WANTED], check=True, env=environment)
        (place / "complete").touch()
    newest = ["--constraint", str(ROOT / "constraints.txt"), "--reinstall-package", "runoff", str(ROOT)]
    subprocess.run([*install, *newest], check=True, env=environment)
    return interpreter


def run(python: Path, directory: Path, tests: Path, *options: str) -> list[tuple[str, str]]:
    """What became of each test: its name, and `passed`, `skipped` (so it fails as it should) or how it failed."""
    (directory / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\nmarkers = slow\n")
    report = directory / "report.xml"
    home = {"HOME": str(directory), "MSWEA_SILENT_STARTUP": "1", "MSWEA_GLOBAL_CONFIG_DIR": str(directory)}
    done = subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-c", directory / "pytest.ini"),
            *(f"--junit-xml={report}", *options, tests),
        ],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE), "TMPDIR": str(directory)} | home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        parts = [part for part in case if part.tag in ("failure", "error", "skipped")]
        became = (f"{parts[0].get('type')}: {parts[0].get('message')}\n{parts[0].text}") if parts else "passed"
        found.append((case.get("name", ""), became))
    return found


def bad(found: list[tuple[str, str]]) -> str:
    return "\n\n".join(
        f"{name}: {became}" for name, became in found if not became.startswith(("passed", "pytest.xfail"))
    )


@pytest.mark.full
def test_inspect(python: Path, tmp_path: Path) -> None:
    found = run(python, tmp_path, HERE / "inspect_checks.py")
    assert not bad(found), bad(found)
    assert [name for name, became in found if became != "passed"] == ["test_exec_as_user[asyncio]"]
    assert len(found) >= 50


@pytest.mark.full
def test_mini_swe_agent(python: Path, tmp_path: Path) -> None:
    found = run(python, tmp_path, HERE / "mini_swe_agent_checks.py")
    assert not bad(found), bad(found)
    assert {became for _, became in found} == {"passed"}


@pytest.mark.needs_mini_swe_agent
def test_mini_swe_agents_own_environment_tests(python: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    checkout = Path(request.config.getoption("--mini-swe-agent")) / "tests" / "environments"
    found = []
    for name in ("test_local.py", "test_docker.py", "extra/test_bubblewrap.py"):
        assert (checkout / name).exists(), f"{checkout} does not hold mini-swe-agent's tests"
        found += run(python, tmp_path, checkout / name, "-p", "mini_swe_agent_theirs", "-k", "not podman")
    assert not bad(found), bad(found)
    assert sum(became == "passed" for _, became in found) >= 37
