"""The image at the bottom of a chain of states: the host's programs on a skeleton, or an image made ready. Blocking.

Nothing of an image is executed for that, and nothing of it is opened as a file here: it is looked at as tar streams.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from runoff.sandbox import skeleton
from runoff.sandbox.docker.engine import Engine, Missing
from runoff.sandbox.protocol import REPO, Base, Image, Refused, SandboxLost

INSIDE = "runoff.inside"
"""The label that says what is true inside, and marks an image as a state."""

USER = 64000
"""Who runs inside on a skeleton: nobody's number on the host."""

ENVIRONMENT = {"PATH": "/env/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user", "LANG": "C.UTF-8"}

_BASES = "runoff-base"  # repository of tags
_HEAD = 8 << 10  # bytes of a tar stream that surely hold its first member's head
_IDLE = {"NetworkMode": "none"}
_NEVER_RUN = ["/bin/sh"]


class Inside(NamedTuple):
    """What is true of all states on one base."""

    shown: tuple[str, ...]
    """Host directories shown read-only."""
    user: str
    """Numbers of user and group."""
    env: dict[str, str]

    @property
    def is_root(self) -> bool:
        return self.user.startswith("0:")

    def label(self) -> dict[str, str]:
        return {INSIDE: json.dumps(self)}

    @classmethod
    def of(cls, image: Mapping[str, Any]) -> Inside | None:
        """As the labels of an image say, None for one that is no state."""
        said = ((image["Config"] or {}).get("Labels") or {}).get(INSIDE)
        if not said:
            return None
        shown, user, env = json.loads(said)
        return cls(tuple(shown), user, env)


