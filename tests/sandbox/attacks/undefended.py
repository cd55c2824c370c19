"""A bubblewrap that leaves out the defences an execution names in its environment, to see that attacks can succeed.

Stands in for bubblewrap in the sandbox's helper; what it is asked for is rewritten and handed to the real one. Only for
a machine that planted.py made.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import sys
import termios
from typing import Any

OFF, HOW = "ATTACKS_OFF", "ATTACKS_HOW"
_TAKES = {
    2: "--setenv --bind --bind-try --dev-bind --dev-bind-try --ro-bind --ro-bind-try --bind-fd --ro-bind-fd --file "
    "--bind-data --ro-bind-data --symlink --chmod",
    1: "--args --userns --userns2 --pidns --uid --gid --hostname --chdir --unsetenv --lock-file --sync-fd --remount-ro "
    "--exec-label --file-label --proc --dev --tmpfs --mqueue --dir --seccomp --add-seccomp-fd --block-fd "
    "--userns-block-fd --info-fd --json-status-fd --cap-add --cap-drop --perms --size",
}
_COUNT = {option: count for count, options in _TAKES.items() for option in options.split()}
_DROPPED = {
    "network": ("--unshare-net",),
    "processes": ("--unshare-pid",),
    "ipc": ("--unshare-ipc",),
    "host name": ("--unshare-uts", "--hostname"),
    "cgroups": ("--unshare-cgroup-try", "--unshare-cgroup"),
    "session": ("--new-session",),
    "environment": ("--clearenv",),
    "system calls": ("--seccomp", "--add-seccomp-fd"),
    "user namespace": ("--userns", "--unshare-user", "--disable-userns", "--uid", "--gid"),
    "no more namespaces": ("--disable-userns",),
    "capabilities": ("--cap-drop", "--cap-add", "--uid", "--gid"),
}
Options = list[list[str]]


def main(bwrap: str, again: bool) -> None:
    """`again`: root runs this, and is to become the user that the helper starts bubblewrap as."""
    options, command = _parse(sys.argv[1:])
    told = {name: value for option, *rest in options if option == "--setenv" for name, value in [rest]}
    off, how = set(filter(None, told.get(OFF, "").split(","))), json.loads(told.get(HOW, "{}"))
    options = [o for o in options if o[:2] not in (["--setenv", OFF], ["--setenv", HOW])]
    user = next(int(option[1]) for option in options if option[0] == "--uid")
    options = _without(options, off, how)
    _prepare(off, how)
    if again and not off & {"bubblewrap", "user namespace", "capabilities"}:
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    elif again and "capabilities" not in off:
        command = _become(user, off) + command
        options += [["--cap-add", f"CAP_{name}"] for name in ("SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH")]
    if "bubblewrap" in off:
        _bare(options, command)
    os.execv(bwrap, [bwrap, *(word for option in options for word in option), "--", *command])


def _parse(argv: list[str]) -> tuple[Options, list[str]]:
    options, n = Options(), 0
    while argv[n] != "--":
        count = 1 + _COUNT.get(argv[n], 0)
        options.append(argv[n : n + count])
        n += count
    return options, argv[n + 1 :]


def _become(user: int, off: set[str]) -> list[str]:
    """The user, where no namespace makes one."""
    rights = ["--inh-caps=-all", "--bounding-set=-all", *(["--no-new-privs"] if "no new privileges" not in off else [])]
    return ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights, "--"]


def _without(options: Options, off: set[str], how: dict[str, Any]) -> Options:
    dropped = {option for defence in off for option in _DROPPED.get(defence, ())}
    options = [option for option in options if option[0] not in dropped]
    if "processes" in off:  # a new view of /proc needs new processes
        options = [["--bind", "/proc", "/proc"] if o[0] == "--proc" else o for o in options]
    if "masks" in off:
        options = [o for o in options if not o[-1].startswith(("/proc/", "/sys/"))]
    if "devices" in off:
        options = [["--dev-bind", "/dev", "/dev"] if o[::2] == ["--dev-bind", "/dev"] else o for o in options]
    if "read-only" in off:
        options = [["--bind", *o[1:]] if o[0] == "--ro-bind" else o for o in options]
    if "shared memory" in off:
        options = [o for o in options if o[0] not in ("--size", "--perms")]
        options = [["--bind", how["shm"], "/dev/shm"] if o == ["--tmpfs", "/dev/shm"] else o for o in options]
    if "view" in off:
        options = [["--ro-bind", "/", "/"] if o[0] == "--bind" and o[2] == "/" else o for o in options]
        options.append(["--bind", how["mine"], how["mine"]])
    if "capabilities" in off:
        options.append(["--cap-add", "ALL"])
        if "user namespace" not in off:
            options = [o for o in options if o[0] not in ("--userns", "--unshare-user")]
            options += [["--unshare-user"], ["--uid", "0"], ["--gid", "0"]]
    return options


def _prepare(off: set[str], how: dict[str, Any]) -> None:
    if "environment" in off:
        os.environ["API_KEY"] = how["secret"]
    if "keyring" in off:
        number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
        if ctypes.CDLL(None).syscall(number, 1, how["keyring"].encode()) < 0:
            raise OSError("no keyring to join")
    if "session" in off:
        os.setsid()
        fcntl.ioctl(os.open(how["terminal"], os.O_RDWR), termios.TIOCSCTTY, 0)
    if "descriptors" in off:
        os.set_inheritable(os.open(how["file"], os.O_RDONLY), True)
        helper = os.pidfd_open(os.getppid())
        socket = ctypes.CDLL(None).syscall(438, helper, 0, 0)  # pidfd_getfd: what the helper is asked through
        os.set_inheritable(os.dup(socket), True)
        os.close(helper)


def _bare(options: Options, argv: list[str]) -> None:
    """Nothing but the command, told about as bubblewrap tells."""
    said = {o[0]: o[1] for o in options if len(o) == 2}
    tell, gate = int(said["--json-status-fd"]), int(said["--block-fd"])
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.read(gate, 1)
        ctypes.CDLL(None).unshare(0x20000)  # mounts of its own, so that the next one finds the machine as it was
        os.chdir("/")
        environment = {o[1]: o[2] for o in options if o[0] == "--setenv"}
        os.execvpe(argv[0], argv, environment)
    os.write(tell, json.dumps({"child-pid": child}).encode() + b"\n")
    _, status = os.waitpid(child, 0)
    os.write(tell, json.dumps({"exit-code": os.waitstatus_to_exitcode(status) & 255}).encode() + b"\n")
    os._exit(0)
