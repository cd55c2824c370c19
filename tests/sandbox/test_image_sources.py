"""Where images come from: archives, layouts, a real registry on loopback; and what damages them on the way."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Image, Refused, State
from tests.sandbox import imagefiles
from tests.sandbox.imagefiles import HERE, Layout, layer
from tests.sandbox.stores import nothing_stays

BUSYBOX = imagefiles.busybox()
OPAQUE = ".wh..wh..opq"


async def imported(sandbox: Bubblewrap, layout: Layout) -> State:
    return await sandbox.base(Image(reference=layout.reference))


async def out(sandbox: Bubblewrap, state: State, script: str, **how: Any) -> str:
    return (await sandbox.execute(state, ["sh", "-c", script], freeze=False, cwd="/", **how)).text


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "image", [BUSYBOX, layer(("f", b"f" * 10_000))])


async def test_damage_is_found_and_leaves_nothing(sandbox: Bubblewrap, tmp_path: Path) -> None:
    async def refused(what: str, *words: str, **how: Any) -> None:
        other = Layout(tmp_path / what, [layer((what, os.urandom(5000)))], **how)
        blob = other.file(other.layers[0])
        data = blob.read_bytes()
        if what == "truncated":
            blob.write_bytes(data[:-100])
        elif what == "flipped":
            blob.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
        elif what == "gone":
            blob.unlink()
        elif what == "cut, with a digest that fits":
            other.layers = [other.blob(data[:-100], other.layers[0]["mediaType"])]
            other.finish()
        elif what == "another layer's place":  # whoever trusted the diff id would give this content to other images
            other.layers = [
                other.blob(imagefiles.compressed(layer(("f", b"evil")), "gzip"), other.layers[0]["mediaType"])
            ]
            other.finish()
        elif what == "no archive":
            other = Layout(tmp_path / "text", [b"hello" * 1000])
        elif what == "fewer layers":
            other.layers = other.layers * 2
            other.finish()
        with pytest.raises(Refused) as error:
            await imported(sandbox, other)
        assert any(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value)

    await refused("truncated", "igest did not match")
    await refused("flipped", "igest")
    await refused("gone", "no such file")
    await refused("cut, with a digest that fits", "damaged")
    await refused("another layer's place", "not what the image's configuration names")
    await refused("no archive", "no tar archive")
    await refused("fewer layers", "has 2 layers")
    await refused("foreign", "made for linux/s390x", architecture="s390x")
    await refused("no settings", "configuration", config={"Env": 5})
    await refused("strange settings", "configuration", env=["=x"])
    store = tmp_path / "states"
    await nothing_stays(store)
    assert not list(store.glob("i*"))


async def test_a_reference_says_where_the_image_is(sandbox: Bubblewrap, tmp_path: Path) -> None:
    for wrong in ("python:3.11", "containers-storage:x", "/etc/passwd", "docker:", "", "docker://x\ny"):
        with pytest.raises(Refused):
            await sandbox.base(Image(reference=wrong))
    with pytest.raises(Refused, match="no such file"):
        await sandbox.base(Image(reference=f"docker-archive:{tmp_path}/none.tar"))


class Registry:
    """Debian's docker-registry on loopback, with what was pushed by skopeo."""

    def __init__(self, directory: Path, password: str | None = None) -> None:
        self.directory, self.password = directory, password
        directory.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{free.getsockname()[1]}"
        auth = f"auth: {{htpasswd: {{realm: r, path: {directory}/htpasswd}}}}\n" if password else ""
        if password:
            made = subprocess.run(["htpasswd", "-Bbn", "user", password], capture_output=True, check=True).stdout
            (directory / "htpasswd").write_bytes(made)
        (directory / "config.yml").write_text(
            f"version: 0.1\nlog: {{accesslog: {{disabled: false}}}}\n{auth}"
            f"storage: {{filesystem: {{rootdirectory: {directory}/blobs}}}}\nhttp: {{addr: {self.host}}}\n"
        )
        settings = directory / "home" / ".config" / "containers"
        settings.mkdir(parents=True)
        (settings / "registries.conf").write_text(f'[[registry]]\nlocation = "{self.host}"\ninsecure = true\n')
        self._log = (directory / "log").open("wb")

    def __enter__(self) -> Registry:
        command = ["docker-registry", "serve", str(self.directory / "config.yml")]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        began = time.monotonic()
        while socket.socket().connect_ex((self.host.split(":")[0], int(self.host.split(":")[1]))):
            assert time.monotonic() < began + 10, (self.directory / "log").read_text()
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def push(self, layout: Layout, name: str) -> str:
        target = f"docker://{self.host}/{name}"
        credentials = ["--dest-creds", f"user:{self.password}"] if self.password else []
        command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", *credentials, layout.reference, target]
        subprocess.run(command, check=True, capture_output=True)
        return target

    def login(self) -> None:
        who = ["-u", "user", "-p", str(self.password)]
        subprocess.run(["skopeo", "login", "--tls-verify=false", *who, self.host], check=True, capture_output=True)

    def fetched(self) -> list[str]:
        """Digests of blobs that anyone got."""
        lines = [line for line in (self.directory / "log").read_text().splitlines() if '"GET /v2/' in line]
        return [line.split("/blobs/")[1].split()[0] for line in lines if "/blobs/" in line]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        monkeypatch.setenv("HOME", str(registry.directory / "home"))
        yield registry


