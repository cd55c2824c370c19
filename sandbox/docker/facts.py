"""What a Docker engine says of itself: whether it is there, and how it holds the limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from runoff.sandbox.docker.containers import LOOK
from runoff.sandbox.docker.engine import Engine
from runoff.sandbox.prerequisites import Finding
from runoff.sandbox.protocol import Held, SandboxUnavailable


def table(info: Mapping[str, Any]) -> list[Held]:
    """How an engine that says this of itself holds the limits."""

    def enforced(limit: str, switch: str, detail: str, without: str = "this kernel or engine cannot") -> Held:
        there = info.get(switch, False)
        return Held(limit=limit, how="enforced" if there else "not held", detail=detail if there else without)

    version = f"cgroup v{info.get('CgroupVersion', '1')}"
    seccomp = any("seccomp" in option for option in info.get("SecurityOptions") or ())
    watched = f"looked at each {LOOK:.0f} s: passed by what is {{}} in that time"
    return [
        Held(limit="seconds", how="enforced", detail="everything in the container is killed"),
        Held(limit="output", how="enforced", detail="capped while it streams"),
        enforced(
            "memory", "MemoryLimit", f"{version}, all processes and /dev/shm together; beyond it everything is killed"
        ),
        enforced("swap", "SwapLimit", "none", "the kernel does not count it: as much again may be swapped"),
        Held(limit="cpu_seconds", how="watched", detail=watched.format("used")),
        enforced("processors", "CpuCfsQuota", "an equal share for each slot"),
        Held(
            limit="disk",
            how="watched",
            detail=watched.format("written")
            + "; what is frozen is measured once more; files deleted while they are open are seen by root on the engine's machine",
        ),
        Held(
            limit="files",
            how="watched",
            detail="looked at each second or more rarely; what is frozen is counted once more",
        ),
        Held(limit="file_size", how="enforced", detail="RLIMIT_FSIZE"),
        enforced("processes", "PidsLimit", f"{version}, zombies included"),
        Held(limit="open_files", how="enforced", detail="RLIMIT_NOFILE, or the engine's own if that is lower"),
        Held(limit="extended attributes", how="not held", detail="a commit drops all but security.capability"),
        Held(
            limit="hard links", how="not held", detail="a write to one parts it from those that earlier executions made"
        ),
        Held(
            limit="directory renames", how="not held", detail="EXDEV for directories of earlier executions; mv copies"
        ),
        Held(limit="network", how="enforced", detail="an empty network namespace: loopback only"),
        Held(
            limit="system calls",
            how="enforced" if seccomp else "not held",
            detail="some 60 are refused by seccomp, as under bubblewrap"
            if seccomp
            else "the engine was built without seccomp",
        ),
        Held(
            limit="rights",
            how="enforced",
            detail="no capabilities, no new ones; root inside only where an image has no user",
        ),
    ]


async def probe(url: str | None = None) -> list[Finding]:
    """What `runoff doctor` says of Docker."""

    def ask() -> Finding:
        try:
            engine = Engine(url, deadline=5)
            try:
                info = engine.about()
            finally:
                engine.close()
        except SandboxUnavailable as error:
            return Finding("docker", False, error.what, error.remedy)
        said = f"{info['ServerVersion']}, {info['Driver']}, cgroup v{info.get('CgroupVersion', '1')} at {engine.url}"
        return Finding("docker", True, said, None)

    return [await asyncio.to_thread(ask)]
