"""Hostile code in every sandbox: no attack succeeds, and each is seen to succeed where what stops it is left out.

scripts/test -- tests/sandbox/attacks           all backends and modes, and a table at the end
"""

from __future__ import annotations

import pytest

from tests.sandbox.attacks.attack import MODES, Staged
from tests.sandbox.attacks.battery import CATEGORIES, EVERY, fought


@pytest.mark.parametrize("attack", EVERY)
def test_attack(mode: str, attack: str) -> None:
    verdict = fought(mode).verdicts[attack]
    about = EVERY[attack]
    assert verdict.succeeded is not None, f"no verdict: {verdict.words}"
    assert not verdict.succeeded, f"it succeeded, and gains {about.gain}: {verdict.words}"
    if mode not in about.unswitchable:
        stopped_by = about.stopped_by if isinstance(about, Staged) else "what stops it"
        assert verdict.seen, (
            f"it does not succeed without {stopped_by}, so that it failed proves nothing: {verdict.words}"
        )


def test_the_attacked_machine_is_as_it_was(mode: str) -> None:
    assert fought(mode).changed == []


def test_every_attack_is_seen_to_succeed_somewhere() -> None:
    assert [name for name, attack in EVERY.items() if attack.unswitchable.keys() >= set(MODES)] == []
    assert len(EVERY) >= 100
    assert all(len(attacks) >= 10 for attacks in CATEGORIES.values())
