"""Reading a verdict off a reply: the last word of a scale in its text, weighed by the log-probs of the token where it begins."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runoff.agent.protocol import Reply, Token


class Scale(NamedTuple):
    """The words that a verdict may be, each with what it is worth, 0 to 1, and the label that stands before it."""

    label: str
    worth: Mapping[str, float]

    @property
    def lettered(self) -> bool:
        return any(len(word) == 1 for word in self.worth)


YES_NO = Scale("VERDICT", {"YES": 1.0, "NO": 0.0})
BETTER = Scale("BETTER", {"A": 1.0, "SAME": 0.5, "B": 0.0})
"""Of two changes shown as A and B; worth what A is."""


def graded(levels: int) -> Scale:
    """Letters from A, certainly right, on: one token each in all common vocabularies, where numbers above 9 are two."""
    return Scale("GRADE", {chr(ord("A") + n): 1 - n / (levels - 1) for n in range(levels)})


def read(reply: Reply, scale: Scale = YES_NO, *, direct: bool = False) -> tuple[float | None, str]:
    """What a reply's verdict is worth, and how it was read. Never guesses: a reply without a verdict is None, which is not a no.

    With log-probs: the expectation over the scale's words at the verdict's token, which is looked for, not counted to; of
    YES and NO that is P(YES) / (P(YES) + P(NO)) (R2E-Gym, arXiv 2504.07164, section 4.1; over a scale of letters
    LLM-as-a-Verifier, arXiv 2607.05391). Without: what the word itself is worth. `direct`: the first word is the verdict,
    and where it is another one, what it weighed against YES and NO may still tell. (Not against letters: `A` is a word too.)
    """
    found = _verdict(reply.text, scale, direct)
    token = _token(reply.tokens or (), scale, direct, spoken=found is not None)
    mass = _mass({**token.alternatives, token.text: token.logprob}, scale) if token else {}
    weighed = sum(weight > 0 for weight in mass.values())
    if weighed > 1:
        return sum(mass[word] * scale.worth[word] for word in mass) / sum(mass.values()), "log-probs"
    if found is None:
        return None, "no verdict"
    return scale.worth[found[1].upper()], "log-probs: certain" if weighed else "sampled"


def _verdict(text: str, scale: Scale, direct: bool) -> re.Match[str] | None:
    """The last `VERDICT: YES` or `NO` in a text, or a text that is that one word; under `direct` one that begins with it.

    None where the last one that has a line to itself is another than the last: a model that quotes what a patch would have
    it say, behind its own verdict, has not taken that back. A letter counts as one only in upper case, and where nothing
    but a remark in brackets follows on its line: `GRADE: a solid B` and `A change that …` give none.
    """
    words = "|".join(f"(?-i:{word})" if len(word) == 1 else word for word in scale.worth)
    end = r"\b(?=[^\w\n]*(?:\Z|\n|\())" if scale.lettered else r"\b"
    named = list(re.finditer(rf"{scale.label}\W{{1,6}}({words}){end}", text, re.IGNORECASE))
    lines = [one for one in named if _alone_on_its_line(text, one)]
    if lines and lines[-1][1].upper() != named[-1][1].upper():
        return None
    whole = rf"\A\W*({words}){end}" + ("" if direct else r"\W*\Z")
    return named[-1] if named else re.match(whole, text, re.IGNORECASE)


def _alone_on_its_line(text: str, found: re.Match[str]) -> bool:
    before, after = text[: found.start()].rpartition("\n")[2], text[found.end() :].partition("\n")[0]
    return not re.search(r"[^\s>#*_`]", before) and not re.search(r"\w", after)


def _token(tokens: Sequence[Token], scale: Scale, direct: bool, spoken: bool) -> Token | None:
    """The token in which the word of the verdict begins; without one, under `direct`, the first that is no white space."""
    found = _verdict("".join(token.text for token in tokens), scale, direct)
    if found is None:
        guess = direct and not spoken and not scale.lettered
        return next((token for token in tokens if token.text.strip()), None) if guess else None
    end = 0
    for token in tokens:
        end += len(token.text)
        if found.start(1) < end:
            return token
    return None


def _word(token: str, scale: Scale) -> str | None:
    """Which verdict a token is, or begins: the last letters in it, as `YES` in ` YES.`, `N` in `: N`."""
    found = re.search(r"([A-Za-z]+)[^A-Za-z]*\Z", token)
    if not found:
        return None
    said = found[1]
    return next((w for w in scale.worth if w == said or (len(w) > 1 and w.startswith(said.upper()))), None)


def _mass(logprobs: Mapping[str, float], scale: Scale) -> dict[str, float]:
    mass = dict.fromkeys(scale.worth, 0.0)
    for token, logprob in logprobs.items():
        if (word := _word(token, scale)) and not math.isnan(logprob):
            mass[word] += math.exp(min(logprob, 0.0))
    return mass
