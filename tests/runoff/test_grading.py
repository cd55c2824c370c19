"""Grading: right patches resolve and no others do, by both graders; it goes on after a kill; what is not there is one line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runoff.agent.editing import Candidate
from runoff.agent.log import Log
from runoff.batch.sources import Where
from runoff.datasets import load
from runoff.grading import records, results
from runoff.grading.__main__ import grade
from runoff.grading.protocol import GRADES, Grade
from runoff.grading.request import Request, Submission
from runoff.measure import read_labels
from runoff.recipe import Recipe
from runoff.releases import pairs as releases
from runoff.run import sealed
from runoff.selection.elect import EVIDENCE
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Entry
from tests.runoff.project import runoff
from tests.runoff.test_image_environments import packed, python, repository
from tests.sandbox.imagefiles import Layout, layer, tools

_ROOT = layer(
    ("root", None), ("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n"), ("etc/group", b"root:x:0:\n"), ("proc", None)
)
_PROGRAMS = "bash env git patch tail sed grep sleep true kill".split()
SOURCE = "def mean(values):\n    return sum(values) / len(values)\n"
RUNNER = '''"""Runs the functions of test_mean.py and says of each how it ended, as pytest -rA does."""
import sys
import importlib

try:
    importlib.import_module("conftest")
except ImportError:
    pass
module, failed = importlib.import_module("test_mean"), False
for name in sorted(vars(module)):
    if name.startswith("test_"):
        try:
            getattr(module, name)()
        except Exception as error:
            failed = True
            print("FAILED test_mean.py::" + name, "-", type(error).__name__)
        else:
            print("PASSED test_mean.py::" + name)
sys.exit(failed)
'''
TESTS = "from numbers_ import mean\n\n\ndef test_some():\n    assert mean([1, 2, 3]) == 2\n"
MORE = "\n\ndef test_none():\n    assert mean([]) == 0\n"
FILES = {"numbers_.py": SOURCE, "run_tests.py": RUNNER, "test_mean.py": TESTS, "README": "x\n"}
IDS = ("test_mean.py::test_none", "test_mean.py::test_some")


def diff(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    from tests.workshop import written

    return written(old, new).decode()


TEST_PATCH = diff(FILES, {"test_mean.py": TESTS + MORE})
RIGHT = diff(FILES, {"numbers_.py": SOURCE.replace("len(values)\n", "len(values) if values else 0\n")})
ELSEWHERE = RIGHT.replace("@@ -1,2 +1,2 @@", "@@ -7,2 +7,2 @@").replace(" def mean(values):", " def  mean(values):")
PASSES = "".join(f"print('PASSED {name}')\n" for name in IDS)
PATCHES = {
    "right": RIGHT,
    "wrong": diff(FILES, {"numbers_.py": SOURCE.replace("len(values)\n", "(len(values) or 1) + 1\n")}),
    "half": diff(FILES, {"numbers_.py": SOURCE.replace("len(values)\n", "1 if not values else 0\n")}),
    "nowhere": RIGHT.replace("-    return sum(values)", "-    return min(values)"),
    "elsewhere": ELSEWHERE,  # only the program `patch` takes it
    "tests": RIGHT + diff(FILES, {"test_mean.py": "def test_some():\n    raise SystemExit(0)\n"}),
    "says so and fails": diff(FILES, {"conftest.py": f"import os\n{PASSES}os.sys.stdout.flush()\nos._exit(1)\n"}),
    "says so": diff(FILES, {"conftest.py": f"import os\n{PASSES}os.sys.stdout.flush()\nos._exit(0)\n"}),
    "says nothing": diff(FILES, {"conftest.py": "import os\nos._exit(0)\n"}),
    "loops": diff(FILES, {"numbers_.py": "import time\n\n\ndef mean(values):\n    time.sleep(60)\n"}),
    "no patch": "this is no patch\n",
    "empty": "",
}
FOOLED = {"says so"}
"""What fools the harness: whoever runs in the tests' own process can lie. It is said that this patch could."""


