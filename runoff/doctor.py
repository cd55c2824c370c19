"""`runoff doctor`: what is here, what is missing, the one next command."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import click

from runoff.failure import MISSING
from runoff.sandbox import bubblewrap
from runoff.sandbox.docker import facts

_KEYS = (
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "DEEPSEEK_API_KEY",
    "OPENROUTER_API_KEY",
    "MISTRAL_API_KEY",
)
_ROOM = 2 << 30  # bytes that a few environments take


def doctor_command(states: Path | None, everything: bool = False) -> int:
    """Print the findings; how limits are held of the sandbox that would be taken, or of all. Returns 0 if a run could start,
    3 if something is missing."""
    place = states or Path.home() / ".cache" / "runoff" / "states"
    line("python", True, sys.version.split()[0])
    findings = [*asyncio.run(bubblewrap.probe()), *asyncio.run(facts.probe())]
    told = False
    for finding in findings:
        line(finding.what, finding.ok, finding.detail)
        for row in finding.holds if everything or not told else ():
            told = True
            click.echo(f"          {row.limit:<20} {row.how:<10} {row.detail}")
    sandboxes = [finding for finding in findings if finding.what.startswith(("bubblewrap-", "docker"))]
    usable = any(finding.ok for finding in sandboxes)
    free = shutil.disk_usage(_existing(place)).free
    line("room for states", free > _ROOM, f"{free / 2**30:.0f} GiB free at {place}")
    keys = [name for name in _KEYS if os.environ.get(name)]
    if keys:
        line("model key", True, ", ".join(keys))
    else:
        click.echo(f"{'none':<8} {'model key':<22} the demo and servers of your own need none")
    if not usable:
        remedy = next((finding.remedy for finding in findings if not finding.ok and finding.remedy), "")
        click.echo(f"\nnext: {remedy}")
        return MISSING
    if free <= _ROOM:
        click.echo(f"\nnext: free some space at {place}, or give another --states")
        return MISSING
    follow = "runoff solve . --issue @bug.md --model NAME --budget 2" if keys else "runoff demo"
    click.echo(f"\nnext: {follow}")
    return 0


def line(what: str, ok: bool, detail: str) -> None:
    click.echo(f"{'ok     ' if ok else 'missing'}  {what:<22} {detail}")


def _existing(path: Path) -> Path:
    return next(place for place in [path, *path.parents] if place.exists())
