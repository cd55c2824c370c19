"""Search over all that was said and printed in a run's logs: they are read through, line by line, nothing is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runoff.agent.log import Record, Replaced, Tail
from runoff.viewer.index import Index
from runoff.viewer.store import Looked

MOST = 200
"""Places that are told of."""
SECONDS = 8.0
"""For which a search goes on."""
_AROUND = 70  # characters on each side of what was found


class Hit(NamedTuple):
    instance: str
    trajectory: str
    """Empty: it is of no trajectory, as a vote."""
    path: str
    what: str
    """`prompt`, `answer`, `output`, `result`, `decision`."""
    before: str
    match: str
    after: str


def search(looked: Looked, text: str, instance: str = "") -> dict[str, Any]:
    """Where a text stands, whatever its case; the first MOST places, of one instance or of all."""
    hits, began = list[Hit](), time.monotonic()
    wanted = text.strip()
    names = [instance] if instance else list(looked.names)
    for name in names if wanted else ():
        with looked.index(name) as index:
            owners = _owners(index)
        for hit in _in_log(looked.path / "log" / f"{name}.jsonl", name, wanted, owners, began + SECONDS):
            hits.append(hit)
            if len(hits) >= MOST:
                break
        if len(hits) >= MOST or time.monotonic() > began + SECONDS:
            break
    partial = len(hits) >= MOST or time.monotonic() > began + SECONDS
    return {"hits": [hit._asdict() for hit in hits], "partial": partial, "text": text}


def places(record: Record, wanted: str) -> Iterator[tuple[str, str, str, str]]:
    """What of a record holds a text: what it is, and the text with what stands around it, once each. Pure."""
    low = wanted.lower()
    for what, text in _texts(record):
        at = text.lower().find(low)
        if at >= 0 and len(text.lower()) == len(text):
            end = at + len(wanted)
            yield what, text[max(0, at - _AROUND) : at], text[at:end], text[end : end + _AROUND]
        elif at >= 0:  # there are letters that are two in lower case
            yield what, "", text[: 2 * _AROUND], ""


def _in_log(path: Path, name: str, wanted: str, owners: dict[str, tuple[str, str]], until: float) -> Iterator[Hit]:
    """Lines are looked through as they stand before any is opened: JSON writes the needle in one way only."""
    tail, needle = Tail(path), json.dumps(wanted)[1:-1].lower().encode()
    while time.monotonic() < until:
        try:
            found = tail.read(1 << 20, lambda line: needle in line.lower())
        except Replaced:
            return
        for placed in found:
            record = placed.record
            t, at = record.get("t", ""), record.get("path", "")
            if record["kind"] == "execution":
                t, at = owners.get(record["key"], ("", ""))
            for what, *around in places(record, wanted):
                yield Hit(name, t, at, what, *around)
        if not tail.more:
            return


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    kind, result = record["kind"], record.get("result")
    for _, _, *rest in record.get("new", ()):
        if rest:
            yield "prompt", str(rest[1])
    if kind == "ask" and isinstance(result, dict):
        yield "answer", str(result.get("text", ""))
        for call in result.get("calls", ()):
            yield "answer", str(call.get("arguments", ""))
    elif kind == "execution" and isinstance(result, dict):
        yield "output", f"{result.get('stdout', '')}{result.get('stderr', '')}"
    elif kind == "end" and isinstance(result, dict):
        value = result.get("value")
        for part in value.values() if isinstance(value, dict) else ():
            if isinstance(part, str):
                yield "result", part
        yield "result", str(result.get("note", ""))
    elif kind == "once" and record.get("t") != "selection":
        yield "decision", result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    elif kind in ("stopped", "refused"):
        yield "result", str(record.get("why", ""))


def _owners(index: Index) -> dict[str, tuple[str, str]]:
    """Execution → the trajectory that asked for it first, and where."""
    found = dict[str, tuple[str, str]]()
    for t, effects in index.effects.items():
        for effect in effects.values():
            if effect.key:
                found.setdefault(effect.key, (t, effect.path))
    return found
