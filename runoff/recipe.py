"""A recipe: the stages' parameters as data, read from TOML, changed by `--set a.b=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator

from runoff.agent.budget import parse_budget
from runoff.agent.context import ContextRecipe
from runoff.agent.editing import EditingRecipe
from runoff.agent.observations import AgentRecipe
from runoff.agent.testing import TestingRecipe
from runoff.sandbox.protocol import Value
from runoff.selection.confidence import Calibration
from runoff.selection.elect import SelectionRecipe
from runoff.selection.scaling import ScalingRecipe

T = TypeVar("T")

Strategy = Literal["pair", "shell", "tools"]
"""A kind of trajectory: a testing and an editing one, seeded with its test; or an agent in a sandbox, with a shell or
with tools to call."""


class BudgetRecipe(Value):
    """What may be spent beside the --budget of a run, in the same words: `0.50`, `300ktok`, `100calls,20min`."""

    trajectory: str | None = None
    """By each trajectory."""
    issue: str | None = None
    """By all that an issue takes."""
    reserve: float = Field(default=0.1, ge=0, lt=1)
    """Share of the issue's and of the run's budget that is kept for the selection: what was made is always submitted."""

    @field_validator("trajectory", "issue")
    @classmethod
    def _readable(cls, text: str | None) -> str | None:
        if text is not None:
            parse_budget(text)
        return text


class Recipe(Value):
    """Which composition of stages runs, and how much of each. Everything that changes a result is in here."""

    name: str = "hybrid"
    trajectories: int = Field(default=10, ge=1)
    """How many of its kinds of trajectories an issue gets (parallel scaling); their `turns` are the serial scaling."""
    scaling: ScalingRecipe | None = None
    """Begin with a few of them and look whether more are worth it; None: all of them, whatever the first come to."""
    strategies: tuple[Strategy, ...] | None = Field(default=None, min_length=1)
    """Which kinds, dealt in turn: of ("pair", "shell"), trajectories 1, 3, 5 are pairs. One named twice gets twice as many.
    None: pairs alone."""
    temperatures: tuple[float, ...] | None = Field(default=None, min_length=1)
    """In turn in place of the kinds' own temperatures, so that trajectories differ on purpose."""
    cuts: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(default=None, min_length=1)
    """In turn, the share of the context that trajectories are shown, best files first: they differ in what they see, too.
    None: all of it. Trajectories of one cut share a cached prefix."""
    context: ContextRecipe = ContextRecipe()
    testing: TestingRecipe = TestingRecipe()
    editing: EditingRecipe = EditingRecipe()
    shell: AgentRecipe | None = None
    tools: AgentRecipe | None = None
    """None, of either: its defaults."""
    selection: SelectionRecipe = SelectionRecipe()
    budgets: BudgetRecipe | None = None
    """None: its defaults. What is not set is not part of a run's identity: runs made before there was this go on."""

    def strategy(self, n: int) -> Strategy:
        """The kind of trajectory number n, from 1 on."""
        return dealt(self.strategies or ("pair",), n)

    def calls(self, n: int) -> int:
        """The calls that trajectory number n makes at most, with the one it follows."""
        turns = {"shell": (self.shell or AgentRecipe()).turns, "tools": (self.tools or AgentRecipe()).turns}
        return turns.get(self.strategy(n), self.testing.turns + self.editing.turns)

    def cut(self, n: int) -> float:
        """The share of the context that trajectory number n is shown."""
        return dealt(self.cuts or (1.0,), n)

    def heated(self, n: int) -> Recipe:
        """With the temperature of trajectory number n in all of its kinds."""
        if not self.temperatures:
            return self
        shell, tools = self.shell or AgentRecipe(), self.tools or AgentRecipe()
        kinds = {"testing": self.testing, "editing": self.editing, "shell": shell, "tools": tools}
        update = {"temperature": dealt(self.temperatures, n)}
        return self.model_copy(update={name: kind.model_copy(update=update) for name, kind in kinds.items()})


def dealt(choices: Sequence[T], n: int) -> T:
    """The choice of trajectory number n, from 1 on, where they take turns."""
    return choices[(n - 1) % len(choices)]


class BadRecipe(Exception):
    pass


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by the name of one that comes with runoff, or by the path of a TOML file. Raises BadRecipe, in one line."""
    shipped = files("runoff").joinpath("recipes", f"{name}.toml")
    path = Path(name)
    if shipped.is_file():
        text = shipped.read_text()
    elif path.is_file():
        text = path.read_text()
    else:
        known = sorted(entry.name.removesuffix(".toml") for entry in files("runoff").joinpath("recipes").iterdir())
        raise BadRecipe(f"no recipe {name!r}: it is neither a file nor one of {', '.join(known)}")
    try:
        data = tomllib.loads(text)
        for setting in settings:
            _set(data, setting)
        given = data.get("selection", {})
        if isinstance(given, dict) and isinstance(file := given.get("calibration"), str):
            data["selection"] = given | {"calibration": read_calibration(Path(file)).model_dump()}
        return Recipe.model_validate(data)
    except tomllib.TOMLDecodeError as error:
        raise BadRecipe(f"{name}: not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        at = ".".join(where)
        said = first["msg"][:1].lower() + first["msg"][1:]
        if first["type"] == "extra_forbidden":
            said = f"no such setting; there are {', '.join(_settings(where[:-1]))}"
        given = next((text for text in settings if _is_of(text.partition("=")[0].strip(), at)), None)
        raise BadRecipe(f"{f'--set {given}' if given else f'recipe {name}: {at}'}: {said}") from None


def _is_of(setting: str, at: str) -> bool:
    return f"{setting}.".startswith(f"{at}.") or f"{at}.".startswith(f"{setting}.")


def _settings(part: Sequence[str]) -> list[str]:
    """The names of what can be set in a part of the recipe, whole."""
    model: type[BaseModel] = Recipe
    for name in part:
        kinds = model.model_fields[name].annotation
        model = next(
            kind for kind in (kinds, *get_args(kinds)) if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return [".".join((*part, name)) for name in model.model_fields]


def read_calibration(file: Path) -> Calibration:
    """What `runoff replay --calibrate` wrote, or one by the name of one that comes with runoff. Raises BadRecipe, in one line."""
    there = files("runoff").joinpath("calibrations")
    shipped = there.joinpath(f"{file}.json")
    try:
        return Calibration.model_validate_json(shipped.read_bytes() if shipped.is_file() else file.read_bytes())
    except OSError as error:
        known = sorted(entry.name.removesuffix(".json") for entry in there.iterdir())
        raise BadRecipe(
            f"{file}: {error.strerror}; give the file that runoff replay --calibrate wrote, or {', '.join(known)}"
        ) from None
    except ValidationError:
        raise BadRecipe(
            f"{file} is no calibration; runoff replay RUN --labels FILE --calibrate {file} makes one"
        ) from None


def _set(data: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    if not equals:
        raise BadRecipe(f"--set {setting}: write it as part.name=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *parents, last = name.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise BadRecipe(f"--set {setting}: {parent} is one setting, with no parts")
    data[last] = value
