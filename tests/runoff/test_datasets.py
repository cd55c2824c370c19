"""Datasets: what a person names is read, whatever wrote it; what cannot be read is said in a line; no answer reaches who solves."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.datasets import answers, harbor, images
from runoff.datasets.chosen import chosen
from runoff.datasets.load import problems
from runoff.datasets.protocol import BadDataset
from tests.runoff.memory import SECRET, holds
from tests.runoff.project import runoff

IDS = ["astropy__astropy-12907", "django__django-10914", "django__django-11490", "sympy__sympy-20590"]


def row(name: str = "psf__requests-1142", **more: Any) -> dict[str, Any]:
    """A row as SWE-bench has had them before version 5, each answer of it with the secret."""
    return {
        "instance_id": name,
        "repo": "psf/requests",
        "base_commit": "22623bd8c265b78b161542663ee980738441c307",
        "problem_statement": "requests.get is ALWAYS sending content length\n",
        "version": "1.1",
        "created_at": "2013-01-25T05:19:16Z",
        "patch": f"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+{SECRET}\n",
        "test_patch": f"{SECRET} in tests",
        "FAIL_TO_PASS": json.dumps([f"test_{SECRET}"]),
        "PASS_TO_PASS": ["test_a", "test_b"],
        "hints_text": SECRET,
    } | more


def lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


def parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    return file


def whole(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text(json.dumps(list(rows)))
    return file


def by_id(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text(
        json.dumps({one["instance_id"]: {k: v for k, v in one.items() if k != "instance_id"} for one in rows})
    )
    return file


def packed(
    write: Callable[[Path, Sequence[Mapping[str, Any]]], Path], file: Path, rows: Sequence[Mapping[str, Any]]
) -> Path:
    made = write(file, rows)
    target = file.with_name(f"{file.name}.gz")
    target.write_bytes(gzip.compress(made.read_bytes()))
    made.unlink()
    return target


def task(folder: Path, name: str, **more: Any) -> Path:
    """A SWE-bench v5 task folder."""
    place = folder / "tasks" / name
    place.mkdir(parents=True)
    values = {"instance_id": name, "repo": "o/n", "version": 1.2, "base_commit": "abc", "split": "test"}
    values |= {"image": images.published(name), "log_parser": "parse_log_pytest", "eval_type": "pass_and_fail"} | more
    (place / "task.yaml").write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    (place / "problem_statement.md").write_text("It breaks\n")
    (place / "tests.json").write_text(json.dumps({"FAIL_TO_PASS": [SECRET], "PASS_TO_PASS": []}))
    for file in ("gold.patch", "test.patch", "eval.sh"):
        (place / file).write_text(f"{SECRET}\r\n")
    (place / "Dockerfile").write_text("FROM x\n")
    return folder


def harbor_task(
    folder: Path, name: str, config: str = "", dockerfile: str = "FROM x\nWORKDIR /app\nWORKDIR src\n"
) -> Path:
    for inner in ("environment", "tests", "solution"):
        (folder / name / inner).mkdir(parents=True)
    (folder / name / "task.toml").write_text(config)
    (folder / name / "instruction.md").write_text("<!-- CANARY 1234 -->\n\n# It breaks\n")
    (folder / name / "environment" / "Dockerfile").write_text(dockerfile)
    (folder / name / "tests" / "test.sh").write_text(SECRET)
    (folder / name / "solution" / "solve.sh").write_text(SECRET)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "rows.jsonl": lambda place: lines(place / "rows.jsonl", [row(one) for one in IDS]),
    "rows.jsonl.gz": lambda place: packed(lines, place / "rows.jsonl", [row(one) for one in IDS]),
    "rows.json": lambda place: whole(place / "rows.json", [row(one) for one in IDS]),
    "rows.json by id": lambda place: by_id(place / "rows.json", [row(one) for one in IDS]),
    "rows.json.gz": lambda place: packed(whole, place / "rows.json", [row(one) for one in IDS]),
    "rows.parquet": lambda place: parquet(place / "rows.parquet", [row(one) for one in IDS]),
    "rows.parquet.gz": lambda place: packed(parquet, place / "rows.parquet", [row(one) for one in IDS]),
}


@pytest.mark.parametrize("form", WRITERS)
def test_rows_are_read_from_every_kind_of_file(tmp_path: Path, form: str) -> None:
    file = str(WRITERS[form](tmp_path))
    found = problems(file, "django__*,0:1")
    assert [one.id for one in found] == IDS[:3]
    assert found[0].statement.startswith("requests.get is ALWAYS")
    assert found[0].image == "swebench/sweb.eval.x86_64.astropy_1776_astropy-12907:latest", "older rows name none"
    assert found[0].built is None
    told = answers.answer(file, IDS[1])
    assert told.fail_to_pass == (f"test_{SECRET}",), "a list that is text is read"
    assert told.pass_to_pass == ("test_a", "test_b")


def test_rows_of_other_sets_are_mapped(tmp_path: Path) -> None:
    rows = [
        {"id": 17, "issue": "a", "docker_image": "someone/some:1", "repo_name": "o/n", "commit_hash": "abc"},
        {"task_id": "b-2", "instruction": "b", "image_name": "other", "base_commit": "1", "repo": "o/n", "image": None},
        {
            "instance_id": "django__django-1",
            "problem_statement": "c",
            "repo": "django/django",
            "environment": {
                "python": "3.6.15",
                "pip_packages": ["six", "bcrypt<4"],
                "install": None,
                "pythonpath": True,
            },
        },
    ]
    one, two, three = problems(str(lines(tmp_path / "rows.jsonl", rows)))
    assert (one.id, one.statement, one.image, one.repo, one.base_commit) == ("17", "a", "someone/some:1", "o/n", "abc")
    assert (two.id, two.statement, two.image) == ("b-2", "b", "other")
    assert three.image == "", "who says how it is built has it built"
    assert three.built is not None
    assert (three.built.python, three.built.setup) == ("3.6.15", "uv pip install six 'bcrypt<4'")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"instance_id": "a-1"}\n', "line 1: no problem_statement"),
        ('{"instance_id": "a-1", "issue": "x"}\n\n{"issue": "x"}\n', "line 3: no instance_id"),
        ('{"instance_id": "a-1", "issue": 3}\n', "line 1: problem_statement is int, not text"),
        ('{"instance_id": "../a", "issue": "x"}\n', "line 1: instance_id '../a' is no id"),
        ('{"instance_id": "a", "issue": "x"}\n' * 2, "line 2: instance_id a was there already"),
        ('{"instance_id": "a", "issue": "x", "environment": "conda"}\n', "line 1: environment is str"),
        ('{"instance_id": "a", "issue": "x", "environment": {"conda": 1}}\n', "line 1: environment.conda is no field"),
        ('{"instance_id": "a", "issue": "x", "environment": {"python": 3.9}}\n', "line 1: environment.python is float"),
        ('{"instance_id": \n', "line 1: not JSON"),
        ("[1]\n", "line 1: a row is an object"),
        ("", "holds no problem"),
    ],
)
def test_what_cannot_be_read_is_named_with_file_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(BadDataset) as error:
        problems(str(file))
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", b"\xff\xfe{}"),
        ("rows.json", b"3"),
        ("rows.json.gz", b"no gzip"),
        ("rows.jsonl.gz", gzip.compress(b'{"instance_id": "a", "issue": "x"}\n')[:-9]),
        ("rows.parquet", b"PAR1 and no more"),
        ("rows.csv", b"a,b\n"),
    ],
)
def test_files_that_are_none_of_these_get_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    done = runoff("dataset", tmp_path / name)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr


def test_a_name_that_is_none_and_a_folder_without_tasks_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="give one of verified, lite, full, multilingual, multimodal, releases"):
        problems("verfied")
    with pytest.raises(BadDataset, match=r"neither tasks/<id>/task\.yaml .* nor <id>/task\.toml"):
        problems(str(tmp_path))


def test_without_the_package_a_named_dataset_says_how_to_get_it(tmp_path: Path) -> None:
    for name in ("swebench", "datasets"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    done = runoff("dataset", "verified", env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"})
    assert (done.returncode, done.stdout) == (3, "")
    assert "pip install 'runoff[bench]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_offline_a_named_dataset_says_so_in_a_line(tmp_path: Path) -> None:
    done = runoff("dataset", "lite", env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("runoff: cannot bring SWE-bench/SWE-bench_Lite, split test")
    assert len(done.stderr.splitlines()) == 1


def test_task_folders_of_swe_bench_are_read(tmp_path: Path) -> None:
    task(tmp_path, "o__n-1", created_at="2024-01-02T03:04:05Z")
    task(tmp_path, "o__n-2", split="deprecated")
    assert [one.id for one in problems(str(tmp_path))] == ["o__n-1", "o__n-2"]
    (tmp_path / "sweb.yaml").write_text("datasets: [o/n]\nsplits: [test]\n")
    (one,) = problems(str(tmp_path))
    assert (one.id, one.image, one.statement, one.version) == (
        "o__n-1",
        "swebench/sweb.eval.x86_64.o_1776_n-1:latest",
        "It breaks\n",
        "1.2",
    )
    assert problems(str(tmp_path / "tasks" / "o__n-1")) == [one]
    assert answers.answer(str(tmp_path), "o__n-1").patch == f"{SECRET}\r\n", "the ends of its lines stay"
    (tmp_path / "tasks" / "o__n-1" / "problem_statement.md").unlink()
    with pytest.raises(BadDataset, match=r"problem_statement\.md: No such file"):
        problems(str(tmp_path))


def test_what_lies_in_the_working_directory_is_not_taken_for_a_package(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise RuntimeError('the user has one of their own')\n")
    done = runoff("dataset", task(tmp_path / "repo", "o__n-1"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_harbors_task_directories_are_read(tmp_path: Path) -> None:
    harbor_task(tmp_path, "one", '[environment]\ndocker_image = "a/b:1"\n[verifier]\ntimeout_sec = 900\n')
    harbor_task(tmp_path, "two", '[environment]\nworkdir = "/repo"\nos = "Linux"\n')
    one, two = problems(str(tmp_path))
    assert (one.id, one.image, one.workdir, one.statement) == ("one", "a/b:1", "/app/src", "# It breaks\n")
    assert (two.image, two.workdir) == (harbor.image("two"), "/repo")
    assert problems(str(tmp_path / "two")) == [two]
    told = answers.answer(str(tmp_path), "one")
    assert (told.tests, told.seconds) == (str(tmp_path / "one" / "tests"), 900)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('[[steps]]\nname = "a"\n', "steps: a task of several steps"),
        ('[environment]\nos = "windows"\n', "environment.os: Input should be 'linux'"),
        ("[environment\n", "no TOML"),
    ],
)
def test_a_task_directory_that_cannot_be_used_says_why(tmp_path: Path, config: str, said: str) -> None:
    with pytest.raises(BadDataset) as error:
        problems(str(harbor_task(tmp_path, "one", config)))
    assert f"{tmp_path / 'one' / 'task.toml'}: {said}" in str(error.value)


def test_answers_may_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    private = ("patch", "test_patch", "FAIL_TO_PASS", "PASS_TO_PASS", "hints_text")
    public = lines(tmp_path / "rows.jsonl", [{k: v for k, v in row().items() if k not in private}])
    told = lines(tmp_path / "answers.jsonl", [{k: v for k, v in row().items() if k in (*private, "instance_id")}])
    with pytest.raises(BadDataset, match="this is no answer; give the file that holds them with --answers"):
        answers.answer(str(public), "psf__requests-1142")
    assert answers.answer(str(public), "psf__requests-1142", told).pass_to_pass == ("test_a", "test_b")
    with pytest.raises(BadDataset, match="has no answer to psf__requests-2"):
        answers.read(str(public), ["psf__requests-2"], told)


def test_release_pairs_are_a_dataset() -> None:
    found = problems("releases")
    assert len(found) >= 23
    assert all(one.release == one.id and one.built and one.built.setup and not one.image for one in found)
    told = answers.read("releases", ["semver-7.3.4"])["semver-7.3.4"]
    assert told.fail_to_pass == ("hidden_check.js::fixed",)


_SOLVES = """
import os, sys
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and os.fsdecode(arguments[0]).startswith(sys.argv[2]):
        print("opened", os.fsdecode(arguments[0]), flush=True)
