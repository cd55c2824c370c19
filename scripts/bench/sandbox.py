"""What sandboxes cost beside another way to do the same, both in one run, taken in turns. Started by scripts/bench/sandbox.

Every figure is a median; the ratio is ours by theirs (or theirs by ours where ours must be faster), with what it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import datetime
import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from runoff.sandbox import Base, Bubblewrap, Image, Limits, Refused, Sandbox, State, defences, skeleton
from runoff.sandbox.bubblewrap import SANDBOX_UID

Side = Callable[[], Awaitable[object]]

IMPORTS = ["python3", "-c", "import json, argparse, unittest"]
SCRIPT = ["sh", "-c", "sleep 0.1; grep -q fixed f"]
PATCH = b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-broken\n+fixed\n"
TREE = r"""
import os, subprocess
for n in range(6500):
    os.makedirs(f"p{n % 130}/q{n % 13}", exist_ok=True)
    with open(f"p{n % 130}/q{n % 13}/m{n}.py", "w") as file:
        file.write(f"value = {n}\n" * 60)
for command in ("init -q", "add -A", "-c user.name=a -c user.email=b commit -qm start"):
    subprocess.run(["git", *command.split()], check=True)
"""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="how often each side is measured")
    parser.add_argument("--image", default="runoff-base:bookworm", help="of the Docker engine: what both sides run in")
    parser.add_argument("--mode", choices=["root", "rootless"], help="bubblewrap's; otherwise what it takes by itself")
    parser.add_argument("--states", type=Path, help="where states are kept meanwhile")
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.release()}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="runoff-bench-", dir=options.states) as directory:
        async with Bubblewrap(Path(directory) / "states", options.mode) as sandbox:
            base = await begin(sandbox, options.image)
            print(f"{sandbox.name}, medians of {options.rounds}\n")
            await one_execution(sandbox, base, options.rounds, docker_run(options.image))
            await many_executions(sandbox, base)
            await chains(sandbox, base)
            await vote_cells(sandbox, base, options.rounds)
            await kept_states(sandbox, base, Path(directory))
            await diffs(sandbox, base)
            await shared_base(sandbox, Path(directory))


async def begin(sandbox: Sandbox, image: str) -> State:
    """The image that Docker runs too, if it is there and can be had."""
    if docker_run(image):
        try:
            return await sandbox.base(Image(reference=f"docker-daemon:{image}"))
        except Refused as refused:
            print(f"not the same root file system: {refused}")
    return await sandbox.base(Base())


async def one_execution(sandbox: Sandbox, base: State, rounds: int, docker: list[str] | None) -> None:
    state = await sandbox.write(base, {"/testbed/f": b"x"})
    sides: dict[str, Side] = {
        "state → `true` → next state": lambda: sandbox.execute(state, ["true"]),
        "bare subprocess": lambda: bare(["true"]),
        "bubblewrap alone, isolating as much": lambda: bare([*alone(), "true"]),
    }
    if docker:
        sides["docker run --rm --network none"] = lambda: bare([*docker, "true"])
    else:
        print("docker: no engine or no such image")
    if importlib.util.find_spec("sandlock"):
        sides["sandlock"] = lambda: asyncio.to_thread(sandlock)
    else:
        print("sandlock: not installed (pip install sandlock)")
    ours, *theirs = (took := await in_turns(sides, rounds))
    for name in theirs:
        if "docker" in name:
            row(f"`true`: {name}", took[ours], took[name], took[name] / took[ours], "≥ 20 as root, ≥ 10 rootless")
        elif "sandlock" in name:
            row(f"`true`: {name}", took[ours], took[name], took[ours] / took[name], "≤ 2")
        elif "alone" in name:
            row(f"`true`: {name}", took[ours], took[name], took[ours] / took[name], "what is not ours to mend")
        else:
            over = (took[ours] - took[name]) * 1000
            row(f"`true`: {name}", took[ours], took[name], took[ours] / took[name], f"{over:.1f} ms over it, aim ≤ 5")


async def many_executions(sandbox: Sandbox, base: State, count: int = 300) -> None:
    began = time.perf_counter()
    await asyncio.gather(*(sandbox.execute(base, ["true"]) for _ in range(count)))
    print(f"{'executions a second':45} {count / (time.perf_counter() - began):8.0f}   (≥ 150)")
    began, cores = time.perf_counter(), asyncio.Semaphore(os.cpu_count() or 1)

    async def one() -> None:
        async with cores:
            await bare([*alone(), "true"])

    await asyncio.gather(*(one() for _ in range(count)))
    print(f"{'  bubblewrap alone, isolating as much':45} {count / (time.perf_counter() - began):8.0f}")


@cache
def alone() -> tuple[str, ...]:
    """bubblewrap with our arguments on an empty root that shows /usr: nothing made before, no states, filter or limits."""
    root, shown = tempfile.mkdtemp(prefix="runoff-bench-"), skeleton.mounts([])
    atexit.register(shutil.rmtree, root)
    Path(root).chmod(0o755)
    skeleton.write(skeleton.plan(shown, os.getuid()), root, os.getuid())
    bwrap = shutil.which("bwrap")
    assert bwrap
    isolated = defences.command(
        (bwrap, None),
        (),
        root=root,
        devices=None,
        read_only={path: path for path in shown},
        beside={},
        masks=defences.masks(lambda path: Path(path).exists()),
        shared_memory=256 << 20,
        user=SANDBOX_UID,
        environment={"PATH": os.defpath},
        handles={},
        cwd="/",
    )
    return tuple(isolated)


async def chains(sandbox: Sandbox, base: State) -> None:
    """The thirtieth execution of a chain, which wrote a small file each time and a large one now and then, by the first."""
    for name, argv in (("sh", ["sh", "-c", "echo $$ > f$$"]), ("python3 imports", IMPORTS)):
        first, last = list[float](), list[float]()
        for n in range(7):
            state, took = base, list[float]()
            for step in range(30):
                write = ["sh", "-c", f"head -c {2_000_000 if step % 6 == 5 else 100} /dev/urandom > g{step}"]
                done = await sandbox.execute(state, write)
                began = time.perf_counter()
                done = await sandbox.execute(done.after or state, argv)
                took.append(time.perf_counter() - began)
                state = done.after or state
            if n:  # the first chain warms the caches
                first += took[:2]
                last += took[-2:]
        row(f"30th against 1st of a chain: {name}", median(last), median(first), median(last) / median(first), "≤ 1.3")


async def vote_cells(sandbox: Sandbox, base: State, rounds: int) -> None:
    start = await sandbox.execute(base, ["sh", "-c", "git init -q . && echo broken > f"])
    assert start.after
    repository, fixed = start.after, Path(tempfile.mkdtemp(prefix="runoff-bench-"))
    (fixed / "f").write_text("fixed\n")

    async def cell() -> None:
        done = await sandbox.execute((await sandbox.apply(repository, PATCH)).state, SCRIPT, freeze=False)
        assert done.exit_code == 0, done

    async def floor() -> None:
        await bare([*alone(), "true"])
        await bare([*alone(), "sleep", "0.1"])

    patched = (await sandbox.apply(repository, PATCH)).state

    async def later() -> None:
        await sandbox.execute(patched, SCRIPT, freeze=False)

    sides: dict[str, Side] = {"cell": cell, "later": later, "script": lambda: bare(SCRIPT, fixed), "floor": floor}
    took = await in_turns(sides, rounds)
    shutil.rmtree(fixed)
    row(
        "vote cell (apply, 0.1 s script, verdict)", took["cell"], took["script"], took["cell"] / took["script"], "≤ 1.2"
    )
    row(
        "  of a patch that is applied",
        took["later"],
        took["script"],
        took["later"] / took["script"],
        "all but the first",
    )
    row("  bubblewrap alone, twice", took["floor"], took["script"], took["floor"] / took["script"], "of it")


async def kept_states(sandbox: Sandbox, base: State, directory: Path, count: int = 1000) -> None:
    def present() -> tuple[int, int]:
        """Processes that this one started, and theirs; and the most mounts that one of them sees."""
        ours, parents = {os.getpid()}, dict[int, int]()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        while more := {child for child, parent in parents.items() if parent in ours} - ours:
            ours |= more
        seen = [Path(f"/proc/{process}/mountinfo").read_text().count("\n") for process in ours]
        return len(ours), max(seen)

    before, size = present(), used(directory)
    states = [await sandbox.write(base, {"/testbed/f": b"%4096d" % n}) for n in range(count)]
    for n, state in enumerate(states[:: count // 20]):
        sandbox.keep(f"kept {n}", state)
    after = present()
    print(
        f"{f'{count} states of 4 KiB kept':45} {after[0] - before[0]:+d} processes, "
        f"{after[1] - before[1]:+d} mounts, {(used(directory) - size) / count / 1024:.1f} KiB of disk each"
    )


async def diffs(sandbox: Sandbox, base: State) -> None:
    start = (await sandbox.execute(base, ["python3", "-c", TREE], Limits(seconds=300))).after
    assert start
    changed = await sandbox.write(start, {"/testbed/p1/q1/m1.py": b"value = 0\n"})
    walk = ["sh", "-c", "git status --porcelain && git diff HEAD"]

    async def by_git() -> None:
        done = await sandbox.execute(changed, walk, freeze=False)
        assert b"m1.py" in done.stdout, done

    async def ours() -> None:
        assert b"m1.py" in (await sandbox.diff(changed, start)).patch

    async def floor() -> None:
        await sandbox.execute(changed, ["true"], freeze=False)

    took = await in_turns({"ours": ours, "git": by_git, "floor": floor}, 10)
    row("diff in 6,500 files: git status + git diff", took["ours"], took["git"], took["git"] / took["ours"], "≥ 10")
    row("  an execution of `true`", took["floor"], took["git"], took["git"] / took["floor"], "a diff is one execution")


async def shared_base(sandbox: Sandbox, directory: Path, size: int = 32 << 20) -> None:
    """Two images that share a layer of this size: what the second adds to the disk."""
    images, common = directory / "images", os.urandom(size)
    for name in ("one", "two"):
        write_image(images / name, [{"large": common}, {"name": name.encode()}])
    start = used(directory)
    await sandbox.base(Image(reference=f"oci:{images / 'one'}"))
    first = used(directory)
    await sandbox.base(Image(reference=f"oci:{images / 'two'}"))
    print(
        f"{'two images that share a layer of 32 MiB':45} the first takes {(first - start) / 2**20:.1f} MiB of disk, "
        f"the second {(used(directory) - first) / 2**20:.1f} MiB"
    )


def write_image(at: Path, layers: list[dict[str, bytes]]) -> None:
    """An OCI layout of plain layers: name → contents."""
    (at / "blobs" / "sha256").mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (at / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    described = []
    for files in layers:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        described.append(blob(packed.getvalue(), "layer.v1.tar"))
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    unpacked = {"type": "layers", "diff_ids": [each["digest"] for each in described]}
    config = blob(json.dumps({"architecture": machine, "os": "linux", "rootfs": unpacked}).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "config": config, "layers": described}
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (at / "index.json").write_text(json.dumps(index))
    (at / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


async def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, float]:
    """Seconds, the median of each side; the sides take turns, so that a noisy minute is everyone's."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(rounds + 2):
        for name, side in sides.items():
            began = time.perf_counter()
            await side()
            if n >= 2:
                took[name].append(time.perf_counter() - began)
    return {name: median(each) for name, each in took.items()}


async def bare(argv: list[str], cwd: Path | None = None) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, cwd=cwd)
    await process.communicate()
    assert process.returncode == 0, argv


def sandlock() -> None:
    from sandlock import Sandbox as Sandlock  # type: ignore[import-not-found,unused-ignore]

    held: dict[str, Any] = {"fs_readable": ["/usr", "/lib", "/lib64", "/bin", "/etc"], "fs_writable": ["/tmp"]}
    result = Sandlock(**held).run(["/bin/true"])
    assert result.exit_code == 0, result


def docker_run(image: str) -> list[str] | None:
    found = subprocess.run(["sh", "-c", f"docker image inspect {image}"], capture_output=True, check=False)
    return ["docker", "run", "--rm", "--network", "none", image] if found.returncode == 0 else None


def used(directory: Path) -> int:
    """Bytes on the disk."""
    said = subprocess.run(["du", "-s", "--block-size=1", directory], capture_output=True, text=True, check=False).stdout
    return int(said.split()[0])


def row(what: str, ours: float, theirs: float, ratio: float, wanted: str) -> None:
    print(f"{what:45} {ours * 1000:8.1f} ms  {theirs * 1000:8.1f} ms  ratio {ratio:6.2f}   ({wanted})", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
