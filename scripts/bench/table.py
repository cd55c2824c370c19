"""An outcome table of 20 candidates and 20 tests of a real instance: ours, a new container a cell, and the tests' own time.

    table --repositories DIR [--instance ID] [--slots N]

Patches and the instance are rows of RUNOFF_SHARED (default ../shared); its repository lies in DIR/owner+name/repo. The tests are
functions of one of its own test files, as scripts of the kind that models write; each fails where nothing has been changed, so
that it votes. Both sides have the same root file system, the same scripts and as many cells at once; a container's cell
is what CodeMonkeys does: a new container, the patch applied in it, the script run. The tests' own time is that of the same
scripts one after another in one execution a candidate.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from runoff.agent.doubles import Scripted
from runoff.agent.environment import Environment, applied
from runoff.agent.log import Log
from runoff.agent.patches import file_parts, patched_paths
from runoff.agent.step import World
from runoff.agent.testing import GeneratedTest
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Image, Limits, Refused, State
from runoff.selection.cleaning import clean
from runoff.selection.protocol import Candidate, Entry
from runoff.selection.repository_tests import RegressionRecipe
from runoff.selection.table import fill

SHARED = Path(os.environ.get("RUNOFF_SHARED", "../shared"))
SIZE = 20
IMAGE = "runoff-table:latest"
SCRIPT = """\
import hashlib, pathlib, sys
sys.path[:0] = ["/testbed", "/testbed/tests"]
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", {app!r}])
import django, unittest
django.setup()
result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromName({test!r}))
digests = {digests!r}
changed = any(hashlib.sha1(pathlib.Path("/testbed", p).read_bytes()).hexdigest() != d for p, d in digests.items())
print("ran", result.testsRun)
sys.exit(0 if result.wasSuccessful() and changed else 2)
"""
CELL = "cd /testbed && tar -x -C /tmp -f - && git apply --whitespace=nowarn /tmp/patch && python3 /tmp/script"
ALL = "for script in /tmp/scripts/*; do python3 $script >/dev/null 2>&1; echo $?; done"


def image(tree: Path, packages: Path) -> None:
    """The root file system of both sides: Debian's, the repository at its base commit, and the packages it needs."""

    def docker(*argv: str) -> str:
        return subprocess.run(["docker", *argv], check=True, capture_output=True, text=True).stdout.strip()

    author = "-c user.name=t -c user.email=t@localhost"
    commit = f"ln -s python3 /usr/bin/python; cd /testbed && git init -q . && git add -A -f . && git {author} commit -qm tree"
    name = docker("create", "runoff-base:bookworm", "sh", "-c", f"{commit} && python3 -m compileall -q . || true")
    docker("cp", f"{tree}/.", f"{name}:/testbed")
    docker("cp", f"{packages}/.", f"{name}:/usr/lib/python3/dist-packages")
    docker("start", "--attach", name)
    docker("commit", name, IMAGE)
    docker("rm", name)


