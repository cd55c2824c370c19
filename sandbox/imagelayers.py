"""An image's layers in the store: each unpacked once, in a sandbox, whatever images have it. Part of the sandbox's helper.

Standard library only. A layer is named by its diff id and its new owner; images that share it share its directory. What
unpacks it is tar, as the sandbox's user in a plain sandbox, from what layerfilter.py lets through. On top of an image's
layers lies one of ours, with what a sandbox needs and the image lacks; under its name the image is a base like any other.
"""

# ruff: noqa: PTH103, PTH104, PTH106
# Paths are short strings relative to the store, see cell.py.
from __future__ import annotations

import ctypes
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runoff.sandbox import enclosure, layerstore, running, skeleton
else:
    sys.path.append(str(Path(__file__).parent))
    import enclosure
    import layerstore
    import running
    import skeleton

MOST_LAYERS = 80
"""Of one image; of a deeper one the lowest are merged: the options of a mount have one page."""

_FORMAT = 1  # of what lies in the store: another number, and images are unpacked again
_LARGEST_TEXT = 1 << 20
_UNPACK = "mkdir u && exec tar -xpf - --no-same-owner --delay-directory-restore -C u"
_libc = ctypes.CDLL(None, use_errno=True)


class Found(NamedTuple):
    layer: int
    place: str
    status: os.stat_result


class ImageLayers:
    def __init__(
        self, store: layerstore.LayerStore, run: enclosure.Enclosure, prefix: str, owner: int, user: int
    ) -> None:
        self._store, self._enclosure, self._prefix, self._owner, self._user = store, run, prefix, owner, user

    def missing(self, diff_ids: Sequence[str]) -> list[str]:
        return [diff_id for diff_id in dict.fromkeys(diff_ids) if not self._store.holds([self._name(diff_id)])]

    def unpack(
        self, base: str, shown: Sequence[str], layer: str, diff_id: str, room: str, limits: Any, stop: running.Stop
    ) -> dict[str, int]:
        """Make the layer of what lies in the file `layer`, in an execution on the plain base; it stays in `room`.

        Returns what was dropped.
        """
        asked: dict[str, Any] = {"argv": ["sh", "-c", _UNPACK], "limits": limits, "env": {}, "cwd": "/testbed"}
        asked |= {"proxy": None}
        made = f"{room}/{self._name(diff_id)}"
        os.makedirs(f"{made}/u")
        with self._store.slot() as slot:
            with _filtered(layer, diff_id, f"{made}/said") as tame, self._store.mounted(slot, [base]) as root:
                has_room = self._store.has_room
                ran = self._enclosure.run(enclosure.Execution(root, f"{slot}/u", shown, asked, tame, stop, has_room))
            said: dict[str, Any] = {}
            with suppress(FileNotFoundError), open(f"{made}/said") as file:
                said = json.load(file)
            if "error" in said:
                raise running.Problem("refused", f"layer {diff_id} cannot be used: {said['error']}")
            if not said or ran.outcome != "finished" or ran.exit_code != 0:
                words = ran.stderr.kept().decode("utf-8", "replace").strip().replace("\n", "; ")
                raise running.Problem("refused", f"layer {diff_id} cannot be unpacked ({ran.outcome}): {words}")
            self._take(f"{slot}/u", f"{made}/u")
            with _directory(f"{made}/u") as top:
                self._mark(top, said)
            os.rename(f"{made}/said", f"{made}/layer")
        return dict(said["dropped"])

    def publish(self, room: str, diff_ids: Sequence[str]) -> None:
        _sync()  # what has its name is never looked into again
        for diff_id in diff_ids:
            self._store.publish(f"{room}/{self._name(diff_id)}", self._name(diff_id), ())

    def base(self, diff_ids: Sequence[str], env: Mapping[str, str]) -> str:
        """The base that is this image; its layers, lowest first, must be there."""
        names = [self._name(diff_id) for diff_id in diff_ids]
        lower = list(dict.fromkeys(reversed(names)))  # a layer that comes again covers all that it said before
        if len(lower) > MOST_LAYERS:
            lower = [*lower[: MOST_LAYERS - 1], self._merged(lower[MOST_LAYERS - 1 :])]
        tree = Tree(self._prefix, lower)
        items = plan(tree, _implicit(tree, lower), self._user)
        said = repr((_FORMAT, items, lower, sorted(env.items()), self._owner))
        name = "b" + hashlib.blake2b(said.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        if not self._store.holds([name]):
            with self._store.slot() as slot:
                skeleton.write(items, f"{slot}/u", self._owner)
                for file, record in (("shown", []), ("image", {"env": dict(env)})):
                    with open(f"{slot}/{file}", "w") as written:
                        json.dump(record, written)
                self._store.publish(slot, name, lower)
        return name

    def _name(self, diff_id: str) -> str:
        said = repr((_FORMAT, diff_id, self._owner, self._prefix))
        return "i" + hashlib.blake2b(said.encode(), digest_size=16).hexdigest()

    def _merged(self, lowest: Sequence[str]) -> str:
        name = "i" + hashlib.blake2b(repr((_FORMAT, lowest)).encode(), digest_size=16).hexdigest()
        if not self._store.holds([name]):
            with self._store.slot() as slot:
                implicit = _implicit(Tree(self._prefix, lowest), lowest)
                self._store.merge(lowest, slot)
                with open(f"{slot}/layer", "w") as file:
                    json.dump({"implicit": [path for path, _ in implicit]}, file)
                self._store.publish(slot, name, ())
        return name

    def _take(self, upper: str, into: str) -> None:
        """What was unpacked, out of what else may lie there; a sandbox wrote all of it."""
        with _directory(upper, "testbed") as place:
            if not stat.S_ISDIR(os.stat("u", dir_fd=place, follow_symlinks=False).st_mode):
                raise running.Problem("refused", "the layer replaced the directory that it was unpacked into")
            os.rmdir(into)
            os.rename("u", into, src_dir_fd=place)

    def _mark(self, top: int, said: Mapping[str, Any]) -> None:
        for name in os.listxattr(top):  # what overlayfs noted about the place where it was unpacked
            if name.startswith(self._prefix):
                os.removexattr(top, name)
        for path in said["opaque"]:
            with _directory(path, at=top) as directory:
                os.setxattr(directory, self._prefix + "opaque", b"y")
        for path in said["whiteouts"]:
            parent, _, name = path.rpartition("/")
            with _directory(parent or ".", at=top) as directory:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)


