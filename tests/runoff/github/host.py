"""A small GitHub on loopback: a real Git server (git http-backend) behind tokens, and as much of the REST API as publishing uses.

The API's part is a fake, for state and faults; what is sent to it is held against GitHub's published description elsewhere.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

READER, WRITER = "ghp_may_only_read_0123456789", "ghp_may_write_0123456789"


class Host:
    """`rights`: token → `read` or `write`; `logins`: token → whose it is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rights = {READER: "read", WRITER: "write"}
        self.logins = {READER: "reader", WRITER: "writer"}
        self.permissions: dict[str, str] = {}
        """Login → `admin`, `write`, `read` or `none`, as the API says it of collaborators."""
        self.pulls: list[dict[str, Any]] = []
        self.comments: list[dict[str, Any]] = []
        self.issue: dict[str, Any] = {"state": "open"}
        self.repository: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Any]] = []
        """Every request of the API: verb, path with its query, body."""
        self.dressed: Callable[[str, Mapping[str, Any]], Any] = lambda kind, ours: dict(ours)
        """What an answer of a kind is sent as, which has what is `ours` and may have more: a published example."""
        self.faults: list[tuple[str, str, int, dict[str, Any]]] = []
        """Verb, pattern of the path, and the status and body with which the next such request fails."""
        self.port = 0
        self._lock = threading.Lock()
        self._numbers = iter(range(100, 10_000))

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, slug: str = "o/r") -> str:
        return f"{self.base}/{slug}.git"

    def make(self, slug: str = "o/r", source: Path | None = None) -> Path:
        """A bare repository, with what `source` has."""
        place = self.root / f"{slug}.git"
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", place], check=True)
        for name in ("allowFilter", "allowAnySHA1InWant"):
            subprocess.run(["git", "-C", place, "config", f"uploadpack.{name}", "true"], check=True)
        if source:
            subprocess.run(["git", "-C", source, "push", "-q", place, "HEAD:refs/heads/main"], check=True)
        return place

    def refs(self, slug: str = "o/r") -> dict[str, str]:
        listed = subprocess.run(
            ["git", "-C", self.root / f"{slug}.git", "for-each-ref", "--format=%(refname) %(objectname)"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return dict(line.split() for line in listed.splitlines())  # type: ignore[misc]

    def answer(self, verb: str, path: str, query: dict[str, str], body: Any, token: str) -> tuple[int, Any]:
        """Of the API."""
        with self._lock:
            self.asked.append((verb, path, body))
            for fault in self.faults:
                if fault[0] == verb and re.search(fault[1], path):
                    self.faults.remove(fault)
                    return fault[2], fault[3]
            if token not in self.rights:
                return 401, {"message": "Bad credentials"}
            if verb != "GET" and self.rights[token] != "write":
                return 403, {"message": "Resource not accessible by personal access token"}
            return self._answered(verb, path, query, body, token)

    def _answered(self, verb: str, path: str, query: dict[str, str], body: Any, token: str) -> tuple[int, Any]:
        if path == "/user":
            return 200, self.dressed("user", {"login": self.logins[token]})
        if not (found := re.fullmatch(r"/repos/([\w.-]+)/([\w.-]+)(/.*)?", path)):
            return 404, {"message": "Not Found"}
        whose, name, rest = found[1], found[2], found[3] or ""
        slug = f"{whose}/{name}"
        if not (self.root / f"{slug}.git").is_dir():
            return 404, {"message": "Not Found"}
        me = {"login": self.logins[token], "type": "User"}
        if not rest:
            return 200, self.dressed("repository", self._repository(slug))
        if found := re.fullmatch(r"/collaborators/([\w\[\]-]+)/permission", rest):
            level = self.permissions.get(found[1], "none")
            told = {"permission": level, "role_name": level, "user": {"login": found[1]}}
            return 200, self.dressed("permission", told)
        if rest == "/pulls" and verb == "GET":
            owner, _, ref = query.get("head", "").partition(":")
            wanted = query.get("state", "open")
            return 200, [
                self.dressed("listed pull", pull)
                for pull in self.pulls
                if pull["slug"] == slug
                and (not ref or (pull["head"]["ref"], pull["head"]["user"]["login"]) == (ref, owner))
                and wanted in ("all", pull["state"])
            ]
        if rest == "/pulls":
            owner, _, ref = body["head"].rpartition(":")
            owner = owner or whose
            if f"refs/heads/{ref}" not in self.refs(slug if owner == whose else f"{owner}/{name}"):
                return 422, {"message": "Validation Failed", "errors": [{"field": "head", "code": "invalid"}]}
            if any(p["head"]["ref"] == ref and p["state"] == "open" and p["slug"] == slug for p in self.pulls):
                return 422, {
                    "message": "Validation Failed",
                    "errors": [{"message": f"A pull request already exists for {owner}:{ref}."}],
                }
            number = next(self._numbers)
            pull = {
                "slug": slug,
                "number": number,
                "state": "open",
                "merged_at": None,
                "html_url": f"{self.base}/{slug}/pull/{number}",
                "head": {"ref": ref, "user": {"login": owner}},
                **{name: body[name] for name in ("title", "body", "draft")},
                "base": {"ref": body["base"]},
            }
            self.pulls.append(pull)
            return 201, self.dressed("pull", pull)
        if found := re.fullmatch(r"/pulls/(\d+)", rest):
            pull = next(pull for pull in self.pulls if pull["number"] == int(found[1]))
            pull |= body or {}
            return 200, self.dressed("pull", pull)
        if re.fullmatch(r"/issues/\d+/timeline|/branches", rest):
            return 200, []
        if re.fullmatch(r"/issues/\d+", rest):
            number = int(rest.rpartition("/")[2])
            about = {"number": number, "title": "mean([]) crashes", "html_url": f"{self.base}/{slug}/issues/{number}"}
            return 200, about | {
                "created_at": "2026-01-01T00:00:00Z",
                "user": me,
                "body": "",
                "comments": 0,
            } | self.issue
        if re.fullmatch(r"/issues/\d+/comments", rest):
            if verb == "GET":
                return 200, [self.dressed("comment", one) for one in self.comments]
            number = next(self._numbers)
            made = {
                "id": number,
                "body": body["body"],
                "user": me,
                "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "html_url": f"{self.base}/{slug}/issues/12#issuecomment-{number}",
            }
            self.comments.append(made)
            return 201, self.dressed("comment", made)
        if found := re.fullmatch(r"/issues/comments/(\d+)", rest):
            one = next(one for one in self.comments if one["id"] == int(found[1]))
            if verb == "DELETE":
                self.comments.remove(one)
                return 204, None
            one |= body
            return 200, self.dressed("comment", one)
        return 404, {"message": "Not Found"}

    def _repository(self, slug: str) -> dict[str, Any]:
        about = {"id": 1, "full_name": slug, "default_branch": "main", "html_url": f"{self.base}/{slug}"}
        return about | {"archived": False, "fork": False} | self.repository


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: Host

    def log_message(self, *args: object) -> None:
        pass

    def _any(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        if parts.path.startswith("/api/v3/"):
            token = (self.headers.get("Authorization") or "").partition(" ")[2]
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            said = json.loads(body) if body else None
            status, answer = self.host.answer(self.command, parts.path.removeprefix("/api/v3"), query, said, token)
            data = b"" if answer is None else json.dumps(answer).encode()
            self._send(status, {"Content-Type": "application/json"}, data)
        else:
            self._git(parts.path, parts.query, body)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _any  # noqa: N815

    def _git(self, path: str, query: str, body: bytes) -> None:
        word = (self.headers.get("Authorization") or "").partition(" ")[2]
        token = base64.b64decode(word).decode().partition(":")[2] if word else ""
        right = self.host.rights.get(token)
        if right is None:
            self._send(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            return
        if "git-receive-pack" in path + query and right != "write":
            self._send(403, {"Content-Type": "text/plain"}, b"Write access to repository not granted.\n")
            return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.host.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "REMOTE_USER": self.host.logins[token],
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=False)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        self._send(int(headers.pop("Status", "200").split()[0]), headers, data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(root: Path) -> Iterator[Host]:
    host = Host(root)
    handler = type("Handler", (_Handler,), {"host": host})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    host.port = server.server_port
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
