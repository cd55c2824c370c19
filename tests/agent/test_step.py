"""Steps: what is paid for once is never paid for again, and what a resumed run tells when it cannot go on."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runoff.agent.budget import Budget, Prices
from runoff.agent.doubles import Scripted
from runoff.agent.log import Log, read
from runoff.agent.protocol import (
    Bill,
    BudgetSpent,
    Call,
    ContextOverflow,
    Message,
    Model,
    ModelMisconfigured,
    ModelUnreachable,
    Reply,
    Request,
    Sampling,
    Stopping,
    Tool,
    ToolCall,
    Usage,
    observed,
)
from runoff.agent.step import Drift, Ended, Run, Step, World, settled, trajectory
from runoff.sandbox.protocol import Execution, Limits, SandboxLost, State, StoreFull

BASE = State(layers=("base",))
PROMPT = Message("system", "the code").then("user", "mend it")


class Killed(Exception):
    """As if the process ended here: a request was sent, nothing more is written."""


class FakeSandbox:
    """Executes nothing; says what it was asked, and remembers it."""

    name = "fake"

    def __init__(self, outcome: str = "finished") -> None:
        self.ran: list[tuple[str, ...]] = []
        self.lost = False
        self.outcome = outcome

    async def execute(self, state: State, argv: Sequence[str], limits: Limits = Limits(), **how: Any) -> Execution:
        self.ran.append(tuple(argv))
        await asyncio.sleep(0.005)
        said = hashlib.md5(f"{state.digest} {argv}".encode()).hexdigest()
        code = 0 if self.outcome == "finished" else None
        return Execution.model_validate(
            {"outcome": self.outcome, "exit_code": code, "stdout": said, "stderr": "", "seconds": 0, "after": None}
        )

    def find(self, digest: str) -> State | None:
        return None if self.lost else State(layers=(digest, "base"))


@asynccontextmanager
async def opened(log: Path, model: Model, sandbox: Any = None, budget: Budget | None = None) -> AsyncIterator[World]:
    """A process that has the log open; leaving it is that process's end, however it came to it."""
    world = World(Log(log), "instance", model, sandbox or FakeSandbox(), budget)
    try:
        yield world
    finally:
        await world.close()


async def play(
    log: Path, strategy: Callable[[Step], Awaitable[Ended[Any]]], model: Model, restart: bool = False, **how: Any
) -> Ended[Any]:
    """One life of one trajectory."""
    async with opened(log, model, **how) as world:
        world.restart_drifted = restart
        return await trajectory(world, "t", object, strategy)


def says(call: Call) -> str:
    """The same answer to the same conversation, another to any other."""
    return f"answer {call.request.conversation.digest[:8]}"


def until(*last: str, error: Exception | None = None) -> Scripted:
    """Answers all but the calls of these paths: there the process is killed, or the model fails."""
    return Scripted(lambda call: (error or Killed()) if call.path in last else says(call))


def paths(model: Scripted) -> list[str]:
    return [call.path for call in model.calls]


async def three_turns(
    step: Step,
    *,
    model: str = "m",
    temperature: float = 1,
    prompt: Message = PROMPT,
    told: str = "go on",
    command: str = "test",
    state: State = BASE,
    limit: int = 3,
) -> Ended[str]:
    """A conversation, with an execution and a decision after each reply."""
    talk = prompt
    for n in range(3):
        turn = step.scope(f"turn{n}")
        answer = await turn.ask("ask", Request(model, Sampling(temperature=temperature), talk))
        done = await turn.execute("run", Run(state=state, argv=(command, str(n))))
        chosen = await turn.once("choose", partial(asyncio.sleep, 0, len(answer.reply.text)), limit=limit)
        talk = answer.conversation.then("user", f"{told} {chosen} {done.text}")
    return Ended(reason="done", value=talk.digest)


