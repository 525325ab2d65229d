from __future__ import annotations

import re

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import scipy.stats

from iclr_repro.topoformer.maps import (
    cross_correlation_maps,
    morans_i,
    morans_null,
    pca_maps,
    selectivity_map,
    standardised,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 25))
LABELS = np.arange(40) % 2


def test_selectivity_is_the_t_test_of_positive_minus_negative() -> None:
    x = X + LABELS[:, None] * np.linspace(-1, 1, 25)
    found = selectivity_map(x, LABELS)
    test = scipy.stats.ttest_ind(x[LABELS == 1], x[LABELS == 0])
    np.testing.assert_allclose(found.t, test.statistic)
    np.testing.assert_allclose(found.values, -np.log10(test.pvalue) * np.sign(test.statistic))
    assert (found.significant == (scipy.stats.false_discovery_control(test.pvalue) < 0.05)).all()
    assert found.values[-1] > 0 > found.values[0]


def test_p_values_beyond_floats_are_right() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2)) * [1e-3, 0.4] + (np.arange(1000) % 2)[:, None]
    found = selectivity_map(x, np.arange(1000) % 2)
    assert found.log10_p[0] < -1000
    with mpmath.workdps(30):
        for t, log_p in zip(found.t, found.log10_p, strict=True):
            exact = mpmath.betainc(499, 0.5, 0, mpmath.mpf(998) / (998 + mpmath.mpf(float(t)) ** 2), regularized=True)
            assert log_p == pytest.approx(float(mpmath.log10(exact)), rel=1e-8)


def test_a_constant_unit_is_not_selective() -> None:
    x = X.copy()
    x[:, 2] = 1.0
    found = selectivity_map(x, LABELS)
    assert (found.t[2], found.values[2]) == (0.0, 0.0)
    assert not found.significant[2]


@pytest.mark.parametrize("labels", [np.zeros(40, dtype=int), np.arange(40), np.eye(40, dtype=int)[0]])
def test_groups_need_two_examples(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected only 0 and 1 with at least two examples each"):
        selectivity_map(X, labels)


def test_components_are_eigenvectors_of_the_covariance() -> None:
    found = pca_maps(X, 3)
    covariance = np.cov(X.T)
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(found.explained, values[:3] / values.sum())
    np.testing.assert_allclose(covariance @ found.weights[0], values[0] * found.weights[0])
    np.testing.assert_allclose(found.scores, (X - X.mean(axis=0)) @ found.weights.T)
    assert found.weights[0][np.abs(found.weights[0]).argmax()] > 0


def test_components_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="num_components: got 26 for 40 examples of 25 units, expected 1 to 25"):
        pca_maps(X, 26)
    with pytest.raises(ValueError, match="all examples are equal"):
        pca_maps(np.ones((4, 9)), 1)


@pytest.mark.parametrize("wrap", [True, False])
def test_morans_i_is_that_of_the_definition(wrap: bool) -> None:
    z = X[0] - X[0].mean()
    total = weights = 0.0
    for u in range(25):
        for v in range(25):
            steps = [abs(a - b) for a, b in zip(divmod(u, 5), divmod(v, 5), strict=True)]
            if wrap:
                steps = [min(step, 5 - step) for step in steps]
            if max(steps) == 1:
                total, weights = total + z[u] * z[v], weights + 1
    assert morans_i(X[0], wrap=wrap) == pytest.approx(25 / weights * total / (z @ z))
    np.testing.assert_allclose(np.asarray(morans_i(X, wrap=wrap)).flat[0], morans_i(X[0], wrap=wrap))


def test_alternating_columns_repel() -> None:
    assert morans_i(np.tile([1.0, -1.0], 8)) == pytest.approx(-0.5)


def test_the_null_of_morans_i_is_centred() -> None:
    null = morans_null(X[0], permutations=500, rng=np.random.default_rng(0))
    assert null.mean() == pytest.approx(-1 / 24, abs=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.ones(16), "a map is constant"), (np.arange(4.0), "2 x 2 units have no eight"), (np.arange(8.0), "num_units")],
)
def test_maps_without_morans_i_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        morans_i(values)


def test_cross_correlations_are_those_of_scores_with_units() -> None:
    scores = X[:, :2]
    found = cross_correlation_maps(scores, X)
    np.testing.assert_allclose(found, np.asarray(np.corrcoef(X.T))[:2], atol=1e-12)
    assert (standardised(np.ones((3, 1))) == 0).all()
