"""mini-swe-agent's commands in runoff's sandboxes: `environment_class: runoff.integrations.mini_swe_agent.RunoffEnvironment`

Each command runs in the state that the last one left. Files stay; processes do not: everything that a command started in
the background is dead when it ends, and there is no network but loopback.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

from minisweagent.exceptions import Submitted
from minisweagent.utils.serialize import recursive_merge
from pydantic import BaseModel, ConfigDict

from runoff.integrations.background import background
from runoff.sandbox.protocol import REPO, Execution, Limits, SandboxLost, State

_SUBMITTED = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"

# One stream, in the order in which it was written. Like `docker run --workdir`: the directory is made if it is not there.
_SCRIPT = 'exec 2>&1; mkdir -p -- "$1" && cd -- "$1" && shift && exec "$@"'


class RunoffEnvironmentConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: str = ""
    """What the first state is, as skopeo names it (`docker://…`, `docker-archive:FILE`); empty: the host's own /usr."""
    cwd: str = REPO
    """Where commands run; made if it is not there."""
    env: dict[str, str] = {}
    """All the environment there is, beside PATH, HOME and LANG."""
    forward_env: list[str] = []
    """Names of the host's variables to pass on if they are set; `env` comes first."""
    timeout: int = 30
    """Seconds for a command."""
    interpreter: list[str] = ["bash", "-c"]
    """What is given the command as its last argument."""
    memory: int = Limits().memory
    """Bytes for a command and all its processes."""
    processes: int = Limits().processes
    max_output: int = 1 << 20  # `output` is a variable of their templates
    """Bytes of output kept: the first half and the last half."""
    backend: str = "bubblewrap"
    """`bubblewrap`, `bubblewrap-root` or `bubblewrap-rootless`."""
    states: str = ""
    """Directory where states (and images) are kept; empty: one that is removed when the process ends."""


class RunoffEnvironment:
    """See RunoffEnvironmentConfig for the keyword arguments. `state` is the state that the last command left."""

    def __init__(self, *, config_class: type[RunoffEnvironmentConfig] = RunoffEnvironmentConfig, **kwargs: Any) -> None:
        self.config = config_class(**kwargs)
        self._background = background(self.config.backend, self.config.states)
        self.state: State = self._background.run(self._background.base(self.config.image))

    def execute(self, action: Mapping[str, Any], cwd: str = "", *, timeout: int | None = None) -> dict[str, Any]:
        """Output and exit code of a command; -1 and what happened if it timed out or was killed for a limit.

        Raises SandboxLost and StoreFull: what no command is to blame for ends the agent's run.
        """
        command, seconds = action.get("command", ""), timeout or self.config.timeout
        forwarded = {name: os.environ[name] for name in self.config.forward_env if name in os.environ}
        done = self._background.run(
            self._background.sandbox.execute(
                self.state,
                ["/bin/sh", "-c", _SCRIPT, "sh", cwd or self.config.cwd, *self.config.interpreter, command],
                Limits(
                    seconds=seconds,
                    output=self.config.max_output,
                    memory=self.config.memory,
                    processes=self.config.processes,
                ),
                env=forwarded | self.config.env,
                cwd="/",
            )
        )
        self.state = done.after or self.state
        output: dict[str, Any] = {"output": _text(done), "returncode": done.exit_code, "exception_info": ""}
        if problem := _problem(done, command, seconds):
            output |= {
                "returncode": -1,
                "exception_info": f"An error occurred while executing the command: {problem}",
                "extra": {"exception_type": type(problem).__name__, "exception": str(problem)},
            }
        self._check_finished(output)
        return output

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        variables: dict[str, Any] = recursive_merge(self.config.model_dump(), platform.uname()._asdict(), kwargs)
        return variables

    def serialize(self) -> dict[str, Any]:
        kind = f"{type(self).__module__}.{type(self).__name__}"
        return {
            "info": {"config": {"environment": self.config.model_dump(mode="json"), "environment_type": kind}},
        }

    def cleanup(self) -> None:
        """Nothing is left to clean up: there is no live sandbox."""

    def _check_finished(self, output: Mapping[str, Any]) -> None:
        first, _, submission = output["output"].lstrip().partition("\n")
        if first.strip() == _SUBMITTED and output["returncode"] == 0:
            extra = {"exit_status": "Submitted", "submission": submission}
            raise Submitted({"role": "exit", "content": submission, "extra": extra})


class Killed(Exception):
    """The command was killed for a limit."""


def _text(done: Execution) -> str:
    if not done.dropped:
        return done.stdout.decode("utf-8", "replace")
    half = len(done.stdout) // 2
    first, last = (part.decode("utf-8", "replace") for part in (done.stdout[:half], done.stdout[half:]))
    return f"{first}\n[{done.dropped} bytes of output are left out here]\n{last}"


def _problem(done: Execution, command: str, seconds: float) -> Exception | None:
    if done.outcome == "lost":
        raise SandboxLost(done.stderr.decode("utf-8", "replace") or "the sandbox was lost under a command")
    if done.outcome == "timed out":
        return subprocess.TimeoutExpired(command, seconds)
    if done.outcome == "killed":
        kept = "" if done.after else "; nothing that it wrote is kept"
        return Killed(f"it was killed, for it used more {done.limit} than it may{kept}")
    return None
