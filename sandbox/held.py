"""The table of how bubblewrap holds each limit here, from what its helper found on this machine. Pure.

docs/security.md shows it for machines with control groups and without; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runoff.sandbox.prerequisites import Mode
from runoff.sandbox.protocol import Held

_EVERY = "looked at every 0.25 s and at the end"


class Facts(NamedTuple):
    """What the helper says when it is asked."""

    version: int
    """Of control groups, 0 for none."""
    controllers: frozenset[str]
    """Of `memory`, `pids`, `cpuacct`."""
    why: str
    """What stood in the way of more."""
    namespaces: bool
    """Each slot has a user namespace (rootless: each execution has)."""


def rows(mode: Mode, facts: Facts) -> list[Held]:
    return [Held(limit=limit, how=how, detail=detail) for limit, how, detail in _rows(mode, facts)]


def remedy(mode: Mode, facts: Facts) -> str | None:
    """What would enforce the limits in total that are only watched."""
    if "memory" in facts.controllers:
        return None
    watched = f"limits in total are watched, for no control group can be made here ({facts.why})"
    if mode == "rootless":
        by = "`systemd-run --user --scope --property=Delegate=yes runoff …`"
        return f"{watched}; they are enforced when run by {by}, where systemd manages control groups of version 2"
    return watched


def starts(mode: Mode, facts: Facts) -> str:
    """How generated tests in Python are started here, for people."""
    if mode == "root" and facts.namespaces and facts.version == 1 and len(facts.controllers) == 3:
        return "tests in Python are forked from a template"
    return "each test starts an interpreter (a template needs root, user namespaces, and control groups of version 1)"


def _rows(mode: Mode, facts: Facts) -> Iterator[tuple[str, str, str]]:
    group = f"by a control group (version {facts.version})"
    yield "seconds", "enforced", "everything is killed"
    yield "output", "enforced", "kept in bounded memory, the rest is read and dropped"
    if "memory" in facts.controllers:
        yield "memory", "enforced", f"{group}, /dev/shm and the kernel's own for it included, no swap"
    else:
        yield (
            "memory",
            "watched",
            "looked at every 0.1 s, passed by what is allocated in that time (measured: 10 MiB of 200); "
            "the private memory of one process cannot pass it; buffers in pipes and sockets are not seen; "
            "address sanitizers cannot start",
        )
    by = (
        group
        if "cpuacct" in facts.controllers
        else "by the processes' own count; not what a parent ignored to wait for"
    )
    yield "cpu_seconds", "watched", f"{_EVERY} {by}: passed by 0.25 s on each core; a process by itself by 2 s"
    yield "disk", "watched", f"{_EVERY}: passed by what can be written in that time (up to 122 MiB measured)"
    yield "files", "watched", f"{_EVERY}: passed by what can be made in that time (up to 1,500 measured)"
    yield "file_size", "enforced", "a write beyond it fails"
    if "pids" in facts.controllers:
        yield "processes", "enforced", group
    elif facts.namespaces:
        yield "processes", "enforced", "by a user namespace of its own; before Linux 5.14 all of the user count"
    else:
        yield "processes", "enforced", "all executions together, for this machine has no user namespaces"
    yield "open_files", "enforced", "of one process"
    yield "room", "watched", "every 0.25 s: with less than 1 MiB or 16 inodes left where states live, nobody's verdict"
    yield "/dev/shm", "enforced", "256 MiB"
    yield "network", "enforced", "a loopback of its own and nothing else"
    yield "system calls", "enforced", "some 60 are refused by seccomp, and foreign ABIs (32-bit programs) altogether"
    yield "host files", "enforced", "a root of its own; /usr and what a base names are shown read-only"
    yield "host processes", "enforced", "a process namespace of its own"
    yield "privileges", "enforced", "an unprivileged user, no capabilities, no set-user-ID, no further user namespace"
    yield "/proc and /sys", "enforced", "what tells of the machine is covered, /proc/sys is read-only, there is no /sys"
    yield "hard links", "not held", "a write to one name of a file in a frozen layer parts it from the others"
    if mode == "rootless":
        yield "directory renames", "not held", "EXDEV for a directory of a frozen layer; mv copies it"
    yield "kernel bugs", "not held", "namespaces share the kernel: against them, use a virtual machine"
