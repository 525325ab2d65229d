"""The paper's predictive model: what becomes of a rating, from the scores and from what was said in the rebuttal.

A softmax regression (`predictors.logistic_change_model`) on the own rating, the mean of the other reviewers, the number
of the reviewer's notes, and labels of the authors' notes below the review. The paper's labels are by GPT-4o; here they
are by any `labelling.Labeller`.

Source: sheet P and L.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from iclr_repro.review_insights.labelling import Labeller, indicators
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.taxonomy import Labels

NO_REPLY, UNCLEAR = "no reply", "unclear"

SCORE_FEATURES = ("own_rating", "others_mean")

PAPER_ROWS: Mapping[str, str] = {
    "own_rating": "own overall rating before",
    "others_mean": "mean rating of other reviewers before",
    "reviewer_notes": "reviewer engagement (notes)",
    "strategy: Generic or vague defence": "generic/vague defence (strategy)",
    "strategy: Evidence-backed clarification": "evidence-backed clarification (strategy)",
    "strategy: Simple agreement or disagreement": "simple agree/disagree (sub-type)",
    "strategy: Evasion": "evasion (stance sub-type)",
    "stance: disagree": "disagree (stance)",
    "strategy: Future promise": "future promise (sub-type)",
}
"""Our features by name -> the row of `paper_values.COEFFICIENTS` that they stand for."""


def with_thread_features(
    pairs: ScorePairs, threads: pd.DataFrame, labellers: Sequence[Labeller]
) -> tuple[ScorePairs, tuple[str, ...]]:
    """Add to each review what happened in the thread below it.

    Args:
        pairs: with the column `review_id`.
        threads: notes as in `engagement`, with `text`.
        labellers: of the authors' notes; a review has a label if any of the notes has it.

    Returns:
        The pairs with the further columns `reviewer_notes` (number) and "<task>: <category>" (0 or 1), and the names of
        all features of the model, `SCORE_FEATURES` first.
    """
    key = ["paper_id", "review_id"]
    by_author = threads[threads["role"] == "author"]
    columns = [threads[threads["role"] == "reviewer"].groupby(key).size().rename("reviewer_notes")]
    for labeller in labellers:
        given = indicators(_labelled(labeller, by_author["text"]), labeller.task)
        given = given.add_prefix(f"{labeller.task.name}: ").set_index(pd.MultiIndex.from_frame(by_author[key]))
        columns.append(given.groupby(level=key).any().astype("int64"))
    wanted = pd.MultiIndex.from_frame(pairs.reviews[key])
    features = pd.concat([column.reindex(wanted, fill_value=0) for column in columns], axis=1)
    reviews = pairs.reviews.join(features.reset_index(drop=True))
    return replace(pairs, reviews=reviews), (*SCORE_FEATURES, *features.columns)


def reactions(reviews: pd.DataFrame, threads: pd.DataFrame, labeller: Labeller) -> pd.Series:
    """How the reviewers reacted to the authors.

    Args:
        reviews: one row a review, `paper_id` and `review_id`.
        threads: notes in the order of time within a review, as in `engagement`, with `text`.
        labeller: of an exclusive task.

    Returns:
        For each review that the authors answered (index `paper_id`, `review_id`) the category of the reviewer's last
        note after the authors' first, "no reply" without such a note, "unclear" where it got no label.
    """
    key = ["paper_id", "review_id"]
    known = threads.merge(reviews[key], on=key)
    by_author = known["role"] == "author"
    after_author = by_author.groupby([known[name] for name in key]).cummax()
    last = known[after_author & (known["role"] == "reviewer")].groupby(key)["text"].last()
    labels = [next(iter(found or {}), UNCLEAR) for found in _labelled(labeller, last)]
    answered = known[by_author].groupby(key).size().index
    return pd.Series(labels, index=last.index, dtype=object).reindex(answered, fill_value=NO_REPLY)


def _labelled(labeller: Labeller, texts: pd.Series) -> list[Labels | None]:
    """Labels of each text, equal texts asked once."""
    distinct = list(dict.fromkeys(texts))
    labels = dict(zip(distinct, labeller.label(distinct), strict=True))
    return [labels[text] for text in texts]
