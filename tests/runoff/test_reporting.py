"""`runoff report`: where each instance is lost, what candidates and stages come to, how runs compare; what damage and malice do to it."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import json
import os
import re
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.faulty import Faulty
from runoff.agent.log import Log
from runoff.agent.protocol import digest
from runoff.grading.protocol import GRADES, Grade
from runoff.reporting import charts
from runoff.reporting.accounts import Took, stage_of
from runoff.reporting.command import report_command
from runoff.reporting.compared import compare, letter
from runoff.reporting.failures import alike
from runoff.reporting.page import page, tokens, write
from runoff.reporting.runs import Report, read_run
from runoff.run import BadRun, sealed, totalled
from runoff.selection.estimators import outcomes, scores
from tests.runoff.project import EDIT, WORSE, make, runoff
from tests.runoff.stored import Made, broken, copied, store
from tests.runoff.test_report import HOSTILE, Page
from tests.runoff.test_solve import differing, solve

TRUTH = {
    "a-resolved": Made([True, True, None], alone=True),
    "b-not-selected": Made([False, True, True], alone=True),
    "c-no-right": Made([False, False, False]),
    "d-missed": Made([False, None, False], sees=False),
    "e-nothing": Made([None, None, None]),
    "f-infrastructure": Made([], failed="building the environment failed: no space left on device"),
    "g-seen-by-luck": Made([True, True, True], sees=False),
}
FATES = {
    "a-resolved": "resolved",
    "b-not-selected": "not selected",
    "c-no-right": "no right candidate",
    "d-missed": "files missed",
    "e-nothing": "no candidate",
    "f-infrastructure": "infrastructure",
    "g-seen-by-luck": "resolved",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of known truth; to be copied by whoever changes it."""
    return store(tmp_path_factory.mktemp("kept") / "run", TRUTH)


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def read(run: Path) -> Report:
    return read_run(run, "A", None)


def fates(report: Report) -> dict[str, str]:
    return {case.instance: case.fate for case in report.cases}


def regrade(run: Path, change: Any) -> None:
    """Each grade as `change` gives it; None: it is not there."""
    lines = [Grade.model_validate_json(line) for line in (run / GRADES).read_text().splitlines()]
    (run / GRADES).write_text("".join(new.model_dump_json() + "\n" for line in lines if (new := change(line))))


def test_each_instance_is_lost_at_one_place(kept: Path) -> None:
    report = read(kept)
    assert fates(report) == FATES
    assert sum(report.fates.values()) == len(TRUTH)
    assert (report.resolved, report.known) == (2, 6), "what could not be worked on is no verdict"
    assert report.low is not None
    assert report.high is not None
    assert 0 < report.low < 2 / 6 < report.high < 1
    by_name = {case.instance: case for case in report.cases}
    assert by_name["d-missed"].missed == ("src/core.py",)
    assert by_name["b-not-selected"].right == 2


def test_the_waterfall_is_the_estimators(kept: Path) -> None:
    """On what has candidates, the fates are what `outcomes.waterfall` makes of the truth."""
    report = read(kept)
    issues, lost = [], []
    for case in report.cases:
        rights = {str(n): right for n, right in enumerate(TRUTH[case.instance].rights, 1) if right is not None}
        if rights:
            chosen = (case.chosen or "").rpartition("-")[2]
            submitted = (chosen,) if chosen else ()
            issues.append(outcomes.Graded(issue=case.instance, right=rights, submitted=submitted))
            lost += [] if TRUTH[case.instance].sees else [case.instance]
    expected = outcomes.waterfall(issues, lost)
    found = report.fates
    assert (expected.files_missed, expected.no_right_candidate) == (found["files missed"], found["no right candidate"])
    assert (expected.not_selected, expected.resolved) == (found["not selected"], found["resolved"])


def test_what_nobody_graded_is_not_called_lost(run: Path) -> None:
    regrade(run, lambda grade: None)
    nothing = read(run)
    assert set(fates(nothing).values()) == {"not graded", "infrastructure"}
    assert nothing.share is None
    assert nothing.pool is nothing.curve is None
    assert "Nothing is graded" in Page(page(compare([run], None))).text