sys.addaudithook(watch)
from runoff.datasets.load import problems
import runoff.pipeline, runoff.run, runoff.commands
found = problems(sys.argv[1])
secretive = [f"runoff.datasets.{name}" for name in ("rows", "answers", "hidden", "split")]
secretive = [name for name in secretive if name in sys.modules]
print("ready", len(found), secretive, flush=True)
sys.stdin.read()
"""
_READS = "import sys\nheld = open(sys.argv[1]).read()\nprint('ready', flush=True)\nsys.stdin.read()\n"


def memory_of(script: str, *arguments: object) -> tuple[list[str], bool]:
    """What a process says until it is ready, and whether the secret is anywhere in its memory then."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = list[str]()
        while not (said and said[-1].startswith("ready")):
            line = process.stdout.readline()
            assert line, said
            said.append(line.strip())
        found = holds(process.pid)
        process.communicate()
    return said, found


@pytest.mark.parametrize("form", ["rows", "parquet", "tasks", "harbor"])
def test_no_answer_comes_into_the_memory_of_the_process_that_solves(tmp_path: Path, form: str) -> None:
    """Nor does it open the source: where a problem and its answer lie in one file, another process parts them."""
    make = {
        "rows": lambda: lines(tmp_path / "rows.jsonl", [row(one) for one in IDS]),
        "parquet": lambda: parquet(tmp_path / "rows.parquet", [row(one) for one in IDS]),
        "tasks": lambda: task(tmp_path, "o__n-1"),
        "harbor": lambda: harbor_task(tmp_path, "one"),
    }
    source = make[form]()
    said, found = memory_of(_SOLVES, source, tmp_path)
    assert said == [f"ready {len(problems(str(source)))} []"]
    assert not found


