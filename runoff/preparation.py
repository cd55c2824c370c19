"""`runoff prepare`: what is made once of a repository for all of its issues, and moved on to another commit cheaply."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from runoff import environments
from runoff.agent.context import ContextRecipe, searched
from runoff.agent.environment import Environment
from runoff.agent.index import Index, Moved, default_place
from runoff.agent.log import Log
from runoff.agent.protocol import BudgetSpent, Sampling
from runoff.agent.step import Step, World, settled
from runoff.agent.summaries import summarise
from runoff.commands import budget_of, prices_of, states
from runoff.instance import local_instance, tracked
from runoff.models import Answering
from runoff.prepared import COMMANDS, Contents, depending, lines
from runoff.run import EXIT
from runoff.sandbox.backends import open_backend
from runoff.selection.known_tests import KnownTests, by_file
from runoff.selection.repository_tests import RegressionRecipe, run_tests, runner


class Repository(NamedTuple):
    """One commit of a local git repository."""

    path: Path
    commit: str
    blobs: dict[str, str]
    """Tracked path → blob."""
    contents: Contents


def prepare_command(repository: Path, ref: str | None, index: Path | None, **options: Any) -> int:
    """Build the index, or bring it to another commit; with a model and `tests`, the rest. Raises BadTarget, in one line."""
    started = time.monotonic()
    place = index or default_place()
    opened = open_repository(repository, ref)
    facts = Index(place)
    try:
        moved = bring(facts, opened)
        click.echo(
            f"{repository} at {opened.commit[:12]}: {moved.files} source files, {moved.read} of them read, "
            f"in {time.monotonic() - started:.1f} s; kept in {place}"
        )
        if given := {name: options[name] for name in COMMANDS if options.get(name)}:
            facts.keep("commands", {(str(repository.resolve()), ""): given})
        if not (options.get("model") or options.get("tests")):
            return 0
        return asyncio.run(_further(opened, facts, place, options))
    finally:
        facts.close()


def open_repository(path: Path, ref: str | None) -> Repository:
    """Reads git objects, never the work tree. Raises BadTarget."""
    commit, blobs, read = tracked(path, ref)

    def contents(paths: list[str]) -> Iterator[tuple[str, bytes]]:
        yield from zip(paths, read([blobs[path] for path in paths]), strict=True)

    return Repository(path, commit, blobs, contents)


def bring(index: Index, repository: Repository) -> Moved:
    """Bring an index to a commit."""
    return index.bring({path: repository.blobs[path] for path in searched(repository.blobs)}, repository.contents)


async def _further(repository: Repository, index: Index, place: Path, options: Mapping[str, Any]) -> int:
    """What takes a model or a sandbox. What is paid for or run is kept as it comes: the same command goes on from there."""
    model = (options.get("model") or "").removeprefix("relevance=")
    budget = budget_of(options.get("budget"))
    names = {"relevance": model} if model else {}
    answering = Answering(names, api_base=options.get("api_base"), prices=prices_of(options, names), budget=budget)
    answering.check()
    log = Log(_log(place, repository.path))
    backend, hosts = options.get("sandbox") or "auto", options.get("index_hosts") or ()
    async with open_backend(backend, states(dict(options)), index_hosts=hosts) as sandbox:
        world = World(log, _name(repository.path), answering, sandbox, budget)
        world.count_back(answering.price_of)
        try:
            if options.get("tests"):
                await _tests(world, repository, index, options)
            return await _lines(world, repository, index, model) if model else 0
        finally:
            await world.close()
            await answering.close()


async def _lines(world: World, repository: Repository, index: Index, model: str) -> int:
    """A line on each source file whose contents have none."""
    blobs = {path: repository.blobs[path] for path in searched(repository.blobs)}
    missing = blobs.keys() - lines(index, blobs).keys()
    first = {blobs[path]: path for path in sorted(missing, reverse=True)}  # equal contents are asked about once
    files = dict(repository.contents(sorted(first.values())))
    recipe = ContextRecipe()
    sampling = Sampling(temperature=0, max_tokens=recipe.max_tokens)

    def keep(said: Mapping[str, str]) -> None:
        index.keep("line", {(blobs[path], ""): line for path, line in said.items()})

    code = unread = 0
    try:
        unread = await summarise(Step(world, "lines"), model, files, sampling, recipe.relevance_tokens, keep)
    except BudgetSpent as error:
        click.echo(f"runoff: {error}; the same command goes on from here", err=True)
        code = EXIT["budget"]
    known = lines(index, blobs)
    click.echo(
        f"lines on {len(known)} of {len(blobs)} source files, {len(missing & known.keys())} of them new, by {model}"
        + (f"; {unread} questions were not answered readably" if unread else "")
    )
    return code


async def _tests(world: World, repository: Repository, index: Index, options: Mapping[str, Any]) -> None:
    """Run twice, on the base, the test files whose results are not known for all that they depend on."""
    given = _commands(options, index, repository)
    instance, _ = local_instance(repository.path, "none", ref=repository.commit, **given)
    environment = await environments.build(world, instance, lambda text: click.echo(f"  {text}"))
    needed = depending(index, repository.blobs, repository.contents, environment)
    known = index.facts("tests", {(digest, "") for digest in needed.values()})
    missing = [path for path, digest in needed.items() if (digest, "") not in known]

    async def run(files: Sequence[str]) -> None:
        found = await _run_twice(world, environment, files)
        index.keep("tests", {(needed[path], ""): tests.model_dump(mode="json") for path, tests in found.items()})

    size = RegressionRecipe().files
    await settled(*(run(missing[n : n + size]) for n in range(0, len(missing), size)))
    known = index.facts("tests", {(digest, "") for digest in needed.values()})
    results = {path: KnownTests.model_validate(known[key]) for path in needed if (key := (needed[path], "")) in known}
    counts = {end: sum(len(getattr(tests, end)) for tests in results.values()) for end in KnownTests.model_fields}
    what = "test files" if runner(environment.test or "") else "command"
    click.echo(
        f"`{environment.test}`: {len(missing)} of {len(needed)} {what} run twice, the results of the others still hold: "
        f"{counts['passed']} tests pass, {counts['failed']} do not, {counts['flaky']} are flaky"
        + (f"; {silent} gave no result of their own" if (silent := len(needed) - len(results)) else "")
    )
    for path, tests in results.items():
        for test in tests.flaky:
            click.echo(f"  flaky: {test} ({path})")


async def _run_twice(world: World, environment: Environment, files: Sequence[str]) -> dict[str, KnownTests]:
    """Files that give no result together are run one by one."""
    first, second = await settled(
        *(
            run_tests(world, environment, environment.state, files, RegressionRecipe(), repetition)
            for repetition in (0, 1)
        )
    )
    found = by_file(environment.test or "", first, second, files)
    if found or len(files) < 2:
        return found
    alone = await settled(*(_run_twice(world, environment, [path]) for path in files))
    return {path: tests for one in alone for path, tests in one.items()}


def _commands(options: Mapping[str, Any], index: Index, repository: Repository) -> dict[str, Any]:
    """What is given now, else what was given when this repository was prepared before."""
    before: Mapping[str, str] = next(iter(index.facts("commands", [(str(repository.path.resolve()), "")]).values()), {})
    return {name: options.get(name) or before.get(name) for name in COMMANDS}


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name) or "repository"


def _log(place: Path, path: Path) -> Path:
    """Where what is asked and run for a repository is on record, so that nothing is paid twice."""
    which = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
    return place.parent / "prepare" / f"{_name(path)}-{which}.jsonl"
