"""Experiments on author-reviewer threads: engagement and timing, and the paper's predictive model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import DataKind, Result, parameter
from iclr_repro.core.footprint import Network, language_models
from iclr_repro.core.rundir import Run
from iclr_repro.review_insights import figures, paper_values
from iclr_repro.review_insights.bootstrap import bootstrap_terms, resampling_counts
from iclr_repro.review_insights.engagement import (
    engagement,
    engagement_by_change,
    message_timing,
    reviewer_replies_by_day,
)
from iclr_repro.review_insights.experiments._common import Measurements
from iclr_repro.review_insights.experiments._labellers import BASE_URL_HELP, LABELLER_HELP, labeller_maker
from iclr_repro.review_insights.experiments._years import require_folder, title_of
from iclr_repro.review_insights.openreview import pair_reviews, parse_forums, read_forum_notes
from iclr_repro.review_insights.predictors import (
    change_cases,
    coefficient_intervals,
    coefficient_table,
    logistic_change_model,
)
from iclr_repro.review_insights.rebuttal import (
    NO_REPLY,
    PAPER_ROWS,
    SCORE_FEATURES,
    UNCLEAR,
    reactions,
    with_thread_features,
)
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import PaperTerms
from iclr_repro.review_insights.synthetic import generate_year
from iclr_repro.review_insights.taxonomy import load_taxonomy


@dataclass(frozen=True, kw_only=True)
class OfThreads:
    """The parameters of experiments on threads."""

    uses_seeds: ClassVar[bool] = False

    threads_dir: str | None = parameter(
        "folder with OpenReview API v2 notes, before/*.json and after/*.json of one year; null: a generated year"
    )
    year: int = parameter("ICLR year of these notes", choices=[2024, 2025, 2026])
    num_papers: int = parameter("papers of the generated year", low=20, high=100_000)
    draws: int = parameter("bootstrap draws over papers", low=1, high=100_000)

    def __post_init__(self) -> None:
        """Refuse a folder that does not exist."""
        require_folder("threads_dir", self.threads_dir, "OpenReview API v2 notes (before/*.json and after/*.json)")

    def load(self, run: Run) -> tuple[ScorePairs, pd.DataFrame, DataKind]:
        """Read the notes, or generate a year: scores, threads, and which of the two it was."""
        if self.threads_dir is None:
            run.log.warning("no threads_dir: threads are generated, claims about real ones are not judged")
            made = generate_year(run.rng("year"), num_papers=self.num_papers)
            return made.pairs, made.threads, "synthetic"
        folder = Path(self.threads_dir)
        earlier, later = (parse_forums(read_forum_notes(folder / when)) for when in ("before", "after"))
        return pair_reviews(earlier, later, year=self.year), later.threads, "real"


@dataclass(frozen=True, kw_only=True)
class Engagement(OfThreads):
    """Author-reviewer threads and their timing by the change of the rating (M11, M12)."""

    def run(self, run: Run) -> Result:
        """Measure turns and participation; on a generated year also whether the known turns are recovered."""
        pairs, threads, kind = self.load(run)
        reviews = pairs.reviews
        found = Measurements()
        activity = engagement(threads, reviews)
        if kind == "synthetic":
            found.add("generated/wrong_turns", float((activity["turns"] != _answered_turns(reviews)).sum()))
            found.add("generated/n", len(reviews))
        table = engagement_by_change(activity, reviews)
        for change, row in table.iterrows():
            for quantity, value in row.items():
                found.add(f"reviews/{change}/{quantity}", value)
        _add_turn_differences(found, activity, reviews, rng=run.rng("bootstrap"), draws=self.draws)
        timing = message_timing(activity, reviews)
        return found.result(
            tables={
                "by_change": table,
                "paper_table2": paper_values.TABLE_2_REVIEWS,
                "timing": timing,
                "reviewer_replies": reviewer_replies_by_day(threads).to_frame(),
            },
            figures={"timing": figures.timing_plot(timing, title=title_of(self.year, kind))},
            data=kind,
        )


@dataclass(frozen=True, kw_only=True)
class RebuttalModel(OfThreads):
    """The paper's predictive model (P): scores, engagement, and labels of the authors' notes; the reviewers' reactions.

    On a generated year the coefficients show whether the generator's mechanism is recovered; they say nothing about
    real rebuttals.
    """

    labeller: str = parameter(LABELLER_HELP)
    base_url: str | None = parameter(BASE_URL_HELP)
    model_draws: int = parameter("bootstrap refits of the regression", low=1, high=10_000)

    def networks(self) -> list[Network]:
        """Name the language model, if the labeller is one."""
        return language_models(self.labeller)

    def run(self, run: Run) -> Result:
        """Measure macro F1 with and without the rebuttal, the coefficients, and the shares of the reactions."""
        pairs, threads, kind = self.load(run)
        taxonomy = load_taxonomy()
        make = labeller_maker(self.labeller, run, base_url=self.base_url)
        labellers = [make(taxonomy[name]) for name in ("strategy", "stance")]
        pairs, features = with_thread_features(pairs, threads, labellers)
        found = Measurements()
        for name, binary in (("three_classes", False), ("binary", True)):
            for prefix, chosen in ((name, features), (f"{name}_scores_only", SCORE_FEATURES)):
                cases = change_cases(pairs, features=chosen, binary=binary)
                found.add_macro_f1(prefix, cases, rng=run.rng(f"macro_f1/{name}"), draws=self.draws)
        cases = change_cases(pairs, features=features)
        rows = coefficient_intervals(cases, draws=self.model_draws, rng=run.rng("models"))
        for feature, row in rows.xs("increase", level="class").iterrows():
            found.add(f"increase_coefficient/{feature}", row["coefficient"], (row["low"], row["high"]))
        coefficients = coefficient_table(logistic_change_model(pairs, features=features).coefficients)
        reaction = taxonomy["reaction"]
        shares = _reaction_shares(pairs, reactions(pairs.reviews, threads, make(reaction)), reaction.categories)
        for name, row in bootstrap_terms(shares, rng=run.rng("bootstrap"), draws=self.draws).intervals().iterrows():
            found.add(f"reaction/{name}/share", row["estimate"], (row["low"], row["high"]))
        found.add("reaction/n", next(iter(shares.values()))[1].sum())
        return found.result(
            tables={
                "coefficients": coefficients,
                "coefficients_beside_paper": _coefficients_beside_paper(coefficients, kind),
                "macro_f1_beside_paper": _macro_f1_beside_paper(found),
                "reactions": pd.Series(
                    {name: found.metrics[f"reaction/{name}/share"] for name in shares}, name="share"
                ).to_frame(),
            },
            data=kind,
        )


def _reaction_shares(pairs: ScorePairs, given: pd.Series, categories: Sequence[str]) -> PaperTerms:
    """Terms of the share of each reaction among the reviews that the authors answered."""
    of_review = given.reindex(pd.MultiIndex.from_frame(pairs.reviews[["paper_id", "review_id"]])).to_numpy()
    answered = pairs.paper_sums(pd.notna(of_review))
    return {name: (pairs.paper_sums(of_review == name), answered) for name in (*categories, UNCLEAR, NO_REPLY)}


def _coefficients_beside_paper(coefficients: pd.DataFrame, kind: DataKind) -> pd.DataFrame:
    """The paper's nine rows with ours; rows of features that the threads lack stay empty."""
    ours = coefficients.reindex(list(PAPER_ROWS)).set_axis(list(PAPER_ROWS.values()))
    source = "ours (generated)" if kind == "synthetic" else "ours"
    columns = ["mean_abs", "INC", "KEEP"]
    return pd.concat({"paper": paper_values.COEFFICIENTS[columns], source: ours[columns]}, axis=1)


