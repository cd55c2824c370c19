"""The process that writes problems with their answers as task folders: `python -m runoff.datasets.write`.

Standard input: {"format", "folder", "dataset", "problems", "answers", "base"} as JSON. Written are release pairs, and rows that name
an image and an eval script. Exit code 2 with one line where one cannot be.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from runoff.datasets import answers, dockerfiles, harbor, hidden, images, judge
from runoff.datasets.protocol import Answer, BadDataset, Problem
from runoff.releases import pairs as releases

_NAME = "runoff/releases"


def swebench(problem: Problem, answer: Answer, base: str) -> dict[str, str]:
    """The files of tasks/<id>/, as swebench.task.repo reads them."""
    if problem.release:
        built = dockerfiles.files(releases.pair(problem.release), base)
    elif problem.image and answer.eval_script:
        built = {"Dockerfile": f"FROM {problem.image}\nSTOPSIGNAL SIGKILL\n"}
    else:
        raise BadDataset(
            f"{problem.id} cannot be written: it is no release pair, and has {'no eval script' if problem.image else 'no image'}"
        )
    about = {
        "instance_id": problem.id,
        "repo": problem.repo,
        "version": problem.version,
        "base_commit": problem.base_commit or "HEAD",
        "created_at": problem.created_at,
        "split": "test",
        "datasets": [_NAME],
        "image": problem.image if not problem.release else images.published(problem.id),
        "log_parser": answer.log_parser,
        "eval_type": answer.eval_type,
    }
    tests = {"FAIL_TO_PASS": list(answer.fail_to_pass), "PASS_TO_PASS": list(answer.pass_to_pass)}
    return {
        **built,
        "task.yaml": _yaml(about),
        "tests.json": json.dumps(tests, indent=2, ensure_ascii=False) + "\n",
        "problem_statement.md": problem.statement,
        "gold.patch": answer.patch,
        "test.patch": answer.test_patch,
        "eval.sh": answer.eval_script,
    }


def harbor_task(problem: Problem, answer: Answer, base: str) -> dict[str, str]:
    """The files of a Harbor task directory."""
    if problem.release:
        one = releases.pair(problem.release)
        name, text = hidden.check(one)
        known = {"project": one.project, "release": one.version}
        environment = dockerfiles.files(one, base)
        tests, run = {name: text}, hidden.run(name, f"/tests/{name}")
    elif problem.image and answer.eval_script and answer.log_parser == hidden.PARSER:
        known = {"repo": problem.repo, "base_commit": problem.base_commit}
        environment = {"Dockerfile": f"FROM {problem.image}\nSTOPSIGNAL SIGKILL\n"}
        named = {"FAIL_TO_PASS": answer.fail_to_pass, "PASS_TO_PASS": answer.pass_to_pass}
        text = Path(judge.__file__).read_text()
        tests = {"eval.sh": _with_exit_code(answer.eval_script), "tests.json": json.dumps(named), "judge.py": text}
        run = "bash /tests/eval.sh >/tmp/output 2>&1; python3 /tests/judge.py /tmp/output /tests/tests.json"
    else:
        raise BadDataset(
            f"{problem.id} cannot be written for Harbor: it is no release pair, and not a row with an image and a script whose "
            f"output {hidden.PARSER} reads"
        )
    about = {
        "schema_version": "1.4",
        "task": {
            "name": f"runoff/{problem.id}",
            "version": "1.0.0",
            "description": problem.statement.splitlines()[0].lstrip("# "),
            "keywords": ["bug"],
        },
        "metadata": known,
        "verifier": {"timeout_sec": answer.seconds},
        "agent": {"timeout_sec": 3600.0},
        "environment": {"build_timeout_sec": 1800.0, "workdir": problem.workdir},
    }
    test = f"""#!/bin/bash
# The reward is 1 where the tests pass that must, else 0.
mkdir -p {harbor.REWARD.rpartition("/")[0]}
if ({run}); then reward=1; else reward=0; fi
echo "$reward" >{harbor.REWARD}
"""
    where = f"The repository is in `{problem.workdir}`. Change it so that this is resolved."
    solve = f"#!/bin/bash\nset -euo pipefail\ncd {problem.workdir}\ngit apply /solution/good.diff\n"
    return {
        "task.toml": tomli_w.dumps(about),
        "instruction.md": f"{problem.statement.rstrip()}\n\n{where}\n",
        **{f"environment/{path}": file for path, file in environment.items()},
        "tests/test.sh": test,
        **{f"tests/{path}": file for path, file in tests.items()},
        "solution/solve.sh": solve,
        "solution/good.diff": answer.patch,
    }


def _with_exit_code(script: str) -> str:
    """With the lines by which the harness tells the tests' own exit code, which `judge` reads."""
    code = f'echo "{judge.CODE}: $SWEBENCH_TEST_EXIT_CODE"'
    lines = script.split("\n")
    end = next((n for n, line in enumerate(lines) if judge.END in line), None)
    if end is None:
        return script
    return "\n".join([*lines[:end], "SWEBENCH_TEST_EXIT_CODE=$?", lines[end], code, *lines[end + 1 :]])


_FORMATS = {"swebench": swebench, "harbor": harbor_task}


def write(request: Mapping[str, Any]) -> None:
    """All tasks or none of a folder that is new or empty, or holds older ones of the same names. Raises BadDataset."""
    folder, form = Path(request["folder"]), request["format"]
    wanted = [Problem.model_validate(one) for one in request["problems"]]
    given = Path(request["answers"]) if request.get("answers") else None
    known = answers.read(request["dataset"], [one.id for one in wanted], given)
    tasks = {one.id: _FORMATS[form](one, known[one.id], request["base"]) for one in wanted}
    inner = folder / "tasks" if form == "swebench" else folder
    inner.mkdir(parents=True, exist_ok=True)
    for name, files in tasks.items():
        with tempfile.TemporaryDirectory(dir=inner, prefix=".") as made:
            for path, text in files.items():
                file = Path(made, "task", path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text.encode())
                file.chmod(0o755 if path.endswith(".sh") else 0o644)
            shutil.rmtree(inner / name, ignore_errors=True)
            Path(made, "task").rename(inner / name)
    if form == "swebench":
        (folder / "sweb.yaml").write_text(_yaml({"datasets": [_NAME], "splits": ["test"]}))


def _yaml(values: Mapping[str, Any]) -> str:
    """JSON's scalars and lists are YAML's."""
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


def main() -> int:
    try:
        write(json.load(sys.stdin))
    except BadDataset as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
