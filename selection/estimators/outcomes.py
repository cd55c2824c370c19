"""What was submitted against what could have been: gap recovered, contested issues, the waterfall of losses, flips between runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from pydantic import model_validator

from runoff.sandbox.protocol import Value
from runoff.selection.estimators.probabilities import mcnemar


class Graded(Value):
    """One issue: which of its candidates are right by their labels, and what a rule submits.

    Raises ValueError if there is no candidate, or something is submitted that is none.
    """

    issue: str
    right: dict[str, bool]
    """Member of the pool (an agent, or a trajectory) → whether its candidate is right, in the order of the pool."""
    submitted: tuple[str, ...] = ()
    """One of these, each as likely as another: several are a tie. None: nothing is submitted, so nothing is resolved."""
    made: dict[str, bool] = {}
    """Candidates that no member proposed, such as a fusion: they can be submitted, but are not part of the pool."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.right:
            raise ValueError(f"{self.issue}: no candidate")
        if strange := set(self.submitted) - {*self.right, *self.made}:
            raise ValueError(f"{self.issue}: {', '.join(sorted(strange))} submitted, which is no candidate")
        if both := set(self.right) & set(self.made):
            raise ValueError(f"{self.issue}: {', '.join(sorted(both))} is proposed and made")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Made anew: a plain copy would take what is cached below along, and answer for the rule before."""
        return type(self).model_validate(self.model_dump() | dict(update or {}))

    @cached_property
    def mean(self) -> float:
        """Resolved by a candidate drawn at random."""
        return sum(self.right.values()) / len(self.right)

    @cached_property
    def first(self) -> bool:
        return next(iter(self.right.values()))

    @cached_property
    def oracle(self) -> bool:
        return any(self.right.values())

    @cached_property
    def contested(self) -> bool:
        """Some candidates are right and some are not: only here can a selector gain or lose."""
        return len(set(self.right.values())) == 2

    @cached_property
    def selected(self) -> float:
        """P(resolved) by what is submitted."""
        labels = self.right | self.made
        return sum(labels[name] for name in self.submitted) / len(self.submitted) if self.submitted else 0.0


class Gap(Value):
    """How far a selection came from a baseline to the best that its candidates allow. All are shares of the issues."""

    issues: int
    mean: float
    first: float
    best: float
    """The best single member's; where it has no candidate, it has not resolved."""
    best_member: str
    selected: float
    oracle: float

    def recovered(self, baseline: float) -> float | None:
        """(selected − baseline) / (oracle − baseline), a ratio of means over issues; None where there is no gap.

        As in R2E-Gym and CodeMonkeys' "gap between random selection and coverage". Below 0: worse than the baseline; above 1:
        a candidate that no member proposed resolved what none of them did.
        """
        return (self.selected - baseline) / (self.oracle - baseline) if self.oracle > baseline else None

    @property
    def against_mean(self) -> float | None:
        return self.recovered(self.mean)

    @property
    def against_first(self) -> float | None:
        return self.recovered(self.first)

    @property
    def against_best(self) -> float | None:
        return self.recovered(self.best)


def gap(issues: Sequence[Graded], best_member: str | None = None) -> Gap:
    """Selected, and what to hold it against. `best_member` None: the one that is best on these very issues, by hindsight.

    In a bootstrap name the member: one found anew in each resample is better than any that could have been used.
    """
    if not issues:
        raise ValueError("no issues: there is nothing to estimate")
    best_member = best_single(issues) if best_member is None else best_member
    n = len(issues)
    return Gap(
        issues=n,
        mean=sum(one.mean for one in issues) / n,
        first=sum(one.first for one in issues) / n,
        best=sum(one.right.get(best_member, False) for one in issues) / n,
        best_member=best_member,
        selected=sum(one.selected for one in issues) / n,
        oracle=sum(one.oracle for one in issues) / n,
    )


def best_single(issues: Sequence[Graded]) -> str:
    """The member that resolves most of these issues; of equals, the first by name."""
    resolved = Counter[str]()
    for one in issues:
        resolved.update({name: int(right) for name, right in one.right.items()})
    return min(resolved, key=lambda name: (-resolved[name], name))


class Contest(Value):
    """Issues by what the pool makes of them. The four add up to all; ties make fractions."""

    unsolved: int
    """No candidate is right."""
    solved: int
    """Every candidate is right."""
    right: float
    """Contested, and resolved by what is submitted."""
    wrong: float
    chance: float
    """Contested issues that a candidate drawn at random would resolve."""

    @property
    def accuracy(self) -> float | None:
        """Share of the contested issues that were picked right; None: nothing is contested."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None


def contest(issues: Sequence[Graded]) -> Contest:
    contested = [one for one in issues if one.contested]
    right = sum(one.selected for one in contested)
    return Contest(
        unsolved=sum(not one.oracle for one in issues),
        solved=sum(all(one.right.values()) for one in issues),
        right=right,
        wrong=len(contested) - right,
        chance=sum(one.mean for one in contested),
    )


class Waterfall(Value):
    """Where issues are lost, stage by stage (after the figure of losses in CodeMonkeys, arXiv 2501.14723).

    Raises ValueError if the stages do not add up to the issues.
    """

    issues: int
    files_missed: int
    """No right candidate, and the context lacked a file that the fix changes."""
    no_right_candidate: int
    """None, though the files were there."""
    not_selected: float
    """A right one, and another, or nothing, was submitted."""
    resolved: float

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.files_missed + self.no_right_candidate + self.not_selected + self.resolved
        if abs(total - self.issues) > 1e-9 * max(1, self.issues):
            raise ValueError(f"the waterfall's stages add up to {total:g}, not to its {self.issues} issues")
        return self


def waterfall(issues: Sequence[Graded], files_missed: Collection[str] = ()) -> Waterfall:
    """`files_missed`: issues whose context lacked a file of the reference fix.

    An issue with a right candidate is never lost to its files: there, the fix was possible without.
    """
    lost = [one.issue for one in issues if not (one.oracle or any(one.made.values()))]
    missed = sum(name in files_missed for name in lost)
    resolved = sum(one.selected for one in issues)
    return Waterfall(
        issues=len(issues),
        files_missed=missed,
        no_right_candidate=len(lost) - missed,
        not_selected=len(issues) - len(lost) - resolved,
        resolved=resolved,
    )


class Flips(Value):
    """Two rules, runs or budgets on the same issues: which changed, and whether it could be chance."""

    gained: tuple[str, ...]
    """Wrong before, right after."""
    lost: tuple[str, ...]
    right: int
    """Right in both."""
    wrong: int

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided."""
        return mcnemar(len(self.gained), len(self.lost))


def flips(before: Mapping[str, bool], after: Mapping[str, bool]) -> Flips:
    """Issue → resolved, twice. Raises ValueError if these are not the same issues: unpaired figures are no comparison."""
    if strange := before.keys() ^ after.keys():
        raise ValueError(f"{len(strange)} issues are in one of the two only, such as {min(strange)}")
    return Flips(
        gained=tuple(sorted(name for name, right in after.items() if right and not before[name])),
        lost=tuple(sorted(name for name, right in after.items() if not right and before[name])),
        right=sum(right and before[name] for name, right in after.items()),
        wrong=sum(not right and not before[name] for name, right in after.items()),
    )
