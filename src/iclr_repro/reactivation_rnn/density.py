"""Kernel densities of decoded positions, and how far apart two of them are (sheet 2.6).

The estimate is that of `scipy.stats.gaussian_kde`: Gaussian kernels with the covariance of the data times the square of
a factor, n^(-1/(d+4)) by default (Scott). Shape letters: n = data points, m = points of evaluation, d = dimensions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float

RATIO_CLIP = 1e7  # of the density ratio, both ways: the authors' code
_ROWS, _COLUMNS = 128, 2048  # kernels that are evaluated together: they fit into the cache
_LEAST_EXPONENT = -87.0  # of float32, whose exponential is slow below its least normal number, exp(-87.3)


def scott_factor(num_points: int, num_dims: int) -> float:
    """Return Scott's bandwidth factor, n^(-1/(d+4)). Example: 0.192 for 20,000 points in 2 dimensions."""
    return float(num_points ** (-1 / (num_dims + 4)))


class KernelDensity:
    """A Gaussian kernel density in float64, evaluated in blocks by matrix products.

    Args:
        points: data [n, d], finite, n > d.
        factor: of the bandwidth; None: Scott's for n. Where `points` is a sample of a pool, give the pool's factor, so
            that results can be compared.

    Raises:
        ValueError: `factor` is not positive; the data are of another form, not finite, or all on a line or a point
            (their covariance is singular: add a small jitter, as `jittered` does).
    """

    def __init__(self, points: Float[np.ndarray, "n d"], *, factor: float | None = None) -> None:
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or len(points) <= points.shape[1]:
            raise ValueError(f"points: got shape {points.shape}, expected [n, d] with n > d")
        if not np.isfinite(points).all():
            raise ValueError(f"points: {int((~np.isfinite(points)).any(axis=1).sum())} of them are NaN or infinite")
        if factor is not None and not (math.isfinite(factor) and factor > 0.0):
            raise ValueError(f"factor: got {factor}, expected a number > 0")
        num_points, self.num_dims = points.shape
        self.factor = scott_factor(num_points, self.num_dims) if factor is None else factor
        covariance = np.atleast_2d(np.cov(points, rowvar=False)) * self.factor**2
        try:
            self._root = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "points: their covariance is singular, they lie on a line or a point (a frozen network?); "
                "add a small jitter with `jittered`"
            ) from error
        self.points = points
        self._scale = np.linalg.inv(self._root).T
        # a b - |a|^2 / 2 - |b|^2 / 2 is one product of (a, -|a|^2 / 2, 1) and (b, 1, -|b|^2 / 2).
        white = torch.from_numpy((points - points.mean(axis=0)) @ self._scale)
        halves = white.square().sum(dim=1, keepdim=True) / -2
        columns = torch.cat([white, torch.ones_like(halves), halves], dim=1).T
        self._columns = [part.contiguous() for part in columns.split(_COLUMNS, dim=1)]
        self._log_norm = math.log(num_points) + self.num_dims / 2 * math.log(2 * math.pi)
        self._log_norm += float(np.log(np.diag(self._root)).sum())

    def pdf(self, at: Float[np.ndarray, "m d"], *, single: bool = False) -> Float[np.ndarray, " m"]:
        """Return the density at points, per unit of the data's volume (1/m^2 for positions); 0 where it underflows.

        Args:
            at: [m, d].
            single: compute the exponents in float64 and their exponentials in float32. That is faster. The relative
                error of a kernel is about 1e-7 near its centre and grows with the exponent to 5e-6, and no kernel
                falls below exp(-87) = 2e-38 of its peak, however far away it is.
        """
        white = torch.from_numpy((np.asarray(at, dtype=np.float64) - self.points.mean(axis=0)) @ self._scale)
        halves = white.square().sum(dim=1, keepdim=True) / -2
        rows = torch.cat([white, halves, torch.ones_like(halves)], dim=1)
        sums = torch.zeros(len(rows), dtype=torch.float64)
        for part, of_part in zip(rows.split(_ROWS), sums.split(_ROWS), strict=True):
            for columns in self._columns:
                exponents = part @ columns
                if single:
                    exponents = exponents.float().clamp_(min=_LEAST_EXPONENT)
                of_part += exponents.exp_().sum(dim=1)
        return (sums * math.exp(-self._log_norm)).numpy()

    def sample(self, num: int, *, rng: np.random.Generator) -> Float[np.ndarray, "num d"]:
        """Draw from the density: a data point, and a Gaussian of the kernel's covariance."""
        chosen = self.points[rng.integers(len(self.points), size=num)]
        return chosen + rng.standard_normal((num, self.num_dims)) @ self._root.T


