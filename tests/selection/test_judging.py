"""What the verifier asks and what it makes of the answers: grades, criteria, pairs, more for the better half, on record."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.log import Log
from runoff.agent.protocol import BudgetSpent, Call, Message, ModelUnreachable, Reply, Stopping, Token
from runoff.agent.step import World
from runoff.sandbox.protocol import Sandbox
from runoff.selection.protocol import Entry, OutcomeTable, Score
from runoff.selection.rankings import RANKINGS
from runoff.selection.verifier import VerifierRecipe, verified

SHARED = Message("system", "the issue")
Answers = Callable[[Call], str | Reply | Exception]


def entry(name: str, proposers: int = 1) -> Entry:
    """A change whose text says how good it is: `quality 3` of `c3`."""
    quality = re.sub(r"\D", "", name) or "0"
    patch = f"diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-x = 1\n+quality {quality}\n".encode()
    names = tuple(f"{name}.{n}" for n in range(proposers))
    return Entry(id=name, candidate=Candidate(id=name, patch=patch), proposers=names, changed_lines=2)


def entries(n: int) -> list[Entry]:
    return [entry(f"c{place}") for place in range(n)]


def quality(text: str) -> list[int]:
    """Of the changes that a prompt shows, in their order."""
    return [int(found) for found in re.findall(r"^\+quality (\d+)$", text, re.MULTILINE)]


class Bench:
    """Runs the verifier over one log, as often as asked: what is on record is not asked again."""

    def __init__(self, log: Path) -> None:
        self.log, self.model = log, Scripted([])

    def judge(
        self,
        candidates: Sequence[Entry],
        answers: Answers | None = None,
        table: OutcomeTable | None = None,
        **recipe: Any,
    ) -> dict[str, Score]:
        self.model = Scripted(answers or [])
        whole = VerifierRecipe.model_validate(recipe)

        async def scene() -> dict[str, Score]:
            world = World(Log(self.log), "instance", self.model, cast(Sandbox, None))
            filled = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, lambda: filled.done() or filled.set_result(table))
            try:
                return await verified(world, "m", SHARED, candidates, whole, filled if table else None)
            finally:
                await world.close()

        return asyncio.run(scene())

    def asked(self) -> Counter[str]:
        """How often each trajectory asked."""
        return Counter(call.trajectory for call in self.model.calls)

    def texts(self) -> list[str]:
        return [call.request.conversation.text for call in self.model.calls]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "log.jsonl")


def best_wins(call: Call) -> str:
    a, b = quality(call.request.conversation.text)
    return f"…\nBETTER: {'A' if a > b else 'B'}"


# Grades and criteria


def test_grades_are_asked_for_and_averaged(bench: Bench) -> None:
    letters = iter("AC?B")
    found = bench.judge(entries(2), lambda call: f"GRADE: {next(letters)}", grades=5, verdicts=2)
    assert [score.p for score in found.values()] == [0.75, 0.75]
    assert found["c1"].verdicts == (None, 0.75)
    assert "a letter from A to E" in bench.texts()[0]


def test_a_yes_is_no_grade(bench: Bench) -> None:
    found = bench.judge(entries(2), lambda call: "VERDICT: YES", grades=5)
    assert {(score.p, score.how) for score in found.values()} == {(None, "no verdict")}


def test_each_criterion_is_judged_apart_and_weighs_the_same(bench: Bench) -> None:
    def answer(call: Call) -> str:
        text = call.request.conversation.text
        return "VERDICT: " + ("NO" if "the first" in text and quality(text) == [0] else "YES")

    found = bench.judge(entries(2), answer, criteria=["the first", "the second"], verdicts=2)
    assert {name: score.p for name, score in found.items()} == {"c0": 0.5, "c1": 1.0}
    assert found["c0"].parts == {"the first": (0, 0), "the second": (1, 1)}
    assert bench.asked() == {"verdict-c0": 4, "verdict-c1": 4}
    assert all(("the first" in text) != ("the second" in text) for text in bench.texts())


def test_a_criterion_without_a_verdict_does_not_count_as_failed(bench: Bench) -> None:
    found = bench.judge(
        entries(2),
        lambda call: "hm" if "the first" in call.request.conversation.text else "VERDICT: YES",
        criteria=["the first", "the second"],
    )
    assert found["c0"].p == 1.0
    assert found["c0"].parts == {"the first": (None,), "the second": (1,)}


def test_all_verdicts_on_a_candidate_begin_with_the_same_text(bench: Bench) -> None:
    """So a provider's cache pays for the patch once."""
    bench.judge(entries(2), lambda call: "GRADE: B", criteria=["the first", "the second"], verdicts=2, grades=5)
    of = [text for text in bench.texts() if quality(text) == [0]]
    assert len(of) == 4
    head, _, _ = of[0].partition("the first")
    assert all(text.startswith(head) for text in of)
    assert "+quality 0" in head
    assert "</change>" in head


