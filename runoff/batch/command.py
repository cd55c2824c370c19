"""`runoff bench`: a dataset's problems as instances of one run, which the same command goes on with after anything."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click

from runoff import environments
from runoff.agent.doubles import Scripted
from runoff.agent.log import Log
from runoff.agent.protocol import ModelMisconfigured
from runoff.agent.step import World, settled
from runoff.batch.plan import Plan, plan
from runoff.batch.sources import Where, instance
from runoff.commands import ended, options_recipe, prices_of, run_to_end, states
from runoff.datasets.load import problems as load
from runoff.datasets.protocol import Problem
from runoff.environments import EnvironmentFailed
from runoff.instance import BadTarget, Instance
from runoff.models import Answering, roles
from runoff.recipe import Recipe
from runoff.request import Request, Told
from runoff.run import Result, exit_code
from runoff.sandbox import images
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import NoRoom, Refused, Sandbox, SandboxError
from runoff.visible import shown

AT_ONCE = 16
"""Instances in progress at a time: each holds its repository's files in memory."""


def bench_command(
    dataset: str,
    chosen: Sequence[str],
    repositories: Path | None,
    remote: str | None,
    images: str,
    registry: str | None,
    history: str,
    at_once: int | None,
    dry_run: bool,
    prefetch: bool,
    grade: str | None,
    **options: Any,
) -> int:
    """Returns the exit code; raises errors that are for the user."""
    where: dict[str, Any] = {
        "repositories": repositories,
        "remote": remote,
        "images": images,
        "registry": registry,
        "history": history,
    }
    given = cast("Told", options | {"at_once": at_once})
    place = states(given)
    only_said = dry_run or prefetch
    request, foreseen = asyncio.run(
        bench_request(dataset, chosen, where, given, _say, prefetch=prefetch, without_models=only_said)
    )
    for line in foreseen.lines(shutil.disk_usage(_existing(place)).free):
        click.echo(line, err=not dry_run)
    if dry_run or prefetch:
        return 0
    out = request.out
    _, results = run_to_end(*request)
    for line in summary(results, out):
        click.echo(line)
    code = exit_code(results)
    if grade:
        # A process of its own: this one, which solved, never opens an answer.
        command = [sys.executable, "-c", "from runoff.cli import main; main()", "eval", str(out), "--dataset", dataset]
        told = {"grader": grade, "states": place, "images": images, "registry": registry}
        told |= {"repositories": repositories, "remote": remote, "sandbox": options.get("sandbox")}
        command += [word for name, value in told.items() if value is not None for word in (f"--{name}", str(value))]
        graded = subprocess.run(command, check=False)
        return code or graded.returncode
    return code


async def bench_request(
    dataset: str,
    chosen: Sequence[str],
    where: Mapping[str, Any],
    options: Told,
    say: Callable[[str], None],
    *,
    prefetch: bool = False,
    without_models: bool = False,
) -> tuple[Request, Plan]:
    """What `bench` is to do, with all sources brought here, and what that will take. `where`: the fields of `Where`, but for
    its cache. Raises BadDataset, DatasetMissing, BadTarget, NoRoom, ModelMisconfigured."""
    recipe = options_recipe(options)
    models = options.get("models", ())
    if not models and not without_models:
        raise ModelMisconfigured("no model is given", "name one as litellm does: --model openai/gpt-5", exit_code=2)
    names = roles(models) if models else {}
    problems = await asyncio.to_thread(load, dataset, ",".join(chosen) or None)
    found = Where.model_validate({**where, "cache": states(options).parent / "sources"})
    many = options.get("at_once") or AT_ONCE
    instances, foreseen = await _prepared(problems, found, options, recipe, names, many, say, prefetch=prefetch)
    out = options.get("out") or Path("runs") / f"bench-{Path(dataset).name.partition('.')[0]}"
    return Request(instances, recipe, names, out, options | {"at_once": many}), foreseen


