"""Elections with a model among four agents' patches of each of a dozen contested SWE-bench rows; labels are read when all is decided.

    contested --repositories DIR --api-base http://127.0.0.1:8401/v1 --part 1/3 --out DIR --states DIR
    contested --out DIR                                     what those that ended came to

Rows of RUNOFF_SHARED (default ../shared) that can be executed and of which some agents' patches are right and some wrong, in an
order drawn by a seed before anything is looked at; of each, four agents drawn by the same rule, again until they are
contested among themselves. The settings are those of `pools`. A demonstration that selection with a model works on patches
that agents really made: a dozen says little of any rate.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from pools import PATIENCE, elected

from runoff.agent.client import LiteLLM
from runoff.batch.sources import Where, instance
from runoff.datasets.load import problems
from runoff.pipeline import Entrants
from runoff.run import BadRun
from runoff.sandbox.backends import open_backend
from runoff.selection.protocol import Candidate

DATA = Path(os.environ.get("RUNOFF_SHARED", "../shared")) / "data"
MEMBERS = 4


def pools(count: int, seed: int, repositories: Path) -> dict[str, list[dict[str, Any]]]:
    """The drawn instances in their order, and the drawn rows of each; among equal patches of one agent the first."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _lines(DATA / "patches.jsonl.gz"):
        if row["patch"].strip() and _label(row) is not None:
            rows.setdefault(row["instance_id"], {}).setdefault(row["agent"], row)
    able = {row["instance_id"] for row in _lines(DATA / "instances.jsonl.gz") if row.get("environment")}
    here = {name for name in able if (repositories / name.rpartition("-")[0].replace("__", "+")).is_dir()}
    contested = sorted(name for name in here & rows.keys() if len({_label(row) for row in rows[name].values()}) == 2)
    random.Random(seed).shuffle(contested)
    drawn = {}
    for name in contested[:count]:
        chance, agents = random.Random(f"{seed} {name}"), sorted(rows[name])
        while True:
            members = [rows[name][agent] for agent in chance.sample(agents, min(MEMBERS, len(agents)))]
            if len({_label(row) for row in members}) == 2:
                break
        drawn[name] = members
    return drawn


async def main(options: argparse.Namespace) -> int:
    drawn = pools(options.count, options.seed, options.repositories)
    if options.api_base:
        part, parts = map(int, options.part.split("/"))
        await played(dict(list(drawn.items())[part - 1 :: parts]), options)
    chosen = {name: json.loads(file.read_text()) for name in drawn if (file := options.out / f"{name}.json").is_file()}
    right = mean = 0.0
    print("| instance | selected | right of the four | answers | by |\n|---|---|---|---|---|")
    for name, said in chosen.items():
        labels = [bool(_label(row)) for row in drawn[name]]
        found = labels[said["chosen"]] if said["chosen"] is not None else None
        right, mean = right + bool(found), mean + sum(labels) / len(labels)
        word = "none" if found is None else "right" if found else "wrong"
        print(f"| {name} | {word} | {sum(labels)} | {said['answers']} | {said['reason']} |")
    n = max(len(chosen), 1)
    print(f"\n{len(chosen)} instances: selected {right / n:.1%}, mean {mean / n:.1%}, oracle 100 %")
    return 0


async def played(drawn: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    known = {one.id: one for one in problems(str(DATA / "instances.jsonl.gz"), ",".join(drawn))}
    where = Where(repositories=options.repositories, cache=options.states.parent / "sources")
    async with open_backend("auto", options.states) as sandbox:
        for name, rows in drawn.items():
            kept = options.out / f"{name}.json"
            if kept.is_file():
                continue
            made = await instance(known[name], where, sandbox, lambda text: print(text, file=sys.stderr, flush=True))
            candidates = tuple(
                Candidate(id=f"candidate-{n}", patch=row["patch"].encode("utf-8", "surrogateescape"))
                for n, row in enumerate(rows)
            )
            pool = Entrants(candidates=candidates, origins={one.id: one.id for one in candidates})
            model = LiteLLM(api_base=options.api_base, timeout=PATIENCE)
            selection = await elected(made, pool, model, options.out / name, sandbox)
            lines = (options.out / name / "log" / f"{name}.jsonl").read_text().splitlines()
            answers = sum(json.loads(line)["kind"] == "ask" for line in lines if '"t"' in line)
            number = int(selection.chosen.rpartition("-")[2]) if selection.chosen else None
            said = {"chosen": number, "answers": answers, "reason": selection.reason.partition(":")[0]}
            kept.write_text(json.dumps(said) + "\n")
            print(f"{name}: decided", file=sys.stderr, flush=True)


def _label(row: dict[str, Any]) -> bool | None:
    """Where it was run again, what that said."""
    return row["resolved"] if row.get("resolved_here") is None else row["resolved_here"]  # type: ignore[no-any-return]


def _lines(file: Path) -> Any:
    with gzip.open(file, "rt") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=Path, default=Path("nowhere"), metavar="DIR")
    parser.add_argument("--api-base", metavar="URL")
    parser.add_argument("--part", default="1/1", metavar="N/M", help="every M-th, from the N-th on")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/contested"))
    parser.add_argument("--states", type=Path, default=Path.home() / ".cache" / "runoff" / "states")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        sys.exit(asyncio.run(main(given)))
    except BadRun as error:
        sys.exit(f"contested: {error}")
