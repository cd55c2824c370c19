"""What grading says of a patch, on one page."""

from __future__ import annotations

from typing import Literal

from runoff.sandbox.protocol import Value

Grader = Literal["fast", "harness"]
"""`fast`: in forked states, read by the swebench package's parsers. `harness`: the package's own, in Docker."""


class Grade(Value):
    """One patch, graded on a pristine state."""

    instance_id: str
    candidate: str = ""
    """Which of a run's candidates it is; empty for what was submitted."""
    model: str = ""
    """model_name_or_path of the prediction."""
    patch: str = ""
    """Names the patch: the hash that `runoff.agent.protocol.digest` gives of its text; empty where none was submitted."""
    grader: Grader
    resolved: bool | None
    """None: could not be told, which is nobody's fault but the infrastructure's, and is tried again."""
    why: str = ""
    """Where it is not resolved: does not apply, empty, or how many tests fail; where it could not be told: what happened; where
    it is: what makes that doubtful, if anything does."""
    tests: dict[str, str] = {}
    """Test id → PASSED, FAILED, ERROR, SKIPPED or XFAIL, of all that FAIL_TO_PASS and PASS_TO_PASS name; MISSING if none came."""
    seconds: float = 0.0
    """Wall time of its execution."""
    gold_files: tuple[str, ...] = ()
    """Files that the gold patch changes or deletes, not those it adds: whoever solved had to be shown these. Empty: not said."""
    check: str = ""
    """Of all else in the line, so that a damaged one is known (see records.py)."""


GRADES = "grades.jsonl"
"""In a run's directory: a line a grade, made by `runoff eval`. The last line for (instance, candidate, model, patch, grader)
counts; read it with records.py."""
