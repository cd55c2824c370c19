"""A pytest plugin for mini-swe-agent's own environment tests: our class where they import theirs. See test_others.py."""

from __future__ import annotations

from typing import Any

import pytest
from minisweagent.environments import docker, local
from minisweagent.environments.extra import bubblewrap

from runoff.integrations.mini_swe_agent import RunoffEnvironment, RunoffEnvironmentConfig

_HOST_FILES = "what a command writes into a directory of the host is not on the host: states are ours"

CANNOT = {
    "test_bubblewrap_environment_file_operations": _HOST_FILES,
    "test_local_environment_file_operations": _HOST_FILES,
    "test_local_environment_timeout_kills_child_process": "its script lies in a directory of the host",
    "test_local_environment_default_cwd": "commands do not run in the host's current directory",
    "test_local_environment_existing_env_variables": "the host's environment is not passed on, except what is named",
    "test_bubblewrap_environment_working_directory_creation": "there is no working directory on the host",
    "test_bubblewrap_environment_cleanup": "there is no working directory on the host",
    "test_bubblewrap_environment_custom_executable": "an option of theirs",
    "test_bubblewrap_environment_custom_wrapper_args": "an option of theirs",
    "test_docker_environment_custom_container_timeout": "there is no container that lives on between commands",
    "test_docker_environment_config_defaults": "it asks for their own defaults",
    "test_local_environment_config_defaults": "it asks for their own defaults",
}
"""Tests of theirs that contradict what we promise → why."""

_OPTIONS_OF_THEIRS = ("executable", "image", "container_timeout")


class Ours(RunoffEnvironment):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{name: value for name, value in kwargs.items() if name not in _OPTIONS_OF_THEIRS})


for module, name in ((docker, "Docker"), (local, "Local"), (bubblewrap, "Bubblewrap")):
    setattr(module, f"{name}Environment", Ours)
    setattr(module, f"{name}EnvironmentConfig", RunoffEnvironmentConfig)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        # What theirs would need, a Docker engine or bwrap in PATH, ours does not.
        item.own_markers[:] = [marker for marker in item.own_markers if marker.name != "skipif"]
        if reason := CANNOT.get(item.originalname):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
