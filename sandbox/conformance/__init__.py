"""What any sandbox must do, as cases that a backend's author runs: those of the protocol, and what breaks real backends.

    @pytest.mark.parametrize("case", conformance.CASES.values(), ids=conformance.CASES)
    async def test_conformance(case):
        async with MySandbox() as sandbox:
            await case(sandbox, await sandbox.base(Base()))

or, without pytest, `python -m runoff.sandbox.conformance NAME` (see __main__.py). A case raises AssertionError where the
backend breaks a promise of protocol.py; its docstring says what a user would see. The sandbox is open, and as many
cases as one likes may use one sandbox, one after the other. `base` is a state with sh, coreutils, findutils, tar, git and
python3, and with an empty REPO, a directory of the user inside.

A backend that cannot do what only some can says so by a row `not held` in `Sandbox.holds`, under one of CAPABILITIES or
the name of a limit. The case then asks for what can still be promised; none is left out.
"""

from __future__ import annotations

from runoff.sandbox.conformance import executions, files, git, limits, states  # each adds its cases
from runoff.sandbox.conformance.case import CAPABILITIES, CASES, DEADLINE, Case

__all__ = ["CAPABILITIES", "CASES", "DEADLINE", "Case", "executions", "files", "git", "limits", "states"]
