"""grades.jsonl: a line a grade, durable one at a time, each with a checksum. Whoever reads a run reads it here."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from runoff.agent.log import LogBusy
from runoff.agent.protocol import digest
from runoff.grading.protocol import GRADES, Grade, Grader
from runoff.run import write_whole
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
    """The grades of a run's directory, and how many damaged lines are passed over: those are graded again.

    A last line that is not whole, since a kill has torn it or it is being written, is no grade yet.
    """
    found, damaged = dict[Key, Grade](), 0
    for line in _whole_lines(folder):
        if (grade := _read(line)) is None:
            damaged += 1
        else:
            found[key(grade)] = grade
    return found, damaged


def _whole_lines(folder: Path) -> list[bytes]:
    try:
        lines = (folder / GRADES).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [line for line in lines if line.strip()]


def _read(line: bytes) -> Grade | None:
    try:
        grade = Grade.model_validate_json(line)
    except ValidationError:
        return None
    return grade if grade.check in ("", _check(grade)) else None


class Records:
    """The only writer of a directory's grades."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def append(self, grade: Grade) -> None:
        """Durable when it returns."""
        said = grade.model_copy(update={"check": _check(grade)}).model_dump(mode="json", exclude_defaults=True)
        always = {"candidate": grade.candidate, "resolved": grade.resolved}  # so that it can be read as a label
        data = json.dumps(said | always).encode() + b"\n"
        while data:
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)


@contextmanager
def writing(folder: Path, tell: Callable[[str], None] = lambda text: None) -> Iterator[Records]:
    """Damaged lines are set aside, beside it. Raises LogBusy if another process grades into this directory."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / f".{GRADES}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogBusy(f"{folder / GRADES} is being written by another runoff eval; wait for it") from None
        _set_aside(folder, tell)
        handle = os.open(folder / GRADES, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            yield Records(handle)
        finally:
            os.close(handle)
    finally:
        os.close(lock)


def _set_aside(folder: Path, tell: Callable[[str], None]) -> None:
    """What a kill has torn, or a disk has flipped: it must not take the next line with it, nor be found again and again."""
    lines = _whole_lines(folder)
    kept = b"".join(line + b"\n" for line in lines if _read(line))
    if not (folder / GRADES).exists() or kept == (folder / GRADES).read_bytes():
        return
    if damaged := [line for line in lines if not _read(line)]:
        aside = folder / f"{GRADES}.damaged"
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for line in damaged)
        tell(f"{len(damaged)} damaged lines of {folder / GRADES} are set aside in {aside.name}, and graded again")
    write_whole(folder / GRADES, kept)


def _check(grade: Grade) -> str:
    """Without what is at its default, so that a field more in a later version makes no line a damaged one."""
    said = grade.model_dump(mode="json", exclude_defaults=True, exclude={"check"})
    return digest(json.dumps(said, sort_keys=True), size=4)
