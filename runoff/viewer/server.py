"""The window's server: on this machine's loopback alone, for readers who have the key, with answers that can be read and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runoff.run import BadRun
from runoff.viewer import content
from runoff.viewer.find import search
from runoff.viewer.store import Store

HOST = "127.0.0.1"
_NAMES = frozenset(("127.0.0.1", "localhost", "[::1]"))
"""What this machine's loopback is called; a name that somebody else's DNS points here is none of these."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_BEAT = 15.0
"""Seconds between two signs of life to a reader: one who went away without a word is found out by these."""


def application(store: Store, key: str, ending: asyncio.Event | None = None) -> ASGIApp:
    """`key`: whoever gives it once in the address gets it as a cookie, and may read; other users of this machine do not have it.
    `ending`: set when the server ends, for whoever would listen for ever."""

    async def page(request: Request) -> Response:
        if secrets.compare_digest(request.query_params.get("key", "").encode(), key.encode()):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(_cookie(request.scope), key, httponly=True, samesite="strict", path="/")
            return answer
        return _static("index.html")

    async def static(request: Request) -> Response:
        return _static(request.path_params["name"])

    def ask(request: Request) -> Response:  # in a thread: it may read a log
        try:
            asked = json.loads(request.query_params.get("q", ""))
            if not isinstance(asked, list) or not all(isinstance(part, str) for part in asked):
                raise ValueError
        except ValueError:
            return JSONResponse({"error": "q is a JSON list of strings"}, status_code=400)
        try:
            with store.asked():
                if asked[:1] == ["search"]:
                    return _Json(search(store.run(asked[1]), asked[2], *asked[3:4]))
                return _Json(content.answer(store, asked))
        except (content.NotHere, KeyError, IndexError) as error:
            return JSONResponse({"error": str(error) or "there is no such thing here"}, status_code=404)
        except BadRun as error:
            return JSONResponse({"error": str(error)}, status_code=422)

    async def events(request: Request) -> Response:
        name = request.query_params.get("run", "")
        try:
            await asyncio.to_thread(store.run, name)
        except (KeyError, BadRun) as error:
            return JSONResponse({"error": str(error)}, status_code=404)
        return StreamingResponse(_events(store, name, ending or asyncio.Event()), media_type="text/event-stream")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        store.start()
        yield
        store.stop()

    routes = [
        Route("/", page),
        Route("/static/{name}", static),
        Route("/api", ask),
        Route("/events", events),
    ]
    return _Guard(Starlette(routes=routes, lifespan=lifespan), key)


class _Json(JSONResponse):
    """Lone surrogates stand for bytes that are no UTF-8: they are written as escapes."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


class _Guard:
    """Around everything: who may ask, and what browsers may do with the answers."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message.get("headers", ())}
                more = [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in there]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, safely)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name, colon, port = host.rpartition(":")
        if (name if colon and port.isdigit() else host) not in _NAMES:
            return PlainTextResponse("this is served to this machine alone, by its own name\n", status_code=421)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("there is nothing to write here\n", status_code=405)
        if scope["path"] in ("/api", "/events"):
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return PlainTextResponse("not for other sites\n", status_code=403)
            cookies = Request(scope).cookies
            given = cookies.get(_cookie(scope), "") or "".join(
                parse_qs(scope["query_string"].decode("latin-1")).get("key", [])
            )
            if not secrets.compare_digest(given.encode("utf-8", "replace"), self._key.encode()):
                return PlainTextResponse(
                    "open the address that `runoff view` printed: it has the key\n", status_code=401
                )
        return None


def _cookie(scope: Scope) -> str:
    """Ports share cookies: each server has one of its own name."""
    return f"runoff-{(scope.get('server') or ('', 0))[1]}"


async def _events(store: Store, run: str, ending: asyncio.Event) -> AsyncIterator[bytes]:
    """What changes, until the reader goes: rows of instances, what the run is doing, how far its logs are read. Who reads
    slowly hears of each row once, as it is by then."""
    loop, wake, changed = asyncio.get_running_loop(), asyncio.Event(), set[str]()

    def hear(names: frozenset[str]) -> None:
        changed.update(names)
        wake.set()

    def told(of: str, names: frozenset[str]) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(hear, names)

    async def end() -> None:
        await ending.wait()
        wake.set()

    looked, watch = store.run(run), asyncio.ensure_future(end())
    store.listen(run, told)
    try:
        changed.update(looked.rows)
        first = True
        while not ending.is_set():
            names, rows = set(changed), {}
            changed.clear()
            wake.clear()
            rows = {name: looked.rows[name] for name in sorted(names) if name in looked.rows}
            said = {"rows": rows, "state": looked.state, "read": looked.progress()}
            yield b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"
            if not first:
                await asyncio.sleep(0.25)  # what comes at once goes together
            first = False
            while not wake.is_set():
                try:
                    await asyncio.wait_for(wake.wait(), _BEAT)
                except TimeoutError:
                    yield b": still here\n\n"
    finally:
        watch.cancel()
        store.unlisten(told)


def _static(name: str) -> Response:
    found = assets().get(name)
    if found is None:
        return PlainTextResponse("no such file\n", status_code=404)
    return Response(found, media_type=_TYPES[name.rpartition(".")[2]])


@cache
def assets() -> dict[str, str]:
    """Everything that the page is made of, by name; no other file is ever opened for a browser."""
    folder = files("runoff.viewer").joinpath("page")
    found = {file.name: file.read_text() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}
    return found | {"view.js": bundle(found)}


MODULES = ("text.js", "data.js", "list.js", "code.js", "pages.js", "trajectory.js", "instance.js", "app.js")
"""The page's modules, each after those that it imports."""


def bundle(modules: Mapping[str, str]) -> str:
    """The page's modules as one: none uses a name that another one has at its top, so that nothing need be renamed."""
    parts = []
    for name in MODULES:
        text = re.sub(r"^import [^;]*;\n", "", modules[name], flags=re.MULTILINE)
        parts.append(re.sub(r"^export ", "", text, flags=re.MULTILINE))
    return "\n".join(parts)


def bound(port: int | None) -> socket.socket:
    """A listening socket on loopback: at this port, or else at the first of a few that is free. Raises BadRun."""
    for number in [port] if port is not None else [*range(8765, 8775), 0]:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((HOST, number))
            made.listen(128)  # whoever comes from now on waits, and is not sent away
            return made
        except OSError as error:
            made.close()
            last = error
    raise BadRun(f"port {port} cannot be used ({last.strerror}); give another --port, or none")


class Served(uvicorn.Server):
    """Serves a store until it is told to end."""

    def __init__(self, store: Store, key: str) -> None:
        self._ending = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                application(store, key, self._ending),
                log_level="error",
                access_log=False,
                timeout_graceful_shutdown=1,  # readers of events would stay for ever
                server_header=False,
                limit_concurrency=200,
                ws="none",
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending.set()
        await super().shutdown(sockets)