def test_the_search_of_a_processs_memory_can_find(tmp_path: Path) -> None:
    assert memory_of(_READS, lines(tmp_path / "rows.jsonl", [row()]))[1]


def test_a_dataset_without_answers_is_solved_where_they_cannot_be_read(tmp_path: Path) -> None:
    """Of folders nothing is opened that holds one, by the process that parts them either."""
    task(tmp_path, "o__n-1")
    harbor_task(tmp_path / "harbor", "one")
    for held in ("eval.sh", "gold.patch", "test.patch", "tests.json"):
        (tmp_path / "tasks" / "o__n-1" / held).unlink()
    for held in ("tests/test.sh", "solution/solve.sh"):
        (tmp_path / "harbor" / "one" / held).unlink()
    assert [one.id for one in problems(str(tmp_path))] == ["o__n-1"]
    assert [one.id for one in problems(str(tmp_path / "harbor"))] == ["one"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, IDS),
        ("sympy__sympy-20590, django__django-10914", [IDS[1], IDS[3]]),
        ("django__*", IDS[1:3]),
        ("0:2", IDS[:2]),
        ("-1:", IDS[3:]),
        ("-1:,*-1149?", IDS[2:]),
    ],
)
def test_instances_are_chosen_in_the_datasets_order(said: str | None, found: list[str]) -> None:
    assert chosen(IDS, said) == found


