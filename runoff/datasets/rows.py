"""Reads whole rows of a dataset, answers included: only for the processes that part them (`split`) and that grade.

A reference is a name (`verified`, `lite:dev`), a file of rows (.parquet, .json, .jsonl, each also .gz), a repository or folder of
SWE-bench v5 task folders (tasks/<id>/task.yaml), Harbor task directories (task.toml), one or a folder of them, or `releases`.
Whatever the source calls a field, a row has SWE-bench's names for it (`named`).
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runoff.datasets.protocol import BadDataset, DatasetMissing

NAMES = {
    "verified": "SWE-bench/SWE-bench_Verified",
    "lite": "SWE-bench/SWE-bench_Lite",
    "full": "SWE-bench/SWE-bench",
    "multilingual": "SWE-bench/SWE-bench_Multilingual",
    "multimodal": "SWE-bench/SWE-bench_Multimodal",
}
RELEASES = "releases"
FIELDS = {
    "instance_id": ("instance_id", "id", "task_id"),
    "problem_statement": ("problem_statement", "issue", "instruction", "statement"),
    "repo": ("repo", "repo_name", "repository"),
    "base_commit": ("base_commit", "base_sha", "commit_hash", "commit"),
    "image": ("image", "image_name", "docker_image"),
    "patch": ("patch", "gold_patch"),
    "FAIL_TO_PASS": ("FAIL_TO_PASS", "fail_to_pass"),
    "PASS_TO_PASS": ("PASS_TO_PASS", "pass_to_pass"),
    "eval_script": ("eval_script", "eval_sh"),
}
"""SWE-bench's name of a field → what it is called in sets that are like it, the likeliest first."""

_TESTS = ("FAIL_TO_PASS", "PASS_TO_PASS")


class Row(NamedTuple):
    where: str
    """The file, and the line or number in it: for errors."""
    values: Mapping[str, Any]

    def bad(self, what: str) -> BadDataset:
        return BadDataset(f"{self.where}: {what}")

    def text(self, field: str, *, needed: bool = False) -> str:
        """A field that is text; empty where the row has none. Raises BadDataset."""
        value = self.values.get(field)
        if value is None or value == "":
            if needed:
                raise self.bad(f"no {field}; a row has one of {', '.join(FIELDS[field])}")
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool) and field in ("instance_id", "version"):
            return str(value)
        if not isinstance(value, str):
            raise self.bad(f"{field} is {type(value).__name__}, not text")
        return value

    def names(self, field: str) -> tuple[str, ...]:
        """A field that is a list of test ids, or the JSON or the Python of one, as sets have them. Raises BadDataset."""
        value: object = self.values.get(field)
        if isinstance(value, str):
            text = value
            try:
                value = json.loads(text) if text.strip() else []
            except ValueError:
                try:
                    value = ast.literal_eval(text)
                except (ValueError, SyntaxError, MemoryError, RecursionError):
                    raise self.bad(f"{field} is text that holds no list") from None
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise self.bad(f"{field} is no list of test ids")
        return tuple(value)


def rows(reference: str, *, answers: bool) -> Iterator[Row]:
    """The rows of a dataset in its order. Without `answers`, of folders only the files that hold none are opened.

    Raises BadDataset.
    """
    name, _, split = reference.partition(":")
    path = Path(reference).expanduser()
    if name.lower() in NAMES and not path.exists():
        return _published(name.lower(), split or "test")
    if path.is_dir():
        return _folder(path, answers)
    if path.is_file():
        return _file(path)
    known = ", ".join([*NAMES, RELEASES])
    raise BadDataset(f"no dataset {reference}: give one of {known}, or a path of rows or of task folders")


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The row with SWE-bench's names for what it has under others."""
    found = dict(values)
    for field, names in FIELDS.items():
        value = next((values[name] for name in names if values.get(name) not in (None, "")), None)
        if value is not None:
            found[field] = value
    return found


def _published(name: str, split: str) -> Iterator[Row]:
    whole = NAMES[name]
    try:
        from datasets import disable_progress_bars
        from swebench.harness.utils import load_swebench_dataset
    except ImportError:
        raise DatasetMissing(
            f"{name} is read by the swebench package, which is not installed: pip install 'runoff[bench]'"
        ) from None
    disable_progress_bars()
    try:
        found = load_swebench_dataset(whole, split)
    except Exception as error:
        why = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise DatasetMissing(
            f"cannot bring {whole}, split {split}: {why}; it is cached once it was brought on this machine "
            "(HF_HOME says where), or give a file of its rows"
        ) from None
    return (Row(f"{whole}, row {number}", named(row)) for number, row in enumerate(found, 1))


def _file(path: Path) -> Iterator[Row]:
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".jsonl"):
            yield from _lines(path)
        elif name.endswith(".json"):
            yield from _whole(path)
        elif name.endswith(".parquet"):
            yield from _parquet(path)
        else:
            raise BadDataset(
                f"{path} is no dataset that is known: give .jsonl, .json or .parquet, each also .gz, or a folder"
            )
    except UnicodeDecodeError:
        raise BadDataset(f"{path} is not text in UTF-8") from None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise BadDataset(f"{path} is not a whole gzip file") from None


