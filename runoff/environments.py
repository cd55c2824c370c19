"""Builds an instance's environment: interpreter, dependencies and the installed repository, as one named state.

The only executions with a network are here, before any model has written anything, and they know no secrets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import cast

from runoff.agent.environment import Built, Environment, last_lines
from runoff.agent.protocol import digest
from runoff.agent.step import Run, World
from runoff.instance import Instance, Source, read_source
from runoff.sandbox.protocol import REPO, Base, Limits, Sandbox, State

_VERSION = "2"  # of this recipe for building: part of the key
_LIMITS = Limits(seconds=1800, output=32 << 10, file_size=8 << 30, memory=16 << 30, processes=4096)
_UV = "/home/user/.local/bin/uv"
_PASSED_ON = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_GIT = "git -c core.hooksPath=/dev/null -c user.name=runoff -c user.email=runoff@localhost -c commit.gpgSign=false"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

_GUESS = f"""
if [ -f pyproject.toml ] || [ -f setup.py ] || [ -f setup.cfg ]; then
    {_UV} pip install --quiet --python /env/bin/python pytest
    {_UV} pip install --quiet --python /env/bin/python --editable .
    for group in test tests dev; do
        {_UV} pip install --quiet --python /env/bin/python --group "$group" 2>/dev/null || true
    done
    for file in requirements-test.txt requirements_test.txt test-requirements.txt requirements/tests.txt tests/requirements.txt; do
        if [ -f "$file" ]; then {_UV} pip install --quiet --python /env/bin/python --requirement "$file" 2>/dev/null || true; fi
    done
elif [ -f requirements.txt ]; then
    {_UV} pip install --quiet --python /env/bin/python pytest --requirement requirements.txt
else
    {_UV} pip install --quiet --python /env/bin/python pytest
fi
"""


class EnvironmentFailed(Exception):
    """The repository could not be installed: which command failed, with its last lines, and what to type."""


async def build(world: World, instance: Instance, tell: Callable[[str], None] = lambda text: None) -> Environment:
    """The environment of an instance: found by the key of all that made it, or built. Raises EnvironmentFailed.

    Every key is content: the source, the commands, the interpreter. Nothing half-made is left under a name.
    """
    sandbox = world.sandbox
    python, binds = _interpreter()
    base = await sandbox.base(Base(binds=binds))
    setup = instance.setup or _GUESS
    key = digest(_VERSION, base.digest, python, instance.digest, setup)
    pristine, state = sandbox.named(f"pristine {key}"), sandbox.named(f"environment {key}")
    if pristine is None or state is None:
        tell("installing")
        pristine = await _bring_in(sandbox, await _with_tools(sandbox, base), read_source(instance))
        state = await _install(sandbox, pristine, python, setup, seeded=bool(instance.setup))
        sandbox.keep(f"pristine {key}", pristine)
        sandbox.keep(f"environment {key}", state)
    env = {"PYTHONPATH": f"{REPO}:{REPO}/src"} if await _runs_from_tree(world, state) else {}
    test = instance.test or "python -m pytest"
    build_again = instance.build or instance.setup
    environment = Environment(state=state, pristine=pristine, test=test, build=build_again, env=env)
    built, installed = await _built(world, environment)
    return environment.model_copy(update={"built": built, "installed": installed})


async def fetch_sdist(sandbox: Sandbox, project: str, version: str) -> bytes:
    """A project's source distribution, as the package index gives it. pip runs inside: it may run the project's own code."""
    python, binds = _interpreter()
    state = await _with_tools(sandbox, await sandbox.base(Base(binds=binds)))
    fetch = (
        f"{_UV} venv --quiet --seed --no-project --python {python} /env\n"
        f"/env/bin/pip download --quiet --no-deps --no-binary :all: --dest /tmp/sdist {project}=={version}\n"
        "mv /tmp/sdist/* /tmp/archive"
    )
    state = await _run(sandbox, state, fetch, f"fetching {project} {version}")
    return await sandbox.read(state, "/tmp/archive", limit=256 << 20)


async def _install(sandbox: Sandbox, state: State, python: str, setup: str, *, seeded: bool) -> State:
    seed = "--seed " if seeded else ""  # a setup of one's own may call pip
    command = f"{_UV} venv --quiet {seed}--no-project --python {python} /env"
    state = await _run(sandbox, state, command, "making a virtual environment")
    state = await _run(sandbox, state, setup, "the setup")
    # Bytecode is compiled once for all; what is left in the tree by then, or was changed there, is no part of any diff.
    finish = (
        "/env/bin/python -m compileall -q /env . >/dev/null 2>&1 || true\n"
        f"git ls-files --others --exclude-standard --directory | sed 's|^|/|' >> .git/info/exclude\n"
        f"git diff --quiet || {_GIT} commit -q --no-verify --all -m 'what the setup changed'"
    )
    return await _run(sandbox, state, finish, "finishing", network=False)


async def _bring_in(sandbox: Sandbox, state: State, source: Source) -> State:
    """The repository at REPO: with the history before the base commit, or with one commit made of a source tree."""
    if source.pack:
        commit_and_refs = "".join(f"git update-ref {ref} {name}\n" for ref, name in source.refs.items())
        state = await _run(sandbox, state, "git init -q -b main .", "making a repository", network=False)
        state = await sandbox.write(state, {f"{REPO}/.git/shallow": source.shallow.encode()} if source.shallow else {})
        done = await sandbox.execute(
            state, ("sh", "-ec", "git index-pack --stdin --fix-thin >/dev/null"), _LIMITS, stdin=source.pack
        )
        if done.exit_code != 0 or done.after is None:
            raise EnvironmentFailed(f"the repository's objects cannot be read: {last_lines(done.text)}")
        refs = f"{commit_and_refs}git -c core.hooksPath=/dev/null reset -q --hard {source.commit}"
        return await _run(sandbox, done.after, refs, "checking out the base commit", network=False)
    state = await sandbox.unpack(state, source.archive, REPO)
    first = f"rm -rf .git; git init -q -b main . && git add -A --force . && {_GIT} commit -q --allow-empty -m 'the source tree'"
    return await _run(sandbox, state, first, "making a repository of the source tree", network=False)


async def _run(sandbox: Sandbox, state: State, command: str, what: str, *, network: bool = True) -> State:
    done = await sandbox.execute(state, ("sh", "-ec", command), _LIMITS, env=_environment(network), network=network)
    if done.outcome == "finished" and done.exit_code == 0 and done.after:
        return done.after
    how = f"exit code {done.exit_code}" if done.outcome == "finished" else done.outcome
    raise EnvironmentFailed(
        f"{what} failed ({how}): {last_lines(done.text) or 'no output'}; give the right commands with --setup"
    )


async def _with_tools(sandbox: Sandbox, base: State) -> State:
    """The base and uv, as a layer that all environments share."""
    uv = _uv()
    name = f"tools {base.digest} {digest(str(uv.stat().st_size), uv.name, _uv_version(uv))}"
    state = sandbox.named(name)
    if state is None:
        state = await sandbox.write(base, {_UV: uv.read_bytes()})
        done = await sandbox.execute(state, ("chmod", "755", _UV), cwd="/")
        if done.after is None or done.exit_code != 0:
            raise EnvironmentFailed(f"uv cannot be brought in: {last_lines(done.text)}")
        sandbox.keep(name, state := done.after)
    return state


def _uv() -> Path:
    from uv import find_uv_bin

    return Path(find_uv_bin())


def _uv_version(uv: Path) -> str:
    return subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout


def _interpreter() -> tuple[str, tuple[str, ...]]:
    """The Python that runs runoff, as the environments' interpreter, and what must be shown for it besides /usr."""
    prefix = Path(sys.base_prefix).resolve()
    python = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(python), () if prefix.is_relative_to("/usr") else (str(prefix),)


