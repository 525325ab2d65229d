"""Experiments on reviews as records: tracing without identities, labels of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, language_models
from iclr_repro.core.rundir import Run
from iclr_repro.review_insights import figures
from iclr_repro.review_insights.bootstrap import bootstrap_terms
from iclr_repro.review_insights.data import load_review_texts
from iclr_repro.review_insights.experiments._common import Measurements
from iclr_repro.review_insights.experiments._labellers import BASE_URL_HELP, LABELLER_HELP, labeller_maker
from iclr_repro.review_insights.experiments._years import load_years
from iclr_repro.review_insights.labelling import RATING_GROUPS, agreement, category_shares, indicators
from iclr_repro.review_insights.taxonomy import Snippet, load_snippets, load_taxonomy
from iclr_repro.review_insights.tracing import FIELDS
from iclr_repro.review_insights.tracing_check import traced_changes, tracing_sample, tracing_terms


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """How well reviews can be followed without identities (T): shuffle the later scores of known pairs, match."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    num_unchanged: int = parameter("papers without any change, besides all with one", low=0, high=20_000)
    num_shuffles: int = parameter("shuffles to average over", low=1, high=1000)
    draws: int = parameter("bootstrap draws over papers", low=1, high=100_000)

    def run(self, run: Run) -> Result:
        """Measure on ICLR 2026 with five scores and on ICLR 2023 with rating and confidence.

        Shares are means over the shuffles, their intervals are over papers.
        """
        years, _, kind, _ = load_years(self.data, run, dated=[2023, 2026])
        found = Measurements()
        tables: dict[str, pd.DataFrame] = {}
        sample = tracing_sample(years[2026], rng=run.rng("sample"), num_unchanged=self.num_unchanged)
        for name, pairs, fields in (
            ("iclr2026", sample, FIELDS),
            ("iclr2023_confidence_only", years[2023], ("confidence",)),
        ):
            rng = run.rng(f"shuffles/{name}")
            terms = tracing_terms(pairs, rng=rng, fields=fields, num_shuffles=self.num_shuffles)
            rows = bootstrap_terms(terms, rng=run.rng(f"bootstrap/{name}"), draws=self.draws).intervals()
            for quantity, row in rows.iterrows():
                found.add(f"{name}/{quantity}", row["estimate"], (row["low"], row["high"]))
            for group in ("all", "changed", "rating_changed"):
                found.add(f"{name}/{group}/n", terms[f"{group}/right_review"][1].sum())
            changes, ambiguous_share = traced_changes(pairs, rng=rng, fields=fields)
            found.add(f"{name}/ambiguous_share", ambiguous_share)
            for (change, quantity), value in changes.stack().items():
                found.add(f"{name}/changes/{change}/{quantity}", value)
            tables |= {name: rows, f"{name}_changes": changes}
        return found.result(tables=tables, data=kind)


@dataclass(frozen=True, kw_only=True)
class TextLabels:
    """Which weaknesses and strengths reviews name by rating group (L), how far the labeller agrees with a reader."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    labeller: str = parameter(LABELLER_HELP)
    base_url: str | None = parameter(BASE_URL_HELP)
    num_texts: int = parameter("texts to label", low=1, high=100_000)
    draws: int = parameter("bootstrap draws over papers", low=1, high=100_000)

    def networks(self) -> list[Network]:
        """Name the language model, if the labeller is one."""
        return language_models(self.labeller)

    def run(self, run: Run) -> Result:
        """Measure agreement on the hand-labelled snippets, and shares on the review texts."""
        taxonomy = load_taxonomy()
        snippets = load_snippets(taxonomy)
        found = Measurements()
        tables = {}
        make = labeller_maker(self.labeller, run, base_url=self.base_url)
        labellers = {name: make(task) for name, task in taxonomy.items()}
        for name, task in taxonomy.items():
            chosen = [snippet for snippet in snippets if name in snippet.labels]
            labels = labellers[name].label([snippet.text for snippet in chosen])
            quality = agreement([snippet.labels[name] for snippet in chosen], labels, task)
            for quantity in ("n", "unlabelled", "kappa", "micro_f1", "macro_f1"):
                found.add(f"agreement/{name}/{quantity}", getattr(quality, quantity))
            tables[f"agreement_{name}"] = quality.table

        texts, kind = real_or_synthetic(
            self.data, load_review_texts, lambda: _synthetic_texts(run.rng("texts"), snippets)
        )
        texts = texts.iloc[: self.num_texts]
        made = {}
        for name, what in (("weaknesses", "weakness"), ("strengths", "strength")):
            given = indicators(labellers[name].label(texts[name].tolist()), taxonomy[name])
            shares = category_shares(
                given,
                texts["rating_first"].to_numpy(),
                texts["paper_id"].tolist(),
                rng=run.rng(f"bootstrap/{name}"),
                draws=self.draws,
            )
            for (group, category), row in shares.iterrows():
                found.add(f"{name}/{group}/{category}/share", row["share"], (row["low"], row["high"]))
            for group in RATING_GROUPS:
                found.add(f"{name}/{group}/n", shares.loc[group, "n"].iloc[0])
            tables[name] = shares
            made[name] = figures.label_shares(shares.dropna(), what=what)
        return found.result(tables=tables, figures=made, data=kind)


def _synthetic_texts(rng: np.random.Generator, snippets: Sequence[Snippet]) -> pd.DataFrame:
    """Snippets as reviews of made-up papers with random ratings, for runs without the real texts."""
    texts = [snippet.text for snippet in snippets if "weaknesses" in snippet.labels or "strengths" in snippet.labels]
    return pd.DataFrame(
        {
            "paper_id": [f"paper{number // 2}" for number in range(len(texts))],
            "rating_first": rng.choice([2, 4, 6, 8], size=len(texts)),
            "weaknesses": texts,
            "strengths": texts,
        }
    )
