"""`runoff solve` from the command line to the patch, with a real sandbox and a model behind a real socket."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runoff.agent.faulty import Faulty
from tests.runoff.project import EDIT, ISSUE, SOURCE, WORSE, answer, make, runoff

LIVE = {"OPENAI_API_KEY": "sk-secret-of-the-test"}


def solve(
    server: Faulty, target: Path, out: Path, states: Path, *more: str, **how: object
) -> subprocess.CompletedProcess[str]:
    options = ("--model", "openai/any", "--api-base", server.api_base, "--out", out, "--states", states)
    return runoff("solve", target, "--issue", ISSUE, *options, *more, env=LIVE, **how)  # type: ignore[arg-type]


def differing(edits: Iterator[str]) -> Callable[[list[dict[str, str]]], str]:
    """A model whose edits are these, one after the other."""

    def said(messages: list[dict[str, str]]) -> str:
        usual = answer(messages)
        return next(edits) if usual == EDIT else usual

    return said


def test_a_patch_comes_out_that_applies_and_repairs(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "project"), tmp_path / "out"
    with Faulty(answer=answer) as server:
        done = solve(server, target, out, states, "-n", "2")
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        again = solve(server, target, out, states, "-n", "2")
        assert again.returncode == 0, again.stderr
        assert len(server.requests) == asked, "nothing recorded is paid twice"
        ledger = [json.loads(line) for line in (out / "log" / "project.jsonl").read_text().splitlines()]
        usage = [record["result"]["usage"] for record in ledger if record["kind"] == "ask"]
        assert sum(u["input"] + u["output"] for u in usage) == sum(u.input + u.output for u in server.billed)
    patch = (out / "patch.diff").read_bytes()
    assert patch.endswith(b"\n")
    subprocess.run(["git", "apply", out / "patch.diff"], cwd=target, check=True)
    assert "if values else 0" in (target / "numbers_.py").read_text()
    prediction = json.loads((out / "preds.jsonl").read_text())
    assert prediction["instance_id"] == "project"
    assert prediction["model_patch"].encode() == patch
    selection = json.loads((out / "selection.json").read_text())["selection"]
    assert selection["reason"].startswith("undisputed")
    assert "numbers_.py" in (out / "report.html").read_text()
    for file in out.rglob("*"):
        assert not file.is_file() or b"sk-secret" not in file.read_bytes(), f"the key is in {file}"


def test_a_git_repository_is_solved_at_its_commit_and_left_as_it_is(tmp_path: Path, states: Path) -> None:
    target = make(tmp_path / "project")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", str(target)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "base"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    base = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (target / "numbers_.py").write_text("def mean(values):\n    return 'the future'\n")
    subprocess.run([*git, "commit", "-qam", "the future"], check=True)
    (target / "numbers_.py").write_text("uncommitted")
    (target / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\ntouch /tmp/ran-on-host\n")
    with Faulty(answer=answer) as server:
        done = solve(server, target, tmp_path / "out", states, "-n", "1", "--ref", base)
    assert done.returncode == 0, done.stderr
    assert "uncommitted changes are left out" in done.stderr
    assert (target / "numbers_.py").read_text() == "uncommitted"
    assert b"-    return sum(values) / len(values)" in (tmp_path / "out" / "patch.diff").read_bytes()
    assert "the future" not in (tmp_path / "out" / "log" / "project.jsonl").read_text()


def test_different_candidates_meet_in_a_run_off_whose_reason_is_kept(tmp_path: Path, states: Path) -> None:
    edits = itertools.cycle([EDIT, WORSE])

    with Faulty(answer=differing(edits)) as server:
        done = solve(server, make(tmp_path / "project"), tmp_path / "out", states, "-n", "2")
    assert done.returncode == 0, done.stderr
    selection = json.loads((tmp_path / "out" / "selection.json").read_text())["selection"]
    assert selection["reason"] == "chosen: Both are right; A is simpler."
    assert selection["chosen"] == selection["letters"]["A"]


def test_all_kinds_of_trajectories_are_one_pool(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "project"), tmp_path / "out"
    kinds = ("--recipe", "mixed", "-n", "4", "--set", 'strategies=["pair","shell","tools"]')
    with Faulty(answer=answer) as server:
        done = solve(server, target, out, states, *kinds)
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        assert solve(server, target, out, states, *kinds).returncode == 0
        assert len(server.requests) == asked, "nothing recorded is paid twice"
    view = json.loads((out / "selection.json").read_text())
    assert [sample["strategy"] for sample in view["samples"]] == ["pair", "shell", "tools", "pair"]
    assert [sample["edit"]["value"]["id"] for sample in view["samples"]] == [
        "editing-1",
        "shell-2",
        "tools-3",
        "editing-4",
    ]
    entry = view["selection"]["entries"][0]
    assert set(entry["proposers"]) == {"editing-1", "shell-2", "tools-3", "editing-4"}, (
        "one change, however it was made"
    )
    table = view["selection"]["table"]
    assert any("shell-2" in same for same in table["same"].values()) or "shell-2" in table["generated"]
    page = (out / "report.html").read_text()
    assert "an agent with a shell: done, a candidate" in page
    assert "an agent with tools: done, a candidate" in page


def test_garbage_answers_end_in_no_candidate_and_exit_code_1(tmp_path: Path, states: Path) -> None:
    with Faulty(answer=lambda messages: "I am a tiny model.") as server:
        done = solve(server, make(tmp_path / "project"), tmp_path / "out", states, "-n", "1")
        told = [message["content"] for request in server.requests for message in request["messages"]]
    assert done.returncode == 1, done.stderr
    assert "no candidate" in done.stdout
    assert not (tmp_path / "out" / "patch.diff").exists()
    assert any("There is no block in the answer" in text for text in told), "the model is told what was wrong"


def test_a_spent_budget_ends_the_run_cleanly_and_a_larger_one_goes_on(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "project"), tmp_path / "out"
    with Faulty(answer=answer) as server:
        done = solve(server, target, out, states, "-n", "1", "--budget", "1500tok")
        assert done.returncode == 4, done.stderr
        asked = len(server.requests)
        done = solve(server, target, out, states, "-n", "1", "--budget", "1Mtok")
        assert done.returncode == 0, done.stderr
        seen = [json.dumps(request["messages"]) for request in server.requests]
    assert len(set(seen)) == len(seen), "no request was made twice"
    assert len(seen) > asked


def test_a_run_that_hits_its_budget_still_submits(tmp_path: Path, states: Path) -> None:
    """What generation may not spend pays for the selection of what was made so far."""
    edits = itertools.cycle([EDIT, WORSE])

    with Faulty(answer=differing(edits)) as server:
        capped = ("-n", "6", "--budget", "30calls,1h", "--set", "budgets.reserve=0.3")
        done = solve(server, make(tmp_path / "project"), tmp_path / "out", states, *capped, "--rate", "1atonce")
        asked = len(server.requests)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "selection.json").read_text())
    ends = [sample[part]["reason"] for sample in result["samples"] for part in ("test", "edit")]
    assert "budget" in ends
    assert result["selection"]["scores"], "the verifier was paid for"
    assert asked <= 30


def test_ctrl_c_finishes_what_is_paid_for_and_the_same_command_goes_on(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "project"), tmp_path / "out"
    with Faulty(answer=answer, latency=1.0) as server:
        options = [
            "--model",
            "openai/any",
            "--api-base",
            server.api_base,
            "--out",
            str(out),
            "--states",
            str(states),
            "-n",
            "1",
        ]
        command = [
            sys.executable,
            "-c",
            "from runoff.cli import main; main()",
            "solve",
            str(target),
            "--issue",
            ISSUE,
            *options,
        ]
        process = subprocess.Popen(
            command, env=os.environ | LIVE, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while len(server.requests) < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert "finishing what is paid for" in stderr
        assert "Traceback" not in stderr
        begun = len(server.requests)
        server.latency = 0
        done = solve(server, target, out, states, "-n", "1")
        assert done.returncode == 0, done.stderr
        seen = [json.dumps(request["messages"]) for request in server.requests]
    assert len(set(seen)) == len(seen), f"what was answered before Ctrl-C ({begun} requests) was asked again"


def test_ctrl_c_twice_stops_now_and_the_same_command_still_goes_on(tmp_path: Path, states: Path) -> None:
    target, out = make(tmp_path / "project"), tmp_path / "out"
    with Faulty(answer=answer) as server:
        options = ["--model", "openai/any", "--api-base", server.api_base, "--out", out, "--states", states, "-n", "1"]
        command = [sys.executable, "-c", "from runoff.cli import main; main()", "solve", target, "--issue", ISSUE]
        process = subprocess.Popen(
            [*map(str, command), *map(str, options)], env=os.environ | LIVE, stderr=subprocess.PIPE, text=True
        )
        while len(server.requests) < 2:
            time.sleep(0.02)
        server.latency = 60
        known = len(server.requests)
        while len(server.requests) == known:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, stderr = process.communicate(timeout=50)
        assert process.returncode == 130, stderr
        assert time.monotonic() - began < 30, "it waited for the call"
        assert "Traceback" not in stderr
        server.latency = 0
        done = solve(server, target, out, states, "-n", "1")
    assert done.returncode == 0, done.stderr
    assert "possibly billed" in done.stdout


def test_a_finished_run_outlives_the_states_it_was_made_in(tmp_path: Path) -> None:
    """A cleared cache costs executions, never model calls."""
    target, out, states = make(tmp_path / "project"), tmp_path / "out", tmp_path / "states"
    edits = itertools.cycle([EDIT, WORSE])

    with Faulty(answer=differing(edits)) as server:
        assert solve(server, target, out, states, "-n", "2").returncode == 0
        asked, selection = len(server.requests), (out / "selection.json").read_bytes()
        shutil.rmtree(states)
        done = solve(server, target, out, states, "-n", "2")
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == asked
    assert (out / "selection.json").read_bytes() == selection


def test_nine_of_ten_finish_when_one_is_poisoned(tmp_path: Path, states: Path) -> None:
    rows = [
        {"id": f"good-{n}", "target": str(make(tmp_path / f"good-{n}", {"n.py": f"n = {n}\n"})), "issue": ISSUE}
        for n in range(7)
    ]
    rows.append(
        {"id": "broken-setup", "target": rows[0]["target"], "issue": ISSUE, "setup": "echo no such package >&2; exit 7"}
    )
    rows.append({"id": "no-relevant-file", "target": rows[1]["target"], "issue": ISSUE + "\n(no file)"})
    rows.append({"id": "unparsable-ranking", "target": rows[2]["target"], "issue": ISSUE + "\n(no ranking)"})
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def poisoned(messages: list[dict[str, str]]) -> str:
        text = messages[0]["content"]
        said = answer(messages)
        if "(no file)" in text and said.startswith("```json\n{"):
            return "```json\n{}\n```"
        return "no list at all" if "(no ranking)" in text and said.startswith("```json\n[") else said

    options = ("--model", "openai/any", "--out", tmp_path / "out", "--states", states, "-n", "1")
    with Faulty(answer=poisoned) as server:
        done = runoff("solve", problems, "--api-base", server.api_base, *options, env=LIVE)
    assert done.returncode == 5, done.stderr
    assert "broken-setup: failed: the setup failed: `exit 7`, exit code 7: no such package" in done.stdout
    predictions = [json.loads(line) for line in (tmp_path / "out" / "preds.jsonl").read_text().splitlines()]
    assert len(predictions) == 9, "the one that failed is not an empty patch"
    assert all(prediction["model_patch"] for prediction in predictions)
    for name, note in (
        ("no-relevant-file", "no file was called relevant"),
        ("unparsable-ranking", "the ranking was not readable"),
    ):
        view = json.loads((tmp_path / "out" / "views" / name / "selection.json").read_text())
        assert note in view["context"]["note"]


def test_the_patch_of_a_project_with_crlf_and_no_final_newline_applies(tmp_path: Path, states: Path) -> None:
    target = make(tmp_path / "project")
    (target / "numbers_.py").write_bytes(SOURCE.replace("\n", "\r\n").encode().removesuffix(b"\r\n"))
    with Faulty(answer=answer) as server:
        done = solve(server, target, tmp_path / "out", states, "-n", "1")
    assert done.returncode == 0, done.stderr
    subprocess.run(["git", "apply", tmp_path / "out" / "patch.diff"], cwd=target, check=True)
    repaired = (target / "numbers_.py").read_bytes()
    assert repaired == b"def mean(values):\r\n    return sum(values) / len(values) if values else 0"


def test_a_change_of_compiled_code_is_built_before_it_is_tried(tmp_path: Path, states: Path) -> None:
    """The extension is built by --setup; a candidate's own copy must be built from the candidate's source."""
    c = "long answer(void) {\n    return 41;\n}\n"
    target = make(
        tmp_path / "project",
        {"answer.c": c, "answer.py": "import ctypes\n\nanswer = ctypes.CDLL('./libanswer.so').answer\n"},
    )
    script = "import sys\nfrom answer import answer\n\nprint(answer())\nsys.exit(0 if answer() == 42 else 2)"
    test = f"<test>\n{script}\n</test>"
    edit = '<edit path="answer.c">\n<search>\n    return 41;\n</search>\n<replace>\n    return 42;\n</replace>\n</edit>'

    def say(messages: list[dict[str, str]]) -> str:
        said = answer(messages).replace("numbers_.py", "answer.c")
        return edit if said.startswith("<edit") else test if said.startswith("<test") else said

    options = ("--model", "openai/any", "--out", tmp_path / "out", "--states", states, "-n", "1")
    build = "gcc -shared -fPIC -o libanswer.so answer.c"
    with Faulty(answer=say) as server:
        done = runoff(
            "solve",
            target,
            "--issue",
            "the answer is 42",
            "--setup",
            build,
            "--test",
            "true",
            "--api-base",
            server.api_base,
            *options,
            env=LIVE,
        )
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "out" / "selection.json").read_text())["selection"]["table"]
    assert table["rows"] == {"editing-1": {"testing-1": "pass"}}
    assert (tmp_path / "out" / "patch.diff").read_text().count("diff --git") == 1, (
        "the built file is no part of the patch"
    )


def test_few_trajectories_are_enough_where_their_candidates_behave_alike(tmp_path: Path, states: Path) -> None:
    out = tmp_path / "out"
    with Faulty(answer=answer) as server:
        recipe = ("--recipe", "adaptive", "--set", "scaling.first=2")
        done = solve(server, make(tmp_path / "project"), out, states, *recipe)
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        assert solve(server, tmp_path / "project", out, states, *recipe).returncode == 0
        assert len(server.requests) == asked
    seen = json.loads((out / "selection.json").read_text())
    assert len(seen["samples"]) == 2, "of the twelve that the recipe allows"
    assert [look["stop"] for look in seen["looks"]] == [True]
    assert (
        "2 trajectories made 2 candidates: 1 distinct patch, 1 distinct behaviour." in (out / "report.html").read_text()
    )
    assert "After 2: enough; 100% behave alike" in (out / "report.html").read_text()


def test_more_trajectories_are_begun_while_every_candidate_behaves_otherwise(tmp_path: Path, states: Path) -> None:
    edits = iter([EDIT, EDIT.replace("else 0", "else 1"), EDIT, EDIT])
    out = tmp_path / "out"

    with Faulty(answer=differing(edits)) as server:
        recipe = ("--recipe", "adaptive", "--set", "scaling.first=2", "--set", "trajectories=4")
        done = solve(server, make(tmp_path / "project"), out, states, *recipe)
    assert done.returncode == 0, done.stderr
    seen = json.loads((out / "selection.json").read_text())
    assert [(look["trajectories"], look["stop"]) for look in seen["looks"]] == [(2, False)]
    assert len(seen["samples"]) == 4
