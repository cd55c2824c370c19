"""Which agents can be relied on, learned over a batch of issues without a label, from how alike their patches are.

Right patches resemble each other, wrong ones scatter. So an agent whose patches are like those of others that are like
others' is right more often. A one-coin model in the manner of Dawid and Skene (Maximum Likelihood Estimation of Observer
Error-Rates Using the EM Algorithm, 1979), with pairwise likeness for evidence in place of equal answers. What is run of
candidates can bear witness in the same model.

No agent is known by name, and none has an advantage before the batch is seen. Samples of one agent, and agents that are
alike where nobody else is, are a family: they do not bear witness to each other.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from runoff.sandbox.protocol import Value
from runoff.selection.pool import Pool, blind

Witnesses = Callable[[Pool], Mapping[str, Sequence[str | None]]]
"""What else bears witness to a pool: kind of evidence → for each member what it says, a word of a few; None says nothing.

How far each word speaks for a right candidate is learned with the rest: `{"regression": ["clean", "breaks", None]}`.
"""

_EDGES = (0.0, 0.001, 0.2, 0.4, 0.6, 0.8, 0.999)
"""Likeness is told apart as: nothing shared, hardly anything, …, the same."""


LEAST = 30
"""Issues of a batch below which its agents cannot be told apart: among fewer, likeness on each issue alone recovers more
(docs/measured, selection by text: parts of half 1)."""


class AgreementRecipe(Value):
    """The settings of the model. How they were chosen stands in docs/measured."""

    rounds: int = 100
    """At most; it ends when no chance moves by a thousandth."""
    shrinkage: float = 4.0
    """Issues' worth of doubt about each agent: little seen, little said."""
    trust: float = 2.0
    """How far reliability moves an agent's chance on one issue."""
    copies: float = 0.6
    """Mean likeness over all issues from which two agents are one family."""
    kin: float = 0.3
    """Likeness on issues where both are unlike all others, from which two agents are one family."""
    kin_doubt: float = 3.0
    """Issues' worth of doubt about that."""
    few: int = 10
    """Agents seen on fewer issues cannot be told to be independent: together they are one family."""
    likeness: float = 0.001
    """What likeness on the issue adds to reliability when a candidate is scored: it decides between an agent's own."""


class Agents(NamedTuple):
    """What a batch says of its agents."""

    reliability: dict[str, float]
    """Agent → how far above an issue's average its chance to be right lies, about −0.3 … 0.3."""
    family: dict[str, str]
    """Agent → one of its family."""
    right: dict[tuple[str, str], float]
    """(instance, member's id) → the chance that it is right, by agreement on this issue and all that is known of the agents."""
    says: dict[str, dict[str, float]]
    """Kind of evidence → word → its log likelihood ratio, right against wrong."""
    recipe: AgreementRecipe

    def known(self, pool: Pool) -> list[float]:
        """The rule: whose agent is the most reliable; candidates of one agent by their likeness to all."""
        return [
            known(self.reliability.get(member.agent), like, self.recipe)
            for member, like in zip(pool.members, blind(pool), strict=True)
        ]

    def apart(self, pool: Pool) -> list[float]:
        """The rule: likeness to the other families, which have one voice each, that of their member most like.

        It takes from the batch only who belongs together, not who is reliable.
        """
        of = [self.family.get(member.agent, member.agent) for member in pool.members]
        scores = list[float]()
        for a, row in enumerate(pool.likeness):
            voice: dict[str, float] = {}
            for family, like in zip(of, row, strict=True):
                if family != of[a]:
                    voice[family] = max(voice.get(family, 0.0), like)
            scores.append(math.fsum(voice.values()))
        return scores

    def posterior(self, pool: Pool) -> list[float]:
        """The rule: whose chance to be right is the highest, on this issue. Of pools that were learned from; 0 for others."""
        return [self.right.get((pool.instance, member.id), 0.0) for member in pool.members]


