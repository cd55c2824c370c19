"""Sandboxes by name: ours, and those that another package brings by an entry point."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runoff.sandbox import conformance
from runoff.sandbox.backends import open_backend
from runoff.sandbox.conformance import __main__ as report
from runoff.sandbox.protocol import Base, SandboxUnavailable

PLUGIN = """
from runoff.sandbox import Bubblewrap

def opened(root):
    return Bubblewrap(root, "rootless")
"""
DECLARED = "[runoff.sandboxes]\nof-another-package = another_package:opened\n"


@pytest.fixture
def another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What installing a package with an entry point leaves on the path."""
    (tmp_path / "another_package.py").write_text(PLUGIN)
    metadata = tmp_path / "another_package-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: another-package\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(DECLARED)
    monkeypatch.syspath_prepend(tmp_path)
    return "of-another-package"


def test_the_suite_runs_what_another_package_brings(
    another_package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = [part for name in list(conformance.CASES)[:2] for part in ("--only", name)]
    assert report.main([another_package, *only, "--directory", str(tmp_path)]) == 0
    assert "bubblewrap-rootless: 2 cases" in capsys.readouterr().out


def test_a_name_that_nothing_has_says_which_there_are(tmp_path: Path) -> None:
    async def opened() -> None:
        async with open_backend("firecracker", tmp_path):
            pass

    with pytest.raises(SandboxUnavailable, match=r"no sandbox called firecracker; choose one of .*docker"):
        asyncio.run(opened())


def test_auto_is_bubblewrap_where_that_runs(tmp_path: Path) -> None:
    async def opened() -> None:
        async with open_backend("auto", tmp_path / "states") as sandbox:
            assert sandbox.name.startswith("bubblewrap-")
            assert (await sandbox.execute(await sandbox.base(Base()), ["true"])).exit_code == 0

    asyncio.run(opened())
