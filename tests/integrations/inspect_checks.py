"""Inspect's own checks of a sandbox, and a whole evaluation, on ours. Run by test_others.py, where Inspect is installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import inspect_ai
import pytest
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import includes
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import bash
from inspect_ai.util import OutputLimitExceededError, SandboxEnvironment, SandboxEnvironmentSpec
from inspect_ai.util._sandbox.limits import override_max_exec_output_size
from inspect_ai.util._sandbox.registry import registry_find_sandboxenv
from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from runoff.integrations.inspect_ai import RunoffSandboxConfig

CANNOT = {
    "test_exec_as_user": "nobody is root in our sandboxes: nothing there can add a user, or become one",
}


@pytest.fixture(scope="module")
async def sample() -> AsyncIterator[SandboxEnvironment]:
    provider = registry_find_sandboxenv("runoff")  # by its entry point
    await provider.task_init("self-check", None)
    environments = await provider.sample_init("self-check", None, {})
    yield environments["default"]
    await provider.sample_cleanup("self-check", None, environments, False)
    await provider.task_cleanup("self-check", None, True)


@pytest.fixture
def sandbox_env(request: pytest.FixtureRequest, sample: SandboxEnvironment) -> SandboxEnvironment:
    if reason := CANNOT.get(request.node.originalname):
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    return sample


async def test_files_stay_and_processes_do_not(sandbox_env: SandboxEnvironment) -> None:
    assert (await sandbox_env.exec(["sh", "-c", "echo kept > kept; sleep 300 & echo begun"])).stdout == "begun\n"
    seen = await sandbox_env.exec(["sh", "-c", "cat kept; cat /proc/[0-9]*/comm"])
    assert seen.stdout.startswith("kept\n")
    assert "sleep" not in seen.stdout


async def test_commands_run_where_relative_paths_begin(sandbox_env: SandboxEnvironment) -> None:
    assert (await sandbox_env.exec(["pwd"])).stdout == "/testbed\n"


async def test_killed_for_memory_is_said(sandbox_env: SandboxEnvironment) -> None:
    done = await sandbox_env.exec(["python3", "-c", "x = bytearray(5 << 30)"])
    assert not done.success
    assert "MemoryError" in done.stderr or (done.returncode == 137 and "more memory than it may" in done.stderr)


async def test_too_much_output_is_its_typed_error(sandbox_env: SandboxEnvironment) -> None:
    with override_max_exec_output_size(1024), pytest.raises(OutputLimitExceededError) as error:
        await sandbox_env.exec(["seq", "10000"])
    assert error.value.truncated_output
    assert error.value.truncated_output.startswith("1\n2\n")


async def test_a_directory_that_is_not_there_fails_the_command(sandbox_env: SandboxEnvironment) -> None:
    done = await sandbox_env.exec(["true"], cwd="/no/where")
    assert (done.success, done.stdout) == (False, "")
    assert "/no/where" in done.stderr


async def test_cancelling_kills(sandbox_env: SandboxEnvironment) -> None:
    with anyio.move_on_after(0.5) as scope:
        await sandbox_env.exec(["sh", "-c", "echo x > half; sleep 300"])
    assert scope.cancelled_caught
    with anyio.fail_after(20):
        assert (await sandbox_env.exec(["ls", "half"])).returncode == 2


@solver
def by_hand() -> Solver:
    """What a model would ask for, without one: even a made-up model of Inspect's looks for its tokens on the network."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        run = bash(timeout=20)
        said = [await run("cat data/f; echo more >> data/f"), await run("wc -l < data/f; cat made; ls missing")]
        state.output = ModelOutput.from_content("mockllm/model", "".join(str(each) for each in said))
        return state

    return solve


async def test_an_evaluation(tmp_path: Path) -> None:
    sample = Sample(input="look", target="2\nset up\n", files={"data/f": "one\n"}, setup="echo set up > made")
    for sandbox in ("runoff", SandboxEnvironmentSpec("runoff", RunoffSandboxConfig(working_dir="/tmp/place"))):
        task = Task(dataset=[sample], solver=by_hand(), scorer=includes(), sandbox=sandbox)
        (log,) = await inspect_ai.eval_async(task, model="mockllm/model", log_dir=str(tmp_path))
        assert log.status == "success", log.error
        assert log.samples
        text = log.samples[0].output.completion
        assert "one\n" in text
        assert "2\nset up\n" in text
        assert "missing" in text
        assert log.samples[0].scores
