"""The run-off: a trajectory that tells the finalists apart by writing tests and seeing each run on all of them, then chooses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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


class Decision(Value):
    chosen: str
    """An entry's id."""
    why: str
    """Its reasons, which call the finalists by the letters they were shown under."""
    letters: dict[str, str]
    """Letter → entry."""
    tests: int
    """How many tests it wrote and ran before."""


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

    The finalists are shown in a shuffled order under letters, so that neither place nor id says which was ahead.
    """
    say = prompts("runoff", "runoff.selection")
    shuffled = list(finalists)
    step.random("order").shuffle(shuffled)
    letters = {chr(ord("A") + n): entry for n, entry in enumerate(shuffled)}
    named = {letter: entry.id for letter, entry in letters.items()}
    patches = {
        letter: capped(entry.candidate.patch.decode("utf-8", "replace"), 16_000) for letter, entry in letters.items()
    }
    states: dict[str, State] = {"original": environment.state}
    for letter, entry in letters.items():
        states[letter] = await patched(step.world, environment, entry.candidate.patch)
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    known = _known(table, letters)
    talk = shared.then(
        "user", say.first(patches=patches, contract=contract(recipe.seconds, environment.language), known=known)
    )
    written = 0
    for turn in range(1, recipe.turns + 1):
        here, left = step.scope(f"turn{turn}"), recipe.turns - turn
        answer = await here.ask("ask", Request(model, sampling, talk))
        said = edits.parse(answer.reply.text)
        if said.choose in letters and not said.problems:
            why = answer.reply.text.partition("<choose")[0].strip()
            return Ended(
                reason="done",
                value=Decision(chosen=letters[said.choose].id, why=capped(why, 4000), letters=named, tests=written),
            )
        if said.tests and not said.problems:
            written += 1
            verdicts = await _side_by_side(here, states, environment, said.tests[0], recipe.seconds)
            told = say.ran(verdicts=verdicts, notices=said.notices, left=left)
        else:
            problems = list(said.problems)
            if said.choose:
                problems.append(f"there is no change {said.choose}; there are {', '.join(letters)}")
            told = say.unusable(problems=problems, letters=list(letters), left=left)
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
