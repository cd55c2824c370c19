"""Selection from top to bottom: clean, deduplicate, fill the table, let the verifier score, ask for further tests, rank, hold
the run-off."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator

from runoff.agent.context import Tree
from runoff.agent.environment import Environment, applied, patched
from runoff.agent.patches import file_parts, patched_paths
from runoff.agent.protocol import Message, digest
from runoff.agent.step import Ended, Step, World, settled, trajectory
from runoff.sandbox.protocol import REPO, Refused, Value
from runoff.selection.agreement import known
from runoff.selection.brought_tests import bringer
from runoff.selection.cleaning import clean, tests_aside
from runoff.selection.confidence import Calibration, abstention, features, stability
from runoff.selection.counting import counted
from runoff.selection.evidence import Evidence
from runoff.selection.exempting import Exempt, ask_exempt, telling
from runoff.selection.further import FurtherRecipe, ask_for_test, remark, wanted
from runoff.selection.fusion import FUSION, Fused, fuse
from runoff.selection.pool import blind, proposed
from runoff.selection.protocol import Asked, Candidate, Confidence, Entry, GeneratedTest, OutcomeTable, Selection
from runoff.selection.ranking import hybrid
from runoff.selection.rankings import ranking
from runoff.selection.repository_tests import RegressionRecipe
from runoff.selection.runoff import Decision, RunoffRecipe, certain, decide, in_turn
from runoff.selection.sameness import fingerprint, same_text
from runoff.selection.scaling import Look, ScalingRecipe, look
from runoff.selection.table import fill
from runoff.selection.verifier import VerifierRecipe, verified

EVIDENCE = "decided on/"
"""Where in the log, in the trajectory `selection`, the evidence stands; behind it its digest."""


class SelectionRecipe(Value):
    ranking: str | None = None
    """One of rankings.py, or of a plug-in; None: `margin`, with the two settings that follow."""
    gate: float = 0.5
    """Share of candidates that the verifier lets through, at least three."""
    margin: int = 1
    """Votes within which the verifier decides."""
    seconds: float = 60
    """Wall time of one cell of the outcome table."""
    brought: bool | None = None
    """Whether tests vote that candidates bring in their patches. None: where candidates come from other agents."""
    alike: Literal["each", "once"] | None = None
    """Whether tests that say the same of every candidate have a vote each, or one together. None: each."""
    suspected: Literal["count", "silent"] | None = None
    """Whether tests that are suspected to be wrong (counting.py) vote. None: they count, and the report names them."""
    fusion: bool | None = None
    """Whether one more candidate is made of the edits that recur in the others (fusion.py). None: none is."""
    further: FurtherRecipe | None = None
    """Tests asked for where the others leave the leaders level. None: none are."""
    regression: RegressionRecipe = RegressionRecipe()
    verifier: VerifierRecipe = VerifierRecipe()
    runoff: RunoffRecipe = RunoffRecipe()
    calibration: Calibration | None = None
    """What makes a probability of what is seen of a choice (`runoff replay --calibrate`). In a recipe, the path of its file.
    None: no probability is stated."""
    abstain_below: float | None = Field(default=None, gt=0, le=1)
    """The least probability of being right at which a choice is submitted. Takes a calibration."""
    precision: float | None = Field(default=None, gt=0, lt=1)
    """The share of submissions that are to be right, as far as the calibration bears it out. Takes one."""

    @model_validator(mode="after")
    def _stateable(self) -> Self:
        if self.calibration is None and (self.abstain_below or self.precision):
            raise ValueError("abstaining takes a calibration: without one no probability can be stated")
        return self


async def elect(
    world: World,
    models: Mapping[str, str],
    shared: Message | None,
    tree: Tree,
    environment: Environment,
    candidates: Sequence[Candidate],
    tests: Sequence[GeneratedTest],
    recipe: SelectionRecipe,
    origins: Mapping[str, str] = {},
    suited: Sequence[str] = (),
    reliability: Mapping[str, float] = {},
) -> Selection:
    """One patch, or none, and everything it was decided on. `models` names one for `verifier` and one for `selector`.

    The choice is always defined: where the run-off does not decide, the first of the ranking stands, and `reason` says why.
    Without a model for a role (and `shared`, which is what models are told) that part is left out.
    `origins`, `reliability`: see `Evidence`; `suited`: see `near`.
    """
    entries, rejected = await _entries(world, environment, candidates)
    fusion = None
    if recipe.fusion and (made := _fused(entries, tree, origins, reliability)):
        whole = [*candidates, Candidate(id=FUSION, patch=made.patch)]
        entries, rejected = await _entries(world, environment, whole)
        fusion = made.how if any(entry.id == FUSION for entry in entries) else None  # else others proposed the same
        entries = [_own_voices(entry) for entry in entries]
    if not entries:
        return Selection(chosen=None, reason="none: no candidate could be used", rejected=rejected)
    edits = {candidate.id: tests_aside(candidate.patch) for candidate in candidates} if recipe.brought else {}

    def filled(further: Sequence[GeneratedTest] = ()) -> Awaitable[OutcomeTable]:
        every = [*tests, *further]
        return fill(world, environment, tree, entries, every, recipe.regression, recipe.seconds, edits, suited)

    filling = asyncio.ensure_future(filled())
    judging = asyncio.ensure_future(verified(world, models.get("verifier"), shared, entries, recipe.verifier, filling))
    await settled(filling, judging)
    evidence = Evidence(
        entries=tuple(entries),
        rejected=rejected,
        table=filling.result(),
        scores=judging.result(),
        origins=dict(origins) | _of_their_candidates(filling.result(), origins),
        reliability=dict(reliability),
        fusion=fusion,
    )
    if shared and "selector" in models and recipe.regression.exempt:
        evidence = await _with_exempt(world, models["selector"], shared, tree, evidence, recipe.regression.exempt)
    if shared and "selector" in models and recipe.further:
        evidence = await _asked_further(
            world, models["selector"], shared, environment, evidence, recipe, recipe.further, filled
        )
    await _on_evidence(world, evidence)
    ranked = rank(evidence, recipe)
    if len(ranked.finalists) < 2 or not shared or "selector" not in models:
        return concluded(ranked, evidence, recipe)
    final = [ranked.entry(name) for name in ranked.finalists]
    assert ranked.table
    table = ranked.table
    rounds, repeats = list[Ended[Decision]](), recipe.runoff.repeats or 1
    while not certain([ended.value.chosen if ended.value else None for ended in rounds], repeats):
        first, name = runoff_of(ranked.finalists), runoff_of(ranked.finalists, len(rounds) + 1)
        order = in_turn(final, Step(world, first).random("order"), len(rounds) + 1)
        held = partial(
            decide,
            model=models["selector"],
            shared=shared,
            environment=environment,
            finalists=order,
            table=table,
            recipe=recipe.runoff,
        )
        rounds.append(await trajectory(world, name, Decision, held))
        if rounds[-1].reason in ("budget", "error"):  # no result: the same command goes on from here
            break
    return concluded(decided(ranked, rounds), evidence, recipe, rounds)


def rank(evidence: Evidence, recipe: SelectionRecipe) -> Selection:
    """What evidence comes to before, or without, a run-off. Pure. Raises UnknownRanking.

    The first of the ranking is chosen: `undisputed`, or as the first of the finalists, between whom a run-off may decide.
    """
    table, entries, scores = evidence.judged, evidence.relied_on(), evidence.scores
    if not entries or not table:
        return Selection(chosen=None, reason="none: no candidate could be used", rejected=evidence.rejected)
    votes, silent = counted(table, entries, scores, once=recipe.alike == "once", silence=recipe.suspected == "silent")
    if recipe.ranking:
        standings = ranking(recipe.ranking)(votes, entries, scores)
    else:
        standings = hybrid(votes, entries, scores, gate=recipe.gate, margin=recipe.margin)
    able = [standing.entry for standing in standings if not standing.disqualified]
    finalists = _finalists(able, table, recipe.runoff.finalists)
    if not finalists:
        reason = "none: every candidate passes a test that none may pass"
    elif len(able) == 1:
        why = "the only candidate" if len(entries) == 1 else "the only candidate that is not disqualified"
        reason = f"undisputed: {why}"
    else:
        reason = "ranked: the first of the ranking, without a run-off"
    return Selection(
        chosen=finalists[0] if finalists else None,
        reason=reason,
        remarks=(
            *(filter(None, (_relied_on(evidence), evidence.fusion and str(evidence.fusion)))),
            *(f"{test} does not count, for the issue wants it changed: {why}" for test, why in evidence.exempt.items()),
            *(remark(asked, table) for asked in evidence.further),
            *(f"{test} {why}" for test, why in silent.items()),
        ),
        entries=entries,
        standings=tuple(standings),
        finalists=tuple(finalists),
        table=table,
        silent=silent,
        scores=scores,
        rejected=evidence.rejected,
    )


def _relied_on(evidence: Evidence) -> str:
    """What a reader should know of the agents, where a batch says it."""
    best = sorted(evidence.reliability.items(), key=lambda one: (-one[1], one[0]))[:3]
    said = ", ".join(f"{agent} {much:+.2f}" for agent, much in best)
    return f"learned over the batch, without labels, who is right more often than the others: {said}" if best else ""


def runoff_of(finalists: Sequence[str], number: int = 1) -> str:
    """The trajectory in which these are told apart, in the run-off's first round or a later one."""
    return "run-off-" + "+".join(sorted(finalists)) + (f":{number}" if number > 1 else "")


