"""User namespaces for root's sandboxes, made before the first thread is. Part of the helper, standard library only.

The kernel counts processes by user *and* user namespace: were all sandboxes in one, the threads of one would use up the
limit of the next, and a test fail that has nothing wrong. And nothing inside then has a right outside, not even for the
moment before it becomes the user.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_CLONE_NEWUSER, _PR_SET_DUMPABLE, _PR_SET_SECUREBITS, _KEEP_RIGHTS = 0x10000000, 4, 28, 4
_CALLS = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147), "riscv64": (159, 149, 147)}
_libc = ctypes.CDLL(None, use_errno=True)


def pool(user: int, count: int, nested: int = 0) -> list[int | None]:
    """Handles of `count` namespaces that are the user's, who alone is known in them; None where the machine has none to give.

    Whoever starts bubblewrap as that user gives it the right to set up in there, and no other.
    """
    handles: list[int | None] = [None] * count
    if os.uname().machine in _CALLS:
        with suppress(OSError):
            for n in range(count):
                handles[n] = _make(user, nested)
    return handles


def become(user: int) -> None:
    """This thread alone, and what it starts: the kernel knows users of threads, and only the C library those of processes."""
    groups, gid, uid = _CALLS[os.uname().machine]
    for number, *arguments in ((groups, 0, None), (gid, user, user, user), (uid, user, user, user)):
        if _libc.syscall(number, *arguments):
            raise OSError(ctypes.get_errno(), f"cannot become the user {user}")


def _make(user: int, nested: int) -> int:
    """A child enters a new namespace, and lives only until we have a handle of it. No more than `nested` can be made in it."""
    there, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            _libc.prctl(_PR_SET_SECUREBITS, _KEEP_RIGHTS, 0, 0, 0)  # to make a namespace: not every user may
            os.setgid(user)
            os.setuid(user)
            _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # otherwise its own /proc is not its own
            if _libc.unshare(_CLONE_NEWUSER) == 0:
                said = {"sys/user/max_user_namespaces": str(nested), "self/setgroups": "deny"}
                for name, text in (said | dict.fromkeys(("self/uid_map", "self/gid_map"), f"{user} {user} 1")).items():
                    with open(f"/proc/{name}", "w") as file:
                        file.write(text)
                os.write(tell, b".")
                os.read(wait, 1)
        finally:
            os._exit(0)
    try:
        os.close(tell)
        if not os.read(there, 1):
            raise PermissionError("no user namespaces here")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for handle in (there, wait, go):
            os.close(handle)
        os.waitpid(child, 0)
