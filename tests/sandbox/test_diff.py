"""A diff against an earlier state: what the layers say is what a walk would find, and nothing done to the state's own
repository, rules or files changes what the patch says."""

from __future__ import annotations

import asyncio
import random

import pytest

from runoff.sandbox.protocol import Base, Diff, Refused, Sandbox, State

INIT = "git init -q . && git config user.email a@b && git config user.name a"
COMMIT = "git add -A && git commit -qm start"
TREE = "for a in a b c; do mkdir -p $a/x/y $a/z; for i in `seq 9`; do seq $i 30 > $a/x/f$i; seq $i > $a/x/y/g$i; done; done"
LARGE = "head -c 2000000 /dev/zero > /tmp/large"  # the layer is stacked, not copied

COMMANDS = (
    """
mv {d} {e}/m{n} | mv {d} {d}r | mv {d} ./t{n} | rm -r {d} | rm {f} | rm -r {d}; echo {d} > {d} | rm {f}; mkdir {f}; echo 1 > {f}/k
echo more >> {f} | chmod 70{n} {d} | mkdir -p {d}/n/{n}; echo s > {d}/n/s | ln -sfn {e} {d}/link | ln {f} {d}/hard
rm -r {d}; mkdir {d}; echo 1 > {d}/one | mv {f} {e}/moved | rm -r {d}; ln -s {e} {d} | mv {d} q; mkdir {d}; mv q {d}/q
rm {f}; mkfifo {f} | chmod 0 {f} | chmod +x {f} | echo {n} > {d}/new.pyc | mkdir {d}/__pycache__; echo > {d}/__pycache__/m
head -c 99 /dev/urandom > {d}/bin{n} | git init -q {d}/own; echo 1 > {d}/own/f{n} | echo 'f{n}' > {d}/.gitignore
printf '1\\r\\n2' > {d}/win{n} | echo '* text' > {d}/.gitattributes | rm -f {d}/.gitignore
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


async def sh(sandbox: Sandbox, state: State, script: str) -> State:
    done = await sandbox.execute(state, ["sh", "-euc", script])
    assert done.exit_code == 0, done
    assert done.after
    return done.after


async def repository(sandbox: Sandbox, make: str) -> State:
    return await sh(sandbox, await sandbox.base(Base()), f"{INIT}; {make}; {COMMIT}")


async def tree(sandbox: Sandbox, state: State) -> str:
    """What git could say of every file that is not its own."""
    script = r"find . -name .git -prune -o -printf '%p %y %l\n' -type f -perm -100 -printf 'x %p\n'; "
    script += r"find . -name .git -prune -o -type f -exec md5sum {} +"
    return "".join(sorted((await sandbox.execute(state, ["sh", "-c", script], freeze=False)).text.splitlines(True)))


async def makes(sandbox: Sandbox, start: State, change: str, *, undone: str = "true") -> Diff:
    """The diff of a change; it was looked at that a walk says the same, and that applied it gives the same files.

    `undone` takes from the changed state what no patch is to say.
    """
    changed = await sh(sandbox, start, change)
    diff = await sandbox.diff(changed, start)
    assert diff == await sandbox.diff(changed)
    applied = (await sandbox.apply(start, diff.patch)).state
    assert await tree(sandbox, applied) == await tree(sandbox, await sh(sandbox, changed, undone))
    return diff


async def random_chain(sandbox: Sandbox, seed: int, steps: int) -> None:
    rng, done = random.Random(seed), ":"
    start = await repository(sandbox, f"{TREE}; echo '*.log' > .gitignore; {LARGE}")
    state = await sh(sandbox, start, ":")
    for n in range(steps):
        look = "find . -mindepth 1 -name .git -prune -o -type {} -print | sort"
        dirs = (await sandbox.execute(state, ["sh", "-c", look.format("d")], freeze=False)).text.splitlines() or ["."]
        files = (await sandbox.execute(state, ["sh", "-c", look.format("f")], freeze=False)).text.splitlines() or ["no"]
        command = rng.choice(COMMANDS).strip()
        command = command.format(d=rng.choice(dirs), e=rng.choice(dirs), f=rng.choice(files), n=rng.randrange(4))
        done += f"; {command}"
        state = await sh(sandbox, state, f"({command}) 2>/dev/null || :; {LARGE if n % 3 else ':'}")
        listed, walked = await asyncio.gather(sandbox.diff(state, start), sandbox.diff(state))
        assert listed == walked, (seed, done)


async def test_what_the_layers_say_is_what_a_walk_finds(sandbox: Sandbox) -> None:
    await random_chain(sandbox, random.randrange(100_000), 10)


@pytest.mark.full
async def test_what_the_layers_say_is_what_a_walk_finds_at_length(sandbox: Sandbox) -> None:
    for _ in range(10):
        await random_chain(sandbox, random.randrange(100_000), 20)


async def test_only_what_the_layers_name_is_looked_at(sandbox: Sandbox) -> None:
    """Seen by a file that the earlier state has, which is new to its commit: a walk finds it, the layers do not name it."""
    start = await sh(sandbox, await repository(sandbox, "echo 1 > f"), f"echo 1 > old; {LARGE}")
    changed = await sh(sandbox, start, "echo 2 > f")
    assert b"old" in (await sandbox.diff(changed)).patch
    patch = (await sandbox.diff(changed, start)).patch
    assert b"+2" in patch
    assert b"old" not in patch
    assert (await sandbox.diff(start, start)).patch == b""


async def test_the_states_own_repository_is_not_asked(sandbox: Sandbox) -> None:
    start = await repository(sandbox, "echo 1 > f; echo 1 > g; echo 1 > h")
    changed = await sh(sandbox, start, "echo 2 > f; rm g; echo 3 > n.txt")
    patch = (await sandbox.diff(changed, start)).patch
    assert patch.count(b"diff --git") == 3
    for hostile in (
        "git add -A; git commit -qm mine",
        "git checkout -q --orphan other; git commit -qam mine; git branch -D master main 2>/dev/null || :",
        "git update-index --assume-unchanged f h; git update-index --skip-worktree h",
        "printf '#!/bin/sh\\ntouch /testbed/owned\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/*",
        "git config core.fsmonitor 'touch /testbed/owned;'; git config core.worktree /tmp",
        "git config filter.x.clean 'touch /testbed/owned; echo owned'; echo '* filter=x -diff' > .git/info/attributes",
        "echo '*' > .git/info/exclude; mkdir -p .git/objects/info; echo /tmp/no > .git/objects/info/alternates",
        "mkdir .git/refs/replace; git replace `git rev-parse HEAD:f` `git hash-object -w h` -f",
        "rm -rf .git",
        "rm -rf .git; mkdir .git",
        "rm -rf .git; ln -s /tmp .git",
        "rm -rf .git; echo 'gitdir: /tmp' > .git",
        "rm -rf .git; mkfifo .git",
        "chmod 0 .git",
        "ln -sf /testbed/h /tmp/index; ln -sfn /testbed /tmp/present",
    ):
        diff = await sandbox.diff(await sh(sandbox, changed, hostile), start)
        assert diff.patch == patch, hostile


async def test_an_earlier_state_without_a_plain_repository_is_refused(sandbox: Sandbox) -> None:
    start = await repository(sandbox, "echo 1 > f")
    for moved in ("rm -rf .git", "mv .git /tmp/g; ln -s /tmp/g .git", "mv .git /tmp/g; echo 'gitdir: /tmp/g' > .git"):
        since = await sh(sandbox, start, moved)
        with pytest.raises(Refused, match="not a git repository"):
            await sandbox.diff(since, since)
    with pytest.raises(Refused, match="not a git repository"):
        await sandbox.diff(start, await sandbox.base(Base()))
    elsewhere = await sh(sandbox, start, "mkdir /tmp/other; ln -s /testbed /tmp/other/link")
    with pytest.raises(Refused):
        await sandbox.diff(elsewhere, elsewhere, at="/tmp/other/link")


async def test_names_of_every_kind(sandbox: Sandbox) -> None:
    start = await repository(sandbox, "echo a > Case; echo b > './-f'; echo c > 'q\"u'; echo d > ':x'; echo e > 'a*b'")
    diff = await makes(
        sandbox,
        start,
        r"""
        mv Case case; echo 2 >> ./-f; echo 2 >> 'q"u'; echo 2 >> ':x'; echo 2 >> 'a*b'; echo new > 'axb'; echo > './--cached'
        echo n > 'new
line'; echo t > 'tab	tab'; echo l > "$(printf 'caf\351')"; mkdir -- ':(top)' -d; echo > ':(top)/f'; echo > './-d/!n'
        echo '#' > '#hash'; echo s > ' space '; echo b > 'back\slash'
        """,
    )
    assert diff.left_out == ()
    assert b"rename from Case\nrename to case\n" in diff.patch


async def test_kinds_that_change_into_each_other(sandbox: Sandbox) -> None:
    start = await repository(
        sandbox,
        f"{TREE}; rmdir ?/z; ln -s a l; ln -s b m; echo x > f; echo k > k; echo 'no end' | tr -d '\\n' > n; : > empty",
    )
    for change in (
        "rm -r a; echo file > a",
        "rm f; mkdir f; echo 1 > f/f; mkdir -p f/g; echo 2 > f/g/h",
        "rm l; mkdir l; cp f l/f",
        "rm -r a; ln -s b a",
        "rm f; ln -s k f",
        "rm l; echo file > l",
        "mv a b/a; mv f a",
        "mv b q; mv a b; mv q a",
        "mv a/x a2; rm -r a; mv a2 a",
        "rm -r a b c; mkdir a; mv f a/f",
        "chmod +x f k; printf 'x' > f; printf 'no end\\n' > n; echo 1 > empty",
        "printf 'a\\r\\nb\\r\\n' > f; printf 'a\\rb' > k; : > n; printf '\\377\\376' >> empty; printf '\\200' > new",
        "rm empty n; : > also; : > a/too; ln -sf nowhere m; ln -s /etc/passwd out; ln -s a/x dir",
        "mv f k",
        "git mv f tmp; git mv k f; git mv tmp k",
    ):
        await makes(sandbox, start, change)


async def test_what_cannot_be_read_or_stored(sandbox: Sandbox) -> None:
    start = await repository(sandbox, f"{TREE}; echo x > f; echo y > g")
    diff = await makes(
        sandbox,
        start,
        "echo 2 >> f; chmod 0 f; mkdir p; echo 1 > p/1; chmod 0 p/1 p; mkfifo q a/q; rm g; mkfifo g",
        undone="chmod 755 p; chmod 644 p/1 f; rm g q a/q",
    )
    assert b"deleted file mode 100644" in diff.patch
    huge = await sh(sandbox, start, "echo 2 >> f; head -c 100000000 /dev/urandom > one; truncate -s 900M two")
    diff = await sandbox.diff(huge, start)
    assert diff.left_out == ("one", "two")
    assert diff.patch.count(b"diff --git") == 1


async def test_repositories_in_the_repository(sandbox: Sandbox) -> None:
    """Of an embedded repository all but its `.git` is part of the change; a submodule of the commit is not looked at."""
    start = await repository(
        sandbox,
        f"mkdir sub; cd sub; {INIT}; echo s > s; {COMMIT}; cd ..; git add sub; rm -rf sub/.git sub/s; mkdir d; echo 1 > d/f",
    )
    diff = await makes(sandbox, start, f"cd d; {INIT}; {COMMIT}; echo 2 > g; cd ..; mkdir e; cd e; {INIT}; echo 3 > h")
    assert b"Subproject" not in diff.patch
    assert diff.patch.count(b"new file mode 100644") == 2
    changed = await sh(sandbox, start, "echo x > sub/x; mkdir sub/y; echo z > sub/y/z; echo 2 > d/f")
    diff = await sandbox.diff(changed, start)
    assert diff == await sandbox.diff(changed)
    assert diff.patch.count(b"diff --git") == 1
    diff = await makes(sandbox, start, "rmdir sub")
    assert b"-Subproject commit" in diff.patch
    diff = await makes(sandbox, start, "rmdir sub; echo file > sub")
    assert b"-Subproject commit" in diff.patch
    assert b"+file" in diff.patch


async def test_ignored_is_what_the_state_says(sandbox: Sandbox) -> None:
    start = await repository(
        sandbox,
        "printf '*.log\\nout/\\n' > .gitignore; echo t > t.log; git add -f t.log; echo o > o.log; mkdir d; echo > d/f",
    )
    diff = await makes(
        sandbox, start, "echo 2 >> t.log; echo 2 >> o.log; echo n > n.log; mkdir out; echo > out/f",
        undone="rm -r n.log out; echo o > o.log",
    )  # fmt: skip
    assert diff.left_out == ()  # the repository said so itself
    assert diff.patch.count(b"diff --git") == 1
    diff = await makes(
        sandbox, start, "printf 'd/\\n*.log\\n' > .gitignore; echo 2 > d/f; echo n > d/n", undone="rm d/n"
    )
    assert diff.patch.count(b"diff --git") == 2
    diff = await sandbox.diff(changed := await sh(sandbox, start, "printf '!o.log\\n' >> .gitignore"), start)
    assert diff == await sandbox.diff(changed)
    assert b"+++ b/o.log" in diff.patch


async def test_attributes_of_the_state_hide_and_change_nothing(sandbox: Sandbox) -> None:
    start = await repository(
        sandbox,
        "seq 9 > a.txt; printf '1\\r\\n' > w.txt; seq 5 > b.py; mkdir d; seq 3 > d/e; echo '*.q -text' > d/.gitattributes",
    )
    change = "printf '\\r\\n$Id: x$' >> a.txt; printf 'n\\r\\n' > new; rm d/e"
    plain = await makes(sandbox, start, change)
    for attributes in (
        "* -diff",
        "* binary",
        "* text eol=crlf",
        "* diff=driver filter=driver merge=ours",
        "* export-ignore working-tree-encoding=UTF-16",
        "* ident",
    ):
        rules = f"echo '{attributes}' > .gitattributes; echo '{attributes}' > d/.gitattributes"
        changed = await sh(sandbox, start, f"{change}; {rules}")
        diff = await sandbox.diff(changed, start)
        assert diff == await sandbox.diff(changed)
        parts = [
            part for part in diff.patch.split(b"diff --git") if not part.split(b"\n")[0].endswith(b".gitattributes")
        ]
        assert b"diff --git".join(parts) == plain.patch
        assert diff.patch.count(b"diff --git") == 5
    await makes(sandbox, start, "rm d/.gitattributes; echo 1 >> d/e")
    await makes(sandbox, start, "rm -r d; echo 1 > d")


async def test_attributes_of_the_commit_are_kept(sandbox: Sandbox) -> None:
    """A file that the repository keeps with other line ends than the work tree has is not changed from end to end."""
    start = await repository(
        sandbox, "echo '*.bat text eol=crlf' > .gitattributes; printf '1\\r\\n2\\r\\n' > r.bat; echo > f"
    )
    diff = await sandbox.diff(changed := await sh(sandbox, start, "printf '1\\r\\n3\\r\\n' > r.bat"), start)
    assert b"-2\n+3\n" in diff.patch
    assert diff == await sandbox.diff(changed)
    changed = await sh(sandbox, changed, "echo '*.bat -text' > .gitattributes; echo 2 > f")
    diff = await sandbox.diff(changed, start)
    assert diff == await sandbox.diff(changed)
    assert b"-2\n+3\n" in diff.patch


async def test_litter_is_left_out_and_named(sandbox: Sandbox) -> None:
    start = await repository(
        sandbox, "echo 1 > f; echo 1 > old.orig; printf '\\0\\1' > blob; echo '!keep.bak' > .gitignore"
    )
    keep = """
    mkdir -p build dist/web src/build target/x core; echo 1 > build/__init__.py; echo 1 > dist/web/a.js; echo > src/build/m.py
    echo > target/x/t; echo > core/c.py; echo 2 >> f; echo 2 >> old.orig; printf '\\0\\2' > blob; echo > keep.bak
    """
    litter = """
    mkdir -p src/__pycache__ a/node_modules/b/c build/lib/x p.egg-info .pytest_cache/v target/debug .idea docs/_build; echo > a/x.py
    echo > src/__pycache__/m; echo > a/node_modules/b/c/d; echo > a/node_modules/e; echo > build/lib/x/y; echo > p.egg-info/PKG
    echo > .pytest_cache/v/w; echo > target/debug/o; echo > .idea/i; echo > docs/_build/h; echo > f.orig; echo > f.rej; echo > f~
    printf 'E\\0LF' > core.77; printf 'a\\0b' > text.txt; printf '\\0' > src/m.so; echo > m.pyc
    """
    diff = await sandbox.diff(changed := await sh(sandbox, start, keep + litter), start)
    assert diff == await sandbox.diff(changed)
    assert diff.left_out == tuple(
        sorted(
            "src/__pycache__/ a/node_modules/ build/lib/ p.egg-info/ .pytest_cache/ target/debug/ .idea/ docs/_build/ "
            "f.orig f.rej f~ core.77 text.txt src/m.so m.pyc".split()
        )
    )
    kept = await makes(sandbox, start, keep + "mkdir a; echo > a/x.py")
    assert diff.patch == kept.patch
    many = await sh(sandbox, start, "for i in `seq 300`; do echo > $i.orig; done")
    assert len((await sandbox.diff(many, start)).left_out) == 200


async def test_a_moved_binary_is_not_left_out(sandbox: Sandbox) -> None:
    start = await repository(sandbox, "head -c 999 /dev/urandom > blob; echo 1 > f")
    diff = await makes(sandbox, start, "mkdir d; mv blob d/blob2; printf '1\\0' > new", undone="rm new")
    assert b"rename to d/blob2" in diff.patch
    assert diff.left_out == ("new",)


async def test_a_repository_elsewhere_and_moved_directories_above_it(sandbox: Sandbox) -> None:
    base = await sandbox.base(Base())
    start = await sh(sandbox, base, f"mkdir -p /tmp/a/b; cd /tmp/a/b; {INIT}; {TREE}; {COMMIT}; {LARGE}")
    changed = await sh(sandbox, start, f"cd /tmp/a/b; echo 2 > a/x/f1; rm -r b; {LARGE}")
    diff = await sandbox.diff(changed, start, at="/tmp/a/b")
    assert diff == await sandbox.diff(changed, at="/tmp/a/b")
    assert diff.patch.count(b"diff --git") > 10
    again = await sh(sandbox, changed, "mkdir /tmp/c; mv /tmp/a /tmp/c/a; mkdir /tmp/a; mv /tmp/c/a/b /tmp/a/b")
    assert await sandbox.diff(again, start, at="/tmp/a/b") == diff
    linked = await sh(sandbox, changed, "mv /tmp/a/b /tmp/b; ln -s /tmp/b /tmp/a/b")
    with pytest.raises(Refused):
        await sandbox.diff(linked, start, at="/tmp/a/b")
