"""The tool-calling agent: what each tool does and says, that no call can upset it, and that it goes on from its log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff.agent import edits
from runoff.agent.calls import TOOLS, located, read_call, work_with_tools
from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.edits.replacement import replacement
from runoff.agent.environment import Environment
from runoff.agent.log import Log, read
from runoff.agent.observations import AgentRecipe
from runoff.agent.protocol import ContextOverflow, Message, Reply, ToolCall
from runoff.agent.step import Ended, Step, World, trajectory
from tests.workshop import Workshop

FILES: dict[str, str | bytes] = {
    "calc.py": "def half(n):\n    return n / 2\n\n\ndef twice(n):\n    return n * 2\n",
    "win.py": b"one = 1\r\ntwo = 2\r\n",
    "noend.py": b"first = 1\nlast = 2",
    "latin.py": b"# caf\xe9\nname = 'x'\n",
    "pkg/deep.py": "".join(f"line_{n} = {n}\n" for n in range(1, 2001)),
    "README": "calc\n",
}
SCRIPT = "import sys\nfrom calc import half\nprint('half is', half(3))\nsys.exit(0 if half(3) == 1 else 2)\n"
QUICK = AgentRecipe(review=False, seconds=20, test_seconds=20)


def calls(*asked: tuple[str, Any]) -> Reply:
    """A reply that calls tools; arguments that are a text are sent as they are."""
    return Reply(
        text="",
        calls=tuple(
            ToolCall(id=f"c{n}", name=name, arguments=given if isinstance(given, str) else json.dumps(given))
            for n, (name, given) in enumerate(asked)
        ),
    )


def run(command: str) -> Reply:
    return calls(("run", {"command": command}))


def edit(old: str, new: str, path: str = "calc.py") -> Reply:
    return calls(("edit", {"path": path, "old": old, "new": new}))


FIX = edit("n / 2", "n // 2")
SUBMIT = calls(("submit", {}))


def strategy(environment: Environment, tree: Any, recipe: AgentRecipe = QUICK) -> Callable[[Step], Any]:
    shared = Message("system", "the issue")
    return lambda step: work_with_tools(step, "m", shared, tree, environment, recipe)


class Desk:
    def __init__(self, workshop: Workshop) -> None:
        self.workshop, self.environment = workshop, workshop.environment(FILES)
        self.tree = workshop.tree(self.environment)
        self.model = Scripted([])

    def work(self, *answers: str | Reply | Exception, **recipe: Any) -> Ended[Candidate]:
        """What comes of these answers; as many turns as answers."""
        self.model = Scripted(list(answers))
        how = QUICK.model_copy(update={"turns": len(answers), **recipe})
        return self.workshop.trajectory(Candidate, strategy(self.environment, self.tree, how), self.model)

    def told(self, *asked: tuple[str, Any]) -> str:
        """What a call is answered, the last of these."""
        self.work(*(calls(one) for one in asked), "Hm.")
        return self.model.calls[-1].request.conversation.text

    def patch(self, *answers: Reply) -> str:
        value = self.work(*answers).value
        return value.patch.decode("utf-8", "replace") if value else ""


@pytest.fixture(scope="module")
def desk(workshop: Workshop) -> Desk:
    return Desk(workshop)


# What ends it


def test_what_it_changed_is_its_candidate_and_its_script_a_test(desk: Desk) -> None:
    ended = desk.work(edit("", SCRIPT, "/tmp/reproduce.py"), FIX, SUBMIT, SUBMIT, review=True)
    assert ended.reason == "done"
    assert ended.value
    assert (ended.value.test, ended.value.own_verdict) == (SCRIPT, "fixed")
    assert b"-    return n / 2\n+    return n // 2\n" in ended.value.patch
    shown = desk.model.calls[3].request.conversation.text
    assert "with this diff, it said: FIXED" in shown
    assert "call submit once more" in shown


def test_several_calls_are_carried_out_in_their_order_and_answered_each_by_its_id(desk: Desk) -> None:
    ended = desk.work(calls(("run", {"command": "echo 1 > a"}), ("view", {"path": "a"}), ("no", {})), FIX)
    assert ended.reason == "turns"
    said = desk.model.calls[1].request.conversation.messages()
    assert [(message.role, message.call) for message in said[-3:]] == [("tool", "c0"), ("tool", "c1"), ("tool", "c2")]
    assert "     1|1\n" in said[-2].text
    assert desk.model.calls[0].request.tools == TOOLS


def test_an_answer_that_calls_nothing_is_told_so_and_a_loop_ends_it(desk: Desk) -> None:
    assert desk.work(*["Hm."] * 8).note == "went round in circles: the same action 6 times"
    assert "There is no call in the answer" in desk.model.calls[1].request.conversation.text
    ended = desk.work(FIX, *[edit("nothing like it", "x")] * 7)
    assert ended.note == "went round in circles: the same action 6 times"
    assert ended.value


def test_a_conversation_that_a_provider_refuses_folds_and_every_call_keeps_its_answer(desk: Desk) -> None:
    long = [run(f"seq {n}0000 {n}0900") for n in range(1, 6)]
    ended = desk.work(*long, ContextOverflow("too long"), FIX, SUBMIT, window=200_000)
    assert ended.reason == "done"
    said = desk.model.calls[6].request.conversation.messages()
    assert "folded away" in said[3].text
    assert [(message.role, message.call) for message in said[2:6]] == [
        ("assistant", ""), ("tool", "c0"), ("assistant", ""), ("tool", "c0"),
    ]  # fmt: skip
    assert said[2].calls == long[0].calls


# The tools


def test_view_numbers_lines_and_shows_what_fits(desk: Desk) -> None:
    assert "calc.py, lines 5 to 6 of 6:\n<output>\n     5|def twice(n):\n" in desk.told(
        ("view", {"path": "calc.py", "first": 5})
    )
    assert "lines 3 to 4 of 2000" in desk.told(("view", {"path": "/testbed/pkg/deep.py", "first": 3, "last": 4}))
    assert "lines 1 to 4" in (said := desk.told(("view", {"path": "pkg/deep.py"})))
    assert len(said) < 11_000
    assert "there is nothing from line 9 on" in desk.told(("view", {"path": "calc.py", "first": 9}))
    assert "deep.py\n" in desk.told(("view", {"path": "pkg"}))
    assert "cannot be read: cat: /testbed/none.py: No such file" in desk.told(("view", {"path": "none.py"}))


def test_search_finds_lines_and_says_when_there_are_none(desk: Desk) -> None:
    assert "calc.py:1:def half(n):" in desk.told(("search", {"pattern": "def (half|x)"}))
    assert "new.py:1:half" in desk.told(("run", {"command": "echo half > new.py"}), ("search", {"pattern": "^half"}))
    assert "Nothing in pkg matches half." in desk.told(("search", {"pattern": "half", "path": "pkg"}))
    assert "fatal" in desk.told(("search", {"pattern": "(", "path": "."}))


def test_edit_says_what_it_changed_and_what_no_longer_parses(desk: Desk) -> None:
    said = desk.told(("edit", {"path": "calc.py", "old": "    return n / 2", "new": "    return n / / 2"}))
    assert "-    return n / 2\n+    return n / / 2" in said
    assert "line 2: syntax error near" in said


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"old": "    return m / 2", "new": ""}, "The nearest is this; line 2 is `    return n / 2`"),
        ({"old": "return n", "new": ""}, "the old text stands at 2 places, lines 2 and 6"),
        ({"path": "clac.py", "old": "x", "new": ""}, "there is no file clac.py; did you mean calc.py"),
        ({"old": "", "new": "x"}, "the search is empty"),
        ({"old": "n / 2", "new": "n / 2"}, "changes nothing"),
        ({"old": "line_7 = 7", "new": "x"}, "but in pkg/deep.py (line 7)"),
        ({"path": "pkg", "old": "", "new": "x"}, "is a directory"),
        ({"path": ".git/config", "old": "", "new": "x"}, "the repository's own records"),
        ({"path": "calc.py/new.py", "old": "", "new": "x"}, "calc.py/new.py"),
        ({"path": "/proc/1/x", "old": "", "new": "x"}, "/proc/1/x"),
    ],
)
def test_an_edit_that_cannot_be_made_says_why_and_changes_nothing(
    desk: Desk, given: dict[str, str], problem: str
) -> None:
    said = desk.told(("edit", {"path": "calc.py"} | given))
    assert said.startswith("Nothing was changed.")
    assert problem in said
    assert desk.patch(calls(("edit", {"path": "calc.py"} | given))) == ""


def test_files_keep_their_line_ends_and_bytes(desk: Desk) -> None:
    assert desk.patch(edit("two = 2", "two = 3", "win.py")).endswith("-two = 2\r\n+two = 3\r\n")
    assert "\\ No newline" in desk.patch(edit("last = 2", "last = 3", "noend.py"))
    value = desk.work(edit("name = 'x'", "name = 'y'", "latin.py")).value
    assert value
    assert b" # caf\xe9\n-name" in value.patch
    assert "new file" in desk.patch(edit("", "x = 1\n", "pkg/more/new.py"))


# Calls that make no sense


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("rm", "{}", "there is no tool 'rm'; there are view, search, edit, run, submit"),
        ("view", "{path: x}", "the arguments of view are no JSON"),
        ("view", "", "path: Field required"),
        ("view", "[1]", "do not fit"),
        ("view", '{"path": "x", "first": "one"}', "first: Input should be a valid integer"),
        ("edit", '{"path": "x"}', "old: Field required; new: Field required"),
        ("run", '{"command": 1}', "command: Input should be a valid string"),
        ("run", '{"cmd": "ls"}', "it takes command"),
    ],
)
def test_a_call_that_makes_no_sense_is_answered_in_words(desk: Desk, name: str, arguments: str, problem: str) -> None:
    said = desk.told((name, arguments))
    assert said.startswith("Nothing was done")
    assert problem in said


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_ARGUMENTS = {
    "view": {"path": st.text(), "first": st.integers(1), "last": st.none() | st.integers(1)},
    "search": {"pattern": st.text(min_size=1), "path": st.text()},
    "edit": {"path": st.text(), "old": st.text(), "new": st.text()},
    "run": {"command": st.text(min_size=1)},
    "submit": {},
}


@settings(max_examples=200)
@given(st.sampled_from(sorted(_ARGUMENTS)), st.data())
def test_a_call_that_fits_is_what_it_says(name: str, data: st.DataObject) -> None:
    given_ = data.draw(st.fixed_dictionaries(_ARGUMENTS[name]))
    asked = read_call(ToolCall(id="1", name=name, arguments=json.dumps(given_)))
    assert not isinstance(asked, str), asked
    assert asked.model_dump() == given_


@settings(max_examples=200)
@given(st.sampled_from(sorted(_ARGUMENTS)) | st.text(), st.text() | _JSON.map(json.dumps), st.data())
def test_no_call_raises_and_what_does_not_fit_is_answered_in_words(name: str, text: str, data: st.DataObject) -> None:
    """Whatever the model wrote: another tool, no JSON, an argument too few, too many, or of another type."""
    if name not in _ARGUMENTS:
        asked = read_call(ToolCall(id="1", name=name, arguments=text))
        assert (
            asked
            == f"there is no tool {name!a}; there are {', '.join(k for k in ('view', 'search', 'edit', 'run', 'submit'))}"
        )
        return
    try:
        given_: Any = json.loads(text)
    except ValueError:
        given_ = None
        if text.strip():
            assert str(read_call(ToolCall(id="1", name=name, arguments=text))).startswith(f"the arguments of {name} ")
    if not isinstance(given_, dict):
        given_ = data.draw(st.fixed_dictionaries(_ARGUMENTS[name]))
        given_[data.draw(st.sampled_from([*_ARGUMENTS[name], "unheard of"]))] = {"not": ["it"]}
    elif given_.keys() <= _ARGUMENTS[name].keys():
        given_["unheard of"] = 1
    said = read_call(ToolCall(id="1", name=name, arguments=json.dumps(given_)))
    assert isinstance(said, str)
    assert said.startswith(f"the arguments of {name} do not fit (")
    assert said.endswith("it takes " + (", ".join(_ARGUMENTS[name]) or "nothing"))


@given(st.text("ab/. \n", max_size=12))
def test_a_path_is_in_the_repository_or_absolute(path: str) -> None:
    place, name = located(path)
    assert place.startswith("/")
    assert ".." not in place.split("/")
    assert not name.startswith("/")


_PIECE = st.text("ab \n", max_size=12)


@given(_PIECE, _PIECE, _PIECE, _PIECE, st.sampled_from([("", ""), ("\n", "\n"), ("\n", " "), ("", "\n")]))
def test_replacing_text_that_stands_at_one_place_is_what_it_is_in_python(
    a: str, b: str, c: str, d: str, ends: tuple[str, str]
) -> None:
    old, new = f"<{b}>{ends[0]}", f"[{d}]{ends[1]}"
    text = f"{a}<{b}>{ends[0]}{c}.\n"
    change = replacement("f", text.encode(), old, new)
    made = edits.apply([change], lambda path: text.encode())["f"]
    whole = (a[-1:] or "\n") == "\n" and text[len(a) + len(old.removesuffix("\n"))] == "\n"
    if whole:  # lines take the place of lines
        old, new = old.removesuffix("\n"), new.removesuffix("\n")
    assert made == text.replace(old, new).encode()


# Going on


STORY = (
    edit("", SCRIPT, "/tmp/reproduce.py"),
    calls(("run", {"command": "echo begun >> /tmp/journal"}), ("view", {"path": "calc.py"}), ("view", "{")),
    calls(("search", {"pattern": "half"}), ("run", {"command": "cat /tmp/journal; python /tmp/reproduce.py"})),
    FIX,
    SUBMIT,
    calls(("run", {"command": "echo again >> /tmp/journal; cat /tmp/journal"}), ("submit", {})),
)


def test_stopped_after_any_effect_it_goes_on_as_if_nothing_had_happened(workshop: Workshop, tmp_path: Path) -> None:
    """The log is cut after each of its records; the strategy, run on it again, does just what is not on record."""
    environment = workshop.environment(FILES)
    tree = workshop.tree(environment)
    recipe = QUICK.model_copy(update={"review": True, "turns": 10})
    sandbox = workshop.remembering()

    async def life(log: Path) -> tuple[Ended[Candidate], list[str]]:
        model = Scripted({f"turn{n}/ask": answer for n, answer in enumerate(STORY, 1)})
        world = World(Log(log), "instance", model, sandbox)
        try:
            ended = await trajectory(world, "tools-1", Candidate, strategy(environment, tree, recipe))
        finally:
            await world.close()
        return ended, [call.path for call in model.calls]

    whole = tmp_path / "whole.jsonl"
    expected, asked = workshop.run(life(whole))
    assert expected.reason == "done"
    keys = [record["key"] for record in read(whole) if record["kind"] == "execution"]
    lines = whole.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        log = tmp_path / f"cut{cut}.jsonl"
        log.write_bytes(b"".join(lines[:cut]))
        on_record = {record["path"] for record in read(log) if record["kind"] == "ask"}
        ended, again = workshop.run(life(log))
        assert ended == expected, cut
        assert again == [path for path in asked if path not in on_record], cut
        ran = [record["key"] for record in read(log) if record["kind"] == "execution"]
        assert sorted(ran) == sorted(keys), "no command ran twice, and none was left out"
