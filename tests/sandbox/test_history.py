"""What comes after the base commit cannot be read in a sandbox: not by its id, wherever its objects were put."""

from __future__ import annotations

import asyncio
import time

import pytest

from runoff.sandbox.environments.history import sealed
from runoff.sandbox.protocol import Base, Refused, Sandbox, State

_WHO = {
    f"GIT_{who}_{what}": f"t{at}"
    for who in ("AUTHOR", "COMMITTER")
    for what, at in (("NAME", ""), ("EMAIL", "@localhost"))
}
# Two commits and a tag before the base, the base, and one after it, whose id is left in /tmp/future.
_REPOSITORY = """
git init -q -b main .
for n in 1 2; do echo $n > f; git add f; git commit -q -m "commit $n"; done
git tag -a v1 -m 'the first'
echo base > f; git commit -q -a -m base; git tag light
echo 'the answer' > f; echo 'a whole new file' > g; git add g; git commit -q -a -m 'the fix'
git rev-parse HEAD HEAD:f HEAD: > /tmp/future
git reset -q --hard HEAD~1
"""
_CLEAN = "rm -rf .git/*_* .git/logs; git repack -q -a -d; git prune --expire=now; rm -f .git/objects/info/commit-graph"
# How a later commit stays in a repository that has the base checked out. Each begins where the one above ends.
HIDDEN = {
    "loose, by its id": "",
    "named by the reflog alone": "git repack -q -a -d -k",
    "in a pack": "git branch later $(head -n 1 /tmp/future); git repack -q -a -d; git branch -q -D later",
    "in a kept pack": "git branch later $(head -n 1 /tmp/future); git repack -q -a -d; git branch -q -D later; "
    "for p in .git/objects/pack/*.pack; do touch ${p%.pack}.keep; done",
    "a branch": "git branch later $(head -n 1 /tmp/future)",
    "a packed branch": "git branch later $(head -n 1 /tmp/future); git pack-refs --all",
    "a remote": "git remote add origin /nowhere; git update-ref refs/remotes/origin/main $(head -n 1 /tmp/future)",
    "a tag": "git tag later $(head -n 1 /tmp/future)",
    "a tag object": "git tag -a later -m 'tells the fix' $(head -n 1 /tmp/future); git tag -d later",
    "a tag of a file": "git tag file $(sed -n 2p /tmp/future)",
    "a dangling file": f"{_CLEAN}; echo 'the answer' | git hash-object -w --stdin",
    "a stash": "echo 'the answer' > f; git stash -q",
    "staged": f"{_CLEAN}; echo 'the answer' > f; git add f; git show HEAD:f > f",
    "a note": f"{_CLEAN}; echo 'the answer' | git hash-object -w --stdin; git notes add -m 'the fix is easy'",
    "a replacement": "git replace HEAD $(head -n 1 /tmp/future)",
    "a graft": "echo $(git rev-parse HEAD) $(head -n 1 /tmp/future) > .git/info/grafts",
    "a merge under way": "git update-ref MERGE_HEAD $(head -n 1 /tmp/future)",
    "FETCH_HEAD": "cp /tmp/future .git/FETCH_HEAD",
    "a work tree that is gone": "git worktree add -q /tmp/other $(head -n 1 /tmp/future); rm -rf /tmp/other",
    "a pack without its index": "git branch later $(head -n 1 /tmp/future); git repack -q -a -d; git branch -q -D later; "
    "cp .git/objects/pack/*.pack /tmp/p; " + _CLEAN + "; cp /tmp/p .git/objects/pack/pack-1.pack; rm /tmp/p",
    "a submodule's store": "git clone -q --bare . .git/modules/sub; mkdir sub; echo 'gitdir: ../.git/modules/sub' > sub/.git",
    "a bundle in .git": "git branch x $(head -n 1 /tmp/future); git bundle create -q .git/b x; git branch -q -D x",
}
REFUSED = {
    "another work tree": ("git worktree add -q /tmp/other $(head -n 1 /tmp/future)", "another work tree"),
    "alternates": (
        f"cp -r .git/objects /tmp/store; {_CLEAN}; echo /tmp/store > .git/objects/info/alternates",
        "/tmp/store",
    ),
    "a clone beside it": (f"cp -r .git /home/user/mirror.git; {_CLEAN}", "mirror.git/objects also holds"),
    "a clone in the tree": (f"mkdir old; cp -r .git old/.git; {_CLEAN}", "old/.git/objects also holds"),
    "a bundle": (
        f"git branch x $(head -n 1 /tmp/future); git bundle create -q /tmp/b.bundle x; {_CLEAN}",
        "b.bundle holds",
    ),
    "a bundle in the tree": (
        f"git branch x $(head -n 1 /tmp/future); git bundle create -q b.bundle x; {_CLEAN}",
        "b.bundle",
    ),
    "a .git that is a file": (
        "cp -r .git /home/user/g; rm -rf .git; echo 'gitdir: /home/user/g' > .git",
        "leads elsewhere",
    ),
    "a .git that is a link": ("cp -r .git /home/user/g; rm -rf .git; ln -s /home/user/g .git", "leads elsewhere"),
    "objects that are a link": (
        "cp -r .git/objects /home/user/o; rm -rf .git/objects; ln -s /home/user/o .git/objects",
        "symbolic links",
    ),
    "a submodule elsewhere": ("mkdir sub; echo 'gitdir: /home/user/g' > sub/.git", "sub/.git leads elsewhere"),
    "a broken repository": ("rm -rf .git/objects/??", "not a repository|no commit|lacks objects"),
    "no repository": ("rm -rf .git", "not a repository"),
}
_LOOK = """set +e
for id in $(cat /tmp/future); do git cat-file -e $id 2>/dev/null && echo "can be read: $id"; done
git cat-file --batch-all-objects --batch | grep -a -e 'the answer' -e 'the fix'
find . -type f -path '*/.git/*' | xargs grep -l -a -e 'the fix' -e "$(head -n 1 /tmp/future)"
for pack in $(find .git -name '*.pack'); do
    git index-pack -o /tmp/index $pack >/dev/null; git show-index < /tmp/index | grep -F "$(head -n 1 /tmp/future)"
done
true
"""


