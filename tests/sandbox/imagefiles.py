"""Makes images without any engine: layers as tar archives, and OCI layouts and `docker save` archives around them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Entry = tuple[str, Any]
"""A name, and what is there: bytes (a file), None (a directory), a TarInfo's fields, and `body` if it has one."""

HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
PATH = "PATH=/usr/local/bin:/usr/bin:/bin"


def layer(*entries: Entry, mode: int = 0o755) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, what in entries:
            info = tarfile.TarInfo(name)
            info.mode, body = mode, b""
            if what is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(what, bytes):
                body = what
            else:
                body = what.get("body", b"")
                for field, value in what.items():
                    setattr(info, field, value) if field != "body" else None
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def link(to: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": to}


def hard(to: str) -> dict[str, Any]:
    return {"type": tarfile.LNKTYPE, "linkname": to}


def program() -> bytes:
    """Linked statically."""
    return Path("/bin/busybox").read_bytes()


def busybox() -> bytes:
    """A root file system of one static program; `tar`, `sh`, `stat`, `mkdir` and so on are links to it."""
    names = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = [(f"bin/{name}", link("busybox")) for name in names if name != "busybox"]
    return layer(("bin", None), ("bin/busybox", program()), *links, ("tmp", {"type": tarfile.DIRTYPE, "mode": 0o1777}))


class Layout:
    """An OCI layout with one image, `reference`."""

    def __init__(
        self,
        directory: Path,
        layers: Iterable[bytes],
        *,
        env: Sequence[str] = (PATH,),
        architecture: str = HERE,
        compress: str = "gzip",
        config: Mapping[str, Any] = {},
    ) -> None:
        self.directory, self._blobs = directory, directory / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        layers = list(layers)
        self.diff_ids = [digest(data) for data in layers]
        kinds = {"gzip": "tar+gzip", "zstd": "tar+zstd", "": "tar"}
        described = [
            self.blob(compressed(data, compress), f"application/vnd.oci.image.layer.v1.{kinds[compress]}")
            for data in layers
        ]
        said = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": list(env), "Entrypoint": ["/nothing"]} | dict(config),
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        }
        self.config = self.blob(json.dumps(said).encode(), "application/vnd.oci.image.config.v1+json")
        self.layers = described
        self.finish()

    @property
    def reference(self) -> str:
        return f"oci:{self.directory}:image"

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        (self._blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def file(self, described: Mapping[str, Any]) -> Path:
        return self._blobs / str(described["digest"]).removeprefix("sha256:")

    def finish(self) -> None:
        """Write manifest and index for what `config` and `layers` are now."""
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": self.config, "layers": self.layers}
        described = self.blob(json.dumps(manifest).encode(), kind)
        named = described | {"annotations": {"org.opencontainers.image.ref.name": "image"}}
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def compressed(data: bytes, how: str) -> bytes:
    if how == "zstd":
        return subprocess.run(["/usr/bin/zstd", "-qc"], input=data, capture_output=True, check=True).stdout
    return gzip.compress(data, 1, mtime=0) if how else data


def plain(data: bytes) -> bytes:
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["/usr/bin/zstd", "-dqc"], input=data, capture_output=True, check=True).stdout
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def tools(*more: str) -> bytes:
    """A root file system of the host's own shell and core programs, and `more`, with their libraries."""
    names = ["sh", "tar", "mkdir", "dirname", "cat", "rm", "cp", "stat", "id", "ls", *more]
    files = {str(Path(shutil.which(name) or name).resolve()): f"usr/bin/{name}" for name in names}
    needed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    for library in set(re.findall(r"/\S+\.so\S*(?= \(0x)", needed)):
        files[str(Path(library).resolve())] = library.lstrip("/").removeprefix("usr/")
    usrmerge = [("bin", link("usr/bin"))]
    return layer(*usrmerge, *((name, Path(path).read_bytes()) for path, name in files.items()))


def docker_archive(file: Path, layers: Sequence[bytes], *, env: Sequence[str] = (PATH,)) -> str:
    """What `docker save` writes. Returns its reference."""
    config = {
        "architecture": HERE,
        "os": "linux",
        "config": {"Env": list(env)},
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
    }
    text = json.dumps(config).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    parts = [f"{n}/layer.tar" for n in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": ["made/by:test"], "Layers": parts}]
    files = {name: text, "manifest.json": json.dumps(manifest).encode()} | dict(zip(parts, layers, strict=True))
    file.write_bytes(layer(*files.items()))
    return f"docker-archive:{file}"


def readable(path: Path) -> int:
    """Bytes that a directory takes on disk, each file counted once however many names it has."""
    seen = {}
    for directory, _, names in os.walk(path):
        for name in [".", *names]:
            with suppress(FileNotFoundError):  # what is removed in the background
                status = os.lstat(os.path.join(directory, name))
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
