"""Trajectories that differ on purpose: kinds, temperatures and models are dealt in turn, by number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runoff.agent.faulty import Faulty
from runoff.agent.protocol import ModelMisconfigured
from runoff.models import roles
from runoff.recipe import BadRecipe, Recipe, dealt, load_recipe
from tests.runoff.project import ISSUE, answer, make, runoff


def test_kinds_and_temperatures_take_turns() -> None:
    recipe = load_recipe("mixed", ["temperatures=[0.2, 0.9]"])
    assert [recipe.strategy(n) for n in (1, 2, 3, 4)] == ["pair", "shell", "pair", "tools"]
    heated = [recipe.heated(n) for n in (1, 2, 3)]
    for kind in ("testing", "editing", "shell", "tools"):
        assert [getattr(each, kind).temperature for each in heated] == [0.2, 0.9, 0.2]
    assert [load_recipe("hybrid", ["cuts=[1, 0.5]"]).cut(n) for n in (1, 2, 3)] == [1, 0.5, 1]
    with pytest.raises(BadRecipe, match="cuts"):
        load_recipe("hybrid", ["cuts=[0]"])
    assert Recipe().heated(2) == Recipe(), "without temperatures each kind has its own"


def test_trajectories_are_shown_more_or_less_of_the_context_in_turn(tmp_path: Path, states: Path) -> None:
    """What the verifier and the run-off are shown is the whole."""
    files = {f"part{n}.py": f"def mean_part_{n}(values):\n    return sum(values) / len(values)\n" for n in range(8)}
    with Faulty(answer=answer) as server:
        options = (
            "--api-base",
            server.api_base,
            "-n",
            "2",
            "--set",
            "cuts=[1, 0.3]",
            "--set",
            "context.relevance=false",
        )
        done = runoff(
            *("solve", make(tmp_path / "project", files), "--issue", ISSUE, "--model", "openai/any", *options),
            *("--out", tmp_path / "out", "--states", states),
            env={"OPENAI_API_KEY": "none"},
        )
    assert done.returncode == 0, done.stderr
    shown: dict[str, list[int]] = {}
    for line in (tmp_path / "out" / "log" / "project.jsonl").read_text().splitlines():
        record = json.loads(line)
        for _, before, role, text, *_ in record.get("new", ()) if record["kind"] == "intent" else ():
            if role == "system" and not before:
                shown.setdefault(record["t"], []).append(text.count("<document "))
    counts = {name: count for name, (count,) in shown.items()}
    assert len(set(counts.values())) == 2, counts
    assert counts["testing-2"] < counts["testing-1"]


def test_models_of_a_role_take_turns() -> None:
    assert set(roles(["openai/any?effort=high"]).values()) == {"openai/any?effort=high"}
    assert roles(["openai/any", "editor=openai/a?effort=low"])["editor"] == "openai/a?effort=low"
    given = roles(["openai/any", "editor=openai/a", "editor=recorded:a folder", "verifier=openai/v"])
    models = given["editor"].splitlines()
    assert [dealt(models, n) for n in (1, 2, 3)] == ["openai/a", "recorded:a folder", "openai/a"]
    assert given["tester"] == "openai/any"


def test_a_role_that_is_played_once_takes_one_model() -> None:
    with pytest.raises(ModelMisconfigured, match="verifier has a model already"):
        roles(["openai/any", "verifier=openai/a", "verifier=openai/b"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("a.b=1", "--set a.b=1: no such setting; there are name, trajectories,"),
        (
            "selection.regression.y=1",
            "--set selection.regression.y=1: no such setting; there are selection.regression.files,",
        ),
        ("selection.verifier.zz=1", "no such setting; there are selection.verifier.verdicts,"),
        ("selection.regression.files=a", "--set selection.regression.files=a: input should be a valid integer"),
        ("trajectories=0", "--set trajectories=0: input should be greater than or equal to 1"),
        ("selection=1", "--set selection=1: "),
        ('strategies=["x"]', "--set strategies=[\"x\"]: input should be 'pair', 'shell' or 'tools'"),
        ("name.x=1", "name is one setting"),
        ("x", "write it as part.name=value"),
    ],
)
def test_a_setting_that_does_not_exist_or_fit_is_named_with_those_that_there_are(setting: str, says: str) -> None:
    with pytest.raises(BadRecipe) as said:
        load_recipe("hybrid", [setting])
    assert says in str(said.value)
    assert "\n" not in str(said.value)
