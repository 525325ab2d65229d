"""Which pairs to compare next, and how sure the decisions are (ours)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review import figures
from iclr_repro.pairwise_review.active import compare_actively
from iclr_repro.pairwise_review.bradley_terry import fit_bradley_terry
from iclr_repro.pairwise_review.experiments._judged import ACCEPT_HELP, M_HELP, N_HELP, PENALTY_HELP, simulate
from iclr_repro.pairwise_review.measures import overlap
from iclr_repro.pairwise_review.selection import decision_bands, select_top, top_probability
from iclr_repro.pairwise_review.simulator import judge_pairs


@dataclass(frozen=True, kw_only=True)
class Active:
    """Comparisons around the boundary against random ones, and how sure the decisions are (beyond the paper)."""

    n: int = parameter(N_HELP, low=12)
    accept: float = parameter(ACCEPT_HELP, low=0.01, high=0.99)
    runs: int = parameter("venues a seed", low=1)
    budget: int = parameter(M_HELP, low=2)
    start: float = parameter("share of the budget that is spent at random first", low=0.01, high=1)
    rounds: int = parameter("batches of the rest", low=1)
    share: float = parameter("share of the budget given to active pairs, against all of it", low=0.1, high=1)
    penalty: float = parameter(PENALTY_HELP, low=0)
    position_bias: float = parameter("b_pos of the judge; its term is fitted")
    confidence: float = parameter("of a settled decision", low=0.51, high=1)

    def run(self, run: Run) -> Result:
        """Measure the overlap with the truly best K papers along both ways of spending the budget."""
        k, total = round(self.accept * self.n), self.budget * self.n // 2
        found: dict[str, list[float]] = {}
        curves: dict[str, list[list[tuple[int, float]]]] = {"active": [], "random": []}
        for index in range(self.runs):
            simulation = simulate(
                run,
                f"venue {index}",
                n=self.n,
                comparisons_per_paper=self.budget,
                position_bias=self.position_bias,
            )
            merit, seed = simulation.merit, int(run.rng(f"active/{index}").integers(2**62))
            best = select_top(simulation.papers.quality, k)
            answer = partial(judge_pairs, merit, seed=seed, position_bias=self.position_bias)
            rounds = compare_actively(
                answer,
                self.n,
                k,
                total,
                rng=run.rng(f"pairs/{index}"),
                start=max(1, round(self.start * total)),
                batch=max(1, round((1 - self.start) * total / self.rounds)),
                penalty=self.penalty,
                confidence=self.confidence,
                position_effect=True,
            )
            curves["active"].append([(one.comparisons, overlap(select_top(one.fit.beta, k), best)) for one in rounds])
            fits = [
                fit_bradley_terry(
                    self.n,
                    simulation.first[:num],
                    simulation.second[:num],
                    simulation.won[:num],
                    penalty=self.penalty,
                    position_effect=True,
                )
                for num in (one.comparisons for one in rounds)
            ]
            random = [
                (one.comparisons, overlap(select_top(fit.beta, k), best)) for one, fit in zip(rounds, fits, strict=True)
            ]
            curves["random"].append(random)
            last = fits[-1]
            probability = top_probability(last, k, rng=run.rng(f"bands/{index}"))
            bands = decision_bands(probability, confidence=self.confidence)
            certain, inside = bands != "borderline", np.isin(np.arange(self.n), best)
            right = np.where(bands == "accept", inside, ~inside)[certain]
            at = min(rounds, key=lambda one: abs(one.comparisons - self.share * total))
            position = rounds.index(at)
            for name, value in {
                "random/overlap": random[-1][1],
                "active/overlap": curves["active"][-1][-1][1],
                "active/overlap_at_share": curves["active"][-1][position][1],
                "active_at_share_minus_random": curves["active"][-1][position][1] - random[-1][1],
                "active_at_share_minus_chance": curves["active"][-1][position][1] - k / self.n,
                "active/share_used": at.comparisons / total,
                "random/settled": float(certain.mean()),
                "active/settled": rounds[-1].settled,
                "random/settled_right": float(right.mean()) if len(right) else 1.0,
            }.items():
                found.setdefault(name, []).append(value)
        metrics: dict[str, float | np.ndarray] = {name: np.array(values) for name, values in found.items()}
        # Without the variance of a common shift, which changes no rank.
        shift = 1 / (self.n * self.penalty) if self.penalty else 0.0
        errors = np.sqrt(np.maximum(last.standard_errors() ** 2 - shift, 0.0))
        shown = {way: pd.DataFrame([dict(one) for one in several]) for way, several in curves.items()}
        return Result(
            metrics={**metrics, "n": self.n},
            tables={"curves": pd.concat({way: table.mean() for way, table in shown.items()}, axis=1)},
            figures={
                "active": figures.active_curves(shown, self.share * total),
                "bands": figures.bands(last.beta, errors, probability, k, self.confidence),
            },
        )