async def three_branches(step: Step) -> Ended[str]:
    """Three conversations at once, whose ends are then put together."""

    async def branch(here: Step) -> str:
        talk = PROMPT
        for n in range(3):
            talk = (await here.ask(f"ask{n}", Request("m", Sampling(), talk))).conversation.then(
                "user", here.trajectory
            )
            await here.execute(f"run{n}", Run(state=BASE, argv=(talk.digest,)))
        return talk.digest

    both = await step.all({"a": branch, "b": branch, "c": branch})
    last = await step.ask("last", Request("m", Sampling(), PROMPT.then("user", " ".join(both.values()))))
    return Ended(reason="done", value=last.conversation.digest)


def test_a_killed_trajectory_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        sandbox = FakeSandbox()
        undisturbed = await play(tmp_path / "undisturbed", three_turns, Scripted(says))
        log = tmp_path / "log"
        for turn in (0, 1, 2):
            with pytest.raises(Killed):
                await play(log, three_turns, model := until(f"turn{turn}/ask"), sandbox=sandbox)
            asked = [f"turn{turn - 1}/ask"] if turn else []
            assert paths(model) == [*asked, f"turn{turn}/ask"]
        assert await play(log, three_turns, model := Scripted(says), sandbox=sandbox) == undisturbed
        assert paths(model) == ["turn2/ask"]
        assert len(sandbox.ran) == 3, "what was executed before a kill is not executed again"
        assert await play(log, three_turns, model := Scripted([]), sandbox=sandbox) == undisturbed
        assert model.calls == []

    asyncio.run(scenario())


def test_what_was_sent_when_the_process_was_killed_is_possibly_billed_and_asked_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    seen = []

    def answer(call: Call) -> str | Exception:
        seen.append([record for record in read(log) if record["kind"] == "intent" and record["path"] == call.path])
        return Killed() if call.path == "turn1/ask" else says(call)

    async def scenario() -> None:
        for lives in (1, 2):
            with pytest.raises(Killed):
                await play(log, three_turns, Scripted(answer))
            async with opened(log, Scripted([])) as world:
                assert world.log.possibly_billed == {("t", "turn1/ask"): lives}
                assert [line["path"] for line in world.log.ledger] == ["turn0/ask"]
        await play(log, three_turns, model := Scripted(says))
        assert paths(model) == ["turn1/ask", "turn2/ask"]
        async with opened(log, Scripted([])) as world:
            assert world.log.possibly_billed == {("t", "turn1/ask"): 2}, "answered since, the others stay in the ledger"

    asyncio.run(scenario())
    assert all(seen), "every request is announced in the file before it is sent"


def test_a_call_that_a_provider_refused_is_not_possibly_billed(tmp_path: Path) -> None:
    async def scenario() -> None:
        await play(tmp_path / "log", three_turns, until("turn1/ask", error=ModelUnreachable("503")))
        async with opened(tmp_path / "log", Scripted([])) as world:
            assert not world.log.possibly_billed

    asyncio.run(scenario())


def test_an_effect_is_known_by_its_path_not_by_its_place(tmp_path: Path) -> None:
    """A strategy may ask in another order, and ask more: what it has asked before is not asked again."""

    async def asks(step: Step, names: str) -> Ended[str]:
        said = [(await step.ask(name, Request("m", Sampling(), Message("user", name)))).reply.text for name in names]
        return Ended(reason="error", note=" ".join(sorted(said)))

    async def scenario() -> None:
        first = await play(tmp_path / "log", partial(asks, names="abc"), Scripted(says))
        again = await play(tmp_path / "log", partial(asks, names="cab"), model := Scripted(says))
        assert (again, model.calls) == (first, [])
        await play(tmp_path / "log", partial(asks, names="cxab"), model := Scripted(says))
        assert paths(model) == ["x"]

    asyncio.run(scenario())


def test_the_same_path_twice_is_a_mistake_that_names_the_path(tmp_path: Path) -> None:
    async def twice(step: Step) -> Ended[None]:
        await step.scope("a").execute("x", Run(state=BASE, argv=("true",)))
        step.random("a/x")
        return Ended(reason="done")

    with pytest.raises(ValueError, match="t: two effects are called a/x"):
        asyncio.run(play(tmp_path / "log", twice, Scripted([])))


