"""`runoff clean`: states that nobody needs are removed, and what dead processes left anywhere."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import click

from runoff.github.clone import default_cache, forget
from runoff.instance import BadTarget
from runoff.sandbox.collect import Report, Wanted
from runoff.sandbox.docker import orphans
from runoff.sandbox.housekeeping import amount, collect
from runoff.visible import shown

LEFTOVERS: dict[str, Callable[[bool], list[str]]] = {"docker": orphans.leftovers}
"""What dead processes left outside of the store of states (cgroups, containers), by kind. A backend adds here a function that
removes it (told True: only looks) and returns what it was, a name each."""

_WORDS = {
    "orphans": "left by killed processes",
    "damaged": "damaged",
    "unreferred": "no run and no name refers to them",
    "runs": "states of runs",
    "environments": "environments",
}


def clean_command(
    states: Path | None,
    dry_run: bool,
    everything: bool,
    older_than: float | None,
    limit: int | None,
    as_json: bool,
) -> int:
    place = states or Path.home() / ".cache" / "runoff" / "states"
    if everything and (older_than is not None or limit is not None):
        raise click.UsageError("--all removes everything; it goes with neither --older-than nor --limit")
    if states and not (states / "version").is_file():
        raise BadTarget(f"{states} holds no states; give the directory that a run had as --states")
    unused = 0.0 if everything else older_than
    wanted = Wanted(limit=limit, tidy=True, unused=unused, dry_run=dry_run)
    report = asyncio.run(collect(place, wanted)) if place.is_dir() else Report()
    elsewhere = {kind: sweep(dry_run) for kind, sweep in LEFTOVERS.items()}
    if unused is not None:
        elsewhere["clone"] = forget(default_cache(os.environ), unused, dry_run=dry_run)
    if as_json:
        said = {
            name: {kind: {"count": n, "bytes": size} for kind, (n, size) in getattr(report, name).items()}
            for name in ("removed", "kept")
        }
        in_use = {"count": report.in_use[0], "bytes": report.in_use[1]}
        rest = {name: getattr(report, name) for name in ("sessions", "bytes", "limit", "free", "notes")}
        click.echo(
            json.dumps(
                {"states": str(place), "dry_run": dry_run} | said | {"in_use": in_use} | rest | {"elsewhere": elsewhere}
            )
        )
    else:
        click.echo(shown("\n".join(_lines(report, place, dry_run=dry_run, elsewhere=elsewhere))))
    return 0


def _lines(report: Report, place: Path, *, dry_run: bool, elsewhere: dict[str, list[str]]) -> list[str]:
    lines = [f"{place}: {amount(report.bytes)} of states, {amount(report.free)} free"]
    lines += _table("would remove" if dry_run else "removed", report.removed)
    lines += _table("would keep" if dry_run else "kept", report.kept)
    if report.in_use[0]:
        who = "an open run" if report.sessions == 1 else f"{report.sessions} open runs"
        lines.append(f"  in use    {report.in_use[0]:>6} layers  {amount(report.in_use[1]):>10}  by {who}: they stay")
    for kind, names in elsewhere.items():
        lines += [f"  {'would remove' if dry_run else 'removed'} {kind} {name}" for name in names]
    return lines + [f"  {note}" for note in report.notes]


def _table(what: str, counts: dict[str, list[int]]) -> list[str]:
    lines = [
        f"  {what:<13}{count:>6} layers  {amount(size):>10}  {_WORDS[kind]}"
        for kind, (count, size) in sorted(counts.items(), key=lambda row: list(_WORDS).index(row[0]))
    ]
    return lines or [f"  {what:<13}nothing"]
