"""A server on loopback that answers like a provider on a bad day: a public test double for whatever speaks to one."""

from __future__ import annotations

import enum
import hashlib
import json
import random
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runoff.agent.protocol import Reply, Usage
from runoff.agent.tools import native_calls


class Fault(enum.StrEnum):
    """How a request to `Faulty` goes wrong. All but the last four may go well the next time; the last one is none, if it
    streams: what has come is the answer, though nobody says what it took."""

    LIMITED = "429"
    LIMITED_UNTIL = "429 with Retry-After"
    BROKEN = "500"
    BUSY = "503"
    STALL = "no answer at all"
    DRIP = "an answer that does not come to an end"
    RESET = "the connection is reset"
    CUT = "the body ends half-way"
    EMPTY = "a reply without text"
    GARBAGE = "a body that is not JSON"
    WRONG = "JSON that is no reply"
    KEY = "401"
    UNKNOWN = "404"
    TOO_LONG = "400: the context is too small"
    OPEN = "a whole answer, and the connection stays open without a word"


TRANSIENT = tuple(Fault)[:-4]
Schedule = Callable[[str, int], Fault | None]
"""What goes wrong with the nth request (from 0) for a conversation, given its digest; None: nothing."""


def seeded(seed: int, rate: float, kinds: Sequence[Fault] = TRANSIENT, most: int = 4) -> Schedule:
    """Faults at random, the same ones for the same conversations whatever the order they arrive in.

    `most` are put in the way of one conversation, so that a client which tries more often gets through.
    """

    def choose(digest: str, attempt: int) -> Fault | None:
        chance = random.Random(f"{seed}\0{digest}\0{attempt}")
        return chance.choice(kinds) if attempt < most and chance.random() < rate else None

    return choose


Messages = list[dict[str, Any]]


