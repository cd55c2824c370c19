"""What is run inside a sandbox to read, write, apply and diff: the sandbox's own tools, as the sandbox's own user.

The host never opens a path in a tree that a sandbox wrote, and git never runs in one outside. What these print is
untrusted text.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
"""No settings but the repository's own, and those only as far as `_GIT` does not overrule them."""

_SETTINGS = {
    "safe.directory": "*",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.autocrlf": "false",
    "core.safecrlf": "false",
    "core.fileMode": "true",
    "core.symlinks": "true",
    "core.quotePath": "true",
    "core.excludesFile": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "apply.ignoreWhitespace": "no",
    "advice.addEmbeddedRepo": "false",
}
_GIT = ["git", *(part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}"))]

_WRITE = """
n=$1; shift
while [ "$n" -gt 0 ]; do rm -rf -- "$1" || exit 1; shift; n=$((n - 1)); done
tar -xPf - --to-command='mkdir -p -- "$(dirname -- "$TAR_FILENAME")" && cat > "$TAR_FILENAME"'
"""

_READ = """
[ -e "$1" ] || { echo "$1: no such file" >&2; exit 1; }
[ -f "$1" ] || { echo "$1: not a regular file" >&2; exit 1; }
size=$(stat -Lc %s -- "$1") || exit 1
[ "$size" -le "$2" ] || { echo "$1: $size bytes, more than $2" >&2; exit 1; }
exec cat -- "$1"
"""

_UNPACK = 'mkdir -p -- "$1" && exec tar -xf - -C "$1"'

# The index that is there only lends its times, so that git need not read every file; what it says is forgotten.
_DIFF = """
index=$("$@" rev-parse --git-path index) || exit 1
export GIT_INDEX_FILE=/tmp/.diff-index
[ ! -f "$index" ] || cp -p -- "$index" "$GIT_INDEX_FILE" || exit 1
"$@" read-tree --reset HEAD && "$@" add -A . >&2 || exit 1
exec "$@" diff --cached --binary --full-index --no-color --no-ext-diff --no-textconv --no-relative -M \
  --submodule=short --ignore-submodules=none --src-prefix=a/ --dst-prefix=b/ --diff-algorithm=myers -U3 \
  --inter-hunk-context=0 --no-indent-heuristic -O/dev/null HEAD --
"""


def write(files: Mapping[str, bytes | None]) -> tuple[list[str], bytes]:
    """The command, and what it reads. `cat >` keeps the mode of a file that is there, which tar by itself would not."""
    packed, gone = io.BytesIO(), list[str]()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, data in files.items():
            if not path.startswith("/") or "\0" in path:
                raise ValueError(f"cannot write {path!r}: not an absolute path")
            if data is None:
                gone.append(path)
                continue
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return _script(_WRITE, str(len(gone)), *gone), packed.getvalue()


def unpack(at: str) -> list[str]:
    return _script(_UNPACK, at)


def read(path: str, limit: int) -> list[str]:
    return _script(_READ, path, str(limit))


def apply() -> list[str]:
    return [*_GIT, "apply", "--whitespace=nowarn", "-"]


def diff() -> list[str]:
    return _script(_DIFF, *_GIT)


def _script(text: str, *arguments: str) -> list[str]:
    return ["/bin/sh", "-c", text, "sh", *arguments]
