"""What an execution may use: each limit that the backend's table says it holds, passed on purpose.

A limit that is `watched` is passed for some seconds here, so that a backend that only looks now and then sees it.
"""

from __future__ import annotations

import asyncio

from runoff.sandbox.conformance.case import CAPABILITIES, case, lacks, python, run, said
from runoff.sandbox.protocol import Execution, LimitName, Limits, Sandbox, State

MiB = 1 << 20


def killed_by(done: Execution, limit: LimitName) -> bool:
    return (done.outcome, done.exit_code, done.limit) == ("killed", None, limit)


@case
async def the_table_says_how_each_limit_is_held(sandbox: Sandbox, base: State) -> None:
    """Nobody can know beforehand what a backend holds here."""
    rows = sandbox.holds()
    names = [row.limit for row in rows]
    assert len(set(names)) == len(names), f"a limit twice: {names}"
    assert {*Limits.model_fields, "network"} <= set(names), f"not in the table: {set(Limits.model_fields) - set(names)}"
    assert all(row.detail for row in rows), "a row that does not say how"
    assert all(row.how != "not held" or row.limit not in ("seconds", "output") for row in rows), "these are held by all"
    assert CAPABILITIES


@case
async def memory_is_limited_for_all_processes_together(sandbox: Sandbox, base: State) -> None:
    """A test that allocates without end takes the machine with it, or its kill is taken for its verdict."""
    limits = Limits(memory=300 * MiB, seconds=30)
    program = "import time; x = bytearray(600 << 20); print('has it', flush=True); time.sleep({})"
    one = await python(sandbox, base, program.format(3), limits)
    fits = await python(sandbox, base, program.format(0), Limits(memory=2048 * MiB))
    assert fits.stdout == b"has it\n", fits
    many = """if True:
        import os, time
        for _ in range(4):
            if not os.fork():
                try:
                    x = bytearray(150 << 20)
                    time.sleep(4)
                except MemoryError:
                    os._exit(1)
                os._exit(0)
        print(sorted({os.wait()[1] for _ in range(4)}))"""
    together = await python(sandbox, base, many, limits)
    if not lacks(sandbox, "memory"):
        assert killed_by(one, "memory") or (b"MemoryError" in one.stderr and one.outcome == "finished"), one
        assert killed_by(together, "memory") or together.stdout in (b"[0, 256]\n", b"[256]\n"), together


@case
async def processor_time_is_limited(sandbox: Sandbox, base: State) -> None:
    """A miner in four processes is only noticed when the bill comes."""
    lacking = lacks(sandbox, "cpu_seconds")
    two = ["sh", "-c", "echo begun > f; while :; do :; done & while :; do :; done"]
    done = await sandbox.execute(base, two, Limits(cpu_seconds=1, seconds=2 if lacking else 15))
    if lacking:
        assert done.outcome == "timed out", done
        return
    assert killed_by(done, "cpu"), done
    assert done.after is not None, "what it wrote until then is lost"
    done = await run(sandbox, base, "sleep 1.5; echo idle", Limits(cpu_seconds=1))
    assert done.text == "idle\n", f"waiting is not using: {done}"


@case
async def bytes_written_are_limited(sandbox: Sandbox, base: State) -> None:
    """A test fills the disk, and every other run on the machine fails."""
    lacking = lacks(sandbox, "disk")
    limits = Limits(disk=8 * MiB, seconds=2 if lacking else 15)
    one = ["sh", "-c", "head -c 60000000 /dev/zero > f; sleep 30"]
    many = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do head -c 4000000 /dev/zero > /tmp/f$i; done"]
    fits = ["sh", "-c", "head -c 4000000 /dev/zero > f"]
    done, short, good = await asyncio.gather(*(sandbox.execute(base, argv, limits) for argv in (one, many, fits)))
    assert (good.outcome, good.exit_code) == ("finished", 0), good
    if lacking:
        return
    for each in (done, short):
        assert killed_by(each, "disk"), each
        assert each.after is None, "a state of what was killed for what it wrote"


@case
async def files_written_are_limited(sandbox: Sandbox, base: State) -> None:
    """A test makes files until the file system has no inodes left."""
    lacking = lacks(sandbox, "files")
    limits = Limits(files=300, seconds=3 if lacking else 15)
    program = "import time\nfor n in range({}): open(f'/tmp/{{n}}', 'w').close()\ntime.sleep({})"
    many, short, fits = (["python3", "-c", program.format(n, s)] for n, s in ((2000, 30), (2000, 0), (200, 0)))
    done, fast, good = await asyncio.gather(*(sandbox.execute(base, argv, limits) for argv in (many, short, fits)))
    assert (good.outcome, good.exit_code) == ("finished", 0), good
    if lacking:
        return
    for each in (done, fast):
        assert killed_by(each, "files"), each
        assert each.after is None, "a state of what was killed for what it wrote"


@case
async def one_files_size_is_limited(sandbox: Sandbox, base: State) -> None:
    """A log file grows until the disk is full."""
    script = "head -c 3000000 /dev/zero > f; stat -c %s f"
    assert (await run(sandbox, base, script)).stdout == b"3000000\n"
    done = await run(sandbox, base, script, Limits(file_size=1_000_000))
    assert done.outcome == "finished", done
    assert lacks(sandbox, "file_size") or done.stdout == b"1000000\n", done


@case
async def processes_are_limited(sandbox: Sandbox, base: State) -> None:
    """A fork bomb stops the machine."""
    program = """if True:
        import os, time
        n = 0
        try:
            while n < 64:
                if not os.fork(): time.sleep(30); os._exit(0)
                n += 1
        except BlockingIOError: pass
        print(n)"""
    few = await python(sandbox, base, program, Limits(processes=32))
    assert lacks(sandbox, "processes") or 16 <= int(few.stdout) < 32, few
    assert (await python(sandbox, base, program, Limits(processes=200))).stdout == b"64\n"


@case
async def the_processes_of_one_do_not_count_for_another(sandbox: Sandbox, base: State) -> None:
    """Tests fail because other tests run."""
    twenty = "i=0; while [ $i -lt 20 ]; do sleep 1 & i=$((i+1)); done; wait; echo done"
    all_of_them = await asyncio.gather(*(said(sandbox, base, twenty, Limits(processes=32)) for _ in range(4)))
    assert set(all_of_them) == {"done\n"}, all_of_them


@case
async def open_files_are_limited(sandbox: Sandbox, base: State) -> None:
    """A program that forgets to close its files takes those of the machine, or no core is ever written."""
    program = """if True:
        import os, resource
        held = []
        try:
            while len(held) < 300: held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError: pass
        print(len(held), resource.getrlimit(resource.RLIMIT_CORE)[0])"""
    few = (await python(sandbox, base, program, Limits(open_files=64))).stdout.split()
    assert lacks(sandbox, "open_files") or 40 < int(few[0]) <= 64, few
    assert (await python(sandbox, base, program)).stdout == b"300 0\n", "300 can be open, and no core is dumped"


@case
async def a_limit_that_is_passed_spoils_nothing_else(sandbox: Sandbox, base: State) -> None:
    """One candidate that takes too much fails the others that run beside it."""
    hog = python(sandbox, base, "x = bytearray(600 << 20)", Limits(memory=200 * MiB, seconds=10))
    slow = run(sandbox, base, "sleep 300", Limits(seconds=0.5))
    good = run(sandbox, base, "sleep 1; echo fine")
    _, _, done = await asyncio.gather(hog, slow, good)
    assert (done.outcome, done.text) == ("finished", "fine\n"), done