def decided(ranked: Selection, rounds: Sequence[Ended[Decision]]) -> Selection:
    """A selection after its run-off has ended, with a choice or without. Pure.

    What most rounds chose. Where two are level, or no round chose, the first of the ranking stands: among those, or at all.
    """
    if not rounds:
        return ranked
    choices = [ended.value.chosen if ended.value else None for ended in rounds]
    update: dict[str, object] = {"rounds": tuple(choices)} if len(rounds) > 1 else {}
    cast = Counter(filter(None, choices))
    best = [name for name in ranked.finalists if cast[name] == max(cast.values(), default=0)]
    if not cast:
        of = "" if len(rounds) == 1 else f"no choice in {len(rounds)} rounds; the last: "
        update["reason"] = f"fallback: {of}{_undecided(rounds[-1])}; first of the ranking"
        return ranked.model_copy(update=update)
    first = next(ended.value for ended in rounds if ended.value and ended.value.chosen == best[0])
    update |= {"chosen": best[0], "letters": first.letters}
    if len(best) > 1:
        level = f"{cast[best[0]]} of {len(rounds)} rounds each for {' and '.join(best)}"
        update["reason"] = f"fallback: {level}; first of them in the ranking"
    else:
        of = "" if len(rounds) == 1 else f"in {cast[best[0]]} of {len(rounds)} rounds. "
        update["reason"] = f"chosen: {of}{first.why}"
    return ranked.model_copy(update=update)


