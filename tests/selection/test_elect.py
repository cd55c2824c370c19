"""An election from top to bottom with a scripted model: the choice is always defined, and `reason` says how it was made."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.environment import Built, Environment, patched
from runoff.agent.protocol import Call, ContextOverflow, Message, ModelUnreachable, Reply, Token
from runoff.agent.step import Run, World
from runoff.agent.testing import GeneratedTest
from runoff.sandbox.protocol import Execution, State
from runoff.selection.elect import SelectionRecipe, elect
from runoff.selection.protocol import Selection
from runoff.selection.runoff import RunoffRecipe
from runoff.selection.verifier import VerifierRecipe
from tests.workshop import Workshop, written

FILES = {"calc.py": "def half(n):\n    return n / 2\n", "README": "calc\n"}
SCRIPT = "import sys\nfrom calc import half\nsys.exit(0 if half(3) == 1 else 2)\n"
TEST = GeneratedTest(id="testing-1", script=SCRIPT, output="")
Answers = Callable[[Call], str | Reply | Exception]


def change(body: str, name: str = "editing-1", **other: str | None) -> Candidate:
    return Candidate(id=name, patch=written(FILES, {"calc.py": f"def half(n):\n    {body}\n", **other}))


FLOOR = change("return n // 2", "editing-1")
TRUNC = change("return int(n / 2)", "editing-2")
ROUND = change("return round(n / 2)", "editing-3")


class Room:
    """Elections in one environment."""

    def __init__(self, workshop: Workshop, environment: Environment) -> None:
        self.workshop, self.environment = workshop, environment
        self.tree = workshop.tree(environment)
        self.model = Scripted([])

    def elect(
        self,
        candidates: Sequence[Candidate],
        answers: Answers | None = None,
        tests: Sequence[GeneratedTest] = (TEST,),
        **recipe: object,
    ) -> Selection:
        """`answers` None: the model must not be asked. Without `verifier=…` only the run-off asks it."""
        whole = SelectionRecipe.model_validate({"verifier": VerifierRecipe(verdicts=0), "seconds": 20, **recipe})
        self.model = Scripted(answers or [])
        models = {"verifier": "the-verifier", "selector": "the-selector"}
        shared = Message("system", "the issue")
        return self.workshop.play(
            lambda world: elect(world, models, shared, self.tree, self.environment, candidates, tests, whole),
            self.model,
        )

    def asked(self, n: int) -> str:
        """The last message of the nth call."""
        return self.model.calls[n].request.conversation.text


@pytest.fixture(scope="module")
def room(workshop: Workshop) -> Room:
    return Room(workshop, workshop.environment(FILES))


def letter_of(call: Call, body: str) -> str:
    """Under which letter the run-off shows the change that adds this line."""
    first = call.request.conversation.messages()[1].text
    before = first.partition(f"+    {body}\n")[0]
    return before.rpartition('<change id="')[2][:1]


def choosing(body: str, *before: str) -> Answers:
    """Says what is `before`, then chooses the change that adds this line."""

    def answer(call: Call) -> str:
        turn = int(call.path.partition("/")[0].removeprefix("turn"))
        return before[turn - 1] if turn <= len(before) else f'It is right.\n<choose id="{letter_of(call, body)}"/>'

    return answer


# Who can take part


def test_without_a_candidate_there_is_none(room: Room) -> None:
    assert room.elect([]) == Selection(chosen=None, reason="none: no candidate could be used")


def test_one_candidate_is_undisputed_and_nobody_is_asked(room: Room) -> None:
    chosen = room.elect([FLOOR], verifier=VerifierRecipe())
    assert (chosen.chosen, chosen.reason) == ("editing-1", "undisputed: the only candidate")
    assert room.model.calls == []
    assert chosen.table
    assert chosen.table.votes("editing-1") == 1


def test_one_candidate_is_undisputed_without_any_test(room: Room) -> None:
    assert room.elect([TRUNC], tests=()).chosen == "editing-2"


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        (b"", "nothing is left of the patch: it holds no diff"),
        (b"I could not find it.", "nothing is left of the patch: it holds no diff"),
        (
            written({}, {"conftest.py": "x\n"}),
            "nothing is left of the patch: conftest.py: configuration of the test runner",
        ),
        (written({"calc.py": "another\n"}, {"calc.py": "text\n"}), "patch does not apply"),
        (written({"gone.py": "x\n"}, {"gone.py": "y\n"}), "No such file"),
        (FLOOR.patch.partition(b"+    return")[0], "corrupt patch"),
        (written({}, {"../../etc/x": "y\n"}), "../../etc/x"),
        (written({}, {".git/hooks/post-checkout": "y\n"}), "made by a tool"),
    ],
)
def test_a_candidate_that_cannot_take_part_is_rejected_with_its_reason(room: Room, patch: bytes, why: str) -> None:
    chosen = room.elect([Candidate(id="bad", patch=patch), FLOOR])
    assert why in chosen.rejected["bad"]
    assert (chosen.chosen, chosen.reason) == ("editing-1", "undisputed: the only candidate")
    alone = room.elect([Candidate(id="bad", patch=patch)])
    assert (alone.chosen, alone.reason) == (None, "none: no candidate could be used")
    assert alone.rejected.keys() == {"bad"}


def test_a_candidate_that_no_longer_builds_is_rejected_with_the_last_lines(workshop: Workshop) -> None:
    built = Built(copies=frozenset({"calc.py"}))
    building = Room(workshop, workshop.environment(FILES, build="python calc.py", built=built))
    chosen = building.elect([change("return (", "bad"), FLOOR])
    assert chosen.rejected["bad"].startswith("`python calc.py` fails with this patch: ")
    assert "SyntaxError" in chosen.rejected["bad"]
    assert chosen.chosen == "editing-1"


def test_the_same_change_twice_is_one_entry(room: Room) -> None:
    commented = Candidate(
        id="editing-9", patch=written(FILES, {"calc.py": "def half(n):\n    # down\n\n    return n//2\n"})
    )
    copied = change("return n // 2", "editing-10")
    chosen = room.elect([FLOOR, commented, copied])
    assert chosen.reason == "undisputed: the only candidate"
    (entry,) = chosen.entries
    assert entry.proposers == ("editing-1", "editing-9", "editing-10")
    assert entry.wordings == (("editing-1", "editing-10"), ("editing-9",)), "one change, told in two texts"
    assert entry.of(["editing-9", "editing-10"]).wordings == (("editing-10",), ("editing-9",))
    assert entry.of(["editing-1", "editing-10"]).wordings == ()


def test_who_most_proposed_is_run_first(room: Room) -> None:
    pool = [TRUNC, change("return n // 2", "one"), change("return n // 2", "other")]

    async def scene(world: World) -> None:
        asked, execute = list[State](), world.execute

        async def seen(run: Run) -> Execution:
            asked.append(run.state)
            return await execute(run)

        world.execute = seen  # type: ignore[method-assign]
        recipe = SelectionRecipe(ranking="agreement", seconds=20)
        await elect(world, {}, None, room.tree, room.environment, pool, [TEST], recipe)
        few, many = [await patched(world, room.environment, candidate.patch) for candidate in pool[:2]]
        assert asked.index(many) < asked.index(few)

    room.workshop.play(scene)


def test_a_change_that_python_refuses_is_not_the_same_as_one_that_it_takes(room: Room) -> None:
    """tree-sitter sees no difference; the first of them would have been submitted for both."""
    bad = Candidate(id="a", patch=written(FILES, {"calc.py": "def half(n):\n    n = n\n      return n // 2\n"}))
    good = Candidate(id="b", patch=written(FILES, {"calc.py": "def half(n):\n    n = n\n    return n // 2\n"}))
    chosen = room.elect([bad, good], choosing("return n // 2"), runoff=RunoffRecipe(turns=1))
    assert [entry.id for entry in chosen.entries] == ["a", "b"]
    assert chosen.standings[0].entry == "b"


def test_the_only_one_that_is_not_disqualified_is_undisputed(room: Room) -> None:
    lie = "import os\n_w = os.write\nos.write = lambda f, d: _w(f, d.replace(b'not fixed', b'fixed'))\n"
    liar = Candidate(id="liar", patch=written(FILES, {"calc.py": lie + FILES["calc.py"]}))
    chosen = room.elect([liar, FLOOR])
    assert (chosen.chosen, chosen.reason) == ("editing-1", "undisputed: the only candidate that is not disqualified")
    alone = room.elect([liar])
    assert (alone.chosen, alone.reason) == (None, "none: every candidate passes a test that none may pass")
    assert alone.standings[0].disqualified


# The run-off


def without_a_model(room: Room, candidates: Sequence[Candidate], **more: object) -> Selection:
    recipe = SelectionRecipe.model_validate({"ranking": "agreement", "seconds": 20, **more.pop("recipe", {})})  # type: ignore[dict-item]
    return room.workshop.play(
        lambda world: elect(world, {}, None, room.tree, room.environment, candidates, [TEST], recipe, **more),  # type: ignore[arg-type]
        Scripted([]),
    )


def test_of_equals_the_one_whose_agent_the_batch_speaks_for_is_first_and_that_is_said(room: Room) -> None:
    candidates, origins = [FLOOR, TRUNC, ROUND], {"editing-1": "ann", "editing-2": "bob", "editing-3": "cy"}
    far = {"bob": 0.2, "ann": -0.1}
    said = without_a_model(room, candidates, origins=origins, reliability=far)
    assert [standing.entry for standing in said.standings][:2] == ["editing-2", "editing-1"]
    assert any("bob +0.20, ann -0.10" in remark for remark in said.remarks)
    worst = without_a_model(room, candidates, origins=origins, reliability={"cy": 1.0})
    assert worst.chosen != "editing-3", "who fails the test is behind who passes it, whoever made it"


TWO = {"calc.py": "def half(n):\n    return n / 2\n\n\n\n\n\ndef one():\n    return 1\n"}


def test_a_fusion_is_a_candidate_like_others_and_called_what_it_is(workshop: Workshop) -> None:
    room = Room(workshop, workshop.environment(TWO))
    plain = {"calc.py": TWO["calc.py"].replace("n / 2", "n // 2")}
    noisy = [Candidate(id=f"by-{n}", patch=written(TWO, plain | {f"noise_{n}.py": "x = 1\n"})) for n in range(3)]
    said = without_a_model(room, noisy, recipe={"fusion": True})
    (fused,) = (entry for entry in said.entries if entry.id == "fusion")
    assert b"n // 2" in fused.candidate.patch
    assert b"noise" not in fused.candidate.patch
    assert any(
        remark.startswith(
            "fusion is made of others' patches: by-0's, without what nobody else makes (of its 2 edits 1)"
        )
        for remark in said.remarks
    )
    same = [*noisy, Candidate(id="plain", patch=written(TWO, plain))]
    said = without_a_model(room, same, recipe={"fusion": True})
    assert [entry.proposers for entry in said.entries if "plain" in entry.proposers] == [("plain",)], "it adds no voice"
    assert not any("fusion" in remark for remark in said.remarks)
    assert without_a_model(room, noisy).entries == tuple(entry for entry in said.entries if entry.id.startswith("by-"))


def test_the_run_off_chooses_and_its_reasons_are_kept(room: Room) -> None:
    chosen = room.elect([FLOOR, TRUNC], choosing("return int(n / 2)"))
    assert (chosen.chosen, chosen.reason) == ("editing-2", "chosen: It is right.")
    assert set(chosen.letters.values()) == {"editing-1", "editing-2"}
    assert set(chosen.letters) == {"A", "B"}
    assert [call.request.model for call in room.model.calls] == ["the-selector"]


def test_a_test_in_the_run_off_is_run_on_the_original_and_on_every_change(room: Room) -> None:
    script = "import sys\nfrom calc import half\nprint('half is', half(-3))\nsys.exit(0 if half(-3) == -2 else 2)"
    chosen = room.elect([FLOOR, TRUNC], choosing("return n // 2", f"<test>\n{script}\n</test>"))
    assert chosen.chosen == "editing-1"
    told = room.asked(1)
    assert "ORIGINAL repository it said: NOT FIXED" in told
    assert "half is -1.5" in told
    floor = letter_of(room.model.calls[1], "return n // 2")
    assert f"change {floor} it said: FIXED" in told
    assert f"change {'AB'.replace(floor, '')} it said: NOT FIXED" in told


def test_an_unknown_letter_is_refused_and_the_known_ones_named(room: Room) -> None:
    chosen = room.elect([FLOOR, TRUNC], choosing("return n // 2", '<choose id="Z"/>', '<choose id="editing-1"/>'))
    assert chosen.chosen == "editing-1"
    for turn, said in ((1, "Z"), (2, "editing-1")):
        assert f"there is no change {said}; there are A, B" in room.asked(turn)


def test_a_choice_beside_a_test_waits_for_the_test(room: Room) -> None:
    both = f'<test>\n{SCRIPT}</test>\n<choose id="A"/>'
    chosen = room.elect([FLOOR, TRUNC], choosing("return int(n / 2)", both))
    assert chosen.chosen == "editing-2"
    assert "choose is taken only alone" in room.asked(1)
    assert "it said: FIXED" in room.asked(1)


def test_two_choices_are_none(room: Room) -> None:
    both = '<choose id="A"/>\n<choose id="B"/>'
    assert room.elect([FLOOR, TRUNC], choosing("return n // 2", both)).chosen == "editing-1"
    assert "More than one candidate is chosen" in room.asked(1)


@pytest.mark.parametrize("answer", ["I would take A.", "<test>\nnever closed", f"<test>\n{SCRIPT}</test>", "<done/>"])
def test_a_run_off_that_runs_out_of_turns_leaves_the_first_of_the_ranking(room: Room, answer: str) -> None:
    chosen = room.elect([ROUND, FLOOR, TRUNC], lambda call: answer, runoff=RunoffRecipe(turns=2))
    first = chosen.standings[0].entry
    assert first in ("editing-1", "editing-2"), "not the one that fails the test"
    assert chosen.chosen == first
    assert chosen.reason == "fallback: turns (no choice within 2 answers); first of the ranking"
    assert len(room.model.calls) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ContextOverflow("too long"), "fallback: context (too long)"), (ModelUnreachable("503"), "fallback: error (503)")],
)
def test_a_run_off_that_cannot_be_held_leaves_the_first_of_the_ranking(
    room: Room, error: Exception, reason: str
) -> None:
    chosen = room.elect([FLOOR, TRUNC], lambda call: error)
    assert chosen.chosen == chosen.standings[0].entry
    assert chosen.reason == f"{reason}; first of the ranking"


def test_the_run_off_is_told_what_tests_said_only_where_they_tell_finalists_apart(room: Room) -> None:
    same = GeneratedTest(id="testing-2", script=SCRIPT.replace("half(3) == 1", "half(5) in (1, 2)"), output="")
    room.elect([FLOOR, ROUND], choosing("return n // 2"), tests=[TEST, same])
    assert "half(3) == 1" in room.asked(0)
    assert "half(5)" not in room.asked(0)
    floor = letter_of(room.model.calls[0], "return n // 2")
    assert f"{floor} PASS" in room.asked(0)


def test_no_more_finalists_than_the_recipe_says_and_each_behaviour_first(room: Room) -> None:
    others = [change(f"return n // 2 + {n} - {n}", f"more-{n}") for n in range(2)]
    chosen = room.elect([*others, ROUND], choosing("return round(n / 2)"), runoff=RunoffRecipe(finalists=2))
    assert chosen.finalists == ("more-0", "editing-3")
    assert chosen.chosen == "editing-3"


def test_neither_place_nor_id_tells_the_run_off_who_was_ahead(room: Room) -> None:
    """The letters of the same three are not always in the order of the ranking."""
    seen = set()
    for shift in range(3):
        names = [f"c{shift}{n}" for n in range(3)]
        trio = [change(f"return n // 2 + {n}", name) for n, name in enumerate(names)]
        chosen = room.elect(trio, choosing("return n // 2 + 1"), tests=())
        seen.add(tuple(chosen.finalists.index(chosen.letters[letter]) for letter in "ABC"))
        assert not any(name in room.asked(0) for name in names)
    assert len(seen) > 1


# The verifier


def verdicts(answer: Callable[[Call], str | Reply | Exception]) -> Answers:
    """The verifier's answers; the run-off decides nothing."""
    return lambda call: answer(call) if call.trajectory.startswith("verdict") else "I cannot choose."


