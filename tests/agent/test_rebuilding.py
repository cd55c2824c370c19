"""A patch that touches what the setup built: built again where the candidate stands, or refused with the last lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from runoff import environments
from runoff.agent.environment import BuildFailed, Built, Environment, applied, patched
from runoff.instance import local_instance
from runoff.sandbox.protocol import Refused, State
from tests.workshop import Workshop, written

SUM = '#include <stdio.h>\nint main(void) { printf("%d\\n", 1 + 1); return 0; }\n'
COPIED = {"src/greet.py": "word = 'hello'\n", "other.py": "x = 1\n", "README": "greet\n"}
COMPILED = {"sum.c": SUM, "sum.h": "\n", "Makefile": "all:\n", "calc.py": "x = 1\n"}
EXTENSION = """#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "answer", 0, -1, 0};
PyMODINIT_FUNC PyInit_answer(void) {
    PyObject *made = PyModule_Create(&module);
    PyModule_AddIntConstant(made, "ANSWER", 41);
    return made;
}
"""
SETUP = """from setuptools import Extension, setup
setup(name="answer", version="1", ext_modules=[Extension("answer", ["answer.c"])])
"""
COPY = "mkdir -p /env/installed && cp src/greet.py /env/installed/"
SAYS_SUM = "import subprocess, sys\nsys.exit(0 if subprocess.check_output(['/env/sum']) == b'3\\n' else 2)\n"
SAYS_WORD = (
    "import sys\nsys.path.insert(0, '/env/installed')\nfrom greet import word\nsys.exit(0 if word == 'bye' else 2)\n"
)


@pytest.mark.parametrize(
    ("path", "built", "needed"),
    [
        ("sum.c", Built(binaries=True), True),
        ("src/deep/fast.pyx", Built(binaries=True), True),
        ("pyproject.toml", Built(binaries=True), True),
        ("setup.py", Built(binaries=True), True),
        ("calc.py", Built(binaries=True), False),
        ("sum.c", Built(), False),
        ("setup.py", Built(), False),
        ("src/greet.py", Built(copies=frozenset({"src/greet.py"})), True),
        ("other.py", Built(copies=frozenset({"src/greet.py"})), False),
    ],
)
def test_only_what_was_built_needs_another_build(path: str, built: Built, needed: bool) -> None:
    state = State(layers=("x",))
    environment = Environment(state=state, pristine=state, build="make", built=built)
    for files in ({path: "new\n"}, {path: None}, {"docs/x": "x\n", path: "new\n"}):
        assert environment.needs_build(written({path: "old\n"}, files)) is needed
    assert not environment.model_copy(update={"build": None}).needs_build(written({}, {path: "new\n"}))


def test_moving_a_built_file_needs_another_build() -> None:
    state = State(layers=("x",))
    environment = Environment(state=state, pristine=state, build="make", built=Built(copies=frozenset({"src/a.py"})))
    assert environment.needs_build(b"diff --git a/src/a.py b/src/b.py\nrename from src/a.py\nrename to src/b.py\n")
    assert environment.needs_build(b"diff --git a/lib/b.py b/src/a.py\nrename from lib/b.py\nrename to src/a.py\n")


@pytest.fixture(scope="module")
def copied(workshop: Workshop) -> Environment:
    environment = workshop.environment(COPIED, build=COPY, built=Built(copies=frozenset({"src/greet.py"})))
    return environment.model_copy(update={"state": workshop.shell(environment.state, COPY)})


def test_a_change_to_an_installed_copy_changes_what_a_test_says(workshop: Workshop, copied: Environment) -> None:
    patch = written(COPIED, {"src/greet.py": "word = 'bye'\n"})
    unbuilt = workshop.play(lambda world: applied(world, copied.state, patch))
    assert workshop.verdict(copied, SAYS_WORD, state=unbuilt).outcome == "not fixed", "the copy is what runs"
    state = workshop.play(lambda world: patched(world, copied, patch))
    assert workshop.verdict(copied, SAYS_WORD, state=state).outcome == "fixed"
    assert workshop.verdict(copied, SAYS_WORD).outcome == "not fixed", "the base stays as it was"


def test_a_change_to_other_files_is_not_built(workshop: Workshop, copied: Environment) -> None:
    failing = copied.model_copy(update={"build": "exit 1"})
    patch = written(COPIED, {"other.py": "x = 2\n"})
    assert workshop.play(lambda world: patched(world, failing, patch))


def test_a_build_that_fails_says_how(workshop: Workshop, copied: Environment) -> None:
    loud = copied.model_copy(update={"build": "seq 100; echo 'no rule for greet' >&2; false; echo 'not reached'"})
    with pytest.raises(BuildFailed) as raised:
        workshop.play(lambda world: patched(world, loud, written(COPIED, {"src/greet.py": "word = 1\n"})))
    assert isinstance(raised.value, Refused), "who only knows the sandbox sees a patch that does not apply"
    said = str(raised.value)
    assert said.endswith("fails with this patch: 97 | 98 | 99 | 100 | no rule for greet")
    assert "not reached" not in said.partition("fails with")[2]


def test_a_patch_that_does_not_apply_is_not_built(workshop: Workshop, copied: Environment) -> None:
    with pytest.raises(Refused, match="does not apply") as raised:
        workshop.play(lambda world: patched(world, copied, written({"src/greet.py": "a\n"}, {"src/greet.py": "b\n"})))
    assert not isinstance(raised.value, BuildFailed)


def test_a_compiled_program_is_compiled_again(workshop: Workshop) -> None:
    compile_it = "gcc -o /env/sum sum.c"
    plain = workshop.environment(COMPILED, build=compile_it, built=Built(binaries=True))
    done = workshop.run(workshop.sandbox.execute(plain.state, ("sh", "-c", "command -v gcc")))
    if done.exit_code != 0:
        pytest.fail("there is no gcc: apt-get install gcc libc6-dev", pytrace=False)
    environment = plain.model_copy(update={"state": workshop.shell(plain.state, compile_it)})
    assert workshop.verdict(environment, SAYS_SUM).outcome == "not fixed"
    fix = written(COMPILED, {"sum.c": SUM.replace("1 + 1", "1 + 2")})
    state = workshop.play(lambda world: patched(world, environment, fix))
    assert workshop.verdict(environment, SAYS_SUM, state=state).outcome == "fixed"
    slip = written(COMPILED, {"sum.c": SUM.replace("1 + 1", "1 + ")})
    with pytest.raises(BuildFailed, match="error: expected expression"):
        workshop.play(lambda world: patched(world, environment, slip))


def test_what_the_setup_compiled_is_compiled_again_by_the_same_command(workshop: Workshop, tmp_path: Path) -> None:
    """uv is on the path, and neither it nor pip asks an index for what builds: there is no network."""
    files = {"answer.c": EXTENSION, "setup.py": SETUP}
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    command = "uv pip install --quiet --no-deps --editable ."
    instance, _ = local_instance(
        tmp_path, "it is 42", setup=f"uv pip install --quiet setuptools wheel\n{command}", build=command
    )
    environment = workshop.play(lambda world: environments.build(world, instance))
    patch = written(files, {"answer.c": EXTENSION.replace("41", "42")})
    state = workshop.play(lambda world: patched(world, environment, patch))
    says = "import sys\nfrom answer import ANSWER\nsys.exit(0 if ANSWER == 42 else 2)\n"
    assert workshop.verdict(environment, says).outcome == "not fixed"
    assert workshop.verdict(environment, says, state=state).outcome == "fixed"
