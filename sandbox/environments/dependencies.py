"""What a repository needs, as far as its setup files say so without being run. Pure: files in, a plan out.

What is known here is installed below the repository, in a layer that all commits share that say the same.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from runoff.sandbox.protocol import Value

EXTRAS = ("test", "tests", "testing", "dev")
"""Names of extras and dependency groups that hold what tests need."""
TEST_FILES = (
    "requirements-test.txt",
    "requirements_test.txt",
    "test-requirements.txt",
    "requirements/tests.txt",
    "tests/requirements.txt",
)
_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg")
_NODE = ("package.json", "package-lock.json", "npm-shrinkwrap.json")
_REQUIREMENTS = re.compile(r"(?:(?:requirements|tests)/[^/]+|[^/]*(?:requirements|constraints)[^/]*)\.(?:txt|in)")
_WANTED_OF_NODE = (
    *("dependencies", "devDependencies", "optionalDependencies", "peerDependencies"),
    *("bundleDependencies", "bundledDependencies", "peerDependenciesMeta", "overrides", "engines", "os", "cpu"),
)
_OF_THE_TREE = re.compile(r"^\s*(?:-e|--editable|\.|/|file:)|@\s*file:|^[\w.-]+/", re.MULTILINE)
_REFERENCE = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)", re.MULTILINE)
LARGEST = 8 << 20
"""Bytes of a file that is looked at."""


class Plan(Value):
    """What to install before the repository is there, and what is left for afterwards."""

    must: tuple[str, ...] = ()
    """Requirements without which nothing works."""
    may: tuple[tuple[str, ...], ...] = ()
    """Requirements of tests and development, set by set: what cannot be installed is left out."""
    may_files: tuple[str, ...] = ()
    """The same, as requirement files."""
    must_files: tuple[str, ...] = ()
    files: dict[str, bytes] = {}
    """What must lie in the place of the repository meanwhile: the files above, and those that they name."""
    npm: bool = False
    """Node's packages, by the package.json (and lock) among `files`."""
    project: bool = False
    """There is something to install afterwards with pip."""
    late_files: tuple[str, ...] = ()
    """Requirement files that need the repository itself."""
    late_npm: bool = False


def deciding(paths: Iterable[str]) -> list[str]:
    """Of a repository's files, those that `plan` looks at."""
    return sorted(path for path in paths if path in (*_PROJECT, *_NODE, *TEST_FILES) or _REQUIREMENTS.fullmatch(path))


def plan(files: Mapping[str, bytes], *, node: bool | None = None) -> Plan:
    """`node` None: Node's packages where there is a package.json and no Python project."""
    project = any(path in files for path in _PROJECT)
    late, wanted, brought = list[str](), list[str](), dict[str, bytes]()
    listed = [path for path in TEST_FILES if path in files and project]
    if not project and "requirements.txt" in files:
        listed = ["requirements.txt"]
    for path in listed:
        needed = _with_those_it_names(path, files)
        if needed is None:
            late.append(path)
        else:
            wanted.append(path)
            brought |= needed
    must, may = _of_pyproject(_toml(files.get("pyproject.toml", b"")))
    has_node = node or (node is None and "package.json" in files and not project and "requirements.txt" not in files)
    packages = _of_package_json(files) if has_node else {}
    return Plan(
        must=must if has_node else ("pytest", *must),
        may=may,
        may_files=tuple(wanted) if project else (),
        must_files=() if project else tuple(wanted),
        files=brought | packages,
        npm=bool(packages),
        project=project,
        late_files=tuple(late),
        late_npm=has_node and not packages and "package.json" in files,
    )


def _of_pyproject(data: dict[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Dependencies, and those of tests, where the file itself says them; nothing where a build backend would have to."""
    project = data.get("project")
    if not isinstance(project, dict) or "dependencies" in _list(project.get("dynamic")):
        return (), ()
    own, extras = _plain(str(project.get("name", ""))), _table(project.get("optional-dependencies"))
    groups = {_plain(name): group for name, group in _table(data.get("dependency-groups")).items()}

    def of_extra(name: str, seen: frozenset[str]) -> list[str]:
        found = []
        for line in _list(extras.get(name)):
            itself = re.fullmatch(r"\s*([\w.-]+)\s*\[([^\]]*)\]\s*", str(line))
            if itself and _plain(itself[1]) == own:
                names = {part.strip() for part in itself[2].split(",")} - seen
                found += [one for part in sorted(names) for one in of_extra(part, seen | names)]
            else:
                found.append(str(line))
        return found

    def of_group(name: str, seen: frozenset[str]) -> list[str]:
        found = []
        for line in _list(groups.get(name)):
            if isinstance(line, str):
                found.append(line)
            elif isinstance(line, dict) and (other := _plain(str(line.get("include-group", "")))) not in seen:
                found += of_group(other, seen | {other})
        return found

    sets = [of_extra(name, frozenset({name})) for name in EXTRAS] + [
        of_group(name, frozenset({name})) for name in EXTRAS
    ]
    safe = [tuple(line for line in one if not _OF_THE_TREE.search(line) and "\n" not in line) for one in sets]
    must = tuple(str(line) for line in _list(project.get("dependencies")))
    if any(_OF_THE_TREE.search(line) or "\n" in line for line in must):
        return (), ()
    return must, tuple(one for one in safe if one)


def _with_those_it_names(path: str, files: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """A requirement file and all that it refers to; None if something of it needs the repository."""
    found, todo = dict[str, bytes](), [path]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        if path not in files:
            return None
        found[path] = files[path]
        text = files[path].decode("utf-8", "replace")
        if _OF_THE_TREE.search(re.sub(r"(?m)^\s*(?:-r|-c|--requirement|--constraint)\b.*$", "", text)):
            return None
        folder = path.rpartition("/")[0]
        for name in _REFERENCE.findall(text):
            parts = list[str]()
            for part in f"{folder}/{name}".split("/"):
                if part == "..":
                    parts = parts[:-1]
                elif part not in ("", "."):
                    parts.append(part)
            todo.append("/".join(parts))
    return found


def _of_package_json(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """What npm installs by, without what changes from release to release; nothing if it needs the repository."""
    package = _json(files.get("package.json", b""))
    wanted = {name: package[name] for name in _WANTED_OF_NODE if name in package}
    versions = [version for name in _WANTED_OF_NODE[:4] for version in _table(wanted.get(name)).values()]
    if not package or "workspaces" in package or any(str(v).startswith(("file:", "link:", ".", "/")) for v in versions):
        return {}
    found = {"package.json": _text({"name": "repository", "version": "0.0.0", "private": True} | wanted)}
    for name in ("npm-shrinkwrap.json", "package-lock.json"):
        if lock := _json(files.get(name, b"")):
            lock |= {"name": "repository", "version": "0.0.0"}
            packages = _table(lock.get("packages"))
            if "" in packages:
                lock["packages"] = packages | {"": _table(packages[""]) | {"name": "repository", "version": "0.0.0"}}
            return found | {"package-lock.json": _text(lock)}
    return found


def _toml(data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return {}


def _json(data: bytes) -> dict[str, Any]:
    try:
        return _table(json.loads(data)) if data else {}
    except (ValueError, RecursionError):
        return {}


def _text(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=1, sort_keys=True).encode()


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
