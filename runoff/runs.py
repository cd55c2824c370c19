"""`runoff stop`, `retry` and `export`: what is done with a run's directory from outside of the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from runoff.exports import Format, export
from runoff.run import BadRun, read_asked, write_whole


def holder(run: Path) -> int | None:
    """The process that writes a run's logs, if one does: it holds their locks."""
    wanted = set()
    for file in (run / "log").glob("*.jsonl"):
        at = file.stat()
        wanted.add(f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}")
    for line in Path("/proc/locks").read_text().splitlines():
        found = re.match(r"\d+: FLOCK\s+ADVISORY\s+WRITE (\d+) (\S+)", line)
        if found and found[2] in wanted:
            return int(found[1])
    return None


def stop_command(run: Path, now: bool) -> int:
    """Ask the process that works on a run to end, as Ctrl-C does there, and wait until it has. Raises BadRun."""
    command_of(run)
    pid = holder(run)
    if pid is None:
        raise BadRun(f"nothing works on {run}")
    os.kill(pid, signal.SIGTERM)
    if now:
        time.sleep(0.2)  # two at once would count as one
        os.kill(pid, signal.SIGTERM)
    else:
        click.echo(
            f"{run} finishes what is paid for (process {pid}); runoff stop --now does not wait for that", err=True
        )
    while holder(run) == pid:
        time.sleep(0.1)
    click.echo(f"{run} has stopped; runoff retry {run} goes on with it")
    return 0


def retry_command(run: Path, more: Sequence[str]) -> int:
    """Type the command of a run again, where it was typed, with more options: the last of two that differ counts."""
    command, where = command_of(run)
    if pid := holder(run):
        raise BadRun(f"process {pid} works on {run}; runoff stop {run} ends that")
    if not command:
        raise BadRun(f"{run} was made by no command; call it again as it was called")
    runoff = [sys.executable, "-c", "from runoff.cli import main; main()"]
    out = [] if any(word == "--out" or word.startswith("--out=") for word in command) else ["--out", str(run.resolve())]
    return subprocess.run([*runoff, *command, *out, *more], cwd=where, check=False).returncode


def command_of(run: Path) -> tuple[list[str], str | None]:
    """The words after `runoff` that made a run, and the folder they were typed in. Raises BadRun."""
    about = read_asked(run).get("about", {})
    return list(about.get("command", ())), about.get("folder")


def export_command(run: Path, form: Format, to: Path | None, submission: str | None) -> int:
    """A file a trajectory, below a folder an instance. With `submission`, a folder to submit to SWE-bench's leaderboard."""
    command_of(run)
    place = to or run / form
    names = sorted(file.stem for file in (run / "log").glob("*.jsonl"))
    count = 0
    for instance in names:
        for name, trajectory in export(run, instance, form):
            ending = "json" if form == "atif" else "traj.json"
            write_whole(place / instance / f"{name}.{ending}", json.dumps(trajectory, indent=1).encode() + b"\n")
            count += 1
    click.echo(f"{count} trajectories of {len(names)} instances: {place}")
    if submission:
        _submission(run, place, submission, names)
    return 0


def _submission(run: Path, trajectories: Path, name: str, instances: Sequence[str]) -> None:
    """What the leaderboard's repository asks for: metadata.yaml, README.md, all_preds.jsonl, trajs/."""
    said = read_asked(run)
    models = sorted({model for several in said["model"].values() for model in several.splitlines()})
    folder = run / "submission"
    lines = [
        "assets: {logs: '', trajs: ''}",
        "info:",
        f"  name: {json.dumps(name)}",
        "  authors: ''",
        "  report: ''",
        "  site: ''",
        "tags:",
        "  checked: false",
        f"  model: {json.dumps(models)}",
        "  os_model: false",
        "  os_system: true",
        f"  system: {{attempts: {json.dumps('1')}}}  # one patch an instance is submitted",
    ]
    write_whole(folder / "metadata.yaml", ("\n".join(lines) + "\n").encode())
    recipe = json.dumps(said["recipe"], indent=1, sort_keys=True)
    about = f"# {name}\n\nrunoff {said['about']['runoff']} on {len(instances)} instances.\n\n```json\n{recipe}\n```\n"
    write_whole(folder / "README.md", about.encode())
    shutil.copyfile(run / "preds.jsonl", folder / "all_preds.jsonl")
    shutil.copytree(trajectories, folder / "trajs", dirs_exist_ok=True)
    click.echo(
        f"to submit: {folder} (fill in site and report in metadata.yaml; logs come from runoff eval --grader harness)"
    )
