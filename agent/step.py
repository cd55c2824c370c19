"""Trajectories are straight-line async code; durability lies under them, here.

    async def strategy(step: Step) -> Ended[Candidate]:
        answer = await step.ask("turn1", request)
        tried = await step.execute("turn1/base", run)

An effect is known by its path, not by order or arrival: effects may run together. Resuming is running the function
again: what is on record returns at once, the first effect that is not is performed. Nobody writes resume code.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter

from runoff.agent.budget import Budget, Prices
from runoff.agent.log import Log, Record, ledger_line
from runoff.agent.protocol import (
    BudgetSpent,
    Call,
    ContextOverflow,
    Message,
    Model,
    ModelError,
    ModelMisconfigured,
    ModelUnreachable,
    Reply,
    Request,
    Stopping,
    digest,
)
from runoff.agent.starts import Starts
from runoff.sandbox.protocol import REPO, Execution, Limits, Sandbox, SandboxError, SandboxLost, State, StoreFull, Value

T = TypeVar("T")

Reason = Literal["done", "turns", "context", "budget", "error"]
"""Why a trajectory ended: it said so; its turns were used up; the conversation no longer fits the model; no money or
tokens are left (a later, richer run goes on from here); something failed that was not its fault (retried later)."""


class Drift(Exception):
    """The code asks for something else than what is recorded at that path: prompts, model, sampling or code changed."""


class Ended(Value, Generic[T]):
    """How a trajectory ended, and what it ended in (None: nothing usable; `note` says why, in a line)."""

    reason: Reason
    value: T | None = None
    note: str = ""


class Run(Value):
    """Something to execute: everything its result depends on, beside the backend."""

    state: State
    argv: tuple[str, ...]
    stdin: str = ""
    env: dict[str, str] = {}
    cwd: str = REPO
    limits: Limits = Limits()
    freeze: bool = False
    repetition: int = 0
    """A different number is another execution of the same: the only way to run something twice."""
    template: bool = False
    """See `Sandbox.execute`: how it is started, which nothing in its result depends on."""

    def parts(self) -> dict[str, str]:
        """What its result is kept under, part by part, so that drift can say which part changed."""
        whole = self.model_dump(mode="json", exclude={"state", "template"})
        return {"state": self.state.digest} | {name: _short(value) for name, value in whole.items()}


def execution_key(sandbox: str, parts: Mapping[str, str]) -> str:
    """What an execution's result is kept under: by the backend's name and the parts of its run."""
    return digest(sandbox, *(f"{name}={value}" for name, value in sorted(parts.items())))


class Answer(NamedTuple):
    conversation: Message
    """The request's conversation and the reply after it."""
    reply: Reply


