"""The editing trajectory: what becomes a candidate, what its author is told on the way, and that git takes the patch."""

from __future__ import annotations

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate, EditingRecipe, make_edit
from runoff.agent.environment import Built, Environment
from runoff.agent.protocol import BudgetSpent, ContextOverflow, Message, ModelError, Reply
from runoff.agent.step import Ended, World
from runoff.agent.testing import GeneratedTest
from tests.workshop import Workshop

FILES: dict[str, str | bytes] = {
    "calc.py": "def half(n):\n    return n / 2\n\n\ndef twice(n):\n    return n * 2\n",
    "win.py": b"one = 1\r\ntwo = 2\r\nthree = 3\r\n",
    "noend.py": b"first = 1\nlast = 2",
    "latin.py": b"# caf\xe9\nname = 'x'\n",
    "link.d/real.py": "x = 1\n",
    "README": "calc\n",
}
SCRIPT = "import sys\nfrom calc import half\nprint('half is', half(3))\nsys.exit(0 if half(3) == 1 else 2)\n"
TEST = GeneratedTest(id="testing-1", script=SCRIPT, output="half is 1.5\n")
PASSES = SCRIPT.replace("== 1 ", "== 1.5 ")
FIX = ("    return n / 2", "    return n // 2")


def edit(old: str, new: str, path: str = "calc.py") -> str:
    body = f"{new}\n" if new else ""
    return f'<edit path="{path}">\n<search>\n{old}\n</search>\n<replace>\n{body}</replace>\n</edit>\n'


def test_block(script: str) -> str:
    return f"<test>\n{script}</test>\n"


test_block.__test__ = False  # type: ignore[attr-defined]


class Desk:
    def __init__(self, workshop: Workshop, environment: Environment) -> None:
        self.workshop, self.environment = workshop, environment
        self.tree = workshop.tree(environment)
        self.model = Scripted([])

    def make(
        self, *answers: str | Reply | Exception, test: GeneratedTest | None = TEST, turns: int | None = None
    ) -> Ended[Candidate]:
        """What comes of these answers; without `turns` there are as many turns as answers."""
        self.model = Scripted(list(answers))
        recipe = EditingRecipe(turns=turns or len(answers), seconds=20)
        shared = Message("system", "the issue")
        return self.workshop.trajectory(
            Candidate,
            lambda step: make_edit(step, "m", shared, self.tree, self.environment, test, recipe),
            self.model,
        )

    def candidate(self, *answers: str, test: GeneratedTest | None = TEST) -> Candidate:
        value = self.make(*answers, test=test).value
        assert value
        return value

    def told(self, n: int) -> str:
        """What the model was told after its nth answer; 0: before the first."""
        return self.model.calls[n].request.conversation.text

    def after(self, candidate: Candidate, path: str) -> bytes:
        """A file once git has applied the candidate's patch to the pristine tree."""

        async def scene(world: World) -> bytes:
            state = (await world.sandbox.apply(self.environment.pristine, candidate.patch)).state
            return await world.sandbox.read(state, f"/testbed/{path}")

        return self.workshop.play(scene)


@pytest.fixture(scope="module")
def desk(workshop: Workshop) -> Desk:
    return Desk(workshop, workshop.environment(FILES))


# What ends it


def test_an_edit_and_done_is_a_candidate_with_its_author_s_verdict(desk: Desk) -> None:
    ended = desk.make(edit(*FIX), "Good.\n<done/>")
    assert ended.reason == "done"
    assert ended.value
    assert (ended.value.id, ended.value.test, ended.value.own_verdict) == ("one", SCRIPT, "fixed")
    assert desk.after(ended.value, "calc.py").startswith(b"def half(n):\n    return n // 2\n")


def test_a_change_written_as_a_diff_is_a_candidate_and_one_that_stands_nowhere_is_told(desk: Desk) -> None:
    wrong, right = (
        f'<patch path="calc.py">\n@@ -9 +9 @@\n def half(n):\n-{old}\n+{FIX[1]}\n</patch>\n'
        for old in ("    return n", FIX[0])
    )
    candidate = desk.candidate(wrong, right, "<done/>")
    assert "patch calc.py: the old text of the hunk does not stand in the file" in desk.told(1)
    assert desk.after(candidate, "calc.py").startswith(b"def half(n):\n    return n // 2\n")


def test_the_last_edit_stands_when_the_turns_are_used_up(desk: Desk) -> None:
    ended = desk.make(edit(*FIX), edit("    return n / 2", "    return int(n / 2)"))
    assert ended.reason == "turns"
    assert ended.value
    assert b"int(n / 2)" in ended.value.patch
    assert b"n // 2" not in ended.value.patch, "each edit is made to the original"


def test_without_an_edit_there_is_no_candidate(desk: Desk) -> None:
    assert desk.make("Hm.", test_block(SCRIPT)) == Ended(reason="turns", note="no edit that could be made")


