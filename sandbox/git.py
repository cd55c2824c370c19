"""Git inside a sandbox: the scripts that take a diff and apply a patch there, and what they print, read back.

Git never runs outside in a tree that a sandbox wrote. What these scripts need is `sh`, git ≥ 2.25, and the `find`,
`grep`, `head`, `sed`, `sort`, `uniq` and `xargs` of GNU or busybox; `patch` for the last step of a foreign patch, if it
is there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch

from runoff.sandbox.protocol import Diff, Refused

ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
}
"""No settings but the repository's own, and those only as far as `_SETTINGS` does not overrule them."""

SINCE = "/dev/since"
"""Where the repository (`.git`) of the earlier state is shown, read-only. Nothing a state holds can be there."""

SCRATCH = "/dev/shm"
"""An empty directory outside of the state."""

LISTED = "LISTED"
"""Set in the script's environment to `PRESENT GONE`, two numbers of bytes, if standard input says what may differ."""

EXCLUDED = """
__pycache__/
*.py[cod]
*$py.class
.pytest_cache/
.mypy_cache/
.ruff_cache/
.hypothesis/
.tox/
.nox/
.cache/
.coverage
.coverage.*
htmlcov/
.ipynb_checkpoints/
.nyc_output/
.eslintcache
*.tsbuildinfo
.gradle/
.eggs/
*.egg-info/
/build/lib/
/build/lib.*/
/build/temp.*/
/build/bdist.*/
/build/scripts-*/
/dist/*.whl
/dist/*.tar.gz
_build/
CMakeFiles/
CMakeCache.txt
cmake_install.cmake
target/debug/
target/release/
target/classes/
target/test-classes/
node_modules/
bower_components/
.venv/
/venv/
nohup.out
npm-debug.log*
yarn-error.log*
.git/
.hg/
.svn/
.bzr/
.jj/
CVS/
.idea/
.vscode/
*~
.*.sw[a-p]
.#*
*.orig
*.rej
*.bak
.DS_Store
Thumbs.db
""".strip()
"""New files that are kept out of patches, beside binaries, as `.gitignore` would say it; the repository's own rules
overrule these. A name that a source directory may bear (`build`, `dist`, `target`) is not excluded, only what build tools put
in it; a name says nothing of core dumps and compiled files, they are binaries."""

_SETTINGS = {
    "safe.directory": "*",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.fileMode": "true",
    "core.symlinks": "true",
    "core.ignoreCase": "false",
    "core.precomposeUnicode": "false",
    "core.quotePath": "true",
    "core.excludesFile": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.sparseCheckout": "false",
    "core.bigFileThreshold": "512m",
    "core.compression": "1",
    "index.sparse": "false",
    "apply.ignoreWhitespace": "no",
    "apply.whitespace": "nowarn",
    "diff.renameLimit": "1000",
}
_GIT = "git " + " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in _SETTINGS.items())

_FEW = 32 << 10
"""Bytes of paths up to which only they are read from the commit, and not its whole tree."""

