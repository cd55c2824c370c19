"""The report: what a reviewer is shown, that nothing hostile reaches the page, that nothing is loaded from outside."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runoff.agent.budget import Budget
from runoff.agent.context import Context
from runoff.agent.editing import Candidate
from runoff.agent.step import Ended
from runoff.agent.testing import GeneratedTest
from runoff.instance import Instance
from runoff.pipeline import Outcome, Sample
from runoff.recipe import Recipe
from runoff.report import compare, duration, files, report, sentence, shown
from runoff.run import Ledger, Result, Run
from runoff.selection.protocol import (
    Cell,
    Confidence,
    Entry,
    Features,
    OutcomeTable,
    Score,
    Selection,
    Stability,
    Standing,
)

SCRIPT = "<script>alert(1)</script>"
ANSI = "\x1b[31mred\x1b[0m"
BIDI = "\u202eevil\u2066"
HOSTILE = f'{SCRIPT}{ANSI}{BIDI}"><img src=x onerror=alert(1)>{{{{ 7*7 }}}}'

PATCH = b"""\
diff --git a/src/clock.py b/src/clock.py
index 1111111..2222222 100644
--- a/src/clock.py
+++ b/src/clock.py
@@ -10,4 +10,5 @@ def parse(text):
     hours, minutes = text.split(":")
--- a comment that looks like a header
-    return int(hours) * 60 + int(minutes)
+    if int(hours) > 23:
+        raise ValueError(text)
+    return int(hours) * 60 + int(minutes)
 # end
"""
OTHER = PATCH.replace(b"> 23", b">= 23").replace(b"2222222", b"3333333").replace(b"@@ -10,4", b"@@ -11,4")


class Page(HTMLParser):
    """Elements with their attributes, and the text, as a browser would read them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def titles(self) -> list[str]:
        return [attributes["title"] or "" for _, attributes in self.elements if "title" in attributes]


def selection(**changed: Any) -> Selection:
    """Three candidates on three tests, every kind of cell among them; editing-2 is chosen against the ranking."""
    entries = [
        Entry(
            id="editing-1", candidate=Candidate(id="editing-1", patch=OTHER), proposers=("editing-1",), changed_lines=5
        ),
        Entry(
            id="editing-2",
            candidate=Candidate(id="editing-2", patch=PATCH),
            proposers=("editing-2", "editing-4"),
            changed_lines=5,
            removed=("tests/test_clock.py: a test: tests are not part of a candidate",),
        ),
        Entry(
            id="editing-3", candidate=Candidate(id="editing-3", patch=PATCH), proposers=("editing-3",), changed_lines=90
        ),
    ]
    table = OutcomeTable(
        generated=("testing-1", "testing-2", "editing-4"),
        base={"testing-1": "fail", "testing-2": "fail", "editing-4": "fail", "testing-5": "pass"},
        rows={
            "editing-1": {"testing-1": "pass", "testing-2": "fail", "editing-4": "pass"},
            "editing-2": {"testing-1": "pass", "testing-2": "pass", "editing-4": "could not tell"},
            "editing-3": {"testing-1": "pass", "testing-2": "pass", "editing-4": "pass"},
        },
        control={"editing-1": "fail", "editing-2": "fail", "editing-3": "pass"},
        repository=("tests/test_a.py::one", "tests/test_a.py::two", "tests/test_b.py::three"),
        broken={"editing-1": ("tests/test_a.py::two",), "editing-2": (), "editing-3": None},
        reasons={
            "editing-1/testing-2": "assert 23 == 24",
            "editing-2/editing-4": "no verdict within 60 seconds",
            "editing-3/repository": "the tests did not end within 300 seconds",
        },
        scripts={
            name: f"print({name!r})\n" for name in ("testing-1", "testing-2", "testing-3", "editing-4", "testing-5")
        },
        same={
            "testing-1": ("testing-1", "testing-3"),
            "testing-2": ("testing-2",),
            "editing-4": ("editing-4",),
            "testing-5": ("testing-5",),
        },
    )

    def standing(
        name: str, votes: int, broken: int | None, score: float | None, proposers: int, lines: int
    ) -> Standing:
        return Standing(
            entry=name,
            disqualified=name == "editing-3",
            gated=name != "editing-3",
            broken=broken,
            votes=votes,
            score=score,
            proposers=proposers,
            changed_lines=lines,
        )

    whole = Selection(
        chosen="editing-2",
        reason="chosen: It keeps 23 o'clock valid. The other refuses it.\n\nI ran both on 23:00.",
        entries=tuple(entries),
        standings=(
            standing("editing-1", 2, 1, 0.875, 1, 5),
            standing("editing-2", 2, 0, None, 2, 5),
            standing("editing-3", 3, None, 0.25, 1, 90),
        ),
        finalists=("editing-1", "editing-2"),
        table=table,
        scores={
            "editing-1": Score(p=0.875, how="log-probs"),
            "editing-2": Score(p=None, how="no verdict"),
            "editing-3": Score(p=0.25, how="sampled"),
        },
        rejected={"editing-5": "nothing is left of the patch: it is empty"},
    )
    return whole.model_copy(update=changed)


