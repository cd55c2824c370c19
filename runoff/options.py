"""Options of the command line that several commands have, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click


class Bytes(click.ParamType):  # type: ignore[type-arg]
    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(value), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r} is no size: 50GiB, 800MiB, 1.5TiB", param, ctx)
        return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


class Age(click.ParamType):  # type: ignore[type-arg]
    name = "AGE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value))):
            self.fail(f"{value!r} is no age: 7d, 12h, 30m", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]]


_Command = TypeVar("_Command", bound=Callable[..., Any])


def together(*several: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """One decorator of several, which are listed in the order given."""

    def give(command: _Command) -> _Command:
        for option in reversed(several):
            command = option(command)
        return command

    return give


STATES = click.option(
    "--states",
    type=click.Path(path_type=Path),
    help="Where sandbox states are kept.  [default: ~/.cache/runoff/states]",
)
INDEX = click.option(
    "--index",
    type=click.Path(path_type=Path),
    help="Where what is known of repositories is kept.  [default: $RUNOFF_INDEX, else ~/.cache/runoff/index.sqlite]",
)
API_BASE = click.option("--api-base", metavar="URL", help="An OpenAI-compatible server of your own.")
PRICE = click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="IN,OUT",
    help="Dollars per million tokens, where litellm knows no price; NAME=IN,OUT for one model.",
)
BUDGET = click.option(
    "--budget", metavar="SUM", help="Stop asking at this sum: 2.50 (dollars), 300ktok, 100calls, 2h; or several: 5,2h."
)
SANDBOX = click.option(
    "--sandbox",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="What executes code: bubblewrap, docker, or a backend of others; auto is bubblewrap if it runs here.",
)

ASKING = together(
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="[ROLE=]NAME",
        help="Model, as litellm names it; once for all, or one a role (relevance, ranker, tester, editor, verifier, "
        "selector). NAME@URL asks a server of your own; NAME?effort=high says how much to think.",
    ),
    API_BASE,
    PRICE,
    click.option("-n", "trajectories", type=click.IntRange(min=1), help="Trajectories an issue; the recipe says 10."),
    BUDGET,
    click.option(
        "--rate",
        "rates",
        multiple=True,
        metavar="[PROVIDER=]RATE",
        help="Ask no faster: 500rpm (requests a minute), 2Mtpm (tokens), 16atonce, or several with commas.",
    ),
    click.option(
        "--stall",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Let answers stream, and ask again for one that has begun and does not go on for so long.",
    ),
    click.option(
        "--tools",
        type=click.Choice(["auto", "native", "text"]),
        default="auto",
        show_default=True,
        help="Whether the models take tools, or are told of them in the prompt.",
    ),
    click.option(
        "--samples",
        type=click.Choice(["auto", "several", "one"]),
        default="auto",
        show_default=True,
        help="Whether trajectories that ask the same are answered by one request for several samples; auto: where "
        "it is known that the model gives them.",
    ),
    click.option("--recipe", default="hybrid", show_default=True, help="A recipe's name, or a TOML file."),
    click.option(
        "--set", "settings", multiple=True, metavar="PART.NAME=VALUE", help="Change one setting of the recipe."
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="The run's directory; the same command goes on with what is there.",
    ),
    STATES,
    click.option(
        "--states-limit",
        type=Bytes(),
        help="Beyond this, the states used least recently go.  [default: 50GiB, or half of what is free]",
    ),
    INDEX,
    SANDBOX,
    click.option(
        "--record",
        type=click.Path(path_type=Path),
        help="Keep every answer in this folder, to be played again with --model recorded:FOLDER.",
    ),
    click.option(
        "--restart-drifted",
        is_flag=True,
        help="Begin trajectories again whose prompts or settings have changed since.",
    ),
)
"""What every command that asks models has in common."""
CONFIDENT = together(
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="NAME|FILE",
        help="What makes probabilities of what is seen of a choice: without-model, or a file that runoff replay --calibrate wrote.",
    ),
    click.option(
        "--abstain-below",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="P",
        help="Submit nothing that is right with a lower probability; takes --calibration.",
    ),
    click.option(
        "--precision",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="P",
        help="Submit only what lets this share of submissions be right, as far as the calibration bears it out.",
    ),
)
"""How sure a submission must be."""
COMMANDS = together(
    click.option(
        "--setup",
        help="Shell command that installs the repository; it may use the network.  [default: a guess]",
    ),
    click.option(
        "--build",
        help="Shell command that builds it again after a change, without network.  [default: --setup]",
    ),
    click.option("--test", help="Shell command that runs its tests.  [default: python -m pytest, or npm test]"),
    click.option(
        "--python",
        metavar="VERSION",
        help="The Python it needs: 3.6 to 3.13, or a path.  [default: runoff's own]",
    ),
    click.option(
        "--index-host",
        "index_hosts",
        multiple=True,
        metavar="HOST",
        help="A package index that the setup may reach, beside those that pip, uv and npm are configured with.",
    ),
)
"""How a repository is installed and its tests are run."""
PUBLISHED = together(
    click.option(
        "--branch",
        metavar="[NAME]",
        is_flag=False,
        flag_value="",
        help="Make a branch with one commit; work tree and index stay as they are.  [default name: runoff/issue-N]",
    ),
    click.option("--push", is_flag=True, help="Push that branch, and do no more."),
    click.option("--pr", is_flag=True, help="Push it, and open a draft pull request that says what is proven."),
    click.option("--comment", is_flag=True, help="Say on the issue what came of it."),
    click.option(
        "--with-test",
        is_flag=True,
        help="Add the reproduction as a test of the project's own, if it tells there.",
    ),
    click.option(
        "--remote",
        metavar="NAME|URL",
        help="Where to push to, such as your fork.  [default: the issue's repository, else origin]",
    ),
    click.option(
        "--into",
        metavar="BRANCH",
        help="What the pull request is to be merged into.  [default: the default branch]",
    ),
)
"""What becomes of a patch. Nothing is published unless it is asked for."""
ON_SERVER = together(
    click.option(
        "--comments",
        type=click.Choice(["auto", "all", "none"]),
        help="Which comments of an issue on GitHub are read.  [default: auto, all but those of programs and those "
        "that give the answer away]",
    ),
    click.option(
        "--unless-claimed",
        is_flag=True,
        help="Stop, before anything is paid, if an open pull request says that it closes the issue.",
    ),
)
"""How an issue on GitHub is read."""
EXECUTOR = together(
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where instances are solved: on this machine, or on the nodes of a Ray cluster (extra `ray`).",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="The Ray cluster.  [default: $RAY_ADDRESS, else the one that this machine belongs to]",
    ),
    click.option(
        "--shared",
        is_flag=True,
        help="Sources and --index lie at the same paths on every node; else repositories are sent to each.",
    ),
)
"""Where instances are solved."""
SOURCES = together(
    click.option(
        "--repositories",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="DIR",
        help="A folder of clones and bundles: OWNER__NAME, OWNER/NAME or NAME, bare or not.",
    ),
    click.option("--remote", metavar="URL", help="What to clone where that has none: a URL with {repo} in it."),
    click.option(
        "--images",
        type=click.Choice(["auto", "never", "always"]),
        default="auto",
        show_default=True,
        help="Run in the images that the dataset names; never: in environments of our making.",
    ),
    click.option("--registry", metavar="HOST[/PATH]", help="A mirror that has the images."),
)
"""What the problems of a dataset run in."""
