"""What a project says of itself: the commands, versions, services and variables in its CI files, Dockerfile, Makefile, README.

Pure: the texts of files in, sayings out, each with its file and line. All of it was written by strangers: sizes, depths
and counts are bounded, and what cannot be read says nothing.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from runoff.sandbox.protocol import Value

LARGEST = 256 << 10
"""Bytes of a file that is read for what it says; YAML less, for its reader is slow."""
_LARGEST_YAML, _DEEPEST, _MOST_NODES, _MOST = 96 << 10, 60, 20_000, 400

_WORKFLOWS = re.compile(
    r"\.github/workflows/[^/]+\.ya?ml|\.gitlab-ci\.yml|\.travis\.yml|\.circleci/config\.yml|\.?appveyor\.yml"
    r"|azure-pipelines\.yml|\.cirrus\.yml|\.drone\.yml|\.woodpecker\.yml"
)
_COMPOSE = re.compile(r"(?:docker-)?compose[^/]*\.ya?ml")
_DOCKERFILES = re.compile(r"(?:\.devcontainer/)?Dockerfile[^/]*|Containerfile")
_TOLD = re.compile(r"(?:\.github/|docs/)?(?:README|CONTRIBUTING|HACKING|DEVELOPMENT|INSTALL)(?:\.\w+)?", re.IGNORECASE)
_MAKEFILES = ("Makefile", "makefile", "GNUmakefile", "justfile")
_DEVCONTAINER = (".devcontainer/devcontainer.json", ".devcontainer.json")


class Evidence(Value):
    """Where something is said: a file of the repository, its line from 1 on (0: the file itself), and the words."""

    file: str
    line: int = 0
    words: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Saying(Value):
    """A shell command that the project gives somewhere, on one line."""

    command: str
    at: Evidence


class ServiceSaid(Value):
    """A server that the project's CI or compose file starts for its tests."""

    name: str
    image: str
    env: dict[str, str] = {}
    port: int | None = None
    """Where the tests find it on this host, if that is said."""
    at: Evidence


class Sayings(Value):
    commands: tuple[Saying, ...] = ()
    """In the order of trust: CI, tox and nox, Makefile, containers, prose."""
    services: tuple[ServiceSaid, ...] = ()
    env: dict[str, str] = {}
    """Plain variables that CI sets for jobs with services."""
    versions: tuple[tuple[str, str, Evidence], ...] = ()
    """(language, version) that CI tests with, as `("python", "3.11")`."""
    packages: tuple[tuple[str, Evidence], ...] = ()
    """Debian packages that CI or a Dockerfile installs."""


def speaks(path: str) -> bool:
    """Whether a file, by its path, may say how its project is installed and tested."""
    return bool(
        _WORKFLOWS.fullmatch(path)
        or _COMPOSE.fullmatch(path)
        or _DOCKERFILES.fullmatch(path)
        or _TOLD.fullmatch(path)
        or path in (*_MAKEFILES, *_DEVCONTAINER, "tox.ini", "noxfile.py", "setup.cfg", "tox.toml", "pyproject.toml")
    )


def sayings(files: Mapping[str, bytes]) -> Sayings:
    """All that the files say, bounded."""
    found, services = list[Saying](), list[ServiceSaid]()
    versions, env = list[tuple[str, str, Evidence]](), dict[str, str]()
    for path in sorted(files, key=lambda path: (not _WORKFLOWS.fullmatch(path), path)):
        if _WORKFLOWS.fullmatch(path) or _COMPOSE.fullmatch(path):
            tree = _yaml(files[path])
            if tree is None:
                continue
            nodes = list(_walk(tree))
            if _WORKFLOWS.fullmatch(path):
                found += _of_ci(path, nodes)
                versions += _versions(path, nodes)
            said = list(_services(path, nodes))
            services += said
            env |= _variables(nodes) if said else {}
    for path in ("tox.ini", "setup.cfg", "tox.toml"):
        found += _of_tox(path, text_of(files.get(path, b"")))
    found += _of_nox(text_of(files.get("noxfile.py", b"")))
    for path in _MAKEFILES:
        found += _of_make(path, text_of(files.get(path, b"")))
    for path in sorted(files):
        if _DOCKERFILES.fullmatch(path):
            found += _of_dockerfile(path, text_of(files[path]))
        elif path in _DEVCONTAINER:
            found += _of_devcontainer(path, text_of(files[path]))
    for path in sorted(files):
        if _TOLD.fullmatch(path):
            found += _of_prose(path, text_of(files[path]))
    commands = tuple(dict.fromkeys(one for one in found if len(one.command) < 1000))[:_MOST]
    return Sayings(
        commands=commands,
        services=tuple({one.name: one for one in reversed(services)}.values())[:8],
        env=env,
        versions=tuple(versions[:_MOST]),
        packages=tuple(_packages(commands)),
    )


