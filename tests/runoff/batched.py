"""The process that the batch's kill test kills: several instances, an answer for everything at once, executions played.

Its arguments: a folder, and `record` or `play`. `record` runs once in the real sandbox and keeps all that it gave in
FOLDER/executions; a number after it is that of the trajectories, of which each fourth is answered alike. `play` forks a
process for each line it reads, {"life", "out"}: that runs the batch by what is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from runoff.agent.budget import Budget
from runoff.agent.log import LogBroken
from runoff.agent.protocol import Call, Reply, Usage
from runoff.instance import local_instance
from runoff.models import roles
from runoff.recipe import load_recipe
from runoff.report import report
from runoff.run import Run, RunDirectory, write_views
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.environments import builder
from runoff.sandbox.environments.dependencies import Plan
from runoff.sandbox.protocol import State
from tests.runoff.test_kill import SOURCE, answer

NAMES = ("a", "b", "c")
ISSUE = "minutes('-1:30') gives -30, it should be -90."
_PERFORMED = ("base", "execute", "write", "unpack", "read", "apply", "diff")


class Recorder:
    """The real sandbox, and everything that it gave."""

    def __init__(self, sandbox: Any) -> None:
        self._sandbox, self.name = sandbox, "played"
        self.given: dict[str, Any] = {}
        self.kept: dict[str, State] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sandbox, name)
        if name not in _PERFORMED:
            return found

        async def performed(*what: Any, **how: Any) -> Any:
            key, nonce = _key(name, what, how)
            given = await found(*what, **how)
            self.given[key] = (nonce, given)
            return given

        return performed

    def keep(self, name: str, state: State) -> None:
        self.kept[name] = state
        self._sandbox.keep(name, state)

    def named(self, name: str) -> State | None:
        return self._sandbox.named(name)  # type: ignore[no-any-return]


class Played:
    """A sandbox without latency: what the real one gave, for the same question."""

    name = "played"

    def __init__(self, given: dict[str, Any], kept: dict[str, State]) -> None:
        self._given, self._kept = given, kept
        self._states = dict[str, State]()
        for _, value in given.values():
            for state in (value, *(getattr(value, part, None) for part in ("after", "state"))):
                if isinstance(state, State):
                    self._states[state.digest] = state
        self._states |= {state.digest: state for state in kept.values()}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _PERFORMED:
            raise AttributeError(name)

        async def played(*what: Any, **how: Any) -> Any:
            await asyncio.sleep(0)
            key, nonce = _key(name, what, how)
            was, given = self._given[key]
            if nonce and was:
                given = given.model_copy(update={"stdout": given.stdout.replace(was.encode(), nonce.encode())})
            return given

        return played

    def named(self, name: str) -> State | None:
        return self._kept.get(name)

    def find(self, digest: str) -> State | None:
        return self._states.get(digest)

    def keep(self, name: str, state: State) -> None:
        pass

    def refer(self, path: Path) -> None:
        pass

    def release(self, path: Path) -> None:
        pass

    async def make_room(self, size: int) -> None:
        pass

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        yield


class AtOnce:
    """Answers everything, and notes who asked before it does: a line is one write, which no kill can tear."""

    def __init__(self, notes: Path, life: int) -> None:
        self._notes, self._life = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT), life

    async def ask(self, call: Call) -> Reply:
        said = [message.text for message in call.request.conversation.messages()]
        noted = {"life": self._life, "instance": call.instance, "t": call.trajectory, "path": call.path}
        os.write(self._notes, json.dumps(noted).encode() + b"\n")
        await asyncio.sleep(0)
        return Reply(text=answer(_like(call.trajectory), call.path, said), usage=Usage(input=100, output=10), cost=0.01)


def _like(trajectory: str) -> str:
    """The one of four that answers as this one does."""
    kind, _, number = trajectory.rpartition("-")
    return f"{kind}-{(int(number) - 1) % 4 + 1}" if kind in ("testing", "editing") else trajectory


def _key(name: str, what: tuple[Any, ...], how: dict[str, Any]) -> tuple[str, str]:
    """What was asked, without the nonce of whoever asked, and the nonce."""
    nonce, stdin = "", how.get("stdin", b"")
    if stdin.startswith(b'{"nonce"'):
        nonce = json.loads(stdin)["nonce"]
        how = how | {"stdin": stdin.replace(nonce.encode(), b"")}
    return repr((name, what, sorted(how.items()))), nonce


async def batch(folder: Path, out: Path, sandbox: Any, life: int, trajectories: int = 4) -> None:
    builder.plan = lambda files, node=None: Plan()  # nothing is installed: no network
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for name, text in SOURCE.items():
        (source / name).write_text(text)
    made, _ = local_instance(source, ISSUE, test="python -m unittest -q")
    instances = [made.model_copy(update={"id": name}) for name in NAMES]
    recipe = load_recipe("hybrid", [f"trajectories={trajectories}"])
    notes = folder / f"{out.name}.asked"
    run = Run(RunDirectory(out), instances, recipe, roles(["m"]), AtOnce(notes, life), sandbox, Budget(), at_once=2)
    try:
        results = await run.solve()
    finally:
        await run.close()
    write_views(run.directory, results, report(run, results, seconds=0))
    said = {"damaged": {result.instance: result.damaged for result in results}, "remarks": run.directory.remarks}
    (folder / f"{out.name}.said").write_text(json.dumps(said))


async def record(folder: Path, trajectories: int) -> None:
    async with Bubblewrap(folder / "states", "root") as real:
        sandbox = Recorder(real)
        await batch(folder, folder / "calm", sandbox, 0, trajectories)
    (folder / "executions").write_bytes(pickle.dumps((sandbox.given, sandbox.kept)))


def play(folder: Path) -> None:
    given, kept = pickle.loads((folder / "executions").read_bytes())
    asyncio.run(batch(folder, folder / "warm", Played(given, kept), 0))  # what is imported and compiled once

    last = None
    for line in sys.stdin:
        if last:
            os.waitpid(last, 0)
        wanted = json.loads(line)
        if (child := os.fork()) == 0:
            try:
                asyncio.run(batch(folder, Path(wanted["out"]), Played(given, kept), wanted["life"]))
                os._exit(0)
            except (LogBroken, OSError) as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(5)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        print(child, flush=True)
        ended = os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOWAIT
        )  # its number stays its own until nobody kills it any more
        assert ended
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
        last = child


if __name__ == "__main__":
    place = Path(sys.argv[1])
    asyncio.run(record(place, int((*sys.argv, 4)[3]))) if sys.argv[2] == "record" else play(place)
