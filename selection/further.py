"""Further tests, asked for where the others leave the leaders level: one on which two of them differ, or one that attacks
what all of them agree on.

    table, standings ──wanted──► whom to ask about ──ask_for_test──► a test or none ──► table with its column ──► ranking again
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

from pydantic import Field

from runoff.agent import edits
from runoff.agent.environment import Environment, patched
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Step
from runoff.agent.testing import GeneratedTest
from runoff.agent.verdict import Verdict, capped, contract, read_verdict, script_run
from runoff.sandbox.protocol import State, Value
from runoff.selection.protocol import Asked, Entry, FurtherKind, OutcomeTable, Standing
from runoff.selection.ranking import broken_tests

_ORIGINAL = "original"


class FurtherRecipe(Value):
    differential: int = Field(default=2, ge=0)
    """Differential tests asked for at most, each on another pair."""
    challenge: bool = True
    """Whether a challenge is asked for, once, if all leaders still behave alike then."""
    leaders: int = Field(default=3, ge=2)
    """Leaders looked at."""
    turns: int = Field(default=5, ge=1)
    """Model calls for one test."""
    temperature: float = 0.7
    max_tokens: int = 8192


class Wanted(NamedTuple):
    """A test that is to be asked for, and between whom."""

    kind: FurtherKind
    entries: tuple[str, ...]
    """In the order of the ranking."""

    @property
    def name(self) -> str:
        """The trajectory in which it is asked for; the test has its name."""
        return f"{self.kind}-{'+'.join(sorted(self.entries))}"


def leading(table: OutcomeTable, standings: Sequence[Standing], most: int) -> list[str]:
    """Who could as well be submitted: the first of the ranking, and whoever breaks no more and has no fewer votes. Pure."""
    able = [standing for standing in standings if not standing.disqualified and standing.gated]
    return [
        standing.entry
        for standing in able
        if broken_tests(table, standing.entry) <= broken_tests(table, able[0].entry) and standing.votes >= able[0].votes
    ][:most]


def wanted(
    table: OutcomeTable, standings: Sequence[Standing], asked: Sequence[Asked], recipe: FurtherRecipe
) -> Wanted | None:
    """What is to be asked for next, given what was asked for so far, or nothing. Pure; it comes to an end.

    A differential test for the first pair of leaders that behave alike in all that was run. When none is left to ask for
    and all leaders behave alike, a challenge. VeriHarness (arXiv 2610.00972) has both: a resolver for disagreements, and
    a challenger for what all agree on.
    """
    leaders = leading(table, standings, recipe.leaders)
    known = {(one.kind, frozenset(one.entries)) for one in asked}
    if sum(one.kind == "differential" for one in asked) < recipe.differential:
        for pair in combinations(leaders, 2):
            if table.row(pair[0]) == table.row(pair[1]) and ("differential", frozenset(pair)) not in known:
                return Wanted("differential", pair)
    challenged = any(one.kind == "challenge" for one in asked)
    agree = len(leaders) > 1 and len({table.row(name) for name in leaders}) == 1
    return Wanted("challenge", tuple(leaders)) if recipe.challenge and agree and not challenged else None


def remark(asked: Asked, table: OutcomeTable) -> str:
    """What was asked for and what the test said, in a line. Pure."""
    to = "tell apart" if asked.kind == "differential" else "attack what they agree on:"
    head = f"a {asked.kind} test was asked for to {to} {', '.join(asked.entries)}"
    test = next((test for test in table.generated if asked.test in (test, *table.same.get(test, ()))), None)
    if test is None:
        return f"{head}; there is none: {asked.why}"
    cells = "; ".join(f"{name}: {table.rows[name][test]}" for name in asked.entries)
    return f"{head}: {test} ({cells}). {asked.why}"


async def ask_for_test(
    step: Step,
    model: str,
    shared: Message,
    environment: Environment,
    kind: FurtherKind,
    entries: Sequence[Entry],
    seconds: float,
    recipe: FurtherRecipe,
) -> Ended[GeneratedTest]:
    """A conversation of up to `turns` replies. Each script is run twice on the base and on each of the changes, all results
    are shown, and it is kept only if `unfit` has nothing against it and its writer, having seen them, says <done/>.

    The changes are shown under letters in a shuffled order. The note says why the test is what the issue wants, in the
    writer's words, or why there is none.
    """
    say = prompts("further", "runoff.selection")
    shuffled = sorted(entries, key=lambda entry: entry.id)
    step.random("order").shuffle(shuffled)
    letters = {chr(ord("A") + n): entry for n, entry in enumerate(shuffled)}
    patches = {
        letter: capped(entry.candidate.patch.decode("utf-8", "replace"), 16_000) for letter, entry in letters.items()
    }
    states: dict[str, State] = {_ORIGINAL: environment.state}
    for letter, entry in letters.items():
        states[letter] = await patched(step.world, environment, entry.candidate.patch)
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    first = {"differential": say.differential, "challenge": say.challenge}[kind]
    talk = shared.then("user", first(patches=patches, contract=contract(seconds, environment.language)))
    script, output, fault = "", "", "there is no script yet"
    for turn in range(1, recipe.turns + 1):
        here, left = step.scope(f"turn{turn}"), recipe.turns - turn
        answer = await here.ask("ask", Request(model, sampling, talk))
        text = answer.reply.text
        said = edits.parse(text)
        if said.choose == "none":
            words = capped(text.partition("<choose")[0].strip(), 1000)
            return Ended(reason="done", note=f"its writer found none worth keeping: {words}")
        if said.done and not fault:
            words = capped(text.partition("<done")[0].strip(), 1000)
            return Ended(
                reason="done", value=GeneratedTest(id=step.trajectory, script=script, output=output), note=words
            )
        if said.tests and not said.problems:
            script = said.tests[0]
            verdicts = await _on_all(here, states, environment, script, seconds)
            output, fault = verdicts[_ORIGINAL].output, unfit(kind, verdicts)
            told = say.ran(kind=kind, verdicts=verdicts, fault=fault, notices=said.notices, left=left)
        else:
            problems = [
                *said.problems,
                *([f"there is nothing to choose here but none, not {said.choose}"] if said.choose else []),
            ]
            told = say.unusable(problems=problems, fault=fault, cut=answer.reply.finish == "length", left=left)
        talk = answer.conversation.then("user", told)
    note = fault or "its writer did not confirm the last script"
    return Ended(reason="turns", note=f"none within {recipe.turns} answers: {note}")


def unfit(kind: FurtherKind, verdicts: dict[str, Verdict]) -> str:
    """Why a test cannot be kept, in the words its writer is told; empty if it can. Pure.

    Each verdict is of two runs. As any generated test it must fail on the base: what passes there is a test of what must
    stay, and a script may hold both.
    """
    base = verdicts[_ORIGINAL]
    lost = [name for name, verdict in verdicts.items() if verdict.outcome == "broken"]
    said = {verdict.outcome for name, verdict in verdicts.items() if name != _ORIGINAL}
    if lost:
        places = ["the original repository" if name == _ORIGINAL else f"change {name}" for name in lost]
        return f"it comes to no verdict on {' and '.join(places)}"
    if base.outcome == "fixed":
        unresolved = "it says fixed on the original repository, where the issue is not resolved"
        return f"{unresolved}: let it check a case of which the issue complains, too"
    if not base.explained:
        return "on the original repository it prints nothing of what was expected and what came"
    if kind == "differential" and len(said) == 1:
        one = said.pop()
        hint = "; where each is wrong in a way of its own, check one of these alone" if one == "not fixed" else ""
        return f"it says {one} of both changes, so it does not tell them apart{hint}"
    return ""


async def _on_all(
    here: Step, states: dict[str, State], environment: Environment, script: str, seconds: float
) -> dict[str, Verdict]:
    """What a script says of each state, run twice: who says two things of the same code says nothing."""

    async def one(step: Step, state: State) -> Verdict:
        runs = [
            script_run(
                step.world,
                state,
                script,
                seconds=seconds,
                env=environment.env,
                language=environment.language,
                repetition=n,
            )
            for n in (0, 1)
        ]
        first, again = [
            read_verdict(run, await step.execute(name, run), shown=4000)
            for name, run in zip(("test", "again"), runs, strict=True)
        ]
        if first.outcome == again.outcome:
            return first
        why = f"flaky: run twice on the same code, it said {first.outcome} and then {again.outcome} ({again.why})"
        return Verdict(outcome="broken", why=why, output=again.output)

    return await here.all({name: partial(one, state=state) for name, state in states.items()})