def test_where_only_what_was_submitted_is_graded_the_others_may_have_been_right(kept: Path, run: Path) -> None:
    regrade(run, lambda grade: None if grade.candidate else grade)
    report = read(run)
    assert fates(report)["a-resolved"] == "resolved"
    assert fates(report)["b-not-selected"] == "not known"
    assert fates(report)["e-nothing"] == "no candidate"
    assert report.resolved == read(kept).resolved


def test_a_grade_of_another_patch_is_no_grade_of_this_one(run: Path) -> None:
    old = digest("another patch")
    regrade(run, lambda grade: None if grade.candidate else grade.model_copy(update={"patch": grade.patch and old}))
    report = read(run)
    assert fates(report)["a-resolved"] == "not graded"
    assert any("what is graded is not what is submitted" in note for note in report.notes)


def test_the_harness_is_believed_and_the_difference_shown(run: Path) -> None:
    grades = (run / GRADES).read_text()

    def contradicted(grade: Grade) -> Grade:
        wrong = grade.instance_id == "a-resolved" and not grade.candidate
        return grade.model_copy(update={"grader": "harness", "resolved": grade.resolved and not wrong})

    regrade(run, contradicted)
    with (run / GRADES).open("a") as file:
        file.write(grades)
    report = read(run)
    (one,) = report.disagreements
    assert (one.instance, one.fast, one.harness) == ("a-resolved", True, False)
    assert any("disagree on 1" in note for note in report.notes)


def test_a_grade_that_could_not_be_told_is_no_verdict(run: Path) -> None:
    def untold(grade: Grade) -> Grade:
        return (
            grade.model_copy(update={"resolved": None, "why": "the engine died"})
            if grade.instance_id[0] == "c"
            else grade
        )

    regrade(run, untold)
    report = read(run)
    assert fates(report)["c-no-right"] == "not graded"
    assert [one.what for one in report.clusters if one.kind == "could not be graded"] == ["the engine died"]


def test_labels_stand_in_place_of_grades(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"instance_id": name, "agent": str(n), "resolved": bool(right)}
        for name, made in TRUTH.items()
        for n, right in enumerate(made.rights, 1)
        if name < "d"
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    regrade(run, lambda grade: grade.model_copy(update={"resolved": False}))
    assert report_command([run], labels, None, True) == 0
    (said,) = json.loads(capsys.readouterr().out)["runs"]
    found = {case["instance"]: case["fate"] for case in said["cases"]}
    assert {name: fate for name, fate in found.items() if name < "d"} == {n: f for n, f in FATES.items() if n < "d"}
    assert found["e-nothing"] == "not graded", "labels may be of some instances only"


def test_what_it_took_is_the_ledgers_by_run_by_stage_and_by_unit(kept: Path) -> None:
    report = read(kept)
    lines = [line for file in (kept / "log").glob("*.jsonl") for line in Log(file).ledger]
    whole = totalled(lines)
    assert report.took.calls.model_dump() == pytest.approx(whole.model_dump())
    assert report.took.asking == pytest.approx(sum(line["seconds"] for line in lines))
    for parts in (report.stages.values(), [case.took for case in report.cases]):
        total = sum(parts, Took())
        assert total.calls.model_dump() == pytest.approx(whole.model_dump())
        assert (total.executions, total.stopped) == (report.took.executions, report.took.stopped)
    executions = [one for file in (kept / "log").glob("*.jsonl") for one in Log(file).executions.values()]
    assert report.took.executions == len(executions)
    assert report.took.executing == pytest.approx(sum(one["seconds"] for one in executions))
    assert list(report.stages) == ["relevance", "ranking", "testing", "editing", "votes", "verifier", "run-off"]
    dearest = [unit.took.calls.cost for unit in report.dearest]
    assert dearest == sorted(dearest, reverse=True)
    assert dearest[0] == max(unit.took.calls.cost for unit in report.dearest)
    assert report.stages["votes"].calls.calls == 0, "cells of the table ask nobody"


