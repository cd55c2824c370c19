"""Fills the outcome table: every entry against every test, the base row, the must-fail control. Each cell is on record as it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from runoff.agent.context import Tree
from runoff.agent.environment import Environment, Language, patched
from runoff.agent.patches import patched_paths
from runoff.agent.step import World, settled
from runoff.agent.verdict import Verdict, must_fail_control, read_verdict, script_run
from runoff.sandbox.protocol import State
from runoff.selection.brought_tests import bringer, run_brought, telling
from runoff.selection.protocol import Cell, Entry, GeneratedTest, OutcomeTable
from runoff.selection.repository_tests import Outcomes, RegressionRecipe, broken, known_of, near, on_base, run_tests
from runoff.selection.sameness import same_script

K = TypeVar("K")
R = TypeVar("R")

_CELLS: Mapping[str, Cell] = {"fixed": "pass", "not fixed": "fail", "broken": "could not tell"}


async def fill(
    world: World,
    environment: Environment,
    tree: Tree,
    entries: Sequence[Entry],
    tests: Sequence[GeneratedTest],
    regression: RegressionRecipe,
    seconds: float,
    edits: Mapping[str, bytes] = {},
    suited: Sequence[str] = (),
) -> OutcomeTable:
    """Run every cell that is not on record. All run as sandbox slots allow; none waits for another. The most telling are
    the first to be given a slot: those of the candidates that most proposed, who lead until something is known.

    A generated test votes only if it fails on the base, each time, and says the same again of three entries (see
    `_telling_again`); scripts that are the same have one vote together. `edits` of the
    repository's tests that candidates bring, by candidate: what fails on the base of these votes too, but not for its author.
    `suited`: see `near`.
    """
    states = {entry.id: await patched(world, environment, entry.candidate.patch) for entry in entries}
    scripts = {test.id: test.script for test in tests}
    reasons: dict[str, str] = {}

    async def cell(state: State, script: str, place: str, again: bool = False) -> Cell:
        run = script_run(world, state, script, seconds=seconds, env=environment.env, language=environment.language)
        run = run.model_copy(update={"repetition": int(again)})
        verdict: Verdict = read_verdict(run, await world.execute(run), shown=1000)
        if again:
            return _CELLS[verdict.outcome]
        if verdict.outcome != "fixed":
            reasons[place] = verdict.why
        world.votes = (world.votes[0] + 1, world.votes[1])
        world.changed("selection", place)
        return _CELLS[verdict.outcome]

    same = _distinct(scripts, environment.language)
    world.votes = (0, len(same))
    base = await _each({test: partial(cell, environment.state, scripts[test], f"base/{test}") for test in same})
    failing = [test for test in same if base[test] == "fail"]
    once_more = await _each({t: partial(cell, environment.state, scripts[t], f"base/{t}", again=True) for t in failing})
    voting = tuple(test for test in failing if once_more[test] != "pass")
    control = must_fail_control([scripts[test] for test in voting], environment.language)
    world.votes = (len(same), len(same) + len(entries) * (len(voting) + 1))
    leading = sorted(entries, key=lambda entry: -len(entry.proposers))
    wanted = [(entry.id, test) for entry in leading for test in voting]
    voted = asyncio.ensure_future(_each({(e, t): partial(cell, states[e], scripts[t], f"{e}/{t}") for e, t in wanted}))
    controls = {entry.id: partial(cell, states[entry.id], control, f"{entry.id}/control") for entry in leading}
    controlled = asyncio.ensure_future(_each(controls))
    regressed = asyncio.ensure_future(_regressions(world, environment, tree, leading, states, regression, suited))
    brought = asyncio.ensure_future(run_brought(world, environment, leading, states, edits, regression))
    await settled(voted, controlled, regressed, brought)
    cells, (repository, lost, why) = voted.result(), regressed.result()
    rerun = [(e, t) for t in voting for e in _telling_again({entry.id: cells[entry.id, t] for entry in entries})]
    repeated = await _each({(e, t): partial(cell, states[e], scripts[t], f"{e}/{t}", again=True) for e, t in rerun})
    torn = {t for (e, t), now in repeated.items() if {now, cells[e, t]} == {"pass", "fail"}}
    flaky = torn.union(test for test in failing if test not in voting)
    reasons |= {f"base/{test}": "flaky: it passed and failed on the same code, so it has no vote" for test in flaky}
    voting = tuple(test for test in voting if test not in flaky)
    reasons |= {f"{entry}/repository": text for entry, text in why.items()}
    told = telling(brought.result())
    proposed = {candidate: entry.id for entry in entries for candidate in entry.proposers}
    authors = {
        name: tuple(dict.fromkeys(filter(None, (proposed.get(bringer(one)) for one in all_of))))
        for name, (_, all_of, _) in told.items()
    }
    scripts |= {name: text for name, (_, _, text) in told.items()}
    return OutcomeTable(
        generated=(*voting, *told),
        base=base | dict.fromkeys(told, "fail"),
        rows={
            entry.id: {test: cells[entry.id, test] for test in voting}
            | {test: column[entry.id] for test, (column, _, _) in told.items()}
            for entry in entries
        },
        authors=authors,
        control=controlled.result(),
        repository=repository,
        broken=lost,
        reasons=dict(sorted(reasons.items())),
        scripts=scripts,
        same=same | {name: all_of for name, (_, all_of, _) in told.items()},
    )


async def _regressions(
    world: World,
    environment: Environment,
    tree: Tree,
    entries: Sequence[Entry],
    states: Mapping[str, State],
    recipe: RegressionRecipe,
    suited: Sequence[str],
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...] | None], dict[str, str]]:
    """The stable tests near all changes together (so that all entries meet the same ones), and what each entry breaks."""
    changed = sorted({path for entry in entries for path in patched_paths(entry.candidate.patch)})
    chosen = near(tree, changed, recipe.files, suited)
    known, unknown = known_of(environment, chosen)
    stable, base_why, files = known, "", list(chosen)
    if unknown or not known:
        running, fresh, base_why = await on_base(world, environment, unknown, recipe)
        stable = tuple(dict.fromkeys((*known, *fresh)))
        files = [path for path in chosen if path not in unknown or path in running]
    if not stable:
        return (
            (),
            {entry.id: () for entry in entries},
            {"base": base_why or "none of the tests near the change passes"},
        )

    async def run(state: State) -> Outcomes:
        return await run_tests(world, environment, state, files, recipe)

    after = await _each({entry.id: partial(run, states[entry.id]) for entry in entries})
    seen = {test for outcome in after.values() for test in outcome.tests or ()}
    if known and not seen.issuperset(known):
        # Either all candidates take these tests away, or they have other ids than when they were prepared: the base tells.
        _, stable, _ = await on_base(world, environment, files, recipe)
    why = {name: outcome.why for name, outcome in after.items() if outcome.why}
    return stable, {name: broken(stable, outcome) for name, outcome in after.items()}, why


def _telling_again(column: Mapping[str, Cell]) -> list[str]:
    """Whom to run a test on again, to find out whether it says anything: the first and the last that pass, the first that fails.

    One that passes by chance, with probability p, and was seen to fail on the base twice, stays with at most
    p²·(1 − p)³ ≤ 0.035.
    """
    passing = [entry for entry, said in column.items() if said == "pass"]
    failing = [entry for entry, said in column.items() if said == "fail"]
    return list(dict.fromkeys([*passing[:1], *passing[-1:], *failing[:1]])) if passing else []


def _distinct(scripts: Mapping[str, str], language: Language) -> dict[str, tuple[str, ...]]:
    """The first test of each distinct script → all that are that script."""
    groups: dict[str, list[str]] = {}
    for name, script in scripts.items():
        groups.setdefault(same_script(script, language), []).append(name)
    return {names[0]: tuple(names) for names in groups.values()}


async def _each(calls: Mapping[K, Callable[[], Awaitable[R]]]) -> dict[K, R]:
    """All calls together, results by key."""
    return dict(zip(calls, await settled(*(call() for call in calls.values())), strict=True))
