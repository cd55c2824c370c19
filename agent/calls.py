"""The tool-calling agent: it views, searches, edits and runs in a sandbox by calls, until it submits its diff."""

from __future__ import annotations

import difflib
import json
import posixpath
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from runoff.agent import edits
from runoff.agent.context import Tree
from runoff.agent.editing import Candidate
from runoff.agent.edits.replacement import replacement
from runoff.agent.environment import Environment
from runoff.agent.observations import AgentRecipe, Loops, View, command_run, output
from runoff.agent.prompts import prompts
from runoff.agent.protocol import BudgetSpent, ContextOverflow, Message, Sampling, Tool, ToolCall
from runoff.agent.step import Ended, Reason, Run, Step
from runoff.agent.submission import hand_in
from runoff.agent.verdict import SPOKEN, capped, contract
from runoff.sandbox.protocol import REPO, Limits, State, Value


async def work_with_tools(
    step: Step, model: str, shared: Message, tree: Tree, environment: Environment, recipe: AgentRecipe
) -> Ended[Candidate]:
    """A conversation of up to `turns` replies. However it ends, what was changed until then is the candidate.

    One that ends for its budget is no result, but until a richer run goes on with it, its candidate is better than none.
    """
    say = prompts("calls")
    spoken = SPOKEN[environment.language]
    rules = contract(recipe.test_seconds, environment.language)
    task = say.first(recipe=recipe, script=spoken, contract=rules, environment=environment)
    sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
    view = View(shared.then("user", task), model, sampling, recipe.window, TOOLS)
    loops, reviewed = Loops(recipe.repeats), not recipe.review
    bench = _Bench(environment, tree, recipe)
    for turn in range(1, recipe.turns + 1):
        here, left = step.scope(f"turn{turn}"), recipe.turns - turn
        try:
            answer = await view.ask(here)
        except (ContextOverflow, BudgetSpent) as error:
            work = await hand_in(here.scope("cut"), environment, bench.state, recipe.test_seconds)
            reason: Reason = "context" if isinstance(error, ContextOverflow) else "budget"
            return Ended(reason=reason, value=work.candidate(step.trajectory), note=str(error))
        calls, cut = answer.reply.calls, answer.reply.finish == "length"
        if not calls:
            loop = loops.met("no call", "")
            view.hear(say.no_call(cut=cut, loop=loop, left=left))
        for number, call in enumerate(calls, 1):
            there = here.scope(f"call{number}")
            asked = read_call(call)
            if isinstance(asked, str):
                told = Told(say.unusable(problem=asked, cut=cut), failed=True)
            elif isinstance(asked, Submit):
                work = await hand_in(there, environment, bench.state, recipe.test_seconds)
                candidate = work.candidate(step.trajectory)
                if candidate and reviewed:
                    return Ended(reason="done", value=candidate)
                reviewed = reviewed or candidate is not None
                told = Told(say.review(work=work, script=spoken.left_at))
            else:
                told = await bench.do(there, asked)
            loop = loops.met(f"{call.name} {call.arguments}", told.text, told.failed)
            after = say.after(loop=loop, left=left) if loop or number == len(calls) else ""
            view.hear(told.text + after, call=call.id)
            if loop and loop.ends:
                break
        if loop and loop.ends:
            work = await hand_in(here.scope("end"), environment, bench.state, recipe.test_seconds)
            note = f"went round in circles: the same {loop.what} {loop.times} times"
            return Ended(reason="turns", value=work.candidate(step.trajectory), note=note)
    work = await hand_in(step.scope("end"), environment, bench.state, recipe.test_seconds)
    note = "" if work.patch.strip() else "nothing was changed"
    return Ended(reason="turns", value=work.candidate(step.trajectory), note=note)


class ViewFile(Value):
    """Shows a text file with line numbers, or lists a directory."""

    path: str = Field(description="From the root of the repository on, or absolute.")
    first: int = Field(default=1, ge=1, description="The first line to show.")
    last: int | None = Field(default=None, ge=1, description="The last line to show; as many as fit, if left out.")


