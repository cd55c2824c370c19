"""What a head and its workers say to each other, and what each has to be for the other.

The head owns the run's directory and writes every line of every log; a worker solves the instances that are leased to it,
by the code that does it on a laptop. The head hears each worker in one long poll after another and tells it things in
between. Nothing a worker does counts before the head has said that it is written:

    worker                                      head
      lines 7: an intent of instance i, epoch 2 ─►  i is leased to this worker under epoch 2? written to log/i.jsonl
      may send the request                      ◄─  7 is written; spent by all so far: $3.10
      lines 8: the reply                        ─►  written, durable, counted
      the trajectory sees it                    ◄─  8 is written; spent by all so far: $3.12
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from runoff.agent.budget import Budget, Prices, Spent
from runoff.agent.protocol import Call, Reply
from runoff.instance import Instance
from runoff.pipeline import Models
from runoff.recipe import Recipe
from runoff.run import Result
from runoff.sandbox.environments.builder import Contents
from runoff.sandbox.protocol import Sandbox, State


class Lost(Exception):
    """A worker is gone, or as good as gone: its process, its node, or what is between."""


class Answerer(Protocol):
    """A `Model` that knows prices, and keeps to its part of a rate."""

    async def ask(self, call: Call) -> Reply: ...

    def price_of(self, name: str) -> Prices | None: ...

    def share(self, among: int) -> None:
        """From now on it is one of so many that together may ask what one might."""
        ...


class Means(Protocol):
    """What solves, on whatever machine: opened where it is used."""

    def open(self, budget: Budget, stop: Any) -> AbstractAsyncContextManager[tuple[Answerer, Sandbox]]:
        """`stop` is an asyncio.Event."""
        ...


class Job(NamedTuple):
    """What a worker needs to know of a run."""

    means: Means
    recipe: Recipe
    models: Models
    caps: dict[str, Any]
    """Of the run's budget, see `Budget.caps`."""
    spent: Spent
    among: int
    restart_drifted: bool
    prepared: Path | None
    """The index of what is known of repositories; None: nothing is known."""


class Lease(NamedTuple):
    """An instance, for one worker, until it ends or the worker is lost. The same instance's next lease has a higher epoch."""

    instance: Instance
    epoch: int
    log: bytes
    """The lines on record, to go on from."""
    contents: Awaitable[Contents] | None
    """Its repository; None where that is at the same path on every node, or in an image."""


class Found(NamedTuple):
    """What was sought: names and their states, which another node has; nothing where the one that sought is to make them."""

    name: str
    states: tuple[tuple[str, State], ...]


class Part(NamedTuple):
    """Of a layer on its way: the next of it, None when that was all, or when it has `broken` off."""

    layer: str
    data: Awaitable[bytes] | None
    broken: bool = False


class Told(NamedTuple):
    """By the head to a worker."""

    spent: Spent
    among: int
    """How many workers there are: it may ask what is its part of the rates, until it is told another."""
    written: tuple[int, ...] = ()
    """Numbers of lines that are written, and durable where that was asked for."""
    leases: tuple[Lease, ...] = ()
    over: tuple[tuple[str, int], ...] = ()
    """Leases, by instance and epoch, that are this worker's no more."""
    found: tuple[Found, ...] = ()
    parts: tuple[Part, ...] = ()
    stop: bool = False
    """Begin nothing new."""


class Wrote(NamedTuple):
    """Lines for an instance's log."""

    instance: str
    epoch: int
    number: int
    lines: bytes
    sync: bool


class Did(NamedTuple):
    """How far an instance is."""

    instance: str
    epoch: int
    stage: str
    votes: tuple[int, int]


class Finished(NamedTuple):
    """An instance ended. All its lines were written before."""

    instance: str
    epoch: int
    result: Result


class Broke(NamedTuple):
    """What concerns the whole run, or, of a worker that cannot begin, this node."""

    kind: Literal["model", "sandbox", "store", "mistake"]
    what: str
    remedy: str = ""
    exit_code: int = 5


class Has(NamedTuple):
    """A name, and its state whose layers are on this node."""

    name: str
    state: State


class Seeks(NamedTuple):
    """It is about to make `wanted`, alone in the cluster with `name` until it says that it `Left`: or has another them?"""

    name: str
    wanted: tuple[str, ...]


class Left(NamedTuple):
    name: str


class More(NamedTuple):
    """The next part of a layer that was found; or the `first`."""

    layer: str
    first: bool


Said = Wrote | Did | Finished | Broke | Has | Seeks | Left | More


class Hello(NamedTuple):
    """What a worker says first."""

    version: str
    broke: Broke | None


class Away(Protocol):
    """A worker, as the head has it. Each raises Lost."""

    async def hear(self) -> list[Said]:
        """What it has to say, in order; empty after a while without anything, as a sign of life."""
        ...

    def tell(self, told: Told) -> None:
        """Sent, and not waited for; in order."""
        ...

    def ship(self, layer: str) -> AsyncIterator[Awaitable[bytes]]:
        """A layer that it has, in parts, which whoever is told of them gets from there."""
        ...

    async def end(self) -> None:
        """Let it put away what it has, then it is no more."""
        ...

    def kill(self) -> None:
        """It is no more."""
        ...


class Fleet(Protocol):
    """The nodes there are."""

    async def nodes(self) -> dict[str, str]:
        """Those that are alive, and their addresses. Two nodes of one machine have the same."""
        ...

    async def start(self, node: str, job: Job) -> tuple[Away, Hello]:
        """A worker there. Raises Lost."""
        ...

    def put(self, contents: Contents) -> Awaitable[Contents]:
        """Something that is to reach the workers, sent to a node when it is first awaited there."""
        ...
