"""A trajectory that repairs how a repository is installed: a model proposes setups, each is built and its tests are run.

It ends in the first setup that works. What is built reaches the package indexes, as every setup does; what the model looks at
with commands of its own has no network. It sees nothing but the repository and what commands printed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message, Request, Sampling
from runoff.agent.step import Ended, Run, Step
from runoff.sandbox.environments.detection import Detected
from runoff.sandbox.environments.sayings import text_of
from runoff.sandbox.protocol import Limits, State, Value

TURNS = 12
_SHOWN, _SHOWN_FILE, _SHOWN_PATHS = 6000, 4000, 300
_TELLING = re.compile(
    r"pyproject\.toml|setup\.(?:py|cfg)|tox\.ini|noxfile\.py|package\.json|Makefile|CMakeLists\.txt|go\.mod|Cargo\.toml|meson\.build|"
    r"configure\.ac|README(?:\.\w+)?|CONTRIBUTING(?:\.\w+)?|requirements[^/]*\.txt|Pipfile|\.github/workflows/[^/]+"
)


class Setup(Value):
    """What the trajectory ends in."""

    python: str | None = None
    setup: str
    build: str | None = None
    test: str
    env: dict[str, str] = {}


class Tried(Value):
    """What building a setup and running its tests came to."""

    works: bool
    said: str
    state: State | None = None
    """The installed repository, if it could be built."""


async def find_setup(
    step: Step,
    model: str,
    found: Detected,
    paths: Sequence[str],
    files: Mapping[str, bytes],
    last: str,
    base: State,
    attempt: Callable[[Setup], Awaitable[Tried]],
) -> Ended[Setup]:
    """A conversation of up to TURNS replies. `last` is what was tried before; `attempt` builds and tries a setup."""
    say = prompts("installing")
    shown = [(path, text_of(files[path], _SHOWN_FILE)) for path in sorted(files) if _TELLING.fullmatch(path)][:10]
    listed = sorted(paths, key=lambda path: (path.count("/"), path))[:_SHOWN_PATHS]
    task = say.first(
        found=found, paths=listed, more=max(0, len(paths) - len(listed)), files=shown, last=_cut(last), turns=TURNS
    )
    talk, state = Message("user", task), base
    sampling = Sampling(temperature=0.6, max_tokens=4000)
    for turn in range(1, TURNS + 1):
        here, left = step.scope(f"turn{turn}"), TURNS - turn
        answer = await here.ask("ask", Request(model=model, conversation=talk, sampling=sampling))
        kind, body, problem = read_block(answer.reply.text)
        if kind == "toml" and not problem:
            setup, problem = read_setup(body)
            if setup:
                tried = Tried.model_validate(await here.once("tried", partial(_plain, attempt, setup), setup=body))
                if tried.works:
                    return Ended(reason="done", value=setup)
                state = tried.state or state
                talk = answer.conversation.then("user", say.failed(said=_cut(tried.said), left=left))
                continue
        if problem:
            talk = answer.conversation.then("user", say.unusable(problem=problem, left=left))
            continue
        run = Run(state=state, argv=("bash", "-c", body), limits=Limits(seconds=60, output=32 << 10))
        done = await here.execute("run", run)
        ended = f"Exit code {done.exit_code}." if done.outcome == "finished" else f"It was ended: {done.outcome}."
        talk = answer.conversation.then("user", say.ran(said=_cut(done.text), ended=ended, left=left))
    return Ended(reason="turns", note=f"{TURNS} answers were used up")


def read_block(reply: str) -> tuple[str, str, str]:
    """The kind of a reply's one block (`bash`, `toml`), its text, and what is wrong with it, or nothing."""
    reply = re.sub(r"<think>.*?(</think>|\Z)", "", reply, flags=re.DOTALL)
    blocks = re.findall(r"^```(bash|sh|toml)[ \t]*\n(.*?)^```[ \t]*$", reply, re.DOTALL | re.MULTILINE)
    if len(blocks) != 1:
        return "", "", f"there are {len(blocks)} blocks in the answer" if blocks else "there is no block in the answer"
    kind, body = blocks[0]
    return ("toml" if kind == "toml" else "bash"), body, "" if body.strip() else "the block is empty"


def read_setup(body: str) -> tuple[Setup | None, str]:
    """A setup from its TOML, and what is wrong with it, or nothing."""
    try:
        data = tomllib.loads(body)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return None, f"the block is no TOML: {error}"
    try:
        setup = Setup.model_validate(data)
    except ValueError:
        return None, "a setup has the keys setup and test, and perhaps python, build, env; all but env are text"
    if re.fullmatch(r"\s*(?:(?:echo|printf|true|exit|:)\b[^&|;\n]*)?", setup.test):
        return None, "the setup has no command that runs the repository's tests"
    return setup, ""


async def _plain(attempt: Callable[[Setup], Awaitable[Tried]], setup: Setup) -> object:
    return (await attempt(setup)).model_dump(mode="json")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 3]}\n[…]\n{text[-_SHOWN * 2 // 3 :]}"