class World:
    """What effects act on, for one instance: who answers, where things run, what may be spent, when to stop."""

    def __init__(self, log: Log, instance: str, model: Model, sandbox: Sandbox, budget: Budget | None = None) -> None:
        self.log, self.instance, self.model, self.sandbox = log, instance, model, sandbox
        self.budget = budget or Budget()
        self.starts = Starts()
        """When its trajectories may begin; shared by all that share a budget."""
        self.cap: Callable[[], Budget] = Budget
        """Makes the budget that each trajectory has of its own."""
        self.reserve = 0.0
        """The share of the budget that nothing may be asked from now: it is kept for what comes last."""
        self._purses: dict[str, Budget] = {}
        self.setup: dict[str, Any] | None = None
        """How the repository was installed, where that was detected: stands in the run's views."""
        self.votes = (0, 0)
        """Cells of the outcome table that have ended, and all of them: progress for people."""
        self.restart_drifted = False
        """Whether a trajectory that drifted is set aside and begun again, rather than stopping the run."""
        self.stopping = False
        """Set by whoever wants the run to end: what is on its way is finished and recorded, nothing new is asked."""
        self.changed: Callable[[str, str], None] = lambda trajectory, path: None
        """Told of every effect that has been performed: progress for people."""
        self._running: dict[str, asyncio.Task[Any]] = {}

    def check(self, trajectory: str) -> None:
        """Raises BudgetSpent if a trajectory may not ask any more."""
        self._purse(trajectory).check()
        self.budget.check(self.reserve)

    def add(self, trajectory: str, reply: Reply, model: str) -> None:
        """Count what a call took."""
        self._purse(trajectory).add(reply, model)
        self.budget.add(reply, model)
        self.starts.took(self.instance, trajectory, reply)

    def count_back(self, price_of: Callable[[str], Prices | None] = lambda model: None) -> None:
        """Count what the log says was paid for before: once, after opening it."""
        for line in self.log.ledger:
            self.add(line["t"], priced(line, price_of), line["model"])

    def _purse(self, trajectory: str) -> Budget:
        if trajectory not in self._purses:
            self._purses[trajectory] = self.cap()
        return self._purses[trajectory]

    async def execute(self, run: Run) -> Execution:
        """An execution's result: from the record if it was ever executed, shared if it is being executed now."""
        key = execution_key(self.sandbox.name, run.parts())
        if (known := self.log.executions.get(key)) is not None:
            done = Execution.model_validate(known)
            if done.after is None or self.sandbox.find(done.after.digest):
                return done  # otherwise the state it ended in was lost with the store: made again
        return await self._shared(f"execution {key}", lambda: self._execute(key, run))

    async def derive(self, what: str, make: Callable[[], Awaitable[State]]) -> State:
        """A state that a pure operation gives (`what` names the operation and all it depends on), made once."""
        if (known := self.log.derived.get(what)) is not None:
            state = State.model_validate(known)
            if self.sandbox.find(state.digest):
                return state

        async def perform() -> State:
            state = await make()
            self.log.derived[what] = state.model_dump(mode="json")
            self.log.append({"kind": "derived", "key": what, "state": self.log.derived[what]})
            return state

        return await self._shared(f"derived {what}", perform)

    def note(self, what: str, state: State) -> None:
        """Name in the log a state that something else keeps, so that it counts as in use, and later as referred to."""
        known = state.model_dump(mode="json")
        if self.log.derived.get(what) != known:
            self.log.derived[what] = known
            self.log.append({"kind": "derived", "key": what, "state": known})

    async def close(self) -> None:
        """Cancel what still executes for nobody, and close the log. Raises LogBroken if it cannot be written."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await self.log.close()

    async def _execute(self, key: str, run: Run) -> Execution:
        done = await self.sandbox.execute(
            run.state,
            run.argv,
            run.limits,
            stdin=run.stdin.encode("utf-8", "surrogateescape"),
            env=run.env,
            cwd=run.cwd,
            freeze=run.freeze,
            template=run.template,
        )
        if done.outcome == "lost":  # not a result: never recorded
            raise SandboxLost(f"the sandbox failed under {' '.join(run.argv)[:80]}: {done.text[:200].strip()}")
        self.log.executions[key] = self.log.secrets.redacted(done.model_dump(mode="json"))
        self.log.append({"kind": "execution", "key": key, "result": self.log.executions[key]})
        return Execution.model_validate(self.log.executions[key])

    async def _shared(self, name: str, perform: Callable[[], Awaitable[T]]) -> T:
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.ensure_future(perform())
            task.add_done_callback(lambda _: self._running.pop(name, None))
        return await _wait(task)


class Step:
    """The only thing a strategy can act through: effects, decisions and chance, each known by its path."""

    def __init__(self, world: World, trajectory: str, at: str = "", used: set[str] | None = None) -> None:
        self.world, self.trajectory = world, trajectory
        self._at = at
        self._used = set[str]() if used is None else used

    def scope(self, name: str) -> Step:
        return Step(self.world, self.trajectory, f"{self._at}{name}/", self._used)

    def was_here(self) -> bool:
        """Whether more of this trajectory is on record than was asked for so far: it did this in an earlier life."""
        return not self.world.log.effects[self.trajectory].keys() <= self._used

    async def ask(self, name: str, request: Request) -> Answer:
        """A model's reply, paid for once. Raises what `Model.ask` raises; ContextOverflow is on record too."""
        talk, log = request.conversation, self.world.log
        asked = {"model": request.model, "sampling": _short(request.sampling.parts()), "messages": talk.digest}
        if request.tools:
            asked["tools"] = digest(json.dumps([tool.model_dump(mode="json") for tool in request.tools]))
        record: Record = {"t": self.trajectory, "path": self._claim(name), "kind": "ask", "request": asked}
        key = (self.trajectory, record["path"])
        if old := self._recorded(record, talk):
            if old["kind"] == "refused":
                raise ContextOverflow(old["why"])
            reply = Reply.model_validate(old["result"])
            return Answer(talk.then("assistant", reply.text, calls=reply.calls), reply)
        if self.world.stopping:
            raise Stopping("stopped by the user")
        self.world.check(self.trajectory)
        # The intent is written before the request is sent, so that no kill can hide a bill.
        await log.append(record | {"kind": "intent", "new": log.unwritten(talk)})
        began = time.monotonic()
        try:
            reply = await self.world.model.ask(
                Call(self.world.instance, *key, request, lambda: self.world.check(self.trajectory))
            )
        except ModelError as error:
            record |= {"kind": "refused", "why": str(error), "final": isinstance(error, ContextOverflow)}
            record["seconds"] = round(time.monotonic() - began, 3)
            if error.spent:
                self.world.add(self.trajectory, error.spent, request.model)
                record["result"] = _billed(error.spent)
                log.ledger.append(ledger_line(record))
            await log.append(record, sync=error.spent is not None)
            raise
        # Taken out before anybody sees it, not only in the log: a replay must give what was given the first time.
        reply = Reply.model_validate(log.secrets.redacted(reply.model_dump()))
        self.world.add(self.trajectory, reply, request.model)
        said = talk.then("assistant", reply.text, calls=reply.calls)
        log.before[said.digest] = talk.digest
        record |= {"result": _billed(reply) | {"text": reply.text}, "new": [[said.digest, talk.digest]]}
        record["seconds"] = round(time.monotonic() - began, 3)
        log.ledger.append(ledger_line(record))
        await log.append(record, sync=True)
        self.world.changed(self.trajectory, record["path"])
        return Answer(said, reply)

    async def execute(self, name: str, run: Run) -> Execution:
        record: Record = {"t": self.trajectory, "path": self._claim(name), "kind": "execute", "request": run.parts()}
        old = self._recorded(record)
        done = await self.world.execute(run)
        if not old:
            self.world.log.append(record)
            self.world.changed(self.trajectory, record["path"])
        return done

    async def once(self, name: str, decide: Callable[[], Awaitable[Any]], **given: Any) -> Any:
        """Any choice, as a JSON value, that a replay must repeat: time, what had ended first, when to stop."""
        record: Record = {"t": self.trajectory, "path": self._claim(name), "kind": "once", "request": _plain(given)}
        if old := self._recorded(record):
            return old["result"]
        result = self.world.log.secrets.redacted(_plain(await decide()))
        self.world.log.append(record | {"result": result})
        return result

    def random(self, name: str) -> random.Random:
        """Chance that is the same on replay: derived from the path, nothing to record."""
        return random.Random(f"{self.world.instance}\0{self.trajectory}\0{self._claim(name)}")

    async def all(self, branches: Mapping[str, Callable[[Step], Awaitable[T]]]) -> dict[str, T]:
        """Run branches together, each in the scope of its name. An error waits until the others, paid for too, have ended."""
        return dict(
            zip(branches, await settled(*(branch(self.scope(name)) for name, branch in branches.items())), strict=True)
        )

    def _claim(self, name: str) -> str:
        path = self._at + name
        if path in self._used:
            raise ValueError(
                f"{self.trajectory}: two effects are called {path}; name each, or give each branch a scope"
            )
        self._used.add(path)
        return path

    def _recorded(self, new: Record, talk: Message | None = None) -> Record | None:
        """What is on record of an effect; None if it is to be performed. Raises Drift.

        A model answers differently the second time. So what comes after a reply that damage took, and was asked again,
        differs as well: that is not drift, and the new record takes the place of the old.
        """
        log = self.world.log
        new["request"] = log.secrets.redacted(new["request"])  # as it will be read from the log
        old = log.effects[self.trajectory].get(new["path"])
        if old and _same(old, new):
            return old
        if old and not old["doubtful"]:
            raise _drift(old, new, talk, log)
        log.reconsider(self.trajectory, self._used, new["path"])
        return None


