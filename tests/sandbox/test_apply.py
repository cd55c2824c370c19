"""Patches of others: taken as they are meant where git by itself is too strict, and harmless where they mean harm."""

from __future__ import annotations

import pytest

from runoff.sandbox import git
from runoff.sandbox.protocol import Base, Refused, Sandbox, State

INIT = "git init -q . && git config user.email a@b && git config user.name a"
FILES = "seq 30 > n; mkdir -p s/d; printf 'a\\n    b\\nc\\nd\\ne\\n' > s/d/i.py; ln -s s link; ln -s .git repo; ln -s /tmp out"
COMMIT = "git add -A && git commit -qm start"

HUNK = b"@@ -4,7 +4,7 @@\n 4\n 5\n 6\n-7\n+seven\n 8\n 9\n 10\n"
GOOD = b"diff --git a/n b/n\n--- a/n\n+++ b/n\n" + HUNK
NEW = b"diff --git a/s/new b/s/new\nnew file mode 100644\n--- /dev/null\n+++ b/s/new\n@@ -0,0 +1,2 @@\n+1\n+2\n"


async def sh(sandbox: Sandbox, state: State, script: str) -> State:
    done = await sandbox.execute(state, ["sh", "-euc", script])
    assert done.exit_code == 0, done
    assert done.after
    return done.after


async def repository(sandbox: Sandbox) -> State:
    return await sh(sandbox, await sandbox.base(Base()), f"{INIT}; {FILES}; {COMMIT}")


async def everything(sandbox: Sandbox, state: State) -> str:
    script = "find /testbed /tmp /home /etc /dev/shm -printf '%y %m %l  %p\\n'; find /testbed /tmp /home -type f -exec md5sum {} +"
    done = await sandbox.execute(state, ["sh", "-c", script], freeze=False)
    return "".join(sorted(done.text.splitlines(True)))


FOREIGN = {
    "exact": GOOD,
    "exact, prose before": b"Here is the patch:\n\n" + GOOD,
    "exact, no diff line": b"--- a/n\n+++ b/n\n" + HUNK,
    "exact, other prefixes": GOOD.replace(b"a/n", b"old/n").replace(b"b/n", b"new/n"),
    "exact, dates": b"--- a/n\t2024-01-01 00:00:00\n+++ b/n\t2024-01-01 00:00:01\n" + HUNK,
    "exact, prose behind": GOOD + b"\nThat should do it.\n",
    "cleaned, no last newline": GOOD[:-1],
    "cleaned, line ends": GOOD.replace(b"\n", b"\r\n"),
    "cleaned, no prefix": GOOD.replace(b"a/n", b"n").replace(b"b/n", b"n"),
    "exact, fences": b"```diff\n" + GOOD[:-1] + b"\n```",
    "recount, wrong counts": GOOD.replace(b"-4,7 +4,7", b"-4,9 +4,5"),
    "recount, wrong counts and prose": GOOD.replace(b"-4,7 +4,7", b"-4,3 +4,3") + b"That is all.\n+ more\n",
    "whitespace, indented otherwise": b"--- a/s/d/i.py\n+++ b/s/d/i.py\n@@ -1,4 +1,4 @@\n a\n \tb\n-c\n+C\n d\n",
    "context, stale lines around it": GOOD.replace(b" 4\n", b" four\n").replace(b" 10\n", b" ten\n"),
    "fuzz, stale lines on one side": GOOD.replace(b" 5\n", b" x\n").replace(b" 4\n", b" y\n").replace(b" 6\n", b" z\n"),
}


