"""How a repository becomes layers: base ← uv ← interpreter and dependencies ← the repository ← the repository, installed.

Every layer is found by what decides it, so it is built once and shared by all that agree: two commits with equal setup
files have their dependencies in common, and equal sources everything. The only executions with a network are here, before
any model works on an issue; they reach the package indexes and know no secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runoff.sandbox.environments import indexes, interpreters
from runoff.sandbox.environments.dependencies import Plan, plan
from runoff.sandbox.environments.history import sealed
from runoff.sandbox.environments.interpreters import Interpreter
from runoff.sandbox.protocol import PROXY, REPO, Base, Limits, Sandbox, SandboxError, SandboxLost, State, Value

UV = "/home/user/.local/bin/uv"
LEAST_OF_UV = (3, 8)
"""Older Pythons are served by their own venv and pip."""

ROOM = 512 << 20
"""Bytes that an environment takes, about: an interpreter's packages. The repository comes to that."""

_VERSION = "3"  # of these recipes for building: part of every key
_LIMITS = Limits(seconds=1800, output=64 << 10, file_size=8 << 30, memory=16 << 30, processes=4096)
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_MARK = "+runoff+ "
_GIT = (
    "git -c core.hooksPath=/dev/null -c core.logAllRefUpdates=false -c user.name=runoff -c user.email=runoff@localhost "
    "-c commit.gpgSign=false"
)
_BEGIN = "git -c init.defaultBranch=main init -q .\n"
_COMMIT = f"""
git ls-files --others --exclude-standard --directory | sed 's|^|/|' >>.git/info/exclude
git diff --quiet || {_GIT} commit -q --no-verify --all -m 'what the setup changed'
"""
"""What is left in the tree by then, or was changed there, is no part of any diff."""
_FINISH = f"/env/bin/python -m compileall -q /env . >/dev/null 2>&1 || true{_COMMIT}"
"""Bytecode is compiled once for all."""


class EnvironmentFailed(SandboxError):
    """A repository could not be brought in or installed: which command failed, with its last lines."""


class EnvironmentSpec(Value):
    """How an environment is to be built. Equal specs and equal sources are one environment."""

    python: str | None = None
    """A version that is installed here, 3.6 to 3.13, or a path; None is the Python that runs this."""
    packages: tuple[str, ...] = ()
    """Requirements, installed before anything of the repository."""
    prepare: str | None = None
    """Shell command that installs dependencies, run where the repository will be, with the files of `decides` alone."""
    decides: tuple[str, ...] = ()
    """Paths of the files that `prepare` reads: while they stay equal, its layer does."""
    setup: str | None = None
    """Shell command that installs the repository, run in it. None: from its setup files, which are read without being run."""
    node: bool | str | None = None
    """Node and npm of this machine, of any version (True) or this one; None: if the repository is a Node package."""
    env: dict[str, str] = {}
    """Environment variables of these commands."""


class Contents(Value):
    """A repository, as streams for the sandbox's own tar and git."""

    archive: bytes = b""
    """A tar of the tree, for a source tree without history."""
    commit: str = ""
    pack: bytes = b""
    """A git pack of the base commit and all before it, and of nothing after it."""
    refs: dict[str, str] = {}
    """Tags that the base commit already had."""
    shallow: str = ""


@dataclass(frozen=True)
class Source:
    """A repository at its base commit; its contents are read only if it has to be brought in."""

    digest: str
    """Names the contents."""
    files: Mapping[str, bytes]
    """Of its files those that may decide what is installed (`dependencies.deciding`)."""
    contents: Callable[[], Contents] = field(compare=False)


class Layers(Value):
    pristine: State
    """The repository at its base commit, on its dependencies."""
    installed: State


