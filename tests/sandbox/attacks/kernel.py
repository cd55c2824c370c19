"""The kernel's own surfaces: what needs a right, what makes one, and calls whose code has been a way out before.

Where what it opens is the whole machine's (switches of the kernel, devices), success is that it could be opened for
writing: nothing is ever written. Numbers of system calls are those of x86-64.
"""

from pathlib import Path

from tests.sandbox.attacks.attack import MODES, Attack

CAPABILITIES = ("capabilities", "system calls", "no more namespaces")
ROOT = ("bubblewrap", "capabilities")
"""Nothing at all between it and root of the machine."""
PRIVILEGED = {"docker": "only a privileged container may, which not every machine can start"}
REAL_ROOT = {"rootless": "an unprivileged user never may, there is nothing to leave out"}
CALLS = ("system calls",)
RINGS = Path("/proc/sys/kernel/io_uring_disabled")
RINGS_OFF = dict.fromkeys(MODES, "off on this machine") if RINGS.exists() and "0" not in RINGS.read_text() else {}


def _opens(path: str) -> str:
    return f"os.close(os.open({path!r}, os.O_WRONLY)); won()"


ATTACKS = [
    Attack(
        "mount",
        "a file system of its own",
        """
        call('mount', b'none', b'/mnt' if os.path.isdir('/mnt') else b'/tmp', b'tmpfs', 0, None)
        won()
        """,
        CAPABILITIES,
        alone=True,
    ),
    Attack("unmount", "what lies under the masks", "call('umount2', b'/proc', 2); won()", CAPABILITIES, alone=True),
    Attack(
        "remount-writable",
        "changing what is shown read-only",
        """
        tool = facts['place'] + '/tool'
        call('mount', None, tool.encode(), None, 32 | 4096, None)
        open(tool + '/remounted', 'w').write('x')
        """,
        CAPABILITIES,
        alone=True,
        seen=lambda machine: (machine.place / "tool" / "remounted").exists(),
    ),
    Attack(
        "attributes-writable",
        "the same, by the newer call",
        """
        tool = facts['place'] + '/tool'
        call(442, -100, tool.encode(), 0, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)
        open(tool + '/attributes', 'w').write('x')
        """,
        CAPABILITIES,
        alone=True,
        seen=lambda machine: (machine.place / "tool" / "attributes").exists(),
    ),
    Attack(
        "bind-over",
        "its own files in place of others",
        "call('mount', b'/tmp', b'/usr', None, 4096, None); won()",
        CAPABILITIES,
        alone=True,
    ),
    Attack("new-mount-calls", "a file system of its own", "call(430, b'tmpfs', 0); won()", CAPABILITIES, alone=True),
    Attack("copy-mounts", "mounts that are not locked", "call(428, -100, b'/usr', 1); won()", CAPABILITIES),
    Attack(
        "make-shared",
        "mounts that spread to the host",
        "call('mount', None, b'/', None, 1 << 20, None); won()",
        CAPABILITIES,
        alone=True,
    ),
    Attack(
        "change-root",
        "the classic way out of a changed root",
        "call('chroot', b'/tmp'); won()",
        CAPABILITIES,
        alone=True,
    ),
    Attack(
        "pivot",
        "the same, by mounts",
        """
        call('mount', b'/tmp', b'/tmp', None, 4096, None)
        os.makedirs('/tmp/old', exist_ok=True)
        call(155, b'/tmp', b'/tmp/old')
        won()
        """,
        CAPABILITIES,
        alone=True,
    ),
    Attack(
        "host-name",
        "being taken for another machine",
        "call('sethostname', b'mine', 4); won()",
        CAPABILITIES,
        alone=True,
    ),
    Attack(
        "new-namespaces", "mounts and networks of its own", "call('unshare', 0x20000 | 0x40000000); won()", CAPABILITIES
    ),
    Attack(
        "more-rights",
        "any right, in a user namespace of its own: most kernel exploits begin here",
        "call('unshare', 0x10000000); won()",
        ("user namespace", "system calls"),
    ),
    Attack(
        "more-rights-by-clone",
        "the same",
        """
        pid = call(56, 0x10000000 | 17, 0, 0, 0, 0)
        if pid == 0: os._exit(0)
        won()
        """,
        ("user namespace", "system calls"),
    ),
    Attack(
        "more-rights-by-clone3",
        "the same",
        """
        pid = call(435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88)
        if pid == 0: os._exit(0)
        won()
        """,
        ("user namespace", "system calls"),
    ),
    Attack(
        "file-by-handle",
        "any file of a file system, by its number",
        """
        handle = ctypes.create_string_buffer(bytes(facts['handle']), len(facts['handle']))
        mount = os.open(facts['place'] + '/tool', os.O_RDONLY)
        print(os.read(call('open_by_handle_at', mount, handle, 0), 99))
        """,
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "device",
        "a disk, or the machine's memory",
        "os.mknod('/dev/shm/zero', 0o666 | stat.S_IFCHR, os.makedev(1, 5)); won()",
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "devices-of-the-host",
        "whatever devices everyone may open",
        """
        known = 'null zero full random urandom tty ptmx stdin stdout stderr'.split()
        for path in glob.glob('/dev/*'):
          if stat.S_ISCHR(os.stat(path).st_mode) or stat.S_ISBLK(os.stat(path).st_mode):
            if os.path.basename(path) not in known and os.path.basename(path) != 'console': print(facts['won'], path)
        """,
        ("devices",),
    ),
    Attack(
        "kernel-log",
        "addresses in the kernel",
        "room = ctypes.create_string_buffer(99); call(103, 3, room, 99); won()",
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "kernel-addresses",
        "where the kernel lies",
        "print(facts['won'] if any(not line.startswith('0' * 16) for line in open('/proc/kallsyms')) else 'no')",
        ROOT,
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "core-pattern",
        "a program that the kernel runs as root",
        _opens("/proc/sys/kernel/core_pattern"),
        ROOT,
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "kernel-switches",
        "weaker defences for all",
        _opens("/proc/sys/kernel/randomize_va_space"),
        ROOT,
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "network-switches",
        "forwarding packets",
        _opens("/proc/sys/net/ipv4/ip_forward"),
        ("bubblewrap", "capabilities"),
    ),
    Attack(
        "binary-formats",
        "a program that runs in place of others",
        """
        os.stat('/proc/sys/fs/binfmt_misc')
        call('mount', b'b', b'/proc/sys/fs/binfmt_misc', b'binfmt_misc', 0, None)
        won()
        """,
        CAPABILITIES,
        alone=True,
    ),
    Attack(
        "sys-switches",
        "how the machine uses its memory",
        _opens("/sys/kernel/mm/transparent_hugepage/enabled"),
        ROOT,
        unswitchable=REAL_ROOT | PRIVILEGED,
    ),
    Attack(
        "release-agent",
        "a program that the kernel runs as root when a cgroup empties",
        "call('mount', b'c', b'/tmp', b'cgroup', 0, b'pids')\n" + _opens("/tmp/release_agent"),
        ("bubblewrap", "capabilities"),
        alone=True,
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "leave-cgroup",
        "no limits",
        "for path in glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True): os.close(os.open(path, os.O_WRONLY)); won()",
        ROOT,
        unswitchable=REAL_ROOT | PRIVILEGED,
    ),
    Attack(
        "become-root",
        "rights of another user",
        "os.setuid(0 if os.getuid() else facts['user']); won()",
        ("user namespace", "capabilities"),
        unswitchable={"rootless": "the namespace has one user"},
    ),
    Attack(
        "other-groups",
        "files of other groups",
        "os.setgroups([0]); won()",
        ("user namespace", "capabilities"),
        unswitchable={"rootless": "the namespace has one group"},
    ),
    Attack(
        "program-of-root",
        "whatever a program does that runs as its owner",
        "print(subprocess.run([facts['place'] + '/exposed/cat-as-root', facts['place'] + '/exposed/roots'], capture_output=True).stdout)",
        ("bubblewrap", "no new privileges"),
        unswitchable={"rootless": "bubblewrap itself forbids new privileges, and files of root have no owner in there"},
    ),
    Attack(
        "file-capabilities",
        "a program with rights",
        """
        path = '/dev/shm/capable'
        open(path, 'w').close()
        os.setxattr(path, 'security.capability', struct.pack('<IIIII', 0x2000001, 1, 0, 0, 0))
        won()
        """,
        CAPABILITIES,
    ),
    Attack(
        "give-away",
        "files in another user's name",
        """
        path = '/dev/shm/given'
        open(path, 'w').close()
        os.chown(path, 0 if os.getuid() else facts['user'], -1)
        won()
        """,
        ("user namespace", "capabilities"),
        unswitchable={"rootless": "the namespace has one user"},
    ),
    Attack(
        "no-new-privileges",
        "programs that run as their owner",
        "print(facts['won'] if call('prctl', 39, 0, 0, 0, 0) == 0 else 'no')",
        ("bubblewrap", "no new privileges"),
    ),
    Attack(
        "capabilities-back",
        "rights",
        """
        call(126, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(1 << 10, 1 << 10))
        won()
        """,
        ("capabilities",),
    ),
    Attack(
        "bpf",
        "code in the kernel",
        "call(321, 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128); won()",
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "perf",
        "counters that give other programs away",
        """
        call(298, (ctypes.c_uint32 * 32)(1, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0x61), 0, -1, -1, 0)
        won()
        """,
        CALLS,
    ),
    Attack("page-faults", "a stop inside the kernel, which makes races winnable", "call(323, 1); won()", CALLS),
    Attack(
        "rings",
        "a large and young part of the kernel",
        "call(425, 8, (ctypes.c_uint32 * 30)()); won()",
        CALLS,
        unswitchable=RINGS_OFF,
    ),
    Attack(
        "keys-of-its-own", "kernel memory, and code with a past", "call(248, b'user', b'x', b'y', 1, -3); won()", CALLS
    ),
    Attack("key-upcall", "a program that the kernel runs as root", "call(250, 0, -3, 1); won()", CALLS),
    Attack("executable-data", "that all it can read can be run", "call('personality', 0x0400000); won()", CALLS),
    Attack(
        "handles",
        "numbers of files, for what reads by number",
        """
        call('name_to_handle_at', -100, b'/usr', (ctypes.c_uint32 * 40)(128), ctypes.byref(ctypes.c_int()), 0)
        won()
        """,
        CALLS,
    ),
    Attack("watch-all-files", "what others open", "call(300, 0x200, 0); won()", CALLS),
    Attack(
        "old-calls",
        "a call that is refused, by its 32-bit number: filters forget those",
        """
        # push rbx / mov eax, 310 (unshare) / mov ebx, CLONE_NEWUSER / int 0x80 / pop rbx / ret
        code = mmap.mmap(-1, 4096, prot=7)
        code.write(bytes.fromhex('53 b836010000 bb00000010 cd80 5b c3'))
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        print(facts['won'] if result == 0 else result)
        """,
        ("user namespace", "system calls"),
    ),
    Attack(
        "accounting",
        "what others run",
        "open('/tmp/acct', 'w').close(); call('acct', None); won()",
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "real-time",
        "the processor for itself alone",
        """
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        won()
        """,
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT | {"docker": "control groups have no share of real time to give"},
    ),
    Attack(
        "before-others",
        "more than its share of the processor",
        "os.setpriority(os.PRIO_PROCESS, 0, -5); won()",
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT,
    ),
    Attack(
        "whole-tree-flag",
        "files that nobody can delete",
        """
        fd = os.open('/testbed/fixed' if os.path.isdir('/testbed') else '/tmp/fixed', os.O_CREAT | os.O_RDWR)
        flags = array.array('L', [0])
        fcntl.ioctl(fd, 0x80086601, flags)
        fcntl.ioctl(fd, 0x40086602, array.array('L', [0x10]))
        fcntl.ioctl(fd, 0x40086602, flags)
        won()
        """,
        ("user namespace", "capabilities", "system calls"),
        unswitchable=REAL_ROOT,
    ),
]