def test_the_order_in_which_branches_end_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        ends = set()
        for seed in range(20):
            dice = random.Random(seed)

            class Slow(Scripted):
                async def ask(self, call: Call, dice: random.Random = dice) -> Reply:
                    await asyncio.sleep(dice.random() * 0.01)
                    return await super().ask(call)

            log, kill = tmp_path / str(seed), dice.choice(["a/ask2", "b/ask1", "c/ask0", "last"])
            killed = Slow(lambda call, kill=kill: Killed() if call.path == kill else says(call))
            with pytest.raises(Killed):
                await play(log, three_branches, killed)
            ends.add((await play(log, three_branches, resumed := Slow(says))).value)
            calls = Counter(paths(killed) + paths(resumed))
            assert calls == {path: 1 + (path == kill) for path in calls}
            assert len(calls) == 10
        assert len(ends) == 1

    asyncio.run(scenario())


def test_an_error_in_a_branch_waits_for_the_others_whose_answers_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        ended = await play(tmp_path / "log", three_branches, until("a/ask0", error=ModelUnreachable("503")))
        assert (ended.reason, ended.note) == ("error", "503")
        await play(tmp_path / "log", three_branches, model := Scripted(says))
        assert paths(model) == ["a/ask0", "a/ask1", "a/ask2", "last"]

    asyncio.run(scenario())


def test_an_execution_is_shared_while_it_runs_and_never_computed_twice(tmp_path: Path) -> None:
    run = Run(state=BASE, argv=("make", "test"))

    async def scenario() -> None:
        sandbox = FakeSandbox()
        async with opened(tmp_path / "log", Scripted([]), sandbox) as world:
            waiting = [asyncio.create_task(Step(world, f"t{n}").execute("run", run)) for n in range(5)]
            await asyncio.sleep(0.001)
            waiting[0].cancel()  # who began it is no longer interested: the others are
            done = await asyncio.gather(*waiting[1:], Step(world, "t").execute("run", run))
            assert len(set(map(repr, done))) == 1
            assert await world.execute(run) == done[0]
        async with opened(tmp_path / "log", Scripted([]), sandbox) as world:
            assert await world.execute(run) == done[0]
            assert len(sandbox.ran) == 1
            for other in ({"repetition": 1}, {"stdin": "x"}, {"env": {"A": "1"}}, {"limits": Limits(seconds=1)}):
                await world.execute(run.model_copy(update=other))
            assert len(sandbox.ran) == 5

    asyncio.run(scenario())


def test_a_state_is_derived_once(tmp_path: Path) -> None:
    made = []

    async def make() -> State:
        made.append(1)
        await asyncio.sleep(0.001)
        return State(layers=("patched", "base"))

    async def scenario() -> None:
        for _ in range(2):
            async with opened(tmp_path / "log", Scripted([])) as world:
                both = await asyncio.gather(world.derive("base apply p", make), world.derive("base apply p", make))
                assert both == [State(layers=("patched", "base"))] * 2
        assert len(made) == 1
        lost = FakeSandbox()
        lost.lost = True
        async with opened(tmp_path / "log", Scripted([]), lost) as world:
            await world.derive("base apply p", make)
        assert len(made) == 2, "a state that is gone is made again"

    asyncio.run(scenario())


def test_chance_and_decisions_are_the_same_in_the_next_life(tmp_path: Path) -> None:
    async def draws(step: Step) -> Ended[Any]:
        async def now() -> Any:
            return {"crc": random.random(), "order": (1, 2)}

        luck = [step.random("luck").random(), step.scope("a").random("luck").random()]
        return Ended(reason="error", value=[luck, await step.once("now", now, at=(1, 2))])

    async def scenario() -> None:
        first = await play(tmp_path / "log", draws, Scripted([]))
        assert first.value[0][0] != first.value[0][1]
        assert await play(tmp_path / "log", draws, Scripted([])) == first

    asyncio.run(scenario())


