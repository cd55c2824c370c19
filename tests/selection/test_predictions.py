"""Patches of other agents: every format people have, no label in any of them, one clear line for what cannot be read."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.selection.predictions import (
    BadPredictions,
    NothingThere,
    NotReadable,
    Prediction,
    UnknownShape,
    read_predictions,
)

ONE = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"
TWO = ONE.replace("+b", "+c")


def put(root: Path, files: dict[str, object]) -> Path:
    for name, what in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, bytes):
            file.write_bytes(what)
        elif isinstance(what, str):
            file.write_text(what)
        elif ".jsonl" in name:
            assert isinstance(what, list)
            lines = "".join(json.dumps(row) + "\n" for row in what).encode()
            file.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
        else:
            file.write_text(json.dumps(what))
    return root


def said(found: list[Prediction]) -> list[tuple[str, str, str]]:
    return [(one.instance, one.id, one.patch.decode()) for one in found]


def record(instance: str, agent: str, patch: str | None) -> dict[str, object]:
    return {"instance_id": instance, "model_name_or_path": agent, "model_patch": patch}


FORMATS: dict[str, tuple[dict[str, object], str, list[tuple[str, str, str]]]] = {
    "preds.json, as mini-swe-agent and SWE-agent write it": (
        {"preds.json": {"i-1": record("i-1", "m", ONE), "i-2": record("i-2", "m", TWO)}},
        "preds.json",
        [("i-1", "m", ONE), ("i-2", "m", TWO)],
    ),
    "a dictionary of patches": (
        {"mine.json": {"i-1": ONE, "i-2": None}},
        "mine.json",
        [("i-1", "mine", ONE), ("i-2", "mine", "")],
    ),
    "a list of records": ({"p.json": [record("i-1", "m", ONE)]}, "p.json", [("i-1", "m", ONE)]),
    "all_preds.jsonl": (
        {"all_preds.jsonl": [record("i-1", "m", ONE), record("i-2", "m", None)]},
        "all_preds.jsonl",
        [("i-1", "m", ONE), ("i-2", "m", "")],
    ),
    "a labelled collection, compressed": (
        {
            "patches.jsonl.gz": [
                {"instance_id": "i-1", "agent": "a", "patch": ONE, "resolved": True, "resolved_here": None}
            ]
        },
        "patches.jsonl.gz",
        [("i-1", "a", ONE)],
    ),
    "Trae's candidates without labels": (
        {"candidates.jsonl": [{"instance_id": "i-1", "issue": "…", "patches": [ONE, TWO]}]},
        "candidates.jsonl",
        [("i-1", "candidates/0", ONE), ("i-1", "candidates/1", TWO)],
    ),
    "Trae's candidates with labels": (
        {
            "candidates.jsonl": [
                {"instance_id": "i-1", "patches": [ONE, TWO], "success_id": [0, 1], "regressions": [["t"], []]}
            ]
        },
        "candidates.jsonl",
        [("i-1", "candidates/0", ONE), ("i-1", "candidates/1", TWO)],
    ),
    "a SWE-agent folder": (
        {
            "run/i-1/i-1.pred": record("i-1", "m", ONE),
            "run/i-1/i-1.traj": {"trajectory": [], "info": {"submission": TWO}},
        },
        "run",
        [("i-1", "m", ONE)],
    ),
    "SWE-agent trajectories alone": (
        {"run/i-1/i-1.traj": {"trajectory": [], "info": {"submission": ONE, "exit_status": "submitted"}}},
        "run",
        [("i-1", "run", ONE)],
    ),
    "mini-swe-agent trajectories alone": (
        {
            "run/i-1/i-1.traj.json": {"info": {"submission": ONE}, "messages": [], "instance_id": "i-1"},
            "run/i-2/i-2.traj.json": {"info": {"submission": None}, "messages": []},
        },
        "run",
        [("i-1", "run", ONE), ("i-2", "run", "")],
    ),
    "a mini-swe-agent folder": (
        {"run/preds.json": {"i-1": record("i-1", "m", ONE)}, "run/i-1/i-1.traj.json": {"info": {"submission": ONE}}},
        "run",
        [("i-1", "m", ONE)],
    ),
    "Agentless's samples in their order": (
        {
            f"repair/output_{n}_{kind}.jsonl": [
                record("i-1", "agentless", patch) | {"raw_model_patch": "", "normalized_patch": "n"}
            ]
            for n, patch in ((10, TWO), (2, ONE))
            for kind in ("processed", "normalized")
        },
        "repair",
        [("i-1", "agentless", ONE), ("i-1", "agentless#1", TWO)],
    ),
    "OpenHands' output": (
        {
            "claude/output.jsonl": [
                {"instance_id": "i-1", "test_result": {"git_patch": ONE}, "report": {"resolved": True}}
            ]
        },
        "claude/output.jsonl",
        [("i-1", "claude", ONE)],
    ),
    "Multi-SWE-bench's fixes": (
        {"gpt.jsonl": [{"org": "o", "repo": "r", "number": 7, "fix_patch": ONE}]},
        "gpt.jsonl",
        [("o__r-7", "gpt", ONE)],
    ),
    "a folder of diffs, one an instance": (
        {"gpt/i-1.diff": ONE, "gpt/i-2.patch": TWO},
        "gpt",
        [("i-1", "gpt", ONE), ("i-2", "gpt", TWO)],
    ),
    "a folder of diffs, a folder an instance": (
        {"run/i-1/patch.diff": ONE, "run/i-2/a.diff": ONE, "run/i-2/b.diff": TWO},
        "run",
        [("i-1", "run", ONE), ("i-2", "run/a", ONE), ("i-2", "run/b", TWO)],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str, tmp_path: Path) -> None:
    files, given_, expected = FORMATS[name]
    found = read_predictions([put(tmp_path, files) / given_])
    assert said(found) == expected
    assert all(one.source.startswith(str(tmp_path)) for one in found)


def test_diffs_for_one_issue_are_named_after_their_files(tmp_path: Path) -> None:
    put(tmp_path, {"claude.diff": ONE, "codex.patch": TWO})
    assert said(read_predictions([tmp_path], "issue")) == [("issue", "claude", ONE), ("issue", "codex", TWO)]
    assert said(read_predictions([tmp_path / "codex.patch"], "issue")) == [("issue", "codex", TWO)]


def test_a_diff_that_is_no_utf_8_stays_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, {"a/i.diff": b"+\xe9\r\n"})
    assert read_predictions([tmp_path / "a"])[0].patch == b"+\xe9\r\n"


def test_what_is_given_twice_is_no_second_vote(tmp_path: Path) -> None:
    put(tmp_path, {"a.jsonl": [record("i", "m", ONE)] * 100 + [record("i", "m", TWO)]})
    paths = [tmp_path / "a.jsonl", tmp_path, tmp_path / "a.jsonl"]
    assert said(read_predictions(paths)) == [("i", "m", ONE), ("i", "m#1", TWO)]


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    secret = put(tmp_path / "elsewhere", {"secret": "s3cret"}) / "secret"
    folder = put(tmp_path / "run", {"i-1.diff": ONE})
    (folder / "i-2.diff").symlink_to(secret)
    assert [one.instance for one in read_predictions([folder])] == ["i-1"]


@pytest.mark.parametrize(
    ("name", "contents", "kind", "line"),
    [
        ("p.jsonl", b'{"instance_id": "i", "model_patch": ""}\n\n{"instance_id": \n', NotReadable, 3),
        ("p.jsonl", b'{"instance_id": "i"}\n', UnknownShape, 1),
        ("p.jsonl", b'{"instance_id": 7, "patch": ""}\n', UnknownShape, 1),
        ("p.jsonl", b'\n{"instance_id": "i", "model_patch": ["a"]}\n', UnknownShape, 2),
        ("p.jsonl", b'{"model_patch": "x"}\n', UnknownShape, 1),
        ("p.jsonl", b'{"instance_id": "i", "patches": [3]}\n', UnknownShape, 1),
        ("p.jsonl", b"7\n", UnknownShape, 1),
        ("p.json", b"[" * 100_000, NotReadable, None),
        ("p.json", b'{\n"i": }', NotReadable, 2),
        ("p.json", b'{"i": 3}', UnknownShape, None),
        ("p.json", b'"\xff"', NotReadable, None),
        ("p.jsonl.gz", gzip.compress(b'{"instance_id": "i", "patch": ""}\n' * 99)[:-20], NotReadable, None),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    name: str, contents: bytes, kind: type[BadPredictions], line: int | None, tmp_path: Path
) -> None:
    put(tmp_path, {name: contents})
    with pytest.raises(kind) as failure:
        read_predictions([tmp_path / name])
    assert failure.value.line == line
    words = str(failure.value)
    assert words.startswith(str(tmp_path / name))
    assert (f"line {line}" in words) == (line is not None)
    assert "; " in words, "it says what to do"
    assert "\n" not in words


@pytest.mark.parametrize("given_", ["absent", "empty"])
def test_a_path_without_patches_is_said(given_: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingThere, match=given_):
        read_predictions([tmp_path / given_])


def tried(name: str, contents: bytes) -> list[Prediction] | None:
    """What is read of a file, or None if it was refused as it should be."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / name
        file.write_bytes(contents)
        try:
            return read_predictions([file])
        except BadPredictions as refused:
            words = str(refused)
    assert words.startswith(str(file))
    return None


