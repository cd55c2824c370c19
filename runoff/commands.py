"""What the commands do, between the command line and a run: options resolved, the run watched, what it left named."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import click

from runoff import prepared
from runoff.agent.budget import Budget, Prices, parse_budget, parse_price
from runoff.agent.index import default_place
from runoff.agent.pace import Rate, parse_rate
from runoff.executors.means import Given
from runoff.github.address import is_address
from runoff.github.command import check_all, publish_all, wanted_of
from runoff.instance import BadTarget, Instance, local_instance
from runoff.models import Answering, roles
from runoff.pipeline import Models
from runoff.progress import Progress
from runoff.recipe import Recipe, load_recipe
from runoff.request import Attending, Request, Told
from runoff.run import EXIT, Result, Run, RunDirectory, exit_code, write_views
from runoff.sandbox.environments.builder import ROOM
from runoff.selection.protocol import Confidence
from runoff.setups import Settled
from runoff.visible import shown


def solve_command(
    target: str,
    issue: str | None,
    ref: str | None,
    setup: str | None,
    build: str | None,
    test: str | None,
    python: str | None,
    **options: Any,
) -> int:
    """`runoff solve`. Returns the exit code; raises errors that are for the user."""
    commands = {"setup": setup, "build": build, "test": test, "python": python}
    wanted = wanted_of(options)

    def say(text: str) -> None:
        click.echo(f"runoff: {shown(text)}", err=True)

    request = solve_request(target, issue, ref, commands, cast("Told", options), say)
    check_all(request.instances, request.out, wanted)
    _, results = run_to_end(*request)
    for result in results:
        click.echo(ended(result, request.out, alone=len(results) == 1))
    if wanted.anything or wanted.branches:
        decided = [result.instance for result in results if result.outcome]
        publish_all(request.out, decided, wanted, states(request.options), request.options.get("sandbox") or "auto")
    return exit_code(results)


def solve_request(
    target: str,
    issue: str | None,
    ref: str | None,
    given: Mapping[str, str | None],
    options: Told,
    say: Callable[[str], None],
) -> Request:
    """What `solve` is to do; `say` is told what a user should know of it. `given`: setup, build, test, python."""
    which, unless_claimed = options.get("comments"), options.get("unless_claimed", False)
    before = prepared.commands(options.get("index") or default_place(), Path(target))
    commands = {name: given[name] or before.get(name) for name in given}
    if is_address(target) and not Path(target).exists():
        instances = [_of_server(target, issue, ref, which, unless_claimed, commands, options, say)]
    elif which or unless_claimed:
        raise BadTarget(f"--comments and --unless-claimed are for an issue on GitHub; {target} is not its address")
    elif target.endswith(".jsonl") and Path(target).is_file():
        instances = problems(Path(target), options.get("index") or default_place())
    else:
        if not Path(target).exists():
            raise BadTarget(
                f"no such path: {target}; give a git repository or an unpacked source tree, or an issue's address: "
                "https://github.com/OWNER/REPOSITORY/issues/N or OWNER/REPOSITORY#N"
            )
        made, notes = local_instance(Path(target), read_issue(issue), ref=ref, **commands)
        instances = [made]
        for note in notes:
            say(note)
    if said := ", ".join(f"--{name} {commands[name]!r}" for name in before if not given[name]):
        say(f"as it was prepared: {said}")
    names = roles(options.get("models", ()))
    recipe = options_recipe(options)
    out = options.get("out") or Path("runs") / (instances[0].id if len(instances) == 1 else Path(target).stem)
    return Request(instances, recipe, names, out, options)


def publish_command(run: Path, instance: str | None, **options: Any) -> int:
    """`runoff publish`. Returns the exit code; raises errors that are for the user."""
    wanted = wanted_of(options)
    if not (wanted.anything or wanted.branches):
        raise click.UsageError("nothing is published unasked: give --branch, --push, --pr or --comment")
    whole = publish_all(run, [instance], wanted, states(cast("Told", options)), options.get("sandbox") or "auto")
    return 0 if whole else EXIT["none"]


def _of_server(
    target: str,
    issue: str | None,
    ref: str | None,
    which: Any,
    unless_claimed: bool,
    commands: dict[str, str | None],
    options: Told,
    say: Callable[[str], None],
) -> Instance:
    """The instance for an issue's address; `say` is told what a user should know of it."""
    from runoff.github import access, task
    from runoff.github.address import parse

    if issue is not None:
        raise BadTarget(f"{target} is the issue; leave --issue out")
    address = parse(target, access.server())
    asked = means_of(roles(options.get("models", ())), options).model(budget_of(options.get("budget")), asyncio.Event())
    asked.check()  # what is missing there is said before anything is fetched
    out = options["out"] = options.get("out") or Path("runs") / address.id
    read, source = task.read_task(address, out, ref=ref, which=which or "auto", say=say)
    for line in task.told(read):
        say(line)
    if unless_claimed and (claim := next((claim for claim in read.claims if claim.kind == "closes"), None)):
        raise task.Claimed(f"{read.address} is claimed: {claim.line()}; nothing was paid")
    return task.instance(read, source, commands)


