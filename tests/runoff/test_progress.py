"""What a person sees of a batch: those in progress one by one, the others counted, the time that is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from runoff.agent.budget import Budget
from runoff.agent.doubles import Scripted
from runoff.instance import Instance
from runoff.models import roles
from runoff.progress import Progress
from runoff.recipe import load_recipe
from runoff.run import Result, Run, RunDirectory
from tests.runoff.batched import Played


def test_of_many_instances_those_in_progress_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    instances = [Instance(id=f"issue-{n:03}", source="x", statement="?", digest="d") for n in range(60)]

    async def scene() -> None:
        sandbox = Played({}, {})
        run = Run(
            RunDirectory(tmp_path), instances, load_recipe("hybrid"), roles(["m"]), Scripted([]), sandbox, Budget()
        )
        progress = Progress(run)
        for n in range(30):
            run.stages[f"issue-{n:03}"] = "trajectories"
        for n in range(5):
            name = f"issue-{n:03}"
            run.results[name] = Result(instance=name, status="patch" if n else "failed")
        console = Console(record=True, width=140)
        console.print(progress._table())
        text = " ".join(console.export_text().split())
        assert "5 of 60 ended (4 patch, 1 failed), 25 in progress, 30 waiting; ~" in text
        assert "issue-005" in text
        assert "issue-004" not in text, "it has ended"
        assert "issue-030" not in text, "it waits"
        assert text.count("issue-") == 20
        assert "5 in progress are not shown" in text
        await run.close()

    asyncio.run(scene())
