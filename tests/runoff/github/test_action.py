"""The Action on recorded events: who may ask, what an issue's text cannot reach, two requests at once, and what action.yml holds."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runoff.action import action_command
from runoff.agent.budget import parse_budget
from runoff.github.request import BadRequest, Ignored, Options, capped, options, requested
from tests.runoff.github.host import WRITER, Host, serving

EVENTS = Path(__file__).parent / "events"
ROOT = Path(__file__).parents[3]
SHA = "0123456789abcdef0123456789abcdef01234567"
EVIL = [
    "$(touch PWNED)",
    "`touch PWNED`",
    '"; touch PWNED; "',
    "'; touch PWNED; '",
    "${{ secrets.KEY }}",
    "\n::set-env name=PATH::/evil\n::stop-commands::x\n##[set-output name=go]true",
    "a\nGITHUB_TOKEN=evil\nRUNOFF_INPUT_KEYS=evil",
    "--model evil --budget 999 --api-base http://evil.example",
    "\u202e\x1b[2J../../etc/passwd",
]


def event(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return found


class Workflow:
    """A workflow's environment, and a runner of `runoff` that only notes what it was to do."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder, self.host = folder, host
        self.ran: list[tuple[list[str], dict[str, str]]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.environment = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_SERVER_URL": host.base,
            "GITHUB_API_URL": f"{host.base}/api/v3",
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_SHA": SHA,
            "GITHUB_RUN_ID": "1000",
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_ENV": str(folder / "env"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary"),
            "ACTIONS_RUNTIME_TOKEN": "runtime-token",
            "RUNNER_TEMP": str(folder),
            "GITHUB_TOKEN": WRITER,
            "PATH": "/usr/bin:/bin",
            "RUNOFF_INPUT_MODEL": "openai/any",
            "RUNOFF_INPUT_BUDGET": "2,1h",
            "RUNOFF_INPUT_N": "6",
            "RUNOFF_INPUT_KEYS": "OPENAI_API_KEY=sk-the-key-of-the-model\n",
        }

    def run(self, payload: Mapping[str, Any], part: str = "solve", name: str = "", **more: str) -> int:
        file = self.folder / "event.json"
        file.write_text(json.dumps(payload))
        kind = name or ("issue_comment" if "comment" in payload else "issues")
        environment = self.environment | {"GITHUB_EVENT_PATH": str(file), "GITHUB_EVENT_NAME": kind} | more
        return action_command(part, environment, self._run)

    def _run(self, words: Sequence[str], environment: Mapping[str, str]) -> int:
        self.ran.append((list(words), dict(environment)))
        self.meanwhile()
        return 0

    def output(self) -> str:
        file = self.folder / "output"
        return file.read_text() if file.is_file() else ""


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Workflow]:
    with serving(tmp_path / "server") as host:
        host.make("o/r")
        host.permissions = {"maintainer": "write", "owner": "admin", "triager": "read", "reader": "read"}
        yield Workflow(tmp_path, host)


