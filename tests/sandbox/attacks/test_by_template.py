"""What hostile code could do by way of a template process, from one execution to the next. As root: rootless there is none.

Each attack is seen to succeed with a template's program that lacks what stops it, and that nobody looks at; and seen to be
done without, if somebody does look.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runoff.sandbox.bubblewrap import Bubblewrap
from runoff.sandbox.protocol import Execution, Limits, SandboxError, State
from tests.sandbox.templates import begun, is_used, opened, run

pytestmark = pytest.mark.needs_root

WON = "it-" + secrets.token_hex(8)
_FORK = "        told(libc.setns(handles[0], 0x20000000), "
_NO_FILTER = ('if request["filtered"] else b""', "if False else b''")
_RIGHTS = (
    ('told(libc.capset(ctypes.byref(header), ctypes.byref(header, 8)), "have no capabilities")', "pass"),
    ("libc.prctl(24, capability, 0, 0, 0)", "pass"),
)
_OWN_PROCESSES = (('told(libc.setns(handles[0], 0x20000000), "enter the sandbox\'s processes")', "pass"),)


@dataclass(frozen=True)
class Attack:
    """It succeeds if the second execution prints WON, or as `seen` says. `without`: what the weak program has instead."""

    name: str
    gain: str
    first: str
    without: tuple[tuple[str, str], ...]
    second: str = "pass"
    env: dict[str, str] = field(default_factory=dict)
    seen: Callable[[Execution | None, Bubblewrap], bool] = lambda done, sandbox: done is not None and WON in done.text
    noticed: bool = True
    """Whether whoever looks at the fork can see that it lacks something."""


def _survived(done: Execution | None, sandbox: Bubblewrap) -> bool:
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(WON.encode()):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    return found


ATTACKS = [
    Attack(
        "poison-a-module",
        "that the next candidate's tests say what it likes",
        f"import base64; base64.b64encode = lambda *a: {WON!r}",
        ((_FORK, "        exec(json.loads(os.pread(handles[-1], 1 << 20, 0))['argv'][2], {})\n" + _FORK),),
        "import base64; print(base64.b64encode(b'1'))",
        noticed=False,
    ),
    Attack(
        "poison-a-builtin",
        "the same, without any import",
        f"import builtins; builtins.repr = lambda *a: {WON!r}",
        ((_FORK, "        exec(json.loads(os.pread(handles[-1], 1 << 20, 0))['argv'][2], {})\n" + _FORK),),
        "print(repr(1))",
        noticed=False,
    ),
    Attack(
        "remember",
        "what another execution was given",
        "pass",
        (
            (
                "            os._exit(0)\n" + _FORK,
                "            os._exit(0)\n        keep = globals().setdefault('keep', [])\n"
                "        keep.append(os.pread(handles[-1], 1 << 20, 0))\n" + _FORK,
            ),
        ),
        "import os, re\nwith open('/proc/self/mem', 'rb', 0) as memory:\n  for line in open('/proc/self/maps'):\n"
        "    a, b = (int(x, 16) for x in line.split()[0].split('-'))\n    if 'w' in line.split()[1]:\n"
        "      try:\n        memory.seek(a); found = re.search(rb'it-[0-9a-f]{16}', memory.read(b - a))\n"
        "        if found: print(found[0].decode())\n      except (OSError, OverflowError, ValueError): pass",
        env={"OF_THE_FIRST": WON},
        noticed=False,
    ),
    Attack(
        "answer-for-the-template",
        "that the helper believes another exit code",
        'import os, socket\nfor n in range(3, 64):\n  try: socket.socket(fileno=n).send(b\'{"exit-code": 0, "cpu": 0}\')\n'
        "  except OSError: pass\nimport time; time.sleep(.3); os._exit(9)",
        (("os.closerange(4, 4096)", "pass"),),
        seen=lambda done, sandbox: done is not None and done.exit_code == 0,
    ),
    Attack(
        "kill-the-template",
        "that the executions after it fail",
        "import os, time\nif os.getppid() > 1: os.kill(os.getppid(), 9)\ntime.sleep(.3)",
        _OWN_PROCESSES,
        seen=lambda done, sandbox: done is None or done.outcome != "finished" or done.exit_code != 0,
    ),
    Attack(
        "trace-the-template",
        "all that it holds, and what it forks next",
        f"import ctypes, os\np = os.getppid()\nif p > 1 and ctypes.CDLL(None).ptrace(16, p, 0, 0) == 0: print({WON!r}, flush=True)",
        (*_OWN_PROCESSES, *_RIGHTS, _NO_FILTER),
    ),
    Attack(
        "limit-the-template",
        "that nothing can be forked any more",
        "import os, resource\np = os.getppid()\n"
        f"if p > 1: resource.prlimit(p, resource.RLIMIT_NOFILE, (9, 9)); print({WON!r})",
        (*_OWN_PROCESSES, *_RIGHTS, _NO_FILTER),
    ),
    Attack(
        "outlive",
        "going on beside the next execution, and using up its processes",
        f"import os, time\nif os.fork() == 0:\n  os.setsid()\n  for n in range(3): os.close(n)\n"
        f"  os.execv('/usr/bin/sleep', [{WON!r}, '30'])\ntime.sleep(.2)",
        _OWN_PROCESSES,
        seen=_survived,
    ),
    Attack(
        "rights-of-the-template",
        "whatever its user namespace allows",
        f"import socket; socket.sethostname('x'); print({WON!r})",
        (*_RIGHTS, _NO_FILTER),
    ),
    Attack(
        "system-calls",
        "the kernel's rarer surfaces",
        f"import ctypes; l = ctypes.CDLL(None)\nif l.syscall(250, 0, -3, 1) != -1: print({WON!r})",
        (_NO_FILTER,),
    ),
    Attack(
        "network-of-the-template",
        "traces of what the execution before did, and its ports",
        "import socket; s = socket.create_server(('127.0.0.1', 5000)); socket.create_connection(('127.0.0.1', 5000))",
        (("told(libc.setns(handle, kind), ", "kind == 0x40000000 or told(libc.setns(handle, kind), "),),
        "names, counts = [line.split() for line in open('/proc/net/snmp') if line.startswith('Tcp:')]\n"
        f"if counts[names.index('ActiveOpens')] != '0': print({WON!r})",
    ),
]


def _weak(attack: Attack) -> Callable[[str], str]:
    def change(text: str) -> str:
        for what, instead in attack.without:
            assert what in text, what
            text = text.replace(what, instead)
        return text

    return change


async def _attacked(sandbox: Bubblewrap, state: State, attack: Attack) -> bool:
    """The first line of defence is what is tried: two executions in a row, by the same template."""
    done = None
    with suppress(SandboxError):
        done = await run(sandbox, state, attack.first, env=attack.env)
        if attack.second != "pass":
            done = await run(sandbox, state, attack.second)
    await asyncio.sleep(0.05)
    return attack.seen(done, sandbox)


@pytest.fixture
def sandbox(tmp_path: Path) -> Bubblewrap:
    return opened(tmp_path / "states")


async def test_no_attack_succeeds(sandbox: Bubblewrap) -> None:
    state = await begun(sandbox)
    for attack in ATTACKS:
        assert await is_used(sandbox, state), attack.name
        assert not await _attacked(sandbox, state, attack), f"{attack.name} gains {attack.gain}"


@pytest.mark.parametrize("by", ATTACKS, ids=lambda by: by.name)
async def test_each_is_seen_to_succeed(sandbox: Bubblewrap, by: Attack, tmp_path: Path) -> None:
    async with opened(tmp_path / "weak", _weak(by), looked_at=False) as weak:
        assert await _attacked(weak, await begun(weak), by)


SIBLINGS = r"""
import ctypes, os, sys, time
for n in range(50):
    if ctypes.CDLL(None).syscall({"x86_64": 56, "aarch64": 220}[os.uname().machine], 0x8000 | 17, 0, 0, 0, 0) == 0:
        time.sleep(60 if n % 2 else 0)
        os._exit(0)
