"""What a command line or a caller of the library asks for, resolved: the seam that both go through, on the way to a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from runoff.instance import Instance
from runoff.pipeline import Entrants, Models
from runoff.recipe import Recipe
from runoff.run import Result, Run


class Told(TypedDict, total=False):
    """The options of `solve`, `elect` and `bench`, as `--help` says of each; what is absent or None has its default."""

    models: Sequence[str]
    api_base: str | None
    prices: Sequence[str]
    trajectories: int | None
    budget: str | None
    rates: Sequence[str]
    stall: float | None
    tools: str
    samples: str
    recipe: str
    settings: Sequence[str]
    out: Path | None
    states: Path | None
    states_limit: int | None
    index: Path | None
    index_hosts: Sequence[str]
    sandbox: str
    record: Path | None
    restart_drifted: bool
    calibration: Path | None
    abstain_below: float | None
    precision: float | None
    at_once: int | None
    executor: str
    address: str | None
    shared: bool
    comments: str | None
    unless_claimed: bool
    """Of `solve` alone, for an issue on GitHub."""
    entrants: Mapping[str, Entrants] | None
    """Of `elect` alone, and no option: instance → the candidates to choose among."""


class Request(NamedTuple):
    """A run, before it begins: everything was read and nothing was done."""

    instances: Sequence[Instance]
    recipe: Recipe
    models: Models
    out: Path
    options: Told


Attending = Callable[[Run], Awaitable[list[Result]]]
"""Lets a run solve, and watches over it meanwhile: for a terminal, or for a program. Whoever cancels it stops the run."""
