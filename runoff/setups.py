"""How a repository that nobody prepared is installed and tested: what its files say is tried, and its own tests judge it.

    detection ──► attempts, from the plain one on ──► environment ──► its tests, once ──► the first that works, or the best

An attempt works if its test command runs and some tests pass. What was settled on is on record in the run's log, and with the
environment for other runs. Where nothing works and a model is at hand, it repairs the setup (`agent.installing`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from runoff.agent.environment import Environment
from runoff.agent.installing import Setup, Tried, find_setup
from runoff.agent.step import Run, Step, World, trajectory
from runoff.declared import Declared
from runoff.instance import Instance, described
from runoff.sandbox.environments import interpreters, repairs, services
from runoff.sandbox.environments.builder import EnvironmentFailed
from runoff.sandbox.environments.detection import Detected, detect
from runoff.sandbox.environments.of_native import PACKAGES
from runoff.sandbox.environments.tally import Tally, tally
from runoff.sandbox.protocol import Base, Limits, Sandbox, SandboxUnavailable, Value

Make = Callable[[Instance], Awaitable[Environment]]
"""Builds an instance's environment by its own commands."""

SECONDS = 600.0
"""Wall time of a project's tests when they are run to see whether a setup works; those that take longer are cut off."""
_VERSION = "1"  # of what is tried, and in which order
_LIKE_TESTS = re.compile(
    r"(?:^|/)(?:tests?|spec|__tests__|testing)(?:/|\.\w+$)|(?:^|/)test_[^/]+$|[._-](?:test|spec)\.\w+$|_test\.\w+$",
    re.IGNORECASE,
)


class Settled(Value):
    """What a repository's setup came to."""

    name: str
    """`as usual`, `as detected`, `with …`, `by the model`."""
    declared: Declared
    tally: Tally | None = None
    """None: it could not be built, and `why` says so."""
    why: str = ""
    tried: tuple[str, ...] = ()
    """A line on each attempt before."""
    remedy: str = ""
    """The command that would bring what this machine lacks for it."""

    @property
    def works(self) -> bool:
        return bool(self.tally and self.tally.works)

    def __str__(self) -> str:
        said = f"{self.name}: {self.tally or self.why}"
        if self.tally and self.tally.untold:
            said += f"; could not tell, for want of a server or network: {', '.join(self.tally.untold[:5])}"
            said += f" and {self.tally.untold_count - 5} more" if self.tally.untold_count > 5 else ""
        if self.tally and not self.works:
            said += "; it installs, but no test of it passes"
        return said + (f"; {self.remedy}" if self.remedy and not self.works else "")


def detected(instance: Instance) -> Detected:
    """What the files of an instance's repository say, none of them run."""
    return detect(*described(instance))


def with_declared(instance: Instance, declared: Declared) -> Instance:
    """An instance with a setup in place of detection; what its user said stays."""
    return instance.model_copy(
        update={
            "python": instance.python or declared.python,
            "node": instance.node or declared.node,
            "setup": instance.setup or declared.setup,
            "build": instance.build or declared.build,
            "test": declared.test if instance.test is None else instance.test,
            "env": declared.env | instance.env,
            "services": instance.services or declared.services,
            "detect": False,
        }
    )


async def settle(
    world: World, instance: Instance, make: Make, tell: Callable[[str], None] = lambda text: None, model: str = ""
) -> tuple[Instance, Settled]:
    """The setup of an instance whose repository nobody prepared. Raises EnvironmentFailed if nothing could be installed.

    `model` repairs it where nothing that was detected works; empty: none is asked.
    """
    found = await asyncio.to_thread(detected, instance)
    step, key = Step(world, "setup"), _key(instance, found)

    async def decide() -> dict[str, Any]:
        if known := await _kept(world.sandbox, key):
            return known
        settled = await _try_all(world, instance, found, make, tell)
        if settled.tally:
            await _keep(world.sandbox, key, settled)
        return settled.model_dump(mode="json")

    settled = Settled.model_validate(await step.once("settled", decide, source=instance.digest))
    if not settled.works and model and (found.tests or found.language is None):
        repaired = await _repair(world, instance, found, settled, make, tell, model)
        if repaired:
            settled = repaired
    world.setup = settled.model_dump(mode="json")
    if settled.tally is None:
        raise EnvironmentFailed(f"{settled.why}{f'; {settled.remedy}' if settled.remedy else ''}")
    tell(str(settled))
    return with_declared(instance, settled.declared), settled


class Checked(NamedTuple):
    command: str
    tally: Tally
    text: str
    """What it printed."""


