"""What a template process saves: for the demo's projects, in their sandboxes, as root.

Generated tests that were recorded: each by a start of its own, and as a template's fork. Test files by themselves under
pytest, for which there is no template: the part of their time that starts Python and imports what no candidate changes. Started by
scripts/bench/template, which runs the demo first, so that the environments are there.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from importlib.resources import files
from pathlib import Path
from statistics import median

from runoff.sandbox import Bubblewrap, Execution, Limits, State

FOREIGN = """
import json as j, sys as s
def foreign():
    own = [n for n, m in list(s.modules.items()) if (getattr(m, '__file__', None) or '/testbed').startswith('/testbed')]
    print('FOREIGN' + j.dumps([n for n in s.modules if n not in own and n != '__main__']), flush=True)
"""
PYTEST = (
    FOREIGN
    + "import pytest\ncode = pytest.main(['-q', '-p', 'no:cacheprovider', s.argv[1]])\nforeign()\ns.exit(code)\n"
)
IMPORTS = """
import importlib, json, sys
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except BaseException:
        pass
"""
PROJECTS = {"markdown": "tests", "dateutil": "dateutil/test", "wtforms": "tests"}


async def main(states: Path) -> None:
    async with Bubblewrap(states, slots=1) as sandbox:
        for file in sorted((states / "names").glob("*.json")):
            named = json.loads(file.read_text())
            if not named["name"].startswith("environment "):
                continue
            bench = Bench(sandbox, State(layers=tuple(named["layers"])))
            listed = (await bench.run(["sh", "-c", "ls; ls src"])).text.split()
            if project := next((name for name in PROJECTS if any(name in each for each in listed)), None):
                await bench.test_files(project)
                await bench.generated_tests(project)
    for what, pairs in Bench.shares.items():
        whole, part = (sum(side) for side in zip(*pairs, strict=True))
        each = median(part / whole for whole, part in pairs)
        verb = "saved" if what.endswith("forks") else "could be saved"
        print(f"{what}: {len(pairs)}, {verb}: median {each:.0%}, of all their time {part / whole:.0%}")
    print(f"generated tests that said or left something else as a fork: {Bench.differ}")


class Bench:
    shares: dict[str, list[tuple[float, float]]] = {}
    differ = 0

    def __init__(self, sandbox: Bubblewrap, state: State) -> None:
        self._sandbox, self._state = sandbox, state

    async def run(self, argv: list[str], stdin: bytes = b"", **how: bool) -> Execution:
        env = {"PYTHONPATH": "/testbed:/testbed/src"}
        limits = Limits(seconds=120, output=1 << 20)
        return await self._sandbox.execute(self._state, argv, limits, stdin=stdin, env=env, **({"freeze": False} | how))

    async def test_files(self, project: str) -> None:
        found = await self.run(["find", PROJECTS[project], "-name", "test_*.py"])
        for path in sorted(found.text.split())[:12]:
            command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
            await self._compare(f"test files, {project}", ["python", "-c", PYTEST, path], b"", command, b"")

    async def generated_tests(self, project: str) -> None:
        """Each by a start of its own and as a fork, in turns; what they say and leave has to be the same."""
        command = ["python", "-c", files("runoff.agent").joinpath("harness.py").read_text()]
        forked = ["python", "-c", "import os; print(os.getppid())"]
        for _ in range(200):  # it is started by the first that could have used it
            if (await self.run(forked, template=True)).text.strip() == "0":
                break
            await asyncio.sleep(0.1)
        else:
            print(f"{project}: there is no template here")
            return
        for script in recorded_tests(project)[:8]:
            given = json.dumps({"nonce": "n", "script": script}).encode()
            one, other = [await self.run(command, given, template=each, freeze=True) for each in (True, False)]
            same = (one.stdout, one.stderr, one.after) == (other.stdout, other.stderr, other.after)
            Bench.differ += not same
            took: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(5):
                for template, sides in took.items():
                    began = time.perf_counter()
                    await self.run(command, given, template=template)
                    sides.append(time.perf_counter() - began)
            plain, fork = median(took[False]), median(took[True])
            self.shares.setdefault(f"generated tests, {project}, as forks", []).append((plain, plain - fork))

    async def _compare(self, what: str, telling: list[str], told: bytes, argv: list[str], stdin: bytes) -> None:
        if not (names := re.search(r"FOREIGN(\[.*?\])", (await self.run(telling, told)).text)):
            return
        took: tuple[list[float], list[float]] = [], []
        for _ in range(3):
            for side, (command, given) in zip(
                took, ((argv, stdin), (["python", "-c", IMPORTS], names[1].encode())), strict=True
            ):
                began = time.perf_counter()
                await self.run(command, given)
                side.append(time.perf_counter() - began)
        self.shares.setdefault(what, []).append((min(took[0]), min(took[1])))


def recorded_tests(project: str) -> list[str]:
    answers = next(Path(str(files("runoff") / "demo" / "answers")).glob(f"*{project}*.jsonl")).read_text()
    texts = [json.loads(line)["text"] for line in answers.splitlines()]
    return sorted({script for text in texts for script in re.findall(r"<test>\n(.*?)</test>", text, re.DOTALL)})


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
