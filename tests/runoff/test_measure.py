"""Whether a verifier tells right from wrong is read off labels before it is trusted, and said in so many words."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from runoff import measure
from runoff.agent.editing import Candidate
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Entry, Score

Scored = Sequence[tuple[float | None, bool | None]]
ADVICE = "it should not be used (--set selection.verifier.verdicts=0)"


def stored(issues: Mapping[str, Scored]) -> tuple[dict[str, Evidence], dict[tuple[str, str], bool]]:
    """Evidence with these scores, and the labels: each candidate is an entry of its own."""
    evidence, labels = {}, {}
    for issue, scored in issues.items():
        names = [f"c{n}" for n in range(len(scored))]
        evidence[issue] = Evidence(
            entries=tuple(
                Entry(id=name, candidate=Candidate(id=name, patch=b""), proposers=(name,), changed_lines=1)
                for name in names
            ),
            scores={name: Score(p=p) for name, (p, _) in zip(names, scored, strict=True)},
        )
        labels |= {(issue, name): right for name, (_, right) in zip(names, scored, strict=True) if right is not None}
    return evidence, labels


def test_a_verifier_that_tells_right_from_wrong_is_said_to_and_nothing_else() -> None:
    (found,) = measure.worth(*stored({f"i{n}": [(0.9, True), (0.1, False), (0.5, True)] for n in range(6)}))
    assert (found.issues, found.auroc, found.low, found.helps) == (6, 1, 1, True)
    assert "should not be used" not in measure.worth_lines([found])


@pytest.mark.parametrize("scored", [[(0.1, True), (0.9, False)], [(0.5, True), (0.5, False)]])
def test_one_that_hurts_or_does_nothing_is_found_out(scored: Scored) -> None:
    found = measure.worth(*stored({f"i{n}": scored for n in range(20)}))
    assert not found[0].helps
    assert measure.worth_lines(found).endswith("(the interval reaches 0.50 or below): " + ADVICE)


def test_one_that_guesses_is_found_out() -> None:
    chance = random.Random(1)
    issues = {f"i{n}": [(chance.random(), chance.random() < 0.5) for _ in range(6)] for n in range(40)}
    (found,) = measure.worth(*stored(issues))
    assert found.low is not None
    assert found.low < 0.5 < (found.high or 0)
    assert not found.helps


def test_few_contested_issues_show_nothing_however_well_they_went() -> None:
    issues: dict[str, Scored] = {f"i{n}": [(0.9, True), (0.1, False)] for n in range(5)}
    issues |= {f"all right {n}": [(0.9, True), (0.1, True)] for n in range(20)}
    (found,) = measure.worth(*stored(issues))
    assert (found.issues, found.low, found.helps) == (5, 1, False)
    assert measure.worth_lines([found]).endswith("(fewer than 6 contested issues cannot show it): " + ADVICE)


def test_a_missing_verdict_is_counted_and_is_no_no() -> None:
    (found,) = measure.worth(*stored({"i": [(None, True), (0.6, True), (0.4, False), (0.9, None)]}))
    assert (found.auroc, found.missing) == (1, 1)
    (none,) = measure.worth(*stored({"i": [(None, True), (0.4, False)]}))
    assert (none.auroc, none.low, none.issues, none.missing) == (None, None, 0, 1)
    assert ADVICE in measure.worth_lines([none])


def test_without_a_verifier_nothing_is_said() -> None:
    evidence, labels = stored({"i": [(0.6, True), (0.4, False)]})
    assert measure.worth({"i": evidence["i"].model_copy(update={"scores": {}})}, labels) == ()


def test_each_criterion_is_measured_too_and_named_where_it_is_the_same_for_all() -> None:
    evidence, labels = stored({f"i{n}": [(0.5, True), (0.5, False)] for n in range(6)})
    for name, one in evidence.items():
        parts = [{"tells": (1.0, None), name: (0.0,)}, {"tells": (0.0,), name: (None,)}]
        scores = {entry: Score(p=0.5, parts=part) for entry, part in zip(one.scores, parts, strict=True)}
        evidence[name] = one.model_copy(update={"scores": scores})
    whole, tells, own = measure.worth(evidence, labels)
    assert (whole.what, whole.helps) == ("the verifier", False)
    assert (tells.what, tells.auroc, tells.helps) == ("criterion 1 (tells)", 1, True)
    assert (own.what, own.auroc, own.missing) == ("criterion 2", None, 6)


def test_copies_of_one_patch_count_each_as_its_label_says() -> None:
    entry = Entry(id="a", candidate=Candidate(id="a", patch=b""), proposers=("a", "b"), changed_lines=1)
    other = Entry(id="c", candidate=Candidate(id="c", patch=b""), proposers=("c",), changed_lines=1)
    evidence = Evidence(
        entries=(entry, other), scores={"a": Score(p=0.9), "c": Score(p=0.1)}, origins={"b": "agent of b"}
    )
    labels = {("i", "a"): True, ("i", "agent of b"): False, ("i", "c"): False}
    (found,) = measure.worth({"i": evidence}, labels)
    assert found.auroc == 0.75, "the wrong copy ties with the right one"
