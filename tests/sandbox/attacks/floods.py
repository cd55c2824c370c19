"""Taking more than one's share: processes, memory, disk, files, descriptors, output, time."""

from runoff.sandbox.protocol import Limits
from tests.sandbox.attacks.attack import Flood

MIB = 1 << 20
USUAL = Limits(seconds=20)


def _limits(**some: float) -> Limits:
    return USUAL.model_copy(update=some)


PROCESSES = {"limits": _limits(processes=48), "more": _limits(processes=900)}
MEMORY = {"limits": _limits(memory=192 * MIB), "more": _limits(memory=4096 * MIB)}
DISK = {"limits": _limits(disk=8 * MIB), "more": _limits(disk=1024 * MIB)}
FILES = {"limits": _limits(files=100), "more": _limits(files=100_000)}
OPEN = {"limits": _limits(open_files=64), "more": _limits(open_files=1024)}
CPU = {"limits": _limits(cpu_seconds=0.5), "more": _limits(cpu_seconds=100)}
OUTPUT = {"limits": _limits(output=64 << 10), "more": _limits(output=32 * MIB)}
LARGE = {"limits": _limits(file_size=MIB), "more": _limits(file_size=64 * MIB)}

FLOODS = [
    Flood(
        "flood-forks",
        "that nobody on the machine can start a process",
        """
        children = []
        try:
            for n in range(100):
                child = os.fork()
                if child == 0:
                    signal.pause()
                children.append(child)
            won()
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
        """,
        **PROCESSES,
    ),
    Flood(
        "flood-forks-of-forks",
        "the same, faster than they are counted",
        """
        read, write = os.pipe()
        for n in range(7):
            try:
                os.fork()
            except OSError:
                pass
        os.write(write, b".")
        if os.getpid() != first:
            signal.pause()
        count = 0
        while count <= 100 and select.select([read], [], [], 1)[0]:  # none for a second: there will be no more
            count += len(os.read(read, 999))
        if count > 100:
            won()
        """.replace("read, write", "first = os.getpid()\n        read, write", 1),
        **PROCESSES,
    ),
    Flood(
        "flood-threads",
        "the same",
        """
        threading.stack_size(64 << 10)
        stop = threading.Event()
        try:
            for n in range(100):
                threading.Thread(target=stop.wait, daemon=True).start()
            won()
        finally:
            stop.set()
        """,
        **PROCESSES,
    ),
    Flood("flood-memory", "that the machine swaps, or kills others", "b'x' * (256 << 20); won()", **MEMORY),
    Flood(
        "flood-memory-of-many",
        "the same, by processes that are each within the limit",
        """
        read, write = os.pipe()
        for n in range(6):
            if os.fork() == 0:
                kept = b"x" * (50 << 20)
                os.write(write, b".")
                signal.pause()
        got = b""
        while len(got) < 6:
            got += os.read(read, 9)
        time.sleep(1)
        won()
        """,
        **MEMORY,
    ),
    Flood(
        "flood-memory-mapped",
        "the same, by mappings",
        """
        room = mmap.mmap(-1, 256 << 20)
        for n in range(0, 256 << 20, 4096):
            room[n] = 1
        time.sleep(1)  # watched, it may be passed until the next look
        won()
        """,
        **MEMORY,
    ),
    Flood(
        "flood-shared-memory",
        "memory that no process has, in /dev/shm",
        """
        with open("/dev/shm/large", "wb") as file:
            for n in range(240):
                file.write(bytes(1 << 20))
        time.sleep(1)
        won()
        """,
        **MEMORY,
    ),
    Flood(
        "flood-anonymous-files",
        "memory that has no name",
        """
        file = os.memfd_create("large")
        for n in range(240):
            os.write(file, bytes(1 << 20))
        won()
        """,
        stopped_by=("system calls",),
        **MEMORY,
    ),
    Flood(
        "flood-segments",
        "memory that outlives its process",
        """
        libc.shmat.restype = ctypes.c_void_p
        for n in range(6):
            at = libc.shmat(call("shmget", 0, 40 << 20, 0o1600), None, 0)
            ctypes.memset(at, 1, 40 << 20)
            libc.shmdt(ctypes.c_void_p(at))
        won()
        """,
        stopped_by=("system calls",),
        **MEMORY,
    ),
    Flood(
        "flood-disk",
        "that nobody can write any more",
        """
        for n in range(16):
            with open("/tmp/%d" % n, "wb") as file:
                file.write(os.urandom(1 << 20))
        won()
        """,
        **DISK,
    ),
    Flood(
        "flood-disk-without-names",
        "the same, in files that were deleted while they are open",
        """
        files = []
        for n in range(16):
            files.append(open("/tmp/%d" % n, "wb"))
            files[-1].write(os.urandom(1 << 20))
            files[-1].flush()
            os.unlink("/tmp/%d" % n)
        time.sleep(2)
        won()
        """,
        **DISK,
    ),
    Flood(
        "flood-large-file", "the same, in one file", "open('/tmp/large', 'wb').write(bytes(8 << 20)); won()", **LARGE
    ),
    Flood(
        "flood-sparse-file",
        "a file that becomes large when it is copied",
        "os.truncate(os.open('/tmp/large', os.O_CREAT | os.O_RDWR), 16 << 20); won()",
        **LARGE,
    ),
    Flood(
        "flood-reserved-file",
        "room that is not even written",
        "os.posix_fallocate(os.open('/tmp/large', os.O_CREAT | os.O_RDWR), 0, 16 << 20); won()",
        **LARGE,
    ),
    Flood(
        "flood-files",
        "that no file can be made any more",
        """
        for n in range(300):
            open("/tmp/%d" % n, "w").close()
        won()
        """,
        **FILES,
    ),
    Flood(
        "flood-directories",
        "the same",
        """
        for n in range(300):
            os.mkdir("/tmp/%d" % n)
        won()
        """,
        **FILES,
    ),
    Flood(
        "flood-links",
        "the same",
        """
        for n in range(300):
            os.symlink("x" * 200, "/tmp/%d" % n)
        won()
        """,
        **FILES,
    ),
    Flood(
        "flood-pipes-with-names",
        "the same",
        """
        for n in range(300):
            os.mkfifo("/tmp/%d" % n)
        won()
        """,
        **FILES,
    ),
    Flood(
        "flood-open-files",
        "the kernel's memory for them",
        "files = [open('/dev/null') for n in range(200)]; won()",
        **OPEN,
    ),
    Flood("flood-pipes", "the same", "pipes = [os.pipe() for n in range(100)]; won()", **OPEN),
    Flood("flood-sockets", "the same", "pairs = [socket.socketpair() for n in range(100)]; won()", **OPEN),
    Flood("flood-watches", "the same", "handles = [call('inotify_init1', 0) for n in range(100)]; won()", **OPEN),
    Flood("flood-polls", "the same", "handles = [select.epoll() for n in range(100)]; won()", **OPEN),
    Flood(
        "flood-processor",
        "that others wait",
        """
        while time.process_time() < 1.2:
            pass
        won()
        """,
        **CPU,
    ),
    Flood(
        "flood-processor-of-many",
        "the same, by processes that are each within the limit",
        """
        children = []
        for n in range(4):
            children.append(os.fork())
            if children[-1] == 0:
                while time.process_time() < 0.4:
                    pass
                os._exit(0)
        for child in children:
            os.waitpid(child, 0)
        won()
        """,
        **CPU,
    ),
    Flood(
        "flood-time",
        "that it never ends",
        "time.sleep(1.5); won()",
        limits=_limits(seconds=0.5),
        more=_limits(seconds=10),
    ),
    Flood(
        "flood-output",
        "the memory of whoever keeps it",
        r"""
        for n in range(16): sys.stdout.write('x' * 1048575 + '\n')
        won()
        """,
        **OUTPUT,
    ),
    Flood(
        "flood-errors",
        "the same",
        r"""
        for n in range(16): sys.stderr.write('x' * 1048575 + '\n')
        sys.stderr.write(facts['won'])
        """,
        **OUTPUT,
    ),
    Flood(
        "flood-a-line",
        "the same, for whoever reads lines",
        """
        for n in range(16): sys.stdout.write('x' * 1048576)
        won()
        """,
        **OUTPUT,
    ),
]
