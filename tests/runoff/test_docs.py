"""The documentation says only what is so: each command on its pages is known to the command line, and runs.

By default the commands of a few pages run, of all others they are parsed; with --full all run that are not marked.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runoff.agent.faulty import Faulty
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import Base
from tests.runoff.documented import MEASURED, PAGES, Block, Place, blocks, unknown_options
from tests.runoff.project import answer

QUICK = ("docs/how-to/sandboxes.md", "docs/how-to/states.md")
"""Pages whose commands run each time."""


RUNS = {
    "README.md": ("a", "b"),
    "docs/how-to/bench.md": ("bench-verified",),
    "docs/how-to/view.md": ("verified",),
    "docs/how-to/report.md": ("verified", "codemonkeys", "r2e-hybrid", "elect-verified"),
}
"""Page → the runs that it speaks of, and does not make."""


@pytest.fixture(scope="module")
def server() -> Iterator[Faulty]:
    with Faulty(answer=answer) as it:
        yield it


@pytest.fixture(scope="module")
def own_servers() -> Iterator[None]:
    """Where the pages say that vLLM and llama.cpp are."""
    with Faulty(answer=answer, port=8000), Faulty(answer=answer, port=8080):
        yield


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_command_line_knows(page: str) -> None:
    assert not unknown_options(page, PAGES[page].read_text())


@pytest.mark.parametrize(
    "page",
    [
        page if page in QUICK else pytest.param(page, marks=pytest.mark.full)
        for page, path in PAGES.items()
        if not page.startswith(MEASURED) and any(not block.not_run for block in blocks(page, path.read_text()))
    ],
)
def test_the_commands_of_a_page_run_as_they_are_written(
    page: str, tmp_path: Path, states: Path, server: Faulty, request: pytest.FixtureRequest
) -> None:
    if "127.0.0.1:8000/v1" in PAGES[page].read_text():
        request.getfixturevalue("own_servers")
    if page == "docs/how-to/states.md":  # it cleans all away, which others would make again
        asyncio.run(_some_state(states := tmp_path / "states"))
    place = Place(tmp_path, states, server.api_base)
    place.runs(RUNS.get(page, ()))
    failed = list[str]()
    for block in blocks(page, PAGES[page].read_text()):
        if block.not_run:
            continue
        began = time.monotonic()
        done = place.run(block)
        print(f"{block}: exit code {done.returncode}, {time.monotonic() - began:.1f} s")
        if done.returncode:
            failed.append(
                f"{block}: exit code {done.returncode}\n{block.text}{done.stdout[-1500:]}{done.stderr[-1500:]}"
            )
    shutil.rmtree(place.home, ignore_errors=True)
    assert not failed, "\n".join(failed)


async def _some_state(place: Path) -> None:
    async with open_backend("auto", place) as sandbox:
        base = await sandbox.base(Base())
        await sandbox.execute(base, ["touch", "something"])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```console\n$ runoff solve . --isue @bug.md\n```\n", "No such option '--isue'"),
        ("```bash\nrunoff slove .\n```\n", "no command 'slove'"),
        ("```console\n$ cd x && runoff eval preds.json --dataset lite --grader slow\n```\n", "slow"),
        ("```console\n$ runoff solve . \\\n    --trajectories 4\n```\n", "--trajectories"),
        ("```console\n$ runoff solve . -n many\n```\n", "many"),
        ("```console\n$ ./scripts/dmeo\n```\n", "./scripts/dmeo"),
        ("```console\n$ python -m runoff.nothing.here\n```\n", "runoff.nothing"),
        ("see `runoff replay RUN --calibrat OUT`\n", "--calibrat"),
        ("<!-- not run: needs a key -->\n```console\n$ runoff bench lite --grad fast\n```\n", "--grad"),
        ("- a list\n\n    ```console\n    $ runoff show RUN --jsn\n    ```\n", "--jsn"),
    ],
)
def test_what_is_not_so_is_found(text: str, wrong: str) -> None:
    try:
        (said,) = unknown_options("page.md", text).values()
    except ModuleNotFoundError as error:
        said = str(error)
    assert wrong in said


def test_what_a_console_shows_is_not_typed() -> None:
    text = "```console\n$ one \\\n    --two\nshown\n$ three\nshown\n```\n<!-- not run: why -->\n\n```bash\nfour\n```\n"
    assert blocks("page.md", text) == [
        Block("page.md", 1, "console", "one \\\n    --two\nthree\n", None),
        Block("page.md", 10, "bash", "four\n", "why"),
    ]
    (said,) = unknown_options("page.md", "```\nrunoff clean\n```\n").values()
    assert "does not say so" in said
