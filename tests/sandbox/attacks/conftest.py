"""The table at the end: what was attacked where, what succeeded, what was seen to succeed without its defence."""

from __future__ import annotations

import pytest

from tests.sandbox.attacks.battery import CATEGORIES


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
