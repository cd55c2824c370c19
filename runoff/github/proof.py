"""The proof of a patch: a test that a trajectory wrote, what it said on the base commit, and what it says on the patch.

What it said is read from the run's log, where every execution is on record. Only what is not kept there is executed again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from runoff.agent.environment import Environment, Language, patched
from runoff.agent.log import Record
from runoff.agent.step import Run, World
from runoff.agent.verdict import Verdict, nonce, read_verdict, script_run
from runoff.sandbox.protocol import Execution, State, Value
from runoff.selection.protocol import Entry, OutcomeTable, Selection

SHOWN = 4000
"""Characters of a script's output that are kept, head and tail."""


class Reproduction(Value):
    """A generated test that fails on the base and passes on the patch."""

    test: str
    writers: tuple[str, ...]
    """All trajectories that wrote this script."""
    independent: bool
    """Whether one of them did not also propose this patch."""
    script: str
    fails: int
    """Other candidates that it fails."""


class Proof(Value):
    """A reproduction, and what it said of each commit."""

    of: Reproduction
    base: Verdict
    patch: Verdict
    language: Language = "python"
    again: bool = False
    """Whether it was executed again to show this: the run's own record of it was not kept."""


def reproductions(selection: Selection, origins: Mapping[str, str] = {}) -> list[Reproduction]:
    """The tests that could prove the entry that was decided for, the most telling first. Pure.

    First those that someone else than the patch's authors wrote, then those that fail most of the other candidates, then
    those that most trajectories wrote; a short one before a long one. Tests that candidates brought as changes of the
    repository's own are no scripts, and whose votes were not counted prove nothing.
    """
    table, entry = selection.table, decided_for(selection)
    if not table or not entry:
        return []
    found = [
        _reproduction(test, table, entry, origins)
        for test in table.generated
        if test not in table.authors
        and test not in selection.silent
        and table.scripts.get(test, "").strip()
        and table.base.get(test) == "fail"
        and table.rows[entry.id].get(test) == "pass"
    ]
    return sorted(
        found, key=lambda one: (not one.independent, -one.fails, -len(one.writers), len(one.script), one.test)
    )


def decided_for(selection: Selection) -> Entry | None:
    """What is submitted; or would have been, where the selection abstained."""
    name = selection.chosen or (selection.confidence.of if selection.confidence else None)
    return next((entry for entry in selection.entries if entry.id == name), None)


def _reproduction(test: str, table: OutcomeTable, entry: Entry, origins: Mapping[str, str]) -> Reproduction:
    writers = table.same.get(test, (test,))

    def whose(name: str) -> str:
        return origins.get(name, name)

    authors = set(map(whose, entry.proposers))
    return Reproduction(
        test=test,
        writers=writers,
        independent=any(whose(name) not in authors for name in writers),
        script=table.scripts[test],
        fails=sum(row.get(test) == "fail" for name, row in table.rows.items() if name != entry.id),
    )


class Recorded:
    """What a log says of runs of scripts. Told its records in order."""

    def __init__(self) -> None:
        self._secret = ""
        self._bases: list[State] = []
        self._patched: dict[str, list[State]] = {}
        self._runs: dict[str, Any] = {}
        """Nonce → the execution behind whose output it stands."""

    def take(self, record: Record) -> None:
        if record["kind"] == "opened":
            self._secret = record["secret"]
        elif record["kind"] == "derived":
            key = str(record["key"])
            if key.startswith("environment "):
                self._bases.append(State.model_validate(record["state"]))
            elif found := re.fullmatch(r"\S+ apply (\S+)", key):
                self._patched.setdefault(found[1], []).append(State.model_validate(record["state"]))
        elif record["kind"] == "execution":
            found = re.search(r"\n([0-9a-f]{32}) \{[^\n]*\}\n?[^\n]*\Z", record["result"].get("stdout") or "")
            if found:
                self._runs[found[1]] = record["result"]

    def proof(self, of: Reproduction, patch: bytes, language: Language) -> Proof | None:
        """None: not all of it is on record, or it is otherwise there."""
        name = hashlib.blake2b(patch, digest_size=16).hexdigest()
        base = self._verdict(of.script, self._bases)
        after = self._verdict(of.script, self._patched.get(name, ()))
        if not base or not after or (base.outcome, after.outcome) != ("not fixed", "fixed"):
            return None
        return Proof(of=of, base=base, patch=after, language=language)

    def _verdict(self, script: str, states: Iterable[State]) -> Verdict | None:
        for state in states:
            for repetition in (0, 1):
                name = nonce(self._secret, state, script, repetition)
                if (kept := self._runs.get(name)) is not None:
                    stdin = json.dumps({"nonce": name})
                    return read_verdict(Run(state=state, argv=(), stdin=stdin), Execution.model_validate(kept), SHOWN)
        return None


def proven(recorded: Recorded, selection: Selection, origins: Mapping[str, str], language: Language) -> Proof | None:
    """By the most telling reproduction whose runs are on record."""
    entry = decided_for(selection)
    if not entry:
        return None
    tried = (recorded.proof(of, entry.candidate.patch, language) for of in reproductions(selection, origins))
    return next(filter(None, tried), None)


async def executed(
    world: World, environment: Environment, of: Reproduction, patch: bytes, seconds: float
) -> Proof | str:
    """The same by executing what is not on record; the text says why there is none. Raises Refused where the patch no longer
    applies or builds."""
    states = {"base": environment.state, "patch": await patched(world, environment, patch)}
    verdicts, before = dict[str, Verdict](), len(world.log.executions)
    for name, state in states.items():
        run = script_run(world, state, of.script, seconds=seconds, env=environment.env, language=environment.language)
        verdicts[name] = read_verdict(run, await world.execute(run), SHOWN)
    said = tuple(verdict.outcome for verdict in verdicts.values())
    if said != ("not fixed", "fixed"):
        return f"executed again, {of.test} says {said[0]} on the base and {said[1]} on the patch"
    again = len(world.log.executions) > before
    return Proof(of=of, base=verdicts["base"], patch=verdicts["patch"], language=environment.language, again=again)
