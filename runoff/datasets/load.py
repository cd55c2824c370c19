"""What a person calls a dataset → its problems. The process that asks never opens a source that holds answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runoff.datasets.chosen import chosen
from runoff.datasets.protocol import BadDataset, Built, DatasetMissing, Problem
from runoff.releases import pairs as releases


def problems(reference: str, instances: str | None = None) -> list[Problem]:
    """The problems of a dataset, all or those that `instances` names (see `chosen`), in its order.

    `reference` is verified, lite, full, multilingual or multimodal (with :SPLIT for another than test), releases, a file of
    rows, or a folder of tasks. Raises BadDataset, in one line.
    """
    found = _releases() if reference == "releases" and not Path(reference).exists() else _parted(reference)
    if not found:
        raise BadDataset(f"{reference} holds no problem")
    wanted = set(chosen([one.id for one in found], instances))
    return [one for one in found if one.id in wanted]


def _releases() -> list[Problem]:
    """Of these, problem and answer are files apart."""
    return [
        Problem(
            id=one.id,
            repo=one.project,
            statement=one.statement,
            version=one.version,
            built=Built(setup=one.setup, test=one.test),
            release=one.id,
        )
        for one in releases.pairs()
    ]


def _parted(reference: str) -> list[Problem]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "runoff.datasets.split", reference],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        if done.returncode == 3:
            raise DatasetMissing(said[0])
        raise BadDataset(
            said[0] if done.returncode == 2 else f"{reference}: the process that reads it failed: {said[0]}"
        )
    return [Problem.model_validate_json(line) for line in done.stdout.splitlines()]