ONE = {"verifier": VerifierRecipe(), "runoff": RunoffRecipe(turns=1)}


def test_between_equals_the_verifier_decides(room: Room) -> None:
    chosen = room.elect(
        [FLOOR, TRUNC],
        verdicts(lambda call: f"VERDICT: {'YES' if 'int(' in call.request.conversation.text else 'NO'}"),
        **ONE,
    )
    assert [(standing.entry, standing.score) for standing in chosen.standings] == [("editing-2", 1), ("editing-1", 0)]
    assert chosen.scores["editing-2"].how == "sampled"


def test_garbage_from_the_verifier_is_a_missing_score_and_no_no(room: Room) -> None:
    def answer(call: Call) -> str:
        return {"verdict-editing-1": "VERDICT: NO", "verdict-editing-2": "\0 <choose", "verdict-more": "VERDICT: YES"}[
            call.trajectory
        ]

    chosen = room.elect([FLOOR, TRUNC, change("return n // 2 + 0", "more")], verdicts(answer), **ONE)
    assert [standing.entry for standing in chosen.standings] == ["more", "editing-2", "editing-1"]
    assert chosen.scores["editing-2"].p is None
    assert chosen.scores["editing-2"].how == "no verdict"


def test_a_verifier_that_cannot_be_reached_costs_no_candidate_its_place(room: Room) -> None:
    chosen = room.elect([FLOOR, TRUNC], verdicts(lambda call: ModelUnreachable("503")), **ONE)
    assert chosen.chosen
    assert {(score.p, score.how) for score in chosen.scores.values()} == {(None, "error: 503")}


