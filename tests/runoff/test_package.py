"""What is shipped: the wheel built from the source distribution, in a fresh environment, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True
    )  # sdist, wheel from it
    return next(folder.glob("*.whl"))


def test_the_source_distribution_and_the_wheel_hold_all_packages_prompts_and_answers(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "runoff/sandbox/cell.py",
        "runoff/agent/shared.j2",
        "runoff/selection/runoff.j2",
        "runoff/recipes/hybrid.toml",
        "runoff/recipes/adaptive.toml",
    }
    wanted |= {
        "runoff/report.html.j2",
        "runoff/reporting/report.html.j2",
        "runoff/style.css",
        "runoff/demo/answers/markdown-3.3.6.jsonl",
    }
    wanted |= {
        f"runoff/releases/{path.relative_to(ROOT / 'runoff' / 'releases')}"
        for path in (ROOT / "runoff" / "releases").glob("*/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= names, wanted - names
    assert not [name for name in names if name.startswith(("agent/", "sandbox/", "selection/", "tests/"))]
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as tar:
        assert any(name.endswith("/agent/step.py") for name in tar.getnames())


def test_the_wheel_in_a_fresh_environment_runs_the_demo_beside_a_users_own_agent_py(
    wheel: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "uv", "venv", "-q", "--python", sys.executable, tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "-q",
            "--python",
            python,
            "--constraint",
            ROOT / "constraints.txt",
            wheel,
        ],
        check=True,
    )
    (tmp_path / "agent.py").write_text("raise RuntimeError('this is the user\\'s, and none of our business')\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    imported = [python, "-c", "import runoff.agent.step, runoff.pipeline, sys; assert 'agent' not in sys.modules"]
    subprocess.run(imported, cwd=tmp_path, env=clean, check=True)
    command = [
        tmp_path / "env" / "bin" / "runoff",
        "demo",
        "--only",
        "markdown-3.3.6",
        "--states",
        tmp_path / "store" / "states",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "1 of 1 chosen patches pass the hidden check" in done.stdout
