"""What a person sees while a run works: a live table on a terminal, plain lines elsewhere. All on standard error."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

from runoff.run import Run
from runoff.selection.elect import EVIDENCE

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_PLAIN = 10.0  # seconds between two plain lines about one instance
_FEW = 20
"""Instances that a table shows one by one."""


class Progress:
    """Watches a run until closed. Everything shown is read from the run: there is nothing to keep in step."""

    def __init__(self, run: Run) -> None:
        self._run, self._began = run, time.monotonic()
        self._live: Live | None = None
        self._said: dict[str, tuple[str, float]] = {}
        self._terminal = sys.stderr.isatty()
        decided = (world.log.effects.get("selection", {}) for world in run.worlds.values())
        self._before = sum(any(path.startswith(EVIDENCE) for path in effects) for effects in decided)
        """Instances that an earlier life had decided: they end at once and say nothing of the time left."""
        self._ended = 0

    def __enter__(self) -> Progress:
        self._run.changed = self.look
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(stderr=True), get_renderable=self._table, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.changed = lambda: None
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line for the user, above the table if there is one."""
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def look(self) -> None:
        now = time.monotonic()
        if self._live:
            return
        if len(self._run.worlds) > _FEW and len(self._run.results) > self._ended:
            self._ended = len(self._run.results)
            self.say(f"[{now - self._began:5.1f}s] {self.batch()}")
        for name in self._run.worlds:
            stage = self._run.stages.get(name, "")
            said, when = self._said.get(name, ("", -_PLAIN))
            if stage and (stage != said or now - when >= _PLAIN):
                self._said[name] = (stage, now)
                counts = " · ".join(f"{what} {n}" for what, n in self._counts(name).items() if n != "–")
                self.say(f"[{now - self._began:5.1f}s] {name}: {stage} · {counts} · {self.money()}")

    def money(self) -> str:
        """What was spent: dollars, the cap if there is one, unknown prices said."""
        ledger = self._run.ledger()
        cap = f" of ${self._run.budget.money:.2f}" if self._run.budget.money is not None else ""
        tokens = f"{ledger.input + ledger.output:,} tokens"
        if self._run.budget.tokens is not None:
            tokens += f" of {self._run.budget.tokens:,}"
        unknown = f", {ledger.unknown} calls at an unknown price" if ledger.unknown else ""
        if not ledger.calls and ledger.recorded:
            return f"{ledger.recorded} recorded answers, nothing paid"
        calls = f"{ledger.calls} calls" + (f" of {self._run.budget.calls:,}" if self._run.budget.calls else "")
        return f"{calls}, {tokens}, ${ledger.cost:.4f}{cap}{unknown}"

    def _counts(self, name: str) -> dict[str, str]:
        """What there is of an instance, by what it is called; among others' patches nothing but tests is written."""
        log, wanted = self._run.worlds[name].log, self._run.recipe.trajectories
        if self._run.entrants is None:
            ended = [t for t in log.ended if t.partition("-")[0] in ("editing", "shell", "tools")]
            with_patch = [t for t in ended if (log.ended[t].get("value") or {}).get("patch")]
            made = {"trajectories": f"{len(ended)}/{wanted}", "candidates": str(len(with_patch))}
        else:
            written = sum(t.startswith("testing-") for t in log.ended)
            made = {"tests written": f"{written}/{wanted}"} if self._run.models else {}
            made["candidates"] = str(len(self._run.entrants[name].candidates))
        return made | {"votes": self._votes(name), "executions": str(len(log.executions))}

    def _votes(self, name: str) -> str:
        done, planned = self._run.worlds[name].votes
        return f"{done}/{planned}" if planned else "–"

    def _left(self, name: str) -> str:
        """Time left, as if the trajectories still to come took what those that ended took; nothing while none has."""
        log, wanted = self._run.worlds[name].log, self._run.recipe.trajectories
        ended = Counter(t.split("-")[0] for t in log.ended)
        agents = ended["shell"] + ended["tools"]
        share = (ended["testing"] + ended["editing"] + 2 * agents) / (2 * wanted)
        if self._run.entrants is not None:
            share = ended["testing"] / wanted
        passed = time.monotonic() - self._began
        return "" if not share or share == 1 else f"~{passed / share - passed:.0f} s"

    def _table(self) -> Table:
        """Those in progress, as many as fit; the others as counts."""
        from rich.table import Table
        from rich.text import Text

        stages = {name: self._run.stages.get(name, "") for name in self._run.worlds}
        few = len(stages) <= _FEW
        shown = [name for name, stage in stages.items() if few or (stage and name not in self._run.results)]
        over = max(0, len(shown) - _FEW)
        table = Table(title=f"runoff · {time.monotonic() - self._began:.0f} s · {self.money()}", expand=False)
        counts = {name: self._counts(name) for name in shown[:_FEW]}
        for column in ("instance", "stage", *next(iter(counts.values()), {}), "left"):
            table.add_column(column)
        for name, counted in counts.items():
            cells = (name, stages[name] or "waiting", *counted.values(), self._left(name))
            table.add_row(*map(Text, cells))
        if not few:
            table.caption = self.batch() + (f"; {over} in progress are not shown" if over else "")
        return table

    def batch(self) -> str:
        """How far many instances are, and the time left as if the others took what those that ended took."""
        ended, total = len(self._run.results), len(self._run.worlds)
        begun = sum(bool(stage) for stage in self._run.stages.values())
        how = Counter(result.status for result in self._run.results.values())
        said = ", ".join(f"{count} {status}" for status, count in how.most_common()) or "none ended"
        fresh = ended - self._before
        left = f"; ~{(time.monotonic() - self._began) / fresh * (total - ended) / 60:.0f} min left" if fresh > 0 else ""
        return f"{ended} of {total} ended ({said}), {begun - ended} in progress, {total - begun} waiting{left}"
