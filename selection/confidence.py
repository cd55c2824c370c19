"""How sure a submission may be called: a calibrated probability, when to abstain, and whether the choice hangs on one test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil, exp, log, log2, sqrt
from typing import Literal

from runoff.sandbox.protocol import Value
from runoff.selection.estimators.probabilities import Judged, lower_bound
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Entry, Features, OutcomeTable, Score, Stability
from runoff.selection.scaling import behaviour


def features(
    table: OutcomeTable | None,
    entries: Sequence[Entry],
    scores: Mapping[str, Score],
    submitted: str,
    rounds: Sequence[str | None] = (),
    hangs_on: Stability | None = None,
) -> Features:
    """`submitted`: an entry's id; `rounds`: the entry that each round of the run-off chose. Who passes the control is no rival."""
    able = [one for one in entries if one.id == submitted or table is None or table.control.get(one.id) != "pass"]
    kinds = {one.id: behaviour(one, table) for one in able}
    rivals = [name for name, kind in kinds.items() if kind != kinds[submitted]]
    cast = Counter[object]()
    for one in able:
        cast[kinds[one.id]] += len(one.proposers)
    share = dict[str, float]()
    if table and table.generated:
        share = {name: table.votes(name) / len(table.generated) for name in kinds if name in table.rows}
    p = {name: score.p for name, score in scores.items() if name in kinds and score.p is not None}
    lost = table.broken.get(submitted) if table and table.repository else None
    return Features(
        votes=share.get(submitted),
        vote_margin=_margin(share, submitted, rivals),
        cluster=cast[kinds[submitted]] / cast.total(),
        score=p.get(submitted),
        score_margin=_margin(p, submitted, rivals),
        regression=None if lost is None else 1 / (1 + len(lost)),
        agreement=sum(kinds.get(name or "") == kinds[submitted] for name in rounds) / len(rounds) if rounds else None,
        stable=1 - hangs_on.changed / hangs_on.tried if hangs_on and hangs_on.tried else None,
    )


class Threshold(Value):
    """Where to abstain for a wanted precision."""

    at: float
    """The lowest probability that is submitted."""
    submitted: int
    """Of the issues that it was chosen on."""
    right: int
    at_least: float
    """The precision that these bear out."""


class Calibration(Value):
    """What turns features into a probability: data, to be stored with what it was fitted on. Frozen pydantic: `model_dump_json`."""

    kind: Literal["logistic"] = "logistic"
    intercept: float
    weights: dict[str, float]
    """Feature → log-odds for one scale of it above its centre. A feature that did not vary is not here."""
    centres: dict[str, float]
    scales: dict[str, float]
    rule: str = ""
    """How the issues were decided that it was fitted on: the ranking's name."""
    judged: tuple[Judged, ...]
    """Each issue's probability by a fit that saw none of its group, and its label: what thresholds and quality are read from."""

    @property
    def how(self) -> str:
        """What its probabilities rest on, in a few words."""
        return f"calibrated on {len(self.judged)} issues" + (f", decided by {self.rule}" if self.rule else "")

    def probability(self, seen: Features) -> float:
        known = {name: value for name in self.weights if (value := getattr(seen, name)) is not None}
        return _logistic(self.intercept + sum(self.weights[name] * self._scaled(name, known[name]) for name in known))

    def _scaled(self, name: str, value: float) -> float:
        return (value - self.centres[name]) / self.scales[name]

    def threshold(self, precision: float, sure: float = 0.95) -> Threshold | None:
        """Submit most while the precision is at least `precision`, with certainty `sure`; None: nothing fitted bears that out.

        Selection with guaranteed risk (Geifman and El-Yaniv 2017, arXiv 1705.08500, algorithm 1): a binary search over
        thresholds, each held to a Clopper–Pearson bound of its share of the error, so that having looked at several is paid
        for. It holds for issues like those it was fitted on, and as far as the whole fit is like those that judged them.
        """
        if not self.judged:
            return None
        ranked = sorted(self.judged)
        steps = ceil(log2(max(2, len(ranked))))
        low, high, best = 0, len(ranked) - 1, None
        for _ in range(steps):
            at = ranked[ceil((low + high) / 2)][0]
            labels = [right for p, right in ranked if p >= at]
            bound = lower_bound(sum(labels), len(labels), (1 - sure) / steps)
            if bound >= precision:
                high = ceil((low + high) / 2)
                if best is None or at < best.at:
                    best = Threshold(at=at, submitted=len(labels), right=sum(labels), at_least=bound)
            else:
                low = ceil((low + high) / 2)
        return best


