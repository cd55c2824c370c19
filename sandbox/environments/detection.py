"""What a repository is, and how it is installed and tested, as far as its files say so without being run. Pure.

Files in, a `Detected` out: the language and its version, the commands, the services, each with the file and the line that
say it. Two commands of the same purpose are alternatives, the likelier first: what they are worth is tried (`setups`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Literal

from runoff.sandbox.environments import dependencies, of_native, of_node, of_python, python_requirements
from runoff.sandbox.environments.sayings import LARGEST, Evidence, Sayings, sayings, speaks
from runoff.sandbox.environments.services import Service, service
from runoff.sandbox.protocol import Value

Language = Literal["python", "node", "go", "rust", "c"]
LANGUAGES: dict[Language, str] = {
    "python": "Python",
    "node": "JavaScript or TypeScript",
    "go": "Go",
    "rust": "Rust",
    "c": "C or C++",
}
_SUFFIXES: dict[str, Language] = {
    **dict.fromkeys((".py", ".pyx"), "python"),
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".mts", ".cts"), "node"),
    ".go": "go",
    ".rs": "rust",
    **dict.fromkeys((".c", ".cc", ".cpp", ".cxx", ".h", ".hpp", ".hh"), "c"),
}
MOST_FILES = 200_000
"""Paths of a repository that are looked at."""


class Fact(Value):
    """One line of what was found: what it is, its value, and where that stands."""

    what: str
    value: str
    at: tuple[Evidence, ...] = ()


class Detected(Value):
    language: Language | None = None
    """None: nothing says how this is built; then everything else is empty."""
    facts: tuple[Fact, ...] = ()
    versions: tuple[str, ...] = ()
    """Of the language, those it can be built with, the likeliest first; empty: any."""
    setup: tuple[str, ...] = ()
    """Shell commands, run in the repository with the package indexes in reach."""
    build: str | None = None
    """Builds it again after a change, without network; None: nothing has to be."""
    tests: tuple[str, ...] = ()
    """Commands that run its tests: alternatives."""
    env: dict[str, str] = {}
    services: tuple[Service, ...] = ()
    tools: tuple[str, ...] = ()
    """Programs of the host that it takes: `go`, `cmake`."""
    packages: tuple[str, ...] = ()
    """Debian packages that the project itself says it needs."""
    plain: bool = False
    """The builder's own way with Python and Node packages may do for it: `dependencies.plan`."""


def worth_reading(paths: Iterable[str]) -> list[str]:
    """Of a repository's files, those that `detect` wants the contents of; bounded."""
    wanted = {path for path in paths if speaks(path) or _says(path)}
    return sorted(wanted | set(dependencies.deciding(paths)), key=lambda path: (path.count("/"), path))[:400]


def detect(paths: Iterable[str], files: Mapping[str, bytes]) -> Detected:
    """`paths` are all files of the repository; `files` the contents of those `worth_reading`, as far as they can be had."""
    known = sorted(path for path, _ in zip(paths, range(MOST_FILES), strict=False))
    files = {path: data for path, data in files.items() if len(data) <= max(LARGEST, dependencies.LARGEST)}
    said = sayings(files)
    folder = _folder(known)
    if folder:  # all of the project lies one level down
        inner = f"{folder}/"
        below = [path.removeprefix(inner) for path in known if path.startswith(inner)]
        lower = {path.removeprefix(inner): data for path, data in files.items() if path.startswith(inner)}
        found = _detected(below, lower, Sayings(services=said.services, env=said.env))
        return found.model_copy(
            update={
                "facts": (Fact(what="folder", value=folder), *found.facts),
                "setup": tuple(f"cd {folder} && {{ {one}\n}}" for one in found.setup),
                "build": found.build and f"cd {folder} && {{ {found.build}\n}}",
                "tests": tuple(f"cd {folder} && {one}" for one in found.tests),
                "plain": False,
            }
        )
    return _detected(known, files, said)


