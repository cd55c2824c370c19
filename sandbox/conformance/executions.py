"""One execution: what goes in, what comes out, how it ends, and that nothing of it lives on."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from runoff.sandbox.conformance.case import case, lacks, python, raises, run, said, sh
from runoff.sandbox.protocol import Execution, Limits, Refused, Sandbox, State


@case
async def exit_codes_are_the_commands_own(sandbox: Sandbox, base: State) -> None:
    """A test that exits 124 or 137 by itself is taken for timed out or killed, or one that crashed for passed."""
    codes = {"exit 0": 0, "exit 3": 3, "exit 124": 124, "exit 137": 137, "exit 255": 255}
    signals = {"kill -9 $$": 137, "kill -TERM $$": 143, "kill -SEGV $$": 139}
    for script, code in (codes | signals).items():
        done = await run(sandbox, base, script)
        assert (done.outcome, done.exit_code, done.limit) == ("finished", code, None), f"{script}: {done}"
    done = await sandbox.execute(base, ["no-such-program"], freeze=False)
    assert (done.outcome, done.exit_code) == ("finished", 127), done


@case
async def what_cannot_begin_is_refused(sandbox: Sandbox, base: State) -> None:
    """A wrong directory looks like a failing test."""
    with raises(Refused, "nowhere"):
        await sandbox.execute(base, ["true"], cwd="/nowhere")
    with raises(Refused):
        await sandbox.execute(base, ["true", "x" * (8 << 20)])
    assert await said(sandbox, base, "echo fine") == "fine\n"


@case
async def bytes_in_bytes_out(sandbox: Sandbox, base: State) -> None:
    """Output in Latin-1, a binary file on standard input or a name with a newline is changed on its way."""
    state = await sh(sandbox, base, "mkdir -m 700 'a b'")
    argv = [
        "sh",
        "-c",
        'cat; printf "%s|" "$@" "$KEY" "$PWD"',
        "sh",
        "",
        "a b",
        "$(id)",
        "'",
        "\n",
        "ü",
        "\udcff",
        "-e",
    ]
    data = bytes(range(256)) * 2000 + b"\r\n\r\n"
    env = {"KEY": "v=1\n2 ü"}
    done = await sandbox.execute(state, argv, Limits(output=4 << 20), stdin=data, env=env, cwd="/testbed/a b")
    rest = "|a b|$(id)|'|\n|ü|".encode() + b"\xff|-e|v=1\n2 " + "ü|/testbed/a b|".encode()
    same = done.stdout == data + rest  # not in the assert: pytest draws the difference, for hours where CI is set
    assert same, (len(done.stdout), done.stdout[-len(rest) :])
    assert (done.stderr, done.dropped) == (b"", 0)
    done = await run(sandbox, base, "printf 'caf\\351' >&2; printf '\\303'")
    assert (done.stdout, done.stderr) == (b"\xc3", b"caf\xe9")
    assert Execution.model_validate(json.loads(json.dumps(done.model_dump(mode="json")))) == done


@case
async def the_two_streams_are_apart(sandbox: Sandbox, base: State) -> None:
    """A warning on standard error breaks the reading of a report on standard output, or is lost."""
    done = await run(sandbox, base, "echo out; echo err >&2; exit 1")
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 1)


@case
async def standard_input_has_an_end_and_need_not_be_read(sandbox: Sandbox, base: State) -> None:
    """A program that reads its input hangs until the time limit, or one that does not is killed by a broken pipe."""
    assert await said(sandbox, base, "cat; echo end") == "end\n"
    done = await sandbox.execute(base, ["true"], stdin=bytes(5 << 20), freeze=False)
    assert (done.outcome, done.exit_code) == ("finished", 0), done
    done = await sandbox.execute(base, ["wc", "-c"], stdin=bytes(5 << 20), freeze=False)
    assert done.stdout.strip() == b"%d" % (5 << 20)


@case
async def the_environment_is_what_was_given(sandbox: Sandbox, base: State) -> None:
    """A key in the environment of whoever runs this can be read by a test, or tests differ from machine to machine."""
    os.environ["RUNOFF_CONFORMANCE_KEY"] = "s3cret"
    try:
        done = await sandbox.execute(base, ["env", "-0"], env={"GIVEN": "1"}, freeze=False)
    finally:
        del os.environ["RUNOFF_CONFORMANCE_KEY"]
    found = dict(line.split(b"=", 1) for line in done.stdout.split(b"\0") if line)
    assert found.pop(b"GIVEN") == b"1"
    assert {b"PATH", b"HOME", b"LANG"} <= set(found), found
    assert set(found) <= {b"PATH", b"HOME", b"LANG", b"PWD", b"HOSTNAME"}, found
    script = 'printf ü > "$HOME/ü"; cd ~; python3 -c "print(open(\'ü\').read())"; pwd'
    done = await sandbox.execute(base, ["sh", "-c", script], env={"HOME": "/tmp"}, freeze=False)
    assert done.text == "ü\n/tmp\n", f"the environment given comes first, and text is UTF-8: {done}"


@case
async def output_keeps_its_first_and_its_last_half(sandbox: Sandbox, base: State) -> None:
    """The end of a long test report, where the verdict is, was cut away, or nobody says that something was."""
    script = "echo first; head -c 5000000 /dev/zero; echo last; echo short >&2"
    done = await run(sandbox, base, script, Limits(output=1000))
    assert len(done.stdout) == 1000
    assert done.stdout.startswith(b"first\n\0")
    assert done.stdout.endswith(b"\0last\n")
    assert (done.stderr, done.dropped) == (b"short\n", 5_000_000 + 11 - 1000)
    done = await run(sandbox, base, "printf 1234567; printf abcdefg >&2", Limits(output=5))
    assert (done.stdout, done.stderr, done.dropped) == (b"12567", b"abefg", 4)
    done = await run(sandbox, base, "printf 12345; printf abcd >&2", Limits(output=5))
    assert (done.stdout, done.stderr, done.dropped) == (b"12345", b"abcd", 0)


@case
async def a_flood_of_output_ends_by_the_clock(sandbox: Sandbox, base: State) -> None:
    """`yes` fills the memory of whoever runs the tests."""
    done = await run(sandbox, base, "echo first; exec yes", Limits(seconds=0.7, output=1000))
    assert (done.outcome, done.exit_code, len(done.stdout)) == ("timed out", None, 1000)
    assert done.stdout.startswith(b"first\ny\n")
    assert done.dropped > 100_000


@case
async def the_time_limit_ends_what_ignores_signals_and_what_hides(sandbox: Sandbox, base: State) -> None:
    """A test that hangs holds up everything, or its time-out is taken for a verdict."""
    script = "echo begun; trap '' TERM INT HUP; (setsid sh -c 'trap \"\" TERM; sleep 300' &) ; echo kept > f; sleep 300"
    began = time.monotonic()
    done = await sandbox.execute(base, ["sh", "-c", script], Limits(seconds=1))
    took = time.monotonic() - began
    assert (done.outcome, done.exit_code, done.limit) == ("timed out", None, None), done
    assert done.stdout == b"begun\n", "what it said until then is lost"
    assert 1 <= done.seconds <= took < 15, f"{done.seconds}, {took}"
    assert done.after is not None, "what it wrote until then is lost"
    assert await sandbox.read(done.after, "/testbed/f") == b"kept\n"


@case
async def seconds_are_those_of_the_command(sandbox: Sandbox, base: State) -> None:
    """Slow tests cannot be told from fast ones."""
    began = time.monotonic()
    slow = await run(sandbox, base, "sleep 0.6")
    assert 0.5 < slow.seconds < time.monotonic() - began + 0.1, slow


@case
async def nothing_started_in_the_background_lives_on(sandbox: Sandbox, base: State) -> None:
    """An old server answers the next test, or goes on writing into a state that is already in use."""
    script = (
        "(while :; do echo . >> tick; sleep .01; done) & setsid sh -c 'sleep 300' & nohup sleep 300 & sleep .3; exit 5"
    )
    began = time.monotonic()
    done = await sandbox.execute(base, ["sh", "-c", script])
    assert (done.outcome, done.exit_code) == ("finished", 5), done
    assert time.monotonic() - began < 30, "waited for what holds standard output open"
    assert done.after is not None
    first, second = [await said(sandbox, done.after, f"sleep {pause}; wc -c < tick") for pause in (0, 0.3)]
    assert first == second != "0\n", "something writes on"
    seen = await said(sandbox, done.after, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "sleep" not in seen, f"still there: {seen}"


@case
async def a_server_lives_on_loopback_as_long_as_its_execution(sandbox: Sandbox, base: State) -> None:
    """Tests that start a server of their own fail, or meet the server of another."""
    state = await sandbox.write(base, {"/testbed/page": b"served"})
    fetch = "python3 -c \"import urllib.request as u; print(u.urlopen('http://localhost:8000/page').read().decode())\""
    serve = "python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &"
    both = f"{serve} until {fetch} 2>/dev/null; do kill -0 $! || exit 1; sleep .05; done; sleep 1"
    one, two = await asyncio.gather(run(sandbox, state, both), run(sandbox, state, both))
    assert (one.text, two.text) == ("served\n", "served\n"), f"{one} {two}"
    assert "refused" in await said(sandbox, state, fetch), "the server is still there"


@case
async def the_hosts_network_cannot_be_reached(sandbox: Sandbox, base: State) -> None:
    """Code that a model wrote talks to services of the machine it runs on."""
    met = asyncio.Event()

    async def meet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)"
    async with server:
        done = await python(sandbox, base, connect)
    if not lacks(sandbox, "network"):
        assert not met.is_set(), "it was reached"
        assert b"refused" in done.stderr, done
        assert await said(sandbox, base, "tail -n +3 /proc/net/dev | cut -d: -f1 | grep -vE 'lo|tunl0|sit0|ip6'") == ""


@case
async def executions_at_once_do_not_mix(sandbox: Sandbox, base: State) -> None:
    """The verdict of one candidate is given to another."""

    async def one(n: int) -> tuple[int, str, bytes]:
        script = f"cat > f; i=0; while [ $i -lt 200 ]; do echo {n}; i=$((i+1)); done; sleep .1; ls /tmp; exit {n}"
        done = await sandbox.execute(base, ["sh", "-c", script], stdin=b"%d" % n)
        assert done.after is not None
        return done.exit_code or 0, done.text, await sandbox.read(done.after, "/testbed/f")

    for n, (code, text, file) in enumerate(await asyncio.gather(*(one(n) for n in range(8)))):
        assert (code, text, file) == (n, f"{n}\n" * 200, b"%d" % n)


@case
async def cancelling_kills_and_leaves_nothing(sandbox: Sandbox, base: State) -> None:
    """After Ctrl-C processes go on, or the next command hangs."""
    mark = f"{300 + int.from_bytes(os.urandom(4), 'big') / 1e9:.9f}"
    script = ["sh", "-c", f"trap '' TERM; setsid sleep {mark} & sleep {mark}; sleep {mark}"]
    tasks = [asyncio.ensure_future(sandbox.execute(base, script)) for _ in range(6)]
    await asyncio.sleep(1)  # some run, some may wait for their turn
    began = time.monotonic()
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in done), done
    assert time.monotonic() - began < 30
    assert _running(mark) == [], "what was cancelled goes on"
    assert await said(sandbox, base, "echo fine; ls") == "fine\n"


def _running(mark: str) -> list[str]:
    """Processes with a mark in their command line, as far as they can be seen from here."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found
