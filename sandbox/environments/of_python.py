"""Detection of Python projects: versions, requirements of tests wherever they are said, what builds it, what runs its tests. Pure."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from runoff.sandbox.environments.dependencies import EXTRAS, TEST_FILES
from runoff.sandbox.environments.sayings import Evidence, Sayings, ini, line_of, text_of, toml

FILES = (
    *("tox.ini", "tox.toml", "noxfile.py", "setup.cfg", "pytest.ini", ".pytest.ini", ".python-version", "runtime.txt"),
    *(
        "Pipfile",
        "Pipfile.lock",
        "poetry.lock",
        "uv.lock",
        "environment.yml",
        "environment.yaml",
        "conftest.py",
        "PKG-INFO",
    ),
)
MORE = (
    *("requirements/test.txt", "requirements/testing.txt", "requirements/dev.txt", "requirements/tests.in"),
    *("requirements/test.in", "tests/requirements-test.txt", "test/requirements.txt", "requirements/development.txt"),
)
KNOWN = tuple(f"3.{minor}" for minor in range(14, 5, -1))
"""Versions of Python, newest first."""
_TEST_REQUIREMENTS = re.compile(
    r"(?:(?:requirements|reqs?|tests?)[/_.-])?(?:tests?|testing|dev|develop|development)[_.-]?(?:requirements|reqs)?\.(?:txt|in)"
    r"|requirements[_.-](?:tests?|testing|dev|ci)\.(?:txt|in)"
)
_EXTRA = re.compile(r"\btests?|testing\b|\bdev(?:el|elop|elopment)?\b|\bci\b|\ball\b", re.IGNORECASE)
_GROUP = re.compile(r"tests?|testing|dev(?:el|elop|elopment)?|pytest|unit", re.IGNORECASE)
_SOURCES = (".c", ".cc", ".cpp", ".cxx", ".pyx", ".rs", ".f90", ".f")

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
    "--doctest-glob": "",
    "asyncio_mode": "pytest-asyncio",
    "django_settings_module": "pytest-django",
    "timeout": "pytest-timeout",
    "env": "pytest-env",
}
"""Option or setting of pytest → the plugin that knows it."""


class Found(NamedTuple):
    """What the detection of one language came to; `detection.Detected` says what the parts mean."""

    facts: list[tuple[str, str, tuple[Evidence, ...]]]
    versions: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    build: str | None = None
    tests: tuple[str, ...] = ()
    env: dict[str, str] = {}
    tools: tuple[str, ...] = ()
    plain: bool = False


def is_project(top: Iterable[str], files: Mapping[str, bytes]) -> bool:
    """Whether these files at the top make a Python project: settings of tools alone do not."""
    here = set(top)
    if here & {"setup.py", "requirements.txt", "Pipfile", "environment.yml"}:
        return True
    if "setup.cfg" in here and {"metadata", "options"} & ini(text_of(files.get("setup.cfg", b""))).keys():
        return True
    data = toml(files.get("pyproject.toml", b""))
    tool = data.get("tool")
    return bool(
        {"project", "build-system"} & data.keys() or (isinstance(tool, dict) and {"poetry", "flit"} & tool.keys())
    )


def detect(paths: frozenset[str], files: Mapping[str, bytes], said: Sayings) -> Found:
    """See `detection.detect`."""
    data = toml(files.get("pyproject.toml", b""))
    config, tox = (ini(text_of(files.get(name, b""))) for name in ("setup.cfg", "tox.ini"))
    setup_py = _calls(text_of(files.get("setup.py", b"")))
    facts: list[tuple[str, str, tuple[Evidence, ...]]] = []

    versions, evidence = _versions(files, data, config, tox, setup_py, said)
    if versions:
        facts.append(("Python", ", ".join(versions), evidence))
    requires = _strings(_table(data.get("build-system")).get("requires"))
    compiled = any(path.endswith(_SOURCES) and "/test" not in path for path in paths) and (
        bool(
            re.search(
                r"ext_modules|cythonize|Extension\(|cffi_modules|rust_extensions", text_of(files.get("setup.py", b""))
            )
        )
        or bool(
            re.search(
                r"maturin|meson-python|scikit-build|cython|setuptools-rust|ext-modules",
                text_of(files.get("pyproject.toml", b"")),
                re.I,
            )
        )
    )
    if compiled:
        at = Evidence(
            file="pyproject.toml" if requires else "setup.py",
            line=line_of(text_of(files.get("pyproject.toml", b"")), "requires"),
        )
        facts.append(("compiled parts, built again with", ", ".join(requires) or "setuptools", (at,)))

    extras = list(_extras(files, data, config, setup_py))
    wanted = list(_requirements(paths, files, data, config, tox, setup_py, said))
    for what, value, at in (*extras, *((what, " ".join(words), at) for what, words, at in wanted)):
        facts.append((what, value, (at,)))
    plugins = list(_plugins(files, data, config, tox))
    facts += [("pytest plugin", plugin, (at,)) for plugin, at in plugins]

    steps = [_add(requires or ("setuptools", "wheel"))] if compiled else []
    steps.append(_add(("pytest", *dict.fromkeys(name for name, _ in plugins))))
    names = list(dict.fromkeys(name for _, name, _ in extras))
    if {"pyproject.toml", "setup.py", "setup.cfg"} & paths and is_project(
        paths & {"setup.py", "setup.cfg", "pyproject.toml"}, files
    ):
        plainly = _add(("--editable", "."))
        each = [f"{_add(('--editable', f'.[{name}]'))} || true" for name in names]
        with_all = _add(("--editable", f".[{','.join(names)}]"))
        steps.append(f"{with_all} || {{ {plainly}; {'; '.join(each)}; }}" if names else plainly)
    for _, words, _ in wanted:
        steps.append(f"{_add(words)} || true")
    helpers = list(_helpers(files))
    if helpers:
        facts.append(("imported by tests", ", ".join(name for name, _ in helpers), tuple(at for _, at in helpers[:4])))
        steps += [f"{_add((name,))} || true" for name, _ in helpers]
    tests, why = _tests(paths, files, data, config, tox, said)
    facts.append(("tests", " | ".join(tests), why))
    env = _pretend(files, requires)
    build = _add(("--no-deps", "--no-build-isolation", "--editable", ".")) if compiled else None
    tools = tuple(
        name
        for name, sign in (("cargo", ".rs"), ("gcc", (".c", ".cpp", ".pyx")))
        if compiled and any(path.endswith(sign) for path in paths)
    )
    return Found(facts, versions, tuple(steps), build, tests, env, tools, plain=True)


def matches(version: str, wanted: str) -> bool:
    """Whether a minor version (`3.11`) can satisfy a specifier as requires-python has it: `>=3.8,!=3.9.*,<4`, `^3.8`."""
    number = tuple(int(part) for part in version.split("."))
    for part in re.split(r"[,\s]+(?![\d.*])|,", wanted.strip()):
        clause = re.fullmatch(r"\s*(===|==|!=|~=|>=|<=|>|<|\^|~)?\s*v?(\d+(?:\.(?:\d+|\*))*)\s*", part)
        if not clause:
            continue
        digits = [int(one) for one in clause[2].split(".") if one != "*"]
        limit, star = tuple(digits[:2]), "*" in clause[2] or len(digits) < 2
        patch = digits[2] if len(digits) > 2 else 0
        sign = clause[1] or "=="
        same = number[: len(limit)] == limit
        if sign in ("==", "==="):
            fits = same
        elif sign == "!=":
            fits = not (same and (star or (not patch and len(digits) == 2 and False)))
        elif sign == ">=":
            fits = number >= limit
        elif sign == ">":
            fits = number > limit or (same and bool(patch or len(digits) > 2))
        elif sign == "<=":
            fits = number[: len(limit)] <= limit
        elif sign == "<":
            fits = number[: len(limit)] < limit or (same and patch > 0)
        else:  # compatible: ~=3.8 is 3.8 and later 3's; ~=3.8.1, ~3.8 are 3.8's
            fits = (
                number >= limit and number[0] == limit[0] and ((sign != "~" and len(digits) < 3) or same or sign == "^")
            )
        if not fits:
            return False
    return True


def _add(words: Iterable[str]) -> str:
    return f"uv pip install --quiet {shlex.join(words)}"


def _versions(
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: Mapping[str, Mapping[str, tuple[str, int]]],
    tox: Mapping[str, Mapping[str, tuple[str, int]]],
    setup_py: Mapping[str, Any],
    said: Sayings,
) -> tuple[tuple[str, ...], tuple[Evidence, ...]]:
    """What it may run on; among these, what it says it is tested on comes first."""
    evidence, allowed, tested = list[Evidence](), list(KNOWN), list[str]()
    project, poetry = _table(data.get("project")), _table(_table(data.get("tool")).get("poetry"))
    text = text_of(files.get("pyproject.toml", b""))
    wanted = project.get("requires-python") or _table(poetry.get("dependencies")).get("python")
    spots = [(wanted, "pyproject.toml", line_of(text, "requires-python") or line_of(text, "\npython ") + 1)]
    told = config.get("options", {}).get("python_requires")
    spots.append((told[0] if told else None, "setup.cfg", told[1] if told else 0))
    spots.append(
        (setup_py.get("python_requires"), "setup.py", line_of(text_of(files.get("setup.py", b"")), "python_requires"))
    )
    for spec, file, line in spots:
        if isinstance(spec, str) and spec.strip():
            allowed = [one for one in allowed if matches(one, spec)] or allowed
            evidence.append(Evidence(file=file, line=line, words=spec[:100]))
            break
    for name in (".python-version", "runtime.txt"):
        if exact := re.match(r"(?:python-)?(3\.\d+)", text_of(files.get(name, b"")).strip()):
            tested.append(exact[1])
            evidence.append(Evidence(file=name, line=1, words=exact[0]))
    classified = [
        *re.findall(
            r"Programming Language :: Python :: (3\.\d+)", " ".join(_strings(project.get("classifiers"))[:200])
        ),
        *re.findall(
            r"Programming Language :: Python :: (3\.\d+)", " ".join(_strings(setup_py.get("classifiers"))[:200])
        ),
        *re.findall(
            r"Programming Language :: Python :: (3\.\d+)", config.get("metadata", {}).get("classifiers", ("", 0))[0]
        ),
    ]
    envs, line = tox.get("tox", {}).get("envlist") or tox.get("tox", {}).get("env_list") or ("", 0)
    numbers = _tox_versions(envs)
    in_ci = [version for language, version, _ in said.versions if language == "python" and version in KNOWN]
    if in_ci:
        at = next(at for language, version, at in said.versions if language == "python" and version in KNOWN)
        evidence.append(at)
    if numbers:
        evidence.append(Evidence(file="tox.ini", line=line, words=envs[:100]))
    if classified and not (in_ci or numbers):
        place = next(
            (name for name in ("pyproject.toml", "setup.cfg", "setup.py") if b"Python :: 3." in files.get(name, b"")),
            "",
        )
        evidence.append(
            Evidence(file=place or "setup.py", line=line_of(text_of(files.get(place, b"")), "Python :: 3."))
        )
    known = sorted({*in_ci, *numbers, *classified}, key=lambda one: int(one.split(".")[1]), reverse=True)
    likely = [one for one in dict.fromkeys([*tested, *known]) if one in allowed]
    rest = [one for one in allowed if one not in likely]
    if not evidence:
        return (), ()
    if likely and not spots[0][0]:  # what came after the newest that it names is tried last
        newest = max(int(one.split(".")[1]) for one in likely)
        rest = sorted(rest, key=lambda one: abs(int(one.split(".")[1]) - newest))
    return tuple(dict.fromkeys([*likely, *rest]))[:9], tuple(evidence[:4])


def _tox_versions(envlist: str) -> list[str]:
    found = list[str]()
    for group in re.findall(r"py\{([^}]{1,200})\}", envlist):
        found += [f"3.{number[1:]}" for number in re.findall(r"\b3\.?\d+\b", group.replace("3.", "3"))]
    found += [f"3.{minor}" for minor in re.findall(r"\bpy3\.?(\d{1,2})\b", envlist)]
    return [one for one in found if one in KNOWN]


def _extras(
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: Mapping[str, Mapping[str, tuple[str, int]]],
    setup_py: Mapping[str, Any],
) -> Iterator[tuple[str, str, Evidence]]:
    optional = _table(_table(data.get("project")).get("optional-dependencies"))
    poetry = _table(_table(_table(data.get("tool")).get("poetry")).get("extras"))
    places = [
        ("pyproject.toml", {**optional, **poetry}),
        ("setup.cfg", config.get("options.extras_require", {})),
        ("setup.py", _table(setup_py.get("extras_require"))),
    ]
    for file, table in places:
        for name in list(table)[:60]:
            if re.fullmatch(r"[\w.-]{1,60}", str(name)) and (_EXTRA.search(str(name)) or str(name) in EXTRAS):
                if str(name).lower() == "all" and any(_EXTRA.search(str(other)) for other in table if other != name):
                    continue
                yield "extra", str(name), Evidence(file=file, line=line_of(text_of(files.get(file, b"")), str(name)))


def _requirements(
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
    groups = _table(data.get("dependency-groups"))
    for name in list(groups)[:60]:
        if _GROUP.fullmatch(str(name)) and (lines := _of_group(groups, str(name), set())):
            yield (
                "dependency group",
                tuple(lines),
                Evidence(file="pyproject.toml", line=line_of(text, f"{name} ="), words=str(name)),
            )
    tool = _table(data.get("tool"))
    poetry = _table(tool.get("poetry"))
    sets = [("dev-dependencies", _table(poetry.get("dev-dependencies")))]
    sets += [
        (name, _table(_table(group).get("dependencies")))
        for name, group in list(_table(poetry.get("group")).items())[:30]
    ]
    for name, table in sets:
        if (name == "dev-dependencies" or _GROUP.fullmatch(name)) and (lines := list(_of_poetry(table))):
            yield "poetry's group", tuple(lines), Evidence(file="pyproject.toml", line=line_of(text, name), words=name)
    for name, listed in list(_table(_table(tool.get("pdm")).get("dev-dependencies")).items())[:30]:
        if _GROUP.fullmatch(str(name)) and (lines := _safe(_strings(listed))):
            yield (
                "pdm's group",
                tuple(lines),
                Evidence(file="pyproject.toml", line=line_of(text, str(name)), words=str(name)),
            )
    for env in list(_table(_table(tool.get("hatch")).get("envs")).items())[:30]:
        listed = _strings(_table(env[1]).get("dependencies")) + _strings(_table(env[1]).get("extra-dependencies"))
        if (env[0] == "default" or _GROUP.search(str(env[0]))) and (lines := _safe(listed)):
            yield (
                "hatch environment",
                tuple(lines),
                Evidence(file="pyproject.toml", line=line_of(text, f"envs.{env[0]}"), words=str(env[0])),
            )
    for place, listed in (
        ("setup.py", _strings(setup_py.get("tests_require"))),
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
            if lines := list(_of_poetry(_table(pipfile.get(section)))):
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


def _plugins(
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: Mapping[str, Mapping[str, tuple[str, int]]],
    tox: Mapping[str, Mapping[str, tuple[str, int]]],
) -> Iterator[tuple[str, Evidence]]:
    """Plugins without which pytest does not begin with these settings."""
    own = _table(_table(_table(data.get("tool")).get("pytest")).get("ini_options"))
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
        words = " ".join(_strings(listed)) if isinstance(listed, list) else str(listed)
        found = [
            (plugin, option)
            for option, plugin in PLUGINS.items()
            if option.startswith("-") and re.search(rf"(?:^|\s){option}", words)
        ]
        found += [(plugin, key) for key, plugin in PLUGINS.items() if key in {str(one).lower() for one in settings}]
        required = settings.get("required_plugins", "")
        names = _strings(required) if isinstance(required, list) else str(required).split()
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


def _helpers(files: Mapping[str, bytes]) -> Iterator[tuple[str, Evidence]]:
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


def _tests(
    paths: frozenset[str],
    files: Mapping[str, bytes],
    data: Mapping[str, Any],
    config: Mapping[str, Mapping[str, tuple[str, int]]],
    tox: Mapping[str, Mapping[str, tuple[str, int]]],
    said: Sayings,
) -> tuple[tuple[str, ...], tuple[Evidence, ...]]:
    """pytest, which runs unittest's too; whatever else the project says runs its tests is an alternative."""
    configured = next(
        (
            Evidence(file=name, line=line_of(text_of(files.get(name, b"")), sign))
            for name, sign in (
                ("pyproject.toml", "[tool.pytest"),
                ("pytest.ini", "[pytest]"),
                ("setup.cfg", "[tool:pytest]"),
                ("tox.ini", "[pytest]"),
            )
            if sign in text_of(files.get(name, b""))
        ),
        None,
    )
    commands, why = ["python -m pytest"], [configured] if configured else []
    at = sorted({path.split("/")[0] for path in paths if re.match(r"(?:tests?|testing)/", path)})
    for saying in said.commands:
        command = re.sub(
            r"^(?:\w+=\S+\s+)*(?:(?:poetry|pipenv|uv|hatch|pdm) run\s+|coverage run (?:-\S+ )*|python -m coverage run (?:-\S+ )*)+",
            "",
            saying.command,
        )
        if re.match(r"(?:python[\d.]* )?(?:-m )?(?:pytest|py\.test)\b", command):
            if not why or why[0] == configured:
                why.append(saying.at)
            continue
        if not command.startswith("python") and re.match(r"-m |[\w./]+\.py\b", command):
            command = f"python {command}"  # behind `coverage run`
        other = re.match(
            r"(?:python[\d.]* (?:-\w )*)("
            r"(?:-m (?:unittest|nose2?|twisted\.trial|zope\.testrunner|testtools\.run|\w[\w.]*tests?[\w.]*)"
            r"|(?:[\w-]+/)*(?:runtests|manage|run_tests|test|tests|alltests)\.py)(?: [\w./:=*-]+)*)$",
            command,
        )
        if other and not re.search(r"\$|\{", command) and len(commands) < 5:
            commands.append(f"python {other[1]}")
            why.append(saying.at)
    for path in ("runtests.py", "tests/runtests.py", "test/runtests.py", "tests/run_tests.py", "tests/__main__.py"):
        if path in paths:
            commands.append("python -m tests" if path.endswith("__main__.py") else f"python {path}")
            why.append(Evidence(file=path))
    if not configured and at:
        commands.insert(1, f"python -m pytest {' '.join(at)}")
    if any(PurePosixPath(path).name.startswith("test") and path.endswith(".py") for path in paths):
        commands.append(
            "python -m unittest discover"
            + (f" -s {at[0]} -t ." if at and f"{at[0]}/__init__.py" in paths else f" -s {at[0]}" if at else "")
        )
    return tuple(dict.fromkeys(commands))[:6], tuple(dict.fromkeys(why))[:4]


