"""Hostile patches and archives: what a model or a stranger wrote, which the host applies and unpacks."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

from runoff.sandbox.protocol import Refused
from tests.sandbox.attacks.attack import Staged
from tests.sandbox.attacks.machine import Machine

_BEFORE = """
git init -q . && git config user.email a@b && git config user.name a
echo one > f; git add -A; git commit -qm x; mkdir -p in
"""
_PATCH, _ARCHIVE = "git refuses paths out of the tree, inside", "tar strips them, inside"


def _new(path: str, mode: str = "100644", line: str = "owned") -> str:
    return f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{line}\n"


def _link(path: str, target: str) -> str:
    return _new(path, "120000", target) + "\\ No newline at end of file\n"


def _patch(
    name: str, gain: str, patch: str, caught: str, trap: str = "", naive: str = "write", reads: bool = False
) -> Staged:
    """`caught` is a shell condition in the directory; OUT in the patch is the way to the directory `mine`, outside."""

    def text(machine: Machine, out: str) -> bytes:
        return patch.replace("OUT", out).replace("MINE", str(machine.place / "mine")).encode()

    async def attempt(machine: Machine) -> bool:
        """What it reads would have to be the host's; what it changes, only out of the tree."""
        state = await machine.after(_BEFORE + f"echo {machine.won} > /tmp/out-secret;" + trap)
        out = "../../../../.." + str(machine.place / "mine") if reads else "../tmp"
        for fuzzy in (False, True):
            applied = state
            with suppress(Refused):
                applied = (await machine.sandbox.apply(state, text(machine, out), fuzzy=fuzzy)).state
            asked = f"mine=/tmp; {caught}"
            done = await machine.sandbox.execute(applied, ["sh", "-c", asked], freeze=False)
            if done.exit_code == 0 or name in machine.mine():
                return True
        return False

    def undefended(machine: Machine, directory: Path) -> bool:
        machine.bare(_BEFORE + trap, directory)
        (machine.place / "mine" / "out-secret").write_text(machine.won)
        said = text(machine, os.path.relpath(machine.place / "mine", directory))
        if naive == "write":
            _write_what_it_names(said.decode(), directory)
        else:
            subprocess.run(["sh", "-c", naive], input=said, cwd=directory, capture_output=True)
        asked = f"mine={machine.place}/mine; {caught}"
        return subprocess.run(["sh", "-c", asked], cwd=directory).returncode == 0

    return Staged(name, gain, _PATCH, attempt, undefended)


