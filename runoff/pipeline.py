"""The main path, top to bottom: target → environment → context → trajectories → outcome table → run-off → one patch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from runoff import environments, prepared
from runoff.agent import edits
from runoff.agent.calls import work_with_tools
from runoff.agent.context import SEARCHES, Context, Tree, cut, find_context, shared_prompt
from runoff.agent.editing import Candidate, make_edit
from runoff.agent.environment import Environment, read_tree
from runoff.agent.observations import AgentRecipe
from runoff.agent.protocol import Message
from runoff.agent.shell import work_in_shell
from runoff.agent.step import Ended, Step, World, settled, trajectory
from runoff.agent.testing import GeneratedTest, write_test
from runoff.instance import Instance
from runoff.recipe import Recipe, Strategy, dealt
from runoff.sandbox.protocol import Value
from runoff.selection.elect import SelectionRecipe, elect, look_at
from runoff.selection.protocol import Selection
from runoff.selection.repository_tests import runner, suited
from runoff.selection.scaling import Look

Role = Literal["relevance", "ranker", "tester", "editor", "verifier", "selector"]
Shown = Callable[[float], Message]
"""The share of the context to show → the message that says it, the same for all who are shown that share."""
Models = Mapping[str, str]
"""Role → the model that plays it; several, a line each, take turns, trajectory by trajectory."""


class Sample(Value):
    """What one place in the pool came to: a testing and an editing trajectory, seeded with its test, or one agent."""

    strategy: Strategy = "pair"
    test: Ended[GeneratedTest] | None
    """None of an agent: the test it may leave is its candidate's."""
    edit: Ended[Candidate]

    @property
    def ends(self) -> list[Ended[GeneratedTest] | Ended[Candidate]]:
        return [self.test, self.edit] if self.test else [self.edit]


class Entrants(Value):
    """Candidates of other agents for one instance."""

    candidates: tuple[Candidate, ...]
    origins: dict[str, str]
    """Candidate → the agent that made it."""
    tests: tuple[GeneratedTest, ...] = ()
    """Given from outside: whoever wrote them, they must fail on the base like any other."""
    reliability: dict[str, float] = {}
    """Of these agents, what the batch that they are of says: see `Evidence`."""


class Outcome(Value):
    """What solving an instance came to."""

    instance: Instance
    context: Ended[Context] | None
    """None: no model was asked, so nothing had to be shown."""
    samples: tuple[Sample, ...] = ()
    looks: tuple[Look, ...] = ()
    """Where the number of trajectories was decided on the way, each decision with its reasons."""
    selection: Selection

    @property
    def patch(self) -> bytes | None:
        chosen = self.selection.chosen
        return self.selection.entry(chosen).candidate.patch if chosen else None


async def solve(
    world: World,
    instance: Instance,
    recipe: Recipe,
    models: Models,
    tell: Callable[[str], None] = lambda stage: None,
    index: Path | None = None,
) -> Outcome:
    """Resolve one instance. Everything paid for is on record, so calling this again goes on from wherever it was.

    `index` is the file of what is known of the repository (`runoff prepare`); None: nothing is known, nothing is kept.

    Raises EnvironmentFailed, and what concerns the whole run (see `trajectory`); all else is in the outcome.
    """
    tell("environment")
    environment = await environments.build(world, instance, tell, next(iter(models["editor"].splitlines()), ""))
    tree = await read_tree(world, environment)

    environment, lines = await _prepared(world, tree, environment, index)

    tell("context")
    context, shown = await _shown(world, instance, tree, environment, recipe, models, lines, index)
    if shown is None:
        none = Selection(chosen=None, reason=f"none: no context: {context.note or context.reason}")
        return Outcome(instance=instance, context=context, selection=none)

    tell("trajectories")
    samples, looks = await _samples(world, shown, tree, environment, recipe, models)
    shared = shown(1.0)

    tell("selection")
    world.reserve = 0.0  # this is what it was kept for
    candidates = [sample.edit.value for sample in samples if sample.edit.value]
    tests = generated_tests(samples)
    made = [*(candidate.id for candidate in candidates), *(test.id for test in tests)]
    origins = {name: name.rpartition("-")[2] for name in made}  # the number of the trajectory
    how = recipe.selection
    near = await _suited(instance, tree, environment, how, index)
    selection = await elect(world, models, shared, tree, environment, candidates, tests, how, origins, near)
    return Outcome(instance=instance, context=context, samples=tuple(samples), looks=tuple(looks), selection=selection)