_KEPT = "git log --format=%H; git describe; git diff-index --cached HEAD; git show HEAD:f; git fsck --full 2>&1 | grep error"


async def shell(sandbox: Sandbox, state: State, script: str) -> State:
    done = await sandbox.execute(state, ["sh", "-ec", script], env=_WHO)
    assert done.exit_code == 0, done.text
    assert done.after
    return done.after


async def looked(sandbox: Sandbox, state: State, script: str = _LOOK) -> str:
    return (await sandbox.execute(state, ["sh", "-c", script], freeze=False)).text


async def repository(sandbox: Sandbox) -> State:
    return await shell(sandbox, await sandbox.base(Base()), _REPOSITORY)


async def test_nothing_after_the_base_commit_can_be_read(sandbox: Sandbox) -> None:
    began = await repository(sandbox)
    before = await looked(sandbox, began, _KEPT)

    async def tried(name: str, script: str) -> None:
        state = await shell(sandbox, began, f"{script}\n({_LOOK}) >/tmp/seen; [ -s /tmp/seen ] || exit 9")
        state = await sealed(sandbox, state)
        assert await looked(sandbox, state, f"({_LOOK}) 2>&1; {_KEPT}") == before, name

    await asyncio.gather(*(tried(name, script) for name, script in HIDDEN.items()))


async def test_what_cannot_be_sealed_is_refused_in_a_line(sandbox: Sandbox) -> None:
    began = await repository(sandbox)
    for name, (script, why) in REFUSED.items():
        state = await shell(sandbox, began, script)
        with pytest.raises(Refused, match=why) as refused:
            assert await sealed(sandbox, state) is None, f"{name} was not refused"
        assert "\n" not in str(refused.value)


