"""Tests of the multinomial logistic regression against the objective that it states."""

import numpy as np
import pytest
from scipy.special import softmax

from iclr_repro.review_insights.softmax import centred, fit_softmax


def random_problem(num_classes: int = 3, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, 2] and classes [n] that depend on them."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 2))
    logits = z @ rng.normal(size=(2, num_classes)) + [0.0, 1.5, 0.5][:num_classes]
    y = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return z * [1.0, 3.0] + [5.0, -2.0], y


def balanced(y: np.ndarray, num_classes: int) -> np.ndarray:
    return len(y) / (num_classes * np.bincount(y, minlength=num_classes))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fit_is_the_minimum_of_the_objective_of_the_sheet(num_classes: int) -> None:
    x, y = random_problem(num_classes)
    weights = balanced(y, num_classes)
    model = fit_softmax(x, y, class_weights=weights)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    probabilities = softmax(z @ model.weights + model.intercepts, axis=1)
    residual = weights[y][:, None] * (probabilities - np.eye(num_classes)[y])
    np.testing.assert_allclose(z.T @ residual + model.weights, 0.0, atol=2e-3)
    np.testing.assert_allclose(residual.sum(axis=0), 0.0, atol=2e-3)
    np.testing.assert_allclose(model.weights.sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(model.probabilities(x), probabilities)


def test_case_weights_count_like_repeated_cases() -> None:
    x, y = random_problem(n=80)
    times = np.random.default_rng(1).integers(0, 3, 80)
    weighted = fit_softmax(x, y, class_weights=np.ones(3), case_weights=times.astype(float))
    repeated = fit_softmax(np.repeat(x, times, axis=0), np.repeat(y, times), class_weights=np.ones(3))
    np.testing.assert_allclose(weighted.weights, repeated.weights, atol=1e-4)
    np.testing.assert_allclose(weighted.mean, repeated.mean)


def test_a_class_absent_from_training_gets_probability_zero() -> None:
    x, y = random_problem()
    model = fit_softmax(x[y != 0], y[y != 0], class_weights=np.array([0.0, 0.5, 2.0]))
    probabilities = model.probabilities(x)
    assert (probabilities[:, 0] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (model.weights[:, 0] == 0).all()


def test_a_class_absent_from_training_is_the_limit_of_a_vanishing_one() -> None:
    x, y = random_problem()
    vanishing = fit_softmax(x, y, class_weights=np.array([1e-7, 1.0, 1.0]))
    absent = fit_softmax(x[y != 0], y[y != 0], class_weights=np.array([0.0, 1.0, 1.0]))
    z = np.diff(vanishing.weights[:, 1:] / vanishing.std[:, None], axis=1)
    np.testing.assert_allclose(z, np.diff(absent.weights[:, 1:] / absent.std[:, None], axis=1), rtol=0.02)


def test_training_data_of_one_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"all training reviews are of class \[1\]"):
        fit_softmax(np.zeros((4, 1)), np.ones(4, dtype=int), class_weights=np.ones(3))


def test_a_constant_feature_does_no_harm() -> None:
    x, y = random_problem()
    model = fit_softmax(np.column_stack([x, np.full(len(y), 4.0)]), y, class_weights=np.ones(3))
    np.testing.assert_allclose(model.weights[2], 0.0, atol=1e-6)


def test_centring_shifts_each_feature() -> None:
    np.testing.assert_allclose(centred(np.array([[2.0, 3.0, 7.0]])), [[-2.0, -1.0, 3.0]])
