"""`runoff eval`: what was submitted, or every candidate of a run, graded by a process of its own, and what that comes to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click

from runoff.batch.sources import Where
from runoff.commands import states
from runoff.datasets import load
from runoff.grading import records, results
from runoff.grading.protocol import GRADES, Grade, Grader
from runoff.grading.records import Key
from runoff.grading.request import Request, Submission
from runoff.instance import BadTarget
from runoff.measure import read_labels
from runoff.replay import Stored
from runoff.run import write_whole
from runoff.selection.predictions import read_predictions
from runoff.visible import shown

DIFFER = 1
"""Exit code where the two graders come to different verdicts."""


def evaluation_command(
    source: Path,
    dataset: str,
    answers: Path | None,
    grader: str,
    candidates: bool,
    instances: str | None,
    out: Path | None,
    jobs: int | None,
    labels: Path | None,
    seconds: float | None,
    **options: Any,
) -> int:
    """Returns the exit code; raises errors that are for the user."""
    graders: tuple[Grader, ...] = ("fast", "harness") if grader == "both" else (grader,)  # type: ignore[assignment]
    told = read_labels(labels) if labels else {}
    run = (source / "run.toml").is_file()
    if candidates and not run:
        raise BadTarget(f"--candidates are those of a run, and {source} holds none")
    submissions = _submitted(source / "preds.jsonl" if run else source)
    submissions += _candidates(source) if candidates else []
    problems = load.problems(dataset, instances)
    names = {problem.id for problem in problems}
    if not (wanted := [one for one in submissions if one.instance_id in names]):
        raise BadTarget(
            f"no patch in {source} is for an instance of {dataset}; it has {', '.join(sorted(names)[:3])} …"
        )
    out = out or (source if run else Path("runs") / f"eval-{_stem(source)}")
    place = states(options)
    request = Request(
        reference=dataset,
        answers=answers,
        problems=tuple(problem for problem in problems if problem.id in {one.instance_id for one in wanted}),
        submissions=tuple(wanted),
        graders=graders,
        out=out.absolute(),
        sandbox=options.get("sandbox") or "auto",
        states=place.absolute(),
        where=Where(
            repositories=options.get("repositories"),
            remote=options.get("remote"),
            images=options.get("images") or "auto",
            registry=options.get("registry"),
            cache=place.absolute().parent / "sources",
        ),
        jobs=jobs or os.cpu_count() or 1,
        seconds=seconds,
    )
    code = _graded(request)
    if code not in (0, 5) or not (out / GRADES).exists():
        return code
    differ = _tell(out, wanted, names, graders, told)
    return code or (DIFFER if differ else 0)


def _graded(request: Request) -> int:
    """In a process of its own: this one never has an answer. Ctrl-C ends both, and the same command goes on."""
    text = json.dumps(request.model_dump(mode="json"))
    try:
        dies = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # with this one
        command = [*dies, sys.executable, "-P", "-m", "runoff.grading"]
        code = subprocess.run(command, input=text, text=True, stdout=sys.stderr, check=False, env=_here()).returncode
    except KeyboardInterrupt:
        raise click.Abort from None
    if code < 0:
        click.echo("runoff: the grading process was killed; the same command goes on", err=True)
        return 5
    return code


def _here() -> dict[str, str]:
    """The environment of a process that imports what this one did, and nothing of the working directory's: that may be any
    repository, of the harness itself too."""
    ours = str(Path(__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [ours, os.environ.get("PYTHONPATH")]))}


def _submitted(file: Path) -> list[Submission]:
    """What predictions of an agent follow its first for an instance are its further candidates."""
    return [
        Submission(instance_id=one.instance, candidate=one.id if one.sample else "", model=one.agent, patch=one.patch)
        for one in read_predictions([file])
    ]


def _candidates(run: Path) -> list[Submission]:
    """Everything that was proposed and could take part in the selection, as it would have been submitted."""
    return [
        Submission(instance_id=name, candidate=proposer, model=evidence.origin(proposer), patch=entry.candidate.patch)
        for name, evidence in Stored(run).evidence.items()
        for entry in evidence.entries
        for proposer in entry.proposers
    ]


def _stem(source: Path) -> str:
    stem = source.name.split(".")[0]
    return source.resolve().parent.name if stem in ("preds", "all_preds", "predictions") else stem


def _tell(
    out: Path,
    wanted: Sequence[Submission],
    instances: Collection[str],
    graders: Sequence[Grader],
    labels: dict[tuple[str, str], bool],
) -> bool:
    """The table, and results.json beside the grades. Returns whether the graders differ in a verdict."""
    found, _ = records.read(out)
    asked = [
        Key(one.instance_id, one.candidate, one.model, records.name_of(one.patch), grader)
        for grader in graders
        for one in wanted
    ]
    grades = {key: found[key] for key in asked if key in found}
    of_all = results.shares(grades.values())
    width = max((len(share.model) for share in of_all), default=5)
    for share in of_all:
        interval = f"[{share.low:.1%}, {share.high:.1%}]" if share.told and share.low is not None else ""
        rate = f"{share.resolved / share.told:.1%}" if share.told else "–"
        untold = f"; {share.untold} could not be told" if share.untold else ""
        click.echo(
            shown(
                f"{share.model:{width}}  {share.grader}: {share.resolved} resolved of {share.told} submitted, "
                f"{rate} {interval} of {len(instances)} problems{untold}"
            )
        )
        submitted = [g for g in grades.values() if (g.model, g.grader, g.candidate) == (share.model, share.grader, "")]
        alone = len(of_all) == 1
        name = "results.json" if alone else f"results-{share.model.replace('/', '__')}-{share.grader}.json"
        text = json.dumps(results.report(submitted, instances), indent=1).encode() + b"\n"
        write_whole(out / name, text)
    if any(one.candidate for one in wanted):
        for grader in graders:
            right, of = results.oracle(grades.values(), grader)
            click.echo(f"any candidate right, {grader}: {right} of {of} instances")
    if labels:
        _tell_labels(list(grades.values()), labels)
    return len(graders) == 2 and _tell_differences(results.compared(grades))


def _tell_labels(grades: Sequence[Grade], labels: dict[tuple[str, str], bool]) -> None:
    same = results.labelled(grades, labels)
    for grade, label in same.different:
        whose = grade.candidate or grade.model
        click.echo(
            shown(
                f"label differs: {grade.instance_id} {whose}: labelled {'' if label else 'not '}resolved, "
                f"{grade.grader}: {'resolved' if grade.resolved else grade.why}"
            )
        )
    agree = same.told - len(same.different)
    click.echo(f"labels: {agree} of {same.told} agree" + (f", {agree / same.told:.1%}" if same.told else ""))


def _tell_differences(both: results.Compared) -> bool:
    for fast, harness, tests in both.differences:
        whose = f"{fast.instance_id} {fast.candidate or fast.model}"
        if fast.resolved is not harness.resolved:
            words = ("resolved" if fast.resolved else fast.why, "resolved" if harness.resolved else harness.why)
            click.echo(shown(f"verdict differs: {whose}: fast: {words[0]}; harness: {words[1]}"))
        for test, (ours, theirs) in tests.items():
            click.echo(shown(f"test differs: {whose}: {test}: fast {ours}, harness {theirs}"))
    verdicts = sum(one.verdict for one in both.differences)
    ids = sum(len(one.tests) for one in both.differences)
    click.echo(
        f"fast and harness: {verdicts} of {both.patches} verdicts differ, {ids} of {both.tests} test results differ"
    )
    return bool(verdicts)
