"""What a case is, and what cases share: a shell, a backend's stated capabilities, errors that must come."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from runoff.sandbox.protocol import Execution, Limits, Refused, Sandbox, SandboxError, State

Case = Callable[[Sandbox, State], Awaitable[None]]

CASES: dict[str, Case] = {}
"""Every case by its name, in the order in which they are best read."""

DEADLINE = 60.0
"""Seconds after which a case has failed, whatever it waits for."""

DIRECTORY_RENAMES = "directory renames"
EXTENDED_ATTRIBUTES = "extended attributes"
HARD_LINKS = "hard links"

CAPABILITIES: Mapping[str, str] = {
    DIRECTORY_RENAMES: "rename(2) of a directory that an earlier execution made; otherwise EXDEV, and mv copies",
    EXTENDED_ATTRIBUTES: "user.* attributes of files are kept from one execution to the next",
    HARD_LINKS: "a write to one name of a file that an earlier execution linked is seen under its others",
}
"""What a backend may lack if a row of `Sandbox.holds` with this name says `not held`."""


def case(function: Case) -> Case:
    """Adds a case, with its deadline: a backend that does not even hear `cancel` fails too, and holds up nobody."""

    @functools.wraps(function)
    async def in_time(sandbox: Sandbox, base: State) -> None:
        task = asyncio.ensure_future(function(sandbox, base))
        try:
            done, _ = await asyncio.wait([task], timeout=DEADLINE)
            if not done:
                raise AssertionError(f"not done after {DEADLINE:.0f} s")
            await task
        except SandboxError as error:
            raise AssertionError(f"{type(error).__name__} came: {error}") from error
        finally:
            task.cancel()

    CASES[function.__name__] = in_time
    return in_time


def lacks(sandbox: Sandbox, what: str) -> bool:
    """Whether the backend says that it does not hold a limit or a capability."""
    return any(row.limit == what and row.how in ("not held", "refused") for row in sandbox.holds())


async def sh(sandbox: Sandbox, state: State, script: str, limits: Limits = Limits()) -> State:
    """The state after a script in which every command must succeed."""
    done = await sandbox.execute(state, ["sh", "-euc", script], limits)
    assert (done.outcome, done.exit_code) == ("finished", 0), f"{script}: {done}"
    assert done.after is not None, "no next state, though it was asked for"
    return done.after


async def said(sandbox: Sandbox, state: State, script: str, limits: Limits = Limits()) -> str:
    """What a script prints on both streams."""
    return (await run(sandbox, state, script, limits)).text


async def run(sandbox: Sandbox, state: State, script: str, limits: Limits = Limits()) -> Execution:
    return await sandbox.execute(state, ["sh", "-c", script], limits, freeze=False)


async def python(sandbox: Sandbox, state: State, program: str, limits: Limits = Limits()) -> Execution:
    return await sandbox.execute(state, ["python3", "-c", program], limits, freeze=False)


@contextmanager
def raises(error: type[SandboxError] = Refused, words: str = "") -> Iterator[None]:
    """The error must come, in one line that has these words."""
    came = ""
    try:
        yield
    except error as one:
        came = str(one) or "without a word"
    assert came, f"{error.__name__} was not raised"
    assert words in came, f"{words!r} is not in {came!r}"
    assert "\n" not in came, f"more than a line: {came!r}"
