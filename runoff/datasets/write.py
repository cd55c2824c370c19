"""The process that writes problems with their answers as task folders: `python -m runoff.datasets.write`.

Standard input: {"format", "folder", "dataset", "ids", "answers", "base"} as JSON. Written are release pairs, and for the swebench
harness rows that name an image and an eval script. Exit code 2 with one line where one cannot be.
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

from runoff.datasets import answers, dockerfiles, harbor, hidden, images
from runoff.datasets.protocol import Answer, BadDataset, Problem
from runoff.releases import pairs as releases
from runoff.sandbox.protocol import REPO

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
    if not problem.release:
        raise BadDataset(f"{problem.id} cannot be written: only release pairs are, as Harbor task directories")
    one = releases.pair(problem.release)
    name, text = hidden.check(one)
    about = {
        "schema_version": "1.4",
        "task": {
            "name": f"runoff/{problem.id}",
            "version": "1.0.0",
            "description": problem.statement.splitlines()[0].lstrip("# "),
            "keywords": ["bug", one.registry],
        },
        "metadata": {"project": one.project, "release": one.version},
        "verifier": {"timeout_sec": answer.seconds},
        "agent": {"timeout_sec": 3600.0},
        "environment": {"build_timeout_sec": 1800.0, "workdir": REPO},
    }
    test = f"""#!/bin/bash
# The reward is 1 where the hidden check passes, 0 where it does not.
mkdir -p {harbor.REWARD.rpartition("/")[0]}
if ({hidden.run(name, f"/tests/{name}")}); then reward=1; else reward=0; fi
echo "$reward" >{harbor.REWARD}
"""
    solve = f"#!/bin/bash\nset -euo pipefail\ncd {REPO}\ngit apply /solution/good.diff\n"
    return {
        "task.toml": tomli_w.dumps(about),
        "instruction.md": f"{problem.statement.rstrip()}\n\nThe repository is in `{REPO}`. Change it so that this is resolved.\n",
        **{f"environment/{path}": file for path, file in dockerfiles.files(one, base).items()},
        "tests/test.sh": test,
        f"tests/{name}": text,
        "solution/solve.sh": solve,
        "solution/good.diff": answer.patch,
    }


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
