"""Which files matter: a search, a model that says which of the first are relevant, a ranking, a packed context."""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pydantic import Field

from runoff.agent import packing
from runoff.agent.answers import batches, readable
from runoff.agent.index import Index, Source, blob_hash
from runoff.agent.outline import outline
from runoff.agent.packing import Span
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Sampling
from runoff.agent.search import Corpus, Found, search
from runoff.agent.step import Ended, Step
from runoff.agent.summaries import glance
from runoff.agent.threads import Threads
from runoff.agent.tokenizers import counter, tokens
from runoff.sandbox.protocol import Value

Tree = Mapping[str, bytes]
"""The repository at its base commit: tracked path → contents."""

CODE = frozenset(
    ".py .pyi .pyx .pxd .js .mjs .cjs .jsx .ts .tsx .go .rs .java .c .h .cc .cpp .hpp .rb .php .cs".split()
)
_WARM = 0.7
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]+|\d{2,}")
_PART = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


class ContextRecipe(Value):
    """How the files that matter are found."""

    search: Literal["words", "index"] = "index"
    """`index`: by an index of files and definitions (see `search.search`), and what does not fit whole is shown in the
    definitions that matter. `words`: BM25 over whole files, and outlines of what does not fit."""
    shortlist: int = 40
    """Files that the lexical search leaves in."""
    relevance: bool = True
    """Whether a model reads these files and says which matter, and another ranks those; otherwise the search decides alone."""
    rankings: int = Field(default=1, ge=1)
    """How often they are ranked; several rankings are merged by mean place."""
    relevance_tokens: int = 24_000
    """Tokens of files shown in one relevance question."""
    tokens: int = 64_000
    """Tokens of the packed context."""
    max_tokens: int = 4096
    """Tokens of an answer about files."""


class Context(Value):
    """What all trajectories of an instance are shown of the repository, best first."""

    whole: tuple[str, ...]
    """Files shown whole."""
    outlined: tuple[str, ...] = ()
    """Files of which the outline is shown."""
    excerpts: dict[str, tuple[Span, ...]] = {}
    """Path → lines shown of it, whole definitions, beside its outline or without."""
    summaries: dict[str, str] = {}


_TEST_FOLDER = re.compile(r"tests|__tests__|__mocks__|specs?|unittests?|testdata|e2e|cypress|.+\.tests?")
_TEST_NAME = re.compile(
    r"test_.*|conftest\.py|.*[._-](test|tests|spec|unittest|unittests|cy)\.\w+|(test|spec)_helper\.rb|testcase\.php"
)
_TEST_CLASS = re.compile(r"(Test[A-Z0-9].*|.*[a-z0-9](Tests?|TestCase|Spec|IT))\.(java|cs|php|cc|cpp|hpp)")


def is_test(path: str) -> bool:
    """Whether a path is a test or belongs to the tests, by the conventions of the languages in `CODE`.

    A folder `test` or `testing` says so at the top and below `src` (Maven, Gradle), and `test` anywhere but for Python:
    further down it is often what a library offers to test with.
    """
    *folders, name = PurePosixPath(path).parts
    lowered = [folder.lower() for folder in folders]
    return bool(
        any(map(_TEST_FOLDER.fullmatch, lowered))
        or lowered[:1] in (["test"], ["testing"])
        or ("test" in lowered and not name.endswith((".py", ".pyi", ".pyx", ".pxd")))
        or _TEST_NAME.fullmatch(name.lower())
        or _TEST_CLASS.fullmatch(name)
    )


