"""Brings an OCI image into the store: skopeo copies it, layers that are not there yet are unpacked, and it is a base.

Runs on the host, as the user whose registry settings count. What is in an image is hostile; here only its manifest and
its configuration are read, as JSON. Layers are files that skopeo wrote, opened by nobody but imagelayers.py's filter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runoff.sandbox import prerequisites
from runoff.sandbox.protocol import Limits, Refused, State, StoreFull

_log = logging.getLogger(__name__)

TRANSPORTS = ("docker", "docker-archive", "docker-daemon", "oci", "oci-archive", "dir")

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST_TEXT = 16 << 20
_LARGEST_ENVIRONMENT = 100_000
_UNPACKING = Limits(seconds=3600, output=1 << 16, disk=64 << 30, files=2_000_000, file_size=1 << 40)
_ASKING, _COPYING = "2m", "2h"  # deadlines, in skopeo's words


class Ask(Protocol):
    """A step of an import that the sandbox's helper does."""

    async def __call__(self, do: str, **what: Any) -> dict[str, Any]: ...


class Config(NamedTuple):
    """What counts of an image's configuration. Its user, entry point, command and working directory do not."""

    diff_ids: tuple[str, ...]
    """Of its layers, lowest first: the digests of what they are unpacked from."""
    env: dict[str, str]


async def base(reference: str, ask: Ask, store: Path, slots: asyncio.Semaphore) -> State:
    """Raises Refused for what cannot be reached, is not for this machine, is damaged or hostile; StoreFull."""
    skopeo = _Skopeo(prerequisites.skopeo(), checked(reference))
    config = configured(reference, await skopeo.run("inspect", "--config", deadline=_ASKING))
    room = secrets.token_hex(8)
    if await _missing(ask, room, config):
        try:
            directory = store / (await ask("room", room=room))["room"]
            config = await _brought(reference, skopeo, directory, room, ask, config, slots)
        finally:
            await ask("leave", room=room)
    answer = await ask("base", room=room, diff_ids=list(config.diff_ids), env=config.env)
    return State(layers=tuple(answer["layers"]))


async def weigh(reference: str) -> dict[str, int]:
    """Layer → bytes that bringing it takes, compressed, as its registry says; nothing is copied. Raises Refused.

    Empty where sizes are not told (an engine's images, a skopeo older than 1.10).
    """
    said = json.loads(
        await _Skopeo(prerequisites.skopeo(), checked(reference)).run("inspect", "--no-tags", deadline=_ASKING)
    )
    return {str(layer["Digest"]): int(layer["Size"]) for layer in said.get("LayersData") or ()}


async def _brought(
    reference: str, skopeo: _Skopeo, directory: Path, room: str, ask: Ask, config: Config, slots: asyncio.Semaphore
) -> Config:
    """Copy the image and unpack what is missing of it. The image may have changed meanwhile: what was copied counts."""
    blobs = directory / "image" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    missing = await _missing(ask, room, config)
    if len(missing) < len(set(config.diff_ids)):
        said = json.loads(await skopeo.run("inspect", "--no-tags", deadline=_ASKING))
        lent = _lend(blobs, config, said["Layers"] or [], missing)
    else:
        lent = []
    how = ("--quiet", "--retry-times", "3", "--remove-signatures", "--format", "oci")
    await skopeo.run("copy", *how, "--dest-oci-accept-uncompressed-layers", deadline=_COPYING, into=directory)
    for file in lent:
        file.unlink()
    layers, text = _copied(directory / "image")
    if (config := configured(reference, text)).diff_ids and len(layers) != len(config.diff_ids):
        raise Refused(f"{reference}: its manifest has {len(layers)} layers, its configuration {len(config.diff_ids)}")
    files, dropped = dict(zip(config.diff_ids, layers, strict=True)), Counter[str]()

    async def unpack(diff_id: str) -> None:
        async with slots:
            file = blobs / _hexadecimal(files[diff_id])
            if not file.exists():
                raise Refused(f"{reference}: it changed while it was copied; try again")
            what = {"file": str(file.relative_to(directory)), "diff_id": diff_id, "limits": _UNPACKING.model_dump()}
            dropped.update((await ask("layer", room=room, **what))["dropped"])

    if missing := await _missing(ask, room, config):
        unpacking = [asyncio.create_task(unpack(diff_id)) for diff_id in missing]
        try:
            await asyncio.gather(*unpacking)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):  # with that, gather has cancelled them
                for task in unpacking:
                    task.cancel()
            await asyncio.wait(unpacking)
            raise
        await ask("publish", room=room, diff_ids=list(missing))
        lost = ", ".join(f"{count} {what}" for what, count in dropped.items())
        _log.info("%s: all files belong to the sandbox's user now; left out: %s", reference, lost or "nothing")
    return config