@pytest.mark.parametrize(
    ("name", "path", "stage"),
    [
        ("context", "ranking2/ranking-again", "ranking"),
        ("verdict.2@a1b2c3-editing-4", "verdict1/ask", "verifier"),
        ("compare-editing-1+editing-2", "", "verifier"),
        ("run-off-editing-1+editing-2:3", "", "run-off"),
        ("challenge-editing-1", "", "further tests"),
        ("something new", "", "other"),
    ],
)
def test_the_stage_of_a_trajectory_is_told_by_its_name(name: str, path: str, stage: str) -> None:
    assert stage_of(name, path) == stage


def test_curves_are_the_estimators_and_never_above_coverage(kept: Path) -> None:
    report = read(kept)
    assert report.curve
    assert report.curve.instances == 6
    truth = [[bool(right) for right in made.rights] for made in TRUTH.values() if not made.failed]
    for point in report.curve.points:
        assert point.coverage == pytest.approx(scores.coverage(truth, point.k)), "who made nothing is not right"
        assert point.best <= point.coverage + 1e-9
    assert report.curve.points[0].best == pytest.approx(report.curve.points[0].coverage), "of one there is no choice"
    assert report.pool
    assert report.pool.contested == 1
    assert (report.pool.picked, report.pool.oracle) == (0, 3 / 5)


def test_flips_are_of_what_both_runs_know(kept: Path, tmp_path: Path) -> None:
    better = store(
        tmp_path / "better", {"c-no-right": Made([True] * 3), "a-resolved": TRUTH["c-no-right"], "z": Made([True])}
    )
    compared = compare([kept, better], None)
    (flip,) = compared.flips
    assert (flip.flips.gained, flip.flips.lost) == (("c-no-right",), ("a-resolved",))
    assert (flip.instances, flip.left_out, flip.p) == (2, 6, 1.0)


def test_runs_worth_their_cost_are_on_the_front(tmp_path: Path) -> None:
    good, bad = {"x": Made([True, True])}, {"x": Made([False, False])}
    made = [("cheap", good, 1.0), ("dear", good, 9.0), ("free-and-wrong", bad, 0.01)]
    runs = [store(tmp_path / name, truth, price=price) for name, truth, price in made]
    compared = compare(runs, None)
    assert compared.front == ("C", "A"), "B costs more than A, and resolves no more"
    drawn = charts.front(compared)
    assert drawn
    assert [mark.letter for mark in drawn.marks] == ["A", "B", "C"]


def test_failures_that_read_alike_are_one(run: Path) -> None:
    why = "{} of /srv/models/{}/weights.bin answered 503 after {} tries, request 7f3a9c21{}"
    for n, name in enumerate(("a-resolved", "c-no-right")):
        asyncio.run(broken(run / "log" / f"{name}.jsonl", name, why.format(n + 3, n, n + 7, n)))
    report = read(run)
    found = {(one.kind, one.what): one for one in report.clusters}
    (server,) = (one for (kind, what), one in found.items() if kind == "infrastructure" and "answered" in what)
    assert (server.count, server.instances, server.example) == (2, 2, "a-resolved editing-99")
    assert ("infrastructure", "building the environment failed: no space left on device") in found
    assert found["no result", "editing: turns used up: no edit that could be made"].count == 5
    assert found["graded wrong", "N of N tests fail"].count == sum(
        '"resolved":false' in line and "tests fail" in line for line in (run / GRADES).read_text().splitlines()
    )


@given(st.text())
def test_any_failure_has_a_short_name(text: str) -> None:
    name = alike(text)
    assert 0 < len(name) <= 160
    assert "\n" not in name