def result(chosen: Selection | None = None, *, name: str = "clock", **changed: Any) -> Result:
    chosen = chosen or selection()
    outcome = Outcome(
        instance=instance(name),
        context=Ended[Context](reason="done", value=Context(whole=("src/clock.py",))),
        samples=(
            Sample(
                test=Ended[GeneratedTest](reason="done", value=GeneratedTest(id="testing-1", script="", output="")),
                edit=Ended[Candidate](
                    reason="turns", value=Candidate(id="editing-1", patch=OTHER, own_verdict="fixed")
                ),
            ),
            Sample(
                test=Ended[GeneratedTest](reason="turns", note="no test that fails on the base: broken (it hangs)"),
                edit=Ended[Candidate](reason="error", note="the provider was not reachable"),
            ),
        ),
        selection=chosen,
    )
    status = "patch" if chosen.chosen else "none"
    made = Result(instance=name, status=status, why=chosen.reason, outcome=outcome)
    return made.model_copy(update=changed)


def instance(name: str = "clock", statement: str = "25:00 is taken as a time.\n") -> Instance:
    return Instance(
        id=name, source="/home/me/repository", statement=statement, commit="0123456789abcdef", digest="0123"
    )


def run_of(
    *instances: Instance, ledger: Ledger = Ledger(calls=1), models: dict[str, str] = {}, elected: bool = False
) -> Run:
    stub = SimpleNamespace(
        entrants={} if elected else None,
        ledger=lambda: ledger,
        recipe=Recipe(),
        models=models or {"editor": "openai/gpt-5", "verifier": "openai/gpt-5-mini"},
        budget=Budget(money=2.5),
        instances=instances or (instance(),),
    )
    return cast(Run, stub)


def words(page: str) -> str:
    return " ".join(Page(page).text.split())


def test_the_chosen_patch_its_reasons_and_the_evidence_are_there() -> None:
    page = report(run_of(), [result()], seconds=75)
    text = words(page)
    assert "editing-2. The run-off chose it: It keeps 23 o'clock valid." in text
    assert "I ran both on 23:00." in text
    assert "2 of 3 generated tests passed · 0 of 3 repository tests broken · verifier no verdict" in text
    assert "25:00 is taken as a time." in text
    assert "★ chosen" in text
    assert "disqualified: passes the control" in text
    assert "tests/test_clock.py: a test: tests are not part of a candidate" in text
    assert "1 of 3 broken" in text
    assert "tests/test_a.py::two" in text
    assert "nothing is left of the patch: it is empty" in text
    assert "the provider was not reachable" in text
    assert "the same script as testing-3, together one vote" in text
    assert "no vote: on the base it is “pass”" in text
    assert "1 min 15 s" in text
    assert '<span class="add">' in page
    assert '<span class="del">' in page


def test_every_kind_of_cell_shows_by_symbol_and_says_why() -> None:
    page = report(run_of(), [result()], seconds=1)
    for cell, symbol in (("pass", "✓"), ("fail", "✗"), ("unknown", "?")):
        said = "could not tell" if cell == "unknown" else cell
        assert re.search(
            rf'class="cell {cell}" title="{said}[^"]*"><span aria-hidden="true">{re.escape(symbol)}</span>'
            rf'<span class="said">{said}</span>',
            page,
        )
    titles = Page(page).titles()
    assert "fail: assert 23 == 24" in titles
    assert "could not tell: no verdict within 60 seconds" in titles
    assert "could not tell: the tests did not end within 300 seconds" in titles
    assert "editing-2, T3: no verdict within 60 seconds" in words(page)  # for who cannot hover
    assert page.index("base, without a patch") < page.index(
        '<th scope="row">editing-1</th>', page.index("base, without")
    )


