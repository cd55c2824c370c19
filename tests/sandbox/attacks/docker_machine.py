"""The machine that is attacked through Docker: what is planted runs in a container of its own, with whom to share.

A defence is left out by another host configuration of the container that the attack runs in.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from runoff.sandbox.containers import Docker
from runoff.sandbox.protocol import Base, Execution, Limits, State
from tests.sandbox.attacks.machine import HERE, Machine

_LABEL = "runoff.attacked"


class DockerMachine(Machine):
    async def _open(self, own: AsyncExitStack) -> None:
        self.sandbox: _Undefended = _Undefended(self.place / "states", self)
        await own.enter_async_context(self.sandbox)
        own.push_async_callback(asyncio.to_thread, self._remove)
        base = await self.sandbox.base(Base())
        self.planted = await asyncio.to_thread(self._start, base.digest)
        self.sandbox.defended = self._held

    async def _execute(self, off: Sequence[str], state: State, argv: Sequence[str], limits: Limits, **how: Any) -> Execution:
        environment = {"API_KEY": self.secret} if "environment" in off else {}
        self.sandbox.off = frozenset(off)
        try:
            return await self.sandbox.execute(state, argv, limits, env=environment, **how)
        finally:
            self.sandbox.off = frozenset()

    def _start(self, image: str) -> str:
        shown = {Path("/usr"), Path(sys.base_prefix), HERE}
        mounts = [f"{path}:{path}:ro" for path in sorted(shown)]
        mounts += [f"{self.place}:{self.place}", f"{self.place}/run:/run"]
        plan = json.dumps(self._plan() | {"binds": {}})
        done = subprocess.run(
            [
                *("docker", "run", "--detach", "--init", "--label", f"{_LABEL}={self.mark}", "--network", "none"),
                *("--ipc", "shareable", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN"),
                *("--security-opt", "seccomp=unconfined", "--user", "0:0"),
                *(part for mount in mounts for part in ("--volume", mount)),
                *(f"sha256:{image}", _python(), "-I", "-S", str(HERE / "planted.py"), plan),
                *("/usr/bin/sleep", "1000"),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise AssertionError(done.stderr)
        container = done.stdout.strip()
        for _ in range(100):
            if (self.place / "planted.json").exists():
                break
            subprocess.run(["sleep", "0.05"])
        subprocess.run(
            ["docker", "exec", container, "sh", "-c", f"echo {self.secret} > /dev/shm/other"], check=True, capture_output=True
        )
        return container

    def _remove(self) -> None:
        listed = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", f"label={_LABEL}={self.mark}"], capture_output=True, text=True
        )
        for container in listed.stdout.split():
            subprocess.run(["docker", "rm", "--force", "--volumes", container], capture_output=True)

    def host(self, host: dict[str, Any], off: frozenset[str]) -> dict[str, Any]:
        """The configuration of a container, without these defences."""
        shared, place, host = f"container:{self.planted}", str(self.place), dict(host)
        options = [o for o in host["SecurityOpt"] if o != "no-new-privileges" or "no new privileges" not in off]
        binds: list[str] = []
        if "view" in off:
            binds += [f"{source}:{target}:ro" for source, target in self._covered().items()]
            binds += [f"{place}:{place}:ro", f"{place}/mine:{place}/mine"]
            host["Mounts"] = [m for m in host["Mounts"] if not m["Target"].startswith(place)]
        if "network" in off:
            host["NetworkMode"] = shared
        if "processes" in off:
            host["PidMode"] = shared
        if off & {"ipc", "shared memory"}:
            host["IpcMode"] = shared
        if "read-only" in off:
            host["Mounts"] = [m | {"ReadOnly": m["ReadOnly"] and not m["Target"].startswith(place)} for m in host["Mounts"]]
        if "devices" in off:
            host["Devices"] = [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "r"}]
        if "system calls" in off:
            options.append("seccomp=unconfined")
        if "masks" in off:
            host |= {"MaskedPaths": [], "ReadonlyPaths": []}
        if "capabilities" in off:
            host |= {"CapDrop": [], "CapAdd": ["ALL"]}
        if "bubblewrap" in off:
            host["Privileged"] = "capabilities" in off
            binds.append(f"{place}/exposed:{place}/exposed:ro")
        return host | {"SecurityOpt": options, "Binds": binds}


class _Undefended(Docker):
    """Changes nothing until it is told what to leave out, and then keeps no container for another execution."""

    def __init__(self, root: Path, machine: DockerMachine) -> None:
        super().__init__(root)
        self._machine, self.off = machine, frozenset[str]()
        self.defended = True

    def _host(self, *about: Any) -> dict[str, Any]:
        host = super()._host(*about)
        return self._machine.host(host, self.off) if self.off else host

    def _taken(self, asked: Any) -> Any:
        return None if self.off else super()._taken(asked)

    def _is_worth_keeping(self, container: Any) -> bool:
        return not self.off and super()._is_worth_keeping(container)

    def _begin(self) -> None:
        super()._begin()
        begin: Callable[..., Any] = self._engine.begin

        def as_root(container: str, program: Sequence[str], user: str) -> Any:
            return begin(container, program, "0:0" if "capabilities" in self.off else user)

        self._engine.begin = as_root  # type: ignore[method-assign]


def _python() -> str:
    """One that the planted machine can run: it is shown /usr."""
    return os.path.realpath(shutil.which("python3", path="/usr/local/bin:/usr/bin") or "")

