"""`runoff elect` without a model over other agents' patches on SWE-bench rows, really executed; then every rule by their labels.

    election --repositories DIR [--repo django/django …] [--sample N] [--seed S] [--out DIR]

Rows are those of RUNOFF_SHARED (default ../shared) that have an environment; `--repositories` holds their git directories
(DIR/owner+name/repo). A sample is drawn by a seed from the sorted ids, before anything is looked at. The command goes on where
it was stopped. Labels are read by `runoff replay --labels`, when all is decided.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("RUNOFF_SHARED", "../shared"))
TESTS = {"django/django": "python tests/runtests.py --parallel 1 --verbosity 0"}
"""How the projects run their own tests, by their own documents; where nothing is said, pytest."""
PYTEST = {"sympy/sympy": "pytest<8"}
"""What their environments lack for it."""


def problem(row: Mapping[str, Any], tree: Path) -> dict[str, Any]:
    """A line for `--problems`."""
    environment, repository = row["environment"], row["repo"]
    packages = [*(environment["pip_packages"] or ()), *filter(None, [PYTEST.get(repository)])]
    setup = [f"uv pip install {shlex.join(packages)}"] if packages else []
    return {
        "id": row["instance_id"],
        "target": str(tree),
        "issue": row["problem_statement"],
        "ref": row["base_commit"],
        "setup": "\n".join([*setup, *filter(None, [environment["install"]])]),
        "build": "true",
        "test": TESTS.get(repository, "python -m pytest"),
        "python": environment["python"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repo", nargs="*", default=[], metavar="OWNER/NAME")
    parser.add_argument("--sample", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/election"))
    parser.add_argument("--states", type=Path, default=Path.home() / ".cache" / "runoff" / "states")
    options = parser.parse_args()
    rows = {row["instance_id"]: row for row in _lines(SHARED / "data" / "instances.jsonl.gz") if row.get("environment")}
    names = sorted(name for name, row in rows.items() if not options.repo or row["repo"] in options.repo)
    if options.sample and options.sample < len(names):
        names = sorted(random.Random(options.seed).sample(names, options.sample))
    sources = options.out / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    for repository in sorted({rows[name]["repo"] for name in names}):
        tree = sources / repository.replace("/", "+")
        if not tree.is_dir():
            mirror = options.repositories / repository.replace("/", "+") / "repo"
            subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", mirror.resolve(), tree], check=True)
    problems, predictions = options.out / "problems.jsonl", options.out / "predictions.jsonl"
    _write(
        problems, [problem(rows[name], (sources / rows[name]["repo"].replace("/", "+")).resolve()) for name in names]
    )
    patches = SHARED / "data" / "patches.jsonl.gz"
    told = ("instance_id", "agent", "patch")
    _write(predictions, [{key: row[key] for key in told} for row in _lines(patches) if row["instance_id"] in names])
    run = options.out / "run"
    runoff = [sys.executable, "-c", "from runoff.cli import main; main()"]
    given = ["--problems", problems, "--states", options.states, "--out", run]
    done = subprocess.run([*runoff, "elect", predictions, *given], check=False)
    if done.returncode not in (0, 1, 5):
        return done.returncode
    return subprocess.run([*runoff, "replay", run, "--labels", patches], check=False).returncode


def _lines(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