@pytest.mark.parametrize(("error", "reason"), [(ContextOverflow, "context"), (BudgetSpent, "budget")])
def test_a_conversation_that_cannot_go_on_ends_in_what_was_made(
    desk: Desk, error: type[ModelError], reason: str
) -> None:
    ended = desk.make(edit(*FIX), error("no more"), turns=4)
    assert (ended.reason, ended.note) == (reason, "no more")
    assert ended.value
    assert ended.value.patch == desk.make(edit(*FIX), turns=1).value.patch  # type: ignore[union-attr]
    assert desk.make(error("no more"), turns=4) == Ended(reason=reason, note="no more")


def test_done_before_an_edit_is_refused(desk: Desk) -> None:
    ended = desk.make("<done/>", edit(*FIX), "<done/>")
    assert ended.reason == "done"
    assert "done is taken only when there is an edit" in desk.told(1)


def test_two_edits_and_done_in_one_answer_keep_the_edits_and_show_the_result_first(desk: Desk) -> None:
    both = edit(*FIX) + edit("    return n * 2", "    return n + n") + "<done/>\n"
    ended = desk.make(both, "<done/>")
    assert ended.reason == "done"
    assert ended.value
    assert b"+    return n // 2" in ended.value.patch
    assert b"+    return n + n" in ended.value.patch
    assert "done is taken only alone" in desk.told(1)
    assert "The test on the CHANGED repository said: FIXED" in desk.told(1)


# What it is told


def test_the_test_is_shown_and_both_runs_of_it(desk: Desk) -> None:
    desk.make(edit(*FIX), "<done/>")
    assert SCRIPT in desk.told(0)
    assert "half is 1.5" in desk.told(0)
    said = desk.told(1)
    original, changed = said.split("The test on the CHANGED repository said: ")
    assert "The test on the ORIGINAL repository said: NOT FIXED (exit code 2)" in original
    assert "half is 1.5" in original
    assert changed.startswith("FIXED (exit code 0)")
    assert "half is 1\n" in changed
    assert "+    return n // 2" in original, "and the change as a diff"


def test_a_change_that_does_not_pass_is_shown_so(desk: Desk) -> None:
    candidate = desk.candidate(edit("    return n / 2", "    return n / 0"))
    assert candidate.own_verdict == "broken"
    desk.make(edit("    return n / 2", "    return n / 3"), "<done/>")
    assert "CHANGED repository said: FIXED" in desk.told(1)
    desk.make(edit("    return n / 2", "    return n / 4"), "<done/>")
    assert "CHANGED repository said: NOT FIXED" in desk.told(1)
    assert "half is 0.75" in desk.told(1)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "There is no block in the answer"),
        (edit("    return n / 3", "    pass"), "the search text does not stand in the file"),
        (edit(*FIX, path="clac.py"), "there is no file clac.py; did you mean calc.py"),
        (edit("", "x = 1").replace("<search>\n\n", "<search>\n"), "the search is empty"),
        (edit(*FIX).replace("</replace>\n", ""), "<replace>"),
        ('<file path="/etc/passwd">\nx\n</file>', "is absolute"),
        ('<file path=".git/config">\nx\n</file>', "the repository's own records"),
        ('<file path="README/x.py">\nx\n</file>', "README is a file"),
        (edit(*FIX) + edit("    nothing", "    pass"), "the search text does not stand in the file"),
        (edit(*FIX) + test_block(SCRIPT) + test_block(PASSES), "There are 2 <test> blocks"),
    ],
)
def test_an_answer_that_cannot_be_used_gets_its_problem_named_and_changes_nothing(
    desk: Desk, answer: str, problem: str
) -> None:
    assert desk.make(answer, "<done/>").value is None
    assert "I could not use that answer" in desk.told(1)
    assert problem in desk.told(1)


@pytest.mark.parametrize(
    "answer", [edit("    return n / 2", "    return n / 2"), '<file path="README">\ncalc\n</file>\n']
)
def test_an_edit_that_changes_nothing_is_no_edit(desk: Desk, answer: str) -> None:
    assert desk.make(answer, "<done/>").value is None
    assert "changes nothing" in desk.told(1)


def test_an_unusable_answer_leaves_the_last_edit_standing(desk: Desk) -> None:
    ended = desk.make(edit(*FIX), edit("    return n / 3", "    pass"), "<done/>")
    assert ended.value
    assert b"n // 2" in ended.value.patch
    assert "Your last edit still stands" in desk.told(2)


def test_a_syntax_error_is_shown(desk: Desk) -> None:
    desk.make(edit("    return n / 2", "    return n / / 2"), "<done/>")
    assert "The changed files have syntax errors" in desk.told(1)
    assert "calc.py: line 2: syntax error near" in desk.told(1)
    assert "CHANGED repository said: BROKEN (uncaught SyntaxError" in desk.told(1)


def test_an_answer_that_was_cut_off_is_told_so(desk: Desk) -> None:
    desk.make(Reply(text=edit(*FIX)[:-12], finish="length"), "<done/>")
    assert "cut off because it was too long" in desk.told(1)


