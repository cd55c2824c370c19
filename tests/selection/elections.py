"""An election of hostile candidates that no model decides: what the tests of attacks in each language hold it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runoff.agent.doubles import Scripted
from runoff.agent.editing import Candidate
from runoff.agent.environment import Environment
from runoff.agent.protocol import Message
from runoff.agent.testing import GeneratedTest
from runoff.selection.elect import SelectionRecipe, elect
from runoff.selection.protocol import Selection, Standing
from runoff.selection.repository_tests import RegressionRecipe
from runoff.selection.runoff import RunoffRecipe
from runoff.selection.verifier import VerifierRecipe
from tests.workshop import Workshop


def undecided(
    workshop: Workshop, environment: Environment, candidates: Sequence[Candidate], scripts: Mapping[str, str]
) -> Selection:
    """Without a verifier, and with a run-off that comes to no choice."""
    tests = [GeneratedTest(id=name, script=script, output="") for name, script in scripts.items()]
    recipe = SelectionRecipe(
        seconds=4,
        regression=RegressionRecipe(seconds=60),
        verifier=VerifierRecipe(verdicts=0),
        runoff=RunoffRecipe(turns=1),
    )
    tree, shared = workshop.tree(environment), Message("system", "")
    return workshop.play(
        lambda world: elect(
            world, {"verifier": "v", "selector": "s"}, shared, tree, environment, candidates, tests, recipe
        ),
        Scripted(lambda call: "I cannot choose."),
    )


def place(election: Selection, name: str) -> Standing:
    return next(standing for standing in election.standings if standing.entry == name)
