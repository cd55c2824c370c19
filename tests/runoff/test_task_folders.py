"""Release pairs written as task folders: SWE-bench's own harness and Harbor's own runner take them, and grade as the pairs do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.datasets import answers, judge
from runoff.datasets.load import problems
from runoff.datasets.protocol import BadDataset
from runoff.releases import pairs as releases
from runoff.sandbox.environments.interpreters import find_python
from tests.runoff.project import runoff

IN_CI = "xmltodict-0.12.0"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pairs as SWE-bench's folders and as Harbor's."""
    place = tmp_path_factory.mktemp("tasks")
    for form in ("swebench", "harbor"):
        done = runoff("dataset", "releases", "--write", form, place / form)
        assert done.returncode == 0, done.stderr
    return place


def test_the_packages_own_check_finds_nothing_wrong_with_the_folders(folders: Path) -> None:
    from swebench.task.checks import check_task_repo
    from swebench.task.repo import load_task_repo

    assert [str(one) for one in check_task_repo(folders / "swebench")] == []
    rows = {row["instance_id"]: row for row in load_task_repo(folders / "swebench")}
    told = answers.read("releases")
    assert set(rows) == set(told)
    for name, row in rows.items():
        assert (row["patch"], row["test_patch"]) == (told[name].patch, told[name].test_patch)


@pytest.mark.parametrize("form", ["swebench", "harbor"])
def test_what_is_written_is_read_again(folders: Path, form: str) -> None:
    before, after = problems("releases"), problems(str(folders / form))
    assert [one.id for one in after] == [one.id for one in before]
    for was, now in zip(before, after, strict=True):
        assert was.statement.strip() in now.statement
        assert now.workdir == "/testbed"
        assert now.image
        assert now.base_commit == "", "what the image has"


def test_what_is_written_names_no_host(folders: Path) -> None:
    """Sources come from the registries that pip and npm are configured with."""
    for file in folders.rglob("*"):
        if file.name in ("Dockerfile", "setup.sh", "activate", "task.yaml", "task.toml", "test.sh", "solve.sh"):
            assert not re.search(r"https?:|\w\.(org|com|net|io)\b", file.read_text()), file


def test_statement_and_image_show_nothing_of_the_answer(folders: Path) -> None:
    for one in releases.pairs():
        (check,) = releases.answer(one.id).glob("check.*")
        told = {
            line.strip() for file in (check, check.with_name("good.diff")) for line in file.read_text().splitlines()
        }
        told = {line.lstrip("+- ") for line in told if len(line) > 40 and not line.startswith(" ")}
        seen = [
            folders / "harbor" / one.id / "instruction.md",
            *(folders / "harbor" / one.id / "environment").iterdir(),
        ]
        for file in seen:
            assert not told & {line.strip() for line in file.read_text().splitlines()}, file


def test_what_cannot_be_written_is_said_before_anything_is(tmp_path: Path) -> None:
    row = {"instance_id": "a__b-1", "issue": "x", "FAIL_TO_PASS": ["t"], "patch": "", "environment": {"python": "3.9"}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    done = runoff("dataset", tmp_path / "rows.jsonl", "--write", "swebench", tmp_path / "out")
    assert done.returncode == 2
    assert "a__b-1 cannot be written: it is no release pair, and has no image" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadDataset):
        problems(str(tmp_path / "out"))