class Tree:
    """What layers (topmost first) show together. Follows no link; nothing runs that could change them."""

    def __init__(self, prefix: str, layers: Sequence[str]) -> None:
        self._opaque, self.layers = prefix + "opaque", layers

    def find(self, path: str, under: int = -1) -> list[Found]:
        """The directories that make up the one at `path`, topmost first, or the one other thing that is there, or none.

        With `under`, as the layers below that one show it.
        """
        found = [Found(n, f"{name}/u", os.lstat(f"{name}/u")) for n, name in enumerate(self.layers) if n > under]
        for part in path.strip("/").split("/"):
            found = list(self._step(found, part))
        return found

    def text(self, path: str) -> bytes | None:
        """A regular file of no great size."""
        found = self.find(path)
        if not found or not stat.S_ISREG(found[0].status.st_mode) or found[0].status.st_size > _LARGEST_TEXT:
            return None
        return Path(found[0].place).read_bytes()

    def _step(self, directories: Sequence[Found], name: str) -> Iterator[Found]:
        first = True
        for n, place, status in directories:
            if not stat.S_ISDIR(status.st_mode):
                return
            try:
                status = os.lstat(f"{place}/{name}")
            except FileNotFoundError:
                continue
            directory = stat.S_ISDIR(status.st_mode)
            if directory or (first and not stat.S_ISCHR(status.st_mode)):
                yield Found(n, f"{place}/{name}", status)
            if not directory or self._opaque in os.listxattr(f"{place}/{name}"):
                return
            first = False