def image(folder: Path) -> Layout:
    """SWE-bench's layout, as small as it gets; it is gone as soon as it is told to go."""
    tree = repository(folder / "tree", FILES)
    layers = [tools(*_PROGRAMS), python("opt/miniconda3/envs/testbed"), packed(tree, "testbed"), _ROOT]
    path = "PATH=/opt/miniconda3/envs/testbed/bin:/usr/local/bin:/usr/bin:/bin"
    how = {"Entrypoint": [], "StopSignal": "SIGKILL", "WorkingDir": "/testbed"}
    return Layout(folder / "image", layers, env=[path], compress="", config=how)


def row(name: str, where: str, **more: object) -> dict[str, object]:
    return {
        "instance_id": name,
        "repo": "made/here",
        "version": "1",
        "base_commit": "HEAD",
        "problem_statement": "mean([]) crashes",
        "image": where,
        "patch": RIGHT,
        "test_patch": TEST_PATCH,
        "test_command": "python run_tests.py",
        "log_parser": "parse_log_pytest",
        "FAIL_TO_PASS": [IDS[0]],
        "PASS_TO_PASS": [IDS[1]],
    } | more


def lines(file: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def prediction(name: str, patch: str, model: str = "m") -> dict[str, object]:
    return {"instance_id": name, "model_name_or_path": model, "model_patch": patch}


def named(text: str) -> str:
    return f"made__here-{re.sub('[^a-z]', '', text)}"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return image(tmp_path_factory.mktemp("layout"))


def asked(folder: Path, states: Path, rows: Sequence[Mapping[str, object]], **patches: str) -> Request:
    """Each patch is the model's of its name, for the first row."""
    dataset = lines(folder / "rows.jsonl", rows)
    first = str(rows[0]["instance_id"])
    return Request(
        reference=str(dataset),
        problems=tuple(load.problems(str(dataset))),
        submissions=tuple(
            Submission(instance_id=first, model=model, patch=patch)
            for model, patch in patches.items()  # type: ignore[arg-type]
        ),
        graders=("fast",),
        out=folder / "out",
        states=states,
        where=Where(cache=folder / "sources"),
        jobs=2,
    )


def found(folder: Path) -> dict[str, Grade]:
    return {grade.model: grade for grade in records.read(folder)[0].values()}


# --- both graders


@pytest.fixture(scope="module")
def both(
    layout: Layout, states: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.CompletedProcess[str], Path]]:
    """Every patch graded by both, each as an instance of its own: the harness takes one an instance in a run."""
    folder, name = tmp_path_factory.mktemp("both"), f"sweb.eval.x86_64.made__here-{os.getpid()}:latest"
    copy = ["skopeo", "copy", "--quiet", layout.reference, f"docker-daemon:{name}"]
    subprocess.run(copy, check=True)
    try:
        rows = lines(folder / "rows.jsonl", [row(named(what), name) for what in PATCHES])
        submitted = lines(folder / "preds.jsonl", [prediction(named(what), patch) for what, patch in PATCHES.items()])
        labels = lines(
            folder / "labels.jsonl",
            [
                {"instance_id": named(what), "agent": "m", "resolved": what != "wrong"}
                for what in ("right", "wrong", "half")
            ],
        )
        command = ["eval", submitted, "--dataset", rows, "--grader", "both", "--labels", labels, "--timeout", "8"]
        yield runoff(*command, "-j", "3", "--out", folder / "out", "--states", states), folder / "out"
    finally:
        subprocess.run(["docker", "rmi", "--force", name], check=False, capture_output=True)