def run_to_end(
    instances: Sequence[Instance],
    recipe: Recipe,
    names: Models,
    out: Path,
    options: Told,
    watch: Callable[[Run, Answering], None] = lambda run, model: None,
) -> tuple[Run, list[Result]]:
    """Run the instances in `out` until they end, at a terminal, and write everything that a run leaves."""
    return asyncio.run(run_attended(instances, recipe, names, out, options, watch))


def problems(file: Path, index: Path | None = None) -> list[Instance]:
    """The instances of a JSON-lines file; a command that a line does not give is as it was prepared. Raises BadTarget
    naming the line."""
    instances: dict[str, Instance] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row["target"], str):
                raise ValueError("it is an object whose target is a path")
            wanted = prepared.commands(index, file.parent / row["target"]) if index else {}
            wanted |= {name: row[name] for name in ("ref", "setup", "build", "test", "python") if row.get(name)}
            made, _ = local_instance((file.parent / row["target"]), str(row["issue"]), **wanted)
        except (ValueError, KeyError, TypeError) as error:
            raise BadTarget(
                f'{file}, line {number}: not a problem {{"target", "issue", …}}: '
                + (f"{error} is missing" if isinstance(error, KeyError) else str(error))
            ) from None
        except BadTarget as error:
            raise BadTarget(f"{file}, line {number}: {error}") from None
        name = str(row.get("id") or made.id)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise BadTarget(f"{file}, line {number}: {name!r} is no id: letters, digits and ._- only")
        if name in instances:
            raise BadTarget(f'{file}, line {number}: a second problem is called {name}; give each an "id"')
        instances[name] = made.model_copy(update={"id": name})
    if not instances:
        raise BadTarget(f"{file} holds no problem")
    return list(instances.values())


def states(options: Mapping[str, Any]) -> Path:
    """Where sandbox states are kept."""
    return options.get("states") or Path.home() / ".cache" / "runoff" / "states"


def ended(result: Result, out: Path, *, alone: bool) -> str:
    """What became of an instance, in a line or two."""
    lines = [
        f"{result.instance}: {result.status}: {result.why.removeprefix('abstained: ')}"
        if result.status != "patch"
        else f"{result.instance}: a patch"
    ]
    if result.status == "patch" and result.outcome:
        where = out if alone else out / "views" / result.instance
        lines = [
            f"{result.instance}: {where / 'patch.diff'} — {first_line(result.why)}",
            f"  why, in full: {out / 'report.html'}",
        ]
    if result.outcome and (sure := result.outcome.selection.confidence) and result.status == "patch":
        lines.append(f"  {confidence(sure)}")
    if result.setup and (
        not (tried := Settled.model_validate(result.setup)).works or (tried.tally and tried.tally.untold)
    ):
        lines.append(f"  its own tests, {tried}")
    if result.possibly_billed:
        lines.append(f"  {result.possibly_billed} calls were on their way when a process was killed: possibly billed")
    if result.damaged:
        lines.append(f"  {result.damaged} damaged pieces in the log were set aside; what they held was made again")
    return shown("\n".join(lines))


def confidence(sure: Confidence) -> str:
    """How sure a choice is, in a line: the probability only where one was calibrated, else what was seen."""
    if sure.p is not None:
        said = f"right with a probability of {sure.p:.2f}, {sure.how}"
    else:
        seen = [f"{name.replace('_', ' ')} {value:.2f}" for name, value in sure.seen if value is not None]
        said = f"{sure.how}; seen: {', '.join(seen)}"
    hangs = [*sure.hangs_on.generated, *sure.hangs_on.repository, *sure.hangs_on.members]
    more = f" and {len(hangs) - 3} more" if len(hangs) > 3 else ""
    return f"confidence: {said}" + (f"; the ranking hangs on {', '.join(hangs[:3])}{more}" if hangs else "")


