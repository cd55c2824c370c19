"""What running a generated test says: fixed, not fixed, or broken and why. Exit codes alone lie, so a wrapper reports.

`harness.py` (or `harness.js`) runs the script and prints a record behind a nonce that only this run knows. A candidate that ends the
process, prints forged lines or fails to import can therefore not look fixed. What a candidate that adapts to all this
inside the same process could still do is in the security model (docs).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, NamedTuple

from runoff.agent.environment import Language
from runoff.agent.languages import parser
from runoff.agent.protocol import digest
from runoff.agent.step import Run, Step, World
from runoff.sandbox.protocol import Execution, Limits, State, Value

if TYPE_CHECKING:
    from tree_sitter import Node

SHOWN = 5000
"""Characters of a script's output that a model sees."""

_CONTRACT = """\
- It is a complete Python script, run from the root of the repository with the project importable; no test runner.
- It ends with sys.exit(0) when the behaviour is what the issue asks for, and with sys.exit(2) when it is not.
  (A failing `assert` of its own counts as exit 2. Any other exception, exit code, or running off the end says nothing.)
- It must reach its verdict by observing behaviour: it calls the code and compares results. It does not read source code,
  and it decides nothing from versions or file names.
- It prints what it expected and what it got, in detail only for what is wrong, and at the end one line for each case that failed: of its
  output you see some {shown} characters, the middle of a longer one is left out.
- No network; it ends within {seconds} seconds."""

_CONTRACT_OF_JAVASCRIPT = """\
- It is a complete JavaScript file for Node: a CommonJS script (`require`) or an ES module (`import`, also `await` at the top). It is run as
  a file in the root of the repository: './' is the project itself, './lib/x.js' one of its files; installed packages are found by name.
  There is no test runner. Where the project is written in TypeScript, the script imports what is built from it.
- It ends with process.exit(0) when the behaviour is what the issue asks for, and with process.exit(2) when it is not; the call stands in
  the script itself. (A failing assertion of its own, of Node's `assert`, counts as exit 2. Any other exception, an unhandled rejection,
  another exit code, process.exitCode, or running off the end says nothing.)
- It must reach its verdict by observing behaviour: it calls the code and compares results. It does not read source code,
  and it decides nothing from versions or file names.
- It prints what it expected and what it got, in detail only for what is wrong, and at the end one line for each case that failed: of its
  output you see some {shown} characters, the middle of a longer one is left out.
- No network; it ends within {seconds} seconds."""


class Spoken(NamedTuple):
    """How generated tests are written in a language, and what runs them."""

    contract: str
    exits: str
    """The function that says the verdict."""
    left_at: str
    """Where an agent may leave a test script: out of the repository, so that it is in no diff."""
    tried_by: str
    """How it is tried from a shell in the root of the repository, as it will be run."""
    runs: tuple[str, ...]
    harness: str


SPOKEN: Mapping[Language, Spoken] = {
    "python": Spoken(
        contract=_CONTRACT,
        exits="sys.exit",
        left_at="/tmp/reproduce.py",
        tried_by="`python - < /tmp/reproduce.py` runs it; try it so (`python /tmp/reproduce.py` may import another copy of the project)",
        runs=("python", "-c"),
        harness="harness.py",
    ),
    "javascript": Spoken(
        contract=_CONTRACT_OF_JAVASCRIPT,
        exits="process.exit",
        left_at="/tmp/reproduce.js",
        tried_by="`node - < /tmp/reproduce.js` runs it in the root of the repository (an ES module as\n"
        "  `node --input-type=module - < /tmp/reproduce.js`); try it so: `node /tmp/reproduce.js` would not find the project",
        runs=("node", "-e"),
        harness="harness.js",
    ),
}


def contract(seconds: float, language: Language = "python") -> str:
    """What a prompt says a test script must be."""
    return SPOKEN[language].contract.format(seconds=f"{seconds:g}", shown=SHOWN)


_ASSERTION = "its own assertion failed: "
_BARE = re.compile(
    r"\b(?:not|is|the|it|fixed|broken|fail(?:s|ed|ure)?|passe[sd]|error|bug|issue|test|exit(?:ing)?|[02])\b",
    re.IGNORECASE,
)
"""Words of an output that says no more than its verdict."""


class Verdict(Value):
    outcome: Literal["fixed", "not fixed", "broken"]
    why: str
    output: str = ""
    """What the script printed, capped, without the record; for people and models."""

    @property
    def explained(self) -> bool:
        """Whether the run shows anything of what came: more than that it failed, beside the trace of an exception."""
        own = re.split(
            r"^(?:Traceback \(most recent call last\)|Uncaught )", self.output, maxsplit=1, flags=re.MULTILINE
        )[0]
        said = self.why.removeprefix(_ASSERTION) if self.why.startswith(_ASSERTION) else ""
        words = _BARE.sub("", f"{own} {'' if said == 'no message' else said}")
        return bool(re.search(r"\w", words))


def script_run(
    world: World,
    state: State,
    script: str,
    *,
    seconds: float,
    env: dict[str, str],
    language: Language,
    repetition: int = 0,
) -> Run:
    """The execution of a generated test in a state. A repetition is never started from a template: the two ways to start, and
    two orders of sets, then have to say the same."""
    request = json.dumps({"nonce": nonce(world.log.secret, state, script, repetition), "script": script})
    limits = Limits(seconds=seconds)
    argv = (*SPOKEN[language].runs, _harness(SPOKEN[language].harness))
    forked = language == "python" and not repetition
    return Run(state=state, argv=argv, stdin=request, env=env, limits=limits, repetition=repetition, template=forked)


