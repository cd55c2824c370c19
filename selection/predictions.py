"""Reads the patches that other agents left, in the formats people have them in. A label is never read, whatever it is called.

preds.json, *.json      instance → patch, or → {model_patch, model_name_or_path}; a list of such records; one record
*.jsonl, *.jsonl.gz     a record a line: SWE-bench's and Agentless's names, `agent` and `patch`, or Trae's `patches`
*.pred, *.traj, *.traj.json   one instance, as SWE-agent and mini-swe-agent leave it
*.diff, *.patch         one patch
a folder                what such a program left there (see `_folder`)
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from runoff.sandbox.protocol import Raw, Value


class Prediction(Value):
    """A patch that somebody proposes for an instance. There is no place in it for what is known of its being right."""

    instance: str
    agent: str
    patch: Raw
    """As it was found, not cleaned; empty if the agent handed in nothing."""
    source: str
    """The file it was read from, with the line where that has one a patch."""
    sample: int = 0
    """Counts what one agent proposes for one instance, in the order it was read."""

    @property
    def id(self) -> str:
        """Unique among what is read at once."""
        return f"{self.agent}#{self.sample}" if self.sample else self.agent


class BadPredictions(Exception):
    """
    BadPredictions            what was given cannot be read as patches; says which file, which line, what to do
    ├── NothingThere          no such path, or nothing in it that holds patches
    ├── NotReadable           not JSON, not text, broken compression
    └── UnknownShape          JSON, but not of a shape that is known
    """

    def __init__(self, file: Path, what: str, remedy: str, line: int | None = None) -> None:
        super().__init__(f"{file}{f', line {line}' if line else ''}: {what}; {remedy}")
        self.file, self.line = file, line


class NothingThere(BadPredictions):
    pass


class NotReadable(BadPredictions):
    pass


class UnknownShape(BadPredictions):
    pass


_NAMES = "give records with instance_id and model_patch (or patch), as SWE-bench's predictions have them"
_PATCH = ("model_patch", "patch", "submission", "git_patch", "fix_patch")
_AGENT = ("model_name_or_path", "agent")


def read_predictions(paths: Iterable[Path], instance: str | None = None) -> list[Prediction]:
    """All patches of these files and folders, in the order they stand there. Raises BadPredictions.

    With `instance`, what names none (a `.diff`) is for that one, and the agent is called after the file.
    The same patch of the same agent for the same instance read twice is one: overlapping inputs are no votes.
    """
    found = list[Prediction]()
    seen: set[tuple[str, str, bytes]] = set()
    samples = Counter[tuple[str, str]]()
    for path in paths:
        if not path.exists():
            raise NothingThere(path, "no such file or folder", "give the predictions that an agent left")
        for one in _folder(path, instance) if path.is_dir() else _file(path, path.parent, instance):
            key = (one.instance, one.agent, one.patch)
            if key not in seen:
                seen.add(key)
                found.append(one.model_copy(update={"sample": samples[key[:2]]}))
                samples[key[:2]] += 1
    return found


def _folder(folder: Path, instance: str | None) -> Iterator[Prediction]:
    """What an agent left in a folder: only the first of these kinds that is there, for the others say the same again.

    preds.json · all_preds.jsonl · Agentless's output_N_processed.jsonl (each N is a sample) · *.pred · trajectories · *.diff,
    *.patch · any *.jsonl and *.json
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    kinds = (
        [file for file in files if file.name in ("preds.json", "preds.jsonl")],
        [file for file in files if file.name in ("all_preds.jsonl", "all_preds.json")],
        [file for file in files if re.fullmatch(r"output_\d+_processed\.jsonl", file.name)],
        [file for file in files if file.suffix == ".pred"],
        [file for file in files if file.name.endswith((".traj", ".traj.json"))],
        [file for file in files if file.suffix in (".diff", ".patch")],
        [file for file in files if re.search(r"\.jsonl?(\.gz)?$", file.name)],
    )
    chosen = next((kind for kind in kinds if kind), [])
    if not chosen:
        raise NothingThere(folder, "holds no patches", "give a folder of predictions, trajectories or .diff files")
    for file in sorted(chosen, key=_by_number):
        yield from _file(file, folder, instance)


def _by_number(file: Path) -> tuple[object, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file)))


def _file(file: Path, root: Path, instance: str | None) -> Iterator[Prediction]:
    contents = _contents(file)
    if file.suffix in (".diff", ".patch"):
        yield _diff(file, root, contents, instance)
    elif re.search(r"\.(jsonl|ndjson)(\.gz)?$", file.name):
        for number, line in enumerate(contents.split(b"\n"), 1):
            if line.strip():
                yield from _records(_parsed(line, file, number), file, number, root)
    else:
        yield from _records(_parsed(contents, file, None), file, None, root)