"""


async def test_siblings_of_a_fork_end_with_it(sandbox: Bubblewrap, tmp_path: Path) -> None:
    """Processes that it makes the template's children would keep its sandbox from ending, and use up the slot's processes."""
    state = await begun(sandbox)
    for _ in range(3):
        assert (await run(sandbox, state, SIBLINGS, limits=Limits(processes=100, seconds=20))).exit_code == 0
    assert await is_used(sandbox, state)
    task = None
    async with opened(tmp_path / "weak", lambda text: text.replace("        reap()\n", "")) as weak:
        task = asyncio.create_task(run(weak, await begun(weak), SIBLINGS, limits=Limits(seconds=2)))
        assert not (await asyncio.wait([task], timeout=5))[0]
    with suppress(SandboxError):
        await task


_NOTICED = [each for each in ATTACKS if each.noticed]


@pytest.mark.parametrize(
    "by",
    [*_NOTICED[:2], *(pytest.param(each, marks=pytest.mark.full) for each in _NOTICED[2:])],
    ids=lambda by: by.name,
)
async def test_a_fork_that_lacks_something_is_not_used(sandbox: Bubblewrap, by: Attack, tmp_path: Path) -> None:
    async with opened(tmp_path / "looked-at", _weak(by)) as weak:
        state = await begun(weak, until=False)
        for _ in range(8):
            await run(weak, state, "pass")
            await asyncio.sleep(0.1)
        assert not await is_used(weak, state)
        assert not await _attacked(weak, state, by)
