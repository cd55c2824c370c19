"""The head and its workers without a cluster between them: who may write, what is refused, what is sent along."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from git import Repo

from runoff import __version__
from runoff.agent.budget import Budget, Prices
from runoff.agent.log import Log, LogBroken, read
from runoff.agent.pace import Rate
from runoff.agent.protocol import Call, ModelMisconfigured, Reply, Usage
from runoff.executors import head
from runoff.executors.head import Spread
from runoff.executors.protocol import Away, Broke, Finished, Hello, Job, Lease, Lost, Said, Told, Wrote
from runoff.executors.worker import Leased
from runoff.instance import Instance, local_instance, open_source, packed, unpacked
from runoff.models import roles
from runoff.recipe import load_recipe
from runoff.run import BadRun, Result, RunDirectory
from runoff.sandbox.environments.builder import Contents


class Nobody:
    async def ask(self, call: Call) -> Reply:
        raise AssertionError

    def share(self, among: int) -> None:
        raise AssertionError

    def price_of(self, name: str) -> Prices | None:
        return None


class Acted:
    """A worker that says what the scene has it say, when it is leased something; then it falls silent or is lost."""

    def __init__(self, scene: Any) -> None:
        self._scene, self.told = scene, list[Told]()
        self._leased: asyncio.Queue[Lease] = asyncio.Queue()
        self._said: list[Said] | None = None

    async def hear(self) -> list[Said]:
        said: list[Said] | str = self._scene(await self._leased.get())
        if said == "lost":
            raise Lost("gone")
        if said == "silent":
            await asyncio.sleep(3600)
        assert isinstance(said, list)
        return said

    def tell(self, told: Told) -> None:
        self.told.append(told)
        for lease in told.leases:
            self._leased.put_nowait(lease)

    async def end(self) -> None:
        pass

    def kill(self) -> None:
        pass


class Stage:
    """A fleet of workers that act by one scene each, one after another on the one node."""

    def __init__(self, *scenes: Any, hello: Hello = Hello(__version__, None)) -> None:
        self._scenes, self._hello = list(scenes), hello
        self.workers: list[Acted] = []
        self.alive = {"n": "10.0.0.1"}
        self.started: list[str] = []
        self.jobs: list[Job] = []

    async def nodes(self) -> dict[str, str]:
        return dict(self.alive)

    async def start(self, node: str, job: Job) -> tuple[Away, Hello]:
        self.started.append(node)
        self.jobs.append(job)
        self.workers.append(Acted(self._scenes.pop(0) if self._scenes else None))
        return self.workers[-1], self._hello

    def put(self, contents: Contents) -> Awaitable[Contents]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(contents)
        return done


ONE = Instance(id="i", statement="it is wrong\n", digest="d")


def spread(out: Path, fleet: Stage, **how: Any) -> tuple[list[Result], Spread]:
    async def inside() -> tuple[list[Result], Spread]:
        budget, recipe = how.pop("budget", Budget()), load_recipe("hybrid", [])
        instances = how.pop("instances", [ONE])
        about = (RunDirectory(out), instances, recipe, roles(["m"]), None, fleet, budget, Nobody())
        run = Spread(*about, **({"at_once": 2} | how))  # type: ignore[arg-type]
        try:
            return await asyncio.wait_for(run.solve(), 30), run
        finally:
            await run.close()

    return asyncio.run(inside())


def lines(folder: Path, *records: dict[str, Any]) -> bytes:
    """What a log elsewhere would write."""

    async def inside() -> bytes:
        log = Log(folder / "elsewhere")
        before = len(await log.lines())
        for record in records:
            await log.append(record)
        data = await log.lines()
        await log.close()
        return data[before:]

    return asyncio.run(inside())


def ask(path: str) -> dict[str, Any]:
    result = {"text": "x", "usage": Usage(input=100).model_dump(), "cost": 0.25}
    return {"t": "editing-1", "path": path, "kind": "ask", "request": {"model": "m"}, "result": result, "new": []}


def ended(lease: Lease) -> Finished:
    name = lease.instance.id
    return Finished(name, lease.epoch, Result(instance=name, status="none"))


def test_lines_of_a_lease_that_is_over_are_refused(tmp_path: Path) -> None:
    late, mine = lines(tmp_path, ask("late")), lines(tmp_path, ask("mine"))
    logs = []

    def second(lease: Lease) -> list[Said]:
        logs.append(lease.log)
        assert lease.epoch == 2
        return [Wrote("i", 1, 7, late, True), Wrote("i", 2, 8, mine, True), Finished("i", 1, FAILED), ended(lease)]

    stage = Stage(lambda lease: "lost", second)
    (result,), run = spread(tmp_path / "out", stage)
    assert result.status == "none", "the end that the lost lease came to is not its end"
    assert [r["path"] for r in read(tmp_path / "out" / "log" / "i.jsonl") if r["kind"] == "ask"] == ["mine"]
    told = stage.workers[1].told
    assert [over for one in told for over in one.over] == [("i", 1), ("i", 1)]
    assert run.budget.spent().calls == 1


def test_the_first_worker_to_begin_leaves_their_share_to_the_others(tmp_path: Path) -> None:
    stage = Stage(lambda lease: [ended(lease)], lambda lease: [ended(lease)])
    stage.alive = {"n": "10.0.0.1", "m": "10.0.0.2"}
    four = [ONE.model_copy(update={"id": f"i{n}"}) for n in range(4)]
    spread(tmp_path / "out", stage, instances=four, at_once=4)
    assert [sum(len(told.leases) for told in worker.told) for worker in stage.workers] == [2, 2]


FAILED = Result(instance="i", status="failed", why="of a lease that is over")


def test_a_silent_worker_is_taken_for_lost_and_what_it_wrote_goes_on(tmp_path: Path) -> None:
    first, seen = lines(tmp_path, ask("first")), list[bytes]()

    def wrote(lease: Lease) -> list[Said]:
        return [Wrote("i", lease.epoch, 0, first, True)]

    def next_one(lease: Lease) -> list[Said]:
        seen.append(lease.log)
        return [ended(lease)]

    (result,), _ = spread(tmp_path / "out", Stage(wrote, next_one), silent=0.3)
    assert result.status == "none"
    assert b'"path": "first"' in seen[0]


def test_an_instance_that_takes_its_workers_along_fails_alone(tmp_path: Path) -> None:
    (result,), _ = spread(tmp_path / "out", Stage(*[lambda lease: "lost"] * 3), losses=3)
    assert result.status == "failed"
    assert "lost 3 times" in result.why


def test_an_instance_that_takes_its_workers_along_takes_no_other_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the node: one that lost several in a row, with which nothing came about, is left out."""
    monkeypatch.setattr(head, "LOSSES", 1)

    def scene(lease: Lease) -> list[Said] | str:
        return "lost" if lease.instance.id == "poison" else [ended(lease)]

    instances = [ONE.model_copy(update={"id": name}) for name in ("poison", "a", "b", "c")]
    results, _ = spread(tmp_path / "out", Stage(*[scene] * 9), instances=instances, at_once=4, losses=3)
    assert [result.status for result in results] == ["failed", "none", "none", "none"]