def test_several_verdicts_are_averaged_over_those_that_were_given(room: Room) -> None:
    words = {"verdict1/ask": "VERDICT: YES", "verdict2/ask": "hm", "verdict3/ask": "VERDICT: NO"}
    recipe = ONE | {"verifier": VerifierRecipe(verdicts=3)}
    score = room.elect([FLOOR, TRUNC], verdicts(lambda call: words[call.path]), **recipe).scores["editing-1"]
    assert (score.p, score.verdicts) == (0.5, (1.0, None, 0.0))


def test_one_word_with_its_log_probs_is_a_score(room: Room) -> None:
    said = Reply(text="YES", tokens=(Token(text="YES", logprob=-0.1, alternatives={"YES": -0.1, "NO": -0.1}),))
    recipe = ONE | {"verifier": VerifierRecipe(mode="direct")}
    assert room.elect([FLOOR, TRUNC], verdicts(lambda call: said), **recipe).scores["editing-1"].p == 0.5


def test_the_verifier_sees_neither_tests_nor_who_proposed(room: Room) -> None:
    room.elect([FLOOR, TRUNC], verdicts(lambda call: "VERDICT: NO"), **ONE)
    first = next(call for call in room.model.calls if call.trajectory == "verdict-editing-1")
    assert "return n // 2" in first.request.conversation.text
    assert "editing-1" not in first.request.conversation.text
    assert "sys.exit" not in first.request.conversation.text


