"""Seeing, reading, changing and outliving: other processes, and the end of the execution."""

from pathlib import Path

from tests.sandbox.attacks.attack import Attack
from tests.sandbox.attacks.machine import Machine

SEEN = ("processes",)
NO_TERMINAL = {"docker": "there is no terminal to share: the engine has none of ours"}
BY_GROUP = {"docker": "the engine kills all of a container's control group, in whatever process namespace"}
TYPING_IS_ROOTS = (
    Path("/proc/sys/dev/tty/legacy_tiocsti").exists()
    and "1" not in Path("/proc/sys/dev/tty/legacy_tiocsti").read_text()
)
READ = ("processes", "user namespace", "system calls")
"""To read another's memory one must not be of another user namespace either."""
KNOWS = "find(facts['mark'] + '\\0' + facts['secret'])"


def _dead(name: str) -> dict[str, object]:
    def seen(machine: Machine) -> bool:
        return machine.victim(name) is None

    return {"seen": seen}


def _survives(name: str, script: str) -> dict[str, object]:
    """A process that renames itself, so that it is found afterwards."""

    def seen(machine: Machine) -> bool:
        return bool(machine.processes(f"{machine.mark}-survivor-{name}"))

    return {"seen": seen, "alone": True, "script": script.replace("NAME", name)}


_GO_ON = (
    "    for n in range(3): os.close(n)\n    os.execv('/usr/bin/sleep', [facts['mark'] + '-survivor-NAME', '100'])\n"
)

