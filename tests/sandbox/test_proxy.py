"""A setup reaches the package indexes, and nothing else by whatever way. Every server here is the test's own, on loopback."""

# ruff: noqa: ASYNC240, PTH110, PTH116
# Looks at files of this process only.
from __future__ import annotations

import asyncio
import ensurepip
import hashlib
import io
import json
import os
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.environments import indexes
from runoff.sandbox.protocol import PROXY, Base, Execution, Refused, Sandbox, SandboxUnavailable, State
from runoff.sandbox.proxy import PROXY_UID, filters, upstreams

SECRET = "the secret of the host"
THROUGH = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "http_proxy": PROXY, "PIP_NO_CACHE_DIR": "1"}

_PIP = next(Path(ensurepip.__file__).parent.joinpath("_bundled").glob("pip-*.whl"), None) or next(
    Path("/usr/share/python-wheels").glob("pip-*.whl")
)

Pages = Mapping[str, bytes | str]
"""Path → what is served, or where it redirects to."""


@contextmanager
def served(pages: Pages, host: str = "127.0.0.1") -> Iterator[int]:
    """A web server of the test's own; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path, pages.get("*"))
            self.send_response(404 if page is None else 302 if isinstance(page, str) else 200)
            body = page if isinstance(page, bytes) else b""
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "text/html")
            if isinstance(page, str):
                self.send_header("Location", page)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:  # uv asks
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET

    server = Server((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def wheel(name: str, module: str) -> bytes:
    """The smallest wheel there is: one module."""
    packed, info = io.BytesIO(), f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    return packed.getvalue()


def simple_index(name: str, file: bytes) -> dict[str, bytes | str]:
    digest, path = hashlib.sha256(file).hexdigest(), f"{name}-1.0-py3-none-any.whl"
    link = f'<!DOCTYPE html><a href="/files/{path}#sha256={digest}">{path}</a>'
    return {f"/simple/{name}/": link.encode(), f"/files/{path}": file}


def get(url: str) -> str:
    """The command that prints what a web address gives, or why not."""
    program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=9).read().decode())"
    return f"python3 -c '{program}' {url} 2>&1 || true"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The package index that this machine is configured with: one of the test's own, known by the name `localhost`."""
    with ExitStack() as servers:
        pages = simple_index("tinything", wheel("tinything", "print('a tiny thing')\n"))
        port = servers.enter_context(served(pages))
        for name in (
            "PIP_EXTRA_INDEX_URL",
            "PIP_FIND_LINKS",
            "UV_DEFAULT_INDEX",
            "UV_INDEX_URL",
            "HTTPS_PROXY",
            "HTTP_PROXY",
        ):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://localhost:{port}/simple")
        yield port


async def shell(sandbox: Sandbox, state: State, script: str, env: Mapping[str, str] = THROUGH) -> Execution:
    return await sandbox.execute(state, ["sh", "-ec", script], env=env, network=True)


async def test_pip_installs_from_the_configured_index(index: int, sandbox: Sandbox) -> None:
    base = await sandbox.base(Base(binds=(str(_PIP.parent),)))
    env = THROUGH | indexes.configured().environment()
    env |= {"PYTHONPATH": f"/env:{_PIP}"}
    install = "python3 -m pip install -q --target /env tinything && python3 -m tinything"
    done = await shell(sandbox, base, install, env)
    assert done.stdout == b"a tiny thing\n", done.text
    assert done.after
    later = await sandbox.execute(done.after, ["sh", "-c", f"python3 -m tinything; {get(PROXY)}"], env=env)
    assert later.stdout.startswith(b"a tiny thing\n")
    assert b"Connection refused" in later.stdout, "the proxy is there only while a setup runs"


