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
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from runoff.sandbox.docker.backend import Docker
from runoff.sandbox.protocol import Base, Execution, Limits, State
from tests.sandbox.attacks.machine import HERE, Machine

_LABEL = "runoff.attacked"


class DockerMachine(Machine):
    async def _open(self, own: AsyncExitStack) -> None:
        """What stands between is the engine's client: a container is made as it is asked for, or without some of it."""
        self._off = frozenset[str]()
        docker = Docker(self.place / "states", warm=None if self._held else 0)
        self.sandbox = await own.enter_async_context(docker)
        own.push_async_callback(asyncio.to_thread, self._remove)
        base = await docker.base(Base())
        self.planted = await asyncio.to_thread(self._start, base.digest)
        if self._held:
            return
        engine = docker._engine
        create, begin = engine._quick.create_container_from_config, engine.begin

        def created(config: dict[str, Any], *how: Any) -> Any:
            if self._off:
                config.pop("Hostname", None)  # who shares a network has no name of its own
                config["HostConfig"] = self._without(config["HostConfig"])
            return create(config, *how)

        def begun(container: str, program: Sequence[str], user: str) -> Any:
            if "processes" in self._off:  # at the end it kills all it sees, which is now what is planted
                program = [part.replace("kill -9 -1", ":") for part in program]
            return begin(container, program, "0:0" if "capabilities" in self._off else user)

        engine._quick.create_container_from_config, engine.begin = created, begun  # type: ignore[method-assign]

    async def _execute(
        self, off: Sequence[str], state: State, argv: Sequence[str], limits: Limits, **how: Any
    ) -> Execution:
        environment = {"API_KEY": self.secret} if "environment" in off else {}
        self._off = frozenset(off)
        try:
            return await self.sandbox.execute(state, argv, limits, env=environment, **how)
        finally:
            self._off = frozenset()

    def _start(self, image: str) -> str:
        shown = {Path("/usr"), Path(sys.base_prefix), HERE}
        mounts = [f"{path}:{path}:ro" for path in sorted(shown)]
        mounts += [f"{self.place}:{self.place}", f"{self.place}/run:/run"]
        plan = json.dumps(self._plan() | {"binds": {}})
        done = subprocess.run(
            [
                *("docker", "run", "--rm", "--detach", "--label", f"{_LABEL}={self.mark}", "--network", "none"),
                *("--label", "runoff.owner="),  # not that of whoever made the image, who would remove it
                *("--ipc", "shareable", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN"),
                *("--security-opt", "seccomp=unconfined", "--user", "0:0"),
                *("--sysctl", "net.ipv6.conf.all.disable_ipv6=0"),
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
        until = time.monotonic() + 60
        while not (self.place / "planted.json").exists():
            if time.monotonic() > until:
                raise AssertionError("the planted machine does not begin")
            time.sleep(0.02)
        subprocess.run(
            ["docker", "exec", container, "sh", "-c", f"echo {self.secret} > /dev/shm/other"],
            check=True,
            capture_output=True,
        )
        return container

    def _remove(self) -> None:
        listed = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", f"label={_LABEL}={self.mark}"],
            capture_output=True,
            text=True,
        )
        for container in listed.stdout.split():
            subprocess.run(["docker", "rm", "--force", "--volumes", container], capture_output=True)

    def _without(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of a container, without the defences that are left out."""
        shared, place, host, off = f"container:{self.planted}", str(self.place), dict(asked), self._off
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
            host["Mounts"] = [
                m | {"ReadOnly": m["ReadOnly"] and not m["Target"].startswith(place)} for m in host["Mounts"]
            ]
        if "devices" in off:
            host["Devices"] = [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "r"}]
        if off & {"system calls", "bubblewrap"}:
            options = [o for o in options if not o.startswith("seccomp=")] + ["seccomp=unconfined"]
        if "masks" in off:
            host |= {"MaskedPaths": [], "ReadonlyPaths": []}
        if "capabilities" in off:
            host |= {"CapDrop": [], "CapAdd": _capabilities()}
        if "bubblewrap" in off:
            host |= {"MaskedPaths": [], "ReadonlyPaths": [], "CgroupnsMode": "host"}
            binds.append(f"{place}/exposed:{place}/exposed:ro")
        return host | {"SecurityOpt": options, "Binds": binds}


def _python() -> str:
    """One that the planted machine can run: it is shown /usr."""
    return os.path.realpath(shutil.which("python3", path="/usr/local/bin:/usr/bin") or "")


def _capabilities() -> list[str]:
    """All that this machine has, and every engine knows by name."""
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    has = int(status["CapBnd"], 16)
    names = """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
        NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
        SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
        MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ""".split()
    return [name for number, name in enumerate(names) if has >> number & 1]
