"""What the trajectories did that made the candidates, for a verifier that is to read more than the patch.

With what their authors said, or without: then only what they ran, wrote and saw is left, and no claim of theirs can persuade.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from runoff.agent.log import records
from runoff.agent.step import World
from runoff.agent.told import Said, Turn, turns
from runoff.agent.verdict import capped
from runoff.selection.protocol import Entry

Part = Literal["whole", "observed"]

_SHOWN = 20_000  # characters of a story
_ONE = 3_000  # of one thing that was said or seen
_DONE = re.compile(r"<(\w+)\b[^>]*>.*?</\1>|<\w+\b[^>]*/>|```.*?```", re.DOTALL)


async def stories(world: World, entries: Sequence[Entry], part: Part) -> dict[str, str]:
    """Entry → what the trajectory of its first proposer did. Who came from elsewhere has none."""
    told = turns(records(await world.log.lines()))
    return {entry.id: story(told[name], part) for entry in entries if (name := entry.proposers[0]) in told}


def story(taken: Sequence[Turn], part: Part) -> str:
    """The turns of a trajectory as a text. What all are told at its beginning is left out. Pure."""
    lines = list[str]()
    for n, turn in enumerate(taken, 1):
        if n > 1:
            lines += [f"[it saw] {capped(seen.text, _ONE)}" for seen in turn.told]
        if said := _said(turn.reply, part):
            lines.append(f"[answer {n}] {capped(said, _ONE)}")
    return capped("\n\n".join(lines), _SHOWN)


def _said(reply: Said, part: Part) -> str:
    calls = [f"{call['name']}({call['arguments']})" for call in reply.tools.get("calls", ())]
    done = [found[0] for found in _DONE.finditer(reply.text)] if part == "observed" else [reply.text.strip()]
    return "\n".join(filter(None, [*done, *calls]))