def test_without_a_test_the_change_is_shown_and_nothing_is_run(desk: Desk) -> None:
    candidate = desk.candidate(edit(*FIX), "<done/>", test=None)
    assert (candidate.test, candidate.own_verdict) == (None, None)
    assert "There is no test: nothing was run" in desk.told(1)
    assert "+    return n // 2" in desk.told(1)


# Its tests


def test_a_better_test_takes_the_place_of_the_first(desk: Desk) -> None:
    sharper = SCRIPT.replace("half(3) == 1", "half(5) == 2 and half(3) == 1")
    candidate = desk.candidate(edit(*FIX), test_block(sharper), "<done/>")
    assert (candidate.test, candidate.own_verdict) == (sharper, "fixed")
    assert "+    return n // 2" in desk.told(2), "the edit still stands"


def test_a_test_beside_an_edit_is_run_with_it(desk: Desk) -> None:
    candidate = desk.candidate(test_block(SCRIPT) + edit(*FIX), test=None)
    assert (candidate.test, candidate.own_verdict) == (SCRIPT, "fixed")


def test_a_test_without_an_edit_is_run_on_the_base_alone(desk: Desk) -> None:
    assert desk.make(test_block(SCRIPT), test=None).value is None
    desk.make(test_block(SCRIPT), "<done/>", test=None)
    assert "ORIGINAL repository said: NOT FIXED" in desk.told(1)
    assert "CHANGED" not in desk.told(1).replace("There is no edit yet", "")


def test_a_test_that_passes_on_the_base_is_not_handed_on(desk: Desk) -> None:
    candidate = desk.candidate(edit(*FIX), test_block(PASSES), "<done/>")
    assert (candidate.test, candidate.own_verdict) == (None, None)
    assert "so it proves nothing" in desk.told(2)


# What git makes of it


@pytest.mark.parametrize(
    ("answer", "path", "text"),
    [
        (
            edit("two = 2", "two = 22\nmore = 0", "win.py"),
            "win.py",
            b"one = 1\r\ntwo = 22\r\nmore = 0\r\nthree = 3\r\n",
        ),
        (edit("last = 2", "last = 3", "noend.py"), "noend.py", b"first = 1\nlast = 3"),
        (edit("first = 1", "first = 0", "noend.py"), "noend.py", b"first = 0\nlast = 2"),
        (edit("last = 2", "", "noend.py"), "noend.py", b"first = 1\n"),
        (edit("name = 'x'", "name = 'é'", "latin.py"), "latin.py", b"# caf\xe9\nname = '\xc3\xa9'\n"),
        ('<file path="pkg/__init__.py">\n</file>\n', "pkg/__init__.py", b""),
        ('<file path="pkg/ü x.py">\nx = 1\n</file>\n', "pkg/ü x.py", b"x = 1\n"),
        ('<file path="new.py" eol="crlf" end="none">\na\nb\n</file>\n', "new.py", b"a\r\nb"),
        ('<rename from="win.py" to="lib/win.py"/>\n', "lib/win.py", b"one = 1\r\ntwo = 2\r\nthree = 3\r\n"),
        (
            '<rename from="win.py" to="w.py"/>\n' + edit("two = 2", "two = 0", "w.py"),
            "w.py",
            b"one = 1\r\ntwo = 0\r\nthree = 3\r\n",
        ),
    ],
)
def test_a_candidate_s_patch_applies_and_gives_these_bytes(desk: Desk, answer: str, path: str, text: bytes) -> None:
    candidate = desk.candidate(answer, "<done/>", test=None)
    assert desk.after(candidate, path) == text
    assert Candidate.model_validate(candidate.model_dump(mode="json")) == candidate, "and it is the same from the log"


def test_a_deleted_file_is_gone(desk: Desk) -> None:
    candidate = desk.candidate('<delete path="README"/>\n', "<done/>", test=None)
    assert b"deleted file" in candidate.patch
    with pytest.raises(Exception, match="no such file"):
        desk.after(candidate, "README")


def test_an_edit_that_the_file_system_refuses_is_told_and_does_not_end_it(workshop: Workshop) -> None:
    """A directory that git does not know is in the way of the new file."""
    plain = workshop.environment(FILES)
    state = workshop.shell(plain.state, "mkdir -p data/kept && echo '/data' >> .git/info/exclude")
    desk = Desk(workshop, plain.model_copy(update={"state": state}))
    ended = desk.make('<file path="data/kept">\nx\n</file>\n', edit(*FIX), "<done/>")
    assert ended.reason == "done"
    assert "I could not use that answer" in desk.told(1)


def test_a_change_that_no_longer_builds_is_told_with_the_last_lines(workshop: Workshop) -> None:
    built = Built(copies=frozenset({"calc.py"}))
    desk = Desk(workshop, workshop.environment(FILES, build="python calc.py", built=built))
    candidate = desk.candidate(edit("    return n / 2", "    return ("), "<done/>")
    assert candidate.own_verdict == "broken"
    assert "CHANGED repository said: BROKEN (`python calc.py` fails with this patch: " in desk.told(1)
    assert "SyntaxError" in desk.told(1)
