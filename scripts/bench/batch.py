"""Fifty real instances in one batch: answers scripted and without latency, everything that is executed real. How busy are the sandboxes?

    batch --repositories DIR [--releases 23] [--rows 27] [--seed 1] [--out DIR] [--states DIR] [--at-once 16]

Release pairs, and rows of RUNOFF_SHARED (default ../shared) that have an environment, drawn by a seed. Each trajectory writes a
test that says nothing and hands in a patch: for a pair its right or wrong ones, for a row other agents' patches; then the
repository's own tests run on each. Sources and environments are made beforehand (`--prefetch`), as for any batch.
It prints the share of time in which the sandboxes' slots were busy while work remained, what of the processor our own
code took, and the most memory that all processes had together.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runoff.agent.budget import Budget
from runoff.agent.doubles import Scripted
from runoff.agent.protocol import Call
from runoff.batch.sources import Where, instance
from runoff.datasets.load import problems
from runoff.datasets.protocol import Problem
from runoff.models import roles
from runoff.recipe import load_recipe
from runoff.releases import pairs
from runoff.report import report
from runoff.run import Run, RunDirectory, write_views
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Execution

SHARED = Path(os.environ.get("RUNOFF_SHARED", "../shared"))
TEST = "<test>\nimport sys\nprint('nothing was looked at')\nsys.exit(2)\n</test>"
_SETTINGS = (
    "name=batch",
    "trajectories=3",
    "context.relevance=false",
    "context.tokens=20000",
    "editing.diffs=true",
    "selection.verifier.verdicts=0",
    "selection.runoff.turns=1",
    "selection.regression.seconds=60",
)
EACH = 300 << 20
"""Bytes that a running sandbox may have beside the first GiB."""


class Busy(Bubblewrap):
    """Counts how many of its slots are in use, over time."""

    running = 0
    taken = 0.0
    """Slot-seconds."""
    since = 0.0

    async def execute(self, *what: Any, **how: Any) -> Execution:
        self.tick(+1)
        try:
            return await super().execute(*what, **how)
        finally:
            self.tick(-1)

    def tick(self, step: int) -> None:
        now = time.monotonic()
        if self.since:
            self.taken += min(self.running, SLOTS) * (now - self.since)
        self.since, self.running = now, self.running + step


SLOTS = os.cpu_count() or 1


def patches(problem: Problem, others: Mapping[str, list[str]]) -> list[str]:
    if problem.release:
        return [file.read_text() for file in sorted(pairs.answer(problem.release).glob("*.diff"))]
    return others[problem.id]


def answered(patch: str) -> str:
    """A git diff of changed and new files in the grammar of answers."""
    blocks = []
    for part in re.split(r"(?m)^diff --git .*\n", patch)[1:] or [patch]:
        head, _, hunks = part.partition("\n@@ ")
        found = re.search(r"(?m)^\+\+\+ b/(.*)$", head)
        if found and "--- /dev/null" in head:
            lines = [line[1:] for line in hunks.split("\n")[1:] if line.startswith("+")]
            blocks.append(f'<file path="{found[1]}">\n' + "\n".join(lines) + "\n</file>")
        elif found:
            blocks.append(f'<patch path="{found[1]}">\n@@ {hunks.rstrip(chr(10))}\n</patch>')
    return "\n".join(blocks) or "<done/>"


def scripted(texts: Mapping[str, list[str]]) -> Scripted:
    def said(call: Call) -> str:
        kind, _, number = call.trajectory.partition("-")
        last = call.request.conversation.text
        if kind == "testing":
            return TEST if "turn1/" in call.path else "<done/>"
        if kind == "editing" and "turn1/" in call.path:
            return answered(texts[call.instance][(int(number) - 1) % len(texts[call.instance])])
        return "<done/>" if kind == "editing" else f"I cannot choose. {len(last)}"

    return Scripted(said)


async def main(options: argparse.Namespace) -> int:
    chance, places = random.Random(options.seed), options.states
    every = problems("releases")
    wanted = sorted(chance.sample(every, min(options.releases, len(every))), key=lambda it: it.id)
    file = SHARED / "data" / "instances.jsonl.gz"
    if options.rows:
        rows = [
            one
            for one in problems(str(file))
            if one.built and (options.repositories / one.repo.replace("/", "+")).is_dir()
        ]
        wanted += sorted(chance.sample(rows, min(options.rows, len(rows))), key=lambda it: it.id)
    others = defaultdict[str, list[str]](list)
    if options.rows:
        names = {one.id for one in wanted}
        with gzip.open(SHARED / "data" / "patches.jsonl.gz", "rt") as lines:
            for row in map(json.loads, lines):
                if row["instance_id"] in names and row["patch"].strip():
                    others[row["instance_id"]].append(row["patch"])
    where = Where(repositories=options.repositories, cache=places.parent / "sources")
    texts = {one.id: patches(one, others) for one in wanted}
    async with Busy(places, slots=SLOTS) as sandbox:
        made = [await instance(one, where, sandbox, print) for one in wanted]
        recipe = load_recipe("hybrid", _SETTINGS)
        run = Run(
            RunDirectory(options.out),
            made,
            recipe,
            roles(["scripted"]),
            scripted(texts),
            sandbox,
            Budget(),
            index=places.parent / "index.sqlite",
            at_once=options.at_once,
        )
        memory = asyncio.create_task(_memory())
        began, own = time.monotonic(), _own()
        sandbox.taken, sandbox.since = 0.0, 0.0
        try:
            results = await run.solve()
            sandbox.tick(0)
            took, ours = time.monotonic() - began, _own() - own - _WATCHED[0]
        finally:
            await run.close()
            memory.cancel()
        inside = sandbox.cpu_seconds
        write_views(run.directory, results, report(run, results, seconds=took))
    ended = defaultdict[str, int](int)
    for result in results:
        ended[result.status] += 1
        if result.status == "failed":
            print(f"{result.instance}: {result.why}")
    share, most = sandbox.taken / (SLOTS * took), max(_SEEN)
    print(
        f"{len(made)} instances ({dict(ended)}), {options.at_once} at once, {SLOTS} slots, {took:.0f} s\n"
        f"slots busy while work remained: {share:.1%} (aim ≥ 85 %)\n"
        f"processor: ours {ours:.1f} s, in sandboxes {inside:.1f} s: {ours / (ours + inside):.1%} (aim ≤ 10 %)\n"
        f"memory, all processes together, at most {most >> 20} MiB (aim ≤ {(1 << 30) + SLOTS * EACH >> 20})"
    )
    return 0


_SEEN = [0]
_WATCHED = [0.0]
"""Processor seconds that looking at the memory took: nobody's but this script's."""


async def _memory() -> None:
    """The proportional share of memory of this process and all below it, each second."""
    while True:
        _SEEN.append(await asyncio.to_thread(_taken))
        await asyncio.sleep(1)


def _taken() -> int:
    began = time.thread_time()
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    family, more = {os.getpid()}, True
    while more:
        found = {pid for pid, parent in parents.items() if parent in family} - family
        family |= found
        more = bool(found)
    total = 0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        except (OSError, ValueError):
            continue
    _WATCHED[0] += time.thread_time() - began
    return total


def _own() -> float:
    """Processor seconds of this process and of the programs it has started itself: what they start is in sandboxes."""
    used, ticks = resource.getrusage(resource.RUSAGE_SELF), 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == os.getpid():
            ticks += int(words[11]) + int(words[12])
    return used.ru_utime + used.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=Path, default=Path("nowhere"), metavar="DIR")
    parser.add_argument("--releases", type=int, default=23)
    parser.add_argument("--rows", type=int, default=27)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/batch"))
    parser.add_argument("--states", type=Path, default=Path.home() / ".cache" / "runoff" / "states")
    sys.exit(asyncio.run(main(parser.parse_args())))