def read_verdict(run: Run, done: Execution, shown: int = SHOWN) -> Verdict:
    """The verdict of a finished test run; what it printed is cut to `shown` characters, head and tail."""
    nonce = json.loads(run.stdin)["nonce"]
    body, mark, record = done.stdout.decode("utf-8", "replace").rpartition(f"\n{nonce} ")
    printed = capped(
        (body if mark else done.stdout.decode("utf-8", "replace")) + done.stderr.decode("utf-8", "replace"), shown
    )
    if done.outcome == "timed out":
        return Verdict(outcome="broken", why=f"no verdict within {run.limits.seconds:g} seconds", output=printed)
    if done.outcome == "killed":
        return Verdict(outcome="broken", why=f"killed for the limit on {done.limit}", output=printed)
    if not mark:
        return Verdict(
            outcome="broken",
            why=f"the process ended (exit code {done.exit_code}) before the script did",
            output=printed,
        )
    try:
        said = json.loads(record.partition("\n")[0])  # a process that the script left may print after it
        why = said["why"].encode("utf-8", "replace").decode()
        return Verdict(outcome=said["verdict"], why=why, output=printed)
    except (ValueError, TypeError, LookupError, AttributeError):  # only who knows the nonce can write such a record
        return Verdict(outcome="broken", why="the record of the run is forged or damaged", output=printed)


async def verdict_on_base(
    step: Step, name: str, state: State, script: str, *, seconds: float, env: dict[str, str], language: Language
) -> Verdict:
    """What a script says of the unchanged code. It counts as `not fixed` only if it says so twice: a flaky one is broken."""
    first, second = (
        script_run(step.world, state, script, seconds=seconds, env=env, language=language, repetition=n) for n in (0, 1)
    )
    verdict = read_verdict(first, await step.execute(name, first))
    if verdict.outcome != "not fixed":
        return verdict
    again = read_verdict(second, await step.execute(f"{name}-again", second))
    if again.outcome == "not fixed":
        return verdict
    why = f"flaky: run twice on the same code, it said not fixed and then {again.outcome} ({again.why})"
    return Verdict(outcome="broken", why=why, output=again.output)


def must_fail_control(scripts: list[str], language: Language) -> str:
    """A script that imports what the tests import and then says `not fixed`: who passes it lies about all others."""
    return _control_of_python(scripts) if language == "python" else _control_of_javascript(scripts)


def _control_of_python(scripts: list[str]) -> str:
    wanted: dict[str, None] = {}
    for script in scripts:
        try:
            tree = ast.parse(script)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
                everything = re.fullmatch(r"from (\w[\w.]*) import \*", line := ast.unparse(node))
                wanted[f"import {everything[1]}" if everything else line] = None
    lines = [f"try:\n    {line}\nexcept Exception:\n    pass" for line in wanted]
    return "\n".join([*lines, "import sys", "sys.exit(2)"]) + "\n"


def _control_of_javascript(scripts: list[str]) -> str:
    wanted = dict.fromkeys(line for script in scripts for line in _imports(script))
    lines = [f"try {{ {line} }} catch {{}}" for line in wanted]
    return "\n".join([*lines, _UNBENT, "process.exit(2);"]) + "\n"


_UNBENT = """\
const assert = await import("assert");
const failing = [() => assert.default(false), () => assert.ok(0), () => assert.strictEqual(1, 2), () => assert.deepStrictEqual([1], [2])];
for (const fails of failing) {

  let failed = false;
  try { fails(); } catch { failed = true; }
  if (!failed) process.exit(0);
}"""
"""Who has taken the teeth out of Node's assertions passes the control."""


def _imports(script: str) -> Iterator[str]:
    """A script's imports in JavaScript, as expressions."""
    found = parser("javascript")
    nodes: list[Node] = [found.parse(script.encode("utf-8", "surrogateescape")).root_node] if found else []
    while nodes:
        node = nodes.pop()
        text = source = None
        if node.type == "import_statement":
            source, text = node.child_by_field_name("source"), "await import(%s);"
        elif node.type == "call_expression" and (called := node.child_by_field_name("function")):
            arguments = node.child_by_field_name("arguments")
            first = arguments.named_children[0] if arguments and arguments.named_children else None
            if first and first.type == "string" and called.text in (b"require", b"import"):
                source, text = first, "require(%s);" if called.text == b"require" else "await import(%s);"
        if source and source.text and text:
            yield text % source.text.decode("utf-8", "replace")
        nodes.extend(reversed(node.children))


def capped(text: str, limit: int) -> str:
    """Head and tail of a long text, with what was left out said."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit * 2 // 3], text[-(limit // 3) :]
    return f"{head}\n[… {len(text) - len(head) - len(tail)} characters left out …]\n{tail}"


@cache
def _harness(name: str) -> str:
    return files("runoff.agent").joinpath(name).read_text()


def nonce(secret: str, state: State, script: str, repetition: int = 0) -> str:
    """What a run's record stands behind: by it, who knows the log's secret finds that run again."""
    return digest(secret, str(state), script, str(repetition))
