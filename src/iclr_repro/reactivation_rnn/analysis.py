"""What is measured on decoded positions, bearings and hidden states (sheet 2.6, 10.2).

Shape letters: T = steps, B = trajectories, D = dimensions of the decoded variable, N = units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from iclr_repro.core.statistics import log_log_slopes
from iclr_repro.reactivation_rnn.density import RATIO_CLIP
from iclr_repro.reactivation_rnn.trajectories import wrap_angle


def step_distances(decoded_TBD: Float[np.ndarray, "T B D"], *, lag: int = 1) -> Float[np.ndarray, "T1 B"]:
    """Return how far apart positions are that lie `lag` steps apart. Example: (0, 0), (3, 4) gives 5."""
    return np.asarray(np.linalg.norm(decoded_TBD[lag:] - decoded_TBD[:-lag], axis=-1))


def smooth_share(steps: np.ndarray, *, longest: float) -> float:
    """Return the share of the length of all paths that is covered in steps of at most `longest`; 0 where nothing moves.

    A walk has 1, positions that are held and then exchanged for others have nearly 0, however long they are held.
    Example: steps 0.1, 0.1 and 0.8 with `longest` 0.2 give 0.2.
    """
    total = float(steps.sum())
    return float(steps[steps <= longest].sum()) / total if total > 0.0 else 0.0


def reach(steps: np.ndarray, far: np.ndarray) -> float:
    """Return the median distance over several steps in mean steps: how far one gets; 0 where nothing moves.

    Over ten steps: 10 straight on, about 3 (sqrt 10) for a diffusing walk, 1 for trembling on the spot, and 0 for
    positions that are mostly held as long. The median does not see rare leaps.

    Args:
        steps: lengths of single steps.
        far: lengths over several steps.
    """
    mean = float(steps.mean())
    return float(np.median(far)) / mean if mean > 0.0 else 0.0


def output_variance(decoded_TBD: Float[np.ndarray, "T B D"], *, dropped: int = 0) -> float:
    """Return the trace of the covariance (ddof 1) of each trajectory's positions, averaged over trajectories.

    For bearings this ignores that they are circular, as the authors' code does.

    Args:
        decoded_TBD: positions.
        dropped: steps at the beginning that do not count; the paper drops 1000 of 2000.

    Raises:
        ValueError: fewer than two steps are left.
    """
    kept = decoded_TBD[dropped:]
    if len(kept) < 2:
        raise ValueError(f"dropped: {dropped} of {len(decoded_TBD)} steps leaves {len(kept)}, expected at least 2")
    return float(kept.var(axis=0, ddof=1).sum(axis=-1).mean())


def jump_fraction(decoded_TBD: Float[np.ndarray, "T B D"], *, longer_than: float) -> float:
    """Return the share of steps longer than `longer_than`: where the bump of activity is gone, decoding jumps."""
    return float((step_distances(decoded_TBD) > longer_than).mean())


def cumulative_variance(hidden_TBN: Float[np.ndarray, "T B N"], *, num_components: int = 10) -> Float[np.ndarray, " K"]:
    """Return the share of the states' variance in the first 1, 2, ... principal components (Fig. 1c)."""
    states = hidden_TBN.reshape(-1, hidden_TBN.shape[-1]).astype(np.float64)
    variances = np.linalg.eigvalsh(np.cov(states, rowvar=False))[::-1]
    return np.asarray(np.cumsum(variances[:num_components]) / variances.sum())


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """The axes of largest variance of one set of states, on which another can be looked at, too.

    Attributes:
        mean: [N].
        axes: [N, K], orthonormal, the largest variance first.
        variances: [K].
    """

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray

    @classmethod
    def fit(cls, hidden_TBN: Float[np.ndarray, "T B N"], *, num_components: int = 2) -> PrincipalComponents:
        """Fit on states, pooled over time and trajectories."""
        states = hidden_TBN.reshape(-1, hidden_TBN.shape[-1]).astype(np.float64)
        variances, axes = np.linalg.eigh(np.cov(states, rowvar=False))
        last = slice(None, -num_components - 1, -1)
        return cls(states.mean(axis=0), axes[:, last], variances[last])

    def project(self, hidden: Float[np.ndarray, "*batch N"]) -> Float[np.ndarray, "*batch K"]:
        """Return coordinates of states, from the mean of those fitted."""
        return np.asarray((hidden - self.mean) @ self.axes)


