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
from iclr_repro.pairwise_review.bradley_terry import BradleyTerryFit, fit_bradley_terry
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
        spent = [self._spend(run, index, k, total) for index in range(self.runs)]
        rows = [self._compare(one, k, total) for one in spent]
        metrics: dict[str, float | np.ndarray] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        shown = {
            "active": pd.DataFrame([one.active for one in spent]),
            "random": pd.DataFrame([one.random for one in spent]),
        }
        last = spent[-1]
        # Without the variance of a common shift, which changes no rank.
        shift = 1 / (self.n * self.penalty) if self.penalty else 0.0
        errors = np.sqrt(np.maximum(last.fit.standard_errors() ** 2 - shift, 0.0))
        return Result(
            metrics={**metrics, "n": self.n},
            tables={"curves": pd.concat({way: table.mean() for way, table in shown.items()}, axis=1)},
            figures={
                "active": figures.active_curves(shown, self.share * total),
                "bands": figures.bands(last.fit.beta, errors, last.probability, k, self.confidence),
            },
        )

    def _spend(self, run: Run, index: int, k: int, total: int) -> _Spent:
        """Spend the budget of one venue both ways; the random comparisons are fitted as often as the active ones."""
        simulation = simulate(
            run,
            f"venue {index}",
            n=self.n,
            comparisons_per_paper=self.budget,
            position_bias=self.position_bias,
        )
        merit, seed = simulation.merit, int(run.rng(f"active/{index}").integers(2**62))
        best = select_top(simulation.papers.quality, k)
        rounds = compare_actively(
            partial(judge_pairs, merit, seed=seed, position_bias=self.position_bias),
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
        fits = {
            num: fit_bradley_terry(
                self.n,
                simulation.first[:num],
                simulation.second[:num],
                simulation.won[:num],
                penalty=self.penalty,
                position_effect=True,
            )
            for num in (one.comparisons for one in rounds)
        }
        last = fits[rounds[-1].comparisons]
        return _Spent(
            best=best,
            active={one.comparisons: overlap(select_top(one.fit.beta, k), best) for one in rounds},
            active_settled=rounds[-1].settled,
            random={num: overlap(select_top(fit.beta, k), best) for num, fit in fits.items()},
            fit=last,
            probability=top_probability(last, k, rng=run.rng(f"bands/{index}")),
        )

    def _compare(self, spent: _Spent, k: int, total: int) -> dict[str, float]:
        """The metrics of one venue."""
        bands = decision_bands(spent.probability, confidence=self.confidence)
        certain, inside = bands != "borderline", np.isin(np.arange(self.n), spent.best)
        right = np.where(bands == "accept", inside, ~inside)[certain]
        end = max(spent.active)
        at = min(spent.active, key=lambda num: abs(num - self.share * total))
        return {
            "random/overlap": spent.random[end],
            "active/overlap": spent.active[end],
            "active/overlap_at_share": spent.active[at],
            "active_at_share_minus_random": spent.active[at] - spent.random[end],
            "active_at_share_minus_chance": spent.active[at] - k / self.n,
            "active/share_used": at / total,
            "random/settled": float(certain.mean()),
            "active/settled": spent.active_settled,
            "random/settled_right": float(right.mean()) if len(right) else 1.0,
        }


@dataclass(frozen=True, eq=False)
class _Spent:
    """What both ways of spending the budget of a venue found.

    Attributes:
        best: [k] the truly best papers.
        active, random: overlap with these, by the number of comparisons.
        active_settled: share of papers that are certainly in or out after all active ones.
        fit: of all random ones.
        probability: [n] of being in the top k by it.
    """

    best: np.ndarray
    active: dict[int, float]
    active_settled: float
    random: dict[int, float]
    fit: BradleyTerryFit
    probability: np.ndarray