def text_of(data: bytes, limit: int = LARGEST) -> str:
    """A file's text whatever its encoding: undecodable bytes are replaced, what is beyond the limit left out."""
    data = data[:limit]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def line_of(text: str, wanted: str) -> int:
    """The first line, from 1 on, in which these words stand; 0 if none."""
    place = text.find(wanted)
    return text.count("\n", 0, place) + 1 if place >= 0 else 0


def ini(text: str) -> dict[str, dict[str, tuple[str, int]]]:
    """Section → key → (value, line). Forgiving: a duplicate adds, what is neither section nor key is left out."""
    found: dict[str, dict[str, tuple[str, int]]] = {}
    section, key = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("#", ";")):
            continue
        if head := re.match(r"\[([^\]\n]{1,200})\]\s*$", line):
            section, key = head[1].strip(), ""
        elif line[:1] in (" ", "\t") and key:
            value, at = found[section][key]
            found[section][key] = (f"{value}\n{line.strip()}", at)
        elif pair := re.match(r"([\w.:\- ]{1,100}?)\s*[=:]\s*(.*)$", line):
            key = pair[1].strip().lower()
            found.setdefault(section, {})[key] = (pair[2].strip(), number)
    return found


def toml(data: bytes) -> dict[str, Any]:
    """A TOML file's table; an unreadable one is empty."""
    if len(data) > LARGEST:
        return {}
    try:
        return tomllib.loads(text_of(data))
    except (ValueError, RecursionError):
        return {}


class _Node(Value):
    """A place in a YAML file: keys and numbers from the top on, what stands there as plain text, and its line."""

    path: tuple[str, ...]
    text: str
    line: int


def _yaml(data: bytes) -> Any:
    """The tree of YAML nodes, aliases not followed by anything here; None if it is not to be read."""
    import yaml

    if len(data) > _LARGEST_YAML:
        return None
    text, depth, deepest = text_of(data), 0, 0
    for sign in text:
        if sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    if deepest > _DEEPEST:  # its reader takes time by the square of that
        return None
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None


def _walk(top: Any) -> Iterator[_Node]:
    """Every plain value. An anchor used a thousand times, or in itself, is met as often as the bound lets it."""
    import yaml

    todo: list[tuple[tuple[str, ...], Any, int]] = [((), top, 0)]
    left = _MOST_NODES
    while todo and left:
        path, node, depth = todo.pop()
        left -= 1
        if isinstance(node, yaml.ScalarNode):
            yield _Node(path=path, text=str(node.value)[:20_000], line=node.start_mark.line + 1)
        elif depth > _DEEPEST or len(todo) > _MOST_NODES:
            continue
        elif isinstance(node, yaml.MappingNode):
            for key, value in reversed(node.value[:2000]):
                name = key.value if isinstance(key, yaml.ScalarNode) else "?"
                todo.append(((*path, "<<" if name == "<<" else str(name)[:200]), value, depth + 1))
        elif isinstance(node, yaml.SequenceNode):
            for number, value in reversed(list(enumerate(node.value[:2000]))):
                todo.append(((*path, str(number)), value, depth + 1))


_RUNS = (
    "run",
    "script",
    "before_script",
    "install",
    "before_install",
    "test_script",
    "build_script",
    "command",
    "commands",
)


def _of_ci(path: str, nodes: list[_Node]) -> Iterator[Saying]:
    for node in nodes:
        keys = [key for key in node.path if not key.isdigit()]
        if keys and keys[-1] in _RUNS and "defaults" not in keys:
            for offset, command in commands_in(node.text):
                begins = node.line + offset + (1 if "\n" in node.text else 0)
                yield Saying(command=command, at=Evidence(file=path, line=begins, words=command[:200]))