async def build(
    sandbox: Sandbox,
    spec: EnvironmentSpec,
    source: Source,
    tell: Callable[[str], None] = lambda text: None,
    *,
    base: State | None = None,
) -> Layers:
    """The layers of a repository: found, or built by whoever comes first while the others wait.

    `base` is a state that has the interpreter (and Node, if that is wanted) itself, as an image does; None is the host's
    programs, with those directories of the host shown that the interpreter needs.
    Raises EnvironmentFailed if a command of the setup fails, Refused if the repository holds what comes after its base
    commit and cannot be sealed, SandboxUnavailable if this machine lacks the interpreter, NoRoom if the disk has too little
    left. Nothing half-made is kept.
    """
    if base is None:
        python = await asyncio.to_thread(interpreters.find_python, spec.python)
        wanted = await asyncio.to_thread(_wanted, spec, source.files, python)
        base = await sandbox.base(Base(binds=wanted.binds))
    else:
        wanted = _wanted(spec, source.files, await _python_inside(sandbox, base, spec.python), of_host=False)
    below = _key(_VERSION, base.digest, await asyncio.to_thread(_uv_identity), wanted.key)
    key = _key(below, source.digest, spec.setup or wanted.install(), spec.env)
    if found := _kept(sandbox, key):
        return found
    async with sandbox.alone(f"environment {key}"):
        if found := _kept(sandbox, key):
            return found
        await sandbox.make_room(ROOM)
        dependencies = await _dependencies(sandbox, base, wanted, below, tell)
        tell("installing")
        contents = source.contents()
        await sandbox.make_room(4 * len(contents.pack or contents.archive))
        pristine = await sealed(sandbox, await _bring_in(sandbox, dependencies, contents, npm=wanted.plan.npm))
        installed = pristine
        if script := spec.setup or wanted.install():
            installed = await setup(sandbox, installed, script, "the setup", spec.env)
        installed = await setup(sandbox, installed, _FINISH, "finishing", network=False)
        sandbox.keep(f"pristine {key}", pristine)
        sandbox.keep(f"environment {key}", installed)
    return Layers(pristine=pristine, installed=installed)


async def settled(sandbox: Sandbox, state: State) -> State:
    """An image's repository as a base: nothing after its commit can be read, and what its work tree has beside that is the base's.

    A tree without a repository becomes one. Raises Refused for a history that cannot be sealed.
    """
    begin = f"[ -e .git ] || {{ {_BEGIN}git add -A --force . && {_GIT} commit -q --allow-empty -m 'the source tree'; }}"
    state = await setup(sandbox, state, begin, "making a repository of the image's tree", network=False)
    return await setup(sandbox, await sealed(sandbox, state), _COMMIT, "finishing", network=False)


async def setup(
    sandbox: Sandbox,
    state: State,
    script: str,
    what: str,
    env: Mapping[str, str] = {},
    *,
    network: bool = True,
    stdin: bytes = b"",
) -> State:
    """The state after a shell script of ours or a user's, which may reach the package indexes. Raises EnvironmentFailed."""
    if network:
        env = _TO_THE_INDEXES | (await asyncio.to_thread(indexes.configured)).environment() | dict(env)
    done = await sandbox.execute(
        state, ("sh", "-ec", f"set -x\n{script}"), _LIMITS, env=_KNOWN | dict(env), network=network, stdin=stdin
    )
    if done.outcome == "finished" and done.exit_code == 0 and done.after:
        return done.after
    if done.outcome == "lost":
        raise SandboxLost(f"{what}: {done.text.strip()}")
    how = f"exit code {done.exit_code}" if done.outcome == "finished" else f"{done.outcome} {done.limit or ''}".strip()
    command, said = _failure(done.text)
    raise EnvironmentFailed(f"{what} failed: {f'`{command}`, ' if command else ''}{how}: {said or 'no output'}")


async def tools(sandbox: Sandbox, base: State) -> State:
    """The base and uv, as a layer that all environments share."""
    name = f"tools {_key(_VERSION, base.digest, await asyncio.to_thread(_uv_identity))}"
    async with sandbox.alone(name):
        state = sandbox.named(name)
        if state is None:
            state = await sandbox.write(base, {UV: await asyncio.to_thread(_uv().read_bytes)})
            state = await setup(sandbox, state, f"chmod 755 {UV}", "bringing in uv", network=False)
            sandbox.keep(name, state)
    return state


def is_node(spec: EnvironmentSpec, source: Source) -> bool:
    """Whether this is a Node package, and no Python project."""
    found = plan(source.files, node=bool(spec.node) or None)
    return (found.npm or found.late_npm) and not found.project


def virtual_environment(python: Interpreter, *, seeded: bool) -> str:
    """The shell command that makes /env. `seeded`: with a pip of its own, for commands that call it."""
    if python.minor >= LEAST_OF_UV:
        return f"{UV} venv --quiet {'--seed ' if seeded else ''}--no-project --python {shlex.quote(python.path)} /env"
    pip = (
        "\n/env/bin/python -m pip install --quiet pip==21.3.1" if python.minor < (3, 7) else ""
    )  # its own picks too new
    return f"{shlex.quote(python.path)} -m venv /env{pip}"


