"""What was said in each trajectory, turn by turn, from its log's records. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from runoff.agent.log import Record


class Said(NamedTuple):
    """A message of a conversation."""

    role: str
    text: str
    tools: Mapping[str, Any]
    """`calls` it makes, or the `call` it answers (Message.tools)."""


class Turn(NamedTuple):
    """An answer of the model, and what it was told since the one before."""

    told: tuple[Said, ...]
    reply: Said
    ask: Record


def turns(records: Iterable[Record]) -> dict[str, list[Turn]]:
    """Every trajectory's turns, in the order of the log. What was set aside is not part of it."""
    said: dict[str, tuple[str, Said]] = {}
    """Digest → the digest before it, and the message."""
    asks = defaultdict[str, dict[str, Record]](dict)
    for record in records:
        for name, before, *rest in record.get("new", ()):
            if rest:
                role, text, *tools = rest
                said[name] = (before, Said(role, text, tools[0] if tools else {}))
        if record["kind"] == "ask":
            (name, before), result = record["new"][0][:2], record["result"]
            calls = {"calls": result["calls"]} if result.get("calls") else {}
            said[name] = (before, Said("assistant", result["text"], calls))
            asks[record["t"]][record["path"]] = record
        elif record["kind"] == "set aside":
            kept = set(record["kept"])
            asks[record["t"]] = {path: ask for path, ask in asks[record["t"]].items() if path in kept}
    return {name: list(_turns(of.values(), said)) for name, of in asks.items() if of}


def _turns(asks: Any, said: Mapping[str, tuple[str, Said]]) -> Iterator[Turn]:
    shown = set[str]()
    for ask in asks:
        name, here = ask["new"][0][:2]
        chain = []
        while here and here in said:
            chain.append(here)
            here = said[here][0]
        told = tuple(said[at][1] for at in reversed(chain) if at not in shown and said[at][1].role != "assistant")
        shown |= {*chain, name}
        yield Turn(told, said[name][1], ask)
