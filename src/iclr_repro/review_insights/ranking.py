"""What the rebuttal does to the ranking of the papers by mean rating (sheet M3 and M8).

The top K of a ranking is cut where many papers share a mean, so the rule for ties matters. Two are offered:
`"paper_id"` (ascending, as the reference values have it) and `"random"` (the exact expectation when the tied papers of
each of the two rankings are ordered at random, independently). Both work on weighted papers: with weight w a paper
stands w times in the ranking, which is what the bootstrap needs; the plain statistic has all weights one.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.review_insights.scores import ACCEPTED, ScorePairs

# Shape letters: D = bootstrap draws (or 1), P = papers, G = groups of tied papers.

TIE_RULES = ("paper_id", "random")


def churn(pairs: ScorePairs, fraction: float, *, ties: str = "paper_id") -> float:
    """Share of the top K papers by mean before that are not in the top K by mean after.

    K = round(fraction * num_papers), halves to even.

    Args:
        pairs: at least one paper.
        fraction: of the papers, in (0, 1], so that K >= 1.
        ties: one of `TIE_RULES`, see the module.

    Raises:
        ValueError: an unknown tie rule, a fraction that leaves no paper on top or is above 1.

    Source: sheet M3.
    Example: means before a 6, b 5, c 4, d 3, after a 6, b 3, c 5, d 4 and fraction 0.5: b leaves the top 2, churn 0.5.
    """
    return float(Rankings(pairs, ties=ties).weigh(np.ones((1, len(pairs.papers)))).churn(fraction)[0])


def accepted_against_ranking(pairs: ScorePairs, *, ties: str = "paper_id") -> pd.Series:
    """How many accepted papers rose, and how many would have been out on their ratings alone.

    With A the accepted papers and K = |A|: `n_accepted` = K, `share_increased` = share of A whose mean rose,
    `share_outside_top_before` and `share_outside_top_after` = shares of A outside the top K of all papers by mean
    before ("needed the rebuttal or the chair") and by mean after.

    Raises:
        ValueError: no paper is accepted.

    Source: sheet M8.
    """
    accepted = pairs.papers["decision"].isin(ACCEPTED).to_numpy()
    if not accepted.any():
        raise ValueError("no paper is accepted: M8 needs decisions")
    rose = pairs.paper_sums(pairs.reviews["after"]) > pairs.paper_sums(pairs.reviews["before"])
    outside = Rankings(pairs, ties=ties).weigh(np.ones((1, len(accepted)))).outside_top(accepted)
    return pd.Series(
        {
            "n_accepted": int(accepted.sum()),
            "share_increased": float(rose[accepted].mean()),
            "share_outside_top_before": float(outside["before"][0]),
            "share_outside_top_after": float(outside["after"][0]),
        },
        dtype=object,
    )


class Rankings:
    """The papers by mean rating before and after the rebuttal, best first, under one tie rule.

    Args:
        pairs: papers to rank.
        ties: one of `TIE_RULES`.

    Raises:
        ValueError: an unknown tie rule.
    """

    def __init__(self, pairs: ScorePairs, *, ties: str) -> None:
        if ties not in TIE_RULES:
            raise ValueError(f"ties is {ties!r}, expected one of {TIE_RULES}")
        self._grouped = ties == "random"
        self._before, self._after = (
            _Ranking.by_mean(pairs.papers[f"mean_{when}"].to_numpy(), grouped=self._grouped)
            for when in ("before", "after")
        )

    def weigh(self, weights_DP: np.ndarray) -> "WeightedRankings":
        """Both rankings with each paper as often as its weight says; each row of weights sums to the papers' number."""
        before, after = (_WeightedRanking.of(ranking, weights_DP) for ranking in (self._before, self._after))
        return WeightedRankings(weights_DP, before, after, self._grouped)


