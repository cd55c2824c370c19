"""The verifier: an execution-free judgement of candidates, P(correct) as a model reads them, each alone or two by two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple
from urllib.parse import quote

from pydantic import Field

from runoff.agent.answers import readable
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Request, Sampling, digest
from runoff.agent.step import Ended, Step, World, settled, trajectory
from runoff.agent.verdict import capped
from runoff.sandbox.protocol import Value
from runoff.selection.findings import Findings, findings, telling_scripts
from runoff.selection.protocol import Entry, OutcomeTable, Score
from runoff.selection.ranking import UNKNOWN
from runoff.selection.reading import BETTER, YES_NO, graded, read
from runoff.selection.stories import Part, stories
from runoff.selection.tournament import Pair, better_half, circle, mean, settled_by, strengths

CRITERIA = 5
"""As many as a model may write at most: each is a call for each verdict."""


class VerifierRecipe(Value):
    verdicts: int = 1
    """Verdicts on each candidate, or in each order on each pair; their mean counts. 0: no verifier."""
    mode: Literal["reasoned", "direct"] = "reasoned"
    """`reasoned`: the model thinks, then gives its verdict. `direct`: one word at once, for its log-probs."""
    temperature: float = 0.7
    logprobs: int = 20
    """Alternatives asked for at each token, where the provider reports them."""
    grades: int | None = Field(default=None, ge=2, le=20)
    """Levels of a scale of letters, A best, whose expectation is the score; None: yes or no."""
    criteria: Literal["written"] | tuple[str, ...] | None = Field(default=None, min_length=1)
    """What a candidate is judged by, each apart: these, or those that a model writes from the issue before any candidate is
    shown to it. None: as a whole."""
    tournament: int | None = Field(default=None, ge=1)
    """Comparisons with others, at least, that each candidate takes part in; None: each is judged alone."""
    more: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Further verdicts (in a tournament: comparisons) for the better half; then for the better half of these; and so on."""
    tests: bool | None = None
    """Whether it is told what the outcome table says of a candidate; None: no."""
    trajectory: Part | None = None
    """Whether it reads what the trajectory did that made a candidate: all of it (`whole`), or without what its author said
    (`observed`). None: no. After R2E-Gym (arXiv 2504.07164, section 4), whose execution-free verifier reads trajectories."""

    def alone(self) -> VerifierRecipe:
        """The first verdicts, on patches alone: what can be asked before all candidates are there."""
        return self.model_copy(update={"tournament": None, "more": None, "tests": None})


class Criteria(Value):
    written: tuple[str, ...]
    """Empty: no answer could be read."""


class Comparison(Value):
    """Of two candidates: P(the first is better) by the verdicts that were shown it first, and by those shown it second."""

    forward: tuple[float | None, ...]
    backward: tuple[float | None, ...]


class _Case(NamedTuple):
    """What is the same for all verdicts of an election."""

    world: World
    model: str
    shared: Message
    recipe: VerifierRecipe
    criteria: tuple[str, ...] = ()
    found: Mapping[str, Findings] = {}
    scripts: Mapping[str, str] = {}
    stories: Mapping[str, str] = {}

    @property
    def sampling(self) -> Sampling:
        words = 16 if self.recipe.mode == "direct" else 4096
        return Sampling(temperature=self.recipe.temperature, max_tokens=words, logprobs=self.recipe.logprobs)

    @property
    def shown(self) -> str:
        """A name for what is shown beside the patches, which may be more when a run goes on: other verdicts then.

        Not for the reasons of cells: what executions print differs from machine to machine, and a recording is to be found.
        """
        if not self.found:
            return ""
        whole = {name: found.facts for name, found in self.found.items()}
        return "@" + digest(json.dumps([whole, self.scripts], sort_keys=True), size=6)


async def verified(
    world: World,
    model: str | None,
    shared: Message | None,
    entries: Sequence[Entry],
    recipe: VerifierRecipe,
    table: Awaitable[OutcomeTable] | None = None,
) -> dict[str, Score]:
    """The verifier's score of each entry; empty if there is nobody to ask, or nothing to tell apart.

    `table` is waited for only where the recipe has the verifier told of it. Who gets more than the others is decided on the
    scores so far, all of which are on record, and is put there too.
    """
    if not model or not shared or recipe.verdicts == 0 or len(entries) == 1:
        return {}
    case = _Case(world, model, shared, recipe, criteria=recipe.criteria if isinstance(recipe.criteria, tuple) else ())
    if recipe.criteria == "written":
        ended = await trajectory(world, "criteria", Criteria, lambda step: write_criteria(step, model, shared))
        if ended.reason in ("budget", "error"):  # not on record: verdicts without them would be, and stay
            return {entry.id: Score(p=None, how=f"{ended.reason}: {ended.note}") for entry in entries}
        case = case._replace(criteria=ended.value.written if ended.value else ())
    if recipe.tests and table:
        of = await asyncio.shield(table)
        case = case._replace(found={entry.id: findings(of, entry.id) for entry in entries}, scripts=telling_scripts(of))
    if recipe.trajectory:
        case = case._replace(stories=await stories(world, entries, recipe.trajectory))
    return await (_tournament if recipe.tournament else _each_alone)(case, entries)


