"""The bottom layer of every state: a root file system of almost nothing, on which the host's /usr is shown read-only.

Runs in the sandbox's helper, standard library only. Every place that anything is ever mounted on is made here: a mount
point that bubblewrap had to make would be written into the state.
"""

# ruff: noqa: PTH101, PTH102, PTH112, PTH113, PTH114, PTH115, PTH116, PTH120, PTH208, PTH211
# Paths in the sandbox, not host paths, and what is at them on the host is only copied.
from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WRITABLE = ("/testbed", "/env", "/home/user")
"""Directories of the user inside; /tmp, anyone's, is the fourth."""

_ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OWN = ("proc", "dev", "etc", *_ROOT_LINKS)
_COPIED = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs/ca-certificates.crt",
)


class Item(NamedTuple):
    path: str
    mode: int
    """Type and permissions, as in `st_mode`."""
    body: bytes = b""
    """A file's contents, or where a symbolic link points."""
    users: bool = False


def mounts(binds: Iterable[str]) -> list[str]:
    """The directories shown in the sandbox, outer before inner. Raises ValueError for one that cannot be."""
    for path in binds:
        if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
            raise ValueError(f"cannot bind {path}: not a plain absolute path")
        if path.split("/")[1] in _OWN or path in ("/tmp", "/home", *WRITABLE):
            raise ValueError(f"cannot bind {path}: the sandbox has its own")
        if not os.path.isdir(path):
            raise ValueError(f"cannot bind {path}: no such directory")
    unmerged = (f"/{name}" for name in _ROOT_LINKS if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}"))
    return sorted({"/usr", *unmerged, *binds})


def mount_points(shown: Sequence[str]) -> list[str]:
    """Where something is mounted on the state itself, and not inside of what is already shown."""
    return [p for p in shown if not any(p.startswith(f"{outer}/") for outer in shown)] + ["/proc", "/dev"]


def plan(shown: Sequence[str], uid: int) -> list[Item]:
    """All there is to write, parents first. `uid` is the user's number as seen inside."""
    items = {item.path: item for item in own(uid)}
    for path in (*_COPIED, *(f"/{name}" for name in _ROOT_LINKS)):
        items |= {item.path: item for item in _copy(path)}
    for path in [*mount_points(shown), *list(items)]:
        while (path := os.path.dirname(path)) != "/" and path not in items:
            items[path] = Item(path, stat.S_IFDIR | 0o755)
    for path in mount_points(shown):
        items.setdefault(path, Item(path, stat.S_IFDIR | 0o755))
    return sorted(items.values())


def name(items: Sequence[Item], shown: Sequence[str], owner: int) -> str:
    """Named by all that is in it: after an upgrade of the host's libraries it is another base."""
    return "b" + hashlib.blake2b(repr((items, shown, owner)).encode(), digest_size=16).hexdigest()


def write(items: Iterable[Item], root: str, owner: int) -> None:
    """Write the plan under `root`; what is the user's own belongs to `owner`, the rest to whoever runs this."""
    for item in items:
        target = root + item.path
        if stat.S_ISDIR(item.mode):
            os.mkdir(target)
        elif stat.S_ISLNK(item.mode):
            os.symlink(item.body, os.fsencode(target))
            continue
        else:
            with open(target, "xb") as file:
                file.write(item.body)
        os.chmod(target, stat.S_IMODE(item.mode))
        if item.users:
            os.chown(target, owner, owner)


def own(uid: int) -> Iterable[Item]:
    """What is not the host's: the user's directories, and the files of /etc that say who and where one is."""
    for path in WRITABLE:
        yield Item(path, stat.S_IFDIR | 0o755, users=True)
    yield Item("/tmp", stat.S_IFDIR | 0o1777)
    users = (("root", 0, "/root"), ("user", uid, "/home/user"), ("nobody", 65534, "/nonexistent"))  # nobody: the host's
    files = {
        "passwd": "".join(f"{name}:x:{number}:{number}:{name}:{home}:/bin/sh\n" for name, number, home in users),
        "group": "".join(f"{name}:x:{number}:\n" for name, number, _ in users),
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        "gitconfig": "[safe]\n\tdirectory = *\n",
        "resolv.conf": "",
    }
    for file, text in files.items():
        yield Item(f"/etc/{file}", stat.S_IFREG | 0o644, text.encode())


def _copy(path: str) -> Iterable[Item]:
    """The host's own: links as links if they will lead somewhere inside too, and nothing that not everyone may read."""
    try:
        if os.path.islink(path) and (path.startswith("/etc/alternatives/") or _in_usr(path)):
            yield Item(path, stat.S_IFLNK, os.fsencode(os.readlink(path)))
        elif os.path.isfile(path) and os.stat(path).st_mode & stat.S_IROTH:
            with open(path, "rb") as file:
                yield Item(path, stat.S_IFREG | 0o644, file.read())
        elif os.path.isdir(path) and path.startswith("/etc/"):
            yield Item(path, stat.S_IFDIR | 0o755)
            for child in sorted(name for name in os.listdir(path) if not name.endswith(".gz")):  # manual pages
                yield from _copy(f"{path}/{child}")
    except (FileNotFoundError, PermissionError):
        return


def _in_usr(path: str) -> bool:
    return os.path.realpath(path).startswith("/usr/")
