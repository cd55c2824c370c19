"""What may be spent, what was spent, and what a token costs where the user says so."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from runoff.agent.protocol import BudgetSpent, Message, ModelMisconfigured, Reply, Usage


class Prices(NamedTuple):
    """US dollars a token."""

    input: float
    cached: float
    output: float
    written: float | None = None
    """Of input that is written to the provider's cache; None: as any other."""

    def of(self, usage: Usage) -> float:
        written = self.input if self.written is None else self.written
        fresh = usage.input - usage.cached - usage.written
        known = fresh * self.input + usage.cached * self.cached + usage.written * written
        return known + usage.output * self.output


class Spent(NamedTuple):
    """What was spent of a budget."""

    money: float
    tokens: int
    calls: int
    unknown: int
    unpriced: str | None


class Budget:
    """Caps on money (US dollars), tokens, calls and wall time (seconds since it was made); None: no cap.

    `check` before a call, `add` after it. A call that has begun is let finish, so what is spent passes a cap by no
    more than the calls then in flight. Money whose amount is not known cannot be held to a cap: the next check says so.
    What is spent of a budget is spent of the one it is `within`, too.
    """

    def __init__(
        self,
        money: float | None = None,
        tokens: int | None = None,
        *,
        calls: int | None = None,
        seconds: float | None = None,
        within: Budget | None = None,
        whose: str = "the budget",
        remedy: str = "raise --budget to go on",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.money, self.tokens, self.calls, self.seconds = money, tokens, calls, seconds
        self.within = within
        self.spent_money = 0.0
        self.spent_tokens = 0
        self.spent_calls = 0
        self.unknown_calls = 0
        """Calls that were paid for at a price nobody knows: `spent_money` is without them."""
        self._whose, self._remedy = whose, remedy
        self._unpriced: str | None = None
        self._clock, self._began = clock, clock()

    def check(self, reserve: float = 0.0) -> None:
        """Raises BudgetSpent if no further call may begin. `reserve`: the share of each cap that is kept for others."""
        if self.money is not None and self._unpriced is not None:
            raise BudgetSpent(_not_priced(self._unpriced, self.money))
        share, passed = 1 - reserve, self._clock() - self._began
        for cap, spent, named in (
            (self.money, self.spent_money, f"of ${self.money or 0:.2f} is spent (${self.spent_money:.4f})"),
            (self.tokens, self.spent_tokens, f"of {self.tokens or 0:,} tokens is spent ({self.spent_tokens:,})"),
            (self.calls, self.spent_calls, f"of {self.calls or 0:,} calls is spent"),
            (self.seconds, passed, f"of {self.seconds or 0:g} s is spent"),
        ):
            if cap is not None and spent >= cap * share:
                kept = f", but for the {reserve:.0%} kept for the selection" if reserve and spent < cap else ""
                raise BudgetSpent(f"{self._whose} {named}{kept}; {self._remedy}")
        if self.within:
            self.within.check(reserve)

    def add(self, reply: Reply, model: str = "the model") -> None:
        """Count what a call took, with what broke off on its way. A recorded reply took nothing."""
        if reply.recorded:
            return
        if self.within:
            self.within.add(reply, model)
        self.spent_calls += 1
        for bill in (reply, reply.cut) if reply.cut else (reply,):
            self.spent_tokens += bill.usage.input + bill.usage.output
            self.spent_money += bill.cost or 0.0
            if bill.cost is None and bill.usage != Usage():
                self.unknown_calls += 1
                self._unpriced = self._unpriced or model

    def spent(self) -> Spent:
        return Spent(self.spent_money, self.spent_tokens, self.spent_calls, self.unknown_calls, self._unpriced)

    def learn(self, spent: Spent) -> None:
        """What all who share it have spent, as whoever counts for all says: in place of what was counted here."""
        self.spent_money, self.spent_tokens, self.spent_calls, self.unknown_calls, self._unpriced = spent

    def caps(self) -> dict[str, Any]:
        """What makes one with the same caps, `seconds` those that are left."""
        left = None if self.seconds is None else max(0.0, self.seconds - (self._clock() - self._began))
        return {"money": self.money, "tokens": self.tokens, "calls": self.calls, "seconds": left}

    def check_prices(self, models: Iterable[str], price_of: Callable[[str], Prices | None]) -> None:
        """Raises ModelMisconfigured, before anything is spent, if money is capped and a model's price is not known."""
        if self.money is None:
            return
        for model in models:
            if price_of(model) is None:
                what, remedy = _not_priced(model, self.money).split(": ", 1)
                raise ModelMisconfigured(what, remedy, exit_code=2)


def parse_budget(text: str, **how: Any) -> Budget:
    """`2.50` or `$2.50`: dollars. `300ktok`, `1.5Mtok`: tokens, input and output together. `100calls`. `30min`, `2h`,
    `90s`: wall time. Several, each of its own kind, joined by commas: `5,300calls,2h`. Raises ValueError, in one line."""
    caps: dict[str, Any] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\$?)(\d+(?:\.\d*)?|\.\d+)([kM]?tok|calls?|s|min|h|)\s*", part, re.ASCII)
        amount = float(match[2]) if match else 0.0
        if not match or (match[1] and match[3]) or not 0 < amount < math.inf:
            raise ValueError(
                "a budget is dollars (2.50, $2.50), tokens (300ktok, 1.5Mtok), calls (100calls) or time (30min, 2h), "
                f"above 0, or several with commas between; not {text!r}"
            )
        kind, factor = _UNITS[match[3]]
        if kind in caps:
            raise ValueError(f"a budget is one sum of {kind} at most; not {text!r}")
        caps[kind] = amount * factor if kind in ("money", "seconds") else round(amount * factor)
        if not caps[kind]:
            raise ValueError(f"a budget is at least one of its unit; not {text!r}")
    return Budget(**caps, **how)


_UNITS = {
    "": ("money", 1),
    "tok": ("tokens", 1),
    "ktok": ("tokens", 1_000),
    "Mtok": ("tokens", 1_000_000),
    "call": ("calls", 1),
    "calls": ("calls", 1),
    "s": ("seconds", 1),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
}


def parse_price(text: str) -> Prices:
    """`IN,OUT`, `IN,CACHED,OUT` or `IN,CACHED,WRITTEN,OUT`: dollars a million tokens, as providers list them."""
    try:
        numbers = [float(number) / 1_000_000 for number in text.split(",")]
        if len(numbers) == 2:
            numbers.insert(1, numbers[0])
        prices = Prices(*numbers[:2], *numbers[:1:-1])
        if not all(0 <= price < math.inf for price in numbers):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"a price is IN,OUT, IN,CACHED,OUT or IN,CACHED,WRITTEN,OUT in dollars a million tokens (0.25,2 or 0.25,0.025,2); not {text!r}"
        ) from None
    return prices


def _not_priced(model: str, money: float) -> str:
    return (
        f"the price of {model} is not known, so ${money:.2f} cannot be held to: "
        "use --budget 300ktok, or give the price with --price IN,OUT"
    )


def estimated(conversation: Message, text: str) -> Usage:
    """About what a call takes, where nobody counted: four characters a token."""
    return Usage(input=sum(len(said.text) // 4 + 4 for said in conversation.back()), output=len(text) // 4 + 1)