def test_a_run_under_way_is_read_while_it_writes(run: Path) -> None:
    shutil.rmtree(run / "views")
    name = run / "log" / "c-no-right.jsonl"
    lines = name.read_bytes().splitlines(keepends=True)
    asked = next(n for n, line in enumerate(lines) if b'"editing-2"' in line and b'"ask"' in line)
    name.write_bytes(b"".join(lines[:asked]) + lines[asked][:30])
    (run / "log" / "d-missed.jsonl").unlink()
    log = Log(name)  # somebody has it locked
    try:
        report = read(run)
    finally:
        log._kept.close()
    assert fates(report)["c-no-right"] == "unfinished"
    assert fates(report)["d-missed"] == "unfinished"
    assert fates(report)["a-resolved"] == "resolved", "its end is in its log"
    case = next(case for case in report.cases if case.instance == "c-no-right")
    assert case.possibly_billed == 1
    assert case.damaged == 1


def test_damage_is_said_and_the_rest_still_read(run: Path) -> None:
    log = run / "log" / "a-resolved.jsonl"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    view = run / "views" / "b-not-selected" / "selection.json"
    view.write_text(view.read_text()[:100])
    grades = (run / GRADES).read_bytes()
    (run / GRADES).write_bytes(b"{damaged\n" + grades + b'{"instance_id": "torn')
    report = read(run)
    assert fates(report) == FATES
    assert any("1 damaged pieces of logs" in note for note in report.notes)
    assert any("1 damaged lines of grades.jsonl" in note for note in report.notes)


def test_a_run_of_before_models_times_were_kept_says_so(run: Path) -> None:
    for log in (run / "log").glob("*.jsonl"):
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            record.pop("crc")
            record.pop("seconds", None)
        log.unlink()

        async def write(log: Path = log, records: list[dict[str, Any]] = records) -> None:
            again = Log(log)
            for record in records:
                again.append(record)
            await again.close()

        asyncio.run(write())
    report = read(run)
    assert fates(report) == FATES
    assert report.took.asking is None
    assert any("before it was recorded how long models take" in note for note in report.notes)


@pytest.mark.parametrize("said", [None, b"= no TOML", b"", sealed({"source": 3, "recipe": {}, "model": {}})])
def test_what_is_no_run_is_refused_by_its_name(said: bytes | None, tmp_path: Path) -> None:
    if said is not None:
        (tmp_path / "run.toml").write_bytes(said)
    with pytest.raises(BadRun, match=re.escape(str(tmp_path))):
        read(tmp_path)


def test_a_user_is_told_in_one_line(tmp_path: Path) -> None:
    done = runoff("report", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert str(tmp_path) in done.stderr


def test_a_run_is_not_compared_with_itself(kept: Path) -> None:
    with pytest.raises(BadRun, match="twice"):
        compare([kept, kept / "." / ""], None)


def test_nothing_hostile_reaches_the_page_or_a_spreadsheet(run: Path, tmp_path: Path) -> None:
    place = run.rename(tmp_path / "=1+1 <script>alert(1)<")
    regrade(place, lambda grade: grade.model_copy(update={"why": HOSTILE}))
    asyncio.run(broken(place / "log" / "a-resolved.jsonl", "a-resolved", HOSTILE))
    compared = compare([place, store(tmp_path / "other", {"a-resolved": Made([True])})], None)
    whole = page(compared)
    shown = Page(whole)
    assert not {"script", "img", "iframe", "object", "link"} & {tag for tag, _ in shown.elements}
    assert not [name for _, said in shown.elements for name in said if name.startswith("on")]
    assert "⟨U+202E⟩" in shown.text
    assert "\x1b" not in whole
    assert "\u202e" not in whole
    assert "{{ N*N }}" in shown.text, "what looks like a template is text"
    outside = [value for _, said in shown.elements for name, value in said.items() if name in ("src", "href")]
    assert all(value and value.startswith("#") for value in outside), "nothing is loaded from anywhere"
    for file in write(tmp_path / "out", compared):
        if file.suffix == ".csv":
            rows = list(csv.reader(io.StringIO(file.read_text())))
            assert len({len(row) for row in rows}) == 1
            assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]


