"""What the experiments share: collecting metrics with their intervals and counts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from iclr_repro.core import measurements
from iclr_repro.review_insights.baselines import majority_class
from iclr_repro.review_insights.bootstrap import Bootstrap, resampling_counts
from iclr_repro.review_insights.predictors import Cases, balanced_logistic, evaluate, macro_f1_of_papers
from iclr_repro.review_insights.scores import ScorePairs


class Measurements(measurements.Measurements):
    """Metrics and their intervals; what few papers leave undefined (NaN, e.g. a rate of none) is left out."""

    def add(self, name: str, value: float | np.ndarray, interval: tuple[float, float] | None = None) -> None:
        """Note a metric unless it is NaN, with its interval where it has one."""
        if not np.isnan(value).any():
            super().add(name, value, None if interval is None or np.isnan(interval).any() else interval)

    def count(self, prefix: str, pairs: ScorePairs) -> None:
        """Note how many papers and reviews there are, and how many papers were left out for which reason."""
        self.add(f"{prefix}/papers/n", len(pairs.papers))
        self.add(f"{prefix}/reviews/n", len(pairs.reviews))
        for reason, number in pairs.dropped.items():
            self.add(f"{prefix}/dropped/{reason}", number)

    def add_difference(self, name: str, boot: Bootstrap, first: str, second: str) -> None:
        """Note the difference first - second of two bootstrapped statistics."""
        self.add_draws(name, boot.estimates[first] - boot.estimates[second], boot.draws[first] - boot.draws[second])

    def add_ratio(self, name: str, boot: Bootstrap, first: str, second: str) -> None:
        """Note the ratio first / second of two bootstrapped statistics; without a value where the second is zero."""
        divisor = boot.estimates[second]
        if divisor > 0:
            draws = boot.draws[first] / boot.draws[second].where(boot.draws[second] > 0)
            self.add_draws(name, boot.estimates[first] / divisor, draws)

    def add_table(self, prefix: str, boot: Bootstrap, tables: Iterable[str]) -> pd.DataFrame:
        """Note all statistics of the named tables, and n for each of their rows (see `Bootstrap.row_counts`).

        Returns:
            The estimates and intervals, a row a statistic.
        """
        tables = set(tables)
        intervals = boot.intervals()
        chosen = intervals[intervals.index.str.split("/").str[0].isin(tables)]
        for name, row in chosen.iterrows():
            self.add(f"{prefix}/{name}", row["estimate"], (row["low"], row["high"]))
        for group, n in boot.row_counts().items():
            if group.split("/")[0] in tables:
                self.add(f"{prefix}/{group}/n", n)
        return chosen

    def add_macro_f1(self, prefix: str, cases: Cases, *, rng: np.random.Generator, draws: int) -> None:
        """Note macro F1 of the logistic model and its margin over the majority class, its spread over the folds beside.

        The intervals are over papers, with the models of the five folds as they are.
        """
        weights = resampling_counts(int(cases.paper.max()) + 1, draws, rng=rng)
        logistic, majority = (evaluate(model, cases) for model in (balanced_logistic, majority_class))
        logistic_draws, majority_draws = (
            macro_f1_of_papers(cases, found.labels, weights) for found in (logistic, majority)
        )
        self.add(f"{prefix}/n", logistic.n)
        self.add_draws(f"{prefix}/macro_f1", logistic.macro_f1_mean, logistic_draws)
        self.add(f"{prefix}/macro_f1_fold_std", logistic.macro_f1_std)
        self.add_draws(f"{prefix}/macro_f1_majority", majority.macro_f1_mean, majority_draws)
        margin = logistic.macro_f1_mean - majority.macro_f1_mean
        self.add_draws(f"{prefix}/macro_f1_over_majority", margin, logistic_draws - majority_draws)