@pytest.mark.parametrize("kind", ["labeled", "comment"])
@pytest.mark.parametrize(
    ("who", "may"), [("owner", True), ("maintainer", True), ("triager", False), ("reader", False), ("stranger", False)]
)
def test_who_may_ask(workflow: Workflow, kind: str, who: str, may: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The API's word counts, and not what the event says of its author."""
    payload = event(kind)
    payload["sender"]["login"] = who
    if "comment" in payload:
        payload["comment"]["user"]["login"] = who
        payload["comment"]["author_association"] = "OWNER" if not may else "NONE"
    assert workflow.run(payload, "check") == 0
    assert ("go=true" in workflow.output()) is may
    assert workflow.run(payload) == 0
    assert bool(workflow.ran) is may
    if not may:
        assert f"nothing to do: {who} may not write to o/r" in capsys.readouterr().out
        assert not [asked for asked in workflow.host.asked if asked[0] != "GET"], "nor is anything said on the issue"


def test_a_permission_that_cannot_be_told_is_none(workflow: Workflow) -> None:
    workflow.host.faults += [("GET", "/permission$", 404, {"message": "Not Found"})]
    assert workflow.run(event("labeled")) == 0
    workflow.host.faults += [("GET", "/permission$", 403, {"message": "Resource not accessible by integration"})]
    assert workflow.run(event("labeled")) == 3
    assert not workflow.ran


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("comment", {"issue": {"pull_request": {"url": "x"}}}, "pull request"),
        ("labeled", {"issue": {"pull_request": {"url": "x"}}}, "pull request"),
        ("comment", {"sender": {"type": "Bot", "login": "dependabot[bot]"}}, "no person"),
        ("comment", {"sender": {"type": "User", "login": "evil[bot]"}}, "no person"),
        ("comment", {"sender": {"login": "a/../../x"}}, "no person"),
        ("comment", {"comment": {"user": {"login": "another"}}}, "not by who sent it"),
        ("comment", {"action": "edited"}, "new comment"),
        ("comment", {"action": "deleted"}, "new comment"),
        ("comment", {"comment": {"body": "I think /runoff is nice"}}, "does not begin"),
        ("comment", {"comment": {"body": "/runoffs"}}, "does not begin"),
        ("comment", {"comment": {"body": "/runoff-now"}}, "does not begin"),
        ("comment", {"comment": {"body": None}}, "does not begin"),
        ("comment", {"issue": {"state": "closed"}}, "not open"),
        ("labeled", {"label": {"name": "bug"}}, "not runoff"),
        ("labeled", {"label": {"name": "runoff "}}, "not runoff"),
        ("labeled", {"label": {"name": ["runoff"]}}, "not runoff"),
        ("labeled", {"action": "opened"}, "only a label"),
        ("labeled", {"issue": {"number": "12; touch PWNED"}}, "no issue"),
        ("labeled", {"issue": {"number": True}}, "no issue"),
    ],
)
def test_what_is_no_request_is_passed_over(
    workflow: Workflow, kind: str, change: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = _changed(event(kind), change)
    assert workflow.run(payload) == 0
    assert why in capsys.readouterr().out
    assert not workflow.ran
    assert not workflow.host.asked


@pytest.mark.parametrize(
    "name", ["pull_request", "pull_request_target", "push", "workflow_dispatch", "discussion_comment", ""]
)
def test_other_events_are_passed_over(workflow: Workflow, name: str) -> None:
    assert workflow.run(event("labeled"), name=name or "nothing") == 0
    assert not workflow.ran


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work, and nothing is said on the issue: GitHub wants a second between two writes."""
    monkeypatch.setattr("runoff.action._at_work_on", lambda place, request: nullcontext())


@pytest.mark.usefixtures("alone")
def test_nothing_of_the_event_reaches_a_command_or_an_environment_but_its_number(workflow: Workflow) -> None:
    quiet = _started(workflow, event("comment"))
    assert quiet[0][:2] == ["solve", f"{workflow.host.base}/o/r/issues/12"]
    for evil in EVIL:
        for kind in ("comment", "labeled"):
            payload = event(kind)
            payload["issue"] |= {"title": evil, "body": evil, "html_url": evil, "labels": [{"name": evil}]}
            payload["issue"]["user"]["login"] = evil
            payload["repository"] |= {"full_name": evil, "default_branch": evil, "clone_url": evil}
            if kind == "comment":
                payload["comment"]["body"] = f"/runoff -n 3\n{evil}"
            words, environment = _started(workflow, payload)
            assert environment == quiet[1]
            assert [word for word in words if word not in quiet[0]] == (["3"] if kind == "comment" else [])
    for name in ("output", "env", "summary"):
        file = workflow.folder / name
        assert "PWNED" not in (file.read_text() if file.exists() else "")
    assert not list(workflow.folder.rglob("PWNED"))


def test_what_it_says_is_no_command_to_the_runner(workflow: Workflow, capfd: pytest.CaptureFixture[str]) -> None:
    payload = event("comment")
    payload["comment"]["body"] = "/runoff --evil\n::set-env name=PATH::/evil"
    workflow.run(payload)
    first, *_, last = capfd.readouterr().out.strip().splitlines()
    word = first.removeprefix("::stop-commands::")
    assert re.fullmatch(r"[0-9a-f]{32}", word)
    assert last == f"::{word}::"


@pytest.mark.usefixtures("alone")
def test_keys_are_given_to_the_process_that_asks_models_and_to_nothing_else(workflow: Workflow) -> None:
    words, environment = _started(workflow, event("labeled"))
    assert environment["OPENAI_API_KEY"] == "sk-the-key-of-the-model"
    assert "sk-the-key-of-the-model" not in " ".join(words)
    assert WRITER not in " ".join(words)
    for name in ("RUNOFF_INPUT_KEYS", "GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "ACTIONS_RUNTIME_TOKEN"):
        assert name not in environment


@pytest.mark.parametrize("line", ["PATH=/evil", "GITHUB_TOKEN=x", "LD_PRELOAD=x", "sk-no-name", "GH_TOKEN=x"])
def test_a_line_of_keys_that_is_no_key_is_refused_without_its_value(
    workflow: Workflow, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workflow.run(event("labeled"), RUNOFF_INPUT_KEYS=f"A_KEY=secret-value\n{line}") == 2
    assert "the input keys" in (said := capsys.readouterr().err)
    assert "secret-value" not in said
    assert not workflow.ran


@pytest.mark.usefixtures("alone")
def test_a_comment_can_ask_for_less_and_not_for_more(workflow: Workflow) -> None:
    def asked(body: str) -> list[str]:
        payload = event("comment")
        payload["comment"]["body"] = body
        return _started(workflow, payload)[0]

    assert _after(asked("/runoff"), "--budget", "-n") == ("2,3600s", "6")
    assert _after(asked("/runoff -n 3 --budget 0.50"), "--budget", "-n") == ("0.5,3600s", "3")
    assert _after(asked("/runoff -n 64 --budget 1000,300ktok"), "--budget", "-n") == ("2,300000tok,3600s", "6")
    assert _after(asked("/runoff --budget=30min"), "--budget", "-n") == ("2,1800s", "6")
    assert "--with-test" in asked("/runoff --with-test\nplease")


@pytest.mark.parametrize(
    "body",
    [
        "--model x",
        "--api-base=http://evil",
        "--set a=b",
        "--out /",
        "-n 0",
        "-n 65",
        "-n x",
        "--budget",
        "--budget lots",
        "-n",
        "x",
        "'",
        "--again=1",
        "--comment",
    ],
)
def test_options_that_a_comment_may_not_give_are_refused(workflow: Workflow, body: str) -> None:
    payload = event("comment")
    payload["comment"]["body"] = f"/runoff {body}"
    assert workflow.run(payload) == 2
    assert not workflow.ran
    payload["sender"]["login"] = payload["comment"]["user"]["login"] = "stranger"
    assert workflow.run(payload) == 0, "a stranger turns no workflow red"


@given(st.text(max_size=80))
def test_whatever_a_comment_says_there_are_known_options_or_none(text: str) -> None:
    try:
        found = options(f"/runoff {text}")
    except BadRequest:
        return
    assert isinstance(found, Options)
    assert found.trajectories is None or 1 <= found.trajectories <= 64
    assert not found.budget or parse_budget(found.budget)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "action",
                        "issue",
                        "comment",
                        "sender",
                        "label",
                        "login",
                        "type",
                        "number",
                        "state",
                        "body",
                        "user",
                        "name",
                    ]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["issues", "issue_comment"]),
)
def test_whatever_an_event_is_it_asks_or_it_does_not(payload: Any, name: str) -> None:
    try:
        found = requested(name, payload if isinstance(payload, dict) else {}, "runoff")
    except (Ignored, BadRequest):
        return
    assert found.issue > 0


@given(
    st.sampled_from(["1", "2.5", "300ktok", "2h", "5,100calls", None]),
    st.sampled_from(["2", "1Mtok,30min", "100calls"]),
)
def test_a_capped_budget_is_never_more_than_the_workflow_s(asked: str | None, most: str) -> None:
    found, ours = parse_budget(capped(asked, most)), parse_budget(most)
    for name in ("money", "tokens", "calls", "seconds"):
        limit, got = getattr(ours, name), getattr(found, name)
        assert limit is None or (got is not None and got <= limit)


def test_one_run_an_issue_a_second_request_joins_the_first(
    workflow: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    second: list[int] = []

    def asked_again() -> None:
        workflow.meanwhile = lambda: None
        assert len(workflow.host.comments) == 1, "it is said on the issue that a run is at work"
        second.append(workflow.run(event("labeled"), GITHUB_RUN_ID="1001"))

    workflow.meanwhile = asked_again
    assert workflow.run(event("comment")) == 0
    assert (second, len(workflow.ran)) == ([0], 1)
    assert "nothing to do: a run is at work on it already: http" in capsys.readouterr().out
    assert not workflow.host.comments, "and it is taken back"


def test_two_requests_in_the_same_moment_are_one_run(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look before either has said that it is at work."""
    import runoff.action as action

    both, asked = threading.Barrier(2), action._request

    def together(environment: Mapping[str, str]) -> Any:
        found = asked(environment)
        both.wait(20)
        return found

    monkeypatch.setattr(action, "_request", together)
    done = threading.Event()
    workflow.meanwhile = lambda: done.wait(3) and None
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: codes.append(workflow.run(event("comment"), GITHUB_RUN_ID=n)))
        for n in ("1", "2")
    ]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    threading.Timer(2.0, done.set).start()
    for thread in threads:
        thread.join(30)
    assert codes == [0, 0]
    assert len(workflow.ran) == 1
    assert not workflow.host.comments