async def test_what_is_clean_stays_as_it_is(sandbox: Sandbox) -> None:
    """Also with another project's repository beside it, and with objects that the base commit itself keeps as files."""
    clean = await shell(
        sandbox,
        await repository(sandbox),
        _CLEAN + "; git -c core.logAllRefUpdates=false update-ref refs/heads/early HEAD~1",
    )
    assert await sealed(sandbox, clean) == clean
    other = "git init -q /tmp/o && cd /tmp/o && echo o > o && git add o && git commit -q -m o && touch /tmp/x.pack"
    assert await sealed(sandbox, state := await shell(sandbox, clean, other)) == state
    fixture = f"mkdir t; cp -r .git t/fixture; git add t; git commit -q -m fixture; {_CLEAN}"
    assert await sealed(sandbox, state := await shell(sandbox, clean, fixture)) == state


async def test_changes_in_the_work_tree_stay(sandbox: Sandbox) -> None:
    state = await shell(sandbox, await repository(sandbox), "echo mine > f; echo new > n; chmod +x n; git add n")
    state = await sealed(sandbox, state)
    assert await looked(sandbox, state, "git status --porcelain; cat f n") == " M f\n?? n\nmine\nnew\n"
    assert await looked(sandbox, state, "git branch --show-current; git tag") == "main\nlight\nv1\n"


async def test_a_detached_head_and_a_shallow_clone(sandbox: Sandbox) -> None:
    state = await shell(sandbox, await repository(sandbox), "git checkout -q --detach v1")
    state = await sealed(sandbox, state)
    assert await looked(
        sandbox, state, "git log --format=%s; git rev-parse --abbrev-ref HEAD; git branch -a; git tag"
    ) == ("commit 2\ncommit 1\nHEAD\n* (no branch)\nv1\n"), (
        "the base is what is checked out: the branch main comes after it"
    )
    state = await shell(
        sandbox, state, "git clone -q --depth 1 file:///testbed /tmp/c; rm -rf .git; mv /tmp/c/.git .git"
    )
    state = await sealed(sandbox, state)
    assert await looked(sandbox, state, "git log --format=%s; git remote; git fsck 2>&1") == "commit 2\n"


_MANY = """
import sys
out = sys.stdout.buffer
for n in range(1, 5001):
    body = b"".join(b"line %d of %d\\n" % (m, n if m % 7 == n % 7 else 0) for m in range(60))
    message = b"commit %d\\n" % n
    out.write(b"blob\\nmark :%d\\ndata %d\\n%s\\n" % (2 * n, len(body), body))
    out.write(b"commit refs/heads/main\\nmark :%d\\ncommitter t <t@localhost> %d +0000\\ndata %d\\n%s\\n"
              % (2 * n + 1, 1_000_000_000 + n, len(message), message))
    if n > 1:
        out.write(b"from :%d\\n" % (2 * n - 1))
    out.write(b"M 100644 :%d d%d/e%d/f%d\\n\\n" % (2 * n, n % 20, n % 13, n % 300))
"""


@pytest.mark.full
async def test_five_thousand_commits_in_seconds(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    make = 'git init -q -b main . && python3 -c "$PROGRAM" | git fast-import --quiet && git reset -q --hard main~500'
    began = time.monotonic()
    done = await sandbox.execute(base, ["sh", "-ec", make], env=_WHO | {"PROGRAM": _MANY})
    assert done.after, done.text
    began = time.monotonic()
    after = await sealed(sandbox, done.after)
    sealing = time.monotonic() - began
    assert (
        await looked(
            sandbox, after, "git rev-list --all --count; git cat-file --batch-all-objects --batch-check | wc -l"
        )
    ).split()[0] == "4500"
    began = time.monotonic()
    assert await sealed(sandbox, after) == after
    checking = time.monotonic() - began
    print(f"\n{sandbox.name}: 5,000 commits sealed in {sealing:.1f} s, checked in {checking:.1f} s")
    assert sealing < 60
