"""A state is a value: it never changes, and its successor holds all that was written, whatever it was."""

from __future__ import annotations

import asyncio
import os

from runoff.sandbox.conformance.case import (
    DIRECTORY_RENAMES,
    EXTENDED_ATTRIBUTES,
    HARD_LINKS,
    case,
    lacks,
    python,
    raises,
    run,
    said,
    sh,
)
from runoff.sandbox.protocol import Refused, Sandbox, SandboxLost, State

LARGE = "head -c 2000000 /dev/zero"
"""Writes enough that a backend will not treat it as a small change."""


@case
async def using_a_state_twice_is_the_fork(sandbox: Sandbox, base: State) -> None:
    """What one branch of a search writes shows up in another."""
    one = await sandbox.write(base, {"/testbed/f": b"one\n"})
    left, right = await asyncio.gather(
        sh(sandbox, one, "echo left > f; touch l; sleep .5; [ $(cat f) = left ]; [ ! -e r ]"),
        sh(sandbox, one, "rm f; touch r; sleep .5; [ ! -e f ]; [ ! -e l ]"),
    )
    assert await sandbox.read(one, "/testbed/f") == b"one\n", "the state itself changed"
    assert await said(sandbox, left, "ls; cat f") == "f\nl\nleft\n"
    assert await said(sandbox, right, "ls") == "r\n"


@case
async def without_freeze_nothing_is_kept(sandbox: Sandbox, base: State) -> None:
    """A test run marks the state it ran in, and the next test sees that."""
    done = await run(sandbox, base, "echo x > f; echo x > /tmp/f")
    assert done.after is None, "a next state that was not asked for"
    assert await said(sandbox, base, "ls /testbed /tmp/f 2>/dev/null") == "/testbed:\n"


@case
async def equal_digests_mean_equal_contents(sandbox: Sandbox, base: State) -> None:
    """A result kept for one state is shown for another, which differs in a mode, a link or a deleted file."""
    one = await sh(sandbox, base, "echo 1 > f; echo 1 > g")
    changes = ("echo 2 > f", "chmod +x f", "rm f", "ln -sf g f", "ln -f g f", "mv f h", "rm f; mkdir f", "mkfifo p")
    others = await asyncio.gather(*(sh(sandbox, one, change) for change in changes))
    digests = [state.digest for state in (base, one, *others)]
    assert len(set(digests)) == len(digests), f"two contents under one digest: {digests}"


@case
async def six_executions_keep_everything(sandbox: Sandbox, base: State) -> None:
    """After a few steps a file has another mode, a link leads nowhere, or what was deleted is back."""
    state = await sh(
        sandbox,
        base,
        "mkdir -p d/e t; chmod 700 d; chmod 1777 t; echo 1 > d/e/f; echo h > h1; ln h1 h2; mkfifo p; : > empty;"
        "ln -s d/e/f link; ln -s nowhere dangling; echo x > x; echo g > gone; mkdir goned; echo g > goned/f;"
        "touch -d '2001-02-03 04:05:06 UTC' old; printf 1 > \"$(printf 'caf\\351 \\n-x')\"",
    )
    state = await sh(sandbox, state, f"rm -r gone goned; {LARGE} > l1; chmod 751 x")
    state = await sh(sandbox, state, f"[ ! -e gone ]; [ ! -e goned ]; chmod 640 empty; {LARGE} > l2")
    state = await sh(sandbox, state, f"{LARGE} > l3; rm l1; echo 2 >> d/e/f; mkdir goned")
    state = await sh(sandbox, state, f'[ -z "$(ls goned)" ]; ln -sf x link; {LARGE} > l4; mv d/e d/g')
    state = await sh(sandbox, state, "rm dangling; rmdir goned; touch last")
    assert await said(sandbox, state, "stat -c '%n %a' p h1 h2 empty link x old l? d t | tr '\\n' ','") == (
        "p 644,h1 644,h2 644,empty 640,link 777,x 751,old 644,l2 644,l3 644,l4 644,d 700,t 1777,"
    )
    assert await said(sandbox, state, "readlink link; cat d/g/f h2; [ h1 -ef h2 ] && [ -p p ] && echo same") == (
        "x\n1\n2\nh\nsame\n"
    )
    count = "find . -mindepth 1 -maxdepth 1 -printf x; stat -c ' %Y' old; cat \"$(printf 'caf\\351 \\n-x')\""
    assert await said(sandbox, state, count) == "xxxxxxxxxxxxxx 981173106\n1", "names or times"


