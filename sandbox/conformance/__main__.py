"""Runs the conformance cases against a backend and prints a report: python -m runoff.sandbox.conformance --help"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from runoff.sandbox.backends import open_backend
from runoff.sandbox.conformance import CASES
from runoff.sandbox.conformance.case import Case
from runoff.sandbox.protocol import Base, Image, Sandbox, SandboxError, State


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all cases passed. 1: some did not. 2: the backend cannot be had here."""
    options = _options().parse_args(arguments)
    if not __debug__:
        print("the cases are asserts, and this Python leaves them out: run it without -O", file=sys.stderr)
        return 2
    unknown = [name for name in options.only if name not in CASES]
    if unknown:
        print(f"no case {unknown[0]}; there are: {', '.join(CASES)}", file=sys.stderr)
        return 2
    chosen = {name: CASES[name] for name in options.only or CASES}
    with tempfile.TemporaryDirectory(prefix="runoff-conformance-", dir=options.directory) as directory:
        try:
            failed = asyncio.run(_report(options.backend, options.image, Path(directory), chosen))
        except SandboxError as error:
            print(error, file=sys.stderr)
            return 2
    return 1 if failed else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runoff.sandbox.conformance",
        description="Does a sandbox do what runoff.sandbox.protocol promises?",
        epilog="For example: python -m runoff.sandbox.conformance bubblewrap-rootless --only names_last",
    )
    parser.add_argument(
        "backend", help="bubblewrap, bubblewrap-root, bubblewrap-rootless, docker, or an entry point's name"
    )
    parser.add_argument("--image", help="what states begin with, as skopeo names it; otherwise the host's own /usr")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="this case; may be given again")
    parser.add_argument("--directory", help="where the states are kept while it runs")
    return parser


async def _report(backend: str, image: str | None, directory: Path, chosen: dict[str, Case]) -> list[str]:
    failed, began = list[str](), time.monotonic()
    async with open_backend(backend, directory / "states") as sandbox:
        base = await sandbox.base(Image(reference=image) if image else Base())
        print(f"{sandbox.name}: {len(chosen)} cases")
        for name, case in chosen.items():
            started = time.monotonic()
            error = await _failure(case, sandbox, base)
            print(f"{'FAILED' if error else 'passed':8}{time.monotonic() - started:6.2f} s  {name}", flush=True)
            if error:
                failed.append(name)
                print(_explained(case, error))
        for row in sandbox.holds():
            print(f"{row.how:10}{row.limit:20}{row.detail}")
    print(f"{len(chosen) - len(failed)} of {len(chosen)} passed in {time.monotonic() - began:.0f} s")
    return failed


async def _failure(case: Case, sandbox: Sandbox, base: State) -> BaseException | None:
    try:
        await case(sandbox, base)
    except Exception as error:
        return error
    return None


def _explained(case: Case, error: BaseException) -> str:
    """What a user would see, and where it was seen, with the values there."""
    seen = traceback.TracebackException.from_exception(error.__cause__ or error, capture_locals=True)
    place = next((frame for frame in seen.stack if frame.name == case.__name__), None)
    lines = [f"    {case.__doc__}", *(f"    {line}" for line in str(error).splitlines()[:10])]
    if place:
        lines.append(f"    {place.filename}:{place.lineno}: {place.line}")
        values = place.locals or {}
        lines += [f"      {name} = {value[:300]}" for name, value in values.items() if name in (place.line or "")]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