async def test_how_a_foreign_patch_was_taken_is_said(sandbox: Sandbox) -> None:
    start = await repository(sandbox)
    for name, patch in FOREIGN.items():
        how = name.split(",")[0]
        applied = await sandbox.apply(start, patch, fuzzy=True)
        assert applied.how == how, name
        diff = (await sandbox.diff(applied.state, start)).patch
        assert diff.count(b"\n-") == diff.count(b"\n+") == 2, (name, diff)  # a line of the file, and its name
        if how != "exact":
            with pytest.raises(Refused):
                await sandbox.apply(start, patch)
    both = await sandbox.apply(start, GOOD.replace(b"-4,7", b"-4,8") + NEW, fuzzy=True)
    assert await sandbox.read(both.state, "/testbed/s/new") == b"1\n2\n"
    assert b"seven" in await sandbox.read(both.state, "/testbed/n")


async def test_a_new_file_of_a_patch_without_prefixes_is_where_it_belongs(sandbox: Sandbox) -> None:
    applied = await sandbox.apply(
        await repository(sandbox), NEW.replace(b"a/s", b"s").replace(b"b/s", b"s"), fuzzy=True
    )
    assert await sandbox.read(applied.state, "/testbed/s/new") == b"1\n2\n"


async def test_a_patch_of_which_a_hunk_does_not_fit_is_refused_in_gits_words(sandbox: Sandbox) -> None:
    start = await repository(sandbox)
    bad = GOOD + b"--- a/s/d/i.py\n+++ b/s/d/i.py\n@@ -1,3 +1,3 @@\n nowhere\n-to be\n+ seen\n at all\n"
    with pytest.raises(Refused, match="patch does not apply"):
        await sandbox.apply(start, bad, fuzzy=True)
    for nothing in (b"no patch", b"--- a/n\n+++ b/n\n", b"\0\xff", b"@@ -1 +1 @@\n-1\n+2\n"):
        with pytest.raises(Refused):
            await sandbox.apply(start, nothing, fuzzy=True)
    once = (await sandbox.apply(start, GOOD, fuzzy=True)).state
    with pytest.raises(Refused):  # it is in already
        await sandbox.apply(once, GOOD, fuzzy=True)


def new(path: bytes, mode: bytes = b"100644", text: bytes = b"owned") -> bytes:
    return (
        b"diff --git a/%b b/%b\nnew file mode %b\n--- /dev/null\n+++ b/%b\n@@ -0,0 +1 @@\n+%b\n"
        % (path, path, mode, path, text)
    )  # fmt: skip


HOSTILE = {
    "a file beside the repository": new(b"../tmp/owned"),
    "the same by a way through it": new(b"s/../../tmp/owned"),
    "an absolute path": b"--- /dev/null\n+++ /tmp/owned\n@@ -0,0 +1 @@\n+owned\n",
    "an absolute path behind a prefix": new(b"/tmp/owned"),
    "a hook, which runs with the next commit": new(b".git/hooks/pre-commit", b"100755"),
    "a setting that runs a command": new(b".git/config.worktree"),
    "the repository's own settings": b"--- a/.git/config\n+++ b/.git/config\n@@ -1 +1,2 @@\n [core]\n+\tfsmonitor = touch owned\n",
    "a hook, by another spelling": new(b".GIT/hooks/pre-commit", b"100755"),
    "a hook, by a link that is there": new(b"repo/hooks/pre-commit", b"100755"),
    "a file outside, by a link that is there": new(b"out/owned"),
    "a link, and a file through it": new(b"l", b"120000", b"/tmp") + new(b"l/owned"),
    "a link to the repository, and a hook through it": new(b"l", b"120000", b".git")
    + new(b"l/hooks/pre-commit", b"100755"),
    "a link that a rename makes": b"diff --git a/out b/l\nsimilarity index 100%\nrename from out\nrename to l\n"
    + new(b"l/owned"),
    "a name that patch asks of nobody": b"Index: ../tmp/owned\n--- /dev/null\n+++ ../tmp/owned\n@@ -0,0 +1 @@\n+owned\n",
    "commands for ed": b"--- a/n\n+++ b/n\n1e touch /tmp/owned\n1,2c\nowned\n.\n!touch /tmp/owned\n",
    "a rename out of the tree": b"diff --git a/n b/../tmp/owned\nsimilarity index 100%\nrename from n\nrename to ../tmp/owned\n",
    "a copy into the repository": b"diff --git a/n b/.git/owned\nsimilarity index 100%\ncopy from n\ncopy to .git/owned\n",
    "deleting its HEAD": b"--- a/.git/HEAD\n+++ /dev/null\n@@ -1 +0,0 @@\n-ref: refs/heads/master\n",
}


