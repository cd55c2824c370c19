"""The grading process: `python -m runoff.grading`, a Request as JSON on its standard input; the grades go to its directory.

What is on record there is not graded again, unless it could not be told. Ends with 0 if everything could be told, 5 if not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runoff.commands import first_line
from runoff.datasets import answers
from runoff.datasets.protocol import Answer, Problem
from runoff.failure import INFRASTRUCTURE, one_line
from runoff.grading import fast, harness, reading
from runoff.grading.protocol import Grade, Grader
from runoff.grading.reading import Verdict
from runoff.grading.records import Key, Records, name_of, read, writing
from runoff.grading.request import Request, Submission
from runoff.sandbox.backends import open_backend
from runoff.sandbox.protocol import Raw, Sandbox, SandboxError, StoreFull
from runoff.selection.cleaning import configures_tests
from runoff.visible import shown

ENOUGH = 2
"""How often a grading is begun that fails for the infrastructure, before it is left for the next time."""


class Work(NamedTuple):
    """A distinct patch, and all who submitted it: it is graded once."""

    problem: Problem
    answer: Answer
    patch: Raw
    submitted: list[Submission]


class Grading:
    def __init__(self, request: Request, records: Records) -> None:
        self._request, self._records = request, records
        self._known, _ = read(request.out)
        self._problems = {problem.id: problem for problem in request.problems}
        self._answers = dict[str, Answer]()
        self.untold = 0

    async def run(self) -> None:
        for grader in self._request.graders:
            work = list(self._work(grader))
            if work:
                await (self._fast(work) if grader == "fast" else self._harness(work))

    def _work(self, grader: Grader) -> Iterable[Work]:
        """What is not on record; of a patch that is, under another name, the record is taken over."""
        by_patch = dict[tuple[str, Raw], list[Submission]]()
        for submission in self._request.submissions:
            by_patch.setdefault((submission.instance_id, submission.patch), []).append(submission)
        told = {(key.instance, key.patch): grade for key, grade in self._known.items() if key.grader == grader}
        for (instance, patch), all_of in by_patch.items():
            name = name_of(patch)
            left = [
                one
                for one in all_of
                if (known := self._known.get(Key(instance, one.candidate, one.model, name, grader))) is None
                or known.resolved is None
            ]
            before = told.get((instance, name))
            if not left:
                continue
            if before and before.resolved is not None:
                self._record(grader, left, patch, before)
            elif not patch:
                verdict = Verdict(resolved=False, why="empty: no patch was submitted")
                self._told(grader, left, patch, verdict, 0.0)
            else:
                yield Work(self._problems[instance], self._answer(instance), patch, left)

    def _answer(self, instance: str) -> Answer:
        if not self._answers:
            asked = self._request
            self._answers = answers.read(asked.reference, {one.instance_id for one in asked.submissions}, asked.answers)
        return self._answers[instance]

    async def _fast(self, work: Sequence[Work]) -> None:
        asked, by_instance = self._request, dict[str, list[Work]]()
        for one in work:
            by_instance.setdefault(one.problem.id, []).append(one)
        at_once = asyncio.Semaphore(asked.jobs)
        """Instances whose environment is in use: more of them only take memory and disk."""
        async with open_backend(asked.sandbox, asked.states, slots=asked.jobs) as sandbox:

            async def instance(all_of: Sequence[Work]) -> None:
                async with at_once:
                    await self._instance(sandbox, all_of)

            async with asyncio.TaskGroup() as group:
                for all_of in by_instance.values():
                    group.create_task(instance(all_of))

    async def _instance(self, sandbox: Sandbox, all_of: Sequence[Work]) -> None:
        asked, (problem, answer, *_) = self._request, all_of[0]

        def tell(text: str) -> None:
            _tell(f"{problem.id}: {text}")

        try:
            prepared = await fast.prepare(sandbox, problem, answer, asked.where, tell)
        except StoreFull:
            raise  # the same for every one
        except Exception as error:  # an instance that is poisoned stops no other
            for one in all_of:
                self._failed("fast", one, f"no environment: {one_line(error)[0]}")
            return

        seconds = asked.seconds or answer.seconds
        doubts = asyncio.Lock()
        reasons = list[str]()

        async def unfit() -> str:
            """Why an environment of our making says nothing of patches that fail in it: the row's own does, too."""
            if prepared.environment is None or not answer.patch:
                return ""
            async with doubts:
                if not reasons:
                    own = answer.patch.encode("utf-8", "surrogateescape")
                    found = await fast.grade(sandbox, problem, answer, prepared, own, seconds)
                    reasons.append("" if found.verdict.resolved else found.verdict.why or "no reason")
            return reasons[0]

        async def grade(one: Work) -> None:
            for attempt in range(ENOUGH):
                try:
                    found = await fast.grade(sandbox, problem, answer, prepared, one.patch, seconds)
                    if not found.verdict.resolved and (why := await unfit()):
                        self._failed(
                            "fast", one, f"the row's own patch is not resolved in this environment, either: {why}"
                        )
                        return
                except StoreFull:
                    raise
                except Exception as error:
                    if attempt + 1 == ENOUGH or not isinstance(error, SandboxError):
                        self._failed("fast", one, one_line(error)[0])
                        return
                else:
                    self._told("fast", one.submitted, one.patch, found.verdict, found.seconds)
                    return

        async with asyncio.TaskGroup() as group:
            for one in all_of:
                group.create_task(grade(one))

    async def _harness(self, work: Sequence[Work]) -> None:
        asked, left = self._request, {(one.problem.id, name_of(one.patch)): one for one in work}
        wanted = [harness.Wanted(one.problem, one.answer, one.patch, name_of(one.patch)) for one in work]
        seconds = asked.seconds or max(one.answer.seconds for one in work)
        async for ended in harness.graded(wanted, asked.out / "harness", asked.jobs, seconds, _tell):
            one = left[ended.instance, ended.patch]
            if ended.verdict is None:
                self._failed("harness", one, ended.why)
            else:
                self._told("harness", one.submitted, one.patch, ended.verdict, ended.seconds)

    def _told(self, grader: Grader, whose: Sequence[Submission], patch: Raw, verdict: Verdict, seconds: float) -> None:
        made = Grade(
            instance_id=whose[0].instance_id,
            grader=grader,
            resolved=verdict.resolved,
            why=verdict.why or _doubt(patch),
            tests=verdict.tests,
            seconds=round(seconds, 3),
        )
        self._record(grader, whose, patch, made)

    def _failed(self, grader: Grader, work: Work, why: str) -> None:
        self.untold += 1
        made = Grade(instance_id=work.problem.id, grader=grader, resolved=None, why=why)
        self._record(grader, work.submitted, work.patch, made)

    def _record(self, grader: Grader, whose: Sequence[Submission], patch: Raw, grade: Grade) -> None:
        gold = reading.changed_files(self._answer(grade.instance_id))
        for one in whose:
            of = {"candidate": one.candidate, "model": one.model, "patch": name_of(patch), "gold_files": gold}
            self._records.append(grade.model_copy(update=of))
        said = {True: "resolved", False: "not resolved", None: "could not be told"}[grade.resolved]
        names = ", ".join(dict.fromkeys(one.candidate or one.model for one in whose))
        _tell(f"{grade.instance_id} {names}: {said} ({grader}){f': {grade.why}' if grade.why else ''}")


def _doubt(patch: Raw) -> str:
    """What a person should know of a patch that resolves: the harness only asks whether its tests and their exit code agree."""
    files = ", ".join(configures_tests(patch))
    return f"it brings {files}, and with that a say in what the tests report" if files else ""


async def grade(request: Request) -> int:
    """How many could not be told."""
    if any(submission.patch for submission in request.submissions):
        reading.check()
    with writing(request.out, _tell) as records:
        grading = Grading(request, records)
        await grading.run()
        return grading.untold


def main() -> int:
    try:
        request = Request.model_validate(json.load(sys.stdin))
        return INFRASTRUCTURE if asyncio.run(grade(request)) else 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        line, code = one_line(error)
        _tell(line)
        return code


def _tell(text: str) -> None:
    print(f"runoff: {shown(first_line(text, 300))}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
