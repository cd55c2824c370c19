"""Selection from top to bottom: clean, deduplicate, fill the table, let the verifier score, rank, hold the run-off."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence

from runoff.agent.context import Tree
from runoff.agent.environment import Environment, applied, patched
from runoff.agent.patches import file_parts, patched_paths
from runoff.agent.protocol import Message, digest
from runoff.agent.step import Step, World, settled, trajectory
from runoff.sandbox.protocol import REPO, Refused, Value
from runoff.selection.cleaning import clean
from runoff.selection.protocol import Candidate, Entry, GeneratedTest, OutcomeTable, Score, Selection
from runoff.selection.ranking import hybrid
from runoff.selection.repository_tests import RegressionRecipe
from runoff.selection.runoff import Decision, RunoffRecipe, decide
from runoff.selection.sameness import fingerprint
from runoff.selection.scaling import Look, ScalingRecipe, look
from runoff.selection.table import fill
from runoff.selection.verifier import VerifierRecipe, judge


class SelectionRecipe(Value):
    gate: float = 0.5
    """Share of candidates that the verifier lets through, at least three."""
    margin: int = 1
    """Votes within which the verifier decides."""
    seconds: float = 60
    """Wall time of one cell of the outcome table."""
    regression: RegressionRecipe = RegressionRecipe()
    verifier: VerifierRecipe = VerifierRecipe()
    runoff: RunoffRecipe = RunoffRecipe()


async def elect(
    world: World,
    models: Mapping[str, str],
    shared: Message,
    tree: Tree,
    environment: Environment,
    candidates: Sequence[Candidate],
    tests: Sequence[GeneratedTest],
    recipe: SelectionRecipe,
) -> Selection:
    """One patch, or none, and everything it was decided on. `models` names one for `verifier` and one for `selector`.

    The choice is always defined: where the run-off does not decide, the first of the ranking stands, and `reason` says why.
    """
    entries, rejected = await _entries(world, environment, candidates)
    if not entries:
        return Selection(chosen=None, reason="none: no candidate could be used", rejected=rejected)
    filling = asyncio.ensure_future(fill(world, environment, tree, entries, tests, recipe.regression, recipe.seconds))
    judging = asyncio.ensure_future(_scores(world, models["verifier"], shared, entries, recipe.verifier))
    await settled(filling, judging)
    table, scores = filling.result(), judging.result()
    standings = hybrid(table, entries, scores, gate=recipe.gate, margin=recipe.margin)
    able = [standing.entry for standing in standings if not standing.disqualified]
    named = {entry.id: entry for entry in entries}
    finalists = _finalists(able, table, recipe.runoff.finalists)
    whole = Selection(
        chosen=None,
        reason="none: every candidate passes a test that none may pass",
        entries=tuple(entries),
        standings=tuple(standings),
        finalists=tuple(finalists),
        table=table,
        scores=scores,
        rejected=rejected,
    )
    if not finalists:
        return whole
    if len(finalists) == 1:
        why = "the only candidate" if len(entries) == 1 else "the only candidate that is not disqualified"
        return whole.model_copy(update={"chosen": finalists[0], "reason": f"undisputed: {why}"})
    final = [named[name] for name in finalists]

    name = "run-off-" + "+".join(sorted(finalists))
    await _on_evidence(world, name, table)
    ended = await trajectory(
        world,
        name,
        Decision,
        lambda step: decide(step, models["selector"], shared, environment, final, table, recipe.runoff),
    )
    if ended.value:
        return whole.model_copy(
            update={
                "chosen": ended.value.chosen,
                "reason": f"chosen: {ended.value.why}",
                "letters": ended.value.letters,
            }
        )
    return whole.model_copy(
        update={"chosen": finalists[0], "reason": f"fallback: {ended.reason} ({ended.note}); first of the ranking"}
    )


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
    scores = await _scores(world, models["verifier"], shared, entries, recipe.verifier) if scaling.verifier else {}
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
            changed_lines=sum(part.changed for part in file_parts(members[0][0].patch)),
            removed=members[0][1],
        )
        for members in groups.values()
    ], rejected


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


async def _scores(
    world: World, model: str, shared: Message, entries: Sequence[Entry], recipe: VerifierRecipe
) -> dict[str, Score]:
    if recipe.verdicts == 0 or len(entries) == 1:  # nothing to tell apart
        return {}

    async def one(entry: Entry) -> Score:
        ended = await trajectory(
            world, f"verdict-{entry.id}", Score, lambda step: judge(step, model, shared, entry, recipe)
        )
        return ended.value or Score(p=None, how=f"{ended.reason}: {ended.note}")

    return dict(zip([entry.id for entry in entries], await settled(*map(one, entries)), strict=True))


async def _on_evidence(world: World, name: str, table: OutcomeTable) -> None:
    """Set a run-off aside that was begun on another table: a run that goes on may have candidates and tests it had not."""
    cells = json.dumps(table.model_dump(mode="json"), sort_keys=True)
    evidence = digest(cells)
    old = world.log.effects["selection"].get(f"evidence/{name}")
    if old and old["result"] != evidence:
        why = "the outcome table has changed since it began"
        world.log.set_aside(name, set(), why)
        kept = set(world.log.effects["selection"])
        world.log.set_aside("selection", kept - {f"evidence/{name}"}, why)
    await Step(world, "selection").once(f"evidence/{name}", lambda: asyncio.sleep(0, evidence))


def _finalists(able: Sequence[str], table: OutcomeTable, most: int) -> list[str]:
    """The first of each behaviour in the order of the ranking; if places are left, the next that are other patches."""
    first_of: dict[tuple[object, ...], str] = {}
    for name in able:
        first_of.setdefault(table.row(name), name)
    leaders = list(first_of.values())
    return [*leaders, *(name for name in able if name not in leaders)][:most]