def _write_what_it_names(patch: str, directory: Path) -> None:
    """The applier that everyone writes first."""
    for part in patch.split("diff --git ")[1:]:
        name = re.search(r"^\+\+\+ (?:b/)?(.*)$", part, re.MULTILINE)
        mode = re.search(r"^new file mode (\d+)$", part, re.MULTILINE)
        lines = [line[1:] for line in part.splitlines() if line.startswith("+") and not line.startswith("+++")]
        assert name
        target = directory / name[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode and mode[1] == "120000":
            target.symlink_to(lines[0])
            continue
        target.write_text("\n".join(lines) + "\n")
        target.chmod(int(mode[1][-4:], 8) if mode else 0o644)


def _archive(
    name: str, gain: str, caught: str, *members: tuple[str, bytes, str], only_root: bool = False, mode: int = 0o644
) -> Staged:
    """Members: a path, a type, and contents or where a link leads. OUT is `mine`, outside of where it is unpacked."""

    def packed(out: str) -> bytes:
        room = io.BytesIO()
        with tarfile.open(fileobj=room, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, kind, said in members:
                member = tarfile.TarInfo(path.replace("OUT", out))
                member.type, member.mode = kind, mode
                data = said.encode() if kind == tarfile.REGTYPE else b""
                member.size, member.linkname = len(data), "" if data else said.replace("OUT", out)
                if kind == tarfile.CHRTYPE:
                    member.devmajor, member.devminor = 1, 5
                tar.addfile(member, io.BytesIO(data))
        return room.getvalue()

    async def attempt(machine: Machine) -> bool:
        """Outside is what is not under `at`, in there and on the host."""
        inside, mine = "/tmp/mine", machine.place / "mine"
        state = await machine.after(f"mkdir -p {inside} in; echo kept > {inside}/out-kept")
        for out in (str(mine), inside, "../" * 6 + inside[1:]):
            unpacked = state
            with suppress(Refused):
                unpacked = await machine.sandbox.unpack(state, packed(out), "/testbed/in")
            asked = f"cd in; mine={inside}; {caught}"
            done = await machine.sandbox.execute(unpacked, ["sh", "-c", asked], freeze=False)
            if done.exit_code == 0 or (mine / "out-kept").read_text() != "kept\n" or name in machine.mine():
                return True
        return False

    def undefended(machine: Machine, directory: Path) -> bool:
        (directory / "in").mkdir()
        mine = machine.place / "mine"
        (mine / "out-secret").write_text(machine.won)
        (mine / "out-kept").write_text("kept\n")
        with suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(packed(str(mine)))) as tar:
            tar.extractall(directory / "in", filter="fully_trusted")
        return subprocess.run(["sh", "-c", f"mine={mine}; {caught}"], cwd=directory / "in").returncode == 0

    unswitchable = {"rootless": "only root can make it"} if only_root else {}
    return Staged(name, gain, _ARCHIVE, attempt, undefended, unswitchable)


REG, SYM, HARD, CHR, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE

STAGED = [
    _patch("patch-out", "a file of the host, changed", _new("OUT/patch-out"), "[ -e $mine/patch-out ]"),
    _patch("patch-out-deeper", "the same", _new("in/../OUT/patch-out-deeper"), "[ -e $mine/patch-out-deeper ]"),
    _patch(
        "patch-out-by-git",
        "the same",
        _new("OUT/patch-out-by-git"),
        "[ -e $mine/patch-out-by-git ]",
        naive="git apply --unsafe-paths",
    ),
    _patch(
        "patch-link-then-write",
        "the same",
        _link("d", "MINE") + _new("d/patch-link-then-write"),
        "[ -e $mine/patch-link-then-write ]",
    ),
    _patch(
        "patch-through-a-link",
        "the same",
        _new("d/patch-through-a-link"),
        "[ -e d/patch-through-a-link ]",
        "ln -s $mine d; mkdir -p $mine",
    ),
    _patch(
        "patch-rename-in",
        "a file of the host, in the patch",
        "diff --git a/OUT/out-secret b/stolen\nsimilarity index 100%\nrename from OUT/out-secret\nrename to stolen\n",
        "[ -e stolen ]",
        naive="git apply --unsafe-paths",
        reads=True,
    ),
    _patch(
        "patch-copy-in",
        "the same",
        "diff --git a/OUT/out-secret b/stolen\nsimilarity index 100%\ncopy from OUT/out-secret\ncopy to stolen\n",
        "[ -e stolen ]",
        naive="git apply --unsafe-paths",
        reads=True,
    ),
    _patch(
        "patch-delete-out",
        "a file of the host, gone",
        "diff --git a/OUT/out-secret b/OUT/out-secret\ndeleted file mode 100644\n"
        "--- a/OUT/out-secret\n+++ /dev/null\n@@ -1 +0,0 @@\n-WON\n",
        "[ ! -e $mine/out-secret ]",
        naive="rm -f -- \"$(sed -n 's:^--- a/::p')\"",
    ),
    _patch(
        "patch-a-hook",
        "code when git runs next",
        _new(".git/hooks/post-checkout", "100755", "#!/bin/sh"),
        "[ -e .git/hooks/post-checkout ]",
    ),
    _patch("patch-settings", "the same", _new(".git/config.d", "100644", "[core]"), "[ -e .git/config.d ]"),
    _patch(
        "patch-settings-in-capitals",
        "the same, on disks that know no capitals",
        _new(".GIT/hooks/x"),
        "[ -e .GIT/hooks/x ]",
    ),
    _patch("patch-set-user", "a program that runs as its owner", _new("program", "104755"), "[ -u program ]"),
    _archive("tar-dots", "a file of the host, changed", "[ -e $mine/tar-dots ]", ("OUT/tar-dots", REG, "owned")),
    _archive(
        "tar-link-then-write",
        "the same",
        "[ -e $mine/tar-link-then-write ]",
        ("d", SYM, "OUT"),
        ("d/tar-link-then-write", REG, "owned"),
    ),
    _archive(
        "tar-two-links",
        "the same",
        "[ -e $mine/tar-two-links ]",
        ("a", SYM, "OUT"),
        ("b", SYM, "a"),
        ("b/tar-two-links", REG, "owned"),
    ),
    _archive(
        "tar-hard-link-in",
        "a file of the host, read",
        "grep -q . stolen 2>/dev/null",
        ("stolen", HARD, "OUT/out-secret"),
    ),
    _archive(
        "tar-hard-link-write",
        "a file of the host, changed",
        "! grep -q kept $mine/out-kept",
        ("f", HARD, "OUT/out-kept"),
        ("f", REG, "owned"),
    ),
    _archive(
        "tar-link-write", "the same", "! grep -q kept $mine/out-kept", ("f", SYM, "OUT/out-kept"), ("f", REG, "owned")
    ),
    _archive("tar-device", "a disk", "[ -c zero ]", ("zero", CHR, ""), only_root=True),
    _archive(
        "tar-set-user",
        "a program that runs as root",
        "[ -u program ] && [ $(stat -c %u program) = 0 ]",
        ("program", REG, "owned"),
        only_root=True,
        mode=0o4755,
    ),
]
