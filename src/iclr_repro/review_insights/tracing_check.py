"""How well tracing works where the reviewers are known: shuffle the later scores inside each paper, match, compare.

Source: sheet T, "Check"; claim R13.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import PaperTerms, ratios_of_sums, review_changes
from iclr_repro.review_insights.tracing import (
    FIELDS,
    TEMPERATURE,
    Matching,
    expected_review_changes,
    match_reviews,
    profiles,
)


def tracing_sample(
    pairs: ScorePairs, *, rng: np.random.Generator, num_unchanged: int = 3000, fields: Sequence[str] = FIELDS
) -> ScorePairs:
    """All papers with a change of the rating or of any field, and `num_unchanged` random others (or all, if fewer).

    Source: sheet, claim R13.
    """
    before, after = profiles(pairs, fields=fields)
    changed = pairs.paper_sums((before != after).any(axis=1).to_numpy()) > 0
    unchanged = np.flatnonzero(~changed)
    changed[rng.permutation(unchanged)[:num_unchanged]] = True
    return pairs.select(changed)


def tracing_accuracy(
    pairs: ScorePairs,
    *,
    rng: np.random.Generator,
    fields: Sequence[str] = FIELDS,
    temperature: float = TEMPERATURE,
    num_shuffles: int = 10,
) -> pd.DataFrame:
    """Shares of reviews that are matched rightly.

    Args:
        pairs: with known reviewers and `<field>_before`, `<field>_after`.
        rng: source of the shuffles.
        fields: the scores other than the rating that tracing may use.
        temperature: of the match probabilities.
        num_shuffles: the shares are means over so many shuffles; they differ where assignments cost the same.

    Returns:
        Index `all` reviews, `changed` (rating or any field), `rating_changed`; columns `n` and, as shares of n,
        `right_review` (matched to their own later version), `right_scores` (to one with the same rating and fields),
        `right_rating`; `expected_right_review` (mean probability given to the own version: equal to `right_review` if
        the probabilities are calibrated) and `log_loss` (mean -log of that probability).
    """
    terms = tracing_terms(pairs, rng=rng, fields=fields, temperature=temperature, num_shuffles=num_shuffles)
    values = ratios_of_sums(terms)
    values.index = pd.MultiIndex.from_tuples([tuple(name.split("/")) for name in terms])
    groups, columns = (values.index.unique(level) for level in (0, 1))
    table = values.unstack().reindex(index=groups, columns=columns)
    table.insert(0, "n", [round(terms[f"{group}/right_review"][1].sum()) for group in groups])
    return table


def tracing_terms(
    pairs: ScorePairs,
    *,
    rng: np.random.Generator,
    fields: Sequence[str] = FIELDS,
    temperature: float = TEMPERATURE,
    num_shuffles: int = 10,
) -> PaperTerms:
    """Terms of `tracing_accuracy`, averaged over the shuffles."""
    before, after = profiles(pairs, fields=fields)
    scores = ["rating", *fields]
    differs = before[scores].to_numpy() != after[scores].to_numpy()
    groups = {"all": np.ones(len(before), dtype=bool), "changed": differs.any(axis=1), "rating_changed": differs[:, 0]}
    outcomes = []
    for _ in range(num_shuffles):
        shuffle, matching = _match_shuffled(pairs, rng=rng, fields=fields, temperature=temperature)
        outcomes.append(_outcome(after, shuffle, matching))
    outcome = sum(outcomes[1:], start=outcomes[0]) / num_shuffles
    return {
        f"{group}/{column}": (pairs.paper_sums(outcome[column] * members), pairs.paper_sums(members))
        for group, members in groups.items()
        for column in outcome
    }


def traced_changes(
    pairs: ScorePairs, *, rng: np.random.Generator, fields: Sequence[str] = FIELDS
) -> tuple[pd.DataFrame, float]:
    """The table of changes as it is, as tracing of one shuffle gives it, and with every match by its probability.

    Returns:
        Index increase, decrease, keep; columns `true`, `traced`, `expected` (numbers of reviews; see
        `tracing.expected_review_changes`). And the share of ambiguous papers (`Matching.ambiguous_share`).
    """
    _, matching = _match_shuffled(pairs, rng=rng, fields=fields, temperature=TEMPERATURE)
    chosen = matching.edges[matching.edges["chosen"]]
    sign = np.sign(chosen["rating_after"] - chosen["rating_before"])
    table = pd.DataFrame(
        {
            "true": review_changes(pairs)["n"],
            "traced": {"increase": (sign > 0).sum(), "decrease": (sign < 0).sum(), "keep": (sign == 0).sum()},
            "expected": expected_review_changes(matching)["n"],
        }
    )
    return table.reindex(["increase", "decrease", "keep"]), matching.ambiguous_share


def _match_shuffled(
    pairs: ScorePairs, *, rng: np.random.Generator, fields: Sequence[str], temperature: float
) -> tuple[np.ndarray, Matching]:
    """Match the reviews with the later ones in random order; row i of these is the review shuffle[i]."""
    before, after = profiles(pairs, fields=fields)
    shuffle = np.lexsort((rng.random(len(after)), pairs.paper_index))
    shuffled = after.iloc[shuffle].reset_index(drop=True)
    return shuffle, match_reviews(before, shuffled, scale=pairs.scale, fields=fields, temperature=temperature)


def _outcome(after: pd.DataFrame, shuffle: np.ndarray, matching: Matching) -> pd.DataFrame:
    """One shuffle: a row a review, with the columns of `tracing_accuracy`."""
    edges = matching.edges
    # edges are sorted by row_before, and each review has one chosen match and one own version
    matched = shuffle[edges.loc[edges["chosen"], "row_after"].to_numpy()]
    own_probability = edges.loc[shuffle[edges["row_after"]] == edges["row_before"], "probability"].to_numpy()
    scores = after.drop(columns="paper_id").to_numpy()
    agrees = scores[matched] == scores
    return pd.DataFrame(
        {
            "right_review": (matched == np.arange(len(after))) * 1.0,
            "right_scores": agrees.all(axis=1) * 1.0,
            "right_rating": agrees[:, 0] * 1.0,
            "expected_right_review": own_probability,
            "log_loss": -np.log(own_probability),
        }
    )
