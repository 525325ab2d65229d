import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.review_insights.statistics import review_changes
from iclr_repro.review_insights.tracing import (
    FIELDS,
    expected_review_changes,
    match_reviews,
    profiles,
    trace_reviews,
)
from score_pairs import known_pairs, score_pairs

SCALE = (1, 3, 5, 6, 8, 10)


def snapshot(**papers: list[tuple[int, ...]]) -> pd.DataFrame:
    """Reviews as (rating, confidence, soundness, presentation, contribution)."""
    rows = [(paper, *review) for paper, reviews in papers.items() for review in reviews]
    return pd.DataFrame(rows, columns=["paper_id", "rating", *FIELDS])


def test_the_cost_counts_differing_fields_and_a_quarter_for_each_rank() -> None:
    matching = match_reviews(snapshot(a=[(3, 4, 2, 2, 2)]), snapshot(a=[(6, 4, 3, 2, 1)]), scale=SCALE)
    assert matching.papers.loc["a", "cost"] == 2 + 0.25 * 2
    assert matching.papers.loc["a", "second_cost"] == np.inf
    assert matching.edges["num_differing"].tolist() == [2]
    assert not matching.papers.loc["a", "ambiguous"]


def test_reviews_are_matched_by_their_profile_whatever_their_order() -> None:
    before = snapshot(b=[(5, 4, 2, 2, 2), (5, 3, 3, 3, 3)], a=[(8, 1, 1, 1, 1)])
    after = snapshot(a=[(8, 1, 1, 1, 1)], b=[(8, 3, 3, 3, 3), (5, 4, 2, 2, 2)])
    chosen = match_reviews(before, after, scale=SCALE).edges.query("chosen")
    assert chosen["row_before"].tolist() == [0, 1, 2]
    assert chosen["row_after"].tolist() == [2, 1, 0]
    assert chosen["rating_after"].tolist() == [5, 8, 8]
    assert chosen["paper_id"].tolist() == ["b", "b", "a"]


def test_an_exchange_of_two_ratings_is_ambiguous_without_further_fields() -> None:
    before = snapshot(a=[(5, 4, 2, 2, 2), (6, 4, 2, 2, 2)])
    matching = match_reviews(before, before, scale=SCALE, fields=(), temperature=0.25)
    assert matching.papers.loc["a", ["cost", "second_cost"]].tolist() == [0.0, 0.5]
    assert matching.ambiguous_share == 1.0
    own = matching.edges.query("row_before == row_after")["probability"]
    np.testing.assert_allclose(own, 1 / (1 + np.exp(-0.5 / 0.25)))


def test_added_and_removed_reviews_cost_four() -> None:
    before = snapshot(a=[(5, 4, 2, 2, 2)], gone=[(3, 3, 3, 3, 3)])
    after = snapshot(a=[(8, 1, 1, 1, 1), (5, 4, 2, 2, 2), (6, 2, 2, 2, 2)], new=[(1, 1, 1, 1, 1)])
    matching = match_reviews(before, after, scale=SCALE)
    assert matching.papers["cost"].to_dict() == {"a": 8.0, "gone": 4.0, "new": 4.0}
    assert matching.edges.query("chosen")[["row_before", "row_after"]].to_numpy().tolist() == [[0, 1]]
    assert matching.papers.loc["new", ["n_before", "n_after"]].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rating": 7}, r"paper a: rating 7 is not on the scale \(1, 3, 5, 6, 8, 10\)"),
        ({"confidence": np.nan}, "paper a: a score is missing; drop the review or leave the field out"),
    ],
)
def test_bad_snapshots_are_refused(change: dict, message: str) -> None:
    good = snapshot(a=[(5, 4, 2, 2, 2)])
    with pytest.raises(ValueError, match=message):
        match_reviews(good, good.assign(**change), scale=SCALE)


def test_missing_columns_and_temperatures_below_zero_are_refused() -> None:
    good = snapshot(a=[(5, 4, 2, 2, 2)])
    with pytest.raises(ValueError, match=r"a snapshot has no column \['soundness'\]"):
        match_reviews(good, good.drop(columns="soundness"), scale=SCALE)
    with pytest.raises(ValueError, match=r"temperature is 0\.0, expected a positive number"):
        match_reviews(good, good, scale=SCALE, temperature=0.0)
    with pytest.raises(ValueError, match="1 snapshots given, tracing needs at least two"):
        trace_reviews([good], scale=SCALE)


def test_trace_scores_count_changed_fields_over_the_days() -> None:
    days = [
        snapshot(a=[(3, 4, 2, 2, 2), (8, 1, 1, 1, 1), (5, 5, 4, 4, 4), (6, 3, 3, 3, 3)]),
        snapshot(a=[(5, 5, 4, 4, 4), (8, 1, 1, 1, 1), (5, 4, 2, 2, 2), (6, 3, 3, 4, 3)]),
        snapshot(a=[(5, 4, 2, 2, 2), (8, 1, 1, 1, 1), (5, 5, 4, 4, 4), (8, 2, 3, 4, 3)]),
    ]
    traces = trace_reviews(days, scale=SCALE)
    assert traces.reviews["trace_score"].tolist() == [0, -1, -1, 2]
    assert traces.reviews["after"].tolist() == [5, 8, 5, 8]
    assert traces.reviews["confidence_after"].tolist() == [4, 1, 5, 2]
    assert traces.pairs().reviews["after"].tolist() == [5, 8, 5, 8]
    assert traces.pairs(max_trace_score=1).reviews["after"].tolist() == [5, 8, 5]


