"""A batch on a Ray cluster: the process that the kill tests kill, and what its workers answer and execute with.

Its arguments: a folder in which `batched` recorded, and JSON {"address", "out", "life", "at_once", "pause", "names",
"trajectories", "losses", "budget", "setup"}; without an address it is run by this process alone. Answers come after `pause`
seconds. Executions are played as they were recorded; with a `setup` they are real, each worker's states its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from runoff.agent.budget import Budget, Prices, parse_budget
from runoff.agent.protocol import Call, Reply
from runoff.executors.cluster import cluster
from runoff.executors.head import Spread
from runoff.instance import local_instance
from runoff.models import roles
from runoff.recipe import load_recipe
from runoff.report import report
from runoff.run import BadRun, Run, RunDirectory, write_views
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.environments import builder
from runoff.sandbox.environments.dependencies import Plan
from tests.runoff.batched import ISSUE, NAMES, AtOnce, Played


class Answering(AtOnce):
    def __init__(self, notes: Path, life: int, pause: float) -> None:
        super().__init__(notes, life)
        self._pause = pause

    async def ask(self, call: Call) -> Reply:
        reply = await super().ask(call)
        await asyncio.sleep(self._pause)
        return reply

    def share(self, among: int) -> None:
        pass

    def price_of(self, name: str) -> Prices | None:
        return None


class Means(NamedTuple):
    """See `protocol.Means`. Notes in `pids` who has opened it."""

    folder: Path
    notes: Path
    life: int
    pause: float
    apart: bool
    """Whether a real sandbox executes, with states of each worker's own."""

    @asynccontextmanager
    async def open(self, budget: Budget, stop: Any) -> AsyncIterator[tuple[Answering, Any]]:
        builder.plan = lambda files, node=None: Plan()
        with (self.folder / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
        if self.apart:
            async with Bubblewrap(self.folder / "apart" / str(os.getpid()), "root") as sandbox:
                yield Answering(self.notes, self.life, self.pause), sandbox
            return
        given, kept = pickle.loads((self.folder / "executions").read_bytes())
        began = time.process_time()
        yield Answering(self.notes, self.life, self.pause), Played(given, kept)
        with (self.notes.with_suffix(".used")).open("a") as used:
            used.write(f"{time.process_time() - began}\n")


async def batch(folder: Path, wanted: dict[str, Any]) -> None:
    made, _ = local_instance(folder / "source", ISSUE, test="python -m unittest -q")
    instances = [
        made.model_copy(update={"id": name, "setup": wanted.get("setup")}) for name in wanted.get("names", NAMES)
    ]
    recipe, out = load_recipe("hybrid", [f"trajectories={wanted.get('trajectories', 4)}"]), Path(wanted["out"])
    means = Means(folder, folder / f"{out.name}.asked", wanted["life"], wanted.get("pause", 0), "setup" in wanted)
    budget = parse_budget(wanted["budget"]) if wanted.get("budget") else Budget()
    model = Answering(means.notes, means.life, 0)
    about = (RunDirectory(out), instances, recipe, roles(["m"]))
    many = wanted.get("at_once", 2)
    async with AsyncExitStack() as stack:
        run: Run
        losses = {"losses": wanted["losses"]} if "losses" in wanted else {}
        if wanted.get("address"):
            fleet = await stack.enter_async_context(cluster(wanted["address"], folder / "leased"))
            run = Spread(*about, means, fleet, budget, model, at_once=many, **losses)
        else:
            run = Run(*about, *await stack.enter_async_context(means.open(budget, None)), budget, at_once=many)
        run.say = lambda text: print(text, file=sys.stderr, flush=True)
        print("begun", flush=True)
        used, first = time.process_time(), list[float]()
        run.changed = lambda: first or first.append(time.monotonic())  # workers take their time to begin
        try:
            results = await run.solve()
        finally:
            await run.close()
        took = {"seconds": time.monotonic() - first[0], "processor": time.process_time() - used}
        about = {"spent": budget.spent(), "billed": run.ledger().possibly_billed}
        damaged = {result.instance: result.damaged for result in results}
        print(json.dumps(took | about | {"damaged": damaged}), flush=True)
    write_views(run.directory, results, report(run, results, seconds=0))


if __name__ == "__main__":
    try:
        asyncio.run(batch(Path(sys.argv[1]), json.loads(sys.argv[2])))
    except BadRun as error:
        sys.exit(str(error))
