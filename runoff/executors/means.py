"""The model and the sandbox that options of the command line mean, on this machine or on a node that they were sent to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from runoff.agent.budget import Budget, Prices
from runoff.agent.pace import Rate
from runoff.models import Answering
from runoff.sandbox.backends import How, open_backend
from runoff.sandbox.protocol import Sandbox


class Given(NamedTuple):
    """See `Answering` and `open_backend`."""

    models: Mapping[str, str]
    api_base: str | None
    prices: Mapping[str, Prices]
    rates: Mapping[str, Rate]
    stall: float | None
    native_tools: bool | None
    several: bool | None
    record: Path | None
    sandbox: str
    states: Path
    limit: int | None
    index_hosts: tuple[str, ...]

    def model(self, budget: Budget, stop: asyncio.Event) -> Answering:
        return Answering(
            self.models,
            api_base=self.api_base,
            prices=self.prices,
            rates=self.rates,
            stall=self.stall,
            native_tools=self.native_tools,
            several=self.several,
            record=self.record,
            budget=budget,
            stop=stop,
        )

    @asynccontextmanager
    async def open(self, budget: Budget, stop: asyncio.Event) -> AsyncIterator[tuple[Answering, Sandbox]]:
        """Raises ModelMisconfigured before anything else, SandboxUnavailable."""
        model = self.model(budget, stop)
        model.check()
        how: How = {"limit": self.limit, "index_hosts": self.index_hosts}
        async with open_backend(self.sandbox, self.states, **how) as sandbox:
            try:
                yield model, sandbox
            finally:
                await model.close()

    def most(self) -> int | None:
        """How many workers can have a share of what may be asked; None: any number."""
        parts = [part for rate in self.rates.values() for part in (rate.at_once, rate.requests) if part is not None]
        return min(parts, default=None)
