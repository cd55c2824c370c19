"""Harbor's task directories: what of task.toml we read, by the names and defaults of its own models (schema 1.4).

task.toml, instruction.md, environment/ (a Dockerfile), tests/ (test.sh, which writes the reward), solution/ (solve.sh). What lies in
tests/ and solution/ is an answer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

REWARD = "/logs/verifier/reward.txt"
"""Where test.sh writes a number, in the container; or an object of numbers, to reward.json."""

_CANARY = re.compile(r"(<!--.*canary.*-->|#.*canary.*)", re.IGNORECASE)


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Environment(_Read):
    docker_image: str | None = None
    workdir: str | None = None
    os: Literal["linux"] = "linux"

    @field_validator("os", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class Verifier(_Read):
    timeout_sec: float = 600.0


class Task(_Read):
    environment: Environment = Environment()
    verifier: Verifier = Verifier()
    steps: list[dict[str, Any]] | None = None


def first(error: ValueError) -> str:
    """The first thing that is wrong, in a line: the field, and what it should be."""
    if isinstance(error, ValidationError):
        one = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
    return f"no TOML: {' '.join(str(error).split())}"


def instruction(text: str) -> str:
    """Without the marks against training on it that stand at its head, as Harbor shows it to agents."""
    lines = text.split("\n")
    while lines and _CANARY.fullmatch(lines[0].strip()):
        del lines[0]
    return "\n".join(lines).lstrip("\n")


def image(name: str) -> str:
    """What `runoff dataset --build` calls the image of a task that names none."""
    return f"runoff-task.{name.lower()}:latest"


def workdir(dockerfile: str) -> str | None:
    """Where the last WORKDIR of a Dockerfile leads, in its last stage; None if there is none, or a variable says it."""
    place: str | None = None
    for line in dockerfile.splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip().strip("\"'")
        if word.upper() == "FROM":
            place = None
        elif word.upper() == "WORKDIR":
            if "$" in rest:
                return None
            place = rest if rest.startswith("/") else f"{place or ''}/{rest}"
    return place


def patches(solution: Path) -> list[Path]:
    """The gold patch, where the solution holds it as one."""
    found = sorted([*solution.glob("*.patch"), *solution.glob("*.diff")])
    return found if len(found) == 1 else []
