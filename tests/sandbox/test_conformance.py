"""bubblewrap does what every sandbox promises, in both modes."""

from __future__ import annotations

import pytest

from runoff.sandbox import conformance
from runoff.sandbox.protocol import Base, Sandbox


@pytest.mark.parametrize("case", conformance.CASES.values(), ids=conformance.CASES)
async def test_conformance(sandbox: Sandbox, case: conformance.Case) -> None:
    await case(sandbox, await sandbox.base(Base()))