async def write_criteria(step: Step, model: str, shared: Message) -> Ended[Criteria]:
    """What to judge by, from the issue alone. An answer that cannot be read is asked for once more."""
    say = prompts("judging", "runoff.selection")

    def texts(answer: object) -> tuple[str, ...] | None:
        if not isinstance(answer, list) or not all(isinstance(one, str) for one in answer):
            return None
        return tuple(dict.fromkeys(" ".join(one.split()) for one in answer if one.strip()))[:CRITERIA] or None

    found = await readable(
        step,
        ("ask", "again"),
        model,
        Sampling(temperature=0.0, max_tokens=4096),
        first=say.criteria(most=CRITERIA),
        again=say.criteria_again(most=CRITERIA),
        read=texts,
        after=shared,
    )
    return Ended(reason="done", value=Criteria(written=found or ()), note="" if found else "no criteria could be read")


async def _judge(step: Step, case: _Case, entry: Entry, verdicts: int) -> Ended[Score]:
    """Ask for so many verdicts on a patch, by each criterion apart, and never tell what its author claimed."""
    recipe, direct = case.recipe, case.recipe.mode == "direct"
    scale = graded(recipe.grades) if recipe.grades else YES_NO
    patch = capped(entry.candidate.patch.decode("utf-8", "replace"), 20_000)

    def question(criterion: str) -> str:
        if not (
            criterion or recipe.grades or case.found or entry.id in case.stories
        ):  # as it was before there was more to choose
            return str(prompts("verifier", "runoff.selection").judge(patch=patch, direct=direct))
        return str(
            prompts("judging", "runoff.selection").judge(
                patch=patch,
                found=case.found.get(entry.id),
                scripts=case.scripts,
                story=case.stories.get(entry.id, ""),
                criterion=criterion,
                letters=list(scale.worth) if recipe.grades else [],
                direct=direct,
            )
        )

    async def one(here: Step, talk: Message) -> tuple[float | None, str]:
        answer = await here.ask("ask", Request(case.model, case.sampling, talk))
        return read(answer.reply, scale, direct=direct)

    async def several(here: Step, criterion: str) -> list[tuple[float | None, str]]:
        talk = case.shared.then("user", question(criterion))
        return list((await here.all({f"verdict{n}": partial(one, talk=talk) for n in range(1, verdicts + 1)})).values())

    if case.criteria:
        branches = {f"criterion{n}": partial(several, criterion=text) for n, text in enumerate(case.criteria, 1)}
        said = dict(zip(case.criteria, (await step.all(branches)).values(), strict=True))
    else:
        said = {"": await several(step, "")}
    how = ", ".join(sorted({how for several in said.values() for _, how in several}))
    return Ended(
        reason="done", value=_score({part: tuple(p for p, _ in several) for part, several in said.items()}, how)
    )


async def _compare(step: Step, case: _Case, first: Entry, second: Entry) -> Ended[Comparison]:
    """Ask which of two is better, as often with each of them shown first."""
    say, direct = prompts("judging", "runoff.selection"), case.recipe.mode == "direct"
    patches = {entry.id: capped(entry.candidate.patch.decode("utf-8", "replace"), 16_000) for entry in (first, second)}

    async def one(here: Step, talk: Message) -> float | None:
        answer = await here.ask("ask", Request(case.model, case.sampling, talk))
        return read(answer.reply, BETTER, direct=direct)[0]

    async def ordered(here: Step, shown: tuple[Entry, Entry]) -> tuple[float | None, ...]:
        letters = dict(zip("AB", (entry.id for entry in shown), strict=True))
        text = say.compare(
            patches={letter: patches[name] for letter, name in letters.items()},
            found={letter: case.found[name] for letter, name in letters.items()} if case.found else {},
            scripts=case.scripts,
            stories={letter: case.stories[name] for letter, name in letters.items() if name in case.stories},
            criteria=case.criteria,
            direct=direct,
        )
        talk, verdicts = case.shared.then("user", text), range(1, case.recipe.verdicts + 1)
        return tuple((await here.all({f"verdict{n}": partial(one, talk=talk) for n in verdicts})).values())

    sides = await step.all(
        {
            "forward": partial(ordered, shown=(first, second)),
            "backward": partial(ordered, shown=(second, first)),
        }
    )
    backward = tuple(None if p is None else 1 - p for p in sides["backward"])
    return Ended(reason="done", value=Comparison(forward=sides["forward"], backward=backward))