async def elect_among(
    world: World,
    instance: Instance,
    recipe: Recipe,
    models: Models,
    pool: Entrants,
    tell: Callable[[str], None] = lambda stage: None,
    index: Path | None = None,
) -> Outcome:
    """The same from the candidates on, with those of other agents. Raises as `solve` does.

    With models, as many testing trajectories as the recipe has trajectories write tests, a verifier scores, a run-off
    decides. Without (`models` empty) selection goes by what the repository and the pool offer.
    """
    tell("environment")
    editors = models.get("editor", "").splitlines()
    environment = await environments.build(world, instance, tell, editors[0] if editors else "")
    tree = await read_tree(world, environment)
    environment, lines = await _prepared(world, tree, environment, index)
    context, shared, written = None, None, list[Ended[GeneratedTest]]()
    if models:
        tell("context")
        context, shown = await _shown(world, instance, tree, environment, recipe, models, lines, index)
        if shown is not None:
            shared = shown(1.0)
            tell("tests")
            numbers = range(1, recipe.trajectories + 1)
            written = await settled(
                *(_alone(world, n, shown(recipe.cut(n)), environment, recipe, models) for n in numbers)
            )
    tell("selection")
    world.reserve = 0.0
    tests = [*pool.tests, *(test.value for test in written if test.value)]
    how = election(recipe.selection, with_models=bool(models))
    near = await _suited(instance, tree, environment, how, index)
    selection = await elect(
        world,
        models,
        shared,
        tree,
        environment,
        pool.candidates,
        tests,
        how,
        pool.origins,
        near,
        pool.reliability,
    )
    return Outcome(instance=instance, context=context, selection=selection)


async def _suited(
    instance: Instance, tree: Tree, environment: Environment, recipe: SelectionRecipe, index: Path | None
) -> list[str]:
    """The repository's test files in the order in which the issue is about them; none where no choice of files is run."""
    if not recipe.regression.files or not runner(environment.test or ""):
        return []
    return await SEARCHES.run(suited, tree, instance.statement, index)


def election(recipe: SelectionRecipe, *, with_models: bool) -> SelectionRecipe:
    """What a recipe leaves open, among candidates of other agents: their tests vote; without models, agreement ranks."""
    update = {
        "brought": True if recipe.brought is None else recipe.brought,
        "ranking": recipe.ranking or (None if with_models else "agreement"),
    }
    return recipe.model_copy(update=update)


def generated_tests(samples: tuple[Sample, ...] | list[Sample]) -> list[GeneratedTest]:
    """All tests of all trajectories: each testing trajectory's, and those that the others put in their place or leave."""
    tests = [sample.test.value for sample in samples if sample.test and sample.test.value]
    for sample in samples:
        edited = sample.edit.value
        if edited and edited.test:
            tests.append(GeneratedTest(id=edited.id, script=edited.test, output=""))
    return tests


async def _samples(
    world: World, shown: Shown, tree: Tree, environment: Environment, recipe: Recipe, models: Models
) -> tuple[list[Sample], list[Look]]:
    """All trajectories together; with `scaling` a few at first, and more until a look at them says that it is enough."""
    samples, looks, scaling = list[Sample](), list[Look](), recipe.scaling
    wanted = scaling.first if scaling else recipe.trajectories
    while True:
        numbers = range(len(samples) + 1, min(wanted, recipe.trajectories) + 1)
        samples += await settled(*(_sample(world, n, shown, tree, environment, recipe, models) for n in numbers))
        if not scaling or len(samples) >= recipe.trajectories or any(s.edit.reason == "budget" for s in samples):
            return samples, looks
        candidates = [sample.edit.value for sample in samples if sample.edit.value]
        tests = generated_tests(samples)
        looks.append(
            await look_at(
                world, models, shown(1.0), tree, environment, candidates, tests, recipe.selection, scaling, len(samples)
            )
        )
        if looks[-1].stop:
            return samples, looks
        wanted = len(samples) + scaling.step


