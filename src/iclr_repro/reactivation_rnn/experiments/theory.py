"""The theory: identities T1 to T5, and Langevin sampling of a mixture (T6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.reactivation_rnn import figures
from iclr_repro.reactivation_rnn.invariants import violations
from iclr_repro.reactivation_rnn.score_theory import GaussianMixture, histogram_kl, langevin


@dataclass(frozen=True, kw_only=True)
class Theory:
    """The worst violations of the identities T1 to T5 over drawn cases, in float64."""

    uses_seeds: ClassVar[bool] = False

    cases: int = parameter("random cases", low=1)
    draws: int = parameter("of the noise in a case", low=10)

    def run(self, run: Run) -> Result:
        """Measure; 0 up to rounding, but for T2, which is sampled, in standard errors."""
        rng = run.rng("cases")
        found = pd.DataFrame([violations(num_draws=self.draws, rng=rng) for _ in range(self.cases)])
        worst = found.abs().max(skipna=False)  # NaN stays, and no result holds it
        worst["t2_value_pooled_errors"] = abs(found["t2_value_errors"].sum(skipna=False)) / math.sqrt(self.cases)
        measured = Measurements()
        for name, value in worst.items():
            measured.add_exact(str(name), float(value))
        measured.add_exact("n", self.cases)
        table = worst.rename("worst violation").rename_axis("identity").to_frame()
        return measured.result(tables={"identities": table})


@dataclass(frozen=True, kw_only=True)
class Langevin:
    """Quiescent dynamics with the exact score of a mixture, for several variance factors (T6)."""

    weights: tuple[float, ...] = parameter("of the components", low=0.0)
    means: tuple[float, ...] = parameter("of the components")
    std: float = parameter("of a component", low=1e-6)
    step: float = parameter("h = sigma^2 dt", low=1e-6)
    chains: int = parameter("started from p", low=10)
    num_steps: int = parameter("of a chain", low=10)
    dropped: int = parameter("first steps that do not count", low=0)
    factors: tuple[float, ...] = parameter("variance factors c; 2 is the theory's", low=0.01)
    edges: tuple[float, float, int] = parameter("first and last edge of the histogram, and its bins")

    def run(self, run: Run) -> Result:
        """Run all chains for each c and compare with p and with p^(2/c)."""
        found = Measurements()
        mixture = GaussianMixture(np.array(self.weights), np.array(self.means)[:, None], self.std**2)
        low, high, bins = self.edges
        edges = np.linspace(low, high, bins + 1)
        centers = (edges[:-1] + edges[1:]) / 2
        densities, expected = {}, {}
        for factor in self.factors:
            samples = langevin(
                mixture.score,
                mixture.sample(self.chains, rng=run.rng(f"start/{factor:g}")),
                step=self.step,
                factor=factor,
                num_steps=self.num_steps,
                rng=run.rng(f"noise/{factor:g}"),
                dropped=self.dropped,
            )
            found.add(f"kl_to_p/c{factor:g}", histogram_kl(samples, mixture.log_density, edges))
            found.add(
                f"kl_to_p_raised/c{factor:g}", histogram_kl(samples, mixture.log_density, edges, power=2 / factor)
            )
            densities[f"c = {factor:g}"] = np.histogram(samples, bins=edges, density=True)[0]
            raised = np.exp(2 / factor * mixture.log_density(centers[:, None]))
            expected[f"c = {factor:g}"] = raised / (raised.sum() * np.diff(edges)[0])
        found.add("n", self.chains)
        return found.result(figures={"langevin": figures.langevin(centers, densities, expected)})
