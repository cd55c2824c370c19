"""What each file is for, in a line by a model: written once per content, then any issue's files are chosen by these lines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from runoff.agent.answers import batches, readable
from runoff.agent.outline import outline
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Sampling, digest
from runoff.agent.step import Step
from runoff.agent.tokenizers import tokens

_WHOLE = 4_000
"""Tokens of a file that is shown whole to be summarised; of a longer one the outline, or else its beginning."""
_LINE = 400
"""Characters of a line that are kept."""


async def summarise(
    step: Step,
    model: str,
    files: Mapping[str, bytes],
    sampling: Sampling,
    budget: int,
    keep: Callable[[dict[str, str]], None],
) -> int:
    """Ask for a line on each file, `budget` tokens of files a question, and give each answer to `keep` as it comes.

    Returns how many questions were not answered readably. Raises what `Step.ask` raises.
    """
    shown = {path: _shown(path, data) for path, data in files.items()}

    say = prompts("summaries")

    async def one(step: Step, batch: list[str], first: str) -> bool:
        def read(answer: object) -> dict[str, str] | None:
            if not isinstance(answer, dict):
                return None
            lines = {path: " ".join(str(answer[path]).split())[:_LINE] for path in batch if answer.get(path)}
            return lines or None

        ask = partial(readable, step, ("ask", "again"), model, sampling, again=say.summaries_again(), read=read)
        lines = await ask(first=first)
        keep(lines or {})
        return lines is None

    questions = dict[str, Callable[[Step], Awaitable[bool]]]()
    for batch in batches({path: tokens(text) for path, text in shown.items()}, budget):
        first = say.summaries(files={path: shown[path] for path in batch})
        questions[digest(model, first)] = partial(one, batch=batch, first=first)  # another content is another question
    return sum((await step.all(questions)).values())


async def glance(
    step: Step, model: str, issue: str, lines: Mapping[str, str], sampling: Sampling, budget: int, limit: int
) -> list[str]:
    """Files worth reading for an issue, by their lines alone, `limit` at most; a batch's likeliest stand before the next ones.

    A question that is not answered readably adds nothing.
    """

    async def one(step: Step, batch: list[str]) -> list[str]:
        def read(answer: object) -> list[str] | None:
            return (
                [path for path in dict.fromkeys(map(str, answer)) if path in batch]
                if isinstance(answer, list)
                else None
            )

        say = prompts("summaries")
        first = say.glance(issue=issue, files={path: lines[path] for path in batch})
        ask = partial(readable, step, ("ask", "again"), model, sampling, again=say.glance_again(), read=read)
        return await ask(first=first) or []

    listed = batches({path: tokens(f"{path}: {line}\n") for path, line in lines.items()}, budget)
    named = await step.all({f"glance{n}": partial(one, batch=batch) for n, batch in enumerate(listed, 1)})
    places = [(place, path) for answer in named.values() for place, path in enumerate(answer)]
    return [path for _, path in sorted(places)][:limit]


def _shown(path: str, data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    if tokens(text) <= _WHOLE:
        return text
    return (outline(path, data) or text)[: 3 * _WHOLE]
