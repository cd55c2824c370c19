"""The command line. Nothing heavy is imported before a command that needs it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from runoff import __version__, options

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="runoff")
def cli() -> None:
    """Resolve software issues with language models: many trajectories in real sandboxes, votes, a verifier, a run-off.

    \b
    runoff doctor                                     what is here, what is missing, the one next command
    runoff demo                                       real issues of real projects, no key needed
    runoff solve . --issue @bug.md --model openai/…   your own repository
    """


@cli.command()
@click.argument("target")
@click.option("--issue", metavar="TEXT|@FILE", help="The issue: its text, or @ and a file that holds it.")
@click.option(
    "--ref",
    help="The base commit of a git repository.  [default: HEAD; of an issue on GitHub the default branch's last before "
    "it was opened]",
)
@options.ON_SERVER
@options.COMMANDS
@options.ASKING
@options.EXECUTOR
@options.CONFIDENT
@options.PUBLISHED
def solve(**given: Any) -> None:
    """Resolve an issue: TARGET is its address on GitHub, or a local git repository or source tree, with --issue.

    An address is https://github.com/OWNER/REPOSITORY/issues/N, the same of a GitHub Enterprise, or OWNER/REPOSITORY#N.
    TARGET may also be a .jsonl file with one problem a line: {"target", "issue", "id", "setup", "build", "test",
    "python", "ref"}.

    \b
    runoff solve https://github.com/pallets/click/issues/2500 --model openai/gpt-5 --budget 2
    runoff solve . --issue "crash on empty input" --model openai/gpt-5 --budget 2
    runoff solve ~/src/click --issue @bug.md --model anthropic/claude-sonnet-4-5 -n 6
    runoff solve . --issue @bug.md --model openai/local --api-base http://127.0.0.1:8000/v1 --budget 500ktok

    Writes patch.diff, selection.json, preds.jsonl and report.html into --out (runs/<name> if not given). Ctrl-C once
    finishes what is paid for, twice stops now; the same command again goes on. Exit code: 0 patch, 1 none, 2 usage,
    3 something is missing, 4 budget, 5 infrastructure, 6 abstained.
    """
    from runoff.commands import solve_command

    sys.exit(solve_command(**given))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--instance", metavar="ID", help="Which of the run's instances.  [default: its only one]")
@options.PUBLISHED
@options.STATES
@options.SANDBOX
def publish(**given: Any) -> None:
    """Publish what a finished RUN decided for, when somebody has looked at it: a branch, a push, a draft pull request.

    \b
    runoff publish runs/click --branch                      one commit on a branch of the repository
    runoff publish runs/click --push --remote my-fork
    runoff publish runs/pallets__click-2500 --pr --with-test

    The same command again finds what is there, and goes on from wherever it was. Nothing is asked of a model. Exit code:
    0 published, 1 there is no patch to publish, 2 usage, 3 something is missing, 5 it was refused.
    """
    from runoff.commands import publish_command

    sys.exit(publish_command(**given))


@cli.command()
@click.option(
    "--live", is_flag=True, help="Ask a real model instead of playing the recorded answers; needs --model and --budget."
)
@click.option("--only", multiple=True, metavar="ID", help="Only these issues.")
@options.ASKING
def demo(**given: Any) -> None:
    """Resolve real issues of real projects here, without a key: the sandboxes, tests and votes are real, the model's answers recorded.

    \b
    runoff demo
    runoff demo --live --model openai/gpt-5 --budget 3     the same issues with a real model: a real figure
    """
    from runoff.demo.show import demo as demonstrate

    sys.exit(demonstrate(given.pop("live"), given.pop("only"), given))


@cli.command()
@click.argument("dataset")
@click.option(
    "--instances",
    "chosen",
    multiple=True,
    metavar="WHICH",
    help="Only these: ids, globs ('django__*'), slices (0:50), @FILE; several with commas.",
)
@options.SOURCES
@click.option(
    "--history",
    type=click.Choice(["auto", "all", "none"]),
    default="auto",
    show_default=True,
    help="How much of a repository's history before the base commit comes along; auto: all where tags tell the version.",
)
@click.option("--at-once", type=click.IntRange(min=1), help="Instances in progress at a time.  [default: 16]")
@click.option("--dry-run", is_flag=True, help="Only say what it would take: calls, tokens, dollars, disk.")
@click.option("--prefetch", is_flag=True, help="Only bring sources and images and make the environments.")
@click.option(
    "--grade",
    type=click.Choice(["fast", "harness", "both"]),
    help="When all is decided, runoff eval, a process of its own.",
)
@options.ASKING
@options.EXECUTOR
@options.CONFIDENT
def bench(**given: Any) -> None:
    """Solve the problems of DATASET in batch: verified, lite, full, multilingual, multimodal, releases, or a file or folder
    of rows, SWE-bench tasks or Harbor tasks.

    \b
    runoff bench verified --instances 'django__*' --model openai/gpt-5 -n 8 --budget 40 --dry-run
    runoff bench releases --model openai/gpt-5-mini --budget 5 --grade fast
    runoff bench tasks/ --model openai/local --api-base http://127.0.0.1:8000/v1 --budget 50Mtok

    The same command goes on after anything. Writes preds.json, preds.jsonl and report.html into --out. What failed for
    reasons that are not its own is no empty patch: it is tried again. Exit codes as of `runoff solve`.
    """
    from runoff.batch.command import bench_command

    sys.exit(bench_command(**given))


@cli.command()
@click.argument("predictions", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--repo", type=click.Path(path_type=Path), help="The repository that all of them are for, with --issue.")
@click.option(
    "--branches",
    multiple=True,
    metavar="GLOB",
    help="Candidates are these branches of the repository, and the work trees on them, with what is not committed.",
)
@click.option(
    "--problems",
    "problems_file",
    type=click.Path(path_type=Path),
    help="Several issues: a .jsonl file as `runoff solve` takes it; predictions name their id.",
)
@click.option(
    "--tests",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A test script of your own that says fixed (exit 0) or not (exit 2); it votes if it fails on the base.",
)
@click.option("--issue", metavar="TEXT|@FILE", help="The issue: its text, or @ and a file that holds it.")
@click.option("--ref", help="The base commit of a git repository.  [default: HEAD]")
@options.COMMANDS
@click.option(
    "--measure",
    type=click.Path(path_type=Path),
    metavar="LABELS",
    help="When all is decided, measure it as `runoff replay --labels` does, in a process of its own.",
)
@options.ASKING
@options.CONFIDENT
def elect(**given: Any) -> None:
    """Choose among patches that any agents made: PREDICTIONS are files or folders of theirs.

    preds.json, all_preds.jsonl, trajectories of mini-swe-agent and SWE-agent, Agentless's and Trae Agent's output, folders
    of .diff files.

    \b
    runoff elect . --branches 'agent/*' --issue @bug.md
    runoff elect a.diff b.diff c.diff --repo ~/src/click --issue @bug.md --model openai/gpt-5
    runoff elect sweagent/preds.json openhands.jsonl --problems problems.jsonl

    Without --model nothing is asked: candidates that break the repository's tests are pruned, the rest compared by what
    they do and how alike they are. With one, tests are written, a verifier scores and a run-off decides. Writes
    preds.jsonl, selection.json with the reasons, and report.html into --out. Exit codes as of `runoff solve`.
    """
    from runoff.election import elect_command

    sys.exit(elect_command(**given))


@cli.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="A ranking, or several.  [default: all of them]")
@click.option("--first", type=click.IntRange(min=1), metavar="K", help="With the first K trajectories or agents alone.")
@click.option("--draw", type=int, metavar="SEED", help="With K drawn by this seed, rather than the first.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help='Measure the rules: a .jsonl of {"instance_id", "agent" or "candidate", "resolved"}. Nothing that decides reads it.',
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Fit a calibration of the runs' own choices by these labels, for --calibration; say how well it holds.",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Draw what the labels say: an SVG and a PNG a figure, and index.html. Takes the extra `figures`.",
)
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
@options.CONFIDENT
def replay(**given: Any) -> None:
    """Decide a stored RUN, or several, again by other rules, or with fewer trajectories. Asks no model, executes nothing.

    \b
    runoff replay runs/click
    runoff replay runs/click --rule r2e --rule codemonkeys --first 4
    runoff replay runs/elect-verified --labels labels.jsonl --figures figures
    runoff replay runs/a runs/b --labels labels.jsonl --calibrate calibration.json
    runoff replay runs/c --calibration calibration.json --precision 0.8
    """
    from runoff.replay import replay_command

    sys.exit(replay_command(**given))


@cli.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help='What is right, in place of the runs\' grades: a .jsonl of {"instance_id", "agent" or "candidate", "resolved"}.',
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it.  [default: report/ in the first RUN]")
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON; write files only if --out is given.")
def report(**given: Any) -> None:
    """What became of a RUN, or how several compare: resolved, where instances are lost, what candidates are worth, cost and
    time by stage, failures, flips.

    \b
    runoff report runs/verified
    runoff report runs/codemonkeys runs/r2e-hybrid --out compared
    runoff report runs/elect-verified --labels labels.jsonl

    Reads the runs' logs, and what is right from the grades that `runoff eval` left in them, or from --labels; opens no answer,
    asks and executes nothing. Writes report.html, one file that loads nothing, report.json and CSV tables. Runs may be under way.
    """
    from runoff.reporting.command import report_command

    sys.exit(report_command(**given))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("instances", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON, with every trajectory.")
def show(**given: Any) -> None:
    """List what became of the instances of RUN: candidates, votes, what was chosen, cost. INSTANCES are ids or globs.

    \b
    runoff show runs/verified
    runoff show runs/verified 'django__*'
    runoff show runs/verified django__django-11099     its trajectories too
    """
    from runoff.reporting.listing import show_command

    sys.exit(show_command(**given))


@cli.command()
@click.argument("run", default="runs", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="[default: 8765, or the next that is free]")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write the window as one file that needs no server, and end.",
)
@click.option(
    "--limit",
    type=options.Bytes(),
    default="25MB",
    show_default=True,
    help="The size of that file; what is left out, it says.",
)
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def view(**given: Any) -> None:
    """Look through RUN, or a folder of runs (runs/ if not given), in a browser: candidates, tests, trajectories, live.

    \b
    runoff view runs/verified
    runoff view runs/verified --export verified.html     one file, to be sent to somebody

    Served on 127.0.0.1 alone, to whoever has the address that is printed. Reads the run and never writes into it.
    """
    from runoff.viewer.command import view_command

    sys.exit(view_command(**given))


@cli.command()
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
def ls(**given: Any) -> None:
    """List the runs below FOLDER (runs/ if not given), the latest first: running, ended, stopped or damaged."""
    from runoff.reporting.listing import ls_command

    sys.exit(ls_command(**given))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
def verify(**given: Any) -> None:
    """Decide a stored RUN again from its log, compare with what it submitted, and name every file that was read for it."""
    from runoff.replay import verify_command

    sys.exit(verify_command(**given))


@cli.command("eval")
@click.argument("source", metavar="PREDS|RUN", type=click.Path(exists=True, path_type=Path))
@click.option("--dataset", required=True, metavar="DATASET", help="Its name, a file of rows, or a folder of tasks.")
@click.option(
    "--answers",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="Rows that hold the answers, where the dataset's do not.",
)
@click.option(
    "--grader",
    type=click.Choice(["fast", "harness", "both"]),
    default="fast",
    show_default=True,
    help="In forked states here, by the swebench package in Docker, or both, compared test by test.",
)
@click.option("--candidates", is_flag=True, help="Every candidate of the RUN, not only what it submitted.")
@click.option(
    "--instances", metavar="WHICH", help="Ids, globs, slices (0:50), @FILE; several with commas.  [default: all]"
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Say where labels of others differ, as `runoff replay` reads them.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where grades.jsonl goes; the same command goes on.  [default: the RUN]",
)
@click.option(
    "-j", "jobs", type=click.IntRange(min=1), metavar="N", help="Gradings at once.  [default: a processor each]"
)
@click.option(
    "--timeout", "seconds", type=click.FloatRange(min=1), metavar="SECONDS", help="Of one grading.  [default: 1800]"
)
@options.SOURCES
@options.STATES
@options.SANDBOX
def evaluate(**given: Any) -> None:
    """Grade what was submitted for a dataset's problems: predictions of any agent, or a RUN of runoff's.

    \b
    runoff eval preds.json --dataset verified
    runoff eval runs/verified --dataset verified --candidates
    runoff eval preds.jsonl --dataset rows.jsonl --answers answers.jsonl --grader both

    Writes grades.jsonl, a line a grade, and results.json in swebench's own shape. Exit code: 0 all was graded, 1 the graders
    differ in a verdict, 2 usage, 3 something is missing, 5 something could not be told: the same command tries that again.
    """
    from runoff.evaluation import evaluation_command

    sys.exit(evaluation_command(**given))


@cli.command()
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--ref", help="The commit.  [default: HEAD]")
@options.INDEX
@click.option(
    "--model", metavar="NAME", help="Have this model write a line on each source file; named as for solve's --model."
)
@click.option(
    "--tests", is_flag=True, help="Run the repository's tests twice, in a sandbox: which pass, which are flaky."
)
@options.COMMANDS
@options.API_BASE
@options.PRICE
@options.BUDGET
@options.STATES
@options.SANDBOX
def prepare(**given: Any) -> None:
    """Do once for REPOSITORY, a local git repository, what every issue of it needs: an index of its code; on request a line
    on each file by a model, and which tests pass.

    \b
    runoff prepare ~/src/click
    runoff prepare ~/src/click --ref v8.1.0     reads only the files that differ
    runoff prepare ~/src/click --tests --model openai/gpt-5-mini --budget 1

    Not needed before `runoff solve`, which makes the index itself. Without --tests nothing of the repository is run.
    """
    from runoff.preparation import prepare_command

    sys.exit(prepare_command(**given))


@cli.command()
@click.argument("path", metavar="REPOSITORY", default=".", type=click.Path(path_type=Path))
@click.option("--ref", help="The commit.  [default: HEAD]")
@click.option("--try", "tried", is_flag=True, help="Build it in a sandbox and run its tests once.")
@click.option("--write", is_flag=True, help="Write .runoff.toml there: what was settled on, to be read and committed.")
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
@click.option("--model", metavar="NAME", help="Try it, and have this model repair the setup if it does not work.")
@click.option("--index-host", "index_hosts", multiple=True, metavar="HOST", help="As for `runoff solve`.")
@options.API_BASE
@options.PRICE
@options.BUDGET
@options.INDEX
@options.STATES
@options.SANDBOX
def detect(**given: Any) -> None:
    """Say how REPOSITORY, a git repository or a source tree, is installed and tested, and which of its files say so.

    \b
    runoff detect ~/src/click
    runoff detect ~/src/click --try --write
    runoff detect ~/src/click --model openai/gpt-5-mini --budget 0.50

    Without --try nothing of the repository is run. Exit code: 0 found, and it works if it was tried; 1 not.
    """
    from runoff.detecting import detect_command

    sys.exit(detect_command(**given))


@cli.command()
@click.argument("dataset")
@click.option(
    "--instances",
    metavar="WHICH",
    help="Ids, globs (django__*), slices (0:50), @FILE with one a line; several with commas.  [default: all]",
)
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
@click.option(
    "--write",
    type=(click.Choice(["swebench", "harbor"]), click.Path(path_type=Path)),
    metavar="FORMAT DIR",
    help="Write them, answers included, as SWE-bench v5 task folders or as Harbor task directories (swebench, harbor).",
)
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Rows with the answers, where the dataset has none; only for --write.",
)
@click.option(
    "--base",
    default="runoff-base:bookworm",
    show_default=True,
    metavar="IMAGE",
    help="What the written Dockerfiles begin with: Debian or Ubuntu.",
)
@click.option("--build", is_flag=True, help="Build the images of task folders with Docker.")
@click.option(
    "--build-arg",
    "build_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="For docker build: PIP_INDEX_URL, npm_config_registry, BASE and others that the Dockerfiles name.",
)
def dataset(**given: Any) -> None:
    """List the problems of DATASET: verified, lite, full, multilingual or multimodal (with :SPLIT), releases, or a path.

    A path is a file of rows (.parquet, .json, .jsonl, each also .gz) as SWE-bench has them, a repository or folder of
    SWE-bench v5 task folders, or Harbor task directories, one or a folder of them.

    \b
    runoff dataset verified --instances 'django__*,0:10'
    runoff dataset releases
    runoff dataset releases --write swebench tasks --build
    runoff dataset ~/swe-bench-pro/tasks --json

    Answers are read by no command but runoff eval, and here by --write alone, each in a process of its own.
    """
    from runoff.datasets.command import dataset_command

    sys.exit(dataset_command(**given))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--now", is_flag=True, help="Do not wait for what is paid for.")
def stop(**given: Any) -> None:
    """End the process that works on RUN, as Ctrl-C does in its terminal; what is on record stays."""
    from runoff.runs import stop_command

    sys.exit(stop_command(**given))


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def retry(**given: Any) -> None:
    """Type the command that made RUN again: what did not come to an end is tried again, nothing on record is paid twice.

    \b
    runoff retry runs/bench-verified
    runoff retry runs/bench-verified --budget 80     further options come after the old ones
    """
    from runoff.runs import retry_command

    sys.exit(retry_command(**given))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(["atif", "mini-swe-agent"]),
    default="atif",
    show_default=True,
    help="Harbor's Agent Trajectory Interchange Format, or mini-swe-agent's.",
)
@click.option("--to", type=click.Path(path_type=Path), help="Where to.  [default: a folder in RUN]")
@click.option(
    "--submission", metavar="NAME", help="Also a folder to submit to SWE-bench's leaderboard, under this name."
)
def export(**given: Any) -> None:
    """Write the trajectories of RUN as files, one each, in a format that others read."""
    from runoff.runs import export_command

    sys.exit(export_command(**given))


@cli.command()
@click.argument("part", type=click.Choice(["check", "solve"]))
def action(part: str) -> None:
    """What action.yml runs in a workflow of GitHub's: check whether its event is a request that may be made; solve it."""
    from runoff.action import action_command

    sys.exit(action_command(part))


