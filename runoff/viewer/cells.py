"""Which execution a cell of the outcome table was, found again: the log keeps results by what was executed, not by what for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple, cast

from runoff.agent.log import Record
from runoff.agent.step import World, execution_key
from runoff.agent.verdict import Verdict, must_fail_control, read_verdict, script_run
from runoff.sandbox.protocol import Execution, State
from runoff.selection.protocol import Entry, OutcomeTable
from runoff.viewer.index import Index

_BUILT = 500
"""States that a build may have ended in, of which the right one is looked for, at most."""
_ENVS: tuple[dict[str, str], ...] = ({}, {"PYTHONPATH": "/testbed:/testbed/src"})
"""What environments set, where no execution of a trajectory says it."""


class Shown(NamedTuple):
    """An execution, and what it says as a test."""

    key: str
    done: Execution
    verdict: Verdict


def cell(index: Index, table: OutcomeTable, entry: Entry | None, test: str, seconds: float) -> Shown | None:
    """The execution of a generated test, or the `control`, on an entry; None as the entry: on the base. None: it is not found,
    as where a repository was built again, or the log is of another version."""
    scripts = [table.scripts.get(test, "")]
    if test == "control":
        failing = [name for name in table.base if table.base[name] == "fail"]
        scripts = [
            must_fail_control([table.scripts[name] for name in names if name in table.scripts], language)
            for names in (list(table.generated), failing)
            for language in ("python", "javascript")
        ]
    for state in _states(index, entry):
        for script in filter(None, scripts):
            for key in _keys(index, state, script, seconds):
                if key in index.done and (found := verdict(index, key, state, script, seconds)):
                    return found
    return None


def verdict(index: Index, key: str, state: State, script: str, seconds: float = 60) -> Shown | None:
    """What an execution of a script in a state says; believed only of a record behind the nonce of that very run."""
    at = index.done.get(key)
    record = index.record(at.place) if at else None
    if record is None:
        return None
    done = Execution.model_validate(record["result"])
    for repetition in (0, 1):
        run = script_run(
            _world(index), state, script, seconds=seconds, env={}, language="python", repetition=repetition
        )
        if done.outcome != "finished" or json.loads(run.stdin)["nonce"].encode() in done.stdout:
            break
    return Shown(key, done, read_verdict(run, done, shown=1 << 20))


def state_of(index: Index, digest: str) -> State | None:
    """The state of a digest, as the log says what it consists of."""
    record: Record | None = index.record(index.states[digest]) if digest in index.states else None
    said = (record.get("state") or (record.get("result") or {}).get("after")) if record else None
    return State.model_validate(said) if said else None


def _states(index: Index, entry: Entry | None) -> Iterator[State]:
    """Where an entry's tests may have run, likeliest first."""
    if entry is None:
        wanted = [state for what, state in index.derived.items() if what.startswith("environment ")]
    else:
        name = hashlib.blake2b(entry.candidate.patch, digest_size=16).hexdigest()
        wanted = [state for what, state in index.derived.items() if what.endswith(f" apply {name}")]
        wanted += [state for state in index.states if state not in index.derived.values()][-_BUILT:]
    for digest in dict.fromkeys(wanted):
        if state := state_of(index, digest):
            yield state


def _keys(index: Index, state: State, script: str, seconds: float) -> Iterator[str]:
    for repetition in (0, 1):
        run = script_run(
            _world(index), state, script, seconds=seconds, env={}, language="python", repetition=repetition
        )
        parts = run.parts()
        for way in index.ways:
            for limits in dict.fromkeys((parts["limits"], dict(way)["limits"])):
                yield execution_key(index.sandbox, parts | dict(way) | {"limits": limits})
        if not index.ways:
            for language in ("python", "javascript"):
                for env in _ENVS:
                    other = script_run(
                        _world(index), state, script, seconds=seconds, env=env, language=language, repetition=repetition
                    )
                    yield execution_key(index.sandbox, other.parts())


def _world(index: Index) -> World:
    return cast(World, SimpleNamespace(log=SimpleNamespace(secret=index.secret)))  # a run takes no more of it