def test_the_command_writes_all_forms_of_the_same_figures(run: Path, tmp_path: Path) -> None:
    done = runoff("report", run)
    assert done.returncode == 0, done.stderr
    assert "2 of 6 resolved" in done.stdout
    said = json.loads((run / "report" / "report.json").read_text())
    assert json.loads(runoff("report", run, "--json").stdout) == said
    (one,) = csv.DictReader((run / "report" / "runs.csv").open())
    assert (one["resolved"], one["known"], one["no candidate"]) == ("2", "6", "1")
    instances = list(csv.DictReader((run / "report" / "instances.csv").open()))
    assert {row["instance"]: row["fate"] for row in instances} == FATES
    stages = list(csv.DictReader((run / "report" / "stages.csv").open()))
    assert sum(float(row["dollars"]) for row in stages) == pytest.approx(said["runs"][0]["took"]["calls"]["cost"])
    text = Page((run / "report" / "report.html").read_text()).text
    assert "2 of 6" in text
    assert "runoff report" not in done.stderr


def test_a_real_run_is_read_as_it_was_billed(tmp_path: Path, states: Path) -> None:
    """Written by `runoff solve` with a real sandbox and a model behind a socket: records, views and times as they really are."""
    target, out = make(tmp_path / "project"), tmp_path / "out"
    edits: Iterator[str] = itertools.chain([WORSE], itertools.repeat(EDIT))
    with Faulty(answer=differing(edits)) as server:
        done = solve(server, target, out, states, "-n", "2", "--price", "1,2")
        assert done.returncode == 0, done.stderr
        billed = sum(used.input + used.output for used in server.billed)
        asked = len(server.billed)
    report = read(out)
    assert (report.took.calls.calls, report.took.calls.input + report.took.calls.output) == (asked, billed)
    assert {"relevance", "ranking", "testing", "editing", "votes", "verifier"} <= report.stages.keys()
    assert report.took.asking is not None
    assert report.took.asking > 0
    assert all(report.stages[stage].executions for stage in ("testing", "editing", "votes"))
    assert report.took.executions == len(Log(out / "log" / "project.jsonl").executions)
    (case,) = report.cases
    assert (case.status, case.fate, case.members) == ("patch", "not graded", 2)
    (patch,) = (json.loads(line)["model_patch"] for line in (out / "preds.jsonl").read_text().splitlines())
    grade = Grade(instance_id="project", patch=digest(patch), grader="fast", resolved=True, gold_files=("numbers_.py",))
    (out / GRADES).write_text(grade.model_dump_json() + "\n")
    assert read(out).resolved == 1, "what is submitted is what was graded"


def timed(run: Path) -> float:
    """Processor seconds of reading it and writing the report."""
    began = time.process_time()
    page(compare([run], None))
    return time.process_time() - began


