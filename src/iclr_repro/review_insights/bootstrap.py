"""Paper-level bootstrap of all statistics of a conference year (sheet M, "Intervals").

A draw takes as many papers as there are, with replacement; it is a vector of counts (how often each paper was drawn).
A ratio of sums over papers (see `statistics.py`) is then a ratio of two matrix products with these counts, and the
ranking statistics work on weighted papers (see `ranking.py`): no loop over papers or reviews, and no table is rebuilt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from iclr_repro.review_insights.engagement import aspect_terms, order_terms
from iclr_repro.review_insights.ranking import Rankings
from iclr_repro.review_insights.scores import ACCEPTED, ASPECTS, ScorePairs
from iclr_repro.review_insights.statistics import (
    PaperTerms,
    coreviewer_terms,
    disagreement_terms,
    initial_rating_terms,
    paper_change_terms,
    review_change_terms,
)

# Shape letters: D = bootstrap draws, P = papers, S = statistics.

_CHUNK_ELEMENTS = 2_000_000  # draws x papers held at once: 16 MB an array

# the column of each table whose denominator is the number of papers or reviews of a row
_COUNTED_COLUMNS = {
    "reviews": "mean_before",
    "papers": "mean_before",
    "disagreement": "before",
    "aspects": "aspects_unchanged",
    "coreviewer": "p_increase",
    "by_initial": "p_increase",
}


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Statistics of a conference year and their values on resampled papers.

    Attributes:
        estimates: statistic -> value on the papers themselves. Names are "table/row/column", e.g.
            "reviews/increase/share", "churn/0.05", "disagreement/overall/relative_change".
        draws: [draws, statistics] values on the resampled papers; NaN where a draw has no case.
        counts: statistic -> its summed denominator on the papers themselves, mostly a number of papers or reviews; for
            "churn/<fraction>" the papers in the top, for "accepted/..." the accepted ones.
    """

    estimates: pd.Series
    draws: pd.DataFrame
    counts: pd.Series

    def intervals(self, *, level: float = 0.95) -> pd.DataFrame:
        """Percentile intervals: index the statistics, columns `estimate`, `low`, `high`."""
        tail = (1 - level) / 2
        quantiles = self.draws.quantile([tail, 1 - tail])
        return pd.DataFrame({"estimate": self.estimates, "low": quantiles.iloc[0], "high": quantiles.iloc[1]})

    def row_counts(self) -> dict[str, int]:
        """Number of papers or reviews behind each row of the tables.

        Keys are "table/row", e.g. "reviews/increase" (the reviews that rose), "churn/0.05", "order/4/1", "accepted".
        """
        counts = {}
        for name, count in self.counts.items():
            table, _, rest = str(name).partition("/")
            row, _, column = rest.rpartition("/")
            if table in ("churn", "order"):
                counts[str(name)] = round(count)
            elif table == "accepted":
                counts[table] = round(count)
            elif column == _COUNTED_COLUMNS.get(table):
                counts[f"{table}/{row}"] = round(count)
        return counts


def bootstrap(
    pairs: ScorePairs,
    *,
    rng: np.random.Generator,
    draws: int = 1000,
    fractions: Sequence[float] = (0.05, 0.3),
    ties: str = "paper_id",
) -> Bootstrap:
    """All statistics that the data allow, with their values on resampled papers.

    Args:
        pairs: one conference year. Review-level statistics need `aligned` pairs, acceptance needs decisions, the order
            effect submission times and the aspect updates aspect scores; what the data lack is left out.
        rng: source of the resampling.
        draws: number of resamples, 0 for the estimates alone.
        fractions: of the papers, for `churn`.
        ties: tie rule of the rankings.

    Source: sheet M; the paper gives no intervals.
    """
    terms = paper_terms(pairs)
    rankings = Rankings(pairs, ties=ties)
    accepted = pairs.papers["decision"].isin(ACCEPTED).to_numpy()
    num_papers = len(pairs.papers)
    tops = {f"churn/{fraction:g}": round(fraction * num_papers) for fraction in fractions}
    if pairs.has_decisions:
        tops |= {f"accepted/share_outside_top_{when}": int(accepted.sum()) for when in ("before", "after")}

    def ranked(weights_DP: np.ndarray) -> dict[str, np.ndarray]:
        weighed = rankings.weigh(weights_DP)
        values = {f"churn/{fraction:g}": weighed.churn(fraction) for fraction in fractions}
        if pairs.has_decisions:
            outside = weighed.outside_top(accepted)
            values |= {f"accepted/share_outside_top_{when}": share for when, share in outside.items()}
        return values

    found = bootstrap_terms(terms, rng=rng, draws=draws, further=ranked)
    return replace(found, counts=pd.concat([found.counts, pd.Series(tops, dtype=float)]))