_ATTACKS = """
import json, socket, sys

given = json.loads(sys.argv[1])
index, other, six, proxy = given["index"], given["other"], given["six"], 3128


def ask(text, port=proxy, host="127.0.0.1", then=b""):
    try:
        with socket.create_connection((host, port), 5) as it:
            it.settimeout(5)
            it.sendall(text.encode())
            got = b""
            while chunk := it.recv(65536):
                got += chunk
                if then and b"200" in got:
                    it.sendall(then)
                    then = b""
            return got
    except OSError as error:
        return repr(error).encode()


def get(url, host="x"):
    return ask(f"GET {url} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n")


def tunnel(to):
    return ask(f"CONNECT {to} HTTP/1.1\\r\\nHost: {to}\\r\\n\\r\\n", then=b"GET / HTTP/1.0\\r\\n\\r\\n")


attacks = {
    "the address": get(f"http://127.0.0.1:{other}/"),
    "the index by its number": get(f"http://127.0.0.1:{index}/secret"),
    "another port of the index": get(f"http://localhost:{other}/"),
    "IPv6": get(f"http://[::1]:{six}/"),
    "IPv6 as IPv4": get(f"http://[::ffff:127.0.0.1]:{other}/"),
    "a number": get(f"http://2130706433:{other}/"),
    "a short number": get(f"http://127.1:{other}/"),
    "a final dot": get(f"http://localhost.:{other}/"),
    "capitals": get(f"HTTP://LOCALHOST:{other}/"),
    "a user name": get(f"http://localhost:{index}@127.0.0.1:{other}/"),
    "a user name and a slash": get(f"http://localhost:{index}/@127.0.0.1:{other}/secret"),
    "a password": get(f"http://localhost:{index}:x@127.0.0.1:{other}/"),
    "a backslash": get(f"http://localhost:{index}\\\\@127.0.0.1:{other}/"),
    "a fragment": get(f"http://127.0.0.1:{other}/#http://localhost:{index}/"),
    "a query": get(f"http://127.0.0.1:{other}?http://localhost:{index}/"),
    "two ports": get(f"http://localhost:{index}:{other}/"),
    "longer port": get(f"http://localhost:{index}0/"),
    "a line feed": get(f"http://127.0.0.1:{other}/\\nhttp://localhost:{index}/"),
    "a tab": get(f"http://127.0.0.1:{other}/\\thttp://localhost:{index}/"),
    "no proxy request": get("/", f"127.0.0.1:{other}"),
    "another host header": get(f"http://localhost:{index}/secret", f"127.0.0.1:{other}"),
    "no scheme": get(f"127.0.0.1:{other}/"),
    "ftp": get(f"ftp://127.0.0.1:{other}/"),
    "https in the open": get(f"https://127.0.0.1:{other}/"),
    "tunnel": tunnel(f"127.0.0.1:{other}"),
    "tunnel to the index": tunnel(f"localhost:{index}"),
    "tunnel to another port": tunnel(f"localhost:{other}"),
    "tunnel by IPv6": tunnel(f"[::1]:{six}"),
    "tunnel with an address": tunnel(f"http://127.0.0.1:{other}/"),
    "tunnel with a user name": tunnel(f"localhost:{index}@127.0.0.1:{other}"),
    "a second request": ask(f"GET http://localhost:{index}/secret HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
                            f"GET http://127.0.0.1:{other}/ HTTP/1.0\\r\\n\\r\\n"),
    "directly": ask("GET / HTTP/1.0\\r\\n\\r\\n", other),
    "directly by IPv6": ask("GET / HTTP/1.0\\r\\n\\r\\n", six, "::1"),
    "the proxy itself": ask(f"GET http://127.0.0.1:{other}/ HTTP/1.0\\r\\n\\r\\n", given["proxy"][1], given["proxy"][0]),
}
print(json.dumps({name: got.decode("latin1") for name, got in attacks.items()}))
"""


async def test_the_proxy_leads_nowhere_else(index: int, sandbox: Bubblewrap) -> None:
    base = await sandbox.base(Base())
    with served({"*": SECRET.encode()}) as other, served({"*": SECRET.encode()}, "::1") as six:
        address = await sandbox._proxy.address()
        given = json.dumps({"index": index, "other": other, "six": six, "proxy": address})
        done = await sandbox.execute(base, ["python3", "-c", _ATTACKS, given], network=True)
        assert done.exit_code == 0, done.text
        found = json.loads(done.stdout)
        assert len(found) > 30
        assert {name: got for name, got in found.items() if SECRET in got} == {}
        again = await shell(sandbox, base, get(f"http://localhost:{index}/simple/tinything/"))
        assert b"tinything-1.0" in again.stdout, "and it still works"


