"""Tests of the calibrated probabilities, their intervals and their quality."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from iclr_repro.review_insights.calibration import (
    acceptance_cases,
    cross_fitted,
    fit_calibrated,
    forecast_quality,
    portable_ratings,
    probability_intervals,
    reliability,
    review_cases,
    transfer_table,
)
from iclr_repro.review_insights.predictors import bootstrap_models
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.synthetic import generate_year


@pytest.fixture(scope="module")
def year() -> ScorePairs:
    return generate_year(np.random.default_rng(0), num_papers=800).pairs


def test_portable_ratings_are_normal_scores_of_mid_ranks() -> None:
    reviews = pd.DataFrame({"paper_id": list("aabb"), "before": [3, 5, 3, 5], "after": 3})
    scores = portable_ratings(ScorePairs.from_reviews(reviews, scale=(1, 3, 5)))
    np.testing.assert_allclose(scores, norm.ppf([0.25, 0.75, 0.25, 0.75]))


def test_portable_features_do_not_depend_on_the_values_of_the_scale(year) -> None:
    rank = {point: index for index, point in enumerate(year.scale)}
    renamed = year.reviews.assign(before=year.reviews["before"].map(rank), after=year.reviews["after"].map(rank))
    other = ScorePairs.from_reviews(renamed, decisions=year.papers["decision"], scale=range(6))
    np.testing.assert_allclose(review_cases(year).x, review_cases(other).x)
    np.testing.assert_allclose(acceptance_cases(year).x, acceptance_cases(other).x)


def test_review_features_describe_own_score_and_co_reviewers() -> None:
    reviews = pd.DataFrame({"paper_id": np.repeat(list("abcde"), 3), "before": [1, 3, 5] * 5, "after": [1, 3, 8] * 5})
    pairs = ScorePairs.from_reviews(reviews, scale=(1, 3, 5, 8))
    low, mid, high = norm.ppf([1 / 6, 1 / 2, 5 / 6])
    cases = review_cases(pairs)
    mean, std = (mid + high) / 2, (high - mid) / 2
    np.testing.assert_allclose(cases.x[0], [low, mean, std, 3, low**2, mean**2, low * mean], atol=1e-12)
    assert len(cases.features) == cases.x.shape[1]
    assert cases.y[:3].tolist() == [1, 1, 2]


def test_acceptance_leaves_withdrawn_papers_out() -> None:
    reviews = pd.DataFrame({"paper_id": list("aabbccdd"), "before": [3, 5, 3, 3, 8, 8, 5, 5], "after": 5})
    decisions = pd.Series({"a": "withdrawn", "b": "desk_reject", "c": "spotlight", "d": "reject"})
    cases = acceptance_cases(ScorePairs.from_reviews(reviews, decisions=decisions))
    assert cases.paper.tolist() == [1, 2, 3]
    assert cases.y.tolist() == [0, 1, 0]
    assert cases.classes == ("rejected", "accepted")


def test_acceptance_needs_decisions() -> None:
    reviews = pd.DataFrame({"paper_id": ["a", "b"], "before": 3, "after": 5})
    with pytest.raises(ValueError, match="ICLR 2024 come without decisions"):
        acceptance_cases(ScorePairs.from_reviews(reviews, year=2024))


def test_cross_fitted_probabilities_never_saw_the_paper(year) -> None:
    cases = review_cases(year)
    probabilities = cross_fitted(cases)
    fold = cases.fold == 2
    expected = fit_calibrated(cases.rows(~fold)).probabilities(cases.x[fold])
    np.testing.assert_array_equal(probabilities[fold], expected)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_probabilities_are_calibrated_on_generated_data(year) -> None:
    cases = review_cases(year)
    probabilities = cross_fitted(cases)
    quality = forecast_quality(probabilities[:, 2], cases.y == 2)
    assert quality.mean_forecast == pytest.approx(quality.base_rate, abs=0.01)
    assert quality.ece < 0.03
    assert quality.brier_skill > 0.05
    assert quality.n == len(cases.y)


def test_acceptance_is_predicted_from_the_first_ratings(year) -> None:
    cases = acceptance_cases(year)
    assert forecast_quality(cross_fitted(cases)[:, 1], cases.y == 1).auc > 0.9


def test_probability_intervals_hold_the_estimate_and_shrink_with_more_data(year) -> None:
    few = year.select(np.arange(len(year.papers)) < 100)
    widths = []
    for pairs in (few, year):
        cases = review_cases(pairs)
        low, high = probability_intervals(bootstrap_models(cases, draws=40, rng=np.random.default_rng(0)), cases.x)
        estimate = fit_calibrated(cases).probabilities(cases.x)
        assert np.mean((low <= estimate) & (estimate <= high)) > 0.9
        widths.append(np.mean(high - low))
    assert widths[1] < 0.6 * widths[0]


def test_quality_of_a_forecast_by_hand() -> None:
    quality = forecast_quality(np.array([0.2, 0.8]), np.array([False, True]), bins=2)
    assert (quality.n, quality.base_rate, quality.mean_forecast, quality.auc) == (2, 0.5, 0.5, 1.0)
    assert quality.brier == pytest.approx(0.04)
    assert quality.brier_skill == pytest.approx(0.84)
    assert quality.ece == pytest.approx(0.2)


def test_quality_without_both_outcomes_has_no_skill_or_auc() -> None:
    quality = forecast_quality(np.array([0.1, 0.3]), np.array([False, False]))
    assert np.isnan(quality.brier_skill)
    assert np.isnan(quality.auc)
    assert quality.brier == pytest.approx(0.05)


def test_calibration_error_tells_overconfidence() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.8, 20_000)
    happened = rng.random(20_000) < truth
    overconfident = truth**2 / (truth**2 + (1 - truth) ** 2)
    assert forecast_quality(truth, happened).ece < 0.02
    assert forecast_quality(overconfident, happened).ece > 0.08


def test_reliability_places_each_forecast_in_one_bin() -> None:
    rng = np.random.default_rng(0)
    forecast = rng.choice([0.1, 0.2, 0.2, 0.6, 0.9], 1000)
    happened = rng.random(1000) < forecast
    table = reliability(forecast, happened, np.arange(1000) // 4, rng=rng, draws=300)
    assert table["n"].sum() == 1000
    np.testing.assert_allclose(table["predicted"], [0.1, 0.2, 0.6, 0.9])
    np.testing.assert_allclose(table["observed"], [happened[forecast == p].mean() for p in (0.1, 0.2, 0.6, 0.9)])
    assert ((table["low"] <= table["observed"]) & (table["observed"] <= table["high"])).all()
    assert ((table["low"] <= table["predicted"]) & (table["predicted"] <= table["high"])).all()


def test_reliability_intervals_respect_that_reviews_of_a_paper_move_together() -> None:
    rng = np.random.default_rng(1)
    happened = np.repeat(rng.random(300) < 0.5, 4)  # all four reviews of a paper alike
    forecast = np.full(1200, 0.5)
    together, apart = (
        reliability(forecast, happened, paper, rng=rng, draws=500) for paper in (np.arange(1200) // 4, np.arange(1200))
    )
    ratio = (together["high"] - together["low"])[0] / (apart["high"] - apart["low"])[0]
    assert ratio == pytest.approx(2.0, rel=0.2)


def test_transfer_table_tests_each_model_on_each_year(year) -> None:
    half = np.arange(len(year.papers)) % 2 == 0
    cases = {2021: review_cases(year.select(half)), 2024: review_cases(year.select(~half))}
    table = transfer_table(cases, events=("increase", "decrease"))
    assert len(table) == 8
    assert table.index.names == ["trained_on", "tested_on", "event"]
    across = table.loc[(2021, 2024, "increase")]
    probabilities = fit_calibrated(cases[2021]).probabilities(cases[2024].x)
    assert across["brier"] == pytest.approx(np.mean((probabilities[:, 2] - (cases[2024].y == 2)) ** 2))
    within = table.loc[(2024, 2024, "increase")]
    assert within["brier"] == pytest.approx(np.mean((cross_fitted(cases[2024])[:, 2] - (cases[2024].y == 2)) ** 2))
    assert within["n"] == len(cases[2024].y)