def families(pools: Sequence[Pool], recipe: AgreementRecipe = AgreementRecipe()) -> dict[str, str]:
    """Agent → one that stands for its family.

    Two agents are kin if their patches are alike everywhere, or on the issues where both are unlike all others: independent
    ones agree because they are right, and then others mostly do, too; copies agree when they are wrong. Agents seen on fewer
    than `few` issues (or half of a smaller batch) cannot be told apart: they are one family.
    """
    issues = Counter(agent for pool in pools for agent in {member.agent for member in pool.members})
    stands = {agent: agent for agent in issues}

    def root(agent: str) -> str:
        while stands[agent] != agent:
            agent = stands[agent]
        return agent

    def join(likes: Mapping[tuple[str, str], Sequence[float]], least: float) -> None:
        for (one, other), seen in sorted(likes.items()):
            if len(seen) >= _LEAST and sum(seen) / (len(seen) + recipe.kin_doubt) > least:
                stands[root(other)] = root(one)

    everywhere: dict[tuple[str, str], list[float]] = defaultdict(list)
    for pool in pools:
        for one, other, like, _, _ in _pairs(pool):
            everywhere[one, other].append(like)
    join(everywhere, recipe.copies)
    alone: dict[tuple[str, str], list[float]] = defaultdict(list)
    for pool in pools:
        of = [root(member.agent) for member in pool.members]
        near = [_by_family(row, of) for row in pool.likeness]
        for one, other, like, a, b in _pairs(pool):
            kin = {of[a], of[b]}
            if of[a] != of[b] and len(near[a]) > 2 and all(_mean(near[n], kin) < _ALONE for n in (a, b)):
                alone[one, other].append(like)
    join(alone, recipe.kin)
    need = min(recipe.few, math.ceil(len(pools) / 2))
    rare = min((agent for agent, seen in issues.items() if seen < need), default="")
    return {agent: rare if issues[agent] < need else root(agent) for agent in sorted(issues)}


_ALONE = 0.15
"""Mean likeness to other families below which a candidate is like no one else."""
_LEAST = 5
"""Issues on which two agents must have been compared before they are said to be kin."""


def _pairs(pool: Pool) -> Iterator[tuple[str, str, float, int, int]]:
    """Every two members of different agents: the agents in order, the likeness, their places."""
    for a, member in enumerate(pool.members):
        for b in range(a):
            one, other = sorted((member.agent, pool.members[b].agent))
            if one != other:
                yield one, other, pool.likeness[a][b], a, b


def _by_family(row: Sequence[float], of: Sequence[str]) -> dict[str, float]:
    """Family → mean likeness to it."""
    size, total = Counter(of), Counter[str]()
    for like, family in zip(row, of, strict=True):
        total[family] += like  # type: ignore[assignment]
    return {family: total[family] / count for family, count in size.items()}


def _mean(near: Mapping[str, float], without: set[str]) -> float:
    return (sum(near.values()) - sum(near[family] for family in without)) / (len(near) - len(without))


def learn(
    pools: Sequence[Pool],
    family: Mapping[str, str] | None = None,
    witnesses: Witnesses = lambda pool: {},
    recipe: AgreementRecipe = AgreementRecipe(),
) -> Agents:
    """What the batch says of its agents, by expectation maximisation. The order of pools and members does not matter.

    `family` (agent → family) where it is known; otherwise it is learned. Chances are moved half of the way in each round,
    all at once, so that the outcome does not swing.
    """
    kin = dict(family) if family is not None else families(pools, recipe)
    issues = [_Issue(pool, kin, witnesses(pool)) for pool in sorted(pools, key=lambda pool: pool.instance)]
    reliability: dict[str, float] = {}
    says: dict[str, dict[str, float]] = {}
    for _ in range(recipe.rounds):
        reliability = _reliability(issues, recipe.shrinkage)
        weight = _weights(issues)
        says = _says(issues)
        moved = [issue.move(reliability, weight, says, recipe.trust) for issue in issues]
        if max(moved, default=0.0) < 0.001:
            break
    right = {
        (issue.pool.instance, member.id): chance
        for issue in issues
        for member, chance in zip(issue.pool.members, issue.right, strict=True)
    }
    return Agents(reliability, kin, right, says, recipe)


def relied_on(pools: Sequence[Pool]) -> dict[str, float]:
    """Agent → how far it can be relied on, as `known` scores it; of a batch that is too small, nothing."""
    return learn(pools).reliability if len(pools) >= LEAST else {}


