"""What a verifier reads of the trajectory that made a candidate: with its author's words, or only what it did and saw."""

from __future__ import annotations

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.protocol import Call, Message, Request, Sampling
from runoff.agent.step import Ended, Step, World, trajectory
from runoff.agent.told import Said, Turn
from runoff.selection.protocol import Entry, Score
from runoff.selection.stories import Part, story
from runoff.selection.verifier import VerifierRecipe, verified
from tests.workshop import Workshop

REPLY = "I am sure that this is right.\n<test>\nassert f() == 1\n</test>\nIt cannot fail."
TAKEN = [
    Turn((Said("system", "the issue", {}), Said("user", "your part", {})), Said("assistant", REPLY, {}), {}),
    Turn((Said("user", "It said: NOT FIXED", {}),), Said("assistant", "Done!\n```sh\nls\n```\n<done/>", {}), {}),
    Turn(
        (Said("tool", "a.py", {"call": "1"}),),
        Said("assistant", "Now.", {"calls": [{"name": "run", "arguments": "{}"}]}),
        {},
    ),
]


def test_a_story_has_what_was_said_and_seen_and_not_what_all_are_told() -> None:
    told = story(TAKEN, "whole")
    assert told.startswith("[answer 1] I am sure")
    assert "[it saw] It said: NOT FIXED" in told
    assert "run({})" in told
    assert "your part" not in told


def test_without_claims_only_what_was_done_and_seen_is_left() -> None:
    told = story(TAKEN, "observed")
    assert "assert f() == 1" in told
    assert "```sh\nls\n```" in told
    assert "[it saw] a.py" in told
    for claim in ("sure", "cannot fail", "Done!", "Now."):
        assert claim not in told


def test_a_long_story_is_cut_in_the_middle_of_each_thing_and_as_a_whole() -> None:
    turn = Turn((Said("user", "o" * 9000, {}),), Said("assistant", "w" * 9000, {}), {})
    told = story([turn] * 30, "whole")
    assert len(told) < 21_000
    assert "characters left out" in told


@pytest.mark.parametrize("part", ["whole", "observed", None])
@pytest.mark.parametrize("tournament", [None, 1])
def test_the_verifier_is_shown_it_where_that_is_wanted(
    workshop: Workshop, part: Part | None, tournament: int | None
) -> None:
    shared = Message("system", "the issue")

    async def made(step: Step) -> Ended[Candidate]:
        await step.ask("turn1/ask", Request("m", Sampling(), shared.then("user", "your part")))
        return Ended(reason="done", value=Candidate(id="editing-1", patch=b"x"))

    def entry(name: str) -> Entry:
        patch = b"diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"
        return Entry(id=name, candidate=Candidate(id=name, patch=patch), proposers=(name,), changed_lines=2)

    async def scene(world: World) -> dict[str, Score]:
        await trajectory(world, "editing-1", Candidate, made)
        recipe = VerifierRecipe(trajectory=part, tournament=tournament)
        return await verified(world, "v", shared, [entry("editing-1"), entry("from-elsewhere")], recipe)

    def answer(call: Call) -> str:
        return REPLY if call.request.model == "m" else "BETTER: A" if tournament else "VERDICT: YES"

    model = Scripted(answer)
    scores = workshop.play(scene, model)
    assert all(score.p is not None for score in scores.values())
    asked = [call.request.conversation.text for call in model.calls if call.request.model == "v"]
    with_story = [text for text in asked if "assert f() == 1" in text]
    assert len(with_story) == (0 if part is None else len(asked) if tournament else 1)
    assert all(("I am sure" in text) == (part == "whole") for text in with_story)
