"""Stand-ins for a model, for tests and for the demo: recorded answers and scripted ones.

Recorded    gives the answers of a recording, and tells which of them no longer fit the prompts
Recording   makes one: passes every call on to a model and keeps what it said
Scripted    answers from a function, a list or a dict, and remembers what it was asked

A server that fails as providers do is in `faulty.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from runoff.agent.budget import estimated
from runoff.agent.protocol import Call, Model, ModelMisconfigured, Reply


class Asked(NamedTuple):
    """Which answer: the names of a call without its request."""

    instance: str
    trajectory: str
    path: str

    def __str__(self) -> str:
        return "/".join(self)


class Recorded:
    """Answers from a recording: a folder with a file `<instance>.jsonl` an instance, or one such file.

    A line is a JSON object: `trajectory`, `path`, `text`; `shape` and `digest` of the conversation it answered; where
    they are known `usage`, `tokens` (log-probs), `finish` and `calls` (of tools). Of two lines for one call the later counts.
    """

    def __init__(self, folder_or_file: Path | str) -> None:
        self.source = Path(folder_or_file)
        self.stale: list[Asked] = []
        """Answered, but the prompt is no longer the one that was recorded: record these again."""
        self.drifted: list[Asked] = []
        """Answered; only what executions printed differs from the recording."""
        self._answers: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}

    async def ask(self, call: Call) -> Reply:
        asked = Asked(call.instance, call.trajectory, call.path)
        if asked.instance not in self._answers:
            lines = _lines(_file(self.source, asked.instance))
            self._answers[asked.instance] = {(line["trajectory"], line["path"]): line for line in lines}
        line = self._answers[asked.instance].get((asked.trajectory, asked.path))
        if line is None:
            raise ModelMisconfigured(
                f"no recorded answer for {asked} in {self.source.name}", "record it, with `Recording` around a model"
            )
        conversation = call.request.conversation
        differs = (
            self.stale if line["shape"] != conversation.shape
            else self.drifted if line["digest"] != conversation.digest
            else None
        )  # fmt: skip
        if differs is not None and asked not in differs:
            differs.append(asked)
        known = {name: line[name] for name in ("finish", "tokens", "calls") if name in line}
        usage = line.get("usage") or estimated(conversation, line["text"])
        return Reply.model_validate({"text": line["text"], "usage": usage, "cost": 0.0, "recorded": True} | known)


class Recording:
    """Asks another model and keeps its answers in the form `Recorded` reads. An answer that is there already stays."""

    def __init__(self, model: Model, folder_or_file: Path | str) -> None:
        self.model, self.target = model, Path(folder_or_file)
        self._kept: dict[Path, set[tuple[str, str]]] = {}

    async def ask(self, call: Call) -> Reply:
        reply = await self.model.ask(call)
        self._keep(call, reply)
        return reply

    def _keep(self, call: Call, reply: Reply) -> None:
        # Nothing is awaited from here on, and a line is one write: concurrent calls cannot mix their lines.
        file = _file(self.target, call.instance)
        if file not in self._kept:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._kept[file] = {(line["trajectory"], line["path"]) for line in _lines(file)}
            _drop_torn_line(file)
        if (call.trajectory, call.path) in self._kept[file]:
            return
        self._kept[file].add((call.trajectory, call.path))
        conversation = call.request.conversation
        line = {
            "trajectory": call.trajectory,
            "path": call.path,
            "shape": conversation.shape,
            "digest": conversation.digest,
        }
        line |= reply.model_dump(mode="json", include={"usage", "tokens", "finish", "calls"}, exclude_defaults=True)
        with file.open("ab") as out:
            out.write(json.dumps(line | {"text": reply.text}).encode() + b"\n")


Answer = str | Reply | Exception


class Scripted:
    """Answers by a function of the call, from a list in the order of asking, or from a dict by `Call.path`.

    A text becomes a reply with an estimated usage and no known cost; an exception is raised.
    """

    def __init__(
        self, answer: Callable[[Call], Answer] | Sequence[Answer] | Mapping[str, Answer], latency: float = 0.0
    ) -> None:
        self.calls: list[Call] = []
        """Every call, in the order of asking."""
        self._answer, self._latency = answer, latency

    async def ask(self, call: Call) -> Reply:
        self.calls.append(call)
        answer = self._find(call, len(self.calls) - 1)
        if self._latency:
            await asyncio.sleep(self._latency)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return Reply(text=answer, usage=estimated(call.request.conversation, answer))
        return answer

    def _find(self, call: Call, place: int) -> Answer:
        if callable(self._answer):
            return self._answer(call)
        with contextlib.suppress(KeyError, IndexError):
            return self._answer[call.path] if isinstance(self._answer, Mapping) else self._answer[place]
        raise ModelMisconfigured(f"no scripted answer for call {place + 1}, {call.path}", "script one")


def _file(place: Path, instance: str) -> Path:
    if place.suffix != ".jsonl":
        return place / f"{quote(instance, safe=' ')}.jsonl"
    if unquote(place.stem) != instance:
        raise ModelMisconfigured(
            f"{place.name} holds the answers of {unquote(place.stem)}, not of {instance}", "give a folder"
        )
    return place


def _lines(file: Path) -> list[dict[str, Any]]:
    """What was wholly written: a kill may have torn the last line."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _drop_torn_line(file: Path) -> None:
    if file.exists():
        raw = file.read_bytes()
        if not raw.endswith(b"\n"):
            with file.open("r+b") as out:
                out.truncate(raw.rfind(b"\n") + 1)
