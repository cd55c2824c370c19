"""What a repository in a sandbox may hold: the base commit, all before it, and the tags on that. Nothing after it.

Deleting branches is not enough: a commit can be read by its id as long as its object is anywhere. So all objects are
listed, and if there is one that the base commit does not reach, or anything else in `.git` that could tell, the
repository is made anew from what the base commit reaches.
"""

from __future__ import annotations

from runoff.sandbox.git import ENVIRONMENT
from runoff.sandbox.protocol import REPO, Limits, Refused, Sandbox, SandboxLost, State

_LIMITS = Limits(seconds=1800, output=1 << 16, file_size=1 << 40)

# Only sh, git and what every system has: an image need not have more. All of it runs as the sandbox's own user.
_SEAL = r"""
set -u
no() { echo "$*" >&2; exit 1; }
git() {
    command git -c safe.directory='*' -c core.fsmonitor=false -c core.hooksPath=/dev/null -c core.untrackedCache=false \
        -c core.commitGraph=false -c core.multiPackIndex=false -c core.logAllRefUpdates=false -c gc.auto=0 "$@"
}
command -v git >/dev/null || no "there is no git in this environment to check the repository with"
here=$(pwd -P)
lists=$(mktemp -d) || exit 1
export LC_ALL=C GIT_NO_REPLACE_OBJECTS=1 GIT_GRAFT_FILE="$lists/none"
new="$here/.sealing-$$"
trap 'rm -rf "$lists" "$new"' EXIT

[ -e .git ] || [ -L .git ] || no "$here is not a repository"
[ -d .git ] && [ ! -L .git ] && [ ! -e .git/commondir ] ||
    no "$here/.git leads elsewhere (a linked work tree, a submodule); bring the repository itself"
[ -z "$(find .git -type l | head -n 1)" ] || no "$here/.git holds symbolic links; bring a plain clone"
[ ! -e .git/reftable ] || no "$here keeps its refs in reftable, which cannot be checked; bring a clone with plain refs"
[ -z "$(find .git -name '*.promisor' | head -n 1)" ] || no "$here is a partial clone; bring a whole one"
git rev-parse -q --verify 'HEAD^{commit}' >"$lists/base" || no "$here has no commit checked out"
read -r base <"$lists/base"

kept() { git for-each-ref --merged="$base" --format="$1" refs/tags refs/heads; }
reached() {
    { echo "$base"; kept '%(objectname)'; } | git rev-list --objects --stdin >"$lists/walk" ||
        no "$here lacks objects that its commit $base needs"
    cut -d' ' -f1 "$lists/walk" | sort -u >"$lists/reached"
}
foreign() { # what is there and not reached
    git cat-file --batch-all-objects --unordered --batch-check='%(objectname)' | sort -u |
        comm -13 "$lists/reached" - >"$lists/foreign"
    [ -s "$lists/foreign" ]
}
telling() { # what else in .git can tell: of other commits, or where they are
    ls -A .git | grep -vxE 'HEAD|branches|config|description|hooks|index|info|objects|packed-refs|refs|shallow' && return
    ls -A .git/info 2>/dev/null | grep -vxE 'exclude|attributes|refs|sparse-checkout' && return
    ls -A .git/objects/info 2>/dev/null | grep -vx packs && return
    ls -A .git/objects/pack 2>/dev/null | grep -vE '^pack-[0-9a-f]*\.(pack|idx|rev|bitmap)$' && return
    git count-objects -v | grep '^garbage: [1-9]' && return
    git config --local --get-regexp '^(remote|branch|submodule|include|includeif|url)\.' && return
    git for-each-ref --format='%(refname)' >"$lists/refs"
    kept '%(refname)' | sort | comm -13 - "$lists/refs" | grep . && return
    git ls-files --stage | cut -d' ' -f2 | sort -u | comm -23 - "$lists/reached" | grep .
}
lone() { # whether it is no part of the base commit
    case $1 in */.git/*) return 0 ;; "$here"/*) ;; *) return 0 ;; esac
    [ -n "$(git ls-files --others -- "$1" | head -n 1)" ] || ! git diff --quiet --no-ext-diff "$base" -- "$1"
}
store() { # another object store: refused if it has this history and more
    [ -e "$lists/look" ] || git init -q --bare "$lists/look" || exit 1
    GIT_DIR="$lists/look" GIT_OBJECT_DIRECTORY="$1" git cat-file --batch-all-objects --unordered \
        --batch-check='%(objecttype) %(objectname)' >"$lists/there" 2>/dev/null || return 0
    grep -E '^(commit|tree)' "$lists/there" | cut -d' ' -f2 | sort -u | comm -12 - "$lists/reached" |
        grep -vxE '4b825dc642cb6eb9a060e54bf8d69288fbee4904|6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321' \
            >"$lists/shared"
    [ -s "$lists/shared" ] || [ "${2-}" ] || return 0
    cut -d' ' -f2 "$lists/there" | sort -u | comm -13 "$lists/reached" - >"$lists/more"
    [ ! -s "$lists/more" ] || no "$1 also holds objects of this history that come after $base; remove it"
}

if [ -e .git/worktrees ]; then
    for file in .git/worktrees/*/gitdir; do
        [ -f "$file" ] && read -r place <"$file" && [ -e "$place" ] &&
            no "another work tree of this repository is at ${place%/.git}; remove it"
    done
fi
reached
if [ -f .git/objects/info/alternates ]; then
    while read -r place; do
        case $place in '' | '#'*) continue ;; /*) ;; *) place=$here/.git/objects/$place ;; esac
        if [ -d "$place" ]; then store "$place" named; fi
    done <.git/objects/info/alternates
fi

find . -path ./.git -prune -o -name .git ! -type d -print >"$lists/links"
while IFS= read -r link; do
    target=$(sed -n 's/^gitdir: //p' "$link" 2>/dev/null)
    case $target in /*) ;; *) target=$(dirname "$link")/$target ;; esac
    target=$(cd "$target" 2>/dev/null && pwd -P)
    case $target in
        "$here"/.git/modules/*) rm -f "$link" || no "cannot write to $here" ; echo submodule >>"$lists/links-gone" ;;
        *) no "$here/${link#./} leads elsewhere; bring that repository's files without it" ;;
    esac
done <"$lists/links"

find / -xdev \( -path "$here/.git" -o -path "$lists" -o -path /proc -o -path /sys -o -path /dev \) -prune -o \
    \( -name '*.pack' -o -name '*.bundle' -o -name objects -type d \) -print 2>/dev/null >"$lists/places"
while IFS= read -r place; do
    if [ -d "$place" ]; then
        ls -A "$place" | grep -qxE 'pack|info|[0-9a-f][0-9a-f]' && lone "$place" && store "$place"
        continue
    fi
    case $place in */objects/pack/*) continue ;; esac
    case $(head -c 12 "$place" 2>/dev/null | tr -d '\0') in
        PACK* | '# v'[0-9]' git b'*) ! lone "$place" || no "$place holds git objects; remove it" ;;
    esac
done <"$lists/places"

if ! foreign && ! telling >/dev/null && [ ! -e "$lists/links-gone" ]; then
    echo clean
    exit 0
fi

case ${#base} in 64) format=--object-format=sha256 ;; *) format= ;; esac
git init -q --template= $format --bare "$new" || no "cannot write to $here"
{ echo "$base"; kept '%(objectname)'; } | git pack-objects --revs --stdout -q --delta-base-offset |
    command git --git-dir="$new" index-pack --stdin >/dev/null || no "cannot pack the history of $base"
kept 'create %(refname) %(objectname)' | command git --git-dir="$new" update-ref --stdin || exit 1
if branch=$(git symbolic-ref -q HEAD); then
    command git --git-dir="$new" symbolic-ref HEAD "$branch" &&
        command git --git-dir="$new" update-ref "$branch" "$base"
else
    command git --git-dir="$new" update-ref --no-deref HEAD "$base"
fi || exit 1
command git --git-dir="$new" config core.bare false
for name in core.autocrlf core.eol core.fileMode core.symlinks core.ignoreCase; do
    if value=$(git config --local --get "$name"); then command git --git-dir="$new" config "$name" "$value"; fi
done
mkdir -p "$new/info"
for file in info/exclude info/attributes shallow; do
    if [ -f ".git/$file" ]; then cp ".git/$file" "$new/$file" || exit 1; fi
done
rm -rf .git && mv "$new" .git || no "cannot write to $here/.git"
git read-tree "$base" || exit 1
git update-index -q --refresh >/dev/null
reached
if foreign; then no "$here still holds objects that $base does not reach"; fi
if telling >&2; then exit 1; fi
echo sealed
"""


async def sealed(sandbox: Sandbox, state: State, at: str = REPO) -> State:
    """The state with a repository at `at` in which nothing after its checked-out commit can be read, by whatever id.

    That commit's history and the branches and tags on it stay, and so do the work tree's files; remotes, reflogs, stashes,
    notes, submodules' stores and hooks do not, if there was anything to seal. The index is the commit's.
    Raises Refused, in a line, for what cannot be sealed: another work tree, a store or a bundle elsewhere that has more of
    this history. Not promised: files that are no repository's, such as a copy of later sources in another directory.
    """
    done = await sandbox.execute(state, ["/bin/sh", "-c", _SEAL], _LIMITS, env=ENVIRONMENT, cwd=at)
    if done.outcome == "lost":
        raise SandboxLost(done.text)
    if done.exit_code != 0 or done.after is None:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Refused(words[-1] if words else f"checking the repository's history: {done.outcome}")
    return state if done.stdout.strip() == b"clean" else done.after