def test_a_change_that_is_taken_back_still_counts() -> None:
    first = snapshot(a=[(3, 4, 2, 2, 2)])
    traces = trace_reviews([first, first.assign(rating=5), first], scale=SCALE)
    assert traces.reviews[["before", "after", "trace_score"]].to_numpy().tolist() == [[3, 3, 0]]


def test_reviews_that_come_or_go_are_traced_and_their_papers_dropped_from_the_pairs() -> None:
    stays = (5, 4, 2, 2, 2)
    days = [
        snapshot(a=[stays, (3, 1, 1, 1, 1)], b=[stays]),
        snapshot(a=[stays], b=[stays]),
        snapshot(a=[(10, 5, 4, 4, 4), stays], b=[stays]),
    ]
    traces = trace_reviews(days, scale=SCALE)
    found = traces.reviews[["paper_id", "first", "last"]].to_numpy().tolist()
    assert found == [["a", 0, 2], ["a", 0, 0], ["b", 0, 2], ["a", 2, 2]]
    pairs = traces.pairs(year=2024, decisions=pd.Series({"b": "poster"}))
    assert pairs.papers["decision"].to_dict() == {"b": "poster"}
    assert pairs.dropped == {"unequal_counts": 1}


PROFILE = st.tuples(st.sampled_from(SCALE), *[st.integers(1, 4)] * 4)


@settings(deadline=None, max_examples=20)
@given(st.lists(PROFILE, min_size=1, max_size=5), st.integers(0, 100))
def test_identical_profiles_in_any_order_never_changed(reviews: list[tuple[int, ...]], seed: int) -> None:
    day = snapshot(a=reviews)
    shuffled = day.sample(frac=1.0, random_state=np.random.default_rng(seed))
    traces = trace_reviews([day, shuffled, day], scale=SCALE)
    assert (traces.reviews["trace_score"] == -1).all()
    assert traces.reviews["after"].tolist() == [review[0] for review in reviews]
    changes = expected_review_changes(match_reviews(day, shuffled, scale=SCALE, temperature=1e-3))
    assert changes["n"].tolist() == pytest.approx([0, 0, len(reviews)])


@settings(deadline=None, max_examples=15)
@given(st.lists(PROFILE, min_size=1, max_size=5), st.lists(PROFILE, min_size=1, max_size=5))
def test_probabilities_sum_to_one_on_the_smaller_side(before: list, after: list) -> None:
    edges = match_reviews(snapshot(a=before), snapshot(a=after), scale=SCALE).edges
    by_side = [edges.groupby(row)["probability"].sum() for row in ("row_before", "row_after")]
    smaller, larger = by_side if len(before) <= len(after) else by_side[::-1]
    np.testing.assert_allclose(smaller, 1.0)
    assert (larger <= 1 + 1e-9).all()
    assert edges["chosen"].sum() == len(smaller)


def test_expected_changes_of_certain_matches_are_the_counted_ones() -> None:
    before = snapshot(a=[(5, 1, 1, 1, 1), (5, 3, 3, 3, 3)], b=[(8, 2, 2, 2, 2)])
    after = snapshot(a=[(6, 3, 3, 3, 3), (3, 1, 1, 1, 1)], b=[(8, 2, 2, 2, 2)])
    expected = expected_review_changes(match_reviews(before, after, scale=SCALE))
    counted = review_changes(trace_reviews([before, after], scale=SCALE).pairs())
    assert counted["n"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(expected, counted)


def test_expected_changes_split_an_even_chance() -> None:
    before = snapshot(a=[(5, 4, 2, 2, 2), (5, 4, 2, 2, 2)])
    after = snapshot(a=[(8, 4, 2, 2, 2), (3, 4, 2, 2, 2)])
    table = expected_review_changes(match_reviews(before, after, scale=SCALE))
    assert table["n"].tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert table.loc["increase", ["mean_before", "mean_after"]].tolist() == pytest.approx([5.0, 8.0])
    assert table.loc["keep", ["mean_before", "mean_after"]].isna().all()


def test_profiles_need_the_scores_before_and_after() -> None:
    with pytest.raises(ValueError, match=r"the reviews have no \['confidence'\] before and after"):
        profiles(score_pairs(([5], [5])), fields=("confidence",))


def test_five_thousand_papers_are_matched_in_seconds() -> None:
    before, after = profiles(known_pairs(5000, seed=4, change_probability=0.2))
    start = time.process_time()
    matching = match_reviews(before, after, scale=SCALE)
    assert len(matching.papers) == 5000
    assert time.process_time() - start < 5.0
