"""What is run inside a sandbox to read, write and unpack: the sandbox's own tools, as the sandbox's own user.

The host never opens a path in a tree that a sandbox wrote. What these print is untrusted text. For git see git.py.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

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


def _script(text: str, *arguments: str) -> list[str]:
    return ["/bin/sh", "-c", text, "sh", *arguments]
