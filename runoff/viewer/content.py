"""What the window shows, as JSON values: a function for each page. Texts are as they were written; the page makes them safe to see."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runoff import __version__
from runoff.agent import edits
from runoff.agent.log import Record
from runoff.agent.verdict import capped
from runoff.instance import Instance
from runoff.pipeline import Outcome
from runoff.replay import Stored
from runoff.report import Case, files, player
from runoff.reporting.accounts import Unit
from runoff.reporting.cases import Read
from runoff.reporting.page import MEANS
from runoff.reporting.runs import read_view
from runoff.run import Result
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Entry, OutcomeTable, Selection
from runoff.viewer import cells
from runoff.viewer.index import Effect, Index
from runoff.viewer.store import Looked, Store

Json = Any
PROMPT = 1_500
"""Characters of a prompt that come with its trajectory; all of it is asked for when it is opened."""
OUTPUT = 6_000
"""Of what an execution printed, head and tail."""
WHOLE = 400_000
"""Of a text that was asked for."""
_REPLY = 60_000
_LINES = 2_000  # of a file's diff
_SURE = 4_000  # cells of a table up to which it is tried what the ranking hangs on
_SOON = 0.35
"""Seconds in which there is something to see, if not all."""
_MARKS = {"pass": "p", "fail": "f", "could not tell": "?"}


class NotHere(Exception):
    """There is no such thing; the message says what there is."""


def answer(store: Store, asked: Sequence[str]) -> Json:
    """What a page asks: a kind, the run's name, and what else names the thing. Raises NotHere, BadRun."""
    try:
        kind, *names = asked
        if kind == "runs":
            return runs(store)
        run = store.run(names[0])
        return _KINDS[kind](run, *names[1:])
    except (KeyError, TypeError, ValueError) as error:
        raise NotHere(f"there is no {' / '.join(map(str, asked))} here") from error


def runs(store: Store) -> Json:
    return {
        "place": str(store.place),
        "alone": store.alone,
        "version": __version__,
        "runs": [one.model_dump(mode="json") for one in store.listed()],
    }


def run(looked: Looked) -> Json:
    """A run and the rows of its instances; those that are not read yet are null, and come as events."""
    said, recipe = looked.said, looked.said["recipe"]
    looked.refresh_state()
    return {
        "name": looked.name,
        "path": str(looked.path),
        "state": looked.state,
        "recipe": recipe.get("name", ""),
        "trajectories": recipe.get("trajectories"),
        "models": sorted({player(one) for model in said["model"].values() for one in str(model).splitlines()}),
        "sandbox": looked.sandbox,
        "election": "candidates" in said,
        "means": dict(MEANS),
        "instances": [[name, looked.rows.get(name)] for name in looked.names],
        "settings": json.dumps({part: said[part] for part in ("recipe", "model", "about") if part in said}, indent=1),
    }


def instance(looked: Looked, name: str) -> Json:
    """An instance: what was decided, on what, and every trajectory in a line; of a log that takes longer to read, as far as
    it was `reached`."""
    read, stored = looked.read(name, _SOON)
    with looked.index(name, 0) as index:
        reached = index.read / max(1, index.size) if index.more else 1
        files_shown, issue = index.account.context, _issue(index)
        under_way = {t for t, _ in index.pending}
        begun = [*dict.fromkeys(unit.name for unit in read.units)]
    case = _case(looked, name, read, stored)
    selection = case.selection
    return {
        "name": name,
        "reached": reached,
        "status": read.case.status,
        "fate": read.case.fate,
        "resolved": read.case.resolved,
        "decided": case.decided,
        "why": case.why if case.result.why else "",
        "means": case.means if read.case.status else "",
        "missed": read.case.missed,
        "issue": issue,
        "context": files_shown,
        "chosen": selection.chosen if selection else None,
        "selection": _selection(case, selection, read.known.labels) if selection else None,
        "damaged": read.case.damaged,
        "billed": read.case.possibly_billed,
        "units": [_unit(unit, unit.name in under_way) for unit in read.units],
        "order": begun,
    }


def candidate(looked: Looked, name: str, entry: str) -> Json:
    """A candidate's patch, by file."""
    _, _, selection = _decided(looked, name)
    found = _entry(selection, entry)
    return {
        "id": found.id,
        "files": patch(found.candidate.patch),
        "removed": found.removed,
        "proposers": found.proposers,
    }


