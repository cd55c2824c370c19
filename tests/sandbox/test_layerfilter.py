"""What a hostile layer would gain, and how the filter refuses it. Nothing of it is unpacked."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import pytest

from runoff.sandbox import layerfilter
from tests.sandbox import imagefiles
from tests.sandbox.imagefiles import hard, layer, link

DEVICE = {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0}
HEADER = {"pax_headers": {"comment": "x" * (1 << 18)}}
HOSTILE: dict[str, tuple[list[imagefiles.Entry], str]] = {
    "a file outside, by a name that leads up": ([("../../etc/cron.d/x", b"")], "leads out"),
    "the same from further down": ([("a", None), ("a/../../x", b"")], "leads out"),
    "a file outside, through a link": ([("out", link("/etc")), ("out/cron.d", b"")], "no directory"),
    "a file outside, through a relative link": ([("d/out", link("../..")), ("d/out/etc/x", b"")], "no directory"),
    "a file outside, through a link to a link": ([("a", link("b")), ("b", link("/")), ("a/x", b"")], "no directory"),
    "a file written to by a hard link": ([("h", hard("../../etc/passwd")), ("h", b"mine")], "leads out"),
    "the host's file by an absolute hard link": ([("h", hard("/etc/shadow"))], "no file of this layer"),
    "a file by a hard link through a link": ([("e", link("/etc")), ("h", hard("e/shadow"))], "no file of this layer"),
    "a hard link to a directory": ([("d", None), ("h", hard("d"))], "no file of this layer"),
    "an endless hard link": ([("h", hard("h"))], "no file of this layer"),
    "a directory in the place of a link": ([("d", link("/etc")), ("d", None), ("d/x", b"")], "both a directory"),
    "a link in the place of a directory": ([("d", None), ("d", link("/etc")), ("d/x", b"")], "both a directory"),
    "something below a device": ([("n", DEVICE), ("n/x", b"")], "no directory"),
    "a whiteout of the directory above": ([("d/.wh...", b"")], "whiteout of no file"),
    "a whiteout of the directory itself": ([("d/.wh..", b"")], "whiteout of no file"),
    "a whiteout outside": ([("../.wh.etc", b"")], "leads out"),
    "a whiteout through a link": ([("out", link("/etc")), ("out/.wh.passwd", b"")], "no directory"),
    "files in a whiteout": ([(".wh.d/x", b"")], "lies in a whiteout"),
    "the whole root hidden": ([(".wh..wh..opq", b"")], "hides all"),
    "the root replaced": ([("./", link("/"))], "root is not a directory"),
    "names that no file system has": ([("x" * 256, b"")], "too long"),
    "a path that no call can open": ([("/".join(["x" * 100] * 60), b"")], "too long"),
    "all memory, by a header": ([("f", {"body": b"", **HEADER})], "extended header"),
    "a file that is not there": ([("f", {"body": b"x", "pax_headers": {"size": str(1 << 40)}})], "middle of a file"),
    "a disk full of holes": (
        [("f", {"body": b"", "pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}})],
        "sparse|damaged",
    ),
    "an old sparse file": ([("f", {"type": tarfile.GNUTYPE_SPARSE})], "sparse"),
    "a size below nothing": ([("f", {"body": b"", "pax_headers": {"size": "-10240"}})], "cannot be"),
    "a type that nobody knows": ([("f", {"type": b"Z"})], "unknown type"),
    "an endless name": ([("f", {"body": b"", "pax_headers": {"path": "a/" * 40_000 + "f"}})], "too long"),
    "a name with a zero byte": ([("f", {"body": b"", "pax_headers": {"path": "a\0b"}})], "zero byte"),
    "a link to nothing": ([("l", link(""))], "no possible target"),
}


def tamed(data: bytes, limits: layerfilter.Limits = layerfilter.Limits()) -> tuple[bytes, layerfilter.Said]:
    packed = io.BytesIO()
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        said = layerfilter.tame(file, packed, imagefiles.digest(imagefiles.plain(data)), limits)
    return packed.getvalue(), said


@pytest.mark.parametrize("gain", HOSTILE)
def test_refused_in_a_layer(gain: str) -> None:
    entries, words = HOSTILE[gain]
    with pytest.raises(layerfilter.Unfit, match=words):
        tamed(layer(*entries))


def test_dropped_from_a_layer() -> None:
    attributes = {
        f"SCHILY.xattr.{name}": "y" for name in ("trusted.overlay.opaque", "user.overlay.redirect", "security.x")
    }
    packed, said = tamed(
        layer(
            *(("dev/sda", DEVICE), ("dev/x", hard("dev/sda")), (".wh..wh.plnk/1.2", b"")),
            *(("d", {"type": tarfile.DIRTYPE, "mode": 0o7777, "pax_headers": attributes}), ("/abs/./x//y", b"y")),
            ("late", {"body": b"x", "mtime": 1e30, "uid": 5, "gname": "root"}),
        )
    )
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        entries = {entry.name: entry for entry in tar}
    assert list(entries) == ["dev", "d", "abs", "abs/x", "abs/x/y", "late"]
    assert entries["d"].mode == 0o1777
    assert {(entry.uid, entry.gid, entry.uname, entry.gname) for entry in entries.values()} == {(0, 0, "", "")}
    assert not any(entry.pax_headers for entry in entries.values())
    assert entries["late"].mtime == 1 << 33
    assert said.dropped == {"device nodes": 2, "extended attributes": 1, "setuid and setgid bits": 1}
    assert said.implicit == ["dev", "abs", "abs/x"]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bombs_are_counted_not_believed(how: str) -> None:
    bomb = imagefiles.compressed(layer(("zeros", bytes(50 << 20))), how)
    assert len(bomb) < 1 << 18
    with pytest.raises(layerfilter.Unfit, match="more than 1048576 bytes"):
        tamed(bomb, layerfilter.Limits(bytes=1 << 20))
    trailing = imagefiles.compressed(layer(("f", b"f")) + bytes(5 << 20), how)
    with pytest.raises(layerfilter.Unfit, match="more than 1048576 bytes"):
        tamed(trailing, layerfilter.Limits(bytes=1 << 20))
    with pytest.raises(layerfilter.Unfit, match="more than 100 entries"):
        tamed(layer(*((str(n), b"") for n in range(101))), layerfilter.Limits(entries=100))


def test_a_chain_of_headers_is_no_chain_of_calls() -> None:
    one = tarfile.TarInfo("x")
    one.type, one.size = tarfile.GNUTYPE_LONGNAME, 512
    data = (one.tobuf(tarfile.USTAR_FORMAT) + b"n" * 511 + b"\0") * 5000
    with pytest.raises(layerfilter.Unfit, match="headers are too large"):
        layerfilter.tame(io.BytesIO(data), io.BytesIO(), "")


def test_a_layer_by_zstd_where_zstd_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = layer(("f", b""))
    data = imagefiles.compressed(packed, "zstd")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(layerfilter.Unfit, match="apt-get install zstd"):
        tamed(data)
