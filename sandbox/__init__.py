"""Executes untrusted code: a state is a value, and executing a command in one gives the next. See protocol.py."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runoff.sandbox.backends import open_backend
    from runoff.sandbox.bubblewrap import Bubblewrap, probe
    from runoff.sandbox.docker.backend import Docker
    from runoff.sandbox.prerequisites import Finding
    from runoff.sandbox.protocol import (
        REPO,
        Applied,
        Base,
        Diff,
        Execution,
        Held,
        Image,
        Limits,
        NoRoom,
        Refused,
        Sandbox,
        SandboxError,
        SandboxLost,
        SandboxUnavailable,
        State,
        StoreFull,
    )

__all__ = [
    "REPO",
    "Applied",
    "Base",
    "Bubblewrap",
    "Diff",
    "Docker",
    "Execution",
    "Finding",
    "Held",
    "Image",
    "Limits",
    "NoRoom",
    "Refused",
    "Sandbox",
    "SandboxError",
    "SandboxLost",
    "SandboxUnavailable",
    "State",
    "StoreFull",
    "open_backend",
    "probe",
]

_MODULES = {
    "Bubblewrap": "bubblewrap",
    "Docker": "docker.backend",
    "Finding": "prerequisites",
    "open_backend": "backends",
    "probe": "bubblewrap",
}


def __getattr__(name: str) -> Any:
    """Imported where used: pydantic and asyncio together would cost every command its start."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "protocol")
    return getattr(import_module(f"runoff.sandbox.{module}"), name)
