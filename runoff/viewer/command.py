"""`runoff view`: opens the window on a run, or writes it as one file."""

from __future__ import annotations

import os
import secrets
import webbrowser
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import click

from runoff.run import BadRun, write_whole
from runoff.viewer.store import Store
from runoff.visible import shown


def view_command(run: Path, port: int | None, export: Path | None, limit: int, no_open: bool) -> int:
    """Returns the exit code. Raises BadRun, in one line."""
    store = Store(run)
    if export:
        return _export(store, export, limit)
    from runoff.viewer.server import Served, bound

    key, listening = secrets.token_urlsafe(18), bound(port)
    where = f"http://{listening.getsockname()[0]}:{listening.getsockname()[1]}/?key={key}"
    where += f"#/r/{quote(store.listed()[0].path, safe='')}" if store.alone else ""
    click.echo(f"{shown(str(run))}: {where}")
    click.echo("for this machine alone; Ctrl-C ends it", err=True)
    if not no_open and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(where)
    with suppress(KeyboardInterrupt):  # the way to end it
        Served(store, key).run(sockets=[listening])
    return 0


def _export(store: Store, file: Path, limit: int) -> int:
    from runoff.viewer.export import page

    if not store.alone:
        raise BadRun(f"{store.place} is a folder of runs; export one of them")
    if file.is_dir():
        raise BadRun(f"{file} is a directory; name the file to write")
    made = page(store, limit)
    write_whole(file, made.text.encode())
    left = f"; left out to stay below {limit / 1e6:g} MB: {made.left_out}" if made.left_out else ""
    click.echo(f"{file}: {len(made.text.encode()) / 1e6:.2f} MB, {made.kept}{left}")
    return 0
