"""The testing trajectory: write a script that tells fixed from not fixed, run it on the base, mend it until it fails there
for the reason that the issue gives."""

from __future__ import annotations

from runoff.agent import edits
from runoff.agent.environment import Environment
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Step
from runoff.agent.verdict import SPOKEN, Verdict, contract, verdict_on_base
from runoff.sandbox.protocol import Value


class TestingRecipe(Value):
    __test__ = False  # not for pytest to collect

    turns: int = 6
    """Model calls a trajectory."""
    seconds: float = 60
    """Wall time of one run of a test."""
    temperature: float = 0.7
    max_tokens: int = 8192
    insist: bool | None = None
    """Whether a script must print what came, and its writer confirm, having seen that, that it fails for the issue's reason.
    None: yes."""


class GeneratedTest(Value):
    """A script that failed on the base, for the reason its writer was shown."""

    id: str
    script: str
    output: str
    """What it printed on the base."""


async def write_test(
    step: Step, model: str, shared: Message, environment: Environment, recipe: TestingRecipe
) -> Ended[GeneratedTest]:
    """A conversation of up to `turns` replies, and one more question where they end with a script that nobody has confirmed.

    Only a script that says `not fixed` on the base is a result; see `TestingRecipe.insist` for what else it takes.
    """
    say, insist = prompts("testing"), recipe.insist is not False
    spoken = SPOKEN[environment.language]
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    talk = shared.then("user", say.first(contract=contract(recipe.seconds, environment.language)))
    script, verdict = "", Verdict(outcome="broken", why="no script yet")
    heard = talk
    for turn in range(1, recipe.turns + 1):
        here = step.scope(f"turn{turn}")
        answer = await here.ask("ask", Request(model, sampling, talk))
        said, heard = edits.parse(answer.reply.text), answer.conversation
        left = recipe.turns - turn
        if said.done and verdict.outcome == "not fixed" and (verdict.explained or not insist):
            return Ended(reason="done", value=_result(step, script, verdict))
        if said.tests and not said.problems:
            script = said.tests[0]
            verdict = await _on_base(here, environment, script, recipe)
        if said.problems or not (said.tests or said.done):
            problems = said.problems or ("there is no <test> block in the answer",)
            told = say.unreadable(problems=problems, verdict=verdict, cut=answer.reply.finish == "length", left=left)
        elif insist and verdict.outcome == "not fixed" and not verdict.explained:
            told = say.shows_nothing(verdict=verdict, left=left)
        elif said.tests:
            told = say.ran(verdict=verdict, left=left, exits=spoken.exits)
        else:
            told = say.not_done(verdict=verdict, left=left)
        talk = heard.then("user", told)
    if verdict.outcome != "not fixed":
        return Ended(reason="turns", note=f"no test that fails on the base: {verdict.outcome} ({verdict.why})")
    if not insist:
        return Ended(reason="turns", value=_result(step, script, verdict))
    talk = heard.then("user", say.confirm(verdict=verdict))
    answer = await step.ask("confirm", Request(model, sampling, talk))
    said = edits.parse(answer.reply.text)
    if said.tests and not said.problems:
        script, verdict = said.tests[0], await _on_base(step.scope("last"), environment, said.tests[0], recipe)
        if verdict.outcome != "not fixed":
            note = f"its writer gave the last test up, and another that does not fail on the base: {verdict.outcome} ({verdict.why})"
            return Ended(reason="turns", note=note)
    elif not said.done:
        return Ended(reason="turns", note="its writer did not confirm that the last test fails for the issue's reason")
    if not verdict.explained:
        return Ended(reason="turns", note="the last test fails on the base and shows nothing of what came")
    return Ended(reason="turns", value=_result(step, script, verdict))


async def _on_base(here: Step, environment: Environment, script: str, recipe: TestingRecipe) -> Verdict:
    return await verdict_on_base(
        here,
        "base",
        environment.state,
        script,
        seconds=recipe.seconds,
        env=environment.env,
        language=environment.language,
    )


def _result(step: Step, script: str, verdict: Verdict) -> GeneratedTest:
    return GeneratedTest(id=step.trajectory, script=script, output=verdict.output)
