"""`runoff elect`: patches of any agents, as entrants of candidates for the instances that they are for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click

from runoff.agent.testing import GeneratedTest
from runoff.commands import ended, options_recipe, problems, read_issue, run_to_end
from runoff.instance import BadTarget, Instance, local_instance
from runoff.models import roles
from runoff.pipeline import Entrants
from runoff.request import Request, Told
from runoff.run import exit_code
from runoff.selection.agreement import LEAST, relied_on
from runoff.selection.branches import branch_predictions
from runoff.selection.fusion import FUSION
from runoff.selection.pool import Member, Pool
from runoff.selection.predictions import Prediction, read_predictions
from runoff.selection.protocol import Candidate


def elect_command(
    predictions: Sequence[Path],
    repo: Path | None,
    branches: Sequence[str],
    problems_file: Path | None,
    tests: Sequence[Path],
    issue: str | None,
    ref: str | None,
    measure: Path | None = None,
    **options: Any,
) -> int:
    """Returns the exit code; raises errors that are for the user."""
    if measure and not measure.exists():  # said before hours of work; nobody opens it
        raise BadTarget(f"--measure {measure}: there is no such file")
    commands = {name: options.pop(name) for name in ("setup", "build", "test", "python")}
    given = cast("Told", options)
    request, notes = elect_request(
        predictions, repo, branches, problems_file, tests, issue, ref, commands, given, _tell
    )
    for note in notes:
        _tell(note)
    out = request.out
    _, results = run_to_end(*request)
    for result in results:
        click.echo(ended(result, out, alone=len(results) == 1))
    if measure:
        # A process of its own: this one, which decides, never opens labels.
        command = [
            sys.executable,
            "-c",
            "from runoff.cli import main; main()",
            "replay",
            str(out),
            "--labels",
            str(measure),
        ]
        sys.stdout.flush()
        if failed := subprocess.run(command, check=False).returncode:
            return failed
    return exit_code(results)


def _tell(note: str) -> None:
    click.echo(f"runoff: {note}", err=True)


def elect_request(
    predictions: Sequence[Path],
    repo: Path | None,
    branches: Sequence[str],
    problems_file: Path | None,
    tests: Sequence[Path],
    issue: str | None,
    ref: str | None,
    commands: Mapping[str, str | None],
    options: Told,
    say: Callable[[str], None] = lambda note: None,
) -> tuple[Request, list[str]]:
    """What `elect` is to do, and what a user should be told of it. Raises BadTarget, BadPredictions, in one line.

    `say` is told of what takes long before it begins.
    """
    if branches:
        if not repo and len(predictions) != 1:
            raise BadTarget("--branches are those of one local repository: runoff elect . --branches 'agent/*'")
        repo, predictions = (repo, predictions) if repo else (predictions[0], [])
    if problems_file:
        if repo:
            raise BadTarget("either --problems or one repository, not both")
        instances, notes = problems(problems_file), list[str]()
    elif repo:
        made, notes = local_instance(repo, read_issue(issue), ref=ref, **commands)
        instances = [made]
    else:
        raise BadTarget(
            "whose issue is it? Give the repository with --repo and --issue, or several with --problems FILE"
        )
    scripts = [_test(path) for path in tests]
    found = read_predictions(predictions, instances[0].id if repo else None)
    if branches and repo:
        left = branch_predictions(repo, branches, instances[0].id, instances[0].commit or "HEAD")
        found, notes = found + left.predictions, notes + left.notes
    entrants = pooled(instances, found, scripts, say)
    instances = [instance for instance in instances if instance.id in entrants]
    out = options.get("out")
    if out is None:
        out = (
            Path("runs")
            / f"elect-{instances[0].id if len(instances) == 1 or not problems_file else problems_file.stem}"
        )
    given = options.get("models")
    names = roles(given) if given else {}
    return Request(instances, options_recipe(options), names, out, options | {"entrants": entrants}), notes


def pooled(
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    tests: Sequence[GeneratedTest] = (),
    say: Callable[[str], None] = lambda note: None,
) -> dict[str, Entrants]:
    """Instance → its candidates. Raises BadTarget where no prediction is for any of them.

    Where there is one instance, and all predictions are for one, it is that one whatever they call it. A candidate is called
    after its agent, numbered where the agent made several; an agent's name is data, and decides nothing. What a batch that is
    large enough says of its agents, without a label, goes with them.
    """
    named = {prediction.instance for prediction in predictions}
    alone = instances[0].id if len(instances) == len(named) == 1 else None
    by_instance = dict[str, list[Prediction]]()
    for prediction in predictions:
        by_instance.setdefault(alone or prediction.instance, []).append(prediction)
    entrants = {
        instance.id: _pool(by_instance[instance.id], tests) for instance in instances if instance.id in by_instance
    }
    if not entrants:
        whose = f"; they are for {', '.join(sorted(named)[:3])}" if named else ""
        raise BadTarget(f"no prediction is for {', '.join(instance.id for instance in instances[:3])}{whose}")
    if len(entrants) >= LEAST:
        say(f"comparing the patches of {len(entrants)} issues, to learn which agents can be relied on")
    found = relied_on([_members(name, pool) for name, pool in entrants.items()])
    return {
        name: pool.model_copy(
            update={"reliability": {agent: found[agent] for agent in sorted({*pool.origins.values()} & found.keys())}}
        )
        for name, pool in entrants.items()
    }


def _members(instance: str, pool: Entrants) -> Pool:
    return Pool(
        instance=instance,
        members=tuple(Member(id=one.id, agent=pool.origins[one.id], patch=one.patch) for one in pool.candidates),
    )


def _pool(predictions: Sequence[Prediction], tests: Sequence[GeneratedTest]) -> Entrants:
    many = Counter(plain_name(prediction.agent) for prediction in predictions)
    seen, candidates, origins = Counter[str](), list[Candidate](), dict[str, str]()
    for prediction in predictions:
        name = plain_name(prediction.agent)
        seen[name] += 1
        own = f"{name}#{seen[name]}" if many[name] > 1 or name == FUSION else name
        candidates.append(Candidate(id=own, patch=prediction.patch))
        origins[own] = prediction.agent
    return Entrants(candidates=tuple(candidates), origins=origins, tests=tuple(tests))


def plain_name(agent: str) -> str:
    """An agent's name as the id of a candidate: on one line, without what separates ids from other things."""
    return re.sub(r"[^\w.@+-]+", "-", agent).strip("-") or "agent"


def _test(path: Path) -> GeneratedTest:
    try:
        return GeneratedTest(id=f"given-{plain_name(path.stem)}", script=path.read_text(), output="")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTarget(f"--tests {path}: {getattr(error, 'strerror', None) or 'not text'}") from None
