"""The verifier: an execution-free judgement of one candidate, P(correct) as a model reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Reply, Request, Sampling, Token
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
        return read((await here.ask("ask", Request(model, sampling, talk))).reply, direct=direct)

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


def read(reply: Reply, *, direct: bool = False) -> tuple[float | None, str]:
    """P(correct) of one reply, and how it was read. Never guesses: a reply without a verdict is None, which is not a no.

    With log-probs: P(YES) / (P(YES) + P(NO)) at the verdict token, which is looked for, not counted to. Without: the
    word itself, 1 or 0 (R2E-Gym, arXiv 2504.07164, section 4.1, scores by the log-probs of the two words). `direct`: the
    first word is the verdict, and where it is another one, what it weighed against that word may still tell.
    """
    found = _verdict(reply.text, direct)
    token = _token(reply.tokens or (), direct, spoken=found is not None)
    mass = _mass({**token.alternatives, token.text: token.logprob}) if token else {}
    if mass and all(mass.values()):
        return mass["YES"] / (mass["YES"] + mass["NO"]), "log-probs"
    if found is None:
        return None, "no verdict"
    return float(found[1].upper() == "YES"), "log-probs: certain" if any(mass.values()) else "sampled"


def _verdict(text: str, direct: bool) -> re.Match[str] | None:
    """The last `VERDICT: YES` or `NO` in a text, or a text that is that one word; under `direct` one that begins with it."""
    named = list(re.finditer(r"VERDICT\W{1,6}(YES|NO)\b", text, re.IGNORECASE))
    alone = r"\A\W*(YES|NO)\b" + ("" if direct else r"\W*\Z")
    return named[-1] if named else re.match(alone, text, re.IGNORECASE)


def _token(tokens: Sequence[Token], direct: bool, spoken: bool) -> Token | None:
    """The token in which the word of the verdict begins; without one, under `direct`, the first that is no white space."""
    found = _verdict("".join(token.text for token in tokens), direct)
    if found is None:
        return next((token for token in tokens if token.text.strip()), None) if direct and not spoken else None
    end = 0
    for token in tokens:
        end += len(token.text)
        if found.start(1) < end:
            return token
    return None


def _word(token: str) -> str | None:
    """Which verdict a token is, or begins: the last letters in it, as `YES` in ` YES.`, `N` in `: N`."""
    letters = re.search(r"([A-Z]+)[^A-Z]*\Z", token.upper())
    return next((word for word in ("YES", "NO") if letters and word.startswith(letters[1])), None)


def _mass(logprobs: Mapping[str, float]) -> dict[str, float]:
    mass = {"YES": 0.0, "NO": 0.0}
    for token, logprob in logprobs.items():
        if (word := _word(token)) and not math.isnan(logprob):
            mass[word] += math.exp(min(logprob, 0.0))
    return mass