def commands_in(script: str) -> Iterator[tuple[int, str]]:
    """A shell script's lines, continued ones joined, each with the number of its first."""
    joined, first = "", 0
    for number, line in enumerate(script.splitlines()[:2000]):
        bare = line.strip()
        if not joined:
            first = number
        if bare.endswith("\\"):
            joined += bare[:-1] + " "
            continue
        whole = re.sub(r"\s+", " ", joined + bare).strip()
        joined = ""
        if whole and not whole.startswith("#"):
            yield first, whole


_OF_LANGUAGE = {
    "python-version": "python",
    "node-version": "node",
    "go-version": "go",
    "node_js": "node",
    "python": "python",
}
_VERSION = re.compile(r"\d+(?:\.\d+){0,2}(?:\.x)?")


def _versions(path: str, nodes: list[_Node]) -> Iterator[tuple[str, str, Evidence]]:
    for node in nodes:
        keys = [key for key in node.path if not key.isdigit()]
        language = _OF_LANGUAGE.get(keys[-1]) if keys else None
        if language and _VERSION.fullmatch(node.text.strip()):
            version = node.text.strip().removesuffix(".x")
            yield language, version, Evidence(file=path, line=node.line, words=f"{keys[-1]}: {node.text}"[:200])


def _services(path: str, nodes: list[_Node]) -> Iterator[ServiceSaid]:
    """`services:` of a job or of a compose file: those of its members that name an image."""
    by_name: dict[tuple[str, ...], dict[tuple[str, ...], _Node]] = {}
    for node in nodes:
        if "services" in node.path[:-1]:
            place = node.path.index("services") + 2
            if len(node.path) >= place:
                by_name.setdefault(node.path[:place], {})[node.path[place:]] = node
    for where, parts in by_name.items():
        image = parts.get(("image",)) or parts.get(("name",)) or (parts.get(()) if where[-1].isdigit() else None)
        if image is None or not re.fullmatch(r"[\w./:@${}\- ]{1,200}", image.text):
            continue
        env, port = dict[str, str](), None
        for keys, node in parts.items():
            if keys[:1] in (("env",), ("environment",), ("variables",)) and len(keys) == 2:
                name, value = (keys[1], node.text) if not keys[1].isdigit() else node.text.partition("=")[::2]
                if re.fullmatch(r"\w{1,100}", name) and "${" not in value:
                    env[name] = value[:500]
            if keys[:1] == ("ports",) and port is None:
                numbers = re.findall(r"\d+", node.text.rpartition("/")[0] or node.text)
                port = int(numbers[-2] if len(numbers) > 1 else numbers[0]) if numbers else None
                port = port if port and port < 65536 else None
        yield ServiceSaid(
            name=where[-1] if not where[-1].isdigit() else image.text.split(":")[0].rpartition("/")[2],
            image=image.text,
            env=env,
            port=port,
            at=Evidence(file=path, line=image.line, words=f"image: {image.text}"[:200]),
        )


def _variables(nodes: list[_Node]) -> dict[str, str]:
    """What `env:` sets outside of services, in plain words: `DATABASE_URL`, `PGHOST`."""
    found: dict[str, str] = {}
    for node in nodes:
        if len(node.path) > 1 and node.path[-2] == "env" and "services" not in node.path and "${" not in node.text:
            name = node.path[-1]
            if re.fullmatch(r"[A-Z][A-Z0-9_]{0,80}", name) and not re.search(
                r"TOKEN|KEY$|SECRET|^PATH$|^HOME$|^LD_", name
            ):
                found.setdefault(name, node.text[:500])
    return dict(list(found.items())[:40])


def _of_tox(path: str, text: str) -> Iterator[Saying]:
    if path == "tox.toml":
        for name, table in [("env_run_base", toml(text.encode()).get("env_run_base"))]:
            for words in (table.get("commands") if isinstance(table, dict) else None) or []:
                if isinstance(words, list) and all(isinstance(word, str) for word in words):
                    command = _plain_tox(" ".join(words))
                    yield Saying(command=command, at=Evidence(file=path, line=line_of(text, "commands"), words=name))
        return
    for section, keys in ini(text).items():
        if section != "testenv" and not re.match(r"testenv:(?:py|test|unit)", section):
            continue
        for key in ("deps", "commands"):
            value, line = keys.get(key, ("", 0))
            for offset, one in commands_in(re.sub(r"^[\w,{}!.\- ]+:\s+", "", value, flags=re.MULTILINE)):
                one = _plain_tox(one) if key == "deps" else _plain_tox(one).removeprefix("-").strip()
                if one and "{[" not in one:
                    command = one if key == "commands" else f"pip install {one}"
                    yield Saying(command=command, at=Evidence(file=path, line=line + offset, words=one[:200]))


