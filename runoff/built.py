"""Finds what a setup made of the repository's files. Not imported: its text is given to `python -c` inside the sandbox.

Prints JSON: {"copies": tracked files of which an equal copy lies in the interpreter's environment, "binaries": whether
something compiled lies in the tree or beside those copies,
"installed": the interpreter and what can be imported, "language": what generated tests are to be written in}. Any Python ≥ 3.6.
"""

import json
import os
import shutil
import subprocess
import sys

COMPILED = (".so", ".node", ".pyd", ".o", ".a", ".wasm")
TYPESCRIPT = (b".ts", b".tsx", b".mts", b".cts")
JAVASCRIPT = (b".js", b".jsx", b".mjs", b".cjs")


def main():
    tracked = subprocess.check_output(["git", "ls-files", "-z"]).split(b"\0")[:-1]
    by_name = {}
    for path in tracked:
        by_name.setdefault(os.path.basename(path), []).append(path)
    copies, beside = set(), set()
    for folder, folders, names in os.walk(os.fsencode(sys.prefix) if sys.prefix != "/usr" else b"/usr/local"):
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
    language = spoken(tracked)
    if language == "javascript" and any(path.endswith(TYPESCRIPT) and not path.endswith(b".d.ts") for path in tracked):
        binaries = binaries or any(
            name.endswith(JAVASCRIPT) and b"node_modules/" not in name for name in untracked
        )  # what runs was made of the sources
    copied = sorted(os.fsdecode(path) for path in copies)
    found = {"copies": copied, "binaries": binaries, "installed": installed(), "language": language}
    if language == "javascript":
        found["installed"] = of_node() + found["installed"]
    print(json.dumps(found))


def spoken(tracked):
    """The language of most source files, JavaScript only where a Node runs it."""
    own = [path for path in tracked if b"node_modules/" not in path]
    javascript = sum(path.endswith(JAVASCRIPT + TYPESCRIPT) for path in own)
    python = sum(path.endswith((b".py", b".pyx")) for path in own)
    return "javascript" if javascript > python and shutil.which("node") else "python"


def of_node():
    """Node and the packages that the repository names, as far as they are there, `name version`."""
    version = subprocess.check_output(["node", "--version"]).decode().strip().lstrip("v")
    wanted = of_package("package.json")
    parts = [wanted[part] for part in wanted if part.lower().endswith("dependencies")]
    names = sorted({name for part in parts if isinstance(part, dict) for name in part})
    found = [(name, of_package(os.path.join("node_modules", name, "package.json"))) for name in names]
    return ["Node %s" % version] + ["%s %s" % (name, package.get("version", "")) for name, package in found if package]


def of_package(path):
    try:
        with open(path, encoding="utf-8") as file:
            package = json.load(file)
        return package if isinstance(package, dict) else {}
    except (OSError, ValueError):
        return {}


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