async def _sample(
    world: World, n: int, shown: Shown, tree: Tree, environment: Environment, recipe: Recipe, models: Models
) -> Sample:
    names = [f"{kind}-{n}" for kind in ("testing", "editing", "shell", "tools")]
    async with world.starts.turn(world.instance, names, n, recipe.calls(n), world.budget, world.reserve):
        return await _begun(world, n, shown, tree, environment, recipe.heated(n), models)


async def _begun(
    world: World, n: int, shown: Shown, tree: Tree, environment: Environment, recipe: Recipe, models: Models
) -> Sample:
    editor, shared = dealt(models["editor"].splitlines(), n), shown(recipe.cut(n))
    if recipe.strategy(n) == "shell":
        edit = await trajectory(
            world,
            f"shell-{n}",
            Candidate,
            lambda step: work_in_shell(step, editor, shared, environment, recipe.shell or AgentRecipe()),
        )
        return Sample(strategy="shell", test=None, edit=edit)
    if recipe.strategy(n) == "tools":
        edit = await trajectory(
            world,
            f"tools-{n}",
            Candidate,
            lambda step: work_with_tools(step, editor, shared, tree, environment, recipe.tools or AgentRecipe()),
        )
        return Sample(strategy="tools", test=None, edit=edit)
    test = await _test(world, n, shared, environment, recipe, models)
    if test.reason in ("error", "budget"):  # it will go on from there; an edit begun without its test could not
        return Sample(test=test, edit=Ended(reason=test.reason, note=f"its test: {test.note}"))
    edit = await trajectory(
        world,
        f"editing-{n}",
        Candidate,
        lambda step: make_edit(step, editor, shared, tree, environment, test.value, recipe.editing),
    )
    return Sample(test=test, edit=edit)


async def _alone(
    world: World, n: int, shared: Message, environment: Environment, recipe: Recipe, models: Models
) -> Ended[GeneratedTest]:
    """A test that no change follows."""
    calls = recipe.testing.turns
    async with world.starts.turn(world.instance, [f"testing-{n}"], n, calls, world.budget, world.reserve):
        return await _test(world, n, shared, environment, recipe.heated(n), models)


async def _test(
    world: World, n: int, shared: Message, environment: Environment, recipe: Recipe, models: Models
) -> Ended[GeneratedTest]:
    tester = dealt(models["tester"].splitlines(), n)
    return await trajectory(
        world,
        f"testing-{n}",
        GeneratedTest,
        lambda step: write_test(step, tester, shared, environment, recipe.testing),
    )


async def _prepared(
    world: World, tree: Tree, environment: Environment, index: Path | None
) -> tuple[Environment, dict[str, str]]:
    """The environment with what is known of its tests, and prepared lines on files.

    The lines are as they were when the context was begun: what is prepared later changes no prompt of it.
    """
    known = await asyncio.to_thread(prepared.of_tree, index, tree, environment) if index else prepared.NOTHING
    environment, log, lines = environment.model_copy(update={"stable": known.stable}), world.log, known.lines
    recorded = bool(log.effects["prepared"])
    if "context" in log.ended or not (recorded or lines) or (log.effects["context"] and not recorded):
        return environment, {}
    return environment, dict(await Step(world, "prepared").once("lines", lambda: asyncio.sleep(0, lines)))


async def _shown(
    world: World,
    instance: Instance,
    tree: Tree,
    environment: Environment,
    recipe: Recipe,
    models: Models,
    lines: Mapping[str, str],
    index: Path | None,
) -> tuple[Ended[Context], Shown | None]:
    """What conversations about the instance begin with; None where no context was found."""
    context = await trajectory(
        world,
        "context",
        Context,
        lambda step: find_context(
            step,
            models["relevance"],
            models["ranker"],
            tree,
            instance.statement,
            recipe.context,
            reader=models["editor"],
            kept=index,
            prepared=lines,
        ),
    )
    if (whole := context.value) is None:
        return context, None
    grammar = edits.describe(diffs=recipe.editing.diffs)
    installed = ", ".join(environment.installed)

    @cache
    def shown(share: float) -> Message:
        return shared_prompt(cut(whole, tree, share), tree, instance.statement, grammar, installed)

    return context, shown