def test_a_suspected_test_is_named_whether_or_not_it_votes_and_votes_are_of_those_that_count() -> None:
    columns: dict[str, tuple[Cell, Cell]] = {
        "t1": ("pass", "fail"),
        "t2": ("pass", "could not tell"),
        "testing-1": ("fail", "pass"),
    }
    whole = selection()
    assert whole.table
    rows = {
        name: {test: column[n] for test, column in columns.items()} for n, name in enumerate(["editing-2", "editing-1"])
    }
    rows["editing-3"] = {"t1": "pass", "t2": "fail", "testing-1": "fail"}
    table = whole.table.model_copy(
        update={
            "generated": tuple(columns),
            "base": dict.fromkeys(columns, "fail"),
            "rows": rows,
            "control": dict.fromkeys(rows, "fail"),
        }
    )
    scores = {"editing-1": Score(p=0.1), "editing-2": Score(p=0.9)}
    shown = selection(table=table, scores=scores)
    text = words(report(run_of(), [result(shown)], seconds=1))
    assert "testing-1 · the same script as testing-3, together one vote · it is suspected to be wrong: " in text
    assert "; it has its vote all the same" in text
    assert "2 of 3 generated tests passed" in text
    remark = "testing-1 is suspected to be wrong: why"
    silenced = shown.model_copy(update={"silent": {"testing-1": remark.partition(" ")[2]}, "remarks": (remark,)})
    text = words(report(run_of(), [result(silenced)], seconds=1))
    assert "together one vote · no vote: it is suspected to be wrong: why" in text
    assert "all the same" not in text
    assert "2 of 2 generated tests passed" in text
    assert text.count(remark) == 1, "among the reasons"


def test_the_runner_up_is_the_finalist_that_was_not_chosen_and_its_difference_is_shown() -> None:
    page = report(run_of(), [result()], seconds=1)
    text = words(page)
    assert "The runner-up is editing-1." in text
    assert "T2 testing-2" in text
    assert "T1 testing-1" not in text  # both pass it
    assert "Broken by editing-1 only: tests/test_a.py::two" in text
    laid = compare(PATCH, OTHER)
    assert laid
    assert [(part.side, part.line.text) for part in laid if part.side in ("chosen", "other")] == [
        ("chosen", "+    if int(hours) > 23:"),
        ("other", "+    if int(hours) >= 23:"),
    ]
    assert compare(PATCH, PATCH) == []
    assert compare(PATCH * 400, PATCH) is None


def test_a_missing_verdict_is_a_dash_and_not_zero() -> None:
    page = report(run_of(), [result()], seconds=1)
    row = page[page.index('<th scope="row">editing-2</th>') :].partition("</tr>")[0]
    assert '<td class="number" title="no verdict">–</td>' in row
    assert ">0.00<" not in page
    assert "None" not in Page(page).text


