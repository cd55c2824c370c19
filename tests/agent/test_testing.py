"""The testing trajectory: what becomes a generated test, what its writer is told on the way."""

from __future__ import annotations

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.environment import Environment
from runoff.agent.protocol import ContextOverflow, Message, Reply
from runoff.agent.step import Ended
from runoff.agent.testing import GeneratedTest, TestingRecipe, write_test
from tests.workshop import Workshop

FILES = {"calc.py": "def half(n):\n    return n / 2\n"}
FAILS = "import sys\nfrom calc import half\nprint('got', half(3))\nsys.exit(0 if half(3) == 1 else 2)\n"
PASSES = FAILS.replace("== 1 ", "== 1.5 ")
CRASHES = "import calc\ncalc.third(3)\n"


def test_block(script: str) -> str:
    return f"I try this.\n\n<test>\n{script}</test>\n"


test_block.__test__ = False  # type: ignore[attr-defined]


class Desk:
    def __init__(self, workshop: Workshop, environment: Environment) -> None:
        self.workshop, self.environment = workshop, environment
        self.model = Scripted([])

    def write(
        self, *answers: str | Reply | Exception, turns: int | None = None, insist: bool | None = None
    ) -> Ended[GeneratedTest]:
        """What comes of these answers; without `turns` there are as many turns as answers."""
        self.model = Scripted(list(answers))
        recipe = TestingRecipe(turns=turns or len(answers), seconds=20, insist=insist)
        shared = Message("system", "the issue")
        return self.workshop.trajectory(
            GeneratedTest, lambda step: write_test(step, "m", shared, self.environment, recipe), self.model
        )

    def told(self, n: int) -> str:
        """What the model was told after its nth answer."""
        return self.model.calls[n].request.conversation.text


@pytest.fixture(scope="module")
def desk(workshop: Workshop) -> Desk:
    return Desk(workshop, workshop.environment(FILES))


def test_a_script_that_fails_on_the_base_and_is_called_done_is_the_result(desk: Desk) -> None:
    ended = desk.write(test_block(FAILS), "It fails as it should.\n<done/>")
    assert ended == Ended(reason="done", value=GeneratedTest(id="one", script=FAILS, output="got 1.5\n"))
    assert "It said: NOT FIXED (exit code 2)" in desk.told(1)
    assert "got 1.5" in desk.told(1)
    assert "(1 answer left.)" in desk.told(1)


def test_when_the_turns_are_used_up_its_writer_is_asked_whether_it_fails_for_the_reason_of_the_issue(
    desk: Desk,
) -> None:
    ended = desk.write(test_block(FAILS), "<done/>", turns=1)
    assert (ended.reason, ended.value and ended.value.script) == ("turns", FAILS)
    assert "does the script fail for the reason that the issue gives" in desk.told(1)
    assert "got 1.5" in desk.told(1)
    for answer in ("Hm.", "<done>\n", test_block(FAILS) + test_block(PASSES)):
        ended = desk.write(test_block(FAILS), answer, turns=1)
        assert (ended.value, ended.note) == (
            None,
            "its writer did not confirm that the last test fails for the issue's reason",
        )


@pytest.mark.parametrize(
    ("script", "note"),
    [
        (FAILS.replace("got", "half(3) is"), ""),
        (PASSES, "its writer gave the last test up, and another that does not fail on the base: fixed (exit code 0)"),
        ("import sys\nsys.exit(2)\n", "the last test fails on the base and shows nothing of what came"),
    ],
)
def test_another_script_in_place_of_a_confirmation_is_run_once_more(desk: Desk, script: str, note: str) -> None:
    ended = desk.write(test_block(FAILS), test_block(script), turns=1)
    assert (ended.value.script if ended.value else None, ended.note) == (None if note else script, note)


@pytest.mark.parametrize(
    "script", ["import sys\nsys.exit(2)\n", "import sys\nprint('NOT FIXED')\nsys.exit(2)\n", "assert False\n"]
)
def test_a_script_that_fails_and_does_not_show_why_is_not_taken(desk: Desk, script: str) -> None:
    ended = desk.write(test_block(script), "<done/>", test_block(FAILS), "<done/>")
    assert (ended.reason, ended.value and ended.value.script) == ("done", FAILS)
    assert "Such a script is not taken" in desk.told(1)
    assert "Such a script is not taken" in desk.told(2)
    ended = desk.write(test_block(script), "<done/>", turns=1)
    assert (ended.value, ended.note) == (None, "the last test fails on the base and shows nothing of what came")
    assert "It shows nothing of what came" in desk.told(1)
    assert desk.write(test_block(script), turns=1, insist=False).value, "unless the recipe does not insist"