def shortlist(tree: Tree, issue: str, limit: int) -> list[str]:
    """Source files by how well they fit the issue, best first: BM25 over words and the parts of words.

    BM25 (k1 = 1.2, b = 0.75): Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, section 3.
    A file whose path or module name the issue names comes before all others.
    """
    paths = [
        path
        for path in sorted(tree)
        if PurePosixPath(path).suffix in CODE and not is_test(path) and len(tree[path]) < 400_000
    ]
    bags = {path: Counter(_words(path + " " + tree[path].decode("utf-8", "replace"))) for path in paths}
    lengths = {path: sum(bag.values()) for path, bag in bags.items()}
    mean = max(1, sum(lengths.values())) / max(1, len(lengths))
    wanted = Counter(_words(issue))
    holders = Counter(word for bag in bags.values() for word in wanted.keys() & bag.keys())

    def score(path: str) -> float:
        bag, norm = bags[path], 1.2 * (0.25 + 0.75 * lengths[path] / mean)
        return math.fsum(  # whatever the order of a set, which is another in each process
            min(wanted[word], 3)
            * math.log(1 + (len(paths) - holders[word] + 0.5) / (holders[word] + 0.5))
            * (bag[word] * 2.2 / (bag[word] + norm))
            for word in wanted.keys() & bag.keys()
        )

    named = {path for path in paths if _names(issue, path) or _names(issue, _module(path))}
    return sorted(paths, key=lambda path: (path not in named, -score(path), path))[:limit]


def searched(tree: Iterable[str]) -> list[str]:
    """The source files that a search looks through: tests are told apart by their paths."""
    return [path for path in sorted(tree) if PurePosixPath(path).suffix in CODE and not is_test(path)]


SEARCHES = Threads(1, "search")
"""What looks through a tree's index does so in turn: each holds the facts of a tree in memory, and together they would have no more
of the processor than one."""


class Code(NamedTuple):
    """What a search over a tree's index found."""

    found: Found
    sources: dict[str, Source]


def find_code(tree: Tree, issue: str, kept: Path | None = None, among: Sequence[str] | None = None) -> Code:
    """Search a tree without a model, or the files `among` it. `kept` is the index's file, which is brought to the tree first.

    Without it, or if it cannot be used (no room, read-only), an index is made in memory: what is found is the same.
    """
    blobs = {path: blob_hash(tree[path]) for path in (searched(tree) if among is None else among)}
    try:
        sources = _sources(Index(kept), blobs, tree)
    except (sqlite3.Error, OSError):
        sources = _sources(Index(), blobs, tree)
    return Code(search(Corpus(sources), issue), sources)


def _sources(index: Index, blobs: Mapping[str, str], tree: Tree) -> dict[str, Source]:
    try:
        return index.sources(blobs, lambda fresh: ((path, tree[path]) for path in fresh))[0]
    finally:
        index.close()


async def find_context(
    step: Step,
    model: str,
    ranker: str,
    tree: Tree,
    issue: str,
    recipe: ContextRecipe,
    *,
    reader: str = "",
    kept: Path | None = None,
    prepared: Mapping[str, str] = {},
) -> Ended[Context]:
    """Ask which of the first files that a search found matter, have them ranked, pack them.

    `reader` is the model that the context is for, whose tokenizer counts; `kept` the index's file. `prepared` are lines on
    files, made beforehand: by these the model first adds files that the search has not found.
    A reply that cannot be read is asked for once more; then the search's order stands, which is said in `note`. Ends in
    no value if the repository holds no source file at all.
    """
    code = await SEARCHES.run(find_code, tree, issue, kept) if recipe.search == "index" else None
    listed = code.found.files[: recipe.shortlist] if code else shortlist(tree, issue, recipe.shortlist)
    if not listed:
        return Ended(reason="done", note="the repository holds no source file that could be relevant")
    sampling = Sampling(temperature=0, max_tokens=recipe.max_tokens)
    if recipe.relevance and prepared:
        lines = {path: prepared[path] for path in searched(tree) if path in prepared and path not in listed}
        budget, most = recipe.relevance_tokens, recipe.shortlist
        listed += await glance(step, model, issue, lines, sampling, budget, most)
    split = batches({path: tokens(tree[path]) for path in listed}, recipe.relevance_tokens) if recipe.relevance else []
    ask = partial(_relevant, model=model, sampling=sampling, tree=tree, issue=issue)
    found = await step.all({f"relevance{n}": partial(ask, batch=batch) for n, batch in enumerate(split, 1)})
    notes = [f"relevance question {n} was not answered readably" for n, answer in found.items() if answer is None]
    summaries = {path: text for answer in found.values() for path, text in (answer or {}).items()}
    if not summaries:
        if recipe.relevance:
            notes.append("no file was called relevant: the order is that of the lexical search")
        ranked = listed
    else:
        orders = await _rankings(step, ranker, sampling, tree, issue, summaries, recipe.rankings)
        if not orders:
            notes.append("the ranking was not readable: the order is that of the lexical search")
        ranked = merged(orders, [path for path in listed if path in summaries])
    if code is None:
        context = pack(ranked, tree, recipe.tokens, summaries)
    else:
        context = await SEARCHES.run(_packed, code, ranked, tree, recipe.tokens, summaries, reader)
    return Ended(reason="done", value=context, note="; ".join(notes))


