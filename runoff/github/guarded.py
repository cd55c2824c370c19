"""Git on the host: the settings under which nothing that a repository holds decides what runs, or where a token goes."""

from __future__ import annotations

SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.allow": "never",  # what is spoken is said beside it
    "fetch.recurseSubmodules": "false",
    "http.followRedirects": "false",  # what authorizes would be sent to wherever it leads
}
ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C"}

__all__ = ["ENVIRONMENT", "SETTINGS"]
