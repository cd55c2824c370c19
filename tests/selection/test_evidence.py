"""Evidence restricted to some: as if the others had never been; and what every named ranking owes to it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.agent.editing import Candidate
from runoff.selection.elect import SelectionRecipe, rank
from runoff.selection.evidence import Evidence
from runoff.selection.fusion import Fusion
from runoff.selection.protocol import Asked, Cell, Entry, OutcomeTable, Score
from runoff.selection.rankings import RANKINGS, UnknownRanking, ranking

CELLS: list[Cell] = ["pass", "fail", "could not tell"]
often = settings(max_examples=60, deadline=None)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    """Up to six trajectories, each with a candidate or none and a test or none; some are the same."""
    count = draw(st.integers(1, 6))
    patches = draw(st.lists(st.sampled_from("abcd"), min_size=count, max_size=count))
    groups: dict[str, list[str]] = {}
    for n, patch in enumerate(patches, 1):
        groups.setdefault(patch, []).append(f"editing-{n}")
    entries = tuple(
        Entry(
            id=names[0],
            candidate=Candidate(id=names[0], patch=patch.encode() * len(names)),
            proposers=tuple(names),
            changed_lines=ord(patch),
        )
        for patch, names in groups.items()
    )
    scripts = draw(st.lists(st.sampled_from("xyz"), max_size=count))
    same: dict[str, list[str]] = {}
    for n, script in enumerate(scripts, 1):
        same.setdefault(script, []).append(f"testing-{n}")
    tests = tuple(names[0] for names in same.values())
    cells, rows = st.sampled_from(CELLS), {}
    for entry in entries:
        rows[entry.id] = {test: draw(cells) for test in tests}
    table = OutcomeTable(
        generated=tests,
        base=dict.fromkeys(tests, "fail"),
        rows=rows,
        control={entry.id: draw(cells) for entry in entries},
        repository=("r1", "r2"),
        broken={entry.id: draw(st.sampled_from([(), ("r1",), None])) for entry in entries},
        same={names[0]: tuple(names) for names in same.values()},
        scripts={f"testing-{n}": script for n, script in enumerate(scripts, 1)},
        reasons={f"{entry.id}/{test}": "why" for entry in entries for test in tests},
    )
    further = list[Asked]()
    for n in range(draw(st.integers(0, 2))):
        pair = tuple(
            draw(st.lists(st.sampled_from([entry.id for entry in entries]), min_size=1, max_size=2, unique=True))
        )
        test = draw(st.sampled_from([f"differential-{n}", None]))
        further.append(Asked(kind="differential", entries=pair, test=test))
        if test:
            table = table.model_copy(
                update={
                    "generated": (*table.generated, test),
                    "base": table.base | {test: "fail"},
                    "rows": {name: row | {test: draw(cells)} for name, row in table.rows.items()},
                    "same": table.same | {test: (test,)},
                    "scripts": table.scripts | {test: test},
                }
            )
    scores = {entry.id: Score(p=draw(st.sampled_from([None, 0.1, 0.9]))) for entry in entries}
    origins = {f"{kind}-{n}": str(n) for kind in ("editing", "testing") for n in range(1, count + 1)}
    return Evidence(entries=entries, table=table, scores=scores, origins=origins, further=tuple(further))


@often
@given(evidences(), st.sets(st.sampled_from("123456")), st.sets(st.sampled_from("123456")))
def test_restricting_twice_is_restricting_to_both(evidence: Evidence, some: set[str], others: set[str]) -> None:
    assert evidence.among(some).among(others) == evidence.among(some & others)
    assert evidence.among("123456") == evidence


@often
@given(evidences(), st.sets(st.sampled_from("123456"), min_size=1))
def test_nothing_of_the_others_is_left(evidence: Evidence, some: set[str]) -> None:
    left = evidence.among(some)
    assert set(left.members()) == some & set(evidence.members())
    ids = {entry.id for entry in left.entries}
    assert left.further == tuple(asked for asked in evidence.further if ids.issuperset(asked.entries))
    gone = {asked.test for asked in evidence.further if asked.test and asked not in left.further}
    gone |= {f"testing-{n}" for n in set("123456") - some}
    told = left.model_dump_json(exclude={"origins"})
    for name in gone - {test for test, all_of in (left.table.same if left.table else {}).items() if all_of}:
        assert f'"{name}"' not in told, name
    for entry in left.entries:
        assert left.table
        assert set(left.table.rows[entry.id]) == set(left.table.generated), "and no cell of theirs"
        whole = next(one for one in evidence.entries if one.id == entry.id)
        assert len(entry.proposers) == sum(evidence.origin(name) in some for name in whole.proposers)


@often
@given(evidences(), st.sampled_from(sorted(RANKINGS)), st.randoms())
def test_a_ranking_is_a_pure_total_order_whoever_comes_first(
    evidence: Evidence, name: str, chance: random.Random
) -> None:
    shuffled = list(evidence.entries)
    chance.shuffle(shuffled)
    assert evidence.table
    order = ranking(name)(evidence.table, evidence.entries, evidence.scores)
    assert ranking(name)(evidence.table, shuffled, evidence.scores) == order
    assert sorted(standing.entry for standing in order) == sorted(entry.id for entry in evidence.entries)
    lying = [evidence.table.control[standing.entry] == "pass" for standing in order]
    assert lying == sorted(lying), "who passes the control is behind all who do not"


@often
@given(evidences(), st.sampled_from([None, *RANKINGS]))
def test_a_choice_is_always_defined(evidence: Evidence, name: str | None) -> None:
    chosen = rank(evidence, SelectionRecipe(ranking=name))
    assert evidence.table
    able = [entry.id for entry in evidence.entries if evidence.table.control[entry.id] != "pass"]
    assert (chosen.chosen in able) if able else chosen.chosen is None
    assert chosen.reason.partition(": ")[0] in ("ranked", "undisputed", "none")


def entry(name: str, proposers: int = 1, size: int = 10) -> Entry:
    names = tuple(f"{name}{n}" for n in range(proposers))
    return Entry(id=name, candidate=Candidate(id=name, patch=b"x" * size), proposers=names, changed_lines=size)


def first(name: str, table: OutcomeTable, entries: list[Entry], scores: dict[str, Score] = {}) -> str:
    return ranking(name)(table, entries, scores)[0].entry


def test_each_ranking_decides_by_what_it_is_named_after() -> None:
    """`a` is proposed most, `b` passes most tests, `c` is the verifier's, `d` breaks nothing and passes the popular test."""
    entries = [entry("a", 5), entry("b", 1, 20), entry("c", 2, 30), entry("d", 2, 40)]
    cells = {"a": "fff", "b": "fpp", "c": "fpf", "d": "pff"}
    word: dict[str, Cell] = {"p": "pass", "f": "fail"}
    table = OutcomeTable(
        generated=("t1", "t2", "t3"),
        base=dict.fromkeys(("t1", "t2", "t3"), "fail"),
        rows={name: {f"t{n}": word[cell] for n, cell in enumerate(row, 1)} for name, row in cells.items()},
        control=dict.fromkeys("abcd", "fail"),
        repository=("r",),
        broken={"a": ("r",), "b": ("r",), "c": (), "d": ()},
        same={"t1": ("t1", "t4", "t5"), "t2": ("t2",), "t3": ("t3",)},
    )
    scores = {"a": Score(p=0.3), "b": Score(p=0.2), "c": Score(p=0.95), "d": Score(p=0.6)}
    found = {name: first(name, table, entries, scores) for name in RANKINGS}
    assert found == {
        "margin": "c",  # of the two that break nothing, level in votes, the verifier's
        "r2e": "c",
        "codemonkeys": "b",
        "agentless": "d",
        "trae": "c",  # as large a group as d, and smaller
        "codet": "c",
        "agreement": "b",
        "log-odds": "c",
        "majority": "a",
        "regression": "c",
        "votes": "b",
        "verifier": "c",
    }