def fit(
    seen: Sequence[Features], right: Sequence[bool], groups: Sequence[str] | None = None, *, penalty: float = 1.0
) -> Calibration:
    """Logistic regression with a ridge (Platt 1999, over several features; le Cessie and van Houwelingen 1992 for the ridge).

    One row an issue. `groups`: what must not be on both sides when the fit is judged, such as repositories; None: issues.
    Features are centred and scaled to unit deviation; one that is not known counts as its mean, and the penalty is on the weights alone.
    Raises ValueError on fewer than 20 issues, or fewer than 5 of either label: too few to call anything calibrated.
    """
    n, good = len(seen), sum(right)
    if len(right) != n or (groups is not None and len(groups) != n):
        raise ValueError(f"{n} rows of features, {len(right)} labels, {n if groups is None else len(groups)} groups")
    if n < 20 or min(good, n - good) < 5:
        raise ValueError(f"{n} issues, {good} of them right: a calibration takes 20, and 5 each of right and wrong")
    named = [str(place) for place in range(n)] if groups is None else groups
    folds = _folds(named)
    judged = dict[int, Judged]()
    for fold in folds:
        inside = [place for place in range(n) if named[place] not in fold]
        if not inside:
            raise ValueError(f"all issues are of one group, {named[0]}: there is nothing to judge the fit on")
        fitted = _fit([seen[place] for place in inside], [right[place] for place in inside], penalty)
        judged |= {place: (fitted.probability(seen[place]), right[place]) for place in range(n) if named[place] in fold}
    return _fit(seen, right, penalty).model_copy(update={"judged": tuple(judged[place] for place in range(n))})


def probability(seen: Features, calibration: Calibration | None) -> float | None:
    """P(the submission is right); None without a calibration: then no probability is claimed, whatever the verifier said."""
    return None if calibration is None else calibration.probability(seen)


def abstention(
    seen: Features, calibration: Calibration | None, *, below: float | None = None, precision: float | None = None
) -> str | None:
    """Why nothing is to be submitted, or None. `below`: the least probability; `precision`: what calibration data must bear out.

    What was asked for and cannot be promised is a reason to abstain, not to submit.
    """
    if below is None and precision is None:
        return None
    if calibration is None:
        return "abstained: nothing was calibrated, so no probability can be stated"
    least = below or 0.0
    if precision is not None:
        threshold = calibration.threshold(precision)
        if threshold is None:
            return f"abstained: no probability bears out a precision of {precision:.0%} on {len(calibration.judged)} issues"
        least = max(least, threshold.at)
    p = calibration.probability(seen)
    return f"abstained: right with a probability of {p:.2f}, below {least:.2f}" if p < least else None


def stability(evidence: Evidence, first: Callable[[Evidence], str | None]) -> Stability:
    """Decide again without each test, and without each trajectory or agent. Nothing is executed or asked anew.

    `first`: who is first of a ranking over such evidence. Tests that say the same of everyone are tried once for all of them.
    """
    table, now = evidence.table, first(evidence)
    if table is None or now is None:
        return Stability(first=now)

    def without(**part: set[str]) -> str | None:
        return first(evidence.model_copy(update={"table": table.part(**part)}))

    generated, repository, everyone = set(table.generated), set(table.repository), _everyone(evidence)
    of_first = {evidence.origin(name) for entry in evidence.entries if entry.id == now for name in entry.proposers}
    members = [one for one in evidence.members() if of_first != {one}]
    alike = _alike(
        table.generated,
        lambda test: (
            *(row[test] for row in table.rows.values()),
            table.authors.get(test),
            len(table.same.get(test, (test,))),
        ),
    )
    broken_by = dict[str, list[str]]()
    for name, lost in table.broken.items():
        for test in lost or ():
            broken_by.setdefault(test, []).append(name)
    telling = _alike([test for test in table.repository if test in broken_by], lambda test: tuple(broken_by[test]))
    return Stability(
        first=now,
        tried=sum(map(len, [*alike, *telling])) + len(members),
        generated=_changes(alike, now, lambda test: without(generated=generated - {test})),
        repository=_changes(telling, now, lambda test: without(repository=repository - {test})),
        members=_changes([[one] for one in members], now, lambda one: first(evidence.among(everyone - {one}))),
    )