LABELS = st.fixed_dictionaries(
    {},
    optional={
        name: st.booleans() | st.none()
        for name in ("resolved", "resolved_here", "resolved_status", "success", "label", "report", "test_result")
    },
)


@given(LABELS, LABELS, st.sampled_from(["model_patch", "patch"]))
def test_whatever_labels_say_what_is_read_is_the_same(
    labels: dict[str, object], others: dict[str, object], name: str
) -> None:
    record = {"instance_id": "i", "agent": "a", name: ONE}
    one, other = (tried("p.jsonl", json.dumps(record | given_).encode()) for given_ in (labels, others))
    assert one
    assert other
    assert [p.model_copy(update={"source": ""}) for p in one] == [p.model_copy(update={"source": ""}) for p in other]
    assert set(one[0].model_dump()) == {"instance", "agent", "patch", "source", "sample"}


NAMES = st.sampled_from(["instance_id", "model_patch", "patch", "patches", "info", "agent"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["p.json", "p.jsonl", "p.pred", "p.traj"]))
def test_whatever_json_comes_it_is_patches_or_one_line(value: object, name: str) -> None:
    found = tried(name, json.dumps(value).encode())
    assert found is None or all(isinstance(one, Prediction) for one in found)


@given(st.binary(), st.sampled_from(["p.json", "p.jsonl.gz", "p.diff", "p.traj"]))
def test_whatever_bytes_come_nothing_breaks(contents: bytes, name: str) -> None:
    assert tried(name, contents) is not None or not name.endswith(".diff")