@case
async def extended_attributes_stay(sandbox: Sandbox, base: State) -> None:
    """A tool that marks files by user.* attributes finds none of its marks one step later."""
    mark = (
        'import os; open("f", "w"); os.setxattr("f", "user.mark", b"\\0one\\xff");'
        'os.mkdir("d"); os.setxattr("d", "user.d", b"2")'
    )
    done = await sandbox.execute(base, ["python3", "-c", mark])
    assert done.after is not None
    assert done.exit_code == 0 or lacks(sandbox, EXTENDED_ATTRIBUTES), done
    state = done.after
    for n in range(5):
        state = await sh(sandbox, state, f"{LARGE} > l{n}")
    look = 'import os; print(os.getxattr("f", "user.mark"), os.getxattr("d", "user.d"))'
    kept = (await python(sandbox, state, look)).stdout == b"b'\\x00one\\xff' b'2'\n"
    assert kept or lacks(sandbox, EXTENDED_ATTRIBUTES), "not kept, and not said"


@case
async def hard_links_of_earlier_executions(sandbox: Sandbox, base: State) -> None:
    """Two names of one file part without a word when one of them is written to."""
    state = await sh(sandbox, base, f"{LARGE} > a; ln a b; {LARGE} > large")
    state = await sh(sandbox, state, f"{LARGE} > large2")
    state = await sh(sandbox, state, "echo more >> a")
    assert await said(sandbox, state, "tail -c 5 a; stat -c %s b") in ("more\n2000005\n", "more\n2000000\n")
    together = await said(sandbox, state, "tail -c 5 b") == "more\n"
    assert together or lacks(sandbox, HARD_LINKS), "parted, and not said"


@case
async def a_directory_of_an_earlier_execution_is_renamed(sandbox: Sandbox, base: State) -> None:
    """`mv` of a directory loses files in it, or leaves them at both places."""
    state = await sh(sandbox, base, f"mkdir -p old/deep; echo 1 > old/deep/f; echo g > old/gone; {LARGE} > old/large")
    state = await sh(sandbox, state, f"rm old/gone; {LARGE} > large")
    program = """if True:
        import os
        try: os.rename("old", "new"); print("renamed")
        except OSError as error: print(os.strerror(error.errno))"""
    done = await python(sandbox, state, program)
    apart = lacks(sandbox, DIRECTORY_RENAMES) and done.stdout == b"Invalid cross-device link\n"
    assert apart or done.stdout == b"renamed\n", f"rename says {done.text}"
    state = await sh(sandbox, state, "mv old new; mkdir old; echo 2 > old/f")
    state = await sh(sandbox, state, f"echo 3 > new/deep/g; mv new newer; {LARGE} > large2")
    state = await sh(sandbox, state, "mv newer/deep deeper; touch last")
    assert await said(sandbox, state, "find old newer deeper | sort; cat old/f deeper/*; stat -c %s newer/large") == (
        "deeper\ndeeper/f\ndeeper/g\nnewer\nnewer/large\nold\nold/f\n2\n1\n3\n2000000\n"
    )


@case
async def a_file_becomes_a_directory_and_a_directory_a_file(sandbox: Sandbox, base: State) -> None:
    """A package replaced by a module (or the reverse) leaves a mixture of both."""
    state = await sh(sandbox, base, f"echo f > a; mkdir -p b/c; echo x > b/c/x; ln -s a l; {LARGE} > large")
    state = await sh(
        sandbox, state, f"rm -r a b l; mkdir a l; echo n > a/n; echo m > l/m; echo f > b; {LARGE} > large2"
    )
    assert await said(sandbox, state, "find a b l | sort; cat b a/n") == "a\na/n\nb\nl\nl/m\nf\nn\n"
    state = await sh(sandbox, state, f"rm -r a b l; echo again > a; mkdir -p b/c; ln -s b l; {LARGE} > large3")
    assert await said(sandbox, state, "find a b l | sort; cat a; readlink l") == "a\nb\nb/c\nl\nagain\nb\n"


