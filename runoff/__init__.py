"""runoff resolves software issues with language models: many trajectories in real sandboxes, votes, a verifier, a run-off.

from runoff import solve
print(solve(".", "crash on empty input", model="openai/gpt-5", budget=2).patch)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runoff.library import Batch as Batch
    from runoff.library import Candidate as Candidate
    from runoff.library import Confidence as Confidence
    from runoff.library import Cost as Cost
    from runoff.library import Error as Error
    from runoff.library import Progress as Progress
    from runoff.library import Result as Result
    from runoff.library import bench as bench
    from runoff.library import bench_async as bench_async
    from runoff.library import elect as elect
    from runoff.library import elect_async as elect_async
    from runoff.library import solve as solve
    from runoff.library import solve_async as solve_async

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Candidate",
    "Confidence",
    "Cost",
    "Error",
    "Progress",
    "Result",
    "bench",
    "bench_async",
    "elect",
    "elect_async",
    "solve",
    "solve_async",
]


def __getattr__(name: str) -> Any:
    """Nothing is imported before it is used: the library takes a second, `runoff --help` must not."""
    if name not in __all__:
        raise AttributeError(f"module 'runoff' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("runoff.library"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
