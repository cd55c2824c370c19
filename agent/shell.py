"""The shell agent: one bash command an answer, run in the state that the last one left, until it submits its diff."""

from __future__ import annotations

import re

from runoff.agent.editing import Candidate
from runoff.agent.environment import Environment
from runoff.agent.observations import AgentRecipe, Loops, View, command_run, output
from runoff.agent.prompts import prompts
from runoff.agent.protocol import BudgetSpent, ContextOverflow, Message, Sampling
from runoff.agent.step import Ended, Reason, Step
from runoff.agent.submission import hand_in
from runoff.agent.verdict import SPOKEN, contract

SUBMIT = "submit"
"""The command that is none: it hands in the change."""


async def work_in_shell(
    step: Step, model: str, shared: Message, environment: Environment, recipe: AgentRecipe
) -> Ended[Candidate]:
    """A conversation of up to `turns` replies. However it ends, what was changed until then is the candidate.

    One that ends for its budget is no result, but until a richer run goes on with it, its candidate is better than none.
    """
    say = prompts("shell")
    spoken = SPOKEN[environment.language]
    rules = contract(recipe.test_seconds, environment.language)
    task = say.first(recipe=recipe, script=spoken, contract=rules, environment=environment)
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    view = View(shared.then("user", task), model, sampling, recipe.window)
    loops, state, reviewed = Loops(recipe.repeats), environment.state, not recipe.review
    for turn in range(1, recipe.turns + 1):
        here, left = step.scope(f"turn{turn}"), recipe.turns - turn
        try:
            answer = await view.ask(here)
        except (ContextOverflow, BudgetSpent) as error:
            work = await hand_in(here.scope("cut"), environment, state, recipe.test_seconds)
            reason: Reason = "context" if isinstance(error, ContextOverflow) else "budget"
            return Ended(reason=reason, value=work.candidate(step.trajectory), note=str(error))
        commands, problem = read_commands(answer.reply.text)
        if problem or len(commands) != 1:
            cut = answer.reply.finish == "length"
            loop = loops.met("no command", problem or str(len(commands)))
            told = say.unusable(commands=len(commands), problem=problem, cut=cut, loop=loop, left=left)
        elif commands[0].strip() == SUBMIT:
            work = await hand_in(here, environment, state, recipe.test_seconds)
            candidate = work.candidate(step.trajectory)
            if candidate and reviewed:
                return Ended(reason="done", value=candidate)
            reviewed = reviewed or candidate is not None
            loop = loops.met(SUBMIT, work.problem or "nothing")
            told = say.review(work=work, script=spoken.left_at, loop=loop, left=left)
        else:
            run = command_run(state, commands[0], environment.env, recipe.seconds)
            done = await here.execute("run", run)
            state = done.after or state
            shown = output(done, recipe.shown)
            loop = loops.met(commands[0], f"{shown.ended}\n{shown.text}", shown.failed)
            told = say.ran(shown=shown, loop=loop, left=left)
        view.hear(told)
        if loop and loop.ends:
            work = await hand_in(here.scope("end"), environment, state, recipe.test_seconds)
            note = f"went round in circles: the same {loop.what} {loop.times} times"
            return Ended(reason="turns", value=work.candidate(step.trajectory), note=note)
    work = await hand_in(step.scope("end"), environment, state, recipe.test_seconds)
    note = "" if work.patch.strip() else "nothing was changed"
    return Ended(reason="turns", value=work.candidate(step.trajectory), note=note)


def read_commands(reply: str) -> tuple[list[str], str]:
    """The bash blocks of a reply, thoughts left out; and what is wrong with them, in words for the model, or nothing.

    A block ends at a line of as many backticks as it began with or more, so that a command may hold shorter fences.
    """
    reply = re.sub(r"<think>.*?(</think>|\Z)", "", reply.rpartition("</think>")[2], flags=re.DOTALL)
    commands: list[str] = []
    fence, language, body, stray = "", "", list[str](), False
    for line in reply.split("\n"):
        mark = _FENCE.match(line)
        if not fence and mark:
            fence, language, body = mark[1], mark[2].lower(), []
            stray |= bool(commands) and not language
        elif fence and mark and not mark[2] and len(mark[1]) >= len(fence):
            if language in _BASH:
                commands.append("\n".join(body))
            fence = ""
        elif fence:
            body.append(line.removesuffix("\r"))
    if fence and language in _BASH:
        return commands, f"the block is never closed: a line {fence} is missing at its end"
    if stray:  # as when a command that writes Markdown was ended by a fence in it
        return commands, (
            "behind the block there is a fence that names no language; if the command itself holds lines of three "
            "backticks, begin and end its block with four"
        )
    if any(not command.strip() for command in commands):
        return commands, "the block is empty"
    return commands, ""


_BASH = ("bash", "sh", "shell")
_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([\w+-]*)[ \t\r]*$")