def _contents(file: Path) -> bytes:
    try:
        contents = file.read_bytes()
        return gzip.decompress(contents) if contents[:2] == b"\x1f\x8b" else contents
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise NotReadable(file, "is not whole: its compression ends too early", "copy it again") from None


def _parsed(text: bytes, file: Path, line: int | None) -> object:
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise NotReadable(file, "is not UTF-8 text", "give JSON, JSON lines or .diff files", line) from None
    except json.JSONDecodeError as error:
        where = line or error.lineno
        raise NotReadable(file, f"is not JSON ({error.msg})", "mend or remove that line", where) from None
    except RecursionError:
        raise NotReadable(file, "is nested too deeply", "give predictions", line) from None


def _records(value: object, file: Path, line: int | None, root: Path) -> Iterator[Prediction]:
    if isinstance(value, list):
        for one in value:
            yield from _records(one, file, line, root)
    elif not isinstance(value, dict):
        raise UnknownShape(file, f"holds {type(value).__name__} where a record should be", _NAMES, line)
    elif (
        isinstance(value.get("info"), dict)
        and "instance_id" not in value.get("info", {})
        and "model_patch" not in value
    ):
        yield _trajectory(value, file, root)
    elif "instance_id" in value:
        yield from _record(value, file, line)
    elif {"org", "repo", "number"} <= value.keys():
        yield from _record(value | {"instance_id": f"{value['org']}__{value['repo']}-{value['number']}"}, file, line)
    elif any(name in value for name in _PATCH):
        raise UnknownShape(file, "has a record without instance_id", _NAMES, line)
    else:
        for name, one in value.items():  # instance → patch or record
            if isinstance(one, dict):
                yield from _record({"instance_id": name} | one, file, line)
            elif isinstance(one, str | None):
                yield _prediction(name, _stem(file), one, file, line)
            else:
                raise UnknownShape(file, f"has neither a patch nor a record under {name!r}", _NAMES, line)


def _record(record: Mapping[str, object], file: Path, line: int | None) -> Iterator[Prediction]:
    instance = record["instance_id"]
    agent = next((record[name] for name in _AGENT if record.get(name)), _stem(file))
    if not isinstance(instance, str) or not isinstance(agent, str):
        raise UnknownShape(file, "has an instance_id or an agent that is no text", _NAMES, line)
    if isinstance(trae := record.get("patches"), list):  # Trae's: whose patch it is, is known by its place alone
        for number, patch in enumerate(trae):
            yield _prediction(instance, f"{agent}/{number}", patch, file, line)
        return
    held = record.get("test_result")
    if isinstance(held, dict) and "git_patch" in held:
        record = {"git_patch": held["git_patch"]}
    name = next((name for name in _PATCH if name in record), None)
    if name is None:
        raise UnknownShape(file, f"has no patch for {instance}", _NAMES, line)
    yield _prediction(instance, agent, record[name], file, line)


def _trajectory(value: Mapping[str, object], file: Path, root: Path) -> Prediction:
    info = value["info"]
    assert isinstance(info, dict)
    named = value.get("instance_id")
    instance = named if isinstance(named, str) and named else _stem(file)
    return _prediction(instance, root.name or str(root), info.get("submission"), file, None)


def _diff(file: Path, root: Path, contents: bytes, instance: str | None) -> Prediction:
    """For `instance` the agent is the file's name; otherwise `INSTANCE.diff`, or `INSTANCE/NAME.diff`, of the folder's agent."""
    if instance is not None:
        where = file.relative_to(root)
        return Prediction(instance=instance, agent=str(where.with_suffix("")), patch=contents, source=str(file))
    nested = file.parent != root
    agent = root.resolve().name
    if nested and file.stem.lower() not in ("patch", "model", "model_patch", "diff"):
        agent = f"{agent}/{file.stem}"
    return Prediction(instance=file.parent.name if nested else file.stem, agent=agent, patch=contents, source=str(file))


def _prediction(instance: str, agent: str, patch: object, file: Path, line: int | None) -> Prediction:
    if not isinstance(patch, str | None):
        raise UnknownShape(file, f"has a patch for {instance} that is no text", _NAMES, line)
    source = f"{file}:{line}" if line else str(file)
    return Prediction(
        instance=instance, agent=agent, patch=(patch or "").encode("utf-8", "surrogateescape"), source=source
    )


def _stem(file: Path) -> str:
    """What a file that names no agent is called after: itself, or its folder where every agent's file is called so."""
    stem = re.sub(r"(\.(jsonl?|ndjson|gz|traj|pred))+$", "", file.name)
    return file.resolve().parent.name if stem in ("preds", "all_preds", "predictions", "output") else stem
