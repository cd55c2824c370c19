"""What a branch is published with: the proof that is on record, or executed again; the reproduction as a test of the project's.

A sandbox is opened only if something has to be executed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runoff import environments
from runoff.agent.log import Log
from runoff.agent.protocol import Call, ModelUnreachable, Reply
from runoff.agent.step import World
from runoff.github.proof import Proof, executed, reproductions
from runoff.github.regression import Added, added
from runoff.github.submission import Submission
from runoff.sandbox.backends import open_backend
from runoff.selection.protocol import Entry


class Evidence(NamedTuple):
    """`of` gives it for a submission."""

    states: Path
    """Where sandbox states are kept."""
    sandbox: str = "auto"
    say: Callable[[str], None] = lambda text: None
    proof: Proof | None = None
    test: Added | None = None
    no_test: str = ""
    """Why there is no test."""

    def of(self, submission: Submission, *, test: bool = False) -> Evidence:
        """`test`: the reproduction is to be a test of the project's. Raises SandboxError, EnvironmentFailed."""
        entry = submission.entry
        could = reproductions(submission.selection, submission.origins)
        found = self._replace(proof=submission.proof)
        if not entry or not could:
            return found._replace(no_test="there is no reproduction")
        if submission.proof and not test:
            return found
        return asyncio.run(_executed(found, submission, entry, test))


class _Mute:
    """No model is asked when something is published."""

    async def ask(self, call: Call) -> Reply:
        raise ModelUnreachable("no model is asked when something is published")


async def _executed(found: Evidence, submission: Submission, entry: Entry, test: bool) -> Evidence:
    instance, seconds = submission.instance, submission.recipe.selection.seconds
    patch = entry.candidate.patch
    async with open_backend(found.sandbox, found.states) as sandbox:
        log = Path(submission.run) / "log" / f"{instance.id}.jsonl"
        world = World(Log(log), instance.id, _Mute(), sandbox)
        try:
            sandbox.refer(log)
            environment = await environments.build(world, instance, found.say)
            for one in () if found.proof else reproductions(submission.selection, submission.origins)[:3]:
                shown = await executed(world, environment, one, patch, seconds)
                if isinstance(shown, Proof):
                    found = found._replace(proof=shown)
                    break
                found.say(shown)
            if not test:
                return found
            if not found.proof:
                return found._replace(no_test="no reproduction fails on the base and passes on the patch any more")
            address = submission.address
            name = f"issue_{address.number}" if address else re.sub(r"\W+", "_", instance.id.lower())
            title = (f"Issue {address.number}: " if address else "") + submission.title
            made = await added(world, environment, patch, found.proof.of.script, name, title, seconds + 240)
            return found._replace(test=made) if isinstance(made, Added) else found._replace(no_test=made)
        finally:
            sandbox.release(log)
            await world.close()
