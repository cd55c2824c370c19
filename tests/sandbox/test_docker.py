"""Docker does what every sandbox promises, and what is its own: engines that hang or are not there, orphans, deep chains."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests

from runoff.sandbox import conformance
from runoff.sandbox.backends import open_backend
from runoff.sandbox.docker import containers, orphans
from runoff.sandbox.docker.backend import Docker
from runoff.sandbox.docker.containers import MOST_LAYERS
from runoff.sandbox.docker.engine import Engine
from runoff.sandbox.docker.facts import probe, table
from runoff.sandbox.docker.orphans import OWNER, Owner
from runoff.sandbox.protocol import Base, Image, Limits, Refused, SandboxLost, SandboxUnavailable, State

pytestmark = pytest.mark.needs_docker

BUSYBOX = Path("/bin/busybox").read_bytes() if Path("/bin/busybox").exists() else b""

HOLDER = """
import asyncio, sys
from pathlib import Path
from runoff.sandbox.docker.backend import Docker
from runoff.sandbox.protocol import Base

async def main():
    async with Docker(Path(sys.argv[1])) as sandbox:
        base = await sandbox.base(Base())
        sandbox.keep("kept", await sandbox.write(base, {"/testbed/f": b"kept"}))
        state = await sandbox.write(base, {"/testbed/g": b"not named"})
        print(state.digest, sandbox._labels["runoff.owner"], flush=True)
        script = f"setsid sleep {sys.argv[2]} & sleep {sys.argv[2]}"
        await asyncio.gather(*(sandbox.execute(base, ["sh", "-c", script]) for _ in range(2)))

asyncio.run(main())
"""


@pytest.fixture
def engine() -> Iterator[Engine]:
    try:
        engine = Engine()
        engine.about()
    except SandboxUnavailable as error:
        pytest.fail(f"{error} (scripts/docker does that), or leave it out, --without docker", pytrace=False)
    yield engine
    engine.close()


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """A directory of states, whose images are removed afterwards."""
    root = tmp_path / "states"
    yield root
    if not (root / "docker-store").exists():
        return
    label = f"runoff.store={(root / 'docker-store').read_text()}"
    for each in engine.containers(label):
        engine.remove(each["Id"])
    left, before = engine.images(label), 0
    while left and len(left) != before:
        before = len(left)
        for image in left:
            tags = [tag for tag in image["RepoTags"] or () if tag != "<none>:<none>"]
            if not any(tag.startswith("runoff-base:") for tag in tags):
                for name in tags or [image["Id"]]:
                    engine.remove_image(name)
        left = engine.images(label)


@pytest.fixture
def sandbox(store: Path) -> Docker:
    return Docker(store)


async def sh(sandbox: Docker, state: State, script: str) -> State:
    done = await sandbox.execute(state, ["sh", "-euc", script])
    assert done.exit_code == 0, done
    assert done.after
    return done.after


def sampled() -> list[object]:
    """Every third case; `--full` all: an execution takes half a second here."""
    return [
        case if n % 3 == 0 else pytest.param(case, marks=pytest.mark.full)
        for n, case in enumerate(conformance.CASES.values())
    ]


@pytest.mark.parametrize("case", sampled(), ids=conformance.CASES)
async def test_conformance(sandbox: Docker, case: conformance.Case) -> None:
    await case(sandbox, await sandbox.base(Base()))


@pytest.mark.full
@pytest.mark.parametrize("case", conformance.CASES.values(), ids=conformance.CASES)
async def test_conformance_cold(sandbox: Docker, store: Path, case: conformance.Case) -> None:
    """What a warm container hides: each execution in a container from the state's image."""
    async with Docker(store, warm=0) as cold:
        await case(cold, await cold.base(Base()))


async def test_a_file_written_twice_in_a_second_is_a_change(sandbox: Docker, store: Path) -> None:
    """The engine's own list of changes does not see it."""
    async with Docker(store, warm=0) as cold:
        when = "touch -d '2020-01-01 UTC' f"
        one = await sh(cold, await cold.base(Base()), f"echo 1 > f; {when}")
        two = await sh(cold, one, f"echo 2 > f; {when}")
        assert one != two
        assert await cold.read(two, "/testbed/f") == b"2\n"
        assert await sh(cold, two, "true") == two


