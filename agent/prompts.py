"""Prompts are Jinja2 files beside their strategy, a macro a message: `prompts("testing").first(test=…)`."""

from __future__ import annotations

import re
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


def inside(text: str, *tags: str) -> str:
    """Text that goes between these tags and cannot leave: its own `<tag` and `</tag` lose their bracket, however they are spelt.

    The marks of `observed` go first, as `Message` takes them out later: `<\x03/tag>` would close the frame then.
    """
    names = "|".join(map(re.escape, tags))
    return re.sub(rf"<(?=[^\w<>]*(?:{names})\b)", "&lt;", re.sub("[\x02\x03]", "", text), flags=re.IGNORECASE)


def prompts(name: str, package: str = "runoff.agent") -> Prompts:
    return Prompts(package, name)


@cache
def _environment(package: str) -> Environment:
    # Nothing is escaped: this is text for a model, where what comes from outside stands between tags and is said to be data.
    environment = Environment(
        loader=PackageLoader(package, ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["observed"] = observed
    environment.filters["inside"] = inside
    return environment
