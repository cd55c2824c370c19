"""diff and apply: a patch that `diff` gives makes, applied elsewhere, the same tree, for all that git can say of a file."""

from __future__ import annotations

from runoff.sandbox.conformance.case import case, raises, said, sh
from runoff.sandbox.protocol import Refused, Sandbox, State

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


@case
async def apply_does_what_diff_says(sandbox: Sandbox, base: State) -> None:
    """A candidate that passed its tests is another one when it is applied."""
    start = await sh(sandbox, base, START)
    assert (await sandbox.diff(start)).patch == b""
    changed = await sh(sandbox, start, CHANGE)
    patch = (await sandbox.diff(changed)).patch
    assert b"rename to d/renamed" in patch
    assert b"\r\n" in patch
    assert b"ignored/" not in patch
    applied = await sandbox.apply(start, patch)
    assert applied.how == "exact"
    trees = [await said(sandbox, state, TREE) for state in (applied.state, changed, start)]
    assert trees[0] == trees[1] != trees[2]
    assert (await sandbox.diff(applied.state)).patch == patch


@case
async def a_diff_since_an_earlier_state_needs_nothing_of_the_later_one(sandbox: Sandbox, base: State) -> None:
    """An agent that commits, stages, changes git's settings or removes .git hides what it changed."""
    start = await sh(sandbox, base, START)
    changed = await sh(sandbox, start, CHANGE)
    patch = (await sandbox.diff(changed, start)).patch
    applied = await sandbox.apply(start, patch)
    assert await said(sandbox, applied.state, TREE) == await said(sandbox, changed, TREE)
    for hiding in (
        "git add -A; git commit -qm mine",
        "rm -rf .git",
        "rm -rf .git; git init -q; git add -A; git -c user.name=a -c user.email=b commit -qm other",
        "git config core.worktree /tmp; git config diff.external /bin/false; echo '*' > .git/info/exclude",
        "git config core.fsmonitor 'touch /tmp/mine; true'; git update-index --assume-unchanged plain; echo x > .git/HEAD",
    ):
        later = await sh(sandbox, changed, hiding)
        assert (await sandbox.diff(later, start)).patch == patch, hiding
    assert (await sandbox.diff(start, start)).patch == b""


@case
async def a_diff_does_not_believe_the_index_or_the_settings(sandbox: Sandbox, base: State) -> None:
    """The patch of one and the same change depends on what was staged or configured."""
    start = await sh(sandbox, base, START)
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
    for before in (script, "git add -A", "git rm -q --cached plain; git add -N new", "rm .git/index"):
        assert (await sandbox.diff(await sh(sandbox, changed, before))).patch == patch, before


@case
async def a_patch_that_does_not_fit_is_refused_in_gits_words(sandbox: Sandbox, base: State) -> None:
    """A patch that did not apply counts as one that changed nothing."""
    start = await sh(sandbox, base, START)
    patch = b"--- a/plain\n+++ b/plain\n@@ -1,3 +1,3 @@\n one\n-zwei\n+2\n three\n"
    with raises(Refused, "patch does not apply"):
        await sandbox.apply(start, patch)
    for bad in (b"nonsense", b"--- a/../x\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n"):
        with raises(Refused):
            await sandbox.apply(start, bad)
    with raises(Refused):
        await sandbox.apply(start, b"nonsense", fuzzy=True)
    with raises(Refused):
        await sandbox.diff(base)
    with raises(Refused, "no/where"):
        await sandbox.diff(start, at="/no/where")
    assert await said(sandbox, start, "git status --porcelain; ls /x ../x 2>/dev/null") == ""


@case
async def a_patch_that_nearly_fits_is_applied_if_one_asks(sandbox: Sandbox, base: State) -> None:
    """A right patch with wrong line numbers or context is thrown away, or applied without a word."""
    lines = "".join(f"line {n}\n" for n in range(30))
    start = await sh(sandbox, await sandbox.write(base, {"/testbed/f": lines.encode()}), START)
    patch = b"--- a/f\n+++ b/f\n@@ -9,5 +9,5 @@\n line 11\n line 12\n-line 13\n+thirteen\n line fourteen\n line 15\n"
    with raises(Refused, "patch does not apply"):
        await sandbox.apply(start, patch)
    applied = await sandbox.apply(start, patch, fuzzy=True)
    assert applied.how not in ("", "exact")
    assert await sandbox.read(applied.state, "/testbed/f") == lines.replace("line 13", "thirteen").encode()
    assert await said(sandbox, applied.state, "git status --porcelain") == " M f\n", "something was left behind"


@case
async def a_repository_may_lie_elsewhere(sandbox: Sandbox, base: State) -> None:
    """Only repositories at one place can be worked on."""
    state = await sh(sandbox, base, f"mkdir /tmp/repo; cd /tmp/repo; {START} echo more >> plain")
    patch = (await sandbox.diff(state, at="/tmp/repo")).patch
    assert patch.startswith(b"diff --git a/plain b/plain\n")
    back = await sh(sandbox, state, "cd /tmp/repo; git checkout -q .")
    applied = (await sandbox.apply(back, patch, "/tmp/repo")).state
    assert (await sandbox.diff(applied, at="/tmp/repo")).patch == patch
