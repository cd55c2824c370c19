"""Reading and changing files of the host: secrets, logs, answers, other states, sockets; and environments, descriptors."""

from tests.sandbox.attacks.attack import Attack

VIEW = ("view",)
ENGINE = {"docker": "states lie with the engine, behind its socket"}
STARTED_BY_ENGINE = {
    "docker": "the engine starts it, where nothing of ours is open, in a session of its own: without a switch"
}

ATTACKS = [
    Attack("a-file", "any file whose path one knows", "show(facts['place'] + '/secret')", VIEW),
    Attack("shadow", "password hashes", "show('/etc/shadow')", VIEW),
    Attack("ssh-key", "logging in elsewhere", "show(facts['home'] + '/.ssh/id_ed25519')", VIEW),
    Attack("cloud-credentials", "the cloud account", "show(facts['home'] + '/.aws/credentials')", VIEW),
    Attack("netrc", "passwords of package indexes", "show(facts['home'] + '/.netrc')", VIEW),
    Attack("history", "what the user typed", "show(facts['home'] + '/.bash_history')", VIEW),
    Attack("run-log", "other trajectories of this run", "show(facts['place'] + '/runs/last/log/issue.jsonl')", VIEW),
    Attack("run-configuration", "how this run selects", "show(facts['place'] + '/runs/last/run.toml')", VIEW),
    Attack("answer", "the hidden tests", "show(facts['place'] + '/answers/issue.json')", VIEW),
    Attack(
        "other-states",
        "what other trajectories did",
        "show_any(glob.glob(facts['place'] + '/states/*/u/testbed/*'))",
        VIEW,
        unswitchable=ENGINE,
    ),
    Attack(
        "names-of-states",
        "which states there are",
        "print(facts['won'] if glob.glob(facts['place'] + '/states/names/*.json') else 'none')",
        VIEW,
        unswitchable=ENGINE,
    ),
    Attack(
        "mount-table",
        "where the host keeps what",
        "print(facts['won'] if facts['place'] + '/run' in open('/proc/self/mountinfo').read() else 'no')",
        VIEW,
    ),
    Attack(
        "climb-out",
        "any file, by a path with ..",
        "show('/tmp/' + '../' * 9 + facts['place'] + '/secret')",
        VIEW,
    ),
    Attack(
        "link-out",
        "any file, by a link",
        """
        os.symlink(facts['place'] + '/secret', (link := '/dev/shm/link-out'))
        show(link)
        """,
        VIEW,
    ),
    Attack(
        "docker-socket",
        "root on the machine, by asking its engine",
        "s = socket.socket(socket.AF_UNIX); s.connect('/run/docker.sock'); print(s.recv(99))",
        VIEW,
        seen=lambda machine: "docker.sock" in machine.contacts(),
    ),
    Attack(
        "ssh-agent",
        "signing with the user's keys",
        """
        s = socket.socket(socket.AF_UNIX)
        s.connect(facts['place'] + '/agent.sock')
        print(s.recv(99))
        """,
        VIEW,
        seen=lambda machine: "agent" in machine.contacts(),
    ),
    Attack(
        "plant-a-file",
        "code that the user runs later",
        "open(facts['place'] + '/mine/.bashrc', 'w').write('owned')",
        VIEW,
        seen=lambda machine: ".bashrc" in machine.mine(),
    ),
    Attack(
        "change-a-tool",
        "code in everything that uses the shared interpreter",
        "open(facts['place'] + '/tool/program', 'w').write(facts['won'])",
        ("read-only",),
        seen=lambda machine: (machine.place / "tool" / "program").read_text() == machine.won,
    ),
    Attack(
        "add-to-a-tool",
        "a module that everything imports",
        "open(facts['place'] + '/tool/sitecustomize.py', 'w').write(facts['won'])",
        ("read-only",),
        seen=lambda machine: (machine.place / "tool" / "sitecustomize.py").exists(),
    ),
    Attack(
        "other-memory", "files of another sandbox in /dev/shm", "show_any(glob.glob('/dev/shm/*'))", ("shared memory",)
    ),
    Attack("environment", "the API key", "print(os.environ)", ("environment",)),
    Attack(
        "environment-of-parents",
        "the API key",
        "show_any(['/proc/1/environ', '/proc/%d/environ' % os.getppid()])",
        ("environment",),
    ),
    Attack(
        "descriptors",
        "what whoever started it had open",
        """
        for fd in range(3, 256):
          try:
            if os.path.basename(os.readlink('/proc/self/fd/%d' % fd)) == 'secret': print(os.pread(fd, 99, 0))
          except OSError: pass
        """,
        ("descriptors",),
        unswitchable=STARTED_BY_ENGINE,
    ),
    Attack(
        "helper-protocol",
        "asking the sandbox's helper, or answering for it",
        """
        for fd in range(3, 256):
          try:
            s = socket.socket(fileno=os.dup(fd))
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0: won()
          except OSError: pass
        """,
        ("descriptors",),
        unswitchable=STARTED_BY_ENGINE,
    ),
    Attack(
        "key",
        "secrets in the kernel's keyring",
        """
        found = call(250, 10, -3, b'user', b'planted', 0)
        room = ctypes.create_string_buffer(100)
        call(250, 11, found, room, 100)
        print(room.value)
        """,
        ("keyring", "system calls"),
        unswitchable=STARTED_BY_ENGINE,
    ),
    Attack(
        "keys-listed",
        "names of keys",
        "print(facts['won'] if ' planted:' in open('/proc/keys').read() else 'no')",
        ("keyring", "masks", "system calls", "user namespace"),
        unswitchable=STARTED_BY_ENGINE,
    ),
]
