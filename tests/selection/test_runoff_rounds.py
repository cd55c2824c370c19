"""A run-off in several rounds: in which orders, when no more are held, and that the choice is always defined and says how."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.agent.protocol import Call, ModelUnreachable
from runoff.agent.step import Ended
from runoff.selection.elect import decided
from runoff.selection.protocol import Selection
from runoff.selection.runoff import Decision, RunoffRecipe, certain, in_turn
from tests.selection.test_elect import FILES, FLOOR, ROUND, TRUNC, Answers, Room, letter_of
from tests.selection.test_ranking import entry
from tests.workshop import Workshop

NAMES = "abc"
choice = st.sampled_from(["a", "b", "c", None])


@pytest.fixture(scope="module")
def room(workshop: Workshop) -> Room:
    return Room(workshop, workshop.environment(FILES))


def winners(choices: Sequence[str | None]) -> set[str]:
    cast = Counter(filter(None, choices))
    return {name for name in cast if cast[name] == max(cast.values())}


def ended(chosen: str | None, why: str = "seen", *, tests: int = 1) -> Ended[Decision]:
    letters = {"A": "a", "B": "b", "C": "c"}
    return Ended(reason="done", value=Decision(chosen=chosen, why=why, letters=letters, tests=tests))


RANKED = Selection(chosen="a", reason="ranked: the first", finalists=tuple(NAMES))


# When it is certain


@settings(max_examples=100, deadline=None)
@given(st.lists(choice, max_size=5), st.integers(1, 6))
def test_it_is_certain_exactly_when_no_rounds_that_are_left_can_change_who_won(
    choices: list[str | None], repeats: int
) -> None:
    left = repeats - len(choices)
    if left <= 0:
        assert certain(choices, repeats)
        return
    ends = {frozenset(winners([*choices, *rest])) for rest in product([*NAMES, None], repeat=left)}
    assert certain(choices, repeats) == (len(ends) == 1)


def test_a_majority_of_three_is_certain_after_two() -> None:
    assert not certain([], 3)
    assert not certain(["a"], 3)
    assert certain(["a", "a"], 3)
    assert not certain(["a", None], 3), "a tie is still possible"
    assert certain(["a"], 1)
    assert certain([None], 1)


@pytest.mark.parametrize("count", [2, 3])
def test_each_finalist_stands_in_each_place_as_often(count: int) -> None:
    finalists = [entry(name) for name in NAMES[:count]]
    orders = [tuple(one.id for one in in_turn(finalists, random.Random("seed"), n)) for n in range(1, 2 * count + 1)]
    for rounds in (orders[:count], orders[count:]):
        assert all({order[place] for order in rounds} == set(NAMES[:count]) for place in range(count))
    assert set(orders) == set(permutations(NAMES[:count])), "and every order comes"
    other = [in_turn(finalists, random.Random(seed), 1)[0].id for seed in range(20)]
    assert len(set(other)) == count, "the first is drawn"


# What it comes to


@settings(max_examples=200, deadline=None)
@given(st.lists(choice | st.just("away"), max_size=5))
def test_the_choice_is_always_defined_and_says_how(said: list[str | None]) -> None:
    rounds = [Ended[Decision](reason="turns", note="away") if one == "away" else ended(one) for one in said]
    choices = [None if one == "away" else one for one in said]
    selection = decided(RANKED, rounds)
    best = winners(choices)
    assert selection.chosen == (min(best) if best else "a"), "the first of the ranking among those who are level"
    kind = selection.reason.partition(": ")[0]
    assert kind == ("ranked" if not said else "chosen" if len(best) == 1 else "fallback")
    assert selection.rounds == (tuple(choices) if len(choices) > 1 else ())
    assert bool(selection.letters) == bool(best)


def test_reasons_are_those_of_who_chose_it() -> None:
    assert decided(RANKED, [ended("b", "it rounds")]).reason == "chosen: it rounds"
    several = decided(RANKED, [ended("c", "no"), ended("b", "it rounds"), ended("b", "again")])
    assert several.reason == "chosen: in 2 of 3 rounds. it rounds"
    tie = decided(RANKED, [ended("c"), ended("b"), ended(None)])
    assert (tie.chosen, tie.reason) == ("b", "fallback: 1 of 3 rounds each for b and c; first of them in the ranking")
    abstained = decided(RANKED, [ended(None, "they are the same")])
    assert (abstained.chosen, abstained.reason) == (
        "a",
        "fallback: abstained (they are the same); first of the ranking",
    )
    nobody = decided(RANKED, [ended(None), Ended[Decision](reason="turns", note="no choice within 8 answers")])
    assert (nobody.chosen, nobody.reason) == (
        "a",
        "fallback: no choice in 2 rounds; the last: turns (no choice within 8 answers); first of the ranking",
    )


# In an election


def by_round(*bodies: str) -> Answers:
    """Chooses the change that adds this line in each round; a text that is no line of a change is the whole answer."""

    def answer(call: Call) -> str:
        number = int(call.trajectory.partition(":")[2] or 1)
        body = bodies[number - 1]
        return f'Seen.\n<choose id="{letter_of(call, body)}"/>' if body.startswith("return") else body

    return answer


NO_CHOICE = "I cannot choose."
IN_THREE = {"runoff": RunoffRecipe(turns=1, repeats=3)}


def test_no_more_rounds_are_held_than_can_change_the_choice(room: Room) -> None:
    chosen = room.elect([FLOOR, TRUNC], by_round(*["return int(n / 2)"] * 3), **IN_THREE)
    assert (chosen.chosen, chosen.reason) == ("editing-2", "chosen: in 2 of 2 rounds. Seen.")
    assert chosen.rounds == ("editing-2", "editing-2")
    names = [call.trajectory for call in room.model.calls]
    assert names == ["run-off-editing-1+editing-2", "run-off-editing-1+editing-2:2"]
    letters = {letter_of(call, "return int(n / 2)") for call in room.model.calls}
    assert letters == {"A", "B"}, "the second round has them in the other order"


def test_the_first_round_is_the_one_that_is_held_alone(room: Room) -> None:
    """So a run that is given more rounds goes on from what it asked before."""
    room.elect([FLOOR, TRUNC, ROUND], by_round("return n // 2"), tests=())
    alone = room.model.calls[0]
    room.elect([FLOOR, TRUNC, ROUND], by_round(*["return n // 2"] * 3), tests=(), **IN_THREE)
    first = room.model.calls[0]
    assert first.trajectory == alone.trajectory
    assert first.request.conversation.digest == alone.request.conversation.digest


def test_where_rounds_differ_a_third_decides_and_without_one_the_ranking(room: Room) -> None:
    chosen = room.elect([FLOOR, TRUNC], by_round("return n // 2", *["return int(n / 2)"] * 2), **IN_THREE)
    assert (chosen.chosen, chosen.rounds) == ("editing-2", ("editing-1", "editing-2", "editing-2"))
    tie = room.elect([FLOOR, TRUNC], by_round("return int(n / 2)", "return n // 2", NO_CHOICE), **IN_THREE)
    assert tie.chosen == tie.standings[0].entry
    assert tie.reason == "fallback: 1 of 3 rounds each for editing-1 and editing-2; first of them in the ranking"


def test_a_round_that_cannot_be_held_ends_the_rounds_and_those_that_were_count(room: Room) -> None:
    def answer(call: Call) -> str | Exception:
        return by_round("return int(n / 2)")(call) if ":" not in call.trajectory else ModelUnreachable("503")  # type: ignore[return-value]

    chosen = room.elect([FLOOR, TRUNC], answer, **IN_THREE)
    assert (chosen.chosen, chosen.rounds) == ("editing-2", ("editing-2", None))
    assert len(room.model.calls) == 2


def test_it_abstains_only_where_it_may(room: Room) -> None:
    none = 'They do the same.\n<choose id="none"/>'
    chosen = room.elect([FLOOR, TRUNC], lambda call: none, runoff=RunoffRecipe(turns=2, abstain=True))
    assert chosen.reason == "fallback: abstained (They do the same.); first of the ranking"
    assert chosen.chosen == chosen.standings[0].entry
    assert len(room.model.calls) == 1
    assert '<choose id="none"/>: then the one stands' in room.asked(0)
    chosen = room.elect([FLOOR, TRUNC], lambda call: none, runoff=RunoffRecipe(turns=2))
    assert chosen.reason.startswith("fallback: turns")
    assert "none" not in room.asked(0).partition("Your part: choose.")[2].replace("None of\nthem", "")
    assert "there is no change none; there are A, B" in room.asked(1)
