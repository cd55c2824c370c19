"""The main path, top to bottom: target → environment → context → trajectories → outcome table → run-off → one patch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from runoff import environments
from runoff.agent import edits
from runoff.agent.context import Context, Tree, find_context, shared_prompt
from runoff.agent.editing import Candidate, make_edit
from runoff.agent.environment import Environment, read_tree
from runoff.agent.index import default_place
from runoff.agent.protocol import Message
from runoff.agent.step import Ended, World, settled, trajectory
from runoff.agent.testing import GeneratedTest, write_test
from runoff.instance import Instance
from runoff.recipe import Recipe
from runoff.sandbox.protocol import Value
from runoff.selection.elect import elect
from runoff.selection.protocol import Selection

Role = Literal["relevance", "ranker", "tester", "editor", "verifier", "selector"]
Models = Mapping[str, str]
"""Role → the model that plays it."""


class Sample(Value):
    """What one testing and one editing trajectory, seeded with its test, came to."""

    test: Ended[GeneratedTest]
    edit: Ended[Candidate]


class Outcome(Value):
    """What solving an instance came to."""

    instance: Instance
    context: Ended[Context]
    samples: tuple[Sample, ...] = ()
    selection: Selection

    @property
    def patch(self) -> bytes | None:
        chosen = self.selection.chosen
        return self.selection.entry(chosen).candidate.patch if chosen else None


async def solve(
    world: World, instance: Instance, recipe: Recipe, models: Models, tell: Callable[[str], None] = lambda stage: None
) -> Outcome:
    """Resolve one instance. Everything paid for is on record, so calling this again goes on from wherever it was.

    Raises EnvironmentFailed, and what concerns the whole run (see `trajectory`); all else is in the outcome.
    """
    tell("environment")
    environment = await environments.build(world, instance, tell)
    tree = await read_tree(world, environment)

    tell("context")
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
            kept=default_place(),
        ),
    )
    if context.value is None:
        none = Selection(chosen=None, reason=f"none: no context: {context.note or context.reason}")
        return Outcome(instance=instance, context=context, selection=none)
    shared = shared_prompt(context.value, tree, instance.statement, edits.describe(), ", ".join(environment.installed))

    tell("trajectories")
    numbers = range(1, recipe.trajectories + 1)
    samples = await settled(*(_sample(world, n, shared, tree, environment, recipe, models) for n in numbers))

    tell("selection")
    candidates = [sample.edit.value for sample in samples if sample.edit.value]
    selection = await elect(
        world, models, shared, tree, environment, candidates, generated_tests(samples), recipe.selection
    )
    return Outcome(instance=instance, context=context, samples=tuple(samples), selection=selection)


def generated_tests(samples: tuple[Sample, ...] | list[Sample]) -> list[GeneratedTest]:
    """All tests of all trajectories: each testing trajectory's, and those that editing trajectories put in their place."""
    tests = [sample.test.value for sample in samples if sample.test.value]
    for sample in samples:
        edited = sample.edit.value
        if edited and edited.test:
            tests.append(GeneratedTest(id=edited.id, script=edited.test, output=""))
    return tests


async def _sample(
    world: World, n: int, shared: Message, tree: Tree, environment: Environment, recipe: Recipe, models: Models
) -> Sample:
    test = await trajectory(
        world,
        f"testing-{n}",
        GeneratedTest,
        lambda step: write_test(step, models["tester"], shared, environment, recipe.testing),
    )
    if test.reason in ("error", "budget"):  # it will go on from there; an edit begun without its test could not
        return Sample(test=test, edit=Ended(reason=test.reason, note=f"its test: {test.note}"))
    edit = await trajectory(
        world,
        f"editing-{n}",
        Candidate,
        lambda step: make_edit(step, models["editor"], shared, tree, environment, test.value, recipe.editing),
    )
    return Sample(test=test, edit=edit)
