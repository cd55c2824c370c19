"""What grades come to: the harness's report, two graders compared, labels compared. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from runoff.grading.protocol import Grade, Grader
from runoff.grading.records import Key
from runoff.sandbox.protocol import Value
from runoff.selection.estimators.probabilities import clopper_pearson

TIMED_OUT = "the tests timed out"
NOT_RUN = ("does not apply", "does not build", TIMED_OUT, "the tests were killed", "the tests wrote more")
"""How `Grade.why` begins where the tests came to no report: the harness counts these as errors."""


class Share(Value):
    """What a model's submissions come to."""

    model: str
    grader: Grader
    resolved: int
    told: int
    """Submissions that could be graded."""
    untold: int
    low: float | None
    """95 % interval of the share resolved of those told, Clopper and Pearson's."""
    high: float | None


def shares(grades: Iterable[Grade]) -> list[Share]:
    """By model and grader, of what was submitted."""
    of = dict[tuple[str, Grader], list[Grade]]()
    for grade in grades:
        if not grade.candidate:
            of.setdefault((grade.model, grade.grader), []).append(grade)
    found = []
    for (model, grader), all_of in sorted(of.items()):
        told = [grade for grade in all_of if grade.resolved is not None]
        right = sum(grade.resolved is True for grade in told)
        low, high = clopper_pearson(right, len(told)) if told else (None, None)
        found.append(
            Share(
                model=model,
                grader=grader,
                resolved=right,
                told=len(told),
                untold=len(all_of) - len(told),
                low=low,
                high=high,
            )
        )
    return found


def oracle(grades: Iterable[Grade], grader: Grader) -> tuple[int, int]:
    """Instances of which any candidate, or what was submitted, is right; and all."""
    right = dict[str, bool]()
    for grade in grades:
        if grade.grader == grader:
            right[grade.instance_id] = right.get(grade.instance_id, False) or grade.resolved is True
    return sum(right.values()), len(right)


def report(grades: Collection[Grade], instances: Collection[str]) -> dict[str, Any]:
    """In the shape of swebench's own (schema_version 2), for one model's submissions by one grader.

    An instance that could not be told is among the errors and the infrastructure's failures; whether a time-out is the patch's
    fault is ambiguous.
    """
    empty = {grade.instance_id for grade in grades if not grade.patch}
    untold = {grade.instance_id for grade in grades if grade.resolved is None}
    errors = untold | {grade.instance_id for grade in grades if grade.why.startswith(NOT_RUN)}
    resolved = {grade.instance_id for grade in grades if grade.resolved}
    submitted = {grade.instance_id for grade in grades}
    completed = submitted - empty - errors
    ids = {
        "completed": completed,
        "incomplete": set(instances) - submitted,
        "empty_patch": empty,
        "submitted": submitted,
        "resolved": resolved,
        "unresolved": completed - resolved,
        "infra_failure": untold,
        "ambiguous_failure": {grade.instance_id for grade in grades if grade.why.startswith(TIMED_OUT)},
        "error": errors,
    }
    counts = {f"{name}_instances": len(of) for name, of in ids.items() if name != "incomplete"}
    return (
        {"total_instances": len(set(instances) | submitted)}
        | counts
        | {f"{name}_ids": sorted(of) for name, of in ids.items()}
        | {"failure_reasons": {grade.instance_id: grade.why for grade in grades if grade.resolved is None}}
        | {"schema_version": 2}
    )


class Difference(NamedTuple):
    """Where the two graders differ on a patch."""

    fast: Grade
    harness: Grade
    tests: dict[str, tuple[str, str]]
    """Test id → what each says."""

    @property
    def verdict(self) -> bool:
        return self.fast.resolved is not self.harness.resolved


class Compared(NamedTuple):
    patches: int
    tests: int
    differences: list[Difference]


def compared(grades: Mapping[Key, Grade]) -> Compared:
    """The patches that both could tell, each once."""
    by_patch = dict[tuple[str, str], dict[Grader, Grade]]()
    for key, grade in grades.items():
        if grade.resolved is not None:
            by_patch.setdefault((key.instance, key.patch), {})[key.grader] = grade
    both = [of for of in by_patch.values() if len(of) == 2]
    found = []
    for of in both:
        fast, harness = of["fast"], of["harness"]
        names = dict.fromkeys([*fast.tests, *harness.tests])
        tests = {
            name: (fast.tests.get(name, "–"), harness.tests.get(name, "–"))
            for name in names
            if fast.tests.get(name) != harness.tests.get(name)
        }
        if tests or fast.resolved is not harness.resolved:
            found.append(Difference(fast, harness, tests))
    return Compared(len(both), sum(len(of["fast"].tests) for of in both), found)


class Labelled(NamedTuple):
    told: int
    """Grades that a label speaks of."""
    different: list[tuple[Grade, bool]]
    """And where it says otherwise."""


def labelled(grades: Iterable[Grade], labels: Mapping[tuple[str, str], bool]) -> Labelled:
    """By the candidate's own name, else by whose it is."""
    told, different = 0, []
    for grade in grades:
        label = labels.get((grade.instance_id, grade.candidate), labels.get((grade.instance_id, grade.model)))
        if label is not None and grade.resolved is not None:
            told += 1
            if label is not grade.resolved:
                different.append((grade, label))
    return Labelled(told, different)
