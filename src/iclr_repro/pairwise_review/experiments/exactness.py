"""What must hold exactly for the fits (C1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review.bradley_terry import fit_counts
from iclr_repro.pairwise_review.counts import count_pairs
from iclr_repro.pairwise_review.rankers import luce_spectral, mm
from iclr_repro.pairwise_review.schedule import schedule_pairs
from iclr_repro.pairwise_review.simulator import judge_pairs


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The worst violations of the identities of the sheet, on comparisons of a simulated judge."""

    uses_seeds: ClassVar[bool] = False

    n: int = parameter("items", low=3)
    budget: int = parameter("comparisons of an item, enough to connect all", low=8)

    def run(self, run: Run) -> Result:
        """Measure; a violation is 0 up to rounding and the solver's tolerance."""
        rng = run.rng("items")
        quality, seed = rng.standard_normal(self.n), int(rng.integers(2**62))
        first, second = schedule_pairs(self.n, min(self.budget * self.n // 2, self.n * (self.n - 1)), seed=seed)
        won = judge_pairs(quality, first, second, seed=seed)
        counts = count_pairs(self.n, first, second, won)
        likelihood, penalised = fit_counts(counts, penalty=0.0), fit_counts(counts, penalty=0.01)
        won_by_first = counts.totals * likelihood.probability(counts.first, counts.second)
        expected = np.bincount(counts.first, won_by_first, self.n)
        expected += np.bincount(counts.second, counts.totals - won_by_first, self.n)
        negated = fit_counts(count_pairs(self.n, first, second, ~won), penalty=0.01)
        times = np.full(len(first), 4.0)
        scaled = fit_counts(count_pairs(self.n, first, second, times * won, times * ~won), penalty=0.04)
        row, column = np.triu_indices(self.n, 1)
        all_won = judge_pairs(quality, row, column, seed=seed)
        complete = count_pairs(self.n, row, column, all_won)
        beta, wins = fit_counts(complete).beta, complete.wins
        wrong = (beta[:, None] > beta + 1e-6) != (wins[:, None] > wins)
        found = {
            "stationarity": np.abs(expected - counts.wins).max(),
            "newton_minus_lbfgs": np.abs(likelihood.beta - fit_counts(counts, penalty=0.0, solver="lbfgs").beta).max(),
            "newton_minus_mm": np.abs(likelihood.beta - mm(self.n, first, second, won)).max(),
            "newton_minus_luce": np.abs(likelihood.beta - luce_spectral(self.n, first, second, won)).max(),
            "sum_zero": abs(penalised.beta.sum()),
            "negation": np.abs(penalised.beta + negated.beta).max(),
            "scaling": np.abs(penalised.beta - scaled.beta).max(),
            "scaling_errors": np.abs(penalised.standard_errors() - 2 * scaled.standard_errors()).max(),
            "complete_design_pairs_out_of_order": wrong.sum(),
        }
        table = pd.Series(found, name="worst violation").rename_axis("identity").to_frame()
        return Result(
            metrics={**{name: float(value) for name, value in found.items()}, "n": self.n},
            tables={"identities": table},
        )