def pack(ranked: Sequence[str], tree: Tree, budget: int, summaries: Mapping[str, str] = {}) -> Context:
    """Whole files in order while they fit (one that does not fit is passed over, not the end), then outlines of the rest."""
    whole, left = list[str](), budget
    for path in ranked:
        if (cost := tokens(tree[path])) <= left:
            whole.append(path)
            left -= cost
    outlined = []
    for path in ranked:
        if path not in whole and (shown := outline(path, tree[path])) and (cost := tokens(shown)) <= left:
            outlined.append(path)
            left -= cost
    return Context(whole=tuple(whole), outlined=tuple(outlined), summaries=dict(summaries))


def _packed(
    code: Code, ranked: Sequence[str], tree: Tree, budget: int, summaries: Mapping[str, str], reader: str
) -> Context:
    """Of what models called relevant, or of all that was searched if none did."""
    files = ranked if summaries else code.found.files
    chosen = set(files)
    pieces = [at for at in code.found.pieces if at.path in chosen]
    packed = packing.pack(files, pieces, tree, code.sources, budget, counter(reader) if reader else tokens)
    return Context(whole=packed.whole, outlined=packed.outlined, excerpts=packed.excerpts, summaries=dict(summaries))


def cut(context: Context, tree: Tree, share: float) -> Context:
    """The first part of a context: the best whole files with this share of their tokens, and this share of the excerpts' files.

    A whole file that goes leaves its outline. A share of 1 is all of it; the first file always stays.
    """
    if share >= 1:
        return context
    costs = {path: tokens(tree[path]) for path in context.whole}
    left = share * sum(costs.values())
    whole = list[str]()
    for path, cost in costs.items():
        if cost <= left or not whole:
            whole.append(path)
            left -= cost
    gone = [path for path in context.whole if path not in whole and outline(path, tree[path])]
    kept = list(context.excerpts)[: round(share * len(context.excerpts))]
    return context.model_copy(
        update={
            "whole": tuple(whole),
            "outlined": (*gone, *context.outlined),
            "excerpts": {path: context.excerpts[path] for path in kept},
        }
    )


def shared_prompt(context: Context, tree: Tree, issue: str, grammar: str, installed: str) -> Message:
    """The system message that all trajectories of an instance share, byte for byte, so that providers cache it."""
    text = prompts("shared").system(
        issue=issue,
        grammar=grammar,
        installed=installed,
        paths=_listing(tree),
        files={path: tree[path].decode("utf-8", "surrogateescape") for path in context.whole},
        outlines={
            path: _shortened(path, context, tree) for path in dict.fromkeys((*context.outlined, *context.excerpts))
        },
        excerpts=context.excerpts,
    )
    return Message("system", text)


def _shortened(path: str, context: Context, tree: Tree) -> str:
    """A file's outline, its excerpts, or both."""
    parts = [outline(path, tree[path])] if path in context.outlined else []
    if path in context.excerpts:
        lines = tree[path].decode("utf-8", "surrogateescape").split("\n")
        parts.append(packing.excerpt(lines, context.excerpts[path]))
    return "\n".join(parts)


