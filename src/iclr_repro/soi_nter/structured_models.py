"""Structured-output models to be explained: exact deep structured models, SPEN and deep value networks (sheet 4.4).

All are decisions of the sheet with sizes from public code; which black boxes the paper explains is not known. Shape
letters: B = inputs, N = features, M = outputs, C = answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from iclr_repro.soi_nter.energy import EnergyModule, all_outputs
from iclr_repro.soi_nter.losses import exact_nll, margin_hinge

TrainingLoss = Literal["nll", "hinge", "value"]
Quality = Literal["f1", "iou"]


class ExactModel:
    """y = argmin over all 2^M answers of a learned energy; at most 10 outputs."""

    def __init__(self, energy: EnergyModule) -> None:
        self.energy = energy

    @torch.no_grad()
    def __call__(self, x_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        """Return the binary answers."""
        candidates = all_outputs(self.energy.n_outputs, like=x_BN)
        return candidates[self.energy.of_candidates(x_BN, candidates).argmin(dim=1)]


class AscentModel:
    """y by projected gradient ascent in [0, 1]^M from 0, then cut at 0.5.

    Args:
        energy: E.
        value: ascend v = sigmoid(-E), a deep value network; False: -E, a SPEN.
        steps: of the ascent.
        step_size: of the ascent.
    """

    def __init__(self, energy: EnergyModule, *, value: bool, steps: int = 20, step_size: float = 0.5) -> None:
        self.energy, self.value, self.steps, self.step_size = energy, value, steps, step_size

    def relaxed(self, x_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        """Return the answers in [0, 1]."""
        y_BM = torch.zeros(len(x_BN), self.energy.n_outputs, device=x_BN.device)
        for _ in range(self.steps):
            y_BM = _ascended(self._gain, x_BN, y_BM, self.step_size)
        return y_BM

    def _gain(self, x_BN: Tensor, y_BM: Tensor) -> Tensor:
        scores_B: Tensor = -self.energy(x_BN, y_BM)
        return torch.sigmoid(scores_B) if self.value else scores_B

    def __call__(self, x_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        """Return the binary answers."""
        training = self.energy.training
        self.energy.eval()
        found = (self.relaxed(x_BN) >= 0.5).to(x_BN)
        self.energy.train(training)
        return found


def overlap(first_BM: Float[Tensor, "B M"], second_BM: Float[Tensor, "B M"], quality: Quality) -> Float[Tensor, " B"]:
    """Return the relaxed F1, 2 I / (I + U), or IoU, I / U, with I = sum min and U = sum max; 1 where both are empty."""
    inner, outer = torch.minimum(first_BM, second_BM).sum(1), torch.maximum(first_BM, second_BM).sum(1)
    some = outer > 0
    outer = torch.where(some, outer, 1.0)  # before the division: the gradient of 0 / 0 would reach y
    ratio = 2 * inner / (inner + outer) if quality == "f1" else inner / outer
    return torch.where(some, ratio, 1.0)


class StructuredTraining:
    """Train an energy on inputs and true labels, as a `core.loop.Learner`.

    Args:
        energy: trained in place.
        x_BN: inputs.
        y_BM: their labels.
        loss: "nll" (exact), "hinge" (SPEN, projected gradient ascent inside) or "value": cross-entropy of
            v = sigmoid(-E(x, y)) against the quality of y, which is made by ascent, in every second batch by one
            adversarial step from the truth or from zeros (deep value network).
        optimizer: over the energy's parameters.
        batch_size: inputs of a step, drawn with replacement.
        seed: of batches.
        quality: "f1" or "iou", for "value".
        step_size: of the search for answers; the slope of the value is of order 1/M an output, so that many outputs
            need a larger one.
        milestones: steps after which the learning rate is divided by ten.

    Raises:
        ValueError: an unknown loss or quality.

    Source: sheet 4.4.
    """

    def __init__(
        self,
        energy: EnergyModule,
        x_BN: Float[Tensor, "B N"],
        y_BM: Float[Tensor, "B M"],
        *,
        loss: TrainingLoss,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        seed: int,
        quality: Quality = "f1",
        step_size: float = 0.5,
        milestones: tuple[int, ...] = (),
    ) -> None:
        if loss not in get_args(TrainingLoss) or quality not in get_args(Quality):
            raise ValueError(f"loss, quality: got {loss!r}, {quality!r}, expected {TrainingLoss} and {Quality}")
        self.energy, self.loss, self.quality, self.batch_size = energy, loss, quality, batch_size
        self._x, self._y, self._optimizer, self._step_size = x_BN, y_BM, optimizer, step_size
        self._scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones))
        self._generator = torch.Generator().manual_seed(seed)
        self._done = 0

    def step(self) -> dict[str, float]:
        """Make one update; return its loss."""
        rows = torch.randint(len(self._x), (self.batch_size,), generator=self._generator).to(self._x.device)
        x_BN, y_BM = self._x[rows], self._y[rows]
        if self.loss == "nll":
            loss = exact_nll(self.energy, x_BN, y_BM).mean()
        elif self.loss == "hinge":
            loss = margin_hinge(self.energy, x_BN, y_BM, exact=False).mean()
        else:
            made_BM = self._made(x_BN, y_BM)
            loss = F.binary_cross_entropy_with_logits(-self.energy(x_BN, made_BM), overlap(made_BM, y_BM, self.quality))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._scheduler.step()
        self._done += 1
        return {"loss": loss.item()}

    def _made(self, x_BN: Tensor, y_BM: Tensor) -> Tensor:
        """Answers whose value is learned: of the model's own search, or adversarial."""
        if self._done % 2 == 0:
            return AscentModel(self.energy, value=True, step_size=self._step_size).relaxed(x_BN)
        from_truth = torch.rand(len(x_BN), 1, generator=self._generator).to(x_BN) < 0.5

        def gain(x: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(-self.energy(x, y), overlap(y, y_BM, self.quality))

        return _ascended(gain, x_BN, torch.where(from_truth, y_BM, torch.zeros_like(y_BM)), self._step_size * len(x_BN))

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, besides the data."""
        return {
            "energy": dict(self.energy.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": {**self._scheduler.state_dict(), "milestones": dict(self._scheduler.milestones)},
            "generator": self._generator.get_state(),
            "done": self._done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.energy.load_state_dict(state["energy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict({**state["scheduler"], "milestones": self._scheduler.milestones})
        self._generator.set_state(state["generator"])
        self._done = state["done"]


def _ascended(gain: Any, x_BN: Tensor, y_BM: Tensor, step_size: float) -> Tensor:
    """One projected step up the sum of a gain; only y has a gradient."""
    with torch.enable_grad():
        y_BM = y_BM.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(gain(x_BN, y_BM).sum(), y_BM)
    return (y_BM.detach() + step_size * slope).clamp(0.0, 1.0)
