"""Trajectories that differ on purpose: kinds, temperatures and models are dealt in turn, by number."""

from __future__ import annotations

import pytest

from runoff.agent.protocol import ModelMisconfigured
from runoff.models import roles
from runoff.recipe import Recipe, dealt, load_recipe


def test_kinds_and_temperatures_take_turns() -> None:
    recipe = load_recipe("mixed", ["temperatures=[0.2, 0.9]"])
    assert [recipe.strategy(n) for n in (1, 2, 3, 4)] == ["pair", "shell", "pair", "tools"]
    heated = [recipe.heated(n) for n in (1, 2, 3)]
    for kind in ("testing", "editing", "shell", "tools"):
        assert [getattr(each, kind).temperature for each in heated] == [0.2, 0.9, 0.2]
    assert Recipe().heated(2) == Recipe(), "without temperatures each kind has its own"


def test_models_of_a_role_take_turns() -> None:
    given = roles(["openai/any", "editor=openai/a", "editor=recorded:a folder", "verifier=openai/v"])
    models = given["editor"].splitlines()
    assert [dealt(models, n) for n in (1, 2, 3)] == ["openai/a", "recorded:a folder", "openai/a"]
    assert given["tester"] == "openai/any"


def test_a_role_that_is_played_once_takes_one_model() -> None:
    with pytest.raises(ModelMisconfigured, match="verifier has a model already"):
        roles(["openai/any", "verifier=openai/a", "verifier=openai/b"])
