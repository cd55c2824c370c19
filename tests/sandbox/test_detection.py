"""What a repository's files say of how it is installed and tested: each kind of project, and files that a stranger made to hurt."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.sandbox.environments import of_python, services
from runoff.sandbox.environments.detection import Detected, detect, worth_reading
from runoff.sandbox.environments.sayings import sayings


def detected(files: dict[str, str | bytes]) -> Detected:
    raw = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    wanted = worth_reading(raw)
    return detect(sorted(raw), {path: raw[path] for path in wanted})


def said(found: Detected, what: str) -> list[tuple[str, list[str]]]:
    return [(fact.value, [str(at) for at in fact.at]) for fact in found.facts if fact.what == what]


def test_a_python_project_s_test_requirements_are_found_wherever_they_are_said() -> None:
    found = detected(
        {
            "pyproject.toml": '[project]\nname = "p"\nrequires-python = ">=3.9,<3.12"\n[project.optional-dependencies]\n'
            'testing = ["trustme"]\ndocs = ["sphinx"]\n[dependency-groups]\ntest = ["flaky", {include-group = "more"}]\nmore = ["pytest-mock"]\n'
            '[tool.pytest.ini_options]\naddopts = "--cov=p -n auto"\nasyncio_mode = "auto"\n',
            "tox.ini": "[tox]\nenvlist = py{39,310}\n[testenv]\ndeps =\n  hypothesis>=6\n  -r requirements-ci.txt\ncommands = pytest {posargs:tests}\n",
            "requirements-ci.txt": "simplejson\n",
            ".github/workflows/ci.yml": "jobs:\n  test:\n    strategy:\n      matrix:\n        python-version: ['3.9', '3.11']\n"
            "    steps:\n    - run: |\n        pip install \\\n          anyio ruff\n        python -m pytest tests\n",
            "p.py": "",
            "tests/test_p.py": "import freezegun\n",
        }
    )
    assert found.language == "python"
    assert found.versions[:3] == ("3.11", "3.10", "3.9")
    assert "3.12" not in found.versions
    assert said(found, "extra") == [("testing", ["pyproject.toml:5"])]
    assert ("flaky pytest-mock", ["pyproject.toml:8"]) in said(found, "dependency group")
    assert {value for value, _ in said(found, "pytest plugin")} == {"pytest-cov", "pytest-xdist", "pytest-asyncio"}
    assert said(found, "installed by the project itself") == [
        ("anyio", [".github/workflows/ci.yml:8"]),
        ("hypothesis>=6", ["tox.ini:5"]),
    ]
    assert ("--requirement requirements-ci.txt", ["requirements-ci.txt"]) in said(found, "requirements")
    assert said(found, "imported by tests") == [("freezegun", ["tests/test_p.py:1"])]
    assert found.tests[0] == "python -m pytest"
    assert any("--editable '.[testing]'" in step for step in found.setup)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"Pipfile": '[packages]\nflask = "*"\n[dev-packages]\nmock = "==4.0"\n'}, ["flask", "mock==4.0"]),
        ({"pyproject.toml": '[tool.poetry]\nname="p"\n[tool.poetry.dependencies]\npython="^3.8"\n[tool.poetry.group.dev.dependencies]\nmock="^4.1"\n'}, ["mock>=4.1"]),
        ({"setup.py": "from setuptools import setup\nT = ['mock']\nsetup(name='p', tests_require=T + ['ddt'])\n"}, ["mock", "ddt"]),
        ({"setup.cfg": "[metadata]\nname = p\n[options]\ntests_require =\n  mock\n"}, ["mock"]),
        ({"environment.yml": "dependencies:\n  - python=3.10\n  - numpy=1.26\n  - pip:\n    - mock\n"}, ["numpy>=1.26", "mock"]),
        ({"setup.py": "", "noxfile.py": "def tests(session):\n    session.install('mock', 'ddt')\n    session.run('pytest')\n"}, ["mock", "ddt"]),
        ({"requirements.txt": "flask\n", "a.py": "import flask"}, ["--requirement requirements.txt"]),
    ],
)  # fmt: skip
def test_each_way_of_saying_requirements_is_read(files: dict[str, str | bytes], words: list[str]) -> None:
    found = detected(files)
    assert found.language == "python"
    for word in words:
        assert any(word in step or word in step.replace("'", "") for step in found.setup), found.setup


def test_compiled_parts_are_built_again_with_what_their_backend_needs() -> None:
    found = detected(
        {
            "pyproject.toml": '[build-system]\nrequires = ["setuptools>=64", "cython<3"]\n[project]\nname="p"\n',
            "p.pyx": "",
        }
    )
    assert "'cython<3'" in found.setup[0]
    assert found.build == "uv pip install --quiet --no-deps --no-build-isolation --editable ."
    assert detected({"pyproject.toml": '[project]\nname="p"\n', "p.py": ""}).build is None


@pytest.mark.parametrize(
    ("spec", "fits", "does_not"),
    [
        (">=3.8", ["3.8", "3.14"], ["3.7"]),
        (">=3.6.1,<4", ["3.6", "3.13"], []),
        ("~=3.8", ["3.8", "3.12"], ["3.7"]),
        ("~=3.8.1", ["3.8"], ["3.9"]),
        ("^3.9", ["3.9", "3.13"], ["3.8"]),
        ("!=3.9.*,>=3.8", ["3.8", "3.10"], ["3.9"]),
        ("!=3.9.1,>=3.8", ["3.9"], ["3.7"]),
        ("<3.12", ["3.11"], ["3.12", "3.13"]),
        ("==3.10.*", ["3.10"], ["3.9", "3.11"]),
        (">3.8, <=3.10", ["3.9", "3.10"], ["3.8", "3.11"]),
    ],
)
def test_a_python_version_is_one_that_the_project_allows(spec: str, fits: list[str], does_not: list[str]) -> None:
    assert [one for one in fits if not of_python.matches(one, spec)] == []
    assert [one for one in does_not if of_python.matches(one, spec)] == []


def test_a_node_package_is_installed_by_its_own_manager_and_tested_without_its_linters() -> None:
    found = detected(
        {
            "package.json": '{"packageManager": "pnpm@8.6.0", "scripts": {"test": "eslint . && mocha test", "build": "tsc"}}',
            "test/a.js": "",
        }
    )
    assert found.language == "node"
    assert "pnpm@8.6.0" in found.setup[0]
    assert found.tests[0] == "npm test --silent"
    assert any(command.endswith("mocha test") for command in found.tests)
    assert found.build == "npm run --if-present build"
    assert (
        detected({"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'}).tests == ()
    )
    assert "yarn@1" in detected({"package.json": "{}", "yarn.lock": ""}).setup[0]
    assert detected({"package.json": "{}", "package-lock.json": "{}"}).setup[0].startswith("npm ci")


def test_go_rust_and_c_are_found_by_their_manifests() -> None:
    go = detected({"go.mod": "module m\n\ngo 1.21\n\nrequire example.com/x v1.0.0\n", "a.go": "", "a_test.go": ""})
    assert (go.language, go.versions, go.tools) == ("go", ("1.21",), ("go",))
    assert "go mod download" in go.setup
    assert "GOPROXY=off" in go.tests[0]
    rust = detected({"Cargo.toml": "[workspace]\nmembers = []\n", "Cargo.lock": "", "src/lib.rs": ""})
    assert (rust.language, rust.tests) == ("rust", ("cargo test --workspace --offline",))
    cmake = detected({"CMakeLists.txt": 'option(FOO_BUILD_TESTS "x" OFF)\nenable_testing()\n', "a.cpp": ""})
    assert "-DFOO_BUILD_TESTS=ON" in cmake.setup[0]
    assert "g++" in cmake.tools
    assert (
        detected(
            {
                "meson.build": "test('a', x)",
                "meson_options.txt": "option('tests', type : 'boolean', value : false)",
                "a.c": "",
            }
        )
        .setup[0]
        .endswith("-Dtests=true")
    )
    auto = detected({"configure.ac": "", "Makefile.am": "check_PROGRAMS = t\n", "a.c": ""})
    assert (auto.tests[0], "autoreconf" in auto.tools) == ("make check", True)
    make = detected({"Makefile": "all:\n\tcc a.c\ntest: all\n\t./a.out\n", "a.c": ""})
    assert make.tests[0] == "make test"


def test_what_is_in_one_folder_is_found_there_and_tool_settings_are_no_project() -> None:
    inner = detected({"README.md": "", "server/go.mod": "module m\n", "server/a.go": ""})
    assert inner.tests == ("cd server && GOPROXY=off GOSUMDB=off go test ./...",)
    mixed = detected({"pyproject.toml": "[tool.black]\nline-length = 100\n", "package.json": "{}", "index.js": ""})
    assert mixed.language == "node"
    assert detected({"README.md": "hello"}).language is None
    assert detected({}) == Detected()


def test_services_of_ci_and_compose_are_found_with_where_their_tests_find_them() -> None:
    ci = (
        "jobs:\n  test:\n    env:\n      DATABASE_URL: postgres://app:pw@localhost:5432/app\n      SECRET_TOKEN: x\n    services:\n"
        "      db:\n        image: postgres:15\n        env:\n          POSTGRES_USER: app\n          POSTGRES_DB: app_test\n"
        "        ports: ['5432:5432']\n      cache:\n        image: bitnami/redis\n    steps:\n    - run: pytest\n"
    )
    found = detected({"setup.py": "", ".github/workflows/t.yml": ci})
    assert [(one.kind, one.port, one.user, one.database) for one in found.services] == [
        ("postgres", 5432, "app", "app_test"),
        ("redis", 6379, "", ""),
    ]
    assert found.env == {"DATABASE_URL": "postgres://app:pw@localhost:5432/app"}
    compose = "services:\n  web:\n    build: .\n  store:\n    image: mysql:8\n    environment:\n      - MYSQL_DATABASE=shop\n      - MYSQL_USER=u\n      - MYSQL_PASSWORD=p\n"
    (mysql,) = detected({"setup.py": "", "docker-compose.yml": compose}).services
    assert (mysql.kind, mysql.user, mysql.password, mysql.database) == ("mysql", "u", "p", "shop")


def test_a_service_s_settings_cannot_leave_the_script_s_quotes() -> None:
    one = services.service("postgres", {"POSTGRES_USER": "a; touch /tmp/x", "POSTGRES_DB": "$(id)"})
    assert one is not None
    assert (one.user, one.database) == ("postgres", "postgres")
    made = services.Service(kind="redis", port=6379, user="'; touch /tmp/x; '")
    assert "touch" not in services.script([made])


def _bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _bomb(9),
        "a: &a\n  b: *a\n",
        "[" * 50_000,
        "{a: " * 20_000,
        "- " * 40_000,
        "x: " + "y" * 3_000_000,
        "run: |\n" + "  pip install a\n" * 100_000,
        "\xff\xfe\x00\x01",
        "%TAG ! tag:\n--- !<x> ]",
        "? " * 20_000,
    ],
    ids=["anchors", "cycle", "flow", "maps", "sequences", "huge", "lines", "bytes", "tags", "keys"],
)
def test_hostile_files_take_no_time_and_break_nothing(text: str) -> None:
    began = time.process_time()
    for path in (
        ".github/workflows/a.yml",
        "docker-compose.yml",
        "tox.ini",
        "setup.py",
        "pyproject.toml",
        "package.json",
        "noxfile.py",
        "README.md",
        "Makefile",
    ):
        detected({path: text, "setup.cfg": "", "a.py": ""})
    assert time.process_time() - began < 8


_NAMES = st.sampled_from(
    [
        "setup.py",
        "pyproject.toml",
        "tox.ini",
        "package.json",
        "go.mod",
        "Cargo.toml",
        "CMakeLists.txt",
        "Makefile",
        "configure.ac",
        "README.md",
    ]
    + [
        "environment.yml",
        "Pipfile",
        ".github/workflows/ci.yml",
        "docker-compose.yml",
        "tests/test_a.py",
        "src/a.c",
        "a.js",
        "a.go",
        "noxfile.py",
    ]
)
_WORDS = st.sampled_from(
    ["[project]", "[tool.poetry]", "name = 'x'", "services:", "  db:", "    image: postgres", "run: pip install 'a b' -r x.txt", "test:", "\tmake", "{", "}"]
    + ["[testenv]", "deps = a", "\0", "\ud800", "import x", "setup(", ")", "extras_require={'test': ['a']}", "'", '"', "require (", "option(T \"\" OFF)"]
)  # fmt: skip


@settings(max_examples=120)
@given(
    st.dictionaries(
        _NAMES,
        st.one_of(
            st.binary(max_size=200),
            st.lists(_WORDS, max_size=12).map(lambda w: "\n".join(w).encode("utf-8", "surrogatepass")),
        ),
    )
)
def test_whatever_the_files_hold_detection_gives_a_value_and_says_where_it_stands(files: dict[str, bytes]) -> None:
    found = detect(sorted(files), files)
    assert found == detect(sorted(files, reverse=True), files)
    assert Detected.model_validate(found.model_dump(mode="json")) == found
    for fact in found.facts:
        for at in fact.at:
            assert at.file in files or at.file in {path.partition("/")[2] for path in files}, fact
            assert 0 <= at.line <= max(text.count(b"\n") for text in files.values()) + 2
    for command in (*found.setup, *found.tests):
        assert "\0" not in command


@given(st.text(max_size=300))
def test_a_version_specifier_of_any_text_is_answered(text: str) -> None:
    assert of_python.matches("3.11", text) in (True, False)


def test_commands_of_prose_are_told_from_sentences() -> None:
    told = sayings(
        {
            "README.md": b"Run it:\n\n    $ pip install -e .[dev]\n    make test\n\npython is the language you need.\npytest is great. Use it.\n"
        }
    )
    assert [one.command for one in told.commands] == ["pip install -e .[dev]", "make test"]