def test_told_of_tests_the_verifier_waits_for_what_they_say(room: Room) -> None:
    recipe = ONE | {"verifier": VerifierRecipe(tests=True, grades=5)}
    chosen = room.elect([FLOOR, ROUND], verdicts(lambda call: "GRADE: B"), **recipe)
    of = {
        "round" in call.request.conversation.text.partition("</change>")[0]: call.request.conversation.text
        for call in room.model.calls
        if call.trajectory.startswith("verdict@")
    }
    assert "1 of 1 test scripts for the issue pass with it" in of[False]
    assert "0 of 1 test scripts for the issue pass with it" in of[True]
    assert {score.p for score in chosen.scores.values()} == {0.75}


def test_a_tournament_decides_between_equals(room: Room) -> None:
    def answer(call: Call) -> str:
        if not call.trajectory.startswith("compare-"):
            return "I cannot choose."
        shown = call.request.conversation.text
        return "BETTER: A" if "int(" in shown.partition('<change id="B">')[0] else "BETTER: B"

    chosen = room.elect([FLOOR, TRUNC], answer, **ONE | {"verifier": VerifierRecipe(tournament=2)})
    assert [standing.entry for standing in chosen.standings] == ["editing-2", "editing-1"]
    assert chosen.scores["editing-2"].verdicts == (1.0,)


# The whole


def test_what_ends_first_changes_nothing(room: Room) -> None:
    """Answers come in another order each time; the selection is the same to the letter."""

    def answers(call: Call) -> str:
        if call.trajectory.startswith("verdict-"):
            return "VERDICT: YES"
        return choosing("return n // 2")(call)  # type: ignore[return-value]

    found = []
    for seed in range(2):
        chance = random.Random(seed)

        def late(call: Call, chance: random.Random = chance) -> str:
            room.model._latency = chance.random() / 50  # of the next answer
            return answers(call)

        found.append(room.elect([FLOOR, TRUNC, ROUND], late, verifier=VerifierRecipe(verdicts=2)))
    assert found[0] == found[1]
