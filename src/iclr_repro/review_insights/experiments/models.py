"""Experiments with models: what goes with a change, calibrated forecasts, and the null model of herding."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.review_insights import figures, paper_values
from iclr_repro.review_insights.baselines import FORECASTERS, compare
from iclr_repro.review_insights.bootstrap import Bootstrap
from iclr_repro.review_insights.calibration import (
    acceptance_cases,
    cross_fitted,
    fit_calibrated,
    probability_intervals,
    reliability,
    review_cases,
    transfer_table,
)
from iclr_repro.review_insights.experiments._common import Measurements
from iclr_repro.review_insights.experiments._years import OfYears, bootstrapped, title_of
from iclr_repro.review_insights.herding import (
    compare_coefficients,
    compare_gradients,
    fit_null_model,
    half_split_placebo,
)
from iclr_repro.review_insights.predictors import (
    CLASSES,
    FEATURES,
    bootstrap_models,
    change_cases,
    coefficient_intervals,
    coefficient_table,
    logistic_change_model,
)

_INCREASE = CLASSES.index("increase")


@dataclass(frozen=True, kw_only=True)
class Predictors(OfYears):
    """What goes with a change of a rating: co-reviewers (M5), own rating (M6), regression (M7) with its rivals."""

    model_draws: int = parameter("bootstrap refits of the regression", low=1, high=10_000)
    models: tuple[str, ...] = parameter("models whose macro F1 and log loss are compared", choices=list(FORECASTERS))

    def run(self, run: Run) -> Result:
        """Measure all years: probabilities, coefficients with intervals, the placebo, macro F1 of all models."""
        years, _, kind, _ = self.load(run, dated=self.years)
        found = Measurements()
        tables: dict[str, pd.DataFrame] = {}
        coefficients = {}
        for year, pairs in years.items():
            prefix = f"iclr{year}"
            found.count(prefix, pairs)
            boot = bootstrapped(run, year, pairs, self.draws)
            tables[f"{prefix}_probabilities"] = found.add_table(prefix, boot, ["coreviewer", "by_initial"])
            _add_probability_contrasts(found, prefix, boot)
            placebo = half_split_placebo(pairs, run.rng(f"placebo/{year}"))
            for source, scores in ((str(year), pairs), (f"placebo {year}", placebo)):
                cases = change_cases(scores)
                rows = coefficient_intervals(cases, draws=self.model_draws, rng=run.rng(f"models/{source}"))
                for feature, row in rows.xs("increase", level="class").iterrows():
                    name = f"{prefix}/{'placebo' if source != str(year) else 'increase'}_coefficient/{feature}"
                    found.add(name, row["coefficient"], (row["low"], row["high"]))
                    coefficients[feature, source] = row.rename({"coefficient": "estimate"})
            tables[f"{prefix}_coefficients"] = coefficient_table(logistic_change_model(pairs).coefficients)
            tables[f"{prefix}_rank_coefficients"] = coefficient_table(
                logistic_change_model(pairs, ranks=True).coefficients
            )
            for name, binary in (("three_classes", False), ("binary", True)):
                tables[f"{prefix}_{name}"] = compare(pairs, binary=binary, models=self.models)
                rng = run.rng(f"macro_f1/{year}/{name}")
                found.add_macro_f1(f"{prefix}/{name}", change_cases(pairs, binary=binary), rng=rng, draws=self.draws)
        table = pd.DataFrame(coefficients).T.rename_axis(index=["feature", "source"])
        shown = 2024 if 2024 in years else max(years)
        probabilities = tables[f"iclr{shown}_probabilities"]
        panels = {
            title: _unstacked(probabilities, part)
            for title, part in (
                (f"{title_of(shown, kind)}: by co-reviewers", "coreviewer"),
                ("by own initial rating", "by_initial"),
            )
        }
        paper = paper_values.COEFFICIENTS["INC"].iloc[:2].set_axis(["own_rating", "others_mean"]).to_dict()
        ordered = table.loc[list(FEATURES)]
        return found.result(
            tables={**tables, "increase_coefficients": table},
            figures={
                "coefficients": figures.coefficient_plot(ordered, paper=paper),
                "probabilities": figures.probability_bars(panels),
            },
            data=kind,
        )


@dataclass(frozen=True, kw_only=True)
class Forecasts(OfYears):
    """Calibrated probabilities that a rating rises, that it falls, that a paper is accepted; transfer between years."""

    decision_years: tuple[int, ...] = parameter("years with decisions", choices=[2021, 2023, 2024, 2025])
    train_year: int = parameter("year to learn from, for the reliability diagram", choices=[2020, 2021, 2024, 2025])
    test_year: int = parameter("year to forecast", choices=[2020, 2021, 2024, 2025])
    model_draws: int = parameter("bootstrap refits for the intervals of probabilities", low=1, high=10_000)

    def __post_init__(self) -> None:
        """Refuse years that are not loaded, and what `OfYears` refuses."""
        super().__post_init__()
        for name in ("train_year", "test_year"):
            if getattr(self, name) not in self.years:
                raise ValueError(f"{name} is {getattr(self, name)}, which is not among years {list(self.years)}")

    def run(self, run: Run) -> Result:
        """Measure quality within and between years, reliability of the transfer, widths of the intervals."""
        years, deciding, kind, _ = self.load(run, dated=self.years, final=self.decision_years)
        reviews = {year: review_cases(pairs) for year, pairs in years.items()}
        papers = {year: acceptance_cases(pairs) for year, pairs in deciding.items()}
        transfer = pd.concat(
            [
                transfer_table(reviews, events=("increase", "decrease")),
                transfer_table(papers, events=("accepted",)),
            ]
        )
        found = Measurements()
        for (trained_on, tested_on, event), row in transfer.iterrows():
            for quantity, value in row.items():
                found.add(f"iclr{trained_on}_to_{tested_on}/{event}/{quantity}", value)
        training, testing = reviews[self.train_year], reviews[self.test_year]
        probabilities = fit_calibrated(training).probabilities(testing.x)
        panels = {}
        for event in ("increase", "decrease"):
            label = CLASSES.index(event)
            panels[f"{event}, ICLR {self.train_year} to {self.test_year}"] = reliability(
                probabilities[:, label],
                testing.y == label,
                testing.paper,
                rng=run.rng(f"reliability/{event}"),
                draws=self.draws,
            )
        year = max(papers)
        accepted = cross_fitted(papers[year])[:, 1]
        panels[f"accepted, ICLR {year} (cross-fitted)"] = reliability(
            accepted, papers[year].y == 1, papers[year].paper, rng=run.rng("reliability/accepted"), draws=self.draws
        )
        models = bootstrap_models(training, draws=self.model_draws, rng=run.rng("models"))
        low, high = probability_intervals(models, testing.x)
        found.add("increase/mean_interval_width", float((high - low)[:, _INCREASE].mean()))
        tables = {"transfer": transfer} | {f"reliability_{name.split(',')[0]}": panel for name, panel in panels.items()}
        return found.result(tables=tables, figures={"reliability": figures.reliability_diagram(panels)}, data=kind)


@dataclass(frozen=True, kw_only=True)
class Herding(OfYears):
    """How much of the co-reviewer gradient readers explain who do not see each other (null model, Beyond 3)."""

    reluctant_drift: float = parameter(
        "what the revision adds to the quality, where few decreases are explained by reluctance", unit="rating points"
    )
    num_papers: int = parameter("simulated papers", low=1_000, high=10_000_000)
    simulations: int = parameter("simulated years for the coefficients", low=2, high=1_000)

    def run(self, run: Run) -> Result:
        """Fit the null model to each year; compare gradient, decreases and coefficients."""
        years, _, kind, _ = self.load(run, dated=self.years)
        found = Measurements()
        tables, panels = {}, {}
        for year, pairs in years.items():
            prefix = f"iclr{year}"
            found.count(prefix, pairs)
            for variant, drift in (("drift", None), ("reluctance", self.reluctant_drift)):
                model = fit_null_model(pairs, drift=drift)
                rng = run.rng(f"simulate/{year}/{variant}")
                gradients = compare_gradients(pairs, model, rng=rng, num_papers=self.num_papers, draws=self.draws)
                coefficients = compare_coefficients(pairs, model, rng=rng, simulations=self.simulations)
                row = gradients.loc["gradient"]
                found.add(f"{prefix}/gradient", row["data"], (row["low"], row["high"]))
                found.add(f"{prefix}/{variant}/gradient_null", row["null"])
                found.add(f"{prefix}/{variant}/gradient_excess", row["excess"], (row["excess_low"], row["excess_high"]))
                for name in ("reread_rate", "drift", "reluctance", "noise"):
                    found.add(f"{prefix}/{variant}/{name}", getattr(model, name))
                tables[f"{prefix}_{variant}"] = gradients
                tables[f"{prefix}_{variant}_coefficients"] = coefficients
                if variant == "drift":
                    panels[year] = gradients
        return found.result(tables=tables, figures={"gradients": figures.gradient_bars(panels)}, data=kind)


def _add_probability_contrasts(found: Measurements, prefix: str, boot: Bootstrap) -> None:
    """Note the co-reviewer gradient, and how P(increase) differs between the ratings around the borderline."""
    p_increase = {
        name.split("/")[1]: name
        for name in boot.estimates.index
        if name.endswith("/p_increase") and "by_initial" in name
    }
    for first, second in [*(("5", other) for other in p_increase if other != "5"), ("3", "8")]:
        if first in p_increase and second in p_increase:
            name = f"{prefix}/by_initial/p_increase_{first}_minus_{second}"
            found.add_difference(name, boot, p_increase[first], p_increase[second])
    bins = (f"coreviewer/others_{side}/p_increase" for side in ("higher", "lower"))
    found.add_ratio(f"{prefix}/coreviewer/p_increase_higher_over_lower", boot, *bins)


def _unstacked(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    """Rows "table/group/p_increase" and the like as a row a group, columns (quantity, estimate | low | high)."""
    chosen = rows[rows.index.str.startswith(f"{table}/")]
    keys = pd.MultiIndex.from_tuples([tuple(name.split("/")[1:]) for name in chosen.index], names=["group", "quantity"])
    groups = list(dict.fromkeys(keys.get_level_values("group")))
    return chosen.set_axis(keys).unstack("quantity").swaplevel(axis=1).reindex(groups)