def _macro_f1_beside_paper(found: Measurements) -> pd.DataFrame:
    rows = {
        name: {
            "paper": value,
            "paper, +-": spread,
            "ours": found.metrics[f"{name}/macro_f1"],
            "ours, scores only": found.metrics[f"{name}_scores_only/macro_f1"],
        }
        for name, (value, spread) in paper_values.MODEL_MACRO_F1.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _answered_turns(reviews: pd.DataFrame) -> pd.Series:
    """The turns that the generator wrote: all of the authors' notes where the reviewer replied, none elsewhere."""
    return reviews["turns"].where(reviews["reviewer_replied"], 0).reset_index(drop=True)


def _add_turn_differences(
    found: Measurements, activity: pd.DataFrame, reviews: pd.DataFrame, *, rng: np.random.Generator, draws: int
) -> None:
    """Note how many turns more the reviews had that went up than those that stayed, with an interval over papers."""
    change = np.sign(reviews["after"] - reviews["before"]).to_numpy()
    papers, paper = np.unique(reviews["paper_id"], return_inverse=True)
    turns = activity["turns"].to_numpy(dtype=np.float64)
    sums = [np.bincount(paper, turns * (change == sign), len(papers)) for sign in (1, 0)]
    counts = [np.bincount(paper, change == sign, len(papers)) for sign in (1, 0)]
    weights = resampling_counts(len(papers), draws, rng=rng)
    means = [(weights @ total) / np.maximum(weights @ count, 1) for total, count in zip(sums, counts, strict=True)]
    estimate = sums[0].sum() / max(counts[0].sum(), 1) - sums[1].sum() / max(counts[1].sum(), 1)
    found.add_draws("reviews/turns_increase_minus_keep", estimate, means[0] - means[1])
