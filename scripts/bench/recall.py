"""How often everything that was changed to resolve an issue is packed into a budget of tokens, without a model.

On real instances (instances.jsonl.gz), in the repositories of --repositories: DIR/owner__name is a git directory that
holds the base commits; an instance without one is left out. Answers are read only to look up what had been packed.
A file counts as packed if it is shown whole or if, in its excerpts, all lines of each definition that its patch touches
are shown; lines that only add an import need no definition. Plain BM25 over whole files is measured on the same
instances with the same files. Settings were chosen on the repositories of `CHOSEN_ON`, every second one by name of those
that could be had; the others were only measured.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from statistics import median

from runoff.agent.context import CODE, is_test
from runoff.agent.definitions import definitions, owners
from runoff.agent.index import Index, Source, words
from runoff.agent.packing import Packed, pack
from runoff.agent.search import Corpus, search
from runoff.agent.tokenizers import tokens

BUDGETS = (128_000, 64_000, 32_000)
TOPS = (1, 3, 5, 10, 20, 40)
CHOSEN_ON = (
    "astropy/astropy",
    "marshmallow-code/marshmallow",
    "pallets/flask",
    "pvlib/pvlib-python",
    "pydicom/pydicom",
    "pylint-dev/pylint",
    "sphinx-doc/sphinx",
    "sympy/sympy",
)


class Git:
    """Reads a git directory without a work tree."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._batch = subprocess.Popen(
            ["git", "-C", str(directory), "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def blobs(self, commit: str) -> dict[str, str]:
        """Path → blob of the source files that are searched."""
        listed = self.output("ls-tree", "-r", "-z", commit).split("\0")
        entries = ((about.split(), path) for about, _, path in (line.partition("\t") for line in listed if line))
        return {
            path: blob
            for (mode, _, blob), path in entries
            if mode.startswith("100") and PurePosixPath(path).suffix in CODE and not is_test(path)
        }

    def read(self, blob: str) -> bytes:
        pipe, answer = self._batch.stdin, self._batch.stdout
        assert pipe
        assert answer
        pipe.write(blob.encode() + b"\n")
        pipe.flush()
        size = int(answer.readline().split()[2])
        return answer.read(size + 1)[:size]

    def output(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self._directory), *arguments], capture_output=True, check=True)
        return done.stdout.decode("utf-8", "surrogateescape")

    def has(self, commit: str) -> bool:
        return not subprocess.run(
            ["git", "-C", str(self._directory), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True
        ).returncode


class Contents(dict[str, bytes]):
    """Path → bytes of one tree, read when looked at; blobs are remembered over trees."""

    seen: dict[str, bytes] = {}

    def __init__(self, git: Git, blobs: dict[str, str]) -> None:
        self._git, self._blobs = git, blobs

    def __missing__(self, path: str) -> bytes:
        blob = self._blobs[path]
        if blob not in self.seen:
            self.seen[blob] = self._git.read(blob)
        return self.seen[blob]


class Touched:
    """What a patch changes of the base, file by file."""

    def __init__(self, patch: str) -> None:
        self.lines: dict[str, list[tuple[int, str]]] = defaultdict(list)
        """Path → (line of the base, what is added behind it; empty for a line that is taken away)."""
        path, line = "", 0
        for text in patch.split("\n"):
            if text.startswith("--- "):
                path = "" if text.startswith("--- /dev/null") else text[6:].split("\t")[0]
                if path:
                    self.lines[path] += []
            elif found := re.match(r"@@ -(\d+)(,0)?", text):
                line = int(found[1]) + bool(found[2])
            elif path and text[:1] == "-":
                self.lines[path].append((line, ""))
                line += 1
            elif path and text[:1] == "+" and not text.startswith("+++ ") and text[1:].strip():
                self.lines[path].append((max(1, line - 1), text[1:]))
            elif text[:1] == " ":
                line += 1

    def shown(self, packed: Packed, tree: Contents) -> bool:
        return all(path in packed.whole or self._excerpted(path, packed, tree) for path in self.lines)

    def _excerpted(self, path: str, packed: Packed, tree: Contents) -> bool:
        if path not in packed.excerpts:
            return False
        source = tree[path]
        count = source.count(b"\n") + 1
        owner = owners(definitions(path, source), count)
        shown = {line for first, last in packed.excerpts[path] for line in range(first, last + 1)}
        touched = {
            owner[line - 1]
            for line, added in self.lines[path]
            if not (owner[line - 1] < 0 and added.lstrip().startswith(("import ", "from ", "#")))
        }
        blank = {n for n, text in enumerate(source.split(b"\n"), 1) if not text.strip()}
        return all(
            n in shown or n in blank
            for one in touched
            for n in (n for n, holder in enumerate(owner, 1) if holder == one)
        )


class Plain:
    """BM25 (k1 = 1.2, b = 0.75) over whole files, words and their parts; no more than 3 of a word count in the issue."""

    def __init__(self) -> None:
        self._bags: dict[str, Counter[str]] = {}

    def rank(self, sources: dict[str, Source], blobs: dict[str, str], issue: str) -> list[str]:
        bags = {}
        for path, source in sources.items():
            key = blobs[path] + path
            if key not in self._bags:
                bag = Counter({word: sum(n for _, n in source.stands(word)) for word in source.words})
                self._bags[key] = bag + words(path)
            bags[path] = self._bags[key]
        wanted = words(issue)
        lengths = {path: bag.total() for path, bag in bags.items()}
        mean = sum(lengths.values()) / len(lengths)
        holders = {word: sum(word in bag for bag in bags.values()) for word in wanted}

        def score(path: str) -> float:
            bag, norm = bags[path], 1.2 * (0.25 + 0.75 * lengths[path] / mean)
            return math.fsum(
                min(wanted[word], 3)
                * math.log(1 + (len(bags) - holders[word] + 0.5) / (holders[word] + 0.5))
                * bag[word]
                * 2.2
                / (bag[word] + norm)
                for word in wanted
                if word in bag
            )

        scores = {path: score(path) for path in bags}
        return sorted(scores, key=lambda path: (-scores[path], path))


def whole_files(ranked: Iterable[str], tree: Contents, budget: int) -> Packed:
    whole, left = list[str](), budget
    for path in ranked:
        if (cost := tokens(tree[path])) <= left:
            whole.append(path)
            left -= cost
    return Packed(tuple(whole), (), {})


def measure(
    name: str, git: Git, rows: list[dict[str, str]], answers: dict[str, str], kept: Path | None
) -> Iterator[dict[str, object]]:
    """One result an instance of a repository."""
    index, plain = Index(kept), Plain()
    Contents.seen.clear()
    for row in rows:
        blobs = git.blobs(row["base_commit"])
        tree = Contents(git, blobs)
        sources, _ = index.sources(blobs, lambda paths, tree=tree: ((path, tree[path]) for path in paths))
        corpus = Corpus(sources)
        started = time.perf_counter()
        found = search(corpus, row["problem_statement"])
        seconds = time.perf_counter() - started
        by_words = plain.rank(sources, blobs, row["problem_statement"])
        touched = Touched(answers[row["instance_id"]])
        result: dict[str, object] = {"repository": name, "seconds": seconds, "id": row["instance_id"]}
        for kind, ranked in (("plain", by_words), ("search", found.files)):
            at = {path: rank for rank, path in enumerate(ranked)}
            worst = max(at.get(path, 10**9) for path in touched.lines)
            result |= {f"{kind} top {top}": worst < top for top in TOPS}
            result |= {
                f"{kind} whole {budget}": touched.shown(whole_files(ranked, tree, budget), tree) for budget in BUDGETS
            }
        for budget in BUDGETS:
            packed = pack(found.files, found.pieces, tree, sources, budget, tokens)
            result[f"search packed {budget}"] = touched.shown(packed, tree)
        yield result


def table(title: str, results: list[dict[str, object]]) -> None:
    counts = Counter(str(result["repository"]) for result in results)
    print(f"\n{title}: {len(results)} instances, {', '.join(f'{name} {n}' for name, n in counts.items())}\n")

    def share(key: str) -> str:
        return f"{100 * sum(bool(result[key]) for result in results) / max(1, len(results)):.1f} %"

    print("| every changed file within … tokens | 128k | 64k | 32k |\n|---|---|---|---|")
    for text, key in (
        ("plain BM25, whole files", "plain whole"),
        ("search, whole files", "search whole"),
        ("search, packed", "search packed"),
    ):
        print(f"| {text} | {' | '.join(share(f'{key} {budget}') for budget in BUDGETS)} |")
    print(f"\n| every changed file among the first | {' | '.join(map(str, TOPS))} |\n|{'---|' * (len(TOPS) + 1)}")
    for text, key in (("plain BM25", "plain"), ("search", "search")):
        print(f"| {text} | {' | '.join(share(f'{key} top {top}') for top in TOPS)} |")


class Stopwatch:
    def __enter__(self) -> Stopwatch:
        self.wall, self.used = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.used = self.wall + time.perf_counter(), self.used + time.process_time()

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.used:.2f} s of processor)"