@pytest.mark.parametrize("dies", [False, True])
def test_what_was_begun_on_a_node_goes_on_there_while_it_is_alive(tmp_path: Path, dies: bool) -> None:
    """Its states are there: elsewhere its environment would be made again."""
    at = list[str]()

    def lost(lease: Lease) -> str:
        at.append(stage.started[-1])
        if dies:
            del stage.alive["n"]
        stage.alive["o"] = "10.0.0.2"
        return "lost"

    def done(lease: Lease) -> list[Said]:
        at.extend(node for node, worker in zip(stage.started, stage.workers, strict=True) if lease in leased(worker))
        return [ended(lease)]

    stage = Stage(lost, done, done, done)
    spread(tmp_path / "out", stage)
    assert at == ["n", "o" if dies else "n"]


def leased(worker: Acted) -> list[Lease]:
    return [lease for told in worker.told for lease in told.leases]


def test_what_was_spent_comes_with_each_acknowledgement(tmp_path: Path) -> None:
    paid = lines(tmp_path, ask("one"))
    stage = Stage(lambda lease: [Wrote("i", lease.epoch, 3, paid, True)])
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(_waiting(tmp_path / "out", stage), 1))
    (said,) = [one for one in stage.workers[0].told if one.written]
    assert said.written == (3,)
    assert said.spent.money == 0.25
    assert said.spent.calls == 1


async def _waiting(out: Path, stage: Stage, instances: list[Instance] = [ONE]) -> None:
    recipe = load_recipe("hybrid", [])
    about = (RunDirectory(out), instances, recipe, roles(["m"]), None, stage, Budget(), Nobody())
    run = Spread(*about, at_once=1)  # type: ignore[arg-type]
    try:
        await run.solve()
    finally:
        await run.close()


