"""mini-swe-agent's own agent with its scripted model, in our sandbox. Run by test_others.py, where it is installed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments import get_environment
from minisweagent.models.test_models import DeterministicModel, make_output

NAME = "runoff.integrations.mini_swe_agent.RunoffEnvironment"


def environment(**config: Any) -> Any:
    return get_environment(config | {"environment_class": NAME})


def out(env: Any, command: str, **how: Any) -> str:
    done = env.execute({"command": command}, **how)
    assert (done["returncode"], done["exception_info"]) == (0, ""), done
    return str(done["output"])


def test_an_agents_run(tmp_path: Path) -> None:
    commands = [
        "echo one > f; sleep 300 & echo $!",
        "cat f; cat /proc/[0-9]*/comm",
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat f",
    ]
    model = DeterministicModel(outputs=[make_output("next", [{"command": command}]) for command in commands])
    path = tmp_path / "run.json"
    agent = DefaultAgent(
        model, environment(), system_template="s", instance_template="{{task}} in {{cwd}}", output_path=path
    )
    assert agent.run("do it") == {"exit_status": "Submitted", "submission": "one\n"}
    told = json.loads(path.read_text())
    assert told["info"]["config"]["environment_type"] == NAME
    assert "do it in /testbed" in json.dumps(told["messages"])
    seen = next(str(message["content"]) for message in told["messages"] if "one\n" in str(message["content"]))
    assert "sleep" not in seen


def test_both_streams_in_the_order_in_which_they_were_written() -> None:
    assert out(environment(), "echo 1; echo 2 >&2; echo 3; printf '\\351'") == "1\n2\n3\n\ufffd"


def test_what_a_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HOST", "host")
    monkeypatch.setenv("KEY", "s3cret")
    env = environment(env={"A": "a b"}, forward_env=["FROM_HOST", "NOT_SET"], cwd="/tmp/new/place")
    assert out(env, 'echo "$A|$FROM_HOST|$KEY|$PWD"') == "a b|host||/tmp/new/place\n"
    assert out(env, "pwd", cwd="/home") == "/home\n"


def test_a_command_that_does_not_end_is_told_as_theirs_tell_it() -> None:
    env = environment(timeout=1)
    done = env.execute({"command": "echo begun; echo kept > f; sleep 300"})
    assert (done["output"], done["returncode"]) == ("begun\n", -1)
    assert "timed out after 1 seconds" in done["exception_info"]
    assert done["extra"]["exception_type"] == "TimeoutExpired"
    assert out(env, "cat f") == "kept\n"


def test_long_output_loses_its_middle_and_says_so() -> None:
    text = out(environment(max_output=1000), "seq 100000")
    assert text.startswith("1\n2\n")
    assert text.endswith("\n99999\n100000\n")
    assert "587895 bytes of output are left out here" in text


def test_each_thread_of_a_batch_has_its_own_files() -> None:
    def one(n: int) -> str:
        env = environment()
        out(env, f"echo {n} > f")
        return out(env, "cat f")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(12))) == [f"{n}\n" for n in range(12)]


def test_ctrl_c_ends_the_command() -> None:
    env, mark = environment(), "300.0123456789"
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        env.execute({"command": f"sleep {mark}"}, timeout=300)
    deadline = time.monotonic() + 10
    while any(mark.encode() in _command(process) for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert out(env, "echo fine") == "fine\n"


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
