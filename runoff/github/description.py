"""What is said of a patch where it is published: the description of its pull request, its commit's message, a comment.

Pure. It says what is on record and nothing else: no number that was not measured, no proof that was not run.
"""

from __future__ import annotations

import shlex
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from runoff import __version__
from runoff.agent.verdict import SPOKEN
from runoff.github.markdown import Markdown, code, fenced, plain, prose, quoted
from runoff.github.submission import Submission
from runoff.report import File, count
from runoff.run import Ledger
from runoff.selection.protocol import Entry

LONGEST = 60_000
"""Characters of a description; GitHub takes 65,536."""

_SEEN = {
    "votes": "generated tests that it passes",
    "vote_margin": "the same, before the best candidate that behaves otherwise",
    "cluster": "share of the proposals that behave as it does",
    "score": "the verifier's own P(correct), a model's word",
    "score_margin": "the same, before the best candidate that behaves otherwise",
    "regression": "1 / (1 + tests of the repository that it breaks)",
    "agreement": "rounds of the run-off that chose its behaviour",
    "stable": "what can be left out alone without changing the ranking's first",
}
_DECIDED = {
    "chosen": "A run-off among the finalists chose it.",
    "undisputed": "It was chosen without a run-off.",
    "ranked": "It is the first of the ranking; no run-off was held.",
    "fallback": "The run-off came to no choice; it is the first of the ranking.",
}


class Place(NamedTuple):
    """Where it is published."""

    base: str
    """The base commit."""
    commit: str
    branch: str
    issue: str = ""
    """As the pull request's repository refers to it: `#12`, `o/r#12`; empty: it is no issue of a server."""
    test: str = ""
    """The file of the reproduction that is part of the commit; empty: there is none."""
    no_test: str = ""
    """Why there is none, where one was asked for."""


def describe(submission: Submission, place: Place) -> str:
    """The description of the pull request."""
    for script, output, diff in ((12_000, 4_000, 6_000), (6_000, 2_000, 2_000), (2_000, 1_000, 500)):
        text = _rendered("description.md.j2", submission, place, script=script, output=output, diff=diff)
        if len(text) <= LONGEST:
            break
    return text[:LONGEST]


def comment(submission: Submission, *, link: str = "", branch: str = "") -> str:
    """What is said on the issue: where the pull request or the branch is, or that nothing was good enough.

    `link`: the pull request's address, of GitHub's own.
    """
    place = Place(base=submission.instance.commit or "", commit="", branch=branch)
    return _rendered("comment.md.j2", submission, place, link=Markdown(link), branch=branch, output=2_000)


def subject(submission: Submission, limit: int = 72) -> str:
    """The title of the pull request, and the first line of the commit: the issue's title, by which people know it."""
    where = f"Issue {submission.address.number}: " if submission.address else ""
    return plain(f"{where}{submission.title}", limit) or f"A patch for {submission.instance.id}"


def message(submission: Submission, test: str = "") -> str:
    """The commit's."""
    n = len(submission.selection.entries)
    made = "by another agent" if submission.election else f"by {plain(', '.join(submission.players), 200) or 'a model'}"
    lines = [f"Written {made}, chosen by runoff {__version__} among {count(n, 'distinct candidate')}."]
    if proof := submission.proof:
        lines.append(
            f"A generated test ({plain(proof.of.test, 80)}) fails on the base commit and passes with this change."
        )
    else:
        lines.append("No generated test shows the failure and its end.")
    lines += [f"That test is {plain(test)}."] if test else []
    lines.append("Nobody has reviewed it yet.")
    return f"{subject(submission)}\n\n" + "\n".join(lines)


