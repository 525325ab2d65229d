"""Experiments on the scores alone: changes, rankings, disagreement, order of submission, all years in one table."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.data import DATA_CHOICE, DataChoice
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.core.statistics import mean_interval
from iclr_repro.core.timing import time_in_turn
from iclr_repro.review_insights import figures, paper_values
from iclr_repro.review_insights.bootstrap import Bootstrap, bootstrap
from iclr_repro.review_insights.data import YEARS
from iclr_repro.review_insights.experiments._common import Measurements
from iclr_repro.review_insights.experiments._years import (
    LoadedYears,
    OfYears,
    bootstrapped,
    load_years,
    title_of,
)
from iclr_repro.review_insights.plain import bootstrap_by_loop
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import top_changes, transition_matrix


@dataclass(frozen=True, kw_only=True)
class ScoreChanges(OfYears):
    """How many reviews and papers go up, go down and stay (M1), from where to where (M2), aspects with them (M10).

    The dated captures of ICLR 2023 end on 20 November, before most of the discussion; its papers are also followed to
    their final scores ("iclr2023_final"), of which only the order within a paper is lost.
    """

    def run(self, run: Run) -> Result:
        """Measure all years; figures for ICLR 2024 (or the last year there is)."""
        loaded = self.load(run, dated=self.years, final=[2023] if 2023 in self.years else [])
        found = Measurements()
        for year, pairs in loaded.final.items():
            boot = bootstrap(pairs, rng=run.rng(f"bootstrap/{year}_final"), draws=self.draws)
            found.add_table(f"iclr{year}_final", boot, ["papers"])
            found.count(f"iclr{year}_final", pairs)
            _add_acceptance_ratios(found, f"iclr{year}_final", boot)
        tables: dict[str, pd.DataFrame] = {}
        shares = {}
        for year, pairs in loaded.dated.items():
            prefix = f"iclr{year}"
            boot = bootstrapped(run, year, pairs, self.draws)
            rows = found.add_table(prefix, boot, ["reviews", "papers", "aspects"])
            found.count(prefix, pairs)
            if year in loaded.official:
                found.add(f"{prefix}/from_official_files", 1)
            for when in ("before", "after"):
                found.add(f"{prefix}/reviews/mean_{when}", pairs.reviews[when].mean())
            _add_acceptance_ratios(found, prefix, boot)
            _add_top_changes(found, prefix, pairs)
            tables[f"{prefix}_intervals"] = rows
            tables[f"{prefix}_transitions"] = transition_matrix(pairs)
            if year in paper_values.TABLE_1.index:
                tables[f"{prefix}_table2_beside_paper"] = _table2_beside_paper(found.metrics, year, loaded)
            shares[year] = pd.concat(
                {change: rows.loc[f"reviews/{change}/share"] for change in ("increase", "decrease")}
            )
        tables["beside_paper"] = _beside_paper(loaded, found.metrics)
        shown = 2024 if 2024 in loaded.dated else max(loaded.dated)
        matrix, title = tables[f"iclr{shown}_transitions"], title_of(shown, loaded.kind)
        paper_share = (
            paper_values.TABLE_2_REVIEWS.loc[2024, "n"] / paper_values.TABLE_1.loc[2024, "reviews_with_both_scores"]
        )
        made = {
            "transitions": figures.transition_heatmap(matrix, title=title),
            "alluvial": figures.alluvial(matrix, title=title),
            "change_shares": figures.change_shares(pd.DataFrame(shares).T, paper=paper_share.to_dict()),
        }
        return found.result(tables=tables, figures=made, data=loaded.kind)


@dataclass(frozen=True, kw_only=True)
class Rankings(OfYears):
    """How much of the top by mean rating is replaced (M3), and which accepted papers needed the rebuttal (M8)."""

    fractions: tuple[float, ...] = parameter("sizes of the top, as fractions of the papers", low=0.001, high=1.0)

    def run(self, run: Run) -> Result:
        """Measure churn under both tie rules for all years, and M8 where decisions are known."""
        _, years, kind, _ = self.load(run, final=self.years)
        found = Measurements()
        curves, tables = {}, {}
        for year, pairs in years.items():
            found.count(f"iclr{year}", pairs)
            for ties, prefix in (("paper_id", f"iclr{year}"), ("random", f"iclr{year}/random_ties")):
                boot = bootstrap(
                    pairs, rng=run.rng(f"bootstrap/{year}"), draws=self.draws, fractions=self.fractions, ties=ties
                )
                rows = found.add_table(prefix, boot, ["churn", "accepted"])
                if pairs.has_decisions:
                    before, after = (f"accepted/share_outside_top_{when}" for when in ("before", "after"))
                    found.add_difference(f"{prefix}/accepted/outside_before_minus_after", boot, before, after)
                tables[f"iclr{year}_{ties}"] = rows
            curve = tables[f"iclr{year}_paper_id"].filter(regex="^churn/", axis=0)
            curves[year] = curve.set_axis(pd.Index([float(name.split("/")[1]) for name in curve.index]))
        return found.result(tables=tables, figures={"churn": figures.churn_curves(curves)}, data=kind)


@dataclass(frozen=True, kw_only=True)
class Disagreement(OfYears):
    """How far the reviewers of a paper are apart before and after, by decision (M4)."""

    def run(self, run: Run) -> Result:
        """Measure all years, the groups of decisions where they are known, and the differences between them."""
        _, years, kind, _ = self.load(run, final=self.years)
        found = Measurements()
        rows: dict[tuple[int, str], pd.Series] = {}
        for year, pairs in years.items():
            boot = bootstrapped(run, year, pairs, self.draws)
            found.count(f"iclr{year}", pairs)
            table = found.add_table(f"iclr{year}", boot, ["disagreement"])
            changes = table.filter(regex="/relative_change$", axis=0)
            rows |= {(year, name.split("/")[1]): row for name, row in changes.iterrows()}
            groups = [name for name in ("oral_spotlight", "poster", "reject", "withdrawn") if (year, name) in rows]
            for first, second in itertools.pairwise(groups):
                statistics = (f"disagreement/{group}/relative_change" for group in (second, first))
                found.add_difference(f"iclr{year}/disagreement/{second}_minus_{first}", boot, *statistics)
        table = pd.DataFrame(rows).T.dropna().rename_axis(index=["year", "group"])
        return found.result(
            tables={"relative_change": table}, figures={"disagreement": figures.disagreement_changes(table)}, data=kind
        )


@dataclass(frozen=True, kw_only=True)
class OrderEffect:
    """Whether later reviewers are more generous (M9): ICLR 2026 has times of submission."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    draws: int = parameter("bootstrap draws over papers", low=1, high=100_000)
    sizes: tuple[int, ...] = parameter("numbers of reviews of a paper to look at", low=2, high=5)

    def run(self, run: Run) -> Result:
        """Measure the mean initial rating by position, and the differences between neighbours and between the ends."""
        years, _, kind, _ = load_years(self.data, run, dated=[2026])
        boot = bootstrapped(run, 2026, years[2026], self.draws)
        found = Measurements()
        rows = found.add_table("iclr2026", boot, ["order"])
        found.count("iclr2026", years[2026])
        for size in self.sizes:
            for later, earlier in [*((k + 1, k) for k in range(1, size)), (size, 1)]:
                positions = (f"order/{size}/{position}" for position in (later, earlier))
                found.add_difference(f"iclr2026/order/{size}/difference_{later}_{earlier}", boot, *positions)
        keys = [tuple(map(int, name.split("/")[1:])) for name in rows.index]
        table = rows.set_axis(pd.MultiIndex.from_tuples(keys, names=["n_reviews", "position"]))
        table = table[table.index.get_level_values("n_reviews").isin(self.sizes)]
        return found.result(
            tables={"order": table}, figures={"order_effect": figures.order_plot(table.dropna())}, data=kind
        )


