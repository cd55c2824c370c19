"""`runoff prepare`: what is made once of a repository for all of its issues, and moved on to another commit cheaply."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from runoff.agent.context import searched
from runoff.agent.index import Index, Moved, default_place
from runoff.instance import tracked


def prepare_command(repository: Path, ref: str | None, index: Path | None) -> int:
    """Build the index, or bring it to another commit. Raises BadTarget, in one line."""
    started = time.monotonic()
    place = index or default_place()
    commit, moved = prepare(repository, ref, place)
    click.echo(
        f"{repository} at {commit[:12]}: {moved.files} source files, {moved.read} of them read, "
        f"in {time.monotonic() - started:.1f} s; kept in {place}"
    )
    return 0


def prepare(repository: Path, ref: str | None, place: Path) -> tuple[str, Moved]:
    """The commit, and what bringing the index at `place` to it came to. Reads git objects, never the work tree."""
    commit, blobs, read = tracked(repository, ref)
    wanted = {path: blobs[path] for path in searched(blobs)}

    def contents(paths: list[str]) -> Iterator[tuple[str, bytes]]:
        yield from zip(paths, read([wanted[path] for path in paths]), strict=True)

    index = Index(place)
    try:
        return commit, index.sources(wanted, contents)[1]
    finally:
        index.close()
