"""GitHub's published description of its API as a judge: Prism stands between a client and a server, and refuses what either says wrong.

The description is npm's `@octokit/openapi`, the judge `@stoplight/prism-cli`; `scripts/test` puts both into `.venv/npm`. Of the
description (13 MB) only the paths that runoff asks for are loaded.
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

NPM = Path(os.environ.get("RUNOFF_TEST_NPM") or Path(__file__).parents[3] / ".venv" / "npm")
DESCRIPTION = NPM / "api.github.com.json"
PRISM = NPM / "node_modules" / "@stoplight" / "prism-cli" / "dist" / "index.js"
REPOSITORY = "/repos/{owner}/{repo}"
READ = tuple(
    f"{REPOSITORY}{path}"
    for path in ("", "/issues/{issue_number}", "/issues/{issue_number}/comments", "/issues/{issue_number}/timeline", "/pulls", "/branches")
)  # fmt: skip
"""What is asked for to read an issue."""


@contextmanager
def judged(upstream: str, folder: Path, paths: Sequence[str] = READ) -> Iterator[str]:
    """The address of a proxy before `upstream`. A request that GitHub would not take, and an answer that it would not give,
    become an error whose text says what is wrong."""
    if not DESCRIPTION.is_file() or not PRISM.is_file():
        pytest.fail(f"{NPM} holds no Prism and no description of GitHub; scripts/test puts them there", pytrace=False)
    file, log = folder / "described.json", folder / "prism.log"
    file.write_text(json.dumps(described(paths)))
    with log.open("w") as out:
        command = ["node", str(PRISM), "proxy", "--errors", "--host", "127.0.0.1", "--port", "0", str(file), upstream]
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield _listening(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    pytest.fail(f"Prism does not listen: {log.read_text()[-500:]}", pytrace=False)


@cache
def _published() -> dict[str, Any]:
    return dict(json.loads(DESCRIPTION.read_text()))


def described(paths: Sequence[str]) -> dict[str, Any]:
    """The published description of these paths, with all that they refer to."""
    whole = _published()
    kept: dict[str, dict[str, Any]] = {}

    def follow(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(to := part.get("$ref"), str) and to.startswith("#/components/"):
                _, _, kind, name = to.split("/", 3)
                if name not in kept.setdefault(kind, {}):
                    kept[kind][name] = copy.deepcopy(whole["components"][kind][name])
                    follow(kept[kind][name])
            if (
                "nullable" in part and "type" not in part
            ):  # means nothing; Prism would silently judge no such answer at all
                del part["nullable"]
            for each in part.values():
                follow(each)
        elif isinstance(part, list):
            for each in part:
                follow(each)

    chosen = {path: copy.deepcopy(whole["paths"][path]) for path in paths}
    follow(chosen)
    return {name: whole[name] for name in ("openapi", "info", "servers")} | {"paths": chosen, "components": kept}


def example(which: str, **ours: Any) -> Any:
    """A published example of an answer, with some of its values replaced."""
    found = copy.deepcopy(_published()["components"]["examples"][which]["value"])
    return found | ours if isinstance(found, dict) else found
