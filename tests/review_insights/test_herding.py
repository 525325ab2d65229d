"""Tests of the null model of independent readers and of its fit."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from iclr_repro.review_insights.herding import (
    NullModel,
    compare_coefficients,
    compare_gradients,
    fit_null_model,
    half_split_placebo,
    nearest_rating,
)
from iclr_repro.review_insights.predictors import logistic_change_model
from iclr_repro.review_insights.scores import SCALES, ScorePairs
from iclr_repro.review_insights.statistics import coreviewer_effect

SCALE = SCALES[2024]
SHEET = NullModel(SCALE, quality_mean=5.0, quality_std=1.4, noise=1.5, reread_noise=1.2, reread_rate=0.25, drift=0.35)


def change_shares(pairs: ScorePairs) -> tuple[float, float]:
    change = pairs.reviews["after"] - pairs.reviews["before"]
    return (change > 0).mean(), (change < 0).mean()


def test_values_go_to_the_nearest_point_of_the_scale() -> None:
    assert nearest_rating(np.array([-2.0, 3.9, 4.0, 4.1, 9.0]), (1, 3, 5, 6)).tolist() == [1, 3, 3, 5, 6]


@pytest.mark.parametrize("model", [SHEET, replace(SHEET, drift=1.5, reluctance=0.6, scale=(1, 3, 6, 8))])
def test_expected_shares_are_those_of_a_simulation(model) -> None:
    simulated = model.simulate(np.full(50_000, 4), np.random.default_rng(0))
    np.testing.assert_allclose(model.change_shares(), change_shares(simulated), atol=0.003)


def test_simulated_readers_are_as_many_as_asked_for() -> None:
    sizes = np.array([3, 1, 5])
    simulated = SHEET.simulate(sizes, np.random.default_rng(0))
    assert simulated.papers["n_reviews"].tolist() == [3, 1, 5]
    assert simulated.scale == SCALE


def test_without_a_second_reading_nothing_changes() -> None:
    simulated = replace(SHEET, reread_rate=0.0).simulate(np.full(100, 4), np.random.default_rng(0))
    assert change_shares(simulated) == (0.0, 0.0)


def test_complete_reluctance_forbids_decreases() -> None:
    simulated = replace(SHEET, reluctance=1.0).simulate(np.full(2000, 4), np.random.default_rng(0))
    assert change_shares(simulated)[1] == 0.0
    assert replace(SHEET, reluctance=1.0).change_shares()[1] == 0.0


def test_independent_readers_show_the_gradient_of_the_sheet() -> None:
    """Sheet, Beyond 3: 0.174 / 0.033, 6.6 % decreases; quality prior and first noise, not given there, as in Data."""
    simulated = SHEET.simulate(np.full(100_000, 4), np.random.default_rng(0))
    effect = coreviewer_effect(simulated)["p_increase"]
    assert effect["others_higher"] == pytest.approx(0.174, abs=0.006)
    assert effect["others_lower"] == pytest.approx(0.033, abs=0.003)
    assert change_shares(simulated)[1] == pytest.approx(0.066, abs=0.004)


def test_fit_recovers_the_parameters_of_simulated_data() -> None:
    truth = NullModel(SCALE, 4.9, 0.8, 1.4, 1.4, reread_rate=0.3, drift=1.2)
    fitted = fit_null_model(truth.simulate(np.full(30_000, 4), np.random.default_rng(1)))
    assert fitted.quality_mean == pytest.approx(4.9, abs=0.03)
    assert fitted.quality_std == pytest.approx(0.8, abs=0.03)
    assert fitted.noise == pytest.approx(1.4, abs=0.03)
    assert fitted.reread_rate == pytest.approx(0.3, abs=0.02)
    assert fitted.drift == pytest.approx(1.2, abs=0.1)
    assert fitted.reluctance == 0.0


def test_fit_at_a_given_drift_recovers_the_reluctance() -> None:
    truth = NullModel(SCALE, 4.9, 0.8, 1.4, 1.4, reread_rate=0.4, drift=0.3, reluctance=0.8)
    fitted = fit_null_model(truth.simulate(np.full(30_000, 4), np.random.default_rng(1)), drift=0.3)
    assert fitted.reread_rate == pytest.approx(0.4, abs=0.02)
    assert fitted.reluctance == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("drift", [None, 0.35])
def test_fitted_model_has_exactly_the_shares_of_the_data(drift) -> None:
    data = replace(SHEET, reluctance=0.7).simulate(np.full(3000, 4), np.random.default_rng(2))
    np.testing.assert_allclose(fit_null_model(data, drift=drift).change_shares(), change_shares(data), rtol=1e-6)


def test_fit_needs_increases_and_decreases() -> None:
    data = replace(SHEET, reluctance=1.0).simulate(np.full(500, 4), np.random.default_rng(2))
    with pytest.raises(ValueError, match=r"of decreases 0.0000: the fit needs some of both"):
        fit_null_model(data)


def test_fit_refuses_sorted_score_lists() -> None:
    data = SHEET.simulate(np.full(50, 4), np.random.default_rng(2))
    with pytest.raises(ValueError, match="not in the same reviewer order"):
        fit_null_model(replace(data, aligned=False))


def test_fit_needs_some_agreement_about_papers() -> None:
    reviews = pd.DataFrame({"paper_id": np.repeat(range(50), 2), "before": [3, 6] * 50, "after": [6, 3] * 50})
    with pytest.raises(ValueError, match="the model needs some agreement about a paper"):
        fit_null_model(ScorePairs.from_reviews(reviews, year=2024))


def test_shares_that_no_reading_gives_are_refused() -> None:
    data = replace(SHEET, reread_rate=0.9).simulate(np.full(3000, 4), np.random.default_rng(2))
    with pytest.raises(ValueError, match=r"at a drift of -2.00 that needs a re-read rate of [1-9]"):
        fit_null_model(data, drift=-2.0)


def test_data_of_the_null_model_show_no_excess() -> None:
    data = SHEET.simulate(np.full(6000, 4), np.random.default_rng(3))
    table = compare_gradients(data, SHEET, rng=np.random.default_rng(4), num_papers=60_000, draws=300)
    gradient = table.loc["gradient"]
    assert gradient["excess"] == pytest.approx(1.0, abs=0.15)
    assert gradient["excess_low"] < 1.0 < gradient["excess_high"]
    assert (
        gradient["data"] == table.at["others_higher/p_increase", "data"] / table.at["others_lower/p_increase", "data"]
    )
    np.testing.assert_allclose(table["excess"], table["data"] / table["null"])
    assert ((table["low"] <= table["data"]) & (table["data"] <= table["high"])).all()


def herding_year() -> ScorePairs:
    """Readers of the null model who also move one point towards a mean of the others that is a point higher."""
    data = SHEET.simulate(np.full(3000, 4), np.random.default_rng(3))
    reviews = data.reviews
    others = (data.paper_sums(reviews["before"])[data.paper_index] - reviews["before"]) / 3
    follows = (others - reviews["before"] >= 1.0) & (np.random.default_rng(5).random(len(reviews)) < 0.3)
    rank = np.searchsorted(SCALE, reviews["after"])
    after = np.where(follows, np.asarray(SCALE)[np.minimum(rank + 1, len(SCALE) - 1)], reviews["after"])
    return ScorePairs.from_reviews(reviews.assign(after=after), scale=SCALE)


def test_real_herding_shows_as_excess() -> None:
    data = herding_year()
    table = compare_gradients(data, fit_null_model(data), rng=np.random.default_rng(4), num_papers=40_000, draws=200)
    assert table.at["gradient", "excess_low"] > 1.3


def test_coefficients_of_herding_exceed_those_of_the_null_model() -> None:
    data = herding_year()
    table = compare_coefficients(data, fit_null_model(data), rng=np.random.default_rng(0), simulations=4)
    assert table.at["others_mean", "data"] > 1.3 * table.at["others_mean", "null_high"]
    assert (table["null_low"] <= table["null"]).all()
    assert list(table.index) == ["own_rating", "others_mean", "others_std", "n_reviews"]


def test_gradient_is_undefined_where_no_rating_above_the_others_rose() -> None:
    data = SHEET.simulate(np.full(40, 3), np.random.default_rng(0))
    still = ScorePairs.from_reviews(data.reviews.assign(after=data.reviews["before"]), scale=SCALE)
    table = compare_gradients(still, SHEET, rng=np.random.default_rng(0), num_papers=2000, draws=20)
    assert np.isnan(table.at["gradient", "data"])
    assert np.isnan(table.at["gradient", "low"])


def test_placebo_pairs_ratings_of_two_halves_of_a_paper() -> None:
    before = [1, 3, 5, 6, 8, 3, 8, 3, 3, 3]
    reviews = pd.DataFrame({"paper_id": list("aaaaabbccc"), "before": before, "after": 5})
    pairs = ScorePairs.from_reviews(reviews, year=2024)
    for seed in range(20):
        placebo = half_split_placebo(pairs, np.random.default_rng(seed))
        assert placebo.papers["n_reviews"].to_dict() == {"a": 3, "c": 2}
        first = placebo.reviews[placebo.reviews["paper_id"] == "a"]
        assert first["before"].is_unique
        assert not set(first["before"]) & set(first["after"])
        assert set(first["before"]) | set(first["after"]) <= {1, 3, 5, 6, 8}


def unanswered_reviews(quality_std: float) -> ScorePairs:
    rng = np.random.default_rng(3)
    quality = np.repeat(rng.normal(5.0, quality_std, 3000), 6)
    ratings = np.clip(np.round(quality + rng.normal(0.0, 1.5, len(quality))), 1, 10).astype(int)
    paper = np.repeat([f"p{number:04d}" for number in range(3000)], 6)
    return ScorePairs.from_reviews(pd.DataFrame({"paper_id": paper, "before": ratings, "after": ratings}))


def test_placebo_shows_the_coefficients_of_regression_to_the_mean() -> None:
    placebo = half_split_placebo(unanswered_reviews(1.4), np.random.default_rng(0))
    increase = logistic_change_model(placebo).coefficients["increase"]
    assert increase["own_rating"] < -0.5
    assert increase["others_mean"] > 0.2


def test_placebo_finds_no_role_of_co_reviewers_where_papers_do_not_differ() -> None:
    placebo = half_split_placebo(unanswered_reviews(0.0), np.random.default_rng(0))
    increase = logistic_change_model(placebo).coefficients["increase"]
    assert increase["own_rating"] < -0.5
    assert abs(increase["others_mean"]) < 0.08