CHANGES = [
    ({"model": "n"}, "model: 'm' is now 'n'"),
    ({"temperature": 0}, "sampling: .*temperature': 1.* is now .*temperature': 0"),
    ({"prompt": Message("system", "other code").then("user", "mend it")}, r"messages, from number 1 on\)"),
    ({"prompt": Message("system", "the code").then("user", "mend it well")}, r"messages, from number 2 on\)"),
    ({"told": "carry on"}, r"t at turn1/ask .*\(messages, from number 4 on\)"),
    ({"model": "n", "prompt": PROMPT.then("user", "!")}, r"model: 'm' is now 'n'; messages, from number 3 on\)"),
    ({"command": "check"}, r"t at turn0/run .*argv: .*'test', '0'.* is now .*'check', '0'"),
    ({"state": State(layers=("other",))}, "state: 'base' is now 'other'"),
    ({"limit": 4}, r"t at turn0/choose .*limit: 3 is now 4"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_drift_says_which_part_has_changed(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    async def scenario() -> None:
        log = tmp_path / "log"
        with pytest.raises(Killed):
            await play(log, three_turns, until("turn2/ask"))
        torn = log.read_bytes()[:-9]  # as many a kill leaves it, which must not hide what the user changed
        log.write_bytes(torn)
        with pytest.raises(Drift, match=words) as drift:
            await play(log, partial(three_turns, **change), model := Scripted(says))
        assert "--restart-drifted" in str(drift.value)
        assert model.calls == []

        undisturbed = await play(tmp_path / "undisturbed", partial(three_turns, **change), Scripted(says))
        restarted = await play(log, partial(three_turns, **change), model := Scripted(says), restart=True)
        assert restarted == undisturbed
        assert paths(model) == ["turn0/ask", "turn1/ask", "turn2/ask"]
        async with opened(log, Scripted([])) as world:
            assert [line["path"] for line in world.log.ledger] == ["turn0/ask", "turn1/ask", *paths(model)]

    asyncio.run(scenario())


def test_a_finished_trajectory_is_never_invalidated(tmp_path: Path) -> None:
    async def scenario() -> None:
        ended = await play(tmp_path / "log", three_turns, Scripted(says))
        for change, _ in CHANGES:
            assert await play(tmp_path / "log", partial(three_turns, **change), model := Scripted([])) == ended
            assert model.calls == []

    asyncio.run(scenario())


def test_the_cost_of_what_was_set_aside_stays_in_the_ledger(tmp_path: Path) -> None:
    paid = Scripted(lambda call: Reply(text=says(call), usage=Usage(input=10, output=1), cost=0.5))

    async def unfinished(step: Step, temperature: float) -> Ended[str]:
        await three_turns(step, temperature=temperature)
        return Ended(reason="error")

    async def scenario() -> None:
        for temperature in (0, 1, 2):
            await play(tmp_path / "log", partial(unfinished, temperature=temperature), paid, restart=True)
        async with opened(tmp_path / "log", paid) as world:
            assert sum(line["cost"] for line in world.log.ledger) == 9 * 0.5
            assert len(world.log.effects) == 9, "three turns of three effects"

    asyncio.run(scenario())


def test_a_spent_budget_stops_a_trajectory_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        priced = lambda call: Reply(text=says(call), usage=Usage(input=90, output=10), cost=1.0)  # noqa: E731
        ended = await play(tmp_path / "log", three_turns, model := Scripted(priced), budget=Budget(tokens=150))
        assert (ended.reason, paths(model)) == ("budget", ["turn0/ask", "turn1/ask"])
        assert "raise --budget" in ended.note
        ended = await play(tmp_path / "log", three_turns, model := Scripted(priced), budget=Budget(tokens=1000))
        assert (ended.reason, paths(model)) == ("done", ["turn2/ask"])

    asyncio.run(scenario())


def test_an_overflow_is_on_record_and_not_asked_for_again(tmp_path: Path) -> None:
    async def shortens(step: Step, model: str = "m") -> Ended[str]:
        try:
            answer = await step.ask("long", Request(model, Sampling(), PROMPT))
        except ContextOverflow as error:
            answer = await step.ask("short", Request(model, Sampling(), Message("user", str(error))))
        return Ended(reason="done", value=answer.reply.text)

    full = Scripted({"long": ContextOverflow("9 tokens too many"), "short": Killed()})

    async def scenario() -> None:
        with pytest.raises(Killed):
            await play(tmp_path / "log", shortens, full)
        with pytest.raises(Drift, match=r"otherwise \(model: 'm' is now 'n'\)"):
            await play(tmp_path / "log", partial(shortens, model="n"), Scripted([]))
        ended = await play(tmp_path / "log", shortens, model := Scripted(says))
        assert (ended.reason, paths(model)) == ("done", ["short"])
        assert model.calls[0].request.conversation.text == "9 tokens too many"

        ended = await play(tmp_path / "other", three_turns, until("turn1/ask", error=ContextOverflow("too long")))
        assert (ended.reason, ended.note) == ("context", "too long")
        assert await play(tmp_path / "other", three_turns, Scripted([])) == ended

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["model", "sandbox"])
def test_what_was_nobodys_fault_is_tried_again_by_the_same_command(tmp_path: Path, fault: str) -> None:
    async def scenario() -> None:
        model = until("turn1/ask", error=ModelUnreachable("no route")) if fault == "model" else Scripted(says)
        sandbox = FakeSandbox("lost" if fault == "sandbox" else "finished")
        ended = await play(tmp_path / "log", three_turns, model, sandbox=sandbox)
        assert ended.reason == "error"
        assert ("no route" if fault == "model" else "the sandbox failed under test 0") in ended.note
        ended = await play(tmp_path / "log", three_turns, again := Scripted(says))
        assert ended.reason == "done"
        assert paths(again) == ["turn1/ask", "turn2/ask"]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [ModelMisconfigured("no key", "set it"), Stopping("stopped"), StoreFull("no room")])
def test_what_concerns_the_whole_run_is_no_trajectorys_end(tmp_path: Path, error: Exception) -> None:
    async def scenario() -> None:
        with pytest.raises(type(error)):
            await play(tmp_path / "log", three_turns, until("turn1/ask", error=error))
        await play(tmp_path / "log", three_turns, model := Scripted(says))
        assert paths(model) == ["turn1/ask", "turn2/ask"]

    asyncio.run(scenario())


def test_a_run_that_is_being_stopped_asks_nothing_new(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "log", Scripted([])) as world:
            world.stopping = True
            with pytest.raises(Stopping):
                await trajectory(world, "t", str, three_turns)

    asyncio.run(scenario())


def test_settled_waits_for_all_before_it_raises() -> None:
    ended = []

    async def one(n: int) -> int:
        try:
            await asyncio.sleep(n / 1000)
        finally:
            ended.append(n)
        if n in (1, 3):
            raise SandboxLost(str(n))
        return n

    async def scenario() -> None:
        assert await settled() == []
        assert await settled(one(4), one(2)) == [4, 2]
        ended.clear()
        with pytest.raises(SandboxLost, match="1"):
            await settled(one(5), one(1), one(3), one(9))
        assert ended == [1, 3, 5, 9]
        ended.clear()
        waiting = asyncio.create_task(settled(one(10_000), one(20_000)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ended == [10_000, 20_000], "cancelled, it has let go of all"

    asyncio.run(scenario())


def test_one_waiters_cancellation_leaves_the_others_their_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "log", Scripted(says)) as world:
            asking = [
                asyncio.create_task(Step(world, f"t{n}").ask("ask", Request("m", Sampling(), PROMPT)))
                for n in range(50)
            ]
            await asyncio.sleep(0.001)
            asking[7].cancel()
            ends = await asyncio.gather(*asking, return_exceptions=True)
        assert [n for n, end in enumerate(ends) if isinstance(end, BaseException)] == [7]

    asyncio.run(scenario())


ROLES = st.sampled_from(["system", "user", "assistant"])
TEXTS = st.text(st.characters(exclude_characters="\x02\x03", codec=None), max_size=8)
SAID = st.lists(st.tuples(ROLES, TEXTS), min_size=1, max_size=5)


def conversation(said: list[tuple[Any, str]]) -> Message:
    first, *rest = said
    talk = Message(*first)
    for role, text in rest:
        talk = talk.then(role, text)
    return talk


@given(SAID, SAID)
def test_conversations_are_the_same_if_and_only_if_the_same_was_said(one: list[Any], other: list[Any]) -> None:
    assert (conversation(one).digest == conversation(other).digest) == (one == other)
    assert (conversation(one).shape == conversation(other).shape) == (one == other)
    assert [(m.role, m.text) for m in conversation(one).messages()] == one
    assert conversation(one + other).messages()[len(one) - 1].digest == conversation(one).digest


@given(SAID, st.text(max_size=8), st.text(max_size=8))
def test_the_shape_of_a_conversation_leaves_out_what_executions_printed(said: list[Any], one: str, other: str) -> None:
    a, b = (
        conversation(said).then("user", f"it said {observed(text)}!").then("assistant", "so") for text in (one, other)
    )
    assert a.shape == b.shape
    plain = one.translate({2: None, 3: None}) == other.translate({2: None, 3: None})
    assert (a.digest == b.digest) == plain
    assert a.shape != conversation(said).then("user", f"it said {observed(one)}?").then("assistant", "so").shape


def test_what_was_recorded_before_there_were_tools_still_fits() -> None:
    talk = Message("system", "a").then("user", "b" + observed("c")).then("assistant", "d")
    assert (talk.digest, talk.shape) == ("df1656294b53b3bfb69ccbab", "7497e1836f6deaab2d0788c5")
    called = talk.then("assistant", "", calls=[CALLS[0]])
    assert len({called.digest, talk.then("assistant", "").digest, talk.then("assistant", "", calls=CALLS).digest}) == 3
    assert called.then("tool", "12", call="one").digest != called.then("tool", "12", call="two").digest


CALLS = tuple(ToolCall(id=name, name="run", arguments=f'{{"command": "{name}"}}') for name in ("one", "two"))
RUN = Tool(name="run", description="runs a command", parameters={"type": "object", "properties": {}})


async def calls_tools(step: Step, told: str = "done", tool: Tool = RUN) -> Ended[str]:
    answer = await step.ask("ask", Request("m", Sampling(), PROMPT, (tool,)))
    talk = answer.conversation
    for call in answer.reply.calls:
        talk = talk.then("tool", f"{told} {call.arguments}", call=call.id)
    last = await step.ask("last", Request("m", Sampling(), talk, (tool,)))
    return Ended(reason="done", value=last.conversation.digest)


def test_a_trajectory_that_calls_tools_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = tmp_path / "log.jsonl"
        with pytest.raises(Killed):
            await play(log, calls_tools, Scripted([Reply(text="", calls=CALLS), Killed()]))
        second = Scripted({"last": "ready"})
        ended = await play(log, calls_tools, second)
        assert ended == await play(tmp_path / "whole", calls_tools, Scripted([Reply(text="", calls=CALLS), "ready"]))
        sent = second.calls[0].request.conversation
        assert [said.call for said in sent.messages()[-2:]] == ["one", "two"]
        assert sent.messages()[-3].calls == CALLS
        # What was called and answered stands in the log, for whoever reads it: each message once.
        told = [line[-1] for record in read(log) for line in record.get("new", ()) if isinstance(line[-1], dict)]
        assert told == [{"call": "one"}, {"call": "two"}]

    asyncio.run(scenario())


def test_a_changed_tool_is_drift_and_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = tmp_path / "log.jsonl"
        with pytest.raises(Killed):
            await play(log, calls_tools, Scripted([Reply(text="", calls=CALLS), Killed()]))
        other = RUN.model_copy(update={"description": "runs it elsewhere"})
        with pytest.raises(Drift, match="tools"):
            await play(log, partial(calls_tools, tool=other), Scripted({}))

    asyncio.run(scenario())


async def asks_on(step: Step) -> Ended[str]:
    """One call after the other, of a thousand tokens each, as often as it may."""
    for n in range(100):
        await step.ask(f"ask{n}", Request("m", Sampling(), PROMPT.then("user", f"{step.trajectory} {n}")))
    return Ended(reason="done")


def thousand(call: Call) -> Reply:
    return Reply(text="a", usage=Usage(input=900, output=100), cost=0.01)


def test_what_is_kept_for_the_selection_is_spent_by_nothing_before_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Scripted(thousand)
        async with opened(tmp_path / "log", model, budget=Budget(tokens=20_000)) as world:
            world.reserve = 0.25
            ended = await trajectory(world, "editing-1", object, asks_on)
            assert ended.reason == "budget"
            assert "but for the 25% kept for the selection; raise --budget" in ended.note
            assert len(model.calls) == 15
            world.reserve = 0.0
            await trajectory(world, "run-off", object, asks_on)
            assert len(model.calls) == 20

    asyncio.run(scenario())


def test_a_trajectory_has_a_budget_of_its_own_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    async def life(cap: int) -> tuple[list[str], World]:
        async with opened(tmp_path / "log", model := Scripted(thousand), budget=Budget(calls=50)) as world:
            world.cap = lambda: Budget(calls=cap, whose="the trajectory's budget", remedy="raise it")
            world.count_back()
            ends = [await trajectory(world, name, object, asks_on) for name in ("a", "b")]
            assert {end.reason for end in ends} == {"budget"}
            return [call.trajectory for call in model.calls], world

    async def scenario() -> None:
        asked, _ = await life(3)
        assert Counter(asked) == {"a": 3, "b": 3}
        asked, world = await life(5)
        assert Counter(asked) == {"a": 2, "b": 2}, "what was asked before is counted back from the log"
        assert (world.budget.spent_calls, world.budget.spent_tokens) == (10, 10_000)
        assert world.budget.spent_money == pytest.approx(0.1)

    asyncio.run(scenario())


def test_what_a_failed_call_took_is_in_the_ledger_and_counted_back(tmp_path: Path) -> None:
    def answer(call: Call) -> Exception:
        error = ModelUnreachable("six empty replies")
        error.spent = Reply(text="", usage=Usage(input=60, output=6), cost=0.5, cut=Bill(usage=Usage(input=10)))
        return error

    async def scenario() -> None:
        log = tmp_path / "log"
        assert (await play(log, asks_on, Scripted(answer))).reason == "error"
        async with opened(log, Scripted({}), budget=Budget()) as world:
            world.count_back()
            (line,) = world.log.ledger
            assert (line["usage"], line["cost"]) == ({"input": 60, "output": 6}, 0.5)
            assert (world.budget.spent_tokens, world.budget.spent_money) == (76, 0.5)
            assert not world.log.possibly_billed
            assert not world.log.effects, "it is asked again"

    asyncio.run(scenario())


def test_a_price_that_was_not_known_is_applied_once_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        reply = Reply(text="a", usage=Usage(input=100, cached=40, output=10))
        await play(tmp_path / "log", asks_on, Scripted([reply, ModelUnreachable("gone")]))
        async with opened(tmp_path / "log", Scripted({}), budget=Budget(money=1000)) as world:
            world.count_back({"m": Prices(1, 0.5, 2)}.get)
            assert world.budget.spent_money == 60 + 20 + 20
            world.budget.check()
        async with opened(tmp_path / "log", Scripted({}), budget=Budget(money=1000)) as world:
            world.count_back()
            assert world.budget.unknown_calls == 1
            with pytest.raises(BudgetSpent, match="the price of m is not known"):
                world.budget.check()

    asyncio.run(scenario())
