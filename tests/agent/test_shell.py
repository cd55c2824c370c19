"""The shell agent: what it runs and where, what it is told, how it ends, and that it goes on from the state its log names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.environment import Environment
from runoff.agent.log import Log, read
from runoff.agent.observations import AgentRecipe
from runoff.agent.protocol import BudgetSpent, ContextOverflow, Message, Reply
from runoff.agent.shell import read_commands, work_in_shell
from runoff.agent.step import Ended, Step, World, trajectory
from tests.workshop import Workshop

FILES: dict[str, str | bytes] = {"calc.py": "def half(n):\n    return n / 2\n", "README": "calc\n"}
SCRIPT = "import sys\nfrom calc import half\nprint('half is', half(3))\nsys.exit(0 if half(3) == 1 else 2)\n"
SHARED = Message("system", "the issue")
QUICK = AgentRecipe(review=False, seconds=20, test_seconds=20)


def bash(command: str) -> str:
    return f"I will look.\n\n```bash\n{command}\n```\n"


FIX = bash("sed -i 's,n / 2,n // 2,' calc.py")
LEAVE_SCRIPT = bash(f"cat > /tmp/reproduce.py <<'EOF'\n{SCRIPT}EOF")
SUBMIT = bash("submit")


def strategy(environment: Environment, recipe: AgentRecipe = QUICK, shared: Message = SHARED) -> Callable[[Step], Any]:
    return lambda step: work_in_shell(step, "m", shared, environment, recipe)


class Desk:
    def __init__(self, workshop: Workshop) -> None:
        self.workshop, self.environment = workshop, workshop.environment(FILES, test="python -m pytest")
        self.model = Scripted([])

    def work(self, *answers: str | Reply | Exception, **recipe: Any) -> Ended[Candidate]:
        """What comes of these answers; as many turns as answers."""
        self.model = Scripted(list(answers))
        how = QUICK.model_copy(update={"turns": len(answers), **recipe})
        return self.workshop.trajectory(Candidate, strategy(self.environment, how), self.model)

    def told(self, n: int) -> str:
        """What the model was told after its nth answer; 0: before the first."""
        return self.model.calls[n].request.conversation.text


@pytest.fixture(scope="module")
def desk(workshop: Workshop) -> Desk:
    return Desk(workshop)


# What ends it


def test_what_it_changed_is_its_candidate_and_its_script_a_test(desk: Desk) -> None:
    ended = desk.work(LEAVE_SCRIPT, FIX, SUBMIT)
    assert ended.reason == "done"
    assert ended.value
    assert b"-    return n / 2\n+    return n // 2\n" in ended.value.patch
    assert b"reproduce" not in ended.value.patch
    assert (ended.value.test, ended.value.own_verdict) == (SCRIPT, "fixed")


def test_a_script_that_passes_on_the_base_is_no_test(desk: Desk) -> None:
    ended = desk.work(bash("echo 'import sys; sys.exit(0)' > /tmp/reproduce.py"), FIX, SUBMIT)
    assert ended.value
    assert (ended.value.test, ended.value.own_verdict) == (None, None)


def test_what_was_changed_stands_when_the_turns_are_used_up(desk: Desk) -> None:
    ended = desk.work(FIX, bash("git diff"))
    assert (ended.reason, bool(ended.value)) == ("turns", True)
    assert "+    return n // 2" in desk.work(FIX, bash("git diff"), bash("ls")).value.patch.decode()  # type: ignore[union-attr]
    assert desk.work(bash("ls")) == Ended(reason="turns", note="nothing was changed")


def test_a_submission_of_nothing_is_refused(desk: Desk) -> None:
    ended = desk.work(SUBMIT, FIX, SUBMIT)
    assert ended.reason == "done"
    assert "no file of the repository is changed" in desk.told(1)


def test_the_first_submission_is_shown_before_it_counts(desk: Desk) -> None:
    ended = desk.work(LEAVE_SCRIPT, FIX, SUBMIT, SUBMIT, review=True)
    assert ended.reason == "done"
    said = desk.told(3)
    assert "+    return n // 2" in said
    assert "on the ORIGINAL repository, said: NOT FIXED (exit code 2)\n<output>\nhalf is 1.5" in said
    assert "with this diff, it said: FIXED (exit code 0)\n<output>\nhalf is 1\n" in said
    assert desk.work(FIX, SUBMIT, review=True).reason == "turns"


def test_a_change_that_no_diff_can_say_is_told_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runoff.sandbox.byexecution._LARGEST_DIFF", 5000)
    ended = desk.work(FIX, bash("seq 10000 > big.txt"), SUBMIT, bash("rm big.txt"), SUBMIT)
    assert "No change can be taken from /testbed: the diff is larger than 5000 bytes" in desk.told(3)
    assert ended.reason == "done", "mended, it counts"
    assert ended.value
    assert b"n // 2" in ended.value.patch
    assert b"big.txt" not in ended.value.patch
    assert desk.work(FIX, bash("seq 10000 > big.txt"), SUBMIT).value is None


def test_a_change_counts_whatever_became_of_the_repository_around_it(desk: Desk) -> None:
    ended = desk.work(FIX, bash("rm -rf .git && ln -s /nowhere .git"), SUBMIT)
    assert ended.reason == "done"
    assert ended.value
    assert b"-    return n / 2\n+    return n // 2\n" in ended.value.patch
    assert b".git" not in ended.value.patch


# What it is told


def test_commands_run_in_the_state_the_last_one_left(desk: Desk) -> None:
    desk.work(bash("cd /tmp; echo one > kept; export X=1; sleep 100 &"), bash('cat /tmp/kept; pwd; echo "x=$X"'), FIX)
    assert "exit code 0" in desk.told(2)
    assert "<output>\none\n/testbed\nx=\n</output>" in desk.told(2)


def test_both_streams_are_shown_in_order_and_the_exit_code(desk: Desk) -> None:
    desk.work(bash("echo a; echo b >&2; echo c; exit 7"), FIX)
    assert desk.told(1).startswith("exit code 7\n<output>\na\nb\nc\n</output>")


def test_a_long_output_is_capped_head_and_tail_and_its_size_said(desk: Desk) -> None:
    desk.work(bash("seq 1 100000"), FIX, shown=1000)
    said = desk.told(1)
    assert len(said) < 2000
    assert "<output>\n1\n2\n" in said
    assert "\n100000\n</output>" in said
    assert "588,894" in said, "the size of all that was printed"


def test_a_command_that_takes_too_long_is_ended_and_said_so(desk: Desk) -> None:
    desk.work(bash("echo begun > /tmp/a; sleep 60"), bash("cat /tmp/a"), seconds=1)
    assert desk.told(1).startswith("timed out after 1 s")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "no bash block"),
        ("Let me think.\n```python\nprint()\n```", "no bash block"),
        (bash("ls") + bash("pwd"), "2 bash blocks"),
        ("```bash\nls\n", "never closed"),
        ("```bash\n\n```", "empty"),
        (bash("cat > README <<'EOF'\n```\ncode\n```\nEOF"), "begin and end its block with four"),
        (Reply(text="```bash\nls", finish="length"), "cut off"),
    ],
)
def test_an_answer_that_cannot_be_used_runs_nothing_and_says_why(desk: Desk, answer: str | Reply, problem: str) -> None:
    assert desk.work(answer, bash("ls")).value is None
    assert "Nothing was run" in desk.told(1)
    assert problem in desk.told(1)


def test_thoughts_hold_no_commands_and_longer_fences_hold_shorter() -> None:
    assert read_commands(f"<think>\n{bash('rm x')}</think>\n{bash('ls')}") == (["ls"], "")
    assert read_commands(f"{bash('rm x')}</think>\n{bash('ls')}") == (["ls"], "")
    assert read_commands("````bash\ncat <<E\n```\nE\n````") == (["cat <<E\n```\nE"], "")
    assert read_commands("```sh\r\nls\r\n```\r\n") == (["ls"], "")


def test_the_first_message_names_the_tests_and_the_script_and_has_no_orders_from_data(desk: Desk) -> None:
    desk.work(FIX)
    said = desk.told(0)
    assert "`python -m pytest`" in said
    assert "/tmp/reproduce.py" in said
    assert "that is no order" in " ".join(said.split())
    assert [message.role for message in desk.model.calls[0].request.conversation.messages()] == ["system", "user"]


# Loops


def test_the_same_command_with_the_same_result_is_warned_of_and_then_ends_it(desk: Desk) -> None:
    ended = desk.work(FIX, *[bash("cat README")] * 6, bash("ls"))
    assert (ended.reason, ended.note) == ("turns", "went round in circles: the same action 6 times")
    assert ended.value
    assert len(desk.model.calls) == 7
    assert "WARNING" not in desk.told(3)
    assert "you have done exactly this 3 times" in desk.told(4)


def test_the_same_failure_of_different_commands_is_a_loop_and_progress_is_none(desk: Desk) -> None:
    ended = desk.work(*[bash(f"true {n}; cat nothing") for n in range(6)])
    assert ended.note == "went round in circles: the same failure 6 times"
    assert "you have met this same failure 3 times" in desk.told(3)
    ended = desk.work(*[bash(f"echo {n} >> calc.log; cat calc.log") for n in range(7)], *[bash("false")] * 3)
    assert ended.note == ""


def test_answers_without_a_command_end_it_too(desk: Desk) -> None:
    assert desk.work(*["Hm."] * 8).note == "went round in circles: the same action 6 times"
    assert len(desk.model.calls) == 6


# Folding


def long(n: int) -> str:
    return bash(f"seq {n}000000 {n}000900")


def test_old_observations_fold_and_the_issue_and_the_last_results_do_not(desk: Desk) -> None:
    ended = desk.work(*(long(n) for n in range(1, 13)), FIX, window=16_000, max_tokens=1000)
    assert ended.value
    first, last = desk.model.calls[0].request.conversation, desk.model.calls[-1].request.conversation
    said = last.messages()
    assert [message.text for message in said[:2]] == [message.text for message in first.messages()]
    assert "folded away" in said[3].text
    assert said[3].text.startswith("exit code 0\n<output>\n1000000\n1000001\n")
    assert all("\n1000900\n" not in message.text for message in said)
    assert "12000900" in said[-1].text
    assert "11000900" in said[-3].text
    folded = [
        sum("folded away" in message.text for message in call.request.conversation.back()) for call in desk.model.calls
    ]
    changes = sum(one != other for one, other in itertools.pairwise(folded))
    assert folded == sorted(folded)
    assert 1 <= changes <= 3, f"rarely, in large steps: {folded}"


def test_a_conversation_that_a_provider_refuses_is_folded_and_asked_again_once(desk: Desk) -> None:
    full = ContextOverflow("too long")
    ended = desk.work(*(long(n) for n in range(1, 6)), full, FIX, SUBMIT, window=200_000)
    assert ended.reason == "done"
    assert "folded away" in desk.model.calls[6].request.conversation.messages()[3].text
    ended = desk.work(FIX, *(long(n) for n in range(1, 6)), full, full, SUBMIT, window=200_000)
    assert (ended.reason, ended.note) == ("context", "too long")
    assert ended.value
    assert b"n // 2" in ended.value.patch
    ended = desk.work(FIX, full, SUBMIT)
    assert (ended.reason, len(desk.model.calls)) == ("context", 2), "there is nothing to fold"


def test_when_its_budget_is_spent_what_was_changed_stands_until_a_richer_run_goes_on(
    workshop: Workshop, tmp_path: Path
) -> None:
    environment = workshop.environment(FILES)

    async def life(answers: list[str | Exception]) -> Ended[Candidate]:
        world = World(Log(tmp_path / "log.jsonl"), "instance", Scripted(answers), workshop.sandbox)
        try:
            return await trajectory(world, "shell-1", Candidate, strategy(environment))
        finally:
            await world.close()

    ended = workshop.run(life([FIX, BudgetSpent("nothing left")]))
    assert (ended.reason, ended.note) == ("budget", "nothing left")
    assert ended.value
    assert b"n // 2" in ended.value.patch
    assert workshop.run(life([SUBMIT])).reason == "done"


# Going on


STORY: Sequence[str | Exception] = (
    bash("echo begun >> /tmp/journal; ls"),
    "Hm.",
    LEAVE_SCRIPT,
    *(bash(f"echo {n} >> /tmp/journal; seq {n}000000 {n}000900") for n in range(4)),
    ContextOverflow("too long"),
    bash("python /tmp/reproduce.py"),
    FIX,
    bash("echo fixed >> /tmp/journal; cat /tmp/journal"),
    SUBMIT,
    SUBMIT,
)
PATHS = [*(f"turn{n}/ask" for n in range(1, 9)), "turn8/ask again", *(f"turn{n}/ask" for n in range(9, 13))]


def test_stopped_after_any_effect_it_goes_on_as_if_nothing_had_happened(workshop: Workshop, tmp_path: Path) -> None:
    """The log is cut after each of its records; the strategy, run on it again, does just what is not on record."""
    environment = workshop.environment(FILES)
    recipe = QUICK.model_copy(update={"review": True, "turns": 20})

    sandbox = workshop.remembering()

    async def life(log: Path) -> tuple[Ended[Candidate], list[str]]:
        model = Scripted(dict(zip(PATHS, STORY, strict=True)))
        world = World(Log(log), "instance", model, sandbox)
        try:
            ended = await trajectory(world, "shell-1", Candidate, strategy(environment, recipe))
        finally:
            await world.close()
        return ended, [call.path for call in model.calls]

    whole = tmp_path / "whole.jsonl"
    expected, asked = workshop.run(life(whole))
    assert expected.reason == "done"
    assert asked == PATHS
    keys = [record["key"] for record in read(whole) if record["kind"] == "execution"]
    assert len(keys) == len(set(keys))
    lines = whole.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        log = tmp_path / f"cut{cut}.jsonl"
        log.write_bytes(b"".join(lines[:cut]))
        on_record = {r["path"] for r in read(log) if r["kind"] in ("ask", "refused")}
        ended, asked = workshop.run(life(log))
        assert ended == expected, cut
        assert asked == [path for path in PATHS if path not in on_record], cut
        again = [record["key"] for record in read(log) if record["kind"] == "execution"]
        assert sorted(again) == sorted(keys), "no command ran twice, and none was left out"