def _bytes(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[Row]:
    with _bytes(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                values = json.loads(line.decode())
            except ValueError as error:
                if isinstance(error, UnicodeDecodeError):
                    raise
                raise BadDataset(f"{where}: not JSON: {error}") from None
            yield _row(where, values)


def _whole(path: Path) -> Iterator[Row]:
    with _bytes(path) as file:
        try:
            found = json.loads(file.read().decode())
        except ValueError as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise BadDataset(f"{path}: not JSON: {error}") from None
    if isinstance(found, dict) and found and all(isinstance(one, dict) for one in found.values()):
        found = [{"instance_id": name} | values for name, values in found.items()]
    if not isinstance(found, list):
        raise BadDataset(f"{path}: neither a list of rows nor rows by their id")
    yield from (_row(f"{path}, row {number}", values) for number, values in enumerate(found, 1))


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DatasetMissing(
            f"{path} is read by pyarrow, which is not installed: pip install 'runoff[bench]', or give .jsonl"
        ) from None
    try:
        with _bytes(path) as file:
            # Threads of pyarrow's that have not ended when the interpreter does end it with a signal, one time in twenty.
            found = parquet.read_table(
                pyarrow.BufferReader(file.read()), use_threads=False, pre_buffer=False
            ).to_pylist()
    except pyarrow.ArrowException as error:
        raise BadDataset(f"{path}: no parquet: {' '.join(str(error).split())[:200]}") from None
    yield from (_row(f"{path}, row {number}", values) for number, values in enumerate(found, 1))


def _row(where: str, values: object) -> Row:
    if not isinstance(values, dict):
        raise BadDataset(f"{where}: a row is an object, not {type(values).__name__}")
    return Row(where, named(values))


def _folder(path: Path, answers: bool) -> Iterator[Row]:
    """By what lies there; hidden folders are nobody's."""
    if (path / "task.toml").is_file():
        return iter([_harbor(path, answers)])
    if (path / "task.yaml").is_file():
        return iter([_task(path, answers)])
    inner = path / "tasks" if (path / "tasks").is_dir() else path
    folders = sorted(one for one in inner.iterdir() if one.is_dir() and not one.name.startswith("."))
    tasks = [one for one in folders if (one / "task.yaml").is_file()]
    if tasks:
        return _published_tasks(path, tasks, answers)
    if harbor := [one for one in folders if (one / "task.toml").is_file()]:
        return (_harbor(one, answers) for one in harbor)
    raise BadDataset(
        f"{path} holds no tasks: neither tasks/<id>/task.yaml (SWE-bench v5) nor <id>/task.toml (Harbor); a repository goes to "
        "runoff solve"
    )


def _published_tasks(path: Path, folders: Iterable[Path], answers: bool) -> Iterator[Row]:
    """All tasks of a folder; of a task repo, whose sweb.yaml says which splits it publishes, those of these."""
    config = _yaml(path / "sweb.yaml") if (path / "sweb.yaml").is_file() else None
    for folder in folders:
        row = _task(folder, answers)
        if config is None or row.values.get("split") in (config.get("splits") or ["test"]):
            yield row


def _task(folder: Path, answers: bool) -> Row:
    values = _yaml(folder / "task.yaml")
    values["problem_statement"] = _read(folder / "problem_statement.md")
    if answers:
        for field, file in (("patch", "gold.patch"), ("test_patch", "test.patch"), ("eval_script", "eval.sh")):
            values[field] = _read(folder / file)
        try:
            tests = json.loads(_read(folder / "tests.json"))
            values |= {field: tests[field] for field in _TESTS}
        except (ValueError, KeyError, TypeError) as error:
            raise BadDataset(
                f"{folder / 'tests.json'}: no JSON with {' and '.join(_TESTS)}: {type(error).__name__} {error}"
            ) from None
    if values.get("base_commit") == "HEAD":
        values["base_commit"] = ""  # the image's own
    return Row(str(folder / "task.yaml"), named({"instance_id": folder.name} | values))


def _harbor(folder: Path, answers: bool) -> Row:
    from runoff.datasets import harbor

    where = folder / "task.toml"
    try:
        config = harbor.Task.model_validate(tomllib.loads(_read(where)))
    except ValueError as error:
        raise BadDataset(f"{where}: {harbor.first(error)}") from None
    if config.steps:
        raise BadDataset(f"{where}: steps: a task of several steps is none that one patch solves")
    dockerfile = folder / "environment" / "Dockerfile"
    if not config.environment.docker_image and not dockerfile.is_file():
        raise BadDataset(f"{where}: environment: neither docker_image nor an environment/Dockerfile")
    workdir = config.environment.workdir or (harbor.workdir(_read(dockerfile)) if dockerfile.is_file() else None)
    values: dict[str, Any] = {
        "instance_id": folder.name,
        "problem_statement": harbor.instruction(_read(folder / "instruction.md")),
        "image": config.environment.docker_image or harbor.image(folder.name),
        "workdir": workdir or "",
    }
    if answers:
        if not (folder / "tests" / "test.sh").is_file():
            raise BadDataset(f"{folder / 'tests' / 'test.sh'}: no such file")
        values |= {"tests": str((folder / "tests").resolve()), "timeout": config.verifier.timeout_sec}
        values["patch"] = "".join(_read(one) for one in harbor.patches(folder / "solution"))
    return Row(str(where), values)


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(_read(file))
    except yaml.YAMLError as error:
        raise BadDataset(f"{file}: no YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise BadDataset(f"{file}: no fields")
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in found.items()}


def _read(file: Path) -> str:
    try:
        with file.open(newline="") as text:  # CRLF within a patch stays
            return text.read()
    except UnicodeDecodeError:
        raise BadDataset(f"{file} is not text in UTF-8") from None
    except OSError as error:
        raise BadDataset(f"{file}: {error.strerror}") from None