def _environment(network: bool) -> dict[str, str]:
    """What a setup may know: where the package index is, if that holds no password; caches off, bytecode on."""
    env = {
        "PATH": f"/env/bin:{Path(_UV).parent}:/usr/local/bin:/usr/bin:/bin",
        "UV_NO_CACHE": "1",
        "UV_LINK_MODE": "copy",
        "UV_PYTHON_DOWNLOADS": "never",
        "PIP_NO_CACHE_DIR": "1",
        "VIRTUAL_ENV": "/env",
    }
    env |= {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "SSL_CERT_FILE": _CERTIFICATES,
        "PIP_CERT": _CERTIFICATES,
        "UV_HTTP_TIMEOUT": "120",
    }
    if not network:
        return env
    known = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if (index := _pip_index()) and "PIP_INDEX_URL" not in known:
        known["PIP_INDEX_URL"] = index
    if "PIP_INDEX_URL" in known and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & known.keys():
        known["UV_DEFAULT_INDEX"] = known["PIP_INDEX_URL"]
    for name, value in known.items():
        if "@" in value:
            raise EnvironmentFailed(
                f"{name} holds a password, which must not enter a sandbox; use an index without one"
            )
    return env | known


def _pip_index() -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


async def _runs_from_tree(world: World, state: State) -> bool:
    """Whether nothing of the repository was installed, so that its tree must be on the path.

    An installed project leaves a `.pth` file or a record of where it came from that names the tree, or a copy of itself.
    """
    command = f"grep -rlsF {REPO} --include=*.pth --include=direct_url.json --include=*.egg-link /env/lib"
    done = await world.execute(Run(state=state, argv=("sh", "-c", command), cwd="/"))
    return not done.stdout.strip()


async def _built(world: World, environment: Environment) -> tuple[Built, tuple[str, ...]]:
    """What the setup made of the repository's files, and what it installed."""
    script = files("runoff").joinpath("built.py").read_text()
    done = await world.execute(
        Run(state=environment.state, argv=("python", "-c", script), limits=Limits(seconds=300, output=8 << 20))
    )
    try:
        said = cast("dict[str, object]", json.loads(done.stdout.decode("utf-8", "surrogateescape")))
    except ValueError:
        raise EnvironmentFailed(f"cannot see what the setup built: {last_lines(done.text)}") from None
    installed = said.pop("installed")
    return Built.model_validate(said), tuple(cast("list[str]", installed))
