"""When a trajectory may begin, where a budget does not do for all: no more at once than the rest of it is expected to end."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from runoff.agent.budget import Budget
from runoff.agent.protocol import Reply

_BLIND = 2
"""How many begin before it is known what a call takes."""


class _Place:
    """What is under way, or waits to be: a trajectory, or several that follow one another."""

    def __init__(self, order: tuple[int, int], calls: int, budgets: list[Budget], reserve: float) -> None:
        self.order, self.calls, self.budgets, self.reserve = order, calls, budgets, reserve
        self.made = 0
        self.may_begin: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Starts:
    """The trajectories of all instances that share a budget, begun by their numbers: the first of each instance first.

    Where all run side by side, a budget that is too small ends all of them half-way, and nothing is handed in. So those
    that have begun go first. A new one begins if the rest of each budget it spends from is expected to do for it and for
    those under way, and always if none is. What is expected: the calls that those took which have ended, or all that
    one may make; at what a call took on average. Without a cap on money, tokens or calls all begin at once.
    """

    def __init__(self, among: int = 1) -> None:
        """`among`: how many places of as much work as this one spend from the same budgets."""
        self.among = among
        self._under_way: dict[tuple[str, str], _Place] = {}
        """By instance and trajectory; one place may have several."""
        self._begun = set[_Place]()
        self._waiting: list[_Place] = []
        self._arrived = itertools.count()
        self._calls, self._money, self._tokens = 0, 0.0, 0
        """Of all trajectories that came by here, in this process."""
        self._ended, self._made = 0, 0
        """How many have ended, and the calls that they made."""
        self._to_look = False

    @asynccontextmanager
    async def turn(
        self, instance: str, trajectories: Sequence[str], n: int, calls: int, budget: Budget, reserve: float = 0.0
    ) -> AsyncIterator[None]:
        """Wait until number `n` of an instance may begin, which makes `calls` at most; it is under way inside."""
        budgets = [
            each for each in _chain(budget) if any(cap is not None for cap in (each.money, each.tokens, each.calls))
        ]
        place = _Place((n, next(self._arrived)), calls, budgets, reserve)
        bisect.insort(self._waiting, place, key=lambda each: each.order)
        if not self._to_look:
            self._to_look = True
            asyncio.get_running_loop().call_soon(self._look)  # when those have come that come together with it
        try:
            await place.may_begin
            for name in trajectories:
                self._under_way[instance, name] = place
            yield
            self._ended, self._made = self._ended + bool(place.made), self._made + place.made
        finally:
            if place in self._waiting:
                self._waiting.remove(place)
            for name in trajectories:
                self._under_way.pop((instance, name), None)
            self._begun.discard(place)
            self._look()

    def took(self, instance: str, trajectory: str, reply: Reply) -> None:
        """A call has ended."""
        place = self._under_way.get((instance, trajectory))
        if place is None or reply.recorded:
            return
        place.made += 1
        self._calls += 1
        for bill in (reply, reply.cut) if reply.cut else (reply,):
            self._money += bill.cost or 0.0
            self._tokens += bill.usage.input + bill.usage.output
        self._look()

    def _look(self) -> None:
        """Let those begin, in their order, that may."""
        self._to_look = False
        if not self._waiting:
            return
        left: dict[int, float] = {}  # calls still expected of what is under way, by the budget they are paid from
        under_way: dict[int, int] = {}
        for place in self._begun:
            for budget in place.budgets:
                left[id(budget)] = left.get(id(budget), 0.0) + self._expected(place)
                under_way[id(budget)] = under_way.get(id(budget), 0) + 1
        full, still = set[int](), list[_Place]()  # who comes later at a budget that does not do overtakes nobody
        for number, place in enumerate(self._waiting):
            expected = self._expected(place)
            short = [
                budget
                for budget in place.budgets
                if id(budget) in full
                or (
                    under_way.get(id(budget))
                    and not self._does(budget, left[id(budget)] + expected, under_way[id(budget)], place.reserve)
                )
            ]
            if short:
                full.update(map(id, short))
                still.append(place)
                if any(budget.within is None for budget in short):  # which all share
                    still += self._waiting[number + 1 :]
                    break
                continue
            for budget in place.budgets:
                left[id(budget)] = left.get(id(budget), 0.0) + expected
                under_way[id(budget)] = under_way.get(id(budget), 0) + 1
            self._begun.add(place)
            if not place.may_begin.done():
                place.may_begin.set_result(None)
        self._waiting = still

    def _expected(self, place: _Place) -> float:
        """Calls that a place will still make."""
        usual = self._made / self._ended if self._ended else place.calls
        return max(1.0, usual - place.made)

    def _does(self, budget: Budget, calls: float, under_way: int, reserve: float) -> bool:
        """Whether the rest of a budget is expected to do for so many calls."""
        average = (lambda total: total / self._calls) if self._calls else (lambda total: None)
        for cap, spent, a_call in (
            (budget.money, budget.spent_money, average(self._money)),
            (budget.tokens, budget.spent_tokens, average(self._tokens)),
            (budget.calls, budget.spent_calls, 1.0),
        ):
            if cap is None:
                continue
            if a_call is None:
                if under_way >= _BLIND:
                    return False
            elif spent + self.among * calls * a_call > cap * (1 - reserve):
                return False
        return True


def _chain(budget: Budget) -> Iterator[Budget]:
    here: Budget | None = budget
    while here:
        yield here
        here = here.within