def known(reliability: float | None, near: float, recipe: AgreementRecipe = AgreementRecipe()) -> float:
    """The score of a candidate whose agent the batch says this of: candidates of one agent by their nearness to all."""
    return (reliability or 0.0) + recipe.likeness * near


class _Issue:
    """A pool and the chances of its members to be right, as far as they are known."""

    def __init__(self, pool: Pool, kin: Mapping[str, str], said: Mapping[str, Sequence[str | None]]) -> None:
        self.pool, self.said = pool, said
        family = [kin.get(member.agent, member.agent) for member in pool.members]
        size = Counter(family)
        places = range(len(family))
        self.bins = [
            [(b, _bin(pool.likeness[a][b]), 1 / size[family[b]]) for b in places if family[a] != family[b]]
            for a in places
        ]
        """For each member its witnesses: which member, how alike, with what weight (those of a family share one)."""
        near = [[pool.likeness[a][b] for b, _, _ in self.bins[a]] for a in places]
        self.empty = [not bag for bag in pool.atoms]
        self.right = [
            _EMPTY if self.empty[a] else min(0.9, max(0.05, 0.2 + 1.2 * sum(near[a]) / max(1, len(near[a]))))
            for a in places
        ]

    @property
    def ease(self) -> float:
        return sum(self.right) / max(1, len(self.right))

    def move(
        self,
        reliability: Mapping[str, float],
        weight: Sequence[float],
        says: Mapping[str, Mapping[str, float]],
        trust: float,
    ) -> float:
        """Let each chance go half of the way to where the evidence puts it; how far the farthest went."""
        ease, moved = self.ease, list(self.right)
        for a, member in enumerate(self.pool.members):
            if self.empty[a]:
                continue
            prior = min(0.97, max(0.02, ease + trust * reliability[member.agent]))
            odds = math.log(prior / (1 - prior))
            odds += math.fsum(self.right[b] * weight[bin_] * share for b, bin_, share in self.bins[a])
            odds += sum(says[kind][word] for kind, words in sorted(self.said.items()) if (word := words[a]) is not None)
            moved[a] = (self.right[a] + 1 / (1 + math.exp(-min(8.0, max(-8.0, odds))))) / 2
        farthest = max((abs(x - y) for x, y in zip(moved, self.right, strict=True)), default=0.0)
        self.right = moved
        return farthest


_EMPTY = 0.001


def _bin(likeness: float) -> int:
    return sum(likeness >= edge for edge in _EDGES) - 1


def _reliability(issues: Sequence[_Issue], shrinkage: float) -> dict[str, float]:
    above: dict[str, list[float]] = defaultdict(list)
    for issue in issues:
        ease = issue.ease
        for member, chance in zip(issue.pool.members, issue.right, strict=True):
            above[member.agent].append(chance - ease)
    return {agent: math.fsum(values) / (len(values) + shrinkage) for agent, values in above.items()}


def _weights(issues: Sequence[_Issue]) -> list[float]:
    """For each degree of likeness, its log likelihood ratio: both are right, against any other case."""
    both, other = [0.01] * len(_EDGES), [0.01] * len(_EDGES)
    for issue in issues:
        for a, witnesses in enumerate(issue.bins):
            for b, bin_, _ in witnesses:
                chance = issue.right[a] * issue.right[b]
                both[bin_] += chance
                other[bin_] += 1 - chance
    return [math.log(x / sum(both)) - math.log(y / sum(other)) for x, y in zip(both, other, strict=True)]


def _says(issues: Sequence[_Issue]) -> dict[str, dict[str, float]]:
    """For each kind of further evidence and each word of it, its log likelihood ratio, with one doubt a word."""
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [1.0, 1.0]))
    for issue in issues:
        for kind, words in issue.said.items():
            for word, chance in zip(words, issue.right, strict=True):
                if word is not None:
                    seen[kind][word][0] += chance
                    seen[kind][word][1] += 1 - chance
    says = dict[str, dict[str, float]]()
    for kind, counts in seen.items():
        right, wrong = (sum(pair[n] for pair in counts.values()) for n in (0, 1))
        says[kind] = {word: math.log(yes / right) - math.log(no / wrong) for word, (yes, no) in counts.items()}
    return says
