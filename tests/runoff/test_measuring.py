"""`runoff replay` with labels: what each ingredient adds, calibrations, abstaining, figures; over a stored run of known truth."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runoff import ablation, figures
from runoff.agent.editing import Candidate
from runoff.agent.log import Log
from runoff.recipe import Recipe
from runoff.replay import replay_command, verify_command
from runoff.run import BadRun, sealed
from runoff.selection.confidence import Calibration
from runoff.selection.elect import EVIDENCE, SelectionRecipe, concluded, rank
from runoff.selection.evidence import Evidence
from runoff.selection.protocol import Cell, Entry, OutcomeTable, Score
from runoff.selection.rankings import RANKINGS
from tests.runoff.project import runoff

PATCH = "--- a/x.py\n+++ b/x.py\n@@ -1 +1,3 @@\n-x = 0\n+x = {}\n+y = {}\n+z = {}\n"
LABELS = dict[str, dict[str, bool]]


def issue(chance: random.Random, name: str) -> tuple[Evidence, dict[str, bool]]:
    """Five candidates of five agents. Tests and verifier tell right from wrong, now and then wrongly; who proposed is noise."""
    names = [f"agent{n}" for n in range(5)]
    right = {one: chance.random() < 0.45 for one in names}
    patches = [PATCH.format(chance.randrange(2), chance.randrange(2), n).encode() for n in range(5)]
    entries = tuple(
        Entry(id=one, candidate=Candidate(id=one, patch=patch), proposers=(one,), changed_lines=2)
        for one, patch in zip(names, patches, strict=True)
    )
    tests, brought = ("given-a", "given-b", "given-c"), "agent0:test_it"

    def cell(one: str, sure: float) -> Cell:
        return "pass" if (chance.random() < sure) == right[one] else "fail"

    easy = chance.choice([0.3, 0.6, 0.95])  # it is of all evidence on the issue: so confidence can know it
    rows = {one: {test: cell(one, easy) for test in (*tests, brought)} for one in names}
    table = OutcomeTable(
        generated=(*tests, brought),
        base=dict.fromkeys((*tests, brought), "fail"),
        rows=rows,
        control=dict.fromkeys(names, "fail"),
        repository=("r1", "r2"),
        broken={one: () if cell(one, easy) == "pass" or chance.random() < 0.5 else ("r1",) for one in names},
        same={test: (test,) for test in (*tests, brought)},
        authors={brought: ("agent0",)},
    )
    scores = {
        one: Score(p=chance.uniform(0.5, 1) if cell(one, easy) == "pass" else chance.uniform(0, 0.5)) for one in names
    }
    return Evidence(entries=entries, table=table, scores=scores, origins={brought: "agent0"}), right


def stored(folder: Path, *, issues: int = 40, seed: int = 1, recipe: Mapping[str, Any] = {}) -> tuple[Path, Path]:
    """A run directory as an election leaves it, and a file of its labels."""
    chance, labels, rows = random.Random(seed), folder / "labels.jsonl", list[str]()
    run = folder / "run"
    names = [f"owner__repo{n % 4}-{n}" for n in range(issues)]
    for name in names:
        evidence, right = issue(chance, name)
        log = Log(run / "log" / f"{name}.jsonl")
        record = {"kind": "once", "t": "selection", "path": EVIDENCE + "x", "request": {}}

        async def write(
            log: Log = log, whole: dict[str, Any] = record | {"result": evidence.model_dump(mode="json")}
        ) -> None:
            await log.append(whole, sync=True)
            await log.close()

        asyncio.run(write())
        rows += [
            json.dumps({"instance_id": name, "agent": agent, "resolved": yes}) + "\n" for agent, yes in right.items()
        ]
    labels.write_text("".join(rows))
    selection = {"ranking": "margin", **recipe}
    whole = {"source": dict.fromkeys(names, "x"), "candidates": {}, "model": {"verifier": "v"}}
    said = Recipe.model_validate({"selection": selection}).model_dump(mode="json", exclude_none=True)
    (run / "run.toml").write_bytes(sealed(whole | {"recipe": said}))
    return run, labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return stored(tmp_path_factory.mktemp("stored"), issues=60)


def replay(*runs: Path, rules: Sequence[str] = (), **other: Any) -> int:
    given: dict[str, Any] = dict.fromkeys(("first", "draw", "labels", "calibrate", "figures"))
    return replay_command(runs, rules, **(given | {"as_json": False} | other))


def test_what_each_ingredient_adds_is_said_for_the_rankings_that_use_it(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    replay(run[0], labels=run[1], as_json=True)
    rows = {row["rule"]: row for row in json.loads(capsys.readouterr().out)}
    uses = {rule: {one["without"] for one in row["ablation"]} for rule, row in rows.items()}
    assert uses["as run"] == set(), "it is the ranking that is taken apart"
    assert uses["votes"] == {"generated tests", "brought tests"}
    assert uses["verifier"] == {"verifier"}
    assert uses["regression"] == {"regression"}
    assert uses["margin"] == {"verifier", "generated tests", "brought tests", "regression"}
    assert uses["agreement"] == {"generated tests", "brought tests", "regression", "agreement"}
    (alone,) = rows["verifier"]["ablation"]
    assert alone["share"] == pytest.approx(rows["verifier"]["selected"] - alone["selected"])
    assert alone["share"] > 0
    assert alone["low"] <= alone["share"] <= alone["high"]
    assert alone["gained"] - alone["lost"] == pytest.approx(60 * alone["share"])
    replay(run[0], labels=run[1], rules=["verifier"])
    said = capsys.readouterr().out
    assert "what each ingredient adds" in said
    assert f"+{100 * alone['share']:.1f} (+{alone['gained']} −{alone['lost']})" in said
    assert "cost: nothing was asked" in said


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(sorted(RANKINGS)), st.sampled_from(sorted(ablation.INGREDIENTS)))
def test_an_ingredient_that_is_taken_away_says_nothing_any_more(seed: int, rule: str, ingredient: str) -> None:
    """Whatever it said before: without it, evidence that differs in it alone is ranked the same."""
    one, _ = issue(random.Random(seed), "x")
    assert one.table
    chance = random.Random(seed + 1)
    rows = {
        name: {
            test: chance.choice(["pass", "fail"])
            if (test in one.table.authors) == (ingredient == "brought tests")
            else cell
            for test, cell in row.items()
        }
        for name, row in one.table.rows.items()
    }
    other = {
        "verifier": one.model_copy(update={"scores": {name: Score(p=chance.random()) for name in one.scores}}),
        "generated tests": one.model_copy(update={"table": one.table.model_copy(update={"rows": rows})}),
        "brought tests": one.model_copy(update={"table": one.table.model_copy(update={"rows": rows})}),
        "regression": one.model_copy(
            update={"table": one.table.model_copy(update={"broken": dict.fromkeys(one.table.rows, None)})}
        ),
        "exemptions": one.model_copy(
            update={"exempt": {test: "the issue" for test in one.table.repository if chance.random() < 0.5}}
        ),
        "known agents": one.model_copy(
            update={"reliability": {one.origin(entry.id): chance.uniform(-1, 1) for entry in one.entries}}
        ),
        "agreement": one.model_copy(
            update={
                "entries": tuple(
                    entry.model_copy(update={"proposers": (entry.id, *(f"{entry.id}.{n}" for n in range(place)))})
                    for place, entry in enumerate(one.entries)
                )
            }
        ),
    }[ingredient]
    without, recipe = ablation.INGREDIENTS[ingredient], SelectionRecipe(ranking=rule)
    assert [s.entry for s in rank(without(one), recipe).standings] == [
        s.entry for s in rank(without(other), recipe).standings
    ]


def test_a_calibration_is_fitted_with_repositories_held_out_and_used_by_another_run(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibration.json"
    replay(run[0], labels=run[1], calibrate=out)
    said = capsys.readouterr().out
    assert "calibrated on 60 issues, decided by margin; held out, probabilities: Brier 0." in said
    assert "--precision 0.9" in said
    found = Calibration.model_validate_json(out.read_bytes())
    assert (len(found.judged), found.rule) == (60, "margin")
    fresh, labels = stored(tmp_path, seed=2)
    replay(fresh, rules=["margin"], as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert all(row["confidence"]["p"] is None and row["confidence"]["how"] == "uncalibrated" for row in plain)
    replay(fresh, rules=["margin"], calibration=out, abstain_below=0.6, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    for row, before in zip(rows, plain, strict=True):
        sure = row["confidence"]
        assert row["chosen"]["as run"] == row["chosen"]["margin"] == (sure["of"] if sure["p"] >= 0.6 else None)
        assert (sure["of"], sure["seen"]) == (before["chosen"]["as run"], before["confidence"]["seen"])
        assert (sure["withheld"] is None) == (sure["p"] >= 0.6)
    kept = sum(row["chosen"]["as run"] is not None for row in rows)
    assert 0 < kept < 40
    replay(fresh, labels=labels, rules=["votes"], calibration=out, abstain_below=0.6, as_json=True)
    measured = json.loads(capsys.readouterr().out)[0]
    assert measured["submitted"] == kept
    assert measured["precision"] > measured["mean"] + 0.2
    replay(fresh, labels=labels, rules=["votes"], calibration=out, precision=0.6)
    assert "right of these" in capsys.readouterr().out


def test_the_calibration_that_comes_with_runoff_states_probabilities_and_what_they_rest_on(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    replay(run[0], rules=["agreement"], calibration=Path("without-model"), as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert all(0 < row["confidence"]["p"] < 1 for row in rows)
    (how,) = {row["confidence"]["how"] for row in rows}
    assert re.fullmatch(r"calibrated on \d+ issues, decided by agreement", how)


def test_runs_are_calibrated_together_but_not_one_issue_twice(run: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BadRun, match="is in more than one of these runs"):
        replay(run[0], run[0], labels=run[1])
    few, labels = stored(tmp_path, issues=12)
    with pytest.raises(BadRun, match=r"nothing is calibrated: 1. issues"):
        replay(few, labels=labels, calibrate=tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--calibrate", "x"), "--calibrate takes --labels FILE"),
        (("--figures", "x"), "--figures takes --labels FILE"),
        (("--abstain-below", "0.5"), "abstaining takes a calibration"),
        (("--precision", "0.9"), "abstaining takes a calibration"),
        (
            ("--calibration", "nowhere.json"),
            "give the file that runoff replay --calibrate wrote, or without-model",
        ),
        (("--calibration", "run.toml"), "run.toml is no calibration"),
    ],
)
def test_bad_input_is_one_line(run: tuple[Path, Path], given: tuple[str, ...], said: str) -> None:
    done = runoff("replay", run[0], *given, cwd=run[0])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


def test_what_was_chosen_and_how_sure_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Calibration(intercept=-2, weights={}, centres={}, scales={}, judged=((0.1, False),))
    run, _ = stored(tmp_path, issues=2, recipe={"calibration": told.model_dump(), "abstain_below": 0.5})
    recipe = SelectionRecipe(ranking="margin", calibration=told, abstain_below=0.5)
    chance = random.Random(1)
    for name in sorted(path.stem for path in (run / "log").iterdir()):
        evidence, _ = issue(chance, name)
        selection = concluded(rank(evidence, recipe), evidence, recipe)
        assert selection.chosen is None
        assert selection.reason.startswith(
            "abstained: right with a probability of 0.12, below 0.50; it would have been agent"
        )
        view = run / "views" / name / "selection.json"
        view.parent.mkdir(parents=True)
        view.write_text(json.dumps({"selection": selection.model_dump(mode="json")}))
    assert verify_command(run) == 0
    view.write_text(view.read_text().replace('"p": 0.1', '"p": 0.2'))
    assert verify_command(run) == 1
    assert "NOT the same" in capsys.readouterr().out


def test_figures_are_drawn_and_the_page_loads_nothing(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "figures"
    replay(run[0], labels=run[1], rules=["votes", "verifier"], calibrate=tmp_path / "c.json", figures=folder)
    assert capsys.readouterr().out.endswith(f"figures: {folder / 'index.html'}\n")
    names = {"gap", "waterfall", "ingredients", "curves", "reliability", "risk-coverage"}
    assert {path.name for path in folder.iterdir()} == {f"{name}.{end}" for name in names for end in ("svg", "png")} | {
        "index.html"
    }
    for name in names:
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "index.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == len(names)
    assert "://" not in page
    assert "Uncalibrated" not in page


def test_without_matplotlib_a_line_says_what_to_install(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    with pytest.raises(BadRun, match=r"pip install 'runoff\[figures\]'"):
        replay(run[0], labels=run[1], figures=tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
