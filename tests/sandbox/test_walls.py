"""The second wall: system calls that are refused, and what of /proc is covered. What needs them off shows that they are on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Base, Sandbox

NUMBERS = {
    "x86_64": {
        "keyctl": 250,
        "bpf": 321,
        "userfaultfd": 323,
        "io_uring_setup": 425,
        "perf_event_open": 298,
        "setns": 308,
    },
    "aarch64": {
        "keyctl": 219,
        "bpf": 280,
        "userfaultfd": 282,
        "io_uring_setup": 425,
        "perf_event_open": 241,
        "setns": 268,
    },
}

CALLS = """
import ctypes, errno, fcntl, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def said(result):
    return errno.errorcode.get(ctypes.get_errno(), "?") if result < 0 else "done"
for name, number in {0}.items():
    print(name, said(libc.syscall(number, 0, 0, 0, 0, 0)))
for name, flags in dict(CLONE_NEWUSER=0x10000000, CLONE_NEWNS=0x20000, CLONE_NEWTIME=0x80, CLONE_FS=0x200).items():
    print(name, said(libc.unshare(flags)))
print("mount", said(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)))
print("personality", said(libc.personality(0x400000)), said(libc.personality(0x40000)), said(libc.personality(0xffffffff)))
for call in ("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c), ("TIOCSTI, high bits", 0x1_0000_5412):
    print(call[0], said(libc.ioctl(0, ctypes.c_ulong(call[1]), b"x")))
for family in "AF_ALG", "AF_PACKET", "AF_VSOCK", "AF_KEY", "AF_BLUETOOTH":
    for kind in socket.SOCK_RAW, socket.SOCK_SEQPACKET, socket.SOCK_STREAM:
        try:
            socket.socket(getattr(socket, family, 15), kind).close()
            print(family, "done")
        except OSError as error:
            print(family, errno.errorcode[error.errno])
for family in "AF_UNIX", "AF_INET", "AF_INET6":
    socket.socket(getattr(socket, family)).close()
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
"""

FOREIGN = r"""
#include <stdio.h>
int main() {
    long result;
    __asm__ volatile ("int $0x80" : "=a"(result) : "a"(20), "b"(0) : "memory");
    printf("%ld\n", result);
}
"""

PROGRAMS = r"""
set -e
printf 'int main() {{ return 7; }}' > a.c; gcc a.c -o a; ./a || [ $? = 7 ]
git init -q g; git -C g -c user.name=a -c user.email=b commit -q --allow-empty -m x
echo 'print(1 + 1)' | python3 -m asyncio 2>/dev/null
python3 - <<'END'
import asyncio, multiprocessing, os, subprocess, threading
from multiprocessing import shared_memory
if __name__ == "__main__":
    threads = [threading.Thread(target=print, args=["t"]) for _ in range(9)]
    [t.start() for t in threads], [t.join() for t in threads]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    shared = shared_memory.SharedMemory(create=True, size=100); shared.close(); shared.unlink()
    os.posix_fallocate(os.open("f", os.O_CREAT | os.O_RDWR), 0, 1 << 20)
    assert os.stat("f").st_size == 1 << 20
    async def main():
        return await (await asyncio.create_subprocess_exec("true")).wait()
    assert asyncio.run(main()) == 0
END
echo fine
""".replace("{{", "{").replace("}}", "}")


async def out(sandbox: Sandbox, *argv: str) -> str:
    return (await sandbox.execute(await sandbox.base(Base()), argv)).text


async def test_system_calls_that_nothing_needs_are_refused(mode: str, sandbox: Bubblewrap, tmp_path: Path) -> None:
    calls = CALLS.format(NUMBERS[platform.machine()])
    said = [line.rsplit(" ", 1) for line in (await out(sandbox, "python3", "-c", calls)).splitlines()]
    for what, result in said:
        if what == "CLONE_FS":
            assert result == "done"
        elif what.startswith("personality"):
            assert (what, result) == ("personality EPERM done", "done")
        else:
            assert result == ("EAFNOSUPPORT" if what.startswith("AF_") else "EPERM"), what
    async with Bubblewrap(tmp_path / "open", mode, without=frozenset({"seccomp"})) as other:  # type: ignore[arg-type]
        said = [line.rsplit(" ", 1) for line in (await out(other, "python3", "-c", calls)).splitlines()]
    assert ["keyctl", "EINVAL"] in said
    assert ["personality done done", "done"] in said


async def test_foreign_system_calls_are_refused(sandbox: Bubblewrap) -> None:
    if platform.machine() != "x86_64":
        return  # there is one ABI only
    script = ["sh", "-c", 'printf "%s" "$1" > /tmp/a.c && gcc /tmp/a.c -o /tmp/a && /tmp/a', "sh", FOREIGN]
    assert await out(sandbox, *script) == "-38\n"


async def test_programs_work_under_the_filter(sandbox: Bubblewrap) -> None:
    assert (await out(sandbox, "sh", "-c", PROGRAMS)).endswith("fine\n")


async def test_no_further_user_namespace_with_the_filter_or_without(
    mode: str, sandbox: Bubblewrap, tmp_path: Path
) -> None:
    nested = ["sh", "-c", "unshare --user true 2>/dev/null && echo made || echo refused"]
    assert await out(sandbox, *nested) == "refused\n"
    for without, said in ((("seccomp",), "refused\n"), (("seccomp", "userns"), "made\n")):
        async with Bubblewrap(tmp_path / said.strip(), mode, without=frozenset(without)) as other:  # type: ignore[arg-type]
            assert await out(other, *nested) == said


async def test_proc_says_nothing_of_the_machine(mode: str, sandbox: Bubblewrap, tmp_path: Path) -> None:
    covered = "for f in keys interrupts timer_list kcore sched_debug sysrq-trigger; do [ ! -e /proc/$f ] || cat /proc/$f; done"
    look = [
        "sh",
        "-c",
        f"({covered}; ls -A /proc/acpi) 2>&1 | grep -v 'Permission denied' | head -3",
    ]
    assert await out(sandbox, *look) == ""
    async with Bubblewrap(tmp_path / "open", mode, without=frozenset({"proc-masks"})) as other:  # type: ignore[arg-type]
        assert await out(other, *look) != ""
    undo = "umount /proc/keys || umount -l /proc/acpi || mount -o remount,rw /proc/sys || echo no; ls /sys"
    assert "no\n" in await out(sandbox, "sh", "-c", undo)
    assert "/proc/sys ro," in (await out(sandbox, "sh", "-c", "cut -d' ' -f5,6 /proc/self/mountinfo"))
    assert "cannot access '/sys'" in await out(sandbox, "ls", "/sys")


@pytest.mark.full
async def test_node_starts_under_the_default_limits(sandbox: Bubblewrap) -> None:
    script = "new (require('worker_threads').Worker)('console.log(2)', {eval: true})"
    assert await out(sandbox, "node", "-e", script) == "2\n"


async def test_what_a_variable_makes_programs_load_runs_as_the_user_only(sandbox: Bubblewrap) -> None:
    """setpriv is root until it is the user: a library of the state's own must not be loaded by then."""
    library = '#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) void f(void){printf("%d\\n",getuid());fflush(stdout);}'
    state = await sandbox.write(await sandbox.base(Base()), {"/testbed/f.c": library.encode()})
    made = await sandbox.execute(state, ["gcc", "-shared", "-fPIC", "-o", "f.so", "f.c"])
    assert made.after
    done = await sandbox.execute(made.after, ["id", "-u"], env={"LD_PRELOAD": "/testbed/f.so"}, freeze=False)
    assert len(set(done.text.split())) == 1
    assert done.text.split()[0] != "0"