async def _relevant(
    step: Step, model: str, sampling: Sampling, tree: Tree, issue: str, batch: Sequence[str]
) -> dict[str, str] | None:
    """Path → one-line summary of the relevant files of a batch; None if no readable answer came."""

    def read(answer: object) -> dict[str, str] | None:
        if not isinstance(answer, dict):
            return None
        return {path: str(answer[path]).replace("\n", " ")[:300] for path in batch if path in answer}

    say = prompts("context")
    shown = {path: tree[path].decode("utf-8", "replace") for path in batch}
    ask = partial(readable, step, ("ask", "again"), model, sampling, again=say.relevance_again(), read=read)
    return await ask(first=say.relevance(issue=issue, files=shown))


async def _rankings(
    step: Step, model: str, sampling: Sampling, tree: Tree, issue: str, summaries: Mapping[str, str], count: int
) -> list[list[str]]:
    """The rankings that could be read; several are drawn warm, so that they differ where the model is not sure."""
    if count == 1:
        order = await _ranked(step, model, sampling, tree, issue, summaries)
        return [order] if order else []
    warm = sampling.model_copy(update={"temperature": _WARM})
    ask = partial(_ranked, model=model, sampling=warm, tree=tree, issue=issue, summaries=summaries)
    orders = await step.all({f"ranking{n}": ask for n in range(1, count + 1)})
    return [order for order in orders.values() if order]


def merged(orders: Sequence[Sequence[str]], listed: Sequence[str]) -> list[str]:
    """By mean place over the orders; what one leaves out stands behind all of its own. Ties and the rest as listed."""

    def place(path: str) -> float:
        return sum(order.index(path) if path in order else max(len(listed), len(order)) for order in orders)

    return sorted(listed, key=place)


async def _ranked(
    step: Step, model: str, sampling: Sampling, tree: Tree, issue: str, summaries: Mapping[str, str]
) -> list[str] | None:
    """Relevant files, best first; None if no readable answer came."""

    def read(answer: object) -> list[str] | None:
        known = (
            [path for path in dict.fromkeys(map(str, answer)) if path in summaries] if isinstance(answer, list) else []
        )
        return known or None

    say = prompts("context")
    shown = {path: (tokens(tree[path]), summary) for path, summary in summaries.items()}
    ask = partial(readable, step, ("ranking", "ranking-again"), model, sampling, again=say.ranking_again(), read=read)
    return await ask(first=say.ranking(issue=issue, files=shown))


def _words(text: str) -> list[str]:
    """Identifiers, lower-cased, and their parts: `parse_isotime` gives itself, parse, isotime."""
    words = []
    for word in _WORD.findall(text):
        words.append(word.lower())
        parts = [part.lower() for part in _PART.findall(word)]
        words += parts if len(parts) > 1 else []
    return words


def _names(issue: str, name: str) -> bool:
    """Whether the issue holds a name, and not just as a part of a longer one (`io.py` in `audio.py`)."""
    return bool(re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", issue))


def _module(path: str) -> str:
    """`src/pkg/mod.py` as an issue would name it, `pkg.mod`; a name without a dot says too little to be looked for."""
    parts = PurePosixPath(path.removeprefix("src/").removeprefix("lib/")).with_suffix("").parts
    return ".".join(parts) if len(parts) > 1 else "\0"


def _listing(tree: Tree, limit: int = 300) -> list[str]:
    """The repository's files for orientation, the deepest folders folded first if there are too many."""
    paths = sorted(tree)
    depth = max((path.count("/") for path in paths), default=0)
    while len(paths) > limit and depth:
        paths = sorted(
            {
                "/".join(path.split("/")[:depth]) + ("/…" if path.rstrip("/…").count("/") >= depth else "")
                for path in paths
            }
        )
        depth -= 1
    return paths[:limit]
