"""What an agent hands in: the diff of the state it works in, and its test script if that fails on the base."""

from __future__ import annotations

from runoff.agent.editing import Candidate, Draft, try_script
from runoff.agent.environment import Environment
from runoff.agent.step import Step
from runoff.agent.verdict import SPOKEN, Verdict, capped
from runoff.sandbox.protocol import Raw, Refused, State, Value

_LONGEST = 64 * 1024


class Work(Value):
    """What there is to hand in, and what is to be said of it."""

    patch: Raw = b""
    left_out: tuple[str, ...] = ()
    """New files that are kept out of patches."""
    problem: str = ""
    """Why there is no patch, if none could be taken."""
    script: str | None = None
    before: Verdict | None = None
    """What the script says of the base."""
    after: Verdict | None = None
    """What it says of the base with the patch."""

    @property
    def shown_patch(self) -> str:
        return capped(self.patch.decode("utf-8", "replace"), 12_000).strip("\n")

    def candidate(self, name: str) -> Candidate | None:
        """None if nothing was changed. A script that does not say `not fixed` on the base is nobody's test."""
        if not self.patch.strip():
            return None
        usable = self.before is not None and self.before.outcome == "not fixed"
        return Candidate(
            id=name,
            patch=self.patch,
            test=self.script if usable else None,
            own_verdict=self.after.outcome if usable and self.after else None,
        )


async def hand_in(here: Step, environment: Environment, state: State, seconds: float) -> Work:
    """The change from the environment's own state to `state`, tried by the script that an agent may leave."""
    sandbox = here.world.sandbox

    async def diff() -> dict[str, object]:
        try:
            made = await sandbox.diff(state, since=environment.state)
        except Refused as error:
            return Work(problem=str(error)).model_dump(mode="json")
        return Work(patch=made.patch, left_out=made.left_out).model_dump(mode="json")

    async def read() -> str | None:
        try:
            return (await sandbox.read(state, SPOKEN[environment.language].left_at, _LONGEST)).decode()
        except (Refused, UnicodeDecodeError):
            return None

    work = Work.model_validate(
        await here.once("patch", diff, base=environment.state.digest, state=state.digest),
    )
    script = await here.once("script", read, state=state.digest)
    draft = Draft(patch=work.patch) if work.patch.strip() else None
    before, after = await try_script(here, environment, draft, script, seconds)
    return work.model_copy(update={"script": script, "before": before, "after": after})
