"""Images as bases: what their layers say, what hostile ones would gain, where they come from, what they cost on disk."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from runoff.sandbox import prerequisites
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Base, Image, Limits, Refused, SandboxUnavailable, State
from tests.sandbox import imagefiles
from tests.sandbox.imagefiles import PATH, Layout, hard, layer, link
from tests.sandbox.stores import cleaned, nothing_stays

BUSYBOX = imagefiles.busybox()
OPAQUE = ".wh..wh..opq"


async def imported(sandbox: Bubblewrap, layout: Layout) -> State:
    return await sandbox.base(Image(reference=layout.reference))


async def out(sandbox: Bubblewrap, state: State, script: str, **how: Any) -> str:
    return (await sandbox.execute(state, ["sh", "-c", script], freeze=False, cwd="/", **how)).text


async def test_layers_replace_hide_and_remove_what_is_below(sandbox: Bubblewrap, tmp_path: Path) -> None:
    lower = layer(
        *(("d", None), ("d/a", b"a"), ("d/b", b"b"), ("d/e", None), ("d/e/f", b"f")),
        *(
            ("file", b"file"),
            ("dir", None),
            ("dir/in", b"in"),
            ("o", None),
            ("o/1", b"1"),
            ("o/2", None),
            ("o/2/x", b"x"),
        ),
        *(
            ("gone", None),
            ("gone/deep", None),
            ("gone/deep/er", b"x"),
            ("was", b"was"),
            ("same", None),
            ("same/old", b""),
        ),
    )
    upper = layer(
        *(("d", None), ("d/.wh.a", b""), ("d/e", None), ("d/e/.wh.f", b"")),
        *((".wh.file", b""), ("file", None), ("file/new", b"new"), (".wh.dir", b""), ("dir", b"now a file")),
        *(("o", None), (f"o/{OPAQUE}", b""), ("o/3", b"3"), ("o/.wh.1", b""), (".wh.gone", b""), ("now", b"was")),
        *((".wh.was", b""), (".wh.same", b""), ("same", None), ("same/new", b"")),
    )
    top = layer(("gone", None), ("gone/again", b""), ("file/.wh.new", b""), ("d/a", b"back"))
    state = await imported(sandbox, Layout(tmp_path / "i", [BUSYBOX, lower, upper, top]))
    places = "d file dir o gone now was same"
    seen = await out(sandbox, state, f"find {places} 2>&1 | sort; cat d/a d/b dir now")
    assert seen.splitlines() == [
        *("d", "d/a", "d/b", "d/e", "dir", "file"),
        *("find: was: No such file or directory", "gone", "gone/again", "now", "o", "o/3", "same", "same/new"),
        "backbnow a filewas",
    ]
    after = (await sandbox.execute(state, ["sh", "-euc", "rm -r /d; mkdir /d; echo x >> /o/3; mv /same/new /d/"])).after
    assert after
    assert await out(sandbox, after, "find d same; cat o/3") == "d\nd/new\nsame\n3x\n"
    assert await out(sandbox, state, "ls d; cat o/3") == "a\nb\ne\n3"


async def test_files_are_as_they_were_but_for_their_owner(
    sandbox: Bubblewrap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "runoff.sandbox.images")
    odd = "odd/\n ü\udcfe-x"
    made = layer(
        ("usr/bin/su", {"body": b"x", "mode": 0o4755, "uid": 0, "mtime": 1_000_000_000}),
        ("shadow", {"body": b"x", "mode": 0o640, "uid": 0, "gid": 42}),
        ("closed", {"type": tarfile.DIRTYPE, "mode": 0o500, "uid": 7}),
        *(("closed/in", b"in"), ("one", b"one"), ("other", hard("one")), ("third", hard("/other"))),
        *(("absolute", link("/one")), ("up", link("../../../one")), (odd, b"odd"), ("l" * 200 + "/" + "m" * 200, b"")),
        *(("pipe", {"type": tarfile.FIFOTYPE}), ("dev/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})),
        ("cap", {"body": b"c", "pax_headers": {"SCHILY.xattr.security.capability": "x", "SCHILY.xattr.user.k": "v"}}),
        ("tmp/in", b"the layer does not say what /tmp is"),
    )
    state = await imported(sandbox, Layout(tmp_path / "i", [BUSYBOX, made]))
    say = "stat -c '%n %a %U %h %Y' usr/bin/su shadow closed one third tmp; cat closed/in absolute up odd/*; echo; readlink up"
    user = await out(sandbox, state, "id -un")
    assert (await out(sandbox, state, say)).split("\n")[:7] == [
        *("usr/bin/su 755 user 1 1000000000", "shadow 640 user 1 0", "closed 500 user 2 0"),
        *("one 755 user 3 0", "third 755 user 3 0"),
        *((await out(sandbox, state, "stat -c 'tmp 1777 user %h %Y' tmp")).strip(), "inoneoneodd"),
    ]
    assert user == "user\n"
    for lost in ("belong to the sandbox's user", "1 setuid", "1 device nodes", "1 extended attributes"):
        assert lost in caplog.text
    assert (
        await out(sandbox, state, "[ -p pipe ] && cat shadow; ls -d l*/m* | wc -c; [ -c dev/null ] || echo no")
        == "x402\n"
    )


async def test_what_two_images_share_is_on_disk_once(sandbox: Bubblewrap, tmp_path: Path) -> None:
    large = layer(("large", os.urandom(8 << 20)))
    store = tmp_path / "states"
    before = imagefiles.readable(store)
    one = await imported(sandbox, Layout(tmp_path / "1", [BUSYBOX, large, layer(("one", b"1"))]))
    single = imagefiles.readable(store) - before
    two = await imported(sandbox, Layout(tmp_path / "2", [BUSYBOX, large, layer(("two", b"2"))], compress="zstd"))
    assert single > 8 << 20
    assert imagefiles.readable(store) - before - single < 100_000
    assert one != two
    assert await out(sandbox, two, "cat two; ls one; wc -c < large") == "28388608\nls: one: No such file or directory\n"
    await nothing_stays(store)


async def test_one_image_is_one_state_wherever_it_came_from(sandbox: Bubblewrap, mode: str, tmp_path: Path) -> None:
    layers = [BUSYBOX, layer(("f", b"f"))]
    state = await imported(sandbox, Layout(tmp_path / "1", layers))
    assert await imported(sandbox, Layout(tmp_path / "2", layers, compress="zstd")) == state
    assert await imported(sandbox, Layout(tmp_path / "3", layers, compress="")) == state
    assert await sandbox.base(Image(reference=imagefiles.docker_archive(tmp_path / "saved.tar", layers))) == state
    assert await imported(sandbox, Layout(tmp_path / "4", layers, env=[PATH, "A=1"])) != state
    after = await sandbox.execute(state, ["sh", "-c", "echo more >> /f; head -c 2000000 /dev/zero > /tmp/large"])
    assert after.after
    sandbox.keep("kept", after.after)
    async with Bubblewrap(tmp_path / "states", mode) as other:  # type: ignore[arg-type]
        assert other.find(state.digest) == state
        kept = other.named("kept")
        assert kept == after.after == other.find(after.after.digest)
        assert await out(other, kept, "cat f") == "fmore\n"
    lowest = min((tmp_path / "states").glob("i*"))
    lowest.rename(tmp_path / "away")
    assert sandbox.named("kept") is None
    assert sandbox.find(state.digest) is None


def test_layers_of_an_image_stay_as_long_as_a_state_on_it(mode: str, tmp_path: Path) -> None:
    store = tmp_path / "states"

    async def made() -> None:
        async with Bubblewrap(store, mode) as sandbox:  # type: ignore[arg-type]
            state = await imported(sandbox, Layout(tmp_path / "1", [BUSYBOX, layer(("f", b"f"))]))
            done = await sandbox.execute(state, ["sh", "-c", "echo x >> /f"])
            assert done.after
            sandbox.keep("kept", done.after)
            await imported(sandbox, Layout(tmp_path / "2", [BUSYBOX, layer(("g", b"g"))]))

    async def used() -> None:
        async with Bubblewrap(store, mode) as sandbox:  # type: ignore[arg-type]
            kept = sandbox.named("kept")
            assert kept
            assert await out(sandbox, kept, "cat f") == "fx\n"

    asyncio.run(made())
    assert len(list(store.glob("i*"))) == 3
    asyncio.run(cleaned(store))
    assert len(list(store.glob("i*"))) == 2
    asyncio.run(used())


@pytest.mark.full
async def test_deep_images_work_and_stay_deep_no_longer_than_needed(sandbox: Bubblewrap, tmp_path: Path) -> None:
    layers = [
        layer((f"f{n}", str(n).encode()), ("d", None), (f"d/{n}", b""), (f"d/.wh.{n - 2}", b"")) for n in range(84)
    ]
    for depth in (60, 84):
        state = await imported(sandbox, Layout(tmp_path / str(depth), [BUSYBOX, *layers[:depth]]))
        seen = await out(sandbox, state, "ls -d f* | wc -l; ls d; cat f0 f59")
        assert seen == f"{depth}\n{depth - 2}\n{depth - 1}\n059"
        for n in range(5):
            done = await sandbox.execute(state, ["sh", "-c", f"head -c 2000000 /dev/zero > large{n}; rm -f /d/59"])
            assert done.after, done
            state = done.after
        left = [str(n) for n in (depth - 2, depth - 1) if n != 59]
        assert (await out(sandbox, state, "ls testbed | wc -l; ls d; cat f0 f59")).split() == ["5", *left, "059"]


async def test_the_same_layer_twice(sandbox: Bubblewrap, tmp_path: Path) -> None:
    empty, a = layer(), layer(("f", b"a"))
    state = await imported(sandbox, Layout(tmp_path / "i", [BUSYBOX, empty, a, empty, layer(("f", b"b")), a, empty]))
    assert await out(sandbox, state, "cat f") == "a"


async def test_the_images_environment_counts_and_the_callers_more(
    sandbox: Bubblewrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "s3cret")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    (tmp_path / "auth.json").write_text("{}")
    env = ["PATH=/opt:/bin", "A=image", "B=image=2", "LANG=x", "LD_PRELOAD=/opt/none.so", "EMPTY="]
    state = await imported(sandbox, Layout(tmp_path / "i", [BUSYBOX], env=env))
    seen = set((await out(sandbox, state, "env; cat /proc/*/environ | tr '\\0' '\\n'", env={"A": "mine"})).splitlines())
    assert seen >= {"PATH=/opt:/bin", "A=mine", "B=image=2", "LANG=x", "EMPTY=", "HOME=/home/user", "PWD=/"}
    assert {line.split("=")[0] for line in seen} <= {
        *("PATH", "A", "B", "LANG", "LD_PRELOAD", "EMPTY", "HOME", "PWD", "SHLVL", "OLDPWD")
    }
    assert await out(sandbox, state, "ls -d /usr /opt 2>/dev/null; cat /proc/self/mountinfo | grep -c /usr") == "0\n"


async def test_limits_and_isolation_hold_in_images(sandbox: Bubblewrap, tmp_path: Path) -> None:
    state = await imported(sandbox, Layout(tmp_path / "i", [BUSYBOX]))
    seen = await out(
        sandbox, state, "grep -E '^(Cap|NoNew)' /proc/self/status; cut -d: -f1 /proc/net/dev | tail -n +3; id"
    )
    values = [line.split()[1] for line in seen.splitlines() if ":" in line]
    assert values == ["0000000000000000"] * 5 + ["1"]
    assert seen.splitlines()[6].strip() == "lo"
    assert "uid=0" not in seen
    done = await sandbox.execute(state, ["sh", "-c", "(setsid sleep 300 &); sleep 300"], Limits(seconds=0.3))
    assert done.outcome == "timed out"
    assert "can't fork" in await out(
        sandbox, state, "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done", limits=Limits(processes=6)
    )
    assert (
        await out(
            sandbox, state, "unshare -Ur true 2>/dev/null || echo no; mount -t tmpfs n /tmp 2>/dev/null || echo no"
        )
        == "no\nno\n"
    )
    assert (await sandbox.execute(state, ["no-such-program"])).exit_code == 127
    with pytest.raises(Refused, match="nowhere"):
        await sandbox.execute(state, ["true"], cwd="/nowhere")


async def test_an_images_programs_never_have_rights(sandbox: Bubblewrap, tmp_path: Path) -> None:
    spy = b"#!/bin/sh\nid -u; grep CapEff /proc/self/status\n"
    fakes = layer(
        *((f"{place}/{name}", spy) for place in ("usr/bin", "bin", "sbin") for name in ("setpriv", "bwrap", "nsenter"))
    )
    state = await imported(sandbox, Layout(tmp_path / "i", [BUSYBOX, fakes], env=["PATH=/usr/bin:/bin"]))
    assert "CapEff" not in await out(sandbox, state, "true")
    assert (await out(sandbox, state, "/usr/bin/setpriv")).split()[1:] == ["CapEff:", "0000000000000000"]


async def test_an_image_without_a_shell(sandbox: Bubblewrap, tmp_path: Path) -> None:
    program = imagefiles.program()
    state = await imported(sandbox, Layout(tmp_path / "i", [layer(("app/busybox", program))], env=[]))
    done = await sandbox.execute(state, ["/app/busybox", "echo", "runs"])
    assert (done.exit_code, done.stdout) == (0, b"runs\n")
    assert (await sandbox.execute(state, ["sh", "-c", "true"])).exit_code == 127
    with pytest.raises(Refused, match="/bin/sh"):
        await sandbox.read(state, "/app/busybox")


HOSTILE_ROOTS: dict[str, list[imagefiles.Entry]] = {
    "etc is a link to the host's": [("etc", link("/proc/1/root/etc"))],
    "etc is a link upwards": [("etc", link("../../../../../../etc"))],
    "etc is a file": [("etc", b"x")],
    "passwd is a link": [
        ("etc/passwd", link("/proc/1/root/etc/passwd")),
        ("etc/resolv.conf", link("/oldroot/etc/shadow")),
    ],
    "passwd is a directory": [("etc/passwd/x", b""), ("etc/gitconfig/x", b""), ("etc/resolv.conf/x", b"")],
    "proc and dev are links": [("proc", link("/tmp")), ("dev", link("/etc"))],
    "proc and dev are files": [("proc", b""), ("dev", {"type": tarfile.FIFOTYPE})],
    "the user's are links": [("testbed", link("/bin")), ("home", link("/proc/1/root/home")), ("env", link("nowhere"))],
}


async def test_a_hostile_root_leads_nowhere(sandbox: Bubblewrap, tmp_path: Path) -> None:
    for n, (what, entries) in enumerate(HOSTILE_ROOTS.items()):
        state = await imported(sandbox, Layout(tmp_path / str(n), [BUSYBOX, layer(*entries)]))
        seen = await out(sandbox, state, "id -un; cat /etc/gitconfig; [ -d /proc/1 ] && [ -c /dev/null ] && echo there")
        assert seen.startswith("user\n"), what
        assert seen.endswith("[safe]\n\tdirectory = *\nthere\n"), what
    assert await out(sandbox, state, "for f in testbed home env; do readlink $f; done; ls testbed/sh") == (
        "/bin\n/proc/1/root/home\nnowhere\ntestbed/sh\n"
    )


async def test_git_of_the_image_on_a_repository_of_the_image(sandbox: Bubblewrap, tmp_path: Path) -> None:
    state = await imported(
        sandbox,
        Layout(
            tmp_path / "i",
            [imagefiles.tools(*"git find grep head sed sort uniq xargs wc tr mv readlink chmod touch env".split())],
        ),
    )
    setup = (
        "git init -q . && echo one > f && git add f && "
        "git -c user.name=n -c user.email=e commit -qm first && git status --short"
    )
    done = await sandbox.execute(state, ["sh", "-c", setup])
    assert (done.exit_code, done.stdout) == (0, b""), done
    assert done.after
    written = await sandbox.write(done.after, {"/testbed/f": b"two\n", "/testbed/new": b"new\n", "/etc/passwd": b""})
    diff = await sandbox.diff(written)
    assert b"+two" in diff.patch
    assert b"+new" in diff.patch
    assert await sandbox.diff(written, done.after) == diff  # the earlier state is shown beside it
    applied = await sandbox.apply(done.after, diff.patch)
    assert await sandbox.read(applied.state, "/testbed/new") == b"new\n"
    packed = await sandbox.unpack(state, layer(("t", b"t")), "/opt/deep")
    assert await sandbox.read(packed, "/opt/deep/t") == b"t"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "image", [BUSYBOX, layer(("f", b"f" * 10_000))])


async def test_without_skopeo(
    sandbox: Bubblewrap, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prerequisites, "PLACES", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="apt-get install skopeo"):
        await imported(sandbox, layout)
    assert (await sandbox.execute(await sandbox.base(Base()), ["true"])).exit_code == 0


IMPORTER = """
import asyncio, sys
from pathlib import Path
from runoff.sandbox import Bubblewrap, Image

