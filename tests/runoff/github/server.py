"""A GitHub of the tests' own on loopback: its REST API from values, and real Git behind it (git http-backend, with passwords).

What it answers is checked against GitHub's published description in test_contract.py; what it can be told to do (refuse,
limit, move, stumble) is what GitHub does.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

BACKEND = (
    Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip())
    / "git-http-backend"
)
OPENED = "2024-03-01T12:00:00Z"
Answer = tuple[int, Mapping[str, str], Any]
"""Status, headers, what is sent as JSON (bytes are sent as they are)."""


class FakeGitHub:
    """`https://host/o/r` with an API at /api/v3. `routes` come first: path → what to do with the request."""

    def __init__(self, root: Path, *, token: str | None = None, private: bool = False) -> None:
        self.root, self.token, self.private = root, token, private
        self.repositories: dict[str, dict[str, Any]] = {}
        self.issues: dict[tuple[str, int], dict[str, Any]] = {}
        self.lists: dict[str, list[dict[str, Any]]] = {}
        self.routes: dict[str, Callable[[str, Mapping[str, list[str]]], Answer | None]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Verb, path with its query, headers."""
        self.api_base = ""
        """What next pages are said to be at, if not here: a proxy."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *about: Any) -> None:
                pass

            def _any(self) -> None:
                fake._serve(self)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _any  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        self.api = f"{self.base}/api/v3"

    def __enter__(self) -> FakeGitHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *about: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, slug: str, number: int = 1, **issue: Any) -> None:
        """A repository with one issue."""
        self.repositories[slug] = repository(slug, len(self.repositories) + 1, self.base, private=self.private)
        self.issues[slug, number] = make_issue(self.base, slug, number, **issue)
        self.lists |= {
            f"/repos/{slug}/issues/{number}/comments": [],
            f"/repos/{slug}/issues/{number}/timeline": [],
            f"/repos/{slug}/pulls": [],
            f"/repos/{slug}/branches": [],
        }

    def say(self, slug: str, number: int, *comments: tuple[str, str], **more: Any) -> None:
        """Comments: who, what."""
        there = self.lists[f"/repos/{slug}/issues/{number}/comments"]
        for who, what in comments:
            there.append(comment(self.base, slug, number, len(there) + 1, who, what, **more))
        self.issues[slug, number]["comments"] = len(there)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        self.requests.append((handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()}))
        body = self._body(handler)
        if "/info/refs" in url.path or "/git-upload-pack" in url.path or "/git-receive-pack" in url.path:
            self._git(handler, url.path, url.query, body)
            return
        status, headers, data = self._answer(handler, url.path.removeprefix("/api/v3"), parse_qs(url.query))
        sent = data if isinstance(data, bytes) else json.dumps(data).encode()
        handler.send_response(status)
        for name, value in {
            "Content-Type": "application/json; charset=utf-8",
            **headers,
            "Content-Length": str(len(sent)),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(sent)

    def _answer(self, handler: BaseHTTPRequestHandler, path: str, query: Mapping[str, list[str]]) -> Answer:
        for route, act in self.routes.items():
            if re.fullmatch(route, path) and (answer := act(path, query)) is not None:
                return answer
        given = handler.headers.get("Authorization", "")
        if given and self.token and given not in (f"Bearer {self.token}", f"token {self.token}"):
            return 401, {}, error("Bad credentials", 401)
        if self.private and not given:
            return 404, {}, error("Not Found", 404)
        if found := re.fullmatch(r"/repos/([^/]+/[^/]+)", path):
            return self._or_404(self.repositories.get(found[1]))
        if found := re.fullmatch(r"/repos/([^/]+/[^/]+)/issues/(\d+)", path):
            return self._or_404(self.issues.get((found[1], int(found[2]))))
        if path in self.lists:
            return self._page(path, query, self.lists[path])
        return 404, {}, error("Not Found", 404)

    def _page(self, path: str, query: Mapping[str, list[str]], items: list[dict[str, Any]]) -> Answer:
        size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
        headers = {}
        if page * size < len(items):
            others = "".join(f"&{name}={value[0]}" for name, value in query.items() if name not in ("per_page", "page"))
            at = f"{self.api_base or self.api}{path}?per_page={size}{others}&page="
            last = -(-len(items) // size)
            headers["Link"] = f'<{at}{page + 1}>; rel="next", <{at}{last}>; rel="last"'
        return 200, headers, items[(page - 1) * size : page * size]

    @staticmethod
    def _or_404(found: Any) -> Answer:
        return (200, {}, found) if found else (404, {}, error("Not Found", 404))

    @staticmethod
    def _body(handler: BaseHTTPRequestHandler) -> bytes:
        if handler.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(handler.rfile.readline().split(b";")[0], 16):
                parts.append(handler.rfile.read(size))
                handler.rfile.readline()
            handler.rfile.readline()
            return b"".join(parts)
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    def _git(self, handler: BaseHTTPRequestHandler, path: str, query: str, body: bytes) -> None:
        given = handler.headers.get("Authorization", "")
        wanted = base64.b64encode(f"x-access-token:{self.token}".encode()).decode()
        allowed = given == f"Basic {wanted}" if self.token else not given
        if (self.private or "receive-pack" in path + query) and not allowed:
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="GitHub"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "3",
            "GIT_CONFIG_KEY_0": "uploadpack.allowFilter",
            "GIT_CONFIG_VALUE_0": "true",
            "GIT_CONFIG_KEY_1": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_1": "true",
            "GIT_CONFIG_KEY_2": "safe.directory",
            "GIT_CONFIG_VALUE_2": "*",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": handler.command,
            "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "x-access-token" if given else "",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run([BACKEND], input=body, env=environment, capture_output=True, check=False)
        head, _, sent = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        handler.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(sent))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(sent)


def error(message: str, status: int) -> dict[str, str]:
    return {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}


def user(login: str, kind: str = "User") -> dict[str, Any]:
    at = f"https://api.github.com/users/{login}"
    return {
        "login": login,
        "id": 1,
        "node_id": "MDQ6VXNlcjE=",
        "avatar_url": "https://github.com/images/error/octocat_happy.gif",
        "gravatar_id": "",
        "url": at,
        "html_url": f"https://github.com/{login}",
        "type": kind,
        "site_admin": False,
        **{
            f"{name}_url": f"{at}/{name}"
            for name in "followers following gists starred subscriptions organizations repos events received_events".split()
        },
    }


def repository(slug: str, number: int, base: str, *, private: bool = False, **more: Any) -> dict[str, Any]:
    """What runoff reads of one, and no more; `test_contract` sends the whole."""
    name = slug.partition("/")[2]
    return {
        "id": number,
        "name": name,
        "full_name": slug,
        "default_branch": "main",
        "html_url": f"{base}/{slug}",
        "private": private,
        **more,
    }


def make_issue(base: str, slug: str, number: int, **more: Any) -> dict[str, Any]:
    at = f"{base}/api/v3/repos/{slug}/issues/{number}"
    return {
        "id": number,
        "node_id": "MDU6SXNzdWUx",
        "url": at,
        "repository_url": f"{base}/api/v3/repos/{slug}",
        "labels_url": f"{at}/labels{{/name}}",
        "comments_url": f"{at}/comments",
        "events_url": f"{at}/events",
        "html_url": f"{base}/{slug}/issues/{number}",
        "number": number,
        "state": "open",
        "title": "mean of nothing",
        "body": "`mean([])` raises ZeroDivisionError; it should be 0.",
        "user": user("reporter"),
        "labels": [],
        "assignee": None,
        "assignees": [],
        "milestone": None,
        "locked": False,
        "active_lock_reason": None,
        "comments": 0,
        "closed_at": None,
        "closed_by": None,
        "created_at": OPENED,
        "updated_at": OPENED,
        "author_association": "NONE",
        "state_reason": None,
        **more,
    }


def comment(base: str, slug: str, number: int, id_: int, who: str, what: str | None, **more: Any) -> dict[str, Any]:
    at = f"{base}/api/v3/repos/{slug}/issues"
    return {
        "id": id_,
        "node_id": "MDEyOklzc3VlQ29tbWVudDE=",
        "url": f"{at}/comments/{id_}",
        "html_url": f"{base}/{slug}/issues/{number}#issuecomment-{id_}",
        "issue_url": f"{at}/{number}",
        "body": what,
        "user": user(who, "Bot" if who.endswith("[bot]") else "User"),
        "created_at": OPENED,
        "updated_at": OPENED,
        "author_association": "NONE",
        **more,
    }


def make_repository(root: Path, slug: str, commits: Iterable[tuple[str, Mapping[str, str | None]]]) -> list[str]:
    """A bare repository from (date, path → text, None: deleted), and the names of its commits."""
    place = root / f"{slug}.git"
    place.mkdir(parents=True)
    git = ["git", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q", "--bare", place], check=True)
    stream, names = bytearray(), []
    for n, (date, files) in enumerate(commits, 1):
        seconds = subprocess.run(["date", "-d", date, "+%s"], capture_output=True, text=True, check=True).stdout.strip()
        who = f"t <t@localhost> {seconds} +0000"
        stream += f"commit refs/heads/main\nmark :{n}\nauthor {who}\ncommitter {who}\ndata 1\n{n}\n".encode()
        for path, text in files.items():
            data = (text or "").encode()
            stream += (
                f"M 100644 inline {path}\ndata {len(data)}\n".encode() + data + b"\n"
                if text is not None
                else f"D {path}\n".encode()
            )
        names.append(f":{n}")
    marks = place / "marks"
    subprocess.run(
        [*git, "-C", place, "fast-import", "--quiet", f"--export-marks={marks}"], input=bytes(stream), check=True
    )
    known = dict(line.split() for line in marks.read_text().splitlines())
    marks.unlink()
    return [known[name] for name in names]
