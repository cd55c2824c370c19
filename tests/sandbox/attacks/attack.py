"""What an attack is: a script that hostile code runs in a sandbox, what it would gain, and what stops it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runoff.sandbox.protocol import Limits

if TYPE_CHECKING:
    from tests.sandbox.attacks.machine import Machine

MODES = ("root", "rootless", "docker")


@dataclass(frozen=True)
class Attack:
    """It succeeds if its output holds the planted secret or the word that `won()` prints, or if `seen` finds its traces.

    A script is Python, and has what inside.py defines. It prints what it could get hold of; errors are how it fails.
    """

    name: str
    gain: str
    """What the attacker would have, in a few words."""
    script: str
    stopped_by: tuple[str, ...]
    """Defences, by the names of undefended.py: with all of them left out, and the others in force, it succeeds."""
    elsewhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What stops it in single modes, where that is something else."""
    unswitchable: Mapping[str, str] = field(default_factory=dict)
    """Modes in which what stops it cannot be left out, and why. There the attack only has to fail; that its script works
    is seen in the others."""
    seen: Callable[[Machine], bool] | None = None
    """Whether the attacked machine shows that it succeeded; looked at after the execution, and after nothing else."""
    alone: bool = False
    """It would take others in the same execution with it."""

    def defences(self, mode: str) -> tuple[str, ...] | None:
        return None if mode in self.unswitchable else self.elsewhere.get(mode, self.stopped_by)


@dataclass(frozen=True)
class Flood:
    """It succeeds if its execution finishes and printed what `won()` prints, which it does once it is past the limit.

    It takes a little more than the limit, and never all there is. What stops it is the limit: it has to succeed with `more`.
    """

    name: str
    gain: str
    script: str
    limits: Limits
    more: Limits
    stopped_by: tuple[str, ...] = ()
    """What has to be left out too: where a limit is watched, what could not be seen is refused."""
    unswitchable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Staged:
    """An attack on what the host does with a state: it is the host's act that gives the attacker something, or does not.

    `attempt` sets the trap in a state, and lets the sandbox act. `undefended` sets the same trap in a directory of the
    test's own, where a host without defence does the act itself. Each says whether the trap caught.
    """

    name: str
    gain: str
    stopped_by: str
    attempt: Callable[[Machine], Awaitable[bool]]
    undefended: Callable[[Machine, Path], bool]
    unswitchable: Mapping[str, str] = field(default_factory=dict)