class Search(Value):
    """Finds a regular expression (extended, as of grep -E) in the text files of the repository, line by line."""

    pattern: str = Field(min_length=1)
    path: str = Field(default=".", description="A directory or file to look in, or a pattern like '*.py'.")


class EditFile(Value):
    """Replaces text that stands at exactly one place of a file, or makes a new file, for which `old` is empty."""

    path: str = Field(description="From the root of the repository on, or absolute.")
    old: str = Field(description="The text as it stands in the file, without line numbers, with its exact indentation.")
    new: str = Field(description="The text to stand there instead.")


class RunCommand(Value):
    """Runs a bash command in the root of the repository; shows what it prints and its exit code."""

    command: str = Field(min_length=1)


class Submit(Value):
    """Hands in what is changed in the repository, as a diff."""


Asked = ViewFile | Search | EditFile | RunCommand | Submit

_KINDS: dict[str, type[Asked]] = {
    "view": ViewFile,
    "search": Search,
    "edit": EditFile,
    "run": RunCommand,
    "submit": Submit,
}


def _tool(name: str, kind: type[Asked]) -> Tool:
    schema = kind.model_json_schema()
    about = schema.pop("description")
    plain = {
        argument: {part: value for part, value in says.items() if part != "title"}
        for argument, says in schema.pop("properties", {}).items()
    }
    del schema["title"]
    return Tool(name=name, description=about, parameters=schema | {"properties": plain})


TOOLS = tuple(_tool(name, kind) for name, kind in _KINDS.items())


def read_call(call: ToolCall) -> Asked | str:
    """What a call asks for; or what is wrong with it, in words for the model. Never raises."""
    kind = _KINDS.get(call.name)
    if kind is None:
        return f"there is no tool {call.name!a}; there are {', '.join(_KINDS)}"
    try:
        given: Any = json.loads(call.arguments or "{}", strict=False)
    except (ValueError, RecursionError) as error:
        return f"the arguments of {call.name} are no JSON: {str(error)[:200]}"
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'all'}: {one['msg']}" for one in error.errors()[:5]]
        takes = ", ".join(kind.model_fields) or "nothing"
        return f"the arguments of {call.name} do not fit ({'; '.join(wrong)}); it takes {takes}"


class Told(NamedTuple):
    """A call's result in words."""

    text: str
    failed: bool = False