def test_an_assertion_that_says_what_came_is_taken(desk: Desk) -> None:
    script = "from calc import half\nassert half(3) == 1, f'half(3) is {half(3)}, not 1'\n"
    assert desk.write(test_block(script), "<done/>").reason == "done"


@pytest.mark.parametrize(
    ("script", "said"), [(PASSES, "fixed"), (CRASHES, "broken"), ("def (\n", "broken"), ("", "broken")]
)
def test_a_script_that_does_not_fail_on_the_base_is_never_accepted(desk: Desk, script: str, said: str) -> None:
    ended = desk.write(test_block(script), "<done/>", "<done/>", test_block(script))
    assert ended.value is None
    assert ended.reason == "turns"
    assert ended.note.startswith(f"no test that fails on the base: {said} (")
    assert f"It said: {said.upper()}" in desk.told(1)
    assert f"the last one said {said}" in desk.told(2)


def test_a_script_that_says_two_things_of_the_same_code_is_no_test(desk: Desk) -> None:
    flaky = "import random, sys\ncode = random.choice([0, 2])\nprint('the code is', code)\nsys.exit(code)\n"
    tries = (
        desk.write(test_block(flaky + f"# {n}\n"), "<done/>") for n in range(80)
    )  # each is caught by a chance of 1 in 4
    caught = next(ended for ended in tries if "flaky" in ended.note)
    assert caught.value is None
    assert "broken (flaky: run twice on the same code, it said not fixed and then fixed" in caught.note


def test_a_good_script_that_was_replaced_by_one_that_passes_is_gone(desk: Desk) -> None:
    assert desk.write(test_block(FAILS), test_block(PASSES), "<done/>").value is None
    mended = desk.write(test_block(PASSES), test_block(FAILS), "<done/>").value
    assert mended
    assert mended.script == FAILS


def test_done_before_any_script_is_refused(desk: Desk) -> None:
    ended = desk.write("<done/>", test_block(FAILS), "<done/>")
    assert (ended.reason, ended.value and ended.value.script) == ("done", FAILS)
    assert desk.told(1).startswith("Not yet: ")


def test_done_beside_a_script_is_not_yet_taken(desk: Desk) -> None:
    ended = desk.write(test_block(PASSES) + "<done/>")
    assert ended.value is None
    ended = desk.write(test_block(FAILS) + "<done/>", "<done/>")
    assert ended.reason == "done"
    assert len(desk.model.calls) == 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "There is no block in the answer"),
        ("I would test half(3).", "There is no block in the answer"),
        ("<test>\nimport sys\n", "</test> is missing"),
        (test_block(FAILS) + test_block(PASSES), "There are 2 <test> blocks; give one script"),
        ("```python\n" + FAILS + "```", "There is no block in the answer"),
        (
            '<edit path="calc.py">\n<search>\n    return n / 2\n</search>\n<replace>\n</replace>\n</edit>',
            "no <test> block",
        ),
    ],
)
def test_an_answer_that_cannot_be_used_gets_its_problem_named(desk: Desk, answer: str, problem: str) -> None:
    ended = desk.write(answer, test_block(FAILS), "<done/>")
    assert ended.reason == "done"
    assert "I could not use that answer" in desk.told(1)
    assert problem in desk.told(1)


def test_an_answer_that_was_cut_off_is_told_so(desk: Desk) -> None:
    desk.write(Reply(text="<test>\nimport sys\n", finish="length"), "<done/>")
    assert "cut off because it was too long" in desk.told(1)


def test_a_script_in_a_fence_is_taken_without_it(desk: Desk) -> None:
    value = desk.write(f"<test>\n```python\n{FAILS}```\n</test>", "<done/>").value
    assert value
    assert value.script == FAILS


def test_a_good_script_stands_while_later_answers_cannot_be_read(desk: Desk) -> None:
    value = desk.write(test_block(FAILS), "Hm.", "<done>", "<done/>", turns=3).value
    assert value
    assert value.script == FAILS
    assert "if the last script is good" in desk.told(2)


def test_a_conversation_that_no_longer_fits_ends_without_a_test(desk: Desk) -> None:
    ended = desk.write(test_block(FAILS), ContextOverflow("5000 tokens, 4096 fit"), turns=5)
    assert ended == Ended(reason="context", note="5000 tokens, 4096 fit")


def test_what_a_script_does_is_gone_with_it(desk: Desk) -> None:
    leaves = "import os, sys\nnew = not os.path.exists('left')\nopen('left', 'w').close()\nprint('new:', new)\nsys.exit(2 if new else 0)\n"
    assert desk.write(test_block(leaves), test_block("# again\n" + leaves), "<done/>").reason == "done"
