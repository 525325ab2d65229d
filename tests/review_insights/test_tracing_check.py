import numpy as np
import pytest

from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import ratios_of_sums
from iclr_repro.review_insights.tracing import FIELDS, profiles
from iclr_repro.review_insights.tracing_check import traced_changes, tracing_accuracy, tracing_sample, tracing_terms
from score_pairs import known_pairs, score_pairs

SCALE = (1, 3, 5, 6, 8, 10)


def test_accuracy_is_perfect_where_every_profile_is_unique_and_still() -> None:
    reviews = score_pairs(([1, 3, 5, 8], [1, 3, 5, 8]), ([6, 10], [6, 10]), scale=SCALE).reviews
    fields = {f"{name}_{when}": 1 for name in FIELDS for when in ("before", "after")}
    accuracy = tracing_accuracy(
        ScorePairs.from_reviews(reviews.assign(**fields), scale=SCALE), rng=np.random.default_rng(0), temperature=0.01
    )
    assert accuracy.loc["all", ["n", "right_review", "right_scores", "right_rating"]].tolist() == [6, 1, 1, 1]
    assert accuracy.loc["all", "expected_right_review"] == pytest.approx(1.0)
    assert accuracy.loc["changed", "n"] == 0


def test_accuracy_of_indistinguishable_reviews_is_chance() -> None:
    reviews = score_pairs(*[([5, 5], [5, 5])] * 300, scale=SCALE).reviews
    pairs = ScorePairs.from_reviews(reviews.assign(confidence_before=3, confidence_after=3), scale=SCALE)
    accuracy = tracing_accuracy(pairs, rng=np.random.default_rng(0), fields=("confidence",)).loc["all"]
    assert accuracy["right_review"] == pytest.approx(0.5, abs=0.05)
    assert accuracy["expected_right_review"] == pytest.approx(0.5)
    assert accuracy["log_loss"] == pytest.approx(np.log(2))
    assert accuracy["right_scores"] == accuracy["right_rating"] == 1.0


def test_more_fields_trace_better_and_the_counts_are_of_distinct_reviews() -> None:
    pairs = known_pairs(300, seed=2, change_probability=0.2)
    tables = {
        fields: tracing_accuracy(pairs, rng=np.random.default_rng(1), fields=fields, num_shuffles=2)
        for fields in (("confidence",), FIELDS)
    }
    few, all_fields = tables[("confidence",)], tables[FIELDS]
    assert few.loc["all", "n"] == all_fields.loc["all", "n"] == len(pairs.reviews)
    assert few.loc["rating_changed", "n"] == (pairs.reviews["before"] != pairs.reviews["after"]).sum()
    assert few.loc["all", "right_review"] + 0.1 < all_fields.loc["all", "right_review"]
    assert all_fields.loc["rating_changed", "right_review"] > 0.8


def test_the_sample_holds_every_changed_paper_and_as_many_others_as_asked() -> None:
    pairs = known_pairs(200, seed=3, change_probability=0.02)
    before, after = profiles(pairs)
    changed = set(pairs.reviews.loc[(before != after).any(axis=1), "paper_id"])
    sample = tracing_sample(pairs, rng=np.random.default_rng(0), num_unchanged=10)
    assert changed < set(sample.papers.index)
    assert len(sample.papers) == len(changed) + 10
    assert len(tracing_sample(pairs, rng=np.random.default_rng(0)).papers) == 200


def test_terms_are_the_reviews_of_each_paper_that_were_matched_rightly() -> None:
    pairs = known_pairs(60, seed=5, change_probability=0.2)
    terms = tracing_terms(pairs, rng=np.random.default_rng(3), num_shuffles=2)
    accuracy = tracing_accuracy(pairs, rng=np.random.default_rng(3), num_shuffles=2)
    right, n = terms["all/right_review"]
    assert n.tolist() == pairs.papers["n_reviews"].tolist()
    assert ((right >= 0) & (right <= n)).all()
    assert ratios_of_sums(terms)["changed/right_scores"] == accuracy.at["changed", "right_scores"]


def test_changes_are_traced_exactly_where_every_profile_is_unique() -> None:
    reviews = score_pairs(([1, 5, 8], [3, 5, 6]), scale=SCALE).reviews
    confidence = {"confidence_before": [1, 2, 3], "confidence_after": [1, 2, 3]}
    pairs = ScorePairs.from_reviews(reviews.assign(**confidence), scale=SCALE)
    table, ambiguous_share = traced_changes(pairs, rng=np.random.default_rng(0), fields=("confidence",))
    assert table["true"].to_dict() == {"increase": 1, "decrease": 1, "keep": 1}
    assert table["traced"].to_dict() == {"increase": 1, "decrease": 1, "keep": 1}
    assert table["expected"].sum() == pytest.approx(3)
    assert table["expected"].to_numpy() == pytest.approx(1.0, abs=1e-3)
    assert ambiguous_share == 0


def test_reviews_that_look_alike_are_ambiguous() -> None:
    reviews = score_pairs(([5, 5], [5, 6]), scale=SCALE).reviews
    pairs = ScorePairs.from_reviews(reviews.assign(confidence_before=3, confidence_after=3), scale=SCALE)
    table, ambiguous_share = traced_changes(pairs, rng=np.random.default_rng(0), fields=("confidence",))
    assert ambiguous_share == 1
    assert table["expected"].to_numpy() == pytest.approx([1, 0, 1])  # either match has one increase
