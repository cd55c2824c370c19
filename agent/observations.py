"""What an agent in a sandbox is shown: capped outputs, a conversation whose old observations fold, and word of its loops.

    view = View(opening, model, sampling)
    answer = await view.ask(here)            folds first if need be; what was folded is on record
    view.hear(told)                          an observation after that answer

All of it is made from replies and executions on record, so a resumed trajectory shows the model the same bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

from runoff.agent import providers
from runoff.agent.protocol import ContextOverflow, Message, Request, Sampling, Tool, ToolCall, observed
from runoff.agent.step import Answer, Run, Step
from runoff.agent.tokenizers import counter, tokens
from runoff.agent.verdict import capped
from runoff.sandbox.protocol import Execution, Limits, State, Value

UNKNOWN_WINDOW = 64_000
"""Tokens taken to fit a model of which nobody says."""

_SMALL = 8_000
"""Tokens that fit any model: the window of a conversation no longer than this is not looked up."""
_HEAD = 300
"""Characters left of what is folded."""
_FRESH = 3
"""Answers that are never folded, with their observations."""


class AgentRecipe(Value):
    """An agent that works in a sandbox, command by command. `turns` is its serial scaling; the rest, what it is shown."""

    turns: int = 40
    """Model calls a trajectory."""
    seconds: float = 120
    """Wall time of one command."""
    test_seconds: float = 60
    """Wall time of one run of the test script it may leave."""
    shown: int = 10_000
    """Characters of an output that it is shown, head and tail."""
    review: bool = True
    """Whether its first submission is shown to it once more, as a diff with what its test says, before it counts."""
    repeats: int = 6
    """How often the same may happen to it: it is warned at half of that, and ended at the last time."""
    window: int | None = None
    """Tokens of the model's context; None: what litellm lists for the model, and 64,000 where it lists nothing."""
    temperature: float = 0.7
    max_tokens: int = 8192


def command_run(state: State, command: str, env: dict[str, str], seconds: float) -> Run:
    """A bash command in a state, both its streams as one, in the order they were written."""
    # Nothing pages, and nothing leaves byte code behind: it holds times, and states that differ by those alone are two.
    quiet = {"PAGER": "cat", "GIT_PAGER": "cat", "TERM": "dumb", "PYTHONDONTWRITEBYTECODE": "1"}
    argv = ("sh", "-c", 'exec 2>&1; exec "$@"', "sh", "bash", "-c", command)
    return Run(state=state, argv=argv, env=quiet | env, limits=Limits(seconds=seconds), freeze=True)


class Output(NamedTuple):
    """A command's result in words."""

    ended: str
    text: str
    """Capped, head and tail."""
    size: int | None
    """Of all of it, in characters or bytes, if that is not all of it."""
    failed: bool


def output(done: Execution, shown: int) -> Output:
    text = done.text.strip("\n")
    cut = len(text) > shown or done.dropped
    return Output(
        ended=f"exit code {done.exit_code}"
        if done.outcome == "finished"
        else f"timed out after {done.seconds:.0f} s; everything it had started was ended"
        if done.outcome == "timed out"
        else f"killed for the limit on {done.limit}"
        + ("" if done.after else "; what it wrote is lost, the files are as they were before it"),
        text=capped(text, shown),
        size=len(text) + done.dropped if cut else None,
        failed=done.exit_code != 0,
    )


class Loop(NamedTuple):
    """Something that has happened before."""

    what: Literal["action", "failure"]
    """The same action with the same result, or the same failure, whatever it was done for."""
    times: int
    most: int

    @property
    def ends(self) -> bool:
        return self.times >= self.most


