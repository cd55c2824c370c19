"""Limits of all processes together: each is enforced or watched, and a passed one is said, with control groups and without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runoff.sandbox import cgroups
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.held import Facts, remedy, rows
from runoff.sandbox.protocol import Base, Execution, Limits, Sandbox

MIB = 1 << 20
TESTS = Path(__file__).parent

ALL = frozenset({"memory", "pids", "cpuacct"})
WITH, WITHOUT = Facts(2, ALL, "", True), Facts(0, frozenset(), "no control groups are mounted", True)

SHOWN_BY = {
    "seconds": "the_time_limit_ends_what_ignores_signals_and_what_hides",
    "output": "output_keeps_its_first_and_its_last_half",
    "memory": "test_memory_is_limited_in_total",
    "cpu_seconds": "test_processor_time_is_limited_in_total",
    "disk": "test_what_is_written_is_limited",
    "files": "test_what_is_written_is_limited",
    "file_size": "one_files_size_is_limited",
    "processes": "test_processes_and_threads_are_limited_in_total",
    "open_files": "test_open_files_are_limited",
    "room": "test_a_full_file_system_is_nobodys_verdict",
    "/dev/shm": "test_shared_memory_counts_and_has_a_size",
    "network": "the_hosts_network_cannot_be_reached",
    "system calls": "test_system_calls_that_nothing_needs_are_refused",
    "host files": "test_no_files_and_no_processes_of_the_host",
    "host processes": "test_no_files_and_no_processes_of_the_host",
    "privileges": "test_the_user_inside_has_no_rights",
    "/proc and /sys": "test_proc_says_nothing_of_the_machine",
    "hard links": "",
    "directory renames": "",
    "kernel bugs": "",
}


@pytest.fixture(params=["groups", "watched"])
def sandbox(request: pytest.FixtureRequest, mode: str, tmp_path: Path) -> Bubblewrap:
    """Where the machine has no control group to give, both are watched: `holds` says which it is."""
    without = frozenset({"cgroups"}) if request.param == "watched" else frozenset[str]()
    return Bubblewrap(tmp_path / "states", mode, without=without)  # type: ignore[arg-type]


async def python(sandbox: Sandbox, script: str, limits: Limits, *, freeze: bool = True) -> Execution:
    return await sandbox.execute(await sandbox.base(Base()), ["python3", "-c", script], limits, freeze=freeze)


def how(done: Execution) -> tuple[str, str | None, int | None]:
    return done.outcome, done.limit, done.exit_code


HOLD = "import os, time\nif {fork}: pass\nx = b'x' * ({mib} << 20)\ntime.sleep({sleep})\n"


async def test_memory_is_limited_in_total(sandbox: Bubblewrap) -> None:
    four = HOLD.format(fork="os.fork() + os.fork()", mib=60, sleep=1)
    done = await python(sandbox, four, Limits(memory=150 * MIB))
    assert how(done) == ("killed", "memory", None)
    assert done.after
    assert how(await python(sandbox, four, Limits(memory=400 * MIB))) == ("finished", None, 0)


async def test_a_process_that_died_for_memory_is_said_though_the_command_ended_well(sandbox: Bubblewrap) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'b\"x\" * (300 << 20)'])"
    done = await python(sandbox, child, Limits(memory=200 * MIB))
    if enforced(sandbox):
        assert how(done) == ("killed", "memory", None)
    else:
        assert how(done) == ("finished", None, 0)
        assert b"MemoryError" in done.stderr
    assert how(await python(sandbox, "", Limits(memory=200 * MIB))) == (
        "finished",
        None,
        0,
    )  # the next hears nothing of it


async def test_shared_memory_counts_and_has_a_size(sandbox: Bubblewrap) -> None:
    fill = (
        "f = open('/dev/shm/f', 'wb', 0)\nfor _ in range({0}): f.write(b'x' * (1 << 20))\nimport time; time.sleep(.5)"
    )
    assert how(await python(sandbox, fill.format(130), Limits(memory=100 * MIB))) == ("killed", "memory", None)
    done = await python(sandbox, fill.format(300), Limits())
    assert "No space left on device" in done.text
    hidden = "import os\nf = os.memfd_create('f')\nfor _ in range(300): os.write(f, b'x' * (1 << 20))"
    done = await python(sandbox, hidden, Limits(memory=100 * MIB))
    assert how(done) == ("killed", "memory", None) if enforced(sandbox) else "not implemented" in done.text


async def test_memory_that_is_shared_counts_once(sandbox: Bubblewrap) -> None:
    script = "import os, time\nx = b'x' * (80 << 20)\nfor _ in range(3): os.fork()\ntime.sleep(.5)"
    assert how(await python(sandbox, script, Limits(memory=300 * MIB))) == ("finished", None, 0)


async def test_processor_time_is_limited_in_total(sandbox: Bubblewrap) -> None:
    busy = "import os, time\nfor _ in range(2): os.fork()\nwhile time.process_time() < {0}: pass"
    done = await python(sandbox, busy.format(60), Limits(cpu_seconds=1, seconds=50))
    assert how(done) == ("killed", "cpu", None)
    assert done.after
    between_two_looks = "import time\nwhile time.process_time() < .15: pass"
    assert how(await python(sandbox, between_two_looks, Limits(cpu_seconds=0.1))) == ("killed", "cpu", None)
    children = "import subprocess\nwhile True: subprocess.run(['true'])"
    assert how(await python(sandbox, children, Limits(cpu_seconds=0.5, seconds=50))) == ("killed", "cpu", None)
    assert how(await python(sandbox, busy.format(0.05), Limits(cpu_seconds=20))) == ("finished", None, 0)


async def test_what_is_written_is_limited(sandbox: Bubblewrap) -> None:
    disk, files = Limits(disk=20 * MIB, seconds=50), Limits(files=500, seconds=50)
    flood = "n = 0\nwhile True:\n  n += 1\n  open(f'f{{n}}', 'wb').write(b'x' * ({0}))"
    for script, limits, limit, freeze in (
        ("open('f', 'wb').write(b'x' * (21 << 20))", disk, "disk", True),  # over before anyone looks
        ("for n in range(501): open(f'f{n}', 'w')", files, "files", False),
        (flood.format("1 << 20"), disk, "disk", False),
        (flood.format("0"), files, "files", True),
        ("import os\nfor n in range(1001): os.mkdir('d'); os.chdir('d')", Limits(), "files", True),
    ):
        done = await python(sandbox, script, limits, freeze=freeze)
        assert (*how(done), done.after) == ("killed", limit, None, None), script
    fits = "import os\nopen('f', 'wb').write(b'x' * (12 << 20)); os.link('f', 'g'); open('s', 'w').truncate(1 << 28)"
    done = await python(sandbox, fits, disk)
    assert (*how(done), done.after is not None) == ("finished", None, 0, True), done


async def test_a_tree_that_moves_while_it_is_measured(sandbox: Bubblewrap, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    for n in range(300):
        (tmp_path / "outside" / str(n)).touch()
    script = (
        "import os, time\nend = time.time() + 1.5\nopen('large', 'wb').write(b'x' * (11 << 20))\n"  # so that it walks
        f"while time.time() < end:\n  os.mkdir('d'); os.rename('d', 'e'); os.symlink('{tmp_path}/outside', 'd')\n"
        "  os.remove('d'); os.rmdir('e')\n  open('large', 'r+b').write(b'x' * 4096)"  # a fast machine writes no more
    )
    done = await python(sandbox, script, Limits(disk=20 * MIB, files=200))
    assert how(done) == ("finished", None, 0), done.text


async def test_processes_and_threads_are_limited_in_total(sandbox: Bubblewrap) -> None:
    threads = (
        "import os, threading, time\n"
        "for n in range({0}): threading.Thread(target=time.sleep, args=[60], daemon=True).start()\nos._exit(0)"
    )
    assert "can't start new thread" in (await python(sandbox, threads.format(40), Limits(processes=30))).text
    assert how(await python(sandbox, threads.format(25), Limits(processes=30))) == ("finished", None, 0)
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    done = await python(sandbox, bomb, Limits(processes=30, seconds=1, cpu_seconds=100))
    assert how(done) == ("timed out", None, None)


async def test_open_files_are_limited(sandbox: Bubblewrap) -> None:
    script = "x = [open('/dev/null') for _ in range(60)]"
    assert "Too many open files" in (await python(sandbox, script, Limits(open_files=50))).text
    assert how(await python(sandbox, script, Limits(open_files=90))) == ("finished", None, 0)


async def test_every_row_of_the_table_has_a_test(sandbox: Bubblewrap) -> None:
    assert {row.limit for row in sandbox.holds()} | {"directory renames"} == SHOWN_BY.keys()
    assert set(Limits.model_fields) <= SHOWN_BY.keys()
    cases = TESTS.parents[1] / "sandbox" / "conformance"
    written = "".join(file.read_text() for file in [*TESTS.glob("test_*.py"), *cases.glob("*.py")])
    for row in sandbox.holds():
        assert row.how == "not held" or f"async def {SHOWN_BY[row.limit]}(" in written, row


def test_the_page_on_security_shows_the_table() -> None:
    page = (TESTS.parents[1] / "docs" / "security.md").read_text()
    for row, other in zip(rows("rootless", WITH), rows("rootless", WITHOUT), strict=True):
        cells = [f"{each.how}: {each.detail}" for each in (row, other)]
        line = f"| {row.limit} | {cells[0]} | {'the same' if cells[0] == cells[1] else cells[1]} |"
        assert line in page, f"docs/security.md should say\n{line}"


def test_who_has_no_control_groups_hears_why_and_what_helps() -> None:
    file = "/proc/self/oom_score_adj"  # like a control group's: it opens, and refuses what is written
    with pytest.raises(OSError, match="oom_score_adj") as refused:
        cgroups._write(file, "99999")
    assert refused.value.filename == file
    assert remedy("rootless", WITH) is None
    assert "Delegate" not in (remedy("root", WITHOUT) or "")
    for words in (WITHOUT.why, "`systemd-run --user --scope --property=Delegate=yes runoff …`"):
        assert words in (remedy("rootless", WITHOUT) or "")


@pytest.mark.needs_root
def test_control_groups_are_locked_and_orphans_removed() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import cgroups\ng = cgroups.Cgroups(2)\n{0}"
    hold = [sys.executable, "-c", script.format("print(*g._locks, flush=True); sys.stdin.read()")]
    end = [sys.executable, "-c", script.format("print(*g._locks); g.remove()")]
    place = [str(TESTS.parents[1] / "sandbox")]

    def there(names: list[str]) -> bool:
        return any(Path(name).exists() for name in names)

    with subprocess.Popen([*hold, *place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        held = holder.stdout.readline().split()
        assert held
        ended = subprocess.run([*end, *place], capture_output=True, text=True, check=True).stdout.split()
        assert ended
        assert not there(ended)
        assert all(Path(name).exists() for name in held)
        holder.kill()
    assert there(held)
    subprocess.run([*end, *place], capture_output=True, check=True)
    assert not there(held)


def test_no_code_leaves_a_defence_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no defence is called nothing"):
        Bubblewrap(tmp_path, without=frozenset({"nothing"}))
    for package in ("agent", "runoff", "sandbox", "selection"):
        for file in (TESTS.parents[1] / package).rglob("*.py"):
            assert not re.search(r"\bBubblewrap\([^)]*without", file.read_text()), file


def enforced(sandbox: Bubblewrap) -> bool:
    return {row.limit: row.how for row in sandbox.holds()}["memory"] == "enforced"
