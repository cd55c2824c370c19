"""Tests that candidates bring: their edits of the repository's tests, run on every candidate, each of which may earn a vote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runoff.agent.environment import Environment, applied
from runoff.agent.patches import patched_paths
from runoff.agent.step import World, settled
from runoff.sandbox.protocol import Refused, State, Value
from runoff.selection.protocol import Cell, Entry
from runoff.selection.repository_tests import Outcomes, RegressionRecipe, run_tests, runner

_CELLS: Mapping[str | None, Cell] = {"passed": "pass", "failed": "fail"}


def brought_name(candidate: str, test: str) -> str:
    """What a test that a candidate brought is called in the outcome table."""
    return f"{candidate}:{test}"


def bringer(name: str) -> str:
    """The candidate that brought the test of this name: no candidate's id has a colon, ids of tests do."""
    return name.partition(":")[0]


class Brought(Value):
    """The tests of one set of edits that fail on the base, and what each says of each entry."""

    by: tuple[str, ...]
    """Candidates that brought these very edits, first come first."""
    columns: dict[str, dict[str, Cell]]
    """Test id → entry → cell."""
    text: str


async def run_brought(
    world: World,
    environment: Environment,
    entries: Sequence[Entry],
    states: Mapping[str, State],
    edits: Mapping[str, bytes],
    recipe: RegressionRecipe,
) -> list[Brought]:
    """`edits`: candidate → its edits of tests. Equal edits are run once; what fails on the base twice is a column."""
    if not environment.test or not runner(environment.test):
        return []
    whose: dict[bytes, list[str]] = {}
    for candidate, text in edits.items():
        if text:
            whose.setdefault(text, []).append(candidate)

    async def one(text: bytes, by: Sequence[str]) -> Brought:
        files = [path for path in patched_paths(text) if path.endswith(".py")]
        shown = text.decode("utf-8", "replace")

        async def on(state: State, only: Sequence[str] = (), repetition: int = 0) -> Outcomes:
            try:
                there = await applied(world, state, text)
            except Refused as error:
                return Outcomes(tests=None, why=str(error))
            return await run_tests(world, environment, there, files, recipe, repetition, only)

        failed = _failed(await on(environment.state))
        # Once more, and alone, as they are run on the entries: a file of Django's may take a minute, its new test a second.
        failing = [test for test in _failed(await on(environment.state, failed, 1)) if test in failed] if failed else []
        if not failing:
            return Brought(by=tuple(by), columns={}, text=shown)
        after = await settled(*(on(states[entry.id], failing) for entry in entries))
        ends = dict(zip([entry.id for entry in entries], after, strict=True))
        columns = {
            name: {
                entry: _CELLS.get(outcome.tests.get(name), "could not tell") if outcome.tests else "could not tell"
                for entry, outcome in ends.items()
            }
            for name in failing
        }
        return Brought(by=tuple(by), columns=columns, text=shown)

    return await settled(*(one(text, by) for text, by in whose.items()))


def _failed(outcome: Outcomes) -> list[str]:
    return [name for name, end in (outcome.tests or {}).items() if end == "failed"]


def telling(brought: Sequence[Brought]) -> dict[str, tuple[dict[str, Cell], tuple[str, ...], str]]:
    """Test → its column, all tests that say the same, and its text: what some entry passes and some does not, once each.

    Tests of one behaviour have one vote: a file of ten assertions of one thing says it once, and so do ten agents.
    """
    groups: dict[tuple[tuple[str, Cell], ...], list[tuple[str, str]]] = {}
    for set_of in brought:
        for name, column in set_of.columns.items():
            if "pass" in column.values() and set(column.values()) != {"pass"}:
                key = tuple(sorted(column.items()))
                groups.setdefault(key, []).extend(
                    (brought_name(candidate, name), set_of.text) for candidate in set_of.by
                )
    return {names[0][0]: (dict(key), tuple(name for name, _ in names), names[0][1]) for key, names in groups.items()}
