"""What attributions say of a public model before any training, and what its rows are worth (C8, C9s, C11, C12).

Nothing here depends on a draw of the weights or of the prompts, so that one run says all: intervals are over probe
prompts. What suppression costs has none, being measured once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.rundir import Run
from iclr_repro.loki.benchmarks import benchmark_scores
from iclr_repro.loki.experiments._public import TINY, OfPublicModel, kept, of_attributions
from iclr_repro.loki.selection import Positions, select_rows
from iclr_repro.loki.suppression import SETS, suppress_rows


@dataclass(frozen=True, kw_only=True)
class PublicRows(OfPublicModel):
    """Attribute a public model; where its rows lie, how stable the choice is, and forgetting with rows set to zero."""

    uses_seeds: ClassVar[bool] = False

    suppression_quotas: tuple[float, ...] = parameter(
        "q of the rows that are set to zero, where there are benchmarks; []: none", low=0.0, high=100.0, unit="%"
    )
    random_draws: int = parameter("draws of random rows that are suppressed", low=1)
    resamples: int = parameter("bootstrap samples of the probe prompts, and random halves of them", low=2)

    def run(self, run: Run) -> Result:
        """Attribute, select, suppress. What was measured before an interruption is not measured again."""
        model, tokenizer = self.load_model(run)
        prompts, kind = self.probe_prompts(run, tokenizer)
        model = model.to(run.device)
        attributions = self.attributions(run, model, prompts)
        metrics, intervals = of_attributions(attributions, self.resamples, run.rng("resamples"))
        metrics["n"] = len(prompts)
        if self.benchmarks:
            model = model.float()

            def score() -> dict[str, float]:
                with self.scoring(run):
                    return benchmark_scores(
                        model, tokenizer, self.benchmarks, limit=self.benchmark_limit, batch_size=self.benchmark_batch
                    )

            metrics |= {f"original/{task}": value for task, value in kept(run, "original", score).items()}
            for name, rows in self._suppressed(run, attributions):
                with suppress_rows(model, rows):
                    metrics |= {f"{name}/{task}": value for task, value in kept(run, name, score).items()}
                metrics |= self.forgetting_of(run, name)
        return Result(
            metrics=metrics,
            intervals=intervals,
            data="real" if kind == "real" and self.model != TINY else "synthetic",
        )

    def networks(self) -> list[Network]:
        """Describe the model."""
        return [self.described()]

    def _suppressed(self, run: Run, attributions: np.ndarray) -> list[tuple[str, Positions]]:
        """Return the sets of rows to suppress, each with its name."""
        rng = run.rng("suppressed rows")
        found = []
        for quota in self.suppression_quotas:
            for name, strategy in SETS.items():
                found.append((f"suppressed/{name}/q{quota:g}", select_rows(attributions, quota, strategy=strategy)))
            for draw in range(self.random_draws):
                drawn = select_rows(attributions, quota, strategy="random", rng=rng)
                found.append((f"suppressed/random{draw}/q{quota:g}", drawn))
        return found
