"""Intervals over seeds, and powers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.stats

CONFIDENCE = 0.95
_NUM_RESAMPLES = 9_999
_MAX_SEEDS = 1_000_000


def mean_interval(values: npt.ArrayLike) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean of independent values, shape [num_seeds].

    9,999 resamples by `scipy.stats.bootstrap` with a fixed generator, so that the same values give the same interval.
    With few seeds such an interval is too narrow rather than too wide (at 3 seeds it spans the values at most): report
    the number of seeds beside it. One value has no interval: None. Equal values have one of width zero.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"expected a non-empty list of finite values, got {array.tolist()}")
    if array.size == 1:
        return None
    if np.ptp(array) == 0.0:
        return float(array[0]), float(array[0])
    result = scipy.stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=_NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def seeds_to_decide(num_seeds: int, mean: float, interval: tuple[float, float], threshold: float) -> int | None:
    """Return about how many seeds would move `threshold` out of the interval that contains it, more than `num_seeds`.

    The width w of the interval between the mean and its end beyond the threshold shrinks as 1/sqrt(n):
    n' = n * (w / |mean - threshold|)^2, rounded up. None where that is over a million: the mean lies on the threshold.

    Example: 4 seeds, mean 1 in [-1, 2], threshold 0: w = 2, n' = 4 * (2 / 1)^2 = 16.
    """
    distance = abs(mean - threshold)
    width = mean - interval[0] if threshold < mean else interval[1] - mean
    if num_seeds * width**2 > _MAX_SEEDS * distance**2 or distance == 0.0:
        return None
    return max(num_seeds + 1, math.ceil(num_seeds * (width / distance) ** 2))


def log_log_slopes(x_C: np.ndarray, y_CR: np.ndarray) -> np.ndarray:
    """Return [R] the powers p of y ~ x^p: least-squares slopes of log y, [C, R], against log x, [C].

    Raises:
        ValueError: a value is not positive.
    """
    if not (np.all(x_C > 0) and np.all(y_CR > 0)):
        raise ValueError(f"a power needs positive values, got x >= {np.min(x_C):g} and y >= {np.min(y_CR):g}")
    return np.asarray(np.polyfit(np.log(x_C), np.log(y_CR), 1)[0])