def cell(looked: Looked, name: str, row: str, test: str) -> Json:
    """A cell of the outcome table: what was run, and what it said. The row `base` is the code without a patch."""
    _, stored, selection = _decided(looked, name)
    table = selection.table
    if table is None:
        raise NotHere(f"{name} has no outcome table")
    entry = None if row == "base" else _entry(selection, row)
    found: dict[str, Json] = {
        "row": row,
        "test": test,
        "cell": _cell(table, row, test),
        "why": table.reasons.get(f"{row}/{test}", ""),
        "script": table.scripts.get(test, ""),
        "same": table.same.get(test, (test,)),
        "authors": table.authors.get(test, ()),
        "silent": selection.silent.get(test, ""),
    }
    if test == "repository":
        lost = table.broken.get(row, ())
        return found | {"cell": None, "repository": table.repository[:2000], "broken": lost}
    with looked.index(name) as index:
        run_ = cells.cell(index, table, entry, test, stored.recipe.seconds)
    if run_ is None:
        return found
    return found | {"run": _execution(run_.key, run_.done.model_dump(mode="json"), run_.verdict, 40_000)}


def trajectory(looked: Looked, name: str, which: str) -> Json:
    """A trajectory turn by turn: what it was told, what it answered, what was executed for it, what it cost."""
    with looked.index(name) as index:
        if not (
            which in index.effects
            or which in index.ends
            or which in index.stops
            or any(t == which for t, _ in index.pending)
        ):
            raise NotHere(f"{name} has no trajectory {which}")
        unit = next((unit for unit in index.account.units() if unit.name == which), None)
        turns = list(_turns(index, which))
        end = index.record(index.ends[which]) if which in index.ends else None
        stop = index.record(index.stops[which]) if which in index.stops else None
        return {
            "name": which,
            "unit": _unit(unit, any(t == which for t, _ in index.pending)) if unit else None,
            "model": next((turn["model"] for turn in turns if turn.get("model")), ""),
            "turns": turns,
            "aside": index.aside.get(which, 0),
            "end": _end(end["result"]) if end else None,
            "stopped": {"reason": stop["reason"], "why": stop["why"]} if stop else None,
        }


def message(looked: Looked, name: str, digest: str) -> Json:
    """All of a message."""
    with looked.index(name) as index:
        found = index.message(digest)
    if found is None:
        raise NotHere("that message is not on record any more")
    return {"role": found[0], "text": capped(found[1], WHOLE)}


def execution(looked: Looked, name: str, key: str) -> Json:
    """All that an execution printed."""
    with looked.index(name) as index:
        record = index.record(index.done[key].place)
    if record is None:
        raise NotHere("that execution is not on record any more")
    return _execution(key, record["result"], None, WHOLE)


def patch(text: bytes) -> Json:
    """A patch by file: its lines as [kind, text, number before, number after], kinds as their first letters."""
    return [
        {
            "path": file.path,
            "added": file.added,
            "deleted": file.deleted,
            "lines": [[line.kind[0], line.text, line.old, line.new] for line in file.lines[:_LINES]],
            "left": max(0, len(file.lines) - _LINES),
        }
        for file in files(text)
    ]


def _decided(looked: Looked, name: str) -> tuple[Read, Stored, Selection]:
    read, stored = looked.read(name)
    return read, stored, read.selection


def _case(looked: Looked, name: str, read: Read, stored: Stored) -> Case:
    """An instance as the report shows it, made from the log; the report's own words are used here, too."""
    view, selection, evidence = read_view(looked.path, name), read.selection, stored.evidence.get(name)
    if view.selection.confidence and view.selection.chosen == selection.chosen:
        selection = selection.model_copy(update={"confidence": view.selection.confidence})
    elif evidence and _small(evidence):
        selection = stored.decide(name, evidence, stored.recipe)
    thing = Instance(id=name, source="", statement="", digest="")
    outcome = Outcome(instance=thing, context=None, selection=selection)
    why = view.why or selection.reason
    result = Result(instance=name, status=view.status or "stopped", why=why, outcome=outcome)
    return Case(1, result, None)


def _small(evidence: Evidence) -> bool:
    return len(evidence.entries) * max(1, len(evidence.table.generated) if evidence.table else 1) <= _SURE


def _selection(case: Case, selection: Selection, right: Mapping[str, bool | None]) -> Json:
    table = case.table
    standings = {standing.entry: standing for standing in selection.standings}
    labels = {script.id: script.label for script in case.scripts}
    suspected = case.suspected if table and len(table.rows) * len(table.generated) <= _SURE * 10 else {}
    return {
        "reason": selection.reason,
        "remarks": selection.remarks,
        "finalists": selection.finalists,
        "letters": selection.letters,
        "rounds": selection.rounds,
        "rejected": selection.rejected,
        "runnerup": case.runner_up.id if case.runner_up else None,
        "entries": [_standing(selection.entry(name), standings.get(name), selection, right) for name in case.rows],
        "tests": [
            {
                "id": script.id,
                "label": script.label,
                "votes": script.votes,
                "same": script.same,
                "suspected": suspected.get(script.id, ""),
                "silent": selection.silent.get(script.id, ""),
            }
            for script in case.scripts
        ],
        "table": _table(table, case.rows) if table else None,
        "sure": None
        if case.sure is None
        else {
            "of": case.sure.of,
            "p": case.sure.p,
            "how": case.sure.how,
            "seen": case.seen,
            "hangs": [[kind, labels.get(what, what), then] for kind, what, then in case.hanging[:20]],
            "tried": case.sure.hangs_on.tried,
            "withheld": case.sure.withheld,
        },
    }


