"""bubblewrap does what every sandbox promises, in both modes."""

from __future__ import annotations

import pytest

from runoff.sandbox import conformance
from runoff.sandbox.protocol import Base, Sandbox

NOT_YET = {
    "the_table_says_how_each_limit_is_held": "there is no table",
    "memory_is_limited_for_all_processes_together": "memory is limited for each process",
    "processor_time_is_limited": "not limited",
    "bytes_written_are_limited": "not limited",
    "files_written_are_limited": "not limited",
    "open_files_are_limited": "always 4096",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.xfail(reason=NOT_YET[name])] if name in NOT_YET else [])
        for name, case in conformance.CASES.items()
    ],
)
async def test_conformance(sandbox: Sandbox, case: conformance.Case) -> None:
    await case(sandbox, await sandbox.base(Base()))
