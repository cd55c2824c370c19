"""What was started as a template's fork says what it says when it is started as any other. As root: rootless there is none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runoff.sandbox import templates
from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Limits
from tests.sandbox.stores import left_of
from tests.sandbox.templates import FORKED, PROGRAM, begun, is_used, opened, run

pytestmark = pytest.mark.needs_root


@pytest.fixture
def sandbox(tmp_path: Path) -> Bubblewrap:
    return opened(tmp_path / "states")


SELF = r"""
import json, os, resource, signal, sys
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
same = "Cap Uid Gid Groups NoNewPrivs Seccomp Umask Sig Cpus Tracer".split()
print(json.dumps({
    "status": {name: value for name, value in status.items() if name.startswith(tuple(same))},
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")
               and name != "RLIMIT_NPROC"},
    "environment": dict(os.environ), "cwd": os.getcwd(), "handles": os.listdir("/proc/self/fd"),
    "leads": os.getsid(0) == os.getpgid(0), "host": os.uname().nodename, "nice": os.nice(0),
    "mounts": sorted(line.split()[3:6] for line in open("/proc/self/mountinfo")),
    "adjusted": open("/proc/self/oom_score_adj").read(), "interfaces": os.listdir("/proc/sys/net/ipv4/conf"),
    "groups": open("/proc/self/cgroup").read(), "personality": open("/proc/self/personality").read(),
    "signals": [str(signal.getsignal(n)) for n in range(1, 32)],
    "sys": [sys.argv, sys.orig_argv, sys.path, sys.prefix, sys.exec_prefix, sys.base_prefix, sys.executable, repr(sys.flags),
            sys._base_executable, getattr(sys, "_home", None), sys._xoptions, sys.warnoptions, sys.getrecursionlimit()],
    "streams": [str(each) + str(each.line_buffering) + each.errors for each in (sys.stdin, sys.stdout, sys.stderr)],
    "modules": sorted(sys.modules), "main": sorted(globals()), "annotations": __annotations__,
    "importers": sorted(sys.path_importer_cache),
}))
"""


async def test_where_and_as_what_it_runs(sandbox: Bubblewrap) -> None:
    state = await begun(sandbox)
    how = {
        "env": {"PYTHONPATH": "/testbed:/testbed/src", "OF_THE_TEST": "1"},
        "cwd": "/home/user",
        "stdin": b"read",
    }
    (forked, started) = [
        json.loads((await run(sandbox, state, SELF, template=template, **how)).stdout) for template in (True, False)
    ]
    for what in started:
        if what in ("importers", "handles"):
            continue
        assert forked[what] == started[what], what
    assert set(forked["handles"]) <= set(started["handles"])


SCRIPTS = {
    "prints": "import sys; print(sys.stdin.read()); print('e', file=sys.stderr); open('made', 'w').write('x')",
    "exit code": "import sys; sys.exit(7)",
    "words": "import sys; sys.exit('words')",
    "exception": "def f():\n    raise ValueError('no')\nf()",
    "syntax": "a b",
    "signal": "import os; os.kill(os.getpid(), 11)",
    "os._exit": "import os; os._exit(9)",
    "its end": "import atexit, threading; atexit.register(print, 'end'); threading.Thread(target=print, args=['t']).start()",
    "left behind": "import os\nif os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(99)\nprint('gone')",
    "orphans": "import os, time\nif os.fork() == 0:\n    if os.fork(): os._exit(0)\n    time.sleep(.05); os._exit(0)\n"
    "os.wait(); time.sleep(.3); print([p for p in os.listdir('/proc') if p.isdigit() and 'Z' in open(f'/proc/{p}/stat').read()])",
    "children": "import multiprocessing as m, subprocess as s, sys\nif __name__ == '__main__':\n    p = m.get_context('fork').Pool(2)\n"
    "    print(p.map(abs, [-1, -2]), s.run([sys.executable, '-c', 'print(3)'], capture_output=True).stdout)",
    "an import forgotten": "import importlib, concurrent; print(hasattr(importlib, 'metadata'), hasattr(concurrent, 'futures'))\n"
    "import os, xml; os.path; xml.etree",
    "shadowed": "open('json.py', 'w').write('import string\\nmine = 1'); import json; print(json.mine, json.__file__)",
    "shadowed below": "open('enum.py', 'w').write('1/0'); import re",
    "a server": "import socket\n"
    "s = socket.create_server(('127.0.0.1', 5000)); socket.create_connection(('127.0.0.1', 5000))\nprint(s.accept()[1][0])",
    "flood": "print('x' * 300000)",
}


async def test_what_programs_say_and_leave(sandbox: Bubblewrap) -> None:
    state = await begun(sandbox)
    for name, script in SCRIPTS.items():
        forked, started = [
            await run(sandbox, state, script, template=template, freeze=True, stdin=b"given")
            for template in (True, False)
        ]
        for what in ("outcome", "exit_code", "stdout", "stderr", "dropped", "limit"):
            assert getattr(forked, what) == getattr(started, what), (name, forked, started)
        assert forked.after, name
        assert started.after, name
        listed = [
            (await sandbox.execute(each.after, ["sh", "-c", "find /testbed /tmp /home | sort"])).stdout
            for each in (forked, started)
            if each.after
        ]
        assert listed[0] == listed[1], name
        if "shadowed" not in name:  # compiled files have times in them
            assert forked.after.digest == started.after.digest, name
    assert await is_used(sandbox, state)


async def test_limits_hold(sandbox: Bubblewrap) -> None:
    state = await begun(sandbox)
    sleeps = await run(sandbox, state, "import time; time.sleep(60)", limits=Limits(seconds=0.5))
    assert (sleeps.outcome, sleeps.exit_code) == ("timed out", None)
    assert await is_used(sandbox, state)
    eats = "a = []\nwhile True: a.append(bytearray(1 << 24))"
    eaten = await run(sandbox, state, eats, limits=Limits(memory=400 << 20, seconds=30))
    assert (eaten.outcome, eaten.limit) == ("killed", "memory") or b"MemoryError" in eaten.stderr
    writes = "f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))"
    wrote = await run(sandbox, state, writes, limits=Limits(disk=30 << 20, seconds=30), freeze=True)
    assert (wrote.outcome, wrote.limit, wrote.after) == ("killed", "disk", None)
    many = "import os, time\nn = 0\ntry:\n  while n < 99:\n    if os.fork() == 0: time.sleep(9)\n    n += 1\nexcept OSError: print(n)"
    counted = [await run(sandbox, state, many, limits=Limits(processes=20), template=each) for each in (True, False)]
    assert abs(int(counted[0].stdout) - int(counted[1].stdout)) <= 1


async def test_a_cancelled_execution_is_gone(sandbox: Bubblewrap) -> None:
    state = await begun(sandbox)
    task = asyncio.create_task(run(sandbox, state, "import time; time.sleep(60)"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_used(sandbox, state)


@pytest.mark.parametrize(
    "how",
    [
        {"argv": ["python", "-I", "-c", FORKED]},
        {"argv": ["/env/bin/python", "-c", FORKED]},
        {"env": {"PYTHONHASHSEED": "1"}},
        {"env": {"LC_ALL": "C"}},
        {"template": False},
        {"limits": Limits(memory=100 << 20)},
    ],
)
async def test_what_needs_another_start_has_it(sandbox: Bubblewrap, how: dict[str, object]) -> None:
    state = await begun(sandbox)
    asked = {"argv": ["python", "-c", FORKED], "template": True, "freeze": False} | how
    assert (await sandbox.execute(state, **asked)).text.strip() == "1"  # type: ignore[arg-type]


async def test_a_template_that_cannot_start_is_done_without(sandbox: Bubblewrap, tmp_path: Path) -> None:
    async with opened(tmp_path / "other", lambda text: "raise SystemExit(1)") as other:
        state = await begun(other, until=False)
        for _ in range(5):
            assert (await run(other, state, FORKED)).text.strip() == "1"


def test_links_in_a_state_do_not_choose_the_interpreter(tmp_path: Path) -> None:
    """Only a plain link to what the host shows is followed, and by name."""
    python = str(Path(sys.executable).resolve())
    shown, argv = [str(Path(python).parents[1])], ["python", "-c", "pass"]

    def chosen(link: str, name: str = "one") -> str | None:
        at = tmp_path / name / "env" / "bin"
        at.mkdir(parents=True, exist_ok=True)
        (at / "python").unlink(missing_ok=True)
        (at / "python").symlink_to(link)
        return templates.interpreter(str(tmp_path / name), shown, argv, {})

    assert chosen(python) == python
    assert chosen("/testbed/python3.11") is None
    assert chosen(f"{shown[0]}/../../../testbed/python3.11") is None
    assert chosen("../../testbed/python3.11") is None
    assert chosen("python") is None
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "env").symlink_to(tmp_path / "one" / "env")
    chosen(python)
    assert templates.interpreter(str(tmp_path / "two"), shown, argv, {}) is None


SHOW = r"""
import json, sys
found = {n: sorted(k for k, v in vars(m).items() if isinstance(v, type(sys))) for n, m in sys.modules.items() if n != "__main__"}
print(json.dumps(found))
"""
EACH = r"""
import os
kept_modules, made = Kept(), {}
names = [name for name in sorted(kept_modules.brings)][int(sys.argv[1])::int(sys.argv[2])]
for name in names:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(writing, 1)
        text = "import " + name + "\n" + os.environ["SHOW"]
        run(text, become({"argv": [os.environ["AS"], "-c", text], "env": {"PATH": "/usr/bin"}}, kept_modules))
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        made[name] = json.load(said)
    os.wait()
