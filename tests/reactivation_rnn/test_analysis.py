from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.decomposition

from iclr_repro.reactivation_rnn.analysis import (
    PrincipalComponents,
    angular_steps,
    autocorrelation_time,
    bearing_kl,
    cumulative_variance,
    diffusion_exponent,
    jump_fraction,
    mean_squared_displacement,
    occupied_fraction,
    output_variance,
    reach,
    smooth_share,
    step_distances,
)


def walk(num_steps: int = 400, num: int = 50, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(num_steps, num, 2)), axis=0)


def test_steps_are_lengths() -> None:
    assert step_distances(np.array([[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 4.0]]])).tolist() == [[5.0], [0.0]]
    assert jump_fraction(np.array([[[0.0, 0.0]], [[0.1, 0.0]], [[0.4, 0.0]]]), longer_than=0.2) == 0.5


def test_output_variance_is_the_trace_of_the_covariance_of_each_trajectory() -> None:
    decoded = walk(30, 4)
    expected = np.mean([np.trace(np.cov(decoded[10:, k].T)) for k in range(4)])
    assert output_variance(decoded, dropped=10) == pytest.approx(expected)
    with pytest.raises(ValueError, match="dropped: 29 of 30 steps leaves 1, expected at least 2"):
        output_variance(decoded, dropped=29)


def test_standing_still_has_no_variance_steps_or_diffusion() -> None:
    still = np.full((50, 3, 2), 0.25)
    assert output_variance(still) == 0.0
    assert step_distances(still).max() == 0.0
    assert math.isnan(diffusion_exponent(still, [1, 2, 4]))
    assert autocorrelation_time(still) == 50


def test_principal_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(40, 6, 8)) @ rng.normal(size=(8, 8)) + 3.0
    flat = hidden.reshape(-1, 8)
    reference = sklearn.decomposition.PCA().fit(flat)
    np.testing.assert_allclose(
        cumulative_variance(hidden, num_components=5), np.cumsum(reference.explained_variance_ratio_)[:5]
    )
    components = PrincipalComponents.fit(hidden, num_components=3)
    np.testing.assert_allclose(
        np.abs(components.project(hidden).reshape(-1, 3)), np.abs(reference.transform(flat)[:, :3]), atol=1e-9
    )
    np.testing.assert_allclose(components.variances, reference.explained_variance_[:3])


def test_histograms_of_bearings_are_compared() -> None:
    rng = np.random.default_rng(0)
    uniform = rng.uniform(-np.pi, np.pi, size=100_000)
    assert bearing_kl(rng.uniform(-np.pi, np.pi, size=100_000), uniform) < 1e-3
    assert bearing_kl(uniform / 2, uniform) == pytest.approx(math.log(2), abs=0.01)
    halves = bearing_kl(uniform, uniform / 2)  # half of it where the other never is, half with half of its frequency
    assert halves == pytest.approx(0.5 * math.log(1e7) + 0.5 * math.log(0.5), abs=0.05)
    assert bearing_kl(np.zeros(10), uniform) == pytest.approx(math.log(36), abs=0.01)


def test_turns_go_the_short_way_round() -> None:
    np.testing.assert_allclose(angular_steps(np.array([[3.0], [-3.0], [-2.5]])), [[2 * np.pi - 6.0], [0.5]])


@pytest.mark.parametrize(("held", "share"), [(1, 0.0), (7, 0.0), (50, 0.0)])
def test_held_positions_are_no_smooth_path_however_long_they_are_held(held: int, share: float) -> None:
    places = np.repeat(np.array([0.0, 1.0, 3.0])[:, None, None] * np.ones((1, 4, 2)), held, axis=0)
    assert smooth_share(step_distances(places), longest=0.2) == share


def test_the_smooth_share_is_one_of_length() -> None:
    assert smooth_share(np.array([0.1, 0.1, 0.8]), longest=0.2) == pytest.approx(0.2)
    assert smooth_share(np.zeros(3), longest=0.2) == 0.0


def test_reach_tells_walking_diffusing_trembling_and_holding_apart() -> None:
    def over_ten(decoded: np.ndarray) -> float:
        return reach(step_distances(decoded), step_distances(decoded, lag=10))

    straight = np.arange(100.0)[:, None, None] * np.ones((1, 3, 2))
    assert over_ten(straight) == pytest.approx(10.0)
    assert over_ten(walk()) == pytest.approx(math.sqrt(10) * 0.94, rel=0.03)  # the median of a Rayleigh is 0.94 means
    assert over_ten(np.random.default_rng(0).normal(size=(400, 50, 2))) == pytest.approx(0.94, rel=0.03)
    assert over_ten(np.repeat(walk(20), 20, axis=0)) == 0.0
    assert over_ten(np.ones((30, 2, 2))) == 0.0


def test_a_random_walk_diffuses_and_straight_motion_does_not() -> None:
    lags = [1, 2, 4, 8, 16]
    assert diffusion_exponent(walk(), lags) == pytest.approx(1.0, abs=0.05)
    straight = np.arange(100.0)[:, None, None] * np.ones((1, 3, 2))
    assert diffusion_exponent(straight, lags) == pytest.approx(2.0)
    np.testing.assert_allclose(mean_squared_displacement(straight, [3]), [18.0])


def test_the_autocorrelation_time_of_an_autoregression() -> None:
    """Correlation 0.9^lag falls below 1/e at lag 10."""
    noise = np.random.default_rng(0).normal(size=(2000, 100, 1))
    values = np.zeros_like(noise)
    for t in range(1, len(noise)):
        values[t] = 0.9 * values[t - 1] + noise[t]
    assert autocorrelation_time(values[200:]) in (9, 10, 11)


def test_visited_bins_are_counted_once() -> None:
    decoded = np.array([[[0.0, 0.0]], [[0.01, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]], [[9.0, 9.0]]])
    assert occupied_fraction(decoded) == pytest.approx(2 / 121)  # what is outside counts to the outermost bin
