"""Tests of the change model M7, its evaluation, the paper's table and the placebo."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from iclr_repro.review_insights.bootstrap import resampling_counts
from iclr_repro.review_insights.data import read_score_table, read_scores
from iclr_repro.review_insights.predictors import (
    CLASSES,
    Cases,
    Forecast,
    balanced_forecast,
    balanced_logistic,
    bootstrap_models,
    change_cases,
    co_reviewers,
    coefficient_intervals,
    coefficient_table,
    evaluate,
    log_losses,
    logistic_change_model,
    macro_f1_of_papers,
)
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.softmax import fit_softmax
from iclr_repro.review_insights.synthetic import generate_year
from support import ROOT, golden_dir

# Sheet, section P: INC, KEEP and the printed mean absolute coefficient of each feature.
PAPER_ROWS = {
    "own overall rating before": (-1.01, 0.08, 0.67),
    "mean rating of other reviewers before": (0.55, 0.01, 0.37),
    "reviewer engagement (notes)": (0.20, -0.37, 0.25),
    "generic/vague defence": (-0.29, 0.26, 0.19),
    "evidence-backed clarification": (0.23, -0.20, 0.15),
    "simple agree/disagree": (0.19, -0.14, 0.13),
    "evasion": (-0.10, 0.15, 0.10),
    "disagree": (-0.15, 0.13, 0.10),
    "future promise": (0.09, -0.15, 0.10),
}


def make_pairs(papers: dict[str, list[tuple[int, int]]], **options) -> ScorePairs:
    rows = [(name, before, after) for name, ratings in papers.items() for before, after in ratings]
    return ScorePairs.from_reviews(pd.DataFrame(rows, columns=["paper_id", "before", "after"]), **options)


def six_papers(**options) -> ScorePairs:
    """Paper b has a single review."""
    return make_pairs(
        {
            "a": [(3, 5), (5, 5), (8, 6)],
            "b": [(5, 5)],
            "c": [(3, 3), (6, 6)],
            "d": [(1, 3), (5, 5)],
            "e": [(8, 8), (6, 8)],
            "f": [(5, 6), (6, 6)],
        },
        scale=(1, 3, 5, 6, 8, 10),
        **options,
    )


def random_cases() -> Cases:
    """100 papers of four reviews; features and classes without a relation."""
    rng = np.random.default_rng(0)
    paper = np.repeat(np.arange(100), 4)
    return Cases(rng.normal(size=(400, 2)), rng.integers(0, 3, 400), paper % 5, paper, ("one", "two"), CLASSES)


def test_co_reviewers_are_described_by_mean_and_population_std() -> None:
    pairs = six_papers()
    mean, std = co_reviewers(pairs, np.array([3, 5, 8] + [4] * 9))
    np.testing.assert_allclose(mean[:3], [6.5, 5.5, 4.0])
    np.testing.assert_allclose(std[:3], [1.5, 2.5, 1.0])
    assert np.isnan(mean[3])
    assert np.isnan(std[3])


def test_features_leave_out_reviews_without_a_co_reviewer() -> None:
    cases = change_cases(six_papers())
    assert len(cases.y) == 11
    np.testing.assert_allclose(cases.x[0], [3, 6.5, 1.5, 3])
    np.testing.assert_allclose(cases.x[3], [3, 6, 0, 2])
    assert [CLASSES[label] for label in cases.y[:3]] == ["increase", "keep", "decrease"]


def test_folds_count_only_papers_with_co_reviewers() -> None:
    cases = change_cases(six_papers())
    assert cases.fold.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert cases.paper.tolist() == [0, 0, 0, 2, 2, 3, 3, 4, 4, 5, 5]


def test_ranks_replace_ratings_by_their_place_on_the_scale() -> None:
    cases = change_cases(six_papers(), ranks=True)
    np.testing.assert_allclose(cases.x[0], [1, 3.0, 1.0, 3])  # 3, (5, 8) are ranks 1, (2, 4)


def test_further_columns_become_features() -> None:
    pairs = six_papers()
    pairs.reviews["notes"] = np.arange(12)
    cases = change_cases(pairs, features=("own_rating", "notes"))
    assert cases.features == ("own_rating", "notes")
    assert cases.x[3].tolist() == [3, 4]


def test_binary_cases_tell_increases_from_the_rest() -> None:
    cases = change_cases(six_papers(), binary=True)
    assert cases.classes == ("rest", "increase")
    assert cases.y.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0]


def test_unknown_features_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown features \['engagment'\]; there are \['own_rating', 'others_mean'"):
        change_cases(six_papers(), features=("own_rating", "engagment"))


def test_features_with_holes_are_refused() -> None:
    pairs = six_papers()
    pairs.reviews["notes"] = np.nan
    with pytest.raises(ValueError, match=r"features \['notes'\] have missing or infinite values: fill them"):
        change_cases(pairs, features=("own_rating", "notes"))


def test_sorted_score_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="changes of a review are unknown"):
        change_cases(six_papers(aligned=False))


def test_too_few_papers_for_the_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 papers have two or more reviews, 5 folds need at least 5"):
        change_cases(make_pairs({"a": [(3, 3), (5, 5)], "b": [(3, 3), (5, 6)]}))


def test_each_review_is_forecast_once_and_no_paper_is_on_both_sides() -> None:
    cases = random_cases()
    seen: list[float] = []

    def watch(train: Cases, test: Cases) -> Forecast:
        assert not set(train.paper) & set(test.paper)
        assert len(train.y) + len(test.y) == len(cases.y)
        seen.extend(test.x[:, 0])
        return Forecast(np.ones(len(test.y), dtype=int))

    evaluate(watch, cases)
    assert sorted(seen) == sorted(cases.x[:, 0])


def test_macro_f1_counts_a_class_without_cases_as_zero() -> None:
    cases = random_cases()
    cases.y[:] = 1
    result = evaluate(lambda train, test: Forecast(np.ones(len(test.y), dtype=int)), cases)
    assert result.per_class_f1 == {"decrease": 0.0, "keep": 1.0, "increase": 0.0}
    assert result.macro_f1_mean == pytest.approx(1 / 3)
    assert result.macro_f1_std == 0.0
    assert result.log_loss is None
    assert result.n == 400


def test_log_loss_is_that_of_the_true_class_and_bounded() -> None:
    losses = log_losses(np.array([[0.25, 0.75], [0.0, 1.0]]), np.array([0, 0]))
    np.testing.assert_allclose(losses, [np.log(4), np.log(1e6)])


def test_balanced_forecasts_are_returned_to_the_true_frequencies() -> None:
    true = np.array([[0.05, 0.85, 0.10], [0.2, 0.5, 0.3]])
    weights = np.array([8.0, 0.4, 2.0])
    balanced = true * weights / (true * weights).sum(axis=1, keepdims=True)
    forecast = balanced_forecast(balanced, weights)
    assert forecast.probabilities is not None
    np.testing.assert_allclose(forecast.probabilities, true)
    assert forecast.labels.tolist() == [0, 0]


def test_class_weights_are_balanced_over_all_classes() -> None:
    cases = random_cases()
    cases.y[:] = np.repeat([1, 2], [300, 100])
    np.testing.assert_allclose(cases.class_weights(), [0.0, 400 / 900, 400 / 300])


def test_logistic_model_matches_the_reference_values() -> None:
    folders = sorted(golden_dir("review_insights").glob("small_*"))
    assert folders
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text())["logreg"]
        result = logistic_change_model(read_score_table(folder / "scores.csv"))
        assert list(result.features) == expected["features"]
        assert list(result.classes) == expected["classes"]
        assert result.n == expected["n"]
        np.testing.assert_allclose(result.coefficients, expected["coef_centered"], atol=2e-3)
        np.testing.assert_allclose(list(result.per_class_f1.values()), expected["per_class_f1"], atol=5e-3)
        assert result.macro_f1_mean == pytest.approx(expected["macro_f1_mean"], abs=5e-3)
        assert result.macro_f1_std == pytest.approx(expected["macro_f1_std"], abs=5e-3)


def test_iclr_2024_coefficients_are_as_recorded() -> None:
    path = Path(os.environ.get("ICLR_REPRO_DATA", ROOT.parent / "shared" / "data")) / "review_insights"
    if not path.is_dir():
        pytest.skip(f"no real data: {path} does not exist (ICLR_REPRO_DATA)")
    result = logistic_change_model(read_scores(path / "iclr2024_snapshots.csv.gz", 2024))
    assert result.n == 27_033
    assert result.coefficients.at["own_rating", "increase"] == pytest.approx(-0.620, abs=2e-3)
    assert result.coefficients.at["others_mean", "increase"] == pytest.approx(0.703, abs=2e-3)
    assert result.macro_f1_mean == pytest.approx(0.3223, abs=2e-3)


def test_binary_model_judges_two_classes() -> None:
    pairs = generate_year(np.random.default_rng(0), num_papers=200).pairs
    result = logistic_change_model(pairs, binary=True)
    assert list(result.coefficients.columns) == ["rest", "increase"]
    np.testing.assert_allclose(result.coefficients.sum(axis=1), 0.0, atol=1e-9)
    assert result.macro_f1_mean == pytest.approx(np.mean(list(result.per_class_f1.values())))


def test_logistic_model_evaluates_the_forecaster_of_the_same_name() -> None:
    pairs = generate_year(np.random.default_rng(0), num_papers=200).pairs
    evaluation = evaluate(balanced_logistic, change_cases(pairs))
    assert logistic_change_model(pairs).macro_f1_mean == evaluation.macro_f1_mean
    assert evaluation.log_loss is not None
    assert 0.0 < evaluation.log_loss < np.log(3)


def test_the_nine_rows_of_the_paper_are_centred_coefficients() -> None:
    coefficients = pd.DataFrame(
        {"increase": [row[0] for row in PAPER_ROWS.values()], "keep": [row[1] for row in PAPER_ROWS.values()]},
        index=list(PAPER_ROWS),
    )
    coefficients["decrease"] = -coefficients["increase"] - coefficients["keep"]
    table = coefficient_table(coefficients + 0.7)  # a softmax is blind to a shift of a feature's coefficients
    printed = pd.Series({name: row[2] for name, row in PAPER_ROWS.items()})
    assert table["mean_abs"].round(2).to_dict() == printed.to_dict()
    assert list(table.index[:6]) == list(PAPER_ROWS)[:6]
    np.testing.assert_allclose(table["INC"].loc[list(PAPER_ROWS)], coefficients["increase"])
    np.testing.assert_allclose(table[["INC", "KEEP", "DEC"]].sum(axis=1), 0.0, atol=1e-12)
    assert list(table.columns) == ["mean_abs", "INC", "KEEP", "DEC"]


def test_the_table_needs_the_three_classes() -> None:
    with pytest.raises(ValueError, match=r"shows the classes .* the model has \['rest', 'increase'\]"):
        coefficient_table(pd.DataFrame([[1.0, -1.0]], columns=["rest", "increase"]))


@pytest.mark.parametrize("balanced", [False, True])
def test_bootstrap_models_are_fits_to_resampled_papers(balanced: bool) -> None:
    cases = change_cases(generate_year(np.random.default_rng(0), num_papers=300).pairs)
    model = bootstrap_models(cases, draws=1, rng=np.random.default_rng(7), balanced=balanced)[0]
    papers, paper = np.unique(cases.paper, return_inverse=True)
    times = resampling_counts(len(papers), 1, rng=np.random.default_rng(7))[0][paper].astype(int)
    drawn = cases.rows(np.repeat(np.arange(len(times)), times))
    direct = fit_softmax(drawn.x, drawn.y, class_weights=drawn.class_weights() if balanced else np.ones(3))
    np.testing.assert_allclose(model.weights, direct.weights, atol=1e-3)


def test_coefficient_intervals_hold_the_estimate() -> None:
    cases = change_cases(generate_year(np.random.default_rng(0), num_papers=300).pairs)
    table = coefficient_intervals(cases, draws=40, rng=np.random.default_rng(0))
    assert (table["low"] < table["high"]).all()
    assert ((table["low"] <= table["coefficient"]) & (table["coefficient"] <= table["high"])).mean() > 0.8
    assert table.loc[("own_rating", "increase"), "high"] < 0.0
    assert len(table) == 12


def test_macro_f1_of_weighted_papers_is_that_of_the_repeated_papers() -> None:
    cases = change_cases(generate_year(np.random.default_rng(0), num_papers=100).pairs)
    found = evaluate(balanced_logistic, cases)
    weights = np.random.default_rng(1).integers(0, 3, size=(4, 100)).astype(float)
    weights[0] = 1
    values = macro_f1_of_papers(cases, found.labels, weights)
    assert values[0] == pytest.approx(found.macro_f1_mean)
    for draw in (1, 2, 3):
        times = weights[draw][cases.paper].astype(int)
        fold, true, forecast = (np.repeat(array, times) for array in (cases.fold, cases.y, found.labels))
        direct = [
            f1_score(true[fold == k], forecast[fold == k], labels=[0, 1, 2], average="macro", zero_division=0.0)
            for k in range(5)
        ]
        assert values[draw] == pytest.approx(np.mean(direct))
