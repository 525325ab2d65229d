"""Tests of the baselines: rules against brute force, the ordered logit against finite differences and a known truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.metrics import f1_score

from iclr_repro.review_insights.baselines import (
    FORECASTERS,
    compare,
    fit_ordered_logit,
    gradient_boosting,
    majority_class,
    ordered_logit,
    ordered_logit_loss,
    own_rating_only,
    regress_to_others,
)
from iclr_repro.review_insights.predictors import (
    CLASSES,
    Cases,
    Forecast,
    balanced_logistic,
    change_cases,
    evaluate,
    log_losses,
)
from iclr_repro.review_insights.synthetic import generate_year
from score_pairs import score_pairs


@pytest.fixture(scope="module")
def cases() -> Cases:
    return change_cases(generate_year(np.random.default_rng(5), num_papers=150).pairs)


def halves(cases: Cases) -> tuple[Cases, Cases]:
    return cases.rows(cases.fold < 3), cases.rows(cases.fold >= 3)


def probabilities(forecast: Forecast) -> np.ndarray:
    assert forecast.probabilities is not None
    return forecast.probabilities


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_no_forecaster_looks_at_the_classes_it_forecasts(cases, name) -> None:
    train, test = halves(cases)
    honest = FORECASTERS[name](train, test)
    blind = FORECASTERS[name](train, replace(test, y=np.zeros_like(test.y)))
    np.testing.assert_array_equal(honest.labels, blind.labels)
    if honest.probabilities is not None:
        np.testing.assert_array_equal(honest.probabilities, probabilities(blind))
        np.testing.assert_allclose(honest.probabilities.sum(axis=1), 1.0)
    assert honest.labels.shape == test.y.shape


@pytest.mark.parametrize("name", ["logistic", "ordered_logit", "boosting", "own_rating"])
def test_probabilities_are_at_the_frequencies_of_the_classes(cases, name) -> None:
    train, test = halves(cases)
    mean = probabilities(FORECASTERS[name](train, test)).mean(axis=0)
    np.testing.assert_allclose(mean, np.bincount(train.y, minlength=3) / len(train.y), atol=0.05)


def test_majority_class_forecasts_one_class_with_its_frequency(cases) -> None:
    train, test = halves(cases)
    forecast = majority_class(train, test)
    assert set(forecast.labels) == {CLASSES.index("keep")}
    assert probabilities(forecast)[0, 1] == np.mean(train.y == 1)


def test_own_rating_only_is_blind_to_the_others(cases) -> None:
    train, test = halves(cases)
    shuffled = replace(test, x=test.x.copy())
    shuffled.x[:, 1:] = 0.0
    np.testing.assert_array_equal(own_rating_only(train, test).labels, own_rating_only(train, shuffled).labels)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_regression_to_the_others_uses_the_best_threshold_of_the_training_data(cases, num_classes) -> None:
    binary = num_classes == 2
    data = replace(cases, y=(cases.y == 2).astype(int), classes=("rest", "increase")) if binary else cases
    train, test = halves(data)
    increase = num_classes - 1
    gaps = train.x[:, 1] - train.x[:, 0]
    scores = {tau: f1_score(train.y == increase, gaps >= tau) for tau in np.unique(gaps)}
    tau = min(tau for tau, score in scores.items() if score == max(scores.values()))
    forecast = regress_to_others(train, test)
    expected = np.where(test.x[:, 1] - test.x[:, 0] >= tau, increase, increase - 1)
    np.testing.assert_array_equal(forecast.labels, expected)
    assert forecast.probabilities is None


def logit_problem(num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=num_classes - 1 + 3) * 0.7
    return parameters, rng.normal(size=(60, 3)), rng.integers(0, num_classes, 60), rng.random(60) + 0.5


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_ordered_logit_gradient_agrees_with_finite_differences(num_classes) -> None:
    parameters, x, y, weights = logit_problem(num_classes)
    _, gradient = ordered_logit_loss(parameters, x, y, weights, num_classes)
    numeric = approx_fprime(parameters, lambda p: ordered_logit_loss(p, x, y, weights, num_classes)[0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


def test_ordered_logit_loss_is_the_weighted_log_likelihood_and_penalty() -> None:
    parameters, x, y, weights = logit_problem(3)
    thresholds = parameters[0] + np.array([0.0, np.exp(parameters[1])])
    below = 1 / (1 + np.exp(-(thresholds - (x @ parameters[2:])[:, None])))
    p = np.diff(below, axis=1, prepend=0.0, append=1.0)[np.arange(60), y]
    expected = -(weights * np.log(p)).sum() + 0.5 * (parameters[2:] ** 2).sum()
    assert ordered_logit_loss(parameters, x, y, weights, 3)[0] == pytest.approx(expected)


def test_ordered_logit_loss_stays_finite_far_from_the_thresholds() -> None:
    loss, gradient = ordered_logit_loss(
        np.array([0.0, 0.0, 1.0]), np.array([[800.0], [-800.0]]), np.array([0, 2]), np.ones(2), 3
    )
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_ordered_logit_recovers_a_known_truth() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20_000, 2)) * [2.0, 0.5] + [3.0, -1.0]
    z = (x - [3.0, -1.0]) / [2.0, 0.5]
    latent = z @ [0.8, -0.4] + rng.logistic(size=20_000)
    y = np.searchsorted([-2.0, 1.0], latent)
    model = fit_ordered_logit(x, y, class_weights=np.ones(3))
    np.testing.assert_allclose(model.coefficients, [0.8, -0.4], atol=0.05)
    np.testing.assert_allclose(model.thresholds, [-2.0, 1.0], atol=0.06)
    shares = model.probabilities(x).mean(axis=0)
    np.testing.assert_allclose(shares, np.bincount(y) / 20_000, atol=0.003)


def test_ordered_logit_needs_a_case_of_every_class() -> None:
    with pytest.raises(ValueError, match=r"classes have \[0, 2, 1\] cases"):
        fit_ordered_logit(np.zeros((3, 1)), np.array([1, 1, 2]), class_weights=np.ones(3))


def test_ordered_logit_of_two_classes_is_the_logistic_model(cases) -> None:
    binary = replace(cases, y=(cases.y == 2).astype(int), classes=("rest", "increase"))
    ordered, logistic = (evaluate(forecaster, binary).log_loss for forecaster in (ordered_logit, balanced_logistic))
    assert ordered == pytest.approx(logistic, abs=2e-3)


def test_boosting_finds_what_a_linear_model_cannot() -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 8, size=(1200, 2)) - 3.5
    y = 1 + np.sign(x[:, 0] * x[:, 1]).astype(int) * (np.abs(x[:, 0] * x[:, 1]) > 2)
    paper = np.arange(1200) // 3
    train, test = halves(Cases(x, y, paper % 5, paper, ("own_rating", "others_mean"), CLASSES))
    boosted, linear = (forecaster(train, test) for forecaster in (gradient_boosting, balanced_logistic))
    assert np.mean(boosted.labels == test.y) > 0.95
    assert np.mean(linear.labels == test.y) < 0.6
    losses = [log_losses(probabilities(forecast), test.y).mean() for forecast in (boosted, linear)]
    assert losses[0] < 0.3 * losses[1]


def test_boosting_copes_with_a_class_that_one_part_lacks(cases) -> None:
    train, test = halves(cases)
    forecast = gradient_boosting(train.rows(train.y != 0), test)
    assert (probabilities(forecast)[:, 0] == 0).all()
    np.testing.assert_allclose(probabilities(forecast).sum(axis=1), 1.0)


def test_comparison_judges_all_forecasters_on_the_same_reviews(cases) -> None:
    pairs = generate_year(np.random.default_rng(5), num_papers=150).pairs
    table = compare(pairs)
    assert list(table.index) == list(FORECASTERS)
    assert (table["n"] == len(cases.y)).all()
    assert table.loc["majority", "f1_keep"] > 0.5
    assert table.loc["majority", ["f1_decrease", "f1_increase"]].tolist() == [0.0, 0.0]
    assert np.isnan(table.at["regress_to_others", "log_loss"])
    assert table.at["logistic", "log_loss"] < table.at["own_rating", "log_loss"] < table.at["majority", "log_loss"]
    means = table[[f"f1_{name}" for name in CLASSES]].mean(axis=1)
    np.testing.assert_allclose(table["macro_f1"], means)


def test_a_baseline_that_cannot_be_fitted_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    papers = [([3, 5], [5, 5]) if number % 2 else ([5, 6], [5, 6]) for number in range(20)]  # no rating falls
    with caplog.at_level("WARNING", logger="iclr_repro"):
        table = compare(score_pairs(*papers), models=["majority", "ordered_logit", "logistic"])
    assert list(table.index) == ["majority", "logistic"]
    assert "ordered_logit is left out of the comparison: it could not be fitted (classes have [0, " in caplog.text