def first_line(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


async def run_attended(
    instances: Sequence[Instance],
    recipe: Recipe,
    names: Models,
    out: Path,
    options: Told,
    watch: Callable[[Run, Answering], None] = lambda run, model: None,
    attend: Attending | None = None,
) -> tuple[Run, list[Result]]:
    """The same where a loop runs; `attend` None: at a terminal, whose Ctrl-C it listens to."""
    from runoff.report import report

    budget, interrupted = budget_of(options.get("budget")), asyncio.Event()
    means, directory, began = means_of(names, options), RunDirectory(out), time.monotonic()
    index = options.get("index") or default_place()
    command = sys.argv[1:] if click.get_current_context(silent=True) else ()
    async with AsyncExitStack() as stack:
        run: Run
        again = options.get("restart_drifted", False)
        if options.get("executor", "local") == "local":
            model, sandbox = await stack.enter_async_context(means.open(budget, interrupted))
            if not all(directory.log(instance.id).exists() for instance in instances):
                await sandbox.make_room(ROOM)
            run = Run(
                directory,
                instances,
                recipe,
                names,
                model,
                sandbox,
                budget,
                restart_drifted=again,
                interrupted=interrupted,
                price_of=model.price_of,
                entrants=options.get("entrants"),
                index=index,
                at_once=options.get("at_once"),
                command=command,
            )
        else:
            model = means.model(budget, interrupted)
            run = await _spread(
                stack,
                directory,
                instances,
                recipe,
                names,
                means,
                model,
                budget,
                options,
                restart_drifted=again,
                interrupted=interrupted,
                index=index,
                command=command,
            )
        try:
            results = await (attend or _at_a_terminal)(run)
        finally:
            await run.close()
        write_views(run.directory, results, report(run, results, seconds=time.monotonic() - began))
        watch(run, model)
    return run, results


async def _spread(
    stack: AsyncExitStack,
    directory: RunDirectory,
    instances: Sequence[Instance],
    recipe: Recipe,
    names: Models,
    means: Given,
    model: Answering,
    budget: Budget,
    options: Told,
    *,
    index: Path,
    **how: Any,
) -> Run:
    """The run on the nodes of a Ray cluster."""
    from runoff.executors.cluster import cluster
    from runoff.executors.head import Spread

    if means.record:
        raise click.UsageError("--record keeps answers on this machine; it does not go with --executor ray")
    budget.check_prices({one for several in names.values() for one in several.splitlines()}, model.price_of)
    address = options.get("address") or os.environ.get("RAY_ADDRESS") or "auto"
    shared = options.get("shared", False)
    fleet = await stack.enter_async_context(cluster(address, means.states.parent / "leased"))
    return Spread(
        directory,
        instances,
        recipe,
        names,
        means,
        fleet,
        budget,
        model,
        at_once=options.get("at_once") or 16,
        shared=shared,
        workers=means.most(),
        index=index if shared else None,
        **how,
    )


def means_of(names: Models, options: Told) -> Given:
    """What the options say of who answers and where things run."""
    return Given(
        names,
        api_base=options.get("api_base"),
        prices=prices_of(options, names),
        rates=_rates(options),
        stall=options.get("stall") or None,
        native_tools={"native": True, "text": False}.get(options.get("tools") or ""),
        several={"several": True, "one": False}.get(options.get("samples") or ""),
        record=options.get("record"),
        sandbox=options.get("sandbox") or "auto",
        states=states(options),
        limit=options.get("states_limit"),
        index_hosts=tuple(options.get("index_hosts", ())),
    )


async def _at_a_terminal(run: Run) -> list[Result]:
    with Progress(run) as progress:
        run.say = progress.say
        for remark in run.directory.remarks:
            progress.say(remark)
        return await _interruptible(run, progress)


async def _interruptible(run: Run, progress: Progress) -> list[Result]:
    """Ctrl-C once: nothing new is begun, what is paid for is finished. Twice: stop now."""
    solving = asyncio.ensure_future(run.solve())

    def interrupt() -> None:
        if run.stopping:
            solving.cancel()
        else:
            progress.say("finishing what is paid for; Ctrl-C again stops now; the same command goes on from here")
            run.stop()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    try:
        return await solving
    except asyncio.CancelledError:
        raise click.Abort from None
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


def read_issue(text: str | None) -> str:
    """What --issue says. Raises BadTarget."""
    if text is None:
        raise BadTarget("no issue is given; give its text with --issue TEXT or --issue @FILE")
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise BadTarget(f"--issue {text}: {error.strerror}") from None


def options_recipe(options: Told) -> Recipe:
    sure = {name: value for name in ("calibration", "abstain_below", "precision") if (value := options.get(name))}
    told = [
        f"selection.{name}={json.dumps(str(value)) if name == 'calibration' else value}" for name, value in sure.items()
    ]
    recipe = load_recipe(options.get("recipe") or "hybrid", [*options.get("settings", ()), *told])
    return recipe.model_copy(update={"trajectories": many}) if (many := options.get("trajectories")) else recipe


def budget_of(text: str | None) -> Budget:
    if text is None:
        return Budget()
    try:
        return parse_budget(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _rates(options: Told) -> dict[str, Rate]:
    rates: dict[str, Rate] = {}
    for text in options.get("rates", ()):
        provider, _, sums = text.rpartition("=")
        try:
            rates[provider] = parse_rate(sums)
        except ValueError as error:
            raise click.UsageError(f"--rate {text}: {error}") from None
    return rates


def prices_of(options: Mapping[str, Any], names: Models) -> dict[str, Prices]:
    prices: dict[str, Prices] = {}
    for text in options.get("prices", ()):
        name, equals, numbers = text.rpartition("=")
        try:
            found = parse_price(numbers)
        except ValueError as error:
            raise click.UsageError(f"--price {text}: {error}") from None
        prices |= dict.fromkeys([name] if equals else set(names.values()), found)
    return prices


__all__ = [
    "budget_of",
    "prices_of",
    "problems",
    "publish_command",
    "run_attended",
    "run_to_end",
    "solve_command",
    "solve_request",
    "states",
]