print(json.dumps(made))
"""


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.full), 12])
def test_what_a_module_brings_along_is_what_its_import_would(tmp_path: Path, step: int) -> None:
    python = str(Path(sys.executable).resolve())
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "plain"], check=True)
    empty = tmp_path / "empty"
    (empty / "bin").mkdir(parents=True)
    (empty / "bin" / "python").symlink_to(python)
    (empty / "pyvenv.cfg").write_text(f"home = {Path(python).parent}\ninclude-system-site-packages = false\n")
    plain, cwd = str(tmp_path / "plain" / "bin" / "python"), tmp_path / "empty"
    text = PROGRAM.partition("kept_modules = Kept()")[0] + EACH
    said = subprocess.run(
        [empty / "bin" / "python", "-c", text, "0", str(step)],
        env={"AS": plain, "SHOW": SHOW},
        cwd=cwd,
        stdout=subprocess.PIPE,
        check=True,
    )
    made = json.loads(said.stdout)
    assert len(made) * step > 200
    for name, found in made.items():
        whole = f"import {name}\n{SHOW}"
        ordinary = subprocess.run(
            [plain, "-c", whole], env={"PATH": "/usr/bin"}, cwd=cwd, stdout=subprocess.PIPE, check=True
        )
        assert found == json.loads(ordinary.stdout), name


@pytest.mark.parametrize("kill", [True, False])
async def test_a_template_ends_with_its_sandbox(sandbox: Bubblewrap, tmp_path: Path, kill: bool) -> None:
    mark = f"template-of-{tmp_path.name}"
    async with opened(tmp_path / "other", lambda text: f"{text}# {mark}\n") as other:
        await begun(other)
        assert left_of(mark)
        if kill:
            other._helper.kill()
    for _ in range(50):
        if not left_of(mark):
            break
        await asyncio.sleep(0.1)
    assert left_of(mark) == []
