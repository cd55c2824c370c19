"""The run-off: a trajectory that tells the finalists apart by writing tests and seeing each run on all of them, then chooses.

in_turn ──order──► decide ──Decision──► certain? ──no──► the next round, in another order
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial

from pydantic import Field

from runoff.agent import edits
from runoff.agent.environment import Environment, patched
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Step
from runoff.agent.verdict import Verdict, capped, contract, read_verdict, script_run
from runoff.sandbox.protocol import State, Value
from runoff.selection.protocol import Cell, Entry, OutcomeTable


class RunoffRecipe(Value):
    finalists: int = 3
    """Candidates shown at once: a model chooses worse among many."""
    turns: int = 8
    """Model calls."""
    seconds: float = 60
    temperature: float = 0.0
    max_tokens: int = 8192
    repeats: int | None = Field(default=None, ge=1)
    """Rounds at most, each with the finalists in another order; no more are held than can change the choice. None: one."""
    abstain: bool | None = None
    """Whether it may say that it cannot tell them apart; then the first of the ranking stands. None: no."""


ABSTAINED = "none"
"""What is chosen by who cannot tell."""


class Decision(Value):
    chosen: str | None
    """An entry's id; None: it abstained."""
    why: str
    """Its reasons, which call the finalists by the letters they were shown under."""
    letters: dict[str, str]
    """Letter → entry."""
    tests: int
    """How many tests it wrote and ran before."""


def in_turn(finalists: Sequence[Entry], chance: random.Random, number: int) -> list[Entry]:
    """The order in which round `number`, from 1 on, is shown the finalists: shuffled, so that neither place nor id says
    which was ahead; then turned, so that in as many rounds as there are finalists each stands in each place once; then all
    that backwards.

    `chance` is the first round's.
    """
    order = list(finalists)
    chance.shuffle(order)
    whole, turn = divmod(number - 1, len(order))
    order = order[turn:] + order[:turn]
    return order[::-1] if whole % 2 else order


def certain(choices: Sequence[str | None], repeats: int) -> bool:
    """Whether no round that is left can change which finalist most rounds chose. Pure. A round without a choice is for nobody."""
    left = repeats - len(choices)
    most = [count for _, count in Counter(filter(None, choices)).most_common(2)]
    return left <= 0 or (most[0] if most else 0) - (most[1] if len(most) > 1 else 0) > left


async def decide(
    step: Step,
    model: str,
    shared: Message,
    environment: Environment,
    finalists: Sequence[Entry],
    table: OutcomeTable,
    recipe: RunoffRecipe,
) -> Ended[Decision]:
    """Up to `turns` replies: a test is run on the base and on every finalist side by side, `<choose>` ends it.

    The finalists are shown under letters, in the order they are given in.
    """
    say = prompts("runoff", "runoff.selection")
    letters = {chr(ord("A") + n): entry for n, entry in enumerate(finalists)}
    named = {letter: entry.id for letter, entry in letters.items()}
    patches = {
        letter: capped(entry.candidate.patch.decode("utf-8", "replace"), 16_000) for letter, entry in letters.items()
    }
    states: dict[str, State] = {"original": environment.state}
    for letter, entry in letters.items():
        states[letter] = await patched(step.world, environment, entry.candidate.patch)
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    known = _known(table, letters)
    first = say.first(patches=patches, contract=contract(recipe.seconds, environment.language), known=known)
    talk = shared.then("user", f"{first}\n{say.may_abstain()}" if recipe.abstain else first)
    choices: dict[str, str | None] = {**named, **({ABSTAINED: None} if recipe.abstain else {})}
    written = 0
    for turn in range(1, recipe.turns + 1):
        here, left = step.scope(f"turn{turn}"), recipe.turns - turn
        answer = await here.ask("ask", Request(model, sampling, talk))
        said = edits.parse(answer.reply.text)
        if said.choose in choices and not said.problems:
            why = answer.reply.text.partition("<choose")[0].strip()
            return Ended(
                reason="done",
                value=Decision(chosen=choices[said.choose], why=capped(why, 4000), letters=named, tests=written),
            )
        if said.tests and not said.problems:
            written += 1
            verdicts = await _side_by_side(here, states, environment, said.tests[0], recipe.seconds)
            told = say.ran(verdicts=verdicts, notices=said.notices, left=left)
        else:
            problems = list(said.problems)
            if said.choose:
                problems.append(f"there is no change {said.choose}; there are {', '.join(choices)}")
            told = say.unusable(problems=problems, letters=list(choices), left=left)
        talk = answer.conversation.then("user", told)
    return Ended(reason="turns", note=f"no choice within {recipe.turns} answers")


async def _side_by_side(
    here: Step, states: dict[str, State], environment: Environment, script: str, seconds: float
) -> dict[str, Verdict]:
    async def one(step: Step, state: State) -> Verdict:
        run = script_run(step.world, state, script, seconds=seconds, env=environment.env, language=environment.language)
        return read_verdict(run, await step.execute("test", run), shown=4000)

    return await here.all({name: partial(one, state=state) for name, state in states.items()})


def _known(table: OutcomeTable, letters: dict[str, Entry]) -> list[tuple[str, dict[str, Cell]]]:
    """Scripts on which the finalists differ already, with what each says of them: the evidence so far, at most three."""
    telling = []
    for test in table.generated:
        cells = {letter: table.rows[entry.id][test] for letter, entry in letters.items()}
        if len(set(cells.values())) > 1:
            telling.append((table.scripts[test], cells))
    return telling[:3]
