"""Detection of Python projects: versions, requirements of tests wherever they are said, what builds it, what runs its tests. Pure."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from runoff.sandbox.environments.python_requirements import extras_of, helpers, plugins, requirements, strings, table
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
KNOWN = tuple(f"3.{minor}" for minor in range(14, 5, -1))
"""Versions of Python, newest first."""
BUILD_FILES = ("setup.py", "setup.cfg", "pyproject.toml")
_VERSIONED = re.compile(
    r"setuptools[_-]scm|versioneer|hatch-vcs|\bpbr\b|versioningit|dunamai|poetry-dynamic-versioning|setuptools[_-]git[_-]versioning"
    r"|flit[_-]scm|\bsource *= *[\"']scm[\"']"
)
_SOURCES = (".c", ".cc", ".cpp", ".cxx", ".pyx", ".rs", ".f90", ".f")


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
    requires = strings(table(data.get("build-system")).get("requires"))
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

    extras = list(extras_of(files, data, config, setup_py))
    wanted = list(requirements(paths, files, data, config, tox, setup_py, said))
    for what, value, at in (*extras, *((what, " ".join(words), at) for what, words, at in wanted)):
        facts.append((what, value, (at,)))
    wanted_plugins = list(plugins(files, data, config, tox))
    facts += [("pytest plugin", plugin, (at,)) for plugin, at in wanted_plugins]

    steps = [_add(requires or ("setuptools", "wheel"))] if compiled else []
    steps.append(_add(("pytest", *dict.fromkeys(name for name, _ in wanted_plugins))))
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
    imported = list(helpers(files))
    if imported:
        facts.append(
            ("imported by tests", ", ".join(name for name, _ in imported), tuple(at for _, at in imported[:4]))
        )
        steps += [f"{_add((name,))} || true" for name, _ in imported]
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
    project, poetry = table(data.get("project")), table(table(data.get("tool")).get("poetry"))
    text = text_of(files.get("pyproject.toml", b""))
    wanted = project.get("requires-python") or table(poetry.get("dependencies")).get("python")
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
        *re.findall(r"Programming Language :: Python :: (3\.\d+)", " ".join(strings(project.get("classifiers"))[:200])),
        *re.findall(
            r"Programming Language :: Python :: (3\.\d+)", " ".join(strings(setup_py.get("classifiers"))[:200])
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


def version_of_tags(texts: Iterable[str]) -> bool:
    """Whether a build tells its version from version control, by the texts of its `BUILD_FILES`."""
    return any(map(_VERSIONED.search, texts))


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
                found |= {word.arg: value} if word.arg else table(value)
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