def _plain_tox(command: str) -> str:
    """tox's substitutions taken out: `{posargs:tests}` is what stands behind the colon."""
    command = re.sub(r"\{posargs:?([^{}]*)\}", r"\1", command)
    command = re.sub(r"\{(?:toxinidir|tox_root)\}/?", "", command)
    command = re.sub(r"\{env(?:python|bindir)\}/?", "python", command)
    return re.sub(r"\{[^{}]*\}", "", command).strip()


def _of_nox(text: str) -> Iterator[Saying]:
    """`session.install(…)` and `session.run(…)` with plain words, in sessions that are named for tests."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or not re.search(r"test|unit", function.name):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                if words and node.func.attr in ("install", "run", "run_install"):
                    said = ("pip install " if node.func.attr == "install" else "") + " ".join(words)
                    yield Saying(command=said, at=Evidence(file="noxfile.py", line=node.lineno, words=said[:200]))


def _of_make(path: str, text: str) -> Iterator[Saying]:
    """The commands of targets that are named for tests or for setting up."""
    target = ""
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"([\w.\- ]{1,100}):(?!=)", line):
            names = head[1].split()
            wanted = {"test", "tests", "check", "install", "setup", "deps", "dev", "develop", "init", "bootstrap"}
            target = next((name for name in names if name in wanted), "")
        elif target and line[:1] in ("\t", " ") and line.strip():
            command = line.strip().lstrip("@-+").strip()
            if not re.search(r"\$[({@<^]", command):
                yield Saying(command=command, at=Evidence(file=path, line=number, words=f"{target}: {command}"[:200]))
        elif line[:1] not in ("\t", " ", "#", ""):
            target = ""


def _of_dockerfile(path: str, text: str) -> Iterator[Saying]:
    for number, line in commands_in(text):
        if step := re.match(r"(?:RUN|CMD|ENTRYPOINT)\s+(?:--\S+ )*(.*)$", line, re.IGNORECASE):
            words = step[1]
            if words.startswith("["):
                try:
                    words = " ".join(str(word) for word in json.loads(words))
                except (ValueError, RecursionError):
                    continue
            yield Saying(command=words, at=Evidence(file=path, line=number + 1, words=words[:200]))


def _of_devcontainer(path: str, text: str) -> Iterator[Saying]:
    for found in re.finditer(r'"(?:postCreate|onCreate|updateContent)Command"\s*:\s*"((?:[^"\\]|\\.){1,900})"', text):
        command = found[1].replace('\\"', '"')
        line = text.count("\n", 0, found.start()) + 1
        yield Saying(command=command, at=Evidence(file=path, line=line, words=command[:200]))


_SPOKEN = re.compile(
    r"^[\s>`$#%*\-]*((?:python[\d.]*|pip[\d.]*|uv|poetry|pdm|hatch|pipenv|tox|nox|pytest|py\.test|npm|pnpm|yarn|npx|bun|node|go|cargo"
    r"|make|cmake|ctest|meson|ninja|\./configure|\./autogen\.sh|\./bootstrap|autoreconf)\s[^`]{1,200}?)[`\s]*$"
)


def _of_prose(path: str, text: str) -> Iterator[Saying]:
    """Lines of prose that are commands: in fences, behind a prompt sign, indented."""
    for number, line in enumerate(text.splitlines()[:5000], 1):
        if len(line) < 300 and line[:1] in (" ", "\t", "$", ">", "%", "`", "p", "n", "y", "g", "c", "m", "u", "t", "."):
            found = _SPOKEN.match(line)
            if found and not re.search(r"[.!?] [A-Z]|\b(?:is|are|the|you|your)\b", found[1]):
                yield Saying(command=found[1].strip(), at=Evidence(file=path, line=number, words=found[1][:200]))


def _packages(commands: tuple[Saying, ...]) -> Iterator[tuple[str, Evidence]]:
    seen = set[str]()
    for saying in commands:
        for found in re.finditer(r"\bapt(?:-get)?\s+(?:-\S+\s+)*install\s+([^;&|]+)", saying.command):
            for word in found[1].split():
                if re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", word) and word not in seen and len(seen) < 40:
                    seen.add(word)
                    yield word, saying.at
