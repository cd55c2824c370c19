"""An instance's environment: the layers that the builder makes of its repository, and what its setup made of the files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, cast

from runoff.agent.environment import Built, Environment, last_lines
from runoff.agent.step import Run, World
from runoff.declared import Declared
from runoff.instance import Instance, environment_spec, open_source
from runoff.sandbox.environments import builder, interpreters, services
from runoff.sandbox.environments.builder import EnvironmentFailed
from runoff.sandbox.protocol import REPO, Base, Image, Limits, Sandbox, State
from runoff.setups import Make, Settled, check, settle

__all__ = ["EnvironmentFailed", "build", "fetch_package", "fetch_sdist", "kept", "maker", "tried"]


async def build(
    world: World, instance: Instance, tell: Callable[[str], None] = lambda text: None, model: str = ""
) -> Environment:
    """The environment of an instance: found by the key of all that made it, or built, or an image's own.

    Where nobody said how it is installed, what its files say is tried, and `model`, if there is one, repairs what does not work.
    Raises EnvironmentFailed; Refused for an image that cannot be had or used.
    """
    if instance.image:
        return await _of_image(world, instance, tell)
    if instance.detect:
        instance, _ = await settle(world, instance, maker(world, tell), tell, model)
    return await _of_source(world, instance, tell)


def maker(world: World, tell: Callable[[str], None] = lambda text: None) -> Make:
    """What builds an instance's environment by the instance's own commands, as `settle` takes it."""
    return lambda instance: _of_source(world, instance, tell)


async def tried(world: World, instance: Instance, tell: Callable[[str], None] = lambda text: None) -> Settled:
    """An instance whose setup is given, built and its tests run once. Raises EnvironmentFailed."""
    environment = await _of_source(world, instance, tell)
    command = instance.test if instance.test is not None else environment.test
    counted = (await check(world, instance, environment, [command or ""])).tally
    said = {name: getattr(instance, name) for name in Declared.model_fields}
    return Settled(name="as given", declared=Declared.model_validate(said), tally=counted)


async def _of_source(world: World, instance: Instance, tell: Callable[[str], None]) -> Environment:
    spec, source = environment_spec(instance), open_source(instance)
    try:
        layers = await builder.build(world.sandbox, spec, source, tell)
    except EnvironmentFailed as error:
        raise EnvironmentFailed(
            f"{error}; give the right commands with --setup, the right Python with --python"
        ) from None
    state = layers.installed
    for made in (state, layers.pristine):
        world.note(f"environment {made.digest}", made)
    env = dict(spec.env)
    if await _runs_from_tree(world, state):
        env = {"PYTHONPATH": f"{REPO}:{REPO}/src"} | env
    is_node = builder.is_node(spec, source)
    test = ("npm test --silent" if is_node else "python -m pytest") if instance.test is None else instance.test or None
    project = (
        "uv pip install --quiet --no-deps --editable ." if {"setup.py", "pyproject.toml"} & {*source.files} else None
    )
    build_again = instance.build or instance.setup or ("npm run --if-present prepare" if is_node else project)
    if instance.services:
        script = services.script(instance.services)
        files_ = {services.START: script.encode()}
        below = state
        state = await world.derive(f"{below.digest} services {script}", lambda: world.sandbox.write(below, files_))
        test = test and services.with_services(test)
    environment = Environment(state=state, pristine=layers.pristine, test=test, build=build_again, env=env)
    return environment.model_copy(update=await _built(world, environment))


def kept(sandbox: Sandbox, instance: Instance) -> bool:
    """Whether an image's environment is there already."""
    return sandbox.named(_named(instance)) is not None


def _named(instance: Instance) -> str:
    return f"environment of {instance.image} {instance.workdir}"