async def test_from_a_registry(sandbox: Bubblewrap, registry: Registry, layout: Layout, tmp_path: Path) -> None:
    reference = registry.push(layout, "a/image:v1")
    state = await sandbox.base(Image(reference=reference))
    assert await out(sandbox, state, "wc -c < f") == "10000\n"
    assert state == await imported(sandbox, layout)
    for n, described in enumerate(layout.layers):
        assert registry.fetched().count(described["digest"]) == 1, n
    more = Layout(tmp_path / "more", [BUSYBOX, layer(("g", b"g"))])
    await sandbox.base(Image(reference=registry.push(more, "a/more")))
    assert registry.fetched().count(layout.layers[0]["digest"]) == 1  # what is here is not brought again
    assert registry.fetched().count(more.layers[1]["digest"]) == 1
    with pytest.raises(Refused, match="manifest unknown"):
        await sandbox.base(Image(reference=f"docker://{registry.host}/a/image:v2"))
    with pytest.raises(Refused, match="made for linux/riscv64"):
        await sandbox.base(
            Image(reference=registry.push(Layout(tmp_path / "r", [BUSYBOX], architecture="riscv64"), "r"))
        )
    by_digest = f"docker://{registry.host}/a/image@{_manifest(layout)}"
    assert await sandbox.base(Image(reference=by_digest)) == state
    registry.__exit__()
    with pytest.raises(Refused, match="refused"):
        await sandbox.base(Image(reference=f"docker://{registry.host}/a/other"))


def _manifest(layout: Layout) -> str:
    return str(json.loads((layout.directory / "index.json").read_text())["manifests"][0]["digest"])


async def test_an_index_of_several_machines(sandbox: Bubblewrap, registry: Registry, tmp_path: Path) -> None:
    described = []
    for architecture in ("s390x", HERE):
        one = Layout(tmp_path / architecture, [BUSYBOX, layer(("f", architecture.encode()))], architecture=architecture)
        registry.push(one, f"many:{architecture}")
        manifest = one.directory / "blobs" / "sha256" / _manifest(one).removeprefix("sha256:")
        kind = "application/vnd.oci.image.manifest.v1+json"
        size = manifest.stat().st_size
        machine = {"architecture": architecture, "os": "linux"}
        described.append({"mediaType": kind, "digest": _manifest(one), "size": size, "platform": machine})
    for name, manifests in (("all", described), ("theirs", described[:1])):
        await asyncio.to_thread(_put, registry, f"many/manifests/{name}", manifests)
    state = await sandbox.base(Image(reference=f"docker://{registry.host}/many:all"))
    assert await out(sandbox, state, "cat f") == HERE
    with pytest.raises(Refused, match=HERE):
        await sandbox.base(Image(reference=f"docker://{registry.host}/many:theirs"))


def _put(registry: Registry, where: str, manifests: list[Any]) -> None:
    import urllib.request

    kind = "application/vnd.oci.image.index.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode()
    headers = {"Content-Type": kind}
    request = urllib.request.Request(f"http://{registry.host}/v2/{where}", body, headers, method="PUT")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


async def test_from_a_registry_that_wants_to_know_who(
    sandbox: Bubblewrap, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registry(tmp_path / "registry", "pa55word") as registry:
        monkeypatch.setenv("HOME", str(registry.directory / "home"))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        reference = registry.push(layout, "private")
        with pytest.raises(Refused, match=r"authentication required|unauthorized"):
            await sandbox.base(Image(reference=reference))
        await asyncio.to_thread(registry.login)
        state = await sandbox.base(Image(reference=reference))
    hidden = await out(sandbox, state, "cat /proc/*/environ /proc/*/cmdline; ls -R /home /root /run /tmp 2>/dev/null")
    assert "pa55word" not in hidden
    assert "auth.json" not in hidden
    await nothing_stays(tmp_path / "states")
    files = [path for path in (tmp_path / "states").rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if b"pa55word" in path.read_bytes()]
