"""User namespaces for root's sandboxes, made before the first thread is. Part of the helper, standard library only.

The kernel counts processes by user *and* user namespace: were all sandboxes in one, the threads of one would use up the
limit of the next, and a test fail that has nothing wrong. And nothing inside then has a right outside, not even for the
moment before it becomes the user.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_CLONE_NEWUSER = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


def pool(users: tuple[int, ...], count: int, nested: int = 0) -> list[int | None]:
    """Handles of `count` namespaces in which these users keep their numbers; None where the machine has none to give."""
    handles: list[int | None] = [None] * count
    with suppress(OSError):
        for n in range(count):
            handles[n] = _make(users, nested)
    return handles


def _make(users: tuple[int, ...], nested: int) -> int:
    """A child enters a new namespace, and lives only until we have a handle of it. No more than `nested` can be made in it."""
    there, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        if _libc.unshare(_CLONE_NEWUSER) == 0:
            os.write(tell, b".")
            os.close(go)
            os.read(wait, 1)
            with suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as file:
                file.write(str(nested))
            os.write(tell, b".")
            os.read(wait, 1)
        os._exit(0)
    try:
        os.close(tell)
        if not os.read(there, 1):
            raise PermissionError("no user namespaces here")
        for which in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{which}", "w") as file:
                file.write("".join(f"{user} {user} 1\n" for user in users))
        os.write(go, b".")
        os.read(there, 1)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for handle in (there, wait, go):
            os.close(handle)
        os.waitpid(child, 0)