def test_damaged_lines_are_not_taken(tmp_path: Path) -> None:
    data = bytearray(lines(tmp_path, ask("a"), ask("b")))
    data[len(data) // 2] ^= 1

    async def inside() -> None:
        log = Log(tmp_path / "log")
        size = (tmp_path / "log").stat().st_size
        with pytest.raises(ValueError, match="damaged on their way"):
            log.receive(bytes(data))
        assert log.ledger == []
        await log.close()
        assert (tmp_path / "log").stat().st_size == size

    asyncio.run(inside())


@pytest.mark.parametrize(
    ("hello", "error", "says"),
    [
        (Hello("0.0.1", None), BadRun, "has runoff 0.0.1, this is"),
        (
            Hello(__version__, Broke("model", "m needs a key", "set KEY", 3)),
            ModelMisconfigured,
            "m needs a key; set KEY",
        ),
    ],
)
def test_nodes_of_which_none_can_work_are_one_line(
    tmp_path: Path, hello: Hello, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        spread(tmp_path / "out", Stage(hello=hello))


def test_a_log_whose_lease_is_over_can_write_no_more() -> None:
    async def inside() -> None:
        sent = list[bytes]()

        def send(lease: Lease, data: bytes, sync: bool) -> asyncio.Future[None]:
            sent.append(data)
            return asyncio.get_running_loop().create_future()

        kept = Leased(Lease(ONE, 1, b"", None), send)
        log = Log(kept)
        waiting = log.append({"kind": "derived", "key": "a", "state": {}})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        kept.end()
        with pytest.raises(LogBroken, match="the lease is over"):
            await waiting
        with pytest.raises(LogBroken):
            log.append({"kind": "derived", "key": "b", "state": {}})
        assert len(sent) == 2, "what opening adds, and the one record"

    asyncio.run(inside())


@pytest.mark.parametrize("shallow", [False, True])
def test_a_repository_reaches_a_node_as_it_is_at_its_base_and_with_nothing_after_it(
    tmp_path: Path, shallow: bool
) -> None:
    repo = Repo.init(tmp_path / "repo")
    for n in range(3):
        (tmp_path / "repo" / "setup.py").write_text(f"n = {n}\n")
        repo.index.add(["setup.py"])
        repo.index.commit(f"commit {n}")
        repo.create_tag(f"v{n}")
    place = tmp_path / "repo"
    if shallow:
        place = tmp_path / "shallow"
        Repo.clone_from(f"file://{tmp_path / 'repo'}", place, depth=2)
    base, _ = local_instance(place, "wrong", ref="v2~1" if not shallow else "HEAD")
    unpacked(json_like(packed(base)), tmp_path / "there")
    moved = base.model_copy(update={"source": str(tmp_path / "there")})
    here, there = open_source(base), open_source(moved)
    assert (here.digest, dict(here.files)) == (there.digest, dict(there.files))
    one, other = here.contents(), there.contents()
    assert (one.commit, one.refs, one.shallow) == (other.commit, other.refs, other.shallow)
    tags = {tag.name for tag in Repo(tmp_path / "there").tags}
    assert "v2" not in tags or shallow


def json_like(contents: Contents) -> Contents:
    return Contents.model_validate(contents.model_dump())


def test_shares_of_a_rate_are_no_more_than_all_of_it() -> None:
    share = Rate(at_once=10, requests=100, tokens=999).share(4)
    assert share == Rate(at_once=2, requests=25, tokens=249)
    assert Rate().share(2) == Rate(at_once=16)


def test_who_works_learns_when_the_rates_are_to_be_divided_again(tmp_path: Path) -> None:
    """Otherwise the first worker would go on to use all of them when a second comes."""

    def scene(lease: Lease) -> list[Said]:
        stage.alive["o"] = "10.0.0.2"
        return []

    stage = Stage(scene, lambda lease: [ended(lease)], lambda lease: [])
    instances = [ONE.model_copy(update={"id": name}) for name in ("a", "b")]
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(_waiting(tmp_path / "out", stage, instances), 4))
    among = [told.among for told in stage.workers[0].told]
    assert (among[0], among[-1]) == (1, 2)
    assert stage.jobs[1].among == 2


def test_what_a_worker_learns_of_a_budget_is_what_all_have_spent() -> None:
    budget, share = Budget(money=1.0, tokens=1000), Budget(money=1.0, tokens=1000)
    budget.add(Reply(text="", usage=Usage(input=10), cost=0.5))
    share.add(Reply(text="", usage=Usage(input=99), cost=0.1))
    share.learn(budget.spent())
    assert share.spent() == budget.spent()
    assert json.loads(json.dumps(budget.caps())) == {"money": 1.0, "tokens": 1000, "calls": None, "seconds": None}
