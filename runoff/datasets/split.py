"""The process that parts problems from answers: `python -m runoff.datasets.split REFERENCE` prints a problem a JSON line.

A source holds both, so whoever solves never opens it: this process does, and what it prints has no place for an answer.
Exit code 2 with one line where it cannot be read, 3 where something is missing.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from runoff.datasets import images
from runoff.datasets.protocol import BadDataset, Built, DatasetMissing, Problem
from runoff.datasets.rows import Row, rows

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OF_SWE_BENCH = re.compile(r"[A-Za-z0-9._-]+__[A-Za-z0-9._-]+-\d+")
_TESTS = {"django/django": "python tests/runtests.py --parallel 1 --verbosity 0"}
"""How a project runs its own tests, by its own documents; where nothing is said, pytest."""
_LACK = {"sympy/sympy": "pytest<8"}
"""What a project's environment lacks for it."""


def problem(row: Row) -> Problem:
    """What of a row solving may see. Raises BadDataset naming the field."""
    name = row.text("instance_id", needed=True)
    if not _ID.fullmatch(name):
        raise row.bad(f"instance_id {name!r} is no id: letters, digits and ._- only")
    image, environment = row.text("image"), row.values.get("environment")
    if not image and not environment and _OF_SWE_BENCH.fullmatch(name):
        image = images.published(name)  # rows before version 5 leave it to whoever knows the rule
    known = {"workdir": workdir} if (workdir := row.text("workdir")) else {}
    return Problem(
        id=name,
        repo=row.text("repo"),
        base_commit=row.text("base_commit"),
        statement=row.text("problem_statement", needed=True),
        version=row.text("version"),
        created_at=row.text("created_at"),
        image=image,
        built=built(environment, row) if environment and not row.text("image") else None,
        **known,
    )


def built(environment: object, row: Row) -> Built:
    """How an environment that is given as a Python, packages and a command is installed, in the builder's words."""
    if not isinstance(environment, Mapping):
        raise row.bad(f"environment is {type(environment).__name__}, not an object")
    said: Mapping[str, Any] = environment
    for field, kinds in (("python", str), ("install", str), ("pip_packages", list)):
        if said.get(field) is not None and not isinstance(said[field], kinds):
            raise row.bad(f"environment.{field} is {type(said[field]).__name__}, not {kinds.__name__}")
    if unknown := [name for name in said if name not in ("python", "pip_packages", "install", "pythonpath")]:
        raise row.bad(f"environment.{unknown[0]} is no field: python, pip_packages, install, pythonpath")
    repo = row.text("repo")
    packages = [*map(str, said.get("pip_packages") or ()), *filter(None, [_LACK.get(repo)])]
    setup = [f"uv pip install {shlex.join(packages)}"] if packages else []
    setup += filter(None, [said.get("install")])
    return Built(python=said.get("python"), setup="\n".join(setup) or None, build="true", test=_TESTS.get(repo))


def problems(reference: str) -> Iterator[Problem]:
    seen = dict[str, str]()
    for row in rows(reference, answers=False):
        found = problem(row)
        if found.id in seen:
            raise row.bad(f"instance_id {found.id} was there already ({seen[found.id]})")
        seen[found.id] = row.where
        yield found


def main(reference: str) -> int:
    try:
        for found in problems(reference):
            print(found.model_dump_json(exclude_defaults=True))
    except BadDataset as error:
        print(error, file=sys.stderr)
        return 3 if isinstance(error, DatasetMissing) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