async def _of_image(world: World, instance: Instance, tell: Callable[[str], None]) -> Environment:
    """As whoever made the image installed it: what is there is the base, as it is for the harness that grades it."""
    sandbox, name = world.sandbox, _named(instance)
    state = sandbox.named(name)
    async with sandbox.alone(name):
        if state is None and (state := sandbox.named(name)) is None:
            tell("bringing in the image")
            state = await sandbox.base(Image(reference=instance.image or ""))
            if instance.workdir != REPO:
                place = shlex.quote(instance.workdir)
                moved = f"cp -a {place}/. . && rm -rf {place} && ln -s {REPO} {place}"
                state = await builder.setup(sandbox, state, moved, "moving the repository", network=False)
            state = await builder.settled(sandbox, state)
            sandbox.keep(name, state)
    world.note(f"environment {state.digest}", state)
    test = "python -m pytest" if instance.test is None else instance.test or None
    env = await _activated(world, state)
    environment = Environment(state=state, pristine=state, test=test, build=instance.build or instance.setup, env=env)
    return environment.model_copy(update=await _built(world, environment))


async def _activated(world: World, state: State) -> dict[str, str]:
    """What activating an image's environment sets: SWE-bench's images have one of conda's, called testbed."""
    script = """[ -e /opt/miniconda3/envs/testbed ] && [ -r /opt/miniconda3/bin/activate ] || exit 0
before=$(env | sort); . /opt/miniconda3/bin/activate testbed >/dev/null 2>&1 || exit 0
env | sort | grep -E '^(PATH|CONDA_[A-Z_0-9]*|LD_LIBRARY_PATH)='"""
    done = await world.execute(Run(state=state, argv=("bash", "-c", script), cwd="/"))
    pairs = (line.partition("=") for line in done.stdout.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in pairs if name and "\0" not in value}


async def fetch_sdist(sandbox: Sandbox, project: str, version: str) -> bytes:
    """A project's source distribution, as the package index gives it. pip runs inside: it may run the project's own code."""
    python = interpreters.find_python()
    state = await builder.tools(sandbox, await sandbox.base(Base(binds=python.binds)))
    fetch = (
        f"{builder.virtual_environment(python, seeded=True)}\n"
        f"/env/bin/pip download --quiet --no-deps --no-binary {project} --dest /tmp/sdist {project}=={version}\n"
        "mv /tmp/sdist/* /tmp/archive"
    )
    state = await builder.setup(sandbox, state, fetch, f"fetching {project} {version}")
    return await sandbox.read(state, "/tmp/archive", limit=256 << 20)


async def fetch_package(sandbox: Sandbox, project: str, version: str) -> bytes:
    """A package of Node's, as npm's registry gives it. Nothing of it is run."""
    python, node = interpreters.find_python(), interpreters.find_node()
    state = await builder.tools(sandbox, await sandbox.base(Base(binds=(*python.binds, *node.binds))))
    npm = PurePosixPath(node.path).with_name("npm")
    fetch = f"cd /tmp\n{npm} pack --silent --ignore-scripts {project}@{version} >/dev/null\nmv /tmp/*.tgz /tmp/archive"
    state = await builder.setup(sandbox, state, fetch, f"fetching {project} {version}")
    return await sandbox.read(state, "/tmp/archive", limit=256 << 20)


async def _runs_from_tree(world: World, state: State) -> bool:
    """Whether nothing of the repository was installed, so that its tree must be on the path.

    An installed project leaves a `.pth` file or a record of where it came from that names the tree, or a copy of itself.
    """
    command = f"grep -rlsF {REPO} --include=*.pth --include=direct_url.json --include=*.egg-link /env/lib"
    done = await world.execute(Run(state=state, argv=("sh", "-c", command), cwd="/"))
    return not done.stdout.strip()


async def _built(world: World, environment: Environment) -> dict[str, Any]:
    """What the setup made of the repository's files, what it installed, and the language to test it in."""
    script = files("runoff").joinpath("built.py").read_text()
    env = {
        name: value for name, value in environment.env.items() if name != "PYTHONPATH"
    }  # nothing of the tree's runs here
    limits = Limits(seconds=300, output=8 << 20)
    done = await world.execute(Run(state=environment.state, argv=("python", "-c", script), env=env, limits=limits))
    try:
        said = cast("dict[str, object]", json.loads(done.stdout.decode("utf-8", "surrogateescape")))
    except ValueError:
        raise EnvironmentFailed(f"cannot see what the setup built: {last_lines(done.text)}") from None
    installed, language = tuple(cast("list[str]", said.pop("installed"))), said.pop("language")
    return {"built": Built.model_validate(said), "installed": installed, "language": language}
