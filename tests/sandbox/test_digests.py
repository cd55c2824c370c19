"""What bubblewrap's states are over and above what every sandbox promises: named by content, flat, and cheap to repeat."""

from __future__ import annotations

import pytest

from runoff.sandbox.conformance.case import said, sh
from runoff.sandbox.protocol import Base, Refused, Sandbox


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
    assert await said(sandbox, state, "ls -d large* | wc -l; ls d; [ h1 -ef h2 ] && [ -p pipe ] && readlink link") == (
        "8\nn7\nd\n"
    )


async def test_the_hosts_programs_cannot_be_overwritten(sandbox: Sandbox) -> None:
    with pytest.raises(Refused, match="Read-only file system") as refused:
        await sandbox.write(await sandbox.base(Base()), {"/usr/bin/sh": b"mine"})
    assert "\n" not in str(refused.value)
