"""Which model plays which role, and who answers for its name: a provider through litellm, or a recording."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from runoff.agent.budget import Budget, Prices
from runoff.agent.client import LiteLLM
from runoff.agent.doubles import Recorded, Recording
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
        if not equals:
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
    a provider's, or one of the server at `api_base`.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        *,
        api_base: str | None = None,
        prices: Mapping[str, Prices] | None = None,
        concurrency: int = 8,
        record: Path | None = None,
        budget: Budget | None = None,
        stop: asyncio.Event | None = None,
    ) -> None:
        models = sorted({name for several in names.values() for name in several.splitlines()})
        played = [name for name in models if name.startswith(_RECORDED)]
        self.recorded = {name: Recorded(Path(name.removeprefix(_RECORDED))) for name in played}
        priced = {_split(name)[0]: price for name, price in (prices or {}).items()}
        self._servers = {
            url: LiteLLM(budget=budget, stop=stop, api_base=url, prices=priced, concurrency=concurrency)
            for url in {_split(name)[1] or api_base for name in models if name not in self.recorded}
        }
        self._live = {name: self._servers[_split(name)[1] or api_base] for name in models if name not in self.recorded}
        self._record: Model | None = Recording(_Live(self._live), record) if record else None
        self._asked_live = False

    def check(self) -> None:
        """Raises ModelMisconfigured for a model that is unknown or has no key, before anything is spent."""
        for name, server in self._live.items():
            server.check([_split(name)[0]])

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
        name = call.request.model
        return await self._servers[name].ask(call._replace(request=call.request._replace(model=_split(name)[0])))


def _split(name: str) -> tuple[str, str | None]:
    model, at, url = name.partition("@http")
    return model, f"http{url}" if at else None
