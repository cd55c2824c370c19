"""Takes out of a patch what must not decide or be submitted: test-runner configuration, tests, caches, binaries."""

from __future__ import annotations

from pathlib import PurePosixPath

from runoff.agent.context import is_test
from runoff.agent.patches import FilePart, file_parts

_RUNNER = frozenset(
    "conftest.py pytest.ini .pytest.ini tox.ini noxfile.py sitecustomize.py usercustomize.py .coveragerc jest.config.js .mocharc.js".split()
)
_CUSTOMIZING = frozenset({"sitecustomize", "usercustomize"})  # as packages
_CACHES = frozenset(
    "__pycache__ .pytest_cache .mypy_cache .ruff_cache .tox .nox .hypothesis node_modules .git .eggs".split()
)
_TEST = "a test: tests are not part of a candidate"
_CONFIGURES = "configuration of the test runner"
_SUFFIXES = frozenset(".pyc .pyo .so .o .a .pyd .egg-info .orig .rej .pth".split())


def clean(patch: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The patch without what has no place in it, and a line for each file taken out: `path: why`.

    The patch may be empty then. It ends in a newline; line endings inside are kept as they are.
    """
    kept, removed = list[bytes](), list[str]()
    for part in file_parts(patch):
        if why := _unwanted(part):
            removed.append(f"{(part.paths or ('?',))[-1]}: {why}")
        else:
            kept.append(part.text)
    text = b"".join(kept)
    return (text if not text or text.endswith(b"\n") else text + b"\n"), tuple(removed)


def tests_aside(patch: bytes) -> bytes:
    """The edits of tests that cleaning takes out: by what their author would have the change judged. May be empty."""
    return b"".join(part.text for part in file_parts(patch) if _unwanted(part) == _TEST)


def configures_tests(patch: bytes) -> list[str]:
    """The files of a patch by which it can have a say in what tests report."""
    return [path for part in file_parts(patch) if _unwanted(part) == _CONFIGURES for path in part.paths]


def _unwanted(part: FilePart) -> str | None:
    paths = [PurePosixPath(path) for path in part.paths]
    if part.binary:
        return "a binary file"
    if any(path.name in _RUNNER or _CUSTOMIZING & set(path.parts) for path in paths):
        return _CONFIGURES
    if any(_CACHES & set(path.parts) or path.suffix in _SUFFIXES for path in paths):
        return "made by a tool, not part of the source"
    if paths and all(is_test(str(path)) for path in paths):
        return _TEST
    return None