@dataclass(frozen=True, kw_only=True)
class AcrossYears(OfYears):
    """The same statistics for all years in one table, to see which findings hold across rating scales."""

    def run(self, run: Run) -> Result:
        """One row a statistic, a column a year, with intervals; papers of ICLR 2023 go to their final scores."""
        loaded = self.load(run, dated=self.years, final=self.years)
        found = Measurements()
        columns = {}
        for year, pairs in loaded.dated.items():
            found.count(f"iclr{year}", pairs)
            boot = bootstrapped(run, year, pairs, self.draws)
            rows = found.add_table(f"iclr{year}", boot, _REVIEW_TABLES)
            if loaded.final[year] is not pairs:
                found.count(f"iclr{year}_final", loaded.final[year])
                boot = bootstrap(loaded.final[year], rng=run.rng(f"bootstrap/{year}_final"), draws=self.draws)
            rows = pd.concat([rows, found.add_table(f"iclr{year}", boot, _PAPER_TABLES)])
            columns[loaded.heading(year)] = [
                "" if np.isnan(row.estimate) else f"{row.estimate:.4g} [{row.low:.4g}, {row.high:.4g}]"
                for row in rows.reindex(_COMPARED).itertuples()
            ]
        return found.result(tables={"across_years": pd.DataFrame(columns, index=_COMPARED)}, data=loaded.kind)