ATTACKS = [
    Attack(
        "command-lines",
        "passwords in arguments, what else runs",
        "show_any(glob.glob('/proc/[0-9]*/cmdline'))",
        SEEN,
    ),
    Attack("environ", "the API key of another process", f"show('/proc/%d/environ' % {KNOWS})", READ),
    Attack("working-directory", "files by another's eyes", f"show('/proc/%d/cwd/here' % {KNOWS})", READ),
    Attack(
        "root-directory",
        "the host's files by another's eyes",
        f"show('/proc/%d/root' % {KNOWS} + facts['place'] + '/secret')",
        READ,
    ),
    Attack("open-files", "a file that has no name any more", f"show_any(glob.glob('/proc/%d/fd/*' % {KNOWS}))", READ),
    Attack(
        "memory",
        "all that another process knows",
        f"pid = {KNOWS}\n"
        "with open('/proc/%d/mem' % pid, 'rb', 0) as memory:\n"
        "  for line in open('/proc/%d/maps' % pid):\n"
        "    a, b = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "    if 'w' in line.split()[1]:\n"
        "      try:\n"
        "        memory.seek(a)\n"
        "        if facts['secret'].encode() in memory.read(b - a): won()\n"
        "      except (OSError, OverflowError): pass",
        READ,
    ),
    Attack(
        "memory-by-call",
        "the same, without /proc",
        f"pid = {KNOWS}\n"
        "for line in open('/proc/%d/maps' % pid):\n"
        "  a, b = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "  if '[stack]' in line:\n"
        "    room = ctypes.create_string_buffer(b - a)\n"
        "    local = (ctypes.c_size_t * 2)(ctypes.addressof(room), b - a); remote = (ctypes.c_size_t * 2)(a, b - a)\n"
        "    call('process_vm_readv', pid, local, 1, remote, 1, 0)\n"
        "    if facts['secret'].encode() in room.raw: won()",
        READ,
    ),
    Attack("ptrace", "anything another process may do", f"call('ptrace', 16, {KNOWS}, 0, 0); won()", READ),
    Attack("seize", "the same", f"call('ptrace', 0x4206, {KNOWS}, 0, 0); won()", READ),
    Attack(
        "descriptor-of-another",
        "its open files and connections",
        f"handle = call(434, {KNOWS}, 0)\n"
        "for n in range(3, 20):\n"
        "  try: print(os.pread(call(438, handle, n, 0), 99, 0))\n"
        "  except OSError as error: print(error)",
        READ,
    ),
    Attack(
        "enter-namespaces",
        "the network of another process",
        f"call('setns', os.open('/proc/%d/ns/net' % {KNOWS}, os.O_RDONLY), 0x40000000); won()",
        ("processes", "user namespace", "system calls", "capabilities"),
    ),
    Attack(
        "kill",
        "ending what it does not like",
        "os.kill(find(facts['mark'] + '-kill\\0'), signal.SIGKILL)",
        SEEN,
        **_dead("kill"),
    ),
    Attack(
        "kill-by-handle",
        "the same",
        "call(424, call(434, find(facts['mark'] + '-pidfd'), 0), 9, None, 0)",
        ("processes", "system calls"),
        **_dead("pidfd"),
    ),
    Attack(
        "kill-blindly",
        "the same, without seeing anything",
        "os.kill(facts['pids']['kill-blindly'], signal.SIGKILL)",
        SEEN,
        alone=True,
        **_dead("kill-blindly"),
    ),
    Attack(
        "kill-everything",
        "the end of all else",
        "time.sleep(0.2); os.kill(-1, signal.SIGKILL)",
        SEEN,
        alone=True,
        **_dead("kill-all"),
    ),
    Attack(
        "slow-down",
        "that others time out",
        "os.setpriority(os.PRIO_PROCESS, find(facts['mark'] + '-renice'), 19)",
        SEEN,
        seen=lambda machine: _nice(machine) > 0,
    ),
    Attack(
        "limit-another",
        "that others fail",
        "resource.prlimit(find(facts['mark'] + '-limit'), resource.RLIMIT_NOFILE, (7, 7))",
        ("processes", "user namespace", "system calls"),
        seen=lambda machine: "Max open files            7 " in _limits(machine),
    ),
    Attack(
        "outlive-by-session",
        "going on when nobody looks any more",
        stopped_by=SEEN,
        unswitchable=BY_GROUP,
        **_survives("session", "if os.fork() == 0:\n    os.setsid()\n" + _GO_ON + "time.sleep(0.2)"),
    ),
    Attack(
        "outlive-by-two-forks",
        "the same, as daemons do",
        stopped_by=SEEN,
        unswitchable=BY_GROUP,
        **_survives(
            "forks",
            "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n" + _GO_ON + "  os._exit(0)\ntime.sleep(0.2)",
        ),
    ),
    Attack(
        "outlive-by-adoption",
        "the same, under a parent that adopts",
        stopped_by=SEEN,
        unswitchable=BY_GROUP,
        **_survives(
            "adoption",
            "call('prctl', 36, 1, 0, 0, 0)\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
            + _GO_ON
            + "  os._exit(0)\ntime.sleep(0.2)",
        ),
    ),
    Attack(
        "outlive-by-ignoring",
        "the same, deaf to every signal that can be ignored",
        stopped_by=SEEN,
        unswitchable=BY_GROUP,
        **_survives(
            "ignoring",
            "if os.fork() == 0:\n    os.setsid()\n"
            "    for n in range(1, 65):\n"
            "      try: signal.signal(n, signal.SIG_IGN)\n"
            "      except (OSError, ValueError): pass\n"
            "    call('prctl', 1, 0, 0, 0, 0)\n" + _GO_ON + "time.sleep(0.2)",
        ),
    ),
    Attack(
        "outlive-the-time-limit",
        "going on after it timed out",
        stopped_by=SEEN,
        unswitchable=BY_GROUP,
        **_survives(
            "time", "if os.fork() == 0:\n    os.setsid(); call('prctl', 1, 0, 0, 0, 0)\n" + _GO_ON + "time.sleep(60)"
        ),
    ),
    Attack(
        "other-messages",
        "what programs of the host send each other",
        """
        queue = call('mq_open', b'/planted', 0x800)
        room = ctypes.create_string_buffer(9000)
        libc.mq_receive(queue, room, 9000, None)
        print(room.value)
        """,
        ("ipc",),
    ),
    Attack(
        "other-segments",
        "memory that programs of the host share",
        """
        segment = call('shmget', 4711, 4096, 0)
        libc.shmat.restype = ctypes.c_void_p
        print(ctypes.string_at(libc.shmat(segment, None, 0), 64))
        """,
        ("ipc",),
    ),
    Attack(
        "terminal-read",
        "what the user types",
        "fd = os.open('/dev/tty', os.O_RDWR); print(os.read(fd, 99))",
        ("session",),
        unswitchable=NO_TERMINAL,
    ),
    Attack(
        "terminal-write",
        "that the user's terminal obeys it",
        "os.write(os.open('/dev/tty', os.O_WRONLY), b'escape-' + facts['won'].encode())",
        ("session",),
        unswitchable=NO_TERMINAL,
        seen=lambda machine: b"escape-" + machine.won.encode() in machine.shown(),
    ),
    Attack(
        "terminal-type",
        "typing commands for the user",
        """
        fd = os.open('/dev/tty', os.O_RDWR)
        for c in b'typed-' + facts['won'].encode(): fcntl.ioctl(fd, termios.TIOCSTI, bytes([c]))
        """,
        ("session", "user namespace", "capabilities", "system calls"),
        elsewhere={"rootless": ("session", "system calls")},
        unswitchable=NO_TERMINAL
        | ({"rootless": "this kernel lets only root of the machine type into terminals"} if TYPING_IS_ROOTS else {}),
        seen=lambda machine: b"typed-" + machine.won.encode() in machine.shown(),
    ),
    Attack(
        "terminal-size",
        "confusing what the user looks at",
        """
        fcntl.ioctl(os.open('/dev/tty', os.O_RDWR), termios.TIOCSWINSZ, struct.pack('HHHH', 3, 3, 0, 0))
        won()
        """,
        ("session",),
        unswitchable=NO_TERMINAL,
    ),
]


def _nice(machine: Machine) -> int:
    victim = machine.victim("renice")
    return int((victim / "stat").read_text().rpartition(")")[2].split()[16]) if victim else 0


def _limits(machine: Machine) -> str:
    victim = machine.victim("limit")
    return (victim / "limits").read_text() if victim else ""