@case
async def a_directory_made_anew_is_empty(sandbox: Sandbox, base: State) -> None:
    """A build directory that was removed and made again still has its old files."""
    state = await sh(sandbox, base, f"mkdir -p d/e; echo 1 > d/f; echo 2 > d/e/f; {LARGE} > l1")
    state = await sh(sandbox, state, f"rm -r d; mkdir -p d/e; {LARGE} > l2")
    state = await sh(sandbox, state, "touch d/new; rm l1; mkdir l1")
    assert await said(sandbox, state, "find d l1 | sort") == "d\nd/e\nd/new\nl1\n"


@case
async def what_lies_under_a_state_cannot_be_changed(sandbox: Sandbox, base: State) -> None:
    """A hostile test changes files under every other state that shares them."""
    state = await sh(sandbox, base, f"mkdir d; echo kept > d/f; chmod 400 d/f; {LARGE} > large; ln -s d l")
    look = "md5sum large; cat d/f; find . -printf '%p %m %TY%Tm%Td%TH%TM %s %l\\n' | sort"
    before = await said(sandbox, state, look)
    attack = """if True:
        import mmap, os, time
        with open("large", "r+b") as file:
            view = mmap.mmap(file.fileno(), 0)
            view[:4] = b"mine"
            view.flush()
        os.chmod("d/f", 0o777)
        with open("l/f", "r+b") as file:
            file.write(b"mine")
        os.utime("d", (1, 1))
        os.truncate("large", 9)
        os.rename("d/f", "d/g")
        os.link("large", "d/large")
        open("/tmp/mine", "w").write("mine")
        print(open("large", "rb").read(), flush=True)
        time.sleep(.5)"""
    hostile = sandbox.execute(state, ["python3", "-c", attack])
    done, during = await asyncio.gather(hostile, said(sandbox, state, f"sleep .3; {look}"))
    assert done.stdout == b"b'mine\\x00\\x00\\x00\\x00\\x00'\n", done
    assert during == before, "seen while it happened"
    await sandbox.execute(state, ["sh", "-c", "chmod -R 777 .; rm -rf /testbed/* /tmp/* ~/*; : > large"])
    assert await said(sandbox, state, look) == before, "seen afterwards"
    assert await said(sandbox, base, "ls -A /testbed; ls /tmp/mine 2>/dev/null") == ""


@case
async def names_last(sandbox: Sandbox, base: State) -> None:
    """A run that goes on from its log does not find the state it stopped in."""
    unique = os.urandom(6).hex()
    name, other = f"conformance {unique}/a/../b ü\n", f"conformance {unique}/c"
    state = await sandbox.write(base, {"/testbed/f": unique.encode()})
    assert sandbox.named(name) is None
    sandbox.keep(name, state)
    sandbox.keep(other, base)
    assert sandbox.named(name) == state
    assert sandbox.named(other) == base
    assert sandbox.find(state.digest) == state
    sandbox.keep(name, base)
    assert sandbox.named(name) == base, "a name given again means what it was given to last"
    sandbox.keep(name, state)
    assert await sandbox.read(state, "/testbed/f") == unique.encode()


@case
async def a_state_that_is_not_there_is_lost(sandbox: Sandbox, base: State) -> None:
    """A state that housekeeping removed is run as if it were empty, or its failure counts as a test's."""
    gone = State(layers=("0" * 32, *base.layers))
    assert sandbox.find(gone.digest) is None
    with raises(SandboxLost):
        await sandbox.execute(gone, ["true"])
    with raises(SandboxLost):
        sandbox.keep("conformance gone", gone)
    with raises(SandboxLost):
        await sandbox.read(gone, "/testbed/f")


@case
async def a_refusal_changes_nothing(sandbox: Sandbox, base: State) -> None:
    """After a call that was refused the state it was about is half changed."""
    state = await sandbox.write(base, {"/testbed/f": b"file"})
    with raises(Refused):
        await sandbox.write(state, {"/testbed/new": b"", "/testbed/f/x": b""})
    with raises(Refused):
        await sandbox.unpack(state, b"not a tar archive" * 1000, "/testbed")
    assert await said(sandbox, state, "ls; cat f") == "f\nfile"
