"""`.runoff.toml`: what a repository itself says of how it is installed and tested. Read at its base commit, run in sandboxes only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

from runoff.sandbox.environments.services import Service, service
from runoff.sandbox.protocol import Value

NAME = ".runoff.toml"
LARGEST = 64 << 10
"""Bytes of it that are read."""
_TEXTS = ("python", "node", "setup", "build", "test")


class BadDeclaration(ValueError):
    """It cannot be used; the message says why, in one line."""


class Declared(Value):
    """How an environment is made and used; what is None or empty is left to detection."""

    python: str | None = None
    node: str | None = None
    setup: str | None = None
    """Shell commands that install the repository, in it, with the package indexes in reach."""
    build: str | None = None
    test: str | None = None
    """Empty: it has no tests."""
    services: tuple[Service, ...] = ()
    env: dict[str, str] = {}


def parse(text: str) -> Declared:
    """Raises BadDeclaration, which names the key."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadDeclaration(f"{NAME} is no TOML: {error}") from None
    unknown = sorted(data.keys() - {*_TEXTS, "services", "env"})
    if unknown:
        raise BadDeclaration(
            f"{NAME}: there is no key {unknown[0]!r}; there are {', '.join((*_TEXTS, 'services', 'env'))}"
        )
    given: dict[str, Any] = {}
    for name in _TEXTS:
        value = data.get(name)
        if isinstance(value, list) and name == "setup" and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
        if value is not None and not isinstance(value, str):
            raise BadDeclaration(f'{NAME}: {name} is text in quotes, as {name} = "…"')
        given[name] = value
    env = data.get("env", {})
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise BadDeclaration(f'{NAME}: [env] holds NAME = "value", all of them text')
    if bad := next((name for name in env if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)), None):
        raise BadDeclaration(f"{NAME}: {bad!r} is no name of an environment variable")
    return Declared(**given, env=env, services=tuple(_services(data.get("services", []))))


def written(declared: Declared, remarks: Mapping[str, str] = {}) -> str:
    """As a file for a user to read, change and commit; `remarks` stand above the keys they are of."""
    lines = [
        "# How runoff installs and tests this repository. Options of the command line come before this, detection after it."
    ]
    for name in _TEXTS:
        if (value := getattr(declared, name)) is not None:
            lines += [f"# {line}" for line in remarks.get(name, "").splitlines()]
            lines.append(tomli_w.dumps({name: value}, multiline_strings=True).rstrip("\n"))
    if declared.services:
        lines += [f"# {line}" for line in remarks.get("services", "").splitlines()]
        listed = [
            {name: value for name, value in one.model_dump().items() if value not in ("", None)}
            for one in declared.services
        ]
        lines.append("services = [")
        lines += [
            "  { " + ", ".join(f"{name} = {_quoted(value)}" for name, value in one.items()) + " }," for one in listed
        ]
        lines.append("]")
    if declared.env:
        lines += ["", tomli_w.dumps({"env": declared.env}).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _services(listed: object) -> list[Service]:
    """`"postgres"`, or a table with its port, user, password and database."""
    found = list[Service]()
    if not isinstance(listed, list):
        raise BadDeclaration(f'{NAME}: services is a list, as services = ["postgres", "redis"]')
    for one in listed:
        kind = one.get("kind") if isinstance(one, dict) else one
        made = service(kind) if isinstance(kind, str) else None
        if made is None:
            raise BadDeclaration(f"{NAME}: no service {kind!r}; there are postgres, redis, mysql, memcached")
        if isinstance(one, dict):
            try:
                made = Service.model_validate(made.model_dump() | one | {"kind": made.kind})
            except ValueError:
                raise BadDeclaration(f"{NAME}: the service {kind!r} takes port, user, password, database") from None
        found.append(made)
    return found


def _quoted(value: object) -> str:
    return str(value) if isinstance(value, int) else tomli_w.dumps({"x": str(value)}).removeprefix("x = ").strip()
