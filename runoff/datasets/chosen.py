"""What `--instances` says: ids, globs and slices of a dataset, from the command line or from a file. Pure, but for the file."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from runoff.datasets.protocol import BadDataset

_SLICE = re.compile(r"(-?\d*):(-?\d*)")


def chosen(ids: Sequence[str], said: str | None) -> list[str]:
    """Those of a dataset's ids that `said` names, each once, in the dataset's order. None is all of them.

    Several with commas: an id, a glob (`django__*`), a slice of the dataset's order (`0:50`, `-10:`), `@FILE` with one a
    line. Raises BadDataset, which names near ids, for one that names nothing.
    """
    if said is None:
        return list(ids)
    wanted = set[str]()
    for part in _parts(said):
        if found := _SLICE.fullmatch(part):
            start, stop = (int(number) if number else None for number in found.groups())
            some = set(ids[start:stop])
        elif any(sign in part for sign in "*?["):
            some = set(fnmatch.filter(ids, part)) if part not in ids else {part}
        else:
            some = {part} & set(ids)
        if not some:
            raise BadDataset(_unknown(part, ids))
        wanted |= some
    return [one for one in ids if one in wanted]


def _parts(said: str) -> Iterator[str]:
    for part in filter(None, map(str.strip, said.split(","))):
        if not part.startswith("@"):
            yield part
            continue
        try:
            lines = Path(part[1:]).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadDataset(
                f"--instances {part}: {error.strerror if isinstance(error, OSError) else 'not text'}"
            ) from None
        yield from filter(None, (line.partition("#")[0].strip() for line in lines))


def _unknown(part: str, ids: Sequence[str]) -> str:
    if _SLICE.fullmatch(part):
        return f"--instances {part} is empty: the dataset has {len(ids)}"
    if any(sign in part for sign in "*?["):
        return f"--instances {part} matches none of {len(ids)}, such as {', '.join(ids[:2])}"
    lower = {one.lower(): one for one in ids}
    near = [lower[name] for name in difflib.get_close_matches(part.lower(), lower, n=3, cutoff=0.6)]
    near = near or [one for one in ids if part.lower() in one.lower()][:3]
    rest = f"near it: {', '.join(near)}" if near else f"there are {len(ids)}, such as {', '.join(ids[:2])}"
    return f"no instance {part}; {rest}"
