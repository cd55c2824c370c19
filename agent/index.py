"""What a search needs to know of a repository's source files, kept by blob so that another commit costs what changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from runoff.agent.definitions import definitions, owners
from runoff.sandbox.protocol import Value

_FORMAT = 1
"""Raised when `read` comes to other results, so that what was kept of before is made again."""
LARGEST = 400_000
"""Bytes of the largest file that is read: beyond, it is data."""
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]+|\d{2,}")
_PART = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_CALL = re.compile(r"\b([A-Za-z_]\w++)\s*+\(")
_PYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]*(\([^)]*\)|[^\n#]*)|import[ \t]+([\w., \t]+))", re.MULTILINE
)
_IMPORT = re.compile(
    r"""^\s*(?:(?:import|export|from|require|require_once|include|\#include|use|using)\b[^\n'"<;]*?['"<]([^'"<>\n]+)['">]"""
    r"""|(?:import|use|using)\s+(?:static\s+)?([\w.:\\]+))|\brequire\(\s*['"]([^'"\n]+)""",
    re.MULTILINE,
)


class Piece(NamedTuple):
    """A part of a file that is found and shown by itself; piece 0 of a file is what no definition holds."""

    name: str
    first: int
    last: int
    holder: bool
    """Whether other pieces stand between its lines."""
    words: int
    """How many stand in its own lines."""


class Source(NamedTuple):
    """One source file as a search sees it, whatever it is called and wherever it lies."""

    pieces: list[Piece]
    words: dict[str, str]
    """Word → how often it stands where: `piece count piece count …`, text because most is never looked at."""
    calls: list[str]
    """For each piece, what is called in it: names, separated by spaces."""
    imports: list[str]
    """What it imports as it is written there, `..models.Field` or `./cart.js`."""

    @property
    def length(self) -> int:
        return sum(piece.words for piece in self.pieces)

    def stands(self, word: str) -> list[tuple[int, int]]:
        """In which pieces a word stands, and how often."""
        numbers = map(int, self.words.get(word, "").split())
        return list(zip(numbers, numbers, strict=True))


def words(text: str) -> Counter[str]:
    """Identifiers, lower-cased, and their parts: `parse_isotime` gives itself, parse, isotime."""
    return Counter(_counted(text))


def _counted(text: str) -> dict[str, int]:
    """What `words` gives as a plain dict, which is faster to fill."""
    counted: dict[str, int] = {}
    look = counted.get
    for word, count in Counter(_WORD.findall(text)).items():
        for part in _parts(word):
            counted[part] = look(part, 0) + count
    return counted


def read(path: str, contents: bytes) -> Source:
    """Split one file and count its words. A pure function of the contents and the path's suffix."""
    text = contents.decode("utf-8", "replace")
    lines = text.split("\n")
    found = definitions(path, contents)
    own: list[list[str]] = [[] for _ in range(len(found) + 1)]
    for line, owner in zip(lines, owners(found, len(lines)), strict=True):
        own[owner + 1].append(line)
    bag: dict[str, str] = {}
    pieces, calls = list[Piece](), list[str]()
    for n, part in enumerate(own):
        inside = "\n".join(part)
        counted = _counted(inside)
        for word, count in counted.items():
            bag[word] = f"{bag[word]} {n} {count}" if word in bag else f"{n} {count}"
        name, first, last, holder = found[n - 1] if n else ("", 1, len(lines), True)
        pieces.append(Piece(name, first, last, holder, sum(counted.values())))
        calls.append(" ".join(sorted(set(_CALL.findall(inside)))))
    return Source(pieces, bag, calls, _imports(path, text))


def python_imports(text: str) -> list[str]:
    """What Python code imports, as dotted names: `from a.b import C` gives `a.b.C`, `from . import x` gives `.x`."""
    found = set[str]()
    for module, names, modules in _PYTHON_IMPORT.findall(text):
        if module:
            dot = "" if module.endswith(".") else "."
            listed = names.strip("()").replace("\\", "").split(",")
            found |= {module + dot + name.split()[0] for name in listed if name.strip()}
        else:
            found |= {name.split()[0] for name in modules.split(",") if name.strip()}
    return sorted(found)


def _imports(path: str, text: str) -> list[str]:
    if path.endswith((".py", ".pyi", ".pyx")):
        return python_imports(text)
    return sorted({a or b or c for a, b, c in _IMPORT.findall(text)})


@lru_cache(maxsize=200_000)
def _parts(word: str) -> tuple[str, ...]:
    parts = [part.lower() for part in _PART.findall(word)]
    return (word.lower(), *(parts if len(parts) > 1 else ()))


def blob_hash(contents: bytes) -> str:
    """The name git gives to a file's contents (SHA-1)."""
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest()


def default_place() -> Path:
    """Where the index of all repositories is kept if no option says otherwise: RUNOFF_INDEX, else in XDG's cache folder."""
    if named := os.environ.get("RUNOFF_INDEX"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(cache) / "runoff" / "index.sqlite"


class Moved(Value):
    """What bringing the index to a tree came to."""

    files: int
    """Source files in the tree that are searched."""
    read: int
    """How many of them were not known and had to be read."""


class Index:
    """Facts about blobs in one SQLite file, of any number of repositories and commits.

    Keyed by what they depend on and nothing else: (kind, blob, suffix). What a search needs is the kind `source`, made
    here; other facts, which `keep` puts beside it, cost money or time and outlive a change of the format. A file that is no
    database is made anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path` is made with its folders; None keeps the index in memory."""
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open(path)
        except sqlite3.DatabaseError as error:
            if path is None or isinstance(error, sqlite3.OperationalError):  # locked, or no room: it may be whole
                raise
            path.unlink(missing_ok=True)
            self._open(path)

    def close(self) -> None:
        self._database.close()

    def sources(
        self, blobs: Mapping[str, str], contents: Callable[[list[str]], Iterable[tuple[str, bytes]]]
    ) -> tuple[dict[str, Source], Moved]:
        """The sources of a tree, given as path → blob. `contents` yields (path, bytes) for the paths asked for, any order.

        Files above `LARGEST` are left out.
        """
        keys = _keys(blobs)
        known = self._known(keys.values())
        fresh = self._read(keys, [path for path, key in keys.items() if key not in known], contents)
        known |= fresh
        found = {path: source for path, key in keys.items() if (source := known.get(key)) is not None}
        return found, Moved(files=len(found), read=len(fresh))

    def bring(self, blobs: Mapping[str, str], contents: Callable[[list[str]], Iterable[tuple[str, bytes]]]) -> Moved:
        """Make the sources of a tree known, as `sources` does, without giving them: what is known already is not loaded."""
        keys = _keys(blobs)
        with self._database:
            self._database.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (blob TEXT, suffix TEXT)")
            self._database.execute("DELETE FROM wanted")
            self._database.executemany("INSERT INTO wanted VALUES (?, ?)", set(keys.values()))
        look = "SELECT blob, suffix, value = 'null' FROM wanted JOIN facts USING (blob, suffix) WHERE facts.kind = 'source'"
        known = {(blob, suffix): bool(left_out) for blob, suffix, left_out in self._database.execute(look)}
        fresh = self._read(keys, [path for path, key in keys.items() if key not in known], contents)
        known |= {key: source is None for key, source in fresh.items()}
        return Moved(files=sum(not known[key] for key in keys.values()), read=len(fresh))

    def has(self, kind: str) -> bool:
        """Whether anything of a kind was kept."""
        return self._database.execute("SELECT 1 FROM facts WHERE kind = ? LIMIT 1", (kind,)).fetchone() is not None

    def facts(self, kind: str, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        """What was kept of a kind, by (blob or another digest, suffix or another text)."""
        look = "SELECT value FROM facts WHERE kind = ? AND blob = ? AND suffix = ?"
        found_of = {key: self._database.execute(look, (kind, *key)).fetchone() for key in set(keys)}
        return {key: json.loads(found[0]) for key, found in found_of.items() if found}

    def keep(self, kind: str, facts: Mapping[tuple[str, str], Any]) -> None:
        """Keep facts, in the place of those of the same key; when this returns, a kill does not take them."""
        encode = json.JSONEncoder(separators=(",", ":")).encode
        with self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)",
                ((kind, *key, encode(value)) for key, value in facts.items()),
            )

    def _read(
        self,
        keys: Mapping[str, tuple[str, str]],
        paths: list[str],
        contents: Callable[[list[str]], Iterable[tuple[str, bytes]]],
    ) -> dict[tuple[str, str], Source | None]:
        """Read files, each content once, and keep what came of them."""
        first = list({keys[path]: path for path in paths}.values())
        fresh = dict[tuple[str, str], Source | None]()
        for path, data in contents(first):
            fresh[keys[path]] = read(path, data) if len(data) <= LARGEST else None
        self.keep("source", fresh)
        return fresh

    def _open(self, path: Path | None) -> None:
        self._database = sqlite3.connect(path or ":memory:", timeout=60)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(
            "PRAGMA synchronous = NORMAL"
        )  # after a power cut the last facts may be gone: made again
        with self._database:
            if self._database.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS facts (kind TEXT, blob TEXT, suffix TEXT, value TEXT, "
                    "PRIMARY KEY (kind, blob, suffix)) WITHOUT ROWID"
                )
                self._database.execute("DELETE FROM facts WHERE kind = 'source'")
                self._database.execute(f"PRAGMA user_version = {_FORMAT}")

    def _known(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Source | None]:
        known = dict[tuple[str, str], Source | None]()
        look = "SELECT value FROM facts WHERE kind = 'source' AND blob = ? AND suffix = ?"
        for key in set(keys):
            if found := self._database.execute(look, key).fetchone():
                known[key] = _source(json.loads(found[0]))
        return known


def _keys(blobs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What the source of each path is kept by: its blob and the suffix, which names the language."""
    return {path: (blob, PurePosixPath(path).suffix) for path, blob in blobs.items()}


def _source(value: Any) -> Source | None:
    if value is None:
        return None
    pieces, *rest = value
    return Source([Piece(*piece) for piece in pieces], *rest)
