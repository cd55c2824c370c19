"""The system calls that nothing in a sandbox may use, as a filter that libseccomp makes. Standard library only.

A list of what is refused, not of what is allowed: it names what no build or test needs and what kernel holes were found
in, in the manner of Docker's default profile turned round. It is a second wall: without it, namespaces and the missing
capabilities still hold. A name that this machine's libseccomp does not know is left out.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

LIBRARY = "libseccomp.so.2"

_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_TIME_NAMESPACE = 0x80  # in clone's argument this is a part of the signal's number
_FAMILIES = (socket.AF_UNSPEC, socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_TERMINAL = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C}
_PERSONALITY = 0x8 | 0x20000 | 0x40000
"""32 bit, kernel 2.6, and addresses not random: sanitizers and debuggers ask for that."""
_SMALL_SEGMENT = 1 << 16

_REFUSED = """
    add_key keyctl request_key
    bpf perf_event_open userfaultfd lookup_dcookie fanotify_init
    kexec_load kexec_file_load init_module finit_module delete_module create_module query_module get_kernel_syms
    mount umount umount2 pivot_root chroot fsopen fsconfig fsmount fspick move_mount open_tree open_tree_attr mount_setattr
    setns io_uring_setup io_uring_enter io_uring_register
    open_by_handle_at name_to_handle_at
    swapon swapoff reboot acct quotactl quotactl_fd syslog vhangup
    sethostname setdomainname settimeofday stime clock_settime clock_settime64
    iopl ioperm vm86 vm86old uselib ustat sysfs _sysctl nfsservctl
""".split()

_MACHINES = [
    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
]
"""Without sub-architectures: no 32-bit programs."""

_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_BAD_ARCHITECTURE, _OPTIMIZE = 2, 8  # attributes
_GREATER, _MASKED = 6, 7  # comparisons
_LOW, _TOP = 0xFFFFFFFF, 0x80000000


class Rule(NamedTuple):
    """A system call that is refused, if its arguments compare so: (which argument, comparison, value, second value)."""

    name: str
    where: tuple[tuple[int, int, int, int], ...] = ()
    error: int = errno.EPERM


def rules(watched: bool) -> Iterator[Rule]:
    """`watched`: memory is watched, not enforced, and what cannot be seen from outside is refused as well."""
    for name in _REFUSED:
        yield Rule(name)
    yield Rule("clone3", error=errno.ENOSYS)  # its flags lie in memory; the C library goes on with clone
    for flag in _NAMESPACES:
        yield Rule("clone", ((0, _MASKED, flag, flag),))
    for flag in (*_NAMESPACES, _TIME_NAMESPACE):
        yield Rule("unshare", ((0, _MASKED, flag, flag),))
    for request in _TERMINAL.values():
        yield Rule("ioctl", ((1, _MASKED, _LOW, request),))
    for call in ("socket", "socketpair"):
        for family in set(range(max(_FAMILIES))) - set(_FAMILIES):
            yield Rule(call, ((0, _MASKED, _LOW, family),), errno.EAFNOSUPPORT)
        yield Rule(call, ((0, _GREATER, max(_FAMILIES), 0),), errno.EAFNOSUPPORT)
    for bit in (1 << n for n in range(31)):
        if not bit & _PERSONALITY:
            yield Rule("personality", ((0, _MASKED, _TOP | bit, bit),))
        yield Rule("personality", ((0, _MASKED, _TOP | bit, _TOP),))  # all bits: it only asks
    # It allocates faster than `disk` can be watched; one writes instead.
    yield Rule("fallocate", error=errno.EOPNOTSUPP)
    if watched:
        yield Rule("memfd_create", error=errno.ENOSYS)
        yield Rule("memfd_secret", error=errno.ENOSYS)
        yield Rule("shmget", ((1, _GREATER, _SMALL_SEGMENT, 0),), errno.ENOSPC)


def profile() -> str:
    """The same as a container engine takes it: JSON in the manner of Docker's default profile."""
    operations = {_GREATER: "SCMP_CMP_GT", _MASKED: "SCMP_CMP_MASKED_EQ"}
    refused = [
        {
            "names": [rule.name],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": rule.error,
            "args": [
                {"index": which, "op": operations[how], "value": value, "valueTwo": second}
                for which, how, value, second in rule.where
            ],
        }
        for rule in rules(watched=False)
    ]
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "archMap": _MACHINES, "syscalls": refused})


class _Compared(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """Made once, handed to any number of sandboxes. Raises OSError where libseccomp is missing or fails."""

    def __init__(self, watched: bool) -> None:
        library = ctypes.CDLL(LIBRARY)
        library.seccomp_init.restype = ctypes.c_void_p
        self._library, self._context = library, ctypes.c_void_p(library.seccomp_init(_ALLOW))
        self._check(library.seccomp_attr_set(self._context, _BAD_ARCHITECTURE, _ERROR | errno.ENOSYS))
        library.seccomp_attr_set(self._context, _OPTIMIZE, 2)  # a tree instead of a list; older ones have only lists
        for rule in rules(watched):
            self._refuse(rule)
        self._program = os.memfd_create("filter", os.MFD_CLOEXEC)
        self._check(library.seccomp_export_bpf(self._context, self._program))
        library.seccomp_release(self._context)

    def open(self) -> int:
        """A handle of the program, to be read from its start."""
        return os.open(f"/proc/self/fd/{self._program}", os.O_RDONLY | os.O_CLOEXEC)

    def _refuse(self, rule: Rule) -> None:
        number = self._library.seccomp_syscall_resolve_name(rule.name.encode())
        if number < 0:  # not known, or not on this machine
            return
        compared = (_Compared * len(rule.where))(*(_Compared(*each) for each in rule.where))
        add = self._library.seccomp_rule_add_array
        self._check(add(self._context, _ERROR | rule.error, number, len(rule.where), compared), rule.name)

    def _check(self, result: int, what: str = "a filter") -> None:
        if result < 0:
            raise OSError(-result, f"libseccomp cannot make {what}: {os.strerror(-result)}")