async def test_what_is_named_can_be_reached(index: int, mode: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """So the attacks above can fail: the same request, to a host that the user allowed."""
    with served({"*": SECRET.encode()}) as other:
        for hosts, reached in (((f"http://127.0.0.1:{other}",), True), ((), False)):
            async with Bubblewrap(tmp_path / str(reached), mode, index_hosts=hosts) as other_one:  # type: ignore[arg-type]
                done = await shell(other_one, await other_one.base(Base()), get(f"http://127.0.0.1:{other}/"))
                assert (SECRET in done.text) == reached


async def test_a_redirect_does_not_lead_out(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with served({"*": SECRET.encode()}) as other, served({"/a": f"http://127.0.0.1:{other}/"}) as index:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://localhost:{index}/simple")
        done = await shell(sandbox, await sandbox.base(Base()), get(f"http://localhost:{index}/a"))
        assert SECRET not in done.text
        assert "403" in done.text


async def test_no_way_but_the_proxy(index: int, sandbox: Sandbox, tmp_path: Path) -> None:
    """UDP, names, abstract sockets, raw packets: the network in there is a loopback of its own."""
    base, heard = await sandbox.base(Base()), list[bytes]()

    class Hears(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: object) -> None:
            heard.append(data)

    loop, name = asyncio.get_running_loop(), f"\0runoff-test-{os.getpid()}-{tmp_path.name}"
    udp, _ = await loop.create_datagram_endpoint(Hears, local_addr=("127.0.0.1", 0))
    unix = await asyncio.start_unix_server(lambda _, writer: writer.write(SECRET.encode()), name)
    port = udp.get_extra_info("sockname")[1]
    script = f"""
import socket
def tried(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__
def abstract():
    with socket.socket(socket.AF_UNIX) as it:
        it.connect({name!r})
        return it.recv(100)
print(tried(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", {port}))))
print(tried(abstract))
print(tried(lambda: socket.getaddrinfo("localhost.localdomain.", 80)))
print(tried(lambda: socket.socket(type=socket.SOCK_DGRAM).connect(("192.0.2.1", 53))))
print(tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)))
print(tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)))
print(open("/proc/net/route").read().count(chr(10)), open("/etc/resolv.conf").read())
"""
    async with unix:
        done = await sandbox.execute(base, ["python3", "-c", script], network=True)
    udp.close()
    said = done.stdout.decode().split()
    assert said == ["3", "ConnectionRefusedError", "gaierror", "OSError", "PermissionError", "OSError", "1"], done.text
    assert heard == []


async def test_a_setup_sees_no_secret_of_ours(
    index: int, mode: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "s3cret-key")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:s3cret-word@localhost:{index}")
    monkeypatch.setenv("NO_PROXY", "localhost")
    async with Bubblewrap(tmp_path / "states", mode) as mine:  # type: ignore[arg-type]
        look = "cat /proc/[0-9]*/environ; env; cat /etc/* /tmp/* ~/.* 2>/dev/null || true"
        fetch = get(f"http://localhost:{index}/simple/tinything/")
        done = await shell(mine, await mine.base(Base()), f"{fetch}; {look}")
    assert b"tinything-1.0" in done.stdout, done.text
    assert b"s3cret" not in done.stdout


async def test_it_dies_with_the_sandbox_and_is_started_again_if_it_died(index: int, sandbox: Bubblewrap) -> None:
    async with Bubblewrap(sandbox._root, sandbox._mode) as sandbox:
        base = await sandbox.base(Base())
        before = await sandbox._proxy.address()
        assert sandbox._proxy._process
        first = sandbox._proxy._process.pid
        assert os.getuid() != 0 or os.stat(f"/proc/{first}").st_uid == PROXY_UID
        os.kill(first, signal.SIGKILL)
        await sandbox._proxy._process.wait()
        done = await shell(sandbox, base, get(f"http://localhost:{index}/simple/tinything/"))
        assert b"tinything-1.0" in done.stdout, done.text
        second, folder = sandbox._proxy._process.pid, sandbox._proxy._folder
        assert before != await sandbox._proxy.address()
        assert folder
        assert os.path.exists(folder.name)
    assert not os.path.exists(f"/proc/{second}")
    assert not os.path.exists(folder.name)


async def test_many_connections_and_one_that_stays_open_end_with_the_setup(index: int, sandbox: Sandbox) -> None:
    hold = (
        "import socket; held = [socket.create_connection(('127.0.0.1', 3128), 5) for _ in range(300)]; print(len(held))"
    )
    done = await sandbox.execute(await sandbox.base(Base()), ["python3", "-c", hold], network=True)
    assert done.stdout == b"300\n", done.text
    done = await shell(sandbox, await sandbox.base(Base()), get(f"http://localhost:{index}/simple/tinything/"))
    assert b"tinything-1.0" in done.stdout, done.text


async def test_without_tinyproxy_it_says_what_to_install(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    base = await sandbox.base(Base())
    monkeypatch.setattr("runoff.sandbox.prerequisites.PLACES", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="apt-get install tinyproxy-bin"):
        await sandbox.execute(base, ["true"], network=True)
    assert (await sandbox.execute(base, ["true"])).exit_code == 0, "whoever builds nothing does not need it"


def test_what_is_configured_is_what_is_allowed() -> None:
    env = {"UV_INDEX": "mine=https://c.test/simple"}
    uv = [{"index": [{"url": "https://d.test:8443/simple"}], "find-links": ["/wheels"]}]
    pip = {"global.index-url": "http://A.test/simple", "install.extra-index-url": "https://b.test/x file:///disk"}
    npm = {"registry": "https://e.test/", "@scope:registry": "https://f.test/npm/", "cafile": "/etc/ca"}
    found = indexes.read(pip, npm, uv, env, ["https://g.test/simple", "files.g.test"])
    assert found.origins == {
        *("http://a.test:80", "https://b.test:443", "https://c.test:443", "https://d.test:8443"),
        *("https://e.test:443", "https://f.test:443", "https://g.test:443", "https://files.g.test:443"),
    }
    assert found.left_out == ("file:///disk", "/wheels")
    told = found.environment()
    assert told["PIP_INDEX_URL"] == told["UV_DEFAULT_INDEX"] == "http://A.test/simple"
    assert told["npm_config_@scope:registry"] == "https://f.test/npm/"


@pytest.mark.parametrize("url", ["https://me:word@a.test/simple", "https://token@a.test/simple"])
def test_an_index_with_a_password_is_refused_without_showing_it(url: str) -> None:
    for pip, npm in (({"global.index-url": url}, {}), ({"global.extra-index-url": url}, {}), ({}, {"registry": url})):
        with pytest.raises(Refused, match=r"https://a\.test/simple: .*password") as refused:
            indexes.read(pip, npm, [], {}, [])
        assert "token" not in str(refused.value)
        assert "word@" not in str(refused.value)


@pytest.mark.parametrize("host", ["ftp://a.test", "a.test:http", "", "a.test/../b", "a b", "^.*$", "https://a.*"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    if host == "a.test/../b":
        assert indexes.origin(host) == "https://a.test:443"
        return
    with pytest.raises(Refused, match="not the address of a package index"):
        indexes.origin(host)


def test_tinyproxy_is_told_whole_addresses() -> None:
    assert filters(["https://a.test:443", "http://b.test:80", "http://[::1]:81"]) == (
        "^http://\\[::1\\]:81(/|$)\n^http://b\\.test(:80)?(/|$)\n^a\\.test:443$\n"
    )


@pytest.mark.parametrize(
    ("env", "lines"),
    [
        ({}, []),
        ({"https_proxy": "http://p.test:3128"}, ["Upstream http p.test:3128"]),
        (
            {"ALL_PROXY": "socks5h://p.test:1080", "NO_PROXY": "a.test, .b.test"},
            ["Upstream socks5 p.test:1080", 'Upstream none "a.test"', 'Upstream none ".b.test"'],
        ),
        ({"HTTPS_PROXY": "http://me:p%40ss@p.test"}, ["Upstream http me:p@ss@p.test:8080"]),
    ],
)
def test_a_machine_behind_a_proxy(env: dict[str, str], lines: list[str]) -> None:
    assert upstreams(env) == lines
    with pytest.raises(SandboxUnavailable, match="HTTPS_PROXY=http://HOST:PORT"):
        upstreams({"HTTPS_PROXY": "https://p.test"})
