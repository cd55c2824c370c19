"""What each selection rule picks among real patches of many agents, without a model and without running anything.

The data (instances.jsonl.gz, patches.jsonl.gz) carry labels; they are opened by `measure` alone, when every rule has said
its scores. One patch an agent (the first), issues with at least three labelled agents, labels from running the tests again
where that was done. Ties count as their mean. gap = (selected − mean) / (oracle − mean); against the best single agent its
share takes the place of the mean: that is the most accurate of those that answered every issue of the set, or, if none
did, on each issue the most accurate at hand. Intervals are 95 %, bootstrap over issues.

Settings were chosen on the repositories of half 1 and reported on half 2: `halves`. With --repositories (DIR/owner__name,
git directories that hold the base commits) majority by syntax tree and fusion are measured too; with --runs rules by what
scripts/bench/election executed, on the instances that it came to.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from recall import Git

from runoff.agent.patches import patched_paths
from runoff.election import plain_name
from runoff.replay import Stored
from runoff.selection.agreement import AgreementRecipe, families, learn
from runoff.selection.edits import apply, edits
from runoff.selection.estimators.resampling import bootstrap
from runoff.selection.evidence import Evidence
from runoff.selection.fusion import Fused, fuse
from runoff.selection.pool import Member, Pool, Rule, blind, first, majority, shortest
from runoff.selection.predictions import read_predictions
from runoff.selection.protocol import OutcomeTable
from runoff.selection.sameness import fingerprint, same_lines, same_text

SEED = "selection/2026"
SETS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all": lambda row: True,
    "executable": lambda row: bool(row["environment"]),
    "Verified": lambda row: "verified" in row["splits"],
    "Verified, executable": lambda row: "verified" in row["splits"] and bool(row["environment"]),
}
Labels = Mapping[tuple[str, str], bool]
Scores = Mapping[str, Mapping[str, float]]
"""Instance → agent → score."""


def halves(instances: Mapping[str, dict[str, Any]]) -> dict[str, int]:
    """Repository → 1 or 2: in the order of sha256(SEED:name), each goes to the half that has fewer instances, 1 at a tie."""
    size = Counter(row["repo"] for row in instances.values())
    half, full = dict[str, int](), {1: 0, 2: 0}
    for repo in sorted(size, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).hexdigest()):
        half[repo] = 1 if full[1] <= full[2] else 2
        full[half[repo]] += size[repo]
    return half


def pools(data: Path) -> dict[str, Pool]:
    """Without labels: what reads predictions has no place for them."""
    members: dict[str, list[Member]] = defaultdict(list)
    for one in read_predictions([data / "patches.jsonl.gz"]):
        if one.sample == 0:
            members[one.instance].append(Member(id=one.agent, agent=one.agent, patch=one.patch))
    return {instance: Pool(instance=instance, members=tuple(found)) for instance, found in members.items()}


def said(batch: Mapping[str, Pool], rule: Rule) -> dict[str, dict[str, float]]:
    return {
        name: {member.id: score for member, score in zip(pool.members, rule(pool), strict=True)}
        for name, pool in batch.items()
    }


class Bases:
    """Files as they are at an instance's base commit, from local git directories."""

    def __init__(self, folder: Path, instances: Mapping[str, dict[str, Any]]) -> None:
        self._folder, self._instances = folder, instances
        self._git: dict[str, Git | None] = {}

    def files(self, pool: Pool) -> dict[str, bytes] | None:
        """Those that the pool's patches touch; None without the repository."""
        row = self._instances[pool.instance]
        repo = row["repo"].replace("/", "__")
        if repo not in self._git:
            self._git[repo] = Git(self._folder / repo) if (self._folder / repo).is_dir() else None
        git = self._git[repo]
        if git is None or not git.has(row["base_commit"]):
            return None
        touched = sorted({path for member in pool.members for path in patched_paths(member.patch)})
        listed = git.output("ls-tree", "-r", "-z", row["base_commit"], "--", *touched).split("\0")
        entries = (line.partition("\t")[::2] for line in listed if line)
        return {path: git.read(about.split()[2]) for about, path in entries if about.startswith("100")}


def undecided(pool: Pool) -> list[float]:
    return [0.0] * len(pool.members)


