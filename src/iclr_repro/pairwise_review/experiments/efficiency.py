"""Speed: the fit against scipy's L-BFGS, evalica and choix, and judging with a prefix read once."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats
from scipy.special import expit

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.core.statistics import mean_interval
from iclr_repro.core.timing import time_in_turn
from iclr_repro.pairwise_review.bradley_terry import fit_bradley_terry, fit_counts
from iclr_repro.pairwise_review.counts import PairCounts, count_pairs
from iclr_repro.pairwise_review.language_judge import Reading
from iclr_repro.pairwise_review.papers import Paper
from iclr_repro.pairwise_review.schedule import schedule_pairs
from iclr_repro.pairwise_review.simulator import judge_pairs

_PENALTY = 0.01


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Ratios of processor times in one process; those to evalica and choix only where these are installed."""

    uses_seeds: ClassVar[bool] = False

    large: tuple[int, int] = parameter("items and comparisons of the large fit", low=2)
    small: tuple[int, int] = parameter("items and comparisons against choix", low=2)
    tokens: int = parameter("tokens of each text of the judge", low=1)
    pairs: int = parameter("pairs that share a first text", low=1)
    repeats: int = parameter("timings after the warm-up", low=2)
    slow_repeats: int = parameter("timings of the large fit", low=2)

    def run(self, run: Run) -> Result:
        """Time each pair in turn; a ratio a repeat."""
        found = Measurements()
        self._fits(run, found)
        self._choix(run, found)
        self._judging(run, found)
        return found.result()

    def _fits(self, run: Run, found: Measurements) -> None:
        n, num = self.large
        first, second, won = _comparisons(n, num, run.rng("large"))
        counts = count_pairs(n, first, second, won)
        fits: dict[str, np.ndarray] = {}

        def keep(name: str, fit: Callable[[], np.ndarray]) -> Callable[[], None]:
            def action() -> None:
                fits[name] = fit()

            return action

        actions = {
            "ours": keep("ours", lambda: fit_counts(counts, penalty=_PENALTY).beta),
            "from_comparisons": keep(
                "from_comparisons", lambda: fit_bradley_terry(n, first, second, won, penalty=_PENALTY).beta
            ),
            "lbfgs": keep("lbfgs", lambda: plain_lbfgs(counts, _PENALTY)),
        }
        if evalica := _optional("evalica"):
            pairs = first.tolist(), second.tolist()
            winners = [evalica.Winner.X if one else evalica.Winner.Y for one in won]
            index = pd.Index(range(n))
            actions["evalica"] = keep(
                "evalica",
                lambda: np.asarray(evalica.bradley_terry(*pairs, winners, index=index).scores.sort_index()),
            )
        else:
            run.log.warning("evalica is not installed: its time is left out (pip install 'iclr-repro[benchmarks]')")
        seconds = dict(zip(actions, time_in_turn(*actions.values(), repeats=self.slow_repeats), strict=True))
        _ratio(found, "fit/ours_over_lbfgs", seconds["ours"] / seconds["lbfgs"])
        found.add("fit/lbfgs_largest_difference", float(np.abs(fits["ours"] - fits["lbfgs"]).max()))
        if "evalica" in seconds:
            _ratio(found, "fit/ours_over_evalica", seconds["from_comparisons"] / seconds["evalica"])
        for name, times in seconds.items():
            found.add(f"fit/{name}_s", float(np.median(times)))
            if name != "ours":
                same = float(scipy.stats.spearmanr(fits[name], fits["ours"])[0])
                found.add_exact(f"fit/{name}_rank_correlation", same)
        found.add("fit/n", num)

    def _choix(self, run: Run, found: Measurements) -> None:
        choix = _optional("choix")
        if choix is None:
            run.log.warning("choix is not installed: its time is left out (pip install 'iclr-repro[benchmarks]')")
            return
        n, num = self.small
        first, second, won = _comparisons(n, num, run.rng("small"))
        outcomes = list(zip(np.where(won, first, second).tolist(), np.where(won, second, first).tolist(), strict=True))
        ours, theirs = time_in_turn(
            lambda: fit_bradley_terry(n, first, second, won, penalty=0.0),
            lambda: choix.ilsr_pairwise(n, outcomes),
            repeats=self.slow_repeats,
        )
        _ratio(found, "choix/speedup", theirs / ours)
        difference = fit_bradley_terry(n, first, second, won, penalty=0.0).beta - choix.ilsr_pairwise(n, outcomes)
        found.add("choix/largest_difference", float(np.abs(difference - difference.mean()).max()))

    def _judging(self, run: Run, found: Measurements) -> None:
        from iclr_repro.pairwise_review.hf_judge import HFJudge

        rng = run.rng("texts")
        papers = [
            Paper(id=str(index), title="", text="".join(map(chr, rng.integers(97, 123, size=self.tokens))))
            for index in range(self.pairs + 1)
        ]
        reading = Reading(budget=self.tokens, count_tokens=len, blind=False)
        first, second = [papers[0]] * self.pairs, papers[1:]
        judges = [
            HFJudge.untrained(reading=reading, swap=False, hidden_size=128, layers=4, reuse_prefix=reuse)
            for reuse in (True, False)
        ]
        reused, plain = time_in_turn(
            *(lambda judge=judge: judge.compare_many(first, second) for judge in judges),
            repeats=self.repeats,
        )
        _ratio(found, "judge/reuse_speedup", plain / reused)
        with_reuse, without = (
            np.array([answer.prob_first for answer in judge.compare_many(first, second)], dtype=np.float64)
            for judge in judges
        )
        found.add("judge/largest_difference", float(np.abs(with_reuse - without).max()))
        found.add_exact("judge/range", float(np.ptp(with_reuse)))
        found.add("judge/pairs_per_s", self.pairs / float(np.median(reused)))
        found.add("judge/n", self.pairs)


def plain_lbfgs(counts: PairCounts, penalty: float) -> np.ndarray:
    """Fit by scipy's L-BFGS on the aggregated counts, as one would write it: the reference for the time."""
    n, first, second = counts.n_items, counts.first, counts.second

    def objective(beta: np.ndarray) -> tuple[float, np.ndarray]:
        difference = beta[first] - beta[second]
        value = counts.wins_first @ np.logaddexp(0, -difference) + counts.wins_second @ np.logaddexp(0, difference)
        residual = counts.totals * expit(difference) - counts.wins_first
        gradient = np.bincount(first, residual, n) - np.bincount(second, residual, n) + penalty * beta
        return float(value + 0.5 * penalty * beta @ beta), gradient

    options = {"maxcor": 20, "gtol": 1e-5, "ftol": 1e-12, "maxiter": 5000}
    found = scipy.optimize.minimize(objective, np.zeros(n), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x)


def _comparisons(n: int, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second = schedule_pairs(n, num, seed=int(rng.integers(2**62)))
    return first, second, judge_pairs(rng.standard_normal(n), first, second, seed=0)


def _ratio(found: Measurements, name: str, values: np.ndarray) -> None:
    found.add(name, float(values.mean()), mean_interval(values))


def _optional(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
