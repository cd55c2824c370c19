"""Reaching anything beyond the sandbox's own loopback. Every address is one of the planted machine's."""

from tests.sandbox.attacks.attack import Attack
from tests.sandbox.attacks.machine import Machine

NETWORK = ("network",)
CAPABILITIES = ("capabilities", "system calls", "no more namespaces")


def _contacted(name: str) -> dict[str, object]:
    def seen(machine: Machine) -> bool:
        return name in machine.contacts()

    return {"seen": seen}


def _connect(host: str, port: str) -> str:
    return f"print(socket.create_connection(({host!r}, {port}), 2).recv(99))"


def _ask(host: str, port: str) -> str:
    return (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        f"s.sendto(b'\\0' * 12 + b'\\7example\\0\\0\\1\\0\\1', ({host!r}, {port})); print(s.recv(99))"
    )


ATTACKS = [
    Attack("loopback", "services of the host", _connect("127.0.0.1", "facts['tcp']"), NETWORK, **_contacted("tcp")),
    Attack("loopback-6", "services of the host", _connect("::1", "facts['tcp']"), NETWORK, **_contacted("tcp6")),
    Attack("datagrams", "services of the host", _ask("127.0.0.1", "facts['tcp']"), NETWORK, **_contacted("udp")),
    Attack("names", "telling secrets by looking up names", _ask("127.0.0.53", "53"), NETWORK, **_contacted("dns")),
    Attack("names-by-stream", "the same", _connect("127.0.0.53", "53"), NETWORK, **_contacted("dns-tcp")),
    Attack(
        "metadata", "the cloud machine's keys", _connect("169.254.169.254", "80"), NETWORK, **_contacted("metadata")
    ),
    Attack("neighbour", "other machines of the network", _connect("192.0.2.7", "80"), NETWORK, **_contacted("lan")),
    Attack(
        "abstract-socket",
        "programs of the desktop, containerd",
        "s = socket.socket(socket.AF_UNIX); s.connect('\\0planted'); print(s.recv(99))",
        NETWORK,
        **_contacted("abstract"),
    ),
    Attack(
        "abstract-datagram",
        "the same",
        r"""
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.sendto(facts['won'].encode(), '\0planted-datagram')
        """,
        NETWORK,
        **_contacted("abstract-datagram"),
    ),
    Attack(
        "abstract-listed",
        "which programs run",
        "print(facts['won'] if '@planted' in open('/proc/net/unix').read() else 'no')",
        NETWORK,
    ),
    Attack(
        "descriptor-from-outside",
        "a file that somebody outside hands in",
        r"""
        s = socket.socket(socket.AF_UNIX)
        s.connect('\0planted')
        _, fds, _, _ = socket.recv_fds(s, 99, 4)
        print(os.pread(fds[0], 99, 0))
        """,
        NETWORK,
    ),
    Attack(
        "pose-as-a-service",
        "passwords that programs of the host tell it",
        """
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(('127.0.0.1', facts['service']))
        s.listen()
        s.settimeout(1)
        print(s.accept()[0].recv(99))
        """,
        NETWORK,
    ),
    Attack(
        "interfaces",
        "addresses of the machine",
        """
        import ctypes
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for name in (b'lo:lan', b'lo:metadata'):
          print(facts['won'] if fcntl.ioctl(s, 0x8915, struct.pack('16sH14x', name, socket.AF_INET)) else '')
        """,
        NETWORK,
    ),
    Attack(
        "raw-socket",
        "forged packets",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); won()",
        CAPABILITIES,
    ),
    Attack(
        "raw-headers",
        "packets of any kind",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 255).setsockopt(0, 3, 1); won()",
        CAPABILITIES,
    ),
    Attack(
        "sniff",
        "what others send",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); won()",
        CAPABILITIES,
    ),
    Attack(
        "new-interface",
        "an interface, and the code that handles its packets",
        # RTM_NEWLINK of the kind dummy
        r"""
        s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        attribute = struct.pack('HH', 4 + 4 + 8, 18) + struct.pack('HH', 9, 1) + b'dummy\0\0\0'
        body = struct.pack('BxHiII', 0, 0, 0, 0, 0) + struct.pack('HH', 10, 3) + b'mine0\0\0\0'
        body += struct.pack('HH', 16, 18) + struct.pack('HH', 9, 1) + b'dummy\0\0\0'
        s.send(struct.pack('IHHII', 16 + len(body), 16, 0x605, 1, 0) + body)
        code = struct.unpack('i', s.recv(999)[16:20])[0]
        print(facts['won'] if code == 0 or code == -errno.EOPNOTSUPP else code)
        """,
        CAPABILITIES,
    ),
    Attack(
        "change-an-address",
        "answering for an address that is another's",
        """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        fcntl.ioctl(s, 0x8916, struct.pack('16sH2x4s8x', b'lo:1', socket.AF_INET, socket.inet_aton('192.0.2.9')))
        won()
        """,
        CAPABILITIES,
    ),
    Attack(
        "virtual-machine-socket",
        "the machine under this one: no network namespace holds it",
        "socket.socket(getattr(socket, 'AF_VSOCK', 40), socket.SOCK_STREAM); won()",
        ("system calls",),
    ),
]