def test_nothing_that_a_model_or_a_repository_wrote_becomes_markup_or_hides() -> None:
    entry = Entry(
        id=HOSTILE,
        candidate=Candidate(
            id=HOSTILE,
            patch=PATCH.replace(b"raise", HOSTILE.encode() + b" \xff\xfe raise").replace(b"clock", SCRIPT.encode()),
        ),
        proposers=(HOSTILE, "b"),
        changed_lines=5,
        removed=(HOSTILE,),
    )
    other = entry.model_copy(update={"id": "other", "candidate": Candidate(id="other", patch=OTHER)})
    table = OutcomeTable(
        generated=(HOSTILE,),
        base={HOSTILE: "fail"},
        rows={HOSTILE: {HOSTILE: "pass"}, "other": {HOSTILE: "could not tell"}},
        control={HOSTILE: "could not tell", "other": "fail"},
        repository=(HOSTILE,),
        broken={HOSTILE: (HOSTILE,), "other": None},
        reasons={f"other/{HOSTILE}": HOSTILE, f"{HOSTILE}/control": HOSTILE, "base/repository": HOSTILE},
        scripts={HOSTILE: HOSTILE},
        same={HOSTILE: (HOSTILE, BIDI)},
    )
    place = {
        "disqualified": False,
        "gated": True,
        "broken": 1,
        "votes": 1,
        "score": 0.5,
        "proposers": 2,
        "changed_lines": 5,
    }
    hostile = Selection(
        chosen=HOSTILE,
        reason=f"chosen: {HOSTILE}",
        entries=(entry, other),
        standings=(Standing(entry=HOSTILE, **place), Standing(entry="other", **place)),
        finalists=(HOSTILE, "other"),
        table=table,
        scores={HOSTILE: Score(p=0.5, how=HOSTILE)},
        rejected={HOSTILE: HOSTILE},
    )
    ended = result(hostile, name=HOSTILE)
    assert ended.outcome
    sample = Sample(
        test=Ended[GeneratedTest](reason="turns", note=HOSTILE), edit=Ended[Candidate](reason="error", note=HOSTILE)
    )
    context = Ended[Context](reason="done", note=HOSTILE, value=Context(whole=(HOSTILE,), outlined=(HOSTILE,)))
    ended = ended.model_copy(
        update={"outcome": ended.outcome.model_copy(update={"samples": (sample,), "context": context})}
    )
    declared = {"setup": HOSTILE, "test": HOSTILE, "env": {HOSTILE: HOSTILE}}
    tally = {"passed": 1, "failed": 9, "untold": [HOSTILE] * 9, "untold_count": 9}
    setup = {"name": HOSTILE, "declared": declared, "tally": tally, "tried": [HOSTILE]}
    failed = Result(instance="failed", status="failed", why=HOSTILE, setup=setup)
    run = run_of(instance(HOSTILE, HOSTILE), models={"editor": HOSTILE})
    page = report(run, [ended, failed], seconds=1, notes=[HOSTILE])
    read = Page(page)
    assert {tag for tag, _ in read.elements} & {"script", "img"} == set()
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    assert "⟨U+001B⟩[31mred" in read.text
    assert "⟨U+202E⟩evil⟨U+2066⟩" in read.text
    assert "⟨byte FF⟩⟨byte FE⟩" in read.text
    assert SCRIPT in read.text
    assert "{{ 7*7 }}" in read.text
    assert "The patch adds characters that do not show" in read.text
    page.encode()


@pytest.mark.parametrize("results", [[result()], [result(), result(name="other")]])
def test_nothing_is_loaded_from_anywhere_and_every_link_leads_somewhere(results: list[Result]) -> None:
    page = report(run_of(instance(statement="see https://example.org/ and http://example.org/")), results, seconds=1)
    elements = Page(page).elements
    anchors = [attributes["id"] for _, attributes in elements if "id" in attributes]
    links = [
        attributes[name] or "" for _, attributes in elements for name in ("href", "src", "action") if name in attributes
    ]
    assert links
    assert all(link.startswith("#") and link[1:] in anchors for link in links)
    assert len(anchors) == len(set(anchors))
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page
    assert "/home/me" not in page  # where the repository lies is nobody's business


def test_instances_without_a_patch_say_so_and_why() -> None:
    none = selection(chosen=None, reason="none: every candidate passes a test that none may pass", finalists=())
    results = [
        result(none, name="a"),
        Result(instance="b", status="failed", why="the build command fails: gcc: not found", possibly_billed=1),
        Result(instance="c", status="stopped", why="asked to stop", damaged=2),
        result(Selection(chosen=None, reason="none: no candidate could be used"), name="d", status="budget"),
        result(name="e"),
    ]
    page = report(run_of(*map(instance, "abcde")), results, seconds=3700)
    text = words(page)
    assert "every candidate passes a test that none may pass" in text
    assert "How the candidates stand" in text
    assert "the build command fails: gcc: not found" in text
    assert "no verdict on the issue: the same command tries again" in text
    assert "the same command goes on from here" in text
    assert "with a larger --budget" in text
    assert "1 of 5 have a patch." in text
    assert "1 call on the way when a process was killed: possibly billed" in text
    assert "2 damaged pieces of the log" in text
    assert "1 h 01 min" in text
    assert page.count('href="#i') >= 5