async def main(root, mode, reference):
    async with Bubblewrap(Path(root), mode) as sandbox:
        print("open", flush=True)
        sys.stdin.readline()
        print(await sandbox.base(Image(reference=reference)))

asyncio.run(main(*sys.argv[1:]))
"""


def importer(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTER, *arguments],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment},  # type: ignore[call-overload]
    )
    assert process.stdout.readline() == "open\n"
    return process  # type: ignore[no-any-return]


async def test_two_importers_at_once(sandbox: Bubblewrap, mode: str, layout: Layout, tmp_path: Path) -> None:
    both = [importer(str(tmp_path / "states"), mode, layout.reference) for _ in range(2)]
    here = asyncio.create_task(imported(sandbox, layout))
    said = await asyncio.gather(*(asyncio.to_thread(process.communicate, "\n") for process in both))
    state = await here
    assert {out for out, _ in said} == {f"{state}\n"}
    assert len(list((tmp_path / "states").glob("i*"))) == 2


def test_a_killed_importer_leaves_no_half_layer(mode: str, tmp_path: Path) -> None:
    made = Layout(tmp_path / "image", [BUSYBOX, *(layer((f"{n}", os.urandom(3 << 20))) for n in range(3))])
    store = tmp_path / "states"
    for wait in (0.1, 0.25, 0.4, 0.55):
        process = importer(str(store), mode, made.reference)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    began = time.monotonic()
    while left := [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(store).encode() in _bytes(p)]:
        assert time.monotonic() < began + 3, [_bytes(path) for path in left]
        time.sleep(0.05)

    async def finished() -> None:
        async with Bubblewrap(store, mode) as sandbox:  # type: ignore[arg-type]
            while len(list(store.glob("tmp-*"))) > 1:  # noqa: ASYNC110 - removed while others work
                await asyncio.sleep(0.05)
            state = await imported(sandbox, made)
            assert await out(sandbox, state, "cat 0 1 2 | wc -c; ls bin | wc -l") == f"{9 << 20}\n{_commands()}\n"

    asyncio.run(finished())


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _commands() -> int:
    with tarfile.open(fileobj=io.BytesIO(BUSYBOX)) as tar:
        return sum(name.startswith("bin/") for name in tar.getnames())


async def test_cancelled_it_leaves_nothing(sandbox: Bubblewrap, layout: Layout, tmp_path: Path) -> None:
    for wait in (0.05, 0.2, 0.4):
        task = asyncio.create_task(imported(sandbox, layout))
        await asyncio.sleep(wait)
        task.cancel()
        await asyncio.wait([task])
        await nothing_stays(tmp_path / "states")
    assert await out(sandbox, await imported(sandbox, layout), "wc -c < f") == "10000\n"


async def test_a_hostile_layer_is_refused_as_a_whole(sandbox: Bubblewrap, tmp_path: Path) -> None:
    entries = [("out", link("/etc")), ("out/cron.d", b"")]
    hostile = Layout(tmp_path / "i", [BUSYBOX, layer(("good", b""), *entries)])
    with pytest.raises(Refused, match=r"'out/cron\.d' lies below what is no directory"):
        await imported(sandbox, hostile)
    assert not list((tmp_path / "states").glob("i*"))
    usrmerged = [layer(("usr/lib/a", b""), ("lib", link("usr/lib"))), layer(("lib/b", b""))]
    with pytest.raises(Refused, match=r"'lib'.*as a link"):
        await imported(sandbox, Layout(tmp_path / "j", [BUSYBOX, *usrmerged]))


@pytest.mark.full
async def test_a_real_root_file_system(sandbox: Bubblewrap, mode: str, tmp_path: Path) -> None:
    """Prints what docs/how-to/images.md says about time and size."""
    root = Path(os.environ.get("RUNOFF_CACHE", "/var/cache/runoff")) / "rootfs" / "bookworm"
    packed = tmp_path / "rootfs.tar"
    pack = ["tar", "--ignore-failed-read", "-C", root, "-cf", packed, "."]  # three directories are root's alone
    await asyncio.to_thread(subprocess.run, pack, check=True)
    layout = Layout(tmp_path / "i", [await asyncio.to_thread(packed.read_bytes)])
    before, began = imagefiles.readable(tmp_path / "states"), time.monotonic()
    state = await imported(sandbox, layout)
    took, size = time.monotonic() - began, imagefiles.readable(tmp_path / "states") - before
    plain = await sandbox.base(Base())
    times: dict[str, list[float]] = {}
    for _ in range(30):
        for name, base in (("plain", plain), ("image", state)):
            for script in ("true", "python3 -c 'import json, argparse, unittest'"):
                began = time.monotonic()
                done = await sandbox.execute(base, ["sh", "-c", f"echo x > f; {script}"])
                times.setdefault(f"{name}, {script[:7]}", []).append(time.monotonic() - began)
                assert done.exit_code == 0, done
    medians = {name: round(statistics.median(each) * 1000, 1) for name, each in times.items()}
    print(
        f"{mode}: {took:.1f} s, {size >> 20} MiB of {layout.file(layout.layers[0]).stat().st_size >> 20} MiB; ms: {medians}"
    )
    assert medians["image, true"] < 3 * medians["plain, true"]
    made = await sandbox.execute(
        state, ["sh", "-euc", "python3 -m venv /env && git init -q . && gcc --version && ls -la /"]
    )
    assert made.exit_code == 0, made


async def test_no_user_namespace_can_be_made_in_an_image_either(sandbox: Bubblewrap, mode: str, tmp_path: Path) -> None:
    """bubblewrap makes its own there, and closes the door: the filter is left out, so that nothing else can refuse it."""
    image = Layout(tmp_path / "i", [BUSYBOX])
    nested = "unshare -U true 2>/dev/null && echo made || echo refused"
    for without, said in ((("seccomp",), "refused\n"), (("seccomp", "userns"), "made\n")):
        async with Bubblewrap(tmp_path / said.strip(), mode, without=frozenset(without)) as other:  # type: ignore[arg-type]
            assert await out(other, await imported(other, image), nested) == said