async def test_hostile_patches_are_refused_and_leave_nothing(sandbox: Sandbox) -> None:
    start = await repository(sandbox)
    for gain, patch in HOSTILE.items():
        miscounted = patch.replace(b"@@ -0,0 +1 @@", b"@@ -0,0 +1,4 @@")
        for text, fuzzy in ((patch, False), (patch, True), (miscounted, True)):
            try:
                applied = await sandbox.apply(start, text, fuzzy=fuzzy)
            except Refused:
                continue
            changed = set((await everything(sandbox, applied.state)).splitlines())
            changed ^= set((await everything(sandbox, start)).splitlines())
            places = {line.split("  ")[-1].strip() for line in changed}
            assert all(place.startswith("/testbed") for place in places), (gain, places)
            assert not any("/.git" in place or "/.GIT" in place for place in places), (gain, places)


async def test_modes_and_submodules_of_a_patch_are_harmless(sandbox: Sandbox) -> None:
    start = await repository(sandbox)
    module = (
        b"diff --git a/m b/m\nnew file mode 160000\nindex 0000000..1111111\n--- /dev/null\n+++ b/m\n@@ -0,0 +1 @@\n"
    )
    patches = [new(b"f", mode) for mode in (b"020666", b"060666", b"010644", b"104755", b"107777", b"040755")]
    for patch in [*patches, module + b"+Subproject commit " + b"1" * 40 + b"\n"]:
        try:
            state = (await sandbox.apply(start, patch, fuzzy=True)).state
        except Refused:
            continue
        look = "find . -not -type f -not -type d -not -type l; find . -perm /7000; find m -type f 2> /dev/null"
        assert (await sandbox.execute(state, ["sh", "-c", look], freeze=False)).stdout == b"", patch


async def test_large_and_binary_patches(sandbox: Sandbox) -> None:
    start = await repository(sandbox)
    changed = await sh(sandbox, start, "printf '\\0\\1' > n; seq 300000 > s/long")
    patch = (await sandbox.diff(changed, start)).patch
    assert b"GIT binary patch" in patch
    for text, how in (
        (patch, "exact"),
        (patch[:-1], "cleaned"),
        (b"See below.\r\n" + patch.replace(b"\n", b"\r\n"), "cleaned"),
    ):
        applied = await sandbox.apply(start, text, fuzzy=True)
        assert applied.how == how, text[-60:]
        assert (await sandbox.diff(applied.state, start)).patch == patch
    bomb = b"diff --git a/z b/z\nnew file mode 100644\nindex 0000000..1111111\nGIT binary patch\nliteral 99999999999\n"
    with pytest.raises(Refused):
        await sandbox.apply(start, bomb + b"zcmV+b0RR6000031\n\n", fuzzy=True)


def test_a_clean_patch_stays_as_it_is() -> None:
    odd = (
        b"--- a/x\n+++ b/x\n@@ -1,3 +1,2 @@\n--- a/y\n-++ b/y\n \n@@ -9 +8 @@\n-a\n\\ No newline at end of file\n+b\n"
        b"\\ No newline at end of file\n"
    )
    rename = b"diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n"
    crlf = GOOD.replace(b"seven", b"seven\r").replace(b" 4", b" 4\r")
    for patch in (GOOD, NEW, odd, rename + GOOD, crlf, odd + rename):
        assert git.cleaned(patch) == patch
    assert git.cleaned(b"") == b"\n"