def main(options: argparse.Namespace) -> None:
    row = next(row for row in _lines("instances.jsonl.gz") if row["instance_id"] == options.instance)
    mirror = options.repositories / row["repo"].replace("/", "+") / "repo"
    with tempfile.TemporaryDirectory(prefix="runoff-table-") as scratch:
        tree, packages = Path(scratch) / "tree", Path(scratch) / "packages"
        tree.mkdir()
        archive = subprocess.run(["git", "-C", mirror, "archive", row["base_commit"]], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", packages, "asgiref", "sqlparse", "tzdata"]
        subprocess.run(pip, check=True)
        image(tree, packages)
        asyncio.run(both(options, tree, Path(scratch)))


async def both(options: argparse.Namespace, tree: Path, scratch: Path) -> None:
    async with Bubblewrap(scratch / "states", slots=options.slots) as sandbox:
        state = await sandbox.base(Image(reference=f"docker-daemon:{IMAGE}"))
        environment = Environment(state=state, pristine=state, test=None)
        world = World(Log(scratch / "log.jsonl"), options.instance, Scripted([]), sandbox)
        patches = [row["patch"] for row in _lines("patches.jsonl.gz") if row["instance_id"] == options.instance]
        entries = await candidates(world, state, patches)
        scripts = tests(tree, options.tests, sorted({p for e in entries for p in patched_paths(e.candidate.patch)}))
        print(f"{options.instance}: {len(entries)} candidates, {len(scripts)} tests, {options.slots} cells at once")
        await measure(world, Log(scratch / "table.jsonl"), environment, entries, scripts, options.slots)
        await world.close()


async def candidates(world: World, state: State, patches: Sequence[str]) -> list[Entry]:
    """The first distinct ones that apply."""
    found: dict[bytes, Entry] = {}
    for text in patches:
        patch, _ = clean(text.encode())
        if patch and patch not in found and len(found) < SIZE:
            try:
                await applied(world, state, patch)
            except Refused:
                continue
            name = f"candidate-{len(found) + 1}"
            lines = sum(part.changed for part in file_parts(patch))
            found[patch] = Entry(
                id=name, candidate=Candidate(id=name, patch=patch), proposers=(name,), changed_lines=lines
            )
    return list(found.values())


def tests(tree: Path, file: str, changed: Sequence[str]) -> dict[str, str]:
    """Functions of the test file, drawn by a seed."""
    digests = {p: hashlib.sha1((tree / p).read_bytes()).hexdigest() for p in changed if (tree / p).is_file()}
    module = file.removeprefix("tests/").removesuffix(".py").replace("/", ".")
    name, found = "", []
    for line in (tree / file).read_text().splitlines():
        if holder := re.match(r"class (\w+)", line):
            name = holder[1]
        elif test := re.match(r"    def (test_\w+)", line):
            found.append(f"{module}.{name}.{test[1]}")
    chosen = random.Random(1).sample(found, min(SIZE, len(found)))
    return {test: SCRIPT.format(test=test, app=test.partition(".")[0], digests=digests) for test in sorted(chosen)}


async def measure(
    world: World,
    log: Log,
    environment: Environment,
    entries: Sequence[Entry],
    scripts: dict[str, str],
    slots: int,
) -> None:
    generated = [GeneratedTest(id=name, script=text, output="") for name, text in scripts.items()]
    own = await _timed(lambda: alone(world, environment.state, entries, scripts))
    world = World(log, world.instance, world.model, world.sandbox)  # nothing is on record: patches are applied again
    start = time.perf_counter()
    table = await fill(world, environment, {}, entries, generated, RegressionRecipe(files=0), 60)
    ours = time.perf_counter() - start
    await world.close()
    start = time.perf_counter()
    verdicts = await containers(entries, scripts, slots)
    theirs = time.perf_counter() - start
    passes = {(entry, test): cell == "pass" for entry, row in table.rows.items() for test, cell in row.items()}
    alike = sum(verdicts[cell] == passed for cell, passed in passes.items())
    print(f"the tests' own time     {own:7.1f} s")
    print(f"a table                 {ours:7.1f} s   {ours / own:5.2f} × the tests' own time (≤ 1.2)")
    print(f"a new container a cell  {theirs:7.1f} s   {theirs / ours:5.2f} × the table (≥ 15)")
    print(f"cells that say the same: {alike} of {len(passes)}; {sum(passes.values())} pass")


async def alone(world: World, base: State, entries: Sequence[Entry], scripts: dict[str, str]) -> None:
    """Every script on every candidate, nothing between them."""
    files = {f"/tmp/scripts/{n:02}": text.encode() for n, text in enumerate(scripts.values())}

    async def one(entry: Entry) -> None:
        state = await world.sandbox.write(await applied(world, base, entry.candidate.patch), files)
        done = await world.sandbox.execute(state, ("sh", "-c", ALL), Limits(seconds=600), freeze=False)
        assert done.exit_code == 0, done.text

    await asyncio.gather(*map(one, entries))


async def containers(entries: Sequence[Entry], scripts: dict[str, str], slots: int) -> dict[tuple[str, str], bool]:
    room, found = asyncio.Semaphore(slots), dict[tuple[str, str], bool]()

    async def cell(entry: Entry, test: str) -> None:
        files = io.BytesIO()
        with tarfile.open(fileobj=files, mode="w") as archive:
            for name, contents in (("patch", entry.candidate.patch), ("script", scripts[test].encode())):
                member = tarfile.TarInfo(name)
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
        async with room:
            argv = ["docker", "run", "--rm", "-i", "--network", "none", IMAGE, "sh", "-ec", CELL]
            pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
            process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=null, stderr=null)
            await process.communicate(files.getvalue())
            found[entry.id, test] = process.returncode == 0

    await asyncio.gather(*(cell(entry, test) for entry in entries for test in scripts))
    return found


async def _timed(what: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await what()
    return time.perf_counter() - start


def _lines(name: str) -> list[dict[str, Any]]:
    with gzip.open(SHARED / "data" / name, "rt") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=Path, required=True, metavar="DIR")
    parser.add_argument("--instance", default="django__django-16595", metavar="ID")
    parser.add_argument("--tests", default="tests/migrations/test_optimizer.py", metavar="FILE")
    parser.add_argument("--slots", type=int, default=2)
    main(parser.parse_args())