def bootstrap_terms(
    terms: PaperTerms,
    *,
    rng: np.random.Generator,
    draws: int,
    further: Callable[[np.ndarray], dict[str, np.ndarray]] = lambda _: {},
) -> Bootstrap:
    """Ratios of sums over papers with their values on resampled papers.

    Args:
        terms: one entry or more.
        rng: source of the resampling.
        draws: number of resamples, 0 for the estimates alone.
        further: from counts [D, P] of how often each paper is drawn to more statistics [D], which have no count.
    """
    numerators_PS, denominators_PS = (np.stack(column, axis=1) for column in zip(*terms.values(), strict=True))

    def evaluate(weights_DP: np.ndarray) -> pd.DataFrame:
        denominator_DS = weights_DP @ denominators_PS
        ratio_DS = np.divide(
            weights_DP @ numerators_PS,
            denominator_DS,
            out=np.full_like(denominator_DS, np.nan),
            where=denominator_DS != 0,
        )
        return pd.DataFrame(dict(zip(terms, ratio_DS.T, strict=True)) | further(weights_DP))

    num_papers = len(denominators_PS)
    estimates = evaluate(np.ones((1, num_papers))).iloc[0]
    chunk = max(1, _CHUNK_ELEMENTS // num_papers)
    parts = [
        evaluate(resampling_counts(num_papers, min(chunk, draws - done), rng=rng)) for done in range(0, draws, chunk)
    ]
    resampled = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=estimates.index, dtype=float)
    return Bootstrap(estimates, resampled, pd.Series(denominators_PS.sum(axis=0), index=list(terms)))


def resampling_counts(num_papers: int, draws: int, *, rng: np.random.Generator) -> np.ndarray:
    """[draws, num_papers] float64: how often each paper is drawn in samples of `num_papers` with replacement."""
    drawn_DP = rng.integers(num_papers, size=(draws, num_papers))
    flat = drawn_DP + np.arange(draws)[:, None] * num_papers
    counts = np.bincount(flat.ravel(), minlength=draws * num_papers)
    return counts.reshape(draws, num_papers).astype(np.float64)


def paper_terms(pairs: ScorePairs) -> PaperTerms:
    """Terms of all statistics that are ratios of sums over papers, as far as the data allow them."""
    tables = {"papers": paper_change_terms(pairs), "disagreement": disagreement_terms(pairs)}
    if pairs.aligned:
        tables |= {
            "reviews": review_change_terms(pairs),
            "coreviewer": coreviewer_terms(pairs),
            "by_initial": initial_rating_terms(pairs),
        }
        if {f"{score}_after" for score in ("confidence", *ASPECTS)} <= set(pairs.reviews.columns):
            tables["aspects"] = aspect_terms(pairs)
    if "created_utc" in pairs.reviews.columns:
        tables["order"] = order_terms(pairs)
    terms = {f"{table}/{name}": term for table, rows in tables.items() for name, term in rows.items()}
    if pairs.aligned:
        increases, decreases = (terms[f"reviews/{change}/share"][0] for change in ("increase", "decrease"))
        terms["reviews/up_down_ratio"] = increases, decreases
    if pairs.has_decisions:
        accepted = pairs.papers["decision"].isin(ACCEPTED).to_numpy() * 1.0
        terms["accepted/share_increased"] = accepted * terms["papers/increase/share"][0], accepted
    return terms
