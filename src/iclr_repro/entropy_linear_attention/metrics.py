"""Errors of forecasts, with gaps left out (sheet E3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def error_sums(
    prediction: Float[Tensor, "B P N"], truth: Float[Tensor, "B P N"], counts: Bool[Tensor, "B P N"]
) -> Float[Tensor, "B 4 P"]:
    """Per window and step ahead: sums over nodes of |e|, e^2, |e|/y, and the number of entries, in float64.

    Args:
        prediction: in the units of the series.
        truth: y.
        counts: which entries count; the relative error of an entry with y = 0 is 0.
    """
    error = torch.where(counts, (prediction - truth).double(), 0.0)
    relative = torch.where(
        truth == 0, 0.0, error.abs() / truth.double().abs().clamp(min=torch.finfo(torch.float64).tiny)
    )
    return torch.stack([error.abs(), error.square(), relative, counts.double()], dim=1).sum(dim=-1)


def errors(sums: np.ndarray) -> dict[str, float]:
    """MAE, RMSE and MAPE (%) over all entries from sums [4, P] of |e|, e^2, |e|/y and counts over windows.

    MAE = mean |e|, RMSE = sqrt(mean e^2), MAPE = 100 mean |e|/y, each over all (window, step ahead, node) that count.

    Example: errors 1 and 3 on y = 10 and 10 give 2, sqrt(5), 20 %.
    """
    absolute, squared, relative, count = np.asarray(sums, dtype=np.float64).reshape(4, -1).sum(axis=1)
    return {
        "mae": float(absolute / count),
        "rmse": float(np.sqrt(squared / count)),
        "mape_percent": float(100.0 * relative / count),
    }


def errors_by_horizon(sums: np.ndarray) -> Mapping[int, dict[str, float]]:
    """`errors` of each step ahead 1..P on its own."""
    return {step: errors(sums[:, step - 1 : step]) for step in range(1, np.shape(sums)[1] + 1)}


def errors_at(sums: np.ndarray, steps: Collection[int]) -> dict[str, float]:
    """`errors` over all steps ahead and, as `horizon<step>/<error>`, at those of `steps` that there are."""
    found = errors(sums)
    for step, at_step in errors_by_horizon(sums).items():
        if step in steps:
            found |= {f"horizon{step}/{error}": value for error, value in at_step.items()}
    return found


def masked_errors(prediction: np.ndarray, truth: np.ndarray, *, zeros_are_missing: bool) -> np.ndarray:
    """Sums [4, P] for `errors` of forecasts [windows, P, N]; `zeros_are_missing`: entries with y = 0 do not count."""
    counts = truth != 0 if zeros_are_missing else np.ones_like(truth, dtype=bool)
    sums = error_sums(torch.from_numpy(prediction), torch.from_numpy(truth), torch.from_numpy(counts))
    return sums.sum(dim=0).numpy()
