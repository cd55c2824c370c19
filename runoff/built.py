"""Finds what a setup made of the repository's files. Not imported: its text is given to `python -c` inside the sandbox.

Prints JSON: {"copies": tracked files of which an equal copy lies in the virtual environment, "binaries": whether
something compiled lies in the tree or beside those copies,
"installed": the interpreter and what can be imported}. Any Python ≥ 3.6.
"""

import json
import os
import subprocess
import sys

COMPILED = (".so", ".node", ".pyd", ".o", ".a", ".wasm")


def main():
    tracked = subprocess.check_output(["git", "ls-files", "-z"]).split(b"\0")[:-1]
    by_name = {}
    for path in tracked:
        by_name.setdefault(os.path.basename(path), []).append(path)
    copies, beside = set(), set()
    for folder, folders, names in os.walk(b"/env"):
        folders[:] = [
            name for name in folders if not name.endswith((b".dist-info", b".egg-info"))
        ]  # says what, runs nothing
        for name in names:
            for path in by_name.get(name, ()):
                if same(os.path.join(folder, name), path):
                    copies.add(path)
                    beside.add(folder)
    untracked = subprocess.check_output(["git", "ls-files", "--others", "-z"]).split(b"\0")
    made = [name for folder in beside for name in os.listdir(folder)] + untracked
    binaries = any(os.fsdecode(name).endswith(COMPILED) for name in made)
    copied = sorted(os.fsdecode(path) for path in copies)
    print(json.dumps({"copies": copied, "binaries": binaries, "installed": installed()}))


def installed():
    """The interpreter and the distributions beside it, `name version`."""
    found = set()
    for place in sys.path:
        for name in os.listdir(place) if place.endswith("site-packages") and os.path.isdir(place) else ():
            if name.endswith((".dist-info", ".egg-info")):
                found.add(" ".join(name.rsplit(".", 1)[0].split("-")[:2]))
    return ["Python %d.%d" % sys.version_info[:2]] + sorted(found - {"pip", "uv"}, key=str.lower)


def same(one, other):
    """Equal regular files that are not empty: every package has an empty __init__.py."""
    try:
        if os.path.islink(other) or os.path.getsize(one) != os.path.getsize(other) or not os.path.getsize(one):
            return False
        with open(one, "rb") as first, open(other, "rb") as second:
            return first.read() == second.read()
    except OSError:
        return False


main()
