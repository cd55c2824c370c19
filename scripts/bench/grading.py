"""The fast grader beside the harness, test by test and in time, on SWE-bench rows and other agents' patches; and by their labels.

    grading --repositories DIR [--seed S] [--instances 8] [--patches 9] [--out DIR] [-j N]
    grading --repositories DIR --labels [--seed S] [--stop-after N] [--out DIR] [--states DIR] [-j N]

Rows are those of RUNOFF_SHARED (default ../shared) that have an environment; `--repositories` holds their git directories
(DIR/owner+name/repo). Both draw by the seed from sorted ids, before anything is looked at.

The first builds an image with SWE-bench's layout for each of `--instances` rows (repositories take turns), and grades
`--patches` labelled patches of each by both graders. The second needs no Docker: environments are built, rows are taken in
the drawn order, eighteen in a store of states that is removed after them; stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import grading_images
from election import source

from runoff.grading import records, results

SHARED = Path(os.environ.get("RUNOFF_SHARED", "../shared"))
DATA = SHARED / "data"
AT_ONCE = 18
"""Rows that share a store of states: some 300 MB each, and the packages that they have in common once."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=Path, required=True, metavar="DIR")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--instances", type=int, default=8, metavar="N")
    parser.add_argument("--patches", type=int, default=9, metavar="N")
    parser.add_argument("--stop-after", type=int, metavar="N", help="rows")
    parser.add_argument("--out", type=Path, default=Path("runs/grading"))
    parser.add_argument("--states", type=Path)
    parser.add_argument("-j", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.states = options.states or options.out / "states"
    rows = {row["instance_id"]: row for row in _lines(DATA / "instances.jsonl.gz") if row.get("environment")}
    patches: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for patch in _lines(DATA / "patches.jsonl.gz"):
        if patch["instance_id"] in rows and patch["resolved"] is not None and patch["patch"]:
            patches[patch["instance_id"]].append(patch)
    return by_labels(rows, patches, options) if options.labels else beside(rows, patches, options)


# --- beside the harness


def beside(rows: Mapping[str, Any], patches: Mapping[str, Sequence[Any]], options: argparse.Namespace) -> int:
    drawn = draw(rows, patches, options)
    chance = random.Random(options.seed)
    rootfs = Path(_said(["scripts/rootfs"]).strip())
    made, predictions = list[dict[str, Any]](), list[dict[str, Any]]()
    answers = {row["instance_id"]: row for row in _lines(DATA / "answers.jsonl.gz") if row["instance_id"] in drawn}
    for name in drawn:
        tree = source(rows[name], options.repositories.resolve(), options.out / "sources" / name)
        image = grading_images.build(rows[name], tree, rootfs)
        made.append(grading_images.row(rows[name], answers[name], image))
        predictions += chance.sample(sorted(patches[name], key=lambda one: one["agent"]), options.patches)
        print(f"{image}: {options.patches} patches", flush=True)
    dataset, submitted = options.out / "rows.jsonl", options.out / "predictions.jsonl"
    _write(dataset, made)
    _write(submitted, [{key: one[key] for key in ("instance_id", "agent", "patch")} for one in predictions])
    warm = options.out / "warm.jsonl"
    _write(warm, [{"instance_id": name, "agent": "warm", "patch": "not a patch\n"} for name in drawn])
    took: dict[str, float] = {}
    labels = options.out / "labels.jsonl"
    _write(labels, [{key: one[key] for key in ("instance_id", "agent", "resolved")} for one in predictions])
    for what, file, grader, more in (
        ("images into states", warm, "fast", []),
        ("fast", submitted, "fast", []),
        ("harness", submitted, "harness", []),
        ("both, from the record", submitted, "both", ["--labels", labels]),
    ):
        out = options.out / ("warm" if file == warm else "graded")
        began = time.monotonic()
        code = _eval(file, dataset, out, options, "--grader", grader, *more)
        took[what] = time.monotonic() - began
        if code not in (0, 1):
            return code
    print("\nseconds, whole commands, one after the other:")
    for what, seconds in took.items():
        print(f"  {what:22} {seconds:7.1f}")
    grades = records.read(options.out / "graded")[0].values()
    tests = {name: sum(g.seconds for g in grades if g.grader == name) for name in ("fast", "harness")}
    print(f"  of this in the tests themselves: fast {tests['fast']:.1f}, harness {tests['harness']:.1f}")
    print(f"  fast is {took['harness'] / took['fast']:.1f} times as fast")
    return code


def draw(rows: Mapping[str, Any], patches: Mapping[str, Sequence[Any]], options: argparse.Namespace) -> list[str]:
    """Rows with enough labelled patches; repositories take turns."""
    chance, by_repo = random.Random(options.seed), dict[str, list[str]]()
    for name in sorted(rows):
        if len(patches[name]) >= options.patches:
            by_repo.setdefault(rows[name]["repo"], []).append(name)
    for repo in sorted(by_repo):
        chance.shuffle(by_repo[repo])
    turns = zip_longest(*(by_repo[repo] for repo in sorted(by_repo)))
    return [name for turn in turns for name in turn if name][: options.instances]


# --- by labels


def by_labels(rows: Mapping[str, Any], patches: Mapping[str, Sequence[Any]], options: argparse.Namespace) -> int:
    names = sorted(name for name in rows if patches[name])
    random.Random(options.seed).shuffle(names)
    names = names[: options.stop_after]
    dataset = DATA / "instances.jsonl.gz"
    for start in range(0, len(names), AT_ONCE):
        out = options.out / f"{start:03}"
        if not (out / "done").exists():
            out.mkdir(parents=True, exist_ok=True)
            submitted = out / "predictions.jsonl"
            some = [one for name in names[start : start + AT_ONCE] for one in patches[name]]
            _write(submitted, [{key: one[key] for key in ("instance_id", "agent", "patch")} for one in some])
            how = ["--answers", DATA / "answers.jsonl.gz", "--images", "never", "--repositories", options.repositories]
            code = _eval(submitted, dataset, out, options, *how)
            if code not in (0, 5):
                return code
            shutil.rmtree(options.states, ignore_errors=True)
            (out / "done").touch()
        summary(options.out, patches)
    return 0


def summary(out: Path, patches: Mapping[str, Sequence[Any]]) -> None:
    grades = [grade for folder in sorted(out.glob("[0-9]*")) for grade in records.read(folder)[0].values()]
    untold = [grade for grade in grades if grade.resolved is None]
    print(f"\n{len({g.instance_id for g in grades})} rows, {len(grades)} patches, {len(untold)} could not be told")
    for what in ("resolved", "resolved_here"):
        labels = {
            (one["instance_id"], one["agent"]): one[what]
            for of in patches.values()
            for one in of
            if one[what] is not None
        }
        same = results.labelled(grades, labels)
        agree = same.told - len(same.different)
        print(f"{what}: {agree} of {same.told} agree, {agree / max(1, same.told):.1%}")
        for grade, label in same.different:
            said = "resolved" if grade.resolved else grade.why
            print(f"  {grade.instance_id} {grade.model}: labelled {'' if label else 'not '}resolved; here: {said}")
    sys.stdout.flush()


def _eval(submitted: Path, dataset: Path, out: Path, options: argparse.Namespace, *how: object) -> int:
    runoff = [sys.executable, "-c", "from runoff.cli import main; main()", "eval", submitted, "--dataset", dataset]
    command = [*runoff, "--out", out, "--states", options.states, "-j", options.j, *how]
    return subprocess.run([str(word) for word in command], check=False).returncode


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _lines(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