def _detected(paths: list[str], files: Mapping[str, bytes], said: Sayings) -> Detected:
    language, why = _language(paths, files)
    if language is None:
        return Detected()
    known = frozenset(paths)
    found = (
        of_python.detect(known, files, said)
        if language == "python"
        else of_node.detect(known, files, said)
        if language == "node"
        else of_native.detect(language, known, files, said)
    )
    facts = [Fact(what="language", value=LANGUAGES[language], at=why)]
    facts += [
        Fact(what=what, value=value, at=tuple(one for one in at if one.file in known))
        for what, value, at in found.facts
    ]
    servers = [(one, made) for one in said.services if (made := service(one.image, one.env, one.port))]
    facts += [Fact(what="service", value=str(made), at=(one.at,)) for one, made in servers]
    facts += [Fact(what="Debian package", value=name, at=(at,)) for name, at in said.packages[:12]]
    env = (
        {name: _here(value, [one.name for one in said.services]) for name, value in said.env.items()} if servers else {}
    )
    return Detected(
        language=language,
        facts=tuple(facts),
        versions=found.versions,
        setup=found.setup,
        build=found.build,
        tests=found.tests,
        env=found.env | env,
        services=tuple({made.kind: made for _, made in reversed(servers)}.values()),
        tools=found.tools,
        packages=tuple(name for name, _ in said.packages),
        plain=found.plain,
    )


_MANIFESTS: tuple[tuple[Language, tuple[str, ...]], ...] = (
    (
        "python",
        ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "Pipfile", "environment.yml", "tox.ini"),
    ),
    ("node", ("package.json",)),
    ("rust", ("Cargo.toml",)),
    ("go", ("go.mod",)),
    ("c", of_native.MANIFESTS),
)


def _says(path: str) -> bool:
    name = PurePosixPath(path).name
    if path.count("/") > 1 or (path.count("/") == 1 and name not in _ALL_MANIFESTS):
        return (
            bool(re.fullmatch(r"(?:tests?|src)/(?:conftest|test_\w+|\w+_test)\.py", path))
            or path in python_requirements.MORE
        )
    return (
        name in _ALL_MANIFESTS
        or path in (*of_python.FILES, *of_node.FILES, *of_native.FILES)
        or path == "debian/control"
    )


_ALL_MANIFESTS = frozenset(name for _, names in _MANIFESTS for name in names)


def _language(paths: list[str], files: Mapping[str, bytes]) -> tuple[Language | None, tuple[Evidence, ...]]:
    """The language whose manifest lies at the top; of several the one that most source files are in.

    A pyproject.toml with nothing but settings of tools is no Python project, a package.json beside one no Node package.
    """
    top = {path for path in paths if "/" not in path}
    counts = Counter(_SUFFIXES.get(PurePosixPath(path).suffix) for path in paths if not _elsewhere(path))
    found: dict[Language, Evidence] = {}
    for language, names in _MANIFESTS:
        here = next((name for name in names if name in top), None)
        if here and not (language == "python" and not of_python.is_project(top, files)):
            found[language] = Evidence(file=here)
    if not found:
        for language, names in (("python", (".py",)), ("node", (".js", ".ts")), ("go", (".go",)), ("c", ())):
            if names and counts[language] and counts[language] == max(counts[one] for one in LANGUAGES):
                example = next(path for path in paths if path.endswith(names) and not _elsewhere(path))
                return language, (Evidence(file=example),)
        return None, ()
    if "python" in found and (top & {"pyproject.toml", "setup.py", "setup.cfg"}):
        found.pop("node", None)
    best = max(found, key=lambda one: (counts[one], -list(LANGUAGES).index(one)))
    if "python" in found and counts["python"] * 4 > counts[best] and top & {"pyproject.toml", "setup.py"}:
        best = "python"  # an extension's own sources may well be more than what is around them
    return best, (found[best],)


def _folder(paths: list[str]) -> str | None:
    """The one folder that holds the project, where its top has no manifest."""
    if any("/" not in path and path in _ALL_MANIFESTS for path in paths):
        return None
    holders = {path.split("/")[0] for path in paths if path.count("/") == 1 and path.split("/")[1] in _ALL_MANIFESTS}
    holders -= {"docs", "doc", "tests", "test", "examples", "example", ".github", "ci", "tools", "debian", "scripts"}
    folder = holders.pop() if len(holders) == 1 else None
    return folder if folder and re.fullmatch(r"[\w.-]+", folder) else None


def _elsewhere(path: str) -> bool:
    return bool(re.search(r"(?:^|/)(?:node_modules|vendor|third_party|\.git|docs?|examples?|dist)/", path))


def _here(value: str, names: list[str]) -> str:
    """An address in which a service is called by its name, with this host in its place."""
    for name in names:
        value = re.sub(rf"(?<=[@/=]){re.escape(name)}(?=[:/]|$)|^{re.escape(name)}$", "127.0.0.1", value)
    return value