class Seen(NamedTuple):
    """What execution said of an instance's candidates."""

    entries: dict[str, str]
    """Member of the pool → its row in the table. Who is not in it had no patch that could be used."""
    table: OutcomeTable | None

    @classmethod
    def of(cls, pool: Pool, evidence: Evidence) -> Seen:
        found = {name: entry.id for entry in evidence.entries for name in entry.proposers}
        named = {member.id: plain_name(member.agent) for member in pool.members}
        entries = {member: found.get(name) or found.get(f"{name}#1") for member, name in named.items()}
        return cls({member: entry for member, entry in entries.items() if entry}, evidence.table)

    def bare(self) -> Seen:
        """Tests by number: nothing of a patch, a test or a repository."""
        if not (table := self.table):
            return self
        of = {test: f"{n}" for n, test in enumerate(table.generated)}
        own = {test: f"{n}" for n, test in enumerate(table.repository)}
        lost = {
            row: None if broken is None else tuple(own[test] for test in broken) for row, broken in table.broken.items()
        }
        return Seen(
            self.entries,
            OutcomeTable(
                generated=tuple(of.values()),
                base={of[test]: table.base[test] for test in of},
                rows={row: {of[test]: cells[test] for test in of} for row, cells in table.rows.items()},
                control=table.control,
                repository=tuple(own.values()),
                broken=lost,
                authors={of[test]: by for test, by in table.authors.items() if test in of},
            ),
        )


class Executed:
    """What elections (scripts/bench/election) saw of the candidates of their instances; an instance takes minutes.

    `runs` are their folders, or files into which `keep` wrote what it had from such.
    """

    def __init__(self, batch: Mapping[str, Pool], runs: Sequence[Path]) -> None:
        self._seen = dict[str, Seen]()
        for run in runs:
            if run.is_dir():
                found = Stored(run).evidence
                self._seen |= {name: Seen.of(batch[name], evidence) for name, evidence in found.items()}
                continue
            with gzip.open(run, "rt") as lines:
                for row in map(json.loads, lines):
                    table = row["table"] and OutcomeTable.model_validate(row["table"])
                    self._seen[row["instance"]] = Seen(row["entries"], table)

    def keep(self, file: Path) -> None:
        with gzip.GzipFile(file, "wb", mtime=0) as lines:
            for name, one in sorted(self._seen.items()):
                entries, table = one.bare()
                row = {"instance": name, "entries": entries, "table": table and table.model_dump(exclude_defaults=True)}
                lines.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")

    def __contains__(self, pool: Pool) -> bool:
        return pool.instance in self._seen

    def broken(self, pool: Pool) -> list[float | None]:
        """For each member how many of the repository's tests it breaks; None: it could not be told, infinite: no candidate."""
        entries, table = self._seen[pool.instance]

        def of(entry: str | None) -> float | None:
            lost = table.broken.get(entry, ()) if entry and table else ()
            return math.inf if entry is None else None if lost is None else float(len(lost))

        return [of(entries.get(member.id)) for member in pool.members]

    def votes(self, pool: Pool) -> list[float | None]:
        """For each member the share of the tests that others brought and it passes; None: there are none."""
        (entries, table), found = self._seen[pool.instance], list[float | None]()
        for entry in (entries.get(member.id) for member in pool.members):
            tests = table.generated if table and entry else ()
            others = [table.rows[entry][test] for test in tests if entry not in table.authors.get(test, ())]
            told = [cell == "pass" for cell in others if cell != "could not tell"]
            found.append(sum(told) / len(told) if told else None)
        return found

    def witnesses(self, pool: Pool) -> dict[str, list[str | None]]:
        """For `learn`: whether the suite stands, and whether tests of others pass."""
        if pool not in self:
            return {}
        broken, votes = self.broken(pool), self.votes(pool)
        best = min((lost for lost in broken if lost is not None), default=0.0)
        return {
            "regression": [None if lost is None else "best" if lost == best else "breaks" for lost in broken],
            "votes": [None if share is None else "most" if share > 0.5 else "few" for share in votes],
        }

    def gated(self, rule: Rule) -> Rule:
        """Of those that break fewest tests, the first of another rule; one that could not be told breaks more than any that could."""

        def scores(pool: Pool) -> list[float]:
            lost = [math.inf if one is None else one for one in self.broken(pool)]
            least = min(lost, default=0.0)
            return [score if own == least else -1e9 for score, own in zip(rule(pool), lost, strict=True)]

        return scores

    def voted(self, rule: Rule) -> Rule:
        """The most votes of others' tests first, then the rule."""
        return lambda pool: [
            (0.0 if vote is None else 1e3 * (vote - 0.5)) + score if score > -1e8 else score
            for score, vote in zip(rule(pool), self.votes(pool), strict=True)
        ]

    def elected(self, rule: Rule) -> Rule:
        """The order of the ranking `agreement`: the most votes of others' tests, then the fewest broken, then a rule."""

        def scores(pool: Pool) -> list[float]:
            keys = [
                (-math.inf if lost == math.inf else vote or 0.0, -math.inf if lost is None else -lost, score)
                for vote, lost, score in zip(self.votes(pool), self.broken(pool), rule(pool), strict=True)
            ]
            place = {key: float(n) for n, key in enumerate(sorted(set(keys)))}
            return [place[key] for key in keys]

        return scores