# Two temporary indexes: `index` becomes what the work tree is, `before` is what the commit is, and what the patch is tried
# on. If the paths that may differ are known and few, both hold these alone. Attributes decide how a file is stored: those
# of the commit, so that a change of them changes no file. How the patch is printed they have no say in: it is made where
# there are none. Process starts are most of what this costs; so common cases do without some.
_DIFF = r"""
scratch=$1 dir=$2
apart() { cat -- "$@" | LC_ALL=C sort -z | LC_ALL=C uniq -zu; }
die() { printf '%s\n' "$*" >&2; exit 1; }
if [ -z "$dir" ]; then
  dir=$(_GIT_ rev-parse --absolute-git-dir) && objects=$(cd -- "$(_GIT_ rev-parse --git-path objects)" && pwd -P) || exit 1
  [ -z "$(_GIT_ rev-parse --show-cdup)" ] || die "not the top directory of a git repository: $PWD"
fi
export GIT_DIR="$dir" GIT_WORK_TREE=.
export GIT_OBJECT_DIRECTORY="$scratch" GIT_ALTERNATE_OBJECT_DIRECTORIES="${objects:-$dir/objects}"
export GIT_INDEX_FILE="$scratch/index"

# A submodule is what the commit says it is: its files are not looked at.
empty_submodules() {
  _GIT_ ls-tree -r -z --full-tree HEAD | sed -zn 's/^160000 [^	]*	/.\//p' > "$scratch/links"
  xargs -0 sh -c 'for path; do
    if [ -d "$path" ] && [ ! -L "$path" ]; then rm -rf "$path" && mkdir "$path" && printf "%s\0" "$path"; fi
  done' sh < "$scratch/links" > "$scratch/modules"
}
still_there() {
  xargs -0 sh -c 'for path; do
    [ -L "$path" ] || { [ -f "$path" ] && { [ -r "$path" ] || chmod u+r "$path"; }; } || continue
    printf "%s\0" "$path"
  done' sh < "$1" > "$scratch/kept"
}
tracked() { _GIT_ ls-files -z | sed -z 's|^|./|' > "$scratch/tracked"; }
try_to_add() { _GIT_ update-index --add -z --stdin < "$1" 2> "$scratch/words"; }
add() {
  try_to_add "$1" && return
  find . -type d ! -perm -0500 -exec chmod u+rwx {} \;
  still_there "$1"
  tracked
  apart "$scratch/kept" "$scratch/tracked" "$scratch/tracked" |
    xargs -0 sh -c 'for path; do find "$path" -prune -type f -size +65536k -print0; done' sh > "$scratch/large"
  apart "$scratch/kept" "$scratch/large" > "$1"
  try_to_add "$1" && return
  sed 's/No space left on device/the change is too large/' "$scratch/words" >&2
  exit 1
}
start_before() {
  if [ "$few" ]; then
    GIT_INDEX_FILE="$scratch/before" _GIT_ update-index -z --index-info < "$scratch/base" || exit 1
  else
    GIT_INDEX_FILE="$scratch/before" _GIT_ read-tree HEAD || exit 1
  fi
}
show() {
  set -- "$@" --no-ext-diff --no-textconv -p --binary --full-index --no-color --no-relative --submodule=short \
    --ignore-submodules=none --src-prefix=a/ --dst-prefix=b/ --diff-algorithm=myers -U3 --inter-hunk-context=0 \
    --no-indent-heuristic -O/dev/null
  if [ "$few" ] && [ ! -s "$scratch/$paths" ]; then
    :  # all of it is ignored
  elif [ "$few" ]; then
    GIT_LITERAL_PATHSPECS=1 xargs -0 _GIT_ -C "$scratch" diff-index --cached "$@" HEAD -- < "$scratch/$paths"
  else
    after=$(_GIT_ write-tree --missing-ok) && GIT_INDEX_FILE=none _GIT_ -C "$scratch" diff-tree -r "$@" HEAD "$after"
  fi > "$scratch/patch" || die "the change is too large"
}
gives() {
  _GIT_ write-tree --missing-ok > "$scratch/wanted" & # meanwhile
  GIT_INDEX_FILE="$scratch/before" _GIT_ apply --cached "$scratch/patch" &&
    GIT_INDEX_FILE="$scratch/before" _GIT_ write-tree --missing-ok > "$scratch/given" || { wait; return 1; }
  wait
  read -r wanted < "$scratch/wanted" && read -r given < "$scratch/given" && [ "$wanted" = "$given" ]
}

few= new=
if [ "${LISTED-}" ]; then
  if [ "${LISTED#* }" = 0 ]; then
    cat > "$scratch/present" && paths=present
  else
    head -c "${LISTED% *}" > "$scratch/present" && cat > "$scratch/gone"
    cat "$scratch/present" "$scratch/gone" > "$scratch/paths" && paths=paths
  fi || exit 1
  [ -s "$scratch/$paths" ] || { echo 0 0 0; exit; }
  [ $((${LISTED% *} + ${LISTED#* })) -gt _FEW_ ] || few=yes
fi
if [ "$few" ]; then
  GIT_LITERAL_PATHSPECS=1 xargs -0 _GIT_ ls-tree -r -z --full-tree HEAD -- < "$scratch/$paths" > "$scratch/base" || exit 1
fi
start_before
[ ! -e "$scratch/before" ] || cp "$scratch/before" "$scratch/index" || exit 1
if [ -z "${LISTED-}" ]; then
  # The index that is there lends its times, so that not every file need be read; what it says is forgotten.
  cp -p "$dir/index" "$scratch/lent" 2> /dev/null && GIT_INDEX_FILE="$scratch/lent" _GIT_ read-tree --reset HEAD \
    2> /dev/null && ! GIT_INDEX_FILE="$scratch/lent" _GIT_ ls-files -v | grep -qa '^[a-zS]' &&
    mv "$scratch/lent" "$scratch/index"
  empty_submodules
  find . -type d ! -perm -0500 ! -exec chmod u+rwx {} \; -o -name .git -prune -o \( -type f -o -type l \) -print0 \
    > "$scratch/present" || exit 1
  tracked
  apart "$scratch/tracked" "$scratch/present" "$scratch/present" "$scratch/modules" "$scratch/modules" > "$scratch/gone"
  grep -zE '/\.gitattributes$' "$scratch/present" > "$scratch/attributes"
  grep -zE '/\.gitattributes$' "$scratch/tracked" > "$scratch/attributes-before"
fi
if [ -s "$scratch/gone" ]; then _GIT_ update-index --force-remove -z --stdin < "$scratch/gone" || exit 1; fi

# Without new files there is nothing to exclude: `update-index` takes them only if it is told to.
if [ -s "$scratch/present" ] && {
  [ -s "$scratch/attributes" ] || [ -s "$scratch/attributes-before" ] ||
    ! _GIT_ update-index -z --stdin < "$scratch/present" 2> /dev/null
}; then
  new=yes
  if [ "${LISTED-}" ]; then
    empty_submodules
    if [ -s "$scratch/links" ]; then
      find . -type d ! -perm -0500 -exec chmod u+rwx {} \;
      still_there "$scratch/present" && mv "$scratch/kept" "$scratch/present" || exit 1
    fi
  fi
  printf '%s\n' "$3" > "$scratch/excluded" || exit 1
  ignored() { _GIT_ -c core.excludesFile="$scratch/excluded" check-ignore "$@" -z --stdin < "$scratch/present"; [ $? -le 1 ]; }
  ignored -v > "$scratch/ignored" || exit 1
  if [ -s "$scratch/ignored" ]; then
    ignored > "$scratch/kept" || exit 1
    apart "$scratch/present" "$scratch/kept" > "$scratch/rest" && mv "$scratch/rest" "$scratch/present" || exit 1
  fi
  if [ -s "$scratch/attributes" ] || [ -s "$scratch/attributes-before" ]; then
    grep -zE '/\.gitattributes$' "$scratch/present" | xargs -0 sh -c 'for path; do
      if [ -L "$path" ]; then
        mode=120000 id=$(readlink -n -- "$path" | git hash-object -w --stdin)
      else
        [ -x "$path" ] && mode=100755 || mode=100644
        [ -r "$path" ] || chmod u+r "$path"
        id=$(git hash-object -w --no-filters -- "$path")
      fi || exit 1
      printf "%s %s\t%s\0" "$mode" "$id" "${path#./}"
    done' sh > "$scratch/attributes-now" || exit 1
    xargs -0 rm -f -- < "$scratch/attributes"
    GIT_INDEX_FILE="$scratch/before" _GIT_ checkout-index -q -z --stdin < "$scratch/attributes-before" 2> /dev/null
    grep -zvE '/\.gitattributes$' "$scratch/present" > "$scratch/rest"
    mv "$scratch/rest" "$scratch/present"
  fi
  add "$scratch/present"
  if [ -s "$scratch/attributes-now" ]; then _GIT_ update-index -z --index-info < "$scratch/attributes-now" || exit 1; fi
fi

show -M
if [ "$new" ] && grep -q -a '^GIT binary patch' "$scratch/patch"; then
  after=$(_GIT_ write-tree --missing-ok) && base=$(GIT_INDEX_FILE="$scratch/before" _GIT_ write-tree --missing-ok) || exit 1
  GIT_INDEX_FILE=none _GIT_ -C "$scratch" diff-tree -r -M --numstat -z --diff-filter=A "$base" "$after" |
    sed -zn 's/^-	-	//p' > "$scratch/binary"
  if [ -s "$scratch/binary" ]; then
    _GIT_ update-index --force-remove -z --stdin < "$scratch/binary" || exit 1
    show -M
  fi
fi
if [ -s "$scratch/patch" ] && ! gives 2> /dev/null; then
  rm "$scratch/before"
  start_before
  show --no-renames
  gives || die "a patch cannot say what changed: applied to the commit it does not give these files"
fi
[ "$new" ] || { echo 0 0 0; exec cat "$scratch/patch"; }
for part in ignored large binary; do
  if [ -s "$scratch/$part" ]; then wc -c < "$scratch/$part"; else echo 0; : > "$scratch/$part"; fi
done | tr '\n' ' '
echo
cat "$scratch/ignored" "$scratch/large" "$scratch/binary" "$scratch/patch"
""".replace("_GIT_", _GIT).replace("_FEW_", str(_FEW))

