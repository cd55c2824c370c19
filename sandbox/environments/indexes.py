"""Where this machine's pip, uv and npm get packages from: what is passed on to a setup, and the hosts that it may reach.

No registry's name stands here: the tools are asked for their configuration and for their own defaults.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from runoff.sandbox.protocol import Refused, Value

_ASK_PIP = """
import ensurepip, glob, json, os, sys
try:
    import pip
except ImportError:
    sys.path += glob.glob(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled", "pip-*.whl"))
    sys.path += glob.glob("/usr/share/python-wheels/pip-*.whl")
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
found = Configuration(isolated=False, load_only=None)
found.load()
items = dict(item for value in [dict(found.items())] for item in value.items())
if items and all(isinstance(value, dict) for value in items.values()):  # newer pip: by file
    items = {key: value for of_file in items.values() for key, value in of_file.items()}
print(json.dumps({"index": PyPI.simple_url, "files": PyPI.file_storage_domain, "set": items}))
"""
_PORTS = {"http": 80, "https": 443}
_UV_LISTS = ("UV_INDEX", "UV_EXTRA_INDEX_URL")
_ASKED_OF = ("PIP_", "UV_", "NPM_CONFIG_", "npm_config_", "HOME", "XDG_", "PATH")


class Indexes(Value):
    python: str | None = None
    """The Python package index, if it is not the tools' own default."""
    more_python: tuple[str, ...] = ()
    """Indexes that are asked beside it."""
    npm: dict[str, str] = {}
    """npm's settings that name registries, where they are not its own default."""
    origins: frozenset[str] = frozenset()
    """`scheme://host:port` of all of these, and of the tools' own defaults: what a setup may reach."""
    left_out: tuple[str, ...] = ()
    """Directories that serve as an index on this machine. A sandbox does not see them."""

    def environment(self) -> dict[str, str]:
        """What tells pip, uv and npm inside."""
        env: dict[str, str] = {}
        if self.python:
            env |= {"PIP_INDEX_URL": self.python, "UV_DEFAULT_INDEX": self.python}
        if self.more_python:
            env |= {"PIP_EXTRA_INDEX_URL": " ".join(self.more_python), "UV_INDEX": " ".join(self.more_python)}
        return env | {f"npm_config_{name}": url for name, url in self.npm.items()}


def configured() -> Indexes:
    """Asks the tools, once for what their settings in our environment are. Raises Refused for an index with a password."""
    known = {name: value for name, value in os.environ.items() if name.startswith(_ASKED_OF)}
    return _configured(tuple(sorted(known.items())))


def origin(address: str) -> str:
    """`scheme://host:port` of an index: an address, or a HOST or HOST:PORT that is meant with https. Raises Refused."""
    parts = urlsplit(address if "://" in address else f"https://{address}")
    try:
        port = parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        raise Refused(
            f"{_without_password(parts)}: not the address of a package index (https://HOST or HOST:PORT)"
        ) from None
    if not parts.hostname or not all(c.isalnum() or c in "-._:" for c in parts.hostname):
        raise Refused(f"{_without_password(parts)}: not the address of a package index (https://HOST or HOST:PORT)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def read(
    pip: Mapping[str, object],
    npm: Mapping[str, object],
    uv: Iterable[Mapping[str, object]],
    env: Mapping[str, str],
    defaults: Iterable[str],
) -> Indexes:
    """The indexes that settings name. `pip`'s and `npm`'s as those tools tell them, `uv`'s from its files."""
    main, more, found = "", list[str](), list[str]()
    for key, value in pip.items():
        name = key.split(".", 1)[-1].lstrip(".")
        if name == "index-url":
            main = str(value)
        elif name in ("extra-index-url", "find-links"):
            more += str(value).split()
    for settings in uv:
        own, others = _uv_indexes(settings)
        main, more = main or own, [*more, *others]
    main = env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or env.get("PIP_INDEX_URL") or main
    more += [url for name in _UV_LISTS for url in env.get(name, "").split()]
    more = [url.split("=", 1)[1] if "=" in url.split("://")[0] else url for url in more]  # uv's NAME=URL
    registries = {name: str(url) for name, url in npm.items() if name == "registry" or name.endswith(":registry")}
    for url in filter(None, [main, *more, *registries.values()]):
        if urlsplit(url).password or urlsplit(url).username:
            raise Refused(
                f"{_without_password(urlsplit(url))}: this index's address holds a password, which must not enter "
                "a sandbox; use an index without one"
            )
        found.append(url)
    remote = [url for url in found if url.startswith(("http://", "https://"))]
    return Indexes(
        python=main if main in remote else None,
        more_python=tuple(dict.fromkeys(url for url in more if url in remote)),
        npm=registries,
        origins=frozenset(origin(url) for url in [*remote, *defaults]),
        left_out=tuple(dict.fromkeys(url for url in found if url not in remote)),
    )


@lru_cache(maxsize=8)
def _configured(known: tuple[tuple[str, str], ...]) -> Indexes:
    pip = _json([sys.executable, "-I", "-c", _ASK_PIP])
    defaults, set_for_npm = [str(pip[name]) for name in ("index", "files") if name in pip], dict[str, object]()
    if npm := shutil.which("npm"):
        set_for_npm = _json([npm, "config", "list", "--json"])
        own = _json(
            [npm, "config", "list", "--json", "--userconfig=/dev/null", "--globalconfig=/nonexistent"], alone=True
        )
        defaults += [str(own["registry"])] if "registry" in own else []
        set_for_npm = {name: url for name, url in set_for_npm.items() if url != own.get("registry")}
    settings = pip.get("set")
    return read(settings if isinstance(settings, dict) else {}, set_for_npm, _uv_files(), dict(known), defaults)


def _json(command: list[str], *, alone: bool = False) -> dict[str, object]:
    """What a tool prints; nothing if it cannot say. Not asked in the working directory, whose settings are a stranger's."""
    env = {name: value for name, value in os.environ.items() if not (alone and name.lower().startswith("npm_config_"))}
    done = subprocess.run(command, capture_output=True, cwd="/", env=env, check=False)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _uv_files() -> list[dict[str, object]]:
    places = [Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"), Path("/etc")]
    found = []
    for place in places:
        try:
            found.append(tomllib.loads((place / "uv" / "uv.toml").read_text()))
        except (OSError, ValueError):
            continue
    return found


def _uv_indexes(settings: Mapping[str, object]) -> tuple[str, list[str]]:
    main, more = "", list[str]()
    part = settings.get("pip")
    for table in (settings, part if isinstance(part, dict) else {}):
        main = main or str(table.get("index-url") or "")
        for name in ("extra-index-url", "find-links"):
            listed = table.get(name)
            more += [str(url) for url in listed] if isinstance(listed, list) else []
    listed = settings.get("index")
    for index in listed if isinstance(listed, list) else []:
        if isinstance(index, dict) and index.get("default"):
            main = str(index.get("url") or main)
        elif isinstance(index, dict):
            more.append(str(index.get("url") or ""))
    return main, more


def _without_password(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
