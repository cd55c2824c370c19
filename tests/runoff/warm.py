"""The command line with its imports done: a process that forks itself for each command, since litellm's import takes seconds.

`command(…)` is `subprocess.run` of it. What a command does begins after the imports, as it is typed: its arguments, environment,
folder and streams are its own. The process ends with the one that first asked for it.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path


def command(
    words: Sequence[str], env: Mapping[str, str], timeout: float, cwd: str | Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Raises subprocess.TimeoutExpired; the command is killed then."""
    with (
        tempfile.TemporaryFile("w+", errors="surrogateescape") as out,
        tempfile.TemporaryFile("w+", errors="surrogateescape") as err,
        socket.socket(socket.AF_UNIX) as asked,
    ):
        asked.connect(str(_server()))
        asked.settimeout(timeout)
        said = {"words": list(words), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        socket.send_fds(asked, [b" "], [out.fileno(), err.fileno()])
        asked.sendall(json.dumps(said).encode() + b"\n")
        answers = asked.makefile()
        process = int(answers.readline())
        try:
            code = int(answers.readline())
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(words), timeout) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read(), err.read())


@cache
def _server() -> Path:
    place = Path(tempfile.mkdtemp(prefix="warm-")) / "socket"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    subprocess.Popen([sys.executable, "-m", __name__, place], env=environment, stdin=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not place.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    return place


class _Command(socketserver.BaseRequestHandler):
    """In a fork of the server: a fork of it becomes the command, it says how that ends."""

    def handle(self) -> None:
        _, (out, err), *_ = socket.recv_fds(self.request, 1, 2)
        asked = json.loads(self.request.makefile().readline())
        process = os.fork()
        if not process:
            os._exit(_become(asked, out, err))
        self.request.sendall(b"%d\n" % process)
        _, status = os.waitpid(process, 0)
        self.request.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(asked: Mapping[str, object], out: int, err: int) -> int:
    from runoff.cli import main

    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.environ.clear()
    os.environ.update(asked["env"])  # type: ignore[call-overload]
    os.chdir(asked["cwd"])  # type: ignore[arg-type]
    sys.argv = ["-c", *asked["words"]]  # type: ignore[misc]
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = 100

    def service_actions(self) -> None:
        super().service_actions()
        if os.getppid() != _BEGAN_BY:
            os._exit(0)


_BEGAN_BY = os.getppid()

if __name__ == "__main__":
    from runoff.agent.providers import litellm

    litellm()
    for name in ("batch.command", "election", "evaluation", "replay", "reporting.runs"):
        importlib.import_module(f"runoff.{name}")
    place = Path(sys.argv[1])
    with _Server(str(place.with_suffix(".new")), _Command) as server:
        place.with_suffix(".new").rename(place)
        server.serve_forever(poll_interval=0.2)
