"""Tests of the repository that hold what the issue wants changed: a model may exempt them, each with its reason, which is kept.

    table ──telling──► tests that some entries break ──ask_exempt──► test → reason ──► Evidence.exempt ──► ranking without them

After Agentless (arXiv 2407.01489, section 3.4), where a model picks the regression tests that a fix may break.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from runoff.agent.context import Tree, is_test
from runoff.agent.definitions import definitions
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Step
from runoff.agent.verdict import capped
from runoff.sandbox.protocol import Value
from runoff.selection.protocol import OutcomeTable
from runoff.selection.repository_tests import SUITE

_TURNS = 2
_SHOWN = 4_000  # characters of a test
_BLOCK = re.compile(r'<exempt\s+id="([^"]*)"\s*>(.*?)</exempt>', re.DOTALL)


class Exempt(Value):
    """Test → the reason for which it does not count."""

    tests: dict[str, str]


class Shown(NamedTuple):
    id: str
    source: str
    """Empty: it was not found."""


def telling(table: OutcomeTable, most: int) -> list[str]:
    """The tests that some entries break and others do not, most often broken first. Pure."""
    lost = [broken for name in table.rows if (broken := table.broken.get(name, ())) is not None]
    count = Counter(test for broken in lost for test in broken if test != SUITE)
    found = [test for test in table.repository if 0 < count[test] < len(lost)]
    return sorted(found, key=lambda test: (-count[test], test))[:most]


async def ask_exempt(step: Step, model: str, shared: Message, tree: Tree, tests: Sequence[str]) -> Ended[Exempt]:
    """What a model exempts of these tests, in at most two answers; where it gives none that can be used, nothing is."""
    say = prompts("exempting", "runoff.selection")
    shown = {f"T{n}": Shown(test, capped(source_of(test, tree), _SHOWN)) for n, test in enumerate(tests, 1)}
    sampling = Sampling(temperature=0.0, max_tokens=4096)
    talk = shared.then("user", say.ask(tests=shown))
    for turn in range(1, _TURNS + 1):
        answer = await step.scope(f"turn{turn}").ask("ask", Request(model, sampling, talk))
        found, problems = read_exempt(answer.reply.text, {name: test.id for name, test in shown.items()})
        if not problems:
            return Ended(reason="done", value=Exempt(tests=found))
        talk = answer.conversation.then("user", say.unusable(problems=problems, left=_TURNS - turn))
    return Ended(reason="turns", note=f"no answer of {_TURNS} could be used: {problems[0]}")


def read_exempt(reply: str, tests: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Test → reason, and what is wrong with the answer in words for whoever gave it. `tests`: label → test. Pure."""
    blocks = _BLOCK.findall(reply)
    if not blocks:
        return {}, [] if "<none/>" in reply else ["There is neither an <exempt> block nor <none/> in it."]
    problems = [f"There is no test {label}." for label, _ in blocks if label not in tests]
    problems += [f"No reason is given for {label}." for label, reason in blocks if not reason.strip()]
    return {tests[label]: " ".join(reason.split()) for label, reason in blocks if label in tests}, problems


def source_of(test: str, tree: Tree) -> str:
    """The text of a test by its id, as JUnit (`tests.test_cart.TestX::test_y[1]`) and unittest (`cart.tests.TestX.test_y`) have
    them; of one that is inherited, its class. Empty where it is not found."""
    parts = re.split(r"[.:]+", test.partition("[")[0])
    for path in sorted(filter(is_test, tree), key=lambda path: (-len(path), path)):
        module = list(PurePosixPath(path).with_suffix("").parts)
        for start in range(len(module)):
            if parts[: len(module) - start] == module[start:]:
                name = parts[len(module) - start :]
                if name and (found := _lines(path, tree[path], name)):
                    return found
    return ""


def _lines(path: str, source: bytes, name: Sequence[str]) -> str:
    listed = {one.name: one for one in definitions(path, source)}
    for wanted in (".".join(name), ".".join(name[:-1])):
        if one := listed.get(wanted):
            lines = source.decode("utf-8", "replace").splitlines()
            return "\n".join(lines[one.first - 1 : one.last])
    return ""
