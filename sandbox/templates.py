"""The helper's side of a template process (template.py): starts it, and has it fork into a sandbox that is ready and empty.

The template runs no code but the host's own: an interpreter and a standard library that are shown in sandboxes read-only. It
has rights, in its slot's user namespace alone; what it forks gives them up, and is looked at before anything of a state is
run. Standard library only.
"""

# ruff: noqa: PTH110, PTH112, PTH114, PTH115, PTH116, PTH120, PTH208
# Paths are short strings, see cell.py.
from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_KINDS = ("pid", "mnt", "net", "ipc", "uts", "cgroup")
"""Of namespaces, the process's own first."""
_ALL = (*_KINDS, "user", "pid_for_children", "time", "time_for_children")
_DECIDES = re.compile("(PYTHON(?!PATH$)|LD_|LC_|LANG|LOCPATH|TZ|GLIBC_|GCONV_|MALLOC_|OPENSSL|SSL_)")
"""Variables that make another interpreter, or another start of one."""
_INTERPRETER = re.compile(r"python3\.1[1-3]")
_READS = {"x86_64": "0", "aarch64": "63", "riscv64": "63"}
_PATIENCE = 10.0


class NotEntered(Exception):
    """The execution has not begun: it can be started as any other."""


def interpreter(root: str, shown: Sequence[str], argv: Sequence[str], env: Mapping[str, str]) -> str | None:
    """The host's interpreter that `python -c TEXT` would start in a state, if it is one that a template can be made of.

    `root` is the mounted state, in which nothing runs at this time. Links in it are read, not followed.
    """
    if list(argv[:2]) != ["python", "-c"] or len(argv) < 3 or any(map(_DECIDES.match, env)) or "PATH" in env:
        return None
    for at in (f"{root}/env", f"{root}/env/bin"):
        if os.path.islink(at) or not os.path.isdir(at):
            return None
    target = "python"
    for _ in range(3):
        if not os.path.islink(at := f"{root}/env/bin/{target}"):
            return None
        target = os.readlink(at)
        if target.startswith("/"):
            break
        if "/" in target:
            return None
    if os.path.normpath(target) != target or not any(target.startswith(f"{place}/") for place in shown):
        return None
    target = os.path.realpath(target)  # the host's own
    within = any(target.startswith(f"{place}/") for place in shown)
    return target if within and _INTERPRETER.fullmatch(os.path.basename(target)) else None


