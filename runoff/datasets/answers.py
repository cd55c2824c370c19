"""Answers, by the reference of a dataset and an instance's id. Only the grading process imports this."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from runoff.datasets.protocol import Answer
from runoff.instance import BadTarget


def answer(reference: str, name: str, answers: Path | None = None) -> Answer:
    """Raises BadTarget where there is none."""
    rows = _rows(answers or Path(reference))
    if name not in rows:
        raise BadTarget(f"{answers or reference} holds no answer for {name}")
    return _answer(rows[name])


@lru_cache(maxsize=2)
def _rows(file: Path) -> Mapping[str, Mapping[str, Any]]:
    return {str(row["instance_id"]): row for row in _lines(file)}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _answer(row: Mapping[str, Any]) -> Answer:
    tests = {
        name: tuple(json.loads(row[name]) if isinstance(row[name], str) else row[name])
        for name in ("FAIL_TO_PASS", "PASS_TO_PASS")
    }
    return Answer(
        id=str(row["instance_id"]),
        patch=row.get("patch") or "",
        test_patch=row.get("test_patch") or "",
        eval_script=row.get("eval_script") or "",
        test_command=row.get("test_command") or "",
        log_parser=row.get("log_parser") or "",
        eval_type=row.get("eval_type") or "pass_and_fail",
        fail_to_pass=tests["FAIL_TO_PASS"],
        pass_to_pass=tests["PASS_TO_PASS"],
    )
