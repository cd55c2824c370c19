"""A real Chromium without a window, for tests of pages: opened once a session, spoken to over a pipe by its DevTools protocol.

A plugin of pytest: a test asks for `chromium`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()


class Chromium:
    """One page at a time. No network is needed, and none is used."""

    def __init__(self, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()

        def arranged() -> None:  # it reads from descriptor 3 and writes to 4
            reads, writes = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        self._process = subprocess.Popen(
            ["chromium", *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=arranged,
            close_fds=False,
            start_new_session=True,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = os.fdopen(ours[1], "wb", buffering=0), os.fdopen(theirs[0], "rb")
        self._number, self._rest = 0, b""
        (target,) = (one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self._call("Page.enable")

    _session: str | None = None

    def open(
        self, file: Path | str, *, width: int = 1280, scheme: Literal["light", "dark"] = "light", height: int = 900
    ) -> None:
        """Show a page of the disk, or of an address, in a window of this width, to a reader who prefers this."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._seen.clear()
        self._call("Page.navigate", url=file if isinstance(file, str) else file.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """What an expression of JavaScript gives on the page, as JSON, or what it promises; a page's own policy does not hold
        for it."""
        said = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, script: str, seconds: float = 10) -> Any:
        """What an expression gives as soon as that counts as true. Fails if it does not in time."""
        end = time.monotonic() + seconds
        while not (said := self.run(script)):
            assert time.monotonic() < end, (
                f"not within {seconds:g} s: {script}; {self.run('document.body.innerText')[:2000]}"
            )
            time.sleep(0.03)
        return said

    def press(self, *keys: str) -> None:
        """Keys as a keyboard sends them: letters, or names as `Enter`, `ArrowRight`."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)
            common = {"key": key, "windowsVirtualKeyCode": code}
            self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
            self._call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """With a mouse, in the middle of the first element of a selector, wherever it is scrolled to."""
        find = f"document.querySelector({json.dumps(selector)})"
        box = self.run(
            f"(() => {{ const e = {find}; e.scrollIntoView({{block: 'center', inline: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        at = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        self._call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self._call("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def screenshot(self, *, whole: bool = True) -> bytes:
        """All of the page, or what of it is in the window, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def close(self) -> None:
        self._to.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._from.close()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps({"id": self._number, "method": method, "params": params} | session).encode() + b"\0")
        while (said := self._read()).get("id") != self._number:
            self._seen.append(said.get("method"))
        assert "error" not in said, said["error"]
        return dict(said["result"])

    def _wait_for(self, event: str) -> None:
        if event in self._seen:
            self._seen.clear()
            return
        while self._read().get("method") != event:
            pass

    @property
    def _seen(self) -> list[str | None]:
        return self.__dict__.setdefault("seen", [])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._from.read1(1 << 20)
            assert more, "Chromium has ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if not shutil.which("chromium"):
        pytest.fail(
            "needs Debian's chromium (scripts/test installs it), or leave it out, --without chromium", pytrace=False
        )
    opened = Chromium(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
