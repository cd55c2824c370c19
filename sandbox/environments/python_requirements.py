"""The requirements of a Python project's tests, wherever they are said: extras, groups, files, CI, settings, imports. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runoff.sandbox.environments.dependencies import EXTRAS, TEST_FILES
from runoff.sandbox.environments.sayings import Evidence, Sayings, ini, line_of, text_of, toml

MORE = (
    *("requirements/test.txt", "requirements/testing.txt", "requirements/dev.txt", "requirements/tests.in"),
    *("requirements/test.in", "tests/requirements-test.txt", "test/requirements.txt", "requirements/development.txt"),
)
_TEST_REQUIREMENTS = re.compile(
    r"(?:(?:requirements|reqs?|tests?)[/_.-])?(?:tests?|testing|dev|develop|development)[_.-]?(?:requirements|reqs)?\.(?:txt|in)"
    r"|requirements[_.-](?:tests?|testing|dev|ci)\.(?:txt|in)"
)
_EXTRA = re.compile(r"\btests?|testing\b|\bdev(?:el|elop|elopment)?\b|\bci\b|\ball\b", re.IGNORECASE)
_GROUP = re.compile(r"tests?|testing|dev(?:el|elop|elopment)?|pytest|unit", re.IGNORECASE)

PLUGINS = {
    "--cov": "pytest-cov",
    "-n": "pytest-xdist",
    "--numprocesses": "pytest-xdist",
    "--dist": "pytest-xdist",
    "--timeout": "pytest-timeout",
    "--benchmark": "pytest-benchmark",
    "--asyncio-mode": "pytest-asyncio",
    "--reruns": "pytest-rerunfailures",
    "--flake8": "pytest-flake8",
    "--mypy": "pytest-mypy",
    "--black": "pytest-black",
    "--forked": "pytest-forked",
    "--randomly": "pytest-randomly",
    "--random-order": "pytest-random-order",
    "--ds": "pytest-django",
    "--html": "pytest-html",
    "--snapshot": "syrupy",
    "--isort": "pytest-isort",
    "--ruff": "pytest-ruff",
    "--enabler": "pytest-enabler",
    "--subprocess": "pytest-subprocess",
    "--disable-socket": "pytest-socket",
    "--doctest-plus": "pytest-doctestplus",
    "asyncio_mode": "pytest-asyncio",
    "django_settings_module": "pytest-django",
    "timeout": "pytest-timeout",
    "env": "pytest-env",
}
"""Option or setting of pytest → the plugin that knows it."""


def extras_of(
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: Mapping[str, Mapping[str, tuple[str, int]]],
    setup_py: Mapping[str, Any],
) -> Iterator[tuple[str, str, Evidence]]:
    optional = table(table(data.get("project")).get("optional-dependencies"))
    poetry = table(table(table(data.get("tool")).get("poetry")).get("extras"))
    places = [
        ("pyproject.toml", {**optional, **poetry}),
        ("setup.cfg", config.get("options.extras_require", {})),
        ("setup.py", table(setup_py.get("extras_require"))),
    ]
    for file, known in places:
        for name in list(known)[:60]:
            if re.fullmatch(r"[\w.-]{1,60}", str(name)) and (_EXTRA.search(str(name)) or str(name) in EXTRAS):
                if str(name).lower() == "all" and any(_EXTRA.search(str(other)) for other in known if other != name):
                    continue
                yield "extra", str(name), Evidence(file=file, line=line_of(text_of(files.get(file, b"")), str(name)))


def requirements(
    paths: frozenset[str],
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: Mapping[str, Mapping[str, tuple[str, int]]],
    tox: Mapping[str, Mapping[str, tuple[str, int]]],
    setup_py: Mapping[str, Any],
    said: Sayings,
) -> Iterator[tuple[str, tuple[str, ...], Evidence]]:
    """Sets of requirements of tests, as words for `pip install`, each with what says it."""
    text = text_of(files.get("pyproject.toml", b""))
    groups = table(data.get("dependency-groups"))
    for name in list(groups)[:60]:
        if _GROUP.fullmatch(str(name)) and (lines := _of_group(groups, str(name), set())):
            yield (
                "dependency group",
                tuple(lines),
                Evidence(file="pyproject.toml", line=line_of(text, f"{name} ="), words=str(name)),
            )
    tool = table(data.get("tool"))
    poetry = table(tool.get("poetry"))
    sets = [("dev-dependencies", table(poetry.get("dev-dependencies")))]
    sets += [
        (name, table(table(group).get("dependencies"))) for name, group in list(table(poetry.get("group")).items())[:30]
    ]
    for name, members in sets:
        if (name == "dev-dependencies" or _GROUP.fullmatch(name)) and (lines := list(_of_poetry(members))):
            yield "poetry's group", tuple(lines), Evidence(file="pyproject.toml", line=line_of(text, name), words=name)
    for name, listed in list(table(table(tool.get("pdm")).get("dev-dependencies")).items())[:30]:
        if _GROUP.fullmatch(str(name)) and (lines := _safe(strings(listed))):
            yield (
                "pdm's group",
                tuple(lines),
                Evidence(file="pyproject.toml", line=line_of(text, str(name)), words=str(name)),
            )
    for env in list(table(table(tool.get("hatch")).get("envs")).items())[:30]:
        listed = strings(table(env[1]).get("dependencies")) + strings(table(env[1]).get("extra-dependencies"))
        if (env[0] == "default" or _GROUP.search(str(env[0]))) and (lines := _safe(listed)):
            yield (
                "hatch environment",
                tuple(lines),
                Evidence(file="pyproject.toml", line=line_of(text, f"envs.{env[0]}"), words=str(env[0])),
            )
    for place, listed in (
        ("setup.py", strings(setup_py.get("tests_require"))),
        ("setup.cfg", config.get("options", {}).get("tests_require", ("", 0))[0].splitlines()),
    ):
        if lines := _safe(listed):
            yield (
                "tests_require",
                tuple(lines),
                Evidence(file=place, line=line_of(text_of(files.get(place, b"")), "tests_require")),
            )
    if "Pipfile" in files:
        pipfile = toml(files["Pipfile"])
        for section in ("packages", "dev-packages"):
            if lines := list(_of_poetry(table(pipfile.get(section)))):
                yield (
                    "Pipfile",
                    tuple(lines),
                    Evidence(file="Pipfile", line=line_of(text_of(files["Pipfile"]), f"[{section}]"), words=section),
                )
    for name in ("environment.yml", "environment.yaml"):
        if lines := _safe(_of_conda(text_of(files.get(name, b"")))):
            yield "conda environment", tuple(lines), Evidence(file=name, line=1)
    project = bool(paths & {"pyproject.toml", "setup.py", "setup.cfg"})
    for path in sorted(paths):
        if path.count("/") < 2 and (
            _TEST_REQUIREMENTS.fullmatch(path)
            or path in TEST_FILES
            or path in MORE
            or (path == "requirements.txt" and not project)
        ):
            yield "requirements", ("--requirement", path), Evidence(file=path)
    seen = set[str]()
    for saying in said.commands:
        for words in _installs(saying.command):
            lines = [word for word in _safe(words) if word not in seen]
            seen |= set(lines)
            if lines and len(seen) < 60:
                yield "installed by the project itself", tuple(lines), saying.at
        for path in re.findall(r"(?:-r|--requirement)[ =]?([\w./-]+\.(?:txt|in))", saying.command):
            if (
                path in paths
                and path not in seen
                and not _TEST_REQUIREMENTS.fullmatch(path)
                and not re.search(r"doc|lint", path)
            ):
                seen.add(path)
                yield "requirements", ("--requirement", path), saying.at


def _installs(command: str) -> Iterator[list[str]]:
    """The requirements of each `pip install` in a command line: names with their versions, no options, paths or variables."""
    for found in re.finditer(r"\bpip3?\s+install\s+([^;&|]+)", command):
        try:
            words = shlex.split(found[1])
        except ValueError:
            continue
        kept, skip = list[str](), False
        for word in words:
            if skip:
                skip = False
            elif word.startswith("-"):
                skip = word in (
                    "-r",
                    "-c",
                    "-e",
                    "--requirement",
                    "--constraint",
                    "--editable",
                    "-t",
                    "--index-url",
                    "-i",
                    "--python",
                    "-f",
                    "--find-links",
                    "--extra-index-url",
                    "--group",
                )
            elif re.match(r"[A-Za-z][\w.-]*(?:\[[\w,.-]+\])?(?:[=<>!~]=?.*)?$", word) and "/" not in word:
                kept.append(word)
        yield [word for word in kept if word.lower() not in _TOOLS]


_TOOLS = frozenset(
    "pip setuptools wheel uv tox nox twine build black flake8 mypy pylint ruff isort pre-commit codecov coveralls virtualenv pipenv poetry "
    "hatch pdm tox-gh-actions tox-uv sphinx furo conda bumpversion cibuildwheel check-manifest pyright bandit".split()
)
"""What no test needs to run."""


def _of_group(groups: Mapping[str, Any], name: str, seen: set[str]) -> list[str]:
    if name in seen or len(seen) > 40:
        return []
    seen.add(name)
    found = list[str]()
    listed = groups.get(name)
    for line in listed if isinstance(listed, list) else []:
        if isinstance(line, str):
            found += _safe([line])
        elif isinstance(line, dict) and isinstance(other := line.get("include-group"), str):
            found += _of_group(groups, other, seen)
    return found[:200]


def _of_poetry(table: Mapping[str, Any]) -> Iterator[str]:
    """Poetry's and Pipfile's constraints as those of pip; the upper bounds of `^` and `~` are left to the resolver's luck."""
    for name, wanted in list(table.items())[:200]:
        version = wanted.get("version", "*") if isinstance(wanted, dict) else wanted
        if name.lower() == "python" or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not isinstance(version, str):
            continue
        if isinstance(wanted, dict) and {"path", "git", "url", "file"} & wanted.keys():
            continue
        lower = re.fullmatch(r"[\^~]\s*(\d[\w.]*)", version.strip())
        exact = re.fullmatch(r"(?:(?:==|>=|<=|~=|<|>|!=)\s*[\w.*]+,?\s*)+", version.strip())
        yield name + (f">={lower[1]}" if lower else version.strip() if exact else "")