@dataclass(frozen=True, eq=False)
class WeightedRankings:
    """Both rankings of D bootstrap draws, with the weights [D, P] of the papers."""

    _weights: np.ndarray
    _before: "_WeightedRanking"
    _after: "_WeightedRanking"
    _grouped: bool

    def churn(self, fraction: float) -> np.ndarray:
        """[D] share of the top K before that are not in the top K after, K = round(fraction * num_papers)."""
        num_draws, num_papers = self._weights.shape
        top = round(fraction * num_papers)
        if not 0 < top <= num_papers:
            raise ValueError(
                f"fraction {fraction} of {num_papers} papers puts {top} on top, expected 1 to {num_papers}"
            )
        top_D = np.full(num_draws, float(top))
        before_DP, after_DP = (ranking.copies_in_top(top_D) for ranking in (self._before, self._after))
        if self._grouped:
            weights_DP = self._weights
            both_DP = np.divide(before_DP * after_DP, weights_DP, out=np.zeros_like(before_DP), where=weights_DP > 0)
        else:
            # the copies of a paper have one order in both rankings: those in both tops are the fewer of the two
            both_DP = np.minimum(before_DP, after_DP)
        return 1.0 - both_DP.sum(axis=1) / top

    def outside_top(self, accepted_P: np.ndarray) -> dict[str, np.ndarray]:
        """Shares [D] of the accepted papers outside the top K "before" and "after", K = their number in the draw.

        NaN in a draw without an accepted paper.
        """
        top_D = self._weights[:, accepted_P].sum(axis=1)
        outside = {}
        for when, ranking in (("before", self._before), ("after", self._after)):
            inside_D = ranking.copies_in_top(top_D)[:, accepted_P].sum(axis=1)
            outside[when] = np.divide(top_D - inside_D, top_D, out=np.full(len(top_D), np.nan), where=top_D > 0)
        return outside


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Papers by mean rating.

    Attributes:
        order: int [P] paper at each rank.
        group_starts: int [G] rank at which each group of equally ranked papers begins; None if each is its own.
        group_of: int [P] group (or rank) of each paper.
    """

    order: np.ndarray
    group_starts: np.ndarray | None
    group_of: np.ndarray

    @classmethod
    def by_mean(cls, mean_P: np.ndarray, *, grouped: bool) -> "_Ranking":
        """Rank papers that are sorted by id; equal means stay in that order."""
        order = np.argsort(-mean_P, kind="stable")
        new_group = np.diff(mean_P[order], prepend=np.inf) != 0 if grouped else np.ones(len(order), dtype=bool)
        group_of = np.empty(len(order), dtype=np.int64)
        group_of[order] = np.cumsum(new_group) - 1
        return cls(order, np.flatnonzero(new_group) if grouped else None, group_of)


@dataclass(frozen=True, eq=False)
class _WeightedRanking:
    """A ranking of D draws.

    Attributes:
        copies: [D, G] number of copies in each group.
        above: [D, G] number of copies ranked above each group.
        group_of: int [P] group of each paper.
        weights: [D, P] copies of each paper; None where each paper is its own group, so that `copies` says the same.
    """

    copies: np.ndarray
    above: np.ndarray
    group_of: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def of(cls, ranking: _Ranking, weights_DP: np.ndarray) -> "_WeightedRanking":
        copies_DG = weights_DP[:, ranking.order]
        if ranking.group_starts is not None:
            copies_DG = np.add.reduceat(copies_DG, ranking.group_starts, axis=1)
        above_DG = np.cumsum(copies_DG, axis=1) - copies_DG
        return cls(copies_DG, above_DG, ranking.group_of, weights_DP if ranking.group_starts is not None else None)

    def copies_in_top(self, top_D: np.ndarray) -> np.ndarray:
        """[D, P] (expected) number of copies of each paper among the first `top_D`.

        A group with G copies, of which r have room in the top, puts each copy there with probability r / G.
        """
        inside_DG = np.clip(top_D[:, None] - self.above, 0, self.copies)
        if self.weights is None:
            return inside_DG[:, self.group_of]
        share_DG = np.divide(inside_DG, self.copies, out=np.zeros_like(inside_DG), where=self.copies > 0)
        return self.weights * share_DG[:, self.group_of]
