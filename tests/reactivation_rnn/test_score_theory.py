from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.reactivation_rnn import invariants
from iclr_repro.reactivation_rnn.experiments import theory
from iclr_repro.reactivation_rnn.invariants import violations
from iclr_repro.reactivation_rnn.score_theory import (
    Bounds,
    GaussianMixture,
    bounds,
    denoising_losses,
    histogram_kl,
    langevin,
    optimal_signal_update,
    stationary_covariance,
)
from support import bare_run

MIXTURE = GaussianMixture(np.array([0.5, 0.2, 0.3]), np.array([[-1.0], [0.0], [1.2]]), 0.35**2)


@given(seed=st.integers(0, 100_000))
@settings(max_examples=30)
def test_identities_hold_on_drawn_cases(seed: int) -> None:
    found = violations(num_draws=500, rng=np.random.default_rng(seed))
    assert found["t1_gradient"] < 1e-6
    assert found["t2_improvement_errors"] < 5.0
    assert abs(found["t2_value_errors"]) < 5.0
    for name in ("t1_tweedie", "t3_excess", "t4_signal", "t5_fixed_point", "t5_limit"):
        assert found[name] < 1e-9, name


def test_sampling_errors_are_those_of_the_samples() -> None:
    """The deviation of the least loss in its standard errors is a standard normal number, whatever the draws."""
    for draws in (100, 3000):
        found = [violations(num_draws=draws, rng=np.random.default_rng(seed))["t2_value_errors"] for seed in range(200)]
        assert np.sqrt(np.square(found).mean()) == pytest.approx(1.0, abs=0.2)


def test_nan_is_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A maximum with 0 must not swallow it."""

    def losses(*args: object, num: int, **options: object) -> np.ndarray:
        return np.full(num, np.nan)

    def chain(**options: object) -> Bounds:
        return Bounds(*[float("nan")] * len(dataclasses.fields(Bounds)))

    monkeypatch.setattr(invariants, "denoising_losses", losses)
    monkeypatch.setattr(invariants, "bounds", chain)
    found = violations(num_draws=10, rng=np.random.default_rng(0))
    for name in ("t2_improvement_errors", "t2_value_errors", "t3_excess", "t4_signal"):
        assert np.isnan(found[name]), name


def test_pooled_errors_are_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of two standard errors in each of 100 cases is one of 20; of either sign it is none."""
    for errors, pooled in (([2.0] * 100, 20.0), ([2.0, -2.0] * 50, 0.0)):
        left = iter(errors)
        monkeypatch.setattr(theory, "violations", lambda left=left, **options: {"t2_value_errors": next(left)})
        metrics = theory.Theory(cases=100, draws=10).run(bare_run(tmp_path)).metrics
        assert metrics["t2_value_errors"] == 2.0
        assert metrics["t2_value_pooled_errors"] == pytest.approx(pooled)


