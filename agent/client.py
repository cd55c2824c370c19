"""Who answers in a real run: any provider litellm can reach, with retries, a budget, and errors that say what to do."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from runoff.agent import providers
from runoff.agent.budget import Budget, Prices, estimated
from runoff.agent.protocol import (
    Call,
    ContextOverflow,
    ModelError,
    ModelMisconfigured,
    ModelUnreachable,
    Reply,
    Request,
    Stopping,
    Token,
    Usage,
)

LONGEST_WAIT = 120.0
"""Seconds between two attempts, whatever the provider asks for."""


class LiteLLM:
    """A `Model` that asks providers through litellm.

    The budget is checked before every attempt. Whoever records a reply adds it to the budget; what is lost with a
    call that fails, though it was billed, is added here. A reply's usage and cost include its billed empty attempts.
    """

    def __init__(
        self,
        *,
        budget: Budget | None = None,
        api_base: str | None = None,
        timeout: float = 600,
        attempts: int = 6,
        stop: asyncio.Event | None = None,
        concurrency: int = 8,
        prices: Mapping[str, Prices] = {},
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.budget = budget or Budget()
        self.api_base, self.timeout, self.attempts, self.stop = api_base, timeout, attempts, stop
        self.concurrency, self.prices = concurrency, prices
        self._sleep = sleep
        self._gates: dict[str, _Gate] = {}
        self._answered = set[str]()

    def check(self, models: Iterable[str]) -> None:
        """Raises ModelMisconfigured for what is known before anything is sent: the provider, its key, the prices."""
        models = list(models)
        for model in models:
            self._refuse(model)
        self.budget.check_prices(models, self.price_of)

    def price_of(self, model: str) -> Prices | None:
        """Dollars a token: what the user says, or what litellm lists. None if nobody knows, and free is not known."""
        return self.prices.get(model) or providers.listed_price(model)

    async def ask(self, call: Call) -> Reply:
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
        from tenacity.wait import wait_exponential_jitter

        request = call.request
        self._refuse(request.model)
        empty: list[Reply] = []
        backoff = wait_exponential_jitter(initial=1, max=60, jitter=1)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, _Transient) else 0.0
            return min(max(asked, backoff(state)), LONGEST_WAIT)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_after_attempt(self.attempts),
            wait=wait,
            sleep=self._pause,
            reraise=True,
        )
        provider = providers.provider(request.model) or ""
        gate = self._gates.setdefault(provider, _Gate(self.concurrency))
        failure: ModelError
        # A call keeps its place while it waits to try again: an endpoint in trouble is not asked by ever more calls.
        async with gate.place():
            try:
                reply: Reply = await retrying(self._attempt, request, gate, empty)
            except _Transient as error:
                times = "once" if self.attempts == 1 else f"{self.attempts} times"
                failure = ModelUnreachable(
                    f"{self._named(request.model)} was asked {times} and did not answer: {error}"
                )
            except ModelError as error:
                failure = error
            else:
                self._answered.add(request.model)
                return _with(reply, empty)
        for lost in empty:
            self.budget.add(lost, request.model)
        raise failure

    async def close(self) -> None:
        """Close the connections litellm keeps open."""
        await providers.litellm().close_litellm_async_clients()

    async def _attempt(self, request: Request, gate: _Gate, empty: list[Reply]) -> Reply:
        if self.stop and self.stop.is_set():
            raise Stopping("stopped by the user")
        self.budget.check()
        began = time.monotonic()
        failure: Exception
        try:
            # Of the whole call: litellm's own begins anew with every byte, and some providers send blanks while they think.
            async with asyncio.timeout(self.timeout):
                response = await providers.litellm().acompletion(**self._arguments(request))
            reply = self._read(request, response)
        except Exception as error:
            failure = self._failure(request.model, error)
        else:
            if reply.text.strip() or reply.calls:
                gate.widen()
                return reply
            empty.append(reply)
            more = "; it used up max_tokens before it said anything" if reply.finish == "length" else ""
            failure = _Transient(f"an empty reply (finish: {reply.finish}){more}")
        if isinstance(failure, _Transient) and failure.status == 429:
            gate.narrow(began)
        # Raised out of the handler, so that no traceback goes on to litellm's error, where a key might be.
        raise failure

    def _arguments(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        arguments: dict[str, Any] = {
            "model": request.model,
            "messages": [
                {"role": said.role, "content": _sendable(said.text)} for said in request.conversation.messages()
            ],
            "timeout": self.timeout,
            "num_retries": 0,
            "max_retries": 0,
        }
        if self.api_base:
            arguments["api_base"] = self.api_base
            if providers.keyless(request.model) and providers.missing_keys(request.model):
                arguments["api_key"] = "none"  # the user's own server: litellm refuses to send nothing at all
        if sampling.temperature is not None:
            arguments["temperature"] = sampling.temperature
        if sampling.max_tokens is not None:
            arguments["max_tokens"] = sampling.max_tokens
        if sampling.logprobs is not None:
            arguments |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        return arguments

    def _read(self, request: Request, response: Any) -> Reply:
        if not response.choices:
            raise ValueError("a body that holds no reply")
        choice = response.choices[0]
        text = _sendable(choice.message.content or "")
        counted = getattr(response, "usage", None)
        usage, cost = _usage(counted), None
        if usage.input + usage.output == 0:
            usage = estimated(request.conversation, text)  # so that a cap on tokens holds; the cost stays unknown
        elif request.model in self.prices:
            cost = self.prices[request.model].of(usage)
        elif self.price_of(request.model):
            cost = providers.cost(request.model, counted)
        finish = str(getattr(choice, "finish_reason", None) or "stop")
        return Reply(
            text=text, usage=usage, cost=cost, finish=finish, tokens=_tokens(getattr(choice, "logprobs", None))
        )

    def _failure(self, model: str, error: Exception) -> Exception:
        """What an error of litellm's means for the call."""
        litellm = providers.litellm()
        said = providers.plain(str(error))
        status = int(getattr(error, "status_code", None) or 0)
        if isinstance(error, TimeoutError | litellm.Timeout):
            return _Transient(f"no answer within {self.timeout:g} s", status)
        if isinstance(error, litellm.ContextWindowExceededError) or status == 413 or _OVERFLOW.search(said):
            return ContextOverflow(f"the conversation does not fit {model}: {said}")
        if status in (401, 403):
            return ModelMisconfigured(
                f"the key for {self._named(model)} was refused ({status})",
                f"set {providers.key_names(model)} to one it accepts",
            )
        if _NO_CREDENTIALS.search(said):
            return ModelMisconfigured(f"{model} needs credentials: {said}", f"set {providers.key_names(model)}")
        if status == 402 or "insufficient_quota" in said:
            return ModelMisconfigured(
                f"the account for {self._named(model)} has no credit left ({status})", "add some and run the same again"
            )
        if status in (400, 404, 405, 422):
            # One request of many that is refused is no reason to stop the others.
            if isinstance(error, litellm.ContentPolicyViolationError) or model in self._answered:
                return ModelUnreachable(f"{self._named(model)} refuses this request ({status}): {said}")
            return ModelMisconfigured(
                f"{self._named(model)} refuses the request ({status}): {said}",
                "check the model's name and that it takes these settings",
                exit_code=2,
            )
        if said.endswith(")") and "(char " in said:
            said = f"a body that is not JSON: {said}"
        return _Transient(said or type(error).__name__, status, _retry_after(error))

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt, but not for longer than the user wants the run."""
        if self.stop is None:
            return await self._sleep(seconds)
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self.stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _refuse(self, model: str) -> None:
        """Raises ModelMisconfigured for what needs no request to be known."""
        provider = providers.provider(model)
        if provider is None:
            raise ModelMisconfigured(*providers.unknown(model), exit_code=2)
        own_server = self.api_base and providers.keyless(model)
        if not own_server and not provider.startswith(_OTHER_CREDENTIALS) and providers.missing_keys(model):
            raise ModelMisconfigured(f"{model} needs a key", f"set {providers.key_names(model)}")

    def _named(self, model: str) -> str:
        place = urlsplit(self.api_base or "")
        return f"{model} at {place.hostname}:{place.port}" if place.hostname and place.port else model


_OVERFLOW = re.compile(
    r"exceeds? the (available |maximum )?context|maximum context length|context_length_exceeded|exceed_context_size"
    r"|context window|prompt is too long|input is too long",
    re.IGNORECASE,
)
_NO_CREDENTIALS = re.compile(
    r"missing (credentials|\w* ?api key)|unable to locate credentials|default credentials", re.I
)
_OTHER_CREDENTIALS = ("bedrock", "sagemaker", "vertex_ai", "azure", "watsonx", "oci", "snowflake", "databricks")
"""Providers that also take credentials from files or from the machine: only a call can tell whether there are any."""


class _Transient(Exception):
    """May go well the next time."""

    def __init__(self, what: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(what)
        self.status, self.retry_after = status, retry_after


class _Gate:
    """How many calls an endpoint gets at once: half as many after a 429, one more after each round that went well."""

    def __init__(self, most: int) -> None:
        self._most, self._limit = most, float(most)
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._narrowed = -math.inf

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        # No lock: nothing else may run between a reply and its being added to the budget, see `LiteLLM.ask`.
        if self._inside < int(self._limit) and not self._waiting:
            self._inside += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        try:
            yield
        finally:
            self._leave()

    def widen(self) -> None:
        self._limit = min(float(self._most), self._limit + 1 / self._limit)

    def narrow(self, began: float) -> None:
        if began >= self._narrowed:  # calls that were sent before the last cut say nothing about what it did
            self._limit, self._narrowed = max(1.0, self._limit / 2), time.monotonic()

    def _leave(self) -> None:
        self._inside -= 1
        while self._waiting and self._inside < int(self._limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)


def _usage(counted: Any) -> Usage:
    details = getattr(counted, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or getattr(counted, "cache_read_input_tokens", None) or 0
    given = getattr(counted, "prompt_tokens", None) or 0
    return Usage(input=max(given, cached), cached=cached, output=getattr(counted, "completion_tokens", None) or 0)


def _tokens(reported: Any) -> tuple[Token, ...] | None:
    content = getattr(reported, "content", None)
    if not content:
        return None
    tokens = []
    for token in content:
        alternatives: dict[str, float] = {}
        for other in token.top_logprobs or ():
            text = _sendable(other.token)
            # Two tokens may be read as one text (parts of a character): the likelier stands for it.
            alternatives[text] = max(_finite(other.logprob), alternatives.get(text, -math.inf))
        tokens.append(Token(text=_sendable(token.token), logprob=_finite(token.logprob), alternatives=alternatives))
    return tuple(tokens)


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else -9999.0  # as OpenAI writes "impossible"


def _with(reply: Reply, empty: list[Reply]) -> Reply:
    if not empty:
        return reply
    calls = [*empty, reply]
    usage = Usage(
        input=sum(each.usage.input for each in calls),
        cached=sum(each.usage.cached for each in calls),
        output=sum(each.usage.output for each in calls),
    )
    costs = [each.cost for each in calls if each.cost is not None]
    return reply.model_copy(update={"usage": usage, "cost": sum(costs) if len(costs) == len(calls) else None})


def _sendable(text: str) -> str:
    """Undecodable bytes of a program's output are lone surrogates here, and those no request can carry."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _retry_after(error: Exception) -> float:
    """Seconds, 0 if the provider did not say."""
    headers: dict[str, str] = {}
    for source in (
        getattr(error, "litellm_response_headers", None),
        getattr(getattr(error, "response", None), "headers", None),
    ):
        headers |= {str(name).lower(): str(value) for name, value in dict(source or {}).items()}
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except ValueError:
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