async def check(world: World, instance: Instance, environment: Environment, commands: Sequence[str]) -> Checked:
    """Run a project's tests once, by the first of these commands that ends well, else the one by which most pass."""
    best: Checked | None = None
    for command in commands:
        done = await world.execute(counted_run(instance, environment, command))
        counted = tally(done)
        if best is None or _worth(counted) > _worth(best.tally):
            best = Checked(command, counted, done.text)
        if counted.works and (counted.exit_code == 0 or counted.runner in ("pytest", "unittest")):
            break
    return best or Checked("", Tally(), "")


def counted_run(instance: Instance, environment: Environment, command: str, seconds: float = SECONDS) -> Run:
    """The execution of a test command that is asked for its counts. Interrupted in time, a runner still says them."""
    whole = services.with_services(command) if instance.services else command
    asked = "-rfE --continue-on-collection-errors -p no:cacheprovider"
    env = {"PYTEST_ADDOPTS": asked, "COLUMNS": "300"} | environment.env
    argv = ("timeout", "--signal=INT", "--kill-after=20", str(int(seconds)), "sh", "-c", whole)
    limits = Limits(seconds=seconds + 60, output=512 << 10, memory=8 << 30)
    return Run(state=environment.state, argv=argv, env=env, limits=limits)


async def _try_all(
    world: World, instance: Instance, found: Detected, make: Make, tell: Callable[[str], None]
) -> Settled:
    """Attempt after attempt until one works; each that fails may say what the next is to add."""
    has_tests = any(_LIKE_TESTS.search(path) for path in (await asyncio.to_thread(described, instance))[0])
    todo, tried, best = attempts(found, instance), list[str](), None
    lacking = _lacking(found)
    added = set[str]()
    while todo:
        name, declared = todo.pop(0)
        here, said = with_declared(instance, declared), ""
        commands = [instance.test] if instance.test is not None else [declared.test or "", *found.tests]
        commands = list(dict.fromkeys(filter(None, commands)))
        try:
            environment = await make(here)
        except (EnvironmentFailed, SandboxUnavailable) as error:
            said = str(error)
            settled = Settled(name=name, declared=declared, why=said)
        else:
            tell(f"trying the tests ({name})")
            if here.test is None:  # the plain attempt's own
                commands = list(dict.fromkeys(filter(None, [environment.test, *commands])))
            command, counted, said = await check(world, here, environment, commands)
            usual = declared.setup is None and command == environment.test
            settled = Settled(
                name=name, declared=declared if usual else declared.model_copy(update={"test": command}), tally=counted
            )
        debian = repairs.missing_of_debian(said)
        missing = tuple(dict.fromkeys([*lacking, *(debian if not settled.works else ())]))
        settled = settled.model_copy(update={"remedy": repairs.remedy(missing) if missing else ""})
        tried.append(_line(settled))
        best = settled if best is None or _better(settled, best) else best
        wanted = (
            [one for one in repairs.missing_packages(said) if one not in added] if found.language == "python" else []
        )
        if (settled.works and not wanted) or (not has_tests and settled.tally):
            break
        older = found.language == "python" and repairs.older_pytest(said) and "pytest<8" not in added
        if (wanted or older) and len(added) < 24 and not any(name == "as detected" for name, _ in todo):
            more = [*wanted, *(["pytest<8"] if older else [])]
            added |= set(more)
            base = next((one for title, one in attempts(found, instance) if title == "as detected"), declared)
            extra = "\n".join(f"uv pip install --quiet '{one}' || true" for one in sorted(added))
            before = extra if any("setuptools" in one for one in more) else ""
            isolated = _not_isolated(base.setup or "") if before else base.setup or ""
            script = "\n".join(filter(None, [before, isolated, extra]))
            todo.insert(0, (f"with {', '.join(more)}", base.model_copy(update={"setup": script})))
        if len(tried) >= 5:
            break
    if best is None:
        return Settled(
            name="nothing", declared=Declared(), why="nothing in the repository says how it is installed or tested"
        )
    return best.model_copy(update={"tried": tuple(line for line in tried if line != _line(best))})


def _line(settled: Settled) -> str:
    """An attempt, for people and for a model."""
    return str(settled).partition("; give the right commands")[0][:400]


def attempts(found: Detected, instance: Instance) -> list[tuple[str, Declared]]:
    """What is worth trying, in this order: the builder's own way, then all that the files say."""
    python = _python(found, instance)
    listed = list[tuple[str, Declared]]()
    compiled = found.language == "python" and found.build  # the plain way has not what builds it again
    if (found.plain and not compiled) or found.language is None:
        listed.append(("as usual", Declared(python=python)))
    if found.setup:
        said = Declared(
            python=python,
            node=_node(found),
            setup="\n".join(found.setup),
            build=found.build,
            test=found.tests[0] if found.tests else "",
            services=tuple(one for one in found.services if services.there(one)),
            env=found.env,
        )
        if said.services:  # the tests are tried with them at once: without, they could not tell
            listed = []
        listed.append(("as detected", said))
    return listed


