"""One trajectory of a kind (pair, shell, tools) on release pairs and on SWE-bench instances, each graded in a process apart.

    kinds --kind shell --pair semver-7.3.4 --instance psf__requests-1142 --api-base http://127.0.0.1:8402/v1 --record DIR
    kinds --replay tests/runoff/answers --kind shell --pair semver-7.3.4

It demonstrates that the kinds work end to end; it is no resolve rate. The model is whoever answers at --api-base; it is waited
for however long it takes, and the same command goes on where it was stopped. The context is found by the index alone, no
model verifies, and one candidate needs no run-off, so every model call is the trajectory's. The answers are kept in
DIR/KIND/TARGET.jsonl and what they came to in DIR/KIND/results.json; --replay plays them again without a model.

Release pairs are those of runoff.releases. Instances are rows of --instances whose repositories lie in
--repositories (DIR/owner+name/repo, git directories); only the grading process is told where --answers lie, and the test files of
the row are written over the candidate's there. Which rows: `chosen` draws one of each repository among those that
can be executed, by a seed, from nothing but the ids.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runoff.agent.budget import Budget
from runoff.agent.client import LiteLLM
from runoff.agent.doubles import Recorded, Recording
from runoff.agent.protocol import Model
from runoff.instance import Instance, local_instance
from runoff.pipeline import Outcome
from runoff.recipe import Recipe, load_recipe
from runoff.releases import pairs as releases
from runoff.run import Run, RunDirectory
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import Sandbox

HERE = Path(__file__).resolve().parents[2]
KINDS = ("pair", "shell", "tools")
PATIENCE = 30 * 86400.0
"""Seconds that an answer is waited for."""
_SETTINGS = (
    "name=kinds",
    "trajectories=1",
    "context.relevance=false",
    "context.tokens=20000",
    "selection.regression.files=0",
    "selection.verifier.verdicts=0",
)
_ROLES = ("relevance", "ranker", "tester", "editor", "verifier", "selector")


class Target(NamedTuple):
    """An issue, and how what solves it is graded."""

    id: str
    instance: Instance
    command: list[str]
    """The grading process; it is given JSON, and answers `{"patch": whether it is fixed}`."""
    request: dict[str, Any]


class Row(NamedTuple):
    """What a trajectory came to."""

    kind: str
    target: str
    result: str
    """fixed, not fixed, no patch, or why it did not end."""
    turns: int
    """Answers of the model."""
    calls: int
    """Executions in a sandbox: commands, calls of tools that look or change, runs of tests."""
    stale: int
    """Recorded answers of which the prompt is another today."""


def recipe(kind: str) -> Recipe:
    return load_recipe("hybrid", [*_SETTINGS, f'strategies=["{kind}"]'])


def chosen(rows: Sequence[dict[str, Any]], repositories: Sequence[str], seed: int = 12) -> list[str]:
    """Of each repository one instance that has an environment, drawn by the seed from the sorted ids."""
    wanted = []
    for repository in repositories:
        ids = sorted(row["instance_id"] for row in rows if row["repo"] == repository and row.get("environment"))
        wanted.append(random.Random(f"{seed} {repository}").choice(ids))
    return wanted


async def pair_target(sandbox: Sandbox, name: str, states: Path) -> Target:
    known = {one.id: one for one in releases.pairs()}
    if name not in known:
        sys.exit(f"kinds: no release pair {name}; there are {', '.join(known)}")
    instance = await releases.instance(sandbox, known[name], states.parent / "sources", _say)
    request = {"pair": name, "source": instance.source}
    return Target(name, instance, [sys.executable, "-m", "runoff.demo.grade"], request)


def instance_target(row: dict[str, Any], options: argparse.Namespace) -> Target:
    name, environment = row["instance_id"], row["environment"]
    tree = options.states.parent / "sources" / name
    if not tree.is_dir():
        mirror = options.repositories / row["repo"].replace("/", "+") / "repo"
        subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", mirror, tree], check=True)
    packages = [f"uv pip install {shlex.join(environment['pip_packages'])}"] if environment["pip_packages"] else []
    setup = "\n".join([*packages, *filter(None, [environment["install"]])])
    made, _ = local_instance(
        tree,
        row["problem_statement"],
        ref=row["base_commit"],
        setup=setup,
        test=None if "pytest" in setup else "",  # the row does not say how its tests are run
        python=environment["python"],
    )
    made = made.model_copy(update={"id": name})
    command = [sys.executable, str(HERE / "scripts" / "bench" / "kinds_grade.py")]
    return Target(name, made, command, {"instance": made.model_dump(mode="json"), "answers": str(options.answers)})


async def play(target: Target, kind: str, model: Model, out: Path, sandbox: Sandbox) -> tuple[str, Outcome | None]:
    """The trajectory, and all that is around it in a run. A directory that holds a part of it is gone on with."""
    names = dict.fromkeys(_ROLES, "openai/by-hand")
    run = Run(RunDirectory(out), [target.instance], recipe(kind), names, model, sandbox, Budget())
    try:
        (result,) = await run.solve()
    finally:
        await run.close()
    return f"{result.status}: {result.why}", result.outcome


def graded(target: Target, patch: bytes, states: Path) -> bool:
    request = target.request | {"states": str(states), "sandbox": "auto"}
    request["patches"] = {"patch": patch.decode("utf-8", "surrogateescape")}
    done = subprocess.run(target.command, input=json.dumps(request), capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        sys.exit(f"kinds: grading {target.id} failed: {done.stderr.strip()[-500:]}")
    return bool(json.loads(done.stdout)["patch"])


async def row(kind: str, target: Target, options: argparse.Namespace, sandbox: Sandbox, out: Path) -> Row:
    recorded = Recorded(options.replay / kind) if options.replay else None
    model: Model = recorded or Recording(
        LiteLLM(api_base=options.api_base, timeout=PATIENCE, native_tools=True), options.record / kind
    )
    ended, outcome = await play(target, kind, model, out, sandbox)
    patch = (outcome.patch if outcome else None) or b""
    result = (
        "fixed" if patch and graded(target, patch, options.states) else "not fixed" if patch else f"no patch ({ended})"
    )
    lines = RunDirectory(out).log(target.id).read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines if '"t"' in line]
    stale = len(recorded.stale) if recorded else 0
    return Row(kind, target.id, result, kinds.count("ask"), kinds.count("execute"), stale)


async def main(options: argparse.Namespace) -> int:
    rows = []
    async with open_backend("auto", options.states) as sandbox:
        targets = [await pair_target(sandbox, name, options.states) for name in options.pair]
        if options.instance:
            known = {one["instance_id"]: one for one in _read(options.instances)}
            targets += [instance_target(known[name], options) for name in options.instance]
        for kind in options.kind:
            for target in targets:
                out = options.out / kind / target.id
                rows.append(await row(kind, target, options, sandbox, out))
                _say(table(rows[-1:]))
                if options.record:
                    keep(options.record, rows[-1])
    print(table(rows))
    return 0 if all(row.result == "fixed" for row in rows) else 1


def table(rows: Sequence[Row]) -> str:
    lines = ["| kind | target | graded | turns | calls |", "|---|---|---|---|---|"]
    for row in rows:
        note = f" ({row.stale} of its prompts are others today)" if row.stale else ""
        lines.append(f"| {row.kind} | {row.target} | {row.result}{note} | {row.turns} | {row.calls} |")
    return "\n".join(lines)


def keep(folder: Path, row: Row) -> None:
    file = folder / row.kind / "results.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[row.target] = row.result.partition(" (")[0]
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def _read(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kinds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--pair", nargs="*", action="extend", default=[], metavar="ID")
    parser.add_argument("--instance", nargs="*", default=[], metavar="ID")
    parser.add_argument("--chosen", nargs="*", default=[], metavar="OWNER/NAME", help="instances by `chosen`")
    parser.add_argument("--api-base", metavar="URL")
    parser.add_argument("--record", type=Path, metavar="DIR")
    parser.add_argument("--replay", type=Path, metavar="DIR")
    parser.add_argument("--instances", type=Path, metavar="FILE", help="instances.jsonl.gz")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="answers.jsonl.gz, for grading")
    parser.add_argument("--repositories", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/kinds"))
    parser.add_argument("--states", type=Path, default=Path.home() / ".cache" / "runoff" / "states")
    options = parser.parse_args(arguments)
    if bool(options.replay) == bool(options.api_base and options.record):
        parser.error("give --api-base and --record, or --replay")
    if (options.instance or options.chosen) and not (options.instances and options.answers and options.repositories):
        parser.error("instances need --instances, --answers and --repositories")
    if options.chosen:
        options.instance += chosen(_read(options.instances), options.chosen)
    for name in ("replay", "record", "out", "states", "answers", "repositories"):
        if value := getattr(options, name):
            setattr(options, name, value.resolve())
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_options())))
