"""A log read as it grows gives what the whole log gives, however it is cut, torn, flipped or replaced; and never waits for a pipe."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.agent import log
from runoff.agent.log import Log, Replaced, Tail, record_at

TEXTS = st.text(max_size=60)


def written(path: Path, texts: list[str]) -> bytes:
    """A log's file, as its writer writes it (what a real one leaves is read at the end of this file)."""
    lines = [{"kind": "opened", "secret": secrets.token_hex(8), "damaged": []}]
    lines += [{"kind": "derived", "key": text, "state": {"layers": [text]}} for text in texts]
    path.write_bytes(b"".join(map(log._sealed, lines)))
    return path.read_bytes()


def records(path: Path) -> list[dict[str, object]]:
    return list(log.read(path))


@settings(max_examples=40)
@given(texts=st.lists(TEXTS, max_size=6), data=st.data())
def test_a_log_that_grows_by_any_pieces_reads_as_the_whole_one(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    whole = written(folder / "whole", texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    grows, found, size = folder / "grows", [], data.draw(st.integers(1, 300))
    grows.touch()
    tail = Tail(grows)
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        with grows.open("ab") as file:
            file.write(whole[start:stop])
        found += tail.read(size)
        while tail.more:
            found += tail.read(size)
    assert [placed.record for placed in found] == records(folder / "whole")
    assert all(record_at(grows, placed.at, placed.size) == placed.record for placed in found)
    assert tail.damaged == 0


@settings(max_examples=60)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), data=st.data())
def test_flipped_and_lost_bytes_cost_what_they_hit(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    whole = bytearray(written(path, texts))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            whole[at] = data.draw(st.integers(0, 255))
        else:
            del whole[at]
    path.write_bytes(bytes(whole) + b"\n")
    damaged = list[bytes]()
    expected = list(log.read(path, damaged.append))
    tail = Tail(path)
    assert [placed.record for placed in tail.read()] == expected
    assert tail.damaged == len(damaged)


def test_a_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = written(path, ["one", "two"])
    path.write_bytes(whole[:-5])
    tail = Tail(path)
    assert [placed.record.get("key") for placed in tail.read()] == [None, "one"]
    assert tail.read() == []
    path.write_bytes(whole)
    assert [placed.record["key"] for placed in tail.read()] == ["two"]


@pytest.mark.parametrize("how", ["truncated", "rotated", "removed", "written over"])
def test_another_file_is_no_continuation(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log"
    whole = written(path, ["one", "two"])
    tail = Tail(path)
    tail.read()
    if how == "truncated":
        path.write_bytes(whole[:40])
    elif how == "rotated":
        path.rename(tmp_path / "log.1")
        written(path, ["another"] * 9)
    elif how == "removed":
        path.unlink()
    else:
        path.write_bytes(written(tmp_path / "other", ["another"] * 9))
    with pytest.raises(Replaced):
        tail.read()


def test_a_line_without_an_end_takes_no_memory_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    whole = written(path, ["before"])
    monkeypatch.setattr(Tail, "LONGEST", 1 << 12)
    path.write_bytes(whole + b"x" * 50_000 + b"\n" + whole)
    tail, found = Tail(path), tail_all(path)
    assert [placed.record.get("key") for placed in found] == [None, "before", None, "before"]
    assert tail.damaged == 0


def tail_all(path: Path) -> list[log.Placed]:
    tail = Tail(path)
    found = tail.read(256)
    while tail.more:
        found += tail.read(256)
    assert tail.damaged > 0
    return found


def test_a_pipe_in_place_of_a_log_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    assert Tail(tmp_path / "log").read() == []


def test_a_log_under_a_real_writer(tmp_path: Path) -> None:
    """Not there yet, then opened, then appended to."""
    tail = Tail(tmp_path / "log")
    assert tail.read() == []

    async def write() -> None:
        made = Log(tmp_path / "log")
        assert [placed.record["kind"] for placed in tail.read()] == ["opened"]
        await made.append({"kind": "derived", "key": "one", "state": {"layers": ["one"]}})
        assert [placed.record["key"] for placed in tail.read()] == ["one"]
        await made.close()

    asyncio.run(write())
    assert tail.read() == []
