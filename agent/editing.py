"""The editing trajectory: make the change, see the test run on the base and on the change, improve either, say done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from runoff.agent import edits
from runoff.agent.context import Tree
from runoff.agent.environment import BuildFailed, Environment, patched
from runoff.agent.prompts import prompts
from runoff.agent.protocol import BudgetSpent, ContextOverflow, Message, Request, Sampling
from runoff.agent.step import Ended, Reason, Step
from runoff.agent.testing import GeneratedTest
from runoff.agent.verdict import Verdict, capped, contract, read_verdict, script_run, verdict_on_base
from runoff.sandbox.protocol import Raw, Refused, Value


class EditingRecipe(Value):
    turns: int = 8
    """Model calls a trajectory."""
    seconds: float = 60
    """Wall time of one run of a test."""
    temperature: float = 0.7
    max_tokens: int = 8192
    diffs: bool = False
    """Whether models are told to write changes as unified diffs, rather than by search and replace."""


class Candidate(Value):
    """A patch, and where it comes from."""

    id: str
    patch: Raw
    test: str | None = None
    """The last test its trajectory held against it, if that says `not fixed` on the base."""
    own_verdict: str | None = None
    """What that test says of the patch; its author's claim, not evidence."""


class Draft(Value):
    """An edit that could be made."""

    patch: Raw
    syntax: tuple[str, ...] = ()


async def make_edit(
    step: Step,
    model: str,
    shared: Message,
    tree: Tree,
    environment: Environment,
    test: GeneratedTest | None,
    recipe: EditingRecipe,
) -> Ended[Candidate]:
    """A conversation of up to `turns` replies, begun with a generated test. Every edit is relative to the base.

    Each turn runs the test on the base *and* on the patched code and shows both; the model answers with an edit, a new
    test, or done. However it ends, the last edit that could be made is the candidate.
    """
    say = prompts("editing")
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    script, draft = test.script if test else None, None
    before = after = None
    talk = shared.then("user", say.first(contract=contract(recipe.seconds, environment.language), test=test))
    for turn in range(1, recipe.turns + 1):
        here, left = step.scope(f"turn{turn}"), recipe.turns - turn
        try:
            answer = await here.ask("ask", Request(model, sampling, talk))
        except (BudgetSpent, ContextOverflow) as error:  # what was made until then is not lost
            if not draft:
                raise
            reason: Reason = "budget" if isinstance(error, BudgetSpent) else "context"
            return Ended(reason=reason, value=_result(step, draft, script, before, after), note=str(error))
        said = edits.parse(answer.reply.text)
        problems = list(said.problems)
        if said.done and draft:
            return Ended(reason="done", value=_result(step, draft, script, before, after))
        if said.done:
            problems.append("done is taken only when there is an edit, and none could be made so far")
        if said.edits and not problems:
            made = await _draft(here, tree, environment, said.edits)
            if isinstance(made, Draft):
                draft = made
            else:
                problems += made
        if said.tests and not problems:
            script = said.tests[0]
        if problems or not (said.edits or said.tests):
            told = say.unusable(
                problems=problems,
                draft=draft,
                cut=answer.reply.finish == "length",
                nothing=not (said.edits or said.tests),
                left=left,
            )
        else:
            before, after = await try_script(here, environment, draft, script, recipe.seconds)
            told = say.ran(
                patch=_shown(draft),
                syntax=draft.syntax if draft else (),
                before=before,
                after=after,
                notices=said.notices,
                left=left,
            )
        talk = answer.conversation.then("user", told)
    if draft:
        return Ended(reason="turns", value=_result(step, draft, script, before, after))
    return Ended(reason="turns", note="no edit that could be made")


async def _draft(
    here: Step, tree: Tree, environment: Environment, changes: tuple[edits.Change, ...]
) -> Draft | list[str]:
    """The patch of an edit, its diff taken by git inside the sandbox; or what is wrong with it, for the model."""
    try:
        files = edits.apply(changes, tree.get, paths=sorted(tree), others=tree)
    except edits.EditProblem as problem:
        return list(problem.problems)
    syntax = [
        f"{path}: {message}"
        for path, contents in files.items()
        if contents is not None
        for message in edits.syntax_errors(path, contents, tree.get(path))
    ]

    async def diff() -> str:
        sandbox = here.world.sandbox
        edited = await sandbox.write(
            environment.state, {f"/testbed/{path}": contents for path, contents in files.items()}
        )
        return (await sandbox.diff(edited, since=environment.state)).patch.decode("utf-8", "surrogateescape")

    try:
        patch = await here.once("patch", diff, base=environment.state.digest, files=_digest(files))
    except Refused as error:
        return [f"the files cannot be written so: {error}"]
    if not patch.strip():
        return ["the edit changes nothing: the files would be as they are"]
    return Draft(patch=patch, syntax=tuple(syntax))


async def try_script(
    here: Step, environment: Environment, draft: Draft | None, script: str | None, seconds: float
) -> tuple[Verdict | None, Verdict | None]:
    """What the test says of the base and of the patched code; None where there is no test, or no edit."""
    if script is None:
        return None, None

    async def on_base(step: Step) -> Verdict | None:
        return await verdict_on_base(
            step, "test", environment.state, script, seconds=seconds, env=environment.env, language=environment.language
        )

    async def on_patched(step: Step) -> Verdict | None:
        if not draft:
            return None
        try:
            state = await patched(step.world, environment, draft.patch)
        except BuildFailed as error:
            return Verdict(outcome="broken", why=str(error))
        run = script_run(step.world, state, script, seconds=seconds, env=environment.env, language=environment.language)
        return read_verdict(run, await step.execute("test", run))

    both = await here.all({"base": on_base, "patched": on_patched})
    return both["base"], both["patched"]


def _result(step: Step, draft: Draft, script: str | None, before: Verdict | None, after: Verdict | None) -> Candidate:
    usable = script is not None and before is not None and before.outcome == "not fixed"
    return Candidate(
        id=step.trajectory,
        patch=draft.patch,
        test=script if usable else None,
        own_verdict=after.outcome if usable and after else None,
    )


def _shown(draft: Draft | None) -> str | None:
    return capped(draft.patch.decode("utf-8", "replace"), 12_000) if draft else None


def _digest(files: Mapping[str, bytes | None]) -> str:
    text = json.dumps(
        [[path, None if contents is None else contents.decode("latin-1")] for path, contents in sorted(files.items())]
    )
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
