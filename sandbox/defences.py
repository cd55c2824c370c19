"""What holds a sandbox: bubblewrap's and setpriv's arguments, each defence under its name. Pure, standard library only.

The names exist for the tests: an attack that fails proves something only if it is seen to succeed with its defence left
out. See `Bubblewrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

LIMITS = ("seconds", "output", "memory", "cpu_seconds", "disk", "files", "file_size", "processes", "open_files")

DEFENCES: Mapping[str, str] = {
    "host-files": "a root file system of its own; without: the host's, read-only",
    "read-only": "what is shown of the host cannot be written",
    "private-tmp": "a /tmp of its own; without: the host's, writable",
    "dev": "a /dev of its own; without: the host's",
    "dev-read-only": "nothing can be made in /dev",
    "shared-memory": "the size of /dev/shm",
    "pids": "a process namespace of its own; without: that of the host",
    "ipc": "System V and POSIX queues of its own",
    "hostname": "a host name of its own",
    "cgroups": "limits in total are enforced; without: watched",
    "cgroup-names": "the host's cgroups are not named inside",
    "network": "a network of its own, with nothing but a loopback",
    "death": "processes end with whoever started bubblewrap",
    "new-session": "no controlling terminal (TIOCSTI)",
    "environment": "no variable of the host",
    "seccomp": "system calls that no test needs are refused",
    "proc-masks": "what /proc says of the machine is covered, its switches are read-only",
    "keyring": "kernel keyrings of its own",
    "uid": "an unprivileged user; without: whoever runs the sandbox (rootless: under the number 0)",
    "capabilities": "none; without: what the user inside has by itself",
    "userns": "no further user namespace can be made",
    "mount-points": "a state whose mount points were replaced is refused",
    "template-look": "what a template forked is looked at before anything is run in it",
    "limits": "all of the limits",
    **dict.fromkeys(LIMITS, "this one of the limits"),
}
"""All that can be left out, and what it gives."""

_EMPTY_FILES = (
    "kcore",
    "keys",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "latency_stats",
    "sysrq-trigger",
    "interrupts",
)
_EMPTY_DIRECTORIES = ("acpi", "asound", "scsi")
_READ_ONLY = ("sys",)  # and `irq` and `bus`, which bubblewrap does by itself

_ROOTS_NEEDS = ("SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH")
"""What setpriv needs to become the user, and the directories of the user that it starts in."""


_LOADERS = ("LD_", "GLIBC_", "GCONV_", "MALLOC_")
"""Variables that make a program load or do what its caller says: not for setpriv, which has rights until it is the user."""


def masks(is_open: Callable[[str], bool]) -> list[str]:
    """Arguments that cover what /proc says of the machine, if it is open to everyone: each mount takes its time.

    The read-only parts are the same whoever's /proc it is.
    """
    empty = [
        part
        for name in _EMPTY_FILES
        if is_open(f"/proc/{name}")
        for part in ("--dev-bind", "/dev/null", f"/proc/{name}")
    ]
    for name in filter(lambda name: is_open(f"/proc/{name}"), _EMPTY_DIRECTORIES):
        empty += ["--tmpfs", f"/proc/{name}", "--remount-ro", f"/proc/{name}"]
    return [*empty, *(part for name in _READ_ONLY for part in ("--ro-bind", f"/proc/{name}", f"/proc/{name}"))]


def command(
    tools: tuple[str, str | None],
    without: Collection[str],
    *,
    root: str,
    devices: str | None,
    read_only: Mapping[str, str],
    beside: Mapping[str, str],
    masks: Sequence[str],
    shared_memory: int,
    user: int,
    environment: Mapping[str, str],
    handles: Mapping[str, int],
    cwd: str,
) -> list[str]:
    """How bubblewrap is called, up to the command that it is to run. `read_only`: where what is shown of the host comes from,
    by its path; `beside`: the same, of what is shown for this one only. `devices`: what is shown as /dev; None: bubblewrap
    makes one.

    `tools`: where bwrap is, and, inside, the setpriv that becomes the user, if root runs this without user namespaces.
    Otherwise bubblewrap becomes the user, in the namespace that `handles` brings (usernamespace.py) or in one that it
    makes, where whoever runs this is that user. Every kind of isolation is asked for by name: it isolates nothing by itself.
    """
    late = {name: value for name, value in environment.items() if name.startswith(_LOADERS) and tools[1]}
    bwrap: dict[str, list[str]] = {
        "host-files": ["--bind", root, "/"],
        "read-only": [part for path, source in read_only.items() for part in ("--ro-bind", source, path)],
        "private-tmp": [],
        "proc": ["--proc", "/proc"],
        "proc-masks": list(masks),
        "dev": ["--dev-bind", devices, "/dev"] if devices else ["--dev", "/dev"],
        "shared-memory": ["--perms", "1777", "--size", str(shared_memory), "--tmpfs", "/dev/shm"],
        "beside": [part for path, source in beside.items() for part in ("--ro-bind", source, path)],
        "dev-read-only": [] if devices else ["--remount-ro", "/dev"],
        "pids": ["--unshare-pid"],
        "ipc": ["--unshare-ipc"],
        "hostname": ["--unshare-uts", "--hostname", "sandbox"],
        "cgroup-names": ["--unshare-cgroup-try"],
        "network": ["--unshare-net"],  # also for setups: see relay.py
        "death": ["--die-with-parent"],
        "new-session": ["--new-session"],
        "environment": ["--clearenv"],
        "variables": [
            part for name, value in environment.items() for part in ("--setenv", name, value) if name not in late
        ],
        "capabilities": ["--cap-drop", "ALL"],
        "handles": [part for option, handle in handles.items() for part in (option, str(handle))],
        "directory": ["--chdir", cwd],
    }
    setpriv: dict[str, list[str]] = {"privileges": ["--no-new-privs"]}
    if tools[1]:
        bwrap["capabilities"] += [part for name in _ROOTS_NEEDS for part in ("--cap-add", f"CAP_{name}")]
        setpriv["uid"] = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        setpriv["capabilities"] = ["--inh-caps=-all", "--bounding-set=-all"]
    else:
        bwrap["uid"] = ["--uid", str(user), "--gid", str(user)]
        if "--userns" not in handles:
            bwrap["user"] = ["--unshare-user"]
            bwrap["userns"] = ["--disable-userns"]
    instead = {
        "host-files": ["--ro-bind", "/", "/"],
        "read-only": [part for path, source in read_only.items() for part in ("--bind", source, path)],
        "private-tmp": ["--bind", "/tmp", "/tmp"],
        "dev": ["--dev-bind", "/dev", "/dev"],
        "shared-memory": ["--perms", "1777", "--tmpfs", "/dev/shm"],
    }

    def kept(parts: Mapping[str, list[str]]) -> list[str]:
        return [part for name, said in parts.items() for part in (instead.get(name, []) if name in without else said)]

    become_user = [tools[1], *kept(setpriv), "--"] if tools[1] else []
    if late:
        become_user += ["/usr/bin/env", "--", *(f"{name}={value}" for name, value in late.items())]
    return [tools[0], *kept(bwrap), "--", *become_user]
