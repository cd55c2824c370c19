"""`runoff elect` without a model over other agents' patches on SWE-bench rows, really executed; then every rule by their labels.

    election --repositories DIR [--repo django/django …] [--sample N] [--seed S] [--out DIR] [--set NAME=VALUE …]

Rows are those of RUNOFF_SHARED (default ../shared) that have an environment; `--repositories` holds their git directories
(DIR/owner+name/repo). They are taken in an order drawn by a seed from the sorted ids, before anything is looked at, a dozen at
a time: where the command is stopped, what is done is a sample. It goes on there. Labels are read by `runoff replay
--labels`, when all is decided.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runoff.batch.sources import versioned_by_tags

SHARED = Path(os.environ.get("RUNOFF_SHARED", "../shared"))
PATCHES = SHARED / "data" / "patches.jsonl.gz"
TESTS = {"django/django": "python tests/runtests.py --parallel 1 --verbosity 0"}
"""How the projects run their own tests, by their own documents; where nothing is said, pytest."""
PYTEST = {"sympy/sympy": "pytest<8"}
"""What their environments lack for it."""
AT_ONCE = 12
"""Instances in one run: each holds its tree in memory, and its layers on disk."""


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
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for runoff elect")
    parser.add_argument("--states", type=Path, default=Path.home() / ".cache" / "runoff" / "states")
    options = parser.parse_args()
    rows = {row["instance_id"]: row for row in _lines(SHARED / "data" / "instances.jsonl.gz") if row.get("environment")}
    names = sorted(name for name, row in rows.items() if not options.repo or row["repo"] in options.repo)
    random.Random(options.seed).shuffle(names)
    names = names[: options.sample]
    runs = []
    for start in range(0, len(names), AT_ONCE):
        run = options.out / f"{start:03}"
        code = elected({name: rows[name] for name in names[start : start + AT_ONCE]}, run, options)
        if code not in (0, 1, 5):
            return code
        runs.append(run / "run")
    runoff = [sys.executable, "-c", "from runoff.cli import main; main()"]
    return subprocess.run([*runoff, "replay", *runs, "--labels", PATCHES], check=False).returncode


def elected(rows: Mapping[str, Mapping[str, Any]], out: Path, options: argparse.Namespace) -> int:
    """One run of `runoff elect`, in `out`; its exit code."""
    if (decided := out / "decided").exists():
        return 0
    out.mkdir(parents=True, exist_ok=True)
    trees = {
        name: source(row, options.repositories.resolve(), options.out / "sources" / name) for name, row in rows.items()
    }
    problems, predictions = out / "problems.jsonl", out / "predictions.jsonl"
    _write(problems, [problem(row, trees[name].resolve()) for name, row in rows.items()])
    told = ("instance_id", "agent", "patch")
    _write(predictions, [{key: row[key] for key in told} for row in _lines(PATCHES) if row["instance_id"] in rows])
    runoff = [sys.executable, "-c", "from runoff.cli import main; main()"]
    states = options.states / out.name
    given = ["--problems", problems, "--states", states, "--out", out / "run"]
    given += [word for setting in options.set for word in ("--set", setting)]
    code = subprocess.run([*runoff, "elect", predictions, *given], check=False).returncode
    if code in (0, 1, 5):
        decided.touch()
        subprocess.Popen(["rm", "-rf", states])  # some 60,000 names an instance: the next part does not wait for it
    return code


def source(row: Mapping[str, Any], repositories: Path, tree: Path) -> Path:
    """A repository whose HEAD is the row's base commit: with its history where that tells the version, else without."""
    if tree.is_dir():
        return tree
    mirror = repositories / row["repo"].replace("/", "+") / "repo"
    whole = versioned_by_tags(mirror, row["base_commit"])
    made = tree.with_name(tree.name + ".part")
    shutil.rmtree(made, ignore_errors=True)
    if whole:
        subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", mirror, made], check=True)
        subprocess.run(["git", "-C", made, "checkout", "-q", "--detach", row["base_commit"]], check=True)
    else:
        subprocess.run(["git", "init", "-q", made], check=True)
        fetch = ["fetch", "-q", "--depth", "1", f"file://{mirror}", row["base_commit"]]
        subprocess.run(["git", "-C", made, "-c", "protocol.file.allow=always", *fetch], check=True)
        subprocess.run(["git", "-C", made, "checkout", "-q", "--detach", "FETCH_HEAD"], check=True)
    return made.rename(tree)


def _lines(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