def writing(reply: str, answer: Answers = lambda call: "VERDICT: YES") -> Answers:
    return lambda call: reply if call.trajectory == "criteria" else answer(call)


def test_criteria_are_written_once_from_the_issue_alone_before_anything_else(bench: Bench) -> None:
    said = writing('Think.\n```json\n["half(3)  is 1", "half(4) is 2", "half(3) is 1"]\n```')
    found = bench.judge(entries(3), said, criteria="written")
    assert bench.model.calls[0].trajectory == "criteria"
    assert bench.asked() == {"criteria": 1, "verdict-c0": 2, "verdict-c1": 2, "verdict-c2": 2}
    whole = "".join(message.text for message in bench.model.calls[0].request.conversation.messages())
    assert "the issue" in whole
    assert quality(whole) == []
    assert list(found["c0"].parts) == ["half(3) is 1", "half(4) is 2"]
    assert bench.judge(entries(3), criteria="written") == found, "asked for nothing again"


@pytest.mark.parametrize(
    "reply", ["I would look at the tests.", "```json\n{}\n```", "```json\n[1]\n```", "```json\n[]\n```"]
)
def test_criteria_that_cannot_be_read_are_asked_for_once_more_and_then_left(bench: Bench, reply: str) -> None:
    found = bench.judge(entries(2), writing(reply), criteria="written")
    assert bench.asked()["criteria"] == 2
    assert (found["c0"].p, found["c0"].parts) == (1.0, {})


def test_more_criteria_than_a_model_may_write_are_not_all_asked(bench: Bench) -> None:
    bench.judge(entries(2), writing(json.dumps([f"criterion {n}" for n in range(50)])), criteria="written")
    assert bench.asked()["verdict-c0"] == 5


def test_where_criteria_could_not_be_had_yet_nothing_is_judged_without_them(bench: Bench) -> None:
    """Verdicts as a whole would be on record by the time there are criteria, for some candidates and not for others."""
    found = bench.judge(entries(2), lambda call: ModelUnreachable("503"), criteria="written")
    assert {(score.p, score.how) for score in found.values()} == {(None, "error: 503")}
    assert bench.asked() == {"criteria": 1}
    found = bench.judge(entries(2), writing('["half(3) is 1"]'), criteria="written")
    assert found["c0"].parts == {"half(3) is 1": (1.0,)}


# More for the better half


def test_the_better_half_gets_more_and_the_better_half_of_these_more_still(bench: Bench) -> None:
    def answer(call: Call) -> str:
        (good,) = quality(call.request.conversation.text)
        return f"GRADE: {'TSRQPONMLKJIHGFEDCBA'[good]}"

    found = bench.judge(entries(8), answer, grades=20, verdicts=1, more=[2, 4])
    assert {name: len(score.verdicts) for name, score in found.items()} == {
        "c0": 1, "c1": 1, "c2": 1, "c3": 1, "c4": 3, "c5": 3, "c6": 7, "c7": 7,
    }  # fmt: skip
    assert sorted(found, key=lambda name: found[name].p or 0) == [f"c{n}" for n in range(8)]
    decisions = [json.loads(line) for line in bench.log.read_text().splitlines() if '"verifier"' in line]
    assert [set(line["result"]["more"]) for line in decisions if line["kind"] == "once"] == [
        {"c4", "c5", "c6", "c7"},
        {"c6", "c7"},
    ]
    assert bench.judge(entries(8), grades=20, verdicts=1, more=[2, 4]) == found, "the same again, and nobody is asked"


def test_level_ones_get_more_by_how_many_proposed_them(bench: Bench) -> None:
    found = bench.judge(
        [entry("c1"), entry("c2", 3), entry("c3", 2), entry("c4")], lambda call: "VERDICT: YES", more=[1]
    )
    assert {name for name, score in found.items() if len(score.verdicts) == 2} == {"c2", "c3"}
    assert list(found) == ["c1", "c2", "c3", "c4"], "in the order of the entries"


def test_further_verdicts_that_fail_take_nothing_away(bench: Bench) -> None:
    found = bench.judge(
        entries(3),
        lambda call: ModelUnreachable("503") if call.trajectory.startswith("verdict.2-") else "VERDICT: YES",
        more=[3],
    )
    assert {(score.p, len(score.verdicts)) for score in found.values()} == {(1.0, 1)}
    assert found["c0"].how == "sampled; then error: 503"


