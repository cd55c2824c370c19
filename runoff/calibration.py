"""`runoff replay --calibrate`: a calibration of decided issues by their labels, and how well it holds on those it did not see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from runoff import measure
from runoff.run import BadRun
from runoff.selection.confidence import Calibration, fit
from runoff.selection.estimators import probabilities, scores
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Features, Selection


def fitted(
    evidence: Mapping[str, Evidence], selections: Mapping[str, Selection], labels: measure.Labels, rule: str
) -> Calibration:
    """On the issues whose submission has a label, repositories held out in turn. Raises BadRun where they are too few."""
    seen, right, groups = list[Features](), list[bool](), list[str]()
    for name, one in evidence.items():
        graded = measure.graded(name, one, selections[name], labels)
        sure = selections[name].confidence
        if graded and graded.submitted and sure:
            seen.append(sure.seen)
            right.append(graded.selected > 0.5)
            groups.append(repository(name))
    try:
        return fit(seen, right, groups if len(set(groups)) > 1 else None).model_copy(update={"rule": rule})
    except ValueError as error:
        raise BadRun(f"nothing is calibrated: {error}") from None


def repository(instance: str) -> str:
    """What an issue's id says of whose it is: SWE-bench's end in a number; any other is its own."""
    found = re.fullmatch(r"(.+)-\d+", instance)
    return found[1] if found else instance


def quality(calibration: Calibration) -> str:
    """What its probabilities are worth, by those that were stated of issues whose repository had not been seen."""
    found = [f"{calibration.how}; held out, {quality_of(calibration.judged)}"]
    for precision in (0.7, 0.8, 0.9):
        if at := calibration.threshold(precision):
            found.append(
                f"--precision {precision} submits from {at.at:.2f} on: {at.submitted} issues, {at.right} right"
            )
        else:
            found.append(f"--precision {precision} is not borne out: it would submit nothing")
    return "\n  ".join(found)


def quality_of(judged: Sequence[probabilities.Judged]) -> str:
    """Of stated probabilities."""
    area = scores.auroc(list(judged))
    accurate = ", ".join(
        f"{probabilities.selective_accuracy(judged, share):.0%} of the surest {share:.0%}" for share in (0.5, 0.8, 1.0)
    )
    return (
        f"probabilities: Brier {probabilities.brier(judged):.3f}, "
        f"calibration error {probabilities.ece(probabilities.reliability(judged)):.3f}, "
        f"AUROC {'–' if area is None else f'{area:.2f}'}; right: {accurate}"
    )
