"""What the bubblewrap sandbox needs of a machine, whether it is there, and the command that mends it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runoff.sandbox.protocol import Held, SandboxUnavailable
from runoff.sandbox.seccomp import LIBRARY

Mode = Literal["root", "rootless"]

LEAST_BWRAP = (0, 8)

PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where tools are looked for: not in PATH, where a user's own may stand before the system's."""

_PACKAGES = {
    "bwrap": "bubblewrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "git": "git",
    "tar": "tar",
    "tinyproxy": "tinyproxy-bin",
}
_FOR_SETUPS = ("tinyproxy",)
"""What only executions with a network need."""
_APPARMOR = (
    "allow user namespaces: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, "
    "or an AppArmor profile for bwrap and unshare with the rule `userns,`"
)
_CONTAINER = (
    "run as root of the machine; in a container, start it with "
    "`--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined` or `--privileged`"
)
_STORE = "put the states on ext4, xfs, btrfs or tmpfs (not on an overlay: in a container, on a volume)"


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    detail: str
    remedy: str | None
    holds: tuple[Held, ...] = ()
    """The table of a backend that ran."""


def findings() -> list[Finding]:
    """The tools and the kernel's switches. That all is there does not yet prove that a sandbox runs."""
    found = [*(_tool(name) for name in _PACKAGES), _filters()]
    there = _overlay()
    found.append(
        Finding(
            "overlayfs", there, "known to the kernel" if there else "not loaded", None if there else "modprobe overlay"
        )
    )
    what, remedy = _closed() or ("allowed", None)
    found.append(Finding("user namespaces", remedy is None, what, remedy))
    return found


def tools() -> dict[str, str]:
    """Where the tools are. Raises SandboxUnavailable for the first that is not there or too old."""
    if remedy := _filters().remedy:
        raise SandboxUnavailable("libseccomp: not found", remedy)
    return {name: tool(name) for name in _PACKAGES if name not in _FOR_SETUPS}


def tool(name: str) -> str:
    """Where a tool is. Raises SandboxUnavailable if it is not there or too old."""
    finding = _tool(name)
    if finding.remedy:
        raise SandboxUnavailable(f"{name}: {finding.detail}", finding.remedy)
    return finding.detail


def skopeo() -> list[str]:
    """The command that copies images, dying with whoever started it. Looked for only by who uses an image."""
    if path := shutil.which("skopeo", path=PLACES):
        return [_tool("setpriv").detail, "--pdeathsig", "KILL", path]
    raise SandboxUnavailable("images are copied by skopeo, which is not here", "apt-get install skopeo")


def unavailable(mode: Mode, words: str, store: Path) -> SandboxUnavailable:
    """Why a sandbox did not start, from what the tools said and what the kernel's switches say."""
    what = f"no {mode} sandbox here: {words or 'no reason was given'}"
    if mode == "rootless" and (closed := _closed()):
        return SandboxUnavailable(f"{what} ({closed[0]})", closed[1])
    if "overlay" in words:
        missing = not _overlay()
        return SandboxUnavailable(f"{what} (states at {store})", "run `modprobe overlay`" if missing else _STORE)
    if re.search("interpreter|python|No such file", words, re.IGNORECASE) and not os.access(sys.executable, os.X_OK):
        return SandboxUnavailable(what, f"use a Python that this user may execute, not {sys.executable}")
    return SandboxUnavailable(what, _CONTAINER)


def _tool(name: str) -> Finding:
    path = shutil.which(name, path=PLACES)
    if path is None:
        return Finding(name, False, "not found", f"apt-get install {_PACKAGES[name]}")
    path = str(Path(path).resolve())
    if name == "bwrap":
        return _version(path)
    return Finding(name, True, path, None)


def _filters() -> Finding:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return Finding("libseccomp", False, "not found", "apt-get install libseccomp2")
    return Finding("libseccomp", True, LIBRARY, None)


def _version(path: str) -> Finding:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    least = ".".join(map(str, LEAST_BWRAP))
    if not (numbers := re.search(r"(\d+)\.(\d+)", said)) or tuple(map(int, numbers.groups())) < LEAST_BWRAP:
        remedy = f"install bubblewrap {least} or newer (Debian 12, Ubuntu 24.04 and later have it)"
        return Finding("bwrap", False, f"{path} is {said.strip() or 'of no known version'}, {least} is needed", remedy)
    return Finding("bwrap", True, path, None)


def _overlay() -> bool:
    return "\toverlay\n" in _text("/proc/filesystems")


def _closed() -> tuple[str, str] | None:
    """Why a user without rights may not make user namespaces, and what would let them."""
    if not Path("/proc/self/ns/user").exists():
        return "the kernel has no user namespaces", "run as root, or use a kernel with CONFIG_USER_NS"
    if _text("/proc/sys/user/max_user_namespaces").strip() == "0":
        return "user.max_user_namespaces is 0", "run `sysctl user.max_user_namespaces=10000`"
    if _text("/proc/sys/kernel/unprivileged_userns_clone").strip() == "0":
        return "kernel.unprivileged_userns_clone is 0", "run `sysctl kernel.unprivileged_userns_clone=1`"
    if _text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1":
        return "kernel.apparmor_restrict_unprivileged_userns is 1", _APPARMOR
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