_MOST_LEFT_OUT = 200

# The name of a step, and how git or patch is asked for it. Each takes more than the one before.
_STEPS = {
    "exact": ["git"],
    "cleaned": ["git"],
    "recount": ["git", "--recount"],
    "whitespace": ["git", "--recount", "--ignore-whitespace"],
    "context": ["git", "--recount", "--ignore-whitespace", "-C1"],
    "fuzz": ["patch", "--fuzz=5"],
}

# `patch` writes through links and into `.git`: what git refuses by itself is refused before it is asked.
_APPLY = r"""
tool=$1 strip=$2 scratch=$3; shift 3
cat > "$scratch/patch" || exit 1
if [ "$tool" = git ]; then
  command _GIT_ apply "-p$strip" "$@" "$scratch/patch" || exit 1
  command _GIT_ apply "-p$strip" "$@" --reverse --check "$scratch/patch" || { echo "its reverse does not apply" >&2; exit 1; }
  exit
fi
command -v patch > /dev/null || { echo "there is no program named patch" >&2; exit 1; }
find . -name .git -prune -o -type l -print | sed 's|^\./||; s|$|/|' > "$scratch/links"
grep -aiE '^(---|\+\+\+|\*\*\*|diff|rename|copy|index:)' "$scratch/patch" > "$scratch/names"
if grep -qaiE '"|[/ ]\.git([/[:space:]]|$)' "$scratch/names" || grep -qaF -f "$scratch/links" "$scratch/names" ||
  grep -qaE '^(GIT binary patch|(new|old|deleted)( file)? mode 1[26]0000)' "$scratch/patch"; then
  echo "only git may apply this" >&2; exit 1
fi
how="--unified --batch --no-backup-if-mismatch --reject-file=- -p$strip"
patch $how "$@" --forward --dry-run < "$scratch/patch" >&2 && patch $how "$@" --forward < "$scratch/patch" >&2 || exit 1
patch $how "$@" --reverse --force --dry-run < "$scratch/patch" > /dev/null || { echo "its reverse does not apply" >&2; exit 1; }
""".replace("_GIT_", _GIT)


