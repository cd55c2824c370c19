"""Makes the machine that is attacked, in namespaces of its own, and becomes the sandbox's helper in it.

    planted.py JSON COMMAND…

Network, message queues, mounts and processes are this machine's alone. In it are files that hold a secret, where a real
machine has its own; listeners that note who came, and answer with the secret; processes that know it; a key that holds
it; a terminal on which it was typed. So an attack may succeed here and has reached nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import selectors
import socket
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ADDRESSES = {"lo:metadata": "169.254.169.254", "lo:lan": "192.0.2.7"}
TCP, SERVICE = 8999, 7777
_UP, _SIOCSIFFLAGS, _SIOCSIFADDR = 0x1 | 0x8 | 0x40, 0x8914, 0x8916
_BIND, _PR_CAPBSET_DROP = 4096, 24
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    plan, command = json.loads(sys.argv[1]), sys.argv[2:]
    place, secret, uid = Path(plan["place"]), plan["secret"], plan["uid"]
    _network()
    for source, target in plan["binds"].items():
        if _libc.mount(source.encode(), target.encode(), None, _BIND, None):
            raise OSError(ctypes.get_errno(), f"mount {target}")
    if plan["binds"]:
        _shared_memory(place / "shm", secret)
    _keys(plan["keyring"], secret)
    _memory(secret)
    terminal = _terminal(place, secret)
    _child(lambda: _listen(place, secret))
    _child(lambda: _client(secret))
    pids = {"knows": _victim(uid, place / "private", plan["python"], ["knows", "-ISc", _KNOWS, plan["mark"], secret])}
    for name in plan["victims"]:
        pids[name] = _victim(uid, place, "/usr/bin/sleep", [f"{plan['mark']}-{name}", "1000"])
    facts = {"terminal": terminal, "pids": pids}
    (place / "planted.json").write_text(json.dumps(facts))
    os.execv(command[0], command)


_KNOWS = """
import ctypes, os, sys, tempfile, time
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
known = bytes.fromhex(sys.argv[2].encode().hex())
with tempfile.TemporaryFile(dir=".") as file:
    file.write(known)
    file.flush()
    time.sleep(1000)
"""


def _child(work: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_RDWR), 0)  # not the helper's
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def _victim(uid: int | None, where: Path, program: str, argv: list[str]) -> int:
    """A process of the same user as what runs in the sandbox, which so may do to it what users may do to their own."""

    def become() -> None:
        for capability in range(64):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.chdir(where)
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.execve(program, argv, {"API_KEY": argv[-1]})

    return _child(become)


def _shared_memory(place: Path, secret: str) -> None:
    """What another sandbox's /dev/shm would be."""
    if _libc.mount(b"shm", str(place).encode(), b"tmpfs", 0, b"size=1m,mode=1777"):
        raise OSError(ctypes.get_errno(), f"mount {place}")
    (place / "other").write_text(secret)


def _network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for name, address in {"lo": "127.0.0.1", **ADDRESSES}.items():
            wanted = struct.pack("16sH2x4s8x", name.encode(), socket.AF_INET, socket.inet_aton(address))
            fcntl.ioctl(any_socket, _SIOCSIFADDR, wanted)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP))


def _keys(name: str, secret: str) -> None:
    keyctl, add_key = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
    keyring = _libc.syscall(keyctl, 1, name.encode())
    _libc.syscall(keyctl, 5, keyring, 0x3F3F0000)  # its user may find it by name
    if keyring < 0 or _libc.syscall(add_key, b"user", b"planted", secret.encode(), len(secret), keyring) < 0:
        raise OSError(ctypes.get_errno(), "cannot plant a key")


def _memory(secret: str) -> None:
    """A System V segment, key 4711, and a message in the queue /planted, open to everyone."""
    segment = _libc.shmget(4711, 4096, 0o1666)
    _libc.shmat.restype = ctypes.c_void_p
    ctypes.memmove(_libc.shmat(segment, None, 0), secret.encode(), len(secret))
    os.umask(0)
    _libc.mq_open.restype = ctypes.c_int
    queue = _libc.mq_open(b"/planted", os.O_CREAT | os.O_RDWR, 0o666, None)
    if segment < 0 or queue < 0 or _libc.mq_send(queue, secret.encode(), len(secret), 0):
        raise OSError(ctypes.get_errno(), "cannot plant memory")
    os.umask(0o022)


def _terminal(place: Path, secret: str) -> str:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    Path(name).chmod(0o666)
    os.write(master, f"password {secret}\n".encode())

    def watch() -> None:
        with open(place / "terminal", "ab", buffering=0) as shown:
            while True:
                shown.write(os.read(master, 4096))

    _child(watch)
    return name


def _listen(place: Path, secret: str) -> None:
    waiting = selectors.DefaultSelector()

    def bind(name: str, family: int, kind: int, address: Any) -> None:
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if isinstance(address, str) and address.startswith("/"):
            Path(address).chmod(0o666)
        if kind == socket.SOCK_STREAM:
            listener.listen(64)
        waiting.register(listener, selectors.EVENT_READ, name)

    stream, packets = socket.SOCK_STREAM, socket.SOCK_DGRAM
    bind("tcp", socket.AF_INET, stream, ("127.0.0.1", TCP))
    bind("tcp6", socket.AF_INET6, stream, ("::1", TCP))
    bind("udp", socket.AF_INET, packets, ("127.0.0.1", TCP))
    bind("dns", socket.AF_INET, packets, ("127.0.0.53", 53))
    bind("dns-tcp", socket.AF_INET, stream, ("127.0.0.53", 53))
    bind("metadata", socket.AF_INET, stream, ("169.254.169.254", 80))
    bind("lan", socket.AF_INET, stream, ("192.0.2.7", 80))
    bind("abstract", socket.AF_UNIX, stream, "\0planted")
    bind("abstract-datagram", socket.AF_UNIX, packets, "\0planted-datagram")
    bind("docker.sock", socket.AF_UNIX, stream, "/run/docker.sock")
    bind("agent", socket.AF_UNIX, stream, str(place / "agent.sock"))
    with open(place / "contacts", "a", buffering=1) as contacts:
        while True:
            for key, _ in waiting.select():
                listener: socket.socket = key.fileobj  # type: ignore[assignment]
                if listener.type == socket.SOCK_STREAM:
                    with listener.accept()[0] as peer:
                        if key.data == "abstract":
                            socket.send_fds(peer, [secret.encode()], [os.open(place / "secret", os.O_RDONLY)])
                        else:
                            peer.sendall(secret.encode())
                else:
                    _, peer_address = listener.recvfrom(4096)
                    if peer_address:
                        listener.sendto(secret.encode(), peer_address)
                contacts.write(f"{key.data}\n")


def _client(secret: str) -> None:
    """A program of the machine that tells its password to whoever serves at the usual place."""
    while True:
        time.sleep(0.05)
        try:
            with socket.create_connection(("127.0.0.1", SERVICE), 1) as service:
                service.sendall(secret.encode())
        except OSError:
            pass


if __name__ == "__main__":
    main()
