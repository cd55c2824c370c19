"""Budgets: caps, money nobody knows the amount of, and what a user may write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.budget import Budget, Prices, estimated, parse_budget, parse_price
from runoff.agent.protocol import Bill, BudgetSpent, Message, ModelMisconfigured, Reply, Usage

SPENT = Usage(input=900, cached=400, output=100)


@pytest.mark.parametrize(
    ("text", "money", "tokens"),
    [
        ("2.50", 2.5, None),
        ("$2.50", 2.5, None),
        (" $.5 ", 0.5, None),
        ("5,300ktok", 5.0, 300_000),
        ("3", 3.0, None),
        ("300ktok", None, 300_000),
        ("1.5Mtok", None, 1_500_000),
        ("5000tok", None, 5000),
    ],
)
def test_budgets_that_may_be_written(text: str, money: float | None, tokens: int | None) -> None:
    budget = parse_budget(text)
    assert (budget.money, budget.tokens) == (money, tokens)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "free",
        "0",
        "$0",
        "-1",
        "$",
        "1e3",
        "nan",
        "inf",
        "$300ktok",
        "300k",
        "300 ktok",
        "1.5mtok",
        "0.1tok",
        "1,2",
        "5,",
        "1,000",
        "0.4calls",
        "$3h",
        "10m",
        "9" * 400,
        "٣",
    ],
)
def test_others_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="a budget is") as refused:
        parse_budget(text)
    assert "\n" not in str(refused.value)
    assert repr(text) in str(refused.value)


def test_prices_are_dollars_a_million_tokens() -> None:
    assert parse_price("1,2") == pytest.approx(Prices(1e-6, 1e-6, 2e-6))
    assert parse_price("1, 0.1, 2") == pytest.approx(Prices(1e-6, 1e-7, 2e-6))
    assert Prices(2e-6, 1e-6, 1e-5).of(SPENT) == pytest.approx(500 * 2e-6 + 400 * 1e-6 + 100 * 1e-5)
    assert parse_price("3,0.3,3.75,15") == pytest.approx(Prices(3e-6, 3e-7, 1.5e-5, 3.75e-6))
    assert Prices(3, 1, 9, 4).of(Usage(input=10, cached=2, written=5, output=1)) == 3 * 3 + 2 * 1 + 5 * 4 + 9
    for text in ("", "1", "1,2,3,4,5", "a,b", "-1,2", "nan,1", "inf,1"):
        with pytest.raises(ValueError, match="a price is IN,OUT"):
            parse_price(text)


def test_a_cap_once_reached_lets_no_call_begin() -> None:
    by_tokens, by_money, free = Budget(tokens=2000), Budget(money=0.02), Budget()
    for budget in (by_tokens, by_money, free):
        budget.check()
        budget.add(Reply(text="a", usage=SPENT, cost=0.01))
        budget.check()
        budget.add(Reply(text="a", usage=SPENT, cost=0.01))
        assert (budget.spent_tokens, budget.spent_money, budget.unknown_calls) == (2000, 0.02, 0)
    with pytest.raises(BudgetSpent, match=r"^the budget of 2,000 tokens is spent \(2,000\)"):
        by_tokens.check()
    with pytest.raises(BudgetSpent, match=r"^the budget of \$0\.02 is spent \(\$0\.0200\)"):
        by_money.check()
    free.check()


def test_unknown_cost_is_never_nothing() -> None:
    for budget in (Budget(), Budget(tokens=10_000)):
        budget.add(Reply(text="a", usage=SPENT), "openai/tiny")
        budget.check()
        assert (budget.unknown_calls, budget.spent_tokens, budget.spent_money) == (1, 1000, 0.0)
    capped = Budget(money=2)
    capped.add(Reply(text="a", usage=SPENT), "openai/tiny")
    with pytest.raises(BudgetSpent) as refused:
        capped.check()
    assert str(refused.value) == (
        "the price of openai/tiny is not known, so $2.00 cannot be held to: "
        "use --budget 300ktok, or give the price with --price IN,OUT"
    )


def test_unknown_price_is_found_before_the_first_call() -> None:
    prices = {"openai/known": Prices(1e-6, 1e-6, 1e-6)}
    Budget(tokens=5).check_prices(["openai/tiny"], prices.get)
    Budget(money=2).check_prices(["openai/known"], prices.get)
    with pytest.raises(ModelMisconfigured, match=r"^the price of openai/tiny is not known.*; use --budget") as refused:
        Budget(money=2).check_prices(["openai/known", "openai/tiny"], prices.get)
    assert refused.value.exit_code == 2


def test_recorded_replies_cost_nothing() -> None:
    budget = Budget(money=1, tokens=1)
    budget.add(Reply(text="a", usage=SPENT, recorded=True))
    budget.check()
    assert (budget.spent_tokens, budget.unknown_calls) == (0, 0)


def test_an_estimate_grows_with_the_conversation() -> None:
    talk = Message("user", "x" * 400)
    assert estimated(talk, "y" * 40) == Usage(input=104, output=11)
    assert estimated(talk.then("assistant", "z" * 40), "").input == 118


def test_calls_and_time_may_be_capped_too() -> None:
    now = 0.0
    budget = parse_budget("100calls, 30min,$5", clock=lambda: now)
    assert (budget.calls, budget.seconds, budget.money, budget.tokens) == (100, 1800, 5, None)
    for _ in range(99):
        budget.add(Reply(text="a", cost=0.01))
    budget.check()
    now = 1799.0
    budget.check()
    now = 1800.0
    with pytest.raises(BudgetSpent, match=r"^the budget of 1800 s is spent; raise"):
        budget.check()
    now = 0.0
    budget.add(Reply(text="a", cost=0.01))
    with pytest.raises(BudgetSpent, match=r"^the budget of 100 calls is spent; raise"):
        budget.check()


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 500)), max_size=30), st.floats(0, 0.9))
def test_what_is_kept_for_the_selection_is_there_when_it_comes(
    spending: list[tuple[float, int]], reserve: float
) -> None:
    run = Budget(money=3, tokens=3000)
    issue = Budget(calls=20, within=run)
    for cost, tokens in spending:
        try:
            issue.check(reserve)
        except BudgetSpent:
            break
        assert run.spent_money < 3 * (1 - reserve)
        assert run.spent_tokens < 3000 * (1 - reserve)
        issue.add(Reply(text="a", cost=cost, usage=Usage(input=tokens)))
    assert (run.spent_money, run.spent_tokens, run.spent_calls) == (
        issue.spent_money, issue.spent_tokens, issue.spent_calls
    )  # fmt: skip
    if run.spent_money < 3 and run.spent_tokens < 3000 and issue.spent_calls < 20:
        issue.check()


def test_what_broke_off_counts_by_its_estimate() -> None:
    budget = Budget(money=1, tokens=5000)
    cut = Bill(usage=Usage(input=500, output=10), cost=0.2)
    budget.add(Reply(text="a", usage=SPENT, cost=0.5, cut=cut))
    assert (budget.spent_tokens, budget.spent_money, budget.spent_calls) == (1510, 0.7, 1)