def key(*what: object) -> str:
    """A tag for what is named by all of this."""
    return hashlib.blake2b(repr(what).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def of_host(engine: Engine, base: Base, labels: dict[str, str]) -> str:
    """The digest of the skeleton on which the host's programs are shown. Made once for what it holds."""
    try:
        shown = skeleton.mounts(base.binds)
    except ValueError as error:
        raise Refused(str(error)) from None
    items = skeleton.plan(shown, USER)
    inside = Inside(tuple(_with_nested(shown)), f"{USER}:{USER}", ENVIRONMENT)
    tag = key(skeleton.name(items, shown, USER), inside)
    return _there(engine, tag) or _tagged(
        engine, engine.imported(_packed(items, USER, USER), inside.label() | labels), tag
    )


def of_image(engine: Engine, image: Image, labels: dict[str, str]) -> str:
    """The digest of the image with the places that every environment has. Made once for each image id."""
    name = _fetched(engine, image.reference)
    try:
        said = engine.image(name)
    except (Missing, SandboxLost) as error:
        raise Refused(f"{image.reference}: {error}; docker://NAME:TAG would pull it") from None
    if said["Os"] != "linux":
        raise Refused(f"{image.reference}: made for {said['Os']}, not for linux")
    tag = key(said["Id"])
    return _there(engine, tag) or _tagged(engine, _prepared(engine, said, image.reference, labels), tag)


def _there(engine: Engine, tag: str) -> str | None:
    with suppress(Missing):
        return str(engine.image(f"{_BASES}:{tag}")["Id"]).removeprefix("sha256:")
    return None


def _tagged(engine: Engine, image: str, tag: str) -> str:
    engine.tag(image, _BASES, tag)
    return image.removeprefix("sha256:")


def _with_nested(shown: Sequence[str]) -> list[str]:
    """With what is mounted inside of them: a read-only bind does not make that read-only, so each is bound by itself."""
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    mounted = [line.split()[4].encode().decode("unicode_escape") for line in table]
    nested = {at for at in mounted if any(at.startswith(f"{outer}/") for outer in shown) and os.path.isdir(at)}  # noqa: PTH112
    return sorted({*shown, *nested})


def _fetched(engine: Engine, reference: str) -> str:
    """The engine's own name for an image, which it now has, or never had."""
    kind, _, rest = reference.partition(":")
    if kind == "docker-daemon":
        return rest
    if kind == "docker":
        name = rest.removeprefix("//")
        try:
            engine.image(name)
        except Missing:
            try:
                engine.pull(name)
            except SandboxLost as error:
                raise Refused(f"{reference}: {error}") from error
        return name
    if kind == "docker-archive":
        try:
            with open(rest, "rb") as archive:
                return engine.load(archive)
        except OSError as error:
            raise Refused(f"{reference}: {error.strerror}") from None
    if kind in ("oci", "oci-archive", "dir", "containers-storage"):
        raise Refused(f"Docker reads no {kind} images: `skopeo copy {reference} docker-daemon:NAME:TAG` first")
    return reference


def _prepared(engine: Engine, image: Mapping[str, Any], reference: str, labels: dict[str, str]) -> str:
    config: Mapping[str, Any] = image["Config"] or {}
    container = engine.create(image["Id"], _NEVER_RUN, _IDLE, labels)
    try:
        for needed in ("/bin/sh", "/usr/bin/env"):
            if not _member(engine, container, needed):
                raise Refused(f"{reference}: there is no {needed} in it, so nothing can be executed")
        user = _user(engine, container, config.get("User") or "")
        missing = [item for item in _places() if not _member(engine, container, item.path)]
        if missing:
            engine.put(container, _packed(missing, *map(int, user.split(":"))))
        own = dict(pair.split("=", 1) for pair in config.get("Env") or () if "=" in pair)
        own["PATH"] = f"/env/bin:{own['PATH']}" if own.get("PATH") else ENVIRONMENT["PATH"]
        marked = Inside((), user, ENVIRONMENT | own).label() | labels
        if config.get("Volumes"):  # what is in a volume is in no commit
            return engine.imported(engine.exported(container), marked)
        made = engine.commit(container)
    finally:
        engine.remove(container)
    container = engine.create(made, _NEVER_RUN, _IDLE, marked)
    try:
        return engine.commit(container)
    finally:
        engine.remove(container)


def _places() -> list[skeleton.Item]:
    user = [skeleton.Item(path, stat.S_IFDIR | 0o755, users=True) for path in skeleton.WRITABLE]
    return [skeleton.Item("/home", stat.S_IFDIR | 0o755), *user, skeleton.Item("/tmp", stat.S_IFDIR | 0o1777)]


def _user(engine: Engine, container: str, said: str) -> str:
    """The image's own user; if that is root, whoever owns the repository; if that is root too, root without rights."""
    name, _, group = said.partition(":")
    users, groups = _table(engine, container, "/etc/passwd"), _table(engine, container, "/etc/group")
    for wanted, known, where in ((name, users, "/etc/passwd"), (group, groups, "/etc/group")):
        if wanted and not wanted.isdigit() and wanted not in known:
            raise Refused(f"the image is to run as {said}, which its {where} does not know")
    uid = name if name.isdigit() or not name else users[name][2]
    if uid and int(uid):
        own = next((line[3] for line in users.values() if line[2] == uid), uid)
        gid = group if group.isdigit() else groups[group][2] if group else own
        return f"{int(uid)}:{int(gid)}"
    repository = _member(engine, container, REPO)
    return f"{repository.uid}:{repository.gid}" if repository and repository.uid else "0:0"


def _table(engine: Engine, container: str, path: str) -> dict[str, list[str]]:
    """Name → fields."""
    with suppress(Missing, tarfile.TarError, KeyError):
        packed = io.BytesIO(b"".join(engine.archived(container, path)))
        with tarfile.open(fileobj=packed) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            lines = file.read().decode("utf-8", "replace").splitlines() if file else []
            fields = [line.split(":") for line in lines if line.count(":") >= 3]
            return {line[0]: line for line in fields if line[2].isdigit() and (line[3].isdigit() or len(line) == 4)}
    return {}


def _member(engine: Engine, container: str, path: str) -> tarfile.TarInfo | None:
    """What there is at a path. The rest of the stream is not read: it may be a whole tree."""
    with suppress(Missing, tarfile.TarError), closing(engine.archived(container, path)) as chunks:
        head = b""
        while len(head) < _HEAD and (chunk := next(chunks, b"")):
            head += chunk
        with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as tar:
            return tar.next()
    return None


def _packed(items: Iterable[skeleton.Item], uid: int, gid: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            member = tarfile.TarInfo(item.path.lstrip("/"))
            member.mode, member.size = stat.S_IMODE(item.mode), 0
            if item.users:
                member.uid, member.gid = uid, gid
            if stat.S_ISDIR(item.mode):
                member.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(item.mode):
                member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(item.body)
            else:
                member.size = len(item.body)
            tar.addfile(member, io.BytesIO(item.body) if member.size else None)
    return packed.getvalue()