def _undecided(ended: Ended[Decision]) -> str:
    return f"abstained ({ended.value.why})" if ended.value else f"{ended.reason} ({ended.note})"


def concluded(
    selection: Selection, evidence: Evidence, recipe: SelectionRecipe, rounds: Sequence[Ended[Decision]] = ()
) -> Selection:
    """A decided selection with how sure it is; where the recipe asks for more than that, nothing is submitted. Pure."""
    if (chosen := selection.chosen) is None:
        return selection
    told, hangs_on = recipe.calibration, stability(evidence, lambda other: rank(other, recipe).chosen)
    choices = [ended.value.chosen if ended.value else None for ended in rounds]
    seen = features(evidence.judged, evidence.entries, evidence.scores, chosen, choices, hangs_on)
    why = abstention(seen, told, below=recipe.abstain_below, precision=recipe.precision)
    sure = Confidence(
        of=chosen,
        p=told.probability(seen) if told else None,
        how=told.how if told else "uncalibrated",
        seen=seen,
        hangs_on=hangs_on,
        withheld=selection.reason if why else None,
    )
    update = {"chosen": None, "reason": f"{why}; it would have been {chosen}"} if why else {}
    return selection.model_copy(update={"confidence": sure, **update})


async def look_at(
    world: World,
    models: Mapping[str, str],
    shared: Message,
    tree: Tree,
    environment: Environment,
    candidates: Sequence[Candidate],
    tests: Sequence[GeneratedTest],
    recipe: SelectionRecipe,
    scaling: ScalingRecipe,
    trajectories: int,
) -> Look:
    """What the first `trajectories` came to, by their generated tests, and whether more are worth it; on record.

    All that is executed or asked here, selection needs too, and does not pay again.
    """
    entries, _ = await _entries(world, environment, candidates)
    without = recipe.regression.model_copy(update={"files": 0})  # which tests are near depends on who else is there
    table = await fill(world, environment, tree, entries, tests, without, recipe.seconds) if entries else None
    first = recipe.verifier.alone()  # what is shown later depends on who else is there
    scores = await verified(world, models["verifier"], shared, entries, first) if scaling.verifier else {}
    found = look(trajectories, entries, table, scores, scaling).model_dump(mode="json")
    evidence = digest(json.dumps(found, sort_keys=True), size=6)  # a run that goes on may see more than it did
    return Look.model_validate(
        await Step(world, "scaling").once(f"look-{trajectories}/{evidence}", lambda: asyncio.sleep(0, found))
    )


