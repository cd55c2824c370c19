"""What a sandbox shows: its files, its processes, its user. What hostile code tries is in attacks/."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.prerequisites import Mode
from runoff.sandbox.protocol import Base, Refused, Sandbox, State


async def out(sandbox: Sandbox, state: State, script: str) -> str:
    return (await sandbox.execute(state, ["sh", "-c", script], freeze=False)).text


async def test_no_files_and_no_processes_of_the_host(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    base = await sandbox.base(Base())
    assert "No such file" in await out(sandbox, base, f"cat {tmp_path}/secret")
    links = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"} & set(os.listdir("/"))  # noqa: PTH208
    own = {"dev", "env", "etc", "home", "proc", "testbed", "tmp", "usr"}
    assert set((await out(sandbox, base, "ls -A /")).split()) == own | links
    assert await out(sandbox, base, "ls -A /tmp /home/user /env") == "/env:\n\n/home/user:\n\n/tmp:\n"
    programs = await out(sandbox, base, "cat /proc/[0-9]*/comm")
    assert sorted(programs.split()) == ["bwrap", "sh"]


async def test_sandboxes_do_not_see_each_other(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    other = asyncio.create_task(sandbox.execute(base, ["sh", "-c", "echo x > /tmp/x; echo x > /dev/shm/x; sleep 1"]))
    await asyncio.sleep(0.3)
    assert "sleep" not in await out(sandbox, base, "cat /proc/[0-9]*/comm; ls /tmp /dev/shm; hostname")
    other.cancel()


async def test_a_terminal_leaves_nothing_to_the_next_execution(mode: Mode, sandbox: Bubblewrap, tmp_path: Path) -> None:
    """/dev is made once and shown to one execution after the other."""
    used = "import os, pty; m, s = pty.openpty(); os.write(m, b'told\\n'); print(os.ttyname(s), os.read(s, 9))"
    spoilt = "python3 -c \"import os; os.utime('/dev/pts/ptmx')\"; chmod 0 /dev/pts/ptmx /dev/pts"
    looks = "ls /dev/pts; stat -c '%a %X %Y %Z' /dev/pts /dev/pts/ptmx; ls -l --full-time /dev | grep -v shm"
    async with Bubblewrap(tmp_path / "one slot", mode, slots=1) as sandbox:
        base = await sandbox.base(Base())
        fresh = (await out(sandbox, base, looks)).splitlines()
        for script in (
            f'python3 -c "{used}"',
            f"({spoilt}) 2>&1",
            "touch /dev/new; chmod 777 /dev/since; rm /dev/null",
        ):
            said = await out(sandbox, base, script)
            assert ("told" in said) == (script[0] == "p"), said
            after = (await out(sandbox, base, looks)).splitlines()
            assert (after[0], len(after)) == ("ptmx", len(fresh))
            assert [line.split()[0] for line in after] == [line.split()[0] for line in fresh]
        assert "told" in await out(sandbox, base, f'python3 -c "{used}"')


async def test_the_user_inside_has_no_rights(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    rights = await out(sandbox, base, "id -un; grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    assert rights.split()[0] == "user"
    assert {line.split()[1] for line in rights.splitlines()[1:-1]} == {"0000000000000000"}
    assert rights.split()[-1] == "1"
    name = "import os, pwd; print(os.getuid() > 0, pwd.getpwuid(os.getuid()).pw_dir)"
    assert await out(sandbox, base, f"python3 -c '{name}'") == "True /home/user\n"
    assert "Read-only" in await out(sandbox, base, "touch /usr/mine")
    assert (
        await out(sandbox, base, "for d in /testbed /env /tmp /home/user /dev/shm; do touch $d/f || echo no; done")
        == ""
    )
    for forbidden in ("mount -t tmpfs none /tmp", "mknod /tmp/d b 8 0", "chown 0 /tmp", "hostname x", "dmesg"):
        assert await out(sandbox, base, f"{forbidden} >/dev/null 2>&1 || echo refused") == "refused\n"


async def test_bound_directories_are_read_only_and_the_rest_of_theirs_is_hidden(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "shown" / "deep").mkdir(parents=True)
    (tmp_path / "shown" / "deep" / "f").write_text("tool")
    (tmp_path / "hidden").write_text("hidden")
    shown = tmp_path / "shown"
    base = await sandbox.base(Base(binds=("/usr", str(shown))))
    assert base != await sandbox.base(Base())
    assert await out(sandbox, base, f"cat {shown}/deep/f; ls {tmp_path}") == "toolshown\n"
    assert "Read-only" in await out(sandbox, base, f"touch {shown}/mine")
    done = await sandbox.execute(base, ["true"])
    assert done.after == base
    for wrong in ("/proc/self", "/nowhere/at/all", "relative", "/usr/../root"):
        with pytest.raises(Refused, match="cannot bind"):
            await sandbox.base(Base(binds=(wrong,)))


async def test_a_state_cannot_say_where_the_host_mounts(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    shown = await sandbox.base(Base(binds=(str(tmp_path / "shown"),)))
    script = f"mkdir -p {tmp_path.parent} && ln -s /oldroot/etc {tmp_path}"
    done = await sandbox.execute(await sandbox.base(Base()), ["sh", "-ec", script])
    assert done.after
    with pytest.raises(Refused, match="moved or replaced"):
        await sandbox.execute(State(layers=(done.after.digest, shown.digest)), ["true"])


async def test_a_hostile_tree_is_kept_or_refused_but_stops_nothing(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    deep = "import os\nfor _ in range(3000): os.mkdir('d' * {0}); os.chdir('d' * {0})"
    done = await sandbox.execute(base, ["python3", "-c", deep.format(200)])
    assert (done.outcome, done.limit, done.after) == ("killed", "files", None)
    state = (
        await sandbox.execute(base, ["sh", "-c", "mkdir -m 0 shut; mkfifo -m 0 pipe; head -c 2000000 /dev/zero > f"])
    ).after
    for n in range(6):
        assert state
        state = (await sandbox.execute(state, ["sh", "-c", f"head -c 2000000 /dev/zero > f; mkdir -m 0 shut{n}"])).after
    assert state
    assert await out(sandbox, state, "ls -d shut* | wc -l; rmdir shut && echo gone") == "7\ngone\n"
