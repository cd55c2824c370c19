"""What every sandbox promises: states are values, nothing survives an execution, errors are of the right kind."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest

from runoff.sandbox.protocol import Base, Execution, Limits, Refused, Sandbox, SandboxLost, State


async def sh(sandbox: Sandbox, state: State, script: str) -> State:
    done = await sandbox.execute(state, ["sh", "-euc", script])
    assert done.exit_code == 0, done
    assert done.after
    return done.after


async def out(sandbox: Sandbox, state: State, script: str, limits: Limits = Limits()) -> str:
    return (await sandbox.execute(state, ["sh", "-c", script], limits, freeze=False)).text


async def test_using_a_state_twice_is_the_fork(sandbox: Sandbox) -> None:
    one = await sandbox.write(await sandbox.base(Base()), {"/testbed/f": b"one\n"})
    left, right = await asyncio.gather(sh(sandbox, one, "echo left > f"), sh(sandbox, one, "rm f"))
    assert await sandbox.read(one, "/testbed/f") == b"one\n"
    assert await sandbox.read(left, "/testbed/f") == b"left\n"
    with pytest.raises(Refused, match="no such file"):
        await sandbox.read(right, "/testbed/f")


async def test_one_content_has_one_digest_however_it_was_written(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    a = await sh(sandbox, await sh(sandbox, base, "mkdir d; echo 1 > d/a"), "echo 2 > d/b; chmod 600 d/b")
    b = await sh(sandbox, base, "mkdir d; echo x > d/b; chmod 600 d/b; echo 2 > d/b; echo 1 > d/a; touch gone; rm gone")
    assert a == b
    assert await sh(sandbox, a, "chmod 644 d/b") != a
    assert await sh(sandbox, a, "touch -d 2001-01-01 d/a") == a


async def test_doing_nothing_changes_nothing(sandbox: Sandbox) -> None:
    state = await sandbox.base(Base())
    assert await sh(sandbox, state, "true") == state
    for script in ("echo small > f", "head -c 2000000 /dev/zero > large"):
        state = await sh(sandbox, state, script)
        assert await sh(sandbox, state, "true") == state


async def test_a_long_chain_keeps_everything_and_stays_flat(sandbox: Sandbox) -> None:
    state = await sandbox.base(Base())
    state = await sh(sandbox, state, "mkdir -p d/e; echo 1 > d/e/f; echo h > h1; ln h1 h2; mkfifo pipe; ln -s d link")
    for n in range(8):
        state = await sh(sandbox, state, f"head -c 2000000 /dev/zero > large{n}; rm -r d; mkdir d; echo {n} > d/n{n}")
        assert len(state.layers) <= 5
    assert await out(sandbox, state, "ls -d large* | wc -l; ls d; [ h1 -ef h2 ] && [ -p pipe ] && readlink link") == (
        "8\nn7\nd\n"
    )


async def test_a_state_is_frozen_after_its_background_processes_died(sandbox: Sandbox) -> None:
    script = "(while :; do date +%N >> tick; done) >/dev/null 2>&1 & setsid sleep 300 & sleep .1"
    state = await sh(sandbox, await sandbox.base(Base()), script)
    assert await out(sandbox, state, "wc -l < tick") == await out(sandbox, state, "sleep .1; wc -l < tick") != "0\n"
    assert "sleep" not in await out(sandbox, state, "cat /proc/[0-9]*/comm")


async def test_a_server_lives_on_loopback_as_long_as_its_execution(sandbox: Sandbox) -> None:
    state = await sandbox.write(await sandbox.base(Base()), {"/testbed/page": b"served"})
    fetch = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://localhost:8000/page\").read().decode())'"
    serve = "python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &"
    assert "served" in await out(sandbox, state, f"{serve} until {fetch} 2>/dev/null; do sleep .05; done")
    assert "refused" in await out(sandbox, state, fetch)


async def test_the_time_limit_ends_what_ignores_signals_and_what_hides(sandbox: Sandbox) -> None:
    script = "echo begun; trap '' TERM INT HUP; (setsid sh -c 'trap \"\" TERM; sleep 300' &) ; echo kept > f; sleep 300"
    began = time.monotonic()
    done = await sandbox.execute(await sandbox.base(Base()), ["sh", "-c", script], Limits(seconds=0.3))
    assert (done.outcome, done.exit_code, done.stdout) == ("timed out", None, b"begun\n")
    assert time.monotonic() - began < 3
    assert done.after
    assert await sandbox.read(done.after, "/testbed/f") == b"kept\n"


async def test_output_keeps_its_first_and_its_last_half(sandbox: Sandbox) -> None:
    script = "echo first; head -c 5000000 /dev/zero; echo last; echo short >&2"
    done = await sandbox.execute(await sandbox.base(Base()), ["sh", "-c", script], Limits(output=1000))
    assert len(done.stdout) == 1000
    assert done.stdout.startswith(b"first\n\0")
    assert done.stdout.endswith(b"\0last\n")
    assert done.dropped == 5_000_000 + 11 - 1000
    assert done.stderr == b"short\n"


async def test_memory_files_and_processes_are_limited(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    python = "python3 -c 'x = bytearray(300 << 20)'"
    assert "MemoryError" in await out(sandbox, base, python, Limits(memory=200 << 20))
    assert "MemoryError" not in await out(sandbox, base, python, Limits(memory=1 << 30))
    large = "head -c 2000000 /dev/zero > f; stat -c %s f"
    assert "1000000" in await out(sandbox, base, large, Limits(file_size=1_000_000))
    assert "2000000" in await out(sandbox, base, large)
    many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 1 & done; echo done"
    assert "fork" in await out(sandbox, base, many, Limits(processes=12))
    assert await out(sandbox, base, "ulimit -c; ulimit -n") == "0\n4096\n"


async def test_the_processes_of_one_do_not_count_for_another(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    six = "for i in 1 2 3 4 5 6; do sleep .5 & done; wait; echo done"
    both = await asyncio.gather(*(out(sandbox, base, six, Limits(processes=10)) for _ in range(2)))
    assert both == ["done\n", "done\n"]


async def test_exit_codes(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())

    async def code(*argv: str) -> tuple[str, int | None]:
        done = await sandbox.execute(base, argv)
        return done.outcome, done.exit_code

    assert await code("sh", "-c", "exit 3") == ("finished", 3)
    assert await code("no-such-program") == ("finished", 127)
    assert await code("sh", "-c", "kill -9 $$") == ("finished", 137)
    with pytest.raises(Refused, match="nowhere"):
        await sandbox.execute(base, ["true"], cwd="/nowhere")
    with pytest.raises(SandboxLost, match="not in the store"):
        await sandbox.execute(State(layers=("0" * 32, *base.layers)), ["true"])


async def test_what_goes_in(sandbox: Sandbox) -> None:
    state = await sh(sandbox, await sandbox.base(Base()), "mkdir -m 700 'a b'")
    argv = ["sh", "-c", 'cat; printf "%s|" "$@" "$KEY" "$PWD"', "sh", "", "a b", "$(id)", "'", "\udcff"]
    data = bytes(range(256)) * 5000
    limits = Limits(output=4 << 20)
    done = await sandbox.execute(state, argv, limits, stdin=data, env={"KEY": "v=1\n2"}, cwd="/testbed/a b")
    assert done.stdout == data + b"|a b|$(id)|'|\xff|v=1\n2|/testbed/a b|"
    assert Execution.model_validate(json.loads(json.dumps(done.model_dump(mode="json")))) == done


async def test_write_and_read(sandbox: Sandbox) -> None:
    state = await sh(sandbox, await sandbox.base(Base()), "echo old > tool; chmod 750 tool; mkdir gone; touch gone/f")
    odd = "/testbed/new/-ödd name\n\udcfe"
    files = {"/testbed/tool": b"new", odd: bytes(range(256)), "/home/user/empty": b"", "/testbed/gone": None}
    state = await sandbox.write(state, files | {"/testbed/never/was": None})
    assert await out(sandbox, state, "stat -c %a tool; ls") == "750\nnew\ntool\n"
    assert await sandbox.read(state, odd) == bytes(range(256))
    assert await sandbox.read(state, "/home/user/empty") == b""
    large = os.urandom(5 << 20)
    state = await sandbox.write(state, {"/tmp/large": large})
    assert await sandbox.read(state, "/tmp/large") == large
    for path, why in (("/nope", "no such file"), ("/testbed", "not a regular file"), ("/tmp/large", "more than 1000")):
        with pytest.raises(Refused, match=why):
            await sandbox.read(state, path, 1000)
    with pytest.raises(Refused, match="Read-only file system") as refused:
        await sandbox.write(state, {"/usr/bin/sh": b"mine"})
    assert "\n" not in str(refused.value)


async def test_cancelling_kills_and_leaves_nothing(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    tasks = [asyncio.create_task(sandbox.execute(base, ["sleep", "300"])) for _ in range(6)]
    await asyncio.sleep(0.2)  # some run, some wait for a slot
    began = time.monotonic()
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in done)
    assert time.monotonic() - began < 2
    assert await out(sandbox, base, "echo fine") == "fine\n"


async def test_names_last(sandbox: Sandbox) -> None:
    state = await sandbox.write(await sandbox.base(Base()), {"/testbed/f": b"kept"})
    assert sandbox.named("a/b ü") is None
    sandbox.keep("a/b ü", state)
    assert sandbox.named("a/b ü") == state
    sandbox.keep("a/b ü", await sandbox.base(Base()))
    assert sandbox.named("a/b ü") == await sandbox.base(Base())
