from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.stats

from iclr_repro.reactivation_rnn.baselines import scipy_pdf
from iclr_repro.reactivation_rnn.density import (
    KernelDensity,
    RaisedDensity,
    jittered,
    kl_divergence,
    kl_from_uniform,
    scott_factor,
    thinned,
)
from iclr_repro.reactivation_rnn.experiments.spatial import density_of


def normal(num: int, std: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, std, size=(num, 2))


@pytest.mark.parametrize("num_dims", [1, 2, 3])
@pytest.mark.parametrize("factor", [None, 0.13])
def test_densities_are_those_of_scipy(num_dims: int, factor: float | None) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3000, num_dims)) @ rng.normal(size=(num_dims, num_dims)) + 5.0
    at = np.concatenate([points[:50], rng.normal(size=(50, num_dims)) * 10])
    expected = scipy.stats.gaussian_kde(points.T, bw_method=factor)(at.T)
    found = KernelDensity(points, factor=factor).pdf(at)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)


def test_exponentials_in_single_precision_agree_to_1e_6_and_leave_a_floor_far_away() -> None:
    points, at = normal(5000, 0.4, 0), normal(300, 0.4, 1)
    density = KernelDensity(points)
    np.testing.assert_allclose(density.pdf(at, single=True), density.pdf(at), rtol=1e-6)
    away = np.stack([np.linspace(1.0, 3.0, 50), np.zeros(50)], axis=1)
    np.testing.assert_allclose(density.pdf(away, single=True), density.pdf(away), rtol=5e-6, atol=1e-33)
    far = np.full((1, 2), 100.0)
    assert density.pdf(far)[0] == 0.0
    assert 0.0 < density.pdf(far, single=True)[0] < 1e-30


def test_chunks_make_no_difference() -> None:
    """20,000 data points leave 100 places a chunk; 300 places are three."""
    points, at = normal(20_000, 0.4, 0), normal(300, 0.4, 1)
    np.testing.assert_allclose(KernelDensity(points).pdf(at), scipy_pdf(points, at), rtol=1e-9)


def test_samples_have_the_covariance_of_the_density() -> None:
    points = normal(500, 1.0, 0) @ np.array([[1.0, 0.5], [0.0, 0.3]])
    density = KernelDensity(points, factor=0.5)
    drawn = density.sample(200_000, rng=np.random.default_rng(1))
    expected = np.cov(points, rowvar=False, ddof=0) + 0.25 * np.cov(points, rowvar=False)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), expected, atol=0.02)
    np.testing.assert_allclose(drawn.mean(axis=0), points.mean(axis=0), atol=0.02)


def test_kl_of_two_gaussians() -> None:
    """KL(N(0, s^2) || N(0, t^2)) in two dimensions is s^2/t^2 - 1 - log(s^2/t^2)."""
    q, p = KernelDensity(normal(20_000, 0.3, 0)), KernelDensity(normal(20_000, 0.5, 1))
    ratio = (0.3 / 0.5) ** 2
    found = kl_divergence(q, p, rng=np.random.default_rng(2), num_samples=5000)
    assert found == pytest.approx(ratio - 1 - math.log(ratio), abs=0.03)
    same = kl_divergence(q, KernelDensity(normal(20_000, 0.3, 3)), rng=np.random.default_rng(2), num_samples=5000)
    assert abs(same) < 0.01


def test_the_official_uniform_row_is_too_high_by_the_logarithm_of_the_side() -> None:
    p = KernelDensity(np.random.default_rng(0).uniform(-1.1, 1.1, size=(20_000, 2)))
    corrected, official = (
        kl_from_uniform(p, side_m=2.2, rng=np.random.default_rng(1), official=official) for official in (False, True)
    )
    assert official - corrected == pytest.approx(math.log(2.2), abs=1e-12)
    assert 0.0 < corrected < 0.2  # the kernels blur the walls


def test_distributions_apart_reach_the_clip() -> None:
    q, p = KernelDensity(normal(1000, 1e-4, 0)), KernelDensity(normal(1000, 1e-4, 1) + 1.0)
    assert kl_divergence(q, p, rng=np.random.default_rng(0)) == pytest.approx(math.log(1e7))


def test_a_raised_density_is_normalised() -> None:
    p = KernelDensity(normal(5000, 0.3, 0))
    squared = RaisedDensity(p, 2.0, side_m=4.0)
    at = normal(2000, 0.2, 1)
    expected = scipy.stats.multivariate_normal(np.zeros(2), 0.3**2 * (1 + p.factor**2) / 2 * np.eye(2)).pdf(at)
    np.testing.assert_allclose(squared.pdf(at).mean(), expected.mean(), rtol=0.05)
    np.testing.assert_allclose(RaisedDensity(p, 1.0, side_m=4.0).pdf(at), p.pdf(at), rtol=1e-3)
    with pytest.raises(ValueError, match=r"power: got 0.0, expected > 0"):
        RaisedDensity(p, 0.0, side_m=4.0)


def test_what_has_no_density_is_refused() -> None:
    with pytest.raises(ValueError, match="their covariance is singular, they lie on a line or a point"):
        KernelDensity(np.zeros((100, 2)))
    with pytest.raises(ValueError, match=re.escape("points: got shape (2, 2), expected [n, d] with n > d")):
        KernelDensity(np.zeros((2, 2)))
    broken = normal(10, 1.0, 0)
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="points: 1 of them are NaN or infinite"):
        KernelDensity(broken)


def test_a_pool_that_stands_still_gets_a_jitter_and_others_none() -> None:
    still = density_of(np.ones((100, 5, 2)), num=200, rng=np.random.default_rng(0))
    assert still.points.std(axis=0) == pytest.approx(1e-4, rel=0.2)
    pool = normal(500, 0.3, 0).reshape(100, 5, 2)
    assert (density_of(pool, num=None, rng=np.random.default_rng(0)).points == pool.reshape(-1, 2)).all()


def test_a_thinned_pool_keeps_the_bandwidth_of_all_of_it() -> None:
    pool = normal(5000, 0.3, 0).reshape(100, 50, 2)
    density = density_of(pool, num=400, rng=np.random.default_rng(0))
    assert len(density.points) == 400
    assert density.factor == scott_factor(5000, 2)
    assert len(np.unique(thinned(pool.reshape(-1, 2), 400, rng=np.random.default_rng(0)), axis=0)) == 400
    assert jittered(np.zeros((9, 2)), std=1.0, rng=np.random.default_rng(0)).std() > 0.5


@pytest.mark.parametrize("factor", [0.0, -0.1, float("nan"), float("inf")])
def test_a_bandwidth_that_is_none_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=f"factor: got {factor}, expected a number > 0"):
        KernelDensity(np.random.default_rng(0).normal(size=(10, 2)), factor=factor)