def many(folder: Path, instances: int, trajectories: int = 10) -> Path:
    """A run of so many instances, of four kinds."""
    kinds = {
        f"{n}": Made([(n + k) % 3 == 0 or k % 4 == n for k in range(trajectories)], alone=n % 2 == 0) for n in range(4)
    }
    run = store(folder, kinds)
    for n in range(4):
        copied(run, f"{n}", [f"{n}-{k}" for k in range(instances // 4 - 1)])
    return run


def test_time_grows_as_the_run_does(tmp_path: Path) -> None:
    run = many(tmp_path / "run", 40, 3)
    few = min(timed(run) for _ in range(3))
    copied(run, "0", [f"more-{n}" for n in range(120)])
    lots = min(timed(run) for _ in range(2))
    assert lots / few < 8, "four times as many instances"


@pytest.mark.full
def test_five_hundred_instances_of_ten_trajectories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = many(tmp_path / "run", 500)
    size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    seconds = timed(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with capsys.disabled():
        print(
            f"\nreport over 500 × 10 trajectories, {size / 1e6:.0f} MB: {seconds:.1f} s of CPU, {peak:.0f} MiB at most"
        )
    assert seconds < 15


def test_letters_go_on_after_the_alphabet() -> None:
    assert [letter(n) for n in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0"), (999, "999"), (1234, "1.23 k"), (999_999, "1000 k"), (4_030_000, "4.03 M")]
)
def test_tokens_are_said_with_three_digits(n: int, said: str) -> None:
    assert tokens(n) == said


@given(st.floats(1e-6, 1e6))
def test_steps_of_an_axis_are_few_and_reach_the_end(most: float) -> None:
    steps = charts.nice(most)
    assert steps[0] == 0
    assert steps[-1] >= most * (1 - 1e-9)
    assert 3 <= len(steps) <= 9


@given(st.lists(st.floats(14, 300), min_size=1, max_size=18))
def test_labels_do_not_lie_on_each_other(ends: list[float]) -> None:
    lines = charts._parted([charts.Line("", 0, "best", (), end, end, "") for end in ends], 14, 300)
    heights = sorted(line.label for line in lines)
    assert all(after - before >= 15 - 1e-6 for before, after in itertools.pairwise(heights))
    assert heights[-1] <= 300 + 1e-6


def test_the_instances_of_a_run_are_listed_and_one_with_its_trajectories(kept: Path) -> None:
    done = runoff("show", kept)
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert [row.split()[0] for row in rows] == sorted(TRUTH)
    assert heading.split()[:3] == ["instance", "ended", "of"]
    one = runoff("show", kept, "c-*").stdout
    assert "a-resolved" not in one
    assert "no right candidate" in one
    assert "editing-2" in one, "of one alone, its trajectories"
    (said,) = json.loads(runoff("show", kept, "c-no-right", "--json").stdout)
    log = Log(kept / "log" / "c-no-right.jsonl")
    assert {unit["name"] for unit in said["units"]} == {*log.ended, "votes"}
    assert sum(unit["took"]["calls"]["cost"] for unit in said["units"]) == pytest.approx(said["took"]["calls"]["cost"])
    none = runoff("show", kept, "zzz")
    assert (none.returncode, len(none.stderr.splitlines())) == (2, 1)


def test_the_runs_below_a_directory_are_listed_with_their_state(kept: Path, tmp_path: Path) -> None:
    """Running is whose logs a process has locked; damaged is what nobody has set aside yet."""
    names = ("ended", "running", "stopped", "flipped", "mended", "no-toml")
    places = {name: Path(shutil.copytree(kept, tmp_path / "runs" / "deeper" / name)) for name in names}
    for place in places.values():
        view = place / "views" / "f-infrastructure" / "selection.json"
        view.write_text(view.read_text().replace('"failed"', '"none"'))
    (places["stopped"] / "views" / "a-resolved" / "selection.json").unlink()
    for name in ("flipped", "mended"):
        log = places[name] / "log" / "a-resolved.jsonl"
        data = bytearray(log.read_bytes())
        data[len(data) // 2] ^= 1
        log.write_bytes(data)
    asyncio.run(Log(places["mended"] / "log" / "a-resolved.jsonl").close())
    (places["no-toml"] / "run.toml").write_bytes(b"\xff")
    running = Log(places["running"] / "log" / "a-resolved.jsonl")
    try:
        done = runoff("ls", tmp_path, "--json")
    finally:
        asyncio.run(running.close())
    found = {Path(one["path"]).name: one for one in json.loads(done.stdout)}
    states = {name: one["state"] for name, one in found.items()}
    assert states == dict(zip(names, ("ended", "running", "stopped", "damaged", "ended", "damaged"), strict=True))
    assert found["running"]["what"] == f"process {os.getpid()}"
    assert (found["stopped"]["ended"], found["stopped"]["instances"]) == (6, 7)
    text = runoff("ls", tmp_path).stdout
    assert "damaged (1 piece of logs)" in text
    assert "6 of 7" in text
    assert runoff("ls", tmp_path / "nowhere").returncode == 2