async def test_a_chain_goes_on_in_one_container_and_says_the_same(sandbox: Docker, engine: Engine) -> None:
    state = await sandbox.base(Base())
    seen = set()
    for n in range(4):
        state = await sh(sandbox, state, f"echo {n} >> f; (sleep 300 &) ; echo x > /tmp/{n}")
        seen |= {each["Id"] for each in engine.containers(f"{OWNER}={sandbox._labels[OWNER]}")}
    assert len(seen) <= 2, "the base's, and one for the chain"
    assert await sandbox.read(state, "/testbed/f") == b"0\n1\n2\n3\n"


@pytest.mark.parametrize(
    "leave",
    [
        "echo x > /dev/shm/left",
        "ln -s nowhere /dev/shm/.left",
        "python3 -c 'import ctypes; assert ctypes.CDLL(None).shmget(77, 4096, 0o1666) >= 0'",
    ],
)
async def test_what_is_in_no_state_is_not_found_again(sandbox: Docker, leave: str) -> None:
    state = await sh(sandbox, await sandbox.base(Base()), f"{leave}; echo > f")
    look = "ls -A /dev/shm /dev/mqueue; tail -qn +2 /proc/sysvipc/*"
    done = await sandbox.execute(state, ["sh", "-c", look])
    assert done.stdout == b"/dev/mqueue:\n\n/dev/shm:\n", done


