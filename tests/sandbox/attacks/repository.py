"""Hostile repositories: programs that git runs by their settings, files of the host, and changes that a diff leaves out."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

from runoff.sandbox.protocol import Refused
from tests.sandbox.attacks.attack import Staged
from tests.sandbox.attacks.machine import Machine

_BEFORE = """
git init -q . && git config user.email a@b && git config user.name a
echo one > f; echo '*.log' > .gitignore; git add -A && git commit -qm first
"""
_SCRIPT = """
cat > .git/run <<'END'
#!/bin/sh
touch $mine/NAME
exit 1
END
sed -i "s:\\$mine:$mine:" .git/run; chmod +x .git/run
"""
_CHANGE = "echo the-change >> f\n"
_LOOKS = ["git status", "git add -A", "git diff --cached HEAD", "git commit -qm x", "git checkout -q -B other"]


def _runs(name: str, gain: str, trap: str, looks: list[str] = _LOOKS) -> Staged:
    """A program that runs when the host looks at the repository."""
    trap = _SCRIPT.replace("NAME", name) + trap + "\n" + _CHANGE

    async def attempt(machine: Machine) -> bool:
        await _diffs(machine, trap)
        return name in machine.mine()

    def undefended(machine: Machine, directory: Path) -> bool:
        machine.bare(_BEFORE, directory)
        machine.bare(trap, directory)
        _naively(directory, looks)
        return name in machine.mine()

    return Staged(name, gain, "git never runs outside of a sandbox", attempt, undefended)


def _shows(name: str, gain: str, trap: str, looks: list[str], trap_bare: str = "") -> Staged:
    """The host's secret, in what is taken for a patch."""

    async def attempt(machine: Machine) -> bool:
        return machine.secret in await _diffs(machine, trap)

    def undefended(machine: Machine, directory: Path) -> bool:
        machine.bare(_BEFORE, directory)
        machine.bare(trap_bare + trap, directory)
        return machine.secret in _naively(directory, looks)

    return Staged(name, gain, "git never runs outside of a sandbox", attempt, undefended)


def _hides(name: str, gain: str, trap: str, change: str = "the-change") -> Staged:
    """A change that the work tree has and the patch has not: what is tested is not what is delivered."""

    async def attempt(machine: Machine) -> bool:
        said = await _diffs(machine, trap)
        return bool(said) and change not in said if said != "refused" else False

    def undefended(machine: Machine, directory: Path) -> bool:
        machine.bare(_BEFORE, directory)
        machine.bare(trap, directory)
        return change not in _naively(directory, ["git add -A", "git diff --cached HEAD"])

    return Staged(name, gain, "diffs are taken with the repository of an earlier state", attempt, undefended)


async def _diffs(machine: Machine, trap: str) -> str:
    """Both ways of taking a diff, and the words of the one that is believed."""
    first = await machine.after(_BEFORE)
    state = await machine.after(trap, first)
    said = "refused"
    with suppress(Refused):
        said = (await machine.sandbox.diff(state, first)).patch.decode("utf-8", "replace") or " "
    with suppress(Refused):
        await machine.sandbox.diff(state)
    return said


