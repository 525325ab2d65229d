"""The identities T1 to T5 of the theory on drawn cases, as violations that are 0 up to rounding (sheet 2.1)."""

from __future__ import annotations

import numpy as np

from iclr_repro.reactivation_rnn.score_theory import (
    GaussianMixture,
    bounds,
    denoising_losses,
    optimal_signal_update,
    stationary_covariance,
)

# np.max keeps NaN, which Python's max(0.0, nan) would turn into 0.


def violations(*, num_draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Draw a case of each identity and return by how much it is violated.

    t1: Tweedie, against a numerical gradient of log p (relative, 1e-6 is its accuracy) and against E[mu | r] - r.
    t2: by how much another update than dr1* lowers the loss (0: none does), and how far the least loss is from
        d v - v^2 E||grad log p||^2 (signed); both are sampled and in standard errors of the sampled difference.
    t3: by how much a bound of the chain lies below what it bounds. t4: the signal loss at dr2*.
    t5: the fixed point of the Euler recursion, and its limit for small steps.
    """
    num_dims, num_outputs, num_components = int(rng.integers(2, 7)), int(rng.integers(1, 3)), int(rng.integers(2, 8))
    weights = rng.dirichlet(np.ones(num_components)) * 0.9 + 0.1 / num_components
    variance = float(rng.uniform(0.01, 0.2))
    mixture = GaussianMixture(weights, rng.normal(0.0, 0.5, size=(num_components, num_dims)), variance)
    found = _tweedie(mixture, rng)
    found |= _minimiser(mixture, num_draws, rng)
    found |= _chain(num_outputs, num_dims, num_draws, rng)
    found |= _stationary(num_dims, rng)
    return found


def _tweedie(mixture: GaussianMixture, rng: np.random.Generator) -> dict[str, float]:
    r = mixture.sample(20, rng=rng)
    score = mixture.score(r)
    small = 1e-5
    moves = small * np.eye(r.shape[1])
    numerical = np.stack(
        [(mixture.log_density(r + move) - mixture.log_density(r - move)) / (2 * small) for move in moves], axis=1
    )
    denoised = mixture.posterior_mean(r)
    return {
        "t1_gradient": float(np.abs(score - numerical).max() / np.abs(score).max()),
        "t1_tweedie": float(np.abs(mixture.variance * score - (denoised - r)).max()),
    }


def _minimiser(mixture: GaussianMixture, num_draws: int, rng: np.random.Generator) -> dict[str, float]:
    """The same draws for every update, so that their differences are paired."""
    variance, num_dims = mixture.variance, mixture.means.shape[1]
    seed = int(rng.integers(2**63))

    def losses(scale: float, shift: np.ndarray) -> np.ndarray:
        def update(r: np.ndarray) -> np.ndarray:
            return scale * variance * mixture.score(r) + shift

        return denoising_losses(mixture, update, num=num_draws, rng=np.random.default_rng(seed))

    zero = np.zeros(num_dims)
    least = losses(1.0, zero)
    others = [losses(0.5, zero), losses(1.5, zero), losses(1.0, np.full(num_dims, 0.5 * np.sqrt(variance)))]
    r = mixture.sample(num_draws, rng=rng)
    squares = np.square(mixture.score(r)).sum(axis=1)
    predicted = num_dims * variance - variance**2 * squares
    value_error = np.hypot(least.std(ddof=1), predicted.std(ddof=1)) / np.sqrt(num_draws)
    lowered = [least - other for other in others]
    return {
        "t2_improvement_errors": float(
            np.max([0.0, *(by.mean() / by.std(ddof=1) * np.sqrt(num_draws) for by in lowered)])
        ),
        "t2_value_errors": float((least.mean() - predicted.mean()) / value_error),
    }


def _chain(num_outputs: int, num_dims: int, num_draws: int, rng: np.random.Generator) -> dict[str, float]:
    readout = rng.normal(size=(num_outputs, num_dims))
    weights = rng.normal(size=(num_outputs, 2))
    place, change = rng.normal(size=2), 0.1 * rng.normal(size=2)
    now = np.tanh(weights @ place)
    moved = ((1 - now**2)[:, None] * weights) @ change

    def chain(signal_update: np.ndarray) -> tuple[float, float]:
        found = bounds(
            readout=readout,
            state=np.linalg.pinv(readout) @ now,
            target_now=now,
            target_next=np.tanh(weights @ (place + change)),
            target_change=moved,
            noise_update=0.1 * rng.normal(size=(num_draws, num_dims)),
            signal_update=signal_update,
            noise=0.1 * rng.normal(size=(num_draws, num_dims)),
        )
        excess = np.max([found.taylor - found.l2, found.l2 - found.l3, found.l3 - found.upper, 0.0])
        return float(excess), found.signal

    given, _ = chain(0.1 * rng.normal(size=num_dims))
    best, signal = chain(optimal_signal_update(readout, moved))
    return {"t3_excess": float(np.max([given, best])), "t4_signal": signal}


def _stationary(num_dims: int, rng: np.random.Generator) -> dict[str, float]:
    root = rng.normal(size=(num_dims, num_dims))
    covariance = root @ root.T + 0.1 * np.eye(num_dims)
    factor, step = float(rng.uniform(0.5, 4.0)), 0.05 * float(rng.uniform(0.1, 1.0))
    stationary = stationary_covariance(covariance, factor, step=step)
    decay = np.eye(num_dims) - step * np.linalg.inv(covariance)
    again = decay @ stationary @ decay.T + factor * step * np.eye(num_dims)
    limit = stationary_covariance(covariance, factor, step=1e-12)
    scale = float(np.abs(covariance).max())
    return {
        "t5_fixed_point": float(np.abs(stationary - again).max()) / scale,
        "t5_limit": float(np.abs(limit - stationary_covariance(covariance, factor)).max()) / scale,
    }