async def trajectory(
    world: World, name: str, kind: type[T], strategy: Callable[[Step], Awaitable[Ended[T]]]
) -> Ended[T]:
    """Run a trajectory to its end, or give the end that is on record.

    `done`, `turns` and `context` are results and stay. `budget` and `error` are recorded as a stop: the same command,
    given again, goes on from there. Raises Drift, Stopping, ModelMisconfigured, StoreFull: those concern the whole run.
    """
    adapter: TypeAdapter[Ended[T]] = TypeAdapter(Ended[kind])  # type: ignore[valid-type]
    if (known := world.log.ended.get(name)) is not None:
        return adapter.validate_python(known)
    try:
        try:
            ended = await strategy(Step(world, name))
        except Drift as drift:
            if not world.restart_drifted:
                raise
            world.log.set_aside(name, set(), str(drift))
            ended = await strategy(Step(world, name))
    except ContextOverflow as error:
        ended = Ended(reason="context", note=str(error))
    except BudgetSpent as error:
        ended = Ended(reason="budget", note=str(error))
    except (Stopping, ModelMisconfigured, StoreFull):
        raise
    except (ModelUnreachable, SandboxError) as error:
        ended = Ended(reason="error", note=str(error))
    if ended.reason in ("budget", "error"):
        world.log.append({"t": name, "kind": "stopped", "reason": ended.reason, "why": ended.note})
        return ended
    world.log.ended[name] = adapter.dump_python(ended, mode="json")
    await world.log.append({"t": name, "kind": "end", "result": world.log.ended[name]})
    world.changed(name, "")
    return ended


