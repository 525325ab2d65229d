from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.stats

from iclr_repro.topoformer.baselines import topographic_statistic_by_loop
from iclr_repro.topoformer.brain import smooth_fields
from iclr_repro.topoformer.sheet import squared_distances
from iclr_repro.topoformer.statistic import (
    Kind,
    permutation_p_value,
    topographic_null,
    topographic_statistic,
    unit_correlations,
)


def smooth(num_units: int = 100) -> np.ndarray:
    return smooth_fields(50, num_units, sigma=1.5, rng=np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["rankcorr", "corr", "standard"])
def test_it_is_that_of_the_definition_over_all_ordered_pairs(kind: Kind) -> None:
    x, side = smooth(36), 6
    c, d = np.corrcoef(x.T), np.sqrt(squared_distances(36)) / side
    expected = []
    for m in range(1, 9):
        chosen = (100 * squared_distances(36) <= m * m * 36) & ~np.eye(36, dtype=bool)
        if len(np.unique(d[chosen])) < 2:
            continue
        if kind == "rankcorr":
            expected.append(-scipy.stats.spearmanr(c[chosen], d[chosen]).statistic)
        elif kind == "corr":
            expected.append(-scipy.stats.pearsonr(c[chosen], d[chosen]).statistic)
        else:
            expected.append(np.mean((c[chosen] - c[chosen].mean()) / c[chosen].std() / d[chosen]))
    assert topographic_statistic(x, kind=kind).mean == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_smooth_map_has_much_and_a_shuffled_one_none() -> None:
    x, order = smooth(), np.random.default_rng(1).permutation(100)
    assert topographic_statistic(x).mean > 0.7
    assert abs(topographic_statistic(x[:, order]).mean) < 0.06


def test_the_loop_gives_the_same() -> None:
    x = smooth(49)
    assert topographic_statistic_by_loop(x) == pytest.approx(topographic_statistic(x).mean, abs=1e-12)


@pytest.mark.parametrize("kind", ["rankcorr", "corr", "standard"])
def test_thresholds_without_two_distances_are_skipped(kind: Kind) -> None:
    small = topographic_statistic(smooth(49), kind=kind)
    assert small.thresholds == (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert np.isnan(small.per_threshold[:2]).all()
    assert topographic_statistic(smooth(400), kind=kind).thresholds[0] == 0.1
    assert topographic_statistic(smooth(100), kind=kind).thresholds[0] == 0.2


@pytest.mark.parametrize("kind", ["rankcorr", "corr", "standard"])
def test_correlations_that_are_all_equal_are_refused(kind: Kind) -> None:
    """Units that differ by scale and offset alone: every pair has correlation 1, up to rounding."""
    x = np.random.default_rng(0).normal(size=(20, 1)) * np.arange(1.0, 37.0) + np.arange(36.0)
    with pytest.raises(ValueError, match="correlations: all pairs of units have the correlation 1, so that t_g is"):
        topographic_statistic(x, kind=kind)


def test_float_distances_split_ties() -> None:
    x = smooth(400)
    exact, rounded = topographic_statistic(x), topographic_statistic(x, distances="float")
    assert 0 < abs(exact.mean - rounded.mean) < 0.02


def test_a_constant_unit_has_correlation_zero() -> None:
    x = smooth(36)
    x[:, 3] = 0.1
    c = unit_correlations(x)
    assert (c[3] == 0).all()
    assert np.isfinite(topographic_statistic(x).mean)


def test_the_null_of_a_smooth_map_is_around_zero() -> None:
    x = smooth()
    null = topographic_null(x, permutations=40, rng=np.random.default_rng(0))
    assert null.shape == (40,)
    assert abs(null.mean()) < 0.02
    assert permutation_p_value(topographic_statistic(x).mean, null) == pytest.approx(1 / 41)
    assert permutation_p_value(2.0, np.array([1.0, 2.0, 3.0])) == 0.75


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((5, 36)), "activations: all units are constant over the examples"),
        (np.full((5, 36), 0.1), "activations: all units are constant"),
        (
            np.full((5, 36), np.nan),
            "activations: 180 values are NaN or infinite: the model that made them has diverged",
        ),
        (np.ones((1, 36)), "activations: got 1 examples, expected at least 2"),
        (np.random.default_rng(0).random((5, 4)), "a sheet of 4 units has too few distances for t_g"),
        (np.random.default_rng(0).random((5, 35)), "num_units: got 35, expected a perfect square"),
    ],
)
def test_bad_activations_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        topographic_statistic(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "spearman"}, "kind: got 'spearman', expected one of rankcorr, corr, standard"),
        ({"distances": "integer"}, "distances: got 'integer', expected one of exact, float"),
    ],
)
def test_an_unknown_form_is_refused(options: dict[str, str], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        topographic_statistic(np.random.default_rng(0).normal(size=(20, 16)), **options)  # type: ignore[arg-type]
