"""Agreement: likeness as a number, families, reliability learned without labels, and what may not influence it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.selection.agreement import LEAST, Agents, families, learn, relied_on
from runoff.selection.edits import changes
from runoff.selection.likeness import atoms, likeness, nearness, traits
from runoff.selection.pool import Member, Pool, blind, first, majority, shortest
from runoff.selection.sameness import same_text


def patch(*lines: str, path: str = "x.py") -> bytes:
    """A change of `path` that adds these lines."""
    if not lines:
        return b""
    body = "".join(f"+{line}\n" for line in lines)
    return f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1,0 +2,{len(lines)} @@\n{body}".encode()


def pool(patches: Mapping[str, bytes], instance: str = "i") -> Pool:
    return Pool(instance=instance, members=tuple(Member(id=n, agent=n, patch=p) for n, p in patches.items()))


# Atoms and likeness

LINE = st.sampled_from(["a = 1", "b = 2", "return a", "  return a", "# a", "", "x"])
PATCH = st.builds(
    lambda lines, path: patch(*lines, path=path),
    st.lists(LINE, max_size=6),
    st.sampled_from(["x.py", "y.py", "tests/x.py"]),
)


@given(PATCH, PATCH)
def test_likeness_is_a_symmetric_share_and_1_on_equal_patches(one: bytes, other: bytes) -> None:
    a, b = atoms(one), atoms(other)
    assert 0 <= likeness(a, b) <= 1
    assert likeness(a, b) == likeness(b, a)
    assert likeness(a, a) == (1 if a else 0)
    assert (likeness(a, b) == 1) == (a == b and bool(a))


@given(PATCH, PATCH)
def test_nearness_is_one_too(one: bytes, other: bytes) -> None:
    a, b = traits(one), traits(other)
    assert 0 <= nearness(a, b) <= 1
    assert nearness(a, b) == nearness(b, a)
    assert nearness(a, a) == (1 if a.atoms else 0)
    assert (nearness(a, b) == 1) <= (a.places == b.places)
    if a.atoms == b.atoms and a.places == b.places:
        assert nearness(a, b) == (1 if a.atoms else 0)


def test_a_line_that_differs_in_a_word_is_near_and_not_alike() -> None:
    one, other = traits(patch("return left + right")), traits(patch("return left - right"))
    assert likeness(one.atoms, other.atoms) == 0
    assert nearness(one, other) == pytest.approx((3 / 5 + 1) / 2)
    assert nearness(one, traits(patch("return left + right", path="y.py"))) == 0
    assert nearness(traits(patch("x = 'a'")), traits(patch('x = "a"'))) == 1


def test_tests_comments_blank_lines_and_white_space_are_no_part_of_likeness() -> None:
    one = (
        patch("if a:", "    b( )", "", "# why")
        + patch("assert f()", path="tests/test_f.py")
        + patch("f()", path="reproduce.py")
    )
    assert atoms(one) == atoms(patch("if a :", "  b()"))
    assert atoms(patch("// a", "/* b", " * c", "d *= 2", path="x.c")) == atoms(patch("d *= 2", path="x.c"))
    assert atoms(patch("#include <a>", path="x.c")), "this is no comment there"


def test_half_of_the_lines_in_common_is_half_alike() -> None:
    assert likeness(atoms(patch("a", "b")), atoms(patch("b", "c"))) == 0.5
    assert likeness(atoms(patch("a")), atoms(patch("a", path="y.py"))) == 0


def test_changes_have_the_place_they_stand_at_in_the_base() -> None:
    text = b"--- a/x\n+++ b/x\n@@ -3,3 +3,3 @@ f\n a\n-b\n+c\n d\n@@ -9,0 +10 @@\n+e\n"
    assert [(c.sign, c.line, c.text) for c in changes(text)] == [("-", 4, "b"), ("+", 5, "c"), ("+", 10, "e")]


# The plain rules


def test_the_plain_rules() -> None:
    found = pool({"a": patch("x", "y"), "b": patch("z"), "c": patch("x", "y"), "d": b""})
    assert first(found).index(max(first(found))) == 0
    assert shortest(found).index(max(shortest(found))) == 1
    assert majority(same_text)(found) == [2, 1, 2, 0]
    assert blind(found)[0] > blind(found)[1] > blind(found)[3]
    assert blind(found)[3] == 0


def test_rules_of_one_candidate_and_of_none() -> None:
    for members in ({}, {"a": patch("x")}):
        found = pool(members)
        for rule in (first, shortest, blind, majority(same_text), learn([found]).known, learn([found]).posterior):
            assert len(rule(found)) == len(members)


@given(st.lists(PATCH, max_size=5), st.sets(st.sampled_from("abcde")))
def test_a_part_of_a_pool_is_the_pool_of_that_part(patches: list[bytes], some: set[str]) -> None:
    whole = pool(dict(zip("abcde", patches, strict=False)))
    part, plain = whole.only(some), pool({m.id: m.patch for m in whole.members if m.id in some})
    assert part == plain
    assert (part.traits, part.likeness, part.nearness) == (plain.traits, plain.likeness, plain.nearness)


# Reliability


def batch(
    accuracy: Mapping[str, float], issues: int = 60, seed: int = 1, copies: Mapping[str, str] = {}
) -> tuple[list[Pool], dict[tuple[str, str], bool]]:
    """Pools of made-up agents, and which of their patches are right. Right ones share most lines, wrong ones few; a copier
    hands in what another does.
    """
    chance = random.Random(seed)
    pools, right = list[Pool](), dict[tuple[str, str], bool]()
    for n in range(issues):
        ease, patches = chance.uniform(-0.3, 0.3), dict[str, bytes]()
        for agent, share in accuracy.items():
            good = chance.random() < share + ease
            truth = [f"right_{n}_{k}" for k in range(4)]
            lines = (
                chance.sample(truth, chance.choice([2, 3, 4, 4])) if good else [f"{agent}_{n}_{k}" for k in range(3)]
            )
            if not good and chance.random() < 0.5:
                lines[0] = truth[0]
            patches[agent], right[f"i{n}", agent] = patch(*lines), good
        for agent, source in copies.items():
            patches[agent], right[f"i{n}", agent] = patches[source], right[f"i{n}", source]
        pools.append(pool(patches, f"i{n}"))
    return pools, right


def selected(pools: Sequence[Pool], right: Mapping[tuple[str, str], bool], rule: object) -> float:
    assert callable(rule)
    total = 0.0
    for found in pools:
        scores = rule(found)
        best = [m.id for m, score in zip(found.members, scores, strict=True) if score == max(scores)]
        total += sum(right[found.instance, name] for name in best) / len(best)
    return total / len(pools)


ACCURACY = {"good": 0.8, "fair": 0.6, "poor": 0.35, "bad": 0.3, "worse": 0.2}


def test_reliability_is_learned_in_its_order_and_selects() -> None:
    pools, right = batch(ACCURACY)
    agents = learn(pools)
    said = agents.reliability
    assert said["good"] > said["fair"] > said["poor"] > said["worse"]
    mean = sum(right.values()) / len(right)
    assert selected(pools, right, agents.known) > selected(pools, right, blind) > mean


def test_a_batch_that_is_too_small_says_nothing_of_its_agents() -> None:
    pools, _ = batch(ACCURACY, issues=LEAST)
    said = relied_on(pools)
    assert said["good"] > said["worse"]
    assert relied_on(pools[1:]) == {}


def test_a_hundred_copies_of_a_bad_agent_gain_nothing() -> None:
    copies = {f"copy{n:03}": "worse" for n in range(100)}
    pools, right = batch(ACCURACY, issues=20, copies=copies)
    agents = learn(pools)
    assert len({agents.family[name] for name in copies} | {agents.family["worse"]}) == 1
    assert agents.family["good"] != agents.family["worse"]
    assert max(agents.reliability, key=lambda name: agents.reliability[name]) == "good"
    assert selected(pools, right, agents.known) > 0.7 > selected(pools, right, blind)
    assert selected(pools, right, agents.apart) > 0.5 > selected(pools, right, blind)


def test_a_family_has_one_voice() -> None:
    found = pool({"x1": patch("a"), "x2": patch("a"), "x3": patch("b"), "y": patch("b"), "z": patch("c")})
    of = {"x1": "x", "x2": "x", "x3": "x", "y": "y", "z": "z"}
    assert learn([found], of).apart(found) == [0, 0, 1, 1, 0]
    assert learn([found], {}).apart(found) == [1, 1, 1, 1, 0]


def test_little_seen_little_said() -> None:
    pools, _ = batch(ACCURACY)
    extra = [
        *pools[0].members,
        *(Member(id=f"new{n}", agent=f"new{n}", patch=pools[0].members[0].patch) for n in range(9)),
    ]
    agents = learn([pools[0].model_copy(update={"members": tuple(extra)}), *pools[1:]])
    assert len({agents.family[f"new{n}"] for n in range(9)}) == 1, "they may all be one"
    assert abs(agents.reliability["new0"]) < abs(agents.reliability["good"])


def renamed(pools: Sequence[Pool], names: Mapping[str, str]) -> list[Pool]:
    def member(one: Member) -> Member:
        return one.model_copy(update={"agent": names[one.agent]})

    return [found.model_copy(update={"members": tuple(map(member, found.members))}) for found in pools]


@settings(max_examples=10, deadline=None)
@given(st.permutations(sorted(ACCURACY)), st.randoms(use_true_random=False), st.integers(0, 99))
def test_no_agent_is_known_by_name_and_no_order_matters(names: list[str], chance: random.Random, seed: int) -> None:
    pools, _ = batch(ACCURACY, issues=15, seed=seed)
    plain = learn(pools)
    mixed = list[Pool]()
    for found in pools:
        members = list(found.members)
        chance.shuffle(members)
        mixed.append(Pool(instance=found.instance, members=tuple(members)))
    chance.shuffle(mixed)
    new = dict(zip(sorted(ACCURACY), names, strict=True))
    other = learn(renamed(mixed, new))
    for agent in ACCURACY:
        assert other.reliability[new[agent]] == pytest.approx(plain.reliability[agent], abs=1e-6)


@given(st.lists(st.lists(PATCH, max_size=4), max_size=4))
@settings(deadline=None, max_examples=50)
def test_whatever_the_batch_chances_are_chances(given_: list[list[bytes]]) -> None:
    pools = [pool({f"a{k}": p for k, p in enumerate(patches)}, f"i{n}") for n, patches in enumerate(given_)]
    agents = learn(pools)
    assert all(0 < chance < 1 for chance in agents.right.values())
    assert all(-1 < value < 1 for value in agents.reliability.values())
    assert set(families(pools)) == {m.agent for found in pools for m in found.members}


def executed(right: Mapping[tuple[str, str], bool], seed: int) -> dict[tuple[str, str], str | None]:
    """What running something could say: nearly every right patch passes, most wrong ones do not, some could not be run."""
    chance = random.Random(seed)
    return {
        key: None if chance.random() < 0.2 else "pass" if chance.random() < (0.95 if good else 0.2) else "fail"
        for key, good in sorted(right.items())
    }


def test_what_was_executed_bears_witness_in_the_same_model() -> None:
    pools, right = batch(ACCURACY)
    said = executed(right, 3)
    agents = learn(pools, witnesses=lambda found: {"test": [said[found.instance, m.id] for m in found.members]})
    assert agents.says["test"]["pass"] > 0.5 > -0.5 > agents.says["test"]["fail"]
    without = learn(pools)
    assert selected(pools, right, agents.posterior) > selected(pools, right, without.posterior)


def test_a_witness_that_says_nothing_changes_nothing() -> None:
    pools, _ = batch(ACCURACY, issues=20)

    def same(agents: Agents) -> dict[str, float]:
        return agents.reliability

    silent = learn(pools, witnesses=lambda found: {"test": [None] * len(found.members)})
    always = learn(pools, witnesses=lambda found: {"test": ["pass"] * len(found.members)})
    assert same(silent) == same(learn(pools))
    assert same(always) == pytest.approx(same(learn(pools)))
