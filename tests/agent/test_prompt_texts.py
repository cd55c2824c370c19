"""What the agents' prompts say, kept as text: a change of a prompt shows as a change of what a model reads.

After a change that is meant: `python -m tests.agent.test_prompt_texts` writes the texts anew; the diff is for reviewers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runoff.agent import edits
from runoff.agent.calls import TOOLS
from runoff.agent.editing import Draft
from runoff.agent.environment import Built, Environment
from runoff.agent.observations import AgentRecipe, Loop, Output
from runoff.agent.prompts import prompts
from runoff.agent.protocol import Message
from runoff.agent.submission import Work
from runoff.agent.testing import GeneratedTest
from runoff.agent.verdict import SPOKEN, Verdict, contract
from runoff.sandbox.protocol import State
from runoff.selection.exempting import Shown
from runoff.selection.findings import Findings

SNAPSHOTS = Path(__file__).with_name("snapshots")
_PLACE = State(layers=("x",))
_PLAIN = Environment(state=_PLACE, pristine=_PLACE, test="python -m pytest")
_BUILT = _PLAIN.model_copy(update={"build": "pip install .", "built": Built(binaries=True)})
_PATCH = b"diff --git a/calc.py b/calc.py\n--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
_FAILS = Verdict(outcome="not fixed", why="exit code 2", output="got 1, expected 2\n")
_BROKEN = Verdict(outcome="broken", why="uncaught NameError: x", output="Traceback\n")
_WORK = Work(
    patch=_PATCH, script="…", before=_FAILS, after=_FAILS.model_copy(update={"outcome": "fixed", "output": ""})
)
_WORKS = {
    "tested": _WORK,
    "untested": Work(patch=_PATCH, left_out=("build/",)),
    "proves nothing": _WORK.model_copy(update={"before": _FAILS.model_copy(update={"outcome": "fixed"})}),
    "does not pass": _WORK.model_copy(update={"after": _FAILS}),
    "nothing changed": Work(),
    "no diff": Work(problem="there is no repository"),
}
_OUTPUTS = {
    "short": Output("exit code 0", "a\nb", None, False),
    "capped": Output("exit code 1", "a\n[… 90 characters left out …]\nz", 12_345, True),
    "silent": Output("timed out after 1 s; everything it had started was ended", "", None, True),
}
_LOOPS = {"warned": Loop("failure", 3, 6), "repeated": Loop("action", 4, 6), "ended": Loop("action", 6, 6)}


def _first(environment: Environment) -> dict[str, Any]:
    spoken, rules = SPOKEN[environment.language], contract(60, environment.language)
    return {"recipe": AgentRecipe(), "script": spoken, "contract": rules, "environment": environment}


def shared() -> Iterator[tuple[str, str]]:
    say = prompts("shared")
    for name, diffs in {"search and replace": False, "diffs": True}.items():
        yield (
            f"system, {name}",
            say.system(
                issue="It is wrong.\n",
                grammar=edits.describe(diffs=diffs),
                installed="Python 3.11, pytest 8.3.2",
                paths=["calc.py", "big.py", "long.py"],
                files={"calc.py": "x = 1"},
                outlines={"big.py": "1: def f()", "long.py": "1: def g()\n2|    return 1"},
                excerpts={"long.py": ()},
            ),
        )


def writing_tests() -> Iterator[tuple[str, str]]:
    say = prompts("testing")
    silent = _FAILS.model_copy(update={"output": ""})
    for language in SPOKEN:
        yield f"first, {language}", say.first(contract=contract(60, language))
        yield f"ran, broken, {language}", say.ran(verdict=_BROKEN, left=2, exits=SPOKEN[language].exits)
    yield "ran, not fixed", say.ran(verdict=_FAILS, left=2)
    yield "ran, fixed", say.ran(verdict=_FAILS.model_copy(update={"outcome": "fixed", "why": "exit code 0"}), left=1)
    yield "not done", say.not_done(verdict=_BROKEN, left=1)
    yield "shows nothing", say.shows_nothing(verdict=silent, left=2)
    yield (
        "shows nothing but that it failed",
        say.shows_nothing(verdict=silent.model_copy(update={"output": "FAIL\n"}), left=1),
    )
    yield "confirm", say.confirm(verdict=_FAILS)
    yield "confirm, shows nothing", say.confirm(verdict=silent)
    for name, verdict in {"no script": _BROKEN, "a good script": _FAILS}.items():
        yield (
            f"unreadable, {name}",
            say.unreadable(problems=["</test> is missing"], verdict=verdict, cut=verdict is _FAILS, left=2),
        )


def editing() -> Iterator[tuple[str, str]]:
    say, fixed = prompts("editing"), _FAILS.model_copy(update={"outcome": "fixed", "output": ""})
    test = GeneratedTest(id="testing-1", script="import sys\nsys.exit(2)", output="got 1, expected 2\n")
    yield "first", say.first(contract=contract(60), test=test)
    yield "first, without a test", say.first(contract=contract(60), test=None)
    patch = _PATCH.decode()
    for name, (shown, before, after) in {
        "no edit": (None, _FAILS, None),
        "no test": (patch, None, None),
        "proves nothing": (patch, fixed, fixed),
        "passes": (patch, _FAILS, fixed),
        "does not pass": (patch, _FAILS, _FAILS),
    }.items():
        yield f"ran, {name}", say.ran(patch=shown, syntax=(), before=before, after=after, notices=(), left=2)
    syntax, notices = ("calc.py: line 1: syntax error near `x`",), ("the search text was found with other blanks",)
    yield "ran, with notices", say.ran(patch=patch, syntax=syntax, before=None, after=None, notices=notices, left=1)
    for name, draft in {"no edit yet": None, "an edit before": Draft(patch=_PATCH)}.items():
        yield (
            f"unusable, {name}",
            say.unusable(
                problems=["edit calc.py: not found"], draft=draft, cut=draft is None, nothing=draft is None, left=2
            ),
        )


def shell() -> Iterator[tuple[str, str]]:
    say = prompts("shell")
    yield "first", say.first(**_first(_PLAIN))
    yield "first, where something was built", say.first(**_first(_BUILT))
    yield "first, JavaScript", say.first(**_first(_PLAIN.model_copy(update={"language": "javascript"})))
    for name, shown in _OUTPUTS.items():
        yield f"ran, {name}", say.ran(shown=shown, loop=None, left=3)
    for name, loop in _LOOPS.items():
        yield f"ran, {name}", say.ran(shown=_OUTPUTS["short"], loop=loop, left=1)
    for commands, problem, cut in ((0, "", True), (2, "", False), (1, "the block is empty", False)):
        yield (
            f"unusable, {problem or commands}",
            say.unusable(commands=commands, problem=problem, cut=cut, loop=None, left=2),
        )
    for name, work in _WORKS.items():
        yield f"review, {name}", say.review(work=work, script=SPOKEN["python"].left_at, loop=None, left=2)


def calls() -> Iterator[tuple[str, str]]:
    say = prompts("calls")
    yield "tools", "".join(f"{tool.name}: {tool.description}\n{tool.parameters}\n" for tool in TOOLS)
    yield "first", say.first(**_first(_PLAIN))
    yield "ran", say.ran(shown=_OUTPUTS["short"])
    yield "nothing", say.nothing(pattern="def x", path=".")
    for name, (first, of, shown) in {"part": (3, 9, 2), "empty": (1, 0, 0), "behind the end": (7, 1, 0)}.items():
        yield f"viewed, {name}", say.viewed(path="calc.py", text="     3|x", first=first, of=of, shown=shown)
    yield "listed", say.listed(path="/testbed/pkg", text="a.py\nb/")
    yield "not read", say.not_read(path="/testbed/x", why="cat: no such file")
    yield "edited", say.edited(path="calc.py", lines=1, diff="-x = 1\n+x = 2", syntax=["line 1: syntax error near `x`"])
    yield "made", say.edited(path="new.py", lines=1, diff="", syntax=[])
    yield "not edited", say.not_edited(problems=["edit calc.py: the search text does not stand in the file."])
    yield "unusable", say.unusable(problem="there is no tool 'rm'", cut=True)
    yield "no call", say.no_call(cut=True, loop=_LOOPS["warned"], left=1)
    yield "after", say.after(loop=None, left=2)
    yield "review", say.review(work=_WORK, script=SPOKEN["python"].left_at)


def finding() -> Iterator[tuple[str, str]]:
    say = prompts("context")
    yield "relevance", say.relevance(issue="It is wrong.\n", files={"calc.py": "x = 1", "b.py": ""})
    yield "relevance, again", say.relevance_again()
    yield "ranking", say.ranking(issue="It is wrong.\n", files={"calc.py": (3, "holds x"), "b.py": (1, "empty")})
    yield "ranking, again", say.ranking_again()
    say = prompts("summaries")
    yield "a line on each file", say.summaries(files={"calc.py": "x = 1", "b.py": ""})
    yield "a line on each file, again", say.summaries_again()
    yield "glance", say.glance(issue="It is wrong.\n", files={"calc.py": "holds x", "b.py": "is empty"})
    yield "glance, again", say.glance_again()


def judging() -> Iterator[tuple[str, str]]:
    say = prompts("verifier", "runoff.selection")
    for name, direct in {"reasoned": False, "direct": True}.items():
        yield name, say.judge(patch=_PATCH.decode(), direct=direct)


def weighing() -> Iterator[tuple[str, str]]:
    """What the verifier is told beside or in place of a patch and YES or NO."""
    say, patch = prompts("judging", "runoff.selection"), _PATCH.decode()
    found = Findings(
        cells={"testing-1": ("pass", ""), "testing-2": ("could not tell", "uncaught NameError: x")},
        passed=1,
        tests=2,
        repository=9,
        broken=("tests/test_calc.py::test_x",),
    )
    others = {
        "nothing was run": Findings(),
        "all pass, most are left out": Findings(
            cells={"a": ("pass", "")}, passed=21, tests=21, left_out=20, repository=3
        ),
        "its tests could not tell": Findings(
            cells={"a": ("fail", "exit code 2")}, tests=1, repository=3, broken=None, why="timed out"
        ),
    }
    alone: dict[str, Any] = {
        "patch": patch, "found": None, "scripts": {}, "story": "", "criterion": "", "letters": [], "direct": False
    }  # fmt: skip
    yield "criteria", say.criteria(most=5)
    yield "criteria, again", say.criteria_again(most=5)
    yield "by a criterion", say.judge(**alone | {"criterion": "half(-3) is -2."})
    yield "by a criterion, direct", say.judge(**alone | {"criterion": "half(-3) is -2.", "direct": True})
    yield "graded", say.judge(**alone | {"letters": list("ABCDE")})
    yield "graded, direct", say.judge(**alone | {"letters": list("ABCDE"), "direct": True})
    yield "graded, by a criterion", say.judge(**alone | {"letters": list("ABCDE"), "criterion": "half(-3) is -2."})
    yield "with tests", say.judge(**alone | {"found": found, "scripts": {"testing-2": "import sys\nsys.exit(2)"}})
    for name, said in others.items():
        yield f"with tests, {name}", say.judge(**alone | {"found": said, "direct": True})
    two: dict[str, Any] = {
        "patches": {"A": patch, "B": patch},
        "found": {},
        "scripts": {},
        "stories": {},
        "criteria": (),
    }
    yield "two", say.compare(**two, direct=False)
    yield "two, direct", say.compare(**two, direct=True)
    both = {"found": {"A": found, "B": Findings()}, "criteria": ("half(-3) is -2.", "half(4) is 2.")}
    yield "two, by criteria, with tests", say.compare(**two | both, direct=False)
    story = "[answer 1] <test>\nassert half(3) == 1\n</test>\n\n[it saw] It said: NOT FIXED (exit code 2)."
    yield "with its trajectory", say.judge(**alone | {"story": story})
    yield "two, one with its trajectory", say.compare(**two | {"stories": {"B": story}}, direct=True)


def exempting() -> Iterator[tuple[str, str]]:
    say = prompts("exempting", "runoff.selection")
    tests = {
        "T1": Shown("tests.test_calc::test_half", "def test_half():\n    assert half(3) == 1.5"),
        "T2": Shown("tests.test_calc::test_other", ""),
    }
    yield "ask", say.ask(tests=tests)
    yield "unusable", say.unusable(problems=["There is no test T9."], left=1)


def choosing() -> Iterator[tuple[str, str]]:
    say, patches = prompts("runoff", "runoff.selection"), {"A": _PATCH.decode(), "B": _PATCH.decode()}
    known = [("import sys\nsys.exit(2)", {"A": "pass", "B": "could not tell"})]
    yield "first", say.first(patches=patches, contract=contract(60), known=known)
    yield "first, nothing known", say.first(patches=patches, contract=contract(60), known=[])
    verdicts = {"original": _FAILS, "A": _FAILS.model_copy(update={"outcome": "fixed", "output": ""}), "B": _BROKEN}
    yield "ran", say.ran(verdicts=verdicts, notices=("something was left out",), left=2)
    yield "ran, the last", say.ran(verdicts=verdicts, notices=(), left=1)
    yield "unusable", say.unusable(problems=[], letters=["A", "B"], left=2)
    yield "unusable, no such change", say.unusable(problems=["there is no change C"], letters=["A", "B"], left=1)
    yield "may abstain", say.may_abstain()


def asking_further() -> Iterator[tuple[str, str]]:
    say, patches = prompts("further", "runoff.selection"), {"A": _PATCH.decode(), "B": _PATCH.decode()}
    yield "differential", say.differential(patches=patches, contract=contract(60))
    yield "challenge", say.challenge(patches=patches, contract=contract(60))
    passes = _FAILS.model_copy(update={"outcome": "fixed", "why": "exit code 0", "output": ""})
    both = "it says fixed of both changes, so it does not tell them apart"
    for name, kind, given, fault, left in (
        ("cannot be kept", "differential", {"A": passes, "B": passes}, both, 3),
        (
            "cannot be kept, the last",
            "differential",
            {"A": passes, "B": _BROKEN},
            "it comes to no verdict on change B",
            1,
        ),
        ("tells them apart", "differential", {"A": passes, "B": _FAILS}, "", 2),
        ("tells them apart, the last", "differential", {"A": passes, "B": _FAILS}, "", 1),
        ("fails", "challenge", {"A": _FAILS, "B": _FAILS}, "", 2),
        ("is withstood", "challenge", {"A": passes, "B": passes}, "", 2),
    ):
        verdicts = {"original": _FAILS} | given
        yield name, say.ran(kind=kind, verdicts=verdicts, fault=fault, notices=(), left=left)
    yield "unusable", say.unusable(problems=["</test> is missing"], fault="there is no script yet", cut=True, left=2)
    yield "unusable, no script yet", say.unusable(problems=[], fault="there is no script yet", cut=False, left=1)
    yield "unusable, a good script", say.unusable(problems=[], fault="", cut=False, left=2)


PROMPTS = {
    "context": finding,
    "verifier": judging,
    "judging": weighing,
    "runoff": choosing,
    "further": asking_further,
    "exempting": exempting,
    "shared": shared,
    "testing": writing_tests,
    "editing": editing,
    "shell": shell,
    "calls": calls,
}


def text(name: str) -> str:
    """As a model reads them: without the marks of what executions printed."""
    return "\n".join(f"======== {part}\n{Message('user', said).text}" for part, said in PROMPTS[name]())


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_say_what_reviewers_have_seen(name: str) -> None:
    kept = (SNAPSHOTS / f"{name}.txt").read_text()
    assert text(name) == kept, "if this is meant: python -m tests.agent.test_prompt_texts"


if __name__ == "__main__":
    SNAPSHOTS.mkdir(exist_ok=True)
    for one in PROMPTS:
        (SNAPSHOTS / f"{one}.txt").write_text(text(one))
