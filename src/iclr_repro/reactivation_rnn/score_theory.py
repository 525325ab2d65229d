"""The theory of the paper in float64: score, chain of bounds, minimisers, Langevin sampling (sheet 2.1).

Symbols as in the paper: r the state, D the readout, eta ~ N(0, dt I), f the target, J its Jacobian, ds_ = (ds/dt) dt.
Shape letters: K = components, d = dimensions, m = points, E = draws of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special
from jaxtyping import Float

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """p(r) = sum_k w_k N(r; mu_k, v I): what states look like around denoised ones (Eq. 16, v = sigma^2 dt).

    Attributes:
        weights: w [K], positive, sum 1.
        means: mu [K, d].
        variance: v > 0.

    Raises:
        ValueError: weights that are no distribution, means of another shape, or v <= 0.
    """

    weights: np.ndarray
    means: np.ndarray
    variance: float

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        if self.means.ndim != 2 or self.weights.shape != self.means.shape[:1]:
            raise ValueError(
                f"mixture: weights {self.weights.shape}, means {self.means.shape}; expected [K] and [K, d]"
            )
        if not (np.all(self.weights > 0.0) and math.isclose(self.weights.sum(), 1.0, rel_tol=1e-9)):
            raise ValueError(f"weights: got {self.weights.tolist()}, expected positive numbers that sum to 1")
        if not self.variance > 0.0:
            raise ValueError(f"variance: got {self.variance}, expected > 0")

    def log_density(self, r: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " m"]:
        """Return log p."""
        num_dims = self.means.shape[1]
        norm = 0.5 * num_dims * math.log(2 * math.pi * self.variance)
        return np.asarray(scipy.special.logsumexp(self._exponents(r), axis=1)) - norm

    def posterior_mean(self, r: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
        """Return E[mu | r]: the denoised state."""
        return np.asarray(scipy.special.softmax(self._exponents(r), axis=1) @ self.means)

    def score(self, r: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
        """Return grad log p(r) = (E[mu | r] - r) / v (Miyasawa, Tweedie)."""
        return (self.posterior_mean(r) - r) / self.variance

    def sample(self, num: int, *, rng: np.random.Generator) -> Float[np.ndarray, "m d"]:
        """Draw states."""
        chosen = self.means[rng.choice(len(self.weights), size=num, p=self.weights)]
        return np.asarray(chosen + rng.normal(0.0, math.sqrt(self.variance), size=chosen.shape))

    def _exponents(self, r: np.ndarray) -> np.ndarray:
        squares = np.square(r[:, None, :] - self.means).sum(axis=-1)
        return np.asarray(np.log(self.weights) - squares / (2 * self.variance))


def denoising_losses(
    mixture: GaussianMixture, update: Function, *, num: int, rng: np.random.Generator
) -> Float[np.ndarray, " num"]:
    """Return ||dr1(r) + sigma eta||^2 = ||r + dr1(r) - mu||^2 for draws of r = mu + sigma eta (T2).

    The minimiser of its mean is dr1* = v grad log p, the least value d v - v^2 E ||grad log p||^2.
    """
    chosen = mixture.means[rng.choice(len(mixture.weights), size=num, p=mixture.weights)]
    r = chosen + rng.normal(0.0, math.sqrt(mixture.variance), size=chosen.shape)
    return np.asarray(np.square(r + update(r) - chosen).sum(axis=1))


@dataclass(frozen=True)
class Bounds:
    """The chain L_taylor <= L2 <= L3 <= L_upper, and the two parts of the last (Eqs. 7-14)."""

    true: float
    taylor: float
    l2: float
    l3: float
    upper: float
    signal: float


def bounds(
    *,
    readout: Float[np.ndarray, "o d"],
    state: Float[np.ndarray, " d"],
    target_now: Float[np.ndarray, " o"],
    target_next: Float[np.ndarray, " o"],
    target_change: Float[np.ndarray, " o"],
    noise_update: Float[np.ndarray, "E d"],
    signal_update: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, "E d"],
) -> Bounds:
    """Evaluate the losses of one step, the expectation being the mean over the given draws.

    The chain holds exactly for any draws where D has full row rank and r = D^+ f(s).

    Args:
        readout: D.
        state: r = D^+ f(s).
        target_now: f(s).
        target_next: f(s + ds_).
        target_change: J ds_, to first order.
        noise_update: dr1 for each draw.
        signal_update: dr2.
        noise: sigma eta, a draw a row.
    """
    norm = np.linalg.norm
    moved = state + noise_update + signal_update + noise
    rest = noise_update + noise
    signal = float(norm(target_change - readout @ signal_update))
    spectral = float(norm(readout, ord=2))
    return Bounds(
        true=float(norm(target_next - moved @ readout.T, axis=1).mean()),
        taylor=float(norm(target_now + target_change - moved @ readout.T, axis=1).mean()),
        l2=signal + float(norm(rest @ readout.T, axis=1).mean()),
        l3=signal + spectral * float(norm(rest, axis=1).mean()),
        upper=signal + spectral * math.sqrt(float(np.square(rest).sum(axis=1).mean())),
        signal=signal,
    )


def optimal_signal_update(
    readout: Float[np.ndarray, "o d"], target_change: Float[np.ndarray, " o"]
) -> Float[np.ndarray, " d"]:
    """Return dr2* = D^+ J ds_ (Eq. 17). Its loss is 0 where D has full row rank, not with more outputs than units."""
    return np.asarray(np.linalg.pinv(readout) @ target_change)


def stationary_covariance(
    covariance: Float[np.ndarray, "d d"], factor: float, *, step: float | None = None
) -> Float[np.ndarray, "d d"]:
    """Return the stationary covariance of the quiescent dynamics of a Gaussian p with covariance S (T5).

    Continuous time: (c/2) S. Euler steps h = sigma^2 dt: an eigenvalue lam becomes c lam / (2 - h / lam).

    Args:
        covariance: S.
        factor: c, by which the noise variance is multiplied in quiescence; 2 gives S itself in continuous time.
        step: h; None: continuous time.

    Raises:
        ValueError: c < 0, or a step at which the recursion is unstable, h >= 2 lam.
    """
    if not factor >= 0.0:
        raise ValueError(f"factor: got {factor}, expected >= 0")
    if step is None:
        return np.asarray(factor / 2 * covariance)
    values, vectors = np.linalg.eigh(covariance)
    if not 0.0 < step < 2 * values.min():
        raise ValueError(f"step: got {step}, expected 0 < h < 2 x the least eigenvalue, {2 * values.min():g}")
    return np.asarray((vectors * (factor * values / (2 - step / values))) @ vectors.T)


def langevin(
    score: Function,
    start: Float[np.ndarray, "m d"],
    *,
    step: float,
    factor: float,
    num_steps: int,
    rng: np.random.Generator,
    dropped: int = 0,
) -> Float[np.ndarray, "T m d"]:
    """Run the quiescent dynamics r <- r + h grad log p(r) + sqrt(c h) N(0, I) (Eq. 19, Euler).

    For c = 2 this samples p for small h; for another c it samples p^{2/c}, normalised.

    Args:
        score: grad log p.
        start: a chain a row.
        step: h = sigma^2 dt.
        factor: c >= 0.
        num_steps: of each chain.
        rng: of the noise.
        dropped: first steps that are not returned.

    Raises:
        ValueError: c < 0, or nothing is left.
    """
    if not factor >= 0.0:
        raise ValueError(f"factor: got {factor}, expected >= 0")
    if not 0 <= dropped < num_steps:
        raise ValueError(f"dropped: got {dropped}, expected >= 0 and less than num_steps, {num_steps}")
    scale = math.sqrt(factor * step)
    kept = np.empty((num_steps - dropped, *start.shape))
    r = start
    for t in range(num_steps):
        r = r + step * score(r) + scale * rng.standard_normal(r.shape)
        if t >= dropped:
            kept[t - dropped] = r
    return kept


def histogram_kl(
    samples: np.ndarray, log_density: Function, edges: Float[np.ndarray, " n"], *, power: float = 1.0, fine: int = 20
) -> float:
    """Return KL(histogram of samples || p^power) in nats over the bins, p integrated over each by the midpoint rule.

    Args:
        samples: of one dimension.
        log_density: log p of points [m, 1], up to a constant.
        edges: of the bins; samples outside do not count.
        power: 2/c for the quiescent dynamics with variance factor c.
        fine: points of the rule in a bin.
    """
    counts, _ = np.histogram(samples, bins=edges)
    q = counts / counts.sum()
    within = (np.arange(fine) + 0.5) / fine
    points = edges[:-1, None] + np.diff(edges)[:, None] * within
    logs = power * log_density(points.reshape(-1, 1)).reshape(points.shape)
    mass = np.exp(logs - logs.max()).mean(axis=1) * np.diff(edges)
    p = mass / mass.sum()
    visited = q > 0
    return float((q[visited] * np.log(q[visited] / p[visited])).sum())
