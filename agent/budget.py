"""What may be spent, what was spent, and what a token costs where the user says so."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from runoff.agent.protocol import BudgetSpent, Message, ModelMisconfigured, Reply, Usage


class Prices(NamedTuple):
    """US dollars a token."""

    input: float
    cached: float
    output: float

    def of(self, usage: Usage) -> float:
        fresh = usage.input - usage.cached
        return fresh * self.input + usage.cached * self.cached + usage.output * self.output


class Budget:
    """Caps on money and on tokens; None: no cap.

    `check` before a call, `add` after it. A call that has begun is let finish, so what is spent passes a cap by no
    more than the calls then in flight. Money whose amount is not known cannot be held to a cap: the next check says so.
    """

    def __init__(self, money: float | None = None, tokens: int | None = None) -> None:
        self.money, self.tokens = money, tokens
        self.spent_money = 0.0
        self.spent_tokens = 0
        self.unknown_calls = 0
        """Calls that were paid for at a price nobody knows: `spent_money` is without them."""
        self._unpriced: str | None = None

    def check(self) -> None:
        """Raises BudgetSpent if no further call may begin."""
        if self.money is not None and self._unpriced is not None:
            raise BudgetSpent(_not_priced(self._unpriced, self.money))
        if self.money is not None and self.spent_money >= self.money:
            raise BudgetSpent(
                f"the budget of ${self.money:.2f} is spent (${self.spent_money:.4f}); raise --budget to go on"
            )
        if self.tokens is not None and self.spent_tokens >= self.tokens:
            raise BudgetSpent(
                f"the budget of {self.tokens:,} tokens is spent ({self.spent_tokens:,}); raise --budget to go on"
            )

    def add(self, reply: Reply, model: str = "the model") -> None:
        """Count what a call took. A recorded reply took nothing."""
        if reply.recorded:
            return
        self.spent_tokens += reply.usage.input + reply.usage.output
        if reply.cost is None:
            self.unknown_calls += 1
            self._unpriced = self._unpriced or model
        else:
            self.spent_money += reply.cost

    def check_prices(self, models: Iterable[str], price_of: Callable[[str], Prices | None]) -> None:
        """Raises ModelMisconfigured, before anything is spent, if money is capped and a model's price is not known."""
        if self.money is None:
            return
        for model in models:
            if price_of(model) is None:
                what, remedy = _not_priced(model, self.money).split(": ", 1)
                raise ModelMisconfigured(what, remedy, exit_code=2)


def parse_budget(text: str) -> Budget:
    """`2.50` or `$2.50`: dollars. `5000tok`, `300ktok`, `1.5Mtok`: tokens, input and output together."""
    match = re.fullmatch(r"\s*(\$?)(\d+(?:\.\d*)?|\.\d+)(?:([kM]?)(tok))?\s*", text, re.ASCII)
    amount = float(match[2]) if match else 0.0
    if not match or (match[1] and match[4]) or not 0 < amount < math.inf:
        raise ValueError(f"a budget is dollars (2.50, $2.50) or tokens (300ktok, 1.5Mtok), above 0; not {text!r}")
    if not match[4]:
        return Budget(money=amount)
    tokens = round(amount * {"": 1, "k": 1_000, "M": 1_000_000}[match[3]])
    if not tokens:
        raise ValueError(f"a budget is at least one token; not {text!r}")
    return Budget(tokens=tokens)


def parse_price(text: str) -> Prices:
    """`IN,OUT` or `IN,CACHED,OUT`: dollars a million tokens, as providers list them."""
    try:
        numbers = [float(number) / 1_000_000 for number in text.split(",")]
        if len(numbers) == 2:
            numbers.insert(1, numbers[0])
        prices = Prices(*numbers)
        if not all(0 <= price < math.inf for price in prices):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"a price is IN,OUT or IN,CACHED,OUT in dollars a million tokens (0.25,2 or 0.25,0.025,2); not {text!r}"
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