async def _entries(
    world: World, environment: Environment, candidates: Sequence[Candidate]
) -> tuple[list[Entry], dict[str, str]]:
    """Distinct cleaned candidates in the order of their ids, and why the others are none."""
    step = Step(world, "selection")
    groups: dict[str, list[tuple[Candidate, tuple[str, ...]]]] = {}
    rejected: dict[str, str] = {}
    prints: dict[bytes, str] = {}
    for candidate in candidates:
        patch, removed = clean(candidate.patch)
        if not patch:
            rejected[candidate.id] = "nothing is left of the patch: " + ("; ".join(removed) or "it holds no diff")
            continue
        cleaned = candidate.model_copy(update={"patch": patch})
        try:
            if patch not in prints:
                prints[patch] = await _fingerprint(step, environment, cleaned)
        except Refused as error:
            rejected[candidate.id] = str(error)
            continue
        groups.setdefault(prints[patch], []).append((cleaned, removed))
    return [
        Entry(
            id=members[0][0].id,
            candidate=members[0][0],
            proposers=tuple(candidate.id for candidate, _ in members),
            wordings=_wordings([candidate for candidate, _ in members]),
            changed_lines=sum(part.changed for part in file_parts(members[0][0].patch)),
            removed=members[0][1],
        )
        for members in groups.values()
    ], rejected


def _wordings(proposed: Sequence[Candidate]) -> tuple[tuple[str, ...], ...]:
    groups = defaultdict[str, list[str]](list)
    for candidate in proposed:
        groups[same_text(candidate.patch)].append(candidate.id)
    return tuple(map(tuple, groups.values())) if len(groups) > 1 else ()


def _fused(
    entries: Sequence[Entry], tree: Tree, origins: Mapping[str, str], reliability: Mapping[str, float]
) -> Fused | None:
    pool = proposed(entries, origins)
    scores = [known(reliability.get(one.agent), near) for one, near in zip(pool.members, blind(pool), strict=True)]
    paths = {path for entry in entries for path in patched_paths(entry.candidate.patch)}
    made = fuse(pool, scores, {path: tree[path] for path in paths if path in tree})
    return made if isinstance(made, Fused) else None


def _own_voices(entry: Entry) -> Entry:
    """A fusion that comes to what others proposed adds no voice to theirs."""
    return entry.of([name for name in entry.proposers if name != FUSION] or entry.proposers)


