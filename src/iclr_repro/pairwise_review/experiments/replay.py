"""The answers of six real LLM reviewers, replayed as comparisons and as ratings (sheet, "Real-LLM replay")."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review import figures
from iclr_repro.pairwise_review.audit import agreement, calibration, fit_judge_aware
from iclr_repro.pairwise_review.bradley_terry import choose_penalty, fit_bradley_terry
from iclr_repro.pairwise_review.counts import count_pairs
from iclr_repro.pairwise_review.data import (
    ReviewerScores,
    load_reviewer_scores,
    simulate_reviewer_scores,
)
from iclr_repro.pairwise_review.experiments._judged import spearman
from iclr_repro.pairwise_review.judges import prefer_by_scores
from iclr_repro.pairwise_review.schedule import random_pairs_with_replacement

_DRAWS = 300  # of papers
_PENALTIES = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Comparisons against ratings from the same six real LLM reviewers (C4, C5)."""

    data: DataChoice = parameter(DATA_CHOICE)
    num_papers: int = parameter("papers, the first of the file", low=12, high=500)
    runs: int = parameter("lists of comparisons a seed", low=1)
    budgets: tuple[int, ...] = parameter("comparisons of a paper, m; prefixes of one list", low=1)
    penalty: float = parameter("lambda", low=0.0)
    judge_aware: int = parameter(
        "m of the model with a temper for each judge, and of the bootstrap over papers; one of `budgets`", low=1
    )

    def run(self, run: Run) -> Result:
        """Rank by each protocol; the reference is the mean human rating."""
        scores, kind = real_or_synthetic(
            self.data,
            lambda: load_reviewer_scores(find=run.locate).head(self.num_papers),
            lambda: simulate_reviewer_scores(self.num_papers, rng=run.rng("scores")),
        )
        found: dict[str, list[float]] = {}
        for index in range(self.runs):
            for name, value in self._one(scores, run, index).items():
                found.setdefault(name, []).append(value)
        metrics: dict[str, float | np.ndarray] = {name: np.array(values) for name, values in found.items()}
        metrics["n"] = len(scores.ids)
        curves = {m: metrics[f"pairwise/m{m}/spearman"] for m in self.budgets}
        levels = {
            name: metrics[f"{name}/spearman"] for name in ("rating_one", "rating_three_rounded", "rating_three_z")
        }
        rng = run.rng("audit")
        judge, first, second = self._comparisons(scores, max(self.budgets), rng)
        won = prefer_by_scores(scores.combined, judge, first, second, rng=rng)
        table = calibration(*_held_out(len(scores.ids), first, second, won, self.penalty))
        one, other = random_pairs_with_replacement(len(scores.ids), 5000, rng=rng)
        answers = [
            prefer_by_scores(scores.combined, np.full(len(one), k), one, other, rng=rng)
            for k in range(len(scores.judges))
        ]
        agreed = pd.DataFrame(agreement(answers), index=scores.judges, columns=scores.judges)
        return Result(
            metrics=metrics,
            tables={"agreement": agreed, "calibration": table},
            figures={
                "replay": figures.replay(curves, levels),  # type: ignore[arg-type]
                "calibration": figures.calibration_plot(table),
            },
            data=kind,
        )

    def _comparisons(
        self, scores: ReviewerScores, budget: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = len(scores.ids)
        num = budget * n // 2
        judge = rng.integers(len(scores.judges), size=num)
        return (judge, *random_pairs_with_replacement(n, num, rng=rng))

    def _one(self, scores: ReviewerScores, run: Run, index: int) -> dict[str, float]:
        n, num_judges = len(scores.ids), len(scores.judges)
        rng = run.rng(f"ratings/{index}")
        # Three distinct judges, drawn anew for each paper.
        drawn = np.argsort(rng.random((n, num_judges)), axis=1)[:, :3].T
        three = np.take_along_axis(scores.overall, drawn, axis=0)
        three_combined = np.take_along_axis(scores.combined, drawn, axis=0)
        centred = scores.combined - scores.combined.mean(axis=1, keepdims=True)
        standardised = centred / scores.combined.std(axis=1, keepdims=True)
        ratings = {
            "rating_one": three[0],
            "rating_three_rounded": np.rint(three.mean(axis=0)),
            "rating_three": three.mean(axis=0),
            "rating_three_aspects": three_combined.mean(axis=0),
            "rating_three_z": np.take_along_axis(standardised, drawn, axis=0).mean(axis=0),
        }
        found = {f"{name}/spearman": spearman(score, scores.human) for name, score in ratings.items()}
        rng = run.rng(f"comparisons/{index}")
        judge, first, second = self._comparisons(scores, max(self.budgets), rng)
        won = prefer_by_scores(scores.combined, judge, first, second, rng=rng)
        by_overall = prefer_by_scores(scores.overall, judge, first, second, rng=rng)
        betas = {}
        for budget in self.budgets:
            num = budget * n // 2
            for name, outcome in (("pairwise", won), ("pairwise_overall", by_overall)):
                fit = fit_bradley_terry(n, first[:num], second[:num], outcome[:num], penalty=self.penalty)
                found[f"{name}/m{budget}/spearman"] = spearman(fit.beta, scores.human)
                betas[name, budget] = fit.beta
            difference = found[f"pairwise/m{budget}/spearman"] - found["rating_three_rounded/spearman"]
            found[f"pairwise_minus_rating/m{budget}"] = difference
        for one, two in itertools.pairwise(self.budgets):
            gain = found[f"pairwise/m{two}/spearman"] - found[f"pairwise/m{one}/spearman"]
            found[f"pairwise/m{one}_to_m{two}/gain"] = gain
        # The spread over lists holds the papers fixed; this resamples them.
        rng = run.rng(f"bootstrap/{index}")
        compared, rated = betas["pairwise", self.judge_aware], ratings["rating_three_rounded"]
        samples = rng.integers(n, size=(_DRAWS, n))
        draws = [spearman(compared[s], scores.human[s]) - spearman(rated[s], scores.human[s]) for s in samples]
        for bound, value in zip(("low", "high"), np.quantile(draws, [0.025, 0.975]), strict=True):
            found[f"pairwise_minus_rating/m{self.judge_aware}/over_papers_{bound}"] = float(value)
        num = self.judge_aware * n // 2
        aware = fit_judge_aware(n, first[:num], second[:num], won[:num], judge[:num], penalty=self.penalty)
        found["judge_aware/spearman"] = spearman(aware.beta, scores.human)
        plain = found[f"pairwise/m{self.judge_aware}/spearman"]
        found["judge_aware_minus_plain"] = found["judge_aware/spearman"] - plain
        for name, value in zip(scores.judges, aware.discrimination, strict=True):
            found[f"judge_aware/discrimination/{name.replace(' ', '_')}"] = float(value)
        found["held_out/best_penalty"] = _best_penalty(n, first[:num], second[:num], won[:num])
        return found


def _held_out(
    n: int, first: np.ndarray, second: np.ndarray, won: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the last fifth of the comparisons from a fit of the others, and the outcomes."""
    cut = 4 * len(first) // 5
    fit = fit_bradley_terry(n, first[:cut], second[:cut], won[:cut], penalty=penalty)
    return fit.probability(first[cut:], second[cut:]), won[cut:]


def _best_penalty(n: int, first: np.ndarray, second: np.ndarray, won: np.ndarray) -> float:
    cut = 4 * len(first) // 5
    train, test = (count_pairs(n, first[part], second[part], won[part]) for part in (slice(cut), slice(cut, None)))
    return choose_penalty(train, test, _PENALTIES)[0]
