"""What the tests of GitHub share: a server of their own, and an environment without anybody's token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runoff.github.server import FakeGitHub

TOKEN = "ghp_0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def nobodys_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "GITHUB_TOKEN GH_TOKEN GH_ENTERPRISE_TOKEN GITHUB_ENTERPRISE_TOKEN GITHUB_API_URL GITHUB_SERVER_URL GH_HOST".split():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeGitHub]:
    with FakeGitHub(tmp_path / "served", token=TOKEN) as server:
        yield server
