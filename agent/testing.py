"""The testing trajectory: write a script that tells fixed from not fixed, run it on the base, mend it until it fails there."""

from __future__ import annotations

from runoff.agent import edits
from runoff.agent.environment import Environment
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Step
from runoff.agent.verdict import Verdict, contract, verdict_on_base
from runoff.sandbox.protocol import Value


class TestingRecipe(Value):
    __test__ = False  # not for pytest to collect

    turns: int = 6
    """Model calls a trajectory."""
    seconds: float = 60
    """Wall time of one run of a test."""
    temperature: float = 0.7
    max_tokens: int = 8192


class GeneratedTest(Value):
    """A script that failed on the base, for the reason its writer was shown."""

    id: str
    script: str
    output: str
    """What it printed on the base."""


async def write_test(
    step: Step, model: str, shared: Message, environment: Environment, recipe: TestingRecipe
) -> Ended[GeneratedTest]:
    """A conversation of up to `turns` replies; only a script that says `not fixed` on the base is a result."""
    say = prompts("testing")
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    talk = shared.then("user", say.first(contract=contract(recipe.seconds)))
    script, verdict = "", Verdict(outcome="broken", why="no script yet")
    for turn in range(1, recipe.turns + 1):
        here = step.scope(f"turn{turn}")
        answer = await here.ask("ask", Request(model, sampling, talk))
        said = edits.parse(answer.reply.text)
        left = recipe.turns - turn
        if said.done and verdict.outcome == "not fixed":
            return Ended(reason="done", value=_result(step, script, verdict))
        if said.tests and not said.problems:
            script = said.tests[0]
            verdict = await verdict_on_base(
                here, "base", environment.state, script, seconds=recipe.seconds, env=environment.env
            )
            told = say.ran(verdict=verdict, left=left)
        elif said.done:
            told = say.not_done(verdict=verdict, left=left)
        else:
            problems = said.problems or ("there is no <test> block in the answer",)
            told = say.unreadable(problems=problems, verdict=verdict, cut=answer.reply.finish == "length", left=left)
        talk = answer.conversation.then("user", told)
    if verdict.outcome == "not fixed":
        return Ended(reason="turns", value=_result(step, script, verdict))
    return Ended(reason="turns", note=f"no test that fails on the base: {verdict.outcome} ({verdict.why})")


def _result(step: Step, script: str, verdict: Verdict) -> GeneratedTest:
    return GeneratedTest(id=step.trajectory, script=script, output=verdict.output)
