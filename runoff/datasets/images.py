"""Names of SWE-bench's instance images, in both forms: as published, and as they are called where they were built."""

from __future__ import annotations

import re

_PUBLISHED = re.compile(
    r"(?:[a-z0-9.:-]+/)*(?P<namespace>[a-z0-9._-]+)/sweb\.eval\.(?P<rest>[a-z0-9_]+\.[a-z0-9._-]+)(?P<tag>:[\w.-]+)?"
)
_LOCAL = re.compile(r"sweb\.eval\.(?P<rest>[a-z0-9_]+\.[a-z0-9._-]+)(?P<tag>:[\w.-]+)?")


def published(instance: str, *, namespace: str = "swebench", machine: str = "x86_64") -> str:
    """swebench/sweb.eval.x86_64.astropy_1776_astropy-12907:latest: registries allow no double underscore in a name."""
    return f"{namespace}/{local(instance, machine=machine)}".replace("__", "_1776_")


def local(instance: str, *, machine: str = "x86_64") -> str:
    """sweb.eval.x86_64.astropy__astropy-12907:latest, as a build without a namespace calls it."""
    return f"sweb.eval.{machine}.{instance}:latest".lower()


def forms(image: str) -> tuple[str, ...]:
    """The names under which an image may be had: its own, then, of an instance image, the other form."""
    if found := _LOCAL.fullmatch(image):
        return image, f"swebench/{image}".replace("__", "_1776_")
    if found := _PUBLISHED.fullmatch(image):
        return image, f"sweb.eval.{found['rest']}{found['tag'] or ''}".replace("_1776_", "__")
    return (image,)
