"""Reads one layer of an image, writes a tar of what may be unpacked of it, and says what else the layer asks for.

A program of its own, standard library only, started by file path: whoever made the layer may want to exhaust the memory
or the time of what reads it, so it has limits and can be killed. It writes nothing but its output: unpacking happens
in a sandbox. Names in its output are relative, go through nothing but directories of this layer, and every link has
its target in it. Owners, extended attributes and setuid bits are not passed on.

    layerfilter.py '{"diff_id": …, "said": FILE}' < LAYER > TAR      LAYER plain, or compressed by gzip or zstd

`said` is then a JSON object: `whiteouts` and `opaque` (paths), `implicit` (directories that the layer itself does not
describe), `dropped` (kind → how many), or `error` alone. The archive gets its end only if nothing is wrong.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from contextlib import suppress
from typing import IO, Any, NamedTuple, Protocol

MEMORY = 2 << 30
LARGEST_HEADER = 1 << 17
"""Bytes of an entry's extended header, which is read as a whole."""

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class Limits(NamedTuple):
    bytes: int = 64 << 30
    """Of the whole layer, uncompressed."""
    entries: int = 2_000_000
    path: int = 4000
    name: int = 255


class Unfit(Exception):
    """This layer cannot be used, with the reason."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Said(NamedTuple):
    whiteouts: list[str]
    opaque: list[str]
    implicit: list[str]
    dropped: dict[str, int]


class _Input:
    """A stream that can only go forward, hashed and counted: what tarfile needs of a file."""

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream, self._most, self._at = stream, most, 0
        self.digest = hashlib.sha256()

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """As many bytes, fewer only at the end."""
        chunks = []
        while size and (chunk := self._stream.read(min(size, 1 << 20))):
            self.digest.update(chunk)
            self._at += len(chunk)
            if self._at > self._most:
                raise Unfit(f"it holds more than {self._most} bytes")
            size -= len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    def seek(self, to: int) -> None:
        if to < self._at:
            raise Unfit("an entry has a size that cannot be")
        while self._at < to:
            if not self.read(min(to - self._at, 1 << 20)):
                return


class _Header(tarfile.TarInfo):
    """Refuses a header that tarfile would read into memory without limit."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0:
            raise Unfit("an entry has a size that cannot be")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise Unfit("sparse files are not supported")
        if header.type in _EXTENDED and header.size > LARGEST_HEADER:
            raise Unfit(f"an entry's extended header has {header.size} bytes")
        return header


_DIRECTORY, _IMPLICIT, _OTHER, _DROPPED = range(4)
_WHITEOUT, _OPAQUE, _META = ".wh.", ".wh..wh..opq", ".wh..wh."


class _Layer:
    def __init__(self, out: IO[bytes], limits: Limits) -> None:
        self._out, self._limits = out, limits
        self._seen: dict[str, int] = {}
        self._whiteouts, self._opaque = dict[str, None](), dict[str, None]()
        self._dropped, self._count = Counter[str](), 0

    def add(self, entry: tarfile.TarInfo, body: _Input) -> None:
        self._count += 1
        if self._count > self._limits.entries:
            raise Unfit(f"it has more than {self._limits.entries} entries")
        if any(name.startswith("GNU.sparse.") for name in entry.pax_headers):
            raise Unfit("sparse files are not supported")
        if entry.size < 0:
            raise Unfit("an entry has a size that cannot be")
        path = self._clean(entry.name)
        directory, _, name = path.rpartition("/")
        if _WHITEOUT in path and self._white(path, directory, name):
            return
        if not path:
            if not entry.isdir():
                raise Unfit("its root is not a directory")
            return
        self._parents(path, directory)
        kind = _DIRECTORY if entry.isdir() else _OTHER
        before = self._seen.get(path)
        if before is not None and (before in (_DIRECTORY, _IMPLICIT)) != (kind == _DIRECTORY):
            raise Unfit(f"{path!r} is both a directory and something else")
        if entry.ischr() or entry.isblk():
            self._dropped["device nodes"] += 1
            kind = _DROPPED
        elif entry.islnk():
            kind = self._link(path, entry)
        elif entry.isdir():
            self._write(path, entry, tarfile.DIRTYPE)
        elif entry.issym():
            self._write(path, entry, tarfile.SYMTYPE, self._target(entry.linkname))
        elif entry.isfifo():
            self._write(path, entry, tarfile.FIFOTYPE)
        elif entry.isreg():
            self._write(path, entry, tarfile.REGTYPE, size=entry.size)
            self._copy(body, entry.size)
        else:
            raise Unfit(f"{path!r} is of the unknown type {entry.type!r}")
        self._seen[path] = kind
        if any(name.startswith(("SCHILY.xattr.", "LIBARCHIVE.xattr.", "SCHILY.acl.")) for name in entry.pax_headers):
            self._dropped["extended attributes"] += 1

    def end(self) -> Said:
        self._out.write(bytes(2 * tarfile.BLOCKSIZE))
        for path in self._whiteouts:
            if self._seen.get(path) in (_DIRECTORY, _IMPLICIT):
                self._opaque[path] = None  # another directory in the place of what was there
        whiteouts = [path for path in self._whiteouts if path not in self._seen and not self._under_opaque(path)]
        implicit = [path for path, kind in self._seen.items() if kind == _IMPLICIT]
        return Said(whiteouts, list(self._opaque), implicit, dict(self._dropped))

    def _under_opaque(self, path: str) -> bool:
        while path:
            path = path.rpartition("/")[0]
            if path in self._opaque:
                return True
        return False

    def _clean(self, name: str) -> str:
        if "\0" in name:
            raise Unfit("a name has a zero byte in it")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise Unfit(f"{name!r} leads out of it")
        path = "/".join(parts)
        if len(_bytes(path)) > self._limits.path or any(len(_bytes(part)) > self._limits.name for part in parts):
            raise Unfit(f"a name is too long: {path[:100]!r}…")
        return path

    def _white(self, path: str, directory: str, name: str) -> bool:
        """Whether that is not a file, but a note about what lies in the layers below."""
        if any(part.startswith(_META) for part in directory.split("/")):
            return True  # the books of another file system, which mean nothing
        if any(part.startswith(_WHITEOUT) for part in directory.split("/")):
            raise Unfit(f"{path!r} lies in a whiteout")
        if not name.startswith(_WHITEOUT):
            return False
        self._parents(path, directory)
        if name == _OPAQUE:
            if directory:
                self._opaque[directory] = None
            else:
                raise Unfit("it hides all that is below it")
        elif not name.startswith(_META):
            gone = name.removeprefix(_WHITEOUT)
            if gone in ("", ".", ".."):
                raise Unfit(f"{path!r} is a whiteout of no file")
            self._whiteouts[f"{directory}/{gone}" if directory else gone] = None
        return True

    def _parents(self, path: str, directory: str) -> None:
        if not directory or self._seen.get(directory) in (_DIRECTORY, _IMPLICIT):
            return
        if directory in self._seen:
            raise Unfit(f"{path!r} lies below what is no directory")
        self._parents(path, directory.rpartition("/")[0])
        plain = tarfile.TarInfo(directory)
        plain.mode = 0o755
        self._write(directory, plain, tarfile.DIRTYPE)
        self._seen[directory] = _IMPLICIT

    def _link(self, path: str, entry: tarfile.TarInfo) -> int:
        target = self._clean(entry.linkname)
        kind = self._seen.get(target)
        if kind == _DROPPED:
            self._dropped["device nodes"] += 1
            return _DROPPED
        if kind != _OTHER or target == path:
            raise Unfit(f"{path!r} is a hard link to {target!r}, which is no file of this layer")
        self._write(path, entry, tarfile.LNKTYPE, target)
        return _OTHER

    def _target(self, target: str) -> str:
        if not target or "\0" in target or len(_bytes(target)) > self._limits.path:
            raise Unfit("a symbolic link has no possible target")
        return target

    def _write(self, path: str, entry: tarfile.TarInfo, kind: bytes, target: str = "", size: int = 0) -> None:
        header = tarfile.TarInfo(path)
        header.type, header.linkname, header.size = kind, target, size
        header.mode = entry.mode & 0o1777
        with suppress(ValueError, OverflowError):
            header.mtime = min(max(0, int(entry.mtime)), 1 << 33)
        if entry.mode & 0o6000:
            self._dropped["setuid and setgid bits"] += 1
        self._out.write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def _copy(self, body: _Input, size: int) -> None:
        left = size
        while left:
            if not (chunk := body.read(min(left, 1 << 20))):
                raise Unfit("it ends in the middle of a file")
            self._out.write(chunk)
            left -= len(chunk)
        self._out.write(bytes(-size % tarfile.BLOCKSIZE))