def _pretend(files: Mapping[str, bytes], requires: list[str]) -> dict[str, str]:
    """For backends that ask version control for a version: a release's own, which its PKG-INFO names."""
    if not any(
        re.match(r"(?:setuptools[_-]scm|hatch[_-]vcs|pbr|versioningit|poetry-dynamic|dunamai)", one) for one in requires
    ) and b"pbr" not in files.get("setup.py", b""):
        return {}
    version = re.search(r"^Version: ([\w.+!-]{1,60})$", text_of(files.get("PKG-INFO", b"")), re.MULTILINE)
    return {"SETUPTOOLS_SCM_PRETEND_VERSION": version[1], "PBR_VERSION": version[1]} if version else {}


def _calls(text: str) -> dict[str, Any]:
    """The plain keywords of `setup(…)` in a setup.py, and names that they refer to at its top: read, never run."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    known: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            known[node.targets[0].id] = _plain(node.value, known)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) == "setup":
            found: dict[str, Any] = {}
            for word in call.keywords:
                value = _plain(word.value, known)
                found |= {word.arg: value} if word.arg else _table(value)
            return found
    return {}


def _plain(node: ast.expr, known: Mapping[str, Any], depth: int = 0) -> Any:
    """A literal, or a name at the top that is one; what is computed is None."""
    if depth > 8:
        return None
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(one, known, depth + 1) for one in node.elts[:500]]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys[:500], node.values[:500], strict=True)
        return {key.value: _plain(value, known, depth + 1) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _plain(node.left, known, depth + 1), _plain(node.right, known, depth + 1)
        return left + right if isinstance(left, list) and isinstance(right, list) else None
    return None


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
