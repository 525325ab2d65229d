"""Review scores before and after the rebuttal: the data structure from which every statistic starts.

`ScorePairs` holds all reviews of one conference year with their rating before and after the rebuttal, of those papers
that have at least one rating before and as many after (sheet M, "Filter").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

SCALES: Mapping[int, tuple[int, ...]] = {
    2020: (1, 3, 6, 8),
    2021: tuple(range(1, 11)),
    2023: (1, 3, 5, 6, 8, 10),
    2024: (1, 3, 5, 6, 8, 10),
    2025: (1, 3, 5, 6, 8, 10),
    2026: (0, 2, 4, 6, 8, 10),
}
"""Rating scale of each ICLR year."""

ASPECTS = ("soundness", "presentation", "contribution")
"""Scores of a review (1-4) besides rating and confidence, ICLR 2023 and later."""

ACCEPTED = ("oral", "spotlight", "poster")
REJECTED = ("reject", "desk_reject")
DECISIONS = (*ACCEPTED, *REJECTED, "withdrawn")
"""Harmonised decisions; None stands for "not known"."""

_DECISION_SPELLINGS: Mapping[str, str | None] = {
    "": None,
    "accept (oral)": "oral",
    "accept (talk)": "oral",
    "accept: notable-top-5%": "oral",
    "top-5%": "oral",
    "oral": "oral",
    "accept (spotlight)": "spotlight",
    "accept: notable-top-25%": "spotlight",
    "top-25%": "spotlight",
    "spotlight": "spotlight",
    "accept (poster)": "poster",
    "accept: poster": "poster",
    "poster": "poster",
    "reject": "reject",
    "desk reject": "desk_reject",
    "desk rejected": "desk_reject",
    "unknown": "withdrawn",  # so spelled in the ICLR 2021 capture
    "withdraw": "withdrawn",
    "withdrawn": "withdrawn",
}


@dataclass(frozen=True, eq=False)
class ScorePairs:
    """Reviews of one conference year with their rating before and after the rebuttal.

    Build it with `from_reviews`, which sorts, filters and checks; the statistics rely on its order.

    Attributes:
        reviews: one row a review, sorted by (paper_id, position), index 0..n-1. Columns `paper_id`, `position`
            (0..k-1 in reviewer order), `before`, `after` (int64, points of the rating scale); further columns as the
            source has them (`review_id`, `confidence_before`, `confidence_after`, `words`, `experience`, ...).
        papers: one row a paper, index `paper_id` ascending. Columns `decision` (one of `DECISIONS` or None),
            `n_reviews`, `mean_before`, `mean_after`.
        year: ICLR year, None for other data.
        scale: the rating scale, ascending; without a declared scale the ratings seen.
        dropped: reason -> number of papers left out: "no_ratings" (none before or none after), "unequal_counts".
        aligned: whether before and after of a row belong to the same reviewer. False where the source sorted one
            list: then only paper-level statistics make sense, and review-level ones refuse.
    """

    reviews: pd.DataFrame
    papers: pd.DataFrame
    year: int | None
    scale: tuple[int, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    aligned: bool = True

    @classmethod
    def from_reviews(
        cls,
        reviews: pd.DataFrame,
        *,
        decisions: pd.Series | None = None,
        year: int | None = None,
        scale: Sequence[int] | None = None,
        dropped: Mapping[str, int] | None = None,
        aligned: bool = True,
    ) -> "ScorePairs":
        """Check and order a table of reviews.

        Args:
            reviews: columns `paper_id`, `before`, `after` (whole numbers, none missing) and any further ones. Inside a
                paper the reviewer order is that of `position` where the column exists, else that of the rows.
            decisions: indexed by paper id, harmonised (`DECISIONS` or missing); papers without an entry get None.
            year: ICLR year; sets the scale unless `scale` does.
            scale: allowed ratings; without year and scale, the ratings seen.
            dropped: reason -> papers already left out by the caller.
            aligned: see the class.

        Raises:
            ValueError: no review, a missing column, a rating that is missing or off the scale, an unknown decision.
        """
        missing = [name for name in ("paper_id", "before", "after") if name not in reviews.columns]
        if missing:
            raise ValueError(f"reviews lack the columns {missing}; found {list(reviews.columns)}")
        if reviews.empty:
            raise ValueError(f"no paper has ratings both before and after; left out: {dict(dropped or {})}")
        seen = pd.concat([reviews["before"], reviews["after"]])
        if scale is None:
            scale = SCALES[year] if year is not None else sorted(seen.unique().tolist())
        off_scale = reviews.loc[~(reviews["before"].isin(scale) & reviews["after"].isin(scale))]
        if len(off_scale):
            row = off_scale.iloc[0]
            raise ValueError(
                f"paper {row['paper_id']}: rating {row['before']} -> {row['after']} is not on the scale {tuple(scale)}"
            )
        order = ["paper_id", "position"] if "position" in reviews.columns else ["paper_id"]
        reviews = reviews.sort_values(order, kind="stable", ignore_index=True)
        reviews = reviews.assign(
            position=reviews.groupby("paper_id").cumcount(),
            before=reviews["before"].astype("int64"),
            after=reviews["after"].astype("int64"),
        )
        leading = ["paper_id", "position", "before", "after"]
        reviews = reviews[[*leading, *reviews.columns.difference(leading, sort=False)]]
        grouped = reviews.groupby("paper_id", sort=False)
        papers = pd.DataFrame(
            {
                "decision": _decision_column(grouped.size().index, decisions),
                "n_reviews": grouped.size(),
                # sum / count of whole numbers: equal means are equal floats, so that ties stay ties
                "mean_before": grouped["before"].sum() / grouped.size(),
                "mean_after": grouped["after"].sum() / grouped.size(),
            }
        )
        return cls(reviews, papers, year, tuple(int(value) for value in scale), dict(dropped or {}), aligned)

    @cached_property
    def starts(self) -> np.ndarray:
        """[num_papers] row of each paper's first review, as `np.add.reduceat` wants it."""
        counts = self.papers["n_reviews"].to_numpy()
        return np.cumsum(counts) - counts

    @cached_property
    def paper_index(self) -> np.ndarray:
        """[num_reviews] row in `papers` of each review's paper."""
        return np.repeat(np.arange(len(self.papers)), self.papers["n_reviews"].to_numpy())

    def paper_sums(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """[num_papers] sums over each paper's reviews of `values` [num_reviews], float64."""
        return np.add.reduceat(np.asarray(values, dtype=np.float64), self.starts)

    @property
    def has_decisions(self) -> bool:
        """Whether any paper is known to be accepted or rejected (withdrawals alone say nothing about acceptance)."""
        return bool(self.papers["decision"].isin([*ACCEPTED, *REJECTED]).any())

    def select(self, keep: np.ndarray | pd.Series) -> "ScorePairs":
        """The papers where the boolean `keep` [num_papers] holds, with the same scale."""
        mask = np.asarray(keep, dtype=bool)
        if mask.shape != (len(self.papers),):
            raise ValueError(f"keep has shape {mask.shape}, expected one value for each of {len(self.papers)} papers")
        if not mask.any():
            raise ValueError("keep selects no paper")
        reviews = self.reviews[mask[self.paper_index]].reset_index(drop=True)
        return ScorePairs(reviews, self.papers[mask], self.year, self.scale, self.dropped, self.aligned)


def harmonise_decision(text: str) -> str | None:
    """The category of a decision as the conference years spell it, e.g. "Accept (Poster)" or "Top-25%".

    Returns:
        One of `DECISIONS`, or None for an empty string.

    Raises:
        ValueError: a spelling that no ICLR year uses.
    """
    try:
        return _DECISION_SPELLINGS[text.strip().lower()]
    except KeyError:
        known = sorted(spelling for spelling in _DECISION_SPELLINGS if spelling)
        raise ValueError(f"unknown decision {text!r}; known (any case): {known}") from None


def _decision_column(paper_ids: pd.Index, decisions: pd.Series | None) -> pd.Series:
    if decisions is None:
        return pd.Series([None] * len(paper_ids), index=paper_ids, dtype=object)
    column = decisions.reindex(paper_ids).astype(object)
    column = column.where(column.notna(), None)
    unknown = sorted(set(column.dropna()) - set(DECISIONS))
    if unknown:
        raise ValueError(f"unknown decisions {unknown}; expected {list(DECISIONS)} or None")
    return column