def diff(git_dir: str | None, scratch: str = SCRATCH) -> list[str]:
    """The command that prints what `read_diff` reads, run at the top of the work tree. What it does to it is not to be kept.

    `git_dir` is the repository against whose HEAD is compared, of which nothing is written; None: the work tree's own,
    which must be a directory that can be read. `scratch` is an empty directory outside of the work tree.

    With `LISTED` in its environment, only the paths on standard input are looked at: first those that are files or
    symbolic links now, then those that were something else before and are not any more, each as `./path` with a
    NUL behind it. Without, everything is.
    """
    return ["/bin/sh", "-c", _DIFF, "sh", scratch, git_dir or "", EXCLUDED]


def read_diff(printed: bytes) -> Diff:
    """What the script printed. Raises Refused if that is nothing that the script prints: the tools inside are not ours."""
    try:
        return _read_diff(printed)
    except (ValueError, IndexError):
        raise Refused(
            "the diff cannot be read: the state's own sh, git, wc or tr is missing, or not what it seems"
        ) from None


def _read_diff(printed: bytes) -> Diff:
    first, _, rest = printed.partition(b"\n")
    parts = list[bytes]()
    for size in map(int, first.split()):
        parts.append(rest[:size])
        rest = rest[size:]
    left_out = set[str]()
    fields = iter(parts[0].split(b"\0")[:-1])
    for source, _, pattern, path in zip(fields, fields, fields, fields, strict=True):
        if source.endswith(b"/excluded") and not pattern.startswith(b"!"):
            left_out.add(_excluded(_text(path), _text(pattern)))
    for part in parts[1:]:
        left_out.update(_text(path) for path in part.split(b"\0")[:-1])
    most = sorted(left_out)[:_MOST_LEFT_OUT]
    return Diff(patch=rest, left_out=tuple(most))