_REVIEW_TABLES, _PAPER_TABLES = ("reviews", "coreviewer"), ("papers", "churn", "disagreement")
_COMPARED = [
    *(f"reviews/{change}/share" for change in ("increase", "decrease", "keep")),
    "reviews/up_down_ratio",
    "papers/overall/mean_before",
    "papers/overall/mean_after",
    "churn/0.05",
    "churn/0.3",
    "disagreement/overall/relative_change",
    "coreviewer/others_lower/p_increase",
    "coreviewer/others_higher/p_increase",
]


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """The vectorised bootstrap of all statistics against the plain loop over papers and reviews, in one process."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    year: int = parameter("ICLR year", choices=[2021, 2024])
    draws: int = parameter("draws of the vectorised bootstrap", low=1, high=100_000)
    loop_draws: int = parameter("draws of the plain loop", low=1, high=1_000)
    repeats: int = parameter("timings after the warm-up", low=1, high=100)

    def run(self, run: Run) -> Result:
        """Time both after a warm-up, alternately: the ratio is of the times of one draw, its interval over repeats."""
        years, _, kind, _ = load_years(self.data, run, dated=YEARS)
        pairs = years[self.year]
        fast_s, slow_s, every_s = time_in_turn(
            lambda: bootstrap(pairs, rng=run.rng("fast"), draws=self.draws),
            lambda: bootstrap_by_loop(pairs, rng=run.rng("slow"), draws=self.loop_draws),
            lambda: [bootstrapped(run, year, one, self.draws) for year, one in years.items()],
            repeats=self.repeats,
        )
        fast_s, slow_s = fast_s / self.draws, slow_s / self.loop_draws
        found = Measurements()
        found.add("bootstrap/speedup", float(np.mean(slow_s / fast_s)), mean_interval(slow_s / fast_s))
        found.add("bootstrap/vectorised_ms_per_draw", 1e3 * float(np.median(fast_s)))
        found.add("bootstrap/loop_ms_per_draw", 1e3 * float(np.median(slow_s)))
        found.add("bootstrap/n", len(pairs.papers))
        found.add("all_years/bootstrap_s", float(np.median(every_s)))
        found.add("all_years/n", sum(len(one.papers) for one in years.values()))
        return found.result(data=kind)


def _add_acceptance_ratios(found: Measurements, prefix: str, boot: Bootstrap) -> None:
    """Note how many times as often papers are accepted that rose as such that stayed, and these as such that fell."""
    for rate in ("accept_rate", "accept_rate_all"):
        names = [f"papers/{change}/{rate}" for change in ("increase", "keep", "decrease")]
        if names[0] in boot.estimates:
            found.add_ratio(f"{prefix}/{rate}_increase_over_keep", boot, names[0], names[1])
            found.add_difference(f"{prefix}/{rate}_keep_minus_decrease", boot, names[1], names[2])


def _add_top_changes(found: Measurements, prefix: str, pairs: ScorePairs) -> None:
    """Note the most frequent changes by rank."""
    for rank, row in enumerate(top_changes(pairs).itertuples(), start=1):
        for name in ("before", "after", "n"):
            found.add(f"{prefix}/top_change_{rank}/{name}", getattr(row, name))


def _table2_beside_paper(metrics: Mapping[str, float | np.ndarray], year: int, loaded: LoadedYears) -> pd.DataFrame:
    """Table 2 of the paper with our values beside it and their deviation, a row a quantity."""
    rows = {}
    for unit, table in (("papers", paper_values.TABLE_2_PAPERS), ("reviews", paper_values.TABLE_2_REVIEWS)):
        for change, values in table.loc[year].iterrows():
            for quantity in ("n", "mean_before", "mean_after"):
                ours = metrics.get(f"iclr{year}/{unit}/{change}/{quantity}", np.nan)
                rows[unit, change, quantity] = values[quantity], ours
            if unit == "papers":
                rate = metrics.get(f"iclr{year}/papers/{change}/accept_rate_all", np.nan)
                rows[unit, change, "accepted, %"] = values["accepted_percent"], 100 * rate
    column = f"ours ({loaded.source_of(year)})"
    made = pd.DataFrame.from_dict(rows, orient="index", columns=["paper", column])
    made.index = pd.MultiIndex.from_tuples(rows, names=["unit", "change", "quantity"])
    return made.assign(deviation=made[column] - made["paper"])


def _beside_paper(loaded: LoadedYears, metrics: Mapping[str, float | np.ndarray]) -> pd.DataFrame:
    """What the paper says of Fig. 3 and Table 6, and what we find in each year."""
    said = ", ".join(f"{before}->{after}" for before, after in paper_values.TOP_CHANGES)
    rating_only = f"{paper_values.RATING_ONLY_PERCENT:g}"
    rows = []
    for year, pairs in loaded.dated.items():
        data = loaded.heading(year)
        top = ", ".join(f"{row.before}->{row.after} ({row.n:,})" for row in top_changes(pairs).head(3).itertuples())
        rows.append((data, "Fig. 3: most frequent changes", said, top))
        name = f"iclr{year}/aspects/changed/aspects_unchanged"
        if name in metrics:
            ours = f"{100 * metrics[name]:.1f}"
            rows.append((data, "Table 6: changes of the overall rating only, %", rating_only, ours))
    return pd.DataFrame(rows, columns=["data", "quantity", "paper", "ours"]).set_index("data")