@cli.command()
@options.STATES
@click.option("--all", "everything", is_flag=True, help="How limits are held by every sandbox that runs here.")
def doctor(**given: Any) -> None:
    """Say what is here, what is missing, and the one next command."""
    from runoff.doctor import doctor_command

    sys.exit(doctor_command(**given))


@cli.command()
@options.STATES
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--all", "everything", is_flag=True, help="All states and clones: they are made again when they are needed."
)
@click.option(
    "--older-than", type=options.Age(), help="Also states and clones that were not used for so long: 7d, 12h."
)
@click.option(
    "--limit", type=options.Bytes(), help="Also the states used least recently, until the rest takes no more than this."
)
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON, in bytes.")
def clean(**given: Any) -> None:
    """Remove sandbox states that no run and no name refers to, and what killed processes left.

    \b
    runoff clean --dry-run
    runoff clean --older-than 7d
    runoff clean --limit 20GiB

    Safe while runs are active: what they use stays. A run whose states are gone can still be resumed: they are made
    again, no model is asked twice.
    """
    from runoff.clean import clean_command

    sys.exit(clean_command(**given))


def main() -> None:
    """The console script: errors that are for the user are one line, whatever raised them."""
    from runoff.failure import one_line

    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        where = f" ({error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"runoff: {error.format_message()}{where}", err=True)
        sys.exit(2)
    except Exception as error:
        line, code = one_line(error)
        click.echo(f"runoff: {line}", err=True)
        sys.exit(code)