class Faulty:
    """An OpenAI-compatible server at `api_base`, inside this process, on a port of the loopback that was free.

        with Faulty([Fault.LIMITED, Fault.CUT], lambda messages: "done") as server:
            LiteLLM(api_base=server.api_base)

    Streams where it is asked to; then CUT ends the body, and DRIP the words, half-way. A `Reply` as the answer may call
    tools.

    `schedule` lists what goes wrong in the order requests arrive (None: nothing does), and then all is well; or it is a
    function, see `seeded`. Prompt tokens that a former request had too are counted as cached ones, as providers do.
    """

    def __init__(
        self,
        schedule: Sequence[Fault | None] | Schedule = (),
        answer: Callable[[Messages], str | Reply] = lambda messages: f"heard: {_text(messages[-1])[:80]}",
        *,
        retry_after: str = "1",
        latency: float = 0.0,
        samples: int = 1,
        port: int = 0,
    ) -> None:
        self.retry_after = retry_after
        """The header's value: seconds, or an HTTP date."""
        self.latency = latency
        self.samples = samples
        """What a request gets at most, whatever `n` it asks for; each is asked of `answer`."""
        self.requests: list[dict[str, Any]] = []
        """The body of each request, in the order they arrived."""
        self.faults = Counter[Fault]()
        """How often each was done."""
        self.keys = set[str]()
        """What was sent as `Authorization`."""
        self.most_at_once = 0
        self.billed: list[Usage] = []
        """Of each reply that was sent whole, the empty ones too."""
        self.lost: list[Usage] = []
        """Of replies that broke off on their way, as far as they had come."""
        self.uncounted: list[Usage] = []
        """Of replies that were sent whole but for the count of what they took."""
        self.unread: list[Usage] = []
        """Of replies in one piece whose body was cut: a client cannot know of these."""
        self.silent: Callable[[str], None] = lambda digest: None
        """Told when an answer stops coming (STALL, DRIP, OPEN), with the digest of its conversation, from a thread."""
        self._schedule, self._answer, self._port = schedule, answer, port
        self._attempts = Counter[str]()
        self._seen = set[str]()
        self._at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @staticmethod
    def digest(messages: Messages) -> str:
        """What a conversation is called here."""
        return _digests(messages)[-1]

    def __enter__(self) -> Faulty:
        self._server = _Server(("127.0.0.1", self._port), type("Handler", (_Handler,), {"faulty": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def respond(self, handler: _Handler, body: dict[str, Any]) -> None:
        """Answer one request, or fail it, as the schedule says."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.keys.add(handler.headers.get("Authorization", ""))
            fault = self._next(body)
        try:
            self._closing.wait(self.latency)
            self._fail(handler, body, fault) if fault else self._reply(handler, body, self._answer(body["messages"]))
        finally:
            with self._lock:
                self._at_once -= 1

    def _next(self, body: dict[str, Any]) -> Fault | None:
        digest = self.digest(body["messages"])
        attempt, self._attempts[digest] = self._attempts[digest], self._attempts[digest] + 1
        place = len(self.requests)
        self.requests.append(body)
        if callable(self._schedule):
            fault = self._schedule(digest, attempt)
        else:
            fault = self._schedule[place] if place < len(self._schedule) else None
        if fault:
            self.faults[fault] += 1
        return fault

    def _fail(self, handler: _Handler, body: dict[str, Any], fault: Fault) -> None:
        match fault:
            case Fault.LIMITED | Fault.BROKEN | Fault.BUSY | Fault.UNKNOWN:
                handler.send(int(fault), _refusal(f"injected {fault}"))
            case Fault.LIMITED_UNTIL:
                handler.send(429, _refusal("injected 429"), {"Retry-After": self.retry_after})
            case Fault.KEY:
                handler.send(401, _refusal(f"Incorrect API key provided: {handler.headers.get('Authorization')}"))
            case Fault.TOO_LONG:
                said = "request (5004 tokens) exceeds the available context size (4096 tokens), try increasing it"
                handler.send(400, _refusal(said, "exceed_context_size_error"))
            case Fault.STALL:
                self._fall_silent(handler, body)
            case Fault.DRIP | Fault.OPEN if body.get("stream"):
                self._reply(handler, body, self._answer(body["messages"]), whole=fault is Fault.OPEN, ended=False)
                self._fall_silent(handler, body, b": blank\n\n" if fault is Fault.DRIP else b"")
            case Fault.DRIP | Fault.OPEN:
                handler.send(200, b" " * 10_000, whole=False)
                self._fall_silent(handler, body, b" ")
            case Fault.RESET:
                handler.reset()
            case Fault.CUT:
                self._reply(handler, body, self._answer(body["messages"]), whole=False)
                handler.close_connection = True
            case Fault.EMPTY:
                self._reply(handler, body, "")
            case Fault.GARBAGE:
                handler.send(200, b"<html>all is well</html>")
            case Fault.WRONG:
                handler.send(200, b'{"object": "chat.completion", "choices": [], "hello": "world"}')

    def _fall_silent(self, handler: _Handler, body: dict[str, Any], drip: bytes = b"") -> None:
        """Say no more, or nothing that means anything, until the client hangs up."""
        self.silent(self.digest(body["messages"]))
        while not self._closing.wait(0.05) and not handler.hung_up():
            if drip and body.get("stream"):
                handler.piece(drip)
            else:
                handler.wfile.write(drip)

    def _reply(
        self, handler: _Handler, body: dict[str, Any], answer: str | Reply, whole: bool = True, ended: bool = True
    ) -> None:
        reply = _as_reply(answer)
        words = reply.text.split(" ")
        streams = bool(body.get("stream"))
        if streams and not whole:
            words, reply = words[: (len(words) + 1) // 2], Reply(text=" ".join(words[: (len(words) + 1) // 2]))
        asked = min(int(body.get("n") or 1), self.samples) if whole and answer and not streams else 1
        more = [_as_reply(self._answer(body["messages"])) for _ in range(asked - 1)]
        usage = self._count(body["messages"], [reply, *more])
        billed = {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        }
        finish = "tool_calls" if reply.calls else "stop"
        raw: dict[str, Any] = {"id": f"chatcmpl-{len(self.requests)}", "created": 0, "model": body["model"]}
        with self._lock:
            kept = self.lost if streams else self.unread
            (kept if not whole else self.billed if ended else self.uncounted).append(usage)
        if streams:
            calls = [call | {"index": place} for place, call in enumerate(native_calls(reply.calls))]
            deltas: list[dict[str, Any]]
            deltas = [{"content": (" " if place else "") + word} for place, word in enumerate(words) if reply.text]
            deltas += [{"tool_calls": [call]} for call in calls]
            begun = [[{"index": 0, "delta": {"role": "assistant"} | delta, "finish_reason": None}] for delta in deltas]
            ends: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]
            ends += [{"choices": [], "usage": billed}] if ended else []
            handler.begin("text/event-stream")
            pieces: list[dict[str, Any]] = [{"choices": choice} for choice in begun]
            for piece in pieces + (ends if whole else []):
                handler.piece(
                    b"data: " + json.dumps(raw | {"object": "chat.completion.chunk"} | piece).encode() + b"\n\n"
                )
            if whole and ended:
                handler.piece(b"data: [DONE]\n\n")
                handler.piece(b"")
            return
        choices = [_choice(place, each, bool(body.get("logprobs"))) for place, each in enumerate([reply, *more])]
        raw |= {"object": "chat.completion", "choices": choices, "usage": billed}
        handler.send(200, json.dumps(raw).encode(), whole=whole)

    def _count(self, messages: Messages, replies: Sequence[Reply]) -> Usage:
        sizes = [len(_text(message)) // 4 + 4 for message in messages]
        digests = _digests(messages)
        with self._lock:
            known = [place + 1 for place, digest in enumerate(digests) if digest in self._seen]
            self._seen.update(digests)
        said = [len(reply.text) + sum(len(call.arguments) for call in reply.calls) for reply in replies]
        output = sum(size // 4 + 1 for size in said)
        return Usage(input=sum(sizes), cached=sum(sizes[: max(known, default=0)]), output=output)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what this server is for


class _Handler(BaseHTTPRequestHandler):
    faulty: Faulty
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/chat/completions"):
            self.faulty.respond(self, body)
        else:
            self.send(404, _refusal(f"no such path: {self.path}"))

    def send(self, status: int, body: bytes, headers: Mapping[str, str] = {}, whole: bool = True) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if whole else body[: len(body) // 2])
        self.close_connection = self.close_connection or not whole

    def begin(self, kind: str) -> None:
        """A body whose length is not known yet; `piece` sends it, the empty one ends it."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def hung_up(self) -> bool:
        """Whether the client has closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def _as_reply(answer: str | Reply) -> Reply:
    return answer if isinstance(answer, Reply) else Reply(text=answer)


def _choice(place: int, reply: Reply, logprobs: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = native_calls(reply.calls)
    words = reply.text.split(" ")
    said = [{"token": word, "logprob": -0.1, "top_logprobs": [{"token": word, "logprob": -0.1}]} for word in words]
    return {
        "index": place,
        "finish_reason": "tool_calls" if reply.calls else "stop",
        "message": message,
        "logprobs": {"content": said} if logprobs and reply.text else None,
    }


def _refusal(said: str, kind: str = "injected") -> bytes:
    return json.dumps({"error": {"message": said, "type": kind, "code": None}}).encode()


def _text(message: dict[str, Any]) -> str:
    """What a message says: its content may be absent, or in parts."""
    content = message["content"] or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _digests(messages: Messages) -> list[str]:
    """Of the conversation up to each message."""
    digests, so_far = [], hashlib.blake2b(digest_size=12)
    for message in messages:
        so_far.update(f"{message['role']}\0{_text(message)}\0{message.get('tool_calls', '')}".encode())
        digests.append(so_far.hexdigest())
    return digests
