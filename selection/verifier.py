"""The verifier: an execution-free judgement of one candidate, P(correct) as a model reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Reply, Request, Sampling
from runoff.agent.step import Ended, Step
from runoff.agent.verdict import capped
from runoff.sandbox.protocol import Value
from runoff.selection.protocol import Entry, Score


class VerifierRecipe(Value):
    verdicts: int = 1
    """Verdicts on each candidate; their mean is the score."""
    mode: Literal["reasoned", "direct"] = "reasoned"
    """`reasoned`: the model thinks, then gives its verdict. `direct`: one word at once, for its log-probs."""
    temperature: float = 0.7
    logprobs: int = 20
    """Alternatives asked for at each token, where the provider reports them."""


async def judge(step: Step, model: str, shared: Message, entry: Entry, recipe: VerifierRecipe) -> Ended[Score]:
    """Ask for `verdicts` verdicts on a patch, and nothing else: not its tests, not what its author claimed."""
    patch = capped(entry.candidate.patch.decode("utf-8", "replace"), 20_000)
    direct = recipe.mode == "direct"
    talk = shared.then("user", prompts("verifier", "runoff.selection").judge(patch=patch, direct=direct))
    sampling = Sampling(temperature=recipe.temperature, max_tokens=16 if direct else 4096, logprobs=recipe.logprobs)

    async def one(here: Step) -> tuple[float | None, str]:
        return read((await here.ask("ask", Request(model, sampling, talk))).reply)

    read_ones = list((await step.all({f"verdict{n}": one for n in range(1, recipe.verdicts + 1)})).values())
    known = [p for p, _ in read_ones if p is not None]
    return Ended(
        reason="done",
        value=Score(
            p=sum(known) / len(known) if known else None,
            how=", ".join(sorted({how for _, how in read_ones})),
            verdicts=tuple(p for p, _ in read_ones),
        ),
    )


def read(reply: Reply) -> tuple[float | None, str]:
    """P(correct) of one reply, and how it was read. Never guesses: a reply without a verdict is None, which is not a no.

    With log-probs: P(YES) / (P(YES) + P(NO)) at the verdict token, which is looked for, not counted to. Without: the
    word itself, 1 or 0 (R2E-Gym, arXiv 2504.07164, section 4.1, scores by the log-probs of the two words).
    """
    spoken = _spoken(reply.text)
    if reply.tokens:
        for token in reversed(reply.tokens) if spoken is not None else reply.tokens:
            if spoken is not None and _word(token.text) is None:
                continue
            mass = _mass({**token.alternatives, token.text: token.logprob})
            if all(mass.values()):
                return mass["YES"] / (mass["YES"] + mass["NO"]), "log-probs"
            if spoken is not None and _word(token.text) == ("YES" if spoken else "NO"):
                return float(spoken), "log-probs: certain"
    return (None, "no verdict") if spoken is None else (float(spoken), "sampled")


def _spoken(text: str) -> bool | None:
    """The last `VERDICT: YES` or `NO` in a text, or a text that is that one word."""
    found = re.findall(r"VERDICT\W{1,6}(YES|NO)\b", text, re.IGNORECASE) or re.findall(
        r"\A\W*(YES|NO)\b\W*\Z", text, re.IGNORECASE
    )
    return None if not found else found[-1].upper() == "YES"


def _word(token: str) -> str | None:
    word = token.strip(" \t\n*_\"'.:`").upper()
    return word if word in ("YES", "NO") else None


def _mass(logprobs: Mapping[str, float]) -> dict[str, float]:
    mass = {"YES": 0.0, "NO": 0.0}
    for token, logprob in logprobs.items():
        if word := _word(token):
            mass[word] += math.exp(logprob)
    return mass
