"""What asking a model is: a conversation that only grows, a request, a reply with its usage, and who answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from runoff.sandbox.protocol import Value

Role = Literal["system", "user", "assistant", "tool"]


class ModelError(Exception):
    """`spent` is what a call that failed took all the same, for whoever keeps the ledger.

    ModelError
    ├── ModelMisconfigured   unknown model, missing or refused key: the same for every call, so the run stops
    ├── ContextOverflow      the conversation does not fit the model: the trajectory ends `context`
    ├── BudgetSpent          no further call may be made: the trajectory ends `budget`
    ├── Stopping             the user asked to stop: nothing new is begun, what is paid for is recorded
    └── ModelUnreachable     still failing after every retry (429, 5xx, time-outs, empty replies): the unit ends `infra`
    """

    spent: Reply | None = None


class ModelMisconfigured(ModelError):
    def __init__(self, what: str, remedy: str, exit_code: int = 3) -> None:
        super().__init__(f"{what}; {remedy}")
        self.exit_code = exit_code


class ContextOverflow(ModelError):
    pass


class BudgetSpent(ModelError):
    pass


class Stopping(ModelError):
    pass


class ModelUnreachable(ModelError):
    pass


_BEGIN, _END = "\x02", "\x03"
_OBSERVED = re.compile(f"{_BEGIN}[^{_END}]*{_END}", re.DOTALL)


def observed(text: str) -> str:
    """Mark text that came out of an execution: it may differ from machine to machine though the prompt is the same."""
    return _BEGIN + text.replace(_BEGIN, "").replace(_END, "") + _END


class Tool(Value):
    """Something the model may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """A JSON schema of its arguments, an object."""


class ToolCall(Value):
    """A call the model asks for. Whoever acts on it answers with a message of role `tool` that names its `id`."""

    id: str
    """Unique in its reply."""
    name: str
    arguments: str
    """JSON as the model wrote it: it may be no JSON at all, and the tool may not exist."""


class Message:
    """The last message of a conversation. It only grows, and the digest with it: a long prefix is hashed and kept once.

    `digest` covers every byte of the conversation so far. `shape` covers the same without what executions printed
    (see `observed`): two conversations of one shape were rendered by the same prompts from the same sources.

    An assistant's message may hold `calls` of tools, with or without text; each is answered by a message of role `tool`
    whose `call` is the call's id. Such messages follow it in the order of its calls.
    """

    __slots__ = ("before", "call", "calls", "digest", "role", "shape", "text")

    def __init__(
        self, role: Role, text: str, before: Message | None = None, *, calls: Sequence[ToolCall] = (), call: str = ""
    ) -> None:
        self.role: Role = role
        self.before = before
        self.text = text.replace(_BEGIN, "").replace(_END, "")
        self.calls = tuple(calls)
        self.call = call
        # Only what is there is hashed: a conversation without tools has the digest it had before there were any.
        more = [json.dumps(self.tools())] if calls or call else []
        self.digest: str = digest(before.digest if before else "", role, self.text, *more, size=12)
        self.shape: str = digest(before.shape if before else "", role, _OBSERVED.sub("", text), *more, size=12)

    def then(self, role: Role, text: str, *, calls: Sequence[ToolCall] = (), call: str = "") -> Message:
        return Message(role, text, self, calls=calls, call=call)

    def tools(self) -> dict[str, Any]:
        """What it has to do with tools, as JSON; empty for most messages."""
        known: dict[str, Any] = {"calls": [call.model_dump() for call in self.calls]} if self.calls else {}
        return known | ({"call": self.call} if self.call else {})

    def back(self) -> Iterator[Message]:
        """This message, the one before it, … the first."""
        here: Message | None = self
        while here:
            yield here
            here = here.before

    def messages(self) -> list[Message]:
        """In the order they were said."""
        return list(self.back())[::-1]


def digest(*parts: str, size: int = 16) -> str:
    """A name for texts, in hexadecimal: `size` bytes of BLAKE2b over the parts."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


class Sampling(Value):
    """How a reply is drawn. None leaves the choice to the provider."""

    temperature: float | None = None
    max_tokens: int | None = 8192
    logprobs: int | None = None
    """How many alternatives to report at each token; None: no log-probs."""
    effort: str | None = None
    """How much a reasoning model is to think, in the provider's words: minimal, low, medium, high."""
    thinking: int | None = None
    """Tokens it may think at most, where a provider takes a number."""

    def parts(self) -> dict[str, Any]:
        """What a recorded request is compared by: what came after the first three fields only where it is set."""
        return {
            name: value
            for name, value in self.model_dump().items()
            if value is not None or name in ("temperature", "max_tokens", "logprobs")
        }


class Request(NamedTuple):
    model: str
    sampling: Sampling
    conversation: Message
    tools: tuple[Tool, ...] = ()
    """What the model may call in its reply."""


class Usage(Value):
    """Tokens of one call, as the provider counted them."""

    input: int = 0
    """All tokens of the prompt, cached ones included."""
    cached: int = 0
    """Of `input`, those read from the provider's cache."""
    written: int = 0
    """Of `input`, those written to it, where the provider says so (and bills them dearer)."""
    output: int = 0
    """All tokens generated, those of thinking included."""
    reasoning: int = 0
    """Of `output`, those of thinking, where the provider says so."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class Bill(Value):
    """What was used, and its price in US dollars; None if that is unknown, which is never taken for 0."""

    usage: Usage = Usage()
    cost: float | None = None


class Token(Value):
    """One generated token: its log-probability (natural), and those of the likeliest alternatives at its place."""

    text: str
    logprob: float
    alternatives: dict[str, float] = {}


class Reply(Value):
    text: str
    """May be empty if there are `calls`."""
    calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    cost: float | None = None
    """US dollars; None if the price is unknown, which is never taken for 0."""
    finish: str = "stop"
    tokens: tuple[Token, ...] | None = None
    recorded: bool = False
    """Answered from a recording: nothing was billed for it."""
    cut: Bill | None = None
    """An estimate of answers to this call that broke off, and were asked for again unless only the count of what they took
    was missing: possibly billed."""


class Call(NamedTuple):
    """A request and whose it is; the three names together are unique in a run."""

    instance: str
    trajectory: str
    path: str
    request: Request
    check: Callable[[], None] = lambda: None
    """Raises BudgetSpent if it may no longer be sent. Whoever lets calls wait asks before each attempt."""


class Model(Protocol):
    """Who answers. Any number of calls at once; a cancelled call may have been billed.

    Raises the errors above, after whatever retries it makes.
    """

    async def ask(self, call: Call) -> Reply: ...