def test_a_run_that_was_killed_keeps_nobody_out(workflow: Workflow) -> None:
    def mark(run: str, hours: float) -> dict[str, Any]:
        at = datetime.now(UTC) - timedelta(hours=hours)
        user = {"login": "writer", "type": "User"}
        body = f"<!-- runoff: working on {run} -->"
        return {
            "id": int(run),
            "body": body,
            "user": user,
            "created_at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "html_url": f"{workflow.host.base}/x",
        }

    workflow.host.comments = [mark("7", 1.0)]
    workflow.run(event("comment"))
    assert not workflow.ran, "it may still be at work"
    workflow.host.comments = [mark("7", 7.0), mark("1000", 0.5)]
    workflow.run(event("comment"))
    assert len(workflow.ran) == 1, "no job takes seven hours, and the other is this run, begun again"
    assert not workflow.host.comments
    workflow.host.comments = [mark("7", 1.0)]
    again = event("comment")
    again["comment"]["body"] = "/runoff --again"
    workflow.run(again)
    assert len(workflow.ran) == 2


def test_a_strangers_mark_keeps_nobody_out(workflow: Workflow) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    theirs = {
        "id": 1,
        "body": "<!-- runoff: working on 7 -->",
        "user": {"login": "eve", "type": "User"},
        "created_at": now,
        "html_url": "",
    }
    workflow.host.comments = [deepcopy(theirs)]
    workflow.run(event("comment"))
    assert len(workflow.ran) == 1
    assert workflow.host.comments == [theirs]