def test_one_component_is_a_gaussian() -> None:
    one = GaussianMixture(np.array([1.0]), np.array([[1.0, 2.0]]), 0.25)
    r = np.array([[1.5, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(one.score(r), (one.means - r) / 0.25)
    np.testing.assert_allclose(one.log_density(r), -np.square(r - one.means).sum(axis=1) / 0.5 - math.log(math.pi / 2))
    drawn = one.sample(100_000, rng=np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(axis=0), [1.0, 2.0], atol=0.01)
    assert drawn.std(axis=0) == pytest.approx([0.5, 0.5], abs=0.01)


def test_far_from_all_components_nothing_underflows() -> None:
    assert np.isfinite(MIXTURE.log_density(np.array([[100.0]])))
    assert MIXTURE.posterior_mean(np.array([[100.0]])) == pytest.approx(1.2)


def test_the_denoising_update_is_the_best() -> None:
    def loss(scale: float) -> float:
        losses = denoising_losses(
            MIXTURE,
            lambda r: scale * MIXTURE.variance * MIXTURE.score(r),
            num=20_000,
            rng=np.random.default_rng(0),
        )
        return float(losses.mean())

    assert loss(1.0) < min(loss(0.8), loss(1.2), loss(0.0))
    assert loss(0.0) == pytest.approx(MIXTURE.variance, rel=0.03)


def test_with_more_outputs_than_units_the_signal_loss_cannot_vanish() -> None:
    """The case of head direction, No = 512 > Nr = 128: the assumption of the theory does not hold literally."""
    rng = np.random.default_rng(0)
    readout, change = rng.normal(size=(5, 3)), rng.normal(size=5)
    options = {
        "readout": readout, "state": np.zeros(3), "target_now": np.zeros(5), "target_next": change,
        "target_change": change, "noise_update": np.zeros((4, 3)), "noise": rng.normal(size=(4, 3)),
    }  # fmt: skip
    found = bounds(**options, signal_update=optimal_signal_update(readout, change))
    assert found.signal > 0.1
    assert found.signal < bounds(**options, signal_update=np.zeros(3)).signal


def test_the_chain_is_an_equality_where_it_should_be() -> None:
    """One output along one unit, one draw: every inequality is tight."""
    found = bounds(
        readout=np.array([[2.0]]), state=np.array([0.5]), target_now=np.array([1.0]), target_next=np.array([1.3]),
        target_change=np.array([0.3]), noise_update=np.array([[0.0]]), signal_update=np.array([0.15]),
        noise=np.array([[0.1]]),
    )  # fmt: skip
    for value in (found.true, found.taylor, found.l2, found.l3, found.upper):
        assert value == pytest.approx(0.2)
    assert found.signal == pytest.approx(0.0, abs=1e-15)


def test_quiescent_covariances_by_simulation() -> None:
    covariance = np.array([[0.5, 0.2], [0.2, 0.3]])
    precision = np.linalg.inv(covariance)
    for factor in (1.0, 2.0, 4.0):
        chains = langevin(
            lambda r: -r @ precision,
            np.random.default_rng(0).multivariate_normal(np.zeros(2), covariance, size=4000),
            step=0.05,
            factor=factor,
            num_steps=300,
            dropped=299,
            rng=np.random.default_rng(1),
        )[0]
        expected = stationary_covariance(covariance, factor, step=0.05)
        np.testing.assert_allclose(np.cov(chains.T), expected, atol=0.06 * factor * 0.5)
    np.testing.assert_allclose(stationary_covariance(covariance, 2.0), covariance)


def test_doubled_noise_samples_the_mixture_and_other_noise_its_powers() -> None:
    edges = np.linspace(-3.0, 3.2, 63)
    for factor in (1.0, 2.0, 4.0):
        samples = langevin(
            MIXTURE.score,
            MIXTURE.sample(500, rng=np.random.default_rng(0)),
            step=0.01,
            factor=factor,
            num_steps=1500,
            dropped=500,
            rng=np.random.default_rng(1),
        )
        to_p = histogram_kl(samples, MIXTURE.log_density, edges)
        to_power = histogram_kl(samples, MIXTURE.log_density, edges, power=2 / factor)
        assert to_power < 0.01
        assert (to_p < 0.01) == (factor == 2.0)


def test_the_histogram_of_exact_samples_has_no_divergence() -> None:
    samples = MIXTURE.sample(400_000, rng=np.random.default_rng(0))
    assert histogram_kl(samples, MIXTURE.log_density, np.linspace(-3.0, 3.2, 63)) < 5e-4


def test_what_is_no_distribution_or_no_dynamics_is_refused() -> None:
    with pytest.raises(ValueError, match="expected positive numbers that sum to 1"):
        GaussianMixture(np.array([0.5, 0.6]), np.zeros((2, 1)), 1.0)
    with pytest.raises(ValueError, match=r"variance: got 0.0, expected > 0"):
        GaussianMixture(np.array([1.0]), np.zeros((1, 1)), 0.0)
    with pytest.raises(ValueError, match=re.escape("expected [K] and [K, d]")):
        GaussianMixture(np.array([1.0]), np.zeros((2, 1)), 1.0)
    with pytest.raises(ValueError, match=re.escape("expected 0 < h < 2 x the least eigenvalue, 2")):
        stationary_covariance(np.eye(2), 2.0, step=3.0)
    with pytest.raises(ValueError, match=r"factor: got -1.0, expected >= 0"):
        stationary_covariance(np.eye(2), -1.0)
    with pytest.raises(ValueError, match="dropped: got 5, expected >= 0 and less than num_steps, 5"):
        langevin(
            MIXTURE.score, np.zeros((2, 1)), step=0.1, factor=2.0, num_steps=5, dropped=5, rng=np.random.default_rng(0)
        )
