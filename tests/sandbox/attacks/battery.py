"""All attacks against one backend and mode: once as it is, and once each without what stops it. Run once a process."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runoff.sandbox.protocol import Limits, SandboxError
from tests.sandbox.attacks import (
    files,
    floods,
    kernel,
    machine,
    network,
    patches,
    processes,
    readers,
    repository,
    store,
)
from tests.sandbox.attacks.attack import Attack, Flood, Staged
from tests.sandbox.attacks.machine import Machine

CATEGORIES: Mapping[str, Sequence[Attack | Flood | Staged]] = {
    "files and secrets": files.ATTACKS,
    "network": network.ATTACKS,
    "processes": processes.ATTACKS,
    "kernel": kernel.ATTACKS,
    "floods": floods.FLOODS,
    "the host's readers": readers.STAGED,
    "states and layers": store.STAGED,
    "hostile repositories": repository.STAGED,
    "patches and archives": patches.STAGED,
}
EVERY = {attack.name: attack for attacks in CATEGORIES.values() for attack in attacks}
assert len(EVERY) == sum(map(len, CATEGORIES.values())), "two attacks of one name"

chosen: dict[str, set[str]] = {}
"""Mode → the attacks that pytest will ask for."""

_ALONE, _MANY = Limits(seconds=6), Limits(seconds=60)
_caught_without_defence: dict[str, bool] = {}
"""Staged attacks, for which it is the same under every backend."""


@dataclass
class Verdict:
    succeeded: bool | None = None
    """None: nobody can tell, which is no better than True."""
    seen: bool | None = None
    """Whether it succeeded without what stops it; None where that cannot be left out."""
    words: str = ""


@dataclass(frozen=True)
class Fought:
    verdicts: Mapping[str, Verdict]
    changed: Sequence[str]
    """What is different about the attacked machine afterwards."""


@functools.cache
def fought(mode: str) -> Fought:
    return asyncio.run(_fought(mode))


async def _fought(mode: str) -> Fought:
    verdicts = {name: Verdict() for name in EVERY if name in chosen[mode]}
    async with machine.of(mode, held=True) as held, machine.of(mode, held=False) as undefended:
        before = _snapshot(held)
        await asyncio.gather(_attack(held, verdicts), _prove(undefended, verdicts))
        after = _snapshot(held)
        changed = [
            f"{what}: {before.get(what)} → {after.get(what)}"
            for what in before | after
            if before.get(what) != after.get(what)
        ]
    return Fought(verdicts, changed)


async def _attack(machine: Machine, verdicts: Mapping[str, Verdict]) -> None:
    for category in CATEGORIES.values():
        attacks = [attack for attack in category if attack.name in verdicts]
        scripts = [attack for attack in attacks if isinstance(attack, Attack)]
        for group in [[each for each in scripts if not each.alone], *([each] for each in scripts if each.alone)]:
            said = (
                await machine.run(
                    {each.name: each.script for each in group}, limits=_ALONE if group[0].alone else _MANY
                )
                if group
                else {}
            )
            for each in group:
                verdict = verdicts[each.name]
                verdict.words = said.get(each.name, "") + verdict.words
                alone_and_seen = each.alone and each.seen is not None  # it may have ended what would report
                verdict.succeeded = _caught(machine, each, said) if each.name in said or alone_and_seen else None
        for flood in (attack for attack in attacks if isinstance(attack, Flood)):
            verdicts[flood.name].succeeded = await _passed(machine, flood, flood.limits)
        for staged in (attack for attack in attacks if isinstance(attack, Staged)):
            verdicts[staged.name].succeeded = await staged.attempt(machine)


async def _prove(machine: Machine, verdicts: Mapping[str, Verdict]) -> None:
    """The destructive ones last: they may take what others need."""
    attacks = [EVERY[name] for name in verdicts]
    groups: dict[tuple[tuple[str, ...], str], list[Attack]] = {}
    for attack in attacks:
        if isinstance(attack, Attack) and (off := attack.defences(machine.mode)):
            groups.setdefault((off, attack.name if attack.alone else ""), []).append(attack)
    for (off, _), group in sorted(groups.items(), key=lambda item: item[0][1] == "kill-everything"):
        await _prove_without(off, group, machine, verdicts)
        if missed := [each for each in group if not verdicts[each.name].seen]:  # an attack may lose a race once
            await _prove_without(off, missed, machine, verdicts)
    for attack in attacks:
        if machine.mode in attack.unswitchable:
            continue
        if isinstance(attack, Flood):
            verdicts[attack.name].seen = await _passed(machine, attack, attack.more, attack.stopped_by)
        if isinstance(attack, Staged):
            if attack.name not in _caught_without_defence:
                with tempfile.TemporaryDirectory(dir=machine.place) as directory:
                    caught = await asyncio.to_thread(attack.undefended, machine, Path(directory))
                _caught_without_defence[attack.name] = caught
            verdicts[attack.name].seen = _caught_without_defence[attack.name]


async def _prove_without(
    off: Sequence[str], group: Sequence[Attack], machine: Machine, verdicts: Mapping[str, Verdict]
) -> None:
    said: dict[str, str] = {}
    limits, why = _ALONE if group[0].alone else _MANY, ""
    try:
        said = await machine.run({each.name: each.script for each in group}, off, limits)
    except SandboxError as error:  # an attack may take the sandbox with it
        why = repr(error)
    for each in group:
        verdicts[each.name].seen = _caught(machine, each, said)
        verdicts[each.name].words += f" / without {', '.join(off)}: {said.get(each.name, why)}"


def _caught(machine: Machine, attack: Attack, said: Mapping[str, str]) -> bool:
    output = said.get(attack.name, "")
    return machine.secret in output or machine.won in output or bool(attack.seen and attack.seen(machine))


async def _passed(machine: Machine, flood: Flood, limits: Limits, off: Sequence[str] = ()) -> bool:
    done = await machine.flood(flood.script, limits, off)
    return done.outcome == "finished" and machine.won in done.text and not done.dropped


_TARGETS = (
    "/",
    "/proc",
    "/sys",
    "/dev",
    "/dev/shm",
    "/run",
    "/tmp",
    "/mnt",
    "/usr",
    "/etc",
    "/etc/shadow",
    "/root",
    "/srv",
)


def _is_ours(mounted: str, place: Path) -> bool:
    """Others on this machine mount things too."""
    return mounted in _TARGETS or mounted.startswith(str(place))


def _groups() -> set[Path]:
    """At the top of each hierarchy, and below the group that this process is in: others on this machine come and go.

    Walked, not globbed: the group of a container that ends meanwhile is passed over.
    """
    top, found = Path("/sys/fs/cgroup"), set[Path]()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        for mounted in (top / name for name in controllers.removeprefix("name=").split(",")):
            below = (Path(folder) / name for folder, names, _ in os.walk(mounted / own.lstrip("/")) for name in names)
            found |= {*mounted.glob("*/"), *below}
    return found


def _snapshot(machine: Machine) -> dict[str, object]:
    """What nobody should have changed: mounts and control groups seen from here, planted files and processes."""
    place = machine.place
    kept = list[Path]()
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if name != "states"]  # what is left there goes while this looks
        kept += [path for name in names if (path := Path(folder) / name).is_file()]
    left = ("planted.json", "terminal")
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept if path.name not in left}
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    groups = [path for path in _groups() if not re.search("runoff-|docker", str(path))]
    return {
        **files,
        **{str(path): "is there" for path in groups},
        **{f"mounts at {path}": mounts.count(path) for path in {*mounts, *_TARGETS} if _is_ours(path, place)},
        **{str((path / "cmdline").read_bytes()): "runs" for path in machine.processes(machine.mark)},
    }
