"""runoff from Python: typed results, one exception, progress, nothing printed, nothing left behind by a cancelled call."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import runoff
from runoff import Batch, Error, Progress, Result, elect, library, solve, solve_async
from runoff.agent.faulty import Faulty
from runoff.runs import holder
from tests.runoff.project import ISSUE, answer, make

SNAPSHOT = Path(__file__).with_name("public_names.txt")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def test_solve_gives_a_typed_result_prints_nothing_and_elect_takes_its_patch(
    tmp_path: Path, states: Path, key: None, capfd: pytest.CaptureFixture[str]
) -> None:
    target, heard = make(tmp_path / "p"), list[Progress]()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Faulty(answer=answer) as server:
        how: dict[str, Any] = {"model": f"openai/any@{server.api_base}", "states": states, "out": tmp_path / "out"}
        found = solve(target, ISSUE, trajectories=2, budget="900ktok", progress=heard.append, **how)
        asked = len(server.requests)
        again = solve(str(target), ISSUE, trajectories=2, budget="900ktok", **how)
        assert len(server.requests) == asked, "the same call goes on with what is on record"
        many = tmp_path / "several.jsonl"
        many.write_text(json.dumps({"id": "first", "target": str(target), "issue": ISSUE}))
        batch = solve(many, **how | {"out": tmp_path / "many"}, trajectories=1)

    assert isinstance(found, Result)
    assert found.status == "patch"
    assert found == again
    assert found.patch is not None
    assert b"+    return sum(values) / len(values) if values else 0" in found.patch
    assert (found.run / "patch.diff").read_bytes() == found.patch
    assert found.candidates[0].chosen
    assert found.candidates[0].proposers == ("editing-1", "editing-2")
    assert found.confidence is not None
    assert found.confidence.p is None, "without a calibration no probability is claimed"
    assert (found.cost.calls, found.cost.unpriced) == (asked, asked)
    assert [said.stage for said in heard if said.instance][-1] == "patch"
    assert (heard[-1].ended, heard[-1].total, heard[-1].calls) == (1, 1, asked)
    with pytest.raises(ValueError, match="frozen"):
        found.patch = b""

    assert isinstance(batch, Batch)
    assert batch["first"].patch == found.patch
    assert json.loads(batch.predictions.read_text())["instance_id"] == "first"

    (tmp_path / "theirs.diff").write_bytes(found.patch)
    chosen = elect(tmp_path / "theirs.diff", repo=target, issue=ISSUE, states=states, out=tmp_path / "elect")
    assert (chosen.status, chosen.candidates[0].id) == ("patch", "theirs")
    assert chosen.cost.calls == 0

    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_what_a_cancelled_call_leaves_and_that_the_same_call_goes_on(tmp_path: Path, states: Path, key: None) -> None:
    target, out = make(tmp_path / "p"), tmp_path / "out"

    async def cancelled(server: Faulty) -> None:
        begun = asyncio.Event()

        def heard(said: Progress) -> None:
            if said.stage == "trajectories":
                begun.set()

        async with asyncio.timeout(60):
            solving = asyncio.ensure_future(
                solve_async(
                    target,
                    ISSUE,
                    model=f"openai/any@{server.api_base}",
                    states=states,
                    out=out,
                    trajectories=2,
                    progress=heard,
                )
            )
            await begun.wait()
            solving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await solving
            left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in left if "runoff" in str(task.get_coro())]

    with Faulty(answer=answer) as server:
        asyncio.run(cancelled(server))
        assert holder(out) is None, "no lock"
        assert not [line for line in Path("/proc/mounts").read_text().splitlines() if str(states) in line], "no mount"
        children = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
        assert "bwrap" not in children.stdout, "no process"
        found = solve(target, ISSUE, model=f"openai/any@{server.api_base}", states=states, out=out, trajectories=2)
    assert found.status == "patch"


def test_what_progress_raises_ends_the_run_and_is_raised(tmp_path: Path, states: Path, key: None) -> None:
    def enough(said: Progress) -> None:
        if said.stage == "context":
            raise KeyError("enough")

    with Faulty(answer=answer) as server, pytest.raises(KeyError, match="enough"):
        solve(
            make(tmp_path / "p"),
            ISSUE,
            model=f"openai/any@{server.api_base}",
            states=states,
            out=tmp_path / "out",
            progress=enough,
        )
    assert holder(tmp_path / "out") is None


@pytest.mark.parametrize(
    ("call", "code", "line"),
    [
        (lambda p: solve(p / "no", ISSUE, model="openai/any"), 2, "no such path"),
        (lambda p: solve(p, model="openai/any"), 2, "no issue is given"),
        (lambda p: solve(p, "  ", model="openai/any"), 2, "the issue is empty"),
        (lambda p: solve(p, ISSUE, model="openai/any", budget="3 apples"), 2, "'3 apples'"),
        (lambda p: solve(p, ISSUE, model="openai/any", rates=["fast"]), 2, "fast"),
        (lambda p: solve(p, ISSUE, model="openai/any", recipe="magic"), 2, "no recipe 'magic'"),
        (lambda p: solve(p, ISSUE, model="openai/any", settings={"editing.turns": "many"}), 2, "editing.turns"),
        (lambda p: solve(p, ISSUE, model={"judge": "openai/any"}), 2, "no role is called 'judge'"),
        (lambda p: solve(p, ISSUE, model="openai/gpt-4o", out=p / "out"), 3, "OPENAI_API_KEY"),
        (lambda p: elect(p / "no.diff", repo=p, issue=ISSUE), 2, "no.diff"),
        (lambda p: elect(branches=["a*"], repo=p, issue=ISSUE), 2, "git"),
        (lambda p: runoff.bench("nothing", model="openai/any"), 2, "no dataset nothing"),
    ],
)
def test_errors_are_one_exception_with_the_line_and_the_code_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, code: int, line: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Error) as raised:
        call(make(tmp_path / "p"))
    assert raised.value.code == code
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_text_that_begins_with_an_at_sign_names_no_file(tmp_path: Path) -> None:
    """An issue may come from anybody: `@/etc/passwd` is then its text."""
    assert library._literal("@/etc/passwd") == "\n@/etc/passwd"


def test_an_option_that_is_not_known_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"'budgt'; there are .*budget"):
        solve(tmp_path, ISSUE, model="openai/any", budgt=2)  # type: ignore[call-overload]


def test_in_an_event_loop_it_says_what_to_await(tmp_path: Path) -> None:
    async def inside() -> None:
        solve(tmp_path, ISSUE, model="openai/any")

    with pytest.raises(RuntimeError, match=r"await runoff\.solve_async"):
        asyncio.run(inside())


def test_settings_are_what_set_reads() -> None:
    given = library._given(
        {"settings": {"selection.further": {}, "cuts": [1.0, 0.5], "a.b": True, "c": {"d e": 'x"y'}}, "budget": 2.5},
        {"editor": ["one", "two"], "": "other"},
        library.SolveOptions,
    )
    assert given["settings"] == ["selection.further={}", "cuts=[1.0, 0.5]", "a.b=true", 'c={"d e" = "x\\"y"}']
    assert given["models"] == ["editor=one", "editor=two", "other"]
    assert given["budget"] == "2.5"


def public() -> str:
    """The names that users count on, with what they take and hold."""
    lines = []
    for name in runoff.__all__:
        it = getattr(runoff, name)
        if inspect.isfunction(it) or issubclass(it, Exception):
            lines.append(f"{name}{inspect.signature(it)}")
            continue
        lines += [f"{name}.{field}: {kind}" for field, kind in it.__annotations__.items()]
        lines += [f"{name}.{part}" for part in sorted(vars(it)) if isinstance(vars(it)[part], property)]
    seen = set[str]()
    options = [
        library.Options,
        library.Commands,
        library.Nodes,
        library.SolveOptions,
        library.ElectOptions,
        library.BenchOptions,
    ]
    for kinds in options:
        fields = {field: kind.__forward_arg__ for field, kind in kinds.__annotations__.items() if field not in seen}
        lines += [f"{kinds.__name__}.{field}: {kind}" for field, kind in sorted(fields.items())]
        seen |= {*fields} if kinds in options[:3] else set()
    return "\n".join(lines).replace("'", "") + "\n"


def test_public_names_are_those_that_were_promised() -> None:
    """To change them on purpose: python -m tests.runoff.test_library."""
    assert public() == SNAPSHOT.read_text()


def test_import_is_light() -> None:
    code = (
        "import sys, runoff; assert 'pydantic' not in sys.modules and 'runoff.library' not in sys.modules, 'heavy';"
        "from runoff import elect; assert 'litellm' not in sys.modules; import runoff.batch; from runoff import bench;"
        "assert callable(bench); assert 'solve' in dir(runoff)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = runoff.nothing


@pytest.mark.full
def test_types_as_a_user_sees_them(tmp_path: Path) -> None:
    """mypy tells one result from several by what was asked."""
    script = tmp_path / "user.py"
    script.write_text(
        "from runoff import solve, elect_async, bench\n"
        'reveal_type(solve(".", "it crashes", model="m", budget=2))\n'
        'reveal_type(solve("issues.jsonl", model="m"))\n'
        'reveal_type(elect_async(["a.diff"], repo=".", issue="it crashes"))\n'
        'reveal_type(bench("verified", model="m"))\n'
        'solve(".", "it crashes", model="m", budgt=2)\n'
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--follow-imports=silent", script]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]).stdout
    revealed = [line.split('"')[1] for line in said.splitlines() if "Revealed" in line]
    assert [kind.replace("runoff.results.", "") for kind in revealed] == [
        "Result",
        "Batch",
        "typing.Coroutine[Any, Any, Result]",
        "Batch",
    ]
    assert "budgt" in said.splitlines()[-1] or "No overload" in said


if __name__ == "__main__":
    SNAPSHOT.write_text(public())
    print(SNAPSHOT)