async def test_a_chain_is_flattened_before_it_is_too_deep(
    sandbox: Docker, store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MOST_LAYERS", 3)
    async with Docker(store, warm=0) as cold:
        state, depths = await cold.base(Base()), []
        for n in range(4):
            state = await sh(cold, state, f"echo {n} >> f")
            depths.append(len(engine.image(f"sha256:{state.digest}")["RootFS"]["Layers"]))
        assert depths == [2, 3, 1, 2]
        assert await cold.read(state, "/testbed/f") == b"0\n1\n2\n3\n"


@pytest.mark.full
async def test_a_deep_chain_works_like_a_shallow_one(store: Path, engine: Engine, sandbox: Docker) -> None:
    """Engines refuse the 128th layer."""
    base = await sandbox.base(Base())
    deep = await asyncio.to_thread(stacked, engine, f"sha256:{base.digest}", MOST_LAYERS - 2)
    state = State(layers=(deep,))
    async with Docker(store, warm=0) as cold:
        state = await sh(cold, state, "mkdir d; echo 1 > d/f; chmod 700 d; ln -s d l; mkfifo p")
        depths = []
        for n in range(3):
            state = await sh(cold, state, f"echo {n} >> f")
            depths.append(len(engine.image(f"sha256:{state.digest}")["RootFS"]["Layers"]))
        assert max(depths) <= MOST_LAYERS + 1
        assert min(depths) == 1, depths
        done = await cold.execute(state, ["sh", "-c", "cat f l/f; stat -c '%a %U' d; [ -p p ]; id -un"])
        assert (done.exit_code, done.stdout) == (0, b"0\n1\n2\n1\n700 user\nuser\n"), done


def stacked(engine: Engine, base: str, layers: int) -> str:
    """The digest of an image of the base's files with so many layers more, as `docker load` takes it."""
    container = engine.create(base, ["/bin/sh"], {"NetworkMode": "none"}, {})
    tars = [b"".join(engine.exported(container))]
    engine.remove(container)
    tars += [packed({f"layer{n}": (b"", 0)}) for n in range(layers)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": engine.image(base)["Config"]["Labels"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
    }
    files = {f"{n}.tar": (tar, 0) for n, tar in enumerate(tars)}
    manifest = [{"Config": "config.json", "RepoTags": [], "Layers": list(files)}]
    files |= {"config.json": (json.dumps(config).encode(), 0), "manifest.json": (json.dumps(manifest).encode(), 0)}
    return engine.load(io.BytesIO(packed(files))).removeprefix("sha256:")


def packed(files: dict[str, tuple[bytes, int]], links: dict[str, str] = {}) -> bytes:
    """Path → contents and owner."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path, (body, uid) in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.uid, member.gid, member.mode = len(body), uid, uid, 0o755
            tar.addfile(member, io.BytesIO(body))
        for path, target in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return made.getvalue()


async def running(sandbox: Docker, engine: Engine, count: int = 1) -> list[str]:
    """The ids of the containers, once so many run: what is idle is removed behind the scenes."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = engine.containers(f"{OWNER}={sandbox._labels[OWNER]}")
        if [each["State"] for each in found] == ["running"] * count:
            return [str(each["Id"]) for each in found]
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def test_what_is_started_is_labelled_and_confined(sandbox: Docker, engine: Engine) -> None:
    base = await sandbox.base(Base())
    await running(sandbox, engine, 0)
    task = asyncio.create_task(sandbox.execute(base, ["sleep", "300"], freeze=False))
    (container,) = await running(sandbox, engine)
    said = engine._quick.inspect_container(container)
    host, config = said["HostConfig"], said["Config"]
    assert said["Name"].startswith("/runoff-")
    assert config["Labels"]["runoff.path"] == str(sandbox._root.resolve())
    assert Owner.parse(config["Labels"][OWNER].rpartition("/")[0]) == Owner.of(os.getpid())
    assert (host["NetworkMode"], host["CapDrop"], host["Privileged"]) == ("none", ["ALL"], False)
    assert [option.partition("=")[0] for option in host["SecurityOpt"]] == ["no-new-privileges", "seccomp"]
    assert host["Memory"] == host["MemorySwap"] == Limits().memory
    assert host["PidsLimit"] <= Limits().processes + 4
    assert all(mount["RW"] is False for mount in said["Mounts"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.containers(f"{OWNER}={sandbox._labels[OWNER]}") == [], "cancelled, and something is left"


async def test_killed_by_its_limit_and_killed_from_outside(sandbox: Docker, engine: Engine) -> None:
    base = await sandbox.base(Base())
    program = "print('begun', flush=True); x = bytearray(400 << 20)"
    done = await sandbox.execute(base, ["python3", "-c", program], Limits(memory=200 << 20))
    assert (done.outcome, done.limit, done.exit_code, done.stdout) == ("killed", "memory", None, b"begun\n")
    assert done.after
    await running(sandbox, engine, 0)
    task = asyncio.create_task(sandbox.execute(base, ["sh", "-c", "echo begun; sleep 300"]))
    (container,) = await running(sandbox, engine)
    await asyncio.sleep(1)
    engine.kill(container)
    done = await task
    assert (done.outcome, done.exit_code, done.after) == ("lost", None, None), done
    assert (await sandbox.execute(base, ["echo", "fine"])).stdout == b"fine\n"


def test_a_container_that_is_dying_has_no_processes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a busy machine: the engine's link to the container is closed, and the engine has not yet seen it die."""
    said = iter([500, 500, 409])

    def top(_: str) -> None:
        response = requests.Response()
        response.status_code = next(said)
        raise docker.errors.APIError("ttrpc: closed: unknown", response)

    monkeypatch.setattr(engine._quick, "top", top)
    assert engine.processes("dying") == 0


async def test_a_paused_container_ends_by_the_clock(sandbox: Docker, engine: Engine) -> None:
    base = await sandbox.base(Base())
    await running(sandbox, engine, 0)
    task = asyncio.create_task(sandbox.execute(base, ["sh", "-c", "echo kept > f; sleep 300"], Limits(seconds=3)))
    (container,) = await running(sandbox, engine)
    await asyncio.sleep(1)
    engine._quick.pause(container)
    done = await task
    assert done.outcome in ("timed out", "lost"), done
    assert (await sandbox.execute(base, ["echo", "fine"])).stdout == b"fine\n"


def test_the_containers_of_a_killed_owner_are_gone_and_its_states_are_not(engine: Engine, store: Path) -> None:
    mark = f"{300 + random.random():.9f}"
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths}
    command = [sys.executable, "-c", HOLDER, str(store), mark]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout
    digest, label = owner.stdout.readline().split()
    until = time.monotonic() + 20
    while len(processes(mark)) < 6:
        assert time.monotonic() < until, "they run, so the test can fail"
        time.sleep(0.1)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    until = time.monotonic() + 10
    while left := processes(mark):
        assert time.monotonic() < until, left
        time.sleep(0.05)
    assert engine.containers(f"{OWNER}={label}"), "they are dead, and still on the disk"

    async def reopened() -> None:
        async with Docker(store) as sandbox:
            assert engine.containers(f"{OWNER}={label}") == []
            kept = sandbox.named("kept")
            assert kept
            assert await sandbox.read(kept, "/testbed/f") == b"kept"
            assert sandbox.find(digest), "a log may name it"

    asyncio.run(reopened())
    assert f"image sha256:{digest}" in orphans.leftovers(True)
    mine = f"runoff.store={(store / 'docker-store').read_text()}"
    assert f"sha256:{digest}" in orphans.remove_images(engine, Owner.of(os.getpid()), label=mine)

    async def cleaned() -> None:
        async with Docker(store) as sandbox:
            assert sandbox.find(digest) is None
            assert sandbox.named("kept"), "what has a name stays"

    asyncio.run(cleaned())


def processes(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_text().replace("\0", " ")
        except (OSError, UnicodeDecodeError):
            continue
        if mark in said and "runoff.sandbox" not in said:
            found.append(said)
    return found


async def test_an_engine_that_hangs_loses_the_sandbox_and_stops_nothing(sandbox: Docker, store: Path) -> None:
    """Between us and the engine, something that from some moment on passes nothing any more."""
    base = await sandbox.base(Base())
    with Between(store.parent / "hanging.sock") as between:
        async with Docker(store, url=f"unix://{between.path}", deadline=3) as slow:
            assert (await slow.execute(base, ["echo", "fine"])).stdout == b"fine\n"
            between.hangs = True
            began, ticks = time.monotonic(), 0
            waiting = asyncio.ensure_future(slow.execute(base, ["true"]))
            while not waiting.done():
                await asyncio.sleep(0.01)
                ticks += 1
            between.hangs = False
            assert time.monotonic() - began < 25
            assert ticks > 20, "the loop went on"
            with pytest.raises(SandboxLost, match="does not answer"):
                await waiting


async def test_engines_that_are_not_there(sandbox: Docker, store: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="nowhere does not exist; start one: `systemctl start docker`"):
        await Docker(store, url="unix:///nowhere").__aenter__()
    with pytest.raises(SandboxUnavailable, match="give a unix:// or a tcp:// address"):
        await Docker(store, url="ssh://me@elsewhere").__aenter__()
    with Between(store.parent / "mute.sock") as mute:
        mute.hangs = True
        with pytest.raises(SandboxUnavailable, match="does not answer"):
            await Docker(store, url=f"unix://{mute.path}", deadline=1).__aenter__()
    (found,) = await probe("unix:///nowhere")
    assert (found.ok, found.what) == (False, "docker")
    (found,) = await probe()
    assert found.ok, found.detail
    assert "cgroup v" in found.detail


ELSEWHERE = """
import asyncio, sys
from pathlib import Path
from runoff.sandbox.docker.backend import Docker
from runoff.sandbox.protocol import Base, Refused

async def main():
    async with Docker(Path(sys.argv[1])) as sandbox:
        try:
            await sandbox.base(Base(binds=("/usr", sys.argv[2])))
        except Refused as error:
            print(error)

asyncio.run(main())
"""


def test_a_base_of_the_host_on_an_engine_elsewhere_is_refused(engine: Engine, store: Path, tmp_path: Path) -> None:
    """Seen from another mount namespace, where the engine does not look, the directory is another one."""
    shown = tmp_path / "shown"
    shown.mkdir()
    mount = f'mount -t tmpfs none {shown}; exec "$@"'
    elsewhere = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", mount, "sh"]
    command = [*elsewhere, sys.executable, "-c", ELSEWHERE, str(store), str(shown)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert "does not see this machine's" in said.stdout, said
    assert "use an image as the base" in said.stdout


APPLETS = "sh cat id grep echo env sleep setsid timeout rm tar stat mkdir dirname".split()


@pytest.mark.parametrize(("user", "uid"), [("app", "4321"), ("", "0")])
async def test_an_image_gets_its_places_and_runs_as_its_user(
    sandbox: Docker, engine: Engine, user: str, uid: str
) -> None:
    tag = f"runoff-test-{os.urandom(4).hex()}:1"
    files = {"bin/busybox": (BUSYBOX, 0), "etc/passwd": (b"app:x:4321:4321::/:/bin/sh\n", 0)}
    plain = engine.imported(packed(files, {f"bin/{name}": "busybox" for name in APPLETS} | {"usr/bin": "../bin"}), {})
    made = engine._quick.create_container(plain, ["sh"], user=user, environment={"OWN": "yes", "PATH": "/bin"})
    engine.tag(engine.commit(made["Id"]), *tag.split(":"))
    engine.remove(made["Id"])
    try:
        state = await sandbox.base(Image(reference=f"docker-daemon:{tag}"))
        assert state == await sandbox.base(Image(reference=tag))
        places = "for d in /testbed /env /home/user /tmp; do echo x > $d/f && echo $d; done"
        done = await sandbox.execute(state, ["sh", "-c", f"id -u; echo $OWN; {places}; grep CapEff /proc/self/status"])
        expected = f"{uid} yes /testbed /env /home/user /tmp CapEff: 0000000000000000"
        assert done.text.split() == expected.split(), done
        assert done.after
        later = await sandbox.execute(done.after, ["sh", "-c", "sleep 300 & (setsid sleep 300 &); echo y >> f; exit 3"])
        assert (later.exit_code, later.seconds < 5) == (3, True), later
        assert later.after
        assert await sandbox.read(later.after, "/testbed/f") == b"x\ny\n"
        with pytest.raises(Refused, match="No such image"):
            await sandbox.base(Image(reference="docker-daemon:runoff-never-was:1"))
        with pytest.raises(Refused, match="skopeo copy"):
            await sandbox.base(Image(reference="oci:/somewhere:1"))
    finally:
        engine.remove_image(tag)


def test_the_table_says_what_an_engine_cannot() -> None:
    rows = {row.limit: row for row in table({"CgroupVersion": "2", "MemoryLimit": True})}
    assert rows["memory"].how == "enforced"
    assert rows["swap"].how == rows["processes"].how == rows["system calls"].how == "not held"


async def test_backends_by_name(sandbox: Docker, store: Path) -> None:
    async with open_backend("docker", store) as named:
        assert named.name == "docker"
        assert (await named.execute(await named.base(Base()), ["echo", "fine"])).stdout == b"fine\n"
    with pytest.raises(SandboxUnavailable, match=r"no sandbox called dokcer; choose one of auto, bubblewrap, .*docker"):
        async with open_backend("dokcer", store):
            pass


def test_an_owner_is_dead_only_if_one_can_know() -> None:
    me = Owner.of(os.getpid())
    assert Owner.parse(str(me)) == me
    assert not orphans.is_dead(me, me)
    assert orphans.is_dead(me._replace(began="1"), me), "the number was given to another process since"
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert orphans.is_dead(me._replace(pid=gone.pid), me)
    assert not orphans.is_dead(me._replace(pid=gone.pid, boot="another"), me)
    assert not orphans.is_dead(me._replace(pid=gone.pid, namespace="1"), me)
    assert Owner.parse("nonsense") is None


class Between:
    """A socket that passes everything on to the engine, until it hangs."""

    def __init__(self, path: Path) -> None:
        self.path, self.hangs = path, False

    def __enter__(self) -> Between:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            there = socket.socket(socket.AF_UNIX)
            there.connect("/var/run/docker.sock")
            for pair in ((here, there), (there, here)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while chunk := source.recv(1 << 16):
                while self.hangs:
                    time.sleep(0.02)
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            target.close()
