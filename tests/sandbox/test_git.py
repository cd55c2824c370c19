"""A patch that `diff` prints gives, applied elsewhere, the same tree: for all that git can say about a file."""

from __future__ import annotations

import pytest

from runoff.sandbox.protocol import Base, Refused, Sandbox, State

START = r"""
git init -q . && git config user.email a@b && git config user.name a
printf 'one\ntwo\nthree\n' > plain; printf 'a\r\nb\r\n' > crlf; printf 'no end' > noend; echo x > 'tab	and space'
printf 'caf\351\n' > latin; head -c 300 /dev/urandom > blob; echo run > script; seq 40 > moved; echo bye > removed
mkdir d; echo k > d/kept; ln -s plain link; echo 'ignored/' > .gitignore
git add -A && git commit -qm start
"""

CHANGE = r"""
printf 'one\n2\nthree\n' > plain; printf 'a\r\nc\r\n' > crlf; printf 'still no end' > noend
echo y >> 'tab	and space'; printf 'caf\351 \377\n' > latin; head -c 300 /dev/urandom > blob; chmod +x script
mv moved d/renamed; rm removed; mkdir -p new/dir; echo new > new/dir/file; : > new/empty; echo ü > 'new/ü'
ln -sf crlf link; mkdir ignored; echo i > ignored/f; printf 'win\r\n' > new/crlf; printf '\tx  \n\n' > new/spaces
"""

TREE = (
    r"find . -path ./.git -prune -o -path ./ignored -prune -o -printf '%p %y %m %l\n' -type f -exec md5sum {} + | sort"
)


async def sh(sandbox: Sandbox, state: State, script: str) -> State:
    done = await sandbox.execute(state, ["sh", "-euc", script])
    assert done.exit_code == 0, done
    assert done.after
    return done.after


async def tree(sandbox: Sandbox, state: State) -> bytes:
    return (await sandbox.execute(state, ["sh", "-c", TREE], freeze=False)).stdout


async def test_apply_undoes_diff(sandbox: Sandbox) -> None:
    start = await sh(sandbox, await sandbox.base(Base()), START)
    assert (await sandbox.diff(start)).patch == b""
    changed = await sh(sandbox, start, CHANGE)
    patch = (await sandbox.diff(changed)).patch
    assert b"rename to d/renamed" in patch
    assert b"\r\n" in patch
    assert b"ignored/" not in patch
    applied = (await sandbox.apply(start, patch)).state
    assert await tree(sandbox, applied) == await tree(sandbox, changed) != await tree(sandbox, start)
    assert (await sandbox.diff(applied)).patch == patch


async def test_diff_does_not_believe_the_index_or_the_settings(sandbox: Sandbox) -> None:
    start = await sh(sandbox, await sandbox.base(Base()), START)
    changed = await sh(sandbox, start, CHANGE)
    patch = (await sandbox.diff(changed)).patch
    settings = {
        "diff.noprefix": "true",
        "diff.external": "/bin/false",
        "core.fileMode": "false",
        "core.autocrlf": "true",
        "color.ui": "always",
        "core.fsmonitor": "/bin/false",
        "diff.renames": "false",
        "diff.context": "1",
    }
    script = "; ".join(f"git config {name} {value}" for name, value in settings.items())
    assert (await sandbox.diff(await sh(sandbox, changed, script))).patch == patch
    for staging in (
        "git add -A",
        "git rm -q --cached plain",
        "git add -N new",
        "git add plain; git reset -q",
        "rm .git/index",
    ):
        assert (await sandbox.diff(await sh(sandbox, changed, staging))).patch == patch, staging


async def test_a_patch_that_does_not_fit_is_refused_in_gits_words(sandbox: Sandbox) -> None:
    start = await sh(sandbox, await sandbox.base(Base()), START)
    patch = b"--- a/plain\n+++ b/plain\n@@ -1,3 +1,3 @@\n one\n-zwei\n+2\n three\n"
    with pytest.raises(Refused, match="patch does not apply") as refused:
        await sandbox.apply(start, patch)
    assert "\n" not in str(refused.value)
    for bad in (b"nonsense", b"--- a/../x\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n"):
        with pytest.raises(Refused):
            await sandbox.apply(start, bad)
    assert (await sandbox.apply(start, b"\n")).state == start
    with pytest.raises(Refused, match="not a git repository"):
        await sandbox.diff(await sandbox.base(Base()))
    with pytest.raises(Refused, match="no/where"):
        await sandbox.diff(start, at="/no/where")


async def test_diff_and_apply_elsewhere(sandbox: Sandbox) -> None:
    state = await sh(sandbox, await sandbox.base(Base()), f"mkdir /tmp/repo; cd /tmp/repo; {START} echo more >> plain")
    patch = (await sandbox.diff(state, at="/tmp/repo")).patch
    assert patch.startswith(b"diff --git a/plain b/plain\n")
    back = await sh(sandbox, state, "cd /tmp/repo; git checkout -q .")
    applied = (await sandbox.apply(back, patch, "/tmp/repo")).state
    assert (await sandbox.diff(applied, at="/tmp/repo")).patch == patch
