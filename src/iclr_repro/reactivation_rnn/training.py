"""Training a network to say where it is from changes alone (sheet 2.5). Shape letters: T = steps, B = trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from iclr_repro.reactivation_rnn.cells import Cells
from iclr_repro.reactivation_rnn.networks import Network
from iclr_repro.reactivation_rnn.trajectories import Trajectories

Schedule = Literal["constant", "one_cycle"]
Draw = Callable[[int], Trajectories]


class PathIntegration:
    """A `core.loop.Learner`: a step is one update by Adam on a batch of fresh trajectories.

    The loss is the mean over trajectories, steps and cells of (o - f(s))^2.

    Args:
        network: trained in place.
        cells: target code.
        draw: returns so many fresh trajectories.
        batch_size: B.
        learning_rate: constant, or the largest one of the cycle.
        schedule: "constant" as in the paper, or "one_cycle": 10 % warm-up from a tenth, then down to a 300th.
        steps: of the whole training; the cycle needs it.
        generator: of the networks' noise.
        batches_a_draw: trajectories of so many batches are drawn together: the loop over steps costs nearly the same.

    Raises:
        ValueError: an unknown schedule, or a number out of range.
    """

    def __init__(
        self,
        network: Network,
        cells: Cells,
        draw: Draw,
        *,
        batch_size: int,
        learning_rate: float,
        schedule: Schedule,
        steps: int,
        generator: torch.Generator,
        batches_a_draw: int = 16,
    ) -> None:
        if schedule not in get_args(Schedule):
            raise ValueError(f"schedule: got {schedule!r}, expected one of {', '.join(get_args(Schedule))}")
        if batch_size < 1 or not learning_rate > 0.0:
            raise ValueError(f"batch_size, learning_rate: got {batch_size}, {learning_rate}, expected >= 1 and > 0")
        self.network, self.cells = network, cells
        self._draw, self._batch_size, self._generator = draw, batch_size, generator
        self._batches_a_draw = batches_a_draw
        self._optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
        self._scheduler = None
        if schedule == "one_cycle":
            self._scheduler = torch.optim.lr_scheduler.OneCycleLR(
                self._optimizer,
                max_lr=learning_rate,
                total_steps=steps,
                pct_start=0.1,
                div_factor=10,
                final_div_factor=30,
            )
        self._drawn: list[Tensor] = []  # start [B', D], inputs and targets [T, B', D] of trajectories not yet used

    def step(self) -> dict[str, float]:
        """Make one update; return its loss."""
        start_BD, inputs_TBD, targets_TBD = (part.to(self._device) for part in self._batch())
        activity = self.network(inputs_TBD, self.cells.encode(start_BD), generator=self._generator)
        loss = F.mse_loss(activity.output, self.cells.encode(targets_TBD))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()
        return {"loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, besides the random stream of the trajectories."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "drawn": self._drawn,
            "noise": self._generator.get_state(),  # a generator on a GPU is none of the run's streams
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        self._drawn = list(state["drawn"])
        self._generator.set_state(state["noise"].cpu())

    @property
    def _device(self) -> torch.device:
        return self.network.decoder.weight.device

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Take the next batch of those drawn, drawing more where none is left."""
        if not self._drawn:
            fresh = self._draw(self._batches_a_draw * self._batch_size)
            self._drawn = [
                torch.from_numpy(part.astype(np.float32)) for part in (fresh.start, fresh.inputs, fresh.targets)
            ]
        start, inputs, targets = self._drawn
        size = self._batch_size
        self._drawn = [start[size:], inputs[:, size:], targets[:, size:]] if len(start) > size else []
        return start[:size], inputs[:, :size].contiguous(), targets[:, :size].contiguous()