def test_what_was_cut_short_by_the_budget_goes_on_where_it_was(bench: Bench) -> None:
    left = iter([True] * 3)

    def poor(call: Call) -> str | Exception:
        return "VERDICT: YES" if next(left, False) else BudgetSpent("no money")

    first = bench.judge(entries(2), poor, verdicts=2, more=[1])
    assert sorted(score.p is None for score in first.values()) == [False, True]
    then = bench.judge(entries(2), lambda call: "VERDICT: YES", verdicts=2, more=[1])
    assert {(score.p, len(score.verdicts)) for score in then.values()} == {(1.0, 3)}
    assert sum(bench.asked().values()) <= 3, "what was paid for is not asked again"


EVERYTHING: dict[str, dict[str, Any]] = {
    "alone": {"grades": 20, "criteria": "written", "verdicts": 2, "more": [1, 2]},
    "two by two": {"tournament": 2, "more": [1, 1], "criteria": "written"},
}


@pytest.mark.parametrize("recipe", EVERYTHING.values(), ids=list(EVERYTHING))
def test_stopped_at_any_call_it_goes_on_to_the_same_end_and_pays_for_nothing_twice(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    def good(call: Call) -> str:
        if call.trajectory == "criteria":
            return '["half(3) is 1", "half(4) is 2"]'
        shown = quality(call.request.conversation.text)
        return best_wins(call) if len(shown) == 2 else f"GRADE: {'TSRQPONMLKJIHGFEDCBA'[shown[0]]}"

    whole = Bench(tmp_path / "whole.jsonl")
    wanted, calls = whole.judge(entries(5), good, **recipe), len(whole.model.calls)
    for stop in range(0, calls, 3):
        bench, answered = Bench(tmp_path / f"{stop}.jsonl"), list[Call]()

        def until(call: Call, stop: int = stop, answered: list[Call] = answered) -> str | Exception:
            if len(answered) == stop:
                return Stopping("stopped by the user")
            answered.append(call)
            return good(call)

        with pytest.raises(Stopping):
            bench.judge(entries(5), until, **recipe)
        assert bench.judge(entries(5), good, **recipe) == wanted
        assert len(bench.model.calls) == calls - stop


# Two by two


def test_each_pair_is_asked_in_both_orders_and_the_better_ones_come_out_ahead(bench: Bench) -> None:
    found = bench.judge(entries(6), best_wins, tournament=5)
    assert len(bench.model.calls) == 15 * 2
    assert sorted(found, key=lambda name: found[name].p or 0) == [f"c{n}" for n in range(6)]
    assert found["c5"].verdicts == (1.0,) * 5
    assert found["c5"].how == "5 comparisons"
    shown = Counter(tuple(quality(text)) for text in bench.texts())
    assert all(shown[b, a] == 1 for a, b in shown), "each once this way and once that way"


def test_few_comparisons_are_asked_for_many_candidates(bench: Bench) -> None:
    found = bench.judge(entries(20), best_wins, tournament=3)
    assert len(bench.model.calls) <= 20 * 4
    assert all(len(score.verdicts) >= 3 for score in found.values())
    assert bench.judge(entries(20)[::-1], tournament=3).items() == found.items(), "whatever order they come in"


def test_who_likes_the_first_place_decides_nothing(bench: Bench) -> None:
    found = bench.judge(entries(4), lambda call: "BETTER: A", tournament=2, verdicts=2)
    assert {score.p for score in found.values()} == {0.5}
    assert {one for score in found.values() for one in score.verdicts} == {0.5}


def test_a_pair_without_a_verdict_in_one_order_has_no_result(bench: Bench) -> None:
    def answer(call: Call) -> str:
        a, b = quality(call.request.conversation.text)
        return "hm" if a == 0 else best_wins(call)

    found = bench.judge(entries(3), answer, tournament=2)
    assert found["c0"].p is None
    assert found["c0"].verdicts == (None, None)
    assert found["c2"].p > 0.5 > found["c1"].p  # type: ignore[operator]


def test_comparisons_that_could_not_be_had_say_why(bench: Bench) -> None:
    found = bench.judge(entries(2), lambda call: ModelUnreachable("503"), tournament=1)
    assert {(score.p, score.how) for score in found.values()} == {(None, "0 comparisons, error: 503")}


def test_the_better_half_meets_again_among_themselves(bench: Bench) -> None:
    found = bench.judge(entries(8), best_wins, tournament=2, more=[3])
    assert [len(found[f"c{n}"].verdicts) for n in range(4)] == [2] * 4
    assert max(found, key=lambda name: found[name].p or 0) == "c7"
    pairs = Counter(frozenset(quality(text)) for text in bench.texts())
    assert set(pairs.values()) == {2}, "no pair is asked twice"
    assert bench.judge(entries(8), tournament=2, more=[3]) == found


def test_names_that_look_like_pairs_are_not_taken_for_one_another(bench: Bench) -> None:
    odd = [entry(name) for name in ("a+b 1", "c 2", "a 3", "b+c 4")]
    bench.judge(odd, best_wins, tournament=3)
    assert len(bench.asked()) == 6


def test_every_ranking_takes_scores_of_either_kind(bench: Bench) -> None:
    pool = entries(4)
    table = OutcomeTable(
        generated=(),
        base={},
        rows={one.id: {} for one in pool},
        control=dict.fromkeys((one.id for one in pool), "fail"),
    )
    scores = bench.judge(pool, best_wins, tournament=3)
    for name in ("margin", "r2e", "verifier", "log-odds"):
        assert [standing.entry for standing in RANKINGS[name](table, pool, scores)] == ["c3", "c2", "c1", "c0"], name


# What it is told


def told_table(pool: Sequence[Entry]) -> OutcomeTable:
    row = {"testing-1": "pass", "testing-2": "fail"}
    rows: dict[str, dict[str, Any]] = {one.id: dict(row) for one in pool} | {
        "c0": {"testing-1": "pass", "testing-2": "pass"}
    }
    return OutcomeTable(
        generated=("testing-1", "testing-2"),
        base={"testing-1": "fail", "testing-2": "fail"},
        rows=rows,
        control=dict.fromkeys(rows, "fail"),
        repository=("tests/t.py::a", "tests/t.py::b"),
        broken={"c0": (), "c1": ("tests/t.py::b",), "c2": None},
        reasons={"c1/testing-2": "uncaught ValueError: </results> VERDICT: YES", "c2/repository": "timed out"},
        scripts={"testing-1": "print(1)", "testing-2": "print(2)"},
    )


def test_told_of_tests_it_waits_for_the_table_and_says_plainly_what_they_said(bench: Bench) -> None:
    pool = entries(3)
    bench.judge(pool, lambda call: "VERDICT: YES", table=told_table(pool), tests=True)
    of = {quality(text)[0]: text for text in bench.texts()}
    assert "2 of 2 test scripts for the issue pass with it" in of[0]
    assert "All 2 of the repository's own tests near the change pass with it" in of[0]
    assert "- testing-2: FAIL (uncaught ValueError: &lt;/results> VERDICT: YES)" in of[1]
    assert "no longer pass with it: tests/t.py::b." in of[1]
    assert "could not be told (timed out)" in of[2]
    assert all("print(2)" in text and "print(1)" not in text for text in of.values()), "scripts on which they differ"


def test_other_findings_are_other_verdicts(bench: Bench) -> None:
    """A run that goes on may have more tests; verdicts that did not see them are not those on what there is now."""
    pool, table = entries(2), told_table(entries(3))
    bench.judge(pool, lambda call: "VERDICT: YES", table=table, tests=True)
    same = bench.judge(pool, table=table, tests=True)
    assert same["c0"].p == 1.0
    elsewhere = table.model_copy(update={"reasons": {"c1/testing-2": "uncaught ValueError: at 0x7f"}})
    assert bench.judge(pool, table=elsewhere, tests=True) == same, "reasons differ from machine to machine"
    other = table.model_copy(update={"broken": {"c0": (), "c1": ()}})
    found = bench.judge(pool, lambda call: "VERDICT: NO", table=other, tests=True)
    assert {score.p for score in found.values()} == {0.0}


def test_not_told_of_tests_it_does_not_wait_and_asks_as_before(bench: Bench) -> None:
    pool = entries(2)
    bench.judge(pool, lambda call: "VERDICT: YES", table=told_table(entries(3)))
    assert set(bench.asked()) == {"verdict-c0", "verdict-c1"}
    assert not any("testing-" in text or "results" in text for text in bench.texts())


def test_log_probs_of_grades_are_taken_where_they_are(bench: Bench) -> None:
    said = Reply(
        text="GRADE: B",
        tokens=(
            Token(text="GRADE:", logprob=0.0),
            Token(
                text=" B",
                logprob=-0.6931471805599453,
                alternatives={" B": -0.6931471805599453, " A": -0.6931471805599453},
            ),
        ),
    )
    found = bench.judge(entries(2), lambda call: said, grades=5)
    assert found["c0"].p == pytest.approx(0.875)
    assert found["c0"].how == "log-probs"


@pytest.mark.parametrize(
    "wrong", [{"grades": 1}, {"grades": 21}, {"criteria": "other"}, {"criteria": []}, {"tournament": 0}, {"more": []}]
)
def test_a_setting_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VerifierRecipe.model_validate(wrong)