def tame(layer: IO[bytes], out: IO[bytes], diff_id: str, limits: Limits = Limits()) -> Said:
    """Raises Unfit for a layer that is damaged, hostile, or not the one that `diff_id` (`sha256:…`) names."""
    try:
        with _Decompressed(layer) as plain:
            said = _tame(_Input(plain, limits.bytes), out, diff_id, limits)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Unfit(f"its compressed data is damaged: {error}") from None
    except tarfile.TarError as error:
        raise Unfit(f"it is no tar archive, or damaged: {error}") from None
    except ValueError as error:
        raise Unfit(f"a header is damaged: {error}") from None
    except (RecursionError, MemoryError):
        raise Unfit("its headers are too large") from None
    return said


def _tame(data: _Input, out: IO[bytes], diff_id: str, limits: Limits) -> Said:
    layer = _Layer(out, limits)
    with tarfile.TarFile(fileobj=data, mode="r", tarinfo=_Header, encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[arg-type]
        while entry := tar.next():
            layer.add(entry, data)
            tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
            tar.pax_headers = {}
    while data.read(1 << 20):
        pass
    if f"sha256:{data.digest.hexdigest()}" != diff_id:
        raise Unfit(f"its contents are not what the image's configuration names, {diff_id}")
    return layer.end()


class _Decompressed:
    def __init__(self, layer: IO[bytes]) -> None:
        self._layer = layer
        self._zstd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Readable:
        magic = self._layer.read(4)
        self._layer.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            return gzip.GzipFile(fileobj=self._layer)
        if magic != b"\x28\xb5\x2f\xfd":
            return self._layer
        try:
            self._zstd = subprocess.Popen(
                ["zstd", "-dcq"], stdin=self._layer, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except FileNotFoundError:
            raise Unfit("it is compressed by zstd, which is not here: apt-get install zstd") from None
        assert self._zstd.stdout
        return self._zstd.stdout

    def __exit__(self, failed: object, *_: object) -> None:
        if self._zstd:
            if failed:
                self._zstd.kill()
            words = self._zstd.communicate()[1].decode("utf-8", "replace").strip()
            if self._zstd.returncode and not failed:
                raise Unfit(f"its compressed data is damaged: {words}")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def main(config: dict[str, Any]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        with open(0, "rb", buffering=0) as layer:
            said: dict[str, Any] = tame(layer, sys.stdout.buffer, config["diff_id"])._asdict()
        sys.stdout.buffer.flush()
    except Unfit as error:
        said = {"error": str(error)}
    with open(config["said"], "x") as file:
        json.dump(said, file)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main(json.loads(sys.argv[1]))
    os._exit(0)  # what is left in the buffer belongs to nobody