def test_a_ranking_that_nobody_knows_is_named_with_those_there_are() -> None:
    with pytest.raises(
        UnknownRanking, match=r"no ranking is called 'best'; there are agentless, agreement, codemonkeys, "
    ):
        ranking("best")


def test_a_fusion_is_there_where_all_are_of_whose_patches_it_is_made() -> None:
    def entry(name: str, *proposers: str) -> Entry:
        return Entry(id=name, candidate=Candidate(id=name, patch=b"x"), proposers=proposers, changed_lines=1)

    names = ("a", "b", "c", "fusion")
    rows: dict[str, dict[str, Cell]] = {name: {} for name in names}
    whole = Evidence(
        entries=tuple(entry(name, name) for name in names),
        table=OutcomeTable(generated=(), base={}, rows=rows, control=dict.fromkeys(names, "fail")),
        origins={"a": "ann", "b": "bob", "c": "cy"},
        reliability={"ann": 0.1, "bob": -0.1},
        fusion=Fusion(like="b", members=("a", "b"), kept=1, dropped=1, added=0),
    )
    assert whole.members() == ["ann", "bob", "cy"]
    assert [one.reliability for one in whole.relied_on()] == [0.1, -0.1, None, -0.1]
    assert [one.id for one in whole.among(["ann", "bob"]).entries] == ["a", "b", "fusion"]
    less = whole.among(["ann", "cy"])
    assert [one.id for one in less.entries] == ["a", "c"]
    assert less.fusion is None
    assert not any("fusion" in remark for remark in rank(less, SelectionRecipe(ranking="agreement")).remarks)
