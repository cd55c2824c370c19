"""The swebench package's own `swebench eval`, in Docker: its rows and predictions written, its reports read back.

It takes one prediction an instance in a run, and knows what it has done by the names of run, model and instance, not by the
patch: so several patches of an instance are several runs, and a patch's model is called after the patch.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from runoff.agent.protocol import digest
from runoff.datasets.images import forms
from runoff.datasets.protocol import Answer, Problem
from runoff.grading import reading
from runoff.grading.reading import Verdict
from runoff.sandbox.protocol import Raw, SandboxUnavailable, Value

_EVAL = "from swebench.cli.cli import app; app()"


class Wanted(NamedTuple):
    problem: Problem
    answer: Answer
    patch: Raw
    name: str
    """The patch's."""


class Ended(Value):
    instance: str
    patch: str
    """Its name."""
    verdict: Verdict | None
    """None: could not be told, `why` says what happened."""
    why: str = ""
    seconds: float = 0.0


async def graded(
    wanted: Sequence[Wanted], folder: Path, jobs: int, seconds: float, tell: Callable[[str], None]
) -> AsyncIterator[Ended]:
    """What it makes of each patch; what it left in `folder` before, ended, it does not run again.

    Raises SandboxUnavailable if there is no Docker engine, or an image is not there: it would be pulled one by one.
    """
    held = await asyncio.to_thread(_begun, wanted, folder)
    name = f"runoff-{digest(str(folder), size=4)}"  # two of one name would remove each other's containers
    by_instance = dict[str, list[Wanted]]()
    for one in wanted:
        by_instance.setdefault(one.problem.id, []).append(one)
    runs = list(zip_longest(*by_instance.values()))
    for number, run in enumerate(runs, 1):
        batch = [one for one in run if one]
        tell(f"the harness, run {number} of {len(runs)}: {len(batch)} patches")
        rows, predictions = folder / "rows.jsonl", folder / "predictions.jsonl"
        rows.write_text("".join(json.dumps(_row(one, held)) + "\n" for one in batch))
        predictions.write_text("".join(json.dumps(_prediction(one)) + "\n" for one in batch))
        argv = [sys.executable, "-P", "-c", _EVAL, "eval", rows.name, "-p", predictions.name]
        argv += ["--run-id", name, "-j", str(jobs), "-t", str(int(seconds))]
        dies = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # with us
        with (folder / "said.txt").open("ab") as said:
            process = await asyncio.create_subprocess_exec(
                *dies, *argv, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said
            )
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        rows.unlink()  # it is full of answers
        for one in batch:
            yield _read(one, folder / "logs" / "run_evaluation" / name / one.name / one.problem.id, folder)


def _begun(wanted: Sequence[Wanted], folder: Path) -> dict[str, str]:
    """Image → its name on this machine's engine."""
    for one in wanted:
        if not one.problem.image:
            what = f"{one.problem.id} has no image, which the harness needs"
            raise SandboxUnavailable(what, "--grader fast needs none")
        if one.answer.tests:
            raise SandboxUnavailable(f"{one.problem.id} is a Harbor task, not the harness's", "use --grader fast")
    held = _held({one.problem.image for one in wanted})
    if missing := sorted(image for image, name in held.items() if not name):
        many = f" (of {len(held)} images {len(missing)} are not)" if len(missing) > 1 else ""
        what = f"the image {missing[0]} is not on this machine's Docker engine{many}"
        raise SandboxUnavailable(what, f"docker pull {missing[0]}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return held


def _held(images: Collection[str]) -> dict[str, str]:
    """Each image's name on the engine, in whichever form it has it; empty if in none."""
    import docker

    try:
        engine = docker.from_env(timeout=60)
        engine.ping()
    except (docker.errors.DockerException, OSError):
        raise SandboxUnavailable(
            "no Docker engine answers, which the harness needs", "start one, or use --grader fast, which needs none"
        ) from None
    found = dict.fromkeys(images, "")
    try:
        for image in images:
            for name in reversed(forms(image)):
                with suppress(docker.errors.NotFound):
                    engine.images.get(name)
                    found[image] = name
    finally:
        engine.close()
    return found


def _row(one: Wanted, held: Mapping[str, str]) -> dict[str, object]:
    return reading.row(one.problem, one.answer) | {"image": held[one.problem.image]}


def _prediction(one: Wanted) -> dict[str, str]:
    patch = one.patch.decode("utf-8", "surrogateescape")
    return {"instance_id": one.problem.id, "model_name_or_path": one.name, "model_patch": patch}


def _read(one: Wanted, place: Path, folder: Path) -> Ended:
    ended = Ended(instance=one.problem.id, patch=one.name, verdict=None)
    log = _text(place / "run_instance.log")
    took = re.search(r"Test runtime: ([\d_.]+) seconds", log)
    ended = ended.model_copy(update={"seconds": float(took[1].replace("_", "")) if took else 0.0})
    try:
        report = json.loads(_text(place / "report.json"))[one.problem.id]
    except (ValueError, KeyError):
        return ended.model_copy(update=_without_report(one, log, folder))
    found = reading.verdict(one.problem, one.answer, _text(place / "test_output.txt"))
    if found.resolved != report["resolved"]:
        why = "its report differs from its test output: remove it, and type the same command again"
        return ended.model_copy(update={"why": f"{place / 'report.json'}: {why}"})
    return ended.model_copy(update={"verdict": found})


def _without_report(one: Wanted, log: str, folder: Path) -> dict[str, object]:
    nothing = reading.nothing(one.answer)
    if ">>>>> Patch Apply Failed" in log:
        return {"verdict": Verdict(resolved=False, why="does not apply", tests=nothing)}
    if timed := re.search(r"Test timed out after (\d+) seconds", log):
        return {"verdict": Verdict(resolved=False, why=f"the tests timed out after {timed[1]} s", tests=nothing)}
    errors = re.findall(r"^.*(?:Error|error|Exception)\b.*$", log or _text(folder / "said.txt"), re.MULTILINE)
    return {"why": f"the harness made no report: {errors[-1].strip() if errors else 'see ' + str(folder / 'said.txt')}"}


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""
