"""The report: one self-contained HTML page for whoever reviews the patch of a run, with all it was decided on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import PurePath
from typing import Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runoff import __version__
from runoff.declared import written
from runoff.instance import Instance
from runoff.run import Result, Run
from runoff.selection import counting
from runoff.selection.protocol import Cell, Confidence, Entry, OutcomeTable, Selection, Standing
from runoff.selection.scaling import behaviour
from runoff.setups import Settled
from runoff.visible import shown

Kind = Literal["add", "del", "same", "hunk", "meta"]
Side = Literal["both", "chosen", "other", "gap"]

_ENDED = {
    "patch": "patch",
    "none": "no patch",
    "abstained": "abstained",
    "budget": "budget spent",
    "stopped": "stopped",
    "failed": "failed",
}
_MEANS = {
    "none": "No candidate is good enough to be submitted.",
    "abstained": "A candidate was decided for, and it is not sure enough that it is right: nothing is submitted.",
    "budget": "What may be spent was spent before there was a patch; the same command with a larger --budget goes on.",
    "stopped": "It was stopped before its end; the same command goes on from here.",
    "failed": "It did not come to an end. This is no verdict on the issue: the same command tries again.",
}
_DECIDED = {
    "chosen": "The run-off chose it",
    "undisputed": "Chosen without a run-off",
    "ranked": "Chosen by the ranking",
    "fallback": "The run-off did not decide; the first of the ranking stands",
}
_SEEN = {
    "votes": "generated tests that it passes",
    "vote_margin": "the same, before the best of another behaviour",
    "cluster": "proposals that behave as it does",
    "score": "the verifier’s P",
    "score_margin": "the same, before the best of another behaviour",
    "regression": "1 / (1 + broken tests of the repository)",
    "agreement": "rounds of the run-off that chose its behaviour",
    "stable": "what can be left out alone without changing the ranking’s first",
}
_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_LONGEST = 3000  # lines of a patch that are compared, and lines of a file's diff that are shown
_SCRIPT = 40_000  # characters of a generated test


def report(run: Run, results: Sequence[Result], *, seconds: float, notes: Sequence[str] = ()) -> str:
    """The page. Everything on it that a repository or a model wrote is escaped, and what hides in text is made visible."""
    instances = {instance.id: instance for instance in run.instances}
    ledger = run.ledger()
    template = pages().get_template("report.html.j2")
    return template.render(
        cases=[Case(n, result, instances.get(result.instance)) for n, result in enumerate(results, 1)],
        ledger=ledger,
        elected=run.entrants is not None,
        recorded_only=ledger.recorded > 0 and ledger.calls == 0,
        budget=run.budget,
        recipe=run.recipe,
        settings=list(_flat(run.recipe.model_dump(mode="json", exclude={"selection": {"calibration": {"judged"}}}))),
        models=_players(run.models),
        took=duration(seconds),
        notes=notes,
        version=__version__,
        longest=_LONGEST,
    )


def pages() -> Environment:
    """What fills templates: nothing can reach a page that was not made visible and escaped, whatever the template forgets."""
    made = Environment(
        loader=PackageLoader("runoff", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.globals |= {"count": count, "declaration": written}
    return made


class Line(NamedTuple):
    """A line of a diff, with its number in the old and in the new file where it has one."""

    kind: Kind
    text: str
    old: int | None = None
    new: int | None = None


class File(NamedTuple):
    """What a patch does to one file."""

    path: str
    lines: list[Line]

    @property
    def added(self) -> int:
        return sum(line.kind == "add" for line in self.lines)

    @property
    def deleted(self) -> int:
        return sum(line.kind == "del" for line in self.lines)


class Compared(NamedTuple):
    """A line of two patches laid over each other: whose it is."""

    side: Side
    line: Line


class Script(NamedTuple):
    """A distinct generated test: its short name on the page, all tests that are this script, and its text."""

    label: str
    id: str
    same: tuple[str, ...]
    text: str
    votes: bool


@dataclass(frozen=True)
class Case:
    """One instance as the page shows it; everything here is computed from its result."""

    number: int
    result: Result
    instance: Instance | None

    @property
    def anchor(self) -> str:
        """Never made of a name: names are hostile, and need not be distinct as anchors."""
        return f"i{self.number}"

    @cached_property
    def setup(self) -> Settled | None:
        """Where it was detected how the repository is installed and tested."""
        return Settled.model_validate(self.result.setup) if self.result.setup else None

    @property
    def ended(self) -> str:
        return _ENDED[self.result.status]

    @property
    def selection(self) -> Selection | None:
        return self.result.outcome.selection if self.result.outcome else None

    @property
    def table(self) -> OutcomeTable | None:
        return self.selection.table if self.selection else None

    @cached_property
    def chosen(self) -> Entry | None:
        return self.selection.entry(self.selection.chosen) if self.selection and self.selection.chosen else None

    @cached_property
    def standing(self) -> Standing | None:
        return next((s for s in self.standings if self.chosen and s.entry == self.chosen.id), None)

    @property
    def standings(self) -> tuple[Standing, ...]:
        return self.selection.standings if self.selection else ()

    @cached_property
    def runner_up(self) -> Entry | None:
        """The best candidate that was not chosen: a finalist, else the next of the ranking that may be chosen."""
        if not self.selection or not self.chosen:
            return None
        able = [s.entry for s in self.standings if not s.disqualified and s.entry != self.chosen.id]
        names = [name for name in able if name in self.selection.finalists] or able
        return self.selection.entry(names[0]) if names else None

    @property
    def rows(self) -> list[str]:
        """Entries in the order of the ranking; in their own, where there is none."""
        if not self.selection:
            return []
        return [standing.entry for standing in self.standings] or [entry.id for entry in self.selection.entries]

    @property
    def diversity(self) -> str:
        """How many different things the trajectories tried."""
        samples = self.result.outcome.samples if self.result.outcome else ()
        made = sum(sample.edit.value is not None for sample in samples)
        entries = self.selection.entries if self.selection else ()
        behaviours = len({behaviour(entry, self.table) for entry in entries})
        return (
            f"{count(len(samples), 'trajectory', 'trajectories')} made {count(made, 'candidate')}: "
            f"{count(len(entries), 'distinct patch', 'distinct patches')}, {count(behaviours, 'distinct behaviour')}."
        )

    @property
    def decided(self) -> str:
        """How it was decided, as the start of a sentence."""
        return _DECIDED.get(self.result.why.partition(": ")[0], "Chosen")

    @property
    def by_ranking(self) -> bool:
        """No run-off was held."""
        return self.result.why.startswith("ranked: ")

    @property
    def by_runoff(self) -> bool:
        return self.result.why.startswith("chosen: ")

    @property
    def why(self) -> str:
        """The reason without the word before it that says how it was decided."""
        kind, colon, rest = self.result.why.partition(": ")
        return rest if colon and kind in (*_DECIDED, "none", "abstained") else self.result.why

    @property
    def means(self) -> str:
        return _MEANS.get(self.result.status, "")

    @cached_property
    def scripts(self) -> list[Script]:
        """Distinct generated tests, first those that vote, in the order of the outcome table."""
        table = self.table
        if not table:
            return []
        names = [*table.generated, *(name for name in table.base if name not in table.generated)]
        return [
            Script(
                label=f"T{n}",
                id=name,
                same=table.same.get(name, (name,)),
                text=_cut(table.scripts.get(name, "")),
                votes=name in table.generated,
            )
            for n, name in enumerate(names, 1)
        ]

    @property
    def voting(self) -> list[Script]:
        return [script for script in self.scripts if script.votes]

    @property
    def counted(self) -> int:
        """Generated tests whose votes the ranking counted."""
        return len(self.table.generated) - len(self.selection.silent) if self.table and self.selection else 0

    @cached_property
    def suspected(self) -> dict[str, str]:
        """Generated tests that are likely wrong, each with the reason, whether or not they had a vote."""
        if not self.table or not self.selection:
            return {}
        return counting.suspected(self.table, self.selection.entries, self.selection.scores)

    @property
    def unknown(self) -> list[tuple[str, str, str]]:
        """Row, test and reason of every cell that could not tell, for readers who have no pointer to hover with."""
        table = self.table
        if not table:
            return []
        base: Iterator[tuple[str, Script, Cell | None]] = (("base", s, table.base.get(s.id)) for s in self.voting)
        cells = ((row, s, table.rows.get(row, {}).get(s.id)) for row in self.rows for s in self.voting)
        found = [
            (row, script.label, table.reasons.get(f"{row}/{script.id}", "no reason is on record"))
            for part in (base, cells)
            for row, script, cell in part
            if cell == "could not tell"
        ]
        controls = [
            (row, "control", table.reasons.get(f"{row}/control", "no reason is on record"))
            for row in self.rows
            if table.control.get(row) == "could not tell"
        ]
        suites = [
            (row, "repository", table.reasons[f"{row}/repository"])
            for row in ("base", *self.rows)
            if f"{row}/repository" in table.reasons
        ]
        return found + controls + suites

    @property
    def differing(self) -> list[tuple[Script, Cell, Cell]]:
        """Generated tests that tell the chosen candidate from the runner-up."""
        if not self.table or not self.chosen or not self.runner_up:
            return []
        ours, theirs = self.table.rows[self.chosen.id], self.table.rows[self.runner_up.id]
        return [(s, ours[s.id], theirs[s.id]) for s in self.voting if ours[s.id] != theirs[s.id]]

    @property
    def comparison(self) -> list[Compared] | None:
        if not self.chosen or not self.runner_up:
            return []
        return compare(self.chosen.candidate.patch, self.runner_up.candidate.patch)

    @property
    def sure(self) -> Confidence | None:
        return self.selection.confidence if self.selection else None

    @property
    def seen(self) -> list[tuple[str, float | None]]:
        """What the confidence rests on, in words."""
        return [(_SEEN[name], value) for name, value in self.sure.seen] if self.sure else []

    @property
    def hanging(self) -> list[tuple[str, str, str | None]]:
        """What alone decides who is first of the ranking: its kind, its name, who is first without it."""
        if not self.sure:
            return []
        hangs = self.sure.hangs_on
        labels = {script.id: script.label for script in self.scripts}
        return [
            *(("generated test", labels.get(name, name), then) for name, then in hangs.generated.items()),
            *(("repository test", name, then) for name, then in hangs.repository.items()),
            *(("candidate and tests of", name, then) for name, then in hangs.members.items()),
        ]

    def changed(self, entry: Entry) -> list[File]:
        return files(entry.candidate.patch)

    def hidden(self, entry: Entry) -> list[tuple[str, int]]:
        """Characters in the lines a patch adds that hide or reorder text, by name, and how many there are."""
        added = "".join(line.text for file in self.changed(entry) for line in file.lines if line.kind == "add")
        return sorted(Counter(re.findall(r"⟨[^⟩]+⟩", shown(added.replace("⟨", "")))).items())

    def part_of(self, name: str) -> str:
        """What became of a proposed candidate: itself an entry, the same as one, or rejected."""
        if not self.selection:
            return ""
        if name in self.selection.rejected:
            return "rejected"
        entry = next((entry for entry in self.selection.entries if name in entry.proposers), None)
        if entry is None:
            return ""
        return "took part" if entry.id == name else f"the same change as {entry.id}"

    def short(self, text: str, limit: int = 280) -> str:
        return sentence(text, limit)


def files(patch: bytes) -> list[File]:
    """A patch by file. Hunks are read by their line counts, so a removed line `-- x` is no header."""
    found: list[File] = []
    lines: list[Line] = []
    old = new = olds = news = 0
    text = patch.decode("utf-8", "surrogateescape").removesuffix("\n")
    for line in text.split("\n") if text else []:
        sign = line[:1]
        if (olds > 0 or news > 0) and sign in (
            "",
            " ",
            "+",
            "-",
            "\\",
        ):  # anything else ends a hunk that counts wrongly
            if sign == "\\":  # `\ No newline at end of file` is counted by nobody
                lines.append(Line("meta", line))
                continue
            kind: Kind = "add" if sign == "+" else "del" if sign == "-" else "same"
            lines.append(Line(kind, line, None if kind == "add" else old, None if kind == "del" else new))
            old, olds = (old, olds) if kind == "add" else (old + 1, olds - 1)
            new, news = (new, news) if kind == "del" else (new + 1, news - 1)
            continue
        olds = news = 0
        if hunk := _HUNK.match(line):
            old, new = int(hunk[1]), int(hunk[3])
            olds, news = (1 if hunk[n] is None else int(hunk[n]) for n in (2, 4))
        elif line.startswith("diff --git ") or (line.startswith("--- ") and _has_hunk(lines)):
            found += [File(_path(lines), lines)] if lines else []
            lines = []
        lines.append(Line("hunk" if hunk else "meta", line))
    return [*found, File(_path(lines), lines)] if lines else found


def compare(chosen: bytes, other: bytes) -> list[Compared] | None:
    """Two patches laid over each other, without the blob names and line numbers that differ anyway.

    Empty: they are the same. None: too long to be compared.
    """
    ours, theirs = _telling(chosen), _telling(other)
    if max(len(ours), len(theirs)) > _LONGEST:
        return None
    ours_told, theirs_told = ([(line.kind, line.text) for _, line in side] for side in (ours, theirs))
    laid: list[Compared] = []
    for group in SequenceMatcher(None, ours_told, theirs_told, autojunk=False).get_grouped_opcodes(4):
        if all(step[0] == "equal" for step in group):
            continue
        start = group[0][1]
        path = ours[min(start, len(ours) - 1)][0] if ours else ""
        laid.append(Compared("gap", Line("meta", path)))
        for step, a, b, c, d in group:
            if step == "equal":
                laid += [Compared("both", line) for _, line in ours[a:b]]
            else:
                laid += [Compared("chosen", line) for _, line in ours[a:b]]
                laid += [Compared("other", line) for _, line in theirs[c:d]]
    return laid


def sentence(text: str, limit: int = 280) -> str:
    """The first sentence of a text, on one line."""
    line = " ".join(text.split())
    found = re.match(r".{12,}?[.!?](?=\s+[A-Z]|$)", line)
    line = found[0] if found else line
    return line if len(line) <= limit else line[: limit - 1] + "…"


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{seconds:.1f} s"


def count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _finalize(value: object) -> object:
    """What every expression of the page goes through before it is escaped, so that none can be forgotten."""
    if value is None:
        return "–"  # missing is not 0, and not the word None
    return value if isinstance(value, Markup) else shown(str(value))  # markup is a macro's: finalized inside


def _path(lines: Sequence[Line]) -> str:
    """What a file is called after the change; before it, where it is deleted."""
    names: dict[str, str] = {}
    for line in lines:
        if line.kind == "hunk":
            break
        if found := re.match(r'(diff --git|---|\+\+\+|rename to) "?(?:[ab]/)?(.+?)"?\t?$', line.text):
            names[found[1]] = found[2]
    for name in ("+++", "rename to", "---"):
        if names.get(name, "/dev/null") != "/dev/null":
            return names[name]
    return names.get("diff --git", "").rpartition(" b/")[2] or "no file is named"


def _has_hunk(lines: Sequence[Line]) -> bool:
    return any(line.kind == "hunk" for line in lines)


def _telling(patch: bytes) -> list[tuple[str, Line]]:
    """The lines of a patch that tell it from another, each with its file."""
    return [
        (file.path, line._replace(text=re.sub(r"^@@ [^@]+ @@", "@@", line.text)) if line.kind == "hunk" else line)
        for file in files(patch)
        for line in file.lines
        if not (line.kind == "meta" and line.text.startswith("index "))
    ]


def _cut(text: str) -> str:
    left = len(text) - _SCRIPT
    return text if left <= 0 else f"{text[:_SCRIPT]}\n… {left:,} more characters"


def _players(models: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Models and the roles each plays."""
    roles: dict[str, list[str]] = {}
    for role, model in models.items():
        roles.setdefault(player(model), []).append(role)
    return list(roles.items())


def player(model: str) -> str:
    """A model as readers are told of it. Of a recording only the file's name: where it lies is nobody's business."""
    kind, colon, path = model.partition(":")
    return f"recorded answers ({PurePath(path).name})" if colon and kind == "recorded" else model


def _flat(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


__all__ = ["report"]
