"""The table at the end: what was attacked where, what succeeded, what was seen to succeed without its defence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sandbox.attacks.attack import Attack
from tests.sandbox.attacks.battery import CATEGORIES, EVERY, chosen

HEAVY = ("hostile repositories", "patches and archives")


@pytest.fixture(
    params=[
        pytest.param("root", marks=pytest.mark.needs_root),
        pytest.param("docker", marks=[pytest.mark.needs_root, pytest.mark.needs_docker]),
        "rootless",
    ]
)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long, and tries code that is the same under every backend, is tried under one of them, and every third
    through Docker; `--full` tries all."""
    for item in items:
        params = _params(item)
        if "attack" not in params:
            continue
        name, under = params["attack"], params["mode"]
        heavy = any(attack.name == name for category in HEAVY for attack in CATEGORIES[category])
        twice = heavy and under == "rootless" and os.geteuid() == 0
        sampled_out = under == "docker" and list(EVERY).index(name) % 3 != 0
        if twice or sampled_out or (under == "docker" and not isinstance(EVERY[name], Attack)):
            item.add_marker("full")


def pytest_collection_finish(session: pytest.Session) -> None:
    chosen.update({mode: set() for mode in ("root", "docker", "rootless")})
    for item in session.items:
        if "attack" in (params := _params(item)):
            chosen[params["mode"]].add(params["attack"])


def _params(item: pytest.Item) -> dict[str, str]:
    """Of a test of this directory: others come to these hooks as well."""
    here = isinstance(item, pytest.Function) and item.path.parent == Path(__file__).parent
    return dict(item.callspec.params) if here and hasattr(item, "callspec") else {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes: dict[tuple[str, str], bool] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            name = report.nodeid.rpartition("::test_attack[")[2]
            if name != report.nodeid and report.when == "call":
                mode, _, attack = name.rstrip("]").partition("-")
                outcomes[mode, attack] = outcome == "passed"
    modes = list(dict.fromkeys(mode for mode, _ in outcomes))
    if not modes:
        return
    write = terminalreporter.write_line
    write("")
    write(f"{'attacks: held / of (seen to succeed)':40}" + "".join(f"{mode:>22}" for mode in modes))
    totals = {mode: [0, 0, 0] for mode in modes}
    for category, attacks in CATEGORIES.items():
        line = f"{category:40}"
        for mode in modes:
            tried = [attack for attack in attacks if (mode, attack.name) in outcomes]
            held = sum(outcomes[mode, attack.name] for attack in tried)
            seen = sum(outcomes[mode, attack.name] and mode not in attack.unswitchable for attack in tried)
            totals[mode] = [a + b for a, b in zip(totals[mode], (held, len(tried), seen), strict=True)]
            line += f"{f'{held} / {len(tried)} ({seen})':>22}"
        write(line)
    write(f"{'all':40}" + "".join(f"{f'{a} / {b} ({c})':>22}" for a, b, c in totals.values()))
