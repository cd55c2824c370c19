"""What all tests have in common: `--full` also runs what is long, `--without NAME` leaves out what this machine cannot have."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("runoff", deadline=None)  # machines are noisy: a slow example is no fault
settings.load_profile("runoff")

pytest_plugins = ["tests.chromium", "tests.llama", "tests.workshop"]

PARTS = {"chromium": "needs_chromium", "docker": "needs_docker", "llama": "needs_llama", "root": "needs_root"}
"""What can be left out → the marker of the tests that need it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run what takes minutes")
    parser.addoption("--mini-swe-agent", metavar="CHECKOUT", help="also run mini-swe-agent's own environment tests")
    parser.addoption(
        "--without",
        action="append",
        default=[],
        choices=sorted(PARTS),
        metavar="NAME",
        help=f"leave out the tests that need NAME ({', '.join(sorted(PARTS))}); may be given again",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, part in (("llama_server", "llama"), ("chromium", "chromium")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(PARTS[part])
    out = [PARTS[name] for name in config.getoption("--without")]
    if not config.getoption("--full"):
        out.append("full")
    if not config.getoption("--mini-swe-agent"):
        out.append("needs_mini_swe_agent")
    left = [item for item in items if any(item.get_closest_marker(marker) for marker in out)]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        pytest.fail("needs root: run as root (sudo ./scripts/test), or leave it out, --without root", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in dict.fromkeys(config.getoption("--without")):
        terminalreporter.write_line(f"LEFT OUT, as asked: the tests that need {name}")
