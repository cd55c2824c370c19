"""What the grading process is asked, as the process that asks it knows it: problems and patches, never an answer."""

from __future__ import annotations

from pathlib import Path

from runoff.batch.sources import Where
from runoff.datasets.protocol import Problem
from runoff.grading.protocol import Grader
from runoff.sandbox.protocol import Raw, Value


class Submission(Value):
    """A patch to grade, and whose it is: see `Grade`."""

    instance_id: str
    candidate: str = ""
    model: str = ""
    patch: Raw


class Request(Value):
    reference: str
    """The dataset's, by which its answers are found."""
    answers: Path | None = None
    """A file that holds them, where the dataset does not."""
    problems: tuple[Problem, ...]
    submissions: tuple[Submission, ...]
    graders: tuple[Grader, ...]
    out: Path
    """Where grades.jsonl is, or will be."""
    sandbox: str = "auto"
    states: Path
    where: Where
    jobs: int
    """Gradings at once."""
    seconds: float | None = None
    """Wall time of a grading; None: as the answer says."""
