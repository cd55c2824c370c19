"""Numbers that others published, got again by our estimators from what they published beside them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runoff.selection.estimators.coverage import BetaBinomial, PowerLaw, fit_beta, fit_power_law
from runoff.selection.estimators.outcomes import Gap, Waterfall
from runoff.selection.estimators.resampling import resampled

# SWE-Gym (Pan et al. 2024, arXiv 2412.21139): scripts/openhands-verifier/aggregate_stats_pass_at_n.ipynb in its repository.
# 17 runs over the 500 issues of SWE-bench Verified: 8,496 rows, 1,539 of them resolved.
SWE_GYM_MEAN = 1539 / 8496
SWE_GYM = [20.6, 24.8, 28.8, 31.6, 33.6, 35.3, 36.7, 37.8, 38.7, 39.6, 40.2, 40.8, 41.4, 41.9, 42.4, 42.8]
"""pass@1…16 as its figure prints them. The first is one greedy run alone; the others are drawn from all runs."""
# The same: scripts/moatless-verifier/eval_verifier.ipynb. 8 runs over the 300 issues of SWE-bench Lite.
MOATLESS = [9.4, 13.5, 16.4, 18.3, 20.0, 21.4, 22.5, 23.3]


def off(law: BetaBinomial | PowerLaw, published: Sequence[float], ks: Sequence[int]) -> float:
    """The largest error in points."""
    return max(abs(100 * law.at(k) - published[k - 1]) for k in ks)


def test_swe_gyms_mean_and_last_point_predict_the_points_between() -> None:
    law = fit_beta({1: SWE_GYM_MEAN, 16: SWE_GYM[15] / 100})
    assert (law.alpha, law.beta) == (pytest.approx(0.139, abs=5e-4), pytest.approx(0.629, abs=5e-4))
    assert [100 * law.at(k) for k in (2, 4, 8)] == pytest.approx([24.6, 31.0, 37.1], abs=0.05)
    assert off(law, SWE_GYM, range(2, 16)) < 0.75
    assert [100 * law.at(k) for k in (32, 64)] == pytest.approx([48.0, 52.8], abs=0.05)


def test_swe_gyms_first_eight_points_predict_its_last_eight() -> None:
    early = {1: SWE_GYM_MEAN, **{k: SWE_GYM[k - 1] / 100 for k in range(2, 9)}}
    assert off(fit_beta(early), SWE_GYM, range(9, 17)) < 1.05
    assert 2 < off(fit_power_law(early), SWE_GYM, range(9, 17)) < 2.25, "the power law promises more than came"


def test_swe_gyms_curve_itself_says_that_its_first_point_is_another_kind_of_run() -> None:
    """Points 2 to 8 alone give back the mean of the runs, 18.1, and not the 20.6 that the curve starts at."""
    law = fit_beta({k: SWE_GYM[k - 1] / 100 for k in range(2, 9)})
    assert 100 * law.at(1) == pytest.approx(100 * SWE_GYM_MEAN, abs=0.2)
    assert SWE_GYM[0] - 100 * law.at(1) > 2


def test_moatless_first_four_points_predict_its_last_four() -> None:
    early = {k: MOATLESS[k - 1] / 100 for k in range(1, 5)}
    assert off(fit_beta(early), MOATLESS, range(5, 9)) < 0.35
    assert off(fit_power_law(early), MOATLESS, range(5, 9)) < 0.55
    assert off(fit_beta({1: 0.094, 8: 0.233}), MOATLESS, range(1, 9)) < 0.25


def test_codemonkeys_losses_add_up_only_with_the_figure_that_its_text_gives() -> None:
    """Of 500: 7.4 % files missed, 22.8 no right edit, 57.4 resolved; coverage 69.8 less 57.4 is 12.4, its diagram prints 11.6."""
    found = Waterfall(issues=500, files_missed=37, no_right_candidate=114, not_selected=62, resolved=287)
    assert (found.not_selected + found.resolved) / 500 == pytest.approx(0.698)
    with pytest.raises(ValueError, match="add up to 496"):
        Waterfall(issues=500, files_missed=37, no_right_candidate=114, not_selected=58, resolved=287)


@pytest.mark.parametrize(
    ("mean", "first", "best", "selected", "oracle", "recovered"),
    [
        pytest.param(45.8, None, None, 57.4, 69.8, {"against_mean": 48}, id="CodeMonkeys: about half"),
        pytest.param(
            60.9, None, 62.8, 66.2, 80.8, {"against_mean": 27, "against_best": 19}, id="CodeMonkeys' ensemble of five"
        ),
        pytest.param(
            100 * SWE_GYM_MEAN, 20.6, None, 32.0, 42.8, {"against_mean": 56, "against_first": 51}, id="SWE-Gym, 16"
        ),
        pytest.param(100 * SWE_GYM_MEAN, None, None, 27.1, 37.8, {"against_mean": 46}, id="SWE-Gym, 8, on and off"),
        pytest.param(100 * SWE_GYM_MEAN, None, None, 23.4, 37.8, {"against_mean": 27}, id="SWE-Gym, 8, on policy"),
        pytest.param(100 * SWE_GYM_MEAN, None, None, 21.5, 37.8, {"against_mean": 17}, id="SWE-Gym, 8, off policy"),
        pytest.param(31.8, None, None, 42.8, 64.4, {"against_mean": 34}, id="R2E-Gym without execution"),
        pytest.param(31.8, None, None, 43.7, 64.4, {"against_mean": 37}, id="R2E-Gym by execution"),
        pytest.param(31.8, None, None, 51.0, 64.4, {"against_mean": 59}, id="R2E-Gym hybrid"),
        pytest.param(42.2, None, None, 59.0, 71.0, {"against_mean": 58}, id="DeepSWE hybrid"),
    ],
)
def test_gaps_that_were_recovered(
    mean: float,
    first: float | None,
    best: float | None,
    selected: float,
    oracle: float,
    recovered: dict[str, int],
) -> None:
    found = Gap(
        issues=500,
        mean=mean,
        first=mean if first is None else first,
        best=mean if best is None else best,
        best_member="",
        selected=selected,
        oracle=oracle,
    )
    assert {name: round(100 * getattr(found, name)) for name in recovered} == recovered


def test_half_of_five_hundred_is_known_to_two_points() -> None:
    """R2E-Gym's 51.0 of 500: its bands, over draws of trajectories, shrink to nothing at k = n; the sampling of issues does not."""
    found = resampled({str(n): ["only"] for n in range(500)}, 1, lambda issue, _: float(int(issue) < 255))
    assert (found.drawing, found.error) == (0, pytest.approx(0.022, abs=5e-4))
