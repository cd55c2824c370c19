"""What is known to be right: a run's grades, or a file of labels. Read when everything is decided; nothing that decides sees it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from runoff.agent.protocol import digest
from runoff.grading import records
from runoff.grading.protocol import Grade, Grader
from runoff.measure import Labels
from runoff.sandbox.protocol import Value

_BEFORE: tuple[Grader, ...] = ("fast", "harness")
"""Whoever comes later is believed where both graded a patch."""


class Disagreement(Value):
    """A patch that the two graders do not call the same."""

    instance: str
    candidate: str
    """Empty: what was submitted."""
    fast: bool
    harness: bool


class Right:
    """Which patches are right. Empty for a run of which nothing is graded."""

    def __init__(self, labels: Labels | None = None, grades: Mapping[str, list[Grade]] | None = None) -> None:
        """Labels, where given, stand alone; otherwise grades, by instance."""
        self.disagreements: list[Disagreement] = []
        self.whys: list[tuple[str, str, str, str]] = []
        """Of patches that are not right: `graded wrong` or `could not be graded`, why, instance, candidate."""
        self.untold = 0
        """Grades of which the infrastructure failed."""
        self._labels, self._grades = labels, grades or {}
        self._by_name: dict[tuple[str, str], bool] = {}
        self._by_patch: dict[tuple[str, str], bool] = {}
        self._labelled = {instance for instance, _ in labels} if labels else set[str]()
        for found in self._grades.values():
            self._take(found)

    def _take(self, grades: list[Grade]) -> None:
        by_grader = defaultdict[tuple[str, str, str], dict[Grader, bool]](dict)
        for grade in sorted(grades, key=lambda grade: _BEFORE.index(grade.grader)):
            if not grade.resolved:
                kind = "could not be graded" if grade.resolved is None else "graded wrong"
                self.whys.append((kind, grade.why, grade.instance_id, grade.candidate))
            if grade.resolved is None:
                self.untold += 1
                continue
            if grade.candidate:
                self._by_name[grade.instance_id, grade.candidate] = grade.resolved
            if grade.patch:
                self._by_patch[grade.instance_id, grade.patch] = grade.resolved
            by_grader[grade.instance_id, grade.candidate, grade.patch][grade.grader] = grade.resolved
        for (instance, candidate, _), said in by_grader.items():
            if len(set(said.values())) == 2:
                told = {"fast": said["fast"], "harness": said["harness"]}
                self.disagreements.append(Disagreement(instance=instance, candidate=candidate, **told))

    def __bool__(self) -> bool:
        return bool(self._labels or self._grades)

    def says(self, instance: str) -> bool:
        """Whether it speaks of an instance. Labels may be of some instances; a run's grades are of all that submits anything."""
        return bool(self._grades) if self._labels is None else instance in self._labelled

    def of(self, instance: str, names: Sequence[str], patches: Sequence[str]) -> bool | None:
        """Whether a candidate is right: by its own name or by whose it is, the first that is known; else by the text of one of
        its patches, as it was proposed or cleaned. None: not known."""
        known = self._by_name if self._labels is None else self._labels
        found = [known.get((instance, name)) for name in names]
        found += [self._by_patch.get((instance, digest(text))) for text in patches if text]
        return next((right for right in found if right is not None), None)

    def gold_files(self, instance: str) -> tuple[str, ...]:
        return next((grade.gold_files for grade in self._grades.get(instance, ()) if grade.gold_files), ())


def read_grades(run: Path) -> tuple[dict[str, list[Grade]], int]:
    """A run's grades by instance, and how many lines are damaged."""
    last, damaged = records.read(run)
    found = defaultdict[str, list[Grade]](list)
    for grade in last.values():
        found[grade.instance_id].append(grade)
    return dict(found), damaged
