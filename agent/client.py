"""Who answers in a real run: any provider litellm can reach, with retries, a budget, and errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from runoff.agent import chat, providers, tools
from runoff.agent.budget import Budget, Prices, estimated
from runoff.agent.pace import Gate, Minute, Rate, Warmth
from runoff.agent.patience import Patience
from runoff.agent.protocol import (
    Bill,
    Call,
    ContextOverflow,
    ModelError,
    ModelMisconfigured,
    ModelUnreachable,
    Reply,
    Request,
    Stopping,
    ToolCall,
    Usage,
)
from runoff.agent.together import Together, divided

LONGEST_WAIT = 120.0
"""Seconds between two attempts, whatever the provider asks for."""


class LiteLLM:
    """A `Model` that asks providers through litellm.

    The budget, and what the call itself checks, is checked before every attempt; whoever records a reply, or the
    `spent` of an error, adds it. A reply's usage and cost include its billed empty attempts.

    `timeout` is in seconds of a whole call. `stall` seconds without a further piece end an answer that has begun (None:
    answers come in one piece; so they do where log-probs are asked for, which not every provider streams).
    `rates` are by provider, that of "" is for all others. `native_tools`: whether models take tools, None if litellm is
    to say; for those that do not, tools are described in the prompt, and calls read from the text. `several`: whether
    calls that ask the same are answered by one request for as many samples, in one piece; None: where litellm knows the
    model and that its provider takes `n`. Where fewer come back, the others are asked for one by one.
    """

    def __init__(
        self,
        *,
        budget: Budget | None = None,
        api_base: str | None = None,
        timeout: float = 600,
        attempts: int = 6,
        stop: asyncio.Event | None = None,
        rates: Mapping[str, Rate] = {},
        stall: float | None = None,
        native_tools: bool | None = None,
        several: bool | None = None,
        prices: Mapping[str, Prices] = {},
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience: Callable[[float | None], Patience] = Patience,
    ) -> None:
        self.budget = budget or Budget()
        self.api_base, self.timeout, self.attempts, self.stop = api_base, timeout, attempts, stop
        self.rates, self.stall, self.native_tools, self.prices = rates, stall, native_tools, prices
        self.several, self._sleep, self._patience = several, sleep, patience
        self._together, self._one_each = Together(), set[str]()
        self._endpoints: dict[str, _Endpoint] = {}
        self._answered, self._among = set[str](), 1

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
        self._refuse(call.request.model)
        while self._gives_several(call.request.model):
            if (reply := await self._together.ask(call, self._ask)) is not None:
                return reply
        return (await self._ask(call))[0]

    async def _ask(self, call: Call, others: Callable[[], list[Call]] = list) -> list[Reply]:
        """An answer to a call; and to each of the others, which ask the same, so far as the provider gave as many."""
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
        from tenacity.wait import wait_exponential_jitter

        request = call.request
        lost = _Lost()
        backoff = wait_exponential_jitter(initial=1, max=60, jitter=1)
        endpoint = self._endpoint(request.model)
        told = _Transient("")

        def wait(state: RetryCallState) -> float:
            nonlocal told
            error = state.outcome.exception() if state.outcome else None
            told = error if isinstance(error, _Transient) else told
            return min(max(told.retry_after, backoff(state)), LONGEST_WAIT)

        async def pause(seconds: float) -> None:
            """What the endpoint said to one call is said to all that would ask it."""
            with endpoint.gate.shut() if told.status == 429 or told.retry_after else contextlib.nullcontext():
                await self._pause(seconds)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_after_attempt(self.attempts),
            wait=wait,
            sleep=pause,
            reraise=True,
        )
        failure: ModelError
        # A call keeps its place while it waits to try again: an endpoint in trouble is not asked by ever more calls.
        async with endpoint.warmth.turn(request.model, request.conversation) as begun, endpoint.gate.place():
            try:
                replies: list[Reply] = await retrying(self._attempt, call, others, endpoint, lost, begun)
            except _Transient as error:
                times = "once" if self.attempts == 1 else f"{self.attempts} times"
                failure = ModelUnreachable(
                    f"{self._named(request.model)} was asked {times} and did not answer: {error}"
                )
            except ModelError as error:
                failure = error
            else:
                self._answered.add(request.model)
                return [lost.added(replies[0]) or replies[0], *replies[1:]]
        failure.spent = lost.added(None)
        raise failure

    async def close(self) -> None:
        """Close the connections litellm keeps open."""
        await providers.litellm().close_litellm_async_clients()

    def _endpoint(self, model: str) -> _Endpoint:
        name = providers.provider(model) or ""
        if name not in self._endpoints:
            rate = self._rate(name)
            self._endpoints[name] = _Endpoint(Gate(rate.at_once), Minute(rate, self._pause), Warmth())
        return self._endpoints[name]

    def share(self, among: int) -> None:
        """So many such clients, on whatever machines, are to keep to the rates together: from now on this one to its part."""
        self._among = among
        for name, endpoint in self._endpoints.items():
            rate = self._rate(name)
            endpoint.gate.hold(rate.at_once)
            endpoint.minute.hold(rate)

    def _rate(self, provider: str) -> Rate:
        rate = self.rates.get(provider) or self.rates.get("") or Rate()
        return rate.share(self._among)

    async def _attempt(
        self, call: Call, others: Callable[[], list[Call]], endpoint: _Endpoint, lost: _Lost, begun: Callable[[], None]
    ) -> list[Reply]:
        request = call.request
        await endpoint.gate.open()
        counted = await endpoint.minute.admit(estimated(request.conversation, "").input)
        await endpoint.gate.open()
        if self.stop and self.stop.is_set():
            raise Stopping("stopped by the user")
        self.budget.check()
        call.check()
        samples = 1 + len(others()) if self._gives_several(request.model) else 1
        began = time.monotonic()
        heard = chat.Heard()
        failure: Exception
        try:
            # Of the whole call: litellm's own begins anew with every byte, and some providers send blanks while they think.
            async with self._patience(self.timeout):
                replies = await self._answer(request, heard, begun, samples)
        except Exception as error:
            failure = self._failure(request.model, error)
            if heard.billed:
                lost.cut.append(self._estimate(request, heard))
            if samples > 1 and int(getattr(error, "status_code", None) or 0) in (400, 422):
                self._one_each.add(request.model)  # it may be that alone which it refuses
                failure = _Transient(str(failure))
        else:
            counted(sum(reply.usage.input + reply.usage.output for reply in replies))
            if heard.uncounted:
                lost.cut.append(self._estimate(request, heard))
                replies = [replies[0].model_copy(update={"usage": Usage(), "cost": 0.0})]
            if len(replies) < samples:
                self._one_each.add(request.model)
            said = [reply for reply in replies if reply.text.strip() or reply.calls]
            lost.empty += [reply for reply in replies if reply not in said]
            if said:
                endpoint.gate.widen(began)
                return said
            finish = replies[0].finish
            more = "; it used up max_tokens before it said anything" if finish == "length" else ""
            failure = _Transient(f"an empty reply (finish: {finish}){more}")
        if isinstance(failure, _Transient) and failure.status == 429:
            endpoint.gate.narrow(began)
        # Raised out of the handler, so that no traceback goes on to litellm's error, where a key might be.
        raise failure

    def _estimate(self, request: Request, heard: chat.Heard) -> Bill:
        usage, price = estimated(request.conversation, "".join(heard.billed)), self.price_of(request.model)
        return Bill(usage=usage, cost=price.of(usage) if price else None)

    async def _answer(
        self, request: Request, heard: chat.Heard, begun: Callable[[], None], samples: int = 1
    ) -> list[Reply]:
        arguments = self._arguments(request)
        if self.stall is None or request.sampling.logprobs is not None or samples > 1:
            several = {"n": samples} if samples > 1 else {}
            response = await providers.litellm().acompletion(**arguments, **several)
            begun()
            if not response.choices:
                raise ValueError("a body that holds no reply")
            counted = getattr(response, "usage", None)
            replies = [self._chosen(request, choice, counted) for choice in response.choices[:samples]]
            if len(replies) == 1:
                return replies
            price = self.price_of(request.model)
            return divided(replies, chat.whole(replies, counted), replies[0].cost, price and price.output)
        stream = await providers.litellm().acompletion(**arguments, stream=True, stream_options={"include_usage": True})
        try:
            await self._hear(stream, heard, begun)
        except Exception:
            # Behind its end only the count may be missing: what is whole is not asked for, and paid for, again.
            if stream.received_finish_reason is None:
                raise
            heard.finish, heard.uncounted = stream.received_finish_reason, heard.counted is None
        finally:
            with contextlib.suppress(Exception):
                await stream.aclose()
        # Where the provider sent none, litellm makes up an end and a usage.
        reported = any(getattr(piece, "usage", None) for piece in stream.chunks)
        if not reported and not heard.billed:
            raise ValueError("a body that holds no reply")
        calls = [(id_, name, arguments) for id_, name, arguments in heard.calls.values()]
        counted = heard.counted if reported else None
        return [self._reply(request, "".join(heard.text), calls, finish=heard.finish, counted=counted, logprobs=None)]

    def _chosen(self, request: Request, choice: Any, counted: Any) -> Reply:
        calls = [
            (call.id or "", call.function.name or "", call.function.arguments)
            for call in choice.message.tool_calls or ()
        ]
        return self._reply(
            request,
            choice.message.content or "",
            calls,
            finish=choice.finish_reason,
            counted=counted,
            logprobs=getattr(choice, "logprobs", None),
        )

    def _gives_several(self, model: str) -> bool:
        if self.several is None and self.api_base:  # of a server of one's own nobody knows
            return False
        takes = providers.takes_n(model) if self.several is None else self.several
        return takes and model not in self._one_each

    async def _hear(self, stream: Any, heard: chat.Heard, begun: Callable[[], None]) -> None:
        """Take in an answer as it comes. Raises _Stalled if it has begun and does not go on."""
        async for piece in stream:
            heard.take(piece)
            if heard.billed:
                begun()
                break
        try:
            async with self._patience(self.stall) as patience:
                async for piece in stream:
                    patience.renew()
                    heard.take(piece)
        except TimeoutError:
            raise _Stalled(f"the answer stalled: nothing came for {self.stall:g} s") from None

    def _arguments(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        native = self._takes_tools(request.model)
        arguments: dict[str, Any] = {
            "model": request.model,
            "messages": chat.messages(request, native=native, marked=providers.marks_cache(request.model)),
            "timeout": self.timeout,
            "num_retries": 0,
            "max_retries": 0,
        }
        if request.tools and native:
            arguments["tools"] = tools.native(request.tools)
        if self.api_base:
            arguments["api_base"] = self.api_base
            if providers.keyless(request.model) and providers.missing_keys(request.model):
                arguments["api_key"] = "none"  # the user's own server: litellm refuses to send nothing at all
        # What is thought counts as generated, and who thinks by a number of tokens takes no temperature.
        if sampling.temperature is not None and sampling.thinking is None:
            arguments["temperature"] = sampling.temperature
        if sampling.max_tokens is not None:
            arguments["max_tokens"] = sampling.max_tokens + (sampling.thinking or 0)
        if sampling.logprobs is not None:
            arguments |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        if sampling.effort is not None:
            arguments["reasoning_effort"] = sampling.effort
        if sampling.thinking is not None:
            arguments["thinking"] = {"type": "enabled", "budget_tokens": sampling.thinking}
        return arguments

    def _takes_tools(self, model: str) -> bool:
        return providers.takes_tools(model) if self.native_tools is None else self.native_tools

    def _reply(
        self,
        request: Request,
        text: str,
        called: Sequence[tuple[str, str, str]],
        *,
        finish: str | None,
        counted: Any,
        logprobs: Any,
    ) -> Reply:
        text = chat.sendable(text)
        calls = tuple(ToolCall(id=id_, name=name, arguments=chat.sendable(asked)) for id_, name, asked in called)
        usage, cost = chat.usage(counted), None
        if usage.input + usage.output == 0:
            # So that a cap on tokens holds; the cost stays unknown.
            usage = estimated(request.conversation, text + "".join(call.arguments for call in calls))
        elif request.model in self.prices:
            cost = self.prices[request.model].of(usage)
        elif self.price_of(request.model):
            cost = providers.cost(request.model, counted)
        if request.tools and not self._takes_tools(request.model):
            text, calls = tools.parsed(text, request.conversation)
        return Reply(
            text=text, calls=calls, usage=usage, cost=cost, finish=str(finish or "stop"), tokens=chat.tokens(logprobs)
        )

    def _failure(self, model: str, error: Exception) -> Exception:
        """What an error of litellm's means for the call."""
        litellm = providers.litellm()
        said = providers.plain(str(error))
        status = int(getattr(error, "status_code", None) or 0)
        if isinstance(error, _Stalled):
            return _Transient(str(error))
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


class _Stalled(Exception):
    pass


class _Endpoint(NamedTuple):
    gate: Gate
    minute: Minute
    warmth: Warmth


class _Lost:
    """What the attempts of one call took that gave no reply."""

    def __init__(self) -> None:
        self.empty: list[Reply] = []
        self.cut: list[Bill] = []

    def added(self, reply: Reply | None) -> Reply | None:
        """A reply, or none, and with it what was lost before; None if that is nothing."""
        paid = [*self.empty, *([reply] if reply else [])]
        if not paid and not self.cut:
            return None
        known = [each.cost for each in paid if each.cost is not None]
        total = {
            "usage": sum((each.usage for each in paid), Usage()),
            "cost": sum(known) if len(known) == len(paid) else None,
            "cut": _sum(self.cut),
        }
        return (reply or Reply(text="")).model_copy(update=total)


def _sum(bills: list[Bill]) -> Bill | None:
    costs = [bill.cost for bill in bills if bill.cost is not None]
    usage = sum((bill.usage for bill in bills), Usage())
    return Bill(usage=usage, cost=sum(costs) if len(costs) == len(bills) else None) if bills else None


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
