"""The whole pipeline with a real model that cannot do it: llama.cpp serving SmolLM2-135M, through litellm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runoff.agent.faulty import Faulty
from tests.llama import Llama
from tests.runoff.project import EDIT, ISSUE, WORSE, answer, make, runoff

KEY = {"OPENAI_API_KEY": "none"}
SMALL = (  # it reads some hundred words a second, and writes fewer
    "--set",
    "context.relevance=false",
    "--set",
    "testing.max_tokens=60",
    "--set",
    "editing.max_tokens=60",
    "--set",
    "testing.turns=1",
    "--set",
    "editing.turns=2",
)


@pytest.mark.needs_llama
def test_garbage_is_answered_with_feedback_and_the_end_is_no_candidate(
    tmp_path: Path, states: Path, llama_server: Llama
) -> None:
    options = ("--model", llama_server.model, "--api-base", llama_server.api_base, "-n", "1", *SMALL)
    out = tmp_path / "out"
    done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, *options, "--out", out, "--states", states, env=KEY)
    assert done.returncode == 1, done.stderr
    assert "no candidate could be used" in done.stdout
    records = [json.loads(line) for line in (out / "log" / "p.jsonl").read_text().splitlines()]
    asked = [record for record in records if record["kind"] == "ask"]
    assert len(asked) >= 3
    assert all(
        record["result"]["usage"]["input"] > 0 and record["result"]["usage"]["output"] > 0 for record in asked
    ), "usage is counted"
    assert all(record["result"]["cost"] is None for record in asked), "a price that nobody knows is not 0"
    feedback = [
        text
        for record in records
        for *_, text in (m for m in record.get("new", ()) if len(m) == 4)
        if "I could not use that answer" in text
    ]
    assert feedback
    assert "at an unknown price" in done.stderr


KINDS: dict[str, tuple[tuple[str, ...], int]] = {
    "as a whole": ((), 1),
    "by criteria, twice, told of tests": (("criteria=['half(3) is 1', 'half(4) is 2']", "verdicts=2", "tests=true"), 4),
}
"""Settings, and how many verdicts each candidate gets by them."""


@pytest.mark.needs_llama
@pytest.mark.parametrize(
    "kind", [kind if kind == next(iter(KINDS)) else pytest.param(kind, marks=pytest.mark.full) for kind in KINDS]
)
def test_its_log_probs_reach_the_verifier(tmp_path: Path, states: Path, llama_server: Llama, kind: str) -> None:
    """Candidates by a scripted model, verdicts by the tiny one: P(YES) comes from the log-probs of its first word."""
    edits = iter([EDIT, WORSE] * 10)

    def differing(messages: list[dict[str, str]]) -> str:
        said = answer(messages)
        return next(edits) if said == EDIT else said

    settings, verdicts = KINDS[kind]
    out = tmp_path / "out"
    with Faulty(answer=differing) as server:
        models = (
            "--model",
            f"openai/any@{server.api_base}",
            "--model",
            f"verifier={llama_server.model}@{llama_server.api_base}",
        )
        chosen = [part for one in ("mode=direct", *settings) for part in ("--set", f"selection.verifier.{one}")]
        options = ("-n", "2", *chosen, "--out", out, "--states", states)
        done = runoff("solve", make(tmp_path / "p"), "--issue", ISSUE, *models, *options, env=KEY)
    assert done.returncode == 0, done.stderr
    scores = json.loads((out / "selection.json").read_text())["selection"]["scores"]
    assert len(scores) == 2
    assert all(0 < score["p"] < 1 and score["how"] == "log-probs" for score in scores.values()), scores
    assert all(len(score["verdicts"]) == verdicts for score in scores.values())