def _of_conda(text: str) -> list[str]:
    found = list[str]()
    for name, sign, version in re.findall(
        r"^\s*-\s+(?:[\w-]+::)?([A-Za-z][\w.-]*)\s*(==?|>=|<=)?\s*([\d.]+\w*)?\s*(?:#.*)?$", text, re.MULTILINE
    ):
        if name.lower() not in ("python", "pip", "conda-forge", "defaults", "nodefaults"):
            found.append(
                f"{name}{'==' if sign == '=' and version.count('.') > 1 else '>=' if sign == '=' else sign}{version}"
                if sign and version
                else name
            )
    return found[:200]


def _safe(lines: Iterable[str]) -> list[str]:
    """Requirements that name packages of an index: no options, no addresses, no paths, one line each."""
    kept = (line.partition(" #")[0].strip() for line in lines)
    return [
        line
        for line in kept
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*\s*(?:\[[\w\s,.-]*\])?[^\n/@]{0,200}", line)
        and not re.search(r"[`$\\]", line)
    ]


def plugins(
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: Mapping[str, Mapping[str, tuple[str, int]]],
    tox: Mapping[str, Mapping[str, tuple[str, int]]],
) -> Iterator[tuple[str, Evidence]]:
    """Plugins without which pytest does not begin with these settings."""
    own = table(table(table(data.get("tool")).get("pytest")).get("ini_options"))
    places: list[tuple[str, Mapping[str, Any]]] = [("pyproject.toml", own)]
    for name, sections in (
        ("setup.cfg", config),
        ("tox.ini", tox),
        ("pytest.ini", ini(text_of(files.get("pytest.ini", b"")))),
    ):
        for section in ("tool:pytest", "pytest"):
            if section in sections:
                places.append((name, {key: value for key, (value, _) in sections[section].items()}))
    seen = set[str]()
    for file, settings in places:
        text = text_of(files.get(file, b""))
        listed = settings.get("addopts", "")
        words = " ".join(strings(listed)) if isinstance(listed, list) else str(listed)
        found = [
            (plugin, option)
            for option, plugin in PLUGINS.items()
            if option.startswith("-") and re.search(rf"(?:^|\s){option}", words)
        ]
        found += [(plugin, key) for key, plugin in PLUGINS.items() if key in {str(one).lower() for one in settings}]
        required = settings.get("required_plugins", "")
        names = strings(required) if isinstance(required, list) else str(required).split()
        found += [(name, "required_plugins") for name in _safe(names)]
        for plugin, option in found:
            if plugin and plugin not in seen:
                seen.add(plugin)
                yield plugin, Evidence(file=file, line=line_of(text, option), words=option)


