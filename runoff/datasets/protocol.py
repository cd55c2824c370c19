"""What a dataset holds, on one page: problems and answers, which never meet outside of a grading process."""

from __future__ import annotations

from typing import Literal

from runoff.sandbox.protocol import REPO, Value


class BadDataset(Exception):
    """A dataset cannot be read, or has not what was asked for: which file, line and field, what to do; in one line."""


class DatasetMissing(BadDataset):
    """What reads or holds the dataset is not here: the package, or the network."""


class Built(Value):
    """How the environment of a problem without an image is made, in the builder's words (see runoff.instance)."""

    python: str | None = None
    setup: str | None = None
    build: str | None = None
    test: str | None = None


class Problem(Value):
    """One problem, all that solving may see of it. What an answer holds has no field here."""

    id: str
    repo: str = ""
    """owner/name, or a released project's name."""
    base_commit: str = ""
    """Empty for what has no history: a release, or an image that holds the repository itself."""
    statement: str
    version: str = ""
    created_at: str = ""
    image: str = ""
    """The OCI image it runs in, as Docker names it; empty: its environment is built."""
    workdir: str = REPO
    """Where the repository lies in the image."""
    built: Built | None = None
    """None: guessed from the repository's own files, where there is no image."""
    release: str = ""
    """The release pair that this is, whose source a package index has."""


class Answer(Value):
    """What grades a problem. Only `runoff.grading`, a process of its own, makes one."""

    id: str
    patch: str = ""
    """The gold patch."""
    test_patch: str = ""
    eval_script: str = ""
    """Bash that applies the test patch and runs the tests, its output between the harness's markers."""
    test_command: str = ""
    """Where there is no script: what runs the tests once the test patch is applied."""
    log_parser: str = ""
    """The name of the swebench package's parser of that output."""
    eval_type: Literal["pass_and_fail", "fail_only"] = "pass_and_fail"
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    tests: str = ""
    """Folder of a Harbor task's tests, whose test.sh writes the reward; empty for all else."""
    seconds: float = 1800
    """Wall time of one grading."""
