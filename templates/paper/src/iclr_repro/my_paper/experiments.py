"""The experiments: one class a figure or table of the paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.plotting import figure
from iclr_repro.core.rundir import Run
from iclr_repro.my_paper.method import share_of_heads


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Flip a fair coin and count."""

    flips: int = parameter("flips of the coin", low=1, high=1_000_000)

    def run(self, run: Run) -> Result:
        """Flip, count, draw the share so far."""
        flips = run.rng("flips").integers(2, size=self.flips)
        made, axes = figure()
        axes[0, 0].plot(np.cumsum(flips) / np.arange(1, self.flips + 1))
        axes[0, 0].set(xlabel="flips", ylabel="share of heads")
        return Result(metrics={"flips/heads": share_of_heads(flips)}, figures={"share": made})