async def settled(*running: Awaitable[T]) -> list[T]:
    """All results in order. The first error is raised only when all have ended: what the others paid for is on record.

    Cancelled, it cancels them and waits until they have let go of what they hold.
    """
    tasks = [asyncio.ensure_future(one) for one in running]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    errors = [error for task in tasks if (error := task.exception())]
    if errors:
        raise errors[0]
    return [task.result() for task in tasks]


async def _wait(task: asyncio.Future[T]) -> T:
    """A result that others may wait for too: one waiter's cancellation does not cancel it for everyone."""
    return await asyncio.shield(task)


def _billed(reply: Reply) -> dict[str, Any]:
    return reply.model_dump(mode="json", exclude_defaults=True) | {"cost": reply.cost}


def priced(line: Record, price_of: Callable[[str], Prices | None]) -> Reply:
    """What a line of the ledger took. A price that was not known then is applied now, if it is known now."""
    known = {part: line[part] for part in ("usage", "cost", "recorded", "cut") if line.get(part) is not None}
    reply = Reply.model_validate({"text": ""} | known)
    price = price_of(line["model"]) if reply.cost is None or (reply.cut and reply.cut.cost is None) else None
    if price is None:
        return reply
    cost = price.of(reply.usage) if reply.cost is None else reply.cost
    cut = reply.cut.model_copy(update={"cost": price.of(reply.cut.usage)}) if reply.cut else None
    return reply.model_copy(update={"cost": cost, "cut": cut})


def _plain(value: Any) -> Any:
    """As a replay will read it from the log: tuples are lists by then."""
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else "#" + digest(text)


def _same(old: Record, new: Record) -> bool:
    return old["kind"] in (new["kind"], "refused") and old["request"] == new["request"]


def _drift(old: Record, new: Record, talk: Message | None, log: Log) -> Drift:
    kind = new["kind"] if old["kind"] == "refused" else old["kind"]
    was, now = {"kind": kind, **old["request"]}, {"kind": new["kind"], **new["request"]}
    differs = {
        part: f"{part}: {was.get(part)!r} is now {now.get(part)!r}"
        for part in was | now
        if was.get(part) != now.get(part)
    }
    if talk and "messages" in differs:
        recorded, here = set[str](), was.get("messages")  # a digest covers all before it
        while here:
            recorded.add(here)
            here = log.before.get(here)
        differs["messages"] = f"messages, from number {sum(m.digest in recorded for m in talk.back()) + 1} on"
    return Drift(
        f"{new['t']} at {new['path']} was recorded otherwise ({'; '.join(differs.values())}); "
        "--restart-drifted sets it aside and begins it again, its cost is kept in the ledger"
    )