def _standing(entry: Entry, standing: Any, selection: Selection, right: Mapping[str, bool | None]) -> Json:
    score = selection.scores.get(entry.id)
    said = [right[one] for one in entry.proposers if right.get(one) is not None]
    return {
        "id": entry.id,
        "proposers": entry.proposers,
        "changed": entry.changed_lines,
        "removed": entry.removed,
        "votes": standing.votes if standing else None,
        "broken": standing.broken if standing else None,
        "disqualified": bool(standing and standing.disqualified),
        "gated": bool(standing and standing.gated),
        "score": score.p if score else None,
        "how": score.how if score else "",
        "verdicts": score.verdicts if score else (),
        "right": said[0] if said else None,
    }


def _table(table: OutcomeTable, rows: Sequence[str]) -> Json:
    """Cells as a letter each, in the order of the tests that vote."""

    def line(cells_: Mapping[str, str]) -> str:
        return "".join(_MARKS.get(cells_.get(test, ""), " ") for test in table.generated)

    return {
        "tests": table.generated,
        "base": line(table.base),
        "rows": {row: line(table.rows.get(row, {})) for row in rows},
        "control": {row: _MARKS.get(table.control.get(row, ""), " ") for row in rows},
        "repository": len(table.repository),
        "broken": {row: None if (lost := table.broken.get(row, ())) is None else len(lost) for row in rows},
        "unknown": [place for place in table.reasons if place.endswith("/repository")],
        "authors": table.authors,
    }


def _cell(table: OutcomeTable, row: str, test: str) -> str | None:
    if test == "control":
        return table.control.get(row)
    return (table.base if row == "base" else table.rows.get(row, {})).get(test)


def _entry(selection: Selection, name: str) -> Entry:
    found = next((entry for entry in selection.entries if name == entry.id), None)
    found = found or next((entry for entry in selection.entries if name in entry.proposers), None)
    if found is None:
        raise NotHere(f"there is no candidate {name}")
    return found


def _unit(unit: Unit, waits: bool) -> Json:
    calls = unit.took.calls
    return {
        "name": unit.name,
        "stage": unit.stage,
        "reason": unit.reason,
        "made": unit.made,
        "note": unit.note[:300],
        "waits": waits,
        "calls": calls.calls + calls.recorded,
        "recorded": calls.recorded,
        "input": calls.input,
        "cached": calls.cached,
        "output": calls.output,
        "cost": calls.cost if calls.calls > calls.unknown else None,
        "executions": unit.took.executions,
        "seconds": round(unit.took.seconds, 2),
    }


def _turns(index: Index, which: str) -> Iterator[Json]:
    """Answers in the order in which they came, each with what it was told since the one before, and what followed of it."""
    shown, turns, before = set[str](), dict[str, Json](), list[Effect]()
    scripts: dict[str, str] = {}
    effects = [*index.effects.get(which, {}).values(), *(one for (t, _), one in index.pending.items() if t == which)]
    for effect in effects:
        if effect.kind in ("ask", "refused", "intent"):
            turn = _turn(index, effect, shown)
            turns[effect.path] = turn
            if effect.kind == "ask":
                found = edits.parse(turn["reply"]["whole"]).tests if turn["reply"] else ()
                scripts[_scope(effect.path)] = found[0] if found else ""
                turn["test"] = scripts[_scope(effect.path)]
    scopes = {_scope(path): turn for path, turn in turns.items()}
    own = _seed(index, which)
    for effect in effects:
        if effect.kind in ("execute", "once"):
            turn = scopes.get(_scope(effect.path))
            if turn is None:
                before.append(effect)
                continue
            turn["effects"].append(_effect(index, effect, [scripts.get(_scope(effect.path), ""), *own]))
    if before:
        yield {"path": "", "told": [], "reply": None, "effects": [_effect(index, one, own) for one in before]}
    for turn in turns.values():
        if turn["reply"]:
            turn["reply"]["text"] = capped(turn["reply"].pop("whole"), _REPLY)
        yield turn


def _seed(index: Index, which: str) -> list[str]:
    """The test that the trajectory of this number was given."""
    place = index.ends.get(f"testing-{which.rpartition('-')[2]}")
    record = index.record(place) if place else None
    value = record["result"].get("value") if record else None
    return [value["script"]] if isinstance(value, dict) and isinstance(value.get("script"), str) else []