class RaisedDensity:
    """p^power / Z of a kernel density on the plane, Z by the midpoint rule on a square grid.

    With power 2/c it is what quiescence with variance factor c should sample.

    Args:
        density: p, of two dimensions.
        power: > 0.
        side_m: of the square, centred at 0, that holds nearly all of p.
        num: midpoints a side.
    """

    def __init__(self, density: KernelDensity, power: float, *, side_m: float, num: int = 120) -> None:
        if not power > 0.0:
            raise ValueError(f"power: got {power}, expected > 0")
        self._density, self._power = density, power
        middles = side_m * ((np.arange(num) + 0.5) / num - 0.5)
        grid = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
        self._norm = float((density.pdf(grid) ** power).sum() * (side_m / num) ** 2)

    def pdf(self, at: Float[np.ndarray, "m d"], *, single: bool = False) -> Float[np.ndarray, " m"]:
        """Return the density at points; see `KernelDensity.pdf`."""
        return np.asarray(self._density.pdf(at, single=single) ** self._power / self._norm)


def kl_divergence(
    quiescent: KernelDensity,
    active: KernelDensity | RaisedDensity,
    *,
    rng: np.random.Generator,
    num_samples: int = 2500,
) -> float:
    """Estimate KL(q || p) in nats: the mean over x ~ q of log clip(q(x) / p(x), 1e-7, 1e7).

    It can be slightly negative for equal distributions, and is at most 16.1. Source: suppl. A.2, the authors' code.
    """
    samples = quiescent.sample(num_samples, rng=rng)
    return mean_log_ratio(quiescent.pdf(samples, single=True), active.pdf(samples, single=True))


def kl_from_uniform(
    active: KernelDensity, *, side_m: float, rng: np.random.Generator, num_samples: int = 2500, official: bool = False
) -> float:
    """Estimate KL(u || p) in nats of the uniform distribution on a square box.

    Args:
        active: p.
        side_m: side of the box, centred at 0.
        rng: of the samples.
        num_samples: of u.
        official: take 1/side for its density, as the authors' code does by mistake, in place of 1/side^2: too high by
            log(side), 0.788 nats for 2.2 m, where no ratio is clipped.
    """
    samples = rng.uniform(-side_m / 2, side_m / 2, size=(num_samples, 2))
    density = 1 / side_m if official else 1 / side_m**2
    return mean_log_ratio(np.full(num_samples, density), active.pdf(samples, single=True))


def mean_log_ratio(q: Float[np.ndarray, " m"], p: Float[np.ndarray, " m"]) -> float:
    """Return the mean of log clip(q / p, 1e-7, 1e7); where p underflows to 0 the ratio is 1e7.

    Example: q = [2, 1], p = [1, 0] gives (log 2 + log 1e7) / 2 = 8.41.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(p > 0.0, q / p, np.inf)
    return float(np.log(np.clip(ratio, 1 / RATIO_CLIP, RATIO_CLIP)).mean())


def jittered(points: Float[np.ndarray, "n d"], *, std: float, rng: np.random.Generator) -> Float[np.ndarray, "n d"]:
    """Return points with independent Gaussian noise: where a network stands still, all of them are one."""
    return points + rng.normal(0.0, std, size=points.shape)


def thinned(points: Float[np.ndarray, "n d"], num: int, *, rng: np.random.Generator) -> Float[np.ndarray, "m d"]:
    """Return `num` of the points at random, or all where there are no more."""
    return points if len(points) <= num else points[rng.choice(len(points), size=num, replace=False)]