class Loops:
    """Notices an agent that goes round in circles. That two outputs differ in times and addresses makes them no two."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen = Counter[tuple[str, ...]]()

    def met(self, action: str, result: str, failed: bool = False) -> Loop | None:
        """Count an action and its result; the loop it is part of, if that has come to be worth a word."""
        result = _VOLATILE.sub("", result).strip()
        found: list[Loop] = []
        for what, key in (("action", (action, result)), ("failure", (result,))):
            if what == "failure" and not (failed and result):
                continue  # of a silent failure nobody can say that it is the same
            self._seen[key] += 1
            if self._seen[key] >= max(2, (self._most + 1) // 2):
                found.append(Loop("action" if what == "action" else "failure", self._seen[key], self._most))
        return max(found, key=lambda loop: (loop.times, loop.what == "action"), default=None)


_VOLATILE = re.compile(
    r"\b0x[0-9a-f]+\b|\b\d+(\.\d+)? ?m?s\b|\b\d+\.\d+ ?seconds?\b|/tmp/tmp\w+|\bpid \d+", re.IGNORECASE
)


class _Heard(NamedTuple):
    text: str
    call: str

    @property
    def folded(self) -> str:
        plain = Message("user", self.text).text
        if len(plain) <= _HEAD + 100:
            return self.text
        left = len(plain) - _HEAD
        return observed(f"{plain[:_HEAD]}\n[… {left} more characters were shown here; they are folded away now]\n")


def _said(text: str) -> str:
    """A folded answer."""
    if len(text) <= _HEAD + 100:
        return text
    return f"{text[:_HEAD]}\n[… {len(text) - _HEAD} more characters of this answer are folded away now]\n"


def _asked(call: ToolCall) -> ToolCall:
    """A folded call. Its arguments stay JSON, which providers insist on: long texts in them are folded one by one."""
    if len(call.arguments) <= _HEAD + 100:
        return call
    try:
        given = json.loads(call.arguments, strict=False)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        given = {"folded": call.arguments}
    short = {
        name: f"{value[:_HEAD]} [… {len(value) - _HEAD} more characters are folded away now]"
        if isinstance(value, str) and len(value) > _HEAD + 100
        else value
        for name, value in given.items()
    }
    return call.model_copy(update={"arguments": json.dumps(short)})


class View:
    """A conversation as the model is shown it: whole, until it no longer fits; then old observations by their heads, and
    if that is not enough, old answers and the arguments of their calls.

    It is folded rarely and far, to half of the room, so that the prompts between two foldings begin alike and are
    cached. The opening (system message, issue, task) and the last answers with their results are never folded. Tokens are
    counted as the model's tokenizer does, where it is known, and put right by what the provider counts.
    """

    def __init__(
        self, opening: Message, model: str, sampling: Sampling, window: int | None = None, tools: tuple[Tool, ...] = ()
    ) -> None:
        self._opening, self._model, self._sampling = opening, model, sampling
        self._window, self._tools = window, tools
        self._most: int | None = None
        """Tokens that a provider refused, if one did: fewer fit."""
        self._turns: list[tuple[Message, list[_Heard]]] = []
        self._folded = _Folded(0, 0)
        self._count: Callable[[str], int] = tokens
        self._per_token = 1.0
        """Tokens as the provider counts them, over our own count."""
        self._version: int | None = None
        """1: only observations fold, and their tokens are estimated, as before this could do more."""
        self.talk = opening

    async def ask(self, here: Step) -> Answer:
        """The model's answer to all that is in view. Raises ContextOverflow if it does not fit, however it is folded."""
        if (full := await self._full(here)) and self._size() > full:
            await self._fold(here, "fold", full)
        try:
            return await self._asked(here, "ask")
        except ContextOverflow:
            self._most = self._size()
            if not await self._fold(here, "fold again", self._most):
                raise
            return await self._asked(here, "ask again")

    def hear(self, text: str, call: str = "") -> None:
        """Add an observation: a user's message, or the result of a tool call."""
        self._turns[-1][1].append(_Heard(text, call))
        self.talk = self.talk.then("tool" if call else "user", text, call=call)

    async def _asked(self, here: Step, name: str) -> Answer:
        answer = await here.ask(name, Request(self._model, self._sampling, self.talk, self._tools))
        if counted := answer.reply.usage.input:
            self._per_token *= min(max(counted / self._size(), 0.5), 2.0)
        self._turns.append((answer.conversation, []))
        self.talk = answer.conversation
        return answer

    async def _full(self, here: Step) -> int | None:
        """Tokens beyond which the conversation is folded; None while it is so short that nobody need know."""
        if self._size() > _SMALL:
            await self._decide(here)
        if self._window is None and self._version:
            # On record: another litellm, which lists another number, would fold elsewhere, and the request not fit.
            self._window = await here.once(
                "window", lambda: asyncio.to_thread(_listed_window, self._model), model=self._model
            )
        fits = [(self._window - (self._sampling.max_tokens or 0)) * 9 // 10] if self._window else []
        if self._most:
            fits.append(self._most * 9 // 10)
        return min(fits, default=None)

    async def _decide(self, here: Step) -> None:
        """Settle how this view counts and folds, once, before either matters."""
        if self._version is not None:
            return

        async def newest() -> int:
            return 1 if here.was_here() else 2

        self._version = await here.once("view", newest)
        if self._version > 1:
            # Not before: it takes litellm, which takes seconds to import.
            self._count, self._per_token = await asyncio.to_thread(counter, self._model), 1.0

    async def _fold(self, here: Step, name: str, full: int) -> bool:
        """Fold, oldest first, until half of the room is free; whether there was anything to fold."""
        await self._decide(here)
        opening = round(self._per_token * self._opened())
        aim = opening + max(0, full - opening) // 2
        last = max(len(self._turns) - _FRESH, self._folded.heard)
        heard, said = self._folded
        while heard < last and self._size(_Folded(heard, said)) > aim:
            heard += 1
        bearable = (aim + full) // 2
        if self._version != 1:
            # Its own words are what it goes on from: they go only if it is too long without the observations, too.
            while said < last and self._size(_Folded(heard, said)) > bearable:
                said += 1
        folded = _Folded(heard, said)
        if folded == self._folded or self._size(folded) >= self._size():
            return False

        async def decided() -> int | list[int]:
            return heard if self._version == 1 else [heard, said]

        known = await here.once(name, decided, tokens=self._size(), room=full)
        self._folded = _Folded(known, 0) if isinstance(known, int) else _Folded(*known)
        self.talk = self._opening
        for number in range(len(self._turns)):
            text, calls, observations = self._shown(number, self._folded)
            self.talk = self.talk.then("assistant", text, calls=calls)
            for one in observations:
                self.talk = self.talk.then("tool" if one.call else "user", one.text, call=one.call)
        return True

    def _shown(self, number: int, folded: _Folded) -> tuple[str, tuple[ToolCall, ...], list[_Heard]]:
        """A turn as it is shown: the answer, its calls, and what it heard."""
        said, heard = self._turns[number]
        text, calls = said.text, said.calls
        if number < folded.said:
            text, calls = _said(text), tuple(map(_asked, calls))
        return text, calls, [_Heard(one.folded, one.call) for one in heard] if number < folded.heard else heard

    def _size(self, folded: _Folded | None = None) -> int:
        """Tokens of the conversation with so many turns folded; as it is now, if that is not said."""
        size = self._opened()
        for number in range(len(self._turns)):
            text, calls, heard = self._shown(number, folded or self._folded)
            size += self._count(text) + 4 + sum(self._count(call.arguments) + 8 for call in calls)
            size += sum(self._count(one.text) + 4 for one in heard)
        return round(self._per_token * size)

    def _opened(self) -> int:
        return sum(self._count(said.text) + 4 for said in self._opening.back())


class _Folded(NamedTuple):
    """Of how many turns, from the first on, the observations are folded, and of how many the answers."""

    heard: int
    said: int


def _listed_window(model: str) -> int:
    return providers.window(model) or UNKNOWN_WINDOW
