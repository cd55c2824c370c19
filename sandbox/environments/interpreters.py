"""The Pythons and Nodes of this machine, as interpreters for environments: found by version, shown read-only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runoff.sandbox.protocol import SandboxUnavailable, Value

OLDEST = (3, 6)
"""What the environments' own tools and the test harness still run on."""

_ASK = "import json, sys; print(json.dumps([sys.version.split()[0], sys.version, sys.base_prefix]))"


class Interpreter(Value):
    path: str
    version: str
    prefix: str
    """The directory that it needs."""
    identity: str
    """Of its version, its build, its executable and its place."""

    @property
    def binds(self) -> tuple[str, ...]:
        """What must be shown for it besides /usr."""
        return () if Path(self.prefix).is_relative_to("/usr") else (self.prefix,)

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find_python(wanted: str | None = None) -> Interpreter:
    """By version (`3.9`, `3.9.18`) or path; None is the one that runs this. Raises SandboxUnavailable naming those there are.

    Looked for in PATH, /usr/bin, /usr/local/bin, and among pyenv's and uv's versions; of several, the newest that PATH
    has, then the newest of the others. Those that match are run, to be asked what they are.
    """
    if wanted is None:
        return _python(_own()) or _missing_python("that runs this")
    if "/" in wanted:
        return _python(Path(wanted)) or _missing_python(wanted)
    if re.fullmatch(r"\d+\.\d+(\.\d+)?", wanted):
        for _, path in _pythons(wanted):
            found = _python(path)
            if found and f"{found.version}.".startswith(f"{wanted}."):
                return found
    return _missing_python(wanted)


def is_here(version: str) -> bool:
    try:
        find_python(version)
    except SandboxUnavailable:
        return False
    return True


def find_node(wanted: str | None = None) -> Interpreter:
    """A Node with its npm, by version (`20`, `20.1`) or any. Raises SandboxUnavailable naming those there are."""
    found = []
    homes = [Path(os.environ.get("NVM_DIR") or Path.home() / ".nvm") / "versions" / "node"]
    places = [Path(place) for place in os.get_exec_path()] + [
        path / "bin" for home in homes for path in sorted(_listed(home), reverse=True)
    ]
    for place in places:
        node = place / "node"
        if not os.access(node, os.X_OK) or not os.access(place / "npm", os.X_OK):
            continue
        version = _output([str(node), "--version"]).strip().lstrip("v")
        found.append(version)
        if version and (wanted is None or f"{version}.".startswith(f"{wanted}.")):
            real = node.resolve()
            identity = _digest(real, version)
            return Interpreter(path=str(place / "node"), version=version, prefix=str(place.parent), identity=identity)
    known = ", ".join(dict.fromkeys(filter(None, found))) or "none"
    what = f"Node {wanted}" if wanted else "Node with npm"
    raise SandboxUnavailable(f"{what} is not on this machine (there is: {known})", "install it, or put it in PATH")


def _own() -> Path:
    return Path(sys.base_prefix).resolve() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _python(path: Path) -> Interpreter | None:
    """None if it is not there or does not run. A virtual environment's is the one that it was made of."""
    try:
        short, version, prefix = json.loads(_output([str(path), "-I", "-S", "-c", _ASK]))
    except ValueError:
        return None
    prefix = os.path.realpath(prefix)
    real = Path(prefix) / "bin" / f"python{'.'.join(short.split('.')[:2])}"
    if not os.access(real, os.X_OK):
        real = path.resolve()
    return Interpreter(path=str(real), version=short, prefix=prefix, identity=_digest(real, version))


def _pythons(wanted: str = "") -> Iterator[tuple[str, Path]]:
    """Version as its name says → executable. Nothing is run."""
    minor = ".".join(wanted.split(".")[:2])
    for place in [*os.get_exec_path(), "/usr/local/bin", "/usr/bin"]:
        for path in sorted(_listed(Path(place)), key=_number, reverse=True):
            named = re.fullmatch(r"python(\d\.\d+)", path.name)
            if named and path.parent.name != "shims" and minor in ("", named[1]):
                yield named[1], path
    home = Path.home()
    roots = [
        Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local" / "share" / "uv" / "python"),
    ]
    for root in roots:
        for path in sorted(_listed(root), key=_number, reverse=True):
            named = re.match(r"(?:cpython-)?(\d\.\d+\.\d+)(?![\w.])", path.name)
            if named and f"{named[1]}.".startswith(f"{wanted}." if wanted else ""):
                yield named[1], path / "bin" / f"python{'.'.join(named[1].split('.')[:2])}"


def _missing_python(wanted: str) -> Interpreter:
    known = sorted({tuple(map(int, version.split("."))) for version, _ in _pythons()})
    named = ", ".join(".".join(map(str, version)) for version in known if version >= OLDEST)
    if re.fullmatch(r"\d+\.\d+(\.\d+)?", wanted) and tuple(map(int, wanted.split("."))) < OLDEST:
        raise SandboxUnavailable(
            f"Python {wanted} cannot be used: 3.6 is the oldest that can",
            f"give one that the repository also works with (there are: {named or 'none'})",
        )
    raise SandboxUnavailable(
        f"Python {wanted} is not on this machine (there are: {named or 'none'})",
        "install it (pyenv install VERSION, uv python install VERSION), or give a path",
    )


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _number(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.name)]


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _digest(executable: Path, version: str) -> str:
    with executable.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b")
    digest.update(f"{version} {executable}".encode())
    return digest.hexdigest()[:32]
