"""`runoff detect`: what a repository is, why that is thought, and the commands; tried on request, and written as .runoff.toml."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from runoff import environments
from runoff.agent.index import default_place
from runoff.agent.log import Log
from runoff.agent.step import World
from runoff.commands import budget_of, prices_of, states
from runoff.declared import NAME, Declared, written
from runoff.instance import BadTarget, Instance, local_instance
from runoff.models import Answering
from runoff.sandbox.backends import open_backend
from runoff.sandbox.environments import services
from runoff.sandbox.environments.detection import Detected
from runoff.setups import Settled, attempts, detected, settle
from runoff.visible import shown


def detect_command(path: Path, ref: str | None, **options: Any) -> int:
    """Exit code 0: something was found, and it works if it was tried; 1: not. Raises BadTarget."""
    instance, _ = local_instance(path, "none", ref=ref)
    found, model = detected(instance), options.get("model") or ""
    settled, there = None, Declared.model_validate({name: getattr(instance, name) for name in Declared.model_fields})
    if options.get("tried") or model:
        settled = asyncio.run(_tried(instance, model, options))
    declared = (
        settled.declared
        if settled
        else _said(found, instance).model_copy(update={name: said for name, said in there if said})
    )
    if options.get("as_json"):
        value = found.model_dump(mode="json") | {"settled": settled and settled.model_dump(mode="json")}
        click.echo(json.dumps(value | {"declared": declared.model_dump(mode="json", exclude_none=True)}, indent=1))
    else:
        if there != Declared():
            click.echo(f"runoff: {NAME} is there, and comes before what is detected", err=True)
        _show(path, found, declared, settled)
    if options.get("write"):
        _write(path, declared, found, settled)
    return 0 if (settled.works if settled else found.language or declared.setup) else 1


def _said(found: Detected, instance: Instance) -> Declared:
    """Of what would be tried, the one that says its commands."""
    listed = attempts(found, instance)
    return listed[-1][1] if listed else Declared()


def _show(path: Path, found: Detected, declared: Declared, settled: Settled | None) -> None:
    if not found.language:
        click.echo(f"{path}: nothing says how it is built; give --setup and --test, or write {NAME}")
    rows = [(fact.what, fact.value, ", ".join(map(str, fact.at))) for fact in found.facts]
    width = max((len(what) for what, _, _ in rows), default=0)
    for what, value, at in rows:
        click.echo(shown(f"{what:<{width}}  {_short(value)}" + (f"   ← {at}" if at else "")))
    for one in found.services:
        if not services.there(one):
            click.echo(
                f"{one.kind} is not on this machine: apt-get install {services.package(one)}; until then tests that need it could not tell"
            )
    if settled:
        for line in settled.tried:
            click.echo(shown(f"tried: {line}"))
        click.echo(shown(f"settled on: {settled}"))
    for name in ("python", "setup", "build", "test"):
        value = getattr(declared, name)
        if value:
            first, *more = str(value).splitlines()
            click.echo(shown(f"{name:<6} {first}"))
            for line in more:
                click.echo(shown(f"       {line}"))


def _write(path: Path, declared: Declared, found: Detected, settled: Settled | None) -> None:
    """A new file in the user's work tree. Raises BadTarget if one is there, or a link."""
    target = path / NAME
    if target.exists() or target.is_symlink():
        raise BadTarget(f"{target} is there already; remove it to have it written again")
    remarks = {}
    for fact in found.facts:
        key = {"Python": "python", "service": "services", "tests": "test"}.get(fact.what)
        if key and fact.at:
            remarks[key] = " ".join(shown(f"{fact.what}: {', '.join(map(str, fact.at))}").split())
    if settled and settled.tally:
        remarks["test"] = f"{settled.tally}"
    target.write_text(written(declared, remarks))
    click.echo(f"written: {target}; read it, try it with `runoff detect --try`, commit it")


async def _tried(instance: Instance, model: str, options: Mapping[str, Any]) -> Settled:
    """Build and try it in a sandbox; with a model, have it repair what does not work. What is paid for is on record."""
    names = {"editor": model} if model else {}
    budget = budget_of(options.get("budget"))
    answering = Answering(names, api_base=options.get("api_base"), prices=prices_of(options, names), budget=budget)
    if model:
        answering.check()
    place = options.get("index") or default_place()
    which = hashlib.blake2b(f"{instance.source}\0{instance.digest}".encode(), digest_size=6).hexdigest()
    log = Log(place.parent / "detect" / f"{instance.id}-{which}.jsonl")
    backend = options.get("sandbox") or "auto"
    async with open_backend(backend, states(dict(options)), index_hosts=options.get("index_hosts") or ()) as sandbox:
        world = World(log, instance.id, answering, sandbox, budget)
        world.count_back(answering.price_of)

        def tell(text: str) -> None:
            click.echo(shown(f"  {text}"), err=True)

        try:
            if not instance.detect:  # what .runoff.toml says
                return await environments.tried(world, instance, tell)
            _, settled = await settle(world, instance, environments.maker(world, tell), tell, model)
            return settled
        finally:
            await world.close()
            await answering.close()


def _short(text: str, limit: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