def same_syntax(base: Mapping[str, bytes] | None) -> Callable[[bytes], str]:
    """A name for a patch by the syntax trees it leads to; by its text where it cannot be applied to the letter."""

    @cache
    def name(patch: bytes) -> str:
        made = edits(patch, base) if base is not None else None
        if not made or base is None:
            return same_text(patch)
        paths = {edit.path for edit in made}
        return fingerprint({path: apply(base.get(path), [e for e in made if e.path == path]) for path in paths})

    return name


class Outcome(NamedTuple):
    """One issue of a set, measured."""

    selected: float
    mean: float
    best: float
    oracle: float


def gap(outcomes: Sequence[Outcome], against: str) -> float | None:
    """(selected − baseline) / (oracle − baseline), ratio of means; None if the baseline leaves nothing."""
    base = sum(getattr(one, against) for one in outcomes)
    room = sum(one.oracle for one in outcomes) - base
    return (sum(one.selected for one in outcomes) - base) / room if room > 1e-9 else None


def with_interval(outcomes: Sequence[Outcome], against: str, resamples: int) -> str:
    found = bootstrap(outcomes, lambda some: gap(some, against), draws=resamples)
    if found.value is None or found.low is None or found.high is None:
        return "–"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def labels(data: Path) -> dict[tuple[str, str], bool]:
    found, seen = dict[tuple[str, str], bool](), set[tuple[str, str]]()
    with gzip.open(data / "patches.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            key = (row["instance_id"], row["agent"])
            known = row["resolved"] if row["resolved_here"] is None else row["resolved_here"]
            if key not in seen and known is not None:
                found[key] = known
            seen.add(key)
    return found


def best_single(names: Sequence[str], right: Mapping[str, Mapping[str, bool]]) -> Callable[[str], str]:
    count, score = Counter[str](), Counter[str]()
    for name in names:
        count.update(right[name])
        score.update(agent for agent, yes in right[name].items() if yes)
    everywhere = [agent for agent in count if count[agent] == len(names)]
    if everywhere:
        one = max(everywhere, key=lambda agent: (score[agent], agent))
        return lambda name: one
    # The most accurate at hand; with a doubt of four issues, for some answered only once.
    return lambda name: max(right[name], key=lambda agent: ((score[agent] + 2) / (count[agent] + 4), agent))


def outcomes(names: Sequence[str], scores: Scores, right: Mapping[str, Mapping[str, bool]]) -> list[Outcome]:
    best = best_single(names, right)
    found = list[Outcome]()
    for name in names:
        own = right[name]
        top = max(scores[name][agent] for agent in own)
        chosen = [agent for agent in own if scores[name][agent] >= top - 1e-9]
        mean = sum(own.values()) / len(own)
        selected = sum(own[agent] for agent in chosen) / len(chosen)
        found.append(Outcome(selected, mean, float(own[best(name)]), float(any(own.values()))))
    return found


def contested(found: Sequence[Outcome]) -> str:
    split = [one for one in found if 0 < one.mean < 1]
    return f"{100 * sum(one.selected for one in split) / len(split):.1f}" if split else "–"


def measure(
    data: Path,
    batch: Mapping[str, Pool],
    instances: Mapping[str, dict[str, Any]],
    rules: Mapping[str, Scores],
    fused: Mapping[str, tuple[str, list[str]]],
    resamples: int,
    parts: bool = True,
) -> None:
    """The only one that opens labels. Prints a table a set and half; `rules` have said all by now."""
    known = labels(data)
    half = halves(instances)
    right = {
        name: {m.id: known[name, m.id] for m in pool.members if (name, m.id) in known} for name, pool in batch.items()
    }
    right = {name: own for name, own in right.items() if len(own) >= 3}
    labelled = {  # a majority in which only labelled patches vote, and the shortest of the largest group is taken
        name: batch[name].only(own) for name, own in right.items()
    }
    vote, short = said(labelled, majority(same_text)), said(labelled, shortest)
    again = {n: {agent: vote[n][agent] + 1e-7 * short[n][agent] for agent in own} for n, own in right.items()}
    for title, belongs in SETS.items():
        for where in (0, 1, 2):
            names = [n for n in sorted(right) if belongs(instances[n]) and where in (0, half[instances[n]["repo"]])]
            if not names:
                continue
            part = {0: "both halves", 1: "half 1, chosen on", 2: "half 2, reported"}[where]
            found = outcomes(names, rules["first"], right)
            mean, best, oracle = (
                100 * sum(getattr(one, what) for one in found) / len(found) for what in ("mean", "best", "oracle")
            )
            split = sum(0 < one.mean < 1 for one in found)
            print(f"\n**{title}, {part}**: {len(names)} issues, {split} contested; ", end="")
            print(f"mean {mean:.1f}, best single agent {best:.1f}, oracle {oracle:.1f}\n")
            print("| rule | selected | gap to the mean | gap to the best single | contested |\n|---|---|---|---|---|")
            for rule, scores in [*rules.items(), ("majority as the data's README counts", again)]:
                found = outcomes(names, scores, right)
                selected = 100 * sum(one.selected for one in found) / len(found)
                gaps = [with_interval(found, against, resamples) for against in ("mean", "best")]
                print(f"| {rule} | {selected:.1f} | {gaps[0]} | {gaps[1]} | {contested(found)} |")
    if fused:
        graded = [
            (right[name][like], right[name][next(agent for agent in equal if agent in right[name])])
            for name, (like, equal) in fused.items()
            if name in right and like in right[name] and any(agent in right[name] for agent in equal)
        ]
        changed = sum(like not in equal for like, equal in fused.values())
        print(
            f"\nFusion around the most reliable agent's patch that applies: {len(fused)} made, {changed} of them another change than "
            f"that patch. {len(graded)} are by syntax tree what a labelled patch is, and so graded without being run: "
            f"{sum(after for _, after in graded)} right, the patches they were made from {sum(before for before, _ in graded)}."
        )
    if parts:
        fragile(batch, instances, half, right)


def fragile(
    batch: Mapping[str, Pool],
    instances: Mapping[str, dict[str, Any]],
    half: Mapping[str, int],
    right: Mapping[str, Mapping[str, bool]],
) -> None:
    """Whether the figures hang on this batch: parts of it, 60 % of a half's issues, each family there with a chance of 3/4."""
    of = families(list(batch.values()))
    print(
        "\n| parts of … | mean gap of the known agents' rule, lowest … highest | of the most accurate at hand | of nearness |"
    )
    print("|---|---|---|---|")
    for where in (1, 2):
        chance = random.Random(SEED)
        names = [name for name in sorted(right) if half[instances[name]["repo"]] == where]
        gaps: dict[str, list[float]] = defaultdict(list)
        for _ in range(12):
            some = chance.sample(names, int(0.6 * len(names)))
            there = {family for family in sorted(set(of.values())) if chance.random() < 0.75}
            part = {
                name: batch[name].only({m.id for m in batch[name].members if of[m.agent] in there}) for name in some
            }
            own = {
                name: {m.id: right[name][m.id] for m in pool.members if m.id in right[name]}
                for name, pool in part.items()
            }
            some = [name for name in some if len(own[name]) >= 3]
            known = learn([part[name] for name in some]).known
            for rule, scores in (("known", said(part, known)), ("likeness", said(part, blind))):
                gaps[rule].append(gap(outcomes(some, scores, own), "mean") or 0.0)
            found = [one._replace(selected=one.best) for one in outcomes(some, said(part, first), own)]
            gaps["best"].append(gap(found, "mean") or 0.0)
        mean = {rule: sum(values) / len(values) for rule, values in gaps.items()}
        low, high = min(gaps["known"]), max(gaps["known"])
        print(
            f"| half {where} | {mean['known']:.2f}, {low:.2f} … {high:.2f} | {mean['best']:.2f} | {mean['likeness']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("RUNOFF_SHARED", "../shared")) / "data", help="the instances"
    )
    parser.add_argument("--repositories", type=Path, help="holds owner__name, a git directory each")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="of scripts/bench/election, or what was kept")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="write what the runs saw of each candidate, as numbers"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    given = parser.parse_args()
    with gzip.open(given.data / "instances.jsonl.gz", "rt") as lines:
        instances = {row["instance_id"]: row for row in map(json.loads, lines)}
    half = halves(instances)
    for number in (1, 2):
        print(f"half {number}: {', '.join(sorted(repo for repo in half if half[repo] == number))}")
    batch = pools(given.data)
    started = time.process_time()
    agents = learn(list(batch.values()))
    both = learn(list(batch.values()), agents.family, recipe=AgreementRecipe(likeness=0.25))
    apart: dict[str, dict[str, float]] = {}
    for number in (1, 2):
        own = {name: pool for name, pool in batch.items() if half[instances[name]["repo"]] == number}
        apart |= said(own, learn(list(own.values())).known)
    rules: dict[str, Scores] = {
        "first": said(batch, first),
        "shortest": said(batch, shortest),
        "majority, equal text": said(batch, majority(same_text)),
        "majority, equal lines without comments and white space": said(batch, majority(same_lines)),
        "nearness (agents unknown)": said(batch, blind),
        "likeness to other families": said(batch, agents.apart),
        "known agents": said(batch, agents.known),
        "known agents, each half learned by itself": apart,
        "known agents and likeness, by the model's chance": said(batch, agents.posterior),
        "known agents and nearness, added": said(batch, both.known),
    }
    print(f"\nlearned in {time.process_time() - started:.1f} s of processor; families of more than one agent:")
    groups: dict[str, list[str]] = defaultdict(list)
    for agent, family in agents.family.items():
        groups[family].append(agent)
    for group in sorted(groups.values(), key=len):
        if len(group) > 1:
            print(f"- {', '.join(group[:4])}{f' and {len(group) - 4} more, seen too little' if len(group) > 4 else ''}")
    fused: dict[str, tuple[str, list[str]]] = {}
    if given.repositories:
        bases = Bases(given.repositories, instances)
        scores: dict[str, dict[str, float]] = {}
        for name, pool in batch.items():
            base = bases.files(pool)
            same = same_syntax(base)
            scores |= said({name: pool}, majority(same))
            if base is not None:
                made = fuse(pool, agents.known(pool), base, agents.family)
                if isinstance(made, Fused):
                    equal = [member.id for member in pool.members if same(member.patch) == same(made.patch)]
                    fused[name] = (made.how.like, equal)
        rules = {"majority, equal syntax trees": scores} | rules
    measure(given.data, batch, instances, rules, fused, given.resamples)
    if given.runs:
        executed = Executed(batch, given.runs)
        if given.keep:
            executed.keep(given.keep)
        some = {name: pool for name, pool in batch.items() if pool in executed}
        seen = learn(list(batch.values()), agents.family, executed.witnesses)
        print(
            f"\n{len(some)} instances were executed; what it says for a right candidate (log likelihood ratio): {seen.says}"
        )
        by_execution = {
            "fewest broken tests": executed.gated(undecided),
            "others' tests": executed.voted(undecided),
            "fewest broken, then nearness": executed.gated(blind),
            "fewest broken, others' tests, nearness": executed.gated(executed.voted(blind)),
            "others' tests, fewest broken, nearness": executed.elected(blind),
            "fewest broken, then likeness to other families": executed.gated(agents.apart),
            "fewest broken, then known agents": executed.gated(agents.known),
            "fewest broken, others' tests, known agents": executed.gated(executed.voted(agents.known)),
            "others' tests, fewest broken, known agents": executed.elected(agents.known),
            "known agents, execution bears witness": seen.known,
            "fewest broken, then those": executed.gated(seen.known),
        }
        plain = {rule: {name: scores[name] for name in some} for rule, scores in rules.items()}
        rules = plain | {rule: said(some, of) for rule, of in by_execution.items()}
        measure(given.data, some, instances, rules, {}, given.resamples, parts=False)


if __name__ == "__main__":
    main()
