"""Which API answers for a server, and which token opens it: from the environment, or from gh's own login.

A token goes to the server that it was given for and to no other: GITHUB_TOKEN and GH_TOKEN to github.com (or to the server
that Actions says it runs on), GH_ENTERPRISE_TOKEN and GITHUB_ENTERPRISE_TOKEN to every other one, as gh does it.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from runoff.github.address import GITHUB, base_of
from runoff.instance import BadTarget

GH_SECONDS = 10
"""How long gh may take to say its token."""


@dataclass(frozen=True)
class Token:
    value: str = field(repr=False)
    source: str
    """Where it came from, as a user would name it: `GITHUB_TOKEN`, `gh auth token`."""

    def setting(self, base: str) -> tuple[str, str]:
        """The setting by which git authorizes itself at a server: name and value, for its environment alone."""
        word = base64.b64encode(f"x-access-token:{self.value}".encode()).decode()
        return f"http.{base}/.extraHeader", f"Authorization: Basic {word}"


def server(environment: Mapping[str, str] = os.environ) -> str:
    """Whose `owner/repo#1` is meant: what Actions or gh is set to, else github.com. Raises BadTarget."""
    if url := environment.get("GITHUB_SERVER_URL"):
        return base_of(url)
    if host := environment.get("GH_HOST"):
        return base_of(f"https://{host}")
    return GITHUB


def api_of(base: str, environment: Mapping[str, str] = os.environ) -> str:
    """The REST API of a server, without a slash at the end. GITHUB_API_URL counts for the server it was set for."""
    told = environment.get("GITHUB_API_URL", "").rstrip("/")
    if told and base == base_of(environment.get("GITHUB_SERVER_URL") or GITHUB):
        base_of(told)
        return told
    if base == GITHUB:
        return "https://api.github.com"
    host = urlsplit(base).netloc
    return f"https://api.{host}" if host.endswith(".ghe.com") else f"{base}/api/v3"


def find_token(base: str, environment: Mapping[str, str] = os.environ) -> Token | None:
    """The token for a server; None: there is none, and only what is public can be read."""
    ours = base == GITHUB or base.endswith(".ghe.com") or base == _actions_server(environment)
    names = ("GH_TOKEN", "GITHUB_TOKEN") if ours else ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")
    for name in names:
        if value := environment.get(name, "").strip():
            if not value.isascii() or not value.isprintable() or " " in value:
                raise BadTarget(f"{name} is no token: it holds characters that none has")
            return Token(value, name)
    return _from_gh(urlsplit(base).hostname or "", environment)


def _actions_server(environment: Mapping[str, str]) -> str | None:
    try:
        return base_of(environment["GITHUB_SERVER_URL"])
    except (KeyError, BadTarget):
        return None


def _from_gh(host: str, environment: Mapping[str, str]) -> Token | None:
    """What gh logged in with; it may keep it in the desktop's key ring, so it is asked rather than its files."""
    try:
        said = subprocess.run(
            ["gh", "auth", "token", "--hostname", host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GH_SECONDS,
            env={**environment, "GH_PROMPT_DISABLED": "1", "GH_NO_UPDATE_NOTIFIER": "1"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    value = said.stdout.decode("ascii", "replace").strip()
    ours = said.returncode == 0 and re.fullmatch(r"[A-Za-z0-9_.-]+", value)
    return Token(value, f"gh auth token --hostname {host}") if ours else None


__all__ = ["Token", "api_of", "find_token", "server"]