@dataclass(frozen=True)
class _Wanted:
    """A spec, made of what this machine and the repository's files say."""

    spec: EnvironmentSpec
    python: Interpreter
    node: Interpreter | None
    plan: Plan
    decides: dict[str, bytes]

    @property
    def binds(self) -> tuple[str, ...]:
        return (*self.python.binds, *(self.node.binds if self.node else ()))

    @property
    def seeded(self) -> bool:
        return bool(self.spec.setup or self.spec.prepare)

    @property
    def files(self) -> dict[str, bytes]:
        return self.plan.files | self.decides

    @property
    def key(self) -> str:
        node = self.node.identity if self.node else None
        files = {path: hashlib.blake2b(text).hexdigest() for path, text in self.files.items()}
        return _key(self.python.identity, node, self.dependencies(), files)

    def dependencies(self) -> str:
        """The shell script that makes the layer below the repository."""
        lines = [virtual_environment(self.python, seeded=self.seeded)]
        if self.node and not self.node.path.startswith(("/usr/bin/", "/usr/local/bin/")):
            folder = shlex.quote(str(Path(self.node.path).parent))
            lines += [f"for name in node npm npx; do ln -s {folder}/$name /env/bin/$name; done"]
        lines += [self._add(self.spec.packages)] if self.spec.packages else []
        lines += [self.spec.prepare] if self.spec.prepare else []
        lines += [self._add(self.plan.must)] if self.plan.must else []
        lines += [self._add(("--requirement", path)) for path in self.plan.must_files]
        lines += [f"{self._add(one)} || true" for one in self.plan.may]
        lines += [f"{self._add(('--requirement', path))} || true" for path in self.plan.may_files]
        if self.plan.npm:
            lock = "package-lock.json" in self.plan.files
            lines += [f"npm {'ci' if lock else 'install --no-package-lock'} --ignore-scripts", "npm rebuild"]
        lines += ["/env/bin/python -m compileall -q /env >/dev/null 2>&1 || true"]
        return "\n".join(lines)

    def install(self) -> str:
        """The shell script for a repository that has no setup of its own."""
        lines = [self._add(("--editable", "."))] if self.plan.project else []
        lines += [f"{self._add(('--requirement', path))} || true" for path in self.plan.late_files]
        if self.plan.late_npm:
            lines += ["if [ -f package-lock.json ]; then npm ci; else npm install --no-package-lock; fi"]
        elif self.plan.npm:
            lines += [f"npm run --if-present {name}" for name in ("preinstall", "install", "postinstall")]
            lines += ["npm run --if-present prepare || true"]  # a release's sources often lack what it needs
        return "\n".join(lines)

    def _add(self, what: tuple[str, ...]) -> str:
        pip = f"{UV} pip" if self.python.minor >= LEAST_OF_UV else "/env/bin/python -m pip"
        place = " --python /env/bin/python" if self.python.minor >= LEAST_OF_UV else ""
        return f"{pip} install --quiet{place} {shlex.join(what)}"


def _wanted(spec: EnvironmentSpec, files: Mapping[str, bytes], python: Interpreter, *, of_host: bool = True) -> _Wanted:
    told, node = bool(spec.setup or spec.prepare), None  # whoever says how to install says all of it
    found = Plan() if told else plan(files, node=None if spec.node is None else bool(spec.node))
    if of_host and (spec.node or found.npm or found.late_npm):
        node = interpreters.find_node(spec.node if isinstance(spec.node, str) else None)
    missing = [path for path in spec.decides if path not in files]
    if missing:
        raise EnvironmentFailed(f"{missing[0]} is not in the repository, or too large to decide what is installed")
    return _Wanted(spec, python, node, found, {path: files[path] for path in spec.decides})


async def _python_inside(sandbox: Sandbox, base: State, wanted: str | None) -> Interpreter:
    name = wanted if wanted and "/" in wanted else f"python{wanted or '3'}"
    ask = "import json, sys; print(json.dumps([sys.executable, sys.version.split()[0], sys.base_prefix, sys.version]))"
    done = await sandbox.execute(base, (name, "-I", "-S", "-c", ask), cwd="/", freeze=False)
    try:
        path, version, prefix, identity = json.loads(done.stdout)
    except ValueError:
        raise EnvironmentFailed(f"{name} does not run in this image: {done.text.strip() or done.outcome}") from None
    return Interpreter(path=str(path), version=str(version), prefix=str(prefix), identity=str(identity))