def command(submission: Submission) -> str:
    """What makes such a run again. Only what is public: no server's address, no path of this machine."""
    address, recipe = submission.address, submission.recipe
    words = ["runoff", "solve", *([address.url] if address else [".", "--issue", "@ISSUE"])]
    if submission.election:
        words = ["runoff", "elect", "PREDICTIONS", "--issue", "@ISSUE"]
    words += ["--ref", submission.instance.commit] if submission.instance.commit else []
    whose: dict[str, list[str]] = {}
    for role, models in submission.models.items():
        whose.setdefault(models, []).append(role)
    for n, (models, roles) in enumerate(sorted(whose.items(), key=lambda one: -len(one[1]))):
        for one in Submission.names(models):
            for role in [""] if n == 0 else [f"{role}=" for role in roles]:
                words += ["--model", f"{role}{one}"]
    words += ["-n", str(recipe.trajectories)]
    if recipe.name != "hybrid":
        words += ["--recipe", recipe.name]
    return shlex.join(words)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("runoff.github", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    made.filters |= {"prose": prose, "quoted": quoted, "code": code, "fenced": fenced}
    made.globals |= {"count": lambda *words: Markdown(count(*words))}
    return made


def _finalize(value: object) -> object:
    """What every expression goes through, so that nothing reaches the page as it is, whatever a template forgets."""
    if value is None:
        return "–"
    return prose(value) if isinstance(value, str) and not isinstance(value, Markdown) else value


def _rendered(name: str, submission: Submission, place: Place, **limits: object) -> str:
    case, entry = submission.case, submission.entry
    table = submission.selection.table
    lost = table.broken.get(entry.id) if table and entry else None
    page = _templates().get_template(name)
    text: str = page.render(
        of=submission,
        place=place,
        issue=Markdown(place.issue),
        case=case,
        entry=entry,
        files=case.changed(entry) if entry else [],
        lines=_lines,
        hidden=case.hidden(entry) if entry else [],
        proof=submission.proof,
        voting=_voting(submission, entry),
        repository=(len(table.repository), None if lost is None else len(lost)) if table else (0, 0),
        lost=list(lost or ())[:5],
        seen=[(_SEEN[name], Markdown(f"{value:.2f}")) for name, value in case.sure.seen if value is not None]
        if case.sure
        else [],
        decided=Markdown(_DECIDED.get(submission.why.partition(": ")[0], "It was chosen.")),
        runner_up=case.runner_up,
        patch_of=lambda one: one.candidate.patch.decode("utf-8", "replace"),
        command=command(submission),
        runs=Markdown("python" if not submission.proof else SPOKEN[submission.proof.language].runs[0]),
        ending=Markdown("js" if submission.proof and submission.proof.language == "javascript" else "py"),
        version=Markdown(__version__),
        cost=Markdown(_cost(submission.ledger)),
        **limits,
    )
    return text.strip() + "\n"


def _voting(submission: Submission, entry: Entry | None) -> tuple[int, int]:
    """Generated tests that it passes, and all that vote."""
    table = submission.selection.table
    return (table.votes(entry.id), len(table.generated)) if table and entry else (0, 0)


def _cost(ledger: Ledger) -> str:
    """What is known of it."""
    if ledger.calls and ledger.calls == ledger.unknown:
        return f"{count(ledger.calls, 'call')}, {ledger.input + ledger.output:,} tokens, at a price that nobody knows"
    return ledger.line().removeprefix("cost: ")


def _lines(file: File) -> Markdown:
    """Where it was changed, after the change: `2, 14–18`."""
    found: list[list[int]] = []
    at = 0
    for line in file.lines:
        at = line.new or at
        if line.kind in ("add", "del"):
            here = max(at if line.kind == "add" else at + 1, 1)
            if found and here <= found[-1][1] + 1:
                found[-1][1] = max(found[-1][1], here)
            else:
                found.append([here, here])
    told = [f"{first}" if first == last else f"{first}–{last}" for first, last in found[:6]]
    return Markdown(", ".join(told) + ", …" * (len(found) > 6))


__all__ = ["Place", "command", "comment", "describe", "message", "subject"]