def _python(found: Detected, instance: Instance) -> str | None:
    """None, the Python that runs this, where it will do; else the likeliest of those that are on this machine."""
    if instance.python or found.language != "python" or not found.versions:
        return None
    own = ".".join(map(str, interpreters.find_python().minor))
    if own in found.versions:
        return None
    return next((version for version in found.versions if interpreters.is_here(version)), None)


def _node(found: Detected) -> str | None:
    if found.language != "node":
        return None
    for version in found.versions:
        try:
            interpreters.find_node(version)
        except SandboxUnavailable:
            continue
        return version
    try:
        return interpreters.find_node().version.split(".")[0]
    except SandboxUnavailable:
        return None


def _lacking(found: Detected) -> list[str]:
    """Debian packages of programs that it takes and that are not where a sandbox sees them."""
    place = "/usr/local/bin:/usr/bin:/bin"
    missing = [tool for tool in found.tools if not shutil.which(tool, path=place)]
    missing = [tool for tool in missing if tool not in ("node", "npm") or not shutil.which(tool)]
    return [PACKAGES[tool] for tool in missing if tool in PACKAGES] + [
        services.package(one) for one in found.services if not services.there(one)
    ]


def _not_isolated(script: str) -> str:
    return re.sub(r"(uv pip install --quiet) (--editable)", r"\1 --no-build-isolation \2", script)


def _worth(counted: Tally) -> tuple[bool, bool, int, int]:
    clean = counted.works and counted.exit_code == 0
    return counted.works, counted.runner != "exit code" or clean, counted.passed, -counted.failed


def _better(one: Settled, other: Settled) -> bool:
    if one.tally is None or other.tally is None:
        return one.tally is not None
    return _worth(one.tally) > _worth(other.tally)


async def _repair(
    world: World,
    instance: Instance,
    found: Detected,
    settled: Settled,
    make: Make,
    tell: Callable[[str], None],
    model: str,
) -> Settled | None:
    """A model's turn. What it settles on is built and tried like any other; None if it came to nothing that works."""
    tell("the model repairs the setup")
    paths, files = await asyncio.to_thread(described, instance)

    async def attempt(setup: Setup) -> Tried:
        declared = _of_model(setup, found)
        here = with_declared(instance.model_copy(update={"test": None}), declared)
        try:
            environment = await make(here)
        except (EnvironmentFailed, SandboxUnavailable) as error:
            return Tried(works=False, said=str(error))
        counted = (await check(world, here, environment, [setup.test])).tally
        return Tried(works=counted.works, said=f"{counted}\n{counted.said}".strip(), state=environment.state)

    last = "\n".join([*settled.tried, _line(settled), settled.tally.said if settled.tally else ""])
    bare = await make(with_declared(instance.model_copy(update={"test": ""}), Declared(setup="true", env=found.env)))
    base = bare.state
    ended = await trajectory(
        world, "setup-1", Setup, lambda step: find_setup(step, model, found, paths, files, last, base, attempt)
    )
    if ended.value is None:
        tell(f"the model found no setup that works: {ended.note or ended.reason}")
        return None
    setup = ended.value
    declared = _of_model(setup, found)
    here = with_declared(instance.model_copy(update={"test": None}), declared)
    counted = (await check(world, here, await make(here), [setup.test])).tally
    return Settled(name="by the model", declared=declared, tally=counted, tried=(*settled.tried, _line(settled)))


def _of_model(setup: Setup, found: Detected) -> Declared:
    said = setup.model_dump(include={"python", "setup", "build", "test"})
    return Declared(**said, node=_node(found), env=found.env | setup.env)


def _key(instance: Instance, found: Detected) -> str:
    """Names what is settled on: by the source, what was said, what the files say, and what is tried here."""
    said: Mapping[str, Any] = instance.model_dump(
        mode="json", include={"python", "node", "build", "test", "env", "services"}
    )
    here = {"own": interpreters.find_python().version, "lacking": _lacking(found)}
    text = json.dumps([_VERSION, instance.digest, said, found.model_dump(mode="json"), here], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


_KEPT = "/tmp/settled.json"


async def _kept(sandbox: Sandbox, key: str) -> dict[str, Any] | None:
    state = sandbox.named(f"setup {key}")
    if state is None:
        return None
    return Settled.model_validate(json.loads(await sandbox.read(state, _KEPT))).model_dump(mode="json")


async def _keep(sandbox: Sandbox, key: str, settled: Settled) -> None:
    """With the other states, where the environment itself is: in a layer of its own."""
    text = json.dumps(settled.model_dump(mode="json")).encode()
    sandbox.keep(f"setup {key}", await sandbox.write(await sandbox.base(Base()), {_KEPT: text}))