async def _dependencies(sandbox: Sandbox, base: State, wanted: _Wanted, key: str, tell: Callable[[str], None]) -> State:
    name = f"dependencies {key}"
    if state := sandbox.named(name):
        return state
    below = await tools(sandbox, base)
    async with sandbox.alone(name):
        if state := sandbox.named(name):
            return state
        tell("installing dependencies")
        paths = {f"{REPO}/{path}": text for path, text in wanted.files.items()}
        state = await sandbox.write(below, paths) if paths else below
        script, alone = wanted.dependencies(), wanted.plan == Plan() and not wanted.spec.packages and not wanted.seeded
        state = await setup(sandbox, state, script, "installing dependencies", wanted.spec.env, network=not alone)
        clean = f"find {REPO} -mindepth 1 -maxdepth 1 ! -name node_modules -exec rm -rf {{}} +; rm -rf ~/.npm ~/.cache /tmp/*"
        state = await setup(sandbox, state, clean, "finishing", network=False)
        sandbox.keep(name, state)
    return state


async def _bring_in(sandbox: Sandbox, state: State, source: Contents, *, npm: bool) -> State:
    """The repository at REPO: with the history before the base commit, or with one commit made of a source tree."""
    hidden = "mkdir -p .git/info\necho /node_modules >>.git/info/exclude\n" if npm else ""
    begin = f"{_BEGIN}{hidden}"
    if source.pack:
        state = await setup(sandbox, state, begin, "making a repository", network=False)
        state = await sandbox.write(state, {f"{REPO}/.git/shallow": source.shallow.encode()} if source.shallow else {})
        unpack = "git index-pack --stdin --fix-thin >/dev/null"
        state = await setup(sandbox, state, unpack, "reading its objects", network=False, stdin=source.pack)
        refs = "".join(f"create {ref} {name}\n" for ref, name in source.refs.items())
        check_out = f"git update-ref --stdin\n{_GIT} reset -q --hard {source.commit}"
        return await setup(
            sandbox, state, check_out, "checking out the base commit", network=False, stdin=refs.encode()
        )
    state = await sandbox.unpack(state, source.archive, REPO)
    others = ".git .hg .svn .bzr .jj"  # another history, if it has one, is not for who works on it
    only = "-- . ':(exclude)node_modules'" if npm else "."
    first = (
        f"rm -rf {others}\n{begin}git add -A --force {only}\n{_GIT} commit -q --allow-empty -m 'the source tree'\n"
        "rm -f .git/COMMIT_EDITMSG"
    )
    return await setup(sandbox, state, first, "making a repository of the source tree", network=False)


def made_alone(name: str) -> tuple[str, ...]:
    """The names under which whoever is `alone` with a name keeps what it makes; none if that is of no use to another machine."""
    kind, _, key = name.partition(" ")
    if not re.fullmatch("[0-9a-f]{32}", key):
        return ()
    return {"environment": (f"pristine {key}", name), "dependencies": (name,)}.get(kind, ())


def _kept(sandbox: Sandbox, key: str) -> Layers | None:
    pristine, installed = sandbox.named(f"pristine {key}"), sandbox.named(f"environment {key}")
    return Layers(pristine=pristine, installed=installed) if pristine and installed else None


def _failure(text: str) -> tuple[str, str]:
    """The last command that the shell said it began, and the last lines of what was said by others."""
    commands, others = list[str](), list[str]()
    for line in text.splitlines():
        (commands if re.match(r"\++runoff\+ ", line) else others).append(line.strip())
    last = commands[-1].split(" ", 1)[1] if commands else ""
    return last[:200], " | ".join(line for line in others[-8:] if line)[-400:]


def _key(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _uv() -> Path:
    from uv import find_uv_bin

    return Path(find_uv_bin())


def _uv_identity() -> str:
    uv = _uv()
    said = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{said.strip()} {uv.stat().st_size}"


_KNOWN = {
    "PATH": f"/env/bin:{Path(UV).parent}:/usr/local/bin:/usr/bin:/bin",
    "PS4": _MARK,
    "VIRTUAL_ENV": "/env",
    "UV_NO_CACHE": "1",
    "UV_LINK_MODE": "copy",
    "UV_PYTHON_DOWNLOADS": "never",
    "PIP_NO_CACHE_DIR": "off",  # disables it as any value does; 1 is a mistake of pip 18
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "npm_config_cache": "/tmp/npm",
    "npm_config_update_notifier": "false",
    "npm_config_audit": "false",
    "npm_config_fund": "false",
}
"""What a setup's commands know: caches off, bytecode on."""

AGAIN = _KNOWN | {
    "UV_OFFLINE": "1",
    "UV_NO_BUILD_ISOLATION": "1",
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # pip takes it for what comes after --no-: 0 is no isolation
    "npm_config_offline": "true",
}
"""What a command knows that builds an installed repository again: there is no network, so what builds must be there."""

_TO_THE_INDEXES = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), PROXY),
    **dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), _CERTIFICATES),
    "UV_HTTP_TIMEOUT": "120",
    "UV_CONCURRENT_DOWNLOADS": "16",
}
