"""Which files and which definitions an issue is about, told without a model: word statistics, names, frames, neighbours.

Every signal is known to the literature on bug localisation; what each is worth here was chosen on half of the
repositories of docs/measured (recall), by coordinate ascent, and rounded:
BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, section 3) over files and over the pieces of
files (BLUiR and BugLocator search structure and segments likewise), the title weighed twice; definitions that the issue
names; paths, dotted modules and traceback frames; what the best files import and the best pieces call.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

from runoff.agent.index import Source, python_imports, words

_K1, _B, _RARITY = 1.2, 0.75, 1.5
"""BM25's saturation and length normalisation; the power of a word's rarity: issues are prose, and prose is common."""
_WEIGHT = {
    "file": 0.2,
    "piece": 0.5,
    "pieces": 1.0,
    "place": 0.5,
    "symbol": 0.3,
    "path": 1.0,
    "dotted": 0.2,
    "frame": 0.7,
    "called": 0.3,
    "imported": 0.2,
}
_ASIDE = 0.4
"""What a file's score is multiplied by that nobody edits to mend the product: vendored, generated, examples, docs."""

_VENDORED = re.compile(
    r"(^|/)(_?vendor(ed|s)?|third[_-]?party|3rdparty|c?extern(al)?s?|node_modules|bower_components|_?bundled|site-packages|"
    r"Pods|Carthage|subprojects|Godeps|generated)/"
    r"|[^/]/packages/.*\.py$"  # requests/packages/urllib3; but packages/ at the top is how JavaScript keeps its own
    r"|\.min\.\w+$|[-.]\d+\.\d+(\.\d+)?\.\w+$|(^|/)(jquery|underscore)[\w.-]*\.js$"
    r"|(parsetab|lextab|_pb2(_grpc)?)\.py$|[._]pb\.(go|cc|h|js|ts)$|[._]generated\.\w+$|\.(designer|g)\.\w+$|(^|/)zz_generated",
    re.IGNORECASE,
)
_BESIDE = re.compile(
    r"(docs?|documentation|examples?|samples?|demos?|tutorials?|benchmarks?|asv_bench|bench|scripts?|tools?|ci|\.github|"
    r"release|bin)/|(setup|conf|noxfile|versioneer|fabfile|manage)\.py$",
    re.IGNORECASE,
)
_PATH = re.compile(r"[\w./\\-]*\w\.(?:pyi?|pyx|[mc]?js|jsx|tsx?|go|rs|java|c|h|cc|cpp|hpp|rb|php|cs)\b")
_DOTTED = re.compile(r"(?<![\w/.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_FRAME = re.compile(r"""File "([^"\n]+)", line \d+(?:, in (\w+))?|^\s*(?:at .*\()?([\w./-]+\.\w+):\d+""", re.MULTILINE)
_FENCED = re.compile(r"^(```|~~~)[^\n]*\n(.*?)^\1", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]+)`")
_NAME = re.compile(r"[A-Za-z_]\w+")
_CALLED = re.compile(r"([A-Za-z_]\w+)\s*\(")
_CODE_LIKE = re.compile(r"\w_\w|[a-z][A-Z]|^_")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_VERSION = re.compile(
    r"^[^\w\n]*(?:\w[\w .()/-]{0,30}?)\W{0,4}\s*v?\d+\.\d+[\w.+-]*\W*$|^[\w-]+: (?:None|installed|not installed)\s*$",
    re.MULTILINE,
)
_COMMON = frozenset(
    """a about above after again against all also although always am an and any anything are as at be because been before
    being below between both but by can cannot could did do does doing down during each either else etc even every expected
    following for from further get gets getting given gives had has have having he her here how however if in instead into
    is it its itself just like made make makes many may me might more most much must my need needs no nor not now of off on
    once only or other our out over own per please possible problem same see seem seems she should shouldn since so some
    something still such than that the their them then there therefore these they thing this those though through to too
    under until up us use used using very via want was way we well were what when where whether which while who why will
    with within without won work works would yes you your don doesn didn isn wasn aren bug issue steps reproduce actual
    behavior behaviour description""".split()
)
"""English that says nothing of where, and the headings of issue templates."""


K = TypeVar("K")


class At(NamedTuple):
    """A piece of a file: see `index.Source.pieces`."""

    path: str
    piece: int


class Found(NamedTuple):
    """What a search came to: all files and, of the files with a chance, all pieces, best first."""

    files: list[str]
    pieces: list[At]


class Corpus:
    """One tree's sources under their paths, and who defines what."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = {path: sources[path] for path in sorted(sources)}
        self.place = {path: words(path) for path in self.sources}
        self.own = {path: sorted(words(" ".join(_module(path)[-2:]))) for path in self.sources}
        """The words of a file's own name and its folder's."""
        self.lengths = {path: source.length + self.place[path].total() for path, source in self.sources.items()}
        length = max(1, sum(self.lengths.values()))
        self.ats = {path: [At(path, n) for n in range(len(source.pieces))] for path, source in self.sources.items()}
        self.pieces = sum(map(len, self.ats.values()))
        mean, mean_piece = length / max(1, len(self.sources)), length / max(1, self.pieces)
        self.norms = {path: _K1 * (1 - _B + _B * own / mean) for path, own in self.lengths.items()}
        self.piece_norms = {
            path: [_K1 * (1 - _B + _B * piece.words / mean_piece) for piece in source.pieces]
            for path, source in self.sources.items()
        }
        """What BM25 adds to a word's count in a file, and in each of its pieces: more where there are many words."""
        self.defined: dict[str, list[At]] = defaultdict(list)
        """Unqualified name → the pieces that define it."""
        self.modules: dict[str, list[str]] = defaultdict(list)
        """Dotted module, or any end of it → files."""
        for path, source in self.sources.items():
            for at, piece in zip(self.ats[path], source.pieces, strict=True):
                if piece.name:
                    self.defined[piece.name.rpartition(".")[2]].append(at)
            parts = _module(path)
            for start in range(len(parts)):
                self.modules[".".join(parts[start:])].append(path)

    def imports(self, path: str) -> list[str]:
        """The files of the tree that a file imports, as far as names tell."""
        found = {self._resolve(name, path) for name in self.sources[path].imports}
        return sorted(target for target in found if target and target != path)

    def ending(self, named: str) -> list[str]:
        """Files whose path ends as a path that somebody wrote, which may have begun on another machine."""
        parts = [part for part in re.split(r"[/\\]", named) if part not in ("", ".", "..")]
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if found := [path for path in self.sources if path == tail or path.endswith("/" + tail)]:
                lone = start and start == len(parts) - 1  # only the name fits, though folders were given
                return found if len(found) <= (1 if lone else 3) else []
        return []

    def dotted(self, name: str) -> Iterator[tuple[At, float]]:
        """Where a dotted name may lead (`pkg.mod.Class.method`, `pkg.Class` by re-export, `Class.method`), and how surely."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            files = self.modules.get(".".join(parts[:end]), [])
            if not files or (end == 1 and (len(parts[0]) < 3 or len(files) > 1)):
                continue
            named = False
            roots = tuple(path.removesuffix("__init__.py") for path in files)
            for part in parts[end : end + 2]:
                below = [at for at in self.defined.get(part, ()) if at.path.startswith(roots)]
                exact = [at for at in below if at.path in files] or below
                named = named or bool(exact)
                yield from ((at, 1 / len(exact)) for at in exact[:5])
            if not named and end > 1:
                yield from ((At(path, 0), (1.0 if end == len(parts) else 0.5) / len(files)) for path in files[:3])
            return
        for holder, member in pairwise(parts):
            qualified = f"{holder}.{member}"
            where = [at for at in self.defined.get(member, ()) if self.name(at).endswith(qualified)]
            yield from ((at, 1 / len(where)) for at in where[:5])

    def name(self, at: At) -> str:
        return self.sources[at.path].pieces[at.piece].name

    def _resolve(self, name: str, path: str) -> str | None:
        if not path.endswith((".py", ".pyi", ".pyx")):
            tail = [part for part in re.split(r"[/\\.:]+", name) if part]
            ends = (len(tail), len(tail) - 1)
            return next((self.modules[key][0] for end in ends if (key := ".".join(tail[:end])) in self.modules), None)
        parts = [part for part in name.split(".") if part]
        if name.startswith("."):
            up = len(name) - len(name.lstrip("."))
            folder = PurePosixPath(path).parts[:-1]
            folder = folder[: max(0, len(folder) - up + 1)]
            for end in range(len(parts), -1, -1):
                stem = "/".join((*folder, *parts[:end]))
                for target in (f"{stem}.py", f"{stem}/__init__.py"):
                    if target in self.sources:
                        return target
            return None
        for end in range(len(parts), 0, -1):
            files = self.modules.get(".".join(parts[:end]), [])
            if files and (end > 1 or len(files) == 1):
                return files[0]
        return None


def is_vendored(path: str) -> bool:
    """Whether a file is somebody else's or a program's work: vendored, minified, generated."""
    return bool(_VENDORED.search(path))


def search(corpus: Corpus, issue: str) -> Found:
    """All files, and the pieces of the first few hundred, by how probably the issue is about them.

    Pure: the same tree and issue give the same order in every process. Ties go by path.
    """
    if not corpus.sources:
        return Found([], [])
    issue = _VERSION.sub("", _COMMENT.sub("", issue))
    title = issue.strip().partition("\n")[0]
    by_file, by_piece, rarity = _bm25(corpus, _wanted(issue, title))
    symbols, named = _symbols(corpus, issue, title)
    dotted: dict[str, float] = defaultdict(float)
    for name in sorted({*_DOTTED.findall(issue), *python_imports(issue)}):
        for at, weight in corpus.dotted(name):
            dotted[at.path] += weight
            if at.piece:
                named[at] += weight
    frames = _frames(corpus, issue, named)

    in_file: dict[str, list[float]] = defaultdict(list)
    for at, score in by_piece.items():
        in_file[at.path].append(score)
    best = {path: sorted(scores, reverse=True)[:8] for path, scores in in_file.items()}
    scores: dict[str, float] = defaultdict(float)
    for signal, values in {
        "file": _scaled(by_file),
        "piece": _scaled({path: found[0] for path, found in best.items()}),
        "pieces": _scaled({path: math.fsum(s / n for n, s in enumerate(found, 1)) for path, found in best.items()}),
        "place": _scaled(_places(corpus, title, rarity)),
        "symbol": {path: min(value, 2.0) for path, value in symbols.items()},
        "path": _paths(corpus, issue),
        "dotted": {path: min(value, 1.5) for path, value in dotted.items()},
        "frame": frames,
        "called": _scaled(_called(corpus, by_piece, named)),
    }.items():
        for path, value in values.items():
            scores[path] += _WEIGHT[signal] * value
    for path in corpus.sources:
        scores[path] *= _ASIDE if _aside(path) else 1.0
    for path, value in _scaled(_imported(corpus, scores)).items():
        scores[path] += _WEIGHT["imported"] * value * (_ASIDE if _aside(path) else 1.0)

    files = sorted(corpus.sources, key=lambda path: (-scores[path], path))
    return Found(files, _pieces(corpus, files[:400], _scaled(scores), _scaled(by_piece), named))


def _wanted(issue: str, title: str) -> dict[str, float]:
    """Word → its weight: how often it is said (three times at most), once more in the title, half more if quoted as code."""
    wanted: dict[str, float] = {word: min(count, 3) for word, count in words(issue).items() if word not in _COMMON}
    for more, text in ((1.0, title), (0.5, " ".join(_QUOTED.findall(_FENCED.sub("", issue))))):
        for word in words(text):
            if word in wanted:
                wanted[word] += more
    return dict(sorted(wanted.items()))


def _bm25(corpus: Corpus, wanted: Mapping[str, float]) -> tuple[dict[str, float], dict[At, float], dict[str, float]]:
    """BM25 of files and of pieces, and how rare each word is among files."""
    hits = dict[str, list[tuple[str, list[int]]]]()  # of each file: word, piece, count, piece, count, …
    holders, among_pieces = Counter[str](), Counter[str]()
    for path, source in corpus.sources.items():
        bag, place = source.words, corpus.place[path]
        both = (wanted.keys() & bag.keys()) | (wanted.keys() & place.keys())
        hits[path] = here = [(word, list(map(int, bag.get(word, "").split()))) for word in sorted(both)]
        for word, at in here:
            holders[word] += 1
            among_pieces[word] += len(at) // 2
    rarity = {word: _idf(len(corpus.sources), n) for word, n in holders.items()}
    file_gain = {word: wanted[word] * rarity[word] * (_K1 + 1) for word in holders}
    piece_gain = {word: wanted[word] * _idf(corpus.pieces, n) * (_K1 + 1) for word, n in among_pieces.items()}
    by_file, by_piece = dict[str, float](), dict[At, float]()
    for path, here in hits.items():
        place, norm, norms = corpus.place[path], corpus.norms[path], corpus.piece_norms[path]
        total, parts = 0.0, dict[int, float]()
        for word, at in here:
            often = sum(at[1::2]) + place.get(word, 0)
            total += file_gain[word] * often / (often + norm)
            gain = piece_gain[word]
            for n, times in zip(at[::2], at[1::2], strict=True):
                parts[n] = parts.get(n, 0.0) + gain * times / (times + norms[n])
        by_file[path] = total
        ats = corpus.ats[path]
        for n in sorted(parts):
            by_piece[ats[n]] = parts[n]
    return by_file, by_piece, rarity


def _idf(count: int, holders: int) -> float:
    return math.pow(math.log(1 + (count - holders + 0.5) / (holders + 0.5)), _RARITY)


def _symbols(corpus: Corpus, issue: str, title: str) -> tuple[dict[str, float], dict[At, float]]:
    """Files, and pieces, that define what the issue names; a name that many define says little of each."""
    quoted = " ".join(_QUOTED.findall(_FENCED.sub("", issue)))
    code = set(_NAME.findall(quoted + " " + "\n".join(found[2] for found in _FENCED.finditer(issue))))
    said = set(quoted.split()) | set(_CALLED.findall(issue))
    heading = set(_NAME.findall(title))
    files: dict[str, float] = defaultdict(float)
    pieces: dict[At, float] = defaultdict(float)
    for name in sorted(set(_NAME.findall(issue))):
        if not (where := corpus.defined.get(name)):
            continue
        weight = 1.0 if _CODE_LIKE.search(name) else 0.8 if name in said else 0.5 if name in code else 0.3
        weight *= 1.5 if name in heading else 1.0
        holding = {at.path for at in where}
        for path in holding:
            files[path] += weight / len(holding)
        for at in where:
            pieces[at] += weight / len(where)
    return files, pieces


def _places(corpus: Corpus, title: str, rarity: Mapping[str, float]) -> dict[str, float]:
    """How much of a file's own name and its folder's the issue says, twice as much if the title does."""
    heading, found = set(words(title)), dict[str, float]()
    for path, own in corpus.own.items():
        said = math.fsum(rarity.get(word, 0.0) * (2 if word in heading else 1) for word in own if word in rarity)
        found[path] = said / (1 + len(own))
    return found


def _paths(corpus: Corpus, issue: str) -> dict[str, float]:
    """Files whose path the issue names; less if only the last part fits, which may be a file of the user's."""
    found: dict[str, float] = {}
    for named in set(_PATH.findall(issue)):
        for path in corpus.ending(named):
            whole = path.endswith(named.lstrip("./")) and ("/" in named or "/" not in path)
            found[path] = max(found.get(path, 0.0), 1.0 if whole else 0.3)
    return found


def _frames(corpus: Corpus, issue: str, named: dict[At, float]) -> dict[str, float]:
    """Files in tracebacks, the last frame first; their functions are added to `named`."""
    found: dict[str, float] = {}
    frames = [(path or other, function) for path, function, other in _FRAME.findall(issue)]
    for n, (written, function) in enumerate(reversed(frames)):
        for path in corpus.ending(written):
            found[path] = max(found.get(path, 0.0), 1 / (1 + 0.3 * n))
            for at in corpus.defined.get(function, ()):
                if at.path == path:
                    named[at] += 1.0
    return found


def _called(corpus: Corpus, by_piece: Mapping[At, float], named: Mapping[At, float]) -> dict[str, float]:
    """Files that define what the best pieces call, if few files define it."""
    found: dict[str, float] = defaultdict(float)
    for at in heapq.nsmallest(25, by_piece, key=lambda at: (-by_piece[at] - 20 * named.get(at, 0.0), at)):
        for name in corpus.sources[at.path].calls[at.piece].split():
            holding = {other.path for other in corpus.defined.get(name, ())}
            if len(holding) <= 4:
                for path in holding - {at.path}:
                    found[path] += by_piece[at] / len(holding)
    return found


def _imported(corpus: Corpus, scores: Mapping[str, float]) -> dict[str, float]:
    """Files that the best files import; what imports much says little of each."""
    found: dict[str, float] = defaultdict(float)
    for path in heapq.nsmallest(15, scores, key=lambda path: (-scores[path], path)):
        targets = corpus.imports(path)
        for target in targets:
            found[target] += scores[path] / math.sqrt(len(targets))
    return found


def _pieces(
    corpus: Corpus,
    files: list[str],
    by_file: Mapping[str, float],
    by_piece: Mapping[At, float],
    named: Mapping[At, float],
) -> list[At]:
    """Pieces by their own words, by their file, and half as much by being named."""
    scored = list[tuple[float, At]]()
    for path in files:
        base = by_file.get(path, 0.0)
        for at in corpus.ats[path]:
            scored.append((-base - by_piece.get(at, 0.0) - 0.5 * min(named.get(at, 0.0), 1.0), at))
    return [at for _, at in sorted(scored)]


def _aside(path: str) -> bool:
    return is_vendored(path) or bool(_BESIDE.match(path))


def _module(path: str) -> list[str]:
    """`src/pkg/mod/__init__.py` as one imports it: pkg, mod."""
    parts = list(PurePosixPath(path).with_suffix("").parts)
    if parts[-1] in ("__init__", "index", "mod") and len(parts) > 1:
        parts.pop()
    return parts[1:] if parts[0] in ("src", "lib") and len(parts) > 1 else parts


def _scaled(scores: Mapping[K, float]) -> dict[K, float]:
    """So that the best has 1."""
    most = max(scores.values(), default=0.0)
    return {key: value / most for key, value in scores.items()} if most > 0 else {}
