"""`runoff ls` and `runoff show`: the runs below a directory, and the instances of one, in lines for a terminal or as JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import click

from runoff.agent.log import damage
from runoff.report import count, duration, player
from runoff.reporting.cases import Read
from runoff.reporting.page import dollars, tokens
from runoff.reporting.runs import Instances
from runoff.run import BadRun, asked_for
from runoff.runs import holder
from runoff.sandbox.protocol import Value
from runoff.visible import shown

State = Literal["running", "ended", "stopped", "damaged"]


class Listed(Value):
    """A run, by what can be seen of it without reading what was said in it."""

    path: str
    state: State
    """`running`: a process writes its logs. `ended`: every instance has come to an end. `stopped`: not all have, or some could
    not be worked on; the same command goes on. `damaged`: run.toml cannot be read, or pieces of logs cannot and are not set aside yet."""
    what: str
    """The process that runs it; what is damaged."""
    ended: int
    """Instances that have come to an end, whatever it is."""
    instances: int
    recipe: str
    models: tuple[str, ...]
    changed: float | None
    """When something was last written, in seconds since 1970."""


def ls_command(folder: Path, as_json: bool) -> int:
    """Raises BadRun, in one line."""
    if not folder.is_dir():
        raise BadRun(f"{folder}: no such directory; name the one that holds your runs")
    found = sorted((listed(path) for path in runs_below(folder)), key=lambda one: (-(one.changed or 0.0), one.path))
    if as_json:
        click.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
        return 0
    rows = [("run", "state", "ended", "recipe", "changed", "models")]
    for one in found:
        state = f"{one.state}{f' ({one.what})' if one.what else ''}"
        done = f"{one.ended} of {one.instances}" if one.instances else "–"
        rows.append((one.path, state, done, one.recipe or "–", _when(one.changed), ", ".join(one.models) or "–"))
    click.echo("\n".join(columns(rows)) if found else f"no run below {shown(str(folder))}")
    return 0


def show_command(run: Path, instances: Sequence[str], as_json: bool) -> int:
    """A line an instance; of one alone, its trajectories too. Raises BadRun, in one line."""
    names = sorted(asked_for(run)["source"])
    wanted = [name for name in names if not instances or any(fnmatchcase(name, pattern) for pattern in instances)]
    if not wanted:
        raise BadRun(
            f"{run} has no instance {instances[0]}; there are {', '.join(names[:3])}{' …' if names[3:] else ''}"
        )
    read = Instances(run, only=wanted).read
    if as_json:
        said = [
            one.case.model_dump(mode="json") | {"units": [u.model_dump(mode="json") for u in one.units]}
            for one in read.values()
        ]
        click.echo(json.dumps(said, indent=1))
        return 0
    heading = ("instance", "ended", "of", "candidates", "votes", "chosen", "dollars", "time", "why")
    click.echo("\n".join(columns([heading, *map(_row, read.values())])))
    if len(read) == 1 and (units := next(iter(read.values())).units):
        lines = [("unit", "ended", "calls", "input", "output", "dollars", "executions", "time", "note")]
        for unit in units:
            calls, note = unit.took.calls, unit.note
            paid = (tokens(calls.input), tokens(calls.output), dollars(calls.cost)) if calls.calls else ("–", "–", "–")
            sums = (str(calls.calls + calls.recorded), *paid)
            lines.append((unit.name, unit.reason, *sums, str(unit.took.executions), duration(unit.took.seconds), note))
        click.echo("\n" + "\n".join(columns(lines)))
    damaged, billed = (sum(getattr(one.case, of) for one in read.values()) for of in ("damaged", "possibly_billed"))
    if damaged:
        click.echo(f"\n{count(damaged, 'damaged piece')} of logs passed over", err=True)
    if billed:
        click.echo(f"\n{count(billed, 'call')} without a reply on record: possibly billed", err=True)
    return 0


def columns(rows: Sequence[Sequence[str]], last: int = 60) -> Iterator[str]:
    """Lines of a table whose first row is its heading, `last` characters at most in its last column. What would reorder or
    hide text shows."""
    cells = [[*(_cell(cell, 200) for cell in row[:-1]), _cell(row[-1], last)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cell(text: str, widest: int) -> str:
    line = shown(" ".join(text.split()))
    return line if len(line) <= widest else line[: widest - 1] + "…"


def _row(one: Read) -> tuple[str, ...]:
    case = one.case
    votes = "–" if case.votes is None else f"{case.votes}/{case.tests}"
    fate = case.fate if case.resolved is not None or not case.status else case.status
    sums = dollars(case.took.calls.cost) if case.took.calls.calls else "–"
    return (
        case.instance,
        fate,
        str(case.members),
        f"{case.candidates} of {case.proposals}" if case.proposals else "–",
        votes,
        case.chosen or "–",
        sums,
        duration(case.took.seconds),
        case.why,
    )


def runs_below(folder: Path) -> Iterator[Path]:
    """Directories with a run.toml, not looking into these: a run holds no runs."""
    for at, folders, files in os.walk(folder):
        if "run.toml" in files:
            folders.clear()
            yield Path(at)
        folders[:] = [name for name in folders if not name.startswith(".")]


def listed(path: Path, *, thorough: bool = True) -> Listed:
    """A run in a line. `thorough`: its logs are read for damage."""
    logs = sorted((path / "log").glob("*.jsonl"))
    times = [file.stat().st_mtime for file in (path / "run.toml", *logs)]
    try:
        said = asked_for(path)
    except BadRun:
        return Listed(
            path=str(path),
            state="damaged",
            what="run.toml",
            ended=0,
            instances=0,
            recipe="",
            models=(),
            changed=max(times),
        )
    names = list(said["source"])
    ended = sum(_has_ended(path / "views" / name / "selection.json") for name in names)
    state: State = "ended" if ended == len(names) else "stopped"
    what = ""
    if pid := holder(path):
        state, what = "running", f"process {pid}"
    elif thorough and (pieces := sum(map(damage, logs))):
        state, what = "damaged", f"{count(pieces, 'piece')} of logs"
    return Listed(
        path=str(path),
        state=state,
        what=what,
        ended=ended,
        instances=len(names),
        recipe=str(said["recipe"].get("name", "")),
        models=tuple(sorted({player(one) for model in said["model"].values() for one in str(model).splitlines()})),
        changed=max(times),
    )


def _has_ended(view: Path) -> bool:
    try:
        return json.loads(view.read_bytes())["status"] not in ("stopped", "failed")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _when(when: float | None) -> str:
    return "–" if when is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
