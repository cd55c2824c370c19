"""What each ingredient of a ranking adds: every named ranking again without it, by the same evidence. Labels only measure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from runoff import measure
from runoff.sandbox.protocol import Value
from runoff.selection.elect import SelectionRecipe, rank
from runoff.selection.estimators import outcomes, resampling
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Entry, OutcomeTable, Selection

Choices = Mapping[tuple[str, str], Mapping[str, Selection]]
"""Rule and the ingredient that it was left without → instance → what it decides."""


class Share(Value):
    """What a rule loses without an ingredient, on the issues that have labels."""

    rule: str
    without: str
    selected: float
    """Resolved without it."""
    share: float
    """Resolved with it, less that."""
    low: float | None
    """95 % interval of `share`, by bootstrap over issues."""
    high: float | None
    gained: int
    """Issues that only the whole rule resolves."""
    lost: int
    """Issues that only the rule without it resolves."""
    p: float
    """McNemar's, of these two."""


def _votes(of: Callable[[OutcomeTable, str], bool]) -> Callable[[Evidence], Evidence]:
    """Without the generated tests for which `of` holds."""

    def without(evidence: Evidence) -> Evidence:
        if (table := evidence.table) is None:
            return evidence
        kept = [test for test in table.generated if not of(table, test)]
        return evidence.model_copy(update={"table": table.part(generated=kept)})

    return without


def _no_regression(evidence: Evidence) -> Evidence:
    update: dict[str, object] = {"repository": (), "broken": {}}
    return evidence.model_copy(update={"table": evidence.table and evidence.table.model_copy(update=update)})


def _no_agreement(evidence: Evidence) -> Evidence:
    """Each candidate proposed once, and nothing in the patches that could be alike; their lengths stay."""

    def alone(entry: Entry) -> Entry:
        blank = entry.candidate.model_copy(update={"patch": b"\n" * len(entry.candidate.patch)})
        return entry.of(entry.proposers[:1]).model_copy(update={"candidate": blank})

    return evidence.model_copy(update={"entries": tuple(map(alone, evidence.entries))})


INGREDIENTS: Mapping[str, Callable[[Evidence], Evidence]] = {
    "verifier": lambda evidence: evidence.model_copy(update={"scores": {}}),
    "generated tests": _votes(lambda table, test: test not in table.authors),
    "brought tests": _votes(lambda table, test: test in table.authors),
    "regression": _no_regression,
    "agreement": _no_agreement,
    "exemptions": lambda evidence: evidence.model_copy(update={"exempt": {}}),
    "known agents": lambda evidence: evidence.model_copy(update={"reliability": {}}),
}
"""Each takes one kind of evidence away and leaves the rest as it is."""


def ablated(
    evidence: Mapping[str, Evidence], rules: Collection[str], recipe: Callable[[str, str], SelectionRecipe]
) -> Choices:
    """Rankings without each ingredient that they use: one whose order is the same without it on every issue does not.

    `recipe`: instance and rule → what to rank by. No run-off and no abstaining: it is the ranking that is taken apart. Pure.
    """
    found: dict[tuple[str, str], dict[str, Selection]] = {}
    for rule in rules:
        whole = {name: rank(one, recipe(name, rule)) for name, one in evidence.items()}
        for ingredient, without in INGREDIENTS.items():
            less = {name: rank(without(one), recipe(name, rule)) for name, one in evidence.items()}
            if any(_order(whole[name]) != _order(less[name]) for name in evidence):
                found[rule, ingredient] = {
                    name: selection.model_copy(update={"entries": evidence[name].entries})
                    for name, selection in less.items()
                }
    return found


def shares(
    evidence: Mapping[str, Evidence],
    chosen: Mapping[str, Mapping[str, Selection]],
    less: Choices,
    labels: measure.Labels,
) -> list[Share]:
    """`chosen`: what the whole rules decide."""
    found = []
    for (rule, ingredient), without in less.items():
        pairs = list[tuple[outcomes.Graded, outcomes.Graded]]()
        for name, one in evidence.items():
            both = (
                measure.graded(name, one, chosen[rule][name], labels),
                measure.graded(name, one, without[name], labels),
            )
            if both[0] and both[1]:
                pairs.append((both[0], both[1]))
        differences = [whole.selected - part.selected for whole, part in pairs]
        if not differences:
            continue
        bounds = resampling.bootstrap(differences, lambda drawn: sum(drawn) / len(drawn))
        right = [{one.issue: one.selected > 0.5 for one in side} for side in zip(*pairs, strict=True)]
        flipped = outcomes.flips(right[1], right[0])
        found.append(
            Share(
                rule=rule,
                without=ingredient,
                selected=sum(part.selected for _, part in pairs) / len(pairs),
                share=sum(differences) / len(differences),
                low=bounds.low,
                high=bounds.high,
                gained=len(flipped.gained),
                lost=len(flipped.lost),
                p=flipped.p,
            )
        )
    return found


def table(found: Sequence[Share]) -> str:
    """For a terminal: a line a ranking, a column an ingredient."""
    if not found:
        return ""
    cells = {(one.rule, one.without): f"{100 * one.share:+.1f} (+{one.gained} −{one.lost})" for one in found}
    names = [name for name in INGREDIENTS if any(one.without == name for one in found)]
    lines = [
        "what each ingredient adds: points of `selected` that the ranking loses without it (issues won, lost by having it)",
        f"{'ranking':12}  " + "  ".join(f"{name:16}" for name in names).rstrip(),
    ]
    for rule in dict.fromkeys(one.rule for one in found):
        lines.append(f"{rule:12}  " + "  ".join(f"{cells.get((rule, name), '–'):16}" for name in names).rstrip())
    return "\n".join(lines)


def _order(selection: Selection) -> list[str]:
    return [standing.entry for standing in selection.standings]
