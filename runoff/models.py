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


def roles(given: Sequence[str]) -> dict[str, str]:
    """`["openai/gpt-5", "verifier=openai/gpt-5-mini"]` → role → model. Raises ModelMisconfigured, in one line."""
    if not given:
        raise ModelMisconfigured("no model is given", "name one as litellm does: --model openai/gpt-5", exit_code=2)
    default, own = None, dict[str, str]()
    for text in given:
        role, equals, name = text.partition("=")
        if not equals:
            default = text
        elif role in ROLES:
            own[role] = name
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
    """The model of a run: each request goes to whoever answers for the model it names."""

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
        models = sorted(set(names.values()))
        self._live = LiteLLM(budget=budget, stop=stop, api_base=api_base, prices=prices or {}, concurrency=concurrency)
        self._asked_live = False
        self.live = [name for name in models if not name.startswith(_RECORDED)]
        """Models that are paid for."""
        self.recorded = {
            name: Recorded(Path(name.removeprefix(_RECORDED))) for name in models if name.startswith(_RECORDED)
        }
        self._record: Model | None = Recording(self._live, record) if record else None

    def check(self) -> None:
        """Raises ModelMisconfigured for a model that is unknown or has no key, before anything is spent."""
        if self.live:
            self._live.check(self.live)

    def price_of(self, model: str) -> Prices | None:
        return self._live.price_of(model)

    async def ask(self, call: Call) -> Reply:
        if recorded := self.recorded.get(call.request.model):
            return await recorded.ask(call)
        self._asked_live = True
        return await (self._record or self._live).ask(call)

    async def close(self) -> None:
        if self._asked_live:  # closing imports what asking did, which takes seconds
            await self._live.close()