def apply() -> list[str]:
    """The command that applies the patch on standard input, to the letter."""
    return [*shlex.split(_GIT), "apply", "-"]  # one program less to start than through sh


def fuzzy(patch: bytes, scratch: str = SCRATCH) -> Iterator[tuple[str, list[str], bytes]]:
    """Ever more forgiving ways to apply a patch: a name, a command, and its standard input.

    Each is to be tried on the pristine state; the state of one that failed is not to be used. Each also tries whether the
    patch could be taken back. `git apply --3way` is not among them: what it merges cannot be, and nobody then knows whether
    every hunk is in.
    """
    clean = cleaned(patch)
    strip = "1" if _prefixed(clean) else "0"
    for name, (tool, *options) in _STEPS.items():
        if name == "exact" and strip == "0":
            continue  # it would make new files where they do not belong
        if name == "cleaned" and (clean, strip) == (patch, "1"):
            continue
        how = ["/bin/sh", "-c", _APPLY, "sh", tool, "1" if name == "exact" else strip, scratch, *options]
        yield name, how, patch if name == "exact" else clean


def cleaned(patch: bytes) -> bytes:
    """A patch as git wants it: its own line ends, the last one too, and nothing between and behind the hunks."""
    lines = patch.split(b"\n")
    if any(_HEAD.match(line) and line.endswith(b"\r") for line in lines):
        lines = [line.removesuffix(b"\r") for line in lines]
    kept, binary, old, new, hunk = list[bytes](), False, 0, 0, False
    for n, line in enumerate(lines):
        starts = line.startswith(b"--- ") and lines[n + 1 : n + 2] and lines[n + 1].startswith(b"+++ ")
        inside = hunk and (old > 0 or new > 0)
        if line.startswith(b"diff --git ") or (starts and not inside):
            binary = hunk = False
        elif match := _HUNK.match(line):
            binary, hunk = False, True
            old, new = (1 if size is None else int(size) for size in match.groups())
        elif line.startswith((b"GIT binary patch", b"Binary files ")):
            binary, hunk = True, False
        elif hunk:
            hunk = line[:1] in b" +-\\" and (inside or bool(line.strip()))
            old -= line[:1] in b" -"
            new -= line[:1] in b" +"
        if hunk or binary or _HEAD.match(line):
            kept.append(line)
    return b"\n".join(kept).rstrip(b"\n") + (b"\n\n" if binary else b"\n")


_HEAD = re.compile(
    rb"(diff --git |index [0-9a-f]+\.\.|--- |\+\+\+ |@@ -|(new|old|deleted) (file )?mode |(rename|copy) (from|to) "
    rb"|(dis)?similarity index |Binary files )"
)
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def _prefixed(patch: bytes) -> bool:
    """Whether the paths of a patch have a component before them, as in `a/` and `b/`."""
    pairs = re.findall(rb"^--- \"?([^\t\n]+).*\n\+\+\+ \"?([^\t\n]+)", patch, re.MULTILINE)
    for old, new in pairs:
        paths = [path for path in (old, new) if path != b"/dev/null"]
        if all(path.startswith((b"a/", b"b/")) for path in paths):
            continue
        if len(paths) < 2 or old == new:
            return False
    return True


def _excluded(path: str, pattern: str) -> str:
    """What an excluded file is named as: the directory that a pattern means, not each file in it."""
    parts, depth = path.split("/"), pattern.strip("/").count("/") + 1
    if pattern.endswith("/"):
        for n in range(1 if pattern.startswith("/") else len(parts)):
            found = "/".join(parts[:depth]) if pattern.startswith("/") else "/".join(parts[n : n + depth])
            if fnmatch(found, pattern.strip("/")):
                return "/".join(parts[: n + depth]) + "/"
    return path


def _text(path: bytes) -> str:
    return path.removeprefix(b"./").decode("utf-8", "surrogateescape")