def test_instances_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("# the two\ndjango__django-11490\n\n0:1  # first\n")
    assert chosen(IDS, f"@{tmp_path / 'ids'}") == [IDS[0], IDS[2]]
    with pytest.raises(BadDataset, match=r"--instances @.*none: No such file"):
        chosen(IDS, f"@{tmp_path / 'none'}")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("django__django-10941", "no instance django__django-10941; near it: django__django-10914"),
        ("Sympy-20590", "near it: sympy__sympy-20590"),
        ("flask", "no instance flask; there are 4"),
        ("flask*", "--instances flask\\* matches none of 4"),
        ("7:", "--instances 7: is empty: the dataset has 4"),
    ],
)
def test_an_instance_that_is_not_there_names_near_ones(said: str, why: str) -> None:
    with pytest.raises(BadDataset, match=why):
        chosen(IDS, said)


@given(st.lists(st.text("abcdefg_-", min_size=1, max_size=6), unique=True, min_size=1), st.data())
def test_any_ids_choose_themselves_once_and_in_order(ids: list[str], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(ids), min_size=1))
    assert chosen(ids, ",".join(some)) == [one for one in ids if one in some]


_WORDS = st.text("abz019-", min_size=1, max_size=6).map(lambda text: f"a{text}b".replace("--", "-"))


@given(st.builds("{}__{}-{}".format, _WORDS, _WORDS, st.integers(1, 99999)))
def test_both_forms_of_an_images_name_lead_to_each_other(name: str) -> None:
    assert images.forms(images.published(name)) == (images.published(name), images.local(name))
    assert images.forms(images.local(name)) == (images.local(name), images.published(name))
    assert "__" not in images.published(name)


def test_other_images_have_one_name() -> None:
    assert images.forms("docker.io/library/debian:12") == ("docker.io/library/debian:12",)
    assert images.forms("mirror.local:5000/swebench/sweb.eval.x86_64.a_1776_b-1:latest")[1] == images.local("a__b-1")


def test_the_command_lists_and_says_json(tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", [row(one) for one in IDS])
    done = runoff("dataset", file, "--instances", "0:2", "--json")
    assert [one["id"] for one in json.loads(done.stdout)] == IDS[:2]
    assert SECRET not in done.stdout
    listed = runoff("dataset", file).stdout
    assert listed.splitlines()[-1] == "4 problems"
    assert "requests.get is ALWAYS sending content length" in listed
    assert SECRET not in listed
