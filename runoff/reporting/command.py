"""`runoff report`: reads runs, writes what they came to, and says it in a line a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from runoff.measure import read_labels
from runoff.reporting.compared import compare
from runoff.reporting.page import lines, write


def report_command(runs: Sequence[Path], labels: Path | None, out: Path | None, as_json: bool) -> int:
    """Raises BadRun, in one line."""
    compared = compare(runs, read_labels(labels) if labels else None)
    folder = out or (None if as_json else runs[0] / "report")
    written = write(folder, compared) if folder else []
    if as_json:
        click.echo(compared.model_dump_json(indent=1))
    else:
        click.echo("\n".join(lines(compared)))
        click.echo(f"report: {written[0]}")
    return 0
