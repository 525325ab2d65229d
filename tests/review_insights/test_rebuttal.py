import numpy as np
import pandas as pd
import pytest

from iclr_repro.review_insights.labelling import RulesLabeller
from iclr_repro.review_insights.paper_values import COEFFICIENTS
from iclr_repro.review_insights.predictors import logistic_change_model
from iclr_repro.review_insights.rebuttal import PAPER_ROWS, reactions, with_thread_features
from iclr_repro.review_insights.synthetic import generate_year
from iclr_repro.review_insights.taxonomy import load_taxonomy
from score_pairs import score_pairs

TAXONOMY = load_taxonomy()
LABELLERS = [RulesLabeller(TAXONOMY[name]) for name in ("strategy", "stance")]


def threads(*notes: tuple[str, str, str]) -> pd.DataFrame:
    """Notes as (review, role, text), in the order of time."""
    table = pd.DataFrame(notes, columns=["review_id", "role", "text"])
    return table.assign(paper_id="p000", time=pd.date_range("2030-01-01", periods=len(table), freq="h"))


def test_a_review_has_the_labels_of_all_notes_of_the_authors() -> None:
    pairs = score_pairs(([5, 6, 3], [6, 6, 3]))
    pairs.reviews["review_id"] = ["a", "b", "c"]
    notes = threads(
        ("a", "author", "We will add the results in the final version."),
        ("a", "reviewer", "We believe in your method."),
        ("a", "author", "We respectfully disagree."),
        ("b", "area_chair", "We agree."),
    )
    extended, features = with_thread_features(pairs, notes, LABELLERS)
    assert features[:3] == ("own_rating", "others_mean", "reviewer_notes")
    assert extended.reviews["reviewer_notes"].tolist() == [1, 0, 0]
    assert extended.reviews["strategy: Future promise"].tolist() == [1, 0, 0]
    assert extended.reviews["stance: disagree"].tolist() == [1, 0, 0]
    assert extended.reviews["strategy: Generic or vague defence"].tolist() == [0, 0, 0]  # the reviewer's words
    assert extended.reviews[["before", "after"]].equals(pairs.reviews[["before", "after"]])


def test_every_row_of_the_paper_has_its_feature() -> None:
    made = generate_year(np.random.default_rng(0), num_papers=30)
    _, features = with_thread_features(made.pairs, made.threads, LABELLERS)
    assert set(PAPER_ROWS) <= set(features)
    assert list(PAPER_ROWS.values()) == list(COEFFICIENTS.index)


def test_the_model_recovers_the_mechanism_of_the_generator() -> None:
    made = generate_year(np.random.default_rng(0), num_papers=1500)
    pairs, features = with_thread_features(made.pairs, made.threads, LABELLERS)
    increase = logistic_change_model(pairs, features=features).coefficients["increase"]
    assert increase["own_rating"] < -0.2
    assert increase["others_mean"] > 0.2
    assert increase["reviewer_notes"] > 0
    assert increase["strategy: Evidence-backed clarification"] > 0.1
    assert increase["strategy: Generic or vague defence"] < -0.05


def test_the_last_reply_after_the_authors_is_the_reaction() -> None:
    reviews = pd.DataFrame({"paper_id": "p000", "review_id": list("abcde")})
    notes = threads(
        ("a", "author", "See Section 2."),
        ("a", "reviewer", "I am not convinced."),
        ("a", "author", "See Section 3."),
        ("a", "reviewer", "Fine, I raise my score to 6."),
        ("b", "reviewer", "I raise my score."),
        ("b", "author", "Thank you."),
        ("c", "author", "See Section 4."),
        ("c", "reviewer", "Hm."),
        ("d", "reviewer", "I keep my score."),
        ("e", "author", "See Section 5."),
        ("e", "reviewer", "Thank you for the reply. I keep my rating."),
    )
    found = reactions(reviews, notes, RulesLabeller(TAXONOMY["reaction"]))
    assert {review: label for (_, review), label in found.items()} == {
        "a": "satisfied, raised",
        "b": "no reply",
        "c": "unclear",
        "e": "acknowledged, unchanged",
    }


def test_reactions_of_generated_reviewers_fit_the_change_of_the_rating() -> None:
    made = generate_year(np.random.default_rng(0), num_papers=100)
    found = reactions(made.pairs.reviews, made.threads, RulesLabeller(TAXONOMY["reaction"])).rename("reaction")
    table = made.pairs.reviews.merge(found.reset_index(), on=["paper_id", "review_id"])
    raised = table["reaction"] == "satisfied, raised"
    assert raised.sum() > 20
    assert (table.loc[raised, "after"] > table.loc[raised, "before"]).mean() == pytest.approx(1.0)
    replied = table["reviewer_replied"].to_numpy(dtype=bool)
    assert (table.loc[~replied, "reaction"] == "no reply").all()
    assert not table.loc[replied, "reaction"].isin(["no reply", "unclear"]).any()
