"""Keys and other secrets, taken out by their value of whatever is written: logs, reports, errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_NAMED = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_ID)?$|_(KEY|TOKEN|SECRET|PASSWORD)_", re.I)
SHORTEST = 8
"""Characters. A shorter value would be found, and taken out, where it is a word like any other."""


class Secrets:
    """Values of environment variables that are called like secrets, or that RUNOFF_SECRETS names (commas between).

    Each is replaced by its variable's name in brackets, so that a text says what stood there. Paths and numbers are no
    secrets, whatever they are called, unless RUNOFF_SECRETS names them.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = dict(
            sorted((value, name) for name, value in _found(os.environ if environment is None else environment))
        )
        self._names = found
        # The longest first: one may be the beginning of another.
        longest = sorted(found, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest))) if found else None

    def redact(self, text: str) -> str:
        if self._values is None:
            return text
        return self._values.sub(lambda value: f"[{self._names[value[0]]}]", text)

    def redacted(self, value: T) -> T:
        """A JSON value with every text in it redacted, names of fields too."""
        return self._within(value) if self._values else value

    def _within(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {self.redact(name): self._within(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._within(each) for each in value]
        return value


def _found(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    configured = {name.strip() for name in environment.get("RUNOFF_SECRETS", "").split(",")}
    for name, value in environment.items():
        guessed = _NAMED.search(name) and not value.startswith("/") and not re.fullmatch(r"[\d.]*", value)
        if len(value) >= SHORTEST and (name in configured or (guessed and name != "RUNOFF_SECRETS")):
            yield name, value
