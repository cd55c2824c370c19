"""Who meets whom, who gets more, and what comparisons come to: bounds, fairness, and no place that favours anyone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.selection.tournament import Pair, better_half, circle, settled_by, strengths

often = settings(max_examples=200, deadline=None)
names = st.lists(st.text("abcdefgh", min_size=1, max_size=3), unique=True, min_size=1, max_size=14)


@st.composite
def fields(draw: st.DrawFn) -> tuple[list[str], int, list[Pair]]:
    """An order, how many each is to meet, and who has met before."""
    order = draw(names)
    every = [(a, b) for a in order for b in order if a < b]
    known = draw(st.lists(st.sampled_from(every), unique=True)) if every else []
    return order, draw(st.integers(1, 16)), [pair[::-1] if draw(st.booleans()) else pair for pair in known]


@often
@given(fields())
def test_everyone_meets_as_many_new_ones_as_asked_or_all_there_are(field: tuple[list[str], int, list[Pair]]) -> None:
    order, k, known = field
    new = circle(order, k, known)
    met = [frozenset(pair) for pair in new]
    assert len(set(met)) == len(met)
    assert not set(met) & {frozenset(pair) for pair in known}
    took = Counter(name for pair in new for name in pair)
    for name in order:
        left = len(order) - 1 - sum(name in pair for pair in known)
        assert took[name] >= min(k, left)


@often
@given(fields())
def test_it_takes_a_number_of_comparisons_in_the_order_of_n(field: tuple[list[str], int, list[Pair]]) -> None:
    order, k, known = field
    assert len(circle(order, k, known)) <= k * len(order)
    assert len(circle(order, k)) <= -(-k // 2) * len(order)


@often
@given(names, st.integers(2, 16))
def test_from_two_on_nobody_is_left_apart(order: list[str], k: int) -> None:
    reached, pairs = {order[0]}, circle(order, k)
    for _ in order:
        reached |= {name for pair in pairs if reached & set(pair) for name in pair}
    assert reached == set(order)


def test_neighbours_in_the_order_meet_first() -> None:
    assert circle("abcd", 1) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert circle("abcd", 2) == [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")]
    assert circle("abcd", 1, [("b", "a")]) == [("b", "c"), ("c", "d"), ("d", "a")]
    assert circle("ab", 9, [("a", "b")]) == []


@pytest.mark.parametrize(
    ("forward", "backward", "result"),
    [
        ([0.9], [0.8], 1),
        ([0.1], [0.2], 0),
        ([0.9], [0.2], 0.5),
        ([0.1], [0.9], 0.5),
        ([0.5], [0.9], 0.5),
        ([0.5], [0.5], 0.5),
        ([1, 1, 0], [1, None], 1),
        ([1, 0], [1, 1], 0.5),
        ([None], [1], None),
        ([1], [], None),
        ([], [], None),
    ],
)
def test_only_where_both_orders_agree_is_it_won(
    forward: list[float | None], backward: list[float | None], result: float | None
) -> None:
    assert settled_by(forward, backward) == result
    turned = settled_by(
        [None if p is None else 1 - p for p in forward], [None if p is None else 1 - p for p in backward]
    )
    assert turned == (None if result is None else 1 - result)


@given(st.floats(0, 1))
def test_who_always_takes_the_first_place_for_the_better_one_decides_nothing(liking: float) -> None:
    """P(the first shown is better) is the same whoever is shown first."""
    assert settled_by([liking], [1 - liking]) == 0.5


@st.composite
def played(draw: st.DrawFn) -> tuple[list[str], dict[Pair, float | None]]:
    order = draw(names)
    pairs = circle(order, draw(st.integers(1, 5)))
    results = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=len(pairs), max_size=len(pairs)))
    return order, dict(zip(pairs, results, strict=True))


@often
@given(played(), st.randoms(use_true_random=False))
def test_strength_is_a_share_and_neither_order_nor_direction_matters(
    game: tuple[list[str], dict[Pair, float | None]], chance: random.Random
) -> None:
    order, results = game
    found = strengths(order, results)
    known = {name for pair, result in results.items() if result is not None for name in pair}
    assert {name for name, p in found.items() if p is not None} == known, "missing is missing"
    assert all(0 < p < 1 for p in found.values() if p is not None)
    turned = {(pair if chance.random() < 0.5 else pair[::-1]): result for pair, result in results.items()}
    turned = {pair: result if result is None or pair in results else 1 - result for pair, result in turned.items()}
    other = strengths(chance.sample(order, len(order)), turned)
    assert all(found[name] == pytest.approx(other[name], abs=1e-9) for name in known)


@often
@given(played())
def test_one_more_win_never_makes_weaker(game: tuple[list[str], dict[Pair, float | None]]) -> None:
    order, results = game
    for pair, result in results.items():
        if result in (0.0, 0.5):
            before, after = strengths(order, results), strengths(order, results | {pair: 1.0})
            assert after[pair[0]] > before[pair[0]]  # type: ignore[operator]
            break


def test_among_all_pairs_the_number_of_wins_orders() -> None:
    order = list("abcde")
    results = {(a, b): float(a < b) for a in order for b in order if a < b}
    found = strengths(order, results)
    assert sorted(order, key=lambda name: -found[name]) == order  # type: ignore[operator]
    assert found["c"] == pytest.approx(0.5)
    assert found["a"] == pytest.approx(1 - found["e"])  # type: ignore[operator]


def test_a_draw_among_strong_ones_is_worth_more_than_one_among_weak_ones() -> None:
    """The better half meets only each other in the end: win shares alone would put those behind who won no more there."""
    results = {("a", "x"): 1.0, ("b", "y"): 1.0, ("a", "b"): 0.5, ("x", "y"): 0.5}
    found = strengths("abxy", results)
    assert found["a"] == pytest.approx(found["b"])
    assert found["a"] > 0.5 > found["x"]  # type: ignore[operator]
    assert strengths("ab", {}) == {"a": None, "b": None}


@often
@given(names, st.data())
def test_the_better_half_gets_more_and_missing_is_not_bad(order: list[str], data: st.DataObject) -> None:
    p = {name: data.draw(st.none() | st.floats(0, 1)) for name in order}
    chosen = better_half(order, p)
    assert len(chosen) == min(len(order), max(2, -(-len(order) // 2)))
    worth = {name: 0.5 if value is None else value for name, value in p.items()}
    assert (
        min(worth[name] for name in chosen)
        >= max((worth[name] for name in order if name not in chosen), default=0) - 1e-9
    )


def test_level_ones_stand_as_they_stood() -> None:
    assert better_half("dcba", {"a": 0.5, "b": None, "d": 0.2}) == ["c", "b"]
    assert better_half("abc", {"c": 1.0}) == ["c", "a"]
