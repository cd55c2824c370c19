"""What is known beforehand of the repository's own tests on a base, by what their results depend on."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from runoff.agent.environment import Environment
from runoff.sandbox.protocol import Value
from runoff.selection.repository_tests import SUITE, Outcomes, collected, placing, runner

_PROSE = re.compile(
    r"(?i:\.(md|rst|txt|adoc|po|pot|svg|png|jpe?g|gif|ico)$|(^|/)(docs?|\.github)/)"
    r"|(^|/)\.(pre-commit|readthedocs|git|mailmap|codecov|travis|appveyor)[^/]*$"
    r"|(^|/)(AUTHORS|CHANGES|CHANGELOG|CONTRIBUTING|COPYING|LICEN[CS]E|NEWS|NOTICE|README)$"
)
"""What no test's result depends on: texts, pictures, and what is for other machines."""
_ROOTS = ("src", "lib")


class KnownTests(Value):
    """How the tests of one file ended on the base, run twice."""

    passed: tuple[str, ...] = ()
    """Passed both times."""
    failed: tuple[str, ...] = ()
    """Did not pass either time, or were skipped."""
    flaky: tuple[str, ...] = ()
    """Passed once."""


def dependencies(
    blobs: Mapping[str, str], imports: Mapping[str, Sequence[str]], environment: Environment
) -> dict[str, str]:
    """Test file → digest of all that its results depend on, as far as can be told without running; `SUITE` → of everything.

    That is: the file; the Python files that it imports, by name, directly or indirectly, with their packages' `__init__`
    and every conftest.py at or above a test; every tracked file that is neither Python nor prose (data, configuration,
    compiled sources); the command, its variables, the interpreter and the installed packages with their versions.
    What a test reaches otherwise (a plugin by its entry point, a module by a computed name) is not seen.
    `imports` are those of each Python file as `index.python_imports` gives them.
    """
    around = [environment.test or "", json.dumps(environment.env, sort_keys=True), *environment.installed]
    rest = [f"{path} {blob}" for path, blob in sorted(blobs.items()) if path not in imports and not _PROSE.search(path)]
    common = _digest([*around, *rest])
    if not runner(environment.test or ""):
        python = [f"{path} {blobs[path]}" for path in sorted(imports)]
        return {SUITE: _digest([common, *python])}
    modules = _Modules(imports)
    direct = {path: modules.imported(path, names) for path, names in imports.items()}
    reached = _reached(direct, {path: f"{path} {blobs[path]}" for path in imports})
    conftests = [path for path in sorted(imports) if PurePosixPath(path).name == "conftest.py"]
    needed = dict[str, str]()
    for path in filter(collected, sorted(imports)):
        above = [other for other in conftests if path.startswith(other.removesuffix("conftest.py"))]
        needed[path] = _digest([common, path, *(reached[used] for used in (path, *above, *modules.packages(path)))])
    return needed


def by_file(command: str, first: Outcomes, second: Outcomes, ran: Sequence[str]) -> dict[str, KnownTests]:
    """What two runs of test files on the base say of each. A file whose tests cannot be told from others' is left out."""
    if first.tests is None or second.tests is None:
        return {}
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    place = placing(command, ran)
    for test in sorted({*first.tests, *second.tests}):
        passes = (first.tests.get(test) == "passed") + (second.tests.get(test) == "passed")
        end = ("failed", "flaky", "passed")[passes]
        at = (SUITE, "") if test == SUITE else place(test)
        if at:
            found[at[0]][end].add(test)
    return {
        path: KnownTests(**{end: tuple(sorted(tests)) for end, tests in ends.items()}) for path, ends in found.items()
    }


class _Modules:
    """Which files a name that Python imports may mean: too many rather than too few."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._exact: dict[str, list[str]] = defaultdict(list)
        self._ending: dict[str, list[str]] = defaultdict(list)
        self._paths = set(paths)
        for path in sorted(self._paths):
            parts = list(PurePosixPath(path).with_suffix("").parts)
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            for start in range(len(parts)):
                exact = start == 0 or (start == 1 and parts[0] in _ROOTS)
                (self._exact if exact else self._ending)[".".join(parts[start:])].append(path)

    def imported(self, path: str, names: Sequence[str]) -> set[str]:
        package = list(PurePosixPath(path).parts[:-1])
        found = set[str]()
        for name in names:
            relative = len(name) - len(name.lstrip("."))
            parts = [part for part in name.split(".") if part]
            if relative:
                parts = package[: len(package) - relative + 1] + parts
            for end in range(len(parts), 0, -1):
                key = ".".join(parts[:end])
                if files := self._exact.get(key) or (() if relative else self._ending.get(key)):
                    found.update(files)
                    break
        return found | {init for used in found for init in self.packages(used)}

    def packages(self, path: str) -> list[str]:
        """The `__init__` of each package that a file stands in: importing it runs them."""
        folders = PurePosixPath(path).parts[:-1]
        inits = ("/".join((*folders[:end], "__init__.py")) for end in range(1, len(folders) + 1))
        return [init for init in inits if init in self._paths]


def _reached(direct: Mapping[str, set[str]], about: Mapping[str, str]) -> dict[str, str]:
    """File → digest of what is said `about` each file that it reaches, itself among them.

    Files that import each other have one digest: Tarjan, Depth-first search and linear graph algorithms, 1972. Its components
    come after all that they reach, so each is made of its own files and of the digests of the next.
    """
    digests, number, low, open_ = dict[str, str](), dict[str, int](), dict[str, int](), list[str]()
    for root in sorted(direct):
        path = [(root, iter(sorted(direct[root])))] if root not in number else []
        while path:
            here, following = path[-1]
            if here not in number:
                number[here] = low[here] = len(number)
                open_.append(here)
            for used in following:
                if used not in number:
                    path.append((used, iter(sorted(direct[used]))))
                    break
                if used not in digests:
                    low[here] = min(low[here], number[used])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[here])
                if low[here] == number[here]:
                    start = open_.index(here)
                    members, open_[start:] = sorted(open_[start:]), []
                    beyond = {digests[used] for one in members for used in direct[one] if used in digests}
                    made = _digest([*(about[one] for one in members), *sorted(beyond)])
                    digests |= dict.fromkeys(members, made)
    return digests


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