class Template:
    """One process, in a slot. Raises NotEntered whenever it cannot be used."""

    def __init__(
        self,
        interpreter: str,
        start: Callable[..., subprocess.Popen[bytes]],
        bwrap: str,
        namespace: int,
        user: int,
        base: str,
        read_only: Mapping[str, str],
        program: str,
    ) -> None:
        self.interpreter = interpreter
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # It must find itself in a virtual environment, as in a state, and in an empty one: no `.pth` file is run.
        home = os.memfd_create("pyvenv.cfg")
        os.write(home, f"home = {os.path.dirname(interpreter)}\ninclude-system-site-packages = false\n".encode())
        os.lseek(home, 0, os.SEEK_SET)
        nothing = os.memfd_create("stdin")
        shows = [part for path, source in read_only.items() for part in ("--ro-bind", source, path)]
        rights = [part for name in ("SYS_ADMIN", "SYS_CHROOT", "SETPCAP") for part in ("--cap-add", f"CAP_{name}")]
        with theirs:
            try:
                self._process = start(
                    [
                        *(bwrap, "--userns", str(namespace), "--ro-bind", base, "/", *shows),
                        *("--tmpfs", "/tmp", "--symlink", interpreter, "/tmp/bin/python"),
                        *("--file", str(home), "/tmp/pyvenv.cfg", "--remount-ro", "/tmp"),
                        *("--unshare-net", "--unshare-ipc", "--unshare-uts", "--uid", str(user), "--gid", str(user)),
                        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", *rights, "--chdir", "/"),
                        *("--clearenv", "--setenv", "LANG", "C.UTF-8", "--setenv", "HOME", "/home/user", "--"),
                        *("/tmp/bin/python", "-c", Path(program).read_text(), str(theirs.fileno())),
                    ],
                    pass_fds=(namespace, home, theirs.fileno()),
                    stdin=nothing,  # a file in memory, as what a state's interpreter reads
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={},
                )
            finally:
                os.close(home)
                os.close(nothing)
        self.is_ready, self.handle = False, self._ours.fileno()

    def ready(self) -> bool:
        """Whether it can be used by now: nobody waits for it."""
        if not self.is_ready and select.select([self._ours], [], [], 0)[0]:
            self.is_ready = self._ours.recv(64) == b"ready"
        return self.is_ready and self.lives()

    def lives(self) -> bool:
        return self._process.poll() is None

    def enter(
        self, first: int, gate: int, request: Mapping[str, Any], streams: Sequence[int], program: int | None
    ) -> tuple[int, int]:
        """Fork into the sandbox of which `first` is process 1, which waits at `gate`: the fork's number, and a handle on which
        it waits for a byte. `program`: the filter of system calls."""
        text = json.dumps(dict(request) | {"filtered": program is not None}).encode()
        _wait_for(first, gate)
        ours, theirs = socket.socketpair()
        handles: list[int] = []
        try:
            with theirs:
                handles = [os.open(f"/proc/{first}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in _KINDS]
                handles.append(os.memfd_create("request", os.MFD_CLOEXEC))
                with open(handles[-1], "wb", closefd=False) as file:
                    file.write(text)
                more = [*streams, streams[0] if program is None else program, theirs.fileno(), handles[-1]]
                socket.send_fds(self._ours, [b"fork"], [*handles[:-1], *more])
            process: int = self._hear()["process"]
            ours.settimeout(_PATIENCE)
            if ours.recv(1) != b".":
                raise NotEntered("it could not enter")
        except (OSError, KeyError) as error:
            ours.close()
            raise NotEntered(str(error)) from error
        except BaseException:
            ours.close()
            raise
        finally:
            for handle in handles:
                os.close(handle)
        return process, ours.detach()

    def ended(self) -> tuple[int | None, float]:
        """Exit code and processor time of what it forked last, once that is dead; no code if it died itself."""
        with suppress(NotEntered, KeyError):
            said = self._hear()
            if "process" in said:
                said = self._hear()
            return said["exit-code"], said["cpu"]
        self.close()
        return None, 0.0

    def close(self) -> None:
        self._ours.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=_PATIENCE)

    def _hear(self) -> dict[str, Any]:
        if not select.select([self._ours], [], [], _PATIENCE)[0]:
            raise NotEntered("it says nothing")
        try:
            return dict(json.loads(self._ours.recv(4096)))
        except (OSError, ValueError) as error:
            raise NotEntered("it died") from error


def look_at(process: int, first: int, user: int, filtered: bool) -> None:
    """Raises NotEntered unless a process is where process 1 of the sandbox is, and has no right and nothing open."""
    said = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":\t" in line
    )
    wanted = {f"Cap{which}": "0" * 16 for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    wanted |= {"NoNewPrivs": "1", "Seccomp": "2" if filtered else "0", "Groups": ""}
    wanted |= dict.fromkeys(("Uid", "Gid"), "\t".join([str(user)] * 4))
    wrong = [name for name, value in wanted.items() if said.get(name, "").strip() != value]
    for kind in filter(lambda kind: os.path.exists(f"/proc/{first}/ns/{kind}"), _ALL):
        if os.readlink(f"/proc/{process}/ns/{kind}") != os.readlink(f"/proc/{first}/ns/{kind}"):
            wrong.append(kind)
    roots = [os.stat(f"/proc/{which}/root") for which in (process, first)]
    if len({(root.st_dev, root.st_ino) for root in roots}) > 1:
        wrong.append("root")
    if Path(f"/proc/{process}/cgroup").read_bytes() != Path(f"/proc/{first}/cgroup").read_bytes():
        wrong.append("control group")
    if not {"0", "1", "2"} <= (handles := set(os.listdir(f"/proc/{process}/fd"))) <= {"0", "1", "2", "3"}:
        wrong.append(f"handles {sorted(handles)}")
    if wrong:
        raise NotEntered(f"not as it should be: {', '.join(wrong)}")


def _wait_for(first: int, gate: int) -> None:
    """Until process 1 waits at the gate: by then bubblewrap has made all that it makes, and given up what it needed for it."""
    reads, until = _READS.get(os.uname().machine), time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            said = Path(f"/proc/{first}/syscall").read_text().split()
        except OSError as error:
            raise NotEntered(str(error)) from error
        if said[0] == reads and int(said[1], 16) == gate:
            return
        time.sleep(0.0003)
    raise NotEntered("it does not come to the gate")
