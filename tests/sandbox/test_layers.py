"""The rules of layers against the kernel's own: random commands as a chain of states, and as one program, agree."""

from __future__ import annotations

import random

from runoff.sandbox.protocol import Base, Sandbox, State

ROOT = "for a in a b c; do mkdir -p $a/x/y $a/z; for i in `seq 9`; do echo $a$i > $a/x/f$i; echo $i > $a/x/y/g$i; done; done"
LOOK = "find . -printf '%p %y %m %l\\n' | sort; find . -type f | sort | xargs -r -d '\\n' md5sum"
LARGE = "head -c 2000000 /dev/zero > /tmp/large"  # the layer is stacked, not copied

COMMANDS = (
    """
mv {d} {e}/m{n} | mv {d} {d}r | mv {d} ./t{n} | rm -r {d} | rm {f} | rm -r {d}; echo {d} > {d} | rm {f}; mkdir {f}; echo 1 > {f}/k
echo more >> {f} | chmod 70{n} {d} | mkdir -p {d}/n/{n}; echo s > {d}/n/s | ln -sfn {e} {d}/link | ln {f} {d}/hard
rm -r {d}; mkdir {d}; echo 1 > {d}/one | mv {f} {e}/moved | rm -r {d}; ln -s {e} {d} | mv {d} q; mkdir {d}; mv q {d}/q
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


async def lines(sandbox: Sandbox, state: State, script: str) -> list[str]:
    return (await sandbox.execute(state, ["sh", "-c", script], freeze=False)).text.splitlines()


async def agree(sandbox: Sandbox, seed: int, steps: int) -> None:
    rng, done = random.Random(seed), ":"
    start = (await sandbox.execute(await sandbox.base(Base()), ["sh", "-c", ROOT])).after
    assert start
    state: State | None = start
    for n in range(steps):
        assert state
        dirs = await lines(sandbox, state, "find . -mindepth 1 -type d | sort") or ["."]
        files = await lines(sandbox, state, "find . -type f | sort") or ["none"]
        command = rng.choice(COMMANDS).strip()
        command = command.format(d=rng.choice(dirs), e=rng.choice(dirs), f=rng.choice(files), n=rng.randrange(4))
        done += f"; {command}"
        state = (await sandbox.execute(state, ["sh", "-c", f"{command}; {LARGE if n % 3 else ':'}"])).after
        assert state
        assert len(state.layers) <= 5
        whole = await lines(sandbox, start, f"({done}) 2>/dev/null; {LOOK}")
        seen = await lines(sandbox, state, LOOK)
        assert seen == whole, (seed, done, sorted(set(seen) ^ set(whole))[:6])


async def test_a_chain_of_states_is_what_one_program_would_have_made(sandbox: Sandbox) -> None:
    await agree(sandbox, random.randrange(10_000), 12)


async def test_what_was_deleted_is_not_listed_after_layers_were_merged(sandbox: Sandbox) -> None:
    """No layer under the merged ones has the directory: a whiteout left in it would be shown, as a file that is not."""
    state: State | None = await sandbox.base(Base())
    for command in ("mkdir d; touch d/f d/g", "rm d/f", "echo 1 > one", "echo 2 > two"):
        assert state
        state = (await sandbox.execute(state, ["sh", "-c", f"{command}; {LARGE}"])).after
    assert state
    assert len(state.layers) == 2  # merged
    assert await lines(sandbox, state, "ls -A d") == ["g"]
