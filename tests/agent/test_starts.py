"""Beginnings: a small budget ends some trajectories whole, not all of them half-way; a large one holds nobody up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.budget import Budget
from runoff.agent.doubles import Scripted
from runoff.agent.log import Log
from runoff.agent.protocol import Call, Message, Reply, Request, Sampling, Usage
from runoff.agent.starts import Starts
from runoff.agent.step import Ended, Step, World, settled, trajectory

TURNS = 6


async def unit(step: Step) -> Ended[str]:
    talk = Message("user", "mend it")
    for turn in range(TURNS):
        answer = await step.ask(f"turn{turn}", Request("m", Sampling(), talk))
        talk = answer.conversation.then("user", "go on")
    return Ended(reason="done", value=step.trajectory)


class Day:
    """Trajectories of some instances under one budget; what came of them, and what ran side by side."""

    def __init__(self, place: Path, budget: Budget, number: int = 10, instances: int = 1, turns: int = TURNS) -> None:
        self.place, self.budget, self.number, self.instances, self.turns = place, budget, number, instances, turns
        self.under_way = set[tuple[str, str]]()
        self.most = 0
        self.calls: list[tuple[str, str]] = []

    def run(self, through_starts: bool = True, reserve: float = 0.0) -> Counter[str]:
        def says(call: Call) -> Reply:
            self.calls.append((call.instance, call.trajectory))
            return Reply(text="so be it", usage=Usage(input=90, output=10), cost=0.01)

        async def one(world: World, n: int) -> Ended[str]:
            world.reserve = reserve
            name = f"t{n}"
            if not through_starts:
                return await trajectory(world, name, str, unit)
            async with world.starts.turn(world.instance, [name], n, self.turns, world.budget, reserve):
                self.under_way.add((world.instance, name))
                self.most = max(self.most, len(self.under_way))
                try:
                    return await trajectory(world, name, str, unit)
                finally:
                    self.under_way.remove((world.instance, name))

        async def all_of_them() -> Counter[str]:
            model, starts = Scripted(says, latency=0.001), Starts()
            worlds = []
            for number in range(self.instances):
                log = Log(self.place / f"{number}.jsonl")
                worlds.append(World(log, f"i{number}", model, cast(Any, None), Budget(within=self.budget)))
                worlds[-1].starts = starts
                worlds[-1].count_back()
            try:
                numbers = range(1, self.number + 1)
                ends = await asyncio.wait_for(settled(*(one(world, n) for world in worlds for n in numbers)), 60)
            finally:
                for world in worlds:
                    await world.close()
            return Counter(end.reason for end in ends)

        return asyncio.run(all_of_them())


@pytest.mark.parametrize(
    "budget", [{"calls": 20}, {"tokens": 2000}, {"money": 0.2}], ids=lambda budget: next(iter(budget))
)
def test_a_budget_for_three_of_ten_ends_three_not_none(budget: dict[str, Any], tmp_path: Path) -> None:
    side_by_side = Day(tmp_path / "before", Budget(**budget)).run(through_starts=False)
    assert side_by_side["done"] == 0
    assert Day(tmp_path / "after", Budget(**budget)).run()["done"] >= 2


@pytest.mark.parametrize("budget", [{}, {"seconds": 60.0}, {"calls": 100}, {"money": 1.0}, {"tokens": 10_000}])
def test_a_budget_that_does_for_all_holds_nobody_up(budget: dict[str, Any], tmp_path: Path) -> None:
    day = Day(tmp_path, Budget(**budget))
    assert day.run() == {"done": 10}
    assert day.most == 10, "at the latest when the first call has shown what one takes"


def test_what_is_kept_for_the_selection_is_not_counted_on(tmp_path: Path) -> None:
    budget = Budget(calls=24)
    assert Day(tmp_path, budget).run(reserve=0.5)["done"] == 2
    assert budget.spent_calls == 12


def test_those_that_end_early_make_room_for_more(tmp_path: Path) -> None:
    """That one may make 20 calls and makes 6 is known once one has ended."""
    assert Day(tmp_path, Budget(calls=40), turns=20).run()["done"] == 6


def test_the_first_of_each_instance_goes_first(tmp_path: Path) -> None:
    day = Day(tmp_path, Budget(calls=TURNS * 4), number=3, instances=4)
    assert day.run()["done"] == 4
    assert {name for _, name in day.calls[: TURNS * 4]} == {"t1"}


def test_a_richer_run_goes_on_and_ends_all(tmp_path: Path) -> None:
    Day(tmp_path, Budget(calls=20)).run()
    again = Day(tmp_path, Budget())
    assert again.run() == {"done": 10}
    assert len(again.calls) == 10 * TURNS - 20


@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 3), st.integers(1, 12), st.floats(0, 0.9))
def test_whatever_the_budget_everyone_gets_a_turn_in_the_end(
    calls: int, number: int, instances: int, turns: int, reserve: float
) -> None:
    """Nobody waits for ever; and no budget is left that would have done for one more."""

    async def scene() -> tuple[int, int]:
        starts, budget, whole = Starts(), Budget(calls=calls), 0

        async def one(instance: str, n: int) -> None:
            nonlocal whole
            mine = Budget(within=budget)
            async with starts.turn(instance, [f"t{n}"], n, turns, mine, reserve):
                for _ in range(turns):
                    await asyncio.sleep(0)
                    if budget.spent_calls >= calls * (1 - reserve):
                        return
                    reply = Reply(text="", cost=0.0)
                    mine.add(reply)
                    starts.took(instance, f"t{n}", reply)
                whole += 1

        everyone = [one(f"i{i}", n) for i in range(instances) for n in range(1, number + 1)]
        await asyncio.wait_for(asyncio.gather(*everyone), 20)
        return whole, budget.spent_calls

    whole, spent = asyncio.run(scene())
    affordable = min(number * instances, int(calls * (1 - reserve) + 1e-9) // turns)
    assert whole >= affordable
    assert spent <= calls


def test_one_that_is_cancelled_or_fails_leaves_its_place() -> None:
    async def scene() -> None:
        starts, budget = Starts(), Budget(calls=5)

        async def one(n: int) -> None:
            async with starts.turn("i", [f"t{n}"], n, 5, budget):
                await asyncio.sleep(60 if n < 3 else 0)

        tasks = [asyncio.ensure_future(one(n)) for n in (1, 2, 3)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()  # waits
        tasks[0].cancel()  # is under way
        await asyncio.wait_for(tasks[2], 5)

    asyncio.run(scene())


def test_an_issue_at_its_own_cap_keeps_no_other_waiting() -> None:
    async def scene() -> list[str]:
        starts, run, begun = Starts(), Budget(calls=1000), list[str]()

        async def one(instance: str, n: int, budget: Budget) -> None:
            async with starts.turn(instance, [f"t{n}"], n, 10, budget):
                begun.append(f"{instance}{n}")
                await asyncio.sleep(60)

        poor, rich = Budget(calls=12, within=run), Budget(calls=500, within=run)
        tasks = [asyncio.ensure_future(one(*who)) for n in (1, 2, 3) for who in (("poor", n, poor), ("rich", n, rich))]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return begun

    assert asyncio.run(scene()) == ["poor1", "rich1", "rich2", "rich3"]


def test_thousands_that_wait_cost_little() -> None:
    async def scene() -> int:
        starts, budget, ended = Starts(), Budget(calls=10_000), 0

        async def one(n: int) -> None:
            nonlocal ended
            async with starts.turn("i", [f"t{n}"], n, 40, budget):
                for _ in range(2):
                    await asyncio.sleep(0)
                    budget.add(reply := Reply(text="", cost=0.0))
                    starts.took("i", f"t{n}", reply)
                ended += 1

        began = time.process_time()
        await asyncio.gather(*map(one, range(5000)))
        assert time.process_time() - began < 15, "of the processor's time"
        return ended

    assert asyncio.run(scene()) == 5000
