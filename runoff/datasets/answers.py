"""Answers, for grading alone: import-linter lets nobody import this but the grading process and what writes whole tasks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from runoff.datasets import hidden
from runoff.datasets.protocol import Answer, BadDataset
from runoff.datasets.rows import RELEASES, Row, rows
from runoff.releases import pairs as releases


def answer(reference: str, instance: str, answers: Path | None = None) -> Answer:
    """The answer to one problem. Raises BadDataset."""
    return read(reference, [instance], answers)[instance]


def read(reference: str, instances: Collection[str] | None = None, answers: Path | None = None) -> dict[str, Answer]:
    """The answers to these problems of a dataset, or to all. `answers` is a file of rows that hold them, where the dataset's do
    not. Raises BadDataset, too, if one has none.
    """
    if reference == RELEASES and not Path(RELEASES).exists():
        found = {one.id: hidden.answer(one) for one in releases.pairs(instances)}
    else:
        kept: dict[str, Row] = {}
        for source in (reference, *([str(answers)] if answers else [])):
            for row in rows(source, answers=True):
                name = row.text("instance_id", needed=True)
                if instances is not None and name not in instances:
                    continue
                before = kept[name].values if name in kept else {}
                kept[name] = Row(row.where, {**before, **row.values})
        found = {name: _answer(row) for name, row in kept.items()}
    if missing := [name for name in instances or () if name not in found]:
        raise BadDataset(f"{answers or reference} has no answer to {missing[0]}")
    return found


def _answer(row: Row) -> Answer:
    values = row.values
    kind = row.text("eval_type") or "pass_and_fail"
    if kind not in ("pass_and_fail", "fail_only"):
        raise row.bad(f"eval_type {kind!r} is neither pass_and_fail nor fail_only")
    limit: dict[str, Any] = {"seconds": float(values["timeout"])} if values.get("timeout") else {}
    found = Answer(
        id=row.text("instance_id", needed=True),
        patch=row.text("patch"),
        test_patch=row.text("test_patch"),
        eval_script=row.text("eval_script"),
        test_command=row.text("test_command"),
        log_parser=row.text("log_parser"),
        eval_type=cast("Any", kind),
        fail_to_pass=row.names("FAIL_TO_PASS"),
        pass_to_pass=row.names("PASS_TO_PASS"),
        tests=row.text("tests"),
        **limit,
    )
    if not (found.fail_to_pass or found.tests):
        raise row.bad("no FAIL_TO_PASS: this is no answer; give the file that holds them with --answers")
    return found
