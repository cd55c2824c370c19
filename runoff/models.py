"""Which model plays which role, and who answers for its name: a provider through litellm, or a recording."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import parse_qsl

from runoff.agent.budget import Budget, Prices
from runoff.agent.client import LiteLLM
from runoff.agent.doubles import Recorded, Recording
from runoff.agent.pace import Rate
from runoff.agent.protocol import Call, Model, ModelMisconfigured, Reply
from runoff.pipeline import Role

ROLES: tuple[str, ...] = get_args(Role)
_RECORDED = "recorded:"
_IN_TURNS = ("tester", "editor")


def roles(given: Sequence[str]) -> dict[str, str]:
    """`["openai/gpt-5", "verifier=openai/gpt-5-mini"]` → role → model. Raises ModelMisconfigured, in one line.

    The roles of trajectories (`tester`, `editor`) may be given several times: their models take turns, a line each.
    """
    if not given:
        raise ModelMisconfigured("no model is given", "name one as litellm does: --model openai/gpt-5", exit_code=2)
    default, own = None, dict[str, str]()
    for text in given:
        role, equals, name = text.partition("=")
        if not equals or not role.isidentifier():  # openai/gpt-5?effort=high
            default = text
        elif role in own and role not in _IN_TURNS:
            raise ModelMisconfigured(
                f"--model {text}: {role} has a model already",
                f"only {' and '.join(_IN_TURNS)} take several, in turns",
                exit_code=2,
            )
        elif role in ROLES:
            own[role] = f"{own.get(role, '')}\n{name}".strip()
        else:
            raise ModelMisconfigured(
                f"--model {text}: no role is called {role!r}", f"there are {', '.join(ROLES)}", exit_code=2
            )
    missing = [role for role in ROLES if role not in own]
    if missing and default is None:
        raise ModelMisconfigured(
            f"no model is given for {', '.join(missing)}", "name one for all the others: --model NAME", exit_code=2
        )
    return {role: own.get(role, default or "") for role in ROLES}


class Answering:
    """The model of a run: each request goes to whoever answers for the model it names.

    `recorded:FOLDER` plays a recording; `NAME@URL` is a model of an OpenAI-compatible server at that URL; any other name is
    a provider's, or one of the server at `api_base`. `NAME?effort=high&thinking=4096` says how much it is to think: so each
    role has its own, and a run is known by it as by the model.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        *,
        api_base: str | None = None,
        prices: Mapping[str, Prices] | None = None,
        rates: Mapping[str, Rate] = {},
        stall: float | None = None,
        native_tools: bool | None = None,
        several: bool | None = None,
        record: Path | None = None,
        budget: Budget | None = None,
        stop: asyncio.Event | None = None,
    ) -> None:
        models = sorted({name for several in names.values() for name in several.splitlines()})
        played = [name for name in models if name.startswith(_RECORDED)]
        self.recorded = {name: Recorded(Path(name.removeprefix(_RECORDED))) for name in played}
        live = {name: _Name.read(name) for name in models if name not in self.recorded}
        self._servers = {
            url: LiteLLM(
                budget=budget,
                stop=stop,
                api_base=url,
                prices={_Name.read(name).model: price for name, price in (prices or {}).items()},
                rates=rates,
                stall=stall,
                native_tools=native_tools,
                several=several,
            )
            for url in {name.url or api_base for name in live.values()}
        }
        self._live = {name: self._servers[read.url or api_base] for name, read in live.items()}
        self._record: Model | None = Recording(_Live(self._live), record) if record else None
        self._asked_live = False

    def check(self) -> None:
        """Raises ModelMisconfigured for a model that is unknown or has no key, before anything is spent."""
        for name, server in self._live.items():
            server.check([_Name.read(name).model])

    def price_of(self, name: str) -> Prices | None:
        """Dollars a token of a model by its name in the run; None if nobody knows."""
        return self._live[name].price_of(_Name.read(name).model) if name in self._live else None

    def share(self, among: int) -> None:
        """See `LiteLLM.share`."""
        for server in self._servers.values():
            server.share(among)

    async def ask(self, call: Call) -> Reply:
        if recorded := self.recorded.get(call.request.model):
            return await recorded.ask(call)
        self._asked_live = True
        return await (self._record or _Live(self._live)).ask(call)

    async def close(self) -> None:
        if self._asked_live:  # closing imports what asking did, which takes seconds
            for server in self._servers.values():
                await server.close()


class _Live:
    """Servers by the names that a run has for their models."""

    def __init__(self, servers: Mapping[str, LiteLLM]) -> None:
        self._servers = servers

    async def ask(self, call: Call) -> Reply:
        name = _Name.read(call.request.model)
        sampling = call.request.sampling.model_copy(update=name.sampling)
        request = call.request._replace(model=name.model, sampling=sampling)
        return await self._servers[call.request.model].ask(call._replace(request=request))


class _Name(NamedTuple):
    """What the name of a model says: `NAME?effort=high@URL`."""

    model: str
    url: str | None
    sampling: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> _Name:
        """Raises ModelMisconfigured, in one line."""
        rest, at, url = name.partition("@http")
        model, asks, settings = rest.partition("?")
        sampling: dict[str, Any] = dict(parse_qsl(settings, strict_parsing=False))
        try:
            if asks and (not sampling or sampling.keys() - {"effort", "thinking"}):
                raise ValueError
            if "thinking" in sampling:
                sampling["thinking"] = int(sampling["thinking"])
        except ValueError:
            raise ModelMisconfigured(
                f"--model {name}: {settings!r} is no setting", "there are ?effort=high and ?thinking=4096", exit_code=2
            ) from None
        return cls(model, f"http{url}" if at else None, sampling)
