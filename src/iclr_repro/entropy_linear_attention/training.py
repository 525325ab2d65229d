"""Training of forecasters: loss, schedule, best weights, evaluation, the same for every attention (sheet M6, E3)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.supervised import Supervised
from iclr_repro.entropy_linear_attention.metrics import error_sums, errors
from iclr_repro.entropy_linear_attention.series import Series, Windows

LossName = Literal["masked_mae", "huber"]
Schedule = Literal["onecycle", "multistep", "constant"]

_EVALUATION_BATCH = 16


def initialised(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Build a model with weights that the seed determines, leaving torch's global generator as it was.

    Models of equal parts built with one seed start from equal weights, whatever attention they use.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def forecasts(model: nn.Module, x: Tensor, anchor: Tensor, std: float) -> Tensor:
    """Anchor + std * model(x): predictions in the units of the series, [B, P, N]."""
    predictions: Tensor = anchor + std * model(x)
    return predictions


def forecast_loss(model: nn.Module, batch: Sequence[Tensor], *, series: Series, loss: LossName) -> Tensor:
    """Loss of de-normalised forecasts: mean |e| where the truth counts, or Huber with delta 1 over all entries.

    The second is the host's on PEMS: nearly the MAE, and not masked. Source: sheet M6, "Pitfalls".
    """
    x, anchor, truth = batch
    prediction = forecasts(model, x, anchor, series.std)
    if loss == "huber":
        return functional.huber_loss(prediction, truth, delta=1.0)
    counts = _counts(truth, series)
    return ((prediction - truth).abs() * counts).sum() / counts.sum().clamp(min=1)


def forecast_errors(
    learner: Supervised, series: Series, starts: npt.NDArray[np.int64], anchor: str
) -> npt.NDArray[np.float64]:
    """Means over the windows at `starts` of the sums that `metrics.errors` takes, [4, P]; each window counts once."""

    def metric(model: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        x, at, truth = batch
        sums = error_sums(forecasts(model, x, at, series.std), truth, _counts(truth, series))
        return {f"{row}/{step}": sums[:, row, step] for row in range(4) for step in range(series.horizon)}

    found = learner.evaluate(Windows(series, starts, anchor), metric, batch_size=_EVALUATION_BATCH)
    return np.array([[found[f"{row}/{step}"] for step in range(series.horizon)] for row in range(4)])


def _counts(truth: Tensor, series: Series) -> Tensor:
    return truth != 0 if series.zeros_are_missing else torch.ones_like(truth, dtype=torch.bool)


class KeepBest:
    """A learner that keeps the weights of its best evaluation on validation windows.

    Args:
        learner: trains the model.
        score: lower is better; called by `evaluate`.
    """

    def __init__(self, learner: Supervised, score: Callable[[], float]) -> None:
        self.learner = learner
        self._score = score
        self._best: dict[str, Any] = {"mae": float("inf"), "model": {}}

    def step(self) -> dict[str, float]:
        """Make one update."""
        return self.learner.step()

    def evaluate(self) -> dict[str, float]:
        """Score the model, and remember its weights if none was better."""
        mae = self._score()
        if mae < self._best["mae"]:
            self._best = {"mae": mae, "model": copy.deepcopy(dict(self.learner.model.state_dict()))}
        return {"mae": mae}

    def restore_best(self) -> None:
        """Give the model the weights of the best evaluation (there must have been one)."""
        self.learner.model.load_state_dict(self._best["model"])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the training and the best weights so far."""
        return {"learner": self.learner.state_dict(), "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.learner.load_state_dict(state["learner"])
        self._best = state["best"]


def forecast_learner(
    model: nn.Module,
    series: Series,
    *,
    anchor: str,
    loss: LossName,
    batch_size: int,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    schedule: Schedule,
    milestones: tuple[int, ...],
    clip_norm: float | None,
    validation_every: int,
    seed: int,
    device: torch.device,
) -> KeepBest:
    """A learner that trains a forecaster on the training windows of a series with Adam.

    Args:
        model: [B, T, N, 3] -> [B, P, N] in z-units.
        series: with its parts.
        anchor: what the network corrects; see `series.Windows`.
        loss: see `forecast_loss`.
        batch_size: windows of an update.
        steps: of the whole training, for schedule "onecycle".
        learning_rate: of Adam; the largest of "onecycle".
        weight_decay: of Adam.
        schedule: "onecycle"; "multistep": a tenth at each milestone; "constant".
        milestones: epochs, for "multistep".
        clip_norm: largest norm of the gradient.
        validation_every: every how many-th validation window is evaluated.
        seed: of the order of the windows.
        device: where to train.
    """
    batches = ResumableBatches(Windows(series, series.train, anchor), batch_size, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler: LRScheduler | None = None
    if schedule == "onecycle":
        scheduler = OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps + 1)
    elif schedule == "multistep":
        epoch = len(series.train) // batch_size
        scheduler = MultiStepLR(optimizer, [epoch * milestone for milestone in milestones], gamma=0.1)
    learner = Supervised(
        model,
        functools.partial(forecast_loss, series=series, loss=loss),
        optimizer,
        batches,
        device=device,
        scheduler=scheduler,
        clip_norm=clip_norm,
    )
    starts = series.validation[::validation_every]
    return KeepBest(learner, lambda: errors(forecast_errors(learner, series, starts, anchor))["mae"])


def squared_error_learner(
    model: nn.Module,
    samples: torch.utils.data.TensorDataset,
    *,
    batch_size: int,
    steps: int,
    learning_rate: float,
    clip_norm: float,
    seed: int,
    device: torch.device,
) -> Supervised:
    """A learner of targets from inputs by their mean squared error: Adam, one cycle of the learning rate (E7)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    return Supervised(
        model,
        lambda model, batch: functional.mse_loss(model(batch[0]), batch[1]),
        optimizer,
        ResumableBatches(samples, batch_size, seed=seed),
        device=device,
        scheduler=OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps + 1),
        clip_norm=clip_norm,
    )


def mean_squared_error(learner: Supervised, samples: torch.utils.data.TensorDataset) -> float:
    """Mean squared error over all samples and nodes, each sample once."""
    found = learner.evaluate(
        samples, lambda model, batch: {"mse": (model(batch[0]) - batch[1]).square().mean(dim=-1)}, batch_size=128
    )
    return found["mse"]
