"""Which tests of the repository hold what an issue wants changed: who may say so, and who may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.editing import Candidate
from runoff.selection.elect import SelectionRecipe, rank
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Entry, OutcomeTable

TESTS = ("old", "other")
GOOD = {"ann": 0.2, "bob": 0.15, "cy": 0.1}


def evidence(
    broken: Mapping[str, Sequence[str] | None],
    reliability: Mapping[str, float],
    families: Mapping[str, str] | None = None,
    proposers: Mapping[str, Sequence[str]] | None = None,
) -> Evidence:
    """An entry for each agent, called after it, that breaks these tests."""
    entries = tuple(
        Entry(
            id=name,
            candidate=Candidate(id=name, patch=b""),
            proposers=tuple((proposers or {}).get(name, (name,))),
            changed_lines=1,
        )
        for name in broken
    )
    lost = {name: None if tests is None else tuple(tests) for name, tests in broken.items()}
    table = OutcomeTable(
        generated=(),
        base={},
        rows={name: {} for name in broken},
        control=dict.fromkeys(broken, "fail"),
        repository=TESTS,
        broken=lost,
    )
    of = {name: name for name in reliability} if families is None else dict(families)
    return Evidence(entries=entries, table=table, reliability=dict(reliability), families=of)


def first(seen: Evidence) -> str | None:
    return rank(seen, SelectionRecipe(ranking="agreement")).chosen


def test_a_right_change_is_not_behind_one_that_changes_nothing_for_breaking_what_the_issue_wants_changed() -> None:
    seen = evidence({"ann": ["old"], "bob": ["old"], "cy": ["old", "other"], "dan": []}, {**GOOD, "dan": -0.2})
    assert seen.outdated == ("old",)
    assert first(seen) == "ann"
    assert first(seen.model_copy(update={"families": {}})) == "dan"
    said = rank(seen, SelectionRecipe(ranking="agreement"))
    assert any("do not count: old" in remark for remark in said.remarks)
    assert said.table
    assert said.table.repository == ("other",)


def test_copies_of_one_wrong_change_under_many_names_talk_no_test_away() -> None:
    copies = {f"copy{number}": ["old"] for number in range(100)}
    as_good = {**GOOD, **dict.fromkeys(copies, 0.3)}
    one = {**{name: name for name in GOOD}, **dict.fromkeys(copies, "copy0")}
    assert evidence({"ann": [], "bob": [], "cy": [], **copies}, as_good, one).outdated == ()
    in_one = evidence({"ann": [], "bob": [], "cy": [], "copy0": ["old"]}, as_good, one, {"copy0": list(copies)})
    assert in_one.outdated == ()


def test_one_agent_alone_however_reliable_says_nothing_of_a_test() -> None:
    assert evidence({"ann": ["old"], "bob": []}, {"ann": 0.3, "bob": 0.01}).outdated == ()


def test_who_could_not_be_told_has_no_voice() -> None:
    assert evidence({"ann": ["old"], "bob": ["old"], "cy": None}, GOOD).outdated == ("old",)


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.sets(st.sampled_from(TESTS)), max_size=12),
    st.floats(-0.3, 0.0),
)
def test_agents_of_whom_the_batch_says_nothing_good_change_nothing(others: dict[str, set[str]], far: float) -> None:
    known = {"ann": ["old"], "bob": ["old"], "cy": []}
    new = {f"new {name}": sorted(tests) for name, tests in others.items()}
    seen = evidence({**known, **new}, {**GOOD, **dict.fromkeys(new, far)})
    assert seen.outdated == ("old",)
    unheard = evidence({**known, **new}, GOOD)
    assert unheard.outdated == ("old",)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from(TESTS)), min_size=1), st.data())
def test_more_than_half_of_the_voices_and_two_families_break_what_is_outdated(
    broken: dict[str, set[str]], data: st.DataObject
) -> None:
    family = {name: data.draw(st.sampled_from("xyz")) for name in broken}
    voices = {name: data.draw(st.floats(-0.3, 0.3)) for name in broken}
    seen = evidence({name: sorted(tests) for name, tests in broken.items()}, voices, family)
    heard = {name for name in broken if voices[name] > 0}
    for test in TESTS:
        if test in seen.outdated:
            assert len({family[name] for name in heard if test in broken[name]}) >= 2
        if len({family[name] for name in heard}) >= 2 and all(test in broken[name] for name in heard):
            assert test in seen.outdated, "all who have a voice break it"