def plan(tree: Tree, implicit: Sequence[tuple[str, int]], user: int) -> list[skeleton.Item]:
    """What has to lie on top of an image, parents first. `implicit`: directories that a layer has without describing them."""
    items: dict[str, skeleton.Item] = {}

    def directory(path: str, mode: int = 0o755) -> None:
        """A real one, whatever the image has there; if it has one, with its mode."""
        if path in items:
            return
        if parent := path.rpartition("/")[0]:
            directory(parent)
        found = tree.find(path)
        mode = stat.S_IMODE(found[0].status.st_mode) if _is_directory(found) else mode
        items[path] = skeleton.Item(path, stat.S_IFDIR | mode, users=True)

    for path, mode in implicit:
        directory(path)
        items[path] = items[path]._replace(mode=stat.S_IFDIR | mode)
    for path in ("/proc", "/dev", "/etc"):
        directory(path)
    for path in (*skeleton.WRITABLE, "/tmp"):
        there = [tree.find(outer) for outer in _down_to(path)]
        if not there[-1] and all(_is_directory(found) for found in there if found):  # a link may lead to something
            directory(path, 0o1777 if path == "/tmp" else 0o755)
    for path, body in _files(tree, user):
        items[path] = skeleton.Item(path, stat.S_IFREG | 0o644, body, users=True)
    return sorted(items.values())


def _files(tree: Tree, user: int) -> Iterator[tuple[str, bytes]]:
    """The files of /etc that are ours, or the image's with our lines added."""
    ours = {item.path: item.body for item in skeleton.own(user)}
    for path, number in (("/etc/passwd", 2), ("/etc/group", 2)):
        text = tree.text(path)
        known = text is not None and any(
            line.split(b":")[number : number + 1] == [b"%d" % user] for line in text.splitlines()
        )
        if text is None:
            yield path, ours[path]
        elif not known:
            line = next(line for line in ours[path].splitlines() if line.startswith(b"user:"))
            yield path, text + (b"\n" if text and not text.endswith(b"\n") else b"") + line + b"\n"
    for path in ("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"):
        if not tree.text(path):
            yield path, ours[path]
    yield "/etc/gitconfig", (tree.text("/etc/gitconfig") or b"").rstrip(b"\n") + b"\n" + ours["/etc/gitconfig"]


def _implicit(tree: Tree, layers: Sequence[str]) -> list[tuple[str, int]]:
    """Directories whose topmost layer only passes through them, with the mode that a layer below gives them, if it is another.

    A directory like that may also hide a link that it was meant to follow: what unpacks layers one on top of the other
    follows it, and here it cannot be. Refused.
    """
    implied: dict[str, list[int]] = {}
    for n, name in enumerate(layers):
        with open(f"{name}/layer") as file:
            for path in json.load(file)["implicit"]:
                implied.setdefault(path, []).append(n)
    wanted = []
    for path, where in implied.items():
        for n in where:
            below = tree.find(path, under=n)
            if below and stat.S_ISLNK(below[0].status.st_mode):
                raise running.Problem(
                    "refused",
                    f"the image cannot be used: one layer has files in {path!r}, which a lower one has as a link",
                )
        found = tree.find(path)
        if not _is_directory(found) or found[0].layer not in where:
            continue
        described = next((each for each in tree.find(path) if each.layer not in where), found[0])
        if described.status.st_mode != found[0].status.st_mode:
            wanted.append((f"/{path}", stat.S_IMODE(described.status.st_mode)))
    return wanted


def _is_directory(found: Sequence[Found]) -> bool:
    return bool(found) and stat.S_ISDIR(found[0].status.st_mode)


def _down_to(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[: n + 1]) for n in range(1, len(parts)))


@contextmanager
def _filtered(layer: str, diff_id: str, said: str) -> Iterator[int]:
    """What layerfilter.py lets through, to be read. It has ended when this is left: whoever read to the end knows that it
    has said all it had to say."""
    program = str(Path(__file__).with_name("layerfilter.py"))
    config = json.dumps({"diff_id": diff_id, "said": said})
    with open(layer, "rb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, config], stdin=file, stdout=subprocess.PIPE, env={"PATH": os.defpath}
        )
    assert process.stdout
    try:
        yield process.stdout.fileno()
        process.stdout.close()
        with suppress(subprocess.TimeoutExpired):  # more than enough for what comes after its last byte
            process.wait(10)
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


@contextmanager
def _directory(*path: str, at: int | None = None) -> Iterator[int]:
    """A directory, reached through nothing but directories."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    parts = [part for each in path for part in ([each] if at is None else each.split("/"))]
    handle = os.open(parts[0], flags, dir_fd=at)
    try:
        for part in parts[1:]:
            inner = os.open(part, flags, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _sync() -> None:
    handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(handle):
            raise OSError(ctypes.get_errno(), "cannot write the layer to the disk")
    finally:
        os.close(handle)
