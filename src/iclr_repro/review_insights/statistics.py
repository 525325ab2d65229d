"""How review scores move during the rebuttal: changes, transitions, disagreement, co-reviewers (sheet M1, M2, M4-M6).

Nearly every statistic is a ratio of two sums over papers,

    value = sum_p numerator[p] / sum_p denominator[p].

The `*_terms` functions return these per-paper terms, so that a table here and its paper-level bootstrap interval
(`bootstrap.py`) come from one definition. The public functions return the tables as pandas objects. A class without
a case has n = 0 and NaN where its mean would stand.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from iclr_repro.review_insights.scores import ACCEPTED, REJECTED, ScorePairs

PaperTerms = dict[str, tuple[np.ndarray, np.ndarray]]
"""Statistic -> (numerator, denominator), each float64 [num_papers]; names are "row/column" of a table."""

CHANGES = ("increase", "decrease", "keep")
COREVIEWER_BINS = ("others_lower", "others_close", "others_higher")


class ScoreChanges(NamedTuple):
    """Table 2 of the paper: the reviews and the papers, each by the sign of their change."""

    reviews: pd.DataFrame
    papers: pd.DataFrame


def score_changes(pairs: ScorePairs) -> ScoreChanges:
    """Reviews and papers that went up, went down or stayed: `review_changes` and `paper_changes`."""
    return ScoreChanges(review_changes(pairs), paper_changes(pairs))


def review_changes(pairs: ScorePairs) -> pd.DataFrame:
    """Reviews by the sign of after - before.

    Returns:
        Index increase, decrease, keep; columns `n`, `share` of all reviews, `mean_before`, `mean_after`.

    Raises:
        ValueError: the pairs are not aligned.

    Source: sheet M1; Table 2 of the paper, lower part.
    Example: ratings 3;5 -> 5;5 give increase n = 1, share 0.5, 3 -> 5 and keep n = 1, share 0.5, 5 -> 5.
    """
    return _table(review_change_terms(pairs), num_from="mean_before")


def paper_changes(pairs: ScorePairs) -> pd.DataFrame:
    """Papers by the sign of the change of their summed ratings; the means are over papers of the paper mean.

    Returns:
        Index increase, decrease, keep, overall; columns `n`, `share`, `mean_before`, `mean_after`, `accept_rate`
        (withdrawn papers left out of the rate, desk-rejected ones count as rejected) and `accept_rate_all` (withdrawn
        ones count as not accepted: the rate of the paper's table). Both are NaN where no decision is known.

    Source: sheet M1; Table 2 of the paper, upper part.
    Example: ratings 3;6 -> 5;5 rise in sum from 9 to 10: the paper is an increase, 4.5 -> 5, although one review fell.
    """
    table = _table(paper_change_terms(pairs), num_from="mean_before")
    return table.reindex(columns=["n", "share", "mean_before", "mean_after", "accept_rate", "accept_rate_all"])


def transition_matrix(pairs: ScorePairs) -> pd.DataFrame:
    """Number of reviews by rating before (rows) and after (columns), over the rating scale.

    Source: sheet M2; Fig. 3 of the paper. Row sums are the numbers of reviews with that rating before.
    """
    _require_aligned(pairs)
    scale = np.array(pairs.scale)
    before, after = (np.searchsorted(scale, pairs.reviews[name]) for name in ("before", "after"))
    counts = np.bincount(before * len(scale) + after, minlength=len(scale) ** 2).reshape(len(scale), len(scale))
    return pd.DataFrame(counts, index=pd.Index(scale, name="before"), columns=pd.Index(scale, name="after"))


def top_changes(pairs: ScorePairs, *, num_changes: int = 6) -> pd.DataFrame:
    """The most frequent changes of a rating.

    Returns:
        Columns `before`, `after`, `n`: the non-zero off-diagonal cells of `transition_matrix` by n descending, then by
        (before, after), at most `num_changes` rows.

    Source: sheet M2.
    """
    counts = transition_matrix(pairs).to_numpy(copy=True)
    np.fill_diagonal(counts, 0)
    before, after = np.nonzero(counts)
    scale = np.array(pairs.scale)
    cells = pd.DataFrame({"before": scale[before], "after": scale[after], "n": counts[before, after]})
    return cells.sort_values("n", ascending=False, kind="stable", ignore_index=True).head(num_changes)


def disagreement(pairs: ScorePairs) -> pd.DataFrame:
    """Mean over papers of the population standard deviation of a paper's ratings, papers with two reviews or more.

    Returns:
        Index `overall` and, where decisions are known, oral_spotlight, poster, reject (with desk_reject), withdrawn;
        columns `n` (papers), `before`, `after`, `relative_change` = after / before - 1 of the two means.

    Source: sheet M4. The paper does not name its measure of dispersion; the standard deviation is assumed.
    Example: one paper with 3;5 -> 5;5 gives before 1, after 0, relative change -1.
    """
    return _table(disagreement_terms(pairs), num_from="before")


def coreviewer_effect(pairs: ScorePairs) -> pd.DataFrame:
    """Changes by the distance d = mean rating of the co-reviewers before - own rating before.

    Returns:
        Index others_lower (d <= -0.5), others_close (|d| < 0.5), others_higher (d >= 0.5); columns `n`, `p_increase`,
        `p_decrease`. Reviews without a co-reviewer are left out.

    Source: sheet M5.
    Example: ratings 3;6 give d = 3 (others_higher) and d = -3 (others_lower).
    """
    return _table(coreviewer_terms(pairs), num_from="p_increase")


def change_by_initial_rating(pairs: ScorePairs) -> pd.DataFrame:
    """Changes by the own rating before: index the ratings seen, columns `n`, `p_increase`, `p_decrease`.

    Source: sheet M6.
    """
    table = _table(initial_rating_terms(pairs), num_from="p_increase")
    return table.set_index(table.index.astype(int).rename("before"))


def review_change_terms(pairs: ScorePairs) -> PaperTerms:
    """Terms of `review_changes`."""
    _require_aligned(pairs)
    before, after = (pairs.reviews[name].to_numpy() for name in ("before", "after"))
    num_reviews = pairs.papers["n_reviews"].to_numpy(dtype=np.float64)
    terms: PaperTerms = {}
    counts = {}
    for change, chosen in _by_sign(after - before).items():
        counts[change] = pairs.paper_sums(chosen)
        terms[f"{change}/share"] = counts[change], num_reviews
        terms[f"{change}/mean_before"] = pairs.paper_sums(chosen * before), counts[change]
        terms[f"{change}/mean_after"] = pairs.paper_sums(chosen * after), counts[change]
    return terms


def paper_change_terms(pairs: ScorePairs) -> PaperTerms:
    """Terms of `paper_changes`; without the acceptance rates where no decision is known."""
    papers = pairs.papers
    # sums of whole numbers: rounded means would misclassify
    change = pairs.paper_sums(pairs.reviews["after"]) - pairs.paper_sums(pairs.reviews["before"])
    accepted, rejected = papers["decision"].isin(ACCEPTED).to_numpy(), papers["decision"].isin(REJECTED).to_numpy()
    known = papers["decision"].notna().to_numpy()
    everything = np.ones(len(papers))
    terms: PaperTerms = {}
    for name, chosen in (_by_sign(change) | {"overall": everything}).items():
        terms[f"{name}/share"] = chosen * 1.0, everything
        for mean in ("mean_before", "mean_after"):
            terms[f"{name}/{mean}"] = chosen * papers[mean].to_numpy(), chosen * 1.0
        if pairs.has_decisions:
            terms[f"{name}/accept_rate"] = chosen * accepted * 1.0, chosen * (accepted | rejected) * 1.0
            terms[f"{name}/accept_rate_all"] = chosen * accepted * 1.0, chosen * known * 1.0
    return terms


def disagreement_terms(pairs: ScorePairs) -> PaperTerms:
    """Terms of `disagreement`."""
    before, after = (_rating_std(pairs, name) for name in ("before", "after"))
    compared = pairs.papers["n_reviews"].to_numpy() >= 2
    terms: PaperTerms = {}
    for group, members in _decision_groups(pairs).items():
        chosen = (members & compared) * 1.0
        terms[f"{group}/before"] = chosen * before, chosen
        terms[f"{group}/after"] = chosen * after, chosen
        terms[f"{group}/relative_change"] = chosen * (after - before), chosen * before
    return terms


def coreviewer_terms(pairs: ScorePairs) -> PaperTerms:
    """Terms of `coreviewer_effect`."""
    own = pairs.reviews["before"].to_numpy()
    num_others = pairs.papers["n_reviews"].to_numpy()[pairs.paper_index] - 1
    others_sum = pairs.paper_sums(own)[pairs.paper_index] - own
    distance = np.divide(others_sum, num_others, out=np.full(len(own), np.nan), where=num_others > 0) - own
    bins = (distance <= -0.5, np.abs(distance) < 0.5, distance >= 0.5)
    return _change_probabilities(pairs, dict(zip(COREVIEWER_BINS, bins, strict=True)))


def initial_rating_terms(pairs: ScorePairs) -> PaperTerms:
    """Terms of `change_by_initial_rating`."""
    before = pairs.reviews["before"].to_numpy()
    return _change_probabilities(pairs, {str(rating): before == rating for rating in np.unique(before)})


def ratios_of_sums(terms: PaperTerms) -> pd.Series:
    """The value of each statistic, NaN where its denominator sums to zero."""
    sums = np.array([[numerator.sum(), denominator.sum()] for numerator, denominator in terms.values()])
    values = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0)
    return pd.Series(values, index=list(terms))


def _table(terms: PaperTerms, *, num_from: str) -> pd.DataFrame:
    """Values as a table of rows and columns, led by `n`, the summed denominator of the column `num_from`."""
    values = ratios_of_sums(terms)
    values.index = pd.MultiIndex.from_tuples([tuple(name.rsplit("/", 1)) for name in terms])
    rows, columns = (values.index.unique(level) for level in (0, 1))
    table = values.unstack().reindex(index=rows, columns=columns)
    table.insert(0, "n", [round(terms[f"{row}/{num_from}"][1].sum()) for row in rows])
    return table


def _by_sign(change: np.ndarray) -> dict[str, np.ndarray]:
    return {"increase": change > 0, "decrease": change < 0, "keep": change == 0}


def _change_probabilities(pairs: ScorePairs, groups: dict[str, np.ndarray]) -> PaperTerms:
    _require_aligned(pairs)
    change = _by_sign((pairs.reviews["after"] - pairs.reviews["before"]).to_numpy())
    terms: PaperTerms = {}
    for name, members in groups.items():
        count = pairs.paper_sums(members)
        for sign in ("increase", "decrease"):
            terms[f"{name}/p_{sign}"] = pairs.paper_sums(members & change[sign]), count
    return terms


def _rating_std(pairs: ScorePairs, column: str) -> np.ndarray:
    """[num_papers] population standard deviation of a paper's ratings, from exact sums of whole numbers."""
    ratings = pairs.reviews[column].to_numpy()
    count = pairs.papers["n_reviews"].to_numpy()
    return np.sqrt(count * pairs.paper_sums(ratings**2) - pairs.paper_sums(ratings) ** 2) / count


def _decision_groups(pairs: ScorePairs) -> dict[str, np.ndarray]:
    decision = pairs.papers["decision"]
    groups = {"overall": np.ones(len(decision), dtype=bool)}
    if pairs.has_decisions:
        members = {
            "oral_spotlight": ("oral", "spotlight"),
            "poster": ("poster",),
            "reject": REJECTED,
            "withdrawn": ("withdrawn",),
        }
        groups |= {name: decision.isin(spellings).to_numpy() for name, spellings in members.items()}
    return groups


def _require_aligned(pairs: ScorePairs) -> None:
    if not pairs.aligned:
        raise ValueError(
            "the ratings before and after are not in the same reviewer order: use paper-level statistics "
            "(paper_changes, churn, disagreement) or trace the reviews first (tracing.trace_reviews)"
        )