def speed(git: Git, rows: list[dict[str, str]]) -> None:
    """Built, moved by 100 commits, loaded and asked, in one process on one core; contents come from memory.

    Seconds are wall time, which on a busy machine says little, and processor time, which is what the work takes.
    """
    newest = max(rows, key=lambda row: row["created_at"])["base_commit"]
    older = git.output("rev-list", "--max-count=101", newest).split()[-1]
    place = Path(os.environ.get("TMPDIR", "/tmp")) / f"recall-{os.getpid()}.sqlite"
    try:
        for what, commit in (("built", older), ("nothing to do", older), ("moved 100 commits", newest)):
            blobs = git.blobs(commit)
            tree = {path: git.read(blob) for path, blob in blobs.items()}
            with Stopwatch() as watch:
                index = Index(place)
                moved = index.bring(blobs, lambda paths, tree=tree: ((path, tree[path]) for path in paths))
                index.close()
            print(f"{what}: {moved.files} files, {moved.read} read, {watch}")
        with Stopwatch() as watch:
            corpus = Corpus(Index(place).sources(blobs, lambda paths: ())[0])
        print(f"loaded: {watch}")
        watches = list[Stopwatch]()
        for row in rows[:40]:
            with Stopwatch() as watch:
                search(corpus, row["problem_statement"])
            watches.append(watch)
        for what, choose in (("median", median), ("longest", max)):
            wall, used = choose(w.wall for w in watches), choose(w.used for w in watches)
            print(f"asked {len(watches)} times, {what}: {1000 * wall:.0f} ms ({1000 * used:.0f} ms of processor)")
        print(f"on disk: {place.stat().st_size / 1e6:.1f} MB")
    finally:
        for end in ("", "-wal", "-shm"):
            Path(f"{place}{end}").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=Path, required=True, help="holds owner__name, a git directory each")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("RUNOFF_SHARED", "../shared")) / "data", help="the instances"
    )
    parser.add_argument("--half", choices=("1", "2"), help="only this half")
    parser.add_argument(
        "--index", type=Path, help="keep the index there, so that another measurement reads no file again"
    )
    parser.add_argument("--limit", type=int, help="no more than the first so many instances of a repository")
    parser.add_argument("--out", type=Path, help="add one JSON line an instance there, as it ends")
    given = parser.parse_args()
    with gzip.open(given.data / "instances.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    with gzip.open(given.data / "answers.jsonl.gz", "rt") as lines:
        answers = {row["instance_id"]: row["patch"] for row in map(json.loads, lines)}
    names = sorted({row["repo"] for row in rows})
    here = [name for name in names if (given.repositories / name.replace("/", "__")).is_dir()]
    left_out = Counter(row["repo"] for row in rows if row["repo"] not in here)
    print(f"left out for want of a repository: {', '.join(f'{n} {c}' for n, c in left_out.items()) or 'none'}")
    halves = {"1": [name for name in here if name in CHOSEN_ON], "2": [name for name in here if name not in CHOSEN_ON]}
    results: dict[str, list[dict[str, object]]] = {half: [] for half in halves}
    for half, repositories in halves.items():
        for name in repositories if given.half in (None, half) else ():
            git = Git(given.repositories / name.replace("/", "__"))
            own = [row for row in rows if row["repo"] == name and git.has(row["base_commit"])][: given.limit]
            for result in measure(name, git, own, answers, given.index):
                results[half].append(result)
                if given.out:
                    with given.out.open("a") as out:
                        out.write(json.dumps(result) + "\n")
            if name == "django/django":
                print(f"\nSpeed on {name}:")
                speed(git, own)
    for half, title in (("1", "The half that settings were chosen on"), ("2", "The other half")):
        if results[half]:
            table(title, results[half])
    if all(results.values()):
        table("All", [result for half in results.values() for result in half])


if __name__ == "__main__":
    main()
