"""grades.jsonl: a line a grade, durable one at a time, each with a checksum. Whoever reads a run reads it here."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from runoff.agent.log import LogBusy
from runoff.agent.protocol import digest
from runoff.grading.protocol import GRADES, Grade, Grader
from runoff.sandbox.protocol import Raw


class Key(NamedTuple):
    """What a grade is of: of several lines the last counts."""

    instance: str
    candidate: str
    model: str
    patch: str
    grader: Grader


def key(grade: Grade) -> Key:
    return Key(grade.instance_id, grade.candidate, grade.model, grade.patch, grade.grader)


def name_of(patch: Raw) -> str:
    """`Grade.patch`: empty for no patch."""
    return digest(patch.decode("utf-8", "surrogateescape")) if patch else ""


def read(folder: Path) -> tuple[dict[Key, Grade], int]:
    """The grades of a run's directory, and how many damaged lines are passed over: those are graded again."""
    found, damaged = dict[Key, Grade](), 0
    try:
        lines = (folder / GRADES).read_bytes().split(b"\n")
    except FileNotFoundError:
        return found, damaged
    for line in filter(None, lines):
        try:
            grade = Grade.model_validate_json(line)
        except ValidationError:
            damaged += 1
            continue
        if grade.check and grade.check != _check(grade):
            damaged += 1
        else:
            found[key(grade)] = grade
    return found, damaged


class Records:
    """The only writer of a directory's grades."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def append(self, grade: Grade) -> None:
        """Durable when it returns."""
        said = grade.model_copy(update={"check": _check(grade)}).model_dump(mode="json", exclude_defaults=True)
        data = json.dumps(said | {"resolved": grade.resolved}).encode() + b"\n"
        while data:
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)


@contextmanager
def writing(folder: Path) -> Iterator[Records]:
    """Raises LogBusy if another process grades into this directory."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / GRADES, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogBusy(f"{folder / GRADES} is being written by another runoff eval; wait for it") from None
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")  # a torn line must not take the next one with it
        yield Records(handle)
    finally:
        os.close(handle)


def _check(grade: Grade) -> str:
    """Without what is at its default, so that a field more in a later version makes no line a damaged one."""
    said = grade.model_dump(mode="json", exclude_defaults=True, exclude={"check"})
    return digest(json.dumps(said, sort_keys=True), size=4)
