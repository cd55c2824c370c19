"""`runoff dataset`: the problems of a dataset as a table or JSON, written as task folders, their images built."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from runoff.datasets.load import problems
from runoff.datasets.protocol import BadDataset, DatasetMissing, Problem
from runoff.visible import shown

_STEPS = re.compile(
    r"\s*$|Step \d|\s*--->|Removing intermediate|The command|Sending build|DEPRECATED|\s+BuildKit|\s+Install the"
)
"""What docker says of a build beside what its commands say."""


def dataset_command(
    dataset: str,
    instances: str | None,
    as_json: bool,
    write: tuple[str, Path] | None,
    answers: Path | None,
    base: str,
    build: bool,
    build_args: Sequence[str],
) -> int:
    found = problems(dataset, instances)
    if write:
        form, folder = write
        written(form, folder, dataset, found, answers=answers, base=base)
        click.echo(f"{len(found)} tasks in {folder}: {_NEXT[form].format(folder=folder)}")
        if build:
            found = problems(str(folder), ",".join(one.id for one in found))
    elif as_json:
        click.echo(json.dumps([one.model_dump(exclude_defaults=True) for one in found], indent=1))
    elif not build:
        click.echo(shown("\n".join(table(found))))
    return built(folder if write else Path(dataset), found, build_args) if build else 0


_NEXT = {
    "swebench": "runoff dataset {folder} --build makes their images",
    "harbor": "harbor run -p {folder} -a oracle tries their solutions",
}


def table(found: Sequence[Problem]) -> list[str]:
    """A line a problem, and how many there are."""
    rows = [("id", "project", "base", "environment", "statement")]
    for one in found:
        base = one.base_commit[:12] or one.version
        first = next((line.lstrip("# ") for line in one.statement.splitlines() if line.strip()), "")
        rows.append((one.id, one.repo, base, _environment(one), first if len(first) <= 60 else f"{first[:59]}…"))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    ]
    return [*lines, f"{len(found)} problem{'s' if len(found) != 1 else ''}"]


def written(
    form: str, folder: Path, dataset: str, found: Sequence[Problem], *, answers: Path | None = None, base: str
) -> None:
    """The problems with their answers as task folders, by a process of its own. Raises BadDataset."""
    request = {
        "format": form,
        "folder": str(folder),
        "dataset": dataset,
        "problems": [one.model_dump(mode="json") for one in found],
        "answers": str(answers) if answers else None,
        "base": base,
    }
    command = [sys.executable, "-P", "-m", "runoff.datasets.write"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadDataset((done.stderr.strip().splitlines() or ["writing tasks failed"])[-1])


def built(folder: Path, found: Sequence[Problem], build_args: Sequence[str] = ()) -> int:
    """`docker build` of each task's image, under the name it has in the problem. 5 if one failed, after all were tried."""
    failed = list[str]()
    for one in found:
        place = _context(folder, one)
        command = [
            "docker",
            "build",
            "--quiet",
            "--tag",
            one.image,
            *(f"--build-arg={one}" for one in build_args),
            str(place),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise DatasetMissing("images are built by Docker, which is not here; see runoff doctor") from None
        if done.returncode:
            failed.append(one.id)
            said = [line for line in (done.stderr + done.stdout).splitlines() if not _STEPS.match(line)]
            click.echo(shown(f"{one.id}: docker build {place} failed: {' | '.join(said[-4:])}"), err=True)
        else:
            click.echo(shown(f"{one.id}: {one.image}"))
    return 5 if failed else 0


def _context(folder: Path, one: Problem) -> Path:
    """Where a task's Dockerfile lies. Raises BadDataset."""
    whole = [folder / "tasks" / one.id, folder / one.id, folder]
    place = next(
        (
            context
            for task in whole
            for context, marks in ((task, "task.yaml"), (task / "environment", "../task.toml"))
            if (context / "Dockerfile").is_file() and (context / marks).is_file()
        ),
        None,
    )
    if place is None:
        raise BadDataset(f"{folder} has no Dockerfile for {one.id}: only images of task folders are built here")
    return place


def _environment(one: Problem) -> str:
    if one.release:
        return "a release, built here"
    if one.image:
        return one.image
    return f"built, Python {one.built.python}" if one.built and one.built.python else "built"