async def _each_alone(case: _Case, entries: Sequence[Entry]) -> dict[str, Score]:
    """Verdicts on all, then further ones on the better half, and on the better half of these."""
    of, level = {entry.id: entry for entry in entries}, _level(entries)
    scores: dict[str, Score] = {}

    async def one(name: str, kind: str, verdicts: int) -> Score:
        ended = await trajectory(
            case.world, f"{kind}-{name}", Score, lambda step: _judge(step, case, of[name], verdicts)
        )
        return ended.value or Score(p=None, how=f"{ended.reason}: {ended.note}")

    chosen = list(of)
    for n, verdicts in enumerate((case.recipe.verdicts, *(case.recipe.more or ()))):
        if n > 0:
            before = [name for name in level if name in chosen]
            chosen = await _who_gets_more(case, n, before, {name: score.p for name, score in scores.items()})
        kind = "verdict" + (f".{n + 1}" if n else "") + case.shown
        found = await settled(*(one(name, kind, verdicts) for name in chosen))
        for name, score in zip(chosen, found, strict=True):
            scores[name] = _together(scores[name], score) if name in scores else score
    return scores


async def _tournament(case: _Case, entries: Sequence[Entry]) -> dict[str, Score]:
    """Comparisons of all on a shuffled circle, then of the better half, each with those that stand next to it."""
    of, level = {entry.id: entry for entry in entries}, _level(entries)
    order = sorted(of)
    Step(case.world, "verifier").random("circle").shuffle(order)
    results: dict[Pair, float | None] = {}
    failed: dict[str, set[str]] = {name: set() for name in of}

    async def one(pair: Pair) -> float | None:
        first, second = sorted(pair)
        name = f"compare{case.shown}-{quote(first, safe=' ')}+{quote(second, safe=' ')}"
        ended = await trajectory(case.world, name, Comparison, lambda step: _compare(step, case, of[first], of[second]))
        if ended.value:
            result = settled_by(ended.value.forward, ended.value.backward)
            return result if result is None or pair == (first, second) else 1 - result
        for side in pair:
            failed[side].add(f"{ended.reason}: {ended.note}")
        return None

    for n, k in enumerate((case.recipe.tournament or 1, *(case.recipe.more or ()))):
        if n > 0:
            before = [name for name in level if name in order]
            order = await _who_gets_more(case, n, before, strengths(list(of), results))
        pairs = circle(order, k, results)
        results |= dict(zip(pairs, await settled(*map(one, pairs)), strict=True))
    return {name: _won(name, p, results, failed[name]) for name, p in strengths(list(of), results).items()}


async def _who_gets_more(case: _Case, n: int, order: Sequence[str], p: Mapping[str, float | None]) -> list[str]:
    """The better half by scores so far; on record, under a digest of these, since a run that goes on may see others."""
    given = {name: p[name] for name in order}
    more = better_half(order, given, UNKNOWN)
    chosen = {"more": more, "of": given}
    name = f"more-{n}/{digest(json.dumps(chosen), size=6)}"
    await Step(case.world, "verifier").once(name, lambda: asyncio.sleep(0, chosen))
    return more


def _level(entries: Sequence[Entry]) -> list[str]:
    """In the order in which level ones stand elsewhere, too: proposed by most, then smallest."""
    ordered = sorted(entries, key=lambda entry: (-len(entry.proposers), entry.changed_lines, entry.id))
    return [entry.id for entry in ordered]


def _score(parts: Mapping[str, tuple[float | None, ...]], how: str) -> Score:
    """The mean of the verdicts that were given, by each criterion; then of the criteria that have any."""
    means = [value for verdicts in parts.values() if (value := _known_mean(verdicts)) is not None]
    return Score(
        p=mean(means),
        how=how,
        verdicts=tuple(p for verdicts in parts.values() for p in verdicts),
        parts={part: verdicts for part, verdicts in parts.items() if part},
    )


def _together(score: Score, more: Score) -> Score:
    """Further verdicts of the same kind weigh as the first did; further ones that could not be had change nothing."""
    parts: dict[str, tuple[float | None, ...]] = {}
    for one in (score, more):
        for part, verdicts in (one.parts or {"": one.verdicts}).items():
            parts[part] = parts.get(part, ()) + verdicts
    how = score.how if more.how == score.how else f"{score.how}; then {more.how}"
    return _score({part: verdicts for part, verdicts in parts.items() if verdicts}, how)


def _won(name: str, p: float | None, results: Mapping[Pair, float | None], failed: Iterable[str]) -> Score:
    """A score of comparisons: `verdicts` are what the entry came to in each, 1, ½ or 0."""
    own = [
        result if result is None or pair[0] == name else 1 - result
        for pair, result in sorted(results.items())
        if name in pair
    ]
    told = [f"{sum(result is not None for result in own)} comparisons", *sorted(failed)]
    return Score(p=None if p is None else round(p, 6), how=", ".join(told), verdicts=tuple(own))


def _known_mean(values: Iterable[float | None]) -> float | None:
    return mean([value for value in values if value is not None])