def test_how_the_repository_was_set_up_is_shown_and_stands_open_where_it_does_not_work() -> None:
    declared = {"python": "3.9", "setup": "pip install -e .", "test": "pytest"}
    tally = {"runner": "pytest", "passed": 3, "failed": 7, "untold": [f"test_{n}" for n in range(7)], "untold_count": 7}
    settled = {"name": "as usual", "declared": declared, "tally": tally, "tried": ["as detected: no module named x"]}
    works = report(run_of(), [result(setup=settled)], seconds=1)
    said = words(works)
    assert "The repository’s own tests, as usual: 3 passed, 7 failed, 7 could not tell (pytest)" in said
    assert 'setup = "pip install -e ."' in said
    assert "as detected: no module named x" in said
    assert "test_6" in said
    broken = report(run_of(), [result(setup=settled | {"tally": None, "why": "gcc is missing"})], seconds=1)
    assert "as usual: gcc is missing" in words(broken)
    assert broken.count("<details open>") == works.count("<details open>") + 1


def test_one_candidate_without_tests_or_scores() -> None:
    entry = selection().entries[0]
    standing = Standing(
        entry=entry.id, disqualified=False, gated=True, broken=0, votes=0, score=None, proposers=1, changed_lines=5
    )
    only = Selection(
        chosen=entry.id,
        reason="undisputed: the only candidate",
        entries=(entry,),
        standings=(standing,),
        finalists=(entry.id,),
        table=OutcomeTable(
            generated=(),
            base={"testing-1": "could not tell"},
            rows={entry.id: {}},
            control={entry.id: "fail"},
            broken={entry.id: ()},
            reasons={"base/repository": "no test file has to do with the change"},
        ),
    )
    text = words(report(run_of(), [result(only)], seconds=1))
    assert "Chosen without a run-off: the only candidate" in text
    assert "No generated test fails on the base, so none has a vote." in text
    assert "no vote: on the base it is “could not tell”" in text
    assert "base, repository: no test file has to do with the change" in text
    assert "runner-up" not in text


def sure(**changed: Any) -> Confidence:
    hangs = Stability(first="editing-1", tried=8, generated={"testing-2": "editing-2"}, members={HOSTILE: None})
    known: dict[str, Any] = {
        "of": "editing-2",
        "p": None,
        "how": "uncalibrated",
        "seen": Features(votes=2 / 3),
        "hangs_on": hangs,
    }
    return Confidence(**(known | changed))


def test_how_sure_it_is_and_what_the_ranking_hangs_on() -> None:
    text = words(report(run_of(), [result(selection(confidence=sure()))], seconds=1))
    assert "Uncalibrated: no probability is stated." in text
    assert "generated tests that it passes0.67" in text
    assert "rounds of the run-off that chose its behaviour–" in text, "missing is not 0"
    assert "generated test T2: editing-2 is first without it" in text
    assert "nobody is first without it" in text
    calibrated = sure(
        p=0.834, how="calibrated on 126 issues, decided by margin", hangs_on=Stability(first="editing-2", tried=8)
    )
    text = words(report(run_of(), [result(selection(confidence=calibrated))], seconds=1))
    assert "editing-2 is right with a probability of 0.83, calibrated on 126 issues, decided by margin." in text
    assert "No single test, trajectory or agent decides who is first of the ranking (8 tried)." in text


def test_an_issue_that_was_abstained_from_says_why_and_what_it_would_have_been() -> None:
    reason = "abstained: right with a probability of 0.27, below 0.50; it would have been editing-2"
    withheld = selection(chosen=None, reason=reason, confidence=sure(p=0.27, withheld="undisputed: the only candidate"))
    text = words(report(run_of(), [result(withheld, status="abstained")], seconds=1))
    assert "No patch abstained" in text
    assert "right with a probability of 0.27, below 0.50; it would have been editing-2" in text
    assert "nothing is submitted" in text
    assert "Why it would have been submitted: undisputed: the only candidate" in text


def test_a_choice_by_the_ranking_alone_is_called_so() -> None:
    ranked = selection(reason="ranked: the first of the ranking, without a run-off")
    text = words(report(run_of(), [result(ranked)], seconds=1))
    assert "editing-2. Chosen by the ranking: the first of the ranking, without a run-off" in text


def test_an_election_without_a_model_speaks_of_agents_and_of_no_verifier_or_run_off() -> None:
    chosen = selection(scores={}, reason="ranked: the first of the ranking, without a run-off")
    outcome = Outcome(instance=instance(), context=None, selection=chosen)
    said = words(report(run_of(elected=True), [result(chosen, outcome=outcome)], seconds=1))
    assert "trajectories ended" not in said
    assert "an election among others’ patches" in said
    assert "2 agents" in said
    assert "no verifier read the patches" in said
    assert "no verdict ·" not in said
    assert " finalist " not in said
    assert " finalist " in words(report(run_of(), [result()], seconds=1))