async def _missing(ask: Ask, room: str, config: Config) -> set[str]:
    return set((await ask("missing", room=room, diff_ids=list(config.diff_ids)))["missing"])


def checked(reference: str) -> str:
    """Raises Refused for what skopeo would not take for an image, or would take from somewhere surprising."""
    transport, colon, rest = reference.partition(":")
    if not colon or not rest or transport not in TRANSPORTS:
        start = ", ".join(f"{each}:" for each in TRANSPORTS)
        raise Refused(f"{reference}: an image is named with where it is, docker://HOST/NAME:TAG (or {start})")
    if any(ord(character) < 32 for character in reference):
        raise Refused(f"{reference!r}: no name of an image")
    return reference


def configured(reference: str, text: bytes) -> Config:
    """Read an image's configuration, which may say anything. Raises Refused."""
    machine = f"linux/{_ARCHITECTURES.get(platform.machine(), platform.machine())}"
    try:
        said = json.loads(text)
        made_for = f"{said['os']}/{said['architecture']}"
        diff_ids = tuple(str(each) for each in said["rootfs"]["diff_ids"] or ())
        env = _environment((said.get("config") or {}).get("Env") or ())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{reference}: its configuration cannot be read: {error!r}") from None
    if made_for != machine:
        raise Refused(f"{reference}: it is made for {made_for}, this machine is {machine}; get it for {machine}")
    if not diff_ids or not all(_DIGEST.fullmatch(each) for each in diff_ids):
        raise Refused(f"{reference}: its configuration names no layers, or by digests other than sha256")
    return Config(diff_ids, env)


def _environment(lines: Sequence[str]) -> dict[str, str]:
    env = dict(line.partition("=")[::2] for line in lines)
    size = sum(len(name) + len(value) for name, value in env.items())
    if "" in env or any("\0" in name + value for name, value in env.items()) or size > _LARGEST_ENVIRONMENT:
        raise ValueError("Env")
    return env


def _lend(blobs: Path, config: Config, layers: Sequence[str], missing: set[str]) -> list[Path]:
    """So that skopeo need not bring layers that we have: it takes a blob that lies there for granted, whatever is in it."""
    if len(layers) != len(config.diff_ids):
        return []
    pairs = zip(config.diff_ids, layers, strict=True)
    lent = {blobs / _hexadecimal(digest) for diff_id, digest in pairs if diff_id not in missing}
    for file in lent:
        file.write_bytes(b"lent")
    return list(lent)


def _copied(layout: Path) -> tuple[list[str], bytes]:
    """The layers of the one image in an OCI layout, lowest first, and the configuration's text."""
    index = json.loads(_text(layout / "index.json"))
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]))
    return [layer["digest"] for layer in manifest["layers"]], _blob(layout, manifest["config"]["digest"])


def _blob(layout: Path, digest: str) -> bytes:
    text = _text(layout / "blobs" / "sha256" / _hexadecimal(digest))
    if hashlib.sha256(text).hexdigest() != _hexadecimal(digest):
        raise Refused(f"the copy of an image is damaged: {digest} is not what it says")
    return text


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST_TEXT)


def _hexadecimal(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise Refused(f"digests other than sha256 are not supported: {digest[:80]}")
    return digest.removeprefix("sha256:")


class _Skopeo:
    """skopeo on one image, with the user's own settings: auth.json, registries.conf, policy.json, proxies."""

    def __init__(self, program: list[str], reference: str) -> None:
        self._program, self._reference = program, reference

    async def run(self, *command: str, deadline: str, into: Path | None = None) -> bytes:
        argv = [*self._program, "--override-os", "linux", "--command-timeout", deadline]
        argv += ["--tmpdir", str(into)] if into else []
        argv += [*command, self._reference, *([f"oci:{into / 'image'}:image"] if into else [])]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we cancel what runs
        )
        try:
            out, err = await process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):  # it would take the place of what happened
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise _failure(self._reference, err.decode("utf-8", "replace"), process.returncode)
        return out


def _failure(reference: str, words: str, code: int) -> Refused | StoreFull:
    """skopeo's last words, which are one line of a log."""
    lines = [line for line in words.splitlines() if line.strip()]
    said = lines[-1] if lines else f"skopeo ended with exit code {code}"
    if message := re.search(r'msg="((?:[^"\\]|\\.)*)"', said):
        said = re.sub(r'\\(["\\])', r"\1", message[1])
    if "no space left on device" in said:
        return StoreFull(said)
    return Refused(f"{reference}: {said}")