def _everyone(evidence: Evidence) -> set[str]:
    """Members, and whoever else a test is of: those that nobody proposed stay when a member goes."""
    tests = evidence.table.same.values() if evidence.table else ()
    return {*evidence.members(), *(evidence.origin(name) for names in tests for name in names)}


def _alike(names: Sequence[str], kind: Callable[[str], object]) -> list[list[str]]:
    groups = dict[object, list[str]]()
    for name in names:
        groups.setdefault(kind(name), []).append(name)
    return list(groups.values())


def _changes(groups: Sequence[Sequence[str]], now: str, without: Callable[[str], str | None]) -> dict[str, str | None]:
    found = [(group, without(group[0])) for group in groups]
    return {name: then for group, then in found if then != now for name in group}


def _margin(values: Mapping[str, float], submitted: str, rivals: Sequence[str]) -> float | None:
    others = [values[name] for name in rivals if name in values]
    return values[submitted] - max(others) if others and submitted in values else None


def _fit(seen: Sequence[Features], right: Sequence[bool], penalty: float) -> Calibration:
    centres, scales, columns = dict[str, float](), dict[str, float](), dict[str, list[float]]()
    for name in Features.model_fields:
        column = [getattr(one, name) for one in seen]
        known = [value for value in column if value is not None]
        if len(set(known)) < 2:
            continue
        centres[name] = sum(known) / len(known)
        scales[name] = sqrt(sum((value - centres[name]) ** 2 for value in known) / len(known))
        columns[name] = [0.0 if value is None else (value - centres[name]) / scales[name] for value in column]
    intercept, weights = _regress(columns, right, penalty)
    return Calibration(intercept=intercept, weights=weights, centres=centres, scales=scales, judged=())


def _regress(
    columns: Mapping[str, Sequence[float]], right: Sequence[bool], penalty: float
) -> tuple[float, dict[str, float]]:
    """Coordinate by coordinate, by a bound on the curvature (Böhning and Lindsay 1988): every step lowers the loss."""
    n, good = len(right), sum(right)
    intercept = log((good + 1) / (n - good + 1))
    weights = dict.fromkeys(columns, 0.0)
    if good in (0, n):
        return intercept, weights
    lean = [intercept] * n
    curvature = {name: sum(x * x for x in column) / 4 + penalty for name, column in columns.items()}
    for _ in range(2000):
        most = step = sum(y - _logistic(z) for y, z in zip(right, lean, strict=True)) / (n / 4)
        intercept += step
        lean = [z + step for z in lean]
        for name, column in columns.items():
            slope = sum((y - _logistic(z)) * x for x, y, z in zip(column, right, lean, strict=True))
            step = (slope - penalty * weights[name]) / curvature[name]
            weights[name] += step
            lean = [z + step * x for x, z in zip(column, lean, strict=True)]
            most = max(abs(most), abs(step))
        if abs(most) < 1e-8:
            break
    return intercept, weights


def _folds(groups: Sequence[str], most: int = 5) -> list[set[str]]:
    """Whole groups dealt to folds of like size, the largest first."""
    sizes = Counter(groups)
    folds: list[tuple[int, set[str]]] = [(0, set()) for _ in range(min(most, len(sizes)))]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        place = min(range(len(folds)), key=lambda place: folds[place][0])
        folds[place] = (folds[place][0] + sizes[name], folds[place][1] | {name})
    return [names for _, names in folds]


def _logistic(z: float) -> float:
    return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))
