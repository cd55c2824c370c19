"""`runoff demo`: resolves release pairs here and tells what happened, the hidden check last."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import click

from runoff.agent.protocol import ModelMisconfigured
from runoff.agent.step import settled
from runoff.commands import first_line, options_recipe, run_to_end, states
from runoff.instance import Instance
from runoff.models import Answering, roles
from runoff.releases.pairs import Pair, instance, pairs
from runoff.request import Told
from runoff.run import Result, Run, exit_code
from runoff.sandbox.backends import open_backend
from runoff.selection.protocol import Cell
from runoff.visible import shown

ANSWERS = Path(str(files("runoff.demo"))) / "answers"
RECORDED = "The model's answers are recorded: this demonstrates the machine, it is no resolve rate. All else happened here, now."
_SIGNS: Mapping[Cell, str] = {"pass": "✓", "fail": "✗", "could not tell": "?"}


def demo(live: bool, only: Sequence[str], told: dict[str, Any]) -> int:
    """Run it. Returns 0 if every issue ends in a patch that passes its hidden check."""
    options = cast("Told", told)
    wanted = _wanted(only)
    if live and not (options.get("models") and options.get("budget")):
        raise ModelMisconfigured(
            "--live asks a real model", "name it and what it may cost: --model openai/gpt-5 --budget 3", exit_code=2
        )
    if options.get("models") and not live:
        raise ModelMisconfigured("--model has no effect on recorded answers", "add --live", exit_code=2)
    if not live:
        options = options | {"models": (f"recorded:{ANSWERS}",), "recipe": "demo"}
        click.echo(RECORDED)
    place, sandbox = states(options), options.get("sandbox") or "auto"
    began = time.monotonic()
    instances = asyncio.run(_fetch(wanted, place, sandbox))
    out = options.get("out") or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    cpu_before = _cpu()
    used: dict[str, float] = {}

    def watch(run: Run, model: Answering) -> None:
        used["sandboxes"] = getattr(run.sandbox, "cpu_seconds", 0.0)  # an engine's are not this machine's to count
        for recorded in model.recorded.values():
            for asked in recorded.stale:
                click.echo(f"stale: the prompt of {asked} has changed since it was recorded", err=True)

    names = roles(options.get("models", ()))
    _, results = run_to_end(instances, options_recipe(options), names, out, options, watch)
    seconds = time.monotonic() - began
    total, sandboxes = _cpu() - cpu_before, used["sandboxes"]
    _say("the hidden checks, on every candidate, by a process of its own")
    right = [
        _tell(one, result, source, place, sandbox)
        for one, result, source in zip(wanted, results, instances, strict=True)
    ]
    click.echo(f"\n{sum(right)} of {len(right)} chosen patches pass the hidden check, which nothing before could see.")
    if not live:
        click.echo(RECORDED)
    ours = max(0.0, total - sandboxes)
    click.echo(
        f"{seconds:.0f} s; CPU {total:.1f} s: {sandboxes:.1f} s in sandboxes, {ours:.1f} s ({ours / total:.0%}) runoff's own code"
    )
    click.echo(f"report: {out / 'report.html'}")
    return exit_code(results) or (0 if all(right) else 1)


async def _fetch(wanted: Sequence[Pair], place: Path, backend: str) -> list[Instance]:
    async with open_backend(backend, place) as sandbox:
        return await settled(*(instance(sandbox, one, place.parent / "sources", _say) for one in wanted))


def _say(text: str) -> None:
    click.echo(text, err=True)


def _wanted(only: Sequence[str]) -> list[Pair]:
    known = {one.id: one for one in pairs({file.stem for file in ANSWERS.glob("*.jsonl")})}
    if missing := [name for name in only if name not in known]:
        raise click.UsageError(f"no issue {missing[0]}; there are {', '.join(known)}")
    return [known[name] for name in only or known]


def _tell(one: Pair, result: Result, source: Instance, place: Path, sandbox: str) -> bool:
    """What happened to one issue, for people; whether the chosen patch passes the hidden check."""
    title = one.statement.splitlines()[0].lstrip("# ")
    click.echo(f"\n{one.project} {one.version}: {title}")
    outcome = result.outcome
    if outcome is None or outcome.selection.table is None:
        click.echo(f"  {result.status}: {result.why}")
        return False
    selection, table = outcome.selection, outcome.selection.table
    assert table is not None
    graded = _grade(one, source, (place, sandbox), {entry.id: entry.candidate.patch for entry in selection.entries})
    ended = [sample.edit for sample in outcome.samples]
    click.echo(
        f"  {len(ended)} trajectories, {sum(1 for edit in ended if edit.value)} candidates, {len(selection.entries)} distinct patches; "
        f"{len(table.generated)} generated tests vote, {len(table.repository)} tests of the repository watch"
    )
    for standing in selection.standings:
        row = "".join(_SIGNS[table.rows[standing.entry][test]] for test in table.generated)
        score = "  – " if standing.score is None else f"{standing.score:.2f}"
        broken = "?" if standing.broken is None else standing.broken
        mark = "→" if standing.entry == selection.chosen else " "
        own = selection.entry(standing.entry).candidate.own_verdict or "no test"
        verdict = "passes the hidden check" if graded.get(standing.entry) else "fails the hidden check"
        click.echo(
            f"  {mark} {standing.entry:<10} tests {row}  breaks {broken}  verifier {score}  proposed by {standing.proposers}"
            f"  own test: {own}; {verdict}"
        )
    click.echo(f"  {shown(first_line(selection.reason, 300))}")
    return bool(selection.chosen and graded.get(selection.chosen))


def _grade(one: Pair, source: Instance, where: tuple[Path, str], patches: Mapping[str, bytes]) -> dict[str, bool]:
    """In a process of its own: nothing that solves can open a check."""
    texts = {name: patch.decode("utf-8", "surrogateescape") for name, patch in patches.items()}
    place, sandbox = where
    request = {"pair": one.id, "states": str(place), "sandbox": sandbox, "source": source.source, "patches": texts}
    done = subprocess.run(
        [sys.executable, "-m", "runoff.demo.grade"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"grading failed: {done.stderr.strip().splitlines()[-1:]}")
    return {name: bool(fixed) for name, fixed in json.loads(done.stdout).items()}


def _cpu() -> float:
    """CPU seconds of this process and all it has waited for."""
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime
