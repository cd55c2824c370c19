"""The proxy between a setup and the package indexes: tinyproxy, which knows the few addresses that may be reached.

It is started for a sandbox's first execution with a network, on a loopback address, as a user without rights, and dies with
us. Sandboxes reach it through a relay (relay.py) only. It looks names up; inside, there is no DNS.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runoff.sandbox import prerequisites
from runoff.sandbox.environments import indexes
from runoff.sandbox.protocol import SandboxLost, SandboxUnavailable

PROXY_UID = 64001
"""Who runs it when root runs the sandbox: nobody's number, and not the one inside of sandboxes."""

_WAIT = 10.0  # seconds until it listens


class Proxy:
    """`hosts` may be reached beside the indexes that this machine's tools are configured with."""

    def __init__(self, hosts: Sequence[str] = ()) -> None:
        self._hosts, self._starting = tuple(hosts), asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._address = ("", 0)

    async def address(self) -> tuple[str, int]:
        """Where it listens; started by whoever asks first, and again if it died.

        Raises SandboxUnavailable if tinyproxy is not installed, Refused for an index that must not be used.
        """
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                await self.stop()
                configured = await asyncio.to_thread(indexes.configured)
                await self._start(configured.origins | {indexes.origin(host) for host in self._hosts})
        return self._address

    async def stop(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    async def _start(self, origins: Iterable[str]) -> None:
        tinyproxy, setpriv = prerequisites.tool("tinyproxy"), prerequisites.tool("setpriv")
        self._folder = tempfile.TemporaryDirectory(prefix="runoff-proxy-")
        allowed, settings, said = (Path(self._folder.name, name) for name in ("allowed", "settings", "said"))
        address = _free_address()
        allowed.write_text(filters(origins))
        settings.write_text(config(address, allowed, said, origins, upstreams(os.environ)))
        settings.chmod(0o600)  # an upstream's address may hold a password
        become = []
        if os.geteuid() == 0:
            for path in (Path(self._folder.name), allowed, settings):
                shutil.chown(path, PROXY_UID, PROXY_UID)
            become = [f"--reuid={PROXY_UID}", f"--regid={PROXY_UID}", "--clear-groups", "--inh-caps=-all"]
        self._process = await asyncio.create_subprocess_exec(
            *(setpriv, *become, "--no-new-privs", "--pdeathsig", "KILL", tinyproxy, "-d", "-c", str(settings)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )
        if not await self._listens(address):
            words = said.read_text(errors="replace").strip().splitlines()[-1:] if said.exists() else []
            await self.stop()
            raise SandboxLost(f"the proxy to the package indexes did not start: {' '.join(words) or 'it said nothing'}")
        self._address = address

    async def _listens(self, address: tuple[str, int]) -> bool:
        for _ in range(int(_WAIT / 0.02)):
            assert self._process
            if self._process.returncode is not None:
                return False
            try:
                _, writer = await asyncio.open_connection(*address)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return True
        return False


def filters(origins: Iterable[str]) -> str:
    """tinyproxy's list of what may be reached: one pattern an address, from its first character through the whole host and
    port, so that no user name, path or longer name can stand before, after or around it."""
    patterns = []
    for allowed in sorted(origins):
        parts = urlsplit(allowed)
        host = re.sub(r"[.\[\]]", r"\\\g<0>", parts.netloc.rpartition(":")[0])
        if parts.scheme == "https":  # a tunnel: nothing but the host and the port is to be seen
            patterns.append(f"^{host}:{parts.port}$")
        else:
            port = f"(:{parts.port})?" if parts.port == 80 else f":{parts.port}"
            patterns.append(f"^http://{host}{port}(/|$)")
    return "".join(f"{pattern}\n" for pattern in patterns)


def config(address: tuple[str, int], allowed: Path, said: Path, origins: Iterable[str], upstream: Iterable[str]) -> str:
    """tinyproxy's settings."""
    ports = sorted({port for allowed in origins if (port := urlsplit(allowed).port) and allowed.startswith("https:")})
    lines = [
        f"Listen {address[0]}",
        f"Port {address[1]}",
        "Allow 127.0.0.0/8",
        "Timeout 600",
        "MaxClients 400",
        f'LogFile "{said}"',
        "LogLevel Critical",
        "DisableViaHeader Yes",
        f'StatHost "{secrets.token_hex(16)}"',  # its own page, which has no filter
        f'Filter "{allowed}"',
        "FilterURLs On",
        "FilterExtended On",
        "FilterCaseSensitive Off",
        "FilterDefaultDeny Yes",
        *(f"ConnectPort {port}" for port in ports or [0]),  # 0: no tunnel at all; none named would be all ports
        *upstream,
    ]
    return "".join(f"{line}\n" for line in lines)


def upstreams(env: dict[str, str] | os._Environ[str]) -> list[str]:
    """tinyproxy's settings for a machine that itself reaches the world through a proxy. Raises SandboxUnavailable."""

    def given(name: str) -> str:
        return env.get(name) or env.get(name.lower()) or ""

    proxy = given("HTTPS_PROXY") or given("ALL_PROXY") or given("HTTP_PROXY")
    if not proxy:
        return []
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    kinds = {"http": "http", "socks4": "socks4", "socks5": "socks5", "socks5h": "socks5"}
    if parts.scheme not in kinds or not parts.hostname:
        raise SandboxUnavailable(
            f"no way to the package indexes through a proxy of the kind {parts.scheme}://",
            "set HTTPS_PROXY=http://HOST:PORT",
        )
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}@" if parts.username else ""
    lines = [f"Upstream {kinds[parts.scheme]} {user}{parts.hostname}:{parts.port or 8080}"]
    for host in given("NO_PROXY").replace(",", " ").split():
        if re.fullmatch(r"[\w.-]+", host):
            lines.append(f'Upstream none "{host}"')
    return lines


def _free_address() -> tuple[str, int]:
    """One of the sixteen million of this machine's own loopback, so that nobody else is there by chance."""
    host = "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))
    with socket.socket() as probe:
        probe.bind((host, 0))
        return host, int(probe.getsockname()[1])