def bearing_kl(quiescent: np.ndarray, active: np.ndarray, *, num_bins: int = 36, floor: float = 1e-12) -> float:
    """Return KL(q || p) in nats of the histograms of bearings on [-pi, pi], `floor` added to the frequencies of q.

    Where p has an empty bin that q visits, the ratio is 1e7, the clip of the densities of positions: 16.1 nats at most.
    """
    q, p = (np.histogram(part, bins=num_bins, range=(-np.pi, np.pi))[0] / part.size for part in (quiescent, active))
    q = q + floor
    ratio = np.minimum(q / np.maximum(p, floor), RATIO_CLIP)
    return float((q * np.log(ratio)).sum())


def angular_steps(bearing_TB: Float[np.ndarray, "T B"], *, lag: int = 1) -> Float[np.ndarray, "T1 B"]:
    """Return the turns between bearings that lie `lag` steps apart, the short way round, in rad."""
    return wrap_angle(bearing_TB[lag:] - bearing_TB[:-lag])


def mean_squared_displacement(
    decoded_TBD: Float[np.ndarray, "T B D"], lags: Float[np.ndarray, " L"] | list[int]
) -> Float[np.ndarray, " L"]:
    """Return the mean over time and trajectories of |p_{t+lag} - p_t|^2, for each lag in steps."""
    return np.array(
        [np.square(decoded_TBD[lag:] - decoded_TBD[:-lag]).sum(axis=-1).mean() for lag in np.asarray(lags, dtype=int)]
    )


def diffusion_exponent(decoded_TBD: Float[np.ndarray, "T B D"], lags: list[int]) -> float:
    """Return the power of the lag that the mean squared displacement grows with: 1 diffuses, 2 runs straight on.

    NaN where nothing moves.
    """
    displacements = mean_squared_displacement(decoded_TBD, lags)
    if (displacements <= 0.0).any():
        return float("nan")
    return float(log_log_slopes(np.array(lags, dtype=float), displacements[:, None])[0])


def autocorrelation_time(decoded_TBD: Float[np.ndarray, "T B D"]) -> int:
    """Return the first lag in steps at which the autocorrelation of positions falls below 1/e, or T where it does not.

    Correlations are around the mean over all trajectories, pooled over their dimensions.
    """
    centred = decoded_TBD - decoded_TBD.mean(axis=(0, 1))
    spectrum = np.square(np.abs(np.fft.rfft(centred, n=2 * len(centred), axis=0))).sum(axis=(1, 2))
    sums = np.fft.irfft(spectrum)[: len(centred)] / np.arange(len(centred), 0, -1)
    if sums[0] <= 0.0:
        return len(centred)
    below = np.flatnonzero(sums < sums[0] / np.e)
    return int(below[0]) if len(below) else len(centred)


def occupied_fraction(decoded_TBD: Float[np.ndarray, "T B 2"], *, side_m: float = 2.2, num_bins: int = 11) -> float:
    """Return the share of the box's bins that a trajectory visits, averaged over trajectories."""
    bins = np.clip(((decoded_TBD / side_m + 0.5) * num_bins).astype(int), 0, num_bins - 1)
    flat = np.sort(bins[..., 0] * num_bins + bins[..., 1], axis=0)
    return float((1 + (np.diff(flat, axis=0) > 0).sum(axis=0)).mean() / num_bins**2)