def _turn(index: Index, effect: Effect, shown: set[str]) -> Json:
    record = index.record(effect.place) or {}
    chain, here = list[str](), effect.talk
    while here and here in index.said and here not in shown:
        chain.append(here)
        here = index.said[here].before
    shown |= set(chain)
    told, reply = [], None
    for digest in reversed(chain):
        if (found := index.message(digest)) is None:
            continue
        role, text, tools = found
        if role == "assistant":
            if digest == effect.talk:
                reply = {"whole": text, "calls": tools.get("calls", ())}
            continue
        told.append(
            {"role": role, "digest": digest, "size": len(text), "text": text[:PROMPT], "call": tools.get("call", "")}
        )
    result = record.get("result") or {}
    return {
        "path": effect.path,
        "kind": effect.kind,
        "model": player(str((record.get("request") or {}).get("model", ""))),
        "told": told,
        "reply": reply,
        "why": record.get("why", ""),
        "usage": result.get("usage") or {},
        "cost": result.get("cost"),
        "recorded": bool(result.get("recorded")),
        "finish": result.get("finish", ""),
        "seconds": record.get("seconds"),
        "effects": [],
    }


def _effect(index: Index, effect: Effect, scripts: Sequence[str]) -> Json:
    if effect.kind == "once":
        record = index.record(effect.place) or {}
        value = record.get("result")
        if isinstance(value, str) and re.match(r"(diff --git |--- )", value):
            return {"kind": "patch", "path": effect.path, "files": patch(value.encode("utf-8", "surrogateescape"))}
        text = value if isinstance(value, str) else json.dumps(value, indent=1)
        return {"kind": "once", "path": effect.path, "text": capped(text, OUTPUT)}
    done = index.done.get(effect.key)
    found = index.record(done.place) if done else None
    if found is None:
        return {"kind": "execute", "path": effect.path, "outcome": "not on record"}
    verdict = None
    state = cells.state_of(index, effect.state)
    for script in filter(None, scripts):
        shown = cells.verdict(index, effect.key, state, script) if state else None
        if shown and not shown.verdict.why.startswith("the process ended (exit code"):
            verdict = shown.verdict
            break
    return _execution(effect.key, found["result"], verdict, OUTPUT) | {"path": effect.path}


def _execution(key: str, result: Record, verdict: Any, most: int) -> Json:
    """What is known of an execution. A verdict is given only where it is the sandboxed code's no longer to forge."""
    out = verdict.output if verdict else result["stdout"] + result["stderr"]
    return {
        "kind": "execute",
        "key": key,
        "outcome": result["outcome"],
        "exit": result["exit_code"],
        "limit": result.get("limit"),
        "seconds": result["seconds"],
        "dropped": result.get("dropped", 0),
        "text": capped(out, most),
        "size": len(out),
        "cut": len(out) > most,
        "verdict": verdict.outcome if verdict else None,
        "why": verdict.why if verdict else "",
    }


def _end(result: Record) -> Json:
    """What a trajectory ended in, by what it is."""
    value = result.get("value")
    found: dict[str, Json] = {"reason": result.get("reason"), "note": result.get("note", "")}
    if not isinstance(value, dict):
        return found | {"value": None if value is None else json.dumps(value, indent=1)}
    rest = {name: part for name, part in value.items() if name not in ("patch", "script", "output", "why")}
    if isinstance(value.get("patch"), str):
        found["files"] = patch(value["patch"].encode("utf-8", "surrogateescape"))
    for name in ("script", "output", "why"):
        if isinstance(value.get(name), str):
            found[name] = capped(value[name], 40_000)
    return found | {"value": capped(json.dumps(rest, indent=1), OUTPUT)}


def _issue(index: Index) -> str:
    """The issue as it stands in the first prompt that has one: it is nowhere else in a run."""
    for effect in [*index.effects.get("context", {}).values(), *index.pending.values()][:1] or [
        effect for of in list(index.effects.values())[:3] for effect in list(of.values())[:1]
    ]:
        here = effect.talk
        while here and here in index.said:
            found = index.message(here)
            if found and (issue := re.search(r"^<issue>\n(.*?)\n</issue>$", found[1], re.DOTALL | re.MULTILINE)):
                return capped(issue[1], 40_000)
            here = index.said[here].before
    return ""


def _scope(path: str) -> str:
    """The turn that something is part of."""
    return path.partition("/")[0]


_KINDS: Mapping[str, Any] = {
    "run": run,
    "instance": instance,
    "candidate": candidate,
    "cell": cell,
    "trajectory": trajectory,
    "message": message,
    "execution": execution,
}
