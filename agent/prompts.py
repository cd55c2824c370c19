"""Prompts are Jinja2 files beside their strategy, a macro a message: `prompts("testing").first(test=…)`."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from runoff.agent.protocol import observed


class Prompts:
    """The messages of one strategy; every macro of its file is a method that gives the text."""

    def __init__(self, package: str, name: str) -> None:
        self._macros = _environment(package).get_template(f"{name}.j2").module

    def __getattr__(self, macro: str) -> Any:
        render = getattr(self._macros, macro)
        return lambda **given: str(render(**given)).strip("\n") + "\n"


def prompts(name: str, package: str = "runoff.agent") -> Prompts:
    return Prompts(package, name)


@cache
def _environment(package: str) -> Environment:
    # Nothing is escaped: this is text for a model, where what comes from outside stands between tags and is said to be data.
    environment = Environment(
        loader=PackageLoader(package, ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["observed"] = observed
    return environment