def summary(results: Sequence[Result], out: Path) -> list[str]:
    """How a batch ended: what needs the user first, then the counts."""
    lines = [ended(result, out, alone=False) for result in results if result.status in ("failed", "stopped", "budget")]
    counts = Counter(result.status for result in results)
    lines.append(", ".join(f"{count} {status}" for status, count in counts.most_common()))
    again = counts["failed"] + counts["stopped"] + counts["budget"]
    if again:
        lines.append(
            f"the same command tries the {again} again that did not come to an end, as does: runoff retry {out}"
        )
    lines.append(f"{out / 'preds.json'}; {out / 'report.html'}")
    return lines


async def _prepared(
    problems: Sequence[Problem],
    where: Where,
    options: Told,
    recipe: Recipe,
    names: dict[str, str],
    at_once: int,
    say: Callable[[str], None],
    *,
    prefetch: bool,
) -> tuple[list[Instance], Plan]:
    """The problems as instances whose sources are here, and what they will take. Raises NoRoom before anything is brought."""
    place = states(options)
    hosts = options.get("index_hosts", ())
    async with open_backend(
        options.get("sandbox") or "auto", place, limit=options.get("states_limit"), index_hosts=hosts
    ) as sandbox:
        instances = await _sources(problems, where, sandbox, say)
        layers = await _to_bring(instances, sandbox, say)
        model = Answering(names, api_base=options.get("api_base"), prices=prices_of(options, names)) if names else None
        prices = {role: model.price_of(name.splitlines()[0]) for role, name in names.items()} if model else {}
        if model:
            await model.close()
        foreseen = plan(instances, recipe, prices, layers)
        share = foreseen.disk * min(at_once, len(instances)) // max(len(instances), 1)
        free = shutil.disk_usage(place).free
        if share > free:
            raise NoRoom(
                f"needs about {share / 1e9:.0f} GB for what is done at once, {free / 1e9:.0f} GB free at {place}; put states "
                "elsewhere with --states, or do fewer at once with --at-once"
            )
        if prefetch:
            await _prefetched(instances, sandbox, say)
    return instances, foreseen


async def _sources(
    problems: Sequence[Problem], where: Where, sandbox: Sandbox, say: Callable[[str], None]
) -> list[Instance]:
    """Raises BadTarget for those that cannot be had, all at once: nothing is paid yet, and what is missing is for the user."""
    few = asyncio.Semaphore(4)

    async def made(problem: Problem) -> Instance | str:
        async with few:
            try:
                return await instance(problem, where, sandbox, say)
            except (BadTarget, EnvironmentFailed) as error:
                return str(error)

    found = await settled(*map(made, problems))
    missing = list(dict.fromkeys(it for it in found if isinstance(it, str)))
    for line in missing[:10]:
        say(line)
    if missing:
        raise BadTarget(
            f"{sum(isinstance(it, str) for it in found)} of {len(found)} instances cannot be had: {missing[0]}"
        )
    return [it for it in found if isinstance(it, Instance)]


async def _to_bring(instances: Sequence[Instance], sandbox: Sandbox, say: Callable[[str], None]) -> dict[str, int]:
    """Layers of the instances' images and their compressed bytes, of images that no state is kept of; unknown sizes are left out."""
    wanted = {one.image for one in instances if one.image and not environments.kept(sandbox, one)}
    few, found = asyncio.Semaphore(8), dict[str, int]()

    async def weighed(reference: str) -> None:
        async with few:
            try:
                found.update(await images.weigh(reference))
            except Refused as error:
                say(str(error))  # it is that instance's failure, when its turn comes

    await settled(*map(weighed, sorted(wanted)))
    return found


async def _prefetched(instances: Sequence[Instance], sandbox: Sandbox, say: Callable[[str], None]) -> None:
    """Every image and environment, made; what cannot be is said, and stops no other."""
    few = asyncio.Semaphore(2)
    with tempfile.TemporaryDirectory() as folder:

        async def one(of: Instance) -> None:
            async with few:
                world = World(Log(Path(folder) / f"{of.id}.jsonl"), of.id, Scripted([]), sandbox)
                try:
                    await environments.build(world, of, lambda stage: say(f"{of.id}: {stage}"))
                    say(f"{of.id}: ready")
                except SandboxError as error:
                    say(f"{of.id}: {error}")
                finally:
                    await world.close()

        await settled(*map(one, instances))


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _say(text: str) -> None:
    click.echo(shown(text), err=True)