class _Bench:
    """The state that the calls so far have left, and what acts on it. Everything is an execution, so all is on record."""

    def __init__(self, environment: Environment, tree: Tree, recipe: AgentRecipe) -> None:
        self.state: State = environment.state
        self._environment, self._tree, self._recipe = environment, tree, recipe
        self._say = prompts("calls")

    async def do(self, here: Step, asked: Asked) -> Told:
        match asked:
            case ViewFile():
                return await self._view(here, asked)
            case Search():
                return await self._search(here, asked)
            case EditFile():
                return await self._edit(here, asked)
            case RunCommand():
                return await self._run(here, asked)
        raise TypeError(asked)

    async def _run(self, here: Step, asked: RunCommand) -> Told:
        run = command_run(self.state, asked.command, self._environment.env, self._recipe.seconds)
        done = await here.execute("run", run)
        self.state = done.after or self.state
        shown = output(done, self._recipe.shown)
        return Told(self._say.ran(shown=shown), shown.failed)

    async def _search(self, here: Step, asked: Search) -> Told:
        argv = ("git", "grep", "--untracked", "--no-color", "-nIE", "-e", asked.pattern, "--", asked.path)
        done = await here.execute("search", Run(state=self.state, argv=argv))
        if done.exit_code == 1 and not done.text:
            return Told(self._say.nothing(pattern=asked.pattern, path=asked.path))
        return Told(self._say.ran(shown=output(done, self._recipe.shown)), done.exit_code != 0)

    async def _view(self, here: Step, asked: ViewFile) -> Told:
        place, _ = located(asked.path)
        contents = await self._read(here, place)
        if isinstance(contents, Told):
            return contents
        lines = contents.decode("utf-8", "replace").split("\n")
        if not lines[-1]:
            lines.pop()
        until = len(lines) if asked.last is None else min(asked.last, len(lines))
        shown, room = list[str](), self._recipe.shown
        for number in range(asked.first, until + 1):
            line = f"{number:6}|{capped(lines[number - 1], 1000)}"
            room -= len(line) + 1
            if room < 0:
                break
            shown.append(line)
        return Told(
            self._say.viewed(path=asked.path, text="\n".join(shown), first=asked.first, of=len(lines), shown=len(shown))
        )

    async def _edit(self, here: Step, asked: EditFile) -> Told:
        place, name = located(asked.path)
        contents = await self._read(here, place)
        old = None if isinstance(contents, Told) else contents
        if isinstance(contents, Told) and (asked.old or not contents.failed):
            missing = edits.Edit(name, (edits.Pair(tuple(asked.old.split("\n")), ()),))
            problems = self._problems(missing) if contents.failed else [contents.text]
            return Told(self._say.not_edited(problems=problems), failed=True)
        try:
            change = (
                edits.File(name, tuple(asked.new.removesuffix("\n").split("\n")))
                if old is None
                else replacement(name, old, asked.old, asked.new)
            )
            made = edits.apply([change], lambda path: old if path == name else None, others=self._tree)[name] or b""
        except edits.EditProblem as problem:
            return Told(self._say.not_edited(problems=problem.problems), failed=True)
        argv = ("sh", "-ec", 'mkdir -p -- "$(dirname -- "$1")"; cat > "$1"', "sh", place)
        stdin = made.decode("utf-8", "surrogateescape")
        done = await here.execute("write", Run(state=self.state, argv=argv, stdin=stdin, freeze=True))
        if done.exit_code != 0 or done.after is None:
            return Told(self._say.not_edited(problems=[f"{asked.path}: {done.text.strip()}"]), failed=True)
        self.state = done.after
        diff = "" if old is None else capped("\n".join(_changed(old, made)), 4000)
        syntax = edits.syntax_errors(name, made, old)
        return Told(self._say.edited(path=asked.path, lines=len(_texts(made)), diff=diff, syntax=syntax))

    def _problems(self, change: edits.Change) -> list[str]:
        try:
            edits.apply([change], lambda path: None, paths=sorted(self._tree))
        except edits.EditProblem as problem:
            return list(problem.problems)
        return []

    async def _read(self, here: Step, place: str) -> bytes | Told:
        """A file's contents; or why there are none: failed, or what a directory holds."""
        command = '[ -d "$1" ] && { ls -Ap -- "$1"; exit 3; }; exec cat -- "$1"'
        argv, limits = ("sh", "-c", command, "sh", place), Limits(output=8 << 20)
        done = await here.execute("read", Run(state=self.state, argv=argv, limits=limits))
        if done.exit_code == 3:
            return Told(self._say.listed(path=place, text=capped(done.text, self._recipe.shown)))
        if done.exit_code == 0 and not done.dropped:
            return done.stdout
        why = "it is too large" if done.dropped else done.text.strip()
        return Told(self._say.not_read(path=place, why=why), failed=True)


def located(path: str) -> tuple[str, str]:
    """Where a path is in the sandbox, and what it is called: from the root of the repository on, if it is in there."""
    place = posixpath.normpath(posixpath.join(REPO, path))
    place = "/" + place.lstrip("/")
    return place, place.removeprefix(f"{REPO}/").lstrip("/")


def _changed(old: bytes, new: bytes) -> list[str]:
    """A diff without its heading."""
    return list(difflib.unified_diff(_texts(old), _texts(new), lineterm="", n=3))[2:]


def _texts(contents: bytes) -> list[str]:
    return contents.decode("utf-8", "replace").removesuffix("\n").split("\n") if contents else []