def test_rows_with_an_image_and_a_script_are_written_for_the_harness(tmp_path: Path) -> None:
    from swebench.task.repo import load_task_repo

    row = {"instance_id": "a__b-1", "problem_statement": "x", "repo": "a/b", "base_commit": "1", "version": "2"}
    row |= {"image": "someone/some:1", "FAIL_TO_PASS": '["t"]', "PASS_TO_PASS": "[]", "patch": "p", "test_patch": "t"}
    row |= {"eval_script": "echo\n", "log_parser": "parse_log_pytest"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert runoff("dataset", tmp_path / "rows.jsonl", "--write", "swebench", tmp_path / "out").returncode == 0
    (made,) = load_task_repo(tmp_path / "out")
    assert {name: made[name] for name in row if name != "FAIL_TO_PASS" and name != "PASS_TO_PASS"} == {
        name: value for name, value in row.items() if name != "FAIL_TO_PASS" and name != "PASS_TO_PASS"
    }
    assert (made["FAIL_TO_PASS"], made["PASS_TO_PASS"]) == (["t"], [])


_LINES = st.tuples(
    st.sampled_from(["PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "+ PASSED", "collected"]),
    st.sampled_from(["t::a", "t::b", "t::c[x", "t::c[x-1]", "t::c[x-2]", "[3]", ""]),
    st.sampled_from(["", " - assert 1", " [100%]"]),
).map(lambda words: f"{words[0]} {words[1]}{words[2]}")


@given(
    st.lists(_LINES, max_size=8),
    st.lists(_LINES, max_size=2),
    st.sampled_from([None, 0, 1]),
    st.lists(st.sampled_from(["t::a", "t::c[x", "t::c[x-1]"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["t::b", "t::c[x-2]"]), unique=True),
)
def test_the_judge_of_a_harbor_task_says_what_the_harness_says(
    inside: list[str], outside: list[str], code: int | None, fail: list[str], keep: list[str]
) -> None:
    from swebench.harness.grading import get_eval_report
    from swebench.types import TestSpec

    told = [] if code is None else [f"{judge.CODE}: {code}"]
    output = "\n".join([*outside, judge.START, *inside, judge.END, *told, ""])
    spec = TestSpec("i", "x", [], "r", "1", fail, keep, log_parser="parse_log_pytest", eval_type="pass_and_fail")
    with tempfile.NamedTemporaryFile("w") as log:
        log.write(output)
        log.flush()
        report = get_eval_report(spec, {"instance_id": "i", "model_patch": "p"}, log.name, False)
    assert judge.resolved(output, {"FAIL_TO_PASS": fail, "PASS_TO_PASS": keep}) == report["i"]["resolved"]


def test_a_row_with_an_image_is_written_for_harbor_and_judged(tmp_path: Path) -> None:
    """Its script and its judge run here as they would in the container; only /tests and /testbed are elsewhere."""
    script = "#!/bin/bash\necho '>>>>> Start Test Output'\ncat $SAYS\necho '>>>>> End Test Output'\n"
    row = {
        "instance_id": "a__b-1",
        "problem_statement": "x",
        "image": "someone/some:1",
        "log_parser": "parse_log_pytest",
    }
    row |= {
        "eval_script": script,
        "FAIL_TO_PASS": '["t::a"]',
        "PASS_TO_PASS": '["t::b"]',
        "patch": "p",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    done = runoff("dataset", tmp_path / "rows.jsonl", "--write", "harbor", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "out" / "a__b-1"
    assert (made / "environment" / "Dockerfile").read_text().startswith("FROM someone/some:1\n")
    test = (made / "tests" / "test.sh").read_text().replace("/tests/", f"{made}/tests/")
    test = test.replace("/logs/verifier", f"{tmp_path}/logs").replace("/tmp/output", f"{tmp_path}/output")
    for says, reward in (("PASSED t::a\nPASSED t::b\n", "1"), ("PASSED t::a\nFAILED t::b\n", "0"), ("", "0")):
        (tmp_path / "says").write_text(says)
        subprocess.run(["bash", "-c", test], env=os.environ | {"SAYS": str(tmp_path / "says")}, check=True)
        assert (tmp_path / "logs" / "reward.txt").read_text().strip() == reward
    row["log_parser"] = "parse_log_django"
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    refused = runoff("dataset", tmp_path / "rows.jsonl", "--write", "harbor", tmp_path / "other")
    assert (refused.returncode, "whose output parse_log_pytest reads" in refused.stderr) == (2, True)


def test_an_image_that_cannot_be_built_is_named_with_what_its_commands_said(tmp_path: Path) -> None:
    done = runoff("dataset", Path(__file__), "--build")
    assert done.returncode == 2
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text("#!/bin/sh\necho 'Step 1/2 : RUN pip' >&2\necho 'no such release' >&2\nexit 1\n")
    docker.chmod(0o755)
    assert runoff("dataset", "releases", "--instances", IN_CI, "--write", "swebench", tmp_path / "t").returncode == 0
    done = runoff("dataset", tmp_path / "t", "--build", env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    assert done.returncode == 5
    assert done.stderr.strip() == f"{IN_CI}: docker build {tmp_path / 't' / 'tasks' / IN_CI} failed: no such release"


def harness(place: Path, tasks: Path, patches: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], bool | None]:
    """What `swebench eval` says of patches, by (pair, name); None where it does not say. One run of it, on Docker."""
    from swebench.task.repo import load_task_repo

    rows = {row["instance_id"]: row for row in load_task_repo(tasks)}
    (place / "rows.jsonl").write_text(
        "".join(json.dumps(rows[pair] | {"instance_id": f"{pair}.{name}"}) + "\n" for pair, name in patches)
    )
    (place / "preds.jsonl").write_text(
        "".join(
            json.dumps({"instance_id": f"{pair}.{name}", "model_name_or_path": "m", "model_patch": patch}) + "\n"
            for (pair, name), patch in patches.items()
        )
    )
    command = [str(Path(sys.executable).with_name("swebench")), "eval", "rows.jsonl", "-p", "preds.jsonl", "-j", "2"]
    done = subprocess.run([*command, "--run-id", "tasks"], cwd=place, capture_output=True, text=True, check=False)
    (report,) = place.glob("m.tasks.json")
    said = json.loads(report.read_text())
    assert not said["error_ids"], done.stdout[-3000:]
    found = dict.fromkeys(patches) | {key: True for key in patches if ".".join(key) in said["resolved_ids"]}
    return found | {key: False for key in patches if ".".join(key) in said["unresolved_ids"] + said["empty_patch_ids"]}


def patches_of(pair: str) -> dict[tuple[str, str], str]:
    found = {(pair, file.stem): file.read_bytes().decode() for file in releases.answer(pair).glob("*.diff")}
    return found | {(pair, "empty"): "", (pair, "beside"): _BESIDE}


_BESIDE = "diff --git a/a_note b/a_note\nnew file mode 100644\n--- /dev/null\n+++ b/a_note\n@@ -0,0 +1 @@\n+nothing\n"
"""A patch that changes nothing of what is wrong."""


def built(folder: Path, instances: str) -> None:
    root = Path(__file__).parents[2]
    subprocess.run([root / "scripts" / "base-image"], check=True, capture_output=True)
    done = runoff("dataset", folder, "--instances", instances, "--build", timeout=3600)
    assert done.returncode == 0, done.stderr


@pytest.mark.full  # making the base image takes minutes; test_grading has a run of the harness
@pytest.mark.needs_docker
def test_the_real_harness_resolves_the_right_patch_and_no_other(folders: Path, tmp_path: Path) -> None:
    built(folders / "swebench", IN_CI)
    said = harness(tmp_path, folders / "swebench", patches_of(IN_CI))
    assert said == {key: key[1] == "good" for key in said}


@pytest.mark.full
@pytest.mark.needs_docker
def test_the_real_harness_agrees_on_all_pairs(folders: Path, tmp_path: Path) -> None:
    built(folders / "swebench", "0:")
    said = harness(
        tmp_path,
        folders / "swebench",
        {key: text for one in releases.pairs() for key, text in patches_of(one.id).items()},
    )
    wrong = {key: verdict for key, verdict in said.items() if verdict != (key[1] == "good")}
    print(f"\n{len(said)} patches of {len(releases.pairs())} pairs graded by the harness; other than said: {wrong}")
    assert not wrong


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Harbor's own runner in an environment of its own (its package needs a newer Python), and the variables it is run with."""
    place = Path(os.environ.get("RUNOFF_CACHE", "/var/cache/runoff")) / "harbor"
    if not (place / "bin" / "harbor").exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", find_python("3.12").path, place], check=True)
        subprocess.run([*uv, "pip", "install", "-q", "--python", place, "harbor==0.26.0"], check=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HARBOR_TELEMETRY": "0"}
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        assert shutil.which("docker-compose"), "Harbor runs docker compose; as root: apt-get install docker-compose"
        config = tmp_path_factory.mktemp("docker")
        (config / "cli-plugins").mkdir()
        (config / "cli-plugins" / "docker-compose").symlink_to(Path(__file__).with_name("compose.py"))
        env["DOCKER_CONFIG"] = str(config)
    return place / "bin" / "harbor", env


@pytest.mark.full
def test_harbors_own_models_take_every_task(folders: Path, runner: tuple[Path, dict[str, str]]) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom harbor.models.task.task import Task\n"
        "for place in sorted(Path(sys.argv[1]).iterdir()):\n    assert Task.is_valid_dir(place), place\n"
        "    task = Task(place)\n    print(task.name, task.config.environment.workdir)\n"
    )
    python = runner[0].with_name("python")
    done = subprocess.run([python, "-c", script, folders / "harbor"], env=runner[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for one in releases.pairs() for word in (f"runoff/{one.id}", "/testbed")]


@pytest.mark.full
@pytest.mark.needs_docker
@pytest.mark.parametrize(("agent", "reward"), [("oracle", 1.0), ("nop", 0.0)])
def test_harbors_own_runner_rewards_the_solution_and_nothing_else(
    folders: Path, runner: tuple[Path, dict[str, str]], tmp_path: Path, agent: str, reward: float
) -> None:
    subprocess.run([Path(__file__).parents[2] / "scripts" / "base-image"], check=True, capture_output=True)
    tried = [one.id for one in releases.pairs()]
    harbor, env = runner
    command = [
        harbor,
        "run",
        "--path",
        folders / "harbor",
        "--agent",
        agent,
        "--jobs-dir",
        tmp_path / "jobs",
        "-n",
        "1",
        "-y",
    ]
    done = subprocess.run([*command, "--quiet"], env=env, capture_output=True, text=True, check=False)
    rewards = {
        file.parents[1].name.rpartition("__")[0]: float(file.read_text())
        for file in (tmp_path / "jobs").glob("*/*/verifier/reward.txt")
    }
    assert rewards == dict.fromkeys(tried, reward), done.stdout[-3000:]