def test_recorded_answers_are_called_recorded() -> None:
    notice = "The model's answers are recorded: a demonstration of the machine, no resolve rate."
    recorded = {"editor": "recorded:/home/me/answers/clock.jsonl"}
    page = report(run_of(ledger=Ledger(recorded=42), models=recorded), [result()], seconds=1)
    assert notice in words(page)
    assert "nothing was paid" in page
    assert "recorded answers (clock.jsonl)" in page
    assert "/home/me" not in page
    mixed = report(run_of(ledger=Ledger(recorded=42, calls=1, cost=0.5)), [result()], seconds=1)
    assert notice not in words(mixed)
    assert "42; they cost nothing" in mixed


def test_what_it_took_says_what_is_not_known() -> None:
    ledger = Ledger(calls=1200, input=10_000, cached=7_500, output=300, cost=1.25, unknown=3, possibly_billed=2)
    text = words(report(run_of(ledger=ledger), [result()], seconds=1, notes=["a note for the reader"]))
    assert "1,200: 10,000 input tokens (75 % of them cached), 300 output tokens" in text
    assert "$1.2500, without 3 calls at a price that nobody knows · of a budget of $2.50" in text
    assert "2 calls on the way when a process was killed" in text
    assert "a note for the reader" in text
    assert "openai/gpt-5 (editor); openai/gpt-5-mini (verifier)" in text
    unknown = words(report(run_of(ledger=Ledger(calls=3, unknown=3)), [result()], seconds=1))
    assert "unknown: nobody knows the price of these calls" in unknown
    assert "$0.0000" not in unknown


def test_a_patch_is_read_by_its_counts_and_not_by_how_lines_look() -> None:
    [file] = files(PATCH)
    assert (file.path, file.added, file.deleted) == ("src/clock.py", 3, 2)
    assert [(line.kind, line.old, line.new) for line in file.lines if line.kind in ("add", "del", "same")] == [
        ("same", 10, 10),
        ("del", 11, None),
        ("del", 12, None),
        ("add", None, 11),
        ("add", None, 12),
        ("add", None, 13),
        ("same", 13, 14),
    ]
    renamed = b"diff --git a/old.py b/new name.py\nsimilarity index 100%\nrename from old.py\nrename to new name.py\n"
    gone = b"diff --git a/x.py b/x.py\n--- a/x.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x = 1\n\\ No newline at end of file\n"
    assert [(file.path, file.deleted) for file in files(renamed + gone)] == [("new name.py", 0), ("x.py", 1)]
    assert files(b"") == []
    plain = b"--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-x\n+y\n--- a/z.py\n+++ b/z.py\n@@ -1 +1 @@\n-x\n+y\n"
    assert [(file.path, file.added) for file in files(plain)] == [("x.py", 1), ("z.py", 1)]
    miscounted = files(PATCH.replace(b"+10,5", b"+10,9") + gone)
    assert [(file.path, file.added) for file in miscounted] == [("src/clock.py", 3), ("x.py", 0)]
    assert files(b"no diff at all\n")[0].lines[0].kind == "meta"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain\ttext\nnext", "plain\ttext\nnext"),
        ("\r\n", "␍\n"),
        ("a\u200bb\ufeff\u00ad", "a⟨U+200B⟩b⟨U+FEFF⟩⟨U+00AD⟩"),
        ("\x00\x7f\x9b", "⟨U+0000⟩⟨U+007F⟩⟨U+009B⟩"),
        ("\u2028\u3164\U000e0041\U000e0100", "⟨U+2028⟩⟨U+3164⟩⟨U+E0041⟩⟨U+E0100⟩"),
        ("Grüße, 世界, שלום", "Grüße, 世界, שלום"),
    ],
)
def test_what_does_not_show_is_made_visible(text: str, seen: str) -> None:
    assert shown(text) == seen


def test_a_reason_in_one_sentence() -> None:
    assert sentence("It keeps\n 23 valid. The other does not.") == "It keeps 23 valid."
    assert sentence("Both read e.g. 23:00 the same way. So") == "Both read e.g. 23:00 the same way."
    assert sentence("x" * 300, 10) == "x" * 9 + "…"
    assert [duration(2.04), duration(59.9), duration(3661)] == ["2.0 s", "1 min 00 s", "1 h 01 min"]
