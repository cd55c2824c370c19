"""What a batch will take, said before anything is begun: calls, tokens, dollars, disk. All estimates, and called so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runoff.agent.budget import Prices
from runoff.agent.protocol import Usage
from runoff.instance import Instance
from runoff.recipe import Recipe
from runoff.sandbox.environments.builder import ROOM
from runoff.sandbox.protocol import Value

ANSWER = 1_500
"""Tokens of an answer, about."""
TURN = 1_500
"""Tokens that a turn adds to a conversation beside the answer: what was executed."""
GROWTH = 3.0
"""Bytes on disk for each byte of a compressed layer."""


class Plan(Value):
    """Of a batch in which no trajectory ends before its turns do: an upper estimate."""

    instances: int
    with_image: int
    trajectories: int
    """Of each instance."""
    calls: int
    input: int
    cached: int
    """Of the input, what a provider that caches prefixes has seen before."""
    output: int
    dollars: float | None
    """None: a price is not known."""
    disk: int
    """Bytes that environments and images take beside what is there."""

    def lines(self, free: int) -> list[str]:
        """For a terminal; `free` bytes are left where states are kept."""
        money = "at an unknown price (--price says it)" if self.dollars is None else f"about ${self.dollars:,.2f}"
        built = self.instances - self.with_image
        return [
            f"{self.instances} instances ({self.with_image} by an image, {built} built), {self.trajectories} trajectories each",
            f"at most {self.calls:,} calls, {self.input / 1e6:,.1f} M tokens in ({self.cached / max(self.input, 1):.0%} "
            f"of them seen before), {self.output / 1e6:,.2f} M out: {money}",
            f"disk: needs about {self.disk / 1e9:.1f} GB, {free / 1e9:.1f} GB free",
        ]


def plan(
    instances: Sequence[Instance],
    recipe: Recipe,
    prices: Mapping[str, Prices | None],
    layers: Mapping[str, int],
) -> Plan:
    """`prices`: role → what its model costs. `layers`: compressed bytes of each layer that is still to be brought, by digest."""
    calls = {"relevance": 0, "ranker": 0, "tester": 0, "editor": 0, "verifier": 0, "selector": 0}
    for n in range(1, recipe.trajectories + 1):
        if recipe.strategy(n) == "pair":
            calls["tester"] += recipe.testing.turns
            calls["editor"] += recipe.editing.turns
        else:
            calls["editor"] += recipe.calls(n)
    calls["verifier"] = recipe.trajectories * recipe.selection.verifier.verdicts
    calls["selector"] = recipe.selection.runoff.turns * (recipe.selection.runoff.repeats or 1)
    total, dollars = Usage(), 0.0
    known = True
    for role, n in calls.items():
        context = recipe.context.tokens
        used = Usage(input=n * (context + TURN), cached=max(n - 1, 0) * context, output=n * ANSWER)
        total = Usage(
            input=total.input + used.input, cached=total.cached + used.cached, output=total.output + used.output
        )
        price = prices.get(role)
        known &= price is not None or not n
        dollars += price.of(used) if price else 0.0
    count, with_image = len(instances), sum(1 for instance in instances if instance.image)
    return Plan(
        instances=count,
        with_image=with_image,
        trajectories=recipe.trajectories,
        calls=count * sum(calls.values()),
        input=count * total.input,
        cached=count * total.cached,
        output=count * total.output,
        dollars=count * dollars if known else None,
        disk=int(GROWTH * sum(layers.values())) + (count - with_image) * ROOM // 4,
    )
