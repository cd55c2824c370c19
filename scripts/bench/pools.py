"""Elections among a right and two wrong patches of each release pair, with models; graded in a process apart.

    pools --pair click-8.0.1 … --api-base http://127.0.0.1:8401/v1 --record DIR
    pools --replay tests/runoff/pools --pair click-8.0.1

It demonstrates that selection with a model works end to end; it is no rate of anything. The model is whoever answers at
--api-base; it is waited for however long it takes, and the same command goes on where it was stopped. A test writer, a
verdict on each candidate, tests asked for where the leaders are level, a run-off; context by the index alone. Candidates come in an
order drawn by a seed, under names that say nothing. Answers are kept in DIR/PAIR/answers.jsonl, what they came to in
DIR/PAIR/result.json; --replay plays them again. Without either no model is asked: what the pool and the tests offer decides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kinds import PATIENCE, Target, graded, pair_target

from runoff.agent.budget import Budget
from runoff.agent.client import LiteLLM
from runoff.agent.doubles import Recorded, Recording, Scripted
from runoff.agent.protocol import Model
from runoff.instance import Instance
from runoff.pipeline import Entrants
from runoff.recipe import Recipe, load_recipe
from runoff.releases.pairs import answer, pairs
from runoff.run import BadRun, Run, RunDirectory
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import Sandbox
from runoff.selection.protocol import Candidate, Selection

_SETTINGS = (
    "name=pools",
    "trajectories=1",
    "context.relevance=false",
    "context.tokens=20000",
    "selection.further={}",
    "selection.regression.seconds=120",
    "selection.runoff.turns=4",
)
_ROLES = ("relevance", "ranker", "tester", "editor", "verifier", "selector")


class Row(NamedTuple):
    pair: str
    result: str
    """right, wrong or none."""
    candidates: int
    """Of three, those that could be used and differ."""
    calls: int
    reason: str
    stale: int
    """Recorded answers of which the prompt is another today."""


def recipe() -> Recipe:
    return load_recipe("hybrid", _SETTINGS)


def entrants(pair: str) -> Entrants:
    files = sorted(answer(pair).glob("*.diff"))
    random.Random(f"pools {pair}").shuffle(files)
    names = {f"candidate-{n}": file for n, file in enumerate(files, 1)}
    candidates = tuple(Candidate(id=name, patch=file.read_bytes()) for name, file in names.items())
    return Entrants(candidates=candidates, origins={name: name for name in names})


async def elected(instance: Instance, pool: Entrants, model: Model | None, out: Path, sandbox: Sandbox) -> Selection:
    names = dict.fromkeys(_ROLES, "openai/by-hand") if model else {}
    run = Run(
        RunDirectory(out),
        [instance],
        recipe(),
        names,
        model or Scripted([]),
        sandbox,
        Budget(),
        entrants={instance.id: pool},
    )
    try:
        (result,) = await run.solve()
    finally:
        await run.close()
    if result.outcome is None:
        sys.exit(f"{instance.id}: {result.status}: {result.why}; the same command goes on")
    return result.outcome.selection


async def row(target: Target, options: argparse.Namespace, sandbox: Sandbox) -> Row:
    kept = (options.replay or options.record or options.out) / target.id
    recorded = Recorded(kept) if options.replay else None
    model: Model | None = recorded
    if options.api_base:
        client = LiteLLM(api_base=options.api_base, timeout=PATIENCE)
        model = Recording(client, kept)
    selection = await elected(target.instance, entrants(target.id), model, options.out / target.id, sandbox)
    patch = selection.entry(selection.chosen).candidate.patch if selection.chosen else b""
    result = "none" if not patch else "right" if graded(target, patch, options.states) else "wrong"
    lines = RunDirectory(options.out / target.id).log(target.id).read_text().splitlines()
    calls = sum(json.loads(line)["kind"] == "ask" for line in lines if '"t"' in line)
    reason = selection.reason.partition(":")[0]
    return Row(target.id, result, len(selection.entries), calls, reason, len(recorded.stale) if recorded else 0)


async def main(options: argparse.Namespace) -> int:
    rows = []
    async with open_backend("auto", options.states) as sandbox:
        for name in options.pair or [one.id for one in pairs()]:
            target = await pair_target(sandbox, name, options.states)
            rows.append(await row(target, options, sandbox))
            print(table(rows[-1:]), file=sys.stderr, flush=True)
            if options.record:
                kept = options.record / name / "result.json"
                kept.write_text(json.dumps({"result": rows[-1].result}) + "\n")
    print(table(rows))
    return 0


def table(rows: Sequence[Row]) -> str:
    lines = ["| pair | selected | candidates | answers | by |", "|---|---|---|---|---|"]
    for row in rows:
        note = f" ({row.stale} of its prompts are others today)" if row.stale else ""
        lines.append(f"| {row.pair} | {row.result}{note} | {row.candidates} | {row.calls} | {row.reason} |")
    right = sum(row.result == "right" for row in rows)
    return "\n".join([*lines, *([f"\n{right} of {len(rows)} right; by chance one in three"] if len(rows) > 1 else [])])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pools", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", nargs="*", action="extend", default=[], metavar="ID", help="all of them")
    parser.add_argument("--api-base", metavar="URL")
    parser.add_argument("--record", type=Path, metavar="DIR")
    parser.add_argument("--replay", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/pools"))
    parser.add_argument("--states", type=Path, default=Path.home() / ".cache" / "runoff" / "states")
    options = parser.parse_args()
    if bool(options.api_base) != bool(options.record) or (options.replay and options.record):
        parser.error("give --api-base and --record, or --replay, or none")
    for name in ("replay", "record", "out", "states"):
        if value := getattr(options, name):
            setattr(options, name, value.resolve())
    return options


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(_options())))
    except BadRun as error:
        sys.exit(f"pools: {error}")