def test_where_there_is_a_pull_request_it_is_named_and_nothing_begun(
    workflow: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    link = f"{workflow.host.base}/o/r/pull/9"
    workflow.host.pulls = [
        {
            "slug": "o/r",
            "number": 9,
            "state": "open",
            "html_url": link,
            "head": {"ref": "runoff/issue-12", "user": {"login": "o"}},
        }
    ]
    workflow.run(event("comment"))
    assert f"there is a pull request already: {link}" in capsys.readouterr().out
    assert not workflow.ran
    again = event("comment")
    again["comment"]["body"] = "/runoff --again"
    workflow.run(again)
    assert len(workflow.ran) == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MODEL", "", "the input model"),
        ("BUDGET", "", "the input budget"),
        ("BUDGET", "much", "the workflow's budget"),
        ("N", "many", "the input n"),
        ("COMMENT", "yes", "the input comment"),
        ("THRESHOLD", "0.6", "takes calibration"),
    ],
)
def test_an_input_that_is_wrong_is_named(
    workflow: Workflow, name: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workflow.run(event("comment"), "check", **{f"RUNOFF_INPUT_{name}": value}) == 2
    assert says in capsys.readouterr().err
    assert "go=true" not in workflow.output()


def test_no_script_of_the_action_holds_an_expression() -> None:
    """What GitHub puts into a script before a shell reads it, a stranger may have written."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    steps = action["runs"]["steps"]
    assert all("${{" not in step["run"] for step in steps)
    assert "github.event" not in (ROOT / "action.yml").read_text()
    given = [value for step in steps for value in step.get("env", {}).values() if "${{" in value]
    assert all(re.fullmatch(r"\$\{\{ inputs\.[a-z-]+ \}\}", value) for value in given)
    with_keys = [step["id"] for step in steps if "inputs.keys" in str(step)]
    assert with_keys == ["solve"]
    assert [step["id"] for step in steps if "inputs.token" in str(step)] == ["request", "solve"]
    assert steps[2]["if"] == "steps.request.outputs.go == 'true'"
    for step in steps:
        checked = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_the_inputs_of_the_action_are_those_that_are_read() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    source = (ROOT / "runoff" / "action.py").read_text()
    for step in action["runs"]["steps"]:
        for name in step.get("env", {}):
            if name.startswith("RUNOFF_INPUT_"):
                assert f'"{name.removeprefix("RUNOFF_INPUT_")}"' in source or name in source
    wired = re.findall(r"inputs\.([a-z-]+)", json.dumps(action["runs"]))
    assert set(wired) == set(action["inputs"])


def _started(workflow: Workflow, payload: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    assert workflow.run(payload) == 0
    words, environment = workflow.ran.pop()
    for name in ("GITHUB_EVENT_PATH", "GITHUB_EVENT_NAME"):
        environment.pop(name)
    return words, environment


def _after(words: Sequence[str], *names: str) -> tuple[str, ...]:
    return tuple(words[words.index(name) + 1] for name in names)


def _changed(payload: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(payload.get(name), dict):
            _changed(payload[name], value)
        else:
            payload[name] = value
    return payload


def test_the_workflow_of_the_guide_has_no_more_rights_than_it_needs() -> None:
    guide = (ROOT / "docs" / "how-to" / "action.md").read_text()
    text = guide.partition("```yaml\n")[2].partition("```")[0]
    workflow = yaml.safe_load(text)
    job = workflow["jobs"]["solve"]
    assert workflow["permissions"] == {}
    assert job["permissions"] == {"contents": "write", "issues": "write", "pull-requests": "write"}
    assert set(workflow[True]) == {"issues", "issue_comment"}, (
        "`on` is a truth to YAML; no event of a fork's pull request"
    )
    assert job["concurrency"] == {"group": "runoff-issue-${{ github.event.issue.number }}", "cancel-in-progress": False}
    assert not any("run" in step for step in job["steps"])
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert set(job["steps"][0]["with"]) <= set(action["inputs"])
    assert {name for name, about in action["inputs"].items() if about.get("required")} <= set(job["steps"][0]["with"])
    assert re.findall(r"^\| `([a-z-]+)`", guide, re.MULTILINE)[0] == "model"
