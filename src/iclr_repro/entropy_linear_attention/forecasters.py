"""Forecasts without a network, on the windows that the networks are scored on (sheet 3.8)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from iclr_repro.entropy_linear_attention.metrics import masked_errors
from iclr_repro.entropy_linear_attention.series import Series, Windows, historical_average

RIDGE_PENALTY = 100.0

Starts = npt.NDArray[np.int64]


def persistence(series: Series, starts: Starts, *, history_rows: int) -> np.ndarray:
    """The last observed value for all steps ahead, [windows, P, N]."""
    last = series.values[starts + series.num_steps - 1]
    return np.repeat(last[:, None], series.horizon, axis=1)


def seasonal_average(series: Series, starts: Starts, *, history_rows: int) -> np.ndarray:
    """HA: the mean by node, slot of the day and weekend flag over the first `history_rows` rows, [windows, P, N]."""
    average = historical_average(series, history_rows)
    return average[starts[:, None] + np.arange(series.num_steps, series.num_steps + series.horizon)]


def average_and_ridge(series: Series, starts: Starts, *, history_rows: int) -> np.ndarray:
    """HA plus a linear map of the last T residuals value - HA to the next P, shared by all nodes, [windows, P, N].

    W = (X^T X + 100 I)^-1 X^T Y over all windows within the first `history_rows` rows and all nodes, without
    intercept; the penalty is on the plain sums.
    """
    average = historical_average(series, history_rows)
    residual = series.values - average
    steps, horizon = series.num_steps, series.horizon
    past = residual[:history_rows]
    windows = np.lib.stride_tricks.sliding_window_view(past, steps + horizon, axis=0)  # [windows, N, T + P]
    rows = windows.reshape(-1, steps + horizon)
    gram = rows.T @ rows
    weights = np.linalg.solve(gram[:steps, :steps] + RIDGE_PENALTY * np.eye(steps), gram[:steps, steps:])
    recent = residual[starts[:, None] + np.arange(steps)]
    ahead = starts[:, None] + np.arange(steps, steps + horizon)
    return average[ahead] + np.einsum("wtn,tp->wpn", recent, weights)


FORECASTERS: dict[str, Callable[..., np.ndarray]] = {
    "persistence": persistence,
    "ha": seasonal_average,
    "ha_ridge": average_and_ridge,
}
"""The forecasts by name."""


def naive_errors(series: Series, starts: Starts, *, history_rows: int | None = None) -> dict[str, np.ndarray]:
    """Error sums [4, P] of each of `FORECASTERS`; they learn from the rows of the training windows, or from more."""
    rows = series.history_rows if history_rows is None else history_rows
    truth, missing = series.targets(starts), series.zeros_are_missing
    return {
        name: masked_errors(forecast(series, starts, history_rows=rows), truth, zeros_are_missing=missing)
        for name, forecast in FORECASTERS.items()
    }


def anchor_errors(series: Series, starts: Starts, anchor: str) -> np.ndarray:
    """Error sums [4, P] of the anchor itself: what an untrained network that starts at zero predicts."""
    windows = Windows(series, starts, anchor)
    samples = [windows[index] for index in range(len(windows))]
    predicted, truth = (torch.stack([sample[part] for sample in samples]).numpy() for part in (1, 2))
    return masked_errors(predicted, truth, zeros_are_missing=series.zeros_are_missing)
