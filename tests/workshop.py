"""A real sandbox and tiny environments, made by hand and without a network, for tests of what runs in them.

A plugin of pytest: a test asks for `workshop`. A session has one sandbox; a test plays
something in a world of its own: `workshop.play(lambda world: elect(world, …), model)`.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runoff.agent.doubles import Scripted
from runoff.agent.environment import Environment, read_tree
from runoff.agent.log import Log
from runoff.agent.protocol import Model
from runoff.agent.step import Ended, Step, World, trajectory
from runoff.agent.verdict import Verdict, read_verdict, script_run
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Applied, Base, Diff, Execution, State

T = TypeVar("T")

_PREFIX = Path(sys.base_prefix).resolve()
_PACKAGES = Path(pytest.__file__).resolve().parents[1]
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# A virtual environment as small as they come; the packages of the one that runs the tests are lent to it, for pytest.
_ENVIRONMENT = f"""
mkdir -p /env/bin /env/lib/{_PYTHON}/site-packages
echo 'home = {_PREFIX}/bin' > /env/pyvenv.cfg
echo '{_PACKAGES}' > /env/lib/{_PYTHON}/site-packages/lent.pth
ln -s {_PREFIX}/bin/{_PYTHON} /env/bin/python
"""
_VARIABLES = {"PYTHONPATH": "/testbed", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # pytest starts five times as fast
_COMMIT = """
git init -q -b main . && git add -A --force .
git -c user.name=t -c user.email=t@localhost commit -q --allow-empty -m 'the source tree'
"""


class Workshop:
    def __init__(self, folder: Path) -> None:
        self.sandbox = Bubblewrap(folder / "states", slots=4)
        self._runner, self._folder = asyncio.Runner(), folder
        self._numbers = itertools.count()
        self._sources: dict[tuple[tuple[str, bytes], ...], State] = {}

    def run(self, awaitable: Awaitable[T]) -> T:
        async def inside() -> T:
            return await awaitable

        return self._runner.run(inside())

    def close(self) -> None:
        self._runner.close()

    def environment(self, files: Mapping[str, str | bytes], **more: Any) -> Environment:
        """A repository of these files, not installed; its tree is on the path."""
        contents = {
            path: text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            for path, text in files.items()
        }
        key = tuple(sorted(contents.items()))
        if key not in self._sources:
            self._sources[key] = self.run(self.source(self.sandbox, contents))
        state = self._sources[key]
        return Environment(**{"state": state, "pristine": state, "env": _VARIABLES} | more)

    def shell(self, state: State, command: str) -> State:
        return self.run(_shell(self.sandbox, state, command))

    def world(self, model: Model | None = None) -> World:
        log = Log(self._folder / f"{next(self._numbers)}.jsonl")
        return World(log, "instance", model or Scripted([]), self.sandbox)

    def play(self, scene: Callable[[World], Awaitable[T]], model: Model | None = None) -> T:
        """What `scene` gives in a new world where `model` answers."""

        async def inside() -> T:
            world = self.world(model)
            try:
                return await scene(world)
            finally:
                await world.close()

        return self.run(inside())

    def trajectory(self, kind: type[T], strategy: Callable[[Step], Awaitable[Ended[T]]], model: Model) -> Ended[T]:
        return self.play(lambda world: trajectory(world, "one", kind, strategy), model)

    def verdict(
        self, environment: Environment, script: str, *, seconds: float = 20, state: State | None = None
    ) -> Verdict:
        async def scene(world: World) -> Verdict:
            here, language = state or environment.state, environment.language
            run = script_run(world, here, script, seconds=seconds, env=environment.env, language=language)
            return read_verdict(run, await world.execute(run))

        return self.play(scene)

    def remembering(self) -> Any:
        """The sandbox for tests that live through the same over and over."""
        return Remembering(self.sandbox)

    def tree(self, environment: Environment) -> Mapping[str, bytes]:
        return self.play(lambda world: read_tree(world, environment))

    def patch(self, environment: Environment, files: Mapping[str, str | bytes | None]) -> bytes:
        """The diff that makes these changes (None: delete), as git takes it."""
        contents = {
            f"/testbed/{path}": text.encode() if isinstance(text, str) else text for path, text in files.items()
        }

        async def scene() -> bytes:
            changed = await self.sandbox.write(environment.state, contents)
            return (await self.sandbox.diff(changed, since=environment.state)).patch

        return self.run(scene())

    @staticmethod
    async def source(sandbox: Bubblewrap, contents: Mapping[str, bytes]) -> State:
        """A repository of these files at its only commit."""
        base = await sandbox.base(Base(binds=tuple(str(place) for place in (_PREFIX, _PACKAGES))))
        state = await _shell(sandbox, base, _ENVIRONMENT)
        state = await sandbox.write(state, {f"/testbed/{path}": text for path, text in contents.items()})
        return await _shell(sandbox, state, _COMMIT)


async def _shell(sandbox: Bubblewrap, state: State, command: str) -> State:
    done = await sandbox.execute(state, ("sh", "-ec", command))
    assert done.exit_code == 0, done.text
    assert done.after
    return done.after


class Remembering:
    """The real sandbox, which executes the same in the same state once: the lives of a trajectory do so over and over."""

    def __init__(self, sandbox: Any) -> None:
        self._sandbox, self._known = sandbox, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sandbox, name)

    async def execute(self, *what: Any, **how: Any) -> Execution:
        return await self._once(self._sandbox.execute, *what, **how)  # type: ignore[no-any-return]

    async def apply(self, *what: Any, **how: Any) -> Applied:
        return await self._once(self._sandbox.apply, *what, **how)  # type: ignore[no-any-return]

    async def diff(self, *what: Any, **how: Any) -> Diff:
        return await self._once(self._sandbox.diff, *what, **how)  # type: ignore[no-any-return]

    async def _once(self, perform: Callable[..., Any], *what: Any, **how: Any) -> Any:
        key = repr((perform.__name__, what, how))
        if key not in self._known:
            self._known[key] = await perform(*what, **how)
        return self._known[key]


def written(old: Mapping[str, str], new: Mapping[str, str | None]) -> bytes:
    """The diff from files to what `new` says of some of them (None: deleted), by no git: quick, for plain cases."""
    parts = []
    for path, text in new.items():
        before, after = old.get(path), text
        lines = difflib.unified_diff(
            (before or "").splitlines(True),
            (after or "").splitlines(True),
            "/dev/null" if before is None else f"a/{path}",
            "/dev/null" if after is None else f"b/{path}",
        )
        mode = "new file mode 100644\n" if before is None else "deleted file mode 100644\n" if after is None else ""
        parts.append(f"diff --git a/{path} b/{path}\n{mode}" + "".join(lines))
    return "".join(parts).encode()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    made.run(made.sandbox.__aenter__())
    try:
        yield made
    finally:
        made.run(made.sandbox.__aexit__())
        made.close()