@pytest.mark.needs_docker
def test_right_patches_resolve_and_no_others_and_both_graders_agree_on_every_test(
    both: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, out = both
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"0 of {len(PATCHES)} verdicts differ, 0 of {2 * len(PATCHES) - 2} test results differ" in done.stdout, (
        done.stdout + done.stderr
    )
    grades, damaged = records.read(out)
    assert not damaged
    right = {grade.instance_id for grade in grades.values() if grade.resolved and grade.grader == "fast"}
    assert right == {named(what) for what in {"right", "elsewhere", "tests"} | FOOLED}
    of = {grade.instance_id: grade for grade in grades.values() if grade.grader == "fast"}
    assert (
        of[named("half")].tests == {IDS[0]: "PASSED", IDS[1]: "FAILED"} or of[named("half")].tests[IDS[1]] == "FAILED"
    )
    assert of[named("nowhere")].why.startswith("does not apply")
    assert of[named("no patch")].why.startswith("does not apply")
    assert of[named("loops")].why.startswith("the tests timed out after 8 s")
    assert of[named("empty")].why.startswith("empty")
    assert of[named("says so")].why.startswith("it brings conftest.py")


@pytest.mark.needs_docker
def test_what_it_comes_to_is_said_and_written_as_the_harness_writes_it(
    both: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, out = both
    assert f"m  fast: 4 resolved of {len(PATCHES)} submitted, 33.3% [" in done.stdout
    assert "labels: 4 of 6 agree" in done.stdout
    assert done.stdout.count(f"label differs: {named('half')} m: labelled resolved, ") == 2
    ours = json.loads((out / "results-m-fast.json").read_text())
    theirs = _reported_by_the_package(out / "harness", tmp_path, monkeypatch)
    assert theirs.keys() == ours.keys()
    empty = {named("empty")}  # we did not even show it to the harness
    for name, value in theirs.items():
        if name.endswith("_ids"):
            assert set(value) - empty == set(ours[name]) - empty, name
    assert ours["empty_patch_ids"] == [*empty]
    assert not list((out / "harness").glob("rows.jsonl")), "it is full of answers"


def _reported_by_the_package(folder: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `swebench eval` wrote at its end: made again, since it fails if another's container goes meanwhile."""
    from swebench.harness.reporting import make_run_report

    monkeypatch.chdir(folder)
    predictions = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    by_instance = {one["instance_id"]: one for one in predictions}
    (run,) = (folder / "logs" / "run_evaluation").iterdir()
    rows = [{"instance_id": named(what)} for what in PATCHES]
    return json.loads(make_run_report(by_instance, rows, run.name, None, str(into)).read_text())  # type: ignore[no-any-return]


# --- fast


def test_release_pairs_hidden_checks_decide(states: Path, tmp_path: Path) -> None:
    name = "xmltodict-0.12.0"
    good, bad = ((releases.answer(name) / f"{which}.diff").read_text() for which in ("good", "bad1"))
    submitted = [prediction(name, good, "good"), prediction(name, bad, "bad"), prediction(name, "", "none")]
    preds = lines(tmp_path / "preds.jsonl", submitted)
    done = runoff("eval", preds, "--dataset", "releases", "--out", tmp_path / "out", "--states", states)
    assert done.returncode == 0, done.stderr
    assert {model: grade.resolved for model, grade in found(tmp_path / "out").items()} == {
        "good": True,
        "bad": False,
        "none": False,
    }


def test_after_a_kill_it_goes_on_and_grades_nothing_twice(layout: Layout, states: Path, tmp_path: Path) -> None:
    slow = {f"m{n}": diff(FILES, {"numbers_.py": f"import time\n\ntime.sleep(0.{4 + n})\n{SOURCE}"}) for n in range(5)}
    rows = lines(tmp_path / "rows.jsonl", [row("made__here-1", layout.reference)])
    submitted = [prediction("made__here-1", patch, model) for model, patch in slow.items()]
    preds, out = lines(tmp_path / "preds.jsonl", submitted), tmp_path / "out"
    command = ["eval", preds, "--dataset", rows, "--out", out, "--states", states, "-j", "1"]
    argv = [sys.executable, "-c", "from runoff.cli import main; main()", *map(str, command)]
    with (tmp_path / "said").open("w") as said:
        first = subprocess.Popen(argv, stderr=said, stdout=said)
        began = time.monotonic()
        while not (out / GRADES).exists() or b"\n" not in (out / GRADES).read_bytes():
            assert time.monotonic() < began + 60, (tmp_path / "said").read_text()
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)  # the process that grades dies with it
        first.wait()
    before = (out / GRADES).read_bytes()
    with (out / GRADES).open("ab") as file:
        file.write(b'{"instance_id": "made__here-1", "gra')  # as a power cut leaves it
    done = runoff(*command)
    assert done.returncode == 0, done.stderr
    after = (out / GRADES).read_bytes()
    assert after.startswith(before)
    assert len(before.splitlines()) < len(slow)
    assert after.count(b'"resolved"') == len(slow), "none is graded twice"


def test_what_could_not_be_told_is_no_verdict_and_is_tried_again(states: Path, tmp_path: Path) -> None:
    where = f"oci:{tmp_path / 'later' / 'image'}:image"
    request = asked(tmp_path, states, [row("made__here-1", where)], m=RIGHT)
    assert asyncio.run(grade(request)) == 1
    untold = found(tmp_path / "out")["m"]
    assert untold.resolved is None
    assert untold.why.startswith("no environment:")
    image(tmp_path / "later")
    assert asyncio.run(grade(request)) == 0
    assert found(tmp_path / "out")["m"].resolved is True


def test_an_environment_of_our_making_in_which_the_rows_own_patch_fails_says_nothing_of_others_that_do(
    states: Path, tmp_path: Path
) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=repository(tmp_path / "repos" / "made__here", FILES),
        capture_output=True,
        text=True,
    ).stdout.strip()
    own = {"image": None, "base_commit": commit, "environment": {"python": "3.11", "pip_packages": [], "install": ""}}
    rows = [row("made__here-1", "", **own | {"patch": PATCHES["wrong"]}), row("made__here-2", "", **own)]
    where = Where(repositories=tmp_path / "repos", images="never", cache=tmp_path / "sources")
    request = asked(tmp_path, states, rows, right=RIGHT, half=PATCHES["half"]).model_copy(update={"where": where})
    more = tuple(one.model_copy(update={"instance_id": "made__here-2"}) for one in request.submissions)
    request = request.model_copy(update={"submissions": request.submissions + more})
    assert asyncio.run(grade(request)) == 1
    said = {(one.instance_id, one.model): one for one in records.read(tmp_path / "out")[0].values()}
    assert {key: one.resolved for key, one in said.items()} == {
        ("made__here-1", "right"): True,
        ("made__here-1", "half"): None,
        ("made__here-2", "right"): True,
        ("made__here-2", "half"): False,
    }
    assert "the row's own patch is not resolved in this environment, either: 1 of 1 FAIL_TO_PASS fail" in (
        said["made__here-1", "half"].why
    )


def test_a_patch_that_is_on_record_is_not_graded_for_another_name(
    layout: Layout, states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(tmp_path, states, [row("made__here-1", layout.reference)], one=RIGHT, other=RIGHT)
    assert asyncio.run(grade(request.model_copy(update={"submissions": request.submissions[:1]}))) == 0
    monkeypatch.setattr("runoff.grading.fast.prepare", None)
    assert asyncio.run(grade(request)) == 0
    assert {model: one.resolved for model, one in found(tmp_path / "out").items()} == {"one": True, "other": True}


def test_every_candidate_of_a_run_is_graded_each_patch_once_and_the_grades_are_labels(
    layout: Layout, states: Path, tmp_path: Path
) -> None:
    name, run = "made__here-1", tmp_path / "run"
    wrong = PATCHES["wrong"].encode()
    entries = (
        Entry(id="1", candidate=Candidate(id="1", patch=wrong), proposers=("1", "3"), changed_lines=2),
        Entry(id="2", candidate=Candidate(id="2", patch=RIGHT.encode()), proposers=("2",), changed_lines=2),
    )
    evidence = Evidence(entries=entries, rejected={"4": "does not apply"}).model_dump(mode="json")

    async def write() -> None:
        log = Log(run / "log" / f"{name}.jsonl")
        what = {"kind": "once", "t": "selection", "path": f"{EVIDENCE}x", "request": {}, "result": evidence}
        await log.append(what, sync=True)
        await log.close()

    asyncio.run(write())
    said = Recipe().model_dump(mode="json", exclude_none=True)
    (run / "run.toml").write_bytes(sealed({"source": {name: "x"}, "model": {"editor": "m"}, "recipe": said}))
    lines(run / "preds.jsonl", [prediction(name, PATCHES["wrong"], "runoff")])
    rows = lines(tmp_path / "rows.jsonl", [row(name, layout.reference)])
    done = runoff("eval", run, "--dataset", rows, "--candidates", "--states", states)
    assert done.returncode == 0, done.stderr
    assert "runoff  fast: 0 resolved of 1 submitted" in done.stdout
    assert "any candidate right, fast: 1 of 1 instances" in done.stdout
    labels = read_labels(run / GRADES)
    assert labels == {(name, ""): False, (name, "1"): False, (name, "2"): True, (name, "3"): False}
    assert json.loads((run / "results.json").read_text())["unresolved_ids"] == [name]
    assert {grade.gold_files for grade in records.read(run)[0].values()} == {("numbers_.py",)}
    assert done.stderr.count("not resolved") == 1, "the same patch is graded once"


def test_bad_input_is_one_line(layout: Layout, tmp_path: Path) -> None:
    rows = lines(tmp_path / "rows.jsonl", [row("made__here-1", "nowhere/made__here-1:latest")])
    bare = lines(tmp_path / "bare.jsonl", [{k: v for k, v in row("made__here-1", "x").items() if "PASS" not in k}])
    preds = lines(tmp_path / "preds.jsonl", [prediction("made__here-1", RIGHT)])
    other = lines(tmp_path / "other.jsonl", [prediction("another", RIGHT)])
    nowhere = {"DOCKER_HOST": "unix:///nowhere.sock"}
    cases: list[tuple[list[Any], dict[str, str], int, str]] = [
        ([other, "--dataset", rows], {}, 2, "no patch in .*other.jsonl is for an instance of"),
        ([preds, "--dataset", bare], {}, 2, "no FAIL_TO_PASS"),
        ([preds, "--dataset", rows, "--candidates"], {}, 2, "--candidates are those of a run"),
        ([preds, "--dataset", rows, "--grader", "harness"], nowhere, 3, "no Docker engine answers"),
    ]
    for arguments, env, code, said in cases:
        done = runoff("eval", *arguments, "--out", tmp_path / "out", "--states", tmp_path / "states", env=env)
        assert done.returncode == code, done.stderr
        assert re.search(f"^runoff: .*{said}", done.stderr), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.needs_docker
def test_the_harness_says_how_to_get_an_image_that_is_not_there(tmp_path: Path) -> None:
    rows = lines(tmp_path / "rows.jsonl", [row("made__here-1", "nowhere/made__here-1:latest")])
    preds = lines(tmp_path / "preds.jsonl", [prediction("made__here-1", RIGHT)])
    done = runoff("eval", preds, "--dataset", rows, "--grader", "harness", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert "docker pull nowhere/made__here-1:latest" in done.stderr


# --- records


def test_damaged_lines_are_known(tmp_path: Path) -> None:
    made = [Grade(instance_id=f"i{n}", grader="fast", resolved=n % 2 == 0, tests={"t": "PASSED"}) for n in range(20)]
    with records.writing(tmp_path) as kept:
        for one in made:
            kept.append(one)
    whole = (tmp_path / GRADES).read_bytes()
    assert [one.model_copy(update={"check": ""}) for one in records.read(tmp_path)[0].values()] == made
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (tmp_path / GRADES).write_bytes(flipped)
        grades, damaged = records.read(tmp_path)
        assert damaged, whole[max(0, place - 20) : place + 20]
        assert all(one.model_copy(update={"check": ""}) in made for one in grades.values())
    with records.writing(tmp_path):
        pass
    assert records.read(tmp_path) == (grades, 0), "what is damaged is set aside"


def test_of_two_grades_the_last_counts_and_the_graders_are_compared_test_by_test() -> None:
    fast = Grade(instance_id="i", grader="fast", patch="p", resolved=True, tests={"a": "PASSED", "b": "PASSED"})
    theirs = fast.model_copy(update={"grader": "harness", "tests": {"a": "PASSED", "b": "XFAIL"}})
    found = results.compared({records.key(one): one for one in (fast, theirs)})
    assert (found.patches, found.tests) == (1, 2)
    assert [one.tests for one in found.differences] == [{"b": ("PASSED", "XFAIL")}]
    assert not found.differences[0].verdict