def _naively(directory: Path, looks: list[str]) -> str:
    """What a host sees and suffers that runs git in there."""
    said = ""
    for look in looks:
        done = subprocess.run(
            ["timeout", "10", "sh", "-c", look],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        said += done.stdout
    return said


STAGED = [
    _runs("hook-commit", "code on the host", "cp .git/run .git/hooks/pre-commit"),
    _runs("hook-checkout", "the same", "cp .git/run .git/hooks/post-checkout"),
    _runs("hook-index", "the same", "cp .git/run .git/hooks/post-index-change"),
    _runs("hooks-elsewhere", "the same", "mkdir h; cp .git/run h/pre-commit; git config core.hooksPath h"),
    _runs("fsmonitor", "the same", "git config core.fsmonitor .git/run"),
    _runs("filter-clean", "the same", "echo 'f filter=x' > .gitattributes; git config filter.x.clean .git/run"),
    _runs("filter-process", "the same", "echo 'f filter=x' > .gitattributes; git config filter.x.process .git/run"),
    _runs(
        "filter-attributes-inside",
        "the same",
        "echo 'f filter=x' > .git/info/attributes; git config filter.x.clean .git/run",
    ),
    _runs("text-conversion", "the same", "echo 'f diff=x' > .gitattributes; git config diff.x.textconv .git/run"),
    _runs("diff-program", "the same", "git config diff.external .git/run", ["git diff"]),
    _runs(
        "diff-driver", "the same", "echo 'f diff=x' > .gitattributes; git config diff.x.command .git/run", ["git diff"]
    ),
    _runs("editor", "the same", "git config core.editor .git/run", ["git commit -a"]),
    _runs(
        "signature",
        "the same",
        "git config gpg.program .git/run; git config commit.gpgsign true",
        ["git commit -qam x"],
    ),
    _runs(
        "settings-elsewhere",
        "the same",
        "printf '[core]\\n fsmonitor = .git/run\\n' > settings; git config include.path ../settings",
    ),
    _runs(
        "settings-by-place",
        "the same",
        "printf '[core]\\n fsmonitor = .git/run\\n' > settings; git config includeIf.gitdir:/.path ../settings",
    ),
    _runs(
        "submodule",
        "the same",
        "git init -q sub; cd sub; git config user.email a@b; git config user.name a; touch x; git add x; git commit -qm x;"
        "git config core.fsmonitor ../.git/run; cd ..; git add sub; git commit -qm sub",
        ["git status"],
    ),
    _runs(
        "repository-elsewhere",
        "the same",
        "git config core.fsmonitor $PWD/moved/run; mv .git moved; echo 'gitdir: moved' > .git",
        ["git status"],
    ),
    _runs(
        "transport",
        "the same",
        "git config core.sshCommand .git/run; git config remote.origin.url ssh://x/y",
        ["git fetch"],
    ),
    _shows(
        "work-tree-elsewhere",
        "files of the host",
        "git config core.worktree $place/private",
        ["git add -A", "git diff --cached HEAD"],
    ),
    _shows(
        "link-as-directory",
        "files of the host",
        "git config core.worktree $place/answers; git config core.bare false",
        ["git -c core.quotePath=false add -A", "git diff --cached HEAD"],
    ),
    _shows(
        "objects-elsewhere",
        "another repository's contents",
        # the other repository stands for one of the host
        "mkdir -p .git/objects/info; echo $place/private/repo.git/objects > .git/objects/info/alternates\n"
        "echo $(git hash-object $secret 2>/dev/null || echo none) > .git/wanted; git read-tree --empty\n"
        "git update-index --add --cacheinfo 100644,$(cat .git/wanted),stolen",
        ["git diff --cached HEAD"],
        "git init -q --bare $place/private/repo.git; git --git-dir $place/private/repo.git hash-object -w $secret\n",
    ),
    _hides("hide-assumed", "a change that nobody reviews", "git update-index --assume-unchanged f; " + _CHANGE),
    _hides("hide-skipped", "the same", "git update-index --skip-worktree f; " + _CHANGE),
    _hides("hide-excluded", "the same", "echo sneaky.py > .git/info/exclude; echo the-change > sneaky.py; echo y >> f"),
    _hides(
        "hide-excluded-elsewhere",
        "the same",
        "echo sneaky.py > /tmp/x$$; git config core.excludesFile /tmp/x$$; echo the-change > sneaky.py; echo y >> f",
    ),
    _hides(
        "hide-replaced", "the same", _CHANGE + "git replace $(git rev-parse HEAD:f) $(git hash-object -w f); echo y > g"
    ),
    _hides("hide-committed", "the same", _CHANGE + "git add -A; git commit -qm x; echo y > g"),
    _hides(
        "hide-filtered",
        "the same",
        _CHANGE + "echo 'f filter=x' > .git/info/attributes; git config filter.x.clean 'echo one'; echo y > g",
    ),
    _hides("hide-binary", "the same", _CHANGE + "echo 'f -diff' > .git/info/attributes; git config diff.external true"),
    _hides(
        "hide-times",
        "the same",
        "git config core.checkStat minimal; git config core.trustctime false; t=$(stat -c %Y f); sleep 1.1;"
        "echo one > f; touch -d @$t f; git add f; echo two > f; touch -d @$t f; echo y > g",
        "two",
    ),
    _hides("hide-modes", "the same", "git config core.fileMode false; chmod +x f; echo y > g", "new mode 100755"),
    _hides(
        "hide-in-repository", "the same", "mkdir nested; cd nested; git init -q; echo the-change > x; cd ..; echo y > g"
    ),
    _hides(
        "hide-outside-sparse",
        "the same",
        "git config core.sparseCheckout true; echo /g > .git/info/sparse-checkout; git update-index --skip-worktree f; "
        + _CHANGE
        + "echo y > g",
    ),
]