_HELPERS = {
    **dict.fromkeys(
        "hypothesis mock freezegun parameterized ddt responses httpretty vcr respx moto factory faker pretend sure nose testfixtures "
        "requests_mock flexmock pyfakefs time_machine syrupy trustme coverage psutil attr numpy yaml toml simplejson pytz dateutil "
        "requests aiohttp flask django lxml six docutils jinja2 cloudpickle pandas tornado twisted trio anyio sybil pygments".split(),
        "",
    ),
    "vcr": "vcrpy",
    "factory": "factory-boy",
    "attr": "attrs",
    "yaml": "pyyaml",
    "dateutil": "python-dateutil",
    "requests_mock": "requests-mock",
    "time_machine": "time-machine",
    "nose": "pynose",
}
"""Modules that tests are known to import, and the packages that have them where those are called otherwise. Nothing else is
guessed: a package of an undeclared name could be anyone's."""


def package_of(module: str) -> str | None:
    """The package of a module that tests are known to import."""
    top = module.partition(".")[0]
    return (_HELPERS[top] or top) if top in _HELPERS else _PYTEST.get(top)


_PYTEST = {
    f"pytest_{name}": f"pytest-{name.replace('_', '-')}"
    for name in "asyncio mock cov xdist timeout benchmark httpserver httpbin django subprocess".split()
}


def helpers(files: Mapping[str, bytes]) -> Iterator[tuple[str, Evidence]]:
    seen = set[str]()
    for path in sorted(files):
        if not re.search(r"(?:^|/)(?:conftest|test_\w+|\w+_test)\.py$", path):
            continue
        text = text_of(files[path])
        for found in re.finditer(r"^(?:import|from)[ \t]+([A-Za-z_]\w*)", text, re.MULTILINE):
            name = package_of(found[1])
            if name and name not in seen and len(seen) < 20 and found[1] not in _OWN_NAMES:
                seen.add(name)
                yield name, Evidence(file=path, line=text.count("\n", 0, found.start()) + 1, words=found[0][:100])


_OWN_NAMES: frozenset[str] = frozenset()


def table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