async def _fingerprint(step: Step, environment: Environment, candidate: Candidate) -> str:
    """What the changed files are after the patch, by their syntax. Raises Refused if it does not apply
    to the pristine tree, or does not build."""
    state = await patched(step.world, environment, candidate.patch)
    await applied(step.world, environment.pristine, candidate.patch)

    async def read() -> str:
        files: dict[str, bytes | None] = {}
        for path in patched_paths(candidate.patch):
            try:
                files[path] = await step.world.sandbox.read(state, f"{REPO}/{path}")
            except Refused:
                files[path] = None
        return fingerprint(files)

    patch = hashlib.blake2b(candidate.patch, digest_size=16).hexdigest()
    return str(await step.once(f"fingerprint/{candidate.id}", read, patch=patch))


def _of_their_candidates(table: OutcomeTable, origins: Mapping[str, str]) -> dict[str, str]:
    """Whose the tests are that candidates brought."""
    names = [name for test in table.authors for name in table.same[test]]
    return {name: origins.get(candidate := bringer(name), candidate) for name in names}


async def _asked_further(
    world: World,
    model: str,
    shared: Message,
    environment: Environment,
    evidence: Evidence,
    recipe: SelectionRecipe,
    further: FurtherRecipe,
    filled: Callable[[Sequence[GeneratedTest]], Awaitable[OutcomeTable]],
) -> Evidence:
    """With every test that `wanted` asks for, one after another, as each changes who leads. `filled` gives the table with them."""
    tests = list[GeneratedTest]()
    while (table := evidence.judged) and (
        want := wanted(table, rank(evidence, recipe).standings, evidence.further, further)
    ):
        asking = partial(
            ask_for_test,
            model=model,
            shared=shared,
            environment=environment,
            kind=want.kind,
            entries=[entry for entry in evidence.entries if entry.id in want.entries],
            seconds=recipe.seconds,
            recipe=further,
        )
        ended = await trajectory(world, want.name, GeneratedTest, asking)
        why = ended.note if ended.reason == "done" else f"{ended.reason}: {ended.note}"
        asked = Asked(kind=want.kind, entries=want.entries, test=ended.value.id if ended.value else None, why=why)
        update: dict[str, object] = {"further": (*evidence.further, asked)}
        if ended.value:
            tests.append(ended.value)
            update["table"] = await filled(tests)
        evidence = evidence.model_copy(update=update)
    return evidence


async def _with_exempt(
    world: World, model: str, shared: Message, tree: Tree, evidence: Evidence, most: int
) -> Evidence:
    """With the tests that a model exempts of those that some candidates break."""
    if not evidence.table or not (tests := telling(evidence.table, most)):
        return evidence
    asking = partial(ask_exempt, model=model, shared=shared, tree=tree, tests=tests)
    # Other candidates may break others: what was said of these tests is asked for anew then.
    ended = await trajectory(world, f"exempting-{digest(json.dumps(tests), size=6)}", Exempt, asking)
    return evidence.model_copy(update={"exempt": ended.value.tests if ended.value else {}})


async def _on_evidence(world: World, evidence: Evidence) -> None:
    """Put all of it on record, for `replay`; and set a run-off aside that was begun on another table: a run that goes on
    may have candidates and tests it had not."""
    whole = evidence.model_dump(mode="json", exclude_defaults=True)
    now = digest(json.dumps(whole, sort_keys=True))
    log = world.log
    others = {path for path in log.effects["selection"] if path.startswith(EVIDENCE)} - {EVIDENCE + now}
    if others:
        why = "the evidence has changed since it began"
        for name in [name for name in {**log.ended, **log.effects} if name.startswith("run-off-")]:
            log.set_aside(name, set(), why)
        log.set_aside("selection", set(log.effects["selection"]) - others, why)
    await Step(world, "selection").once(EVIDENCE + now, lambda: asyncio.sleep(0, whole))


def _finalists(able: Sequence[str], table: OutcomeTable, most: int) -> list[str]:
    """The first of each behaviour in the order of the ranking; if places are left, the next that are other patches."""
    first_of: dict[tuple[object, ...], str] = {}
    for name in able:
        first_of.setdefault(table.row(name), name)
    leaders = list(first_of.values())
    return [*leaders, *(name for name in able if name not in leaders)][:most]
